"""Cells of a block aligned with each other, by paths of each that were trained alone.

Cells differ in depth and width, and so in how much of what they share the same short training
reaches: all paths of a deeper cell rate worse than they deserve, by about as much. That much of
each cell, its offset, is what some of its paths lose more when trained alone than they rate, in the
mean (less than 0, as a rule). It is added to the losses of all its paths, which then stand beside
those of other cells as paths trained alone do. Measured by tests/benchmarks/ground_truth.py.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dna_ray.errors import UserError
from dna_ray.ranking.truth import Paths
from dna_ray.search import Ratings
from dna_ray.search.table import BlockPaths

ALIGNED = "aligned"  # in the metadata of such a table: the numbers of the blocks
LEAST = 3  # paths of a cell, where it has as many, of which its offset is the mean


def aligned(ratings: Ratings, parts: Sequence[Paths]) -> Ratings:
    """The ratings with the offset of its cell added to each path, in the blocks of `parts`.

    Raises UserError where a cell of such a block has fewer than `LEAST` paths that were trained
    alone, though it has more.
    """
    known = {part.block: part for part in parts}
    return replace(
        ratings,
        blocks=tuple(
            _aligned(block, known[number]) if number in known else block
            for number, block in enumerate(ratings.blocks, 1)
        ),
        metadata=ratings.metadata | {ALIGNED: ",".join(map(str, sorted(known)))},
    )


def _aligned(block: BlockPaths, part: Paths) -> BlockPaths:
    more, loss = part.alone - part.loss, block.loss.copy()
    for cell in np.unique(block.cell).tolist():
        own, trained = block.cell == cell, part.cell == cell
        needed = min(LEAST, int(own.sum()))
        if trained.sum() < needed:
            raise UserError(
                f"{needed} paths of a cell must be trained alone to align it, but of cell {cell} "
                f"of block {part.block} it is {trained.sum()}; train more with dna-ray verify"
            )
        loss[own] += more[trained].mean()
    return replace(block, loss=loss)
