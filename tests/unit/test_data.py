"""Folders of pictures and their splits, pictures of every kind, and the views of them."""

import random
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from fsspec.implementations.local import LocalFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pyarrow.fs import FSSpecHandler, PyFileSystem

from dna_ray.config import Features
from dna_ray.data import SPLITS, Pictures, load_pictures, package_folder
from dna_ray.data.transforms import (
    augmented_view,
    decode,
    decode_or_reason,
    plain_view,
    stored_side,
)
from dna_ray.errors import UserError
from dna_ray.storage import Place

Array = np.ndarray

# Sources


def fill(folder: Path, counts: dict[str, int], suffix: str = ".png") -> Path:
    """Empty files, which nothing reads before they are decoded; "" is the folder itself."""
    for name, count in counts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            (folder / name / f"picture {number}{suffix}").touch()
    return folder


def names(pictures: Pictures) -> list[str]:
    return [pictures.name_of(i) for i in range(len(pictures))]


def check_splits(pictures: Pictures) -> None:
    assert tuple(pictures.splits) == SPLITS
    together = np.concatenate(list(pictures.splits.values()))
    assert sorted(together) == list(range(len(pictures)))
    labels = pictures.labels if pictures.labelled else np.zeros(len(pictures), int)
    for split, share in zip(SPLITS, (0.64, 0.16, 0.20), strict=True):
        members = pictures.splits[split]
        assert list(members) == sorted(members)
        for label in np.unique(labels):
            inside = np.count_nonzero(labels[members] == label)
            assert abs(inside - share * np.count_nonzero(labels == label)) <= 1, (split, label)


def split_names(pictures: Pictures) -> dict[str, set[str]]:
    """Splits by folder and name, which do not depend on where the folder is."""
    return {
        split: {"/".join(Path(pictures.name_of(i)).parts[-2:]) for i in members}
        for split, members in pictures.splits.items()
    }


def test_solar() -> None:
    pictures = load_pictures("solar")
    assert len(pictures) == len(pictures.labels) == 2624
    assert sum(pictures.labels) == 821
    assert pictures.classes == ("good", "defective")
    assert all(Path(name).is_file() for name in names(pictures))
    assert "CC BY-NC-SA" in pictures.notice
    check_splits(pictures)


def test_photos() -> None:
    pictures = load_pictures("photos")
    assert len(set(names(pictures))) == 28
    assert all(Path(name).is_file() for name in names(pictures))
    assert not pictures.labelled
    assert pictures.classes == ()
    check_splits(pictures)


@pytest.mark.parametrize("suffix", [".png", ".JPG", ".Jpeg", ".tiff", ".webp"])
def test_a_flat_folder_has_no_labels(tmp_path: Path, suffix: str) -> None:
    fill(tmp_path / "mine", {"": 20}, suffix)
    (tmp_path / "mine" / "notes.txt").touch()
    (tmp_path / "mine" / "folder.png").mkdir()
    pictures = load_pictures(str(tmp_path / "mine"))
    assert pictures.name == "mine"
    assert len(pictures) == 20
    assert len(pictures.labels) == 0
    assert not pictures.labelled
    check_splits(pictures)


def test_class_folders_are_labels(tmp_path: Path) -> None:
    counts = {"zebra": 30, "ape": 11, "new\u00f6 one": 17}
    fill(tmp_path, {**counts, "nothing": 0})
    pictures = load_pictures(str(tmp_path))
    assert pictures.classes == tuple(sorted(counts))
    for name, label in zip(names(pictures), pictures.labels, strict=True):
        assert Path(name).parent.name == pictures.classes[label]
    assert np.bincount(pictures.labels).tolist() == [counts[c] for c in pictures.classes]
    check_splits(pictures)


@given(counts=st.lists(st.integers(5, 40), min_size=2, max_size=4))
@settings(max_examples=8, deadline=None)
def test_splits_are_stratified_at_any_sizes(
    counts: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("classes")
    check_splits(load_pictures(str(fill(folder, {f"c{i}": n for i, n in enumerate(counts)}))))


@pytest.mark.parametrize("counts", [{"a": 30, "b": 25}, {"": 40}])
def test_splits_depend_on_names_alone(
    counts: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = load_pictures(str(fill(tmp_path / "one" / "set", counts)))
    elsewhere = fill(tmp_path / "two" / "set", counts)

    class Shuffling(LocalFileSystem):  # type: ignore[misc]
        def find(self, *args: object, **options: object) -> dict[str, object]:
            files = list(super().find(*args, **options).items())
            random.Random(1).shuffle(files)
            return dict(files)

    filesystem = PyFileSystem(FSSpecHandler(Shuffling()))
    monkeypatch.setattr(Place, "of", lambda given: Place(filesystem, given, given))
    pictures = load_pictures(str(elsewhere))
    assert pictures.labels.tolist() == expected.labels.tolist()
    assert split_names(pictures) == split_names(expected)
    assert [Path(name).name for name in names(pictures)] == [
        Path(name).name for name in names(expected)
    ]


def test_another_class_does_not_move_pictures_between_splits(tmp_path: Path) -> None:
    before = split_names(load_pictures(str(fill(tmp_path, {"m": 30, "n": 30}))))
    after = split_names(load_pictures(str(fill(tmp_path, {"a": 12}))))
    for split in SPLITS:
        assert before[split] == {name for name in after[split] if not name.startswith("a/")}


@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        (None, "there is no folder"),
        ({"": 0}, "holds none"),
        ({"a": 0, "b": 0}, "holds none"),
        ({"only": 20}, "has one"),
        ({"": 5, "a": 20, "b": 20}, "holds both"),
        ({"": 2}, "split empty"),
        ({"a": 20, "b": 3}, "'b' has 3; add pictures"),
    ],
)
def test_folders_that_are_no_picture_sets_are_refused(
    counts: dict[str, int] | None, reason: str, tmp_path: Path
) -> None:
    folder = tmp_path / "set"
    if counts is not None:
        fill(folder, counts)
    with pytest.raises(UserError, match=reason):
        load_pictures(str(folder))


@pytest.mark.parametrize("counts", [{"a": 9, "b": 9}, {"": 20}])
def test_files_that_are_no_pictures_are_passed_over_and_said(
    counts: dict[str, int], tmp_path: Path
) -> None:
    folder = fill(tmp_path / "set", counts)
    expected = load_pictures(str(folder))
    inside = folder / next(iter(counts))
    for name in ("notes.txt", ".DS_Store", "._0.png", "README"):
        (inside / name).touch()
    pictures = load_pictures(str(folder))
    assert names(pictures) == names(expected)
    assert split_names(pictures) == split_names(expected)
    assert pictures.notice == expected.notice + "; 2 files are passed over: README, notes.txt"
    for number in range(20):
        (inside / f"z{number:02}.xml").touch()
    said = load_pictures(str(folder)).notice
    assert "; 22 files are passed over: " in said
    assert said.endswith("z07.xml and 12 more")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(UserError, match="folder"):
        load_pictures(str(tmp_path / "a.png"))


def test_a_missing_package_says_how_to_install_it() -> None:
    with pytest.raises(UserError, match=r"pip install 'dna-ray\[demo\]'"):
        package_folder("no_such_package_of_pictures", "--data x")


# Decoding

SIDE = 32
LEFT, RIGHT = (200, 60, 20), (20, 90, 220)


def halves(size: int = 96) -> Array:
    """Two colours, left and right."""
    picture = np.empty((size, size, 3), np.uint8)
    picture[:, : size // 2], picture[:, size // 2 :] = LEFT, RIGHT
    return picture


def decoded(image: Image.Image, file: Path, side: int = SIDE, **options: object) -> Array:
    image.save(file, **options)
    picture = decode(file.read_bytes(), side)
    assert picture.shape == (side, side, 3)
    assert picture.dtype == np.uint8
    return picture


def check_halves(picture: Array, left: object, right: object, tolerance: int = 3) -> None:
    """Away from the seam, where resampling rings."""
    for part, colour in ((picture[:, : SIDE // 2 - 4], left), (picture[:, SIDE // 2 + 4 :], right)):
        assert np.abs(part.astype(int) - np.array(colour)).max() <= tolerance


def grey(colour: tuple[int, int, int]) -> float:
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


KINDS: dict[str, tuple[str, Callable[[Image.Image], Image.Image], tuple[object, object]]] = {
    "rgb": (".png", lambda i: i, (LEFT, RIGHT)),
    "bmp": (".bmp", lambda i: i, (LEFT, RIGHT)),
    "ppm": (".ppm", lambda i: i, (LEFT, RIGHT)),
    "grey": (".png", lambda i: i.convert("L"), (grey(LEFT), grey(RIGHT))),
    "palette": (".png", lambda i: i.quantize(8), (LEFT, RIGHT)),
    "gif": (".gif", lambda i: i.quantize(8), (LEFT, RIGHT)),
    "rgba": (".png", lambda i: i.convert("RGBA"), (LEFT, RIGHT)),
    "la": (".png", lambda i: i.convert("LA"), (grey(LEFT), grey(RIGHT))),
    "1-bit": (".png", lambda i: i.getchannel("R").point(lambda v: 255 * (v > 99), "1"), (255, 0)),
    "cmyk": (".tif", lambda i: i.convert("CMYK"), (LEFT, RIGHT)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_of_every_kind_become_rgb(kind: str, tmp_path: Path) -> None:
    suffix, convert, (left, right) = KINDS[kind]
    image = convert(Image.fromarray(halves()))
    check_halves(decoded(image, tmp_path / f"p{suffix}"), left, right)


@pytest.mark.parametrize("kind", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_seen_on_white(kind: str, tmp_path: Path) -> None:
    image = Image.fromarray(halves()).convert("RGBA")
    alpha = np.full((96, 96), 255, np.uint8)
    alpha[:, 48:] = 0
    image.putalpha(Image.fromarray(alpha))
    left = grey(LEFT) if kind == "LA" else LEFT
    seen = image.quantize(8) if kind == "P" else image.convert(kind)
    check_halves(decoded(seen, tmp_path / "p.png"), left, (255, 255, 255))


def test_a_picture_of_40_megapixels_is_read(tmp_path: Path) -> None:
    picture = Image.fromarray(halves()).resize((8000, 5000), Image.Resampling.NEAREST)
    check_halves(decoded(picture, tmp_path / "p.png", compress_level=1), LEFT, RIGHT)


def test_a_picture_of_floats_is_left_out_with_a_reason(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((96, 96), np.float32)).save(tmp_path / "p.tif")
    _, reason = decode_or_reason((tmp_path / "p.tif").read_bytes(), SIDE)
    assert "floating point" in reason


def test_what_is_no_picture_is_black_and_has_a_reason_that_is_always_the_same() -> None:
    encoded = BytesIO()
    Image.fromarray(halves()).save(encoded, "png")
    for data, said in (
        (b"", "no picture"),
        (b"<html>not found</html>", "no picture"),
        (encoded.getvalue()[:-200], "OSError: "),
        (FileNotFoundError(2, "No such file or directory"), "FileNotFoundError: [Errno 2] No such"),
    ):
        picture, reason = decode_or_reason(data, SIDE)
        assert reason.startswith(said)
        assert decode_or_reason(data, SIDE)[1] == reason
        assert not picture.any()
    picture, reason = decode_or_reason(encoded.getvalue(), SIDE)
    assert reason == ""
    check_halves(picture, LEFT, RIGHT)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpegs_of_every_kind_become_rgb(mode: str, tmp_path: Path) -> None:
    """Large enough for the decoder to shrink them on the way."""
    image = Image.fromarray(halves(512)).convert(mode)
    colours = (grey(LEFT), grey(RIGHT)) if mode == "L" else (LEFT, RIGHT)
    check_halves(decoded(image, tmp_path / "p.jpg", quality=98, subsampling=0), *colours, 6)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_pictures_keep_their_range(suffix: str, tmp_path: Path) -> None:
    picture = np.full((96, 96), 257 * 60, np.uint16)
    picture[:, 48:] = 257 * 180
    check_halves(decoded(Image.fromarray(picture), tmp_path / f"p{suffix}"), 60, 180)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 40), (40, 1), (31, 33)])
def test_small_and_thin_pictures_are_enlarged(size: tuple[int, int], tmp_path: Path) -> None:
    image = Image.new("RGB", size, LEFT)
    assert np.array_equal(
        decoded(image, tmp_path / "p.png"), np.broadcast_to(np.uint8(LEFT), (SIDE, SIDE, 3))
    )


@pytest.mark.parametrize("upright", [False, True])
def test_the_middle_square_is_taken(upright: bool, tmp_path: Path) -> None:
    picture = np.zeros((96, 288, 3), np.uint8)
    picture[:, 96:192] = halves()
    if upright:
        picture = picture.transpose(1, 0, 2)
    result = decoded(Image.fromarray(picture), tmp_path / "p.png")
    interior = (result.transpose(1, 0, 2) if upright else result)[:, 4:-4]
    assert np.abs(interior[:, :8].astype(int) - LEFT).max() <= 3
    assert np.abs(interior[:, -8:].astype(int) - RIGHT).max() <= 3


# How the stored picture is turned for it to be upright, by the number in the EXIF data.
UPRIGHT: dict[int, Callable[[Array], Array]] = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
    8: lambda p: np.rot90(p),
}


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_pictures_are_turned_upright(orientation: int, suffix: str, tmp_path: Path) -> None:
    picture = np.zeros((256, 256, 3), np.uint8)
    picture[:128, :128], picture[128:, :128], picture[:128, 128:] = LEFT, RIGHT, (90, 90, 90)
    image = Image.fromarray(picture)
    exif = Image.Exif()
    exif[0x0112] = orientation
    result = decoded(image, tmp_path / f"p{suffix}", exif=exif)
    # Four pixels in the middle of the quadrants, of which each has a colour of its own.
    expected = UPRIGHT[orientation](picture)[64::128, 64::128].astype(int)
    assert np.abs(result[8::16, 8::16].astype(int) - expected).max() <= 6


@pytest.mark.parametrize("name", ["with some blanks", "\u00fcml\u00e4ut \u732b", "per%cent#hash"])
def test_names_may_hold_anything(name: str, tmp_path: Path) -> None:
    check_halves(decoded(Image.fromarray(halves()), tmp_path / f"{name}.png"), LEFT, RIGHT)


# Views


def noise(side: int = 24, seed: int = 0) -> Array:
    picture = np.random.default_rng(seed).integers(256, size=(side, side, 3), dtype=np.uint8)
    picture.setflags(write=False)
    return picture


@pytest.mark.parametrize(("resolution", "side"), [(96, 128), (224, 299), (32, 43), (3, 4), (1, 2)])
def test_stored_pictures_are_a_third_larger(resolution: int, side: int) -> None:
    assert stored_side(resolution) == side


def test_the_plain_view_is_the_whole_picture() -> None:
    assert np.array_equal(plain_view(noise(), 24), noise())
    constant = np.full((24, 24, 3), (9, 120, 240), np.uint8)
    assert np.array_equal(plain_view(constant, 18), constant[:18, :18])
    check_halves(plain_view(halves(), SIDE), LEFT, RIGHT)
    view = plain_view(noise(), 12)
    assert (view.shape, view.dtype) == ((12, 12, 3), np.uint8)


STRONG = Features(crop=0.3, jitter=0.4, erasing=0.5)


@given(
    key=st.integers(0, 2**63 - 1),
    resolution=st.integers(1, 30),
    features=st.sampled_from([Features(), STRONG, Features(crop=1.0)]),
)
@settings(max_examples=40, deadline=None)
def test_an_augmented_view_is_a_function_of_its_key(
    key: int, resolution: int, features: Features
) -> None:
    picture = noise()
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    view = augmented_view(picture, resolution, features, key)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]
    assert view.shape == (resolution, resolution, 3)
    assert view.dtype == np.uint8
    assert view.flags["C_CONTIGUOUS"]
    torch.manual_seed(key % 97)  # whatever has been drawn since
    assert np.array_equal(augmented_view(picture, resolution, features, key), view)
    assert np.array_equal(picture, noise())


@pytest.mark.parametrize("features", [Features(), STRONG])
def test_keys_give_different_views(features: Features) -> None:
    views = {augmented_view(noise(90), 18, features, key).tobytes() for key in range(20)}
    assert len(views) == 20


def test_without_a_crop_a_view_is_the_picture_or_its_mirror_image() -> None:
    features, picture = Features(crop=1.0), noise()
    mirrored = [
        np.array_equal(augmented_view(picture, 24, features, key), picture[:, ::-1])
        for key in range(60)
    ]
    plain = [
        np.array_equal(augmented_view(picture, 24, features, key), picture) for key in range(60)
    ]
    assert all(a != b for a, b in zip(mirrored, plain, strict=True))
    assert 15 <= sum(mirrored) <= 45


def test_crops_keep_the_share_that_is_asked_for() -> None:
    """On a ramp from left to right, the range of a view tells how wide its crop was."""
    ramp = np.repeat(np.arange(0, 240, 4, dtype=np.uint8)[None, :, None], 60, 0).repeat(3, 2)
    for least in (0.25, 0.81):
        widths = [
            float(np.ptp(augmented_view(ramp, 60, Features(crop=least), key).astype(int))) / 236
            for key in range(40)
        ]
        # At least the root of the share at the narrowest ratio of the sides, 3/4.
        assert min(widths) >= (least * 0.75) ** 0.5 - 0.05
        assert min(widths) < (least**0.5 + 1) / 2
        assert max(widths) <= 1


def test_erasing_paints_grey_as_often_as_asked_for() -> None:
    black = np.zeros((24, 24, 3), np.uint8)
    views = [augmented_view(black, 24, Features(erasing=0.5), key) for key in range(60)]
    assert {int(v) for view in views for v in np.unique(view)} == {0, 127}
    assert 15 <= sum(bool(view.any()) for view in views) <= 45


def test_jitter_changes_colours_within_its_strength() -> None:
    grey_picture = np.full((24, 24, 3), 100, np.uint8)
    values = set()
    for key in range(40):
        view = augmented_view(grey_picture, 24, Features(jitter=0.2), key)
        assert len(np.unique(view)) == 1
        values.add(int(view[0, 0, 0]))
    assert len(values) > 10
    assert min(values) >= 79
    assert max(values) <= 121
