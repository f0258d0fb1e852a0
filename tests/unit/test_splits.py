"""Splits of sets of any classes, sizes and names, with a part that tests and without."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dna_ray.data import SPLITS
from dna_ray.data.files import Files
from dna_ray.data.found import Found, PictureFiles
from dna_ray.data.splits import split
from dna_ray.errors import UserError
from dna_ray.storage import Place

Array = np.ndarray
Picture = tuple[str, int, bool]  # its name, its class, and whether it is in the part that tests


def found(pictures: list[Picture], classes: int) -> Found:
    """A set of pictures, `classes` 0 for one without labels."""
    keys = pa.array([name for name, _, _ in pictures], pa.large_string())
    zeros = np.zeros(len(pictures), np.int64)
    files = Files(root=Place.of("/set"), names=keys, sizes=zeros, times=zeros)
    tests = np.array([tests for _, _, tests in pictures], bool)
    return Found(
        name="set",
        source=PictureFiles(files),
        keys=keys,
        labels=np.array([label for _, label, _ in pictures if classes], np.int32),
        classes=tuple(f"class {label}" for label in range(classes)),
        parts=("train", "val") if tests.any() else (),
        tests=tests,
    )


@st.composite
def sets(draw: st.DrawFn) -> tuple[list[Picture], int]:
    """Pictures with or without labels and parts, in no order."""
    train = draw(st.lists(st.integers(5, 60) | st.integers(300, 400), min_size=1, max_size=4))
    test = draw(st.none() | st.lists(st.integers(1, 9), min_size=len(train), max_size=len(train)))
    counts = [(label, count, False) for label, count in enumerate(train)]
    counts += [(label, count, True) for label, count in enumerate(test or ())]
    salt = draw(st.text(max_size=5))
    pictures = [
        (f"{label}/{salt} {number}", label, tests)
        for label, count, tests in counts
        for number in range(count)
    ]
    classes = len(train) if len(train) > 1 and draw(st.booleans()) else 0
    return draw(st.permutations(pictures)), classes


@given(given_set=sets())
@settings(max_examples=60, deadline=None)
def test_splits_are_disjoint_complete_and_stratified(
    given_set: tuple[list[Picture], int],
) -> None:
    pictures, classes = given_set
    splits = split(found(pictures, classes))
    assert tuple(splits) == SPLITS
    assert sorted(np.concatenate(list(splits.values()))) == list(range(len(pictures)))
    parts = any(tests for _, _, tests in pictures)
    labels = np.array([label if classes else 0 for _, label, _ in pictures])
    tests = np.array([tests for _, _, tests in pictures])
    for members in splits.values():
        assert np.array_equal(members, np.sort(members))
    if parts:
        assert np.array_equal(splits["test"], np.flatnonzero(tests))
    for label in np.unique(labels):
        of_class = np.count_nonzero((labels == label) & ~tests)
        rated = np.count_nonzero(labels[splits["rating"]] == label)
        expected = 0.16 * of_class
        assert abs(rated - (min(expected, 50) if parts and classes else expected)) <= 0.5
        if not parts:
            tested = np.count_nonzero(labels[splits["test"]] == label)
            assert abs(tested - 0.2 * of_class) <= 0.5


@given(given_set=sets(), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_a_picture_stays_in_its_split_whatever_the_order_and_whatever_is_added_to_other_classes(
    given_set: tuple[list[Picture], int], seed: int
) -> None:
    pictures, classes = given_set
    expected = by_name(pictures, classes)
    shuffled = [pictures[i] for i in np.random.default_rng(seed).permutation(len(pictures))]
    assert by_name(shuffled, classes) == expected
    if classes:
        more = [(f"more/{n}", classes, tests) for n in range(9) for tests in (False, True)]
        more = [picture for picture in more if not picture[2] or any(t for _, _, t in pictures)]
        after = by_name([*more, *pictures], classes + 1)
        assert {name: after[name] for name in expected} == expected


def by_name(pictures: list[Picture], classes: int) -> dict[tuple[str, bool], str]:
    splits = split(found(pictures, classes))
    return {
        (pictures[i][0], pictures[i][2]): name for name, members in splits.items() for i in members
    }


def test_without_labels_no_more_than_50_000_rate() -> None:
    pictures = [(str(number), 0, False) for number in range(320_000)]
    splits = split(found(pictures, 0))
    assert {name: len(members) for name, members in splits.items()} == {
        "train": 206_000,
        "rating": 50_000,
        "test": 64_000,
    }


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_split_must_not_be_empty(count: int) -> None:
    with pytest.raises(UserError, match=f"{count} pictures leave the .* split empty"):
        split(found([(str(number), 0, False) for number in range(count)], 0))
