"""Which views of which pictures make windows, and that drawing them depends on nothing else."""

from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dna_ray.config import Features, Job, Rate
from dna_ray.data.schedule import Rows, draw, schedule
from dna_ray.errors import UserError

Array = np.ndarray


@dataclass
class Album:
    """As much of a set of pictures as a schedule needs."""

    splits: dict[str, Array]
    units: Array | None = None
    labelled: bool = True
    files: list[Any] = field(default_factory=list)

    def read(self, indices: Any) -> list[Any]:
        return [self.files[i] for i in indices]

    def name_of(self, index: int) -> str:
        return f"picture {index}"


def album(counts: tuple[int, int, int], units: int = 0, seed: int = 0) -> Album:
    total, rng = sum(counts), np.random.default_rng(seed)
    parts = np.split(rng.permutation(total), np.cumsum(counts)[:2])
    names = ("train", "rating", "test")
    splits = {name: np.sort(part) for name, part in zip(names, parts, strict=True)}
    return Album(splits, rng.integers(units, size=total) if units else None)


def pairs(rows: tuple[Rows, ...]) -> list[tuple[int, int]]:
    return [(int(p), int(v)) for r in rows for p, v in zip(r.pictures, r.views, strict=True)]


@given(
    st.tuples(st.integers(1, 60), st.integers(1, 60), st.integers(1, 60)),
    st.integers(2, 40),
    st.integers(1, 3),
    st.integers(1, 200),
    st.integers(0, 5),
)
@settings(deadline=None)
def test_windows_hold_every_view_of_every_picture_once(
    counts: tuple[int, int, int], window: int, views: int, images: int, units: int
) -> None:
    pictures: Any = album(counts, units)
    job = Job(
        features=Features(window=window, views=views, images=images),
        rate=Rate(images=20, recalibration=10),
    )
    plan = schedule(pictures, job)
    for split, rows in plan.rows.items():
        shown = pairs(rows)
        assert len(set(shown)) == len(shown)
        if split == "rating":
            assert {p for p, _ in shown} <= set(pictures.splits[split].tolist())
            assert len(shown) == 30
        else:
            assert {p for p, _ in shown} == set(pictures.splits[split].tolist())
        assert all(len(r) == window for r in rows[:-1])
        numbers = sorted({v for _, v in shown})
        if split == "train":
            assert numbers == list(range(1, plan.views + 1))
            assert len(shown) >= max(images, views * counts[0])
        else:
            enough = {"rating": 30, "test": min(32, counts[2])}[split]
            plain = len(pictures.splits[split]) >= enough
            assert numbers == ([0] if plain else list(range(1, len(numbers) + 1)))
            assert len(shown) >= enough
    first = plan.first("train", images)
    assert sum(map(len, first)) >= images
    assert sum(map(len, first[:-1])) < images


@given(st.integers(1, 8), st.integers(0, 99))
def test_pictures_of_a_unit_of_storage_stay_together(units: int, seed: int) -> None:
    pictures: Any = album((50, 9, 9), units, seed)
    order = np.concatenate([r.pictures for r in schedule(pictures, Job()).rows["train"]])[:50]
    seen = pictures.units[order]
    assert np.count_nonzero(np.diff(seen)) + 1 == len(np.unique(seen))


def test_broken_pictures_change_nothing_else() -> None:
    pictures: Any = album((40, 30, 40))
    job = Job(features=Features(window=16), rate=Rate(images=20, recalibration=10))
    broken = {int(pictures.splits[s][k]) for s in ("train", "rating", "test") for k in (0, 3)}
    whole, left = schedule(pictures, job), schedule(pictures, job, broken)
    for split, rows in left.rows.items():
        assert pairs(rows) == [p for p in pairs(whole.rows[split]) if p[0] not in broken]


def test_a_split_of_broken_pictures_alone_is_refused() -> None:
    pictures: Any = album((40, 3, 40))
    with pytest.raises(UserError, match="of the 3 in the rating split there is none"):
        schedule(pictures, Job(), pictures.splits["rating"].tolist())


def a_file(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(256, size=(24, 20, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def test_a_view_is_the_same_in_any_window() -> None:
    pictures: Any = album((4, 1, 1))
    pictures.files = [a_file(i) for i in range(6)]
    together = Rows(np.array([2, 0, 2, 5]), np.array([1, 0, 2, 1]))
    drawn = draw(pictures, together, Job(), 16)
    assert drawn.shape == (4, 16, 16, 3)
    assert drawn.dtype == np.uint8
    for row in range(4):
        alone = Rows(together.pictures[row : row + 1], together.views[row : row + 1])
        assert np.array_equal(draw(pictures, alone, Job(), 16)[0], drawn[row])
    assert not np.array_equal(drawn[0], drawn[2])
    assert not np.array_equal(draw(pictures, together, replace(Job(), seed=1), 16)[0], drawn[0])
    later = together.later(1)
    assert np.array_equal(draw(pictures, later, Job(), 16)[0], drawn[2])


@pytest.mark.parametrize("lost", [OSError("gone"), b"no picture", a_file(1)[:40]])
def test_a_picture_that_turns_unreadable_is_named(lost: Any) -> None:
    pictures: Any = album((4, 1, 1))
    pictures.files = [a_file(i) for i in range(6)]
    pictures.files[3] = lost
    with pytest.raises(UserError, match=r"but 'picture 3' no longer is .* --resume"):
        draw(pictures, Rows(np.array([1, 3]), np.array([1, 1])), Job(), 16)
