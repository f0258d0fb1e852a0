"""Ends what is left of a session of Ray on this machine where its driver was killed.

Of some processes Ray waits a minute before they end on their own, and of its folder nobody thinks.
A guard is a process that a driver starts beside it: it reads from a pipe that the kernel closes
when the driver is gone, however that ended. It imports neither Ray nor torch.
"""

import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

_LOOK_AGAIN = 3.0  # seconds
_ALL_IS_WELL = b"."


@contextmanager
def guarded() -> Iterator[None]:
    """Have a guard while the body runs: if this process is killed, its session ends with it."""
    guard = subprocess.Popen(
        [sys.executable, "-m", "dna_ray.remote.guard", str(os.getpid())],
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
    if folder.parent != _sessions() or not folder.name.startswith("session_"):
        return
    shutil.rmtree(folder, ignore_errors=True)
    latest = _sessions() / "session_latest"
    if latest.is_symlink() and not latest.exists():
        latest.unlink()


def _sessions() -> Path:
    return Path(tempfile.gettempdir()) / "ray"


def watch(driver: int) -> None:
    """Wait for the end of the process `driver`; unless it says that all is well, end the rest."""
    family: set[psutil.Process] = set()
    alive = True
    while alive:
        with suppress(psutil.NoSuchProcess):
            family |= set(psutil.Process(driver).children(recursive=True))
        alive = not select.select([sys.stdin.buffer], [], [], _LOOK_AGAIN)[0]
    if sys.stdin.buffer.read():
        return
    # Ray ends the name of a session's folder with its driver's number.
    folders = list(_sessions().glob(f"session_*_{driver}"))
    for left in (family - {psutil.Process()}, _started_late(folders)):
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()  # knows by the time of its start that it is still the same process
        psutil.wait_procs(left, timeout=5)
    for folder in folders:
        remove_session(folder)


def _started_late(sessions: Sequence[Path]) -> set[psutil.Process]:
    """Ray's processes that nobody saw yet: their command lines still name their session."""
    return {
        process
        for process in psutil.process_iter(["cmdline"])
        if (words := process.info["cmdline"])
        and words[0].startswith(sys.prefix)
        and any(session.name in word for word in words for session in sessions)
    }


if __name__ == "__main__":
    watch(int(sys.argv[1]))
