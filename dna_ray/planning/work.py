"""How much work a search is: of rating a cell, of what ranks share, and of networks to be found."""

import heapq
from collections.abc import Iterable, Mapping, Sequence

import torch

from dna_ray.config import Distill
from dna_ray.network.model import ModelSpec, TrainedModel, build_model, module_costs
from dna_ray.planning.calibration import TRIED
from dna_ray.planning.placement import RankPlan, plan_ranks
from dna_ray.space import (
    Architecture,
    BlockChoice,
    CostTable,
    NetworkSpec,
    Op,
    Space,
    Where,
    cost_range,
    network_costs,
    network_spec,
)
from dna_ray.space.costs import Layer, halved, layer_costs, layers_of, stem_costs
from dna_ray.teacher import Cut, cut_teacher

_FLOAT = 4  # bytes

# A trial of all cells is worth its time where so many times its pictures are to be trained on.
_WORTH_MEASURING = 100


def cell_layers(space: Space, cut: Cut, where: Where, resolution: int) -> list[Layer]:
    """The layers of a cell between the teacher's boundaries."""
    block, cell = where
    size = cut.sizes[block - 1] if block else halved(resolution, 2)
    width = cut.widths[block - 1] if block else space.trunk.stem_out
    shape = space.blocks[block].cells[cell]
    *inner, last = layers_of(shape.layers, width, shape.width, space.blocks[block].stride, size)
    return [*inner, last._replace(width_out=cut.widths[block])]


def cell_params(space: Space, cut: Cut, where: Where, resolution: int) -> int:
    """The parameters of a cell with all its ops, and of the stem in block 1."""
    ops, ratio = space.blocks[where[0]].ops, space.trunk.se_ratio
    layers = cell_layers(space, cut, where, resolution)
    own = sum(layer_costs(op, *layer, ratio).params for layer in layers for op in ops)
    return own + (0 if where[0] else stem_costs(space.trunk, resolution).params)


def walk_macs(space: Space, cut: Cut, where: Where, resolution: int) -> dict[Op, int]:
    """Multiply-adds of one picture in the walk over all paths of a cell, by their first op."""
    ops = space.blocks[where[0]].ops
    return {op: macs_below(space, cut, where, resolution, (op,)) for op in ops}


def macs_below(space: Space, cut: Cut, where: Where, resolution: int, prefix: Sequence[Op]) -> int:
    """Multiply-adds of one picture in the walk over all paths of a cell that begin so."""
    ops, ratio = space.blocks[where[0]].ops, space.trunk.se_ratio
    layers = cell_layers(space, cut, where, resolution)
    macs = 0 if where[0] else stem_costs(space.trunk, resolution).macs
    for op, layer in zip(prefix, layers, strict=False):
        macs += layer_costs(op, *layer, ratio).macs
    for depth, layer in enumerate(layers[len(prefix) :]):
        macs += sum(layer_costs(op, *layer, ratio).macs for op in ops) * len(ops) ** depth
    return macs


def walk_bytes(space: Space, cut: Cut, where: Where, resolution: int) -> int:
    """The features of one picture that the walk down a cell keeps at a time, and the teacher's."""
    block, _ = where
    layers = cell_layers(space, cut, where, resolution)
    numbers = cut.widths[block] * cut.sizes[block] ** 2
    numbers += sum(layer.width_out * halved(layer.size, layer.stride) ** 2 for layer in layers)
    numbers += layers[0].width_in * layers[0].size ** 2  # what the stem emits in block 1
    return _FLOAT * numbers + (0 if block else 3 * resolution**2)


def worth_measuring(recipe: Distill, pictures: int) -> bool:
    """Whether cells that each train on so many pictures are placed by measured times."""
    return pictures > _WORTH_MEASURING * TRIED * recipe.batch


def loads(plan: RankPlan, work: Mapping[Where, float]) -> list[float]:
    """What every rank of a plan has to do where cells take `work`, whatever it was planned by."""
    taken = [0.0] * plan.ranks
    for where, ranks in plan.ranks_of.items():
        for rank in ranks:
            taken[rank] += work[where] / len(ranks)
    return taken


def useful_ranks(work: Mapping[Where, float], shards: int) -> int:
    """The ranks beyond which the longest becomes no shorter, but for a hundredth."""
    low, high = 1, len(work) * shards
    least = max(plan_ranks(work, high, shards).loads)
    while low < high:
        middle = (low + high) // 2
        if max(plan_ranks(work, middle, shards).loads) <= 1.01 * least:
            high = middle
        else:
            low = middle + 1
    return low


def makespan(seconds: Iterable[float], lanes: int) -> float:
    """When tasks are done, the longest first, each on the lane that is free first."""
    free = [0.0] * lanes
    for length in sorted(seconds, reverse=True):
        heapq.heapreplace(free, free[0] + length)
    return max(free)


def teacher_costs(spec: ModelSpec, resolution: int) -> dict[str, int]:
    """`params` and `macs` of any network, from its shapes alone."""
    with torch.device("meta"):
        return module_costs(build_model(spec), resolution)


def cut_by_shape(spec: ModelSpec, reductions: Sequence[int], resolution: int) -> Cut:
    """Where a network would be cut as a teacher, whatever its weights; raises UserError."""
    with torch.device("meta"):
        model = TrainedModel(spec, build_model(spec).state_dict())
        return cut_teacher(model, reductions, resolution)


def expected_macs(space: Space, table: CostTable, limits: Mapping[str, float]) -> float:
    """Multiply-adds of the network that a search will find: its limit, as far as there is one."""
    low, high = cost_range(space, table)["macs"]
    return min(high, limits.get("macs", (low + high) / 2))


def likely_network(space: Space, limit: float, resolution: int, classes: int) -> NetworkSpec:
    """A network of about `limit` multiply-adds: of those with one op throughout, the nearest."""
    ops = dict.fromkeys(op for block in space.blocks for op in block.ops)
    specs = []
    for op in ops:
        for index in range(max(len(block.cells) for block in space.blocks)):
            cells = [block.cells[min(index, len(block.cells) - 1)] for block in space.blocks]
            own = [op if op in block.ops else block.ops[0] for block in space.blocks]
            choices = [
                BlockChoice(cell.width, (op,) * cell.layers)
                for cell, op in zip(cells, own, strict=True)
            ]
            specs.append(network_spec(space, Architecture(tuple(choices)), classes))
    return min(specs, key=lambda spec: abs(network_costs(spec, resolution).total.macs - limit))
