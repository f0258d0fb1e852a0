"""Windows that are made while they are read: a bounded number at a time, dropped behind the last.

The driver makes them, and so owns them: what is lost with a node is made again by lineage. A queue
between the driver and the ranks of a Train run knows how far every rank is, and asks the driver for
the next few windows ahead of the slowest of them. A group of ranks that starts again from a
checkpoint asks for an earlier window, and the queue goes back.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import ray

from dna_ray.remote.actors import beside_the_driver
from dna_ray.remote.metrics import observe
from dna_ray.remote.session import Session

T = TypeVar("T")


@ray.remote(num_cpus=0)
class WindowQueue:
    """Which windows of a series are there, and which are wanted."""

    def __init__(self, total: int, ranks: int, ahead: int) -> None:
        self._positions = dict.fromkeys(range(ranks), 0)
        self._windows: dict[int, Any] = {}
        self._total, self._ahead = total, ahead
        self._failure, self._over = "", False
        self._changed = asyncio.Condition()

    def _wanted(self) -> range:
        first = min(self._positions.values())
        return range(first, min(first + self._ahead, self._total))

    async def at(self, rank: int, position: int) -> None:
        """A rank wants this window next, and none before it: those behind all ranks are dropped."""
        async with self._changed:
            self._positions[rank] = position
            wanted = self._wanted()
            self._windows = {p: window for p, window in self._windows.items() if p in wanted}
            self._changed.notify_all()

    async def window(self, rank: int, position: int) -> Any:
        """The window at `position`, when it is there."""
        await self.at(rank, position)
        async with self._changed:
            await self._changed.wait_for(lambda: position in self._windows or self._failure)
            if position not in self._windows:
                raise RuntimeError(self._failure)
            return self._windows[position]

    async def missing(self) -> int | None:
        """The next position that is wanted and not there, when there is one; None at the end."""

        def next_one() -> int | None:
            return next((p for p in self._wanted() if p not in self._windows), None)

        async with self._changed:
            await self._changed.wait_for(lambda: self._over or next_one() is not None)
            return None if self._over else next_one()

    async def put(self, position: int, window: Any) -> int:
        """The driver has begun to make a window, whose references can be waited for.

        Returns how many windows wait for the slowest rank.
        """
        async with self._changed:
            self._windows[position] = window
            self._changed.notify_all()
            return len(self._windows)

    async def fail(self, reason: str) -> None:
        """The driver can make no more windows: whoever waits for one is told."""
        async with self._changed:
            self._failure = reason
            self._changed.notify_all()

    async def end(self) -> None:
        """Nothing more is wanted."""
        async with self._changed:
            self._over = True
            self._changed.notify_all()


@dataclass(frozen=True)
class Fed(Generic[T]):
    """A series of windows behind a queue."""

    queue: Any
    total: int

    def reader(self, rank: int) -> "FedReader[T]":
        """What one rank reads them by."""
        return FedReader(self, rank)


@dataclass(frozen=True)
class FedReader(Generic[T]):
    """One rank at a queue."""

    series: Fed[T]
    rank: int

    def __getitem__(self, position: int) -> T:
        window: T = ray.get(self.series.queue.window.remote(self.rank, position))
        return window

    def close(self) -> None:
        """Let the queue go on without this rank."""
        ray.get(self.series.queue.at.remote(self.rank, self.series.total))


@contextmanager
def fed(
    session: Session, make: Callable[[int], Iterator[T]], total: int, ranks: int, ahead: int
) -> Iterator[Fed[T]]:
    """A series of `total` windows for `ranks`, at most `ahead` at a time, while the body runs.

    `make(position)` yields the windows from a position on; their references need not be there yet.
    What fails in it is raised in the place of what it makes the body fail with.
    """
    queue = beside_the_driver(WindowQueue).remote(total, ranks, ahead)
    failures: list[Exception] = []

    def run() -> None:
        position = -1
        windows: Iterator[T] = iter(())
        try:
            while (missing := ray.get(queue.missing.remote())) is not None:
                if missing != position:
                    position, windows = missing, make(missing)
                waiting = ray.get(queue.put.remote(position, next(windows)))
                observe(session.board, {"windows_made": 1, "windows_waiting": waiting})
                position += 1
        except Exception as error:
            failures.append(error)
            ray.get(queue.fail.remote(f"no more windows can be made: {error}"))

    thread = threading.Thread(target=run, name="feed", daemon=True)
    thread.start()
    try:
        yield Fed(queue, total)
    except Exception as error:
        if failures:
            raise failures[0] from error
        raise
    finally:
        observe(session.board, {"windows_waiting": 0})
        ray.get(queue.end.remote())
        thread.join(timeout=30)
