"""The hub of a run's progress: workers and the driver tell it, the view and Prometheus read it."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.util.metrics import Counter, Gauge

from dna_ray.progress import View
from dna_ray.remote.actors import beside_the_driver
from dna_ray.remote.metrics import METRICS

_INTERVAL = 0.5

# Ray exports a gauge only if it was set since the last export, and forgets it two exports later:
# what is told once must be said again and again. Exports are a second apart or more.
_AGAIN = 0.5

Series = tuple[str, tuple[tuple[str, str], ...]]  # a metric and its tags


@ray.remote(num_cpus=0)
class ProgressBoard:
    """Holds how far every part of a stage is, until the driver looks, and owns all metrics.

    Parts are told by name and in full, not by what they added: a worker that is lost and starts
    again, or a run that is resumed, counts nothing twice. All metrics have the tag `run`.
    """

    def __init__(self, run: str) -> None:
        self._steps: dict[str, int] = {}
        self._detail = ""
        self._instruments: dict[str, Any] = {}
        for name, metric in METRICS.items():
            kind: Any = Counter if metric.grows else Gauge
            instrument = kind(f"dna_ray_{name}", metric.description, ("run", *metric.tags))
            self._instruments[name] = instrument.set_default_tags({"run": run})
        self._gauges: dict[Series, float] = {}
        self._totals: dict[Series, float] = {}
        self._lock = threading.Lock()
        threading.Thread(target=self._say_again, name="gauges", daemon=True).start()

    def clear(self) -> None:
        """Begin another stage."""
        self._steps, self._detail, self._totals = {}, "", {}

    def put(self, part: str, steps: int, detail: str = "") -> None:
        """A part of the stage has done so many steps by now; `detail` says what was done last."""
        self._steps[part] = steps
        self._detail = detail or self._detail

    def read(self) -> tuple[int, str]:
        """The steps of all parts, and the newest detail."""
        return sum(self._steps.values()), self._detail

    def observe(self, values: dict[str, float], tags: dict[str, str]) -> None:
        """What `dna_ray.remote.metrics.observe` was told and found right."""
        for name, value in values.items():
            series = name, tuple(sorted(tags.items()))
            match METRICS[name].kind:
                case "gauge":
                    with self._lock:
                        self._gauges[series] = value
                        self._set(series, value)
                case "counter":
                    self._grow(series, value)
                case "total":
                    self._grow(series, value - self._totals.get(series, 0.0))
                    self._totals[series] = max(value, self._totals.get(series, 0.0))

    def _set(self, series: Series, value: float) -> None:
        name, tags = series
        self._instruments[name].set(value, dict(tags))

    def _grow(self, series: Series, gain: float) -> None:
        name, tags = series
        if gain > 0:
            self._instruments[name].inc(gain, dict(tags))

    def _say_again(self) -> None:
        while True:
            time.sleep(_AGAIN)
            with self._lock:
                for series, value in self._gauges.items():
                    self._set(series, value)


def start_board(run: str) -> Any:
    """The board of a run, on the driver's own node, which is lost only with the driver.

    Where the board's process dies all the same, an empty board takes its place.
    """
    return beside_the_driver(ProgressBoard, max_restarts=-1).remote(run)


@contextmanager
def forwarding(board: Any, view: View) -> Iterator[None]:
    """Pass what workers tell `board` on to `view` while the body runs.

    No work depends on a board: while it is away, the view stands still.
    """
    with suppress(RayActorError):
        ray.get(board.clear.remote())
    stop, shown = threading.Event(), 0

    def pass_on() -> None:
        nonlocal shown
        with suppress(RayActorError):
            steps, detail = ray.get(board.read.remote())
            if steps > shown:  # a new board has yet to hear of what was shown already
                view.advance(steps - shown, detail)
                shown = steps

    def loop() -> None:
        while not stop.wait(_INTERVAL) and ray.is_initialized():
            pass_on()

    thread = threading.Thread(target=loop, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    pass_on()
