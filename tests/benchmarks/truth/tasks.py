"""The labelled sets that packages ship, and how everything is trained on them.

`solar` comes with the `demo` extra; `fashion` is Debian's package `dataset-fashion-mnist`.
"""

import gzip
import time
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from dna_ray.config import Features, Job
from dna_ray.data import load_pictures
from dna_ray.errors import UserError
from dna_ray.network.model import TrainedModel, load_model, save_model
from dna_ray.randomness import generator
from dna_ray.retrain import PictureSet, Recipe
from dna_ray.space import Space, load_space
from dna_ray.storage import write_whole
from tests import plain

Array = np.ndarray

SPACE = Path(__file__).parents[2] / "data" / "ground_truth.toml"

FASHION = Path("/usr/share/datasets/fashion-mnist")
FASHION_PICTURES = {"train": 24_000, "test": 10_000}
ADAPTATION = 10_240  # pictures that fit the teacher to the labels, at most
_FASHION_FILES = {"train": "train", "test": "t10k"}


@dataclass(frozen=True, kw_only=True)
class Task:
    """A labelled set, the side of its pictures, and what networks are compared by on it."""

    name: str
    resolution: int
    classes: int
    metric: str
    views: int  # of every training picture
    crop: float  # the least share of a picture that a view keeps
    passes: int  # over all views, of a network that is trained from scratch
    supernet_passes: int  # of the supernet without blocks, one path a step
    darts_passes: int  # of the mixture of all ops


TASKS = {
    "solar": Task(
        name="solar",
        resolution=48,
        classes=2,
        metric="auroc",
        views=6,
        crop=0.5,
        passes=3,
        supernet_passes=8,
        darts_passes=2,
    ),
    "fashion": Task(
        name="fashion",
        resolution=32,
        classes=10,
        metric="accuracy",
        views=1,
        crop=1.0,
        passes=2,
        supernet_passes=4,
        darts_passes=1,
    ),
}


def recipe(passes: int) -> Recipe:
    """How networks are trained from labels alone."""
    return Recipe(
        passes=passes,
        batch=32,
        shards=1,
        learning_rate=1e-2,
        weight_decay=1e-2,
        label_weight=1.0,
    )


def space() -> Space:
    """The space of the bench."""
    return load_space(str(SPACE))


def ready(task: Task) -> str:
    """Nothing where the pictures of a task are there, else what to do."""
    if task.name != "fashion" or FASHION.is_dir():
        return ""
    return f"no pictures in {FASHION}; run: apt-get install dataset-fashion-mnist"


def read_idx(file: Path) -> Array:
    """An array of bytes in IDX form, compressed: its magic number says how many axes it has."""
    data = gzip.decompress(file.read_bytes())
    axes = data[3]
    if data[:3] != b"\0\0\x08":
        raise UserError(f"'{file}' must be an IDX file of bytes, but begins with {data[:4]!r}")
    shape = np.frombuffer(data, ">u4", axes, 4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape)


def _fashion_folder(folder: Path) -> Path:
    """Some pictures of fashion-mnist as files, drawn by name, in a folder per part and class."""
    root = folder / "fashion-mnist"
    if root.exists():
        return root
    writing = folder / "fashion-mnist.writing"
    for part, count in FASHION_PICTURES.items():
        stem = f"{FASHION}/{_FASHION_FILES[part]}"
        pictures = read_idx(Path(f"{stem}-images-idx3-ubyte.gz"))
        labels = read_idx(Path(f"{stem}-labels-idx1-ubyte.gz"))
        for index in generator(0, "fashion-mnist", part).permutation(len(labels))[:count]:
            file = writing / part / str(labels[index]) / f"{index:05}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pictures[index]).save(file)
    return writing.rename(root)


def windows(task: Task, seed: int, folder: Path) -> plain.Windows:
    """All windows of a task as a search with that seed draws them, kept in `folder`.

    A search by default has the first of those that train: two views of every picture.
    """
    file = folder / f"windows-{task.name}-{seed}.npz"
    job = Job(seed=seed, features=Features(views=task.views, crop=task.crop))
    if not file.exists():
        source = str(_fashion_folder(folder)) if task.name == "fashion" else task.name
        drawn = plain.make_windows(load_pictures(source), job, task.resolution)
        arrays = {f"pictures {k}": np.concatenate(v) for k, v in drawn.pictures.items()}
        arrays |= {f"labels {k}": v for k, v in drawn.labels.items()}
        stream = BytesIO()
        np.savez(stream, **arrays)
        write_whole(file, stream.getvalue())
    size, parts = job.features.window, {}
    with np.load(file) as kept:
        for name in ("train", "rating", "test"):
            pictures = kept[f"pictures {name}"]
            parts[name] = [pictures[i : i + size] for i in range(0, len(pictures), size)]
        labels = {name: kept[f"labels {name}"] for name in parts}
    return plain.Windows(parts, labels)


def teacher(task: Task, folder: Path) -> tuple[TrainedModel, float]:
    """lite0 fitted to the labels as `dna-ray search` does it with seed 0, kept in `folder`.

    But on no more than `ADAPTATION` pictures. And the seconds of a core that this took.
    """
    file, clock = folder / f"teacher-{task.name}.safetensors", folder / f"teacher-{task.name}.s"
    if not file.exists():
        job, drawn, begin = Job(), windows(task, 0, folder), time.process_time()
        pictures, labels = np.concatenate(drawn.pictures["train"]), drawn.labels["train"]
        shown = min(ADAPTATION, len(labels) // task.views * job.features.views)
        data = PictureSet([pictures[:shown]], labels[:shown], None)
        adapted = save_model(plain.adapt(job, data, task.classes))
        write_whole(clock, f"{time.process_time() - begin:.1f}\n".encode())
        write_whole(file, adapted)
    return load_model(file), float(clock.read_text())
