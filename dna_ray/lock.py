"""One process at a time works on a folder, wherever that is."""

import fcntl
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from dna_ray.errors import UserError
from dna_ray.storage import Place

# Seconds between two signs of life of a holder, and from the last one until its lock is free. A
# store tells times in whole seconds.
_BEAT = 10.0
_LAPSE = 60.0

_PREFIX = "lock-"


def locked(folder: Place) -> AbstractContextManager[Callable[[], None]]:
    """Keep every other process out of a folder; raises UserError where one is in already.

    What is yielded raises OSError where the lock was lost. On this machine it never is: it is the
    kernel's, and ends with the process, however that ends.

    A store elsewhere has no locks. There whoever wants the folder first leaves a file in it, its
    claim, and then looks for those of others; as the store lists what it holds (S3, Google's and
    Azure's do), of two that come at the same time one sees the other at least, and both may be
    refused. The holder writes its claim again every ten seconds, and one that has not done so for a
    minute, by the store's clock, counts no more: its process was killed. If it was only cut off or
    held up, it finds out before it writes its next record. What it was writing at that very moment
    can still arrive.
    """
    return _of_the_kernel(folder, folder.local) if folder.local else _by_claim(folder)


@contextmanager
def _of_the_kernel(folder: Place, path: Path) -> Iterator[Callable[[], None]]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _taken(folder, "wait for it") from None
        yield lambda: None
    finally:
        os.close(descriptor)


@contextmanager
def _by_claim(folder: Place) -> Iterator[Callable[[], None]]:
    claim = _Claim(folder)
    try:
        lapsed = claim.others()
        if not all(lapsed.values()):
            raise _taken(folder, f"wait for it, or {_LAPSE:.0f} seconds where it was killed")
        for name in lapsed:
            (folder / name).remove()
        stop = threading.Event()
        thread = threading.Thread(target=claim.keep, args=(stop,), name="lock", daemon=True)
        thread.start()
        try:
            yield claim.check
        finally:
            stop.set()
            thread.join()
    finally:
        with suppress(OSError):  # the store may be what ended the body; then the claim lapses
            folder.filesystem.delete_file(claim.file.path)


class _Claim:
    """One process's claim to a folder."""

    def __init__(self, folder: Place) -> None:
        self._folder, self._name = folder, f"{_PREFIX}{uuid.uuid4().hex}"
        self.file = folder / self._name
        self._turn, self._lost = threading.Lock(), False
        self._last = time.monotonic()
        self.file.write(b"")

    def others(self) -> dict[str, bool]:
        """The claims of others by name, and of each whether it has lapsed."""
        times = {
            str(info.base_name): info.mtime.timestamp()
            for info in self._folder.inside()
            if info.base_name.startswith(_PREFIX)
        }
        mine = times.pop(self._name, 0.0)  # one that was removed lapsed before all others
        return {name: mine - last >= _LAPSE for name, last in times.items()}

    def keep(self, stop: threading.Event) -> None:
        """Give signs of life until it is time to stop."""
        while not self._lost and not stop.wait(_BEAT):
            with suppress(OSError):  # the next may arrive; `check` sees whether in time
                self._beat(at_once=True)

    def check(self) -> None:
        """Raise OSError where this claim has lapsed and another process has taken over."""
        if time.monotonic() - self._last >= _LAPSE:
            self._beat()
        if self._lost:
            raise OSError(
                f"another process works on '{self._folder}' now, as this one could not reach it "
                f"for {_LAPSE:.0f} seconds"
            )

    def _beat(self, *, at_once: bool = False) -> None:
        """Write the claim again; where that comes late, look whether another has come first."""
        with self._turn:
            now = time.monotonic()
            self.file.write(b"", at_once=at_once)
            if time.monotonic() - self._last >= _LAPSE:
                self._lost = self._lost or not all(self.others().values())
            self._last = now


def _taken(folder: Place, how: str) -> UserError:
    return UserError(
        f"one search at a time works on a run folder, but another is at work on '{folder}'; "
        f"{how}, or give another --out"
    )
