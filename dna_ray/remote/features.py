"""Pictures and the teacher's features, as objects in Ray's store.

Ray Data decodes the pictures; a task per window draws its augmented views; a task per window runs
the teacher once and returns one object per boundary, so that a cell fetches its two alone. Every
object is returned by a task that the driver submitted, from named seeds: what is lost with a node
is made again, bit for bit.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from dna_ray.config import Job
from dna_ray.data import SPLITS, Pictures, listed
from dna_ray.data.transforms import augmented_view, decode_or_reason, plain_view, stored_side
from dna_ray.errors import UserError
from dna_ray.network.model import TrainedModel
from dna_ray.randomness import generator, key
from dna_ray.remote.board import forwarding
from dna_ray.remote.session import Session, single_threaded, task
from dna_ray.remote.windows import TaughtWindow, Window, Windows
from dna_ray.teacher import Cut, Teacher
from dna_ray.teacher import teach as teach_pictures

Array = np.ndarray

# How many pictures a split must have for plain views to be enough to test on.
_TEST_PICTURES = 32

# The largest share of files that may turn out to be no pictures.
_BROKEN_SHARE = 0.1


def make_windows(session: Session, pictures: Pictures, job: Job, resolution: int) -> Windows:
    """Decode all pictures with Ray Data and draw their views, by split.

    Training pictures are augmented, in as many views as `features` asks for. Held-out pictures
    are seen plain; where they are too few for that, in augmented views as well.
    """
    order = {
        split: generator(job.seed, "order", split).permutation(pictures.splits[split])
        for split in SPLITS
    }
    needed = {
        "train": max(job.features.images, job.features.views * len(order["train"])),
        "rating": job.rate.recalibration + job.rate.images,
        "test": min(_TEST_PICTURES, len(order["test"])) if pictures.labelled else _TEST_PICTURES,
    }
    chunks = [
        (split, chunk)
        for split in SPLITS
        for chunk in np.array_split(
            order[split], range(job.features.window, len(order[split]), job.features.window)
        )
    ]
    stored, reasons = _decode(
        session, pictures, [chunk for _, chunk in chunks], stored_side(resolution)
    )
    broken = [
        (int(index), reason)
        for (_, chunk), part in zip(chunks, reasons, strict=True)
        for index, reason in zip(chunk, part, strict=True)
        if reason
    ]
    if broken:
        session.view.note(_left_out(pictures, broken))
    windows: dict[str, list[Window]] = {split: [] for split in SPLITS}
    views = {
        split: (0,)
        if split != "train" and len(order[split]) >= needed[split]
        else tuple(range(1, 1 + -(-needed[split] // len(order[split]))))
        for split in SPLITS
    }
    for split in SPLITS:
        parts = [
            (chunk, np.flatnonzero(reason == ""), ref)
            for (s, chunk), ref, reason in zip(chunks, stored, reasons, strict=True)
            if s == split
        ]
        per_window = max(1, job.features.window // len(parts[0][0]))
        for start in range(0, len(views[split]), per_window):
            taken = views[split][start : start + per_window]
            for chunk, whole, ref in parts:
                if len(whole):
                    windows[split].append(
                        _window(pictures, chunk, whole, ref, taken, job, resolution)
                    )
        if not windows[split]:
            raise UserError(
                f"each split must have a picture or more that can be read, but of the "
                f"{len(order[split])} in the {split} split there is none; give more pictures"
            )
    return {split: tuple(parts) for split, parts in windows.items()}


def _left_out(pictures: Pictures, broken: Sequence[tuple[int, str]]) -> str:
    """What to say of files that are no pictures; raises UserError where they are too many."""
    count, total = len(broken), len(pictures.paths)
    first, reason = broken[0]
    if count > _BROKEN_SHARE * total:
        raise UserError(
            f"nine tenths of the pictures must be readable, but {count} of {total} are not, such "
            f"as '{pictures.paths[first]}' ({reason}); remove or mend them"
        )
    names = sorted(Path(pictures.paths[index]).name for index, _ in broken)
    return f"{count} of {total} pictures cannot be read and are left out: {listed(names)}"


def _decode(
    session: Session, pictures: Pictures, chunks: Sequence[Array], side: int
) -> tuple[list[Any], list[Array]]:
    """One reference to uint8 (N, side, side, 3) per chunk of picture indices, and (N,) texts.

    A text is empty, or says why the file is no picture.
    """
    session.view.stage("pictures", sum(map(len, chunks)), "pictures")
    board = session.board
    tables = [pa.table({"path": [pictures.paths[i] for i in chunk]}) for chunk in chunks]
    dataset = ray.data.from_arrow(tables)
    dataset.context.execution_options.preserve_order = True
    dataset.set_name("pictures")

    def decode_batch(batch: dict[str, Array]) -> dict[str, Array]:
        decoded, reasons = zip(
            *(decode_or_reason(path, side) for path in batch["path"]), strict=True
        )
        board.put.remote(batch["path"][0], len(decoded))
        return {"picture": np.stack(decoded), "reason": np.array(reasons, dtype=object)}

    with forwarding(board, session.view):
        decoded = dataset.map_batches(decode_batch, batch_size=None).materialize()
    refs: list[Any] = decoded.to_numpy_refs(column="picture")
    return refs, ray.get(decoded.to_numpy_refs(column="reason"))


def _window(
    pictures: Pictures,
    chunk: Array,
    whole: Array,
    stored: Any,
    views: tuple[int, ...],
    job: Job,
    resolution: int,
) -> Window:
    """Submit the task that draws some views of a chunk's whole pictures; view 0 is plain."""
    members = chunk[whole]
    # A picture's stream is keyed by its place in the set, which is in the order of the names.
    keys = [
        [key(job.seed, "view", int(i), view) if view else None for i in members] for view in views
    ]
    ref = task(_draw, name="draw views").remote(stored, whole, keys, resolution, job.features)
    labels = None
    if pictures.labelled:
        labels = np.tile(np.array(pictures.labels, np.int64)[members], len(views))
    return Window(ref, labels, len(members) * len(views))


@single_threaded
def _draw(
    stored: Array, whole: Array, keys: list[list[int | None]], resolution: int, features: Any
) -> Array:
    pictures = stored[whole]
    return np.stack(
        [
            plain_view(picture, resolution)
            if picture_key is None
            else augmented_view(picture, resolution, features, picture_key)
            for view in keys
            for picture, picture_key in zip(pictures, view, strict=True)
        ]
    )


def teach(
    session: Session, teacher: TrainedModel, cut: Cut, windows: Sequence[Window]
) -> tuple[TaughtWindow, ...]:
    """Run the teacher once over each window; every boundary and the logits become objects."""
    # In a list, a reference reaches the task as what it is.
    model, boundaries = [ray.put(teacher)], len(cut.modules)
    run = task(_teach, name="teacher features", num_returns=boundaries + 1)
    taught = []
    for window in windows:
        *features, logits = run.remote(model, cut, window.pictures)
        taught.append(TaughtWindow((window.pictures, *features), logits, window.size))
    session.wait([window.logits for window in taught])
    return tuple(taught)


def predict(session: Session, model: TrainedModel, windows: Sequence[Window]) -> list[Any]:
    """References to the logits (N, classes) of any model on each window."""
    weights, uncut = [ray.put(model)], Cut(modules=(), widths=(), sizes=())
    run = task(_teach, name="logits")
    refs = [run.remote(weights, uncut, window.pictures) for window in windows]
    session.wait(refs)
    return refs


@single_threaded
def _teach(model: list[Any], cut: Cut, pictures: Array) -> Any:
    boundaries, logits = teach_pictures(_teacher(model[0], cut), pictures)
    return (*boundaries, logits) if boundaries else logits


@lru_cache(maxsize=1)
def _teacher(model: Any, cut: Cut) -> Teacher:
    """A process builds a teacher once for all its windows."""
    return Teacher(ray.get(model), cut)


def check_store(cut: Cut, job: Job, resolution: int) -> None:
    """Raise UserError where the features of all windows would not fit Ray's object store.

    They are made once and reused every epoch; what does not fit would be spilled to disk.
    """
    held = job.features.images + job.rate.images + job.rate.recalibration
    floats = sum(width * size**2 for width, size in zip(cut.widths, cut.sizes, strict=True))
    need = held * (4 * floats + 3 * resolution**2)
    have = int(ray.cluster_resources().get("object_store_memory", 0))
    if need > 0.8 * have:
        raise UserError(
            f"the features of all windows must fit four fifths of Ray's object store, but need "
            f"{need / 1e9:.1f} GB of its {have / 1e9:.1f} GB; set features.images lower or give "
            "the cluster a larger store"
        )
