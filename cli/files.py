"""Tables that a command is asked to write."""

import os
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from dna_ray.errors import UserError
from dna_ray.storage import write_whole


def check_table_file(path: Path) -> None:
    """Raise UserError where `path` can be no table: before any work is done for it."""
    if path.suffix.lower() not in (".parquet", ".csv"):
        raise UserError(f"a table must be a .parquet or .csv file, but '{path}' is given")
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise UserError(
            f"a table must be a file in a folder that can be written to, but '{path}' is not; "
            "make the folder, or give another place"
        )


def check_parquet(path: Path, option: str) -> None:
    """Raise UserError where what an option names is no .parquet file."""
    if path.suffix.lower() != ".parquet":
        raise UserError(
            f"{option} must be a .parquet file, because a table says what it was made of, "
            f"but '{path}' is given"
        )


def check_made_again(path: Path, option: str, mark: str) -> None:
    """Raise UserError where `path` is neither new nor a table with a `mark` in its metadata."""
    check_parquet(path, option)
    ours = not path.exists()
    if not ours:
        with suppress(OSError, pa.ArrowException):
            ours = mark.encode() in (pq.read_schema(path).metadata or {})
    if not ours:
        raise UserError(
            f"{option} must be a new file or one that it made before, but '{path}' is neither; "
            "give another"
        )
    check_table_file(path)


def write_table(path: Path, table: pa.Table) -> None:
    """Write a whole table, as the name's ending says, or nothing; raises UserError."""
    sink = pa.BufferOutputStream()
    if path.suffix.lower() == ".csv":
        csv.write_csv(table, sink)
    else:
        pq.write_table(table, sink)
    try:
        write_whole(path, sink.getvalue().to_pybytes())
    except OSError as error:
        raise UserError(
            f"a table must be writable, but '{path}' is not ({error.strerror}); give another place"
        ) from None
