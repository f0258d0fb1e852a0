"""Exact costs of networks of the MBConv family: parameters, multiply-adds, and the paper's FLOPs.

`macs` are the multiply-adds of convolutions and linear layers for one image. `paper_flops` add
what the paper counts besides: convolution biases, two per batch-norm element, and the inputs of
the head's average pool.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from dna_ray.space.ops import Op
from dna_ray.space.spaces import Path_, Space, Trunk
from dna_ray.space.spec import NetworkSpec

COSTS = ("params", "macs")
DEPTHWISE_SEPARABLE = Op(3, 1)


def cost_name(cost: str) -> str:
    """A cost column in words."""
    return {"macs": "multiply-adds", "params": "parameters"}.get(cost, cost.replace("_", " "))


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
    """Costs of a network by block and layer, `fixed` (stem and head), and in all."""

    layers: tuple[tuple[Costs, ...], ...]
    fixed: Costs

    @property
    def blocks(self) -> tuple[Costs, ...]:
        """The sums over the layers of each block."""
        return tuple(sum(block, Costs()) for block in self.layers)

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
    size, width, trunk = halved(resolution, 2), spec.trunk.stem_out, spec.trunk
    blocks = []
    for block in spec.blocks:
        layers = layers_of(len(block.ops), width, block.width, block.stride, size)
        ops = zip(block.ops, layers, strict=True)
        blocks.append(tuple(layer_costs(op, *layer, trunk.se_ratio) for op, layer in ops))
        size, width = halved(size, block.stride), block.width
    fixed = stem_costs(trunk, resolution) + head_costs(trunk, width, size, spec.classes)
    return NetworkCosts(tuple(blocks), fixed)


@dataclass(frozen=True)
class CostTable:
    """The costs of every path of a space at one resolution.

    A path's first layer costs more or less with the width that its block reads, which depends on
    the cell chosen before. So `paths[k][c][w]` is an array (paths, C) for cell `c` of block `k`
    (0-based) when it reads the `w`-th of `space.input_widths(k)`; and `fixed[w]` (C,) likewise is
    the stem's and the head's for the `w`-th width of the last block.
    """

    resolution: int
    paths: tuple[tuple[tuple[np.ndarray, ...], ...], ...]
    fixed: tuple[np.ndarray, ...]


class Layer(NamedTuple):
    """A place for an op: channels in and out, stride, and the side of the map that it reads."""

    width_in: int
    width_out: int
    stride: int
    size: int


def layers_of(layers: int, width_in: int, width: int, stride: int, size: int) -> Iterator[Layer]:
    """The layers of a cell that reads `width_in` channels of `size` x `size`, in order."""
    for _ in range(layers):
        yield Layer(width_in, width, stride, size)
        size, width_in, stride = halved(size, stride), width, 1


def block_sizes(space: Space, resolution: int) -> tuple[int, ...]:
    """The side of the map that each block reads, and last that of the one which the head reads."""
    sizes = [halved(resolution, 2)]
    for block in space.blocks:
        sizes.append(halved(sizes[-1], block.stride))
    return tuple(sizes)


def last_widths(space: Space) -> tuple[int, ...]:
    """The widths that the head can be given, by the cells of the last block."""
    return tuple(dict.fromkeys(cell.width for cell in space.blocks[-1].cells))


def cost_table(space: Space, resolution: int, classes: int) -> CostTable:
    """Count the exact costs of all paths of `space`: C is len(COSTS), all arrays are int64."""
    trunk = space.trunk
    stem = stem_costs(trunk, resolution)
    return additive_table(
        space,
        resolution,
        lambda op, layer: _counts(layer_costs(op, *layer, trunk.se_ratio)),
        lambda width, size: _counts(stem + head_costs(trunk, width, size, classes)),
    )


def additive_table(
    space: Space,
    resolution: int,
    layer_cost: Callable[[Op, Layer], Sequence[float]],
    fixed_cost: Callable[[int, int], Sequence[float]],
) -> CostTable:
    """The costs of all paths, in the order of `Block.paths`, from those of single layers.

    `layer_cost` gives the C costs of an op in a layer; `fixed_cost` those of stem and head, which
    reads so many channels of a map of such a side.
    """
    *sizes, last = block_sizes(space, resolution)
    table = []
    for number, (block, size) in enumerate(zip(space.blocks, sizes, strict=True)):
        cells = []
        for cell in block.cells:
            grids = []
            for width in space.input_widths(number):
                layers = layers_of(cell.layers, width, cell.width, block.stride, size)
                costs = [np.array([layer_cost(op, layer) for op in block.ops]) for layer in layers]
                grids.append(_sums(costs))
            cells.append(tuple(grids))
        table.append(tuple(cells))
    fixed = tuple(np.array(fixed_cost(width, last)) for width in last_widths(space))
    return CostTable(resolution, tuple(table), fixed)


def _sums(layers: list[np.ndarray]) -> np.ndarray:
    """(paths, C): the costs (ops, C) of each layer, summed over the grid of paths."""
    total = layers[0]
    for layer in layers[1:]:
        total = (total[:, None] + layer[None]).reshape(-1, layer.shape[1])
    return total


def _counts(costs: Costs) -> list[int]:
    return [getattr(costs, name) for name in COSTS]


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
