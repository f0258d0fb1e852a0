"""Ground truth that anyone can afford: a path of one cell trained alone, by the cell's recipe.

In its cell a path shares its weights with all others and has a turn now and then. Alone it has
weights of its own and every step. What it then loses on the held-out pictures (Eq 7) is what its
rating stands for.
"""

from collections.abc import Sequence

import numpy as np
import torch

from dna_ray.config import Distill
from dna_ray.data.windows import ahead, staged
from dna_ray.distill import CellTrainer, Stream
from dna_ray.errors import UserError
from dna_ray.rating import RatingSet, rate_cell
from dna_ray.space import Op, Space, Where
from dna_ray.teacher import Cut

Array = np.ndarray


def train_alone(
    space: Space,
    cut: Cut,
    pixels: tuple[tuple[float, ...], tuple[float, ...]],
    recipe: Distill,
    where: Where,
    path: tuple[Op, ...],
    stream: Stream,
    windows: Sequence[tuple[Array, Array]],
    count: int,
    data: RatingSet,
    device: torch.device | str = "cpu",
) -> float:
    """The loss of a path that is trained alone, with `count` windows an epoch.

    `windows` are boundary k-1 and k, (N, H, W, C) each, of one epoch or of all; `where` = (block,
    cell), 0-based. Raises UserError for a loss that is not finite.
    """
    names: Stream = (*stream, ",".join(map(str, path)))
    trainer = CellTrainer(space, cut, pixels, recipe, where, names, device, path=path)
    turns = (windows[turn % len(windows)] for turn in range(recipe.epochs * count))
    read = ahead(turns, lambda window: [staged(each, device) for each in window], device)
    for turn, boundaries in enumerate(read):
        trainer.train_window(turn % count, *boundaries)
        if turn % count == count - 1:
            trainer.end_epoch()
    if trainer.stopped:
        raise UserError(trainer.stopped)
    return rate_cell(trainer.net, space.blocks[where[0]].ops, data, path)[path]
