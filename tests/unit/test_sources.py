"""The same pictures as files and as Parquet, here and on S3; parts, faults, and large sets."""

import hashlib
import json
import os
import pickle
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import BytesIO
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet as pq
from pyarrow.fs import FileInfo, FileType, copy_files

from dna_ray import storage
from dna_ray.data import SPLITS, Pictures, fingerprint, load_pictures
from dna_ray.data.transforms import decode
from dna_ray.errors import UserError
from dna_ray.storage import Place
from tests.s3 import Store

Array = np.ndarray
Named = dict[str, bytes]  # encoded pictures by class/name, or by name

# What sets of Parquet files have names for; not all occur in each.
CLASSES = ("a", "ape", "b", "bee", "c", "cow", "new\u00f6 one", "zebra")

COUNTS = {"ape": 13, "new\u00f6 one": 9, "zebra": 21}


def encoded(number: int) -> bytes:
    """A small picture, another one for every number."""
    pixels = np.random.default_rng(number).integers(256, size=(12, 10, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def named(counts: dict[str, int], first: int = 0) -> Named:
    """Different pictures, so many of every class."""
    names = [f"{kind}/picture {n}.png" for kind, count in counts.items() for n in range(count)]
    return {name: encoded(first + number) for number, name in enumerate(names)}


# Ways to write them


def as_files(folder: Path, pictures: Named) -> Path:
    for name, data in pictures.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def class_label(names: Sequence[str]) -> dict[str, str]:
    """The metadata that the `datasets` library writes."""
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    return {"huggingface": json.dumps({"info": {"features": features}})}


def as_structs(file: Path, pictures: Named, group: int = 5, **options: Any) -> Path:
    """Rows as of Hugging Face, out of order: structs of bytes and base name, integer labels."""
    names = sorted(pictures, key=lambda name: name[::-1])
    table = pa.table(
        {
            "label": [CLASSES.index(name.split("/")[0]) for name in names],
            "image": [{"bytes": pictures[n], "path": n.split("/")[1]} for n in names],
        }
    ).replace_schema_metadata(class_label(CLASSES))
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file, row_group_size=group, **options)
    return file


def as_binary(file: Path, pictures: Named, group: int = 7) -> Path:
    """Plain bytes, labels as texts of a dictionary, and a column that nobody asked for."""
    names = sorted(pictures)
    table = pa.table(
        {
            "jpeg": pa.array([pictures[name] for name in names], pa.large_binary()),
            "caption": names,
            "class": pa.array([name.split("/")[0] for name in names]).dictionary_encode(),
        }
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file, row_group_size=group)
    return file


def in_several(
    write: Callable[[Path, Named], Path],
) -> Callable[[Path, Named], Path]:
    def written(folder: Path, pictures: Named) -> Path:
        items = sorted(pictures.items(), key=lambda item: item[0][::-1])
        for number in range(3):
            write(folder / f"part-{number}.parquet", dict(items[number::3]))
        (folder / "README.md").touch()
        return folder

    return written


def in_one(write: Callable[[Path, Named], Path]) -> Callable[[Path, Named], Path]:
    return lambda folder, pictures: write(folder / "all.parquet", pictures)


WAYS: dict[str, Callable[[Path, Named], Path]] = {
    "files": as_files,
    "structs": in_several(as_structs),
    "binary": in_several(as_binary),
    "one file of structs": in_one(as_structs),
    "one binary file": in_one(as_binary),
}


def uploaded(path: Path, store: Store, to: str) -> str:
    """The URI of a copy of a file or folder on S3."""
    Place.of(store.uri(to)).make_folder()
    target = Place.of(store.uri(f"{to}/{path.name}"))
    copy_files(str(path), target.path, destination_filesystem=target.filesystem)
    return target.name


def contents(pictures: Pictures) -> dict[str, dict[bytes, str]]:
    """By split, what the pictures hold and their classes."""
    return {
        name: {
            data: pictures.classes[pictures.labels[i]]
            for i, data in zip(members, pictures.read(members), strict=True)
            if isinstance(data, bytes)
        }
        for name, members in pictures.splits.items()
    }


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory, store: Store) -> dict[tuple[str, str], str]:
    """The same pictures in every way, here and on S3."""
    folder, pictures = tmp_path_factory.mktemp("ways"), named(COUNTS)
    found = {}
    for number, (way, write) in enumerate(WAYS.items()):
        path = write(folder / f"set-{number}", pictures)
        found[way, "here"] = str(path)
        found[way, "S3"] = uploaded(path, store, f"bucket/ways/{number}")
    return found


@pytest.mark.parametrize(("way", "where"), [*product(WAYS, ("here", "S3"))])
def test_the_same_pictures_are_found_in_every_way_and_place(
    way: str, where: str, sources: dict[tuple[str, str], str]
) -> None:
    pictures = load_pictures(sources[way, where])
    assert pictures.classes == tuple(sorted(COUNTS))
    assert len(pictures) == sum(COUNTS.values())
    found = contents(pictures)
    expected = contents(load_pictures(sources["files", "here"]))
    assert {name: len(members) for name, members in found.items()} == {
        name: len(members) for name, members in expected.items()
    }
    if "binary" in way:  # rows without names: other splits, the same pictures
        assert merged(found) == merged(expected)
    else:
        assert found == expected
    assert merged(found) == {data: n.split("/")[0] for n, data in named(COUNTS).items()}


def merged(splits: dict[str, dict[bytes, str]]) -> dict[bytes, str]:
    return {data: kind for members in splits.values() for data, kind in members.items()}


@pytest.mark.parametrize("way", WAYS)
def test_a_picture_is_the_same_here_and_on_s3(
    way: str, sources: dict[tuple[str, str], str]
) -> None:
    here, there = (load_pictures(sources[way, where]) for where in ("here", "S3"))
    assert there.labels.tolist() == here.labels.tolist()
    for name in SPLITS:
        assert there.splits[name].tolist() == here.splits[name].tolist()
    order = np.random.default_rng(0).permutation(len(here))[:20]
    for one, other in zip(here.read(order), there.read(list(order)), strict=True):
        assert isinstance(one, bytes)
        assert one == other
        assert np.array_equal(decode(one, 16), decode(other, 16))
    ends = [pictures.name_of(7).rpartition("/")[2] for pictures in (here, there)]
    assert ends[0] == ends[1]
    assert there.name_of(7).startswith("s3://bucket/ways/")
    assert (here.units is None) == (there.units is None) == (way == "files")


def test_units_are_the_row_groups_and_each_is_read_once_and_no_other_column(
    sources: dict[tuple[str, str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[tuple[list[int], list[str]]] = []
    read = pq.ParquetFile.iter_batches

    def recorded(file: pq.ParquetFile, rows: int, *, row_groups: Any, columns: Any) -> Any:
        reads.append((row_groups, columns))
        return read(file, rows, row_groups=row_groups, columns=columns)

    pictures = load_pictures(sources["structs", "here"])
    assert pictures.units is not None
    files = sorted(Path(sources["structs", "here"]).glob("*.parquet"))
    sizes = [
        meta.row_group(group).num_rows
        for meta in map(pq.read_metadata, files)
        for group in range(meta.num_row_groups)
    ]
    assert np.bincount(pictures.units).tolist() == sizes
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", recorded)
    asked = [*range(3, 9), 20, 4, 20]
    found = pictures.read(asked)
    assert found[1] == found[7]
    assert found[6] == found[8]
    assert len(reads) == len(np.unique(pictures.units[asked]))
    assert {tuple(columns) for _, columns in reads} == {("image.bytes",)}
    assert pictures.read([]) == []


def test_large_row_groups_are_said(
    sources: dict[tuple[str, str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = sources["structs", "here"]
    assert "row group" not in load_pictures(source).notice
    monkeypatch.setattr("dna_ray.data.parquet._LARGE", 5 * len(encoded(0)))
    assert "fewer pictures in a row group are read faster" in load_pictures(source).notice


def test_another_process_reads_what_was_pickled(sources: dict[tuple[str, str], str]) -> None:
    script = (
        "import hashlib, pickle, sys\n"
        "for pictures in pickle.load(sys.stdin.buffer):\n"
        "    print(*(hashlib.sha256(data).hexdigest() for data in pictures.read([8, 2])))\n"
    )
    sets = [load_pictures(sources[way, "S3"]) for way in ("files", "structs")]
    answer = subprocess.run(
        [sys.executable, "-c", script], input=pickle.dumps(sets), capture_output=True, timeout=60
    )
    assert answer.stdout.decode().split() == [
        hashlib.sha256(data).hexdigest()
        for pictures in sets
        for data in pictures.read([8, 2])
        if isinstance(data, bytes)
    ], answer.stderr.decode()


# Columns and labels

STRUCT = pa.struct({"bytes": pa.binary(), "path": pa.string()})
DATA = pa.array([encoded(number) for number in range(40)])
FOUR = [0, 1, 2, 3] * 10


def structs(paths: Sequence[str | None]) -> pa.Array:
    return pa.StructArray.from_arrays([DATA, pa.array(paths, pa.string())], fields=list(STRUCT))


@pytest.mark.parametrize(
    ("columns", "classes", "labels"),
    [
        ({"image": DATA}, (), []),
        ({"image": DATA, "label": FOUR}, ("0", "1", "2", "3"), FOUR),
        ({"x": DATA, "target": pa.array([7, 300] * 20, pa.uint16())}, ("7", "300"), [0, 1] * 20),
        ({"x": DATA, "labels": ["dog", "cat"] * 20}, ("cat", "dog"), [1, 0] * 20),
        ({"image": DATA, "class": FOUR, "label": ["b", "a"] * 20}, ("a", "b"), [1, 0] * 20),
        ({"thumbnail": DATA, "image": DATA, "name": ["x"] * 40}, (), []),
        ({"image": [f"{n}.png" for n in range(40)], "my.data": DATA}, (), []),
        ({"img": structs([None] * 40), "size": FOUR}, (), []),
    ],
)
def test_columns_are_found_by_name_and_kind(
    columns: dict[str, Any], classes: tuple[str, ...], labels: list[int], tmp_path: Path
) -> None:
    pq.write_table(pa.table(columns), tmp_path / "set.parquet", row_group_size=9)
    pictures = load_pictures(str(tmp_path / "set.parquet"))
    assert pictures.classes == classes
    assert pictures.labels.tolist() == labels
    assert pictures.labels.dtype == np.int32
    assert pictures.read(range(40)) == DATA.to_pylist()


def test_the_names_of_classes_are_those_of_hugging_face(tmp_path: Path) -> None:
    table = pa.table({"image": DATA, "label": [1, 3] * 20})
    table = table.replace_schema_metadata(class_label(("ape", "bee", "cow", "dog")))
    pq.write_table(table, tmp_path / "set.parquet")
    pictures = load_pictures(str(tmp_path))
    assert pictures.classes == ("bee", "dog")
    assert pictures.labels.tolist() == [0, 1] * 20


def test_files_of_one_name_are_told_apart_by_their_rows(tmp_path: Path) -> None:
    splits = []
    for number, paths in enumerate((["image.png"] * 40, [None] * 40)):
        (tmp_path / f"{number}").mkdir()
        pq.write_table(pa.table({"image": structs(paths)}), tmp_path / f"{number}" / "set.parquet")
        pictures = load_pictures(str(tmp_path / f"{number}"))
        splits.append({name: members.tolist() for name, members in pictures.splits.items()})
    assert splits[0] == splits[1]
    assert splits[0]["test"] != list(range(8))


# Parts that train and that test

TRAIN = {"ape": 330, "bee": 40, "cow": 4}
TEST = {"ape": 3, "bee": 20, "cow": 1}


def in_files_by_part(folder: Path, train: Named, test: Named) -> Path:
    as_files(folder / "val", test)
    as_files(folder / "test" / "unknown", {"x.png": b""})
    return as_files(folder / "train", train).parent


def in_parquet_folders(folder: Path, train: Named, test: Named) -> Path:
    in_several(as_structs)(folder / "train", train)
    return in_several(as_structs)(folder / "validation", test).parent


def in_parquet_files(folder: Path, train: Named, test: Named) -> Path:
    as_structs(folder / "validation-00000-of-00001.parquet", test)
    as_structs(folder / "test-00000-of-00001.parquet", {"ape/x": b"", "bee/x": b"", "cow/x": b""})
    in_several(as_structs)(folder, train)
    for file in folder.glob("part*"):
        file.rename(folder / f"train-{file.name}")
    return folder


BY_PART = (in_files_by_part, in_parquet_folders, in_parquet_files)


@pytest.mark.parametrize("write", BY_PART)
def test_the_part_that_tests_tests_and_50_of_a_class_are_held_out_of_the_other(
    write: Callable[[Path, Named, Named], Path], tmp_path: Path
) -> None:
    train, test = named(TRAIN), named(TEST, first=1000)
    pictures = load_pictures(str(write(tmp_path / "set", train, test)))
    found = contents(pictures)
    assert found["test"] == {data: name.split("/")[0] for name, data in test.items()}
    assert merged({name: found[name] for name in ("train", "rating")}) == {
        data: name.split("/")[0] for name, data in train.items()
    }
    rated = np.bincount(pictures.labels[pictures.splits["rating"]]).tolist()
    assert rated == [50, 6, 1]  # the smaller of 50 and 16 %
    assert "317 train, 57 rate (held out of the training set), 24 test" in pictures.notice
    # Which they are depends on the names alone.
    plain = load_pictures(str(in_files_by_part(tmp_path / "plain", train, test)))
    assert contents(plain)["rating"] == found["rating"]


def test_what_belongs_to_no_part_is_passed_over_and_said(tmp_path: Path) -> None:
    train, test = named(TRAIN), named(TEST)
    files = load_pictures(str(in_files_by_part(tmp_path / "files", train, test)))
    assert files.notice.endswith("; 1 folder is passed over: test")
    rows = load_pictures(str(in_parquet_files(tmp_path / "rows", train, test)))
    assert "; 1 file is passed over: README.md" in rows.notice
    assert "; 1 Parquet file is passed over: test-00000-of-00001.parquet" in rows.notice


def test_parts_without_classes(tmp_path: Path) -> None:
    as_files(tmp_path / "train", {f"{n}.png": encoded(n) for n in range(50)})
    as_files(tmp_path / "test", {f"{n}.png": encoded(n) for n in range(5)})
    pictures = load_pictures(str(tmp_path))
    assert not pictures.labelled
    assert {name: len(members) for name, members in pictures.splits.items()} == {
        "train": 42,
        "rating": 8,
        "test": 5,
    }
    assert {Path(pictures.name_of(i)).parent.name for i in pictures.splits["test"]} == {"test"}


@pytest.mark.parametrize("write", BY_PART)
@pytest.mark.parametrize(
    ("train", "test", "said"),
    [
        ({"a": 9, "b": 9}, {"a": 2, "b": 2, "c": 2}, "no picture of c"),
        ({"a": 9, "b": 9, "c": 9}, {"a": 2, "b": 2}, "no picture of c"),
        ({"a": 9, "b": 3}, {"a": 2, "b": 2}, "'b' has 3 in 'train"),
    ],
)
def test_parts_of_other_classes_or_too_few_pictures_are_refused(
    write: Callable[[Path, Named, Named], Path],
    train: dict[str, int],
    test: dict[str, int],
    said: str,
    tmp_path: Path,
) -> None:
    with pytest.raises(UserError, match=said):
        load_pictures(str(write(tmp_path / "set", named(train), named(test))))


# Faults


def failures(pictures: Pictures) -> dict[int, str]:
    found = pictures.read(range(len(pictures)))
    return {i: str(data) for i, data in enumerate(found) if isinstance(data, OSError)}


def test_a_file_that_has_gone_is_a_reason_in_its_place(tmp_path: Path, s3: str) -> None:
    as_files(tmp_path, {f"{n}.png": encoded(n) for n in range(20)})
    Place.of(s3).make_folder()
    copy_files(str(tmp_path), Place.of(s3).path, destination_filesystem=Place.of(s3).filesystem)
    for source in (str(tmp_path), s3):
        pictures = load_pictures(source)
        (Place.of(source) / "7.png").remove()
        assert list(failures(pictures)) == [
            i for i in range(20) if pictures.name_of(i).endswith("/7.png")
        ]


def test_where_a_store_fails_pictures_are_not_left_out(
    sources: dict[tuple[str, str], str], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "_PAUSES", (0.01,))
    for way in ("files", "structs"):
        pictures = load_pictures(sources[way, "S3"])
        whole = pictures.read([0, 1])
        with store.refusing(), pytest.raises(OSError, match="ACCESS_DENIED"):
            pictures.read([0, 1])
        assert pictures.read([0, 1]) == whole


@pytest.mark.parametrize("way", ["files", "structs"])
def test_a_store_that_answers_again_is_waited_for(
    way: str, sources: dict[tuple[str, str], str], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = load_pictures(sources[way, "S3"])
    whole, waits = pictures.read([0, 1]), []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        store.refuse(float("inf"))

    monkeypatch.setattr(storage, "time", SimpleNamespace(sleep=sleep))
    with store.refusing():
        assert pictures.read([0, 1]) == whole
    assert waits


def test_rows_without_a_picture_are_reasons(tmp_path: Path) -> None:
    rows = [{"bytes": encoded(n), "path": f"{n}"} for n in range(30)]
    rows[4], rows[11] = {"bytes": None, "path": "4"}, None
    pq.write_table(
        pa.table({"image": pa.array(rows, pa.struct({"bytes": pa.binary(), "path": pa.string()}))}),
        tmp_path / "set.parquet",
        row_group_size=8,
    )
    pictures = load_pictures(str(tmp_path / "set.parquet"))
    assert failures(pictures) == dict.fromkeys((4, 11), "the row holds no picture")
    assert pictures.name_of(11).endswith("set.parquet row 12")


def test_of_a_damaged_row_group_what_is_whole_is_read(tmp_path: Path) -> None:
    pictures = named({"a": 40, "b": 40})
    file = as_structs(
        tmp_path / "set.parquet",
        pictures,
        group=20,
        write_page_checksum=True,
        use_dictionary=False,
        compression="none",
    )
    found = load_pictures(str(file))
    whole = found.read(range(80))
    column = pq.read_metadata(file).row_group(2).column(1)
    assert column.path_in_schema == "image.bytes"
    data = bytearray(file.read_bytes())
    data[column.data_page_offset + column.total_compressed_size - 3] ^= 1
    file.write_bytes(data)
    assert list(failures(found)) == list(range(40, 60))
    assert "CRC" in failures(found)[40]
    assert found.read([39, 60]) == [whole[39], whole[60]]


@pytest.mark.parametrize("change", ["cut", "gone", "another"])
def test_a_parquet_file_that_changes_under_way_is_a_reason(change: str, tmp_path: Path) -> None:
    file = as_structs(tmp_path / "set.parquet", named({"a": 20, "b": 20}))
    pictures = load_pictures(str(file))
    if change == "cut":
        file.write_bytes(file.read_bytes()[:-30])
    elif change == "gone":
        file.unlink()
    else:
        pq.write_table(pa.table({"label": list(range(40))}), file, row_group_size=5)
    assert list(failures(pictures)) == list(range(40))
    assert all(failures(pictures).values())


def test_a_name_that_is_not_in_utf_8_is_refused(tmp_path: Path) -> None:
    as_files(tmp_path, {f"{n}.png": encoded(n) for n in range(20)})
    Path(os.fsdecode(os.fsencode(tmp_path / "caf") + b"\xe9.png")).touch()
    with pytest.raises(UserError, match=r"must be in UTF-8.*caf\\xe9\.png"):
        load_pictures(str(tmp_path))


# Knowing a set again


def test_a_fingerprint_changes_with_what_the_pictures_hold(tmp_path: Path) -> None:
    for number, (way, write) in enumerate(WAYS.items()):
        once, again = (write(tmp_path / f"{number}-{n}", named(COUNTS)) for n in range(2))
        before = fingerprint(load_pictures(str(once)))
        assert fingerprint(load_pictures(str(again))) == before, way
        file = max(once.rglob("*.p*")) if once.is_dir() else once
        data = bytearray(file.read_bytes())
        data[len(data) // 4] ^= 1
        pictures = load_pictures(str(once))
        file.write_bytes(data)
        assert fingerprint(pictures) != before, way


def test_of_large_sets_names_and_sizes_and_elsewhere_times_are_the_fingerprint(
    sources: dict[tuple[str, str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dna_ray.data.pictures._READ_WHOLE", sum(COUNTS.values()) - 1)
    for way, where in product(("files", "structs"), ("here", "S3")):
        pictures = load_pictures(sources[way, where])
        known = fingerprint(pictures)
        assert fingerprint(load_pictures(sources[way, where])) == known
        files = pictures.source.files
        names = files.names.to_pylist()
        for changed, differs in (
            (replace(files, sizes=files.sizes + 1), True),
            (replace(files, names=pa.array([*names[:-1], "x"], pa.large_string())), True),
            (replace(files, times=files.times + 1), where == "S3"),
        ):
            other = replace(pictures, source=replace(pictures.source, files=changed))
            assert (fingerprint(other) != known) == differs


# Sets of any size


def test_a_large_set_is_a_listing_call_a_folder_and_80_bytes_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fiftieth of ImageNet, as if it were there."""
    calls: list[str] = []
    parts = {"train": 1280, "val": 50}
    top = str(tmp_path)
    (tmp_path / "train").mkdir()

    def inside(place: Place) -> list[FileInfo]:
        calls.append(place.path)
        below = Path(place.path).relative_to(tmp_path).parts
        if len(below) < 2:
            names = [f"n{n:08}" for n in range(20)] if below else list(parts)
            return [FileInfo(f"{place.path}/{name}", FileType.Directory) for name in names]
        part, kind = below
        return [
            FileInfo(f"{place.path}/{kind}_{n:05}.JPEG", FileType.File, mtime_ns=n, size=110_000)
            for n in range(parts[part])
        ]

    monkeypatch.setattr(Place, "inside", inside)
    tracemalloc.start()
    pictures = load_pictures(top)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(calls) == len(set(calls)) == 1 + 2 + 2 * 20
    assert {name: len(members) for name, members in pictures.splits.items()} == {
        "train": 24_600,
        "rating": 1_000,
        "test": 1_000,
    }
    assert len(pickle.dumps(pictures)) < 80 * len(pictures)
    assert peak < 250 * len(pictures)
    assert pictures.name_of(25_650) == f"{top}/val/n{1:08}/n{1:08}_00000.JPEG"
