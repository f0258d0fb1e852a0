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
    """Holds how far every part of a stage is, until the driver looks.

    Parts are told by name and in full, not by what they added: a worker that is lost and starts
    again, or a run that is resumed, counts nothing twice.
    """

    def __init__(self) -> None:
        self._steps: dict[str, int] = {}
        self._detail = ""

    def clear(self) -> None:
        """Begin another stage."""
        self._steps, self._detail = {}, ""

    def put(self, part: str, steps: int, detail: str = "") -> None:
        """A part of the stage has done so many steps by now; `detail` says what was done last."""
        self._steps[part] = steps
        self._detail = detail or self._detail

    def read(self) -> tuple[int, str]:
        """The steps of all parts, and the newest detail."""
        return sum(self._steps.values()), self._detail


@contextmanager
def forwarding(board: Any, view: View) -> Iterator[None]:
    """Pass what workers tell `board` on to `view` while the body runs."""
    ray.get(board.clear.remote())
    stop, shown = threading.Event(), 0

    def pass_on() -> None:
        nonlocal shown
        steps, detail = ray.get(board.read.remote())
        if steps != shown:
            view.advance(steps - shown, detail)
            shown = steps

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
