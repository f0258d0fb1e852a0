"""Paths trained alone as remote tasks, one each."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import ray

from dna_ray.alone import train_alone
from dna_ray.config import Distill, Rate
from dna_ray.distill import Stream
from dna_ray.errors import noted
from dna_ray.ranking.truth import Training
from dna_ray.remote.rating import rating_set
from dna_ray.remote.session import Session
from dna_ray.remote.tasks import device, single_threaded, task
from dna_ray.remote.windows import TaughtWindow
from dna_ray.space import Op, Space, cell_text
from dna_ray.teacher import Cut

Array = np.ndarray


def train_paths(
    session: Session,
    space: Space,
    cut: Cut,
    pixels: tuple[tuple[float, ...], tuple[float, ...]],
    recipe: Distill,
    sizes: Rate,
    stream: Stream,
    trainings: Sequence[Training],
    windows: Sequence[TaughtWindow],
    count: int,
    rating: Sequence[TaughtWindow],
    resources: Mapping[str, float],
) -> Iterator[tuple[Training, float]]:
    """Every training with its loss (Eq 7), as soon as it is done.

    `windows` are those that teach, of which `count` make an epoch, and `rating` those that
    recalibrate and rate. `stream` begins the random streams; `resources` are what a task reserves.
    """
    session.view.stage("alone", len(trainings), "paths")
    refs = {}
    for training in trainings:
        block = training.block - 1
        inputs, targets = (
            [window.boundaries[number] for window in (*windows, *rating)]
            for number in (block, block + 1)
        )
        run = task(_train, name=f"block {training.block}, a path alone", **resources)
        settings = (space, cut, pixels, recipe, sizes, stream, training, len(windows), count)
        refs[run.remote(*settings, *inputs, *targets)] = training
    for ref in session.finished(list(refs)):
        yield refs[ref], ray.get(ref)


@single_threaded
def _train(
    space: Space,
    cut: Cut,
    pixels: tuple[tuple[float, ...], tuple[float, ...]],
    recipe: Distill,
    sizes: Rate,
    stream: Stream,
    training: Training,
    taught: int,
    count: int,
    *boundaries: Array,
) -> float:
    half = len(boundaries) // 2
    inputs, targets = boundaries[:half], boundaries[half:]
    where = (training.block - 1, training.cell)
    with noted(f"{cell_text(where)}, {training.ops}"):
        return train_alone(
            space,
            cut,
            pixels,
            recipe,
            where,
            tuple(map(Op.parse, training.ops.split(","))),
            (*stream, "alone", training.turn),
            list(zip(inputs[:taught], targets[:taught], strict=True)),
            count,
            rating_set(inputs[taught:], targets[taught:], sizes),
            device(),
        )
