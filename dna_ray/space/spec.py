"""A network written out in full: all that is needed to count its costs or to build it."""

import json
from dataclasses import asdict, dataclass

from dna_ray.space.architecture import Architecture
from dna_ray.space.ops import Op
from dna_ray.space.spaces import Space, Trunk


@dataclass(frozen=True, kw_only=True)
class BlockSpec:
    """One block: `stride` of its first layer, its `width`, one op per layer."""

    stride: int
    width: int
    ops: tuple[Op, ...]


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """A stand-alone network: trunk, blocks and the number of `classes` of its last layer.

    `mean` and `std` (of pixels scaled to 0..1, per channel) belong to the network because it was
    trained with them.
    """

    trunk: Trunk
    blocks: tuple[BlockSpec, ...]
    classes: int = 1000
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    def to_json(self) -> str:
        """The whole specification as one JSON text."""
        tree = asdict(self)
        for block, spec in zip(tree["blocks"], self.blocks, strict=True):
            block["ops"] = list(map(str, spec.ops))
        return json.dumps(tree)

    @classmethod
    def from_json(cls, text: str) -> "NetworkSpec":
        """Read what `to_json` wrote."""
        tree = json.loads(text)
        blocks = tuple(
            BlockSpec(
                stride=b["stride"], width=b["width"], ops=tuple(Op.parse(op) for op in b["ops"])
            )
            for b in tree["blocks"]
        )
        return cls(
            trunk=Trunk(**tree["trunk"]),
            blocks=blocks,
            classes=tree["classes"],
            mean=tuple(tree["mean"]),
            std=tuple(tree["std"]),
        )


def network_spec(space: Space, architecture: Architecture, classes: int = 1000) -> NetworkSpec:
    """The network that `architecture` stands for, with the strides and the trunk of `space`.

    Widths and depths need not be among the cells of `space` (zoo networks of the same family are
    written out with it); only the number of blocks must agree.
    """
    if len(architecture.blocks) != len(space.blocks):
        architecture.cells(space)  # says which numbers differ
    blocks = tuple(
        BlockSpec(stride=block.stride, width=choice.width, ops=choice.ops)
        for block, choice in zip(space.blocks, architecture.blocks, strict=True)
    )
    return NetworkSpec(trunk=space.trunk, blocks=blocks, classes=classes)
