"""What a GPU makes of the teacher, of cells in training and of rating, and what it could.

Pictures of 224 pixels that are noise, and cells of `mbconv6` between EfficientNet-B7's boundaries,
as in the recipe for ImageNet. Shares are of what the card itself reaches in the same run, when it
copies 2 GiB within its memory, or multiplies two matrices of 8,192 x 8,192, in bfloat16 or, for
rating, in float32. The bytes of a network are what its layers read and write, each on its own;
training counts them three times, forward and for both gradients. One thread; medians. Every part is
a section of its own.
"""

import argparse
import copy
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import repeat
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from dna_ray import teacher as teacher_module
from dna_ray.config import Distill
from dna_ray.data.windows import minibatch, staged
from dna_ray.distill import CellTrainer
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
Paths = Iterator[tuple[Op, ...]]

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
TURNS = 11  # of all ways to train, one after another
COMPILED = Op(5, 6)  # the op of every layer where compiling is tried
RECIPE = Distill(batch=BATCH, paths_per_minibatch=1)
DEVICE = "cuda"


class Ceilings(NamedTuple):
    """Bytes and floating-point operations a second."""

    bandwidth: float
    peak: float  # in bfloat16
    exact: float  # in float32


def once(run: Callable[[], object]) -> float:
    """Seconds of a call with all that it started."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def seconds(run: Callable[[], object], repeats: int = 3) -> float:
    """The median of several calls; the first one does not count."""
    return float(np.median([once(run) for _ in range(1 + repeats)][1:]))


def ceilings() -> Ceilings:
    """Of this card."""
    size = 8192
    a, b = (torch.randn(size, size, device=DEVICE) for _ in "ab")
    c, d = a.bfloat16(), b.bfloat16()
    source = torch.randint(256, (2**31,), dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    return Ceilings(
        bandwidth=2 * len(source) / seconds(lambda: target.copy_(source), 10),
        peak=2 * size**3 / seconds(lambda: c @ d, 10),
        exact=2 * size**3 / seconds(lambda: a @ b),
    )


class Amount(NamedTuple):
    """Of work: bytes that are read and written, and multiply-adds."""

    bytes: float
    macs: float


class Work:
    """Bytes that the layers of a network read and write, and its multiply-adds, while it runs."""

    def __init__(self, net: nn.Module) -> None:
        self.bytes = self.macs = 0
        layers = [
            module
            for module in net.modules()
            if (isinstance(module, nn.BatchNorm2d) or not list(module.children()))
            and not isinstance(module, nn.Identity)
        ]
        self._hooks = [layer.register_forward_hook(self._count) for layer in layers]

    def _count(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.bytes += output.nbytes + sum(x.nbytes for x in inputs if isinstance(x, Tensor))
        if isinstance(module, nn.Conv2d | nn.Linear):
            self.macs += output.numel() * module.weight[0].numel()

    def of(self, module: nn.Module, x: Tensor, *args: Any) -> tuple[Tensor, Amount]:
        """What a part of it makes of some pictures, and the work of one of them."""
        self.bytes = self.macs = 0
        with torch.no_grad():
            y = module(x, *args)
        return y, Amount(self.bytes / len(x), self.macs / len(x))

    def close(self) -> None:
        """Count no more."""
        for hook in self._hooks:
            hook.remove()


def shares(work: Amount, speed: float, bandwidth: float, peak: float) -> list[str]:
    """What so many pictures a second take of the card: of its bandwidth, and of its peak."""
    return [f"{work.bytes * speed / bandwidth:.1%}", f"{2 * work.macs * speed / peak:.1%}"]


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
    with autocast(DEVICE):
        _, one = work.of(module, minibatch(pictures, np.arange(COUNTED), DEVICE))
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
                *shares(one, speeds[1], card.bandwidth, card.peak),
                f"{copied:,.0f}" if batch == WINDOW else "",
                f"{features / 1e6:.2f}",
            ]
        )
        print(rows[-1], flush=True)
    return rows


TEACHERS = (
    *("network", "pixels on a side", "pictures at a time"),
    *("float32 with TF32, pictures/s", "bfloat16, pictures/s", "of the bandwidth", "of the peak"),
    *("bfloat16, features copied out, pictures/s", "MB of features a picture"),
)


# Cells in training


def a_trainer(block: int, path: tuple[Op, ...] | None = None, **changes: int) -> CellTrainer:
    """Of the cell of a block, by the recipe with some changes."""
    space, recipe = load_space("mbconv6"), replace(RECIPE, **changes)
    return CellTrainer(space, CUT, PIXELS, recipe, (block, CELL), (0, 1), DEVICE, path=path)


class Bare:
    """What anybody would write down to train a network, its data on the card."""

    def __init__(
        self,
        net: CellNet,
        paths: Paths,
        data: Sequence[Tensor],
        batch: int,
        precision: AbstractContextManager[Any] | None = None,
    ) -> None:
        self.net, self.paths, self.batch = net, paths, batch
        self.x, self.y = data
        self.precision = precision or autocast(DEVICE)
        self.adam = torch.optim.Adam(self.net.parameters(), lr=0.005, weight_decay=1e-4, fused=True)

    def __call__(self) -> None:
        """A window."""
        for x, y in zip(self.x.split(self.batch), self.y.split(self.batch), strict=True):
            self.adam.zero_grad()
            with self.precision:
                features = self.net(x, next(self.paths))
            F.mse_loss(features.float(), y).backward()
            self.adam.step()


def paths_of(trainer: CellTrainer) -> Paths:
    """Those of a trainer's minibatches, drawn before."""
    return iter([trainer._sampler.path(step) for step in range(10_000)])


def trained_work(trainer: CellTrainer, x: Tensor) -> Amount:
    """Of a picture in a step of a cell, the mean of a round of paths."""
    work, paths = Work(trainer.net), paths_of(trainer)
    with autocast(DEVICE):
        round_ = [work.of(trainer.net, x, next(paths))[1] for _ in OPS]
    work.close()
    return Amount(*(3 * float(np.mean(each)) for each in zip(*round_, strict=True)))


def graphed(trainer: CellTrainer, data: Sequence[Tensor], batch: int) -> Bare:
    """With every op as a CUDA graph forward and another backward."""
    uncached = torch.autocast(DEVICE, torch.bfloat16, cache_enabled=False)
    bare = Bare(copy.deepcopy(trainer.net), paths_of(trainer), data, batch, uncached)
    with uncached:
        x = bare.net.stem(bare.x[:batch]).detach()
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
    count = len(there[0]) // batch
    one, fed = (a_trainer(block, batch=batch) for _ in range(2))
    two = a_trainer(block, batch=batch, paths_per_minibatch=2)
    data = [each.permute(0, 3, 1, 2) for each in there]
    work = trained_work(one, data[0][:COUNTED])
    ways: dict[str, Callable[[], object]] = {
        "bare": Bare(one.net, paths_of(one), data, batch),
        "ours": lambda: one.train_window(0, *there),
        "arrays": lambda: fed.train_window(0, *arrays),
        "two": lambda: two.train_window(0, *there),
        "float32": Bare(one.net, paths_of(one), data, batch, nullcontext()),
    }
    if batch == BATCH:
        sharded = a_trainer(block, batch=batch, shards=SHARDS)
        ways["sharded"] = lambda: sharded.train_window(0, *there)
    else:
        ways["graphs"] = graphed(one, data, batch)
    for way in ways.values():
        for _ in range(-(-len(OPS) // count)):  # a round: every kernel is chosen by then
            way()
    turns = [{name: once(way) for name, way in ways.items()} for _ in range(TURNS)]
    for trainer in (one, fed, two):
        assert not trainer.stopped, "a cell that has stopped makes no steps"
    ms = {name: 1e3 * float(np.median([turn[name] for turn in turns])) / count for name in ways}

    def ratio(name: str, other: str) -> float:
        return float(np.median([turn[name] / turn[other] for turn in turns]))

    speed = 1e3 * batch / ms["ours"]
    return [
        block + 1,
        batch,
        *(f"{ms[name]:.2f}" if name in ms else "" for name in STEPS_IN_MS),
        f"{ratio('ours', 'bare'):.3f}",
        f"{ratio('two', 'ours') / 2:.2f}",
        f"{speed:,.0f}",
        *shares(work, speed, card.bandwidth, card.peak),
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


# Ops that torch.compile has compiled


def compiles(card: Ceilings) -> Rows:
    """A row for every block and size of a minibatch."""
    torch._dynamo.config.recompile_limit = 64  # all ops of a cell share one forward
    rows = []
    for block, batch in ((1, BATCH), (3, BATCH), (3, BATCH // SHARDS)):
        data = [staged(boundary(block + n, 2 * batch), DEVICE).permute(0, 3, 1, 2) for n in (0, 1)]
        path = (COMPILED,) * load_space("mbconv6").blocks[block].cells[CELL].layers
        net = a_trainer(block, path).net
        plain, quick = (Bare(each, repeat(path), data, batch) for each in (net, copy.deepcopy(net)))
        for module in quick.net.choices():
            module.compile(dynamic=False)
        took = once(quick)
        plain_ms, quick_ms = (1e3 * seconds(loop, 10) / 2 for loop in (plain, quick))
        saved = plain_ms - quick_ms
        rows.append(
            [
                block + 1,
                batch,
                f"{took:.0f}",
                f"{plain_ms:.2f}",
                f"{quick_ms:.2f}",
                f"{plain_ms / quick_ms:.2f}",
                f"{1e3 * took * len(OPS) / saved:,.0f}" if saved > 0 else "",
            ]
        )
        print(rows[-1], flush=True)
    return rows


COMPILES = (
    *("block", "minibatch", "first window, with compiling, s"),
    *("bare loop, ms", "compiled, ms", "gain", "steps until all ops of the cell pay"),
)


# Cells that share a card

SHARED = 3  # the block whose cells do


def shared(card: Ceilings) -> Rows:
    """A row for every size of a minibatch, number of cells, and what each of them has."""
    rows: Rows = []
    spawn = multiprocessing.get_context("spawn")
    inputs = staged(boundary(SHARED, COUNTED), DEVICE).permute(0, 3, 1, 2)
    work = trained_work(a_trainer(SHARED), inputs)
    with spawn.Manager() as manager, spawn.Pool(4) as pool:
        for batch in (BATCH, BATCH // SHARDS):
            for count, streams in ((1, False), (2, False), (4, False), (2, True)):
                if streams:
                    with ThreadPoolExecutor(count) as threads:
                        asked = [(batch, threading.Barrier(count))] * count
                        speed = sum(threads.map(_on_stream, asked))
                else:
                    there = [(batch, manager.Barrier(count))] * count
                    speed = sum(pool.map(_speed, there, chunksize=1))
                each = "a stream" if streams else "a process"
                given = shares(work, speed, card.bandwidth, card.peak)
                rows.append([batch, count, each, f"{speed:,.0f}", *given])
                print(rows[-1], flush=True)
    return rows


def _on_stream(asked: tuple[int, Any]) -> float:
    """In a thread with a stream of its own."""
    with torch.cuda.stream(torch.cuda.Stream()):
        return _speed(asked)


def _speed(asked: tuple[int, Any]) -> float:
    """Pictures a second of one cell while all are at work."""
    batch, barrier = asked
    torch.set_num_threads(1)
    cell = a_trainer(SHARED, batch=batch)
    window = [staged(boundary(SHARED + number, WINDOW), DEVICE) for number in (0, 1)]
    for _ in range(-(-len(OPS) * batch // WINDOW)):  # a round, as for steps
        cell.train_window(0, *window)
    barrier.wait()
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < 3:
        cell.train_window(0, *window)
        done += WINDOW
    return done / (time.perf_counter() - start)


SHARES = (
    *("minibatch", "cells at a time", "each in", "pictures/s, all together"),
    *("of the bandwidth", "of the peak"),
)


# Rating


def rates(card: Ceilings) -> Rows:
    """A row for every way to rate a part of a cell."""
    return [*of_walk(2, 1, card), *of_walk(4, 0, card)]


def walked(rated: dict[Any, float], net: CellNet, data: RatingSet, op: Op, calls: Calls) -> None:
    """Rate all paths that begin with an op."""
    rated.update(rate_cell(net, OPS, data, (op,), calls))


def walk_work(net: CellNet, x: Tensor, first: Op) -> tuple[Amount, Amount]:
    """Of a picture through all paths below one first op: shared, and path by path."""
    work, layers = Work(net), list(net.layers)
    x, begun = work.of(net.stem, x)
    x, below = work.of(net.op(0, first), x)
    both = np.tile(np.array(begun) + below, (2, 1))
    both[1] *= len(OPS) ** (len(layers) - 1)
    for layer in range(1, len(layers)):
        there = [work.of(net.op(layer, op), x) for op in OPS]
        x, amount = there[0][0], np.sum([each for _, each in there], axis=0)
        both += np.outer([len(OPS) ** (layer - 1), len(OPS) ** (len(layers) - 2)], amount)
    work.close()
    return Amount(*both[0]), Amount(*both[1])


def of_walk(block: int, cell: int, card: Ceilings) -> Rows:
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
    once, apart = walk_work(net, inputs[:COUNTED], last)
    head, rows = [block + 1, cell, len(paths)], []

    def row(way: str, took: float, work: Amount, *rest: str) -> None:
        speed = len(inputs) / took
        given = shares(work, speed, card.bandwidth, card.exact)
        rows.append([*head, way, f"{took:.2f}", f"{len(paths) * speed:,.0f}", *given, *rest])
        print(rows[-1], flush=True)

    row("path by path", single, apart, "", "")
    for name, stack in (("depth-first", 0), ("stacks", CALLS[DEVICE].stack), ("1 GiB", 2**30)):
        rated: dict[Any, float] = {}
        calls = Calls(CALLS[DEVICE].chunk, stack)
        walk = partial(walked, rated, net, data, last, calls)
        memory = peak_memory(walk, DEVICE) / 1e3
        off = np.abs(np.array([rated[path] for path in some]) / truth - 1).max()
        row(name, seconds(walk, 1), once, f"{memory:.1f}", f"{off:.0e}")
    return rows


RATES = (
    *("block", "cell", "paths below one first op", "way", "s", "pictures x paths/s"),
    *("of the bandwidth", "of the float32 peak", "GB"),
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
        f"Cell {CELL} of each block. A bare loop trains the same paths of the same network "
        "in bfloat16, its data on the card.",
        STEPS,
        steps,
    ),
    "compile": (
        "Compiled ops on a GPU",
        f"Cell {CELL} of each block, the one path whose ops are all {COMPILED}, each of them "
        "compiled on its own, in a bare loop.",
        COMPILES,
        compiles,
    ),
    "shared": (
        "Cells that share a GPU",
        f"Each is cell {CELL} of block {SHARED + 1}, one path a minibatch.",
        SHARES,
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
            f"multiplies {card.peak / 1e12:.0f} TFLOP/s ({card.exact / 1e12:.0f} in float32). "
        )
        text = f"{reached}{text}\n\n{table(header, measure(card))}"
        publish(f"gpu {part}", title, text, write=arguments.write)


if __name__ == "__main__":
    main()
