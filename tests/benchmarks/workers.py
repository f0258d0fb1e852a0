"""Distilling and rating the demo space with two workers against one, in turn, on one machine.

`stage` is the whole stage as `dna-ray search` counts it, the start of its processes included;
`work` the time from the first finished step to the last. In that time the workers, which are the
processes that compute most, have so much of a processor each: the rest is Ray's own processes, and
waiting. The answers must be equal, to the last bit.

What else runs on the machine's host only ever adds time, and not to all runs alike: so beside every
run stand the median of the ratios and, of all runs, the ratio of the shortest times.
"""

import argparse
import tempfile
import time
from collections import defaultdict
from contextlib import suppress
from statistics import median

import numpy as np
import psutil

from dna_ray.config import Job
from dna_ray.data import load_pictures
from dna_ray.driver import Driver
from dna_ray.planning.calibration import cell_macs
from dna_ray.planning.placement import plan_ranks
from dna_ray.planning.plan import make_plan
from dna_ray.progress import Silent
from dna_ray.remote.distill import distill
from dna_ray.remote.features import TeacherTasks
from dna_ray.remote.rating import rate
from dna_ray.remote.session import session
from dna_ray.remote.windows import Held
from dna_ray.rundir import RunFolder
from dna_ray.space import load_space
from dna_ray.teacher import cut_teacher, load_teacher
from tests.benchmarks.report import publish, table

ONE = {"num_cpus": 1.0}


def used() -> dict[int, float]:
    """Seconds of processors that every process below this one has had, by its number."""
    seconds = {}
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            seconds[process.pid] = times.user + times.system
    return seconds


class Stopwatch(Silent):
    """Measures from the first finished step of a stage to the last."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._done = self._total = 0

    def stage(self, title: str, total: int, unit: str) -> None:
        self._done, self._total = 0, total

    def advance(self, steps: int, detail: str = "") -> None:
        if self._done == 0:
            self._start, self._used = time.perf_counter(), used()
        self._done += steps
        if self._done >= self._total:
            self.seconds = time.perf_counter() - self._start
            had = sorted(now - self._used.get(pid, 0.0) for pid, now in used().items())
            self.share = sum(had[-self._workers :]) / self._workers / self.seconds


def measure(workers: int) -> tuple[dict[str, tuple[float, str]], list[list[np.ndarray]]]:
    """Seconds of distilling and of rating with so many workers, their processors; the losses."""
    watch = Stopwatch(workers)
    job, space, pictures = Job(), load_space("demo"), load_pictures("solar")
    teacher = load_teacher("lite0")
    cut = cut_teacher(teacher, space.reductions, space.resolution)
    pixels = (teacher.spec.mean, teacher.spec.std)
    with session(watch, workers=workers) as ray_session, tempfile.TemporaryDirectory() as folder:
        plan = make_plan(job, space, pictures, teacher)
        driver = Driver(ray_session, RunFolder.create(f"{folder}/run", "", 0), plan)
        tasks = TeacherTasks(ray_session, teacher, cut)
        train = tasks.teach_all(driver.held("train", job.features.images), ONE)
        held_out = tasks.teach_all(driver.held("rating"), ONE)
        work = cell_macs(space, cut, space.resolution)
        share = driver.share(len(work))
        start = time.perf_counter()
        cells = distill(
            ray_session,
            space,
            cut,
            pixels,
            Held(train),
            len(train),
            job.distill,
            plan_ranks(work, share.ranks),
            share,
            (0, 1),
            driver.storage,
        ).weights
        figures = {
            "distill, stage": (time.perf_counter() - start, ""),
            "distill, work": (watch.seconds, f"{watch.share:.0%}"),
        }
        start = time.perf_counter()
        losses = rate(
            ray_session, space, cut, pixels, cells, held_out, job.rate, space.resolution, ONE
        )
        figures |= {
            "rate, stage": (time.perf_counter() - start, ""),
            "rate, work": (watch.seconds, f"{watch.share:.0%}"),
        }
        return figures, losses


def _ratio(one: float, two: float) -> tuple[str, str, str]:
    return f"{one:.1f}", f"{two:.1f}", f"{one / two:.2f}"


def main() -> None:
    """Measure one and two workers in turn, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    rows: list[list[object]] = []
    runs: defaultdict[str, list[tuple[float, ...]]] = defaultdict(list)  # the seconds of each
    for repeat in range(1, arguments.repeats + 1):
        one, two = measure(1), measure(2)
        same = all(
            np.array_equal(a, b)
            for block_a, block_b in zip(one[1], two[1], strict=True)
            for a, b in zip(block_a, block_b, strict=True)
        )
        for name in one[0]:
            seconds, shares = zip(one[0][name], two[0][name], strict=True)
            runs[name].append(seconds)
            rows.append([repeat, name, *_ratio(*seconds), *shares, "yes" if same else "NO"])
            print(rows[-1], flush=True)
    for name, measured in runs.items():
        middle = median(one / two for one, two in measured)
        rows.append(["median", name, "", "", f"{middle:.2f}", "", "", ""])
    for name, measured in runs.items():
        shortest = [min(column) for column in zip(*measured, strict=True)]
        rows.append(["shortest", name, *_ratio(*shortest), "", "", ""])
    header = ["run", "", "one worker, s", "two workers, s", "ratio"]
    header += ["processor of one worker", "of each of two", "same ratings"]
    publish("workers", "Two workers against one", table(header, rows), write=arguments.write)


if __name__ == "__main__":
    main()
