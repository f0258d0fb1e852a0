"""Pictures, read, decoded and augmented by Ray Data, as windows in Ray's object store.

A survey reads every picture once, so that what is no picture is known before anything is planned.
After it a window is a pure function of its rows: lost with a node, or read once more, it is made
again, bit for bit.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import count
from pathlib import PurePath
from typing import Any, cast

import numpy as np
import pyarrow as pa
import ray
from ray.data import Dataset, ExecutionResources

from dna_ray.config import Job
from dna_ray.data import Pictures, listed
from dna_ray.data.schedule import Rows, Schedule, draw, read_decoded
from dna_ray.errors import UserError
from dna_ray.planning.cache import Cache
from dna_ray.remote.session import Session
from dna_ray.remote.tasks import task
from dna_ray.remote.windows import Window

Array = np.ndarray

# The largest share of files that may turn out to be no pictures.
_BROKEN_SHARE = 0.1

# Pictures that a task of the survey reads.
_SURVEYED = 256


def survey(session: Session, pictures: Pictures, resolution: int) -> dict[int, str]:
    """Read all pictures; those that are none by their index, with the reason.

    Raises UserError where they are too many.
    """
    session.view.stage("survey", len(pictures), "pictures")
    chunks = [
        {"first": start, "end": min(start + _SURVEYED, len(pictures))}
        for start in range(0, len(pictures), _SURVEYED)
    ]
    dataset = _dataset("survey of the pictures", chunks).map_batches(
        cast(Any, survey_pictures),
        batch_size=None,
        fn_kwargs={"pictures": [ray.put(pictures)], "resolution": resolution},
    )
    broken: dict[int, str] = {}
    for row in dataset.iter_rows():
        session.view.advance(row["size"])
        broken |= {int(index): reason for index, reason in json.loads(row["broken"]).items()}
    if broken:
        session.view.note(_left_out(pictures, dict(sorted(broken.items()))))
    return broken


def _left_out(pictures: Pictures, broken: Mapping[int, str]) -> str:
    """What to say of files that are no pictures; raises UserError where they are too many."""
    number, total = len(broken), len(pictures)
    first, reason = next(iter(broken.items()))
    if number > _BROKEN_SHARE * total:
        raise UserError(
            f"nine tenths of the pictures must be readable, but {number} of {total} are not, such "
            f"as '{pictures.name_of(first)}' ({reason}); remove or mend them"
        )
    names = sorted(PurePath(pictures.name_of(index)).name for index in broken)
    return f"{number} of {total} pictures cannot be read and are left out: {listed(names)}"


def survey_pictures(batch: Any, pictures: list[Any], resolution: int) -> Any:
    """Read a chunk of pictures; how many they are, and as JSON which are broken and why."""
    indices = range(int(batch["first"][0]), int(batch["end"][0]))
    found = read_decoded(_fetched(pictures[0]), indices, resolution)
    broken = {i: reason for i, (_, reason) in zip(indices, found, strict=True) if reason}
    return {"size": [len(indices)], "broken": [json.dumps(broken)]}


class Gallery:
    """The windows of a run: kept once they are made, or made whenever they are read."""

    def __init__(
        self,
        session: Session,
        pictures: Pictures,
        plan: Schedule,
        job: Job,
        resolution: int,
        cache: Cache,
    ) -> None:
        self._session, self._pictures, self.plan = session, pictures, plan
        self._job, self._resolution, self._cache = job, resolution, cache
        self._shared = [ray.put(pictures)]
        self._held: dict[str, list[Window]] = {}

    def sizes(self, split: str) -> list[int]:
        """The pictures of every window of a split."""
        return [len(rows) for rows in self.plan.rows[split]]

    def _wanted(self, split: str, pictures: int | None) -> tuple[Rows, ...]:
        if pictures is None:
            return self.plan.rows[split]
        return self.plan.first(split, pictures)

    def holds(self, split: str, pictures: int | None = None) -> bool:
        """Whether the windows of a split, or those at its beginning, are made and kept."""
        return len(self._held.get(split, ())) >= len(self._wanted(split, pictures))

    def hold(self, split: str, pictures: int | None = None) -> int:
        """Make the windows of a split, or those at its beginning with so many pictures, to keep.

        Where everything is kept, all of all splits are made. Returns how many pictures they show.
        """
        wanted = {split: self._wanted(split, pictures)}
        if self._cache.mode == "all":
            wanted = self.plan.rows
        missing = {name: rows[len(self._held.get(name, ())) :] for name, rows in wanted.items()}
        rows = [shown for part in missing.values() for shown in part]
        self._session.view.stage("pictures", sum(map(len, rows)), "pictures")
        made = self._make(rows, "windows to keep", 1)
        for name, part in missing.items():
            for _ in part:
                window = next(made)
                self._held.setdefault(name, []).append(window)
                self._session.view.advance(window.size)
        return sum(map(len, rows))

    def held(self, split: str, pictures: int | None = None) -> tuple[Window, ...]:
        """The windows of a split, or those at its beginning, that are kept."""
        return tuple(self._held[split][: len(self._wanted(split, pictures))])

    def each(self, split: str, cpus: float) -> Iterator[Window]:
        """All windows of a split, one after another."""
        if self.holds(split):
            return iter(self.held(split))
        return self._make(self.plan.rows[split], f"windows of the {split} split", cpus)

    def passes(
        self,
        split: str,
        start: int,
        *,
        cpus: float,
        pictures: int | None = None,
        fresh: bool = False,
    ) -> Iterator[Window]:
        """Windows from position `start` on, pass after pass over those with so many pictures.

        With `fresh` every pass shows other views.
        """
        rows = self._wanted(split, pictures)
        first, skipped = divmod(start, len(rows))
        for number in count(first):
            shown = [row.later(number * self.plan.views) for row in rows] if fresh else rows
            yield from self._make(shown[skipped:], f"windows of pass {number + 1}", cpus)
            skipped = 0

    def _make(self, rows: Sequence[Rows], name: str, cpus: float) -> Iterator[Window]:
        """Have windows drawn, and yield them in order; their references need not be there yet."""
        shared = ray.put(list(rows))
        dataset = _dataset(name, [{"number": number} for number in range(len(rows))]).map_batches(
            cast(Any, draw_window),
            batch_size=None,
            num_cpus=cpus,
            fn_kwargs={
                "pictures": self._shared,
                "rows": [shared],
                "job": self._job,
                "resolution": self._resolution,
            },
        )
        options = dataset.context.execution_options
        options.resource_limits = ExecutionResources(object_store_memory=self._cache.drawing)
        pixels = task(_pixels, name="pixels of a window", num_cpus=cpus)
        for shown, bundle in zip(rows, dataset.iter_internal_ref_bundles(), strict=True):
            (block,) = bundle.block_refs
            labels = None
            if self._pictures.labelled:
                labels = self._pictures.labels[shown.pictures].astype(np.int64)
            yield Window(pixels.remote(block), labels, len(shown))


def _dataset(name: str, rows: Sequence[Mapping[str, int]]) -> Dataset:
    """A named dataset with a block for every row, whose order is kept."""
    dataset = ray.data.from_arrow([pa.table({k: [v] for k, v in row.items()}) for row in rows])
    dataset.context.execution_options.preserve_order = True
    dataset.set_name(name)
    return dataset


def draw_window(batch: Any, pictures: list[Any], rows: list[Any], job: Job, resolution: int) -> Any:
    """Draw the views of one window; on failure, a black one and the reason."""
    shown, failure = _fetched(rows[0])[int(batch["number"][0])], ""
    try:
        drawn = draw(_fetched(pictures[0]), shown, job, resolution)
    except UserError as error:  # which Ray Data would turn into an error of its own
        drawn, failure = np.zeros((1, resolution, resolution, 3), np.uint8), str(error)
    return {"picture": drawn, "failure": [failure] * len(drawn)}


def _pixels(block: pa.Table) -> Array:
    """The pictures of a block of Ray Data as one array; raises UserError where they failed."""
    failure = block.column("failure")[0].as_py()
    if failure:
        raise UserError(failure)
    (column,) = block.column("picture").chunks
    return np.asarray(column.to_numpy(zero_copy_only=False))


@lru_cache(maxsize=8)
def _fetched(ref: Any) -> Any:
    """What a process reads for every window, once."""
    return ray.get(ref)
