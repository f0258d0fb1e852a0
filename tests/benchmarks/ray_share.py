"""Ray's share of generation 1: the whole command against its stages called in plain Python.

Plain Python runs the same functions one after another in one process. It is timed with one torch
thread, as every worker of the search has, and with two, as one would use two processors without
Ray. `share` is how much of the command's wall time plain Python with two threads would save;
`against perfect use` takes for granted that two processors do the one-thread work in half the time,
which no program reaches.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from dna_ray.config import Job
from dna_ray.data import load_pictures
from dna_ray.network.model import build_model, trained
from dna_ray.planning.plan import default_limits, recipe
from dna_ray.randomness import generator, key
from dna_ray.retrain import PictureSet, label_metrics, logits_of, soft_labels
from dna_ray.search import ratings_of, select
from dna_ray.space import cost_table, load_space, network_spec
from dna_ray.teacher import cut_teacher
from tests import plain
from tests.benchmarks.report import publish, table

COMMAND = Path(sys.executable).with_name("dna-ray")


def generation(threads: int) -> float:
    """Seconds of generation 1 in this process."""
    torch.set_num_threads(threads)
    start = time.perf_counter()
    job, space, pictures = Job(), load_space("demo"), load_pictures("solar")
    resolution = space.resolution
    windows = plain.make_windows(pictures, job, resolution)
    train, labels = windows.pictures["train"], windows.labels["train"]

    teacher = plain.adapt(job, PictureSet(train, labels, None), 2)
    cut = cut_teacher(teacher, space.reductions, resolution)
    pixels = (teacher.spec.mean, teacher.spec.std)
    count = -(-job.features.images // job.features.window)
    taught = plain.teach_windows(teacher, cut, train[:count])
    held_out = plain.teach_windows(teacher, cut, windows.pictures["rating"])
    known = [logits for _, logits in taught]
    soft = soft_labels(np.concatenate([*known, logits_of(teacher.build(), train[count:])]))
    losses: list[list[np.ndarray]] = [[] for _ in space.blocks]
    for where in plain.cells(space):
        weights = plain.weights(space, cut, pixels, [f for f, _ in taught], job, where)
        first = job.rate.recalibration
        data = plain.rating_set(
            [f for f, _ in held_out], where[0], first, slice(first, first + job.rate.images)
        )
        losses[where[0]].append(np.array(plain.rate(space, cut, pixels, where, weights, data)))
    costs = cost_table(space, resolution, 2)
    best = select(ratings_of(space, costs, losses, {}), default_limits(space, costs))
    torch.manual_seed(key(0, "found"))
    spec = network_spec(space, best.architecture, 2)
    fresh = trained(spec, build_model(spec))
    data = PictureSet(train, labels, soft)
    part = -(-job.tune.images // job.features.window)
    some = PictureSet(
        train[:part], labels[: sum(map(len, train[:part]))], soft[: sum(map(len, train[:part]))]
    )
    rng = generator(0, "tune")
    for _ in range(job.tune.trials):
        rate = float(np.exp(rng.uniform(*np.log(job.tune.learning_rate))))
        trial = plain.train(fresh, some, recipe(job, job.tune.passes, rate, 0.01), (0, "tune"))
        logits_of(trial.build(), windows.pictures["rating"])
    found = plain.train(fresh, data, recipe(job, job.retrain.passes, 0.003, 0.01), (0, "retrain"))
    for model in (teacher, found):
        label_metrics(logits_of(model.build(), windows.pictures["test"]), windows.labels["test"])
    return time.perf_counter() - start


def command() -> float:
    """Seconds of `dna-ray search` with one generation, start-up and all."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        subprocess.run(
            [COMMAND, "search", "--out", f"{folder}/run"], check=True, stderr=subprocess.DEVNULL
        )
        return time.perf_counter() - start


def main() -> None:
    """Measure all three, one after another."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    two, whole, one = generation(2), command(), generation(1)
    rows = [
        ["`dna-ray search`, two workers", f"{whole:.1f}"],
        ["plain Python, two threads", f"{two:.1f}"],
        ["plain Python, one thread", f"{one:.1f}"],
        ["share", f"{100 * (1 - two / whole):.0f} %"],
        ["against perfect use of two processors", f"{100 * (1 - one / 2 / whole):.0f} %"],
    ]
    publish(
        "ray_share", "Ray's share of generation 1", table(["", "s"], rows), write=arguments.write
    )


if __name__ == "__main__":
    main()
