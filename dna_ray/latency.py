"""Measured latency: a stopwatch for the parts of a space and whole networks, and its rounds.

What is measured stands up to a machine that others use too: every time is taken beside that of a
reference, rounds go over everything in random order, and a figure is the median over rounds.
"""

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dna_ray.network.layers import ConvNorm, MBConv, initialise, stem
from dna_ray.network.standalone import build_network
from dna_ray.progress import View
from dna_ray.randomness import generator
from dna_ray.space import Architecture, BlockChoice, NetworkSpec, Op, Space, network_spec
from dna_ray.space.correction import Correction
from dna_ray.space.latency import Conditions, LatencyTable, Sample, Subject
from dna_ray.space.parts import Part, reference_parts

_LEAST_RUNS, _SAMPLE_SECONDS = 4, 0.02  # of a sample, whichever takes longer
_LARGE_BLOCK = 31 * 2**20  # the largest, about, that glibc keeps at all
_SAVE_SECONDS = 2.0
_CANDIDATES = 50  # drawn for each network taken


class Head(nn.Module):
    """Convolution, pool and linear layer, as at the end of a stand-alone network."""

    def __init__(self, width_in: int, width: int, classes: int, activation: str) -> None:
        super().__init__()
        self.head = ConvNorm(width_in, width, 1, activation=activation)
        self.classifier = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width_in, H, W) to (B, classes)."""
        logits: Tensor = self.classifier(self.head(x).mean((2, 3)))
        return logits


class Stopwatch:
    """Times one run of a part or a network on a batch, as it runs after training.

    In evaluation and inference mode, float32, channels-last. Every run stands between two of a
    reference, one layer of each block: the ratio to those is the same whether the machine is quick
    or slow at that moment, and as in a network, caches hold what came before. What is timed is
    built anew for every sample: no more than one network is in memory, and none keeps a lucky place
    there.
    """

    def __init__(self, space: Space, conditions: Conditions) -> None:
        torch.set_num_threads(conditions.threads)
        self._space, self._conditions = space, conditions
        # Other processes do not count into a thread's own time.
        alone = conditions.device == "cpu" and conditions.threads == 1
        self._clock = time.thread_time if alone else time.perf_counter
        # glibc keeps twice the largest block ever freed; what it hands back, every run of a large
        # layer has to fetch again. A process that has loaded a model is past that, and so is this.
        torch.empty(_LARGE_BLOCK, dtype=torch.uint8)
        parts = reference_parts(space, conditions.resolution)
        self._reference = [self._built(part) for part in parts]

    @torch.inference_mode()
    def __call__(self, subject: Subject) -> Sample:
        """One sample: the median over a number of runs."""
        module, x = self._built(subject)
        once = self._seconds(module, x, 1).sum()  # and so prepared: kernels, memory
        times = 1000 * self._seconds(module, x, max(_LEAST_RUNS, int(_SAMPLE_SECONDS / once)))
        ratio = np.median(2 * times[1::2] / (times[:-1:2] + times[2::2]))
        reference = float(np.median(times[::2]))
        return Sample(float(ratio) * reference, reference)

    def _built(self, subject: Subject) -> tuple[nn.Module, Tensor]:
        """The module with random weights, and what it reads."""
        space, trunk, where = self._space, self._space.trunk, self._conditions
        pixels = (where.batch, 3, where.resolution, where.resolution)
        x = torch.randint(0, 256, pixels, dtype=torch.uint8)
        module: nn.Module
        if isinstance(subject, Architecture):
            module = build_network(network_spec(space, subject, where.classes))
        elif subject.op == "stem":
            module = stem(trunk, NetworkSpec.mean, NetworkSpec.std)
        else:
            width, width_out, stride, size = subject.layer
            x = torch.randn(where.batch, width, size, size)
            if subject.op == "head":
                module = Head(width, trunk.head_width, width_out, trunk.activation)
            else:
                op = Op.parse(subject.op)
                module = MBConv(op, width, width_out, stride, trunk.se_ratio, trunk.activation)
        if isinstance(subject, Part):
            initialise(module)
        module = module.eval().to(memory_format=torch.channels_last).to(where.device)
        return module, x.to(where.device, memory_format=torch.channels_last)

    def _seconds(self, module: nn.Module, x: Tensor, runs: int) -> np.ndarray:
        """(2 runs + 1,): in turn of the reference and of the module; it begins and ends."""
        mark = self._event if self._conditions.device == "cuda" else self._clock
        marks: list[Any] = [mark()]
        for number in range(2 * runs + 1):
            for layer, feature in [(module, x)] if number % 2 else self._reference:
                layer(feature)
            marks.append(mark())
        if self._conditions.device == "cuda":
            marks[-1].synchronize()
            return np.array([a.elapsed_time(b) / 1000 for a, b in pairwise(marks)])
        return np.diff(marks)

    @staticmethod
    def _event() -> torch.cuda.Event:
        """A mark in what the GPU has still to do, so that it need not wait for the next run."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def measure(
    table: LatencyTable,
    rounds: int,
    sample: Callable[[Subject], Sample],
    view: View,
    save: Callable[[], None],
) -> None:
    """Add to `table` until there are samples of `rounds` rounds of everything.

    The networks are chosen when all parts have been timed once. `save` is called every few seconds
    and at the end, however that comes.
    """
    start = saved = time.monotonic()
    seed = table.conditions.seed

    def visit(number: int) -> None:
        """Bring everything up to `number` samples, in random order."""
        nonlocal saved
        due = [subject for subject, times in table.samples.items() if len(times) < number]
        for index in generator(seed, "latency round", number).permutation(len(due)):
            table.samples[due[index]].append(sample(due[index]))
            view.advance(1, f"round {number} of {rounds}")
            if time.monotonic() - saved > _SAVE_SECONDS:
                save()
                saved = time.monotonic()

    expected = len(table.parts) + (len(table.networks) or table.conditions.networks)
    view.stage("measure", rounds * expected, "samples")
    view.advance(sum(map(len, table.samples.values())))
    try:
        for number in range(1, rounds + 1):
            visit(number)
            if not table.networks:
                table.add(choose_networks(table, generator(seed, "latency networks")))
                visit(number)
    finally:
        save()
    view.end_stage(time.monotonic() - start)


def choose_networks(table: LatencyTable, rng: np.random.Generator) -> list[Architecture]:
    """Networks that spread evenly over the range of the sums of their parts, by growing sum.

    Those of uniformly drawn paths would crowd in the middle. So candidates are drawn that lean
    towards quick or slow paths to any degree, and taken where they are nearest to even steps.
    There are fewer than asked for where the space has not as many.
    """
    count, costs = table.conditions.networks, table.costs(Correction(0.0, 1.0))
    orders = [
        [np.argsort(np.concatenate(cells)[:, 0]) for cells in zip(*block, strict=True)]
        for block in costs.paths
    ]
    candidates = {_leaning(table.space, orders, rng) for _ in range(_CANDIDATES * count)}
    pool = sorted(candidates, key=str)  # sets have no order of their own
    sums = table.sums(pool)
    taken = np.zeros(len(pool), bool)
    for step in np.linspace(sums.min(), sums.max(), min(count, len(pool))):
        taken[np.argmin(np.where(taken, np.inf, np.abs(sums - step)))] = True
    return [pool[i] for i in np.argsort(sums, kind="stable") if taken[i]]


def _leaning(
    space: Space, orders: list[list[np.ndarray]], rng: np.random.Generator
) -> Architecture:
    """A random architecture whose paths tend to one rank among those of their blocks.

    `orders[k][w]` are the paths of block `k`, all cells in a row, from quick to slow when it reads
    the `w`-th of its widths.
    """
    lean, width = rng.uniform(), space.trunk.stem_out
    choices = []
    for number, block in enumerate(space.blocks):
        order = orders[number][space.input_widths(number).index(width)]
        share = rng.beta(4 * lean, 4 * (1 - lean))
        path = int(order[round(share * (len(order) - 1))])
        cell = 0
        while path >= block.count(cell):
            path -= block.count(cell)
            cell += 1
        shape = block.cells[cell]
        ops = np.unravel_index(path, (len(block.ops),) * shape.layers)
        choices.append(BlockChoice(shape.width, tuple(block.ops[int(op)] for op in ops)))
        width = shape.width
    return Architecture(tuple(choices))
