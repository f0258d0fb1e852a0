"""What work costs: estimated from multiply-adds, or measured by a short trial on this machine."""

import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from dna_ray.config import Distill
from dna_ray.data.windows import staged
from dna_ray.distill import CellTrainer
from dna_ray.space import Space, Where
from dna_ray.space.costs import halved, path_costs, stem_costs
from dna_ray.teacher import Cut, Teacher, teach

Pixels = tuple[tuple[float, ...], tuple[float, ...]]

# Minibatches of a trial: the first ones are slower, as memory is had and kernels are chosen.
_UNTIMED, _TIMED = 1, 3
TRIED = _UNTIMED + _TIMED


@dataclass(frozen=True)
class Trial:
    """Of one cell: seconds of training per picture, and bytes on the GPU (0 without one)."""

    seconds: float
    gpu_bytes: int


def rank_bytes(trials: Iterable[Trial], window: int) -> int:
    """What a rank fills of a GPU: its largest cell, and two windows of so many bytes; 0 without."""
    largest = max(trial.gpu_bytes for trial in trials)
    return largest + 2 * window if largest else 0


def cell_macs(space: Space, cut: Cut, resolution: int) -> dict[Where, float]:
    """Multiply-adds of one picture through an average path of every widened cell."""
    work = {}
    for b, c in space.cells:
        block, cell = space.blocks[b], space.blocks[b].cells[c]
        size = cut.sizes[b - 1] if b else halved(resolution, 2)
        width_in = cut.widths[b - 1] if b else space.trunk.stem_out
        macs = [
            path_costs(
                (op,) * cell.layers,
                width_in,
                cell.width,
                block.stride,
                size,
                space.trunk.se_ratio,
                cut.widths[b],
            ).macs
            for op in block.ops
        ]
        stem = 0 if b else stem_costs(space.trunk, resolution).macs
        work[b, c] = stem + sum(macs) / len(macs)
    return work


def try_cell(
    space: Space,
    cut: Cut,
    pixels: Pixels,
    recipe: Distill,
    where: Where,
    resolution: int,
    device: torch.device | str,
) -> Trial:
    """Train a cell on a few minibatches of noise; the median of their times counts."""
    block, _ = where
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    trainer = CellTrainer(space, cut, pixels, recipe, where, (0, 0), device)
    rng = np.random.default_rng(0)
    sides = (resolution, *cut.sizes)
    if block:
        inputs = rng.normal(size=(recipe.batch, sides[block], sides[block], cut.width_in(block)))
        inputs = inputs.astype(np.float32)
    else:
        pixels_shape = (recipe.batch, resolution, resolution, 3)
        inputs = rng.integers(256, size=pixels_shape).astype(np.uint8)
    shape = (recipe.batch, sides[block + 1], sides[block + 1], cut.widths[block])
    targets = rng.normal(size=shape).astype(np.float32)
    window = [staged(each, device) for each in (inputs, targets)]  # as it is ahead of the cells
    seconds = []
    for index in range(TRIED):
        start = time.perf_counter()
        trainer.train_window(index, *window)  # reads the loss, so it waits for the device
        seconds.append(time.perf_counter() - start)
    return Trial(
        seconds=float(np.median(seconds[_UNTIMED:])) / recipe.batch,
        gpu_bytes=torch.cuda.max_memory_allocated() if on_gpu else 0,
    )


def time_teacher(teacher: Teacher, resolution: int, pictures: int) -> float:
    """Seconds per picture of the teacher on so many pictures of noise, boundaries copied out."""
    noise = np.random.default_rng(0).integers(
        256, size=(pictures, resolution, resolution, 3), dtype=np.uint8
    )
    teach(teacher, noise[:2])
    start = time.perf_counter()
    teach(teacher, noise)
    return (time.perf_counter() - start) / pictures
