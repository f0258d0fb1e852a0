"""The stages of a search called in plain Python: no Ray, one process, one after another."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dna_ray.config import Job
from dna_ray.data import Pictures
from dna_ray.data.transforms import augmented_view, decode, plain_view, stored_side
from dna_ray.data.windows import minibatch
from dna_ray.distill import CellTrainer
from dna_ray.network.cell import CellNet, build_cell
from dna_ray.network.model import TrainedModel, trained
from dna_ray.randomness import generator, key
from dna_ray.rating import RatingSet, rate_cell
from dna_ray.retrain import PictureSet, Recipe, Trainer, alone, logits_of, soft_labels
from dna_ray.space import Op, Space
from dna_ray.teacher import Cut, Teacher, teach

Array = np.ndarray
Features = list[Array]  # boundaries 0..K of one window, (N, H, W, C)


@dataclass(frozen=True)
class Windows:
    """Windows of uint8 pictures (N, H, W, 3) and their labels, by split."""

    pictures: dict[str, list[Array]]
    labels: dict[str, Array]


def make_windows(pictures: Pictures, job: Job, resolution: int) -> Windows:
    """What dna_ray.remote.features.make_windows makes of a set with pictures enough."""
    drawn: dict[str, list[Array]] = {}
    labels: dict[str, Array] = {}
    for split, members in pictures.splits.items():
        order = generator(job.seed, "order", split).permutation(members)
        chunks = np.array_split(order, range(job.features.window, len(order), job.features.window))
        stored = [
            np.stack([decode(pictures.paths[i], stored_side(resolution)) for i in chunk])
            for chunk in chunks
        ]
        views = range(1, 1 + job.features.views) if split == "train" else (0,)
        drawn[split] = [
            np.stack([_view(p, int(i), v, job, resolution) for p, i in zip(s, c, strict=True)])
            for v in views
            for c, s in zip(chunks, stored, strict=True)
        ]
        if pictures.labelled:
            labels[split] = np.tile(np.array(pictures.labels)[np.concatenate(chunks)], len(views))
    return Windows(drawn, labels)


def _view(picture: Array, index: int, view: int, job: Job, resolution: int) -> Array:
    if view == 0:
        return plain_view(picture, resolution)
    return augmented_view(picture, resolution, job.features, key(job.seed, "view", index, view))


def train(
    model: TrainedModel, data: PictureSet, recipe: Recipe, stream: tuple[str | int, ...]
) -> TrainedModel:
    """Train a network with all shards in this process."""
    module = model.build()
    trainer = Trainer(module, data, recipe, stream, range(recipe.shards), alone)
    for _ in range(recipe.passes):
        trainer.train_pass()
    return trained(model.spec, module)


def teach_windows(
    teacher: TrainedModel, cut: Cut, windows: Sequence[Array]
) -> list[tuple[Features, Array]]:
    """Boundaries 0..K and logits of every window."""
    network, taught = Teacher(teacher, cut), []
    for window in windows:
        boundaries, logits = teach(network, window)
        taught.append(([window, *boundaries], logits))
    return taught


def distill(
    space: Space,
    cut: Cut,
    pixels: tuple[tuple[float, ...], tuple[float, ...]],
    windows: Sequence[Features],
    job: Job,
    where: tuple[int, int],
    generation: int = 1,
) -> CellTrainer:
    """Train one cell (block, cell) on the boundaries of all windows."""
    trainer = CellTrainer(space, cut, pixels, job.distill, where, (job.seed, generation))
    for _ in range(job.distill.epochs):
        for index, boundaries in enumerate(windows):
            trainer.train_window(index, boundaries[where[0]], boundaries[where[0] + 1])
        trainer.end_epoch()
    return trainer


def rating_set(
    windows: Sequence[Features], block: int, recalibration: int, rows: slice
) -> RatingSet:
    """The first pictures recalibrate, those of `rows` rate."""
    inputs = np.concatenate([w[block] for w in windows])
    targets = np.concatenate([w[block + 1] for w in windows])
    everything = np.arange(len(inputs))
    return RatingSet(
        minibatch(inputs, everything[:recalibration]),
        minibatch(inputs, everything[rows]),
        minibatch(targets, everything[rows]),
    )


def rate(net: CellNet, ops: tuple[Op, ...], data: RatingSet) -> list[float]:
    """The loss of every path of a cell."""
    return list(rate_cell(net, ops, data).values())


def rate_state(
    space: Space,
    cut: Cut,
    pixels: tuple[tuple[float, ...], tuple[float, ...]],
    where: tuple[int, int],
    state: dict[str, torch.Tensor],
    data: RatingSet,
) -> list[float]:
    """The loss of every path of a cell with the weights of `state`."""
    block, cell = where
    net = build_cell(space, block, cell, cut.width_in(block), cut.widths[block], *pixels)
    net.load_state_dict(state)
    return rate(net.to(memory_format=torch.channels_last), space.blocks[block].ops, data)


def soft(teacher: TrainedModel, windows: Sequence[Array]) -> Array:
    """The teacher's soft labels of all pictures."""
    return soft_labels(logits_of(teacher.build(), windows))


def cells(space: Space) -> Iterator[tuple[int, int]]:
    """All cells of a space as (block, cell), 0-based."""
    return ((b, c) for b, block in enumerate(space.blocks) for c in range(len(block.cells)))


def one_thread() -> None:
    """What every worker of a search does."""
    torch.set_num_threads(1)
