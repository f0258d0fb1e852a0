"""What a monitoring system can see of a run: every metric, declared once, and how to tell one.

Workers and the driver tell the board, which alone owns what Ray exports.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Metric:
    """A number to watch, in what unit, and the tags that tell its series apart.

    A `gauge` is told as it is now. A `counter` is told what came to it since it was last told. A
    `total` is told in full, from the beginning of its stage: where a lost worker starts again from
    a checkpoint, nothing counts twice. Ray exports both of these as Prometheus' counters.
    """

    kind: Literal["gauge", "counter", "total"]
    unit: str
    description: str
    tags: tuple[str, ...] = ()

    @property
    def grows(self) -> bool:
        """Whether it never becomes less."""
        return self.kind != "gauge"


# Blocks are counted from 1 and cells from 0, as everywhere. Every metric has the tag `run` besides.
_CELL = ("block", "cell")
METRICS = {
    "generation": Metric("gauge", "generations", "The generation at work, from 1"),
    "stage_at_work": Metric("gauge", "yes or no", "1 while a stage runs, 0 after it", ("stage",)),
    "windows_made": Metric("counter", "windows", "Windows whose features the teacher has made"),
    "windows_waiting": Metric("gauge", "windows", "Windows made that a cell has still to read"),
    "cached_bytes": Metric("gauge", "bytes", "Features held in Ray's object store"),
    "teacher_images": Metric("counter", "images", "Images that the teacher has seen"),
    "cell_loss": Metric("gauge", "mean squared error", "Newest loss of a cell", _CELL),
    "cell_steps": Metric("total", "minibatches", "Minibatches that a cell has learned from", _CELL),
    "paths_rated": Metric("counter", "paths", "Paths of all cells that are rated"),
    "paths_left": Metric("gauge", "paths", "Paths of this generation that are still to be rated"),
    "search_seconds": Metric("gauge", "seconds", "How long the search over all architectures took"),
    "best_loss": Metric("gauge", "sum of ratings", "Loss of the best architecture in the limits"),
    "network_loss": Metric("gauge", "cross-entropy", "Newest loss of a network", ("network",)),
    "network_steps": Metric(
        "total", "minibatches", "Minibatches that a network has learned from", ("network",)
    ),
    "quality": Metric(
        "gauge",
        "as its measure",
        "Accuracy and other measures of a network on the test pictures",
        ("measure", "role"),
    ),
}


def exported(name: str) -> str:
    """The name under which Prometheus has a metric."""
    return f"ray_dna_ray_{name}" + "_total" * METRICS[name].grows


def observe(board: Any, values: Mapping[str, float], **tags: str | int) -> None:
    """Tell `board` the values of some metrics that have these tags; wait for nothing.

    `board` is an actor handle of ProgressBoard. Raises ValueError, here and now, where a name or a
    tag is unknown or missing, or where what only grows would become less.
    """
    for name, value in values.items():
        if name not in METRICS:
            raise ValueError(f"a metric must be one of {', '.join(METRICS)}, but is '{name}'")
        metric = METRICS[name]
        if set(tags) != set(metric.tags):
            raise ValueError(
                f"the tags of '{name}' must be {list(metric.tags)}, but are {list(tags)}"
            )
        if metric.grows and not value >= 0:
            raise ValueError(f"'{name}' only grows, so 0 or more must be told, not {value}")
    board.observe.remote(
        {name: float(value) for name, value in values.items()},
        {tag: str(value) for tag, value in tags.items()},
    )
