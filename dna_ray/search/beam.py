"""The search of the progressive strategies (section 4.6): block by block, the best beginnings kept.

A block's paths are rated behind the beginnings that were kept of the blocks before it. Of all pairs
of such a beginning and a path the best are the next beginnings, as far as some end of the
architecture can still bring them within the limits. That is a beam: nothing proves its answer.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import pyarrow as pa

from dna_ray.errors import UserError
from dna_ray.search.front import Front
from dna_ray.search.pareto import nondominated
from dna_ray.search.selection import Candidate, Certificate, Selection
from dna_ray.search.table import Ratings
from dna_ray.space import COSTS, Beginning, CostTable, Op, Space, last_widths

Array = np.ndarray
Losses = Sequence[Sequence[Array]]  # of a block: [beginning][cell] (paths,), NaN where not rated


@dataclass(frozen=True)
class Grown:
    """Pairs (n,) of a beginning and a path of the block behind it, best first.

    `row` is the path's in the order of `Block.paths`. `costs` (n, C) are those of the blocks so
    far, in the last block with stem and head. Those that cannot be completed within the limits are
    not `within`.
    """

    beginning: Array
    cell: Array
    row: Array
    loss: Array
    costs: Array
    within: Array


class Beam:
    """Grows beginnings block by block, and keeps the `most` best of each."""

    def __init__(
        self, space: Space, table: CostTable, limits: Mapping[str, float], most: int
    ) -> None:
        """`limits` are on costs of the `table`."""
        self._space, self._table, self._most = space, table, most
        self._limits = dict(limits)
        self._columns = [COSTS.index(name) for name in limits]
        self._ends = self._all_ends()

    def _all_ends(self) -> list[dict[int, Array]]:
        """For every block, by the width that it emits: limited costs (n, D) of all behind it.

        Stem and head are counted in, and what costs more in every way is left out.
        """
        fixed = (costs[None, self._columns] for costs in self._table.fixed)
        ends = [dict(zip(last_widths(self._space), fixed, strict=True))]
        for block in reversed(range(1, len(self._space.blocks))):
            ends.append({})
            for index, width in enumerate(self._space.input_widths(block)):
                sums = []
                for cell, shape in enumerate(self._space.blocks[block].cells):
                    own = self._table.paths[block][cell][index][:, self._columns]
                    own = own[nondominated(own)]
                    behind = ends[-2][shape.width]
                    sums.append((own[:, None] + behind).reshape(-1, len(self._columns)))
                whole = np.concatenate(sums)
                ends[-1][width] = whole[nondominated(whole)]
        return ends[::-1]

    def grow(self, beginnings: Sequence[Beginning], losses: Losses) -> Grown:
        """All pairs of `beginnings` and a rated path of the block behind them."""
        block, parts = len(beginnings[0]), []
        for number, (beginning, cells) in enumerate(zip(beginnings, losses, strict=True)):
            before, index = self._costs(beginning)
            for cell, loss in enumerate(cells):
                width = self._space.blocks[block].cells[cell].width
                costs = before + self._table.paths[block][cell][index]
                within = np.zeros(len(loss), bool)
                for end in self._ends[block][width]:
                    whole = costs[:, self._columns] + end
                    within |= np.all(whole <= [*self._limits.values()], axis=1)
                if block + 1 == len(self._space.blocks):
                    costs = costs + self._table.fixed[last_widths(self._space).index(width)]
                same = np.ones(len(loss), np.int64)
                rows = np.arange(len(loss))
                parts.append((number * same, cell * same, rows, loss, costs, within))
        grown = Grown(*map(np.concatenate, zip(*parts, strict=True)))
        order = np.lexsort((*grown.costs[:, self._columns[::-1]].T, grown.loss))
        order = order[~np.isnan(grown.loss[order])]
        return Grown(*(values[order] for values in vars(grown).values()))

    def _costs(self, beginning: Beginning) -> tuple[Array, int]:
        """The costs (C,) of a beginning's blocks, and which of its input widths the next block has.

        The width is an index into `Space.input_widths`.
        """
        total, index = np.zeros(len(COSTS), np.int64), 0
        for block, (cell, path) in enumerate(beginning):
            shape = self._space.blocks[block]
            total += self._table.paths[block][cell][index][_row(shape.ops, path)]
            if block + 1 < len(self._space.blocks):
                index = self._space.input_widths(block + 1).index(shape.cells[cell].width)
        return total, index

    def kept(self, beginnings: Sequence[Beginning], grown: Grown) -> tuple[Beginning, ...]:
        """The best beginnings with one block more; raises UserError where none can be completed."""
        best = np.flatnonzero(grown.within)[: self._most]
        if len(best) == 0:
            given = " and ".join(f"{name}={value:.17g}" for name, value in self._limits.items())
            raise UserError(
                f"a beginning must be completed within {given}, but none that is rated in block "
                f"{len(beginnings[0]) + 1} can be; raise a limit, or set distill.beam higher"
            )
        return tuple(self._grown(beginnings, grown, number) for number in best)

    def _grown(self, beginnings: Sequence[Beginning], grown: Grown, number: int) -> Beginning:
        beginning, cell = beginnings[grown.beginning[number]], int(grown.cell[number])
        block = self._space.blocks[len(beginning)]
        path = _path(block.ops, block.cells[cell].layers, int(grown.row[number]))
        return (*beginning, (cell, path))

    def selected(
        self, ratings: Ratings, beginnings: Sequence[Beginning], grown: Grown
    ) -> Selection:
        """The best of the last block's pairs within the limits, with the front of them all.

        `ratings` hold the paths of all blocks. Raises UserError as `kept` does.
        """
        start = time.perf_counter()
        best, *_ = self.kept(beginnings, grown)
        loss, costs = grown.loss, grown.costs.astype(np.float64)
        chosen, points = np.argmax(grown.within), np.column_stack((loss, costs[:, self._columns]))
        front = nondominated(points)
        paths = [self._rows(ratings, self._grown(beginnings, grown, n)) for n in front]
        found = Candidate(
            ratings.text(self._rows(ratings, best)),
            tuple(self._rows(ratings, best).tolist()),
            float(loss[chosen]),
            dict(zip(COSTS, costs[chosen].tolist(), strict=True)),
        )
        certificate = Certificate(
            proven_optimal=False,
            bound=-np.inf,
            gap=np.inf,
            algorithm="beam",
            candidates=len(loss),
            seed=ratings.metadata.get("seed"),
            versions={name: version(name) for name in ("dna-ray", "numpy", "scipy")},
        )
        return Selection(
            ratings=ratings,
            best=(found,),
            limits=self._limits,
            front=Front(ratings, tuple(self._limits), np.array(paths), loss[front], costs[front]),
            certificate=certificate,
            seconds=time.perf_counter() - start,
        )

    def _rows(self, ratings: Ratings, beginning: Beginning) -> Array:
        """The row that an architecture takes in each block of a ratings table."""
        parts = zip(ratings.blocks, self._space.blocks, beginning, strict=True)
        return np.array(
            [
                np.searchsorted(rated.cell, cell) + _row(block.ops, path)
                for rated, block, (cell, path) in parts
            ]
        )


def losses_table(space: Space, losses: Losses, block: int) -> pa.Table:
    """The losses of a block (0-based) as a record: a row for every pair, beginnings numbered."""
    shape = space.blocks[block]
    paths = [(c, ",".join(map(str, p))) for c in range(len(shape.cells)) for p in shape.paths(c)]
    cells, ops = zip(*paths, strict=True)
    return pa.table(
        {
            "beginning": np.repeat(np.arange(len(losses)), len(paths)),
            "cell": cells * len(losses),
            "ops": ops * len(losses),
            "loss": np.concatenate([loss for own in losses for loss in own]),
        }
    )


def read_losses(space: Space, table: pa.Table, block: int) -> list[list[Array]]:
    """The losses that `losses_table` wrote."""
    shape = space.blocks[block]
    ends = np.cumsum([shape.count(c) for c in range(len(shape.cells))])
    rows = table["loss"].to_numpy().reshape(-1, ends[-1])
    return [np.split(own, ends[:-1]) for own in rows]


def _row(ops: Sequence[Op], path: Sequence[Op]) -> int:
    """The place of a path in the order of `Block.paths`."""
    row = 0
    for op in path:
        row = row * len(ops) + ops.index(op)
    return row


def _path(ops: Sequence[Op], layers: int, row: int) -> tuple[Op, ...]:
    """The path at a place in the order of `Block.paths`."""
    return tuple(ops[row // len(ops) ** layer % len(ops)] for layer in reversed(range(layers)))
