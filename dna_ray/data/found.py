"""What lies where a user pointed to: pictures with their labels, before they are split."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from dna_ray.data.files import Files, each
from dna_ray.storage import Place

Array = np.ndarray

# The bytes of a picture, or why there are none.
Encoded = bytes | OSError


class Source(Protocol):
    """Where the bytes of pictures are; can be pickled, and read on any machine."""

    @property
    def files(self) -> Files:
        """The files in which the pictures are."""

    @property
    def units(self) -> Array | None:
        """(N,) int32: in which unit, which is read as a whole, each picture lies."""

    def __len__(self) -> int: ...

    def name_of(self, index: int) -> str:
        """What to call a picture in a message."""

    def read(self, indices: Sequence[int] | Array) -> list[Encoded]:
        """The encoded bytes of some pictures; see `Pictures.read`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """Pictures that were found, N of them, in an order that depends on their names alone.

    `keys` (N texts) decide how the pictures are split. `labels` (N,) int32 are indices into
    `classes`; without labels both are empty. Where a set has two `parts`, the name of the one
    that trains comes first, and `tests` (N,) bool marks the pictures of the one that tests. `said`
    is what there is to say of the set.
    """

    name: str
    source: Source
    keys: pa.Array
    labels: Array
    tests: Array
    classes: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    said: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class PictureFiles:
    """A source in which every file is a picture."""

    files: Files

    @property
    def units(self) -> None:
        """Files are read one by one."""

    def __len__(self) -> int:
        return len(self.files)

    def name_of(self, index: int) -> str:
        """The path or URI of a picture."""
        return self.files.name_of(int(index))

    def read(self, indices: Sequence[int] | Array) -> list[Encoded]:
        """The bytes of some files, several at a time where they are elsewhere."""
        return each(self.files.root, _read, [self.files.place(int(i)) for i in indices])


def _read(place: Place) -> Encoded:
    try:
        return place.read()
    except OSError as error:
        if may_come_back(place, error):
            raise
        return error


def may_come_back(place: Place, error: OSError) -> bool:
    """Whether it may be the store that failed, not the file: then nothing is known of the file."""
    return place.local is None and not isinstance(error, FileNotFoundError)
