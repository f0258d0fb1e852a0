"""Blocks behind the student's own beginnings: the progressive strategies (section 4.6, Table 10).

Block after block is trained and rated behind the best beginnings found so far. What a path loses is
Eq 7 at the boundary behind it, through the beginning. Batch norm of beginnings is recalibrated as
that of the paths is.
"""

import numpy as np
import torch
from torch import Tensor

from dna_ray.data.windows import minibatch
from dna_ray.network.beginnings import Beginnings
from dna_ray.network.cell import CellNet
from dna_ray.rating import Path, RatingSet, behind, rate_cell

Array = np.ndarray

_BATCH = 64  # pictures that go through a beginning at a time


def features_behind(
    before: Beginnings,
    number: int,
    recalibration: Tensor,
    pictures: Array,
    device: torch.device | str = "cpu",
) -> Array:
    """What a frozen beginning (0-based) makes of pictures (N, H, W, C): float32, channels last too.

    `recalibration` are held-out pictures (R, C, H, W), as in rating.
    """
    batches = minibatch(pictures, np.arange(len(pictures)), device).split(_BATCH)
    _, *features = behind(before.parts(number), recalibration, batches)
    return np.ascontiguousarray(torch.cat(features).permute(0, 2, 3, 1).cpu().numpy())


def rate_behind(
    before: Beginnings, number: int, net: CellNet, ops: Path, data: RatingSet
) -> dict[Path, float]:
    """Rate all paths of a cell behind one beginning (0-based), in lexicographic order of `ops`.

    `data` has pictures in the place of boundary k-1.
    """
    parts = before.parts(number)
    recalibration, *inputs = behind(parts, data.recalibration, data.inputs.split(_BATCH))
    return rate_cell(net, ops, RatingSet(recalibration, torch.cat(inputs), data.targets))
