"""The student's first blocks, behind which a later block is trained and rated progressively."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from dna_ray.network.cell import CellNet, build_cell
from dna_ray.space import Beginning, Op, Space, Where, cell_name


class Beginnings(nn.ModuleDict):
    """The networks of some beginnings, which share their weights where they take the same cell.

    Cells emit the teacher's widths, so they follow on one another as they are. A beginning of no
    blocks leaves what it reads as it is.
    """

    def __init__(self, beginnings: Sequence[Beginning], cells: Mapping[Where, CellNet]) -> None:
        super().__init__({cell_name(where): net for where, net in cells.items()})
        self.beginnings = tuple(beginnings)

    def parts(self, number: int) -> list[tuple[CellNet, tuple[Op, ...]]]:
        """The cells of one beginning (0-based), each with its path, in the order of the blocks."""
        beginning = enumerate(self.beginnings[number])
        return [(self._cell((block, cell)), path) for block, (cell, path) in beginning]

    def by_block(self) -> dict[int, list[CellNet]]:
        """The cells of all beginnings by block (0-based), each once."""
        blocks: dict[int, list[CellNet]] = {}
        for where in cells_of(self.beginnings):
            blocks.setdefault(where[0], []).append(self._cell(where))
        return blocks

    def _cell(self, where: Where) -> CellNet:
        net = self[cell_name(where)]
        assert isinstance(net, CellNet)
        return net

    def forward(self, x: Tensor, number: int) -> Tensor:
        """Pictures (B, C, H, W) through one beginning to the student's boundary behind it."""
        for net, path in self.parts(number):
            x = net(x, path)
        return x


def cells_of(beginnings: Sequence[Beginning]) -> list[Where]:
    """The cells that some beginnings take, each once, in order."""
    taken = {(block, cell) for each in beginnings for block, (cell, _) in enumerate(each)}
    return sorted(taken)


def build_beginnings(
    space: Space,
    widths: Sequence[int],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    beginnings: Sequence[Beginning],
) -> Beginnings:
    """Beginnings between the teacher's `widths`. Weights come from torch's current generator."""
    cells = {
        (block, cell): build_cell(
            space, block, cell, widths[block - 1] if block else 0, widths[block], mean, std
        )
        for block, cell in cells_of(beginnings)
    }
    return Beginnings(beginnings, cells)
