"""What a GPU makes of the teacher, of cells in training and of rating, and what it could.

Pictures of 224 pixels that are noise, and cells of `mbconv6` between EfficientNet-B7's boundaries,
as in the recipe for ImageNet. Shares are of what the card itself reaches in the same run, when it
copies 2 GiB within its memory, or multiplies two matrices of 8,192 x 8,192 in bfloat16. The bytes
of a network are what its layers read and write, each on its own; training counts them three times,
forward and for both gradients. One thread; medians. Every part is a section of its own.
"""

import argparse
import copy
import multiprocessing
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from dna_ray import teacher as teacher_module
from dna_ray.config import Distill
from dna_ray.data.windows import minibatch, staged
from dna_ray.distill import CellTrainer, PathSampler
from dna_ray.network.cell import CellNet, build_cell
from dna_ray.network.model import TimmSpec, build_model, trained
from dna_ray.network.precision import autocast
from dna_ray.rating import CALLS, Calls, RatingSet, rate_cell
from dna_ray.space import Op, load_space
from dna_ray.teacher import Cut, Teacher, cut_teacher, teach
from tests.benchmarks.rating import path_by_path, peak_memory
from tests.benchmarks.report import publish, table

Array = np.ndarray
Rows = list[list[object]]

# EfficientNet-B7 at 224 pixels, cut for mbconv6.
CUT = Cut(
    modules=tuple(f"blocks.{index}" for index in range(1, 7)),
    widths=(48, 80, 160, 224, 384, 640),
    sizes=(56, 28, 14, 14, 7, 7),
)
PIXELS = ((0.5,) * 3, (0.5,) * 3)
RESOLUTION, WINDOW, BATCH, SHARDS, CELL = 224, 1024, 512, 16, 1
BLOCKS = (1, 3)
OPS = load_space("mbconv6").blocks[0].ops
COUNTED = 16  # pictures whose work is counted
RECIPE = Distill(batch=BATCH, paths_per_minibatch=1)
DEVICE = "cuda"


class Ceilings(NamedTuple):
    """Bytes and floating-point operations a second."""

    bandwidth: float
    peak: float


def seconds(run: Callable[[], object], repeats: int = 3) -> float:
    """Of a call with all that it started; the first one does not count."""
    times = []
    for _ in range(1 + repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))


def ceilings() -> Ceilings:
    """Of this card."""
    size = 8192
    a, b = (torch.randn(size, size, device=DEVICE, dtype=torch.bfloat16) for _ in "ab")
    source = torch.randint(256, (2**31,), dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    return Ceilings(
        bandwidth=2 * len(source) / seconds(lambda: target.copy_(source), 10),
        peak=2 * size**3 / seconds(lambda: a @ b, 10),
    )


class Work:
    """Bytes that the layers of a network read and write, and its multiply-adds, while it runs."""

    def __init__(self, net: nn.Module) -> None:
        self.bytes = self.macs = 0
        leaves = [module for module in net.modules() if not list(module.children())]
        self._hooks = [leaf.register_forward_hook(self._count) for leaf in leaves]

    def _count(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.bytes += output.nbytes + sum(x.nbytes for x in inputs if isinstance(x, Tensor))
        if isinstance(module, nn.Conv2d | nn.Linear):
            self.macs += output.numel() * module.weight[0].numel()

    def close(self) -> None:
        """Count no more."""
        for hook in self._hooks:
            hook.remove()


def noise(shape: tuple[int, ...], seed: int) -> Array:
    """A few pictures or features, again and again along the first axis; pixels where 3 channels."""
    rng, few = np.random.default_rng(seed), min(16, shape[0])
    if shape[-1] == 3:
        some: Array = rng.integers(256, size=(few, *shape[1:]), dtype=np.uint8)
    else:
        some = rng.standard_normal((few, *shape[1:]), dtype=np.float32)
    return np.tile(some, (shape[0] // few, 1, 1, 1))


def boundary(number: int, images: int) -> Array:
    """One of the teacher's, (N, H, W, C)."""
    side, width = (CUT.sizes[number - 1], CUT.widths[number - 1]) if number else (RESOLUTION, 3)
    return noise((images, side, side, width), number)


# The teacher


def teachers(card: Ceilings) -> Rows:
    """A row for a network, a resolution and a number of pictures at a time."""
    return [
        *of_teacher("tf_efficientnet_b7", 224, card),
        *of_teacher("tf_efficientnet_lite0", 64, card),
    ]


def of_teacher(name: str, side: int, card: Ceilings) -> Rows:
    """Of one network."""
    torch.manual_seed(0)
    spec = TimmSpec(name=name, classes=1000, mean=(0.5,) * 3, std=(0.5,) * 3)
    module = build_model(spec)
    model = trained(spec, module)
    space = load_space("mbconv6" if side == RESOLUTION else "demo")
    cut = cut_teacher(model, space.reductions, side)
    pictures = noise((WINDOW, side, side, 3), 0)
    half = Teacher(model, cut, DEVICE)
    with patch.object(teacher_module, "autocast", lambda _: nullcontext()):
        whole = Teacher(model, cut, DEVICE)
    work = Work(module.to(DEVICE).eval())
    with torch.inference_mode(), autocast(DEVICE):
        module(minibatch(pictures, np.arange(COUNTED), DEVICE))
    work.close()
    features = sum(part[0].nbytes for part in teach(half, pictures)[0])
    copied = WINDOW / seconds(lambda: teach(half, pictures), 2)
    rows: Rows = []
    for batch in (64, 256, WINDOW):
        x = minibatch(pictures, np.arange(batch), DEVICE)
        speeds = [batch / seconds(partial(network, x)) for network in (whole, half)]
        rows.append(
            [
                name,
                side,
                batch,
                *(f"{speed:,.0f}" for speed in speeds),
                f"{2 * work.macs / COUNTED * speeds[1] / card.peak:.1%}",
                f"{work.bytes / COUNTED * speeds[1] / card.bandwidth:.1%}",
                f"{copied:,.0f}" if batch == WINDOW else "",
                f"{features / 1e6:.2f}",
            ]
        )
        print(rows[-1], flush=True)
    return rows


TEACHERS = (
    *("network", "pixels on a side", "pictures at a time"),
    *("float32 with TF32, pictures/s", "bfloat16, pictures/s", "of the peak", "of the bandwidth"),
    *("bfloat16, features copied out, pictures/s", "MB of features a picture"),
)


# Cells in training


class Bare:
    """What anybody would write down, its data on the card."""

    def __init__(
        self, net: CellNet, data: Sequence[Tensor], batch: int, *, half: bool = True
    ) -> None:
        self.net, self.batch = copy.deepcopy(net), batch
        self.x, self.y = data
        self.precision = autocast(DEVICE) if half else nullcontext()
        self.adam = torch.optim.Adam(self.net.parameters(), lr=0.005, weight_decay=1e-4, fused=True)
        self.paths = paths_of(net)
        self.step = 0

    def __call__(self) -> None:
        """A window."""
        for x, y in zip(self.x.split(self.batch), self.y.split(self.batch), strict=True):
            self.adam.zero_grad()
            with self.precision:
                features = self.net(x, next(self.paths))
            F.mse_loss(features.float(), y).backward()
            self.adam.step()


def paths_of(net: CellNet) -> Any:
    """Those that a loop trains, drawn before."""
    sampler = PathSampler(OPS, len(net.layers), "fair", 0, "bare")
    return iter([sampler.path(step) for step in range(10_000)])


def graphed(bare: Bare) -> Bare:
    """With every op as a CUDA graph forward and another backward."""
    bare.precision = torch.autocast(DEVICE, torch.bfloat16, cache_enabled=False)
    with bare.precision:
        x = bare.net.stem(bare.x[: bare.batch]).detach()
        for number, layer in enumerate(bare.net.layers):
            for op in layer.values():
                sample = x.clone().requires_grad_(number > 0)
                torch.cuda.make_graphed_callables(op, (sample,))
            x = op(sample).detach()
    return bare


def steps(card: Ceilings) -> Rows:
    """A row for every block and size of a minibatch."""
    rows = []
    for block in BLOCKS:
        arrays = boundary(block, WINDOW), boundary(block + 1, WINDOW)
        there = [staged(each, DEVICE) for each in arrays]
        for batch, images in ((BATCH // SHARDS, WINDOW // 2), (BATCH, WINDOW)):
            parts = [each[:images] for each in arrays], [each[:images] for each in there]
            rows.append(of_cell(block, batch, *parts, card))
            print(rows[-1], flush=True)
            torch.cuda.empty_cache()
    return rows


def of_cell(
    block: int, batch: int, arrays: Sequence[Array], there: Sequence[Tensor], card: Ceilings
) -> list[object]:
    """Of one cell and size."""
    space, recipe, count = (
        load_space("mbconv6"),
        replace(RECIPE, batch=batch),
        len(there[0]) // batch,
    )

    def trainer(**changes: int) -> CellTrainer:
        where = block, CELL
        return CellTrainer(space, CUT, PIXELS, replace(recipe, **changes), where, (0, 1), DEVICE)

    one, two = trainer(), trainer(paths_per_minibatch=2)
    data = [each.permute(0, 3, 1, 2) for each in there]
    work, paths = Work(one.net), paths_of(one.net)
    with torch.no_grad(), autocast(DEVICE):
        for _ in range(len(OPS)):
            one.net(data[0][:COUNTED], next(paths))
    work.close()
    ways: dict[str, Callable[[], object]] = {
        "bare": Bare(one.net, data, batch),
        "ours": lambda: one.train_window(0, *there),
        "arrays": lambda: one.train_window(0, *arrays),
        "two": lambda: two.train_window(0, *there),
        "float32": Bare(one.net, data, batch, half=False),
    }
    if batch == BATCH:
        sharded = trainer(shards=SHARDS)
        ways["sharded"] = lambda: sharded.train_window(0, *there)
    else:
        ways["graphs"] = graphed(Bare(one.net, data, batch))
    ms = {}
    for name, way in ways.items():
        for _ in range(-(-len(OPS) // count)):  # a round: every kernel is chosen by then
            way()
        ms[name] = 1e3 * seconds(way) / count
    speed, counted = 1e3 * batch / ms["ours"], COUNTED * len(OPS)
    return [
        block + 1,
        batch,
        *(f"{ms[name]:.2f}" if name in ms else "" for name in STEPS_IN_MS),
        f"{ms['ours'] / ms['bare']:.3f}",
        f"{ms['two'] / ms['ours'] / 2:.2f}",
        f"{speed:,.0f}",
        f"{3 * work.bytes / counted * speed / card.bandwidth:.1%}",
        f"{6 * work.macs / counted * speed / card.peak:.1%}",
    ]


STEPS_IN_MS = {
    "bare": "bare loop, ms",
    "ours": "CellTrainer, window on the card, ms",
    "arrays": "CellTrainer, window in memory, ms",
    "two": "two paths, ms",
    "float32": "bare, float32 with TF32, ms",
    "sharded": "in 16 shards, ms",
    "graphs": "bare, ops as CUDA graphs, ms",
}
STEPS = (
    *("block", "minibatch", *STEPS_IN_MS.values(), "CellTrainer / bare"),
    *("two paths a minibatch / two minibatches", "pictures/s", "of the bandwidth", "of the peak"),
)


# Processes that share a card


def shared(card: Ceilings) -> Rows:
    """A row for every number of processes, each with a cell of its own."""
    rows: Rows = []
    spawn = multiprocessing.get_context("spawn")
    for batch in (BATCH // SHARDS, BATCH):
        for count in (1, 2, 4):
            with spawn.Manager() as manager, spawn.Pool(count) as pool:
                asked = [(batch, manager.Barrier(count))] * count
                rows.append([batch, count, f"{sum(pool.map(_speed, asked, chunksize=1)):,.0f}"])
            print(rows[-1], flush=True)
    return rows


def _speed(asked: tuple[int, Any]) -> float:
    """Pictures a second of one process while all are at work."""
    batch, barrier = asked
    torch.set_num_threads(1)
    space, recipe = load_space("mbconv6"), replace(RECIPE, batch=batch)
    cell = CellTrainer(space, CUT, PIXELS, recipe, (3, CELL), (0, 1), DEVICE)
    window = [staged(boundary(number, WINDOW), DEVICE) for number in (3, 4)]
    cell.train_window(0, *window)
    barrier.wait()
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < 3:
        cell.train_window(0, *window)
        done += WINDOW
    return done / (time.perf_counter() - start)


# Rating


def rates(card: Ceilings) -> Rows:
    """A row for every way to rate a part of a cell."""
    return [*of_walk(2, 1), *of_walk(4, 0)]


def walked(rated: dict[Any, float], net: CellNet, data: RatingSet, op: Op, calls: Calls) -> None:
    """Rate all paths that begin with an op."""
    rated.update(rate_cell(net, OPS, data, (op,), calls))


def of_walk(block: int, cell: int) -> Rows:
    """Below one first op of one cell."""
    space = load_space("mbconv6")
    torch.manual_seed(0)
    net = build_cell(space, block, cell, CUT.widths[block - 1], CUT.widths[block], *PIXELS)
    net.to(DEVICE).to(memory_format=torch.channels_last)
    inputs, targets = (
        minibatch(boundary(number, 2 * WINDOW), np.arange(2 * WINDOW), DEVICE)
        for number in (block, block + 1)
    )
    first = WINDOW // 2
    data, last = RatingSet(inputs[:first], inputs[first:], targets[first:]), OPS[-1]
    paths = [path for path in space.blocks[block].paths(cell) if path[0] == last]
    some = paths[:: max(1, len(paths) // 6)]
    single = seconds(lambda: path_by_path(net, data, some), 1) / len(some) * len(paths)
    truth = np.array(path_by_path(net, data, some))
    rows: Rows = [[block + 1, cell, len(paths), "path by path", f"{single:.2f}", "", ""]]
    for name, stack in (("depth-first", 0), ("stacks", CALLS[DEVICE].stack), ("1 GiB", 2**30)):
        rated: dict[Any, float] = {}
        calls = Calls(CALLS[DEVICE].chunk, stack)
        walk = partial(walked, rated, net, data, last, calls)
        memory = peak_memory(walk, DEVICE) / 1e3
        off = np.abs(np.array([rated[path] for path in some]) / truth - 1).max()
        took = f"{seconds(walk, 1):.2f}"
        rows.append([block + 1, cell, len(paths), name, took, f"{memory:.1f}", f"{off:.0e}"])
        print(rows[-1], flush=True)
    return rows


RATES = (
    *("block", "cell", "paths below one first op", "way", "s", "GB"),
    "largest relative difference to path by path",
)

PARTS: dict[str, tuple[str, str, Sequence[str], Callable[[Ceilings], Rows]]] = {
    "teacher": (
        "The teacher on a GPU",
        f"With all boundaries; a window of {WINDOW:,} pictures is copied out.",
        TEACHERS,
        teachers,
    ),
    "step": (
        "Training steps of cells on a GPU",
        f"Cell {CELL} of each block. A bare loop computes in bfloat16, its data on the card.",
        STEPS,
        steps,
    ),
    "shared": (
        "Processes that share a GPU",
        f"Each trains cell {CELL} of block 4, one path a minibatch.",
        ("minibatch", "processes", "pictures/s, all together"),
        shared,
    ),
    "rate": (
        "Rating on a GPU",
        "1,536 pictures rate and 512 recalibrate a cell below one of its first ops. Path by path "
        "is extrapolated from six paths or so.",
        RATES,
        rates,
    ),
}


def main() -> None:
    """Measure the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    card = ceilings()
    for part in arguments.parts:
        title, text, header, measure = PARTS[part]
        reached = (
            f"{torch.cuda.get_device_name()}, which copies {card.bandwidth / 1e12:.2f} TB/s and "
            f"multiplies {card.peak / 1e12:.0f} TFLOP/s. "
        )
        text = f"{reached}{text}\n\n{table(header, measure(card))}"
        publish(f"gpu {part}", title, text, write=arguments.write)


if __name__ == "__main__":
    main()
