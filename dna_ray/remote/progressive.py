"""A block behind the student's beginnings as remote tasks: features, and ratings."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import ray
import torch

from dna_ray.config import Rate
from dna_ray.data.windows import minibatch
from dna_ray.errors import noted
from dna_ray.network.beginnings import Beginnings, build_beginnings
from dna_ray.network.members import Weights
from dna_ray.progressive import features_behind, rate_behind
from dna_ray.ranking import shrunk
from dna_ray.remote.rating import rating_set, trained_cell
from dna_ray.remote.session import Session
from dna_ray.remote.tasks import device, got_weights, put_weights, single_threaded, task
from dna_ray.remote.windows import TaughtWindow
from dna_ray.space import Beginning, Space, cell_text
from dna_ray.teacher import Cut

Array = np.ndarray
Pixels = tuple[tuple[float, ...], tuple[float, ...]]


def begin(
    session: Session,
    space: Space,
    cut: Cut,
    pixels: Pixels,
    beginnings: Sequence[Beginning],
    before: Weights,
    windows: Sequence[TaughtWindow],
    rating: Sequence[TaughtWindow],
    sizes: Rate,
    resources: Mapping[str, float],
) -> tuple[TaughtWindow, ...]:
    """Windows with what frozen beginnings make of them, by a task for each window and beginning.

    `before` are the weights of the beginnings' cells; the pictures that recalibrate are the first
    of `rating`. `resources` are what a task reserves.
    """
    session.view.stage("features", len(windows) * len(beginnings), "windows")
    run, state = task(_begin, name="beginning", **resources), put_weights(before)
    held_out = [window.boundaries[0] for window in rating]
    begun = tuple(
        replace(
            window,
            begun=tuple(
                run.remote(space, cut, pixels, each, state, sizes, window.boundaries[0], *held_out)
                for each in beginnings
            ),
        )
        for window in windows
    )
    session.wait([ref for window in begun for ref in window.begun])
    return begun


def rate_block(
    session: Session,
    space: Space,
    cut: Cut,
    pixels: Pixels,
    beginnings: Sequence[Beginning],
    weights: Mapping[int, Weights],
    before: Mapping[int, Weights],
    windows: Sequence[TaughtWindow],
    sizes: Rate,
    resources: Mapping[str, float],
) -> list[list[Array]]:
    """The loss of every path of the block behind `beginnings`: [beginning][cell] (paths,) float64.

    It is NaN for cells without `weights`; `before` are those of the beginnings' cells, as each cell
    was trained behind them. A task rates a cell behind a beginning, and reserves `resources`.
    """
    block = len(beginnings[0])
    shape = space.blocks[block]
    session.view.stage("rate", len(weights) * len(beginnings), "cells behind beginnings")
    boundaries = [window.boundaries[number] for number in (0, block + 1) for window in windows]
    stored = {id(state): put_weights(state) for state in before.values()}  # B's are one for all
    refs = {}
    for cell in sorted(weights, key=lambda cell: -shape.count(cell)):
        states = put_weights(weights[cell]), stored[id(before[cell])]
        run = task(_rate, name=f"rate {cell_text((block, cell))}", **resources)
        for number, beginning in enumerate(beginnings):
            settings = (space, cut, pixels, (block, cell), beginning, *states, sizes)
            refs[number, cell] = run.remote(*settings, *boundaries)
    session.wait(list(refs.values()))
    return [
        [
            ray.get(refs[number, cell]) if cell in weights else np.full(shape.count(cell), np.nan)
            for cell in range(len(shape.cells))
        ]
        for number in range(len(beginnings))
    ]


@single_threaded
def _begin(
    space: Space,
    cut: Cut,
    pixels: Pixels,
    beginning: Beginning,
    before: Mapping[str, Array],
    sizes: Rate,
    pictures: Array,
    *held_out: Array,
) -> Array:
    read = np.concatenate(held_out)
    recalibration = minibatch(read, np.arange(min(sizes.recalibration, len(read))), device())
    nets = _beginning(space, cut, pixels, beginning, before)
    return features_behind(nets, 0, recalibration, pictures, device())


@single_threaded
def _rate(
    space: Space,
    cut: Cut,
    pixels: Pixels,
    where: tuple[int, int],
    beginning: Beginning,
    state: Mapping[str, Array],
    before: Mapping[str, Array],
    sizes: Rate,
    *boundaries: Array,
) -> Array:
    (block, cell), half = where, len(boundaries) // 2
    net = trained_cell(space, cut, pixels, where, got_weights(state))
    nets = _beginning(space, cut, pixels, beginning, before)
    data = rating_set(boundaries[:half], boundaries[half:], sizes)
    with noted(cell_text(where)):
        losses = rate_behind(nets, 0, net, space.blocks[block].ops, data).values()
    layers = space.blocks[block].cells[cell].layers
    return shrunk(np.array(list(losses)), layers, sizes.interactions)


def _beginning(
    space: Space, cut: Cut, pixels: Pixels, beginning: Beginning, stored: Mapping[str, Array]
) -> Beginnings:
    """The networks of one beginning, of whose cells there are weights among others'."""
    with torch.random.fork_rng(devices=[]):
        nets = build_beginnings(space, cut.widths, *pixels, [beginning])
    nets.load_state_dict(got_weights({name: stored[name] for name in nets.state_dict()}))
    nets.to(device()).to(memory_format=torch.channels_last)
    return nets
