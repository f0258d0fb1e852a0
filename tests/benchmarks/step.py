"""A training step of a cell against a bare PyTorch loop over the same cell; one thread.

The bare loop has its data in memory as NCHW tensors in channels-last layout and slices it, and
trains the same paths of the same network with Adam and F.mse_loss. Windows go through both in turn;
times are medians, and so are the ratios of windows next to each other.
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
from dna_ray.distill import CellTrainer
from dna_ray.network.layers import DepthwiseConv, PointwiseConv
from dna_ray.space import Space, load_space
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
    """What anybody would write down to train the network of a trainer, a path a minibatch."""

    def __init__(self, trainer: CellTrainer, window: tuple[Array, Array], **adam: bool) -> None:
        self.net = trainer.net
        self.data = [torch.from_numpy(array).permute(0, 3, 1, 2).split(BATCH) for array in window]
        paths = trainer._recipe.paths_per_minibatch * STEPS * (REPEATS + WARM)
        self.paths = iter([trainer._sampler.path(number) for number in range(paths)])
        self.optimizer = torch.optim.Adam(
            self.net.parameters(), lr=RECIPE.learning_rate, weight_decay=1e-4, **adam
        )

    def train(self) -> None:
        """A window."""
        for x, y in zip(*self.data, strict=True):
            self.optimizer.zero_grad()
            F.mse_loss(self.net(x, next(self.paths)), y).backward()
            self.optimizer.step()


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
        for x, y in zip(*self.data, strict=True):
            self.optimizer.zero_grad()
            for path in (next(self.paths), next(self.paths)):
                (F.mse_loss(self.net(x, path), y) / 2).backward()
            self.optimizer.step()


def timed(ways: dict[str, Callable[[], object]], repeats: int = REPEATS) -> dict[str, Array]:
    """Milliseconds of a step in every window of each, measured in turn."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(WARM + repeats):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if repeat >= WARM:
                times[name].append(1e3 * (time.perf_counter() - start) / STEPS)
    return {name: np.array(values) for name, values in times.items()}


def ratio(times: dict[str, Array], name: str, other: str) -> float:
    """The median over windows that were trained next to each other."""
    return float(np.median(times[name] / times[other]))


def measure(space: Space, block: int) -> Sequence[object]:
    """Every way to train a cell of a block."""
    window = a_window(block)

    def trainer(recipe: Distill) -> CellTrainer:
        return CellTrainer(space, CUT, PIXELS, recipe, (block, CELL), (0, 1))

    ours, two = trainer(RECIPE), trainer(replace(RECIPE, paths_per_minibatch=2))
    times = timed(
        {
            "ours": lambda: ours.train_window(0, *window),
            "fused": BareLoop(ours, window, fused=True).train,
            "two": lambda: two.train_window(0, *window),
            "twice": StemTwice(two, window, fused=True).train,
            "foreach": BareLoop(ours, window, foreach=True).train,
            "default": BareLoop(ours, window).train,
            "torchs": TorchsOwn(ours, window).train,
        }
    )
    for each in (ours, two):
        assert not each.stopped, "a cell that has stopped makes no steps"
    ways = ("ours", "fused", "foreach", "default", "torchs")
    return [
        block + 1,
        *(f"{np.median(times[name]):.2f}" for name in ways),
        f"{ratio(times, 'ours', 'fused'):.3f}",
        f"{ratio(times, 'ours', 'default'):.3f}",
        f"{ratio(times, 'two', 'ours') / 2:.3f}",
        f"{ratio(times, 'two', 'twice'):.3f}",
    ]


def compiled(space: Space, block: int) -> Sequence[object]:
    """A bare loop whose ops are compiled, each on its own."""
    window = a_window(block)
    trainer = CellTrainer(space, CUT, PIXELS, RECIPE, (block, CELL), (0, 1))
    plain, quick = BareLoop(trainer, window), BareLoop(copy.deepcopy(trainer), window)
    start = time.perf_counter()
    torch._dynamo.reset()
    for module in quick.net.choices():
        module.compile(dynamic=False)
    quick.train()  # with a fair sampler, a window of two rounds takes every op
    took = time.perf_counter() - start
    times = timed({"plain": plain.train, "compiled": quick.train}, REPEATS - 1)
    plain_ms, quick_ms = (float(np.median(values)) for values in times.values())
    return [
        block + 1,
        len(quick.net.choices()),
        f"{took:.0f}",
        f"{plain_ms:.1f}",
        f"{quick_ms:.1f}",
        f"{plain_ms / quick_ms:.2f}",
        f"{1e3 * took / (plain_ms - quick_ms):,.0f}" if quick_ms < plain_ms else "-",
    ]


def main() -> None:
    """Measure every block."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch._dynamo.config.recompile_limit = 64  # all ops of a cell share one forward
    space = load_space("demo")
    rows = [measure(space, block) for block in range(len(space.blocks))]
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
