"""The two embedded sets: files of packages that belong to the `demo` extra."""

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa

from dna_ray.data.files import Files
from dna_ray.data.found import Found, PictureFiles
from dna_ray.errors import UserError
from dna_ray.storage import Place

EMBEDDED = ("solar", "photos")


def package_folder(package: str, used_by: str) -> Path:
    """The folder of an installed package that belongs to the `demo` extra."""
    spec = find_spec(package)  # finds it without importing it
    if spec is None or spec.origin is None:
        raise UserError(
            f"{used_by} comes from the package '{package}', which is not installed; "
            "run: pip install 'dna-ray[demo]'"
        )
    return Path(spec.origin).parent


def solar() -> Found:
    """2,624 pictures of solar cells with a probability of being defective (ELPV)."""
    folder = package_folder("elpv_dataset", "--data solar") / "data"
    with (folder / "labels.csv").open(encoding="utf-8") as file:
        rows = [row.split() for row in file if row.strip()]
    names = [row[0] for row in rows]
    return Found(
        name="solar",
        source=_files([folder / name for name in names]),
        keys=pa.array(names, pa.large_string()),
        labels=np.array([float(row[1]) > 0.5 for row in rows], np.int32),
        tests=np.zeros(len(names), bool),
        classes=("good", "defective"),
        said=("ELPV data set (Buerhop-Lutz et al. 2018), CC BY-NC-SA 4.0: not for commercial use",),
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


def photos() -> Found:
    """28 colour photographs from three packages; their sources are listed in the README."""
    names, paths = [], []
    for package, files in _PHOTOS.items():
        folder = package_folder(package, "--data photos")
        names += [f"{package}/{file}" for file in files]
        paths += [folder / file for file in files]
    return Found(
        name="photos",
        source=_files(paths),
        keys=pa.array(names, pa.large_string()),
        labels=np.zeros(0, np.int32),
        tests=np.zeros(len(names), bool),
        said=("photographs from foolbox, scikit-image and scikit-learn",),
    )


def _files(paths: Sequence[Path]) -> PictureFiles:
    root = os.path.commonpath(paths)
    stats = [path.stat() for path in paths]
    return PictureFiles(
        Files(
            root=Place.of(root),
            names=pa.array([os.path.relpath(path, root) for path in paths], pa.large_string()),
            sizes=np.array([stat.st_size for stat in stats], np.int64),
            times=np.array([stat.st_mtime_ns for stat in stats], np.int64),
        )
    )
