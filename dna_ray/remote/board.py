"""How workers tell the driver of their progress: a small actor between them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from dna_ray.progress import View

_INTERVAL = 0.5


@ray.remote(num_cpus=0)
class ProgressBoard:
    """Collects steps from workers until the driver takes them."""

    def __init__(self) -> None:
        self._steps = 0
        self._detail = ""

    def add(self, steps: int, detail: str) -> None:
        """Some steps are done; `detail` says what was done last."""
        self._steps += steps
        self._detail = detail

    def take(self) -> tuple[int, str]:
        """The steps since the last call, and the newest detail."""
        steps, self._steps = self._steps, 0
        return steps, self._detail


@contextmanager
def forwarding(board: Any, view: View) -> Iterator[None]:
    """Pass what workers add to `board` on to `view` while the body runs."""
    stop = threading.Event()

    def pass_on() -> None:
        steps, detail = ray.get(board.take.remote())
        if steps:
            view.advance(steps, detail)

    def loop() -> None:
        while not stop.wait(_INTERVAL):
            pass_on()

    thread = threading.Thread(target=loop, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    pass_on()
