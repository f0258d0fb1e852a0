"""What predicts how good an architecture is: scores, of all of which more is said to be better."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dna_ray.config import Job
from dna_ray.data.windows import minibatch
from dna_ray.network.model import build_model
from dna_ray.randomness import generator, key
from dna_ray.ranking import LEAST, Bench, Training, aligned, drawn_rows, paths_alone, rate
from dna_ray.retrain import PictureSet, Trainer
from dna_ray.search import ratings_of
from dna_ray.shards import alone
from dna_ray.space import Architecture, Op, cost_table, network_spec
from dna_ray.teacher import cut_teacher
from tests import plain
from tests.benchmarks.truth import cheap
from tests.benchmarks.truth.supernet import (
    Mixture,
    SinglePath,
    Supernet,
    logits_by,
    train_mixture,
)
from tests.benchmarks.truth.tasks import Task, recipe, space, teacher, windows
from tests.benchmarks.truth.training import measures, measures_of, train_from_scratch

Array = np.ndarray

SHORT_WINDOWS = 27  # which a short training sees once: about a sixth of a whole training
RECALIBRATION = 256  # pictures on which the one-shot supernet's batch norm is recalibrated
BATCH = 64  # of the scores of untrained networks, and of recalibration
ARCHITECTURE_RATE = 0.01  # DARTS's 3e-4 is for some hundred times as many steps


class Score(NamedTuple):
    """What one method says of one architecture, and its share of the method's core seconds."""

    score: str
    seed: int
    architecture: str
    value: float
    seconds: float


Names = Sequence[str]
Method = Callable[[Task, Names, int, Path], list[Score]]


def rating(task: Task, names: Names, seed: int, folder: Path) -> list[Score]:
    """Ours, by the defaults of `dna-ray search`; and with cells aligned, as by `dna-ray verify`."""
    model, adapting = teacher(task, folder)
    job, shape, drawn = Job(seed=seed), space(), windows(task, seed, folder)
    start = time.process_time()
    cut = cut_teacher(model, shape.reductions, task.resolution)
    pixels = (model.spec.mean, model.spec.std)
    taught, held_out = plain.teach_cells(model, cut, drawn, job)
    first, images = job.rate.recalibration, job.rate.images
    data = [
        plain.rating_set(held_out, block, first, slice(first, first + images))
        for block in range(len(shape.blocks))
    ]
    losses: list[list[Array]] = [[] for _ in shape.blocks]
    for block, cell in shape.cells:
        weights = plain.weights(shape, cut, pixels, taught, job, (block, cell))
        found = plain.rate(shape, cut, pixels, (block, cell), weights, data[block])
        losses[block].append(np.array(found))
    costs = cost_table(shape, task.resolution, task.classes)
    rated = ratings_of(shape, costs, losses, {"seed": str(seed)})
    seconds = adapting + time.process_time() - start
    trained = {}
    for number, paths in enumerate(rated.blocks, 1):
        for row in drawn_rows(rated, number, 0, LEAST):
            cell = int(paths.cell[row])
            training = Training(number, cell, paths.ops[row], job.features.images, 1)
            path = tuple(map(Op.parse, training.ops.split(",")))
            trained[training] = plain.rated_alone(
                shape,
                cut,
                pixels,
                taught,
                job,
                (number - 1, cell),
                path,
                (seed, 1, "alone", 1),
                data[number - 1],
            )
    together = aligned(rated, paths_alone(rated, trained))
    longer = adapting + time.process_time() - start
    architectures = map(Architecture.parse, names)
    bench = Bench(
        names=tuple(names),
        paths=tuple(tuple(",".join(map(str, b.ops)) for b in a.blocks) for a in architectures),
        widths=(None,) * len(names),
        accuracy=np.full(len(names), np.nan),
        costs={},
    )
    return [
        Score(score, seed, name, -loss, spent / len(names))
        for score, table, spent in (("rating", rated, seconds), ("aligned", together, longer))
        for name, loss in zip(names, rate(bench, table).loss.tolist(), strict=True)
    ]


def one_shot(task: Task, names: Names, seed: int, folder: Path) -> list[Score]:
    """SPOS: a supernet trained by one path a step, then held-out labels by its weights."""
    drawn, start = windows(task, 0, folder), time.process_time()
    torch.manual_seed(key(seed, "one shot"))
    supernet = Supernet(space(), task.classes).to(memory_format=torch.channels_last)
    data = PictureSet(drawn.pictures["train"], drawn.labels["train"], None)
    training, stream = recipe(task.supernet_passes), (seed, "one shot")
    trainer = Trainer(SinglePath(supernet, seed), data, training, stream, range(1), alone)
    for _ in range(training.passes):
        trainer.train_pass()
    recalibration = data.pictures(np.arange(RECALIBRATION)).split(BATCH)
    test = PictureSet(drawn.pictures["rating"], drawn.labels["rating"], None)
    pictures = test.pictures(np.arange(len(test)))
    found = []
    for name in names:
        logits = logits_by(supernet, Architecture.parse(name), recalibration, pictures)
        found.append(measures_of(logits, drawn.labels["rating"]))
    seconds = (time.process_time() - start) / len(names)
    return _by_labels("one_shot", task, names, seed, found, [seconds] * len(names))


def mixture(task: Task, names: Names, seed: int, folder: Path) -> list[Score]:
    """DARTS: the architecture weights of a mixture, which they and its weights learn in turn."""
    drawn, start = windows(task, 0, folder), time.process_time()
    torch.manual_seed(key(seed, "mixture"))
    mixed = Mixture(Supernet(space(), task.classes)).to(memory_format=torch.channels_last)
    pictures, labels = np.concatenate(drawn.pictures["train"]), drawn.labels["train"]
    distinct = len(labels) // task.views  # views of all pictures follow each other
    even = np.arange(len(labels)) % distinct % 2 == 0
    data = PictureSet([pictures[even]], labels[even], None)
    training, stream = recipe(task.darts_passes), (seed, "mixture")
    trainer = Trainer(mixed, data, training, stream, range(1), alone)
    others = _minibatches(pictures[~even], labels[~even], training.batch, seed)
    train_mixture(mixed, trainer, others, training.passes, ARCHITECTURE_RATE)
    values = [mixed.log_probability(Architecture.parse(name)) for name in names]
    seconds = (time.process_time() - start) / len(names)
    return [Score("mixture", seed, *row, seconds) for row in zip(names, values, strict=True)]


def _minibatches(
    pictures: Array, labels: Array, batch: int, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Minibatches drawn at random, for ever."""
    rng = generator(seed, "mixture", "held out")
    while True:
        rows = rng.integers(len(labels), size=batch)
        yield minibatch(pictures, rows), torch.from_numpy(labels[rows])


def short(task: Task, names: Names, seed: int, folder: Path) -> list[Score]:
    """As MnasNet rates: every architecture trained from scratch, a sixth of the time."""
    drawn, found, seconds = windows(task, 0, folder), [], []
    pictures = drawn.pictures["train"][:SHORT_WINDOWS]
    data = PictureSet(pictures, drawn.labels["train"][: sum(map(len, pictures))], None)
    for name in names:
        start = time.process_time()
        module = train_from_scratch(task, name, seed, 1, data, "short training")
        found.append(measures(module, drawn.pictures["rating"], drawn.labels["rating"]))
        seconds.append(time.process_time() - start)
    return _by_labels("short", task, names, seed, found, seconds)


def _by_labels(
    method: str,
    task: Task,
    names: Names,
    seed: int,
    found: Sequence[dict[str, float]],
    seconds: Sequence[float],
) -> list[Score]:
    """Two scores of what was measured on held-out labels: the task's metric, and less loss."""
    rows = []
    for name, measured, spent in zip(names, found, seconds, strict=True):
        rows.append(Score(method, seed, name, measured[task.metric], spent))
        rows.append(Score(f"{method}_loss", seed, name, -measured["loss"], spent))
    return rows


def untrained(task: Task, names: Names, seed: int, folder: Path) -> list[Score]:
    """What costs next to nothing, of networks with random weights."""
    drawn = windows(task, 0, folder)
    data = PictureSet(drawn.pictures["train"], drawn.labels["train"], None)
    drawn_rows = generator(seed, "untrained", "pictures").permutation(len(data))[:BATCH]
    pictures, labels = data.pictures(drawn_rows), torch.from_numpy(data.labels[drawn_rows])
    rows = []
    for name in names:
        torch.manual_seed(key(seed, "untrained", name))
        module = build_model(network_spec(space(), Architecture.parse(name), task.classes))
        scores: dict[str, Callable[[], float]] = {
            "synflow": lambda net=module: cheap.synflow(net, task.resolution),
            "gradient": lambda net=module: cheap.gradient_norm(net, pictures, labels),
            "naswot": lambda net=module: cheap.naswot(net, pictures),
        }
        for score, compute in scores.items():
            start = time.process_time()
            rows.append(Score(score, seed, name, compute(), time.process_time() - start))
    return rows


METHODS: dict[str, Method] = {
    "mixture": mixture,
    "short": short,
    "one_shot": one_shot,
    "rating": rating,
    "untrained": untrained,
}
