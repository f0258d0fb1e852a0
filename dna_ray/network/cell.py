"""The weight-sharing supernet of one cell: per layer one MBConv for each candidate op."""

from collections.abc import Sequence

from torch import Tensor, nn

from dna_ray.network.layers import MBConv, initialise, stem
from dna_ray.space.ops import Op
from dna_ray.space.spaces import Space


class CellNet(nn.Module):
    """A cell between two teacher boundaries.

    Its first layer reads the teacher's width at boundary k-1 and its last emits the teacher's at
    boundary k: there are no adapters. So a cell's edges are wider than in the found network, which
    is rebuilt with the cell's own widths; a loss belongs to the widened cell, a cost to the narrow
    one. The cell of block 1 has the student's own stem before its first layer and reads pixels.
    """

    def __init__(self, stem: nn.Module | None, layers: Sequence[dict[str, nn.Module]]) -> None:
        super().__init__()
        self.stem = stem if stem is not None else nn.Identity()
        self.layers = nn.ModuleList([nn.ModuleDict(ops) for ops in layers])

    def op(self, layer: int, op: Op) -> nn.Module:
        """The module of one op of one layer (0-based)."""
        choices = self.layers[layer]
        assert isinstance(choices, nn.ModuleDict)
        return choices[str(op)]

    def choices(self) -> list[nn.Module]:
        """The stem, and every op of every layer."""
        layers = [layer for layer in self.layers if isinstance(layer, nn.ModuleDict)]
        return [self.stem, *(op for layer in layers for op in layer.values())]

    def taken(self, paths: Sequence[Sequence[Op]]) -> list[nn.Module]:
        """Those of the `choices` that some paths run through, each once."""
        taken = [self.op(layer, op) for path in paths for layer, op in enumerate(path)]
        return list(dict.fromkeys([self.stem, *taken]))

    def forward(self, x: Tensor, path: Sequence[Op]) -> Tensor:
        """Boundary k-1 (B, C, H, W) through one path to the student's boundary k."""
        return self.layered(self.stem(x), path)

    def layered(self, x: Tensor, path: Sequence[Op]) -> Tensor:
        """What the stem emits (B, C, H, W) through the layers of one path."""
        for layer, op in enumerate(path):
            x = self.op(layer, op)(x)
        return x


def build_cell(
    space: Space,
    block: int,
    cell: int,
    width_in: int,
    width_out: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    path: Sequence[Op] | None = None,
) -> CellNet:
    """The supernet of a cell of `block` (both 0-based) between teacher widths.

    With a `path`, the network of that path alone. Weights come from torch's current generator.
    `width_in` is not read in block 0, whose first layer reads the stem.
    """
    shape, trunk = space.blocks[block].cells[cell], space.trunk
    stride = space.blocks[block].stride
    width = width_in if block else trunk.stem_out
    layers: list[dict[str, nn.Module]] = []
    for layer in range(shape.layers):
        out = shape.width if layer < shape.layers - 1 else width_out
        ops = space.blocks[block].ops if path is None else (path[layer],)
        layers.append(
            {
                str(op): MBConv(op, width, out, stride, trunk.se_ratio, trunk.activation)
                for op in ops
            }
        )
        width, stride = out, 1
    net = CellNet(None if block else stem(trunk, mean, std), layers)
    initialise(net)
    return net
