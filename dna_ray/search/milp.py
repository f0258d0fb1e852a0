"""The same search as an integer program, solved by HiGHS (scipy): for what merging cannot hold.

One unit flows through the trellis; which step it takes is 0 or 1. HiGHS works to tolerances, so
that what it finds is summed up again here, and excluded where it breaks a limit by a hair.
"""

import time
from dataclasses import dataclass

import numpy as np

from dna_ray.search.limits import Merge
from dna_ray.search.trellis import Trellis, Ways

Array = np.ndarray

_SCALE = 1e4  # the spread of losses in the program, whose gap HiGHS closes to 1e-6
_TINY = 1e-300  # losses that differ by less are taken for equal
_OPTIMAL, _INFEASIBLE = 0, 2  # scipy's states


@dataclass(frozen=True)
class Solution:
    """The best ways found, best first, and a bound that no other way within the limits is below.

    Where `proven`, the ways are the best; those of `milp` up to HiGHS's tolerance (1e-10 of the
    spread of losses).
    """

    ways: Ways
    bound: float
    proven: bool
    algorithm: str


def best_ways(
    trellis: Trellis,
    limits: Array,
    count: int = 1,
    *,
    algorithm: str = "pareto",
    seconds: float | None = None,
) -> Solution:
    """The `count` best ways within `limits` (D,): by merging, or by `milp` where it gives up."""
    merge = Merge(trellis, limits, count)
    merged = merge.best() if algorithm == "pareto" else None
    if merged is None:
        return solve(merge, seconds)
    return Solution(merged, float(merged.points[:, 0].min(initial=np.inf)), True, "pareto")


def solve(merge: Merge, seconds: float | None = None) -> Solution:
    """The best ways that `merge` looks for, in so many `seconds` at most (None: to the end)."""
    end = np.inf if seconds is None else time.monotonic() + seconds
    limits, count, known = merge.limits, merge.count, merge.known
    worst = known.points[-1, 0] if len(known) == count else np.inf
    program = Program(merge, merge.threshold(worst))
    points, paths = np.empty((0, 1 + len(limits))), np.empty((0, len(merge.trellis)), np.int64)
    bound, proven = merge.relaxation.bound, True
    while len(points) < count and program.arcs:
        state, arcs, below = program.best(end - time.monotonic())
        if len(points) == 0:
            bound = max(bound, below)
        if arcs is not None:
            program.exclude(arcs)
            way = program.points[arcs].cumsum(axis=0)[-1:]  # in the order of the blocks
            if np.all(way[:, 1:] <= limits):
                points = np.concatenate((points, way))
                paths = np.concatenate((paths, program.rows[arcs][None]))
        if state != _OPTIMAL:
            proven = state == _INFEASIBLE
            break
    # What the quick look found may be better: by a hair, or where time ran out.
    points = np.concatenate((points, known.points))
    paths = np.concatenate((paths, known.paths))
    paths, first = np.unique(paths, axis=0, return_index=True)
    points = points[first]
    order = np.lexsort(points.T[::-1])[:count]
    return Solution(Ways(points[order], paths[order]), bound, proven, "milp")


class Program:
    """Variables are the steps that a way no worse than what is known can take."""

    def __init__(self, merge: Merge, threshold: float) -> None:
        from scipy import sparse

        trellis, limits = merge.trellis, merge.limits
        kept = [
            (k, step, np.flatnonzero(may))
            for k, layer in enumerate(zip(trellis, merge.open_paths(threshold), strict=True))
            for step, may in zip(*layer, strict=True)
        ]
        self.points = np.concatenate([step.points[own] for _, step, own in kept])
        self.rows = np.concatenate([step.rows[own] for _, step, own in kept])
        self.arcs = len(self.rows)
        layer = np.concatenate([np.full(len(own), k) for k, _, own in kept])
        nodes: dict[tuple[int, int], int] = {(0, 0): 0}
        ends = [(nodes.setdefault((k, s.start), len(nodes)), len(own)) for k, s, own in kept]
        start = np.repeat(*map(np.array, zip(*ends, strict=True)))
        ends = [(nodes.setdefault((k + 1, s.end), len(nodes)), len(own)) for k, s, own in kept]
        end = np.repeat(*map(np.array, zip(*ends, strict=True)))
        ones, arcs = np.ones(self.arcs), np.arange(self.arcs)
        flow = sparse.coo_array(
            (np.append(ones, -ones), (np.append(start, end), np.append(arcs, arcs))),
            shape=(len(nodes), self.arcs),
        )
        source = np.zeros(len(nodes))
        source[0], source[nodes[len(trellis), 0]] = 1, -1
        least = np.full(len(trellis), np.inf)
        np.minimum.at(least, layer, self.points[:, 0])
        above = self.points[:, 0] - least[layer]
        self._unit = _SCALE / max(float(above.max(initial=0.0)), _TINY)
        self._objective, self._offset = above * self._unit, float(least.sum())
        largest = np.abs(self.points[:, 1:]).max(axis=0, initial=0.0)
        scale = np.where(largest > 0, largest, 1.0)
        self._flow = flow.tocsr(), source, source
        self._costs = (self.points[:, 1:] / scale).T, -np.inf, limits / scale
        self._excluded: list[Array] = []

    def exclude(self, arcs: Array) -> None:
        """From now on another way must be taken."""
        row = np.zeros(self.arcs)
        row[arcs] = 1
        self._excluded.append(row)

    def best(self, seconds: float) -> tuple[int, Array | None, float]:
        """HiGHS's state, the best way as its steps block by block, and the bound on its loss."""
        from scipy.optimize import LinearConstraint, milp

        constraints = [LinearConstraint(*self._flow)]
        if self.points.shape[1] > 1:
            constraints.append(LinearConstraint(*self._costs))
        if self._excluded:
            rows = np.array(self._excluded)
            constraints.append(LinearConstraint(rows, -np.inf, rows.sum(axis=1) - 1))
        options = {"mip_rel_gap": 0.0}
        if np.isfinite(seconds):
            options["time_limit"] = max(seconds, 0.0)
        found = milp(
            self._objective,
            integrality=np.ones(self.arcs),
            bounds=(0, 1),
            constraints=constraints,
            options=options,
        )
        arcs = None if found.x is None else np.flatnonzero(found.x > 0.5)
        bound = -np.inf
        if found.status == _INFEASIBLE:
            bound = np.inf
        elif found.mip_dual_bound is not None:
            bound = self._offset + float(found.mip_dual_bound) / self._unit
        return int(found.status), arcs, bound
