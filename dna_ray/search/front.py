"""The complete Pareto front of a space, and exact sums over any of its architectures."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dna_ray.search.pareto import nondominated
from dna_ray.search.table import Ratings
from dna_ray.search.trellis import Step, Ways, trellis

Array = np.ndarray


@dataclass(frozen=True)
class Front:
    """The nondominated architectures in loss and the costs `over`, by growing last cost.

    `paths` (n, K) indexes into each block's rows of the table, `loss` (n,) and `costs` (n, C) are
    exact sums; C counts all cost columns of the table.
    """

    ratings: Ratings
    over: tuple[str, ...]
    paths: Array
    loss: Array
    costs: Array

    def __len__(self) -> int:
        return len(self.loss)

    def to_arrow(self) -> pa.Table:
        """One row per point: the architecture's text, its loss and all its costs."""
        columns = {
            "architecture": [self.ratings.text(paths) for paths in self.paths],
            "loss": self.loss,
        }
        columns |= {name: self.costs[:, i] for i, name in enumerate(self.ratings.cost_names)}
        return pa.table(columns).replace_schema_metadata({"over": ",".join(self.over)})


class TooLargeError(Exception):
    """A front takes more comparisons than was allowed."""


def pareto_front(ratings: Ratings, costs: tuple[str, ...], most: int | None = None) -> Front:
    """The complete front of the space in loss and `costs`.

    Raises TooLargeError where more than `most` pairs of a beginning and a path must be compared.
    """
    ways = {0: Ways.start(1 + len(costs))}
    compared = 0
    for steps in trellis(ratings, costs):
        grown: dict[int, list[Ways]] = {}
        for step in steps:
            before = ways[step.start]
            compared += len(before) * len(step.rows)
            if most is not None and compared > most:
                raise TooLargeError
            grown.setdefault(step.end, []).append(_extended(before, step))
        ways = {end: _best_of(parts) for end, parts in grown.items()}
    paths = ways[0].paths[:, :-1]
    return Front(ratings, tuple(costs), paths, *totals(ratings, paths))


def _extended(before: Ways, step: Step) -> Ways:
    """Every beginning with every path behind it, the nondominated ones."""
    sums = (before.points[:, None] + step.points[None]).reshape(-1, step.points.shape[1])
    keep = nondominated(sums)
    return before.on(step, sums[keep], *np.divmod(keep, len(step.rows)))


def _best_of(parts: list[Ways]) -> Ways:
    ways = Ways.together(parts)
    return ways if len(parts) == 1 else ways.take(nondominated(ways.points))


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
