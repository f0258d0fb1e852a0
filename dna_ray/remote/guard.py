"""Ends what is left of a session of Ray on this machine where its driver was killed.

Of some processes Ray waits a minute before they end on their own, and of its folder nobody thinks.
A guard is a process that a driver starts beside it (`python -m dna_ray.remote.guard FOLDER`): it
reads from a pipe that the kernel closes when the driver is gone, however that ended. It imports
neither Ray nor torch.
"""

import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

_LOOK_AGAIN = 3.0  # seconds; what is started and left within them is not known
_ALL_IS_WELL = b"."


@contextmanager
def guarded(folder: Path) -> Iterator[None]:
    """Have a guard while the body runs: if this process is killed, the session ends with it."""
    guard = subprocess.Popen(
        [sys.executable, "-m", "dna_ray.remote.guard", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # no Ctrl-C of the terminal reaches it
    )
    try:
        yield
    finally:
        with suppress(BrokenPipeError):
            guard.communicate(_ALL_IS_WELL)


def remove_session(folder: Path) -> None:
    """Remove the folder of a session of Ray on this machine that is over; no other folder."""
    sessions = Path(tempfile.gettempdir()) / "ray"
    if folder.parent != sessions or not folder.name.startswith("session_"):
        return
    shutil.rmtree(folder, ignore_errors=True)
    latest = sessions / "session_latest"
    if latest.is_symlink() and not latest.exists():
        latest.unlink()


def watch(driver: psutil.Process, folder: Path) -> None:
    """Wait for the driver's end; unless it says that all is well, end what it started."""
    family: set[psutil.Process] = set()
    alive = True
    while alive:
        with suppress(psutil.NoSuchProcess):
            family |= set(driver.children(recursive=True))
        alive = not select.select([sys.stdin.buffer], [], [], _LOOK_AGAIN)[0]
    if sys.stdin.buffer.read():
        return
    for process in family - {psutil.Process()}:
        with suppress(psutil.NoSuchProcess):
            process.kill()  # knows by the time of its start that it is still the same process
    psutil.wait_procs(family - {psutil.Process()}, timeout=10)
    remove_session(folder)


if __name__ == "__main__":
    watch(psutil.Process().parent() or psutil.Process(), Path(sys.argv[1]))
