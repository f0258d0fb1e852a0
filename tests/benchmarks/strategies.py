"""Table 10 of the paper in the small: distillation strategies, and one cell a block or several.

On `solar` behind the adapted teacher, without Ray, under one limit on multiply-adds: half way
through the range of the space with one cell a block. Each strategy searches with some seeds; what
is found is trained anew with others, by the recipe of a search without its tuning, and measured on
the test pictures. A cell that is trained progressively is one network, and has as many epochs as
all networks of a cell have otherwise; its learning rate falls as far, more slowly. Seconds are
those of one core: of the training of all cells, and of the whole search, which is that, what frozen
beginnings make of the windows, and rating.
"""

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

from dna_ray.config import Distill, Job, Strategy
from dna_ray.data import load_pictures
from dna_ray.distill import CellTrainer
from dna_ray.network.model import build_model, load_model, trained
from dna_ray.planning.plan import default_limits, recipe
from dna_ray.randomness import key
from dna_ray.retrain import PictureSet
from dna_ray.search import Selection, ratings_of, select
from dna_ray.space import Architecture, Space, cost_table, load_space, network_spec
from dna_ray.teacher import Cut, cut_teacher
from tests import plain
from tests.benchmarks.report import publish, table
from tests.benchmarks.truth.training import measures

PROCESSES = 2
RETRAINING = (0.003, 0.01)  # learning rate and weight decay: about what Tune finds on `solar`


@dataclass(frozen=True)
class Case:
    """A row of the table."""

    strategy: Strategy
    space: str

    @property
    def name(self) -> str:
        return self.strategy.replace("_a", ", A").replace("_b", ", B")


CASES = (
    Case("progressive_a", "demo-single"),
    Case("progressive_b", "demo-single"),
    Case("concurrent", "demo-single"),
    Case("concurrent", "demo"),
)


@dataclass(frozen=True)
class Found:
    """What a search found, and the seconds of its training and of all of it."""

    architecture: str
    costs: dict[str, float]
    training: float
    seconds: float


@dataclass(frozen=True)
class Task:
    """The pictures in windows, the teacher's features, and what a retraining learns."""

    cut: Cut
    pixels: tuple[tuple[float, ...], tuple[float, ...]]
    windows: plain.Windows
    taught: Sequence[plain.Features]
    held_out: Sequence[plain.Features]
    soft: np.ndarray


@cache
def task(file: Path) -> Task:
    """Made once by every process."""
    job, teacher = Job(), load_model(file)
    space = load_space(job.space)
    windows = plain.make_windows(load_pictures("solar"), job, space.resolution)
    cut = cut_teacher(teacher, space.reductions, space.resolution)
    taught, held_out = plain.teach_cells(teacher, cut, windows, job)
    pixels = (teacher.spec.mean, teacher.spec.std)
    soft = plain.soft(teacher, windows.pictures["train"])
    return Task(cut, pixels, windows, taught, held_out, soft)


@contextmanager
def timed() -> Iterator[list[float]]:
    """Seconds of every window that a cell is trained on."""
    seconds: list[float] = []
    train = CellTrainer.train_window

    def train_timed(cell: CellTrainer, index: int, *boundaries: np.ndarray) -> list[float]:
        start = time.process_time()
        losses = train(cell, index, *boundaries)
        seconds.append(time.process_time() - start)
        return losses

    with patch.object(CellTrainer, "train_window", train_timed):
        yield seconds


def recipe_of(strategy: Strategy, beam: int) -> Distill:
    """The default, with as many epochs in all whatever the strategy."""
    default, chosen = Distill(), Distill(strategy=strategy, beam=beam)
    longer = default.trainings // chosen.trainings
    return replace(chosen, epochs=default.epochs * longer, decay=default.decay ** (1 / longer))


def search(asked: tuple[Case, int, int, Path]) -> Found:
    """One search: by a case, the beam's width, and the seed of the cells."""
    case, beam, seed, file = asked
    given, job, space = task(file), Job(seed=seed), load_space(case.space)
    job = replace(job, distill=recipe_of(case.strategy, beam))
    start = time.process_time()
    with timed() as training:
        found = _selected(given, job, space).found
    return Found(found.text, found.costs, sum(training), time.process_time() - start)


def _selected(given: Task, job: Job, space: Space) -> Selection:
    single = load_space("demo-single")
    limits = default_limits(single, cost_table(single, space.resolution, 2))
    costs = cost_table(space, space.resolution, 2)
    where = (space, given.cut, given.pixels)
    if job.distill.progressive:
        return plain.progressive(*where, given.taught, given.held_out, job, costs, limits)
    losses: list[list[np.ndarray]] = [[] for _ in space.blocks]
    first = job.rate.recalibration
    for block, cell in space.cells:
        weights = plain.weights(*where, given.taught, job, (block, cell))
        rows = slice(first, first + job.rate.images)
        data = plain.rating_set(given.held_out, block, first, rows)
        losses[block].append(np.array(plain.rate(*where, (block, cell), weights, data)))
    return select(ratings_of(space, costs, losses, {}), limits)


def retrain(asked: tuple[str, int, Path]) -> dict[str, float]:
    """What a found network reaches on the test pictures, trained from scratch with a seed."""
    architecture, seed, file = asked
    given, job = task(file), Job()
    spec = network_spec(load_space(job.space), Architecture.parse(architecture), 2)
    spec = replace(spec, mean=given.pixels[0], std=given.pixels[1])
    torch.manual_seed(key(seed, "strategies", architecture))
    windows = given.windows
    data = PictureSet(windows.pictures["train"], windows.labels["train"], given.soft)
    training = recipe(job, job.retrain.passes, *RETRAINING)
    start = trained(spec, build_model(spec))
    module = plain.train(start, data, training, (seed, "strategies")).build()
    return measures(module, windows.pictures["test"], windows.labels["test"])


def spread(values: Sequence[float]) -> str:
    """The mean and the range."""
    return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def main() -> None:
    """Search with all cases, then retrain what they found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--searches", type=int, default=1, help="seeds of every search")
    parser.add_argument("--seeds", type=int, default=3, help="of the retraining of what is found")
    parser.add_argument("--beam", type=int, default=Job().distill.beam)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    rows = []
    with (
        tempfile.TemporaryDirectory() as folder,
        spawn.Pool(PROCESSES, plain.one_thread) as pool,
    ):
        file = Path(folder) / "teacher.safetensors"
        pool.apply(plain.put_adapted, (file, load_space(Job().space).resolution))
        searches = list(product(CASES, range(given.searches)))
        asked = [(case, given.beam, seed, file) for case, seed in searches]
        found = pool.map(search, asked, chunksize=1)
        networks = list(product(dict.fromkeys(f.architecture for f in found), range(given.seeds)))
        reached = dict(
            zip(
                networks,
                pool.map(retrain, [(*network, file) for network in networks], chunksize=1),
                strict=True,
            )
        )
    for (case, seed), result in zip(searches, found, strict=True):
        measured = [reached[result.architecture, n] for n in range(given.seeds)]
        rows.append(
            [
                case.name,
                case.space,
                seed,
                f"`{result.architecture}`",
                f"{result.costs['params']:,.0f}",
                f"{result.costs['macs']:,.0f}",
                f"{result.training:.0f}",
                f"{result.seconds:.0f}",
                spread([m["auroc"] for m in measured]),
                spread([m["loss"] for m in measured]),
            ]
        )
        print(rows[-1], flush=True)
    header = ("strategy", "space", "seed", "found", "parameters", "multiply-adds")
    header += ("training, s", "search, s", "AUROC", "test loss")
    text = f"Beams of {given.beam}; {given.seeds} retrainings of each network: mean and range.\n\n"
    title = "Distillation strategies, and cells of a block (Table 10)"
    publish("strategies", title, text + table(header, rows), write=given.write)


if __name__ == "__main__":
    main()
