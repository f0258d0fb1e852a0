"""Which pictures train, which rate and which test: by their names alone, each class alike."""

import hashlib

import numpy as np

from dna_ray.data.files import listed, texts
from dna_ray.data.found import Found
from dna_ray.errors import UserError

Array = np.ndarray

SPLITS = ("train", "rating", "test")

# Shares of the pictures of each class; the rest trains. Where a part of its own tests, the shares
# are of the part that trains.
TEST_SHARE = 0.20
RATING_SHARE = 0.16

# The rating pictures are held out of the training set: 50 of each class, 50,000 of ImageNet, as in
# section 4.1 of the paper. Smaller sets, without a part that tests, have no pictures to spare.
CLASS_RATINGS = 50
UNLABELLED_RATINGS = 50_000

# With fewer pictures a class has none to rate on or none to test on.
_CLASS_PICTURES = 4


def split(found: Found) -> dict[str, Array]:
    """Sorted picture indices (int64) for each of SPLITS: disjoint, complete, and stratified.

    Raises UserError where a class or a split would be too small, or where the part that tests has
    other classes than the part that trains.
    """
    tests, count = found.tests, len(found.source)
    if found.classes:
        _check_classes(found)
    labels = found.labels if found.classes else np.zeros(count, np.int32)
    hashes = np.fromiter(map(_hash, texts(found.keys)), np.uint64, count)
    order = np.lexsort((hashes, labels))
    order = order[~tests[order]]
    members: dict[str, list[Array]] = {"test": [np.flatnonzero(tests)], "rating": [], "train": []}
    for group in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
        test = 0 if found.parts else round(TEST_SHARE * len(group))
        rating = min(round(RATING_SHARE * len(group)), _most_ratings(found))
        parts = np.split(group, (test, test + rating))
        for name, part in zip(("test", "rating", "train"), parts, strict=True):
            members[name].append(part)
    splits = {name: np.sort(np.concatenate(members[name])) for name in SPLITS}
    for name, indices in splits.items():
        if not len(indices):
            raise UserError(
                f"each split must have a picture or more, but {count} pictures leave the "
                f"{name} split empty; give more pictures"
            )
    return splits


def told(found: Found, splits: dict[str, Array]) -> str:
    """How many pictures there are, and what each is for."""
    count = len(found.classes)
    kinds = f"in {count:,} classes" if count else "without labels"
    train, rating, test = (f"{len(splits[name]):,}" for name in SPLITS)
    return (
        f"{found.name}: {len(found.source):,} pictures {kinds}: {train} train, {rating} rate (held "
        f"out of the training set), {test} test"
    )


def _hash(key: str) -> int:
    """64 bits on which the place of a picture in its class depends."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")


def _most_ratings(found: Found) -> int:
    if not found.classes:
        return UNLABELLED_RATINGS
    return CLASS_RATINGS if found.parts else len(found.source)


def _check_classes(found: Found) -> None:
    labels, tests = found.labels, found.tests
    counts = np.bincount(labels[~tests], minlength=len(found.classes))
    where = ""
    if found.parts:
        by_part = (counts, np.bincount(labels[tests], minlength=len(found.classes)))
        for part, other, inside in zip(found.parts, found.parts[::-1], by_part, strict=True):
            lacking = [found.classes[label] for label in np.flatnonzero(inside == 0)]
            if lacking:
                raise UserError(
                    f"'{found.parts[0]}' and '{found.parts[1]}' must have the same classes, but "
                    f"'{part}' has no picture of {listed(lacking)}, of which '{other}' has some; "
                    "add some or leave these classes out"
                )
        where = f" in '{found.parts[0]}'"
    fewest = int(counts.argmin())
    if counts[fewest] < _CLASS_PICTURES:
        raise UserError(
            f"every class must have {_CLASS_PICTURES} pictures or more, so that some train, some "
            f"rate and some test, but '{found.classes[fewest]}' has {counts[fewest]}{where}; add "
            "pictures to it or leave it out"
        )
