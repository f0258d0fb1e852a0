"""From windows, as arrays in the object store, to minibatches."""

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray


def minibatch(window: Array, rows: Array, device: torch.device | str = "cpu") -> Tensor:
    """Rows of a window (N, H, W, C) as (B, C, H, W) in channels-last memory; the only copy.

    A window is shared by all processes of a machine and read-only: hence a copy there must be.
    """
    return torch.from_numpy(window[rows]).permute(0, 3, 1, 2).to(device, non_blocking=True)
