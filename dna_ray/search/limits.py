"""The best architectures within any number of limits, exactly, by merging block after block.

A beginning of an architecture is dropped where the relaxation shows that no end of it can be within
the limits and as good as what is known to exist already, or where others like it are nowhere worse.
"""

from collections.abc import Iterator
from functools import cached_property

import numpy as np

from dna_ray.search.pareto import undominated
from dna_ray.search.relaxation import Relaxation, least, relax
from dna_ray.search.trellis import Step, Trellis, Ways

Array = np.ndarray

BEAM = 1000  # beginnings that the first, quick look keeps after a block
MOST = 3_000_000  # beginnings after a block beyond which merging is given up
_WIDENING = 20  # so many times as many are looked at for those that can be within the limits
_PAIRS_PER_WAY = 10  # so many pairs are looked at for one beginning before it is given up
_CHUNK = 1_000_000  # pairs at a time
_MANY = 5_000  # from here on dominated beginnings are looked for
_BREADTH = 200  # paths that every beginning is tried with at least, in the quick look
_LEANING = 1e-6  # towards small costs, in spreads of losses over spreads of costs
_SLACK = 1e-12  # of the size of what is summed: bounds are sums in another order


class Merge:
    """The search within `limits` (D,) for the `count` best ways through a trellis.

    The trellis must keep `count` of dominated paths.
    """

    def __init__(self, trellis: Trellis, limits: Array, count: int = 1) -> None:
        self.trellis, self.limits, self.count = trellis, limits, count
        self.relaxation: Relaxation = relax(trellis, limits)
        self._units = np.eye(1 + len(limits))[1:]  # that weigh one cost alone
        self._cheapest = [least(trellis, unit)[0] for unit in self._units]
        # No sum of losses is larger; costs are 0 or more and cannot cancel.
        self._size = float(
            sum(max(np.abs(step.points[:, 0]).max() for step in steps) for steps in trellis)
        )
        self._ceiling = limits + _SLACK * np.abs(limits)

    def best(self) -> Ways | None:
        """The best ways, best first; fewer where there are no more; None where it took too many."""
        known = self.known
        enough = len(known) == self.count
        found = self._run(self.threshold(known.points[-1, 0] if enough else np.inf))
        if found is None and enough and known.points[-1, 0] <= self.relaxation.bound:
            return known  # none can be better, though some may be as good
        return found

    @cached_property
    def known(self) -> Ways:
        """Good ways, found quickly; perhaps the best, perhaps none although there are some.

        Only the most promising beginnings are kept after a block, of about equal ones the cheaper.
        """
        spread = self.relaxation.spread
        weights = self.relaxation.weights + np.append(0.0, _LEANING * spread[0] / spread[1:])
        ways = {0: Ways.start(len(weights))}
        for k, steps in enumerate(self.trellis, 1):
            grown: dict[int, list[Ways]] = {}
            for step in steps:
                before = ways[step.start]
                parent, child = _best_pairs(before.points @ weights, step.points @ weights)
                extended = self._extended(before, step, parent, child, k)
                grown.setdefault(step.end, []).append(extended)
            ways = {end: _nearest(Ways.together(parts), weights) for end, parts in grown.items()}
        return self._sorted(ways)

    def threshold(self, loss: float) -> float:
        """What loss and priced costs may sum to where a loss must be no greater than `loss`."""
        priced = self.relaxation.weights[1:] * self.limits
        return float(loss + priced.sum() + _SLACK * (self._size + np.abs(priced).sum()))

    def open_paths(self, threshold: float) -> list[list[Array]]:
        """For every step, in the trellis's order, which of its paths a way may take.

        Those through which some way stays within `threshold`, some within the first limit, some
        within the second, and so on.
        """
        weights, to_go = self.relaxation.weights, self.relaxation.to_go
        sums = [(weights, to_go, threshold)]
        sums += zip(self._units, self._cheapest, self._ceiling.tolist(), strict=True)
        open_ = [[np.ones(len(step.rows), bool) for step in steps] for steps in self.trellis]
        for weights, to_go, most in sums:
            so_far = {0: 0.0}
            for k, steps in enumerate(self.trellis):
                after: dict[int, float] = {}
                for step, may in zip(steps, open_[k], strict=True):
                    own = so_far[step.start] + step.points @ weights
                    may &= own + to_go[k + 1][step.end] <= most
                    after[step.end] = min(after.get(step.end, np.inf), float(own.min()))
                so_far = after
        return open_

    def _run(self, threshold: float) -> Ways | None:
        """Merge all blocks as far as `threshold` allows. None: more than MOST are left."""
        weights, to_go = self.relaxation.weights, self.relaxation.to_go
        ways = {0: Ways.start(len(weights))}
        for k, steps in enumerate(self.trellis, 1):
            grown: dict[int, list[Ways]] = {}
            compared = found = 0
            for step in steps:
                before = ways[step.start]
                room = threshold - to_go[k][step.end] - before.points @ weights
                own = grown.setdefault(step.end, [])
                for parent, child in _pairs_within(room, step.points @ weights):
                    own.append(self._extended(before, step, parent, child, k))
                    compared += len(parent)
                    found += len(own[-1])
                    if compared > _PAIRS_PER_WAY * MOST or found > MOST:
                        return None
            ways = {end: self._undominated(Ways.together(parts)) for end, parts in grown.items()}
        return self._sorted(ways)

    def _extended(self, before: Ways, step: Step, parent: Array, child: Array, k: int) -> Ways:
        """Beginnings with paths behind them, those that the cheapest end brings within limits."""
        points = before.points[parent] + step.points[child]
        fits = np.ones(len(points), bool)
        for i, cheapest in enumerate(self._cheapest):
            fits &= points[:, 1 + i] + cheapest[k][step.end] <= self._ceiling[i]
        return before.on(step, points[fits], parent[fits], child[fits])

    def _undominated(self, ways: Ways) -> Ways:
        if len(ways) <= _MANY:
            return ways
        return ways.take(undominated(ways.points, self.count))

    def _sorted(self, ends: dict[int, Ways]) -> Ways:
        """Whole architectures within the limits by loss, then by cost, then by rows."""
        ways = ends[0]
        ways = ways.take(np.all(ways.points[:, 1:] <= self.limits, axis=1))
        keys = (*ways.paths.T[::-1], *ways.points.T[::-1])
        return ways.take(np.lexsort(keys)[: self.count])


def _nearest(ways: Ways, weights: Array) -> Ways:
    """Those of the smallest weighted sums."""
    return ways.take(np.argsort(ways.points @ weights, kind="stable")[:BEAM])


def _best_pairs(one: Array, other: Array) -> tuple[Array, Array]:
    """Pairs (i, j) of small sums, `other` no further than needed for a multiple of BEAM."""
    breadth = max(_BREADTH, _WIDENING * BEAM // max(1, len(one)))
    first = np.argsort(other, kind="stable")[:breadth]
    sums = (one[:, None] + other[first]).ravel()
    if len(sums) <= _WIDENING * BEAM:
        chosen = np.arange(len(sums))
    else:
        chosen = np.argpartition(sums, _WIDENING * BEAM)[: _WIDENING * BEAM]
        chosen.sort()
    parent, place = np.divmod(chosen, len(first))
    return parent, first[place]


def _pairs_within(room: Array, sums: Array) -> Iterator[tuple[Array, Array]]:
    """All pairs (i, j) with `sums[j] <= room[i]`, some at a time; once at least."""
    order = np.argsort(sums, kind="stable")
    counts = np.searchsorted(sums[order], room, side="right")
    total = np.cumsum(counts)
    cuts = np.searchsorted(total, np.arange(_CHUNK, int(total[-1:].sum()), _CHUNK), side="right")
    for own in np.split(np.arange(len(room)), np.unique(cuts)):
        parent = np.repeat(own, counts[own])
        place = np.arange(len(parent)) - np.repeat(
            np.cumsum(counts[own]) - counts[own], counts[own]
        )
        yield parent, order[place]
