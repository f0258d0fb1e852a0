"""Where the time of the embedded default goes: its stages in plain Python, with their top costs.

One thread, one process. Every stage runs once as it is, which is timed, and once under torch's
profiler, which makes many small kernels look slower than they are: of distilling an epoch of one
network of every cell, of the others all. What a kernel costs is the time spent in it alone, as a
share of what torch does. `--rows` keeps the rows in a file, which another version of this project
may show as its own `--before`.
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from dna_ray.config import job_from_tree, put, setting
from dna_ray.data import load_pictures
from dna_ray.network.members import Weights
from dna_ray.network.model import with_classes
from dna_ray.planning.plan import recipe
from dna_ray.retrain import PictureSet
from dna_ray.space import Where, load_space
from dna_ray.teacher import cut_teacher, load_teacher
from tests import plain
from tests.benchmarks.report import publish, table

TOP = 4


def profiled(
    name: str,
    parts: Sequence[Callable[[], Any]],
    rows: list[list[str]],
    sample: Sequence[Callable[[], Any]] = (),
) -> list[Any]:
    """Time the parts of a stage, profile them or a `sample` of them, and add a row on all."""
    start = time.perf_counter()
    results = [part() for part in parts]
    took, seconds = time.perf_counter() - start, 0.0
    costs, calls = Counter[str](), Counter[str]()
    for part in sample or parts:
        start = time.perf_counter()
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            part()
            seconds += time.perf_counter() - start
        for event in profiler.key_averages():
            costs[event.key] += event.self_cpu_time_total
            calls[event.key] += event.count
    total = sum(costs.values())
    top = [f"{key} {cost / total:.0%} ({calls[key]:,})" for key, cost in costs.most_common(TOP)]
    rows.append([name, f"{took:.1f}", f"{total / 1e6 / seconds:.0%}", ", ".join(top)])
    print(rows[-1], flush=True)
    return results


def main() -> None:
    """Profile all stages and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("settings", nargs="*", help="SECTION.KEY=VALUE")
    parser.add_argument("--rows", type=Path, help="where to keep the rows")
    parser.add_argument(
        "--before", type=Path, help="rows of an earlier version, which it is named after"
    )
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    plain.one_thread()
    tree: dict[str, Any] = {}
    for given in arguments.settings:
        put(tree, *setting(given))
    job, rows = job_from_tree(tree), list[list[str]]()
    space, pictures = load_space(job.space), load_pictures(job.data)
    (windows,) = profiled(
        "pictures", [lambda: plain.make_windows(pictures, job, space.resolution)], rows
    )
    start = with_classes(load_teacher(job.teacher), len(pictures.classes))
    data = PictureSet(windows.pictures["train"], windows.labels["train"], None)
    adapting = recipe(job, 1, job.adapt.learning_rate, job.adapt.weight_decay)
    (teacher,) = profiled(
        "adapt, a pass", [lambda: plain.train(start, data, adapting, (0, "adapt"))], rows
    )
    cut = cut_teacher(teacher, space.reductions, space.resolution)
    ((taught, held_out),) = profiled(
        "features", [lambda: plain.teach_cells(teacher, cut, windows, job)], rows
    )
    pixels = (teacher.spec.mean, teacher.spec.std)
    cells, task = list(plain.cells(space)), (space, cut, pixels, taught)
    short = replace(job, distill=replace(job.distill, epochs=1, members=1))
    weights = profiled(
        "distill",
        [partial(plain.weights, *task, job, where) for where in cells],
        rows,
        [partial(plain.weights, *task, short, where) for where in cells],
    )
    first = job.rate.recalibration

    def rate(where: Where, weights: Weights) -> list[float]:
        rows = slice(first, first + job.rate.images)
        data = plain.rating_set(held_out, where[0], first, rows)
        return plain.rate(space, cut, pixels, where, weights, data)

    trained = zip(cells, weights, strict=True)
    profiled("rate", [partial(rate, where, state) for where, state in trained], rows)
    if arguments.rows:
        arguments.rows.write_text(json.dumps(rows))
    show(rows, arguments.before, write=arguments.write)


def show(rows: list[list[str]], earlier: Path | None, *, write: bool) -> None:
    """Publish the rows, behind those of an earlier version where a file has them."""
    header = ("stage", "s", "in torch", f"its top {TOP} costs (calls)")
    text = table(header, rows)
    if earlier:
        before = table(header, json.loads(earlier.read_text()))
        text = f"Before ({earlier.stem}):\n\n{before}\n\nNow:\n\n{text}"
    title = f"Where the time goes (torch threads: {torch.get_num_threads()})"
    publish("stages", title, text, write=write)


if __name__ == "__main__":
    main()
