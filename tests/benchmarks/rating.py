"""Rating path by path, depth-first and stacked: the same answers, in how much time and memory.

Path by path is plain PyTorch: every path recalibrated and evaluated from its beginning, as in the
authors' release. Where a cell has more paths than are sampled, its time is that of the sample times
the paths. The walk also folds batch norm into convolutions, so it may save more than it shares.
"""

import argparse
import copy
import ctypes
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dna_ray.network.cell import CellNet, build_cell
from dna_ray.rating import CALLS, Calls, RatingSet, rate_cell, relative_l1
from dna_ray.space import Op, load_space
from dna_ray.space.costs import layer_costs, layers_of
from dna_ray.space.spaces import Block, Cell, Space
from tests.benchmarks.report import publish, table

# Cells of Table 1's third block between lite0's boundaries 2 and 3 at 64 pixels.
WIDTH_IN, WIDTH, WIDTH_OUT, SIDE = 40, 80, 112, 8
OPS = {
    4: tuple(Op(kernel, expansion) for expansion in (3, 6) for kernel in (3, 5)),
    6: tuple(Op(kernel, expansion) for expansion in (3, 6) for kernel in (3, 5, 7)),
}
PICTURES, RECALIBRATION, SAMPLE, REPEATS = 48, 16, 24, 3
DEPTH_FIRST = {kind: Calls(calls.chunk) for kind, calls in CALLS.items()}
STACKED = {"cpu": Calls(CALLS["cpu"].chunk, stack=8 * 2**20), "cuda": CALLS["cuda"]}


def a_space(layers: int, ops: tuple[Op, ...]) -> Space:
    """One block of one cell, in the manner of Table 1; a block before it, which is not built."""
    cell = Block(stride=2, ops=ops, cells=(Cell(layers=layers, width=WIDTH),))
    model = load_space("mbconv6")
    return Space(name="bench", resolution=64, trunk=model.trunk, blocks=(cell, cell))


def a_set(device: str) -> RatingSet:
    """Features that are noise."""

    def feature(images: int, width: int, side: int) -> Tensor:
        noise = torch.randn(images, width, side, side)
        return noise.to(device).contiguous(memory_format=torch.channels_last)

    half = SIDE // 2
    return RatingSet(
        feature(RECALIBRATION, WIDTH_IN, SIDE),
        feature(PICTURES, WIDTH_IN, SIDE),
        feature(PICTURES, WIDTH_OUT, half),
    )


@torch.inference_mode()
def path_by_path(net: CellNet, data: RatingSet, paths: Sequence[tuple[Op, ...]]) -> list[float]:
    """Plain PyTorch, one path after another."""
    net = copy.deepcopy(net)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    losses = []
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for path in paths:
            net.train()(data.recalibration, path)
            net.eval()
            chunks = [net(chunk, path) for chunk in data.inputs.split(64)]
            losses.append(relative_l1(chunks, data.targets))
    return losses


def multiply_adds(space: Space) -> tuple[float, float]:
    """Of one picture, all paths: shared, and path by path."""
    block = space.blocks[1]
    count, ops = block.cells[0].layers, len(block.ops)
    shared = single = 0.0
    for number, layer in enumerate(layers_of(count, WIDTH_IN, WIDTH, block.stride, SIDE)):
        place = layer._replace(width_out=WIDTH_OUT if number == count - 1 else WIDTH)
        macs = sum(layer_costs(op, *place, space.trunk.se_ratio).macs for op in block.ops)
        shared += macs * ops**number
        single += macs * ops ** (count - 1)
    return shared, single


def seconds(function: Callable[[], object], device: str) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_memory(function: Callable[[], object], device: str) -> float:
    """The most MB that a call held beyond what was held before it."""
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        function()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is resident now
    before = _status("VmRSS")
    function()
    return (_status("VmHWM") - before) / 1e6


def _status(name: str) -> int:
    """Bytes, from the kernel."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return 1024 * int(line.split()[1])
    raise KeyError(name)


def measure(layers: int, ops: tuple[Op, ...], device: str) -> list[object]:
    """A row of the table."""
    space, data = a_space(layers, ops), a_set(device)
    torch.manual_seed(0)
    net = build_cell(space, 1, 0, WIDTH_IN, WIDTH_OUT, (0.5,) * 3, (0.5,) * 3)
    net.to(device).to(memory_format=torch.channels_last)
    paths = list(space.blocks[1].paths(0))
    chosen = paths
    if len(paths) > SAMPLE:
        rng = np.random.default_rng(0)
        chosen = [paths[i] for i in sorted(rng.choice(len(paths), SAMPLE, replace=False))]
    results: dict[str, list[float]] = {}

    def plain() -> None:
        results["plain"] = path_by_path(net, data, chosen)

    def walk(name: str, calls: Calls) -> Callable[[], None]:
        def run() -> None:
            rated = rate_cell(net, ops, data, (), calls)
            results[name] = [rated[path] for path in chosen]

        return run

    ways = {
        "plain": plain,
        "depth-first": walk("depth-first", DEPTH_FIRST[device]),
        "stacked": walk("stacked", STACKED[device]),
    }
    memory = {name: peak_memory(way, device) for name, way in ways.items()}
    repeats = REPEATS if len(paths) < 1000 else 1
    times = {name: np.array([0.0] * repeats) for name in ways}
    for repeat in range(repeats):  # in turn, so that a busy machine disturbs all alike
        for name, way in ways.items():
            times[name][repeat] = seconds(way, device)
    took = {name: float(np.median(values)) for name, values in times.items()}
    took["plain"] *= len(paths) / len(chosen)
    truth = np.array(results["plain"])
    off = max(np.abs(np.array(results[n]) / truth - 1).max() for n in ("depth-first", "stacked"))
    shared, single = multiply_adds(space)
    ratio = took["plain"] / took["depth-first"]
    pictures = PICTURES + RECALIBRATION
    row = [
        layers,
        len(ops),
        len(paths),
        *[f"{took[name]:.2f}" for name in ways],
        f"{pictures * single / 1e9:.1f}",
        f"{pictures * shared / 1e9:.1f}",
        *[f"{memory[name]:.0f}" for name in ("plain", "depth-first", "stacked")],
        f"{off:.0e}",
        f"{ratio:.2f}",
        f"{single / shared:.2f}",
        f"{ratio / (single / shared):.2f}",
    ]
    print(row, flush=True)
    return row


def card(device: str) -> str:
    """A sentence on the GPU that measures, where one does."""
    return f"{torch.cuda.get_device_name(device)}. " if device == "cuda" else ""


def main() -> None:
    """Measure all in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=CALLS, default="cpu")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    device = arguments.device
    torch.set_num_threads(1)
    rows = [measure(layers, ops, device) for ops in OPS.values() for layers in (2, 3, 4, 5)]
    header = ["layers", "ops", "paths"]
    header += ["path by path, s", "depth-first, s", "stacked, s"]
    header += ["path by path, G multiply-adds", "shared, G"]
    header += ["path by path, MB", "depth-first, MB", "stacked, MB", "largest relative difference"]
    header += ["path by path / depth-first", "multiply-add ratio"]
    header += ["the one over the other"]
    text = (
        f"{card(device)}{PICTURES} pictures rate and {RECALIBRATION} recalibrate a cell of "
        f"Table 1's third block ({WIDTH_IN} to {WIDTH_OUT} channels by way of {WIDTH}, {SIDE} x "
        f"{SIDE} pixels); one thread. Of more than {SAMPLE} paths, {SAMPLE} are rated path by "
        "path and the time is extrapolated; the differences are those of these. MB are beyond "
        f"what was held before. Stacks have {STACKED[device].stack >> 20} MiB; the default on a "
        "processor is depth-first, on a GPU stacked.\n\n"
    )
    name = "rating" if device == "cpu" else f"rating --device {device}"
    title = f"Rating path by path, depth-first and stacked ({device})"
    publish(name, title, text + table(header, rows), write=arguments.write)


if __name__ == "__main__":
    main()
