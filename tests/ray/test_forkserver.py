"""Workers are forks of one process, differ in nothing else, and do without it where it fails."""

import json
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import pytest
import ray

from dna_ray.remote import forked
from dna_ray.remote.forkserver import fork_server, in_the_place_of_python
from dna_ray.remote.session import Session

SCRIPT = """
import atexit, json, os, signal, sys
imported = sorted({"ray", "ray.train", "torch"} & set(sys.modules))
import random
import numpy
seen = {
    "words": sys.argv,
    "path": sys.path[0],
    "main": __name__,
    "environment": dict(os.environ),
    "folder": os.getcwd(),
    "open": [n for n in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{n}")],
    "waits for children": signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL,
    "leads its group": os.getpgid(0) == os.getpid(),
    "imported": imported,
    "random": [random.random(), numpy.random.random()],
    "read": sys.stdin.read(),
}
atexit.register(print, json.dumps(seen))
print("an error", file=sys.stderr)
sys.exit(3)
"""


# As Ray's own: it sets a worker up and lets a shell run the script by what it takes for Python.
SETS_UP = """
import os, shlex, sys
python, *words = sys.argv[1:]
os.environ["SET_UP"] = "yes"
os.execvp("bash", args=["bash", "-c", f"exec {python} {shlex.join(words)}"])
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A script in the place of Ray's own, beside the one that sets it up."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "setup_worker.py").write_text(SETS_UP)
    path = tmp_path / "scripts" / "default_worker.py"
    path.write_text(SCRIPT)
    return path


def seen(words: list[str | Path], script: Path, **environment: str) -> tuple[int, dict[str, Any]]:
    """The status of a process that is started with the words, and what the script sees."""
    done = subprocess.run(
        [*words, script, "--first", "a second"],
        input="what is to be read",
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=script.parent.parent,
        env={"PATH": os.environ["PATH"]} | environment,  # shells change others, each as it likes
    )
    assert done.stderr == "an error\n"
    return done.returncode, json.loads(done.stdout)


@dataclass(frozen=True)
class Server:
    """The process of a server, and the program that asks it for forks."""

    process: psutil.Process
    program: Path


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    before = set(psutil.Process().children())
    with fork_server(folder) as program:
        (process,) = set(psutil.Process().children()) - before
        assert program is not None
        yield Server(process, program)
    assert not process.is_running()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server to spoil."""
    with serving(tmp_path) as started:
        yield started


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("server")) as started:
        yield started


@pytest.mark.parametrize("set_up", [False, True])
def test_a_fork_is_as_an_interpreter_of_its_own(shared: Server, script: Path, set_up: bool) -> None:
    """Also where one script sets up what another needs, and becomes that one."""
    drawn = set()
    for mark in ("a first one", "another"):
        before: list[str | Path] = []
        if set_up:
            before = [script.with_name("setup_worker.py"), shlex.quote(str(shared.program))]
        status, fork = seen([shared.program, *before], script, MARK=mark)
        assert status == 0
        assert fork["environment"]["MARK"] == mark
        before = before[:1] + [sys.executable] * set_up
        status, own = seen([sys.executable, *before], script, MARK=mark)
        assert status == 3
        assert fork.pop("imported") == ["ray", "ray.train", "torch"]
        assert own.pop("imported") == []
        assert fork.pop("leads its group")
        del own["leads its group"]
        drawn |= {*fork.pop("random"), *own.pop("random")}
        for name in ("_", "OLDPWD", "PWD", "SHLVL"):  # and these shells make
            fork["environment"].pop(name, None)
            own["environment"].pop(name, None)
        assert fork == own
    assert len(drawn) == 8
    assert shared.process.children() == []  # not even as zombies


def test_where_no_program_may_run_there_is_no_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a folder that is mounted `noexec`, which a test cannot mount."""
    monkeypatch.setattr(Path, "chmod", lambda *_: None)
    with fork_server(tmp_path) as program, in_the_place_of_python(program) as options:
        assert program is None
        assert options == {}


def test_what_is_no_worker_is_run_by_python(shared: Server, script: Path) -> None:
    other = script.rename(script.with_name("other.py"))
    status, own = seen([shared.program, "-B"], other)
    assert status == 3
    assert own["imported"] == []


def test_who_has_other_settings_of_ray_starts_without(shared: Server, script: Path) -> None:
    """Ray has taken them over when it was imported, for the first who asked."""
    _, first = seen([shared.program], script)
    _, other = seen([shared.program], script, RAY_JOB_ID="02000000")
    assert first["imported"] == ["ray", "ray.train", "torch"]
    assert other["imported"] == []
    assert other["environment"]["RAY_JOB_ID"] == "02000000"


DRAWS = """
import ray
ray.ActorClassID.from_random()
from dna_ray.remote.forkserver import Request, _import_ray
_import_ray(Request([], {}, "", []))
"""


def test_forks_that_would_draw_the_same_identities_are_none() -> None:
    done = subprocess.run(
        [sys.executable, "-c", DRAWS], capture_output=True, text=True, check=False
    )
    assert done.stderr.endswith("RuntimeError: forks would draw the same identities\n")


def test_where_the_server_is_dead_a_worker_starts_without(server: Server, script: Path) -> None:
    server.process.kill()
    server.process.wait()
    without_any_server(server.program, script)


def test_where_the_server_ends_before_it_forks_a_worker_starts_without(
    server: Server, tmp_path: Path, script: Path
) -> None:
    (tmp_path / "forks").unlink()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "forks"))
        listening.listen()
        answering = Thread(target=lambda: listening.accept()[0].close())
        answering.start()
        without_any_server(server.program, script)
        answering.join()


def test_where_the_server_hangs_a_worker_starts_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forked, "_PATIENCE", 0.1)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "forks"))
        listening.listen()
        assert not forked.forked(str(tmp_path / "forks"), ["script.py"])


def without_any_server(program: Path, script: Path) -> None:
    """The process becomes the worker itself."""
    status, own = seen([program], script, MARK="alone")
    assert status == 3
    assert own["imported"] == []
    assert own["environment"]["MARK"] == "alone"
    assert own["words"] == [str(script), "--first", "a second"]
    assert own["read"] == "what is to be read"


WAITS = """
import os, time
print(os.getpid(), flush=True)
time.sleep(1000)
"""


def test_no_fork_outlives_its_server(tmp_path: Path, script: Path) -> None:
    script.write_text(WAITS)
    with fork_server(tmp_path) as program:
        assert program is not None
        asked = subprocess.Popen([program, script], stdout=subprocess.PIPE)
        assert asked.stdout is not None
        fork = psutil.Process(int(asked.stdout.readline()))
        assert fork.is_running()
    assert not fork.is_running()
    assert asked.communicate()[0] == b""


ASKS = """
import subprocess, sys, time
subprocess.Popen(sys.argv[1:])
time.sleep(1)
"""


def test_who_has_ended_is_not_given_a_worker(tmp_path: Path, script: Path) -> None:
    """As where a search is interrupted while its first workers start."""
    script.write_text(WAITS)
    with fork_server(tmp_path) as program:  # which is still importing when its time is over
        assert program is not None
        words = [sys.executable, "-c", ASKS, program, script]
        asker = subprocess.Popen(words, stdout=subprocess.PIPE)
        asker.wait()
    assert asker.communicate(timeout=60)[0] == b""


def parent() -> int:
    return os.getppid()


def server_of(joined: Session) -> psutil.Process:
    program = str(joined.folder) + "/python"
    (server,) = [p for p in psutil.Process().children() if program in p.cmdline()]
    return server


def test_workers_of_a_session_are_forks(local: Session) -> None:
    server = server_of(local)
    assert ray.get(ray.remote(parent).remote()) == server.pid


def draw() -> str:
    """What Ray calls an object of a thread, after an identity that it draws for the thread."""
    with ThreadPoolExecutor(1) as other:
        return other.submit(lambda: ray.put(None).hex()).result()


def test_forks_draw_identities_of_their_own(local: Session) -> None:
    run = ray.remote(max_calls=1)(draw)
    names = ray.get([run.remote() for _ in range(4)])
    assert len(set(names)) == 4


DRIVER = """
import psutil, ray
from dna_ray.progress import Silent
from dna_ray.remote.session import session
from tests.ray.test_forkserver import parent, server_of
with session(Silent(), workers=1) as started:
    server = server_of(started)
    (raylet,) = [p for p in psutil.Process().children() if p.name() == "raylet"]
    server.kill()
    server.wait()
    assert ray.get(ray.remote(parent).remote()) == raylet.pid
print("done")
"""


def test_a_session_goes_on_where_its_server_is_killed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", DRIVER], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.stdout == "done\n", done.stderr
