"""Faults for real: processes killed with SIGKILL, and whole nodes of a cluster on one machine."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import Any

import psutil

# Seconds after which a test gives up on what it waits for.
PATIENCE = 300

# Seconds between two looks at all processes, which cost some milliseconds.
_LOOK_AGAIN = 0.05


def family() -> list[psutil.Process]:
    """All processes below this one."""
    return psutil.Process().children(recursive=True)


def titled(processes: list[psutil.Process], title: str) -> psutil.Process | None:
    """A process that shows a title, as Ray's do: what they are at."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if title in " ".join(process.cmdline()):
                return process
    return None


def until(condition: Callable[[], Any], alive: Callable[[], bool] = lambda: True) -> Any:
    """Wait for what a condition is first true with, as long as something is alive."""
    deadline = time.monotonic() + PATIENCE
    while alive() and time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(_LOOK_AGAIN)
    raise AssertionError("what was waited for never came")


@contextmanager
def killed(title: str) -> Iterator[None]:
    """Kill the first process with a title that is seen while the body runs."""
    gone: list[int] = []

    def kill() -> None:
        while not gone and not over.wait(_LOOK_AGAIN):
            process = titled(family(), title)
            if process is not None:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
                    gone.append(process.pid)

    over = Event()
    thread = Thread(target=kill, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert gone, f"no process '{title}' was seen"
