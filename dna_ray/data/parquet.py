"""Which columns of Parquet files hold pictures and labels, as in the sets of Hugging Face.

The pictures are in column `image`, or in the only one that can hold pictures: bytes, or a struct
with a field `bytes`. Labels are in column `label`, `labels`, `class` or `target`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet as pq

from dna_ray.data.files import Files, below, each, listed, texts
from dna_ray.data.found import Found, may_come_back
from dna_ray.data.rows import PictureRows
from dna_ray.errors import UserError
from dna_ray.storage import Place, again

Array = np.ndarray

_LABELS = ("label", "labels", "class", "target")

# Bytes of a row group that are too many to read for a few of its pictures.
_LARGE = 256 * 2**20


def find_rows(name: str, parts: Mapping[str, Files], said: Sequence[str] = ()) -> Found:
    """The pictures in the rows of some files, which are in one part called "" or in two.

    Raises UserError where the files cannot be read, or their columns or labels cannot be used.
    """
    root = next(iter(parts.values())).root
    files = Files.together(root, [("", part) for part in parts.values()])
    looked = each(root, lambda place: again(place, lambda: _look(place)), files.places())
    columns = looked[0].columns
    for place, other in zip(files.places(), looked, strict=True):
        if other.columns != columns:
            raise UserError(
                "the Parquet files of a set must have the same columns of pictures and labels, and "
                f"the same names of classes, but '{place}' differs from '{files.place(0)}'; write "
                "them alike"
            )
    rows = [sum(one.rows) for one in looked]
    if not sum(rows):
        raise UserError(f"Parquet files must hold pictures, but '{root}' holds no row; check it")
    source = PictureRows(
        files=files,
        column=columns.picture,
        starts=np.cumsum([0, *(count for one in looked for count in one.rows)]),
        file_of=np.repeat(np.arange(len(files)), [len(one.rows) for one in looked]),
    )
    of_part = np.repeat(np.arange(len(parts)), [len(part) for part in parts.values()])
    tests = np.repeat(of_part == 1, rows)
    labels, classes = _labels(source, looked) if columns.label else (np.zeros(0, np.int32), ())
    largest = max(looked, key=lambda one: one.largest).largest
    if largest > _LARGE:
        said = (
            *said,
            f"a row group holds up to {largest / 1e9:.1f} GB of pictures and is read as a whole: "
            "files with fewer pictures in a row group are read faster",
        )
    return Found(
        name=name,
        source=source,
        keys=_keys(source, looked, labels, classes, tests),
        labels=labels,
        classes=classes,
        parts=tuple(filter(None, parts)),
        tests=tests,
        said=tuple(said),
    )


@dataclass(frozen=True, kw_only=True)
class _Columns:
    """Which columns of a file hold what, and how the file names the classes, if it does."""

    picture: str
    path: str | None
    label: str | None
    texts: bool
    classes: tuple[str, ...] | None


@dataclass(frozen=True, kw_only=True)
class _Looked:
    """What there is to know of a file: rows by row group, and the most bytes of one."""

    columns: _Columns
    rows: list[int]
    largest: int
    labels: list[pa.Array]
    paths: list[pa.Array]


def _look(place: Place) -> _Looked:
    try:
        with place.filesystem.open_input_file(place.path) as opened:
            file = pq.ParquetFile(opened, page_checksum_verification=True)
            columns = _columns(place, file.schema_arrow)
            paths = [file.schema.column(i).path for i in range(len(file.schema))]
            at = paths.index(columns.picture)
            groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
            sizes = [group.column(at).total_compressed_size for group in groups]
            small = [name for name in (columns.label, columns.path) if name]
            table = file.read(small).flatten()
            kind = pa.large_string() if columns.texts else pa.int64()
            return _Looked(
                columns=columns,
                rows=[group.num_rows for group in groups],
                largest=max(sizes, default=0),
                labels=table[columns.label].cast(kind).chunks if columns.label else [],
                paths=table[columns.path].cast(pa.large_string()).chunks if columns.path else [],
            )
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and may_come_back(place, error):
            raise
        raise UserError(
            f"a Parquet file must be whole and readable, but '{place}' is not: {error}; write it "
            "again or leave it out"
        ) from None


def _columns(place: Place, schema: pa.Schema) -> _Columns:
    pictures = [field for field in schema if _holds_pictures(field.type)]
    chosen = [field for field in pictures if field.name == "image"] or pictures
    if len(chosen) != 1:
        there = listed([f"{field.name} ({field.type})" for field in schema])
        raise UserError(
            "pictures must be in a column called image, or in the only column of bytes (binary, or "
            f"a struct with a field bytes), but '{place}' has {there}; rename the one with the "
            "pictures to image"
        )
    picture, path = chosen[0].name, None
    if pa.types.is_struct(chosen[0].type):
        fields = {field.name: field.type for field in chosen[0].type.fields}
        path = f"{picture}.path" if "path" in fields and _is_text(fields["path"]) else None
        picture = f"{picture}.bytes"
    label = next((name for name in _LABELS if name in schema.names), None)
    if label is None:
        return _Columns(picture=picture, path=path, label=None, texts=False, classes=None)
    kind = schema.field(label).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if not _is_text(kind) and not pa.types.is_integer(kind):
        raise UserError(
            f"labels must be integers or texts, but column {label} of '{place}' holds {kind}; "
            "write it so, or rename it for pictures without labels"
        )
    texts = _is_text(kind)
    classes = None if texts else _class_names(place, schema, label)
    return _Columns(picture=picture, path=path, label=label, texts=texts, classes=classes)


def _class_names(place: Place, schema: pa.Schema, label: str) -> tuple[str, ...] | None:
    """The names of a Hugging Face ClassLabel, None where there is none."""
    text = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        names = json.loads(text).get("info", {}).get("features", {}).get(label, {}).get("names")
    except (ValueError, AttributeError):
        raise UserError(
            f"the huggingface metadata of a Parquet file must describe its features in JSON, but "
            f"that of '{place}' does not; remove or mend it"
        ) from None
    return None if names is None else tuple(map(str, names))


def _labels(source: PictureRows, looked: Sequence[_Looked]) -> tuple[Array, tuple[str, ...]]:
    """(N,) int32 indices into the classes that occur, in the order of their values."""
    column, names = looked[0].columns.label, looked[0].columns.classes
    values = pa.chunked_array([chunk for one in looked for chunk in one.labels])
    if values.null_count:
        row = source.name_of(pc.index(pc.is_null(values), True).as_py())
        raise UserError(
            f"every picture must have a label, but {column} is empty in {row}; fill it, or rename "
            "the column for pictures without labels"
        )
    occurring = sorted(pc.unique(values).to_pylist())
    if looked[0].columns.texts:
        classes = tuple(occurring)
    else:
        highest = occurring[-1] if names is None else len(names) - 1
        wrong = [value for value in occurring if not 0 <= value <= highest]
        if wrong:
            row = source.name_of(pc.index(values, wrong[0]).as_py())
            bound = "0 or more" if names is None else f"0 to {highest}, as {len(names)} have names"
            raise UserError(
                f"labels must be {bound}, but {column} is {wrong[0]} in {row}; leave such rows out"
            )
        classes = tuple(str(value) if names is None else names[value] for value in occurring)
    labels = pc.index_in(values, value_set=pa.array(occurring, values.type))
    return labels.to_numpy().astype(np.int32), classes


def _keys(
    source: PictureRows,
    looked: Sequence[_Looked],
    labels: Array,
    classes: tuple[str, ...],
    tests: Array,
) -> pa.Array:
    """What pictures are known by: class and name of the file that they once were, as in a folder.

    Where these are not there or not distinct, the Parquet file and the row.
    """
    if looked[0].columns.path:
        paths = pa.chunked_array([chunk for one in looked for chunk in one.paths])
        names = pc.replace_substring_regex(paths.combine_chunks(), r"^.*/", "")
        if classes:
            names = below(pa.array(classes, pa.large_string()).take(pa.array(labels)), names)
        training = names.filter(pa.array(~tests))
        if not names.null_count and len(pc.unique(training)) == len(training):
            return names
    files = zip(texts(source.files.names), looked, strict=True)
    rows = (f"{name} row {n}" for name, one in files for n in range(1, 1 + sum(one.rows)))
    return pa.array(rows, pa.large_string())


def _holds_pictures(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _is_bytes(field.type) for field in kind.fields)
    return _is_bytes(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
