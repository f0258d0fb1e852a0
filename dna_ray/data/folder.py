"""Folders of pictures: flat, one folder per class, or parts that train and that test."""

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.fs import FileType

from dna_ray.data.embedded import EMBEDDED
from dna_ray.data.files import (
    PARQUET,
    SUFFIXES,
    Files,
    Folder,
    below,
    each,
    listed,
    look,
    passed_over,
)
from dna_ray.data.found import Found, PictureFiles
from dna_ray.data.parquet import find_rows
from dna_ray.errors import UserError, nearest
from dna_ray.storage import Place, reachable

# What the part that trains is called, and the one that tests: the first of these that is there.
_TRAIN = "train"
_TESTS = ("val", "validation", "test")


def find(source: str) -> Found:
    """The pictures at a path or URI: a folder, a Parquet file, or a folder of Parquet files."""
    place = Place.of(source)
    name = PurePosixPath(place.path).name
    with reachable(place, "--data"):
        info = place.info()
        if info.type == FileType.File and name.endswith(PARQUET):
            return find_rows(name, {"": Files.of(_around(place), [info])})
        if info.type != FileType.Directory:
            kind = "file" if name.endswith(PARQUET) else "folder"
            raise UserError(
                "--data must be solar, photos, a folder of pictures or of Parquet files, or a "
                f"Parquet file, but there is no {kind} '{source}'; "
                f"{nearest(source, EMBEDDED, 'check the path')}"
            )
        return _find_in(name, look(place))


def _around(file: Place) -> Place:
    """The folder in which a file is."""
    if file.local is not None:
        return Place.of(file.local.parent)
    head, mark, options = file.name.partition("?")
    folder, name = file.path.rpartition("/")[0], head.rpartition("/")[0]
    return Place(file.filesystem, folder, f"{name}{mark}{options}")


def _find_in(name: str, top: Folder) -> Found:
    test = next((test for test in _TESTS if test in top.folders), None)
    if test is None or _TRAIN not in top.folders:
        if not len(top.parquet):
            return _find_pictures(name, top.place, {"": top})
        _check_parquet_alone(top)
        return _find_parquet(name, top)
    if len(top.pictures) or len(top.parquet):
        raise _mixed(top, f"the parts {_TRAIN} and {test}", "pictures beside them")
    parts = {part: look(top.place / part) for part in (_TRAIN, test)}
    unused = [folder for folder in top.folders if folder not in parts]
    said = (passed_over(unused, "folder"), passed_over(top.others, "file"))
    if not any(len(part.parquet) for part in parts.values()):
        return _find_pictures(name, top.place, parts, said)
    files = {}
    for part, folder in parts.items():
        _check_parquet_alone(folder)
        files[part] = Files.together(top.place, [(part, folder.parquet)])
    return find_rows(name, files, said)


def _find_parquet(name: str, top: Folder) -> Found:
    """The pictures in a folder's Parquet files, in parts where the names of the files say so."""
    starts = {
        start: np.array(pc.starts_with(top.parquet.names, start), bool)
        for start in (_TRAIN, *_TESTS)
    }
    test = next((test for test in _TESTS if starts[test].any()), None)
    said = (passed_over(top.folders, "folder"), passed_over(top.others, "file"))
    if test is None or not starts[_TRAIN].any():
        return find_rows(name, {"": top.parquet}, said)
    unused = top.parquet.where(~(starts[_TRAIN] | starts[test])).names.to_pylist()
    files = {f"{start}*{PARQUET}": top.parquet.where(starts[start]) for start in (_TRAIN, test)}
    return find_rows(name, files, (*said, passed_over(unused, "Parquet file")))


def _check_parquet_alone(folder: Folder) -> None:
    if not len(folder.parquet):
        raise UserError(
            f"both parts of a set must hold Parquet files, but '{folder.place}' holds none; put "
            "them there"
        )
    if len(folder.pictures):
        raise _mixed(folder, "Parquet files", "pictures beside them")


def _mixed(folder: Folder, one: str, other: str) -> UserError:
    return UserError(
        f"a folder holds pictures, or one folder per class, or Parquet files, but '{folder.place}' "
        f"holds both {one} and {other}; move some elsewhere"
    )


def _find_pictures(
    name: str, root: Place, parts: Mapping[str, Folder], said: Sequence[str] = ()
) -> Found:
    """The pictures that are files of their own: in one part called "", or in two."""
    pieces: list[tuple[str, str, Files]] = []  # part, class, and the files of these
    others: list[str] = []
    for part, folder in parts.items():
        by_class, more = _by_class(folder)
        pieces += [(part, kind, files) for kind, files in by_class.items()]
        others += more
    classes = sorted({kind for _, kind, _ in pieces})
    flat = [part for part, kind, _ in pieces if not kind]
    if flat and len(classes) > 1:
        raise UserError(
            f"both parts of a set must have class folders, or neither, but '{root / flat[0]}' has "
            "none; sort its pictures into folders called as those of the other part"
        )
    counts = [len(files) for _, _, files in pieces]
    labels = np.repeat([classes.index(kind) for _, kind, _ in pieces], counts).astype(np.int32)
    return Found(
        name=name,
        source=PictureFiles(
            Files.together(
                root,
                [("/".join(filter(None, (part, kind))), files) for part, kind, files in pieces],
            )
        ),
        keys=pa.concat_arrays([below(kind, files.names) for _, kind, files in pieces]),
        labels=labels[:0] if flat else labels,
        classes=() if flat else tuple(classes),
        parts=tuple(filter(None, parts)),
        tests=np.repeat([part not in ("", _TRAIN) for part, _, _ in pieces], counts),
        said=(*said, passed_over(others, "file")),
    )


def _by_class(folder: Folder) -> tuple[dict[str, Files], list[str]]:
    """The pictures of each class, without classes those of "", and names of other files."""
    children = each(folder.place, look, [folder.place / name for name in folder.folders])
    classes = {
        name: child.pictures
        for name, child in zip(folder.folders, children, strict=True)
        if len(child.pictures)
    }
    if len(folder.pictures):
        if classes:
            raise _mixed(folder, "pictures", f"class folders ({listed(list(classes))})")
        return {"": folder.pictures}, list(folder.others)
    if not classes:
        deeper = [child.place for child in children if child.folders or len(child.parquet)]
        raise UserError(
            f"a folder of pictures must hold some ({', '.join(sorted(SUFFIXES))}), but "
            f"'{folder.place}' holds none; "
            + (f"give '{deeper[0]}' if that does" if deeper else "check the path")
        )
    if len(classes) == 1:
        (name,) = classes
        raise UserError(
            f"labels need two class folders or more, but '{folder.place}' has one ('{name}'); "
            f"give '{folder.place / name}' for pictures without labels"
        )
    return classes, [name for part in (folder, *children) for name in part.others]
