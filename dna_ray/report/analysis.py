"""What the ratings table says: ranks, spreads, effects of ops, and architectures at random."""

from dataclasses import dataclass

import numpy as np

from dna_ray.search import Ratings, totals
from dna_ray.search.table import BlockPaths

Array = np.ndarray


@dataclass(frozen=True)
class Spread:
    """The losses of the paths of one cell: how many, and the five numbers of a box plot."""

    cell: int
    width: int
    layers: int
    loss: Array  # (paths,)

    @property
    def quantiles(self) -> tuple[float, ...]:
        """Least, lower quartile, median, upper quartile, greatest; of finite losses alone."""
        known = self.loss[np.isfinite(self.loss)]
        if not len(known):
            return (np.nan,) * 5
        return tuple(map(float, np.quantile(known, (0, 0.25, 0.5, 0.75, 1))))


@dataclass(frozen=True)
class OpEffects:
    """How the ops of one cell rate by layer.

    `mean` (O, L) is the mean loss of the paths that hold an op at a layer. As all paths are rated,
    every op meets every other equally often, so that differences in a column are the op's alone.
    """

    cell: int
    width: int
    ops: tuple[str, ...]
    mean: Array  # (O, L)
    overall: float

    @property
    def relative(self) -> Array:
        """(O, L): the differences from the cell's mean loss as shares of it."""
        with np.errstate(invalid="ignore"):  # a path may have diverged
            return (self.mean - self.overall) / (abs(self.overall) or 1.0)


def spreads(paths: BlockPaths) -> list[Spread]:
    """The losses of a block by cell."""
    result = []
    for cell in np.unique(paths.cell):
        rows = np.flatnonzero(paths.cell == cell)
        layers = paths.ops[rows[0]].count(",") + 1
        result.append(Spread(int(cell), int(paths.width[rows[0]]), layers, paths.loss[rows]))
    return result


def rank(losses: Array, row: int) -> int:
    """The place (1 is best) of one of some losses; equals share the best place."""
    return int(np.sum(losses < losses[row])) + 1


def op_effects(paths: BlockPaths) -> list[OpEffects]:
    """How ops rate by layer, for every cell of a block."""
    result = []
    for spread in spreads(paths):
        rows = np.flatnonzero(paths.cell == spread.cell)
        names = np.array([paths.ops[row].split(",") for row in rows])
        ops = tuple(dict.fromkeys(names[:, -1]))
        mean = np.array([[spread.loss[column == op].mean() for column in names.T] for op in ops])
        overall = float(spread.loss.mean())
        result.append(OpEffects(spread.cell, spread.width, ops, mean, overall))
    return result


def random_architectures(
    ratings: Ratings, draws: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Exact losses (draws,) and costs (draws, C) of architectures drawn uniformly, repeats and all.

    Every path of a block is equally likely, which makes every architecture equally likely.
    """
    sizes = [len(block.loss) for block in ratings.blocks]
    return totals(ratings, rng.integers(0, sizes, size=(draws, len(sizes))))


def path_costs(ratings: Ratings, rows: tuple[int, ...]) -> tuple[Array, Array]:
    """Costs of one architecture by block (K, C), and of its stem and head (C,); they add up."""
    width, parts = 0, []
    for k, (block, row) in enumerate(zip(ratings.blocks, rows, strict=True)):
        parts.append(block.costs[row] + ratings.edge_costs(k, width)[row])
        width = int(block.width[row])
    return np.array(parts), ratings.head_costs(width)
