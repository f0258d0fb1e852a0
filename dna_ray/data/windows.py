"""From windows, as arrays in the object store, to minibatches."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray

# Of pictures that only pass through a network: on a processor larger batches leave its cache (with
# pictures of 224 pixels 64 take twice the time of 4 at a time: tests/benchmarks/teacher.py).
_BATCH, _PIXELS = 64, 2**18


def minibatch(window: Array, rows: Array, device: torch.device | str = "cpu") -> Tensor:
    """Rows of a window (N, H, W, C) as (B, C, H, W) in channels-last memory; the only copy.

    A window is shared by all processes of a machine and read-only: hence a copy there must be. For
    a GPU it is made in pinned memory, from where it is transferred while the program goes on.
    """
    if torch.device(device).type == "cpu":
        return torch.from_numpy(window[rows]).permute(0, 3, 1, 2)
    kind = torch.from_numpy(np.empty(0, window.dtype)).dtype
    batch = torch.empty((len(rows), *window.shape[1:]), dtype=kind, pin_memory=True)
    np.take(window, rows, axis=0, out=batch.numpy(), mode="clip")  # any other mode copies twice
    return batch.permute(0, 3, 1, 2).to(device, non_blocking=True)


def batches(window: Array, device: torch.device | str = "cpu") -> Iterator[Tensor]:
    """All pictures of a window (N, H, W, 3), for one pass forward: in order, (B, 3, H, W) each."""
    on_cpu = torch.device(device).type == "cpu"
    size = min(_BATCH, max(1, _PIXELS // window[0, ..., 0].size)) if on_cpu else _BATCH
    for start in range(0, len(window), size):
        yield minibatch(window, np.arange(start, min(start + size, len(window))), device)
