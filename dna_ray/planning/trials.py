"""Short trials of the work that no stage of a search waits for: what `dna-ray plan` measures."""

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from dna_ray.config import Job, Rate
from dna_ray.data import Pictures
from dna_ray.data.schedule import read_decoded
from dna_ray.data.transforms import augmented_view
from dna_ray.network.cell import build_cell
from dna_ray.network.model import TrainedModel
from dna_ray.planning.calibration import Pixels
from dna_ray.planning.work import macs_below
from dna_ray.rating import RatingSet, rate_cell, relative_l1
from dna_ray.retrain import PictureSet, Recipe, Trainer
from dna_ray.search import ratings_of, select
from dna_ray.shards import alone
from dna_ray.space import CostTable, Space, Where
from dna_ray.teacher import Cut

# Seconds for which something short is timed again and again.
_ENOUGH = 0.3


@torch.inference_mode()
def time_walk(
    space: Space,
    cut: Cut,
    pixels: Pixels,
    where: Where,
    resolution: int,
    pictures: int,
    sizes: Rate,
    *,
    device: torch.device | str,
) -> tuple[float, float]:
    """Seconds of one picture in rating: of a multiply-add, and of comparing it with the teacher.

    The paths that have one op in all layers but the last are rated, on at least four pictures, of
    which as large a part recalibrates as in `sizes`.
    """
    (block, cell), sides = where, (resolution, *cut.sizes)
    net = build_cell(space, block, cell, cut.width_in(block), cut.widths[block], *pixels)
    net.to(device).to(memory_format=torch.channels_last)

    def noise(count: int, width: int, side: int) -> Tensor:
        features = torch.rand(count, width, side, side, device=device)
        return features.to(memory_format=torch.channels_last)

    first = max(2, pictures * sizes.recalibration // (sizes.recalibration + sizes.images))
    layers, ops = space.blocks[block].cells[cell].layers, space.blocks[block].ops
    x = noise(pictures, cut.width_in(block), sides[block])
    feature, target = (
        noise(pictures - first, cut.widths[block], sides[block + 1]) for _ in range(2)
    )
    data = RatingSet(x[:first], x[first:], target)
    prefixes = list(dict.fromkeys((op,) * (layers - 1) for op in ops))

    def walk() -> list[float]:
        return [loss for each in prefixes for loss in rate_cell(net, ops, data, each).values()]

    rated, compared = len(walk()), _typical(lambda: relative_l1([feature], target))
    macs = sum(macs_below(space, cut, where, resolution, prefix) for prefix in prefixes)
    through = max(0.0, _typical(walk) - rated * compared)
    return through / macs / pictures, compared / len(feature)


def _typical(run: Callable[[], object]) -> float:
    """The median of the seconds that something takes that has been run before."""
    times: list[float] = []
    while sum(times) < _ENOUGH:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def time_training(
    model: TrainedModel, recipe: Recipe, resolution: int, steps: int, device: torch.device | str
) -> float:
    """Seconds of a network's training step for one picture, on so many minibatches of noise."""
    rng = np.random.default_rng(0)
    count = steps * recipe.batch
    noise = rng.integers(256, size=(count, resolution, resolution, 3), dtype=np.uint8)
    data = PictureSet([noise], rng.integers(model.spec.classes, size=count), None)
    whole = replace(recipe, passes=1, shards=1)
    trainer = Trainer(model.build(), data, whole, (0, "trial"), range(1), alone, device)
    times: list[float] = []
    trainer.train_pass(lambda _: times.append(time.perf_counter()))  # the loss was waited for
    return float(np.median([end - start for start, end in pairwise(times)])) / recipe.batch


def time_drawing(pictures: Pictures, job: Job, resolution: int, count: int) -> float:
    """Seconds to read, decode and augment one picture that trains, a broken one or not."""
    train = pictures.splits["train"]
    chosen = train[np.linspace(0, len(train) - 1, count).astype(int)]
    for drawn in (chosen[:1], chosen):  # the first picture is slower, as code is loaded
        start = time.perf_counter()
        for number, (picture, _) in enumerate(read_decoded(pictures, drawn, resolution)):
            augmented_view(picture, resolution, job.features, number)
    return (time.perf_counter() - start) / count


def time_search(space: Space, table: CostTable, limits: dict[str, float]) -> float:
    """Seconds of the search step, on losses drawn at random."""
    rng = np.random.default_rng(0)
    losses = [[rng.random(b.count(c)) for c in range(len(b.cells))] for b in space.blocks]
    start = time.perf_counter()
    select(ratings_of(space, table, losses, {}), limits)
    return time.perf_counter() - start
