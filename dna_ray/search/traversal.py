"""Algorithm 2 of the paper, as printed: nested loops over the blocks' paths by growing loss.

Exact, and an oracle for small spaces: it visits every beginning of an architecture that keeps to
the limits so far. The last block's loop ends at the first path that fits.
"""

import time
from dataclasses import dataclass

import numpy as np

from dna_ray.errors import UserError
from dna_ray.search.table import Ratings

Array = np.ndarray

_LOOK = 1024  # visits between two looks at the clock


@dataclass
class Traversal:
    """The best architecture (rows in each block; None: none fits), its loss, and the visits made.

    `whole` says whether the traversal came to its end.
    """

    paths: Array | None
    loss: float
    visits: int
    whole: bool


class _OutOfTimeError(Exception):
    pass


class _Search:
    """The state of Algorithm 2: `Pool` is `blocks`, `C` the `limits`, `M` the best `paths`."""

    def __init__(self, ratings: Ratings, limits: dict[str, float], seconds: float | None) -> None:
        self._ratings = ratings
        self._columns = [ratings.column(name) for name in limits]
        self._limits = np.array(list(limits.values()))
        self._order = [np.argsort(block.loss, kind="stable") for block in ratings.blocks]
        last = ratings.blocks[-1].width[self._order[-1]].tolist()
        heads = {width: ratings.head_costs(width)[self._columns] for width in set(last)}
        self.heads = np.array([heads[width] for width in last])  # (P, D)
        self._pools: dict[tuple[int, int], tuple[Array, list[float], list[int]]] = {}
        self._end = np.inf if seconds is None else time.monotonic() + seconds
        self.best = Traversal(None, np.inf, 0, True)

    def _pool(self, block: int, width: int) -> tuple[Array, list[float], list[int]]:
        """Costs (P, D), losses and widths of a block behind `width`, by growing loss."""
        if (block, width) not in self._pools:
            own, order = self._ratings.blocks[block], self._order[block]
            costs = (own.costs + self._ratings.edge_costs(block, width))[order][:, self._columns]
            self._pools[block, width] = costs, own.loss[order].tolist(), own.width[order].tolist()
        return self._pools[block, width]

    def search(self, block: int, size: Array, loss: float, width: int, taken: list[int]) -> None:
        """SearchBlock(B, size_prev, loss_prev)."""
        costs, losses, widths = self._pool(block, width)
        sizes = size + costs
        if block == len(self._order) - 1:
            fits = np.all(sizes + self.heads <= self._limits, axis=1)
            first = int(np.argmax(fits))
            self._visit(first + 1 if fits[first] else len(fits))
            if fits[first] and loss + losses[first] <= self.best.loss:
                rows = [order[i] for order, i in zip(self._order, [*taken, first], strict=True)]
                self.best.loss, self.best.paths = loss + losses[first], np.array(rows)
            return
        fits = np.all(sizes <= self._limits, axis=1)
        for i, within in enumerate(fits.tolist()):
            self._visit(1)
            if within:
                self.search(block + 1, sizes[i], loss + losses[i], widths[i], [*taken, i])

    def _visit(self, count: int) -> None:
        before, self.best.visits = self.best.visits, self.best.visits + count
        if before // _LOOK != self.best.visits // _LOOK and time.monotonic() > self._end:
            raise _OutOfTimeError


def traverse(ratings: Ratings, limits: dict[str, float], seconds: float | None = None) -> Traversal:
    """Run Algorithm 2 within `limits`, for so many `seconds` at most (None: to its end)."""
    search = _Search(ratings, limits, seconds)
    if (search.heads < 0).any():
        raise UserError(
            "Algorithm 2 needs costs of 0 or more, but stem and head have less; "
            "use --algorithm pareto"
        )
    try:
        search.search(0, np.zeros(len(limits)), 0.0, 0, [])
    except _OutOfTimeError:
        search.best.whole = False
    return search.best
