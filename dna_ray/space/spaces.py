"""A search space: blocks of cells (paper, Table 1), as dataclasses and in TOML."""

import math
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Any

from dna_ray.errors import UserError, nearest, read_text
from dna_ray.space.ops import Op, parse_ops

ACTIVATIONS = ("silu", "relu", "relu6")
_SINGLE = "-single"  # behind a built-in name: its `Space.single`

Path_ = tuple[Op, ...]
Where = tuple[int, int]  # a block and one of its cells, both 0-based
Beginning = tuple[tuple[int, Path_], ...]  # of the first blocks: a cell (0-based), a path of it


def cell_text(where: Where) -> str:
    """What people are told of where a cell is: blocks are counted from 1, cells from 0."""
    return f"block {where[0] + 1}, cell {where[1]}"


def cell_name(where: Where) -> str:
    """What a cell's weights are filed under."""
    return f"block-{where[0] + 1}-cell-{where[1]}"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One weight-sharing unit of a block: `layers` layers whose outputs have `width` channels."""

    layers: int
    width: int


@dataclass(frozen=True, kw_only=True)
class Block:
    """A step of the network: its first layer has `stride`, one of `cells` is chosen."""

    stride: int
    ops: tuple[Op, ...]
    cells: tuple[Cell, ...]

    def paths(self, cell: int) -> Iterator[Path_]:
        """Every path of a cell (0-based), in lexicographic order of the block's ops."""
        return product(self.ops, repeat=self.cells[cell].layers)

    def count(self, cell: int) -> int:
        """How many paths a cell (0-based) has."""
        return int(len(self.ops) ** self.cells[cell].layers)


@dataclass(frozen=True, kw_only=True)
class Trunk:
    """What all networks of a space have in common outside their blocks, and how layers are built.

    The stem is a 3x3 convolution of stride 2 to `stem_width` channels and `stem_layers`
    depthwise-separable 3x3 layers to `stem_out`; the head a 1x1 convolution to `head_width`.
    """

    stem_width: int = 32
    stem_out: int = 16
    stem_layers: int = 1
    head_width: int = 1280
    se_ratio: float = 0.25
    activation: str = "silu"


@dataclass(frozen=True, kw_only=True)
class Space:
    """A whole search space at its default `resolution` (pixels on a side)."""

    name: str
    resolution: int
    trunk: Trunk
    blocks: tuple[Block, ...]

    @property
    def architectures(self) -> int:
        """The exact number of architectures: the product over blocks of the sum over cells."""
        return math.prod(sum(b.count(c) for c in range(len(b.cells))) for b in self.blocks)

    @property
    def cells(self) -> tuple[Where, ...]:
        """Where all cells are."""
        return tuple((b, c) for b, k in enumerate(self.blocks) for c in range(len(k.cells)))

    @property
    def reductions(self) -> tuple[int, ...]:
        """How many input pixels one pixel spans on a side after each block."""
        reductions, total = [], 2
        for block in self.blocks:
            total *= block.stride
            reductions.append(total)
        return tuple(reductions)

    def single(self) -> "Space":
        """The space with the first cell of every block alone (section 4.6, single cell)."""
        blocks = tuple(replace(block, cells=block.cells[:1]) for block in self.blocks)
        return replace(self, name=self.name + _SINGLE, blocks=blocks)

    def input_widths(self, block: int) -> tuple[int, ...]:
        """The widths that a block (0-based) can be given, by the cells of the one before it."""
        if block == 0:
            return (self.trunk.stem_out,)
        return tuple(dict.fromkeys(cell.width for cell in self.blocks[block - 1].cells))


def builtin_names() -> list[str]:
    """The names of the spaces that come with the package."""
    folder = resources.files("dna_ray.space") / "builtin"
    return sorted(
        f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")
    )


def load_space(name: str) -> Space:
    """A built-in space by name, or a user's own from a TOML file; raises UserError.

    NAME-single is the built-in NAME with the first cell of every block alone.
    """
    if name.endswith(".toml"):
        return parse_space(read_text(Path(name), "a space file"), name)
    if name.endswith(_SINGLE):
        return load_space(name.removesuffix(_SINGLE)).single()
    if name not in builtin_names():
        raise UserError(
            f"a space must be a built-in name or a .toml file, but '{name}' is neither; "
            f"{nearest(name, builtin_names())}"
        )
    source = resources.files("dna_ray.space") / "builtin" / f"{name}.toml"
    return parse_space(source.read_text(encoding="utf-8"), name)


def parse_space(text: str, source: str) -> Space:
    """Read a space from TOML `text`; errors name `source` and the key that is wrong."""
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"a space file must be TOML, but {source} is not: {error}") from None
    lines = _Lines(source, text.splitlines())
    table = _Table(tree, lines)
    ops = _ops(table.take("ops", list), lines.place("ops"))
    stem = _Table(table.take("stem", dict, {}), lines.within("stem"))
    trunk = Trunk(
        stem_width=stem.positive("width", 32),
        stem_out=stem.positive("out", 16),
        head_width=table.positive("head", 1280),
        se_ratio=float(table.take("se_ratio", (int, float), 0.25)),
        activation=table.take("activation", str, "silu"),
    )
    stem.finish()
    if trunk.activation not in ACTIVATIONS:
        raise UserError(
            f"{lines.place('activation')} must be known, but '{trunk.activation}' is given; "
            f"{nearest(trunk.activation, ACTIVATIONS)}"
        )
    if not 0 <= trunk.se_ratio <= 1:
        raise UserError(
            f"{lines.place('se_ratio')} must lie between 0 and 1, but is {trunk.se_ratio}"
        )
    space = Space(
        name=table.take("name", str),
        resolution=table.positive("resolution", 224),
        trunk=trunk,
        blocks=tuple(
            _block(_Table(block, lines.block(number)), ops)
            for number, block in enumerate(table.take("blocks", list), 1)
        ),
    )
    table.finish()
    if not space.blocks:
        raise UserError(f"{source}: a space must have one block or more; add [[blocks]]")
    return space


class _Lines:
    """Where in a TOML text a table stands, so that an error can name the line of a key."""

    def __init__(self, source: str, lines: Sequence[str], table: str = "", first: int = 1) -> None:
        self._source, self._lines, self._table, self._first = source, lines, table, first

    def place(self, key: str | None = None) -> str:
        """The source, the line of `key` if it is written on one, the table and the key."""
        line = self._find(rf"(.*[\s{{,])?{key}\s*=") if key else None
        if line is None and self._table:
            line = self._first
        where = self._source if line is None else f"{self._source}, line {line}"
        return ": ".join([where, *filter(None, (self._table, key and f"'{key}'"))])

    def within(self, key: str) -> "_Lines":
        """The inline table that is the value of `key`."""
        line = self._find(rf"\[?\s*{key}\b")
        if line is None:
            return _Lines(self._source, [], key, self._first)
        return _Lines(self._source, self._lines[line - self._first :], key, line)

    def block(self, number: int) -> "_Lines":
        """The lines of a block, from one [[blocks]] to the next."""
        starts = [i for i, line in enumerate(self._lines) if re.match(r"\s*\[\[\s*blocks\b", line)]
        table = f"block {number}"
        if len(starts) < number:  # the blocks are written in one line
            return _Lines(self._source, [], table, self._find(r"\s*blocks\b") or 1)
        start, end = [*starts, len(self._lines)][number - 1 : number + 1]
        return _Lines(self._source, self._lines[start:end], table, self._first + start)

    def cell(self, number: int) -> "_Lines":
        """The line of a cell (0-based): that of its brace, counted from `cells` on."""
        start = (self._find(r"\s*cells\b") or self._first) - self._first
        left, table = number + 1, f"{self._table}, cell {number}"
        for index, line in enumerate(self._lines[start:], start):
            left -= line.split("#")[0].count("{")
            if left <= 0:
                return _Lines(self._source, [line], table, self._first + index)
        return _Lines(self._source, [], table, self._first + start)

    def _find(self, pattern: str) -> int | None:
        numbers = (i for i, line in enumerate(self._lines) if re.match(pattern, line))
        index = next(numbers, None)
        return None if index is None else self._first + index


class _Table:
    """A TOML table that is read key by key, so that an unknown or missing key is named."""

    def __init__(self, tree: Any, lines: _Lines) -> None:
        self.lines = lines
        if not isinstance(tree, Mapping):
            raise UserError(f"{lines.place()} must be a table, but is {tree!r}")
        self._tree, self._known = dict(tree), set[str]()

    def take(self, name: str, kind: Any, default: Any = None) -> Any:
        self._known.add(name)
        if name not in self._tree:
            if default is None:
                raise UserError(
                    f"{self.lines.place()} must have the key '{name}', but has it not; add it"
                )
            return default
        value = self._tree[name]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise UserError(f"{self.lines.place(name)} is of the wrong kind: {value!r}")
        return value

    def has(self, name: str) -> bool:
        self._known.add(name)
        return name in self._tree

    def positive(self, name: str, default: int | None = None) -> int:
        value = int(self.take(name, int, default))
        if value < 1:
            raise UserError(f"{self.lines.place(name)} must be 1 or more, but is {value}")
        return value

    def finish(self) -> None:
        for name in self._tree:
            if name not in self._known:
                raise UserError(
                    f"{self.lines.place(name)} is no known key; {nearest(name, self._known)}"
                )


def _ops(names: list[Any], place: str) -> tuple[Op, ...]:
    try:
        ops = parse_ops(names, place)
    except TypeError as error:
        raise UserError(f"{error}, but are {names!r}") from None
    if not ops or len(set(ops)) != len(ops):
        raise UserError(f"{place} must list one op or more, each once, but lists {names}")
    return ops


def _block(table: _Table, default_ops: tuple[Op, ...]) -> Block:
    stride, lines = table.positive("stride"), table.lines
    if stride not in (1, 2):
        raise UserError(f"{lines.place('stride')} must be 1 or 2, but is {stride}")
    cells = []
    for number, entry in enumerate(table.take("cells", list)):
        cell = _Table(entry, lines.cell(number))
        cells.append(Cell(layers=cell.positive("layers"), width=cell.positive("width")))
        cell.finish()
    ops = default_ops
    if table.has("ops"):
        ops = _ops(table.take("ops", list), lines.place("ops"))
    table.finish()
    if not cells or len(set(cells)) != len(cells):
        raise UserError(
            f"{lines.place('cells')} must list one cell or more that differ in layers or width, "
            f"but lists {[(c.layers, c.width) for c in cells]}"
        )
    return Block(stride=stride, ops=ops, cells=tuple(cells))
