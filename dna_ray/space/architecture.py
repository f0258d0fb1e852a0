"""An architecture: one width and one path of ops per block, as text, as JSON and as objects.

Text form: blocks joined by `/`, each `WIDTH:OP,OP,...`, such as `24:k5e3,k3e3/40:k3e6`.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dna_ray.errors import UserError, read_text
from dna_ray.space.ops import Op, parse_ops
from dna_ray.space.spaces import Space

_BLOCK = re.compile(r"([1-9]\d*):(.+)")


@dataclass(frozen=True)
class BlockChoice:
    """What an architecture takes in one block: the width of its cell and one op per layer."""

    width: int
    ops: tuple[Op, ...]

    def __str__(self) -> str:
        return f"{self.width}:{','.join(map(str, self.ops))}"


@dataclass(frozen=True)
class Architecture:
    """One network of a space, by its choice in every block."""

    blocks: tuple[BlockChoice, ...]

    def __str__(self) -> str:
        return "/".join(map(str, self.blocks))

    @classmethod
    def parse(cls, text: str) -> "Architecture":
        """Read the text form (blanks allowed); raises UserError that names the block."""
        blocks = []
        for number, part in enumerate(text.split("/"), 1):
            match = _BLOCK.fullmatch(part.strip())
            if not match:
                raise UserError(
                    f"a block of an architecture is written WIDTH:OP,OP,..., "
                    f"but block {number} is '{part.strip()}'"
                )
            blocks.append(
                BlockChoice(int(match[1]), parse_ops(match[2].split(","), f"block {number}"))
            )
        return cls(tuple(blocks))

    def to_json(self, space: str) -> dict[str, Any]:
        """The JSON form, with the name of the space that it belongs to."""
        blocks = [{"width": b.width, "ops": list(map(str, b.ops))} for b in self.blocks]
        return {"space": space, "blocks": blocks}

    @classmethod
    def from_json(cls, tree: Any, source: str) -> "Architecture":
        """Read the JSON form; errors name `source`."""
        try:
            blocks = tuple(
                BlockChoice(
                    _width(block["width"]), parse_ops(block["ops"], f"{source}: block {number}")
                )
                for number, block in enumerate(tree["blocks"], 1)
            )
        except (KeyError, TypeError, ValueError):
            blocks = ()
        if not blocks or not all(block.ops for block in blocks):
            raise UserError(
                f"an architecture in JSON is {{'space': NAME, 'blocks': [{{'width': W, "
                f"'ops': [OP, ...]}}, ...]}}, but {source} is not"
            )
        return cls(blocks)

    def cells(self, space: Space) -> tuple[int, ...]:
        """The cell (0-based) that each block takes in `space`; raises UserError for none."""
        if len(self.blocks) != len(space.blocks):
            raise UserError(
                f"an architecture of space '{space.name}' has {len(space.blocks)} blocks, "
                f"but '{self}' has {len(self.blocks)}"
            )
        cells = []
        for number, (choice, block) in enumerate(zip(self.blocks, space.blocks, strict=True), 1):
            found = [
                index
                for index, cell in enumerate(block.cells)
                if (cell.layers, cell.width) == (len(choice.ops), choice.width)
            ]
            if not found or not set(choice.ops) <= set(block.ops):
                raise UserError(
                    f"block {number} of an architecture must be a path of space '{space.name}', "
                    f"but '{choice}' is none; see dna-ray space {space.name}"
                )
            cells.append(found[0])
        return tuple(cells)


def _width(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(value)
    return value


def read_architecture(given: str, zoo: Mapping[str, str]) -> tuple[Architecture, str | None]:
    """An architecture from a zoo name, a text or a JSON file, and the space that a file names."""
    if given in zoo:
        return Architecture.parse(zoo[given]), None
    if given.endswith(".json"):
        try:
            tree = json.loads(read_text(Path(given), "an architecture file"))
        except json.JSONDecodeError as error:
            raise UserError(f"'{given}' must be JSON, but is not: {error}") from None
        architecture = Architecture.from_json(tree, f"'{given}'")
        space = tree.get("space")
        if not isinstance(space, str | None):
            raise UserError(f"the space in '{given}' must be a name, but is {space!r}")
        return architecture, space
    if ":" not in given:
        raise UserError(
            f"an architecture is a zoo name ({', '.join(zoo)}), a text such as "
            f"24:k5e3,k3e3/40:k3e6, or a .json file, but '{given}' is given"
        )
    return Architecture.parse(given), None
