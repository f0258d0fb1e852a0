"""Pictures in rows of Parquet files: read by row group, the column of pictures alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet as pq

from dna_ray.data.files import Files, each
from dna_ray.data.found import Encoded, may_come_back
from dna_ray.storage import Place, again

Array = np.ndarray

# Rows that are decoded at a time, and bytes that are read at a time, to pick pictures from a row
# group: memory does not grow with the size of row groups.
_ROWS = 64
_BUFFER = 8 * 2**20


@dataclass(frozen=True, eq=False)
class PictureRows:
    """A source in which every row of some Parquet files is a picture.

    `column` is the path of the column with the bytes; row group g (counted over all files) begins
    with picture `starts[g]` and lies in file `file_of[g]`.
    """

    files: Files
    column: str
    starts: Array
    file_of: Array

    @property
    def units(self) -> Array:
        """(N,) int32: the row group of each picture."""
        return np.repeat(np.arange(len(self.file_of), dtype=np.int32), np.diff(self.starts))

    def __len__(self) -> int:
        return int(self.starts[-1])

    def name_of(self, index: int) -> str:
        """The file of a picture and its row there, counted from 1."""
        file = self.file_of[self._groups(index)]
        first = self.starts[self._first_group(file)]
        return f"{self.files.name_of(int(file))} row {index - first + 1}"

    def read(self, indices: Sequence[int] | Array) -> list[Encoded]:
        """The bytes of some pictures, by one read of every row group in which one of them is."""
        wanted = np.asarray(indices, np.int64)
        groups = self._groups(wanted)
        parts = [(int(group), np.unique(wanted[groups == group])) for group in np.unique(groups)]
        found: dict[int, Encoded] = {}
        for part in each(self.files.root, lambda part: self._read_group(*part), parts):
            found |= part
        return [found[int(index)] for index in wanted]

    def _read_group(self, group: int, wanted: Array) -> dict[int, Encoded]:
        """Some pictures of a row group, given by their ascending indices."""
        file, begin = int(self.file_of[group]), int(self.starts[group])
        place, number = self.files.place(file), group - self._first_group(file)
        found: dict[int, Encoded] = {}
        failure: OSError | None = None
        try:
            again(place, lambda: _pick(place, self.column, number, wanted - begin, found))
        except OSError as error:
            if may_come_back(place, error):
                raise
            failure = error
        except (pa.ArrowException, LookupError) as error:
            failure = OSError(str(error))
        return {
            index: found.get(index - begin) or failure or OSError("the row holds no picture")
            for index in wanted.tolist()
        }

    def _groups(self, indices: Array | int) -> Array:
        # Of row groups that begin with the same picture, all but the last are empty.
        return np.searchsorted(self.starts, indices, side="right") - 1

    def _first_group(self, file: int) -> int:
        return int(np.searchsorted(self.file_of, file))


def _pick(place: Place, column: str, group: int, wanted: Array, found: dict[int, Encoded]) -> None:
    """Put pictures of a row group into `found`, by their rows there, which ascend."""
    begin = 0
    with place.filesystem.open_input_file(place.path) as opened:
        file = pq.ParquetFile(
            opened, buffer_size=_BUFFER, pre_buffer=False, page_checksum_verification=True
        )
        for batch in file.iter_batches(_ROWS, row_groups=[group], columns=[column]):
            end = begin + len(batch)
            here = wanted[(begin <= wanted) & (wanted < end)]
            pictures = _bytes_of(batch.column(0)).take(pa.array(here - begin))
            found |= zip(here.tolist(), pictures.to_pylist(), strict=True)
            begin = end
            if end > wanted[-1]:
                break


def _bytes_of(column: pa.Array) -> pa.Array:
    return pc.struct_field(column, [0]) if pa.types.is_struct(column.type) else column
