"""Tables that grow by a row at a time, as CSV files, whatever interrupts who writes them."""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dna_ray.storage import write_whole

Row = dict[str, str]


def read(file: Path) -> list[Row]:
    """The rows of a table, but for a last one that was cut off; none where there is no file."""
    return list(csv.DictReader(io.StringIO(_whole(file), newline="")))


def append(file: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows behind those that are there; all of them, or none is read again."""
    whole = _whole(file)
    if file.exists() and len(whole) < len(file.read_text(encoding="utf-8")):
        write_whole(file, whole.encode())
    text = _text(columns, rows, header=not whole)
    with file.open("a", encoding="utf-8", newline="") as stream:
        stream.write(text)


def put_in_order(file: Path, columns: Sequence[str], key: Callable[[Row], Any]) -> None:
    """Sort the rows, so that the file does not tell in which order they came."""
    rows = sorted(read(file), key=key)
    write_whole(file, _text(columns, rows, header=True).encode())


def _whole(file: Path) -> str:
    """The text until the end of the last line that has one."""
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    return text[: text.rfind("\n") + 1]


def _text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]], *, header: bool) -> str:
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()
