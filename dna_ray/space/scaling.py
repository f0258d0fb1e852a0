"""EfficientNet's compound scaling (Tan & Le 2019; Eq 9 of the paper) of any network here."""

import math
from dataclasses import dataclass, replace

from dna_ray.errors import UserError
from dna_ray.space.ops import Op
from dna_ray.space.spec import NetworkSpec


@dataclass(frozen=True)
class Compound:
    """The multipliers of one coefficient, and the resolution that goes with it from 224 pixels."""

    width: float
    depth: float
    resolution: int


COMPOUND = (
    Compound(1.0, 1.0, 224),
    Compound(1.0, 1.1, 240),
    Compound(1.1, 1.2, 260),
    Compound(1.2, 1.4, 300),
    Compound(1.4, 1.8, 380),
    Compound(1.6, 2.2, 456),
    Compound(1.8, 2.6, 528),
    Compound(2.0, 3.1, 600),
)


def scale(spec: NetworkSpec, coefficient: int) -> NetworkSpec:
    """`spec` made wider and deeper by `coefficient` (0 to 7), stem and head included."""
    if not 0 <= coefficient < len(COMPOUND):
        raise UserError(
            f"a compound coefficient lies between 0 and {len(COMPOUND) - 1}, but is {coefficient}"
        )
    compound = COMPOUND[coefficient]
    trunk = replace(
        spec.trunk,
        stem_width=_width(spec.trunk.stem_width, compound.width),
        stem_out=_width(spec.trunk.stem_out, compound.width),
        stem_layers=math.ceil(spec.trunk.stem_layers * compound.depth)
        if coefficient
        else spec.trunk.stem_layers,
        head_width=_width(spec.trunk.head_width, compound.width),
    )
    blocks = tuple(
        replace(
            block,
            width=_width(block.width, compound.width),
            ops=_deepen(block.ops, math.ceil(len(block.ops) * compound.depth)),
        )
        for block in spec.blocks
    )
    return replace(spec, trunk=trunk, blocks=blocks)


def _width(width: int, multiplier: float) -> int:
    """Channels times `multiplier`, to a multiple of eight, never more than a tenth below."""
    if multiplier == 1:
        return width
    scaled = width * multiplier
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded


def _deepen(ops: tuple[Op, ...], layers: int) -> tuple[Op, ...]:
    """Spread `layers` over `ops`, each repeated in place; the surplus goes to the last ones."""
    repeats, left, remaining = [], layers, len(ops)
    for _ in ops:
        share = max(1, round(left / remaining))
        repeats.append(share)
        left, remaining = left - share, remaining - 1
    return tuple(op for op, n in zip(ops, reversed(repeats), strict=True) for _ in range(n))
