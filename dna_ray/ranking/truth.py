"""Is the rating of a run true? Paths held against themselves trained alone, block by block.

Figures are Kendall's tau-b over pairs of paths of one block: losses of different blocks are never
compared, as the search only adds them up. Intervals are 95 % percentile bootstraps over paths, all
from the same resamples, so that differences are paired.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dna_ray.randomness import generator
from dna_ray.ranking.agreement import kendall_within, midranks
from dna_ray.ranking.evaluation import Figure
from dna_ray.search import Ratings

Array = np.ndarray

_PAIRS = 2**22  # values of a matrix of pairs and random orders that are held together


class Training(NamedTuple):
    """A path trained alone, for the time number `turn`, from 1, on `images` pictures an epoch."""

    block: int  # 1-based
    cell: int
    ops: str  # comma-joined
    images: int
    turn: int


def trainings_table(losses: Mapping[Training, float]) -> pa.Table:
    """Losses as a table with a row each, to keep."""
    return pa.Table.from_pylist([t._asdict() | {"loss": loss} for t, loss in losses.items()])


def read_trainings(source: Any) -> dict[Training, float]:
    """The losses of such a table in a Parquet file or stream."""
    rows = pq.read_table(source).to_pylist()
    return {Training(*(row[name] for name in Training._fields)): row["loss"] for row in rows}


@dataclass(frozen=True, kw_only=True)
class Paths:
    """N paths of one block: how they rate, and what they lose when each is trained alone."""

    block: int  # 1-based
    cell: Array  # (N,), 0-based
    ops: tuple[str, ...]  # N texts, comma-joined
    loss: Array  # (N,): the rating
    turns: Array  # (N, T): trained alone up to T times; NaN where not so often
    costs: dict[str, Array]  # (N,) each

    @property
    def alone(self) -> Array:
        """(N,): the mean loss of a path when trained alone."""
        return np.asarray(np.nanmean(self.turns, axis=1))


@dataclass(frozen=True, kw_only=True)
class Truth:
    """How far the rating, and what one could choose by instead, order paths as training does.

    Of the costs, more is better. `lead` is the rating's tau less that of the cost that agrees best;
    `chance` that of a random order; `itself` that of two trainings of the same paths, None where
    none was trained twice. `favour` says of each cell, where it is a single block's truth and that
    has several, how much better its paths rate than they deserve, in places of 100. `aligned` is
    the rating's tau with cells aligned, each path by the others of its cell, over paths that have
    such others; `gain` is how far that is above the rating's of these paths. Both are None where no
    block has several cells.
    """

    paths: int
    rating: Figure
    costs: dict[str, Figure]
    lead: Figure | None
    chance: Figure
    favour: dict[int, Figure]
    aligned: Figure | None
    gain: Figure | None
    itself: Figure | None

    @property
    def best_cost(self) -> str | None:
        """The cost whose tau is the greatest; None where none is defined."""
        known = {name: f.value for name, f in self.costs.items() if isfinite(f.value)}
        return max(known, key=known.__getitem__) if known else None


def drawn_rows(ratings: Ratings, block: int, count: int, of_each_cell: int = 0) -> Array:
    """The rows of `count` paths of a block (1-based), drawn at random by the run's own seed.

    Then as many as make `of_each_cell` of every cell that has so many. Greater numbers draw the
    same and more.
    """
    cells = ratings.blocks[block - 1].cell
    seed = int(ratings.metadata.get("seed", 0))
    order = generator(seed, "verify", block).permutation(len(cells))
    of_cells = [order[cells[order] == cell][:of_each_cell] for cell in np.unique(cells)]
    return np.array(list(dict.fromkeys(np.concatenate([order[:count], *of_cells]).tolist())))


def paths_alone(ratings: Ratings, losses: Mapping[Training, float]) -> list[Paths]:
    """The paths that were trained alone, by block, with their ratings and costs.

    In the order of the ratings, so that intervals do not hang on which was trained first.
    """
    return [
        _paths(ratings, block, {t: loss for t, loss in losses.items() if t.block == block})
        for block in sorted({training.block for training in losses})
    ]


def _paths(ratings: Ratings, block: int, losses: Mapping[Training, float]) -> Paths:
    table = ratings.blocks[block - 1]
    numbers = {
        path: row for row, path in enumerate(zip(table.cell.tolist(), table.ops, strict=True))
    }
    row_of = {training: numbers[training.cell, training.ops] for training in losses}
    rows = sorted(set(row_of.values()))
    turns = np.full((len(rows), max(t.turn for t in losses)), np.nan)
    for training, loss in losses.items():
        turns[rows.index(row_of[training]), training.turn - 1] = loss
    return Paths(
        block=block,
        cell=table.cell[rows],
        ops=tuple(table.ops[row] for row in rows),
        loss=table.loss[rows],
        turns=turns,
        costs=dict(zip(ratings.cost_names, table.costs[rows].T, strict=True)),
    )


def hold_against(parts: Sequence[Paths], *, resamples: int = 1000, seed: int = 0) -> Truth:
    """Hold the ratings of paths, of one block or more, against their losses when trained alone."""
    weights = [_weightings(part, resamples, seed) for part in parts]
    alone = [part.alone for part in parts]

    def tau(scores: Sequence[Array], truths: Sequence[Array]) -> Array:
        return kendall_within(list(zip(scores, truths, weights, strict=True)))

    rating = tau([part.loss for part in parts], alone)
    # Where a path costs more, its loss should be less.
    costs = {n: tau([-part.costs[n] for part in parts], alone) for n in parts[0].costs}
    lead = rating - np.fmax.reduce(list(costs.values())) if costs else None
    aligned, gain = _aligned(parts, weights)
    return Truth(
        paths=sum(len(part.loss) for part in parts),
        rating=Figure.of(rating),
        costs={name: Figure.of(values) for name, values in costs.items()},
        lead=None if lead is None else Figure.of(lead),
        chance=_chance(alone, resamples, seed),
        favour=_favour(parts[0], weights[0]) if len(parts) == 1 else {},
        aligned=aligned,
        gain=gain,
        itself=_itself(parts, weights),
    )


def _itself(parts: Sequence[Paths], weights: Sequence[Array]) -> Figure | None:
    """Agreement of the first two trainings, over the paths that had them."""
    groups = []
    for part, counts in zip(parts, weights, strict=True):
        if part.turns.shape[1] > 1:
            both = np.isfinite(part.turns[:, :2]).all(axis=1)
            groups.append((part.turns[both, 0], part.turns[both, 1], counts[both]))
    return Figure.of(kendall_within(groups)) if groups else None


def _aligned(
    parts: Sequence[Paths], weights: Sequence[Array]
) -> tuple[Figure | None, Figure | None]:
    """The rating's tau with the offsets of cells, which the other paths of a cell give each."""
    if all(len(np.unique(part.cell)) < 2 for part in parts):
        return None, None
    before, after = [], []
    for part, counts in zip(parts, weights, strict=True):
        alone, offset = part.alone, np.zeros(len(part.loss))
        if len(np.unique(part.cell)) > 1:
            same = part.cell[:, None] == part.cell
            np.fill_diagonal(same, val=False)
            with np.errstate(invalid="ignore"):
                offset = same @ (alone - part.loss) / same.sum(axis=1)
        known = np.isfinite(offset)
        before.append((part.loss[known], alone[known], counts[known]))
        after.append(((part.loss + offset)[known], alone[known], counts[known]))
    taus = kendall_within(after)
    return Figure.of(taus), Figure.of(taus - kendall_within(before))


def _favour(part: Paths, weights: Array) -> dict[int, Figure]:
    """Places of 100 that each cell's paths are ahead of where training alone puts them.

    The search compares paths of all cells of a block, though cells differ in depth and width.
    """
    cells = np.unique(part.cell)
    if len(cells) < 2:
        return {}
    counts = weights.astype(np.float64)
    ahead = counts * (midranks(part.alone, counts) - midranks(part.loss, counts))
    places = 100 / counts.sum(axis=0)
    with np.errstate(invalid="ignore"):
        return {
            int(cell): Figure.of(
                places
                * ahead[part.cell == cell].sum(axis=0)
                / counts[part.cell == cell].sum(axis=0)
            )
            for cell in cells
        }


def _weightings(part: Paths, resamples: int, seed: int) -> Array:
    """(N, 1 + R): how often each path counts, once each at first."""
    count = len(part.loss)
    rng = generator(seed, "resamples", part.block)
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=resamples)
    return np.vstack([np.ones(count), drawn]).T.astype(np.float32)


def _chance(truths: Sequence[Array], orders: int, seed: int) -> Figure:
    """Tau of random orders: 0 in the mean, and where 95 % of them lie."""
    rng, concordant, possible = generator(seed, "random orders"), np.zeros(orders), 0.0
    untied = 0
    for truth in truths:
        left, right = np.triu_indices(len(truth), 1)
        signs = np.sign(truth[left] - truth[right])
        untied += int(np.count_nonzero(signs))
        possible += len(signs)
        size = max(1, _PAIRS // max(1, len(signs)))
        for start in range(0, orders, size):
            ranks = rng.random((min(size, orders - start), len(truth)))
            concordant[start : start + len(ranks)] += (
                np.sign(ranks[:, left] - ranks[:, right]) @ signs
            )
    if not untied:
        return Figure(np.nan, np.nan, np.nan)
    return Figure.of(np.append(0.0, concordant / np.sqrt(possible * untied)))
