"""Exact search over all architectures of a ratings table (the searching step of section 3.3).

Losses and costs are sums over blocks, so whatever is dominated within a block, behind the same
input width and with the same width of its own, is dominated in every architecture. Blocks are
reduced to their Pareto sets and merged one after another; what is left at the end is the complete
Pareto front of the whole space, and the best architecture within any limits on its costs is on it.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa

from dna_ray.errors import UserError
from dna_ray.search.pareto import nondominated
from dna_ray.search.table import Ratings
from dna_ray.space import Architecture, BlockChoice, Op

Array = np.ndarray


@dataclass(frozen=True)
class Front:
    """The nondominated architectures in loss and the chosen costs, by growing last cost.

    `paths` (n, K) indexes into each block's rows of the table, `loss` (n,) and `costs` (n, C) are
    exact sums; C counts all cost columns of the table.
    """

    ratings: Ratings
    paths: Array
    loss: Array
    costs: Array

    def __len__(self) -> int:
        return len(self.loss)

    def architecture(self, index: int) -> Architecture:
        """The architecture of one point of the front."""
        choices = []
        for block, path in zip(self.ratings.blocks, self.paths[index], strict=True):
            ops = tuple(Op.parse(op) for op in block.ops[path].split(","))
            choices.append(BlockChoice(int(block.width[path]), ops))
        return Architecture(tuple(choices))

    def to_arrow(self) -> pa.Table:
        """One row per point: the architecture's text, its loss and all its costs."""
        columns = {
            "architecture": [str(self.architecture(i)) for i in range(len(self))],
            "loss": self.loss,
        }
        columns |= {name: self.costs[:, i] for i, name in enumerate(self.ratings.cost_names)}
        return pa.table(columns)


@dataclass(frozen=True)
class Selection:
    """The best architecture within the limits, with what proves it."""

    architecture: Architecture
    loss: float
    costs: dict[str, float]
    limits: dict[str, float]
    front: Front
    candidates: int  # the exact number of architectures that the proof covers
    proven_optimal: bool
    algorithm: str
    seconds: float

    def to_json(self, space: str) -> dict[str, Any]:
        """The architecture's JSON form with what was found and proven of it, in a space's name."""
        return self.architecture.to_json(space) | {
            "text": str(self.architecture),
            "loss": self.loss,
            "costs": {name: int(value) for name, value in self.costs.items()},
            "limits": self.limits,
            "candidates": self.candidates,
            "front_size": len(self.front),
            "algorithm": self.algorithm,
            "proven_optimal": self.proven_optimal,
        }


@dataclass(frozen=True)
class _Partial:
    """Nondominated beginnings of architectures that end in the same width.

    `points` (n, 1 + D) holds the loss and the D chosen costs, `paths` (n, k) the rows taken so far.
    """

    points: Array
    paths: Array


def pareto_front(ratings: Ratings, costs: tuple[str, ...]) -> Front:
    """The complete front of the space in loss and `costs`."""
    columns = [ratings.column(cost) for cost in costs]
    partials = {0: _Partial(np.zeros((1, 1 + len(columns))), np.empty((1, 0), np.int64))}
    for k, block in enumerate(ratings.blocks):
        grown: dict[int, list[_Partial]] = {}
        for input_width, partial in partials.items():
            own = block.costs + ratings.edge_costs(k, input_width)
            points = np.column_stack((block.loss, own[:, columns]))
            for width in np.unique(block.width):
                rows = np.flatnonzero(block.width == width)
                rows = rows[nondominated(points[rows])]
                grown.setdefault(int(width), []).append(_extend(partial, points[rows], rows))
        partials = {width: _best_of(parts) for width, parts in grown.items()}
    ends = [
        _Partial(p.points + np.append(0.0, ratings.head_costs(width)[columns]), p.paths)
        for width, p in partials.items()
    ]
    paths = _best_of(ends).paths
    return Front(ratings, paths, *totals(ratings, paths))


def _extend(partial: _Partial, points: Array, rows: Array) -> _Partial:
    """Every beginning with every path behind it, the nondominated ones."""
    sums = (partial.points[:, None] + points[None]).reshape(-1, points.shape[1])
    keep = nondominated(sums)
    before, path = np.divmod(keep, len(rows))
    return _Partial(sums[keep], np.column_stack((partial.paths[before], rows[path])))


def _best_of(parts: list[_Partial]) -> _Partial:
    if len(parts) == 1:
        return parts[0]
    points = np.concatenate([p.points for p in parts])
    keep = nondominated(points)
    return _Partial(points[keep], np.concatenate([p.paths for p in parts])[keep])


def totals(ratings: Ratings, paths: Array) -> tuple[Array, Array]:
    """The exact loss (n,) and all costs (n, C) of architectures, summed block by block in order.

    `paths` (n, K) indexes into each block's rows of the table.
    """
    loss = np.zeros(len(paths))
    costs = np.zeros((len(paths), len(ratings.cost_names)))
    width = np.zeros(len(paths), np.int64)
    for k, block in enumerate(ratings.blocks):
        loss += block.loss[paths[:, k]]
        for input_width in np.unique(width):
            rows = width == input_width
            own = block.costs + ratings.edge_costs(k, int(input_width))
            costs[rows] += own[paths[rows, k]]
        width = block.width[paths[:, k]]
    for last in np.unique(width):
        costs[width == last] += ratings.head_costs(int(last))
    return loss, costs


def select(ratings: Ratings, limits: Mapping[str, float]) -> Selection:
    """The architecture of least loss whose costs are all within `limits`, proven over all of them.

    Of equal losses the one with the smaller first limited cost wins. Raises UserError where no
    architecture meets the limits, saying which and what could be met.
    """
    start = time.perf_counter()
    front = pareto_front(ratings, tuple(limits))
    columns = [ratings.column(cost) for cost in limits]
    within = np.flatnonzero(np.all(front.costs[:, columns] <= list(limits.values()), axis=1))
    if len(within) == 0:
        check_limits(ratings, limits)
    keys = [front.costs[within, c] for c in reversed(columns)]
    best = int(within[np.lexsort((*keys, front.loss[within]))[0]])
    costs = front.costs[best].tolist()
    return Selection(
        architecture=front.architecture(best),
        loss=float(front.loss[best]),
        costs=dict(zip(ratings.cost_names, costs, strict=True)),
        limits=dict(limits),
        front=front,
        candidates=_candidates(ratings),
        proven_optimal=True,
        algorithm="pareto",
        seconds=time.perf_counter() - start,
    )


def _candidates(ratings: Ratings) -> int:
    total = 1
    for block in ratings.blocks:
        total *= len(block.loss)
    return total


def check_limits(ratings: Ratings, limits: Mapping[str, float]) -> None:
    """Raise UserError where no architecture meets `limits`; losses play no part.

    The message names the smallest set of limits that clash, and for each of them the smallest
    value that can be met while the others hold.
    """
    costs_only = Ratings(
        tuple(
            type(b)(b.cell, b.width, b.ops, np.zeros_like(b.loss), b.costs) for b in ratings.blocks
        ),
        ratings.cost_names,
        ratings.fixed,
        ratings.edges,
    )
    for size in range(1, len(limits) + 1):
        for names in combinations(limits, size):
            totals = pareto_front(costs_only, names).costs[:, [ratings.column(n) for n in names]]
            fits = totals <= [limits[n] for n in names]
            if np.any(np.all(fits, axis=1)):
                continue
            remedies = []
            for i, name in enumerate(names):
                others = np.all(np.delete(fits, i, axis=1), axis=1)
                remedies.append(f"{name}={np.min(totals[others, i]):.17g}")
            given = " and ".join(f"{n}={limits[n]:.17g}" for n in names)
            if size == 1:
                raise UserError(
                    f"some architecture must meet the limit, but none meets {given}; "
                    f"the smallest that can be met is {remedies[0]}"
                )
            raise UserError(
                f"some architecture must meet all limits, but none meets {given} together; "
                f"raise one of them, the others held: {' or '.join(remedies)}"
            )
