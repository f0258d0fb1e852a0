"""Who can reach a session of Ray, and what it leaves behind: nothing."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
import ray

from dna_ray.remote.guard import remove_temporary, temporary_folder
from dna_ray.remote.session import Session
from dna_ray.remote.tasks import task


def test_the_token_is_private_and_the_dashboard_is_of_this_machine_alone(local: Session) -> None:
    token = Path.home() / ".ray" / "auth_token"
    assert token.stat().st_mode & 0o777 == 0o600
    host, port = local.dashboard.split(":")
    assert host == "127.0.0.1"
    listening = [c.laddr.ip for c in psutil.net_connections() if c.laddr.port == int(port)]
    assert set(listening) == {"127.0.0.1"}


def test_only_a_folder_of_ours_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    own, other, elsewhere = tmp_path / "dna-ray-1", tmp_path / "ray", tmp_path / "a" / "dna-ray-1"
    for folder in (own, other, elsewhere):
        (folder / "logs").mkdir(parents=True)
    for folder in (other, elsewhere, own, own):
        remove_temporary(folder)
    assert [f.exists() for f in (own, other, elsewhere)] == [False, True, True]


def test_a_session_within_another_has_its_folder_beside_that_of_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outer = tmp_path / "dna-ray-outer"
    outer.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(outer))
    with temporary_folder() as folder:
        assert folder.parent == tmp_path
    assert not folder.exists()
    assert outer.exists()


def _pause() -> None:
    time.sleep(0.5)


def _started(*_: int) -> float:
    return time.monotonic()


def test_tasks_begin_in_the_order_in_which_they_are_handed_in(local: Session) -> None:
    """Whatever they are called, and whatever they read."""
    first = task(_pause, num_cpus=2).remote()
    refs = [
        task(_started, name=f"{number}", num_cpus=2).remote(*[ray.put(number // 3)] * 2)
        for number in range(12)
    ]
    local.wait([first, *refs])
    starts = ray.get(refs)
    assert starts == sorted(starts)


LATE = """
import dna_ray.remote.session, ray
try:
    ray.put(1)
except Exception as error:
    print(error)
assert not ray.is_initialized()
"""


def test_who_asks_ray_something_outside_a_session_starts_none() -> None:
    """As a thread does that outlives its session, where a search is interrupted twice."""
    done = subprocess.run(
        [sys.executable, "-c", LATE], capture_output=True, text=True, check=True, timeout=120
    )
    assert "Ray has not been started yet" in done.stdout, done.stderr


LOSS = """
import io, os, sys, time
import ray
from dna_ray.progress import Silent
from dna_ray.remote.session import session
shown = sys.stderr = io.StringIO()
with session(Silent(), workers=1):
    reference = ray.remote(max_retries=0)(lambda: os._exit(1)).remote()
    try:
        ray.get(reference)
    except ray.exceptions.WorkerCrashedError:
        pass
    while "A worker died" not in shown.getvalue():
        time.sleep(0.1)
print("done")
"""


def test_standard_output_is_not_for_messages_of_ray() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOSS], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout == "done\n"


DRIVER = """
import subprocess, sys
from dna_ray.remote.guard import temporary_folder
with temporary_folder() as folder:
    (folder / "logs").mkdir()
    subprocess.Popen(["sleep", "1000"], stdout=subprocess.DEVNULL)
    shell = ["sh", "-c", "sleep 1000 >/dev/null & echo started; wait"]
    subprocess.Popen(shell, stdout=subprocess.PIPE).stdout.readline()
    print(folder, flush=True)
    sys.stdin.readline()
    # Left by a process that is gone before anybody looks, with its session on its command line.
    late = [sys.executable, "-c", "import time; time.sleep(1000)", str(folder)]
    start = f"import subprocess; print(subprocess.Popen({late!r}, stdout=subprocess.DEVNULL).pid)"
    subprocess.run([sys.executable, "-c", start])
    print("left", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("killed", [False, True])
def test_what_a_killed_driver_leaves_is_ended(killed: bool, tmp_path: Path) -> None:
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert driver.stdin is not None
    assert driver.stdout is not None
    folder = Path(driver.stdout.readline().strip())
    time.sleep(4 * killed)  # the guard looks every three seconds
    children = psutil.Process(driver.pid).children(recursive=True)
    assert len(children) == 4  # the guard is one of them
    driver.stdin.write("go on\n")
    driver.stdin.flush()
    left = [*children, psutil.Process(int(driver.stdout.readline()))]
    assert driver.stdout.readline() == "left\n"
    if killed:
        driver.kill()
        driver.wait()
        _, alive = psutil.wait_procs(left, timeout=30)
        assert alive == []
    else:
        driver.communicate("end\n", timeout=20)
        _, alive = psutil.wait_procs(left, timeout=1)
        assert len(alive) == 4  # a driver that ends in order has its children to itself
        for process in alive:
            process.kill()
    assert not folder.exists()
