"""All architectures as the ways through a small graph.

Between two blocks there is a state for each width that makes a difference to the costs behind it;
a step leads from one state to the next by a path of the block, and a last one through the head to
the end. Losses and costs add up along a way.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dna_ray.errors import UserError
from dna_ray.search.pareto import undominated
from dna_ray.search.table import Ratings

Array = np.ndarray


@dataclass(frozen=True)
class Step:
    """The paths of a block from one state to the next, without those that cannot matter.

    `points` (n, 1 + D) holds what is minimised and the D chosen costs, `rows` (n,) the rows of the
    block's table. The head's steps have one row each, -1.
    """

    start: int
    end: int
    rows: Array
    points: Array


Trellis = tuple[tuple[Step, ...], ...]  # blocks in their order, then the head


@dataclass(frozen=True)
class Ways:
    """Beginnings of architectures: `points` (n, 1 + D), `paths` (n, k) the rows taken so far."""

    points: Array
    paths: Array

    def __len__(self) -> int:
        return len(self.points)

    def take(self, index: Array) -> "Ways":
        """Some of them, in the order of `index`."""
        return Ways(self.points[index], self.paths[index])

    @classmethod
    def start(cls, columns: int) -> "Ways":
        """The one way without a path; `columns` is 1 + D."""
        return cls(np.zeros((1, columns)), np.empty((1, 0), np.int32))

    @classmethod
    def together(cls, parts: Sequence["Ways"]) -> "Ways":
        """All ways of several records, in their order."""
        if len(parts) == 1:
            return parts[0]
        points = np.concatenate([part.points for part in parts])
        return cls(points, np.concatenate([part.paths for part in parts]))

    def on(self, step: Step, points: Array, parent: Array, child: Array) -> "Ways":
        """Ways with a path behind them: `points` are those of way `parent` with path `child`."""
        rows = step.rows[child].astype(np.int32)
        return Ways(points, np.column_stack((self.paths[parent], rows)))


def trellis(
    ratings: Ratings, costs: Sequence[str], *, objective: str | None = None, keep: int = 1
) -> Trellis:
    """The graph in which a cost named by `objective` (None: the loss) is to be minimised.

    A path is left out where `keep` others of its step are nowhere worse.
    """
    columns = [ratings.column(cost) for cost in costs]
    target = None if objective is None else ratings.column(objective)
    starts, steps = [0], []
    for k, block in enumerate(ratings.blocks):
        state = block.width if ratings.reads_width(k + 1) else np.zeros_like(block.width)
        numbers, kind = block.kinds
        rated = np.isfinite(block.loss)
        if not rated.any():
            raise UserError(
                f"some path of every block must have a finite loss, but none of block {k + 1} has: "
                "they diverged; rate again with a lower learning rate"
            )
        group = np.unique(state, return_inverse=True)[1] * len(numbers) + kind
        alike = [np.flatnonzero((group == g) & rated) for g in np.unique(group)]
        # Within one kind of path, what the input width adds is the same for all.
        own = _points(block.loss, block.costs, target, columns)
        candidates = np.concatenate([rows[undominated(own[rows], keep)] for rows in alike])
        candidates.sort()
        ends = np.unique(state[candidates])
        step = []
        for start in starts:
            whole = (block.costs + ratings.edge_costs(k, start))[candidates]
            points = _points(block.loss[candidates], whole, target, columns)
            for end in ends:
                rows = np.flatnonzero(state[candidates] == end)
                rows = rows[undominated(points[rows], keep)]
                step.append(Step(start, int(end), candidates[rows], points[rows]))
        steps.append(tuple(step))
        starts = ends.tolist()
    head = []
    for start in starts:
        whole = ratings.head_costs(start)[None]
        points = _points(np.zeros(1), whole, target, columns)
        head.append(Step(start, 0, np.array([-1]), points))
    return (*steps, tuple(head))


def _points(loss: Array, costs: Array, target: int | None, columns: list[int]) -> Array:
    minimised = loss if target is None else costs[:, target]
    return np.column_stack((minimised, costs[:, columns]))
