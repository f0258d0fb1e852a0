"""Workers are forks of one process, differ in nothing else, and do without it where it fails."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import pytest
import ray

from dna_ray.remote import forked
from dna_ray.remote.forkserver import asking, fork_server
from dna_ray.remote.session import Session

SCRIPT = """
import json, os, signal, sys
imported = sorted({"ray", "torch"} & set(sys.modules))
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
print(json.dumps(seen))
print("an error", file=sys.stderr)
sys.exit(3)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / "scripts").mkdir()
    path = tmp_path / "scripts" / "script.py"
    path.write_text(SCRIPT)
    return path


def seen(python: list[str], script: Path, **environment: str) -> tuple[int, dict[str, Any]]:
    """The status of a process that is started with the words, and what the script sees."""
    done = subprocess.run(
        [*python, script, "--first", "a second"],
        input="what is to be read",
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=script.parent.parent,
        env=os.environ | environment,
    )
    assert done.stderr == "an error\n"
    return done.returncode, json.loads(done.stdout)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[psutil.Process]:
    before = set(psutil.Process().children())
    with fork_server(tmp_path):
        (process,) = set(psutil.Process().children()) - before
        yield process
    assert not process.is_running()


def test_a_fork_is_as_an_interpreter_of_its_own(
    server: psutil.Process, tmp_path: Path, script: Path
) -> None:
    drawn = set()
    for mark in ("a first one", "another"):
        status, fork = seen(asking(tmp_path / "forks"), script, MARK=mark)
        assert status == 0
        assert fork["environment"]["MARK"] == mark
        status, own = seen([sys.executable], script, MARK=mark)
        assert status == 3
        assert fork.pop("imported") == ["torch"]  # Ray's identities must not be those of others
        assert own.pop("imported") == []
        assert fork.pop("leads its group")
        del own["leads its group"]
        drawn |= {*fork.pop("random"), *own.pop("random")}
        assert fork == own
    assert len(drawn) == 8
    assert server.children() == []  # not even as zombies


def test_where_the_server_is_dead_a_worker_starts_without(
    server: psutil.Process, tmp_path: Path, script: Path
) -> None:
    server.kill()
    server.wait()
    without_any_server(tmp_path / "forks", script)
    without_any_server(tmp_path / "nowhere", script)


def test_where_the_server_ends_before_it_forks_a_worker_starts_without(
    tmp_path: Path, script: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "forks"))
        listening.listen()
        answering = Thread(target=lambda: listening.accept()[0].close())
        answering.start()
        without_any_server(tmp_path / "forks", script)
        answering.join()


def test_where_the_server_hangs_a_worker_starts_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forked, "_PATIENCE", 0.1)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "forks"))
        listening.listen()
        assert not forked.forked(str(tmp_path / "forks"), ["script.py"])


def without_any_server(path: Path, script: Path) -> None:
    """The process becomes the worker itself."""
    status, own = seen(asking(path), script, MARK="alone")
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


def test_no_fork_outlives_its_server(tmp_path: Path) -> None:
    script = tmp_path / "waits.py"
    script.write_text(WAITS)
    with fork_server(tmp_path):
        asked = subprocess.Popen([*asking(tmp_path / "forks"), script], stdout=subprocess.PIPE)
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


def test_who_has_ended_is_not_given_a_worker(tmp_path: Path) -> None:
    """As where a search is interrupted while its first workers start."""
    script = tmp_path / "waits.py"
    script.write_text(WAITS)
    with fork_server(tmp_path):  # which is still importing when its time is over
        words = [sys.executable, "-c", ASKS, *asking(tmp_path / "forks"), script]
        asker = subprocess.Popen(words, stdout=subprocess.PIPE)
        asker.wait()
    assert asker.communicate(timeout=60)[0] == b""


def parent() -> int:
    return os.getppid()


def server_of_the_session() -> psutil.Process:
    started = psutil.Process().children()
    (server,) = [p for p in started if "dna_ray.remote.forkserver" in p.cmdline()]
    return server


def test_workers_of_a_session_are_forks(local: Session) -> None:
    server = server_of_the_session()
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
from tests.ray.test_forkserver import parent, server_of_the_session
with session(Silent(), workers=1):
    server = server_of_the_session()
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
