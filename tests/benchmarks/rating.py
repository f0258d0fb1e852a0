"""The shared walk of Algorithm 1 against rating path by path: the same answers, in less time."""

import argparse
import time
from collections.abc import Callable
from itertools import product

import numpy as np
import torch

from dna_ray.network.cell import CellNet, build_cell
from dna_ray.rating import RatingSet, _recalibrating, _through, rate_cell, relative_l1
from dna_ray.space import Op, load_space
from dna_ray.space.costs import halved, layer_costs
from tests.benchmarks.report import publish, table

# Block (0-based) and cell of the demo space; widths and sizes of lite0's boundaries at 64 pixels.
CASES = ((1, 0), (1, 1), (2, 1), (3, 1))
WIDTHS, SIZES = (3, 24, 40, 112, 320), (32, 16, 8, 4, 2)
IMAGES, RECALIBRATION, REPEATS = 320, 64, 3


@torch.inference_mode()
def path_by_path(net: CellNet, ops: tuple[Op, ...], data: RatingSet) -> list[float]:
    """Every path from the picture on: what the walk saves."""
    losses = []
    with _recalibrating(net):
        for path in product(ops, repeat=len(net.layers)):
            recalibration, chunks = data.recalibration, data.inputs.split(64)
            for layer, op in enumerate(path):
                recalibration, chunks = _through(net.op(layer, op), recalibration, chunks)
            losses.append(relative_l1(chunks, data.targets))
    return losses


def multiply_adds(block: int, cell: int) -> tuple[float, float]:
    """Multiply-adds of one picture in the walk and path by path."""
    space = load_space("demo")
    ops, layers = space.blocks[block].ops, space.blocks[block].cells[cell].layers
    walk = single = 0.0
    for layer in range(layers):
        width_in = WIDTHS[block] if layer == 0 else space.blocks[block].cells[cell].width
        out = WIDTHS[block + 1] if layer == layers - 1 else space.blocks[block].cells[cell].width
        size, stride = (SIZES[block], 2) if layer == 0 else (halved(SIZES[block], 2), 1)
        macs = sum(layer_costs(op, width_in, out, stride, size, 0.0).macs for op in ops)
        walk += macs * len(ops) ** layer
        single += macs * len(ops) ** (layers - 1)
    return walk, single


def seconds(function: Callable[..., object], *arguments: object) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def main() -> None:
    """Measure both in turn and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    space = load_space("demo")
    rows = []
    for block, cell in CASES:
        torch.manual_seed(block)
        net = build_cell(
            space, block, cell, WIDTHS[block], WIDTHS[block + 1], (0.5,) * 3, (0.5,) * 3
        )
        net.to(memory_format=torch.channels_last)

        def feature(images: int, block: int = block) -> torch.Tensor:
            x = torch.randn(images, WIDTHS[block], SIZES[block], SIZES[block])
            return x.contiguous(memory_format=torch.channels_last)

        target = torch.randn(IMAGES, WIDTHS[block + 1], SIZES[block + 1], SIZES[block + 1])
        data = RatingSet(feature(RECALIBRATION), feature(IMAGES), target)
        ops = space.blocks[block].ops
        walk, single = list(rate_cell(net, ops, data).values()), path_by_path(net, ops, data)
        difference = float(np.max(np.abs(np.array(walk) / np.array(single) - 1)))
        times = [
            (seconds(path_by_path, net, ops, data), seconds(rate_cell, net, ops, data))
            for _ in range(REPEATS)
        ]
        wall = float(np.median([slow / fast for slow, fast in times]))
        macs_walk, macs_single = multiply_adds(block, cell)
        macs = macs_single / macs_walk
        fast = np.median([fast for _, fast in times])
        numbers = (f"{difference:.1e}", f"{fast:.2f}", f"{wall:.2f}", f"{macs:.2f}")
        layers = space.blocks[block].cells[cell].layers
        rows.append([block + 1, layers, len(walk), *numbers, f"{wall / macs:.2f}"])
    header = ["block", "layers", "paths", "largest relative difference", "walk, s"]
    header += ["wall ratio", "multiply-add ratio", "wall / multiply-adds"]
    publish(
        "rating", "Shared walk against path by path", table(header, rows), write=arguments.write
    )


if __name__ == "__main__":
    main()
