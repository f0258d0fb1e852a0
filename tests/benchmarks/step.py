"""A training step of a cell against a bare PyTorch loop over the same cell; one thread.

The bare loop has its data in memory as NCHW tensors in channels-last layout and slices it, and
trains the same paths with Adam and F.mse_loss. Windows go through both in turn; what is compared
are medians.
"""

import argparse
import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from dna_ray.config import Distill
from dna_ray.distill import CellTrainer, PathSampler
from dna_ray.network.cell import CellNet
from dna_ray.network.layers import DepthwiseConv, PointwiseConv
from dna_ray.space import Op, Space, load_space
from dna_ray.teacher import Cut
from tests.benchmarks.report import publish, table

Array = np.ndarray

# EfficientNet-Lite0 at 64 pixels, cut for the demo space.
CUT = Cut(modules=("1", "2", "4", "6"), widths=(24, 40, 112, 320), sizes=(16, 8, 4, 2))
PIXELS = ((0.5,) * 3, (0.5,) * 3)
RESOLUTION, BATCH, STEPS, REPEATS, WARM, CELL = 64, 16, 8, 40, 2, 1
RECIPE = Distill(batch=BATCH, paths_per_minibatch=1)


def a_window(block: int) -> tuple[Array, Array]:
    """Boundary k-1 and k of as many pictures as are read in so many steps."""
    rng = np.random.default_rng(block)

    def boundary(number: int) -> Array:
        count = BATCH * STEPS
        if number == 0:
            return rng.integers(256, size=(count, RESOLUTION, RESOLUTION, 3), dtype=np.uint8)
        side, width = CUT.sizes[number - 1], CUT.widths[number - 1]
        return rng.normal(size=(count, side, side, width)).astype(np.float32)

    return boundary(block), boundary(block + 1)


class BareLoop:
    """What anybody would write down."""

    def __init__(self, net: CellNet, ops: tuple[Op, ...], window: tuple[Array, Array]) -> None:
        self.net = copy.deepcopy(net)
        self.inputs, self.targets = (
            torch.from_numpy(array).permute(0, 3, 1, 2) for array in window
        )
        sampler = PathSampler(ops, len(net.layers), "fair", 0, "bare")
        self.paths = [sampler.path(step) for step in range(STEPS * (REPEATS + WARM))]
        self.step = 0
        self.adam(self.net)

    def adam(self, net: CellNet, **options: bool) -> "BareLoop":
        """Another Adam than torch's default."""
        self.optimizer = torch.optim.Adam(net.parameters(), lr=0.005, weight_decay=1e-4, **options)
        return self

    def train(self) -> None:
        """A window."""
        for x, y in zip(self.inputs.split(BATCH), self.targets.split(BATCH), strict=True):
            self.optimizer.zero_grad()
            loss = F.mse_loss(self.net(x, self.paths[self.step % len(self.paths)]), y)
            loss.backward()
            self.optimizer.step()
            self.step += 1


class TorchsOwn(BareLoop):
    """With torch's own 1x1 and depthwise convolutions."""

    def train(self) -> None:
        """A window."""
        own = nn.Conv2d._conv_forward
        with (
            patch.object(PointwiseConv, "_conv_forward", own),
            patch.object(DepthwiseConv, "_conv_forward", own),
        ):
            super().train()


class StemTwice(BareLoop):
    """Two paths per minibatch, each run whole."""

    def train(self) -> None:
        """A window."""
        for x, y in zip(self.inputs.split(BATCH), self.targets.split(BATCH), strict=True):
            self.optimizer.zero_grad()
            for path in (self.paths[self.step % len(self.paths)], self.paths[self.step - 1]):
                (F.mse_loss(self.net(x, path), y) / 2).backward()
            self.optimizer.step()
            self.step += 1


def medians(ways: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Milliseconds of a step of each, measured in turn."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(WARM + REPEATS):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if repeat >= WARM:
                times[name].append(1e3 * (time.perf_counter() - start) / STEPS)
    return {name: float(np.median(values)) for name, values in times.items()}


def measure(space: Space, block: int) -> dict[str, float]:
    """Milliseconds of a step in every way."""
    window, ops = a_window(block), space.blocks[block].ops

    def trainer(recipe: Distill) -> CellTrainer:
        return CellTrainer(space, CUT, PIXELS, recipe, (block, CELL), (0, 1))

    ours, two = trainer(RECIPE), trainer(replace(RECIPE, paths_per_minibatch=2))
    bare = {name: BareLoop(ours.net, ops, window) for name in ("default", "foreach", "fused")}
    bare["foreach"].adam(bare["foreach"].net, foreach=True)
    bare["fused"].adam(bare["fused"].net, fused=True)
    twice, torchs = StemTwice(ours.net, ops, window), TorchsOwn(ours.net, ops, window)
    twice.adam(twice.net, fused=True)
    return medians(
        {
            "ours": lambda: ours.train_window(0, *window),
            **{name: loop.train for name, loop in bare.items()},
            "two": lambda: two.train_window(0, *window),
            "twice": twice.train,
            "torchs": torchs.train,
        }
    )


def compiled(space: Space, block: int) -> Sequence[object]:
    """A bare loop whose ops are compiled, each on its own."""
    window, ops = a_window(block), space.blocks[block].ops
    net = CellTrainer(space, CUT, PIXELS, RECIPE, (block, CELL), (0, 1)).net
    plain, quick = BareLoop(net, ops, window), BareLoop(net, ops, window)
    start = time.perf_counter()
    torch._dynamo.reset()
    for module in quick.net.choices():
        module.compile(dynamic=False)
    quick.train()  # with a fair sampler, a window of two rounds takes every op
    took = time.perf_counter() - start
    times = medians({"plain": plain.train, "compiled": quick.train})
    gain = times["plain"] / times["compiled"]
    return [
        block + 1,
        len(quick.net.choices()),
        f"{took:.0f}",
        f"{times['plain']:.1f}",
        f"{times['compiled']:.1f}",
        f"{gain:.2f}",
        f"{1e3 * took / max(1e-9, times['plain'] - times['compiled']):,.0f}" if gain > 1 else "-",
    ]


def main() -> None:
    """Measure every block."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch._dynamo.config.recompile_limit = 64  # all ops of a cell share one forward
    space = load_space("demo")
    rows = []
    for block in range(len(space.blocks)):
        ms = measure(space, block)
        rows.append(
            [
                block + 1,
                *[f"{ms[name]:.2f}" for name in ("ours", "fused", "foreach", "default", "torchs")],
                f"{ms['ours'] / ms['fused']:.3f}",
                f"{ms['ours'] / ms['default']:.3f}",
                f"{ms['two'] / (2 * ms['ours']):.3f}",
                f"{ms['two'] / ms['twice']:.3f}",
            ]
        )
    header = ["block", "CellTrainer, ms", "bare, fused Adam, ms", "bare, foreach Adam, ms"]
    header += [
        "bare, Adam by default, ms",
        "that with torch's own convolutions, ms",
        "CellTrainer / bare fused",
        "CellTrainer / bare default",
    ]
    header += [
        "two paths a minibatch / two minibatches",
        "two paths, CellTrainer / bare fused, the stem twice",
    ]
    names = ["block", "compiled ops", "compiling, s", "bare, ms", "compiled, ms", "gain"]
    names += ["steps until it pays"]
    text = (
        f"Cells of three layers of the demo space between lite0's boundaries at {RESOLUTION} "
        f"pixels, minibatches of {BATCH}; medians of {REPEATS} windows of {STEPS} steps.\n\n"
        f"{table(header, rows)}\n\n`torch.compile` of every op on its own, in a bare loop:\n\n"
        f"{table(names, [compiled(space, block) for block in (0, 3)])}"
    )
    publish("step", "A training step against a bare loop", text, write=arguments.write)


if __name__ == "__main__":
    main()
