"""Windows as references into Ray's object store.

Apart from the stages that make them, so that the processes of a Train run, which all import what
they are handed, do without Ray Data and torchvision.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

Array = np.ndarray
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True)
class Window:
    """Views of pictures: a reference to uint8 (N, H, W, 3), their labels (N,), and the teacher's.

    `logits` is a reference to the first teacher's (N, classes), where they are to be learnt.
    """

    pictures: Any
    labels: Array | None
    size: int
    logits: Any = None


@dataclass(frozen=True)
class TaughtWindow:
    """A window behind a teacher: references to boundaries 0..K, (N, H, W, C), and to the logits.

    `begun` is what cells read in the place of the teacher's boundary, where there is any: what the
    student's beginnings made of the pictures, or the pictures for them (`CellTrainer`).
    """

    boundaries: tuple[Any, ...]
    logits: Any
    size: int
    begun: tuple[Any, ...] = ()

    def around(self, block: int) -> list[Any]:
        """What the cells of a block (0-based) read, and the boundary that they imitate."""
        return [*(self.begun or (self.boundaries[block],)), self.boundaries[block + 1]]


class Series(Protocol[T_co]):
    """Windows in the order in which a training reads them, pass after pass."""

    def reader(self, rank: int) -> "Reader[T_co]":
        """What one rank reads them by."""


class Reader(Protocol[T_co]):
    """One rank's view of a series."""

    def __getitem__(self, position: int) -> T_co:
        """The window at a position; one behind it is not asked for again, but after a restart."""

    def close(self) -> None:
        """No more windows are wanted."""


@dataclass(frozen=True)
class Held(Generic[T]):
    """A series of windows that all stay in the store and that repeats itself."""

    windows: Sequence[T]

    def reader(self, rank: int) -> "Held[T]":
        """The series itself."""
        return self

    def __getitem__(self, position: int) -> T:
        return self.windows[position % len(self.windows)]

    def close(self) -> None:
        """Leave them all where they are."""
