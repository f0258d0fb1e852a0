"""A set of pictures of any source, with its labels and splits, and how to know it again."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dna_ray.data.embedded import EMBEDDED, photos, solar
from dna_ray.data.files import texts
from dna_ray.data.folder import find
from dna_ray.data.found import Encoded, Source
from dna_ray.data.splits import SPLITS, split, told
from dna_ray.storage import Place

Array = np.ndarray

_EMBEDDED = dict(zip(EMBEDDED, (solar, photos), strict=True))

# Up to so many pictures a fingerprint reads every file.
_READ_WHOLE = 20_000


@dataclass(frozen=True, kw_only=True, eq=False)
class Pictures:
    """A set of N pictures; some 80 bytes of each are held, and pickled, whatever they hold.

    `labels` (N,) int32 are indices into `classes`; without labels both are empty. `splits` maps
    each of SPLITS to sorted picture indices (int64); they are disjoint, stratified by class, and
    depend on nothing but the names of the pictures. `notice` says in a line what there is to say.
    """

    name: str
    source: Source
    labels: Array
    classes: tuple[str, ...]
    splits: dict[str, Array]
    notice: str

    def __len__(self) -> int:
        return len(self.source)

    @property
    def labelled(self) -> bool:
        """Whether the pictures have labels."""
        return bool(self.classes)

    @property
    def units(self) -> Array | None:
        """(N,) int32: the row group of each picture in Parquet; None where files are pictures."""
        return self.source.units

    def name_of(self, index: int) -> str:
        """What to call a picture in a message: its path or URI, or its Parquet file and row."""
        return self.source.name_of(index)

    def read(self, indices: Sequence[int] | Array) -> list[Encoded]:
        """The encoded bytes of some pictures, or for one that cannot be read the OSError.

        Works in any process on any machine that reaches the files. Raises OSError where a
        filesystem elsewhere fails for another reason than that there is no such file: then nothing
        is known of the picture, and leaving it out would make results depend on the network.
        """
        return self.source.read(indices)


def load_pictures(source: str) -> Pictures:
    """The pictures of an embedded set, or at a path or URI; raises UserError.

    `source` is `solar`, `photos`, a folder of pictures or of one folder per class, a Parquet file
    or a folder of these, on this machine or on any filesystem that pyarrow knows (`s3://...`). A
    folder may have a part `train` and one that tests, `val`, `validation` or `test`: subfolders,
    or Parquet files whose names begin so.
    """
    found = _EMBEDDED[source]() if source in _EMBEDDED else find(source)
    splits = split(found)
    return Pictures(
        name=found.name,
        source=found.source,
        labels=found.labels,
        classes=found.classes,
        splits=splits,
        notice="; ".join(filter(None, (told(found, splits), *found.said))),
    )


def fingerprint(pictures: Pictures) -> str:
    """What a set of pictures is known by again: a hash of its labels, its splits and its files.

    Of files on this machine it takes the contents, or of more than 20,000 pictures the names and
    sizes; of files elsewhere the names, sizes and times of change.
    """
    digest = hashlib.sha256(repr(pictures.classes).encode())
    for numbers in (pictures.labels, *(pictures.splits[name] for name in SPLITS)):
        digest.update(f"{len(numbers)} ".encode() + numbers.tobytes())
    files = pictures.source.files
    digest.update(files.sizes.tobytes())
    if files.root.local is None:
        digest.update(files.times.tobytes())
    elif len(pictures) <= _READ_WHOLE:
        for place in files.places():
            digest.update(_contents(place))
        return digest.hexdigest()
    for name in texts(files.names):
        digest.update(f"{name}\0".encode())
    return digest.hexdigest()


def _contents(place: Place) -> bytes:
    try:
        with place.filesystem.open_input_stream(place.path) as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        return type(error).__name__.encode()  # a picture that cannot be read is left out, as later
