"""The ratings table: one row per path with its loss and its costs (design: the file contract).

Losses add up over blocks (Eq 4 with all lambda_k = 1), and so do costs, but for one thing: the
first layer of a block costs more or less with the width that it reads, which is that of the cell
chosen in the block before. A path's row holds its cost behind the *first* cell of the block before;
`edges` in the table's metadata says, for every other width, cell and first op, the difference.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dna_ray.errors import UserError, nearest
from dna_ray.space import COSTS, CostTable, Space

Array = np.ndarray

_TEXTS = (pa.string(), pa.large_string())


@dataclass(frozen=True)
class BlockPaths:
    """The paths of one block: P rows in a fixed order."""

    cell: Array  # (P,) int64, 0-based
    width: Array  # (P,) int64: what the block after it reads; 0 where the space has no widths
    ops: tuple[str, ...]  # P texts, comma-joined
    loss: Array  # (P,) float64
    costs: Array  # (P, C) float64

    @cached_property
    def first_op(self) -> Array:
        """(P,) the text of every path's first op."""
        return np.array([ops.partition(",")[0] for ops in self.ops])


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
        paths = self.blocks[block]
        extra = np.zeros_like(paths.costs)
        for edge in self.edges:
            if (edge.block, edge.input_width) == (block + 1, input_width):
                extra[(paths.cell == edge.cell) & (paths.first_op == edge.op)] += edge.costs
        return extra

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
    """Join losses, `losses[k][c]` (paths,) in the order of `Block.paths`, with exact costs."""
    blocks, edges = [], []
    for k, block in enumerate(space.blocks):
        counts = [block.count(c) for c in range(len(block.cells))]
        blocks.append(
            BlockPaths(
                cell=np.repeat(np.arange(len(counts)), counts),
                width=np.repeat([cell.width for cell in block.cells], counts),
                ops=tuple(
                    ",".join(map(str, p)) for c in range(len(counts)) for p in block.paths(c)
                ),
                loss=np.concatenate([np.asarray(x, np.float64) for x in losses[k]]),
                costs=np.concatenate([c[0] for c in table.paths[k]]).astype(np.float64),
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
    last_widths = tuple(dict.fromkeys(cell.width for cell in space.blocks[-1].cells))
    edges += [
        Edge(len(blocks) + 1, width, -1, "", tuple(map(float, fixed - table.fixed[0])))
        for width, fixed in list(zip(last_widths, table.fixed, strict=True))[1:]
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


def _matrix(rows: pa.Table, names: Sequence[str]) -> Array:
    """Columns side by side as float64, of the right height even where there are none."""
    matrix = np.empty((len(rows), len(names)))
    for index, name in enumerate(names):
        matrix[:, index] = rows[name].to_numpy()
    return matrix


def read_plain_table(source: Path | pa.BufferReader) -> pa.Table:
    """Read a Parquet file; raises UserError where a column holds anything but numbers or texts.

    Values of other types can be read by code of whichever library knows the type, and some of it
    unpickles what it finds: the file of a stranger must not get that far.
    """
    table = pq.read_table(source)
    for column in table.schema:
        kind = column.type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or kind in _TEXTS):
            raise UserError(
                f"a table must have columns of numbers and texts, but '{column.name}' is of type "
                f"{kind}; leave that column out"
            )
    return table


def read_ratings(source: Path | pa.BufferReader) -> Ratings:
    """Read `ratings.parquet` as `to_arrow` lays it out."""
    table = read_plain_table(source)
    metadata = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
    names = tuple(
        n for n in table.column_names if n not in ("block", "cell", "width", "ops", "loss")
    )
    block = table["block"].to_numpy()
    blocks = []
    for number in range(1, int(block.max()) + 1):
        rows = table.filter(pa.array(block == number))
        blocks.append(
            BlockPaths(
                cell=rows["cell"].to_numpy(),
                width=rows["width"].to_numpy(),
                ops=tuple(rows["ops"].to_pylist()),
                loss=rows["loss"].to_numpy(),
                costs=_matrix(rows, names),
            )
        )
    edges = tuple(
        Edge(e["block"], e["input_width"], e["cell"], e["op"], tuple(e[n] for n in names))
        for e in json.loads(metadata.pop("edges", "[]"))
    )
    fixed = np.array([float(metadata.pop(f"fixed.{name}", "0")) for name in names])
    return Ratings(tuple(blocks), names, fixed, edges, metadata)
