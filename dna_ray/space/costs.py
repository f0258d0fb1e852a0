"""Exact costs of networks of the MBConv family: parameters, multiply-adds, and the paper's FLOPs.

`macs` are the multiply-adds of convolutions and linear layers for one image. `paper_flops` add
what the paper counts besides: convolution biases, two per batch-norm element, and the inputs of
the head's average pool.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dna_ray.space.ops import Op
from dna_ray.space.spaces import Path_, Space, Trunk
from dna_ray.space.spec import NetworkSpec

COSTS = ("params", "macs")
DEPTHWISE_SEPARABLE = Op(3, 1)


@dataclass(frozen=True)
class Costs:
    """What a part of a network costs; parts add up."""

    params: int = 0
    macs: int = 0
    paper_flops: int = 0

    def __add__(self, other: "Costs") -> "Costs":
        return Costs(
            self.params + other.params,
            self.macs + other.macs,
            self.paper_flops + other.paper_flops,
        )


@dataclass(frozen=True)
class NetworkCosts:
    """Costs of a network by block, `fixed` (stem and head), and in all."""

    blocks: tuple[Costs, ...]
    fixed: Costs

    @property
    def total(self) -> Costs:
        """The sum over everything."""
        return sum(self.blocks, self.fixed)


def halved(size: int, stride: int) -> int:
    """The side of a feature map after a stride, with symmetric padding."""
    return (size - 1) // stride + 1


def _conv(
    width_in: int, width_out: int, kernel: int, size: int, *, groups: int = 1, bias: bool = False
) -> Costs:
    """A convolution that writes `size` x `size`: with batch norm, or with a bias instead."""
    weights = width_in // groups * width_out * kernel * kernel
    outputs = width_out * size * size
    macs = weights * size * size
    if bias:
        return Costs(weights + width_out, macs, macs + outputs)
    return Costs(weights + 2 * width_out, macs, macs + 2 * outputs)


def layer_costs(
    op: Op, width_in: int, width_out: int, stride: int, size: int, se_ratio: float
) -> Costs:
    """One MBConv layer that reads `width_in` channels of `size` x `size`."""
    hidden = width_in * op.expansion
    out = halved(size, stride)
    costs = Costs()
    if op.expansion > 1:
        costs += _conv(width_in, hidden, 1, size)
    costs += _conv(hidden, hidden, op.kernel, out, groups=hidden)
    squeezed = int(se_ratio * width_in)
    if squeezed:
        costs += _conv(hidden, squeezed, 1, 1, bias=True)
        costs += _conv(squeezed, hidden, 1, 1, bias=True)
    return costs + _conv(hidden, width_out, 1, out)


def path_costs(
    path: Path_,
    width_in: int,
    width: int,
    stride: int,
    size: int,
    se_ratio: float,
    width_out: int | None = None,
) -> Costs:
    """A path of a cell that reads `width_in` channels of `size` x `size`, layer after layer.

    `width_out` is what its last layer emits where that is not `width` (the widened supernet).
    """
    costs = Costs()
    for layer, op in enumerate(path):
        out = width if layer < len(path) - 1 or width_out is None else width_out
        costs += layer_costs(op, width_in, out, stride, size, se_ratio)
        size, width_in, stride = halved(size, stride), out, 1
    return costs


def stem_costs(trunk: Trunk, size: int) -> Costs:
    """The stem on a picture of `size` x `size` pixels."""
    size = halved(size, 2)
    costs = _conv(3, trunk.stem_width, 3, size)
    width = trunk.stem_width
    for _ in range(trunk.stem_layers):
        costs += layer_costs(DEPTHWISE_SEPARABLE, width, trunk.stem_out, 1, size, trunk.se_ratio)
        width = trunk.stem_out
    return costs


def head_costs(trunk: Trunk, width_in: int, size: int, classes: int) -> Costs:
    """The head on `width_in` channels of `size` x `size`: convolution, pool, linear layer."""
    linear = trunk.head_width * classes
    pooled = trunk.head_width * size * size
    return _conv(width_in, trunk.head_width, 1, size) + Costs(
        linear + classes, linear, linear + pooled
    )


def network_costs(spec: NetworkSpec, resolution: int) -> NetworkCosts:
    """The exact costs of a network on pictures of `resolution` x `resolution` pixels."""
    size, width = halved(resolution, 2), spec.trunk.stem_out
    blocks = []
    for block in spec.blocks:
        blocks.append(
            path_costs(block.ops, width, block.width, block.stride, size, spec.trunk.se_ratio)
        )
        size, width = halved(size, block.stride), block.width
    fixed = stem_costs(spec.trunk, resolution) + head_costs(spec.trunk, width, size, spec.classes)
    return NetworkCosts(tuple(blocks), fixed)


@dataclass(frozen=True)
class CostTable:
    """The exact costs of every path of a space at one resolution.

    A path's first layer costs more or less with the width that its block reads, which depends on
    the cell chosen before. So `paths[k][c][w]` is an int64 array (paths, len(COSTS)) for cell `c`
    of block `k` (0-based) when it reads the `w`-th of `space.input_widths(k)`; and `fixed[w]`
    likewise is the stem's and the head's for the `w`-th width of the last block.
    """

    resolution: int
    paths: tuple[tuple[tuple[np.ndarray, ...], ...], ...]
    fixed: tuple[np.ndarray, ...]


def cost_table(space: Space, resolution: int, classes: int) -> CostTable:
    """Count the costs of all paths of `space`, in the order of `Block.paths`."""
    size = halved(resolution, 2)
    table = []
    for number, block in enumerate(space.blocks):
        widths = space.input_widths(number)
        table.append(
            tuple(
                tuple(_cell_costs(space, number, cell, width, size) for width in widths)
                for cell in range(len(block.cells))
            )
        )
        size = halved(size, block.stride)
    stem = stem_costs(space.trunk, resolution)
    fixed = tuple(
        _array([stem + head_costs(space.trunk, width, size, classes)])[0]
        for width in dict.fromkeys(cell.width for cell in space.blocks[-1].cells)
    )
    return CostTable(resolution, tuple(table), fixed)


def _cell_costs(space: Space, block: int, cell: int, width_in: int, size: int) -> np.ndarray:
    """(paths, len(COSTS)): layers are counted once each and summed over the grid of paths."""
    ops, stride = space.blocks[block].ops, space.blocks[block].stride
    shape = space.blocks[block].cells[cell]
    total = np.zeros((1, len(COSTS)), np.int64)
    for _ in range(shape.layers):
        layer = _array(
            [
                layer_costs(op, width_in, shape.width, stride, size, space.trunk.se_ratio)
                for op in ops
            ]
        )
        total = (total[:, None] + layer[None]).reshape(-1, len(COSTS))
        size, width_in, stride = halved(size, stride), shape.width, 1
    return total


def _array(costs: list[Costs]) -> np.ndarray:
    return np.array([[getattr(c, name) for name in COSTS] for c in costs], np.int64)


def cost_range(space: Space, table: CostTable) -> dict[str, tuple[int, int]]:
    """The smallest and the largest value of each cost over all architectures, exactly."""
    return {
        name: (_extreme(space, table, column, np.min), _extreme(space, table, column, np.max))
        for column, name in enumerate(COSTS)
    }


def _extreme(space: Space, table: CostTable, column: int, pick: Callable[[Any], Any]) -> int:
    """Dynamic programming over the width between blocks; `pick` is numpy's min or max."""
    best = {space.trunk.stem_out: 0}
    for number, block in enumerate(space.blocks):
        following: dict[int, list[int]] = {}
        for index, width_in in enumerate(space.input_widths(number)):
            for cell, shape in enumerate(block.cells):
                cost = int(pick(table.paths[number][cell][index][:, column]))
                following.setdefault(shape.width, []).append(best[width_in] + cost)
        best = {width: int(pick(values)) for width, values in following.items()}
    return int(pick([total + int(table.fixed[i][column]) for i, total in enumerate(best.values())]))
