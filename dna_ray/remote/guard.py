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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

_LOOK_AGAIN = 3.0  # seconds
_ALL_IS_WELL = b"."
_PREFIX = "dna-ray-"


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder for all that Ray's processes put aside; gone with the body, or with this process."""
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_base()))
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = str(folder)
    guard = subprocess.Popen(
        [sys.executable, "-m", "dna_ray.remote.guard", str(os.getpid()), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # no Ctrl-C of the terminal reaches it
    )
    try:
        yield folder
    finally:
        os.environ.pop("TMPDIR")
        if before is not None:
            os.environ["TMPDIR"] = before
        with suppress(BrokenPipeError):
            guard.communicate(_ALL_IS_WELL)
        remove_temporary(folder)


def remove_temporary(folder: Path) -> None:
    """Remove a folder that `temporary_folder` made; no other folder."""
    if folder.parent == _base() and folder.name.startswith(_PREFIX):
        shutil.rmtree(folder, ignore_errors=True)


def _base() -> Path:
    """Where temporary folders go: for a session within another's processes, beside that one's.

    The paths of Ray's sockets have room for one such folder, not for two.
    """
    base = Path(tempfile.gettempdir())
    return base.parent if base.name.startswith(_PREFIX) else base


def watch(driver: int, folder: Path) -> None:
    """Wait for the end of the process `driver`; unless it says that all is well, end the rest."""
    family: set[psutil.Process] = set()
    alive = True
    while alive:
        with suppress(psutil.NoSuchProcess):
            family |= set(psutil.Process(driver).children(recursive=True))
        alive = not select.select([sys.stdin.buffer], [], [], _LOOK_AGAIN)[0]
    if sys.stdin.buffer.read():
        return
    left = (family | _started_late(folder)) - {psutil.Process()}
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()  # knows by the time of its start that it is still the same process
    psutil.wait_procs(left, timeout=5)
    shutil.rmtree(folder, ignore_errors=True)


def _started_late(folder: Path) -> set[psutil.Process]:
    """Ray's processes that nobody saw yet: their command lines still name the folder."""
    return {
        process
        for process in psutil.process_iter(["cmdline"])
        if (words := process.info["cmdline"])
        and words[0].startswith(sys.prefix)
        and any(str(folder) in word for word in words)
    }


if __name__ == "__main__":
    watch(int(sys.argv[1]), Path(sys.argv[2]))
