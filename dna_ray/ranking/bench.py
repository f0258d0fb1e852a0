"""Benches: architectures that were trained one by one, and the accuracy that each reached.

Two forms are read. Ours names an architecture by one text per block, one digit per layer that
indexes `ops`, and may give its own costs, or the widths of its blocks' cells:

    {"ops": ["k3e6", ...], "archs": [{"code": ["11", "1101"], "top1": 75.52, "macs": 3.1e8}, ...]}

NAS-Bench-Macro (https://github.com/xiusu/NAS-Bench-Macro) is read as published: eight blocks of one
layer with ops "0", "1" and "2"; its `mean_acc` is the accuracy, its `flops`, which are counts of
multiply-adds, are the cost `macs`.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dna_ray.errors import UserError, read_text
from dna_ray.search import Ratings, totals

Array = np.ndarray

FEWEST = 3
_MACRO_CODE = re.compile("[012]{8}")
_DIGITS = re.compile("[0-9]+")


@dataclass(frozen=True)
class Bench:
    """N architectures of K blocks, with the accuracy of each."""

    names: tuple[str, ...]  # N codes, as people write them
    paths: tuple[tuple[str, ...], ...]  # N x K: comma-joined ops
    widths: tuple[tuple[int, ...] | None, ...]  # N (x K): of the blocks' cells, where given
    accuracy: Array  # (N,)
    costs: dict[str, Array]  # (N,) each: those that the bench itself knows


@dataclass(frozen=True)
class Rated:
    """The N architectures of a bench with what a ratings table says of them.

    `loss` is the sum of the losses of an architecture's paths. A cost is the bench's own where it
    has it, because it is that of the network as it was trained, else the table's sum.
    """

    names: tuple[str, ...]
    accuracy: Array  # (N,)
    loss: Array  # (N,), lower is better
    costs: dict[str, Array]  # (N,) each; multiply-adds and parameters first

    @property
    def best(self) -> int:
        """The index of the architecture of the greatest accuracy; the first of equals."""
        return int(np.argmax(self.accuracy))

    @property
    def choice(self) -> int:
        """The index of the architecture of the least loss; the first of equals."""
        return int(np.argmin(self.loss))

    @property
    def place(self) -> int:
        """How many architectures are better than the rating's choice, and one."""
        return 1 + int(np.sum(self.accuracy > self.accuracy[self.choice]))


@dataclass(frozen=True)
class _Entry:
    """What a file says of one architecture, not yet checked."""

    place: str
    name: str
    paths: tuple[str, ...]
    accuracy: Any
    widths: Any
    costs: dict[str, Any]


def read_bench(path: Path) -> Bench:
    """Read a bench in either form; raises UserError that names the entry that is wrong."""
    text = read_text(path, "a bench")
    try:
        tree = json.loads(text, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise UserError(f"a bench must be JSON, but '{path}' is not: {error}") from None
    if not isinstance(tree, dict):
        tree = {}
    if {"ops", "archs"} <= tree.keys():
        entries = _entries(tree["ops"], tree["archs"])
    elif any(isinstance(value, dict) and "mean_acc" in value for value in tree.values()):
        entries = [_macro_entry(code, fields) for code, fields in tree.items()]
    else:
        raise UserError(
            'a bench is {"ops": [OP, ...], "archs": [{"code": ["01", ...], "top1": 75.5}, ...]} or '
            f"the file of NAS-Bench-Macro, but '{path}' is neither"
        )
    return _checked(entries)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise UserError(
            f"a bench names everything once, but {_short(twice)} is there twice; remove one"
        )
    return tree


def _entries(ops: Any, archs: Any) -> list[_Entry]:
    names = [op.replace(" ", "") for op in ops] if _texts(ops) else []
    if not names or len(set(names)) < len(names):
        raise UserError(
            f"the ops of a bench must be a list of different texts, but are {_short(ops)}"
        )
    if not isinstance(archs, list):
        raise UserError(f"the archs of a bench must be a list, but are {_short(archs)}")
    return [_entry(names, arch, f"architecture {number}") for number, arch in enumerate(archs, 1)]


def _entry(ops: list[str], arch: Any, place: str) -> _Entry:
    if not isinstance(arch, dict) or not {"code", "top1"} <= arch.keys():
        raise UserError(
            f"an architecture of a bench must have a code and a top1, but {place} is {_short(arch)}"
        )
    code = arch["code"]
    if not _texts(code) or not code:
        raise UserError(
            "a code must be a list of one text per block, one digit per layer, "
            f"but that of {place} is {_short(code)}"
        )
    for number, digits in enumerate(code, 1):
        if not _DIGITS.fullmatch(digits) or max(map(int, digits)) >= len(ops):
            raise UserError(
                f"a digit of a code must be 0 to {min(len(ops), 10) - 1}, the place of an op, "
                f"but block {number} of {place} is {_short(digits)}"
            )
    return _Entry(
        place=f"{place} ({'/'.join(code)})",
        name="/".join(code),
        paths=tuple(",".join(ops[int(digit)] for digit in digits) for digits in code),
        accuracy=arch["top1"],
        widths=arch.get("widths"),
        costs={k: v for k, v in arch.items() if k not in ("code", "top1", "widths")},
    )


def _macro_entry(code: str, fields: Any) -> _Entry:
    if not _MACRO_CODE.fullmatch(code):
        raise UserError(
            "a code of NAS-Bench-Macro must be eight digits of 0, 1 and 2, "
            f"but one is {_short(code)}"
        )
    place = f"architecture {code}"
    if not isinstance(fields, dict) or not {"mean_acc", "params", "flops"} <= fields.keys():
        raise UserError(
            "an architecture of NAS-Bench-Macro must have a mean_acc, params and flops, "
            f"but {place} is {_short(fields)}"
        )
    costs = {"macs": fields["flops"], "params": fields["params"]}
    return _Entry(place, code, tuple(code), fields["mean_acc"], None, costs)


def _checked(entries: list[_Entry]) -> Bench:
    """Entries that agree with each other, as arrays."""
    if len(entries) < FEWEST:
        raise UserError(
            f"a bench must have {FEWEST} architectures or more to rank, but has {len(entries)}; "
            "train more"
        )
    first, seen = entries[0], dict[tuple[Any, ...], str]()
    for entry in entries:
        if len(entry.paths) != len(first.paths):
            raise UserError(
                f"all architectures of a bench must have the same number of blocks, but "
                f"{first.place} has {len(first.paths)} and {entry.place} has {len(entry.paths)}"
            )
        _check_numbers(entry, first)
        key = (entry.paths, tuple(entry.widths or ()))
        if key in seen:
            raise UserError(
                f"a bench has each architecture once, but {entry.place} is {seen[key]} again; "
                "remove one, or give the mean of both"
            )
        seen[key] = entry.place
    accuracy = np.array([entry.accuracy for entry in entries], np.float64)
    if np.all(accuracy == accuracy[0]):
        raise UserError(
            f"the accuracies of a bench must differ to be ranked, but all are {accuracy[0]:g}"
        )
    return Bench(
        names=tuple(entry.name for entry in entries),
        paths=tuple(entry.paths for entry in entries),
        widths=tuple(None if e.widths is None else tuple(e.widths) for e in entries),
        accuracy=accuracy,
        costs={k: np.array([e.costs[k] for e in entries], np.float64) for k in first.costs},
    )


def _check_numbers(entry: _Entry, first: _Entry) -> None:
    if not _finite(entry.accuracy):
        raise UserError(
            f"an accuracy must be a finite number, but that of {entry.place} is "
            f"{_short(entry.accuracy)}; leave that architecture out"
        )
    if entry.costs.keys() != first.costs.keys():
        missing = sorted(entry.costs.keys() ^ first.costs.keys())[0]
        has, lacks = (entry, first) if missing in entry.costs else (first, entry)
        raise UserError(
            f"what one architecture of a bench has all must have, but {has.place} has "
            f"{_short(missing)} and {lacks.place} has not"
        )
    for name, value in entry.costs.items():
        if not _finite(value) or value < 0:
            raise UserError(
                f"a cost must be a finite number and not negative, but {_short(name)} of "
                f"{entry.place} is {_short(value)}"
            )
    whole = isinstance(entry.widths, list) and all(type(w) is int for w in entry.widths)
    if entry.widths is not None and not (whole and len(entry.widths) == len(entry.paths)):
        raise UserError(
            f"widths must be a list of {len(entry.paths)} whole numbers, one per block, but those "
            f"of {entry.place} are {_short(entry.widths)}"
        )


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _finite(value: Any) -> bool:
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:
        return False


def _short(value: Any) -> str:
    """A value as JSON, its beginning where it is long."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def rate(bench: Bench, ratings: Ratings) -> Rated:
    """Look every path up in the table; raises UserError where it is not there, or not alone."""
    have, need = len(ratings.blocks), len(bench.paths[0])
    if have != need:
        raise UserError(
            "a bench and a ratings table must have the same number of blocks, but the bench has "
            f"{need} and the table {have}; give the table of that bench's space"
        )
    rows = np.empty((len(bench.paths), need), np.int64)
    for k, block in enumerate(ratings.blocks):
        found: dict[str, dict[int, int]] = {}  # of every path its rows by width
        for row, (ops, width) in enumerate(zip(block.ops, block.width.tolist(), strict=True)):
            found.setdefault(ops, {})[width] = row
        for n, (paths, widths) in enumerate(zip(bench.paths, bench.widths, strict=True)):
            by_width = found.get(paths[k], {})
            if widths is not None:
                by_width = {w: row for w, row in by_width.items() if w == widths[k]}
            if len(by_width) != 1:
                path = paths[k] + (f" of width {widths[k]}" if widths is not None else "")
                place = f"block {k + 1} of architecture {n + 1} ({bench.names[n]}) is {path}"
                raise _not_one(place, sorted(by_width))
            (rows[n, k],) = by_width.values()
    loss, costs = totals(ratings, rows)
    known = dict(zip(ratings.cost_names, costs.T, strict=True)) | bench.costs
    return Rated(bench.names, bench.accuracy, loss, dict(_in_order(known)))


def _not_one(path: str, widths: list[int]) -> UserError:
    """What is wrong where a path is none of the table's, or that of cells of several widths."""
    if not widths:
        return UserError(
            f"every path of a bench must be in the ratings table, but {path}, which is not there; "
            "give the whole table of that bench's space, or leave that architecture out"
        )
    return UserError(
        f"a path must be of one cell, but {path}, which cells of widths "
        f"{' and '.join(map(str, widths))} have; tell by "
        '"widths": [W, ...], one per block, in that architecture of the bench'
    )


def _in_order(costs: Mapping[str, Array]) -> Iterable[tuple[str, Array]]:
    """Multiply-adds first, then parameters, then the others as they come."""
    first = [name for name in ("macs", "params") if name in costs]
    return ((name, costs[name]) for name in dict.fromkeys((*first, *costs)))
