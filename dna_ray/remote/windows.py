"""Windows as references into Ray's object store.

Apart from the stage that makes them, so that the processes of a Train run, which all import what
they are handed, do without Ray Data and torchvision.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Window:
    """A fixed set of views of pictures: a reference to uint8 (N, H, W, 3), and the labels (N,)."""

    pictures: Any
    labels: Array | None
    size: int


@dataclass(frozen=True)
class TaughtWindow:
    """A window behind a teacher: references to boundaries 0..K, (N, H, W, C), and to the logits."""

    boundaries: tuple[Any, ...]
    logits: Any
    size: int


Windows = dict[str, tuple[Window, ...]]


def first(windows: tuple[Window, ...], pictures: int) -> tuple[Window, ...]:
    """As many windows from the beginning as hold that many pictures, or all."""
    sizes = np.cumsum([window.size for window in windows])
    return windows[: 1 + int(np.searchsorted(sizes, pictures))]
