"""The candidate operations of a layer: MBConv with kernel k and expansion e, written `k5e3`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from dna_ray.errors import UserError

_NAME = re.compile(r"k([1-9]\d*)e([1-9]\d*)")


@dataclass(frozen=True, order=True)
class Op:
    """One MBConv operation: depthwise kernel `kernel` on `expansion` times the input width."""

    kernel: int
    expansion: int

    def __post_init__(self) -> None:
        if self.kernel % 2 == 0:
            raise UserError(f"the kernel of an op must be odd, but '{self}' has {self.kernel}")

    def __str__(self) -> str:
        return f"k{self.kernel}e{self.expansion}"

    @classmethod
    def parse(cls, text: str) -> "Op":
        """Read `k3e6`; raises UserError on anything else."""
        match = _NAME.fullmatch(text.strip())
        if not match:
            raise UserError(
                f"an op is written kKERNELeEXPANSION, such as k3e6, but '{text}' is given"
            )
        return cls(int(match[1]), int(match[2]))


def parse_ops(names: Sequence[str], place: str) -> tuple[Op, ...]:
    """Read several ops; errors begin with `place`. Raises TypeError for what is no text."""
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"{place}: ops must be a list of texts")
    try:
        return tuple(map(Op.parse, names))
    except UserError as error:
        raise UserError(f"{place}: {error}") from None
