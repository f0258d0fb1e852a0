"""Reading ratings tables, ours and anyone's, in Parquet or CSV; what is wrong is named by its rows.

Rows are counted from 1; the header of a CSV file is none.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dna_ray.errors import UserError, readable
from dna_ray.search.table import KEYS, BlockPaths, Edge, Ratings

Array = np.ndarray

_NEEDED = ("block", "ops", "loss")
_TEXTS = (pa.string(), pa.large_string())
_PARQUET = b"PAR1"
_UNCLEAR = r"^$|[/:\x00-\x1f]"  # what an architecture's text could not be told apart by
_LARGEST = 1e300  # of a sum: beyond, float64 ends


def load_ratings(path: Path) -> Ratings:
    """Read a table from a Parquet or a CSV file that a user named; raises UserError.

    Needed are the columns `block`, `ops` and `loss`; `cell` and `width` are 0 where they are not
    there; whatever else there is, is a cost.
    """
    with readable(path, "a ratings table"):
        data = path.read_bytes()
    source, is_parquet = pa.BufferReader(data), data.startswith(_PARQUET)
    try:
        table = read_plain_table(source) if is_parquet else _plain(_read_csv(source))
        return ratings_from_arrow(table)
    except UserError as error:
        raise UserError(f"'{path}': {error}") from None
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        reason = " ".join(str(error).split())[:150]
        if isinstance(error, UnicodeDecodeError) or not reason.isprintable():
            reason = "it holds other bytes than text"
        raise UserError(
            f"a ratings table must be a Parquet or CSV file, but '{path}' is not: {reason}"
        ) from None


def read_ratings(source: Path | pa.BufferReader) -> Ratings:
    """Read `ratings.parquet` of a run folder; a path that diverged has a loss that is no number."""
    return ratings_from_arrow(read_plain_table(source), finite=False)


def _read_csv(source: pa.BufferReader) -> pa.Table:
    from pyarrow import csv

    return csv.read_csv(
        source, convert_options=csv.ConvertOptions(column_types={"ops": pa.string()})
    )


def read_plain_table(source: Path | pa.BufferReader) -> pa.Table:
    """Read a Parquet file; raises UserError where a column holds anything but numbers or texts.

    Values of other types can be read by code of whichever library knows the type, and some of it
    unpickles what it finds: the file of a stranger must not get that far.
    """
    return _plain(pq.read_table(source))


def _plain(table: pa.Table) -> pa.Table:
    for column in table.schema:
        kind = column.type
        if pa.types.is_dictionary(kind):  # texts that occur often, as pandas writes categories
            kind = kind.value_type
        known = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)
        if not (known or kind in _TEXTS):
            raise UserError(
                f"a table must have columns of numbers and texts, but '{column.name}' is of type "
                f"{kind}; leave that column out"
            )
    return table


def ratings_from_arrow(table: pa.Table, *, finite: bool = True) -> Ratings:
    """The ratings of a table as `to_arrow` has it, or of one made by hand; raises UserError.

    Unless `finite`, losses may be no numbers.
    """
    names = table.column_names
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"each column must be there once, but '{twice[0]}' is there twice")
    for name in _NEEDED:
        if name not in names:
            there = ", ".join(f"'{other}'" for other in names)
            raise UserError(f"a ratings table must have a column '{name}', but has only {there}")
    if len(table) == 0:
        raise UserError("a ratings table must have a row for every path, but has none")
    costs = tuple(name for name in names if name not in KEYS)
    for name in costs:
        if name.strip().lower() in ("", "architecture", *KEYS):
            raise UserError(
                f"a cost must have a name of its own, but a column is called '{name}'; call it "
                "otherwise, or leave it out"
            )
    ops = pc.replace_substring(pc.fill_null(pc.cast(table["ops"], pa.string()), ""), " ", "")
    unclear = np.asarray(pc.match_substring_regex(ops, _UNCLEAR).to_numpy())
    _refuse(unclear, "ops must be texts without / and : and tabs, joined by commas, but are not")
    block = _whole(table, "block", 1)
    cell, width = _whole(table, "cell", 0), _whole(table, "width", 0)
    values = {name: _numbers(table, name) for name in costs}
    values["loss"] = _numbers(table, "loss", finite=finite)
    for name in costs:
        _refuse(values[name] < 0, f"a cost must be 0 or more, but '{name}' is negative")
    _check_blocks(block)
    _check_paths(block, width, ops)
    rows = [np.flatnonzero(block == number) for number in range(1, int(block.max()) + 1)]
    matrix = np.empty((len(table), len(costs)))
    for index, name in enumerate(costs):
        matrix[:, index] = values[name]
    metadata = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
    edges = _edges(metadata.pop("edges", "[]"), costs)
    fixed = np.array([_fixed(metadata.pop(f"fixed.{name}", "0"), name) for name in costs])
    ratings = Ratings(
        tuple(
            BlockPaths(
                cell=cell[own],
                width=width[own],
                ops=tuple(ops.take(own).to_pylist()),
                loss=values["loss"][own],
                costs=matrix[own],
            )
            for own in rows
        ),
        costs,
        fixed,
        edges,
        metadata,
    )
    _check_edges(ratings)
    if finite:
        _check_sums(ratings)
    return ratings


def _numbers(table: pa.Table, name: str, *, finite: bool = True) -> Array:
    """A column as float64."""
    column = table[name]
    try:
        # Counts beyond 2^53 are rounded, as all sums are.
        values = pc.cast(column, pa.float64(), safe=False)
        values = np.asarray(pc.fill_null(values, np.nan).to_numpy())
    except pa.ArrowException:
        wrong = np.array([not _is_number(text) for text in column.to_pylist()])
        _refuse(wrong, f"the column '{name}' must hold numbers, but holds other texts")
        raise
    _refuse(finite & ~np.isfinite(values), f"'{name}' must be a finite number, but is none")
    return values


def _is_number(text: str | None) -> bool:
    try:
        pc.cast(pa.scalar(text), pa.float64())
    except pa.ArrowException:
        return False
    return True


def _whole(table: pa.Table, name: str, least: int) -> Array:
    """A column of whole numbers from `least` on as int64; 0 where there is no such column."""
    if name not in table.column_names:
        return np.zeros(len(table), np.int64)
    values = _numbers(table, name)
    wrong = (values != np.floor(values)) | (values < least) | (values >= 2**53)
    _refuse(wrong, f"'{name}' must be a whole number, {least} or more, but is not")
    return values.astype(np.int64)


def _check_blocks(block: Array) -> None:
    numbers = np.unique(block)
    gaps = np.flatnonzero(numbers != np.arange(1, len(numbers) + 1))
    if len(gaps):
        after = numbers[gaps[0]]
        raise UserError(
            f"blocks must be numbered from 1 without a gap, but block {gaps[0] + 1} is missing, "
            f"and row {np.flatnonzero(block == after)[0] + 1} is of block {after}; add its paths"
        )


def _check_paths(block: Array, width: Array, ops: pa.ChunkedArray) -> None:
    """A path is named by its block, width and ops: no two may share them."""
    code = np.asarray(ops.combine_chunks().dictionary_encode().indices)
    widths, place = np.unique(width, return_inverse=True)
    key = (block * len(widths) + place) * len(block) + code
    _, number, count = np.unique(key, return_inverse=True, return_counts=True)
    twice = count[number] > 1
    if twice.any():
        same = np.flatnonzero(number == number[np.argmax(twice)])
        row = int(same[0])
        raise UserError(
            f"every path of a block must be there once, but rows {_listed(same)} all are "
            f"'{ops[row]}' in block {block[row]}; leave all but one out, or tell cells apart by "
            "a column 'width'"
        )


def _refuse(wrong: Array, what: str) -> None:
    """Raise UserError naming the rows where `wrong` (n,) holds."""
    rows = np.flatnonzero(wrong)
    if len(rows):
        word = "row" if len(rows) == 1 else "rows"
        raise UserError(f"{what} in {word} {_listed(rows)}; correct it")


def _listed(rows: Array) -> str:
    """Row numbers for people, counted from 1: the first few, and how many more."""
    shown = ", ".join(str(row + 1) for row in rows[:3])
    return shown if len(rows) <= 3 else f"{shown} and {len(rows) - 3:,} more"


def _edges(text: str, costs: Sequence[str]) -> tuple[Edge, ...]:
    try:
        tree: list[dict[str, Any]] = json.loads(text)
        if not isinstance(tree, list):
            raise TypeError(f"they are {tree!r}")
        edges = tuple(
            Edge(
                int(e["block"]),
                int(e["input_width"]),
                int(e["cell"]),
                str(e["op"]),
                tuple(float(e[name]) for name in costs),
            )
            for e in tree
        )
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise UserError(
            "the metadata 'edges' must list the cost differences of every cost column, but "
            f"{type(error).__name__}: {error}; leave it out, or write the table with dna-ray"
        ) from None
    if not np.isfinite([edge.costs for edge in edges]).all():
        raise UserError("the metadata 'edges' must hold finite numbers, but does not; correct it")
    return edges


def _check_edges(ratings: Ratings) -> None:
    """Raise UserError where a path or a head costs less than nothing behind some width."""
    for number, width in sorted({(edge.block, edge.input_width) for edge in ratings.edges}):
        if 1 <= number <= len(ratings.blocks):
            costs = ratings.blocks[number - 1].costs + ratings.edge_costs(number - 1, width)
        else:
            costs = ratings.head_costs(width)[None]
        for name, least in zip(ratings.cost_names, costs.min(axis=0), strict=True):
            if least < 0:
                raise UserError(
                    f"a cost must be 0 or more, but by the metadata 'edges' '{name}' is negative "
                    f"in block {number} behind a width of {width}; correct it"
                )


def _check_sums(ratings: Ratings) -> None:
    """Raise UserError where a sum over blocks could leave the range of float64."""
    sums = np.abs(ratings.fixed)
    losses = 0.0
    with np.errstate(over="ignore"):
        for block in ratings.blocks:
            sums = sums + block.costs.max(axis=0)
            losses += float(np.abs(block.loss).max())
        for edge in ratings.edges:
            sums = sums + np.abs(edge.costs)
    for name, largest in zip(("loss", *ratings.cost_names), (losses, *sums), strict=True):
        if not largest < _LARGEST:
            raise UserError(
                f"sums over blocks must stay below {_LARGEST:g}, but those of '{name}' do not; "
                "use a larger unit"
            )


def _fixed(text: str, name: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise UserError(
            f"the metadata 'fixed.{name}' must be a finite number, but is '{text}'; correct it"
        )
    return value
