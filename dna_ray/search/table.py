"""The ratings table: one row per path with its loss and its costs (design: the file contract).

Losses add up over blocks (Eq 4 with all lambda_k = 1), and so do costs, but for one thing: the
first layer of a block costs more or less with the width that it reads, which is that of the cell
chosen in the block before. A path's row holds its cost behind the *first* cell of the block before;
`edges` in the table's metadata says, for every other width, cell and first op, the difference.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from dna_ray.errors import UserError, nearest
from dna_ray.space import COSTS, CostTable, Space, last_widths

Array = np.ndarray

KEYS = ("block", "cell", "width", "ops", "loss")  # all other columns are costs


@dataclass(frozen=True)
class BlockPaths:
    """The paths of one block: P rows in a fixed order."""

    cell: Array  # (P,) int64, 0-based
    width: Array  # (P,) int64: what the block after it reads; 0 where the space has no widths
    ops: tuple[str, ...]  # P texts, comma-joined
    loss: Array  # (P,) float64
    costs: Array  # (P, C) float64

    @cached_property
    def kinds(self) -> tuple[dict[tuple[int, str], int], Array]:
        """The pairs of a cell and a first op that occur, numbered; and (P,) each path's number.

        By these, costs differ with the width that the block reads.
        """
        numbers: dict[tuple[int, str], int] = {}
        first_ops = (ops.partition(",")[0] for ops in self.ops)
        pairs = zip(self.cell.tolist(), first_ops, strict=True)
        return numbers, np.array([numbers.setdefault(pair, len(numbers)) for pair in pairs])


@dataclass(frozen=True)
class Edge:
    """What a path costs more (C values) when its block reads `input_width` channels.

    It holds for the paths of `cell` that begin with `op`. The edge of the block after the last one
    (cell -1, no op) is the head's.
    """

    block: int  # 1-based
    input_width: int
    cell: int
    op: str
    costs: tuple[float, ...]


@dataclass(frozen=True)
class Ratings:
    """All rated paths of a space: what the search reads and `ratings.parquet` holds."""

    blocks: tuple[BlockPaths, ...]
    cost_names: tuple[str, ...]
    fixed: Array  # (C,) float64: stem and head
    edges: tuple[Edge, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def progressive(self) -> bool:
        """Whether paths were rated behind beginnings (section 4.6): their losses do not add up."""
        return self.metadata.get("method", "").startswith("progressive")

    @property
    def interactions(self) -> float:
        """The part of what ops of a path have to do with each other that losses keep; 1 is all."""
        return float(self.metadata.get("interactions", "1"))

    @property
    def members(self) -> int:
        """Of how many networks of its cell a path's loss is the mean."""
        return int(self.metadata.get("members", "1"))

    def column(self, cost: str) -> int:
        """The index of a cost column; raises UserError for one that is not there."""
        if cost not in self.cost_names:
            known = ", ".join(self.cost_names) or "none"
            raise UserError(
                f"a limit must be on a cost of the table ({known}), but names '{cost}'; "
                f"{nearest(cost, self.cost_names)}"
            )
        return self.cost_names.index(cost)

    def edge_costs(self, block: int, input_width: int) -> Array:
        """(P, C): what each path of `block` (0-based) costs more behind `input_width` channels."""
        numbers, kind = self.blocks[block].kinds
        extra = np.zeros((len(numbers), len(self.cost_names)))
        for edge in self.edges:
            if (edge.block, edge.input_width) == (block + 1, input_width):
                number = numbers.get((edge.cell, edge.op))
                if number is not None:
                    extra[number] += edge.costs
        return np.asarray(extra[kind])

    def text(self, paths: Array) -> str:
        """An architecture's text, from the row that it takes in each block.

        Where the table has no widths a block is written by its ops alone.
        """
        return "/".join(
            f"{block.width[row]}:{block.ops[row]}" if block.width[row] else block.ops[row]
            for block, row in zip(self.blocks, paths, strict=True)
        )

    @property
    def architectures(self) -> int:
        """The exact number of architectures."""
        return math.prod(len(block.loss) for block in self.blocks)

    def reads_width(self, block: int) -> bool:
        """Whether the costs of `block` (0-based; the head comes last) depend on what it reads."""
        return any(edge.block == block + 1 for edge in self.edges)

    def head_costs(self, width: int) -> Array:
        """(C,): what stem and head cost behind a last block of `width` channels."""
        total = self.fixed.copy()
        for edge in self.edges:
            if (edge.block, edge.input_width) == (len(self.blocks) + 1, width):
                total += edge.costs
        return total


def ratings_of(
    space: Space, table: CostTable, losses: Sequence[Sequence[Array]], metadata: dict[str, str]
) -> Ratings:
    """Join losses, `losses[k][c]` (paths,) in the order of `Block.paths`, with exact costs.

    A cell all of whose losses are NaN was not rated, and has no rows.
    """
    blocks, edges = [], []
    for k, block in enumerate(space.blocks):
        counts = [block.count(c) for c in range(len(block.cells))]
        rated = [c for c in range(len(counts)) if not np.isnan(losses[k][c]).all()]
        own = [counts[c] for c in rated]
        blocks.append(
            BlockPaths(
                cell=np.repeat(rated, own),
                width=np.repeat([block.cells[c].width for c in rated], own),
                ops=tuple(",".join(map(str, p)) for c in rated for p in block.paths(c)),
                loss=np.concatenate([np.asarray(losses[k][c], np.float64) for c in rated]),
                costs=np.concatenate([table.paths[k][c][0] for c in rated]).astype(np.float64),
            )
        )
        for w, width in enumerate(space.input_widths(k)[1:], 1):
            for c in range(len(counts)):
                stride = counts[c] // len(block.ops)  # the first op changes every `stride` paths
                extra = (table.paths[k][c][w] - table.paths[k][c][0])[::stride]
                edges += [
                    Edge(k + 1, width, c, str(op), tuple(map(float, costs)))
                    for op, costs in zip(block.ops, extra, strict=True)
                ]
    edges += [
        Edge(len(blocks) + 1, width, -1, "", tuple(map(float, fixed - table.fixed[0])))
        for width, fixed in list(zip(last_widths(space), table.fixed, strict=True))[1:]
    ]
    return Ratings(
        blocks=tuple(blocks),
        cost_names=COSTS,
        fixed=table.fixed[0].astype(np.float64),
        edges=tuple(edges),
        metadata={"space": space.name, "resolution": str(table.resolution), **metadata},
    )


def to_arrow(ratings: Ratings) -> pa.Table:
    """The table as the contract has it; fixed costs and edges go into the schema's metadata."""
    columns: dict[str, Any] = {
        "block": np.repeat(
            np.arange(1, len(ratings.blocks) + 1), [len(b.loss) for b in ratings.blocks]
        ),
        "cell": np.concatenate([b.cell for b in ratings.blocks]),
        "width": np.concatenate([b.width for b in ratings.blocks]),
        "ops": [ops for b in ratings.blocks for ops in b.ops],
        "loss": np.concatenate([b.loss for b in ratings.blocks]),
    }
    costs = np.concatenate([b.costs for b in ratings.blocks])
    columns |= {
        name: _whole(costs[:, i]) if name in COSTS else costs[:, i]
        for i, name in enumerate(ratings.cost_names)
    }
    metadata = dict(ratings.metadata)
    metadata |= {
        f"fixed.{name}": f"{value:.17g}"
        for name, value in zip(ratings.cost_names, ratings.fixed, strict=True)
    }
    metadata["edges"] = json.dumps(list(_edge_rows(ratings)))
    return pa.table(columns).replace_schema_metadata(metadata)


def _whole(values: Array) -> Array:
    """Counts as integers; anything else as it is."""
    return values.astype(np.int64) if np.all(values == np.floor(values)) else values


def _edge_rows(ratings: Ratings) -> Iterator[dict[str, Any]]:
    for edge in ratings.edges:
        row = {
            "block": edge.block,
            "input_width": edge.input_width,
            "cell": edge.cell,
            "op": edge.op,
        }
        yield row | dict(zip(ratings.cost_names, edge.costs, strict=True))
