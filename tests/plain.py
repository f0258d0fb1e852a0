"""The stages of a search called in plain Python: no Ray, one process, one after another."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dna_ray.alone import train_alone
from dna_ray.config import Job, Rate
from dna_ray.data import Pictures, load_pictures
from dna_ray.data.schedule import draw, schedule
from dna_ray.data.windows import minibatch
from dna_ray.distill import CellTrainer, Stream, member_stream
from dna_ray.network.beginnings import Beginnings, cells_of
from dna_ray.network.cell import CellNet, build_cell
from dna_ray.network.members import Weights, apart, together
from dna_ray.network.model import TrainedModel, save_model, trained, with_classes
from dna_ray.planning.plan import recipe
from dna_ray.progressive import features_behind, rate_behind
from dna_ray.ranking import shrunk
from dna_ray.rating import RatingSet, rate_cell
from dna_ray.retrain import PictureSet, Recipe, Trainer, logits_of, soft_labels
from dna_ray.search import Beam, Selection, ratings_of
from dna_ray.shards import alone
from dna_ray.space import Beginning, CostTable, Op, Space, Where
from dna_ray.teacher import Cut, Teacher, load_teacher, teach

Array = np.ndarray
Device = torch.device | str
INTERACTIONS = Rate().interactions
Features = list[Array]  # boundaries 0..K of one window, (N, H, W, C)


@dataclass(frozen=True)
class Windows:
    """Windows of uint8 pictures (N, H, W, 3) and their labels, by split."""

    pictures: dict[str, list[Array]]
    labels: dict[str, Array]


def make_windows(pictures: Pictures, job: Job, resolution: int) -> Windows:
    """All windows of a search."""
    drawn: dict[str, list[Array]] = {}
    labels: dict[str, Array] = {}
    for split, windows in schedule(pictures, job).rows.items():
        drawn[split] = [draw(pictures, rows, job, resolution) for rows in windows]
        if pictures.labelled:
            shown = np.concatenate([rows.pictures for rows in windows])
            labels[split] = np.asarray(pictures.labels, np.int64)[shown]
    return Windows(drawn, labels)


def train(
    model: TrainedModel,
    data: PictureSet,
    recipe: Recipe,
    stream: tuple[str | int, ...],
    device: Device = "cpu",
) -> TrainedModel:
    """Train a network with all shards in this process."""
    module = model.build()
    trainer = Trainer(module, data, recipe, stream, range(recipe.shards), alone, device)
    for _ in range(recipe.passes):
        trainer.train_pass()
    return trained(model.spec, module)


def adapt(job: Job, data: PictureSet, classes: int, device: Device = "cpu") -> TrainedModel:
    """The first teacher fitted to the labels."""
    start = with_classes(load_teacher(job.teacher), classes)
    config = job.adapt
    adapting = recipe(job, config.passes, config.learning_rate, config.weight_decay)
    return train(start, data, adapting, (job.seed, "adapt"), device)


def put_adapted(file: Path, resolution: int, device: Device = "cpu") -> None:
    """Make the first teacher of a search by default, fitted to the labels at a resolution."""
    job = Job()
    pictures = load_pictures(job.data)
    windows = make_windows(pictures, job, resolution)
    data = PictureSet(windows.pictures["train"], windows.labels["train"], None)
    file.write_bytes(save_model(adapt(job, data, len(pictures.classes), device)))


def teach_windows(
    teacher: TrainedModel, cut: Cut, windows: Sequence[Array], device: Device = "cpu"
) -> list[tuple[Features, Array]]:
    """Boundaries 0..K and logits of every window."""
    network, taught = Teacher(teacher, cut, device), []
    for window in windows:
        boundaries, logits = teach(network, window)
        taught.append(([window, *boundaries], logits))
    return taught


def teach_cells(
    teacher: TrainedModel, cut: Cut, windows: Windows, job: Job, device: Device = "cpu"
) -> tuple[list[Features], list[Features]]:
    """Boundaries 0..K of the windows from which cells learn, and of those that rate them."""
    sizes = np.cumsum([len(window) for window in windows.pictures["train"]])
    shown = 1 + int(np.searchsorted(sizes, job.features.images))
    parts = (windows.pictures["train"][:shown], windows.pictures["rating"])
    learnt, rating = ([f for f, _ in teach_windows(teacher, cut, part, device)] for part in parts)
    return learnt, rating


def distill(
    space: Space,
    cut: Cut,
    pixels: tuple[tuple[float, ...], tuple[float, ...]],
    windows: Sequence[Features],
    job: Job,
    where: tuple[int, int],
    generation: int = 1,
    beginnings: Sequence[Beginning] = ((),),
    begun: Sequence[Features] = (),
    device: Device = "cpu",
    member: int = 0,
) -> CellTrainer:
    """Train one member of a cell (block, cell) on the boundaries of all windows.

    With fresh views, the windows are those of all epochs. Behind `beginnings`, `begun` has what the
    cell reads of each of them in the place of boundary k-1.
    """
    stream = member_stream((job.seed, generation), member)
    trainer = CellTrainer(
        space, cut, pixels, job.distill, where, stream, device, beginnings=beginnings
    )
    count = len(windows) // (job.distill.epochs if job.features.fresh else 1)
    for epoch in range(job.distill.epochs):
        start = epoch * count if job.features.fresh else 0
        for index, boundaries in enumerate(windows[start : start + count]):
            read = begun[start + index] if begun else [boundaries[where[0]]]
            trainer.train_window(index, *read, boundaries[where[0] + 1])
        trainer.end_epoch()
    return trainer


def weights(
    space: Space,
    cut: Cut,
    pixels: tuple[tuple[float, ...], tuple[float, ...]],
    windows: Sequence[Features],
    job: Job,
    where: Where,
    device: Device = "cpu",
) -> Weights:
    """Those of all members of a cell, trained on the boundaries of all windows."""
    trainers = [
        distill(space, cut, pixels, windows, job, where, device=device, member=member)
        for member in range(job.distill.trainings)
    ]
    return together([trainer.net.state_dict() for trainer in trainers])


def rated_alone(
    space: Space,
    cut: Cut,
    pixels: tuple[tuple[float, ...], tuple[float, ...]],
    windows: Sequence[Features],
    job: Job,
    where: Where,
    path: tuple[Op, ...],
    stream: Stream,
    data: RatingSet,
) -> float:
    """The loss of a path of a cell that is trained alone on the boundaries of all windows."""
    block, _ = where
    read = [(boundaries[block], boundaries[block + 1]) for boundaries in windows]
    return train_alone(
        space, cut, pixels, job.distill, where, path, stream, read, len(windows), data
    )


def progressive(
    space: Space,
    cut: Cut,
    pixels: tuple[tuple[float, ...], tuple[float, ...]],
    windows: Sequence[Features],
    held_out: Sequence[Features],
    job: Job,
    table: CostTable,
    limits: Mapping[str, float],
) -> Selection:
    """The search of a generation by the job's progressive strategy."""
    first, beam = job.rate.recalibration, Beam(space, table, limits, job.distill.beam)
    kept: Sequence[Beginning] = ((),)
    frozen: dict[Where, CellNet] = {}
    least = []
    for block, shape in enumerate(space.blocks):
        behind = [[window[0], window[block + 1]] for window in held_out]
        beginnings = kept
        pictures = rating_set(behind, 0, first, slice(first, first + job.rate.images))
        before = Beginnings(beginnings, {where: frozen[where] for where in cells_of(beginnings)})
        if job.distill.strategy == "progressive_a":
            begun = [[window[0]] for window in windows]
        else:
            begun = [
                [
                    features_behind(before, number, pictures.recalibration, window[0])
                    for number in range(len(beginnings))
                ]
                for window in windows
            ]
        losses: list[list[Array]] = [[] for _ in beginnings]
        for cell in range(len(shape.cells)):
            where = block, cell
            trainer = distill(space, cut, pixels, windows, job, where, 1, beginnings, begun)
            frozen[where] = trainer.net
            own = trainer.before if job.distill.strategy == "progressive_a" else before
            for number, rated in enumerate(losses):
                found = rate_behind(own, number, trainer.net, shape.ops, pictures)
                layers, keep = shape.cells[cell].layers, job.rate.interactions
                rated.append(shrunk(np.array(list(found.values())), layers, keep))
        grown = beam.grow(beginnings, losses)
        kept = beam.kept(beginnings, grown)
        least.append([np.minimum.reduce(cells) for cells in zip(*losses, strict=True)])
    return beam.selected(ratings_of(space, table, least, {}), beginnings, grown)


def rating_set(
    windows: Sequence[Features],
    block: int,
    recalibration: int,
    rows: slice,
    device: Device = "cpu",
) -> RatingSet:
    """The first pictures recalibrate, those of `rows` rate."""
    inputs = np.concatenate([w[block] for w in windows])
    targets = np.concatenate([w[block + 1] for w in windows])
    everything = np.arange(len(inputs))
    return RatingSet(
        minibatch(inputs, everything[:recalibration], device),
        minibatch(inputs, everything[rows], device),
        minibatch(targets, everything[rows], device),
    )


def rate(
    space: Space,
    cut: Cut,
    pixels: tuple[tuple[float, ...], tuple[float, ...]],
    where: tuple[int, int],
    weights: Weights,
    data: RatingSet,
    interactions: float = INTERACTIONS,
) -> list[float]:
    """The rating of every path of a cell: its loss, the mean over members, and its interactions."""
    block, cell = where
    losses = []
    for state in apart(weights):
        net = build_cell(space, block, cell, cut.width_in(block), cut.widths[block], *pixels)
        net.load_state_dict(state)
        net.to(data.inputs.device).to(memory_format=torch.channels_last)
        losses.append(list(rate_cell(net, space.blocks[block].ops, data).values()))
    layers = space.blocks[block].cells[cell].layers
    return list(shrunk(np.mean(losses, axis=0), layers, interactions))


def soft(teacher: TrainedModel, windows: Sequence[Array]) -> Array:
    """The teacher's soft labels of all pictures."""
    return soft_labels(logits_of(teacher.build(), windows))


def cells(space: Space) -> Iterator[tuple[int, int]]:
    """All cells of a space as (block, cell), 0-based."""
    return ((b, c) for b, block in enumerate(space.blocks) for c in range(len(block.cells)))


def one_thread() -> None:
    """What every worker of a search does."""
    torch.set_num_threads(1)
