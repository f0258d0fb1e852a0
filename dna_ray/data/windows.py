"""From windows, as arrays in the object store, to minibatches."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray
T = TypeVar("T")
R = TypeVar("R")

# How many pictures that only pass through a network do so at a time, and how many pixels they have
# at most, by kind of device. On a processor larger batches leave its cache, a GPU wants to be full
# (tests/benchmarks/teacher.py).
_BATCH = {"cpu": (64, 2**18), "cuda": (1024, 2**24)}

_CHUNK = 32 * 2**20  # bytes that are copied into pinned memory while those before are transferred


def minibatch(
    window: Array | Tensor, rows: Array | Tensor, device: torch.device | str = "cpu"
) -> Tensor:
    """Rows of a window (N, H, W, C) as (B, C, H, W) in channels-last memory; the only copy.

    A window is shared by all processes of a machine and read-only: hence a copy there must be. For
    a GPU it is made in pinned memory, from where it is transferred while the program goes on; of a
    window that is `staged` there already it is made there, where the rows may be `sent` before.
    """
    if isinstance(window, Tensor):
        there = torch.as_tensor(rows, device=window.device)
        return window.index_select(0, there).permute(0, 3, 1, 2)
    if torch.device(device).type == "cpu":
        return torch.from_numpy(window[rows]).permute(0, 3, 1, 2)
    shape = len(rows), *window.shape[1:]
    batch = torch.empty(shape, dtype=_kind(window), pin_memory=True)
    np.take(window, rows, axis=0, out=batch.numpy(), mode="clip")  # any other mode copies twice
    return batch.permute(0, 3, 1, 2).to(device, non_blocking=True)


def batches(window: Array, device: torch.device | str = "cpu") -> Iterator[Tensor]:
    """All pictures of a window (N, H, W, 3), for one pass forward: in order, (B, 3, H, W) each."""
    most, pixels = _BATCH[torch.device(device).type]
    size = min(most, max(1, pixels // window[0, ..., 0].size))
    for start in range(0, len(window), size):
        yield minibatch(window, np.arange(start, min(start + size, len(window))), device)


def staged(window: Array, device: torch.device | str) -> Array | Tensor:
    """A window (N, H, W, C) where minibatches of it are computed: a GPU is given a copy.

    The call returns when the copy is whole. It waits for no more than what the GPU had been given
    to do before, so a thread can stage one window while another computes on the last.
    """
    if torch.device(device).type == "cpu":
        return window
    main, side = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    there = torch.empty(window.shape, dtype=_kind(window), device=device)
    side.wait_stream(main)  # which may still be at what was in this memory before
    rows = max(1, _CHUNK // window[0].nbytes)
    with torch.cuda.stream(side):
        for start in range(0, len(window), rows):
            part = window[start : start + rows]
            chunk = torch.empty(part.shape, dtype=_kind(part), pin_memory=True)
            np.copyto(chunk.numpy(), part)
            there[start : start + rows].copy_(chunk, non_blocking=True)
    side.synchronize()
    return there


def sent(array: Array, device: torch.device | str) -> Array | Tensor:
    """A small array where it is computed with: a GPU is sent a copy, which nobody waits for."""
    if torch.device(device).type == "cpu":
        return array
    return torch.from_numpy(array).pin_memory().to(device, non_blocking=True)


def ahead(items: Iterable[T], make: Callable[[T], R], device: torch.device | str) -> Iterator[R]:
    """What `make` makes of every item, in order. For a GPU, a thread is one item ahead."""
    if torch.device(device).type == "cpu":
        yield from map(make, items)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as thread:
        made = None
        for item in items:
            following = thread.submit(make, item)
            if made is not None:
                yield made.result()
            made = following
        if made is not None:
            yield made.result()


def _kind(array: Array) -> torch.dtype:
    """What torch calls an array's type."""
    return torch.from_numpy(np.empty(0, array.dtype)).dtype
