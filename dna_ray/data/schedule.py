"""Which views of which pictures make the windows of a run, and how a window is drawn.

A window is a pure function of the pictures, the seed and its place, wherever and however often it
is made.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from dna_ray.config import Job
from dna_ray.data.pictures import Pictures
from dna_ray.data.splits import SPLITS
from dna_ray.data.transforms import augmented_view, decode_or_reason, plain_view, stored_side
from dna_ray.errors import UserError
from dna_ray.randomness import generator, key

Array = np.ndarray

# How many pictures a split must have for plain views to be enough to test on.
_TEST_PICTURES = 32


@dataclass(frozen=True)
class Rows:
    """What a window shows: row i is view `views[i]` of picture `pictures[i]`; view 0 is plain."""

    pictures: Array
    views: Array

    def __len__(self) -> int:
        return len(self.pictures)

    def later(self, views: int) -> "Rows":
        """The same pictures, as many views later."""
        return Rows(self.pictures, self.views + views)


@dataclass(frozen=True)
class Schedule:
    """The windows of a run: by split, and how many views of a picture those that train hold."""

    rows: dict[str, tuple[Rows, ...]]
    views: int

    def pictures(self, split: str) -> int:
        """The views of pictures in a split's windows."""
        return sum(map(len, self.rows[split]))

    def first(self, split: str, pictures: int) -> tuple[Rows, ...]:
        """As many windows from the beginning of a split as hold that many pictures, or all."""
        sizes = np.cumsum([len(rows) for rows in self.rows[split]])
        return self.rows[split][: 1 + int(np.searchsorted(sizes, pictures))]


def schedule(pictures: Pictures, job: Job, broken: Collection[int] = ()) -> Schedule:
    """Plan the windows of all pictures but the `broken` ones; raises UserError where none is left.

    Training pictures are augmented, in as many views as `features` asks for: the first view of all,
    then the next. Held-out pictures are seen plain; where they are too few for that, in augmented
    views as well. Of those that rate, as many as `rate` asks for are taken.
    """
    rows, train_views = {}, 0
    for split in SPLITS:
        order = _order(pictures, split, job.seed)
        there = len(order)
        needed = {
            "train": max(job.features.images, job.features.views * there),
            "rating": job.rate.recalibration + job.rate.images,
            "test": min(_TEST_PICTURES, there) if pictures.labelled else _TEST_PICTURES,
        }[split]
        views = np.arange(1, 1 + -(-needed // there))
        if split == "train":
            train_views = len(views)
        elif there >= needed:
            views = np.zeros(1, int)
        order = order[~np.isin(order, list(broken))]
        if not len(order):
            raise UserError(
                f"each split must have a picture or more that can be read, but of the {there} in "
                f"the {split} split there is none; give more pictures"
            )
        shown, seen = np.tile(order, len(views)), np.repeat(views, len(order))
        if split == "rating":  # what is held out besides would be seen by nobody
            shown, seen = shown[:needed], seen[:needed]
        rows[split] = _cut(shown, seen, job.features.window)
    return Schedule(rows, train_views)


def _order(pictures: Pictures, split: str, seed: int) -> Array:
    """The pictures of a split at random, those in one unit of storage beside each other."""
    order = generator(seed, "order", split).permutation(np.asarray(pictures.splits[split]))
    if pictures.units is None:
        return order
    units = pictures.units[order]
    _, first, of = np.unique(units, return_index=True, return_inverse=True)
    return order[np.argsort(first[of], kind="stable")]


def _cut(shown: Array, seen: Array, size: int) -> tuple[Rows, ...]:
    """Windows of `size` from pictures and their views."""
    return tuple(
        Rows(shown[start : start + size], seen[start : start + size])
        for start in range(0, len(shown), size)
    )


def draw(pictures: Pictures, rows: Rows, job: Job, resolution: int) -> Array:
    """The views of a window, uint8 (N, resolution, resolution, 3).

    Raises UserError for a picture that cannot be read: those were left out at the beginning.
    """
    distinct, of = np.unique(rows.pictures, return_inverse=True)
    decoded = read_decoded(pictures, distinct, resolution)
    for index, (_, reason) in zip(distinct, decoded, strict=True):
        if reason:
            raise UserError(
                f"pictures must stay readable while a search runs, but '{pictures.name_of(index)}' "
                f"no longer is ({reason}); bring it back and --resume the run"
            )
    return np.stack(
        [
            # A picture's stream is keyed by its place in the set, which is in the order of names.
            augmented_view(
                decoded[at][0],
                resolution,
                job.features,
                key(job.seed, "view", int(index), int(view)),
            )
            if view
            else plain_view(decoded[at][0], resolution)
            for at, index, view in zip(of, rows.pictures, rows.views, strict=True)
        ]
    )


def read_decoded(
    pictures: Pictures, indices: Sequence[int] | Array, resolution: int
) -> list[tuple[Array, str]]:
    """Some pictures at the size that views are drawn from, or black ones each with the reason."""
    side = stored_side(resolution)
    return [decode_or_reason(data, side) for data in pictures.read(indices)]
