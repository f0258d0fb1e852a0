"""Where pictures come from: the embedded sets and folders, as lists of files with fixed splits."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from dna_ray.errors import UserError, nearest

EMBEDDED = ("solar", "photos")
SPLITS = ("train", "rating", "test")
SUFFIXES = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"))

# Shares of the pictures of each class; the rest trains. The rating pictures are held out of the
# training set, as in section 4.1 of the paper.
TEST_SHARE = 0.20
RATING_SHARE = 0.16

# With fewer pictures a class has none to rate on or none to test on.
_CLASS_PICTURES = 4

# How many files are named in a line.
_NAMED = 10

# Up to so many pictures a fingerprint reads every file.
_READ_WHOLE = 20_000


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """A set of picture files. Labels are indices into `classes`; without labels both are empty.

    `splits` maps each of SPLITS to sorted picture indices; they are disjoint, stratified by class,
    and depend on nothing but the names of the pictures.
    """

    name: str
    paths: tuple[str, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    splits: dict[str, tuple[int, ...]]
    notice: str = ""

    @property
    def labelled(self) -> bool:
        """Whether the pictures have labels."""
        return bool(self.labels)


def fingerprint(pictures: Pictures) -> str:
    """What a set of pictures is known by again: a hash of its labels, its splits and its files.

    Of a set too large to be read twice, the files' sizes stand for their contents.
    """
    digest = hashlib.sha256()
    digest.update(
        repr((pictures.classes, pictures.labels, sorted(pictures.splits.items()))).encode()
    )
    for path in map(Path, pictures.paths):
        digest.update(path.stat().st_size.to_bytes(8, "big"))
        if len(pictures.paths) <= _READ_WHOLE:
            digest.update(path.read_bytes())
    return digest.hexdigest()


def load_pictures(source: str) -> Pictures:
    """The pictures of an embedded set (`solar`, `photos`) or of a folder; raises UserError."""
    if source == "solar":
        return _solar()
    if source == "photos":
        return _photos()
    return _folder(Path(source))


def _pictures(
    name: str,
    names: Sequence[str],
    paths: Sequence[Path],
    labels: Sequence[int] = (),
    classes: tuple[str, ...] = (),
    notice: str = "",
) -> Pictures:
    return Pictures(
        name=name,
        paths=tuple(map(str, paths)),
        labels=tuple(labels),
        classes=classes,
        splits=_split(names, labels),
        notice=notice,
    )


def _split(names: Sequence[str], labels: Sequence[int]) -> dict[str, tuple[int, ...]]:
    by_class: dict[int, list[int]] = defaultdict(list)
    for index in range(len(names)):
        by_class[labels[index] if labels else 0].append(index)
    split: dict[str, list[int]] = {name: [] for name in SPLITS}
    for members in by_class.values():
        members.sort(key=lambda i: hashlib.sha256(names[i].encode()).digest())
        tests = round(TEST_SHARE * len(members))
        ratings = round(RATING_SHARE * len(members))
        split["test"] += members[:tests]
        split["rating"] += members[tests : tests + ratings]
        split["train"] += members[tests + ratings :]
    for name in SPLITS:
        if not split[name]:
            raise UserError(
                f"each split must have a picture or more, but {len(names)} pictures leave the "
                f"{name} split empty; give more pictures"
            )
    return {name: tuple(sorted(members)) for name, members in split.items()}


def package_folder(package: str, used_by: str) -> Path:
    """The folder of an installed package that belongs to the `demo` extra."""
    spec = find_spec(package)  # finds it without importing it
    if spec is None or spec.origin is None:
        raise UserError(
            f"{used_by} comes from the package '{package}', which is not installed; "
            "run: pip install 'dna-ray[demo]'"
        )
    return Path(spec.origin).parent


def _solar() -> Pictures:
    """Electroluminescence pictures of solar cells with a probability of being defective (ELPV)."""
    folder = package_folder("elpv_dataset", "--data solar") / "data"
    with (folder / "labels.csv").open(encoding="utf-8") as file:
        rows = [row.split() for row in file if row.strip()]
    names = [row[0] for row in rows]
    return _pictures(
        "solar",
        names,
        [folder / name for name in names],
        [int(float(row[1]) > 0.5) for row in rows],
        ("good", "defective"),
        "solar: ELPV data set (Buerhop-Lutz et al. 2018), CC BY-NC-SA 4.0: not for commercial use",
    )


_FOOLBOX_LABELS = [
    *(243, 559, 438, 990, 949, 853, 609, 609, 915, 455),
    *(541, 630, 741, 471, 129, 99, 251, 22, 317, 305),
]
_PHOTOS = {
    "foolbox": [
        f"data/imagenet_{number:02}_{label}.jpg" for number, label in enumerate(_FOOLBOX_LABELS)
    ],
    "skimage": [
        "data/astronaut.png",
        "data/chelsea.png",
        "data/coffee.png",
        "data/hubble_deep_field.jpg",
        "data/retina.jpg",
        "data/rocket.jpg",
    ],
    "sklearn": ["datasets/images/china.jpg", "datasets/images/flower.jpg"],
}


def _photos() -> Pictures:
    """28 colour photographs from three packages; their sources are listed in the README."""
    names, paths = [], []
    for package, files in _PHOTOS.items():
        folder = package_folder(package, "--data photos")
        names += [f"{package}/{file}" for file in files]
        paths += [folder / file for file in files]
    notice = "photos: 28 photographs from foolbox, scikit-image and scikit-learn, without labels"
    return _pictures("photos", names, paths, notice=notice)


def _folder(folder: Path) -> Pictures:
    if not folder.is_dir():
        hint = nearest(str(folder), EMBEDDED, "check the path")
        raise UserError(
            f"--data must be solar, photos or a folder of pictures, but there is no folder "
            f"'{folder}'; {hint}"
        )
    try:
        flat, others = _files(folder)
        inside = {child: _files(child) for child in folder.iterdir() if child.is_dir()}
    except OSError as error:
        raise UserError(
            f"a folder of pictures must be readable, but '{error.filename}' is not "
            f"({error.strerror}); check its permissions"
        ) from None
    classes = sorted(child for child, (files, _) in inside.items() if files)
    if flat and classes:
        raise UserError(
            f"a folder holds pictures or one folder per class, but '{folder}' holds both; "
            "move the pictures into class folders"
        )
    if not flat and not classes:
        raise UserError(
            f"a folder of pictures must hold some ({', '.join(sorted(SUFFIXES))}), "
            f"but '{folder}' holds none"
        )
    if len(classes) == 1:
        raise UserError(
            f"labels need two class folders or more, but '{folder}' has one ('{classes[0].name}'); "
            f"give '{classes[0]}' for pictures without labels"
        )
    if flat:
        return _pictures(folder.name, [p.name for p in flat], flat, notice=_passed_over(others))
    for child in classes:
        count = len(inside[child][0])
        if count < _CLASS_PICTURES:
            raise UserError(
                f"every class must have {_CLASS_PICTURES} pictures or more, so that some train, "
                f"some rate and some test, but '{child.name}' has {count}; add pictures to "
                f"'{child}' or move it away"
            )
    members = [(path, label) for label, child in enumerate(classes) for path in inside[child][0]]
    return _pictures(
        folder.name,
        [f"{path.parent.name}/{path.name}" for path, _ in members],
        [path for path, _ in members],
        [label for _, label in members],
        tuple(child.name for child in classes),
        _passed_over(others + [path for child in sorted(inside) for path in inside[child][1]]),
    )


def _files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The pictures of a folder by their suffixes, and all other files that are not hidden."""
    files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    pictures = [p for p in files if p.suffix.lower() in SUFFIXES]
    return pictures, [p for p in files if p.suffix.lower() not in SUFFIXES]


def _passed_over(others: Sequence[Path]) -> str:
    """What to say of files that are no pictures by their suffixes."""
    if not others:
        return ""
    kind = (
        "1 file that is no picture is"
        if len(others) == 1
        else f"{len(others)} files that are no pictures are"
    )
    return f"{kind} passed over: {listed([path.name for path in others])}"


def listed(names: Sequence[str]) -> str:
    """Names of files for a line: the first of them, and how many more."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
