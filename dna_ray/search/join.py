"""Another cost for rated paths: an additive cost of a space becomes a column of a ratings table."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from dna_ray.errors import UserError
from dna_ray.search.table import Edge, Ratings, ratings_of
from dna_ray.space import CostTable, Space

Array = np.ndarray


def check_paths(ratings: Ratings, space: Space) -> None:
    """Raise UserError where a row is no path of `space`, naming it."""
    named = ratings.metadata.get("space", space.name)
    if named != space.name:
        raise UserError(
            f"ratings must be of the space that is measured, but they are of '{named}' and the "
            f"space is '{space.name}'; give --space {named}"
        )
    if len(ratings.blocks) != len(space.blocks):
        raise UserError(
            f"ratings of space '{space.name}' must have {len(space.blocks)} blocks, but have "
            f"{len(ratings.blocks)}; give their --space"
        )
    for number, (rows, block) in enumerate(zip(ratings.blocks, space.blocks, strict=True), 1):
        ops = set(map(str, block.ops))
        for cell, width, path in zip(rows.cell, rows.width, rows.ops, strict=True):
            names = path.split(",")
            if (
                0 <= cell < len(block.cells)
                and len(names) == block.cells[cell].layers
                and width in (0, block.cells[cell].width)
                and ops.issuperset(names)
            ):
                continue
            raise UserError(
                f"every row of the ratings must be a path of space '{space.name}', but '{path}' of "
                f"block {number}, cell {cell}, width {width} is none; see dna-ray space"
            )


def join_cost(
    ratings: Ratings, space: Space, name: str, table: CostTable, metadata: Mapping[str, str]
) -> Ratings:
    """`ratings` with the column `name` from the costs of `table`, which has one (C = 1).

    A column of that name is replaced; all else stays, and `metadata` is added. Rows without a
    width get that of their cell, because the costs of the next block depend on it. Raises UserError
    where a row is no path of `space`.
    """
    check_paths(ratings, space)
    kept = [i for i, other in enumerate(ratings.cost_names) if other != name]
    nothing = [
        [np.zeros(block.count(c)) for c in range(len(block.cells))] for block in space.blocks
    ]
    whole = ratings_of(space, table, nothing, {})
    blocks = []
    for rows, paths in zip(ratings.blocks, whole.blocks, strict=True):
        number = {key: i for i, key in enumerate(zip(paths.cell.tolist(), paths.ops, strict=True))}
        taken = [number[key] for key in zip(rows.cell.tolist(), rows.ops, strict=True)]
        costs = np.column_stack((rows.costs[:, kept], paths.costs[taken]))
        blocks.append(replace(rows, width=paths.width[taken], costs=costs))
    edges: dict[tuple[int, int, int, str], Array] = {}
    for edge in ratings.edges:
        edges.setdefault(_key(edge), np.zeros(len(kept) + 1))[:-1] += np.array(edge.costs)[kept]
    for edge in whole.edges:
        edges.setdefault(_key(edge), np.zeros(len(kept) + 1))[-1:] += edge.costs
    return Ratings(
        blocks=tuple(blocks),
        cost_names=(*(ratings.cost_names[i] for i in kept), name),
        fixed=np.append(ratings.fixed[kept], whole.fixed),
        edges=tuple(Edge(*key, tuple(costs.tolist())) for key, costs in edges.items()),
        metadata={**ratings.metadata, **metadata},
    )


def _key(edge: Edge) -> tuple[int, int, int, str]:
    return edge.block, edge.input_width, edge.cell, edge.op
