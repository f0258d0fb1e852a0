"""The teacher: how many pictures it reads at once, and what bfloat16 does to the rating.

A pass over `PICTURES` pictures with all boundaries of the demo space is timed with batches of
several sizes in turn, one thread; medians of `REPEATS`. Then all cells of the embedded default are
trained and rated behind features in float32 and in bfloat16, as they are on a GPU (here by autocast
on the processor), with the same seed: Kendall's tau between the two, beside that of two seeds in
float32. Two processes, one thread each.
"""

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from functools import cache
from itertools import product
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from scipy.stats import kendalltau

from dna_ray import teacher as module
from dna_ray.config import Job
from dna_ray.data import load_pictures, windows
from dna_ray.network.model import load_model
from dna_ray.space import Where, load_space
from dna_ray.teacher import Cut, Teacher, cut_teacher, load_teacher, teach
from tests import plain
from tests.benchmarks.report import publish, table

Array = np.ndarray

PICTURES, REPEATS = 256, 5
BATCHES = (4, 8, 16, 32, 64, 128, 256)
RESOLUTIONS = (64, 96, 224)
PROCESSES = 2


def pictures_per_second(resolution: int) -> list[float]:
    """For each of BATCHES."""
    space, model = load_space("demo"), load_teacher("lite0")
    teacher = Teacher(model, cut_teacher(model, space.reductions, resolution))
    rng = np.random.default_rng(0)
    pictures = rng.integers(256, size=(PICTURES, resolution, resolution, 3), dtype=np.uint8)
    times: dict[int, list[float]] = {batch: [] for batch in BATCHES}
    for repeat, batch in product(range(1 + REPEATS), BATCHES):
        with patch.multiple(windows, _BATCH=batch, _PIXELS=2**40):
            start = time.perf_counter()
            teach(teacher, pictures)
            if repeat:
                times[batch].append(time.perf_counter() - start)
    return [PICTURES / float(np.median(times[batch])) for batch in BATCHES]


@cache
def features(file: Path, seed: int, half: bool) -> tuple[Cut, list[list[Array]], list[list[Array]]]:
    """The cut, and the boundaries of the windows that teach and of those that rate."""
    job, model = Job(seed=seed), load_model(file)
    space = load_space(job.space)
    cut = cut_teacher(model, space.reductions, space.resolution)
    drawn = plain.make_windows(load_pictures(job.data), job, space.resolution)
    precision = torch.autocast("cpu", torch.bfloat16, enabled=half)
    with patch.object(module, "autocast", lambda _: precision):
        return cut, *plain.teach_cells(model, cut, drawn, job)


def losses(asked: tuple[Path, int, bool, Where]) -> list[float]:
    """Of all paths of a cell, trained with a seed behind features of one precision."""
    file, seed, half, where = asked
    cut, taught, held_out = features(file, seed, half)
    job, spec = Job(seed=seed), load_model(file).spec
    space = load_space(job.space)
    net = plain.distill(space, cut, (spec.mean, spec.std), taught, job, where).net
    first = job.rate.recalibration
    data = plain.rating_set(held_out, where[0], first, slice(first, first + job.rate.images))
    return plain.rate(net, space.blocks[where[0]].ops, data)


def differences(file: Path) -> list[float]:
    """How far features in bfloat16 are from those in float32, over their spread, by boundary."""
    (_, whole, _), (_, half, _) = features(file, 0, False), features(file, 0, True)
    found = []
    for boundary in range(1, len(whole[0])):
        one, other = (np.concatenate([w[boundary] for w in part]) for part in (whole, half))
        found.append(float(np.sqrt(np.mean((one - other) ** 2)) / one.std()))
    return found


def agreement() -> Sequence[Sequence[object]]:
    """One row for every block."""
    space = load_space(Job().space)
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, spawn.Pool(PROCESSES, plain.one_thread) as pool:
        file = Path(folder) / "teacher.safetensors"
        pool.apply(plain.put_adapted, (file, space.resolution))
        cases = [(0, False), (0, True), (1, False)]
        asked = [(file, *case, where) for case in cases for where in space.cells]
        rated = dict(zip(asked, pool.map(losses, asked, chunksize=2), strict=True))
        far = pool.apply(differences, (file,))
    rows = []
    for block, shape in enumerate(space.blocks):
        whole, half, other = (
            np.concatenate([rated[file, *case, (block, c)] for c in range(len(shape.cells))])
            for case in cases
        )
        change = np.median(np.abs(half / whole - 1))
        taus = (f"{kendalltau(whole, part)[0]:.3f}" for part in (half, other))
        rows.append([block + 1, f"{far[block]:.4f}", f"{change:.2%}", *taus])
    return rows


def main() -> None:
    """Measure and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    plain.one_thread()
    speeds = [
        [size, *(f"{speed:.0f}" for speed in pictures_per_second(size))] for size in RESOLUTIONS
    ]
    header = ["resolution", *(f"batches of {batch}, pictures/s" for batch in BATCHES)]
    names = ["block", "features: difference over spread", "losses: median change"]
    names += ["Kendall, bfloat16 and float32", "Kendall, two seeds in float32"]
    used = ", ".join(
        str(len(next(windows.batches(np.zeros((256, size, size, 3), np.uint8)))))
        for size in RESOLUTIONS
    )
    text = (
        f"lite0 with all boundaries. Used at these resolutions: {used}.\n\n{table(header, speeds)}"
        "\n\nThe rating behind features in bfloat16, all else the same:\n\n"
        f"{table(names, agreement())}"
    )
    publish("teacher", "The teacher: batches, and bfloat16", text, write=arguments.write)


if __name__ == "__main__":
    main()
