"""The teacher: how many pictures it reads at once, and what bfloat16 does to the rating.

A pass over `PICTURES` pictures with all boundaries of the demo space is timed with batches of
several sizes in turn, one thread; medians of `REPEATS`. Then all cells of the embedded default are
trained and rated behind features in float32 and in bfloat16, as they are on a GPU (on a processor
by autocast), with the same seed: Kendall's tau between the two, beside that of two seeds. With
`--device cuda` all of that is done on a GPU, where cells compute in bfloat16 too: tau between that
and float32 is a column more. One thread in every process.
"""

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import product
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from scipy.stats import kendalltau

from dna_ray import distill, teacher
from dna_ray.config import Job
from dna_ray.data import load_pictures, windows
from dna_ray.network.model import load_model
from dna_ray.space import Where, load_space
from dna_ray.teacher import Cut, Teacher, cut_teacher, load_teacher, teach
from tests import plain
from tests.benchmarks.rating import card
from tests.benchmarks.report import publish, table

Array = np.ndarray

PICTURES, REPEATS = {"cpu": 256, "cuda": 1024}, 5
BATCHES = {"cpu": (4, 8, 16, 32, 64, 128, 256), "cuda": (32, 64, 128, 256, 512, 1024)}
RESOLUTIONS = (64, 96, 224)
PROCESSES = {"cpu": 2, "cuda": 12}


class Case(NamedTuple):
    """A seed, and what computes in bfloat16."""

    seed: int
    features: bool
    cells: bool


def pictures_per_second(resolution: int, device: str) -> list[float]:
    """For each of BATCHES, boundaries copied out."""
    space, model = load_space("demo"), load_teacher("lite0")
    network = Teacher(model, cut_teacher(model, space.reductions, resolution), device)
    rng = np.random.default_rng(0)
    pictures = rng.integers(256, size=(PICTURES[device], resolution, resolution, 3), dtype=np.uint8)
    times: dict[int, list[float]] = {batch: [] for batch in BATCHES[device]}
    for repeat, batch in product(range(1 + REPEATS), BATCHES[device]):
        with patch.object(windows, "_BATCH", {device: (batch, 2**40)}):
            start = time.perf_counter()
            teach(network, pictures)
            if repeat:
                times[batch].append(time.perf_counter() - start)
    return [PICTURES[device] / float(np.median(taken)) for taken in times.values()]


@contextmanager
def computed(where: object, device: str, half: bool) -> Iterator[None]:
    """What a module of ours makes in the meantime is in bfloat16, or in full float32."""
    precision = torch.autocast(device, torch.bfloat16, enabled=half)
    exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=half)
    with patch.object(where, "autocast", lambda _: precision), exact:
        yield


@cache
def features(
    file: Path, seed: int, half: bool, device: str
) -> tuple[Cut, list[list[Array]], list[list[Array]]]:
    """The cut, and the boundaries of the windows that teach and of those that rate."""
    job, model = Job(seed=seed), load_model(file)
    space = load_space(job.space)
    cut = cut_teacher(model, space.reductions, space.resolution)
    drawn = plain.make_windows(load_pictures(job.data), job, space.resolution)
    with computed(teacher, device, half):
        return cut, *plain.teach_cells(model, cut, drawn, job, device)


def losses(asked: tuple[Path, str, Case, Where]) -> list[float]:
    """Of all paths of a cell."""
    file, device, case, where = asked
    cut, taught, held_out = features(file, case.seed, case.features, device)
    job, spec = Job(seed=case.seed), load_model(file).spec
    space, pixels = load_space(job.space), (spec.mean, spec.std)
    with computed(distill, device, case.cells):
        weights = plain.weights(space, cut, pixels, taught, job, where, device)
    first = job.rate.recalibration
    rows = slice(first, first + job.rate.images)
    data = plain.rating_set(held_out, where[0], first, rows, device)
    return plain.rate(space, cut, pixels, where, weights, data)


def differences(file: Path, device: str) -> list[float]:
    """How far features in bfloat16 are from those in float32, over their spread, by boundary."""
    (_, whole, _), (_, half, _) = (features(file, 0, half, device) for half in (False, True))
    found = []
    for boundary in range(1, len(whole[0])):
        one, other = (np.concatenate([w[boundary] for w in part]) for part in (whole, half))
        found.append(float(np.sqrt(np.mean((one - other) ** 2)) / one.std()))
    return found


def agreement(device: str) -> str:
    """A table with one row for every block."""
    space = load_space(Job().space)
    usual = Case(0, features=device == "cuda", cells=device == "cuda")
    others = {
        "features in the other precision": usual._replace(features=not usual.features),
        "cells in the other precision": usual._replace(cells=not usual.cells),
        "another seed": usual._replace(seed=1),
    }
    if device == "cpu":  # cells compute in float32 there
        del others["cells in the other precision"]
    spawn = multiprocessing.get_context("spawn")
    pool_of = spawn.Pool(PROCESSES[device], plain.one_thread)
    with tempfile.TemporaryDirectory() as folder, pool_of as pool:
        file = Path(folder) / "teacher.safetensors"
        pool.apply(plain.put_adapted, (file, space.resolution, device))
        asked = [
            (file, device, case, where)
            for case in (usual, *others.values())
            for where in space.cells
        ]
        rated = dict(zip(asked, pool.map(losses, asked, chunksize=1), strict=True))
        far = pool.apply(differences, (file, device))

    def of_block(case: Case, block: int) -> Array:
        cells = range(len(space.blocks[block].cells))
        return np.concatenate([rated[file, device, case, (block, cell)] for cell in cells])

    rows = []
    for block in range(len(space.blocks)):
        own = of_block(usual, block)
        row: list[object] = [block + 1, f"{far[block]:.4f}"]
        for case in others.values():
            other = of_block(case, block)
            tau = kendalltau(own, other)[0]
            row.append(f"{tau:.3f} ({np.median(np.abs(other / own - 1)):.2%})")
        rows.append(row)
    return table(["block", "features: difference over spread", *others], rows)


def main() -> None:
    """Measure and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=PROCESSES, default="cpu")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    device = arguments.device
    plain.one_thread()
    speeds = [
        [size, *(f"{speed:.0f}" for speed in pictures_per_second(size, device))]
        for size in RESOLUTIONS
    ]
    header = ["resolution", *(f"batches of {batch}, pictures/s" for batch in BATCHES[device])]
    used = ", ".join(
        str(len(next(windows.batches(np.zeros((1024, size, size, 3), np.uint8), device))))
        for size in RESOLUTIONS
    )
    usual = "float32" if device == "cpu" else "bfloat16"
    text = (
        f"{card(device)}lite0 with all boundaries. Used at these resolutions: {used}.\n\n"
        f"{table(header, speeds)}\n\nThe rating of the embedded default in {usual}, and what "
        "changes what: Kendall's tau of the two, and the median change of a loss.\n\n"
        f"{agreement(device)}"
    )
    name = "teacher" if device == "cpu" else f"teacher --device {device}"
    title = f"The teacher: batches, and bfloat16 ({device})"
    publish(name, title, text, write=arguments.write)


if __name__ == "__main__":
    main()
