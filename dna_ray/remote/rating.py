"""Rating as remote tasks: one for every first op of every cell, with all of its members."""

from collections.abc import Mapping, Sequence

import numpy as np
import ray
import torch

from dna_ray.config import Rate
from dna_ray.data.windows import minibatch
from dna_ray.errors import noted
from dna_ray.network.cell import CellNet, build_cell
from dna_ray.network.members import Weights, apart
from dna_ray.planning.work import walk_macs
from dna_ray.ranking import shrunk
from dna_ray.rating import RatingSet, rate_cell
from dna_ray.remote.metrics import observe
from dna_ray.remote.session import Session
from dna_ray.remote.tasks import device, got_weights, put_weights, single_threaded, task
from dna_ray.remote.windows import TaughtWindow
from dna_ray.space import Op, Space, Where, cell_text
from dna_ray.teacher import Cut

Array = np.ndarray


def rate(
    session: Session,
    space: Space,
    cut: Cut,
    pixels: tuple[tuple[float, ...], tuple[float, ...]],
    weights: Mapping[Where, Weights],
    windows: Sequence[TaughtWindow],
    sizes: Rate,
    resolution: int,
    resources: Mapping[str, float],
) -> list[list[Array]]:
    """The loss of every path: `[block][cell]` (paths,) float64, in the order of `Block.paths`.

    It is NaN for cells without `weights`. The cells that take longest at the student's `resolution`
    begin. `resources` are what a task reserves.
    """
    blocks = space.blocks
    work = {where: sum(walk_macs(space, cut, where, resolution).values()) for where in weights}
    prefixes = sum(len(blocks[block].ops) for block, _ in weights)
    session.view.stage("rate", prefixes, "path prefixes")
    refs = {}
    for where in sorted(weights, key=lambda where: -work[where]):
        block, _ = where
        run = task(_rate, name=f"rate {cell_text(where)}", **resources)
        state = put_weights(weights[where])  # the first are rated while others are put
        boundaries = [window.boundaries[b] for b in (block, block + 1) for window in windows]
        for op in blocks[block].ops:
            refs[where, op] = run.remote(space, cut, pixels, where, op, state, sizes, *boundaries)
    paths = {
        ref: blocks[block].count(cell) // len(blocks[block].ops)
        for ((block, cell), _), ref in refs.items()
    }
    left = sum(paths.values())
    for ref in session.finished(list(paths)):
        left -= paths[ref]
        observe(session.board, {"paths_rated": paths[ref], "paths_left": left})
    return [
        [
            shrunk(
                np.concatenate([ray.get(refs[(b, c), op]) for op in block.ops]),
                block.cells[c].layers,
                sizes.interactions,
            )
            if (b, c) in weights
            else np.full(block.count(c), np.nan)
            for c in range(len(block.cells))
        ]
        for b, block in enumerate(blocks)
    ]


@single_threaded
def _rate(
    space: Space,
    cut: Cut,
    pixels: tuple[tuple[float, ...], tuple[float, ...]],
    where: Where,
    op: Op,
    state: Mapping[str, Array],
    sizes: Rate,
    *boundaries: Array,
) -> Array:
    """The losses of all paths of one cell that begin with `op`: the mean over its members."""
    block, _ = where
    half = len(boundaries) // 2
    data = rating_set(boundaries[:half], boundaries[half:], sizes)
    members = apart(got_weights(state))
    net, losses = trained_cell(space, cut, pixels, where, members[0]), []
    for member in members:
        net.load_state_dict(member)
        with noted(cell_text(where)):
            losses.append(list(rate_cell(net, space.blocks[block].ops, data, (op,)).values()))
    mean: Array = np.mean(losses, axis=0)
    return mean


def trained_cell(
    space: Space,
    cut: Cut,
    pixels: tuple[tuple[float, ...], tuple[float, ...]],
    where: Where,
    state: Weights,
) -> CellNet:
    """A cell with its weights, on this task's device."""
    block, cell = where
    with torch.random.fork_rng(devices=[]):
        net = build_cell(space, block, cell, cut.width_in(block), cut.widths[block], *pixels)
    net.load_state_dict(state)
    return net.to(device()).to(memory_format=torch.channels_last)


def rating_set(inputs: Sequence[Array], targets: Sequence[Array], sizes: Rate) -> RatingSet:
    """The first pictures recalibrate, those after them rate."""
    first, total = sizes.recalibration, sizes.recalibration + sizes.images
    read, wanted = np.concatenate(inputs), np.concatenate(targets)
    everything = minibatch(read, np.arange(min(total, len(read))), device())
    return RatingSet(
        everything[:first],
        everything[first:],
        minibatch(wanted, np.arange(len(everything)), device())[first:],
    )
