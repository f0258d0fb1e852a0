"""Files in folders anywhere: one listing call a folder, and some 60 bytes kept of every file."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.fs import FileInfo, FileType

from dna_ray.errors import UserError
from dna_ray.storage import Place

Array = np.ndarray
T = TypeVar("T")
R = TypeVar("R")

SUFFIXES = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"))
PARQUET = ".parquet"

# How many files are named in a line.
_NAMED = 10

# How many texts are made Python's at a time: one by one takes forty times as long.
_TEXTS = 10_000

# How many calls to a filesystem elsewhere are under way at a time: each mostly waits.
_CALLS = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class Files:
    """Files below one place, as arrays of one length, so that millions of them can be held.

    `names` are texts relative to `root`, `sizes` bytes (int64), and `times` those of the last
    change in nanoseconds since 1970 (int64).
    """

    root: Place
    names: pa.Array
    sizes: Array
    times: Array

    @classmethod
    def of(cls, root: Place, infos: Sequence[FileInfo]) -> "Files":
        """Files that lie directly in a folder."""
        return cls(
            root=root,
            names=pa.array([info.base_name for info in infos], pa.large_string()),
            sizes=np.array([info.size for info in infos], np.int64),
            times=np.array([info.mtime_ns for info in infos], np.int64),
        )

    @classmethod
    def together(cls, root: Place, parts: Sequence[tuple[str, "Files"]]) -> "Files":
        """Files of several folders below a place, each given with the folder's name."""
        return cls(
            root=root,
            names=pa.concat_arrays([below(name, files.names) for name, files in parts]),
            sizes=np.concatenate([files.sizes for _, files in parts]),
            times=np.concatenate([files.times for _, files in parts]),
        )

    def __len__(self) -> int:
        return len(self.names)

    def where(self, mask: Array) -> "Files":
        """The files that a boolean array marks."""
        return Files(
            root=self.root,
            names=self.names.filter(pa.array(mask)),
            sizes=self.sizes[mask],
            times=self.times[mask],
        )

    def place(self, index: int) -> Place:
        """Where one file is."""
        return self.root / str(self.names[index])

    def places(self) -> Iterator[Place]:
        """Where each file is."""
        return (self.root / name for name in texts(self.names))

    def name_of(self, index: int) -> str:
        """What to call a file in a message: its path or URI, without the options of a URI."""
        root = self.root.name if self.root.local else self.root.name.partition("?")[0]
        return f"{root.rstrip('/')}/{self.names[index]}"


@dataclass(frozen=True, kw_only=True)
class Folder:
    """What lies directly in a folder, each kind by name, without what is hidden."""

    place: Place
    pictures: Files
    parquet: Files
    others: tuple[str, ...]
    folders: tuple[str, ...]


def look(place: Place) -> Folder:
    """See what a folder holds, by one listing call; raises UserError for names not in UTF-8."""
    try:
        inside = place.inside()
    except UnicodeDecodeError as error:
        raise UserError(
            f"names of files must be in UTF-8, but '{place}' holds {error.object!r}; rename it"
        ) from None
    pictures, parquet, others, folders = [], [], [], []
    for info in inside:
        name, kind, suffix = info.base_name, info.type, f".{info.extension.lower()}"
        if name.startswith("."):
            continue
        if kind == FileType.Directory:
            folders.append(name)
        elif kind == FileType.File and suffix in SUFFIXES:
            pictures.append(info)
        elif kind == FileType.File and suffix == PARQUET:
            parquet.append(info)
        elif kind == FileType.File:
            others.append(name)
    return Folder(
        place=place,
        pictures=Files.of(place, pictures),
        parquet=Files.of(place, parquet),
        others=tuple(others),
        folders=tuple(folders),
    )


def each(root: Place, do: Callable[[T], R], over: Iterable[T]) -> list[R]:
    """What `do` makes of each, in order; several at a time where `root` is elsewhere."""
    if root.local is not None:
        return [do(item) for item in over]
    with ThreadPoolExecutor(_CALLS) as pool:
        return list(pool.map(do, over))


def texts(array: pa.Array) -> Iterator[str]:
    """The texts of an array, of which a bounded number are Python's at a time."""
    for start in range(0, len(array), _TEXTS):
        yield from array.slice(start, _TEXTS).to_pylist()


def below(folder: str | pa.Array, names: pa.Array) -> pa.Array:
    """Names inside a folder, or each in one of its own, as seen from around it; "" is none."""
    if isinstance(folder, str):
        if not folder:
            return names
        folder = pa.scalar(folder, pa.large_string())
    return pc.binary_join_element_wise(folder, names, pa.scalar("/", pa.large_string()))


def listed(names: Sequence[str]) -> str:
    """Names for a line: the first of them, and how many more."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def passed_over(names: Sequence[str], kind: str) -> str:
    """What to say of files that are not used; "" where there are none."""
    if not names:
        return ""
    count = f"1 {kind} is" if len(names) == 1 else f"{len(names)} {kind}s are"
    return f"{count} passed over: {listed(names)}"
