"""The complete space of Table 1 rated: every path of every cell, in two processes.

The cells are untrained, between boundaries as wide as those of EfficientNet-B7, on noise of a small
resolution. The parts are those of `dna-ray search`: one for every first op of every cell, the
longest first.
"""

import argparse
import multiprocessing
import os
import resource
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dna_ray.network.cell import build_cell
from dna_ray.planning.work import walk_macs
from dna_ray.rating import RatingSet, rate_cell
from dna_ray.space import Space, Where, load_space
from dna_ray.teacher import Cut
from tests.benchmarks.report import publish, table

RESOLUTION, PICTURES, RECALIBRATION, PROCESSES = 64, 48, 24, 2
# EfficientNet-B7 behind its first six stages.
CUT = Cut(
    modules=tuple(f"model.blocks.{stage}" for stage in range(1, 7)),
    widths=(48, 80, 160, 224, 384, 640),
    sizes=tuple(RESOLUTION // reduction for reduction in (4, 8, 16, 16, 32, 32)),
)


class Part(NamedTuple):
    """What became of the paths of a cell that begin with one op."""

    losses: list[float]
    seconds: float
    process: int
    megabytes: float  # the most that the process has held so far


def rate_part(where: Where, first: int) -> Part:
    """Rate in this process."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    (block, cell), space = where, load_space("mbconv6")
    torch.manual_seed(cell)
    pixels = ((0.5,) * 3, (0.5,) * 3)
    net = build_cell(space, block, cell, CUT.width_in(block), CUT.widths[block], *pixels)
    net.to(memory_format=torch.channels_last)
    torch.manual_seed(block)

    def feature(images: int, boundary: int) -> Tensor:
        if boundary == 0:
            noise = torch.randint(256, (images, 3, RESOLUTION, RESOLUTION), dtype=torch.uint8)
        else:
            side = CUT.sizes[boundary - 1]
            noise = torch.randn(images, CUT.widths[boundary - 1], side, side)
        return noise.contiguous(memory_format=torch.channels_last)

    data = RatingSet(
        feature(RECALIBRATION, block), feature(PICTURES, block), feature(PICTURES, block + 1)
    )
    ops = space.blocks[block].ops
    losses = list(rate_cell(net, ops, data, (ops[first],)).values())
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Part(losses, time.perf_counter() - start, os.getpid(), held)


def multiply_adds(space: Space, where: Where) -> list[float]:
    """Of one picture, by the first op."""
    return list(walk_macs(space, CUT, where, RESOLUTION).values())


def rows_of(space: Space, parts: dict[tuple[Where, int], Part]) -> list[Sequence[object]]:
    """One row for every cell."""
    rows: list[Sequence[object]] = []
    for where in space.cells:
        mine = [part for (place, _), part in parts.items() if place == where]
        losses = np.array([loss for part in mine for loss in part.losses])
        if len(losses) != space.blocks[where[0]].count(where[1]) or not np.isfinite(losses).all():
            raise ArithmeticError(f"cell {where} was not rated whole")
        cell, seconds = space.blocks[where[0]].cells[where[1]], sum(part.seconds for part in mine)
        macs = (PICTURES + RECALIBRATION) * sum(multiply_adds(space, where)) / 1e9
        rows.append(
            [
                where[0] + 1,
                cell.layers,
                cell.width,
                f"{len(losses):,}",
                f"{macs:.0f}",
                f"{seconds:.1f}",
                f"{macs / seconds:.1f}",
            ]
        )
    return rows


def main() -> None:
    """Rate and print what every cell took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    space = load_space("mbconv6")
    work = {
        (where, first): macs
        for where in space.cells
        for first, macs in enumerate(multiply_adds(space, where))
    }
    order = sorted(work, key=lambda part: -work[part])
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, mp_context=spawn) as pool:
        list(pool.map(time.sleep, [1.0] * PROCESSES))  # processes are started
        start = time.perf_counter()
        rated = dict(zip(order, pool.map(rate_part, *zip(*order, strict=True)), strict=True))
        wall = time.perf_counter() - start
    paths = sum(len(part.losses) for part in rated.values())
    busy = sum(part.seconds for part in rated.values())
    held = {part.process: 0.0 for part in rated.values()}
    for part in rated.values():
        held[part.process] = max(held[part.process], part.megabytes)
    header = ["block", "layers", "width", "paths", "G multiply-adds", "s", "G multiply-adds / s"]
    text = (
        f"All {paths:,} paths of `mbconv6` ({space.architectures:,} architectures) on {PICTURES} "
        f"pictures of {RESOLUTION} x {RESOLUTION} pixels, batch norm recalibrated on "
        f"{RECALIBRATION}: {wall:.0f} s in {PROCESSES} processes of one thread, {busy:.0f} s of "
        f"work; at most {max(held.values()):.0f} MB in a process, PyTorch's own included.\n\n"
    )
    publish(
        "table1",
        "The complete space of Table 1 rated",
        text + table(header, rows_of(space, rated)),
        write=arguments.write,
    )


if __name__ == "__main__":
    main()
