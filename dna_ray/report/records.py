"""What a report is made of: the records of a run folder, read and checked once."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from dna_ray.config import Job, job_from_tree, parse_job
from dna_ray.errors import UserError
from dna_ray.ranking import Paths, paths_alone, read_trainings
from dna_ray.rundir import RunFolder
from dna_ray.search import Ratings, read_plain_table, read_ratings
from dna_ray.space import Architecture, Space, load_space, parse_space

Array = np.ndarray
Curve = tuple[tuple[int, float], ...]
Record = TypeVar("Record")


@dataclass(frozen=True)
class Chosen:
    """The record of a search: an architecture, its loss and costs, and what proves it."""

    architecture: Architecture
    loss: float
    costs: dict[str, float]
    limits: dict[str, float]
    candidates: int
    proven_optimal: bool


@dataclass(frozen=True)
class FrontPoints:
    """The architectures that are nondominated in loss and the costs `over`.

    n texts, `loss` (n,) and every cost (n,) by its name.
    """

    over: tuple[str, ...]
    architectures: tuple[str, ...]
    loss: Array
    costs: dict[str, Array]


@dataclass(frozen=True)
class Result:
    """What a finished generation came to: its teacher's name, and size and quality by network."""

    teacher: str
    metrics: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Trial:
    """One of Tune's trials; the loss is not finite where it diverged."""

    learning_rate: float
    weight_decay: float
    loss: float


@dataclass(frozen=True, kw_only=True)
class Generation:
    """The records of one generation that are there so far."""

    number: int
    ratings: Ratings | None
    front: FrontPoints | None
    chosen: Chosen | None
    trials: tuple[Trial, ...]
    result: Result | None
    cell_curves: dict[tuple[int, int], Curve]  # by block (1-based) and cell: epoch, loss
    network_curves: dict[str, Curve]  # by network: pass, loss
    seconds: dict[str, float]
    alone: tuple[Paths, ...] = ()
    left_out: tuple[str, ...] = ()  # why cells are not among those rated

    @property
    def begun(self) -> bool:
        """Whether there is anything to show."""
        records = (self.ratings, self.front, self.chosen, self.result)
        return any(r is not None for r in records) or bool(
            self.trials or self.cell_curves or self.network_curves or self.seconds
        )

    @cached_property
    def chosen_rows(self) -> tuple[int, ...]:
        """The chosen path's row in each block of the ratings; empty where nothing is chosen."""
        if self.ratings is None or self.chosen is None:
            return ()
        rows = []
        for paths, choice in zip(self.ratings.blocks, self.chosen.architecture.blocks, strict=True):
            ops = ",".join(map(str, choice.ops))
            same = [o == ops for o in paths.ops] & (paths.width == choice.width)
            rows.append(int(np.flatnonzero(same)[0]))
        return tuple(rows)

    def chosen_cell(self, block: int) -> int | None:
        """The chosen cell of a block (0-based); None where nothing is chosen."""
        if self.ratings is None or not self.chosen_rows:
            return None
        return int(self.ratings.blocks[block].cell[self.chosen_rows[block]])


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run: its settings, its space, and its generations that have begun."""

    folder: str
    job: Job
    config: str
    space: Space
    versions: dict[str, str]
    generations: tuple[Generation, ...]

    @property
    def results(self) -> tuple[tuple[Generation, Result], ...]:
        """The generations that are finished, with what they came to."""
        return tuple((g, g.result) for g in self.generations if g.result is not None)

    @property
    def resolution(self) -> int:
        """Pixels on a side of the pictures that the networks read."""
        return self.job.resolution or self.space.resolution


def read_run(where: str | Path) -> Run:
    """Read the records of the run folder at a path or URI, whatever is there.

    Raises UserError where it is no run folder or holds no finished generation, and for a record
    that is damaged.
    """
    folder = RunFolder.open(where)
    place, config, own = folder.place, folder.config, folder.space
    job = job_from_tree(parse_job(config, f"'{place / 'config.toml'}'"))
    space = load_space(job.space) if own is None else parse_space(own, f"'{place / 'space.toml'}'")
    numbers = range(1, job.generations + 1)
    generations = tuple(g for g in (_generation(folder, n) for n in numbers) if g.begun)
    run = Run(
        folder=(place.local.resolve() if place.local else PurePosixPath(place.path)).name,
        job=job,
        config=config,
        space=space,
        versions=folder.versions,
        generations=generations,
    )
    if not run.results:
        raise UserError(
            f"a run to report on must hold a finished generation, but '{place}' holds none yet; "
            "wait for the first one, or --resume the run"
        )
    return run


def _generation(folder: RunFolder, number: int) -> Generation:
    def record(name: str, parse: Callable[[bytes], Record]) -> Record | None:
        return _record(folder, folder.file(number, name), parse)

    metrics = folder.file(number, "metrics.jsonl")
    with _readable(folder, metrics):
        cells, networks = _curves(folder.measured(number))
    ratings = record("ratings.parquet", lambda data: read_ratings(pa.BufferReader(data)))
    alone = None
    if ratings is not None:
        alone = record("alone.parquet", lambda data: _alone(ratings, data))
    return Generation(
        number=number,
        ratings=ratings,
        front=record("front.parquet", _front),
        chosen=record("architecture.json", _chosen),
        trials=record("tune.json", _trials) or (),
        result=record("result.json", _result),
        cell_curves=cells,
        network_curves=networks,
        seconds=folder.all_seconds(number),
        alone=alone or (),
        left_out=record("left-out.json", lambda data: tuple(map(str, json.loads(data)))) or (),
    )


def _record(folder: RunFolder, name: str, parse: Callable[[bytes], Record]) -> Record | None:
    data = folder.whole(name)
    if data is None:
        return None
    with _readable(folder, name):
        return parse(data)


@contextmanager
def _readable(folder: RunFolder, name: str) -> Iterator[None]:
    """Say of which record it is that something is missing or of the wrong kind."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError) as error:  # Arrow's are ValueErrors
        raise UserError(
            f"a record must have the form of this version of dna-ray, but "
            f"'{folder.place / name}' has not ({type(error).__name__}: {error}); use the version "
            "that made the run"
        ) from None


def _alone(ratings: Ratings, data: bytes) -> tuple[Paths, ...]:
    """Of paths trained alone, those with as many pictures as most had."""
    losses = read_trainings(pa.BufferReader(data))
    ((images, _),) = Counter(training.images for training in losses).most_common(1)
    return tuple(paths_alone(ratings, {t: v for t, v in losses.items() if t.images == images}))


def _front(data: bytes) -> FrontPoints:
    table = read_plain_table(pa.BufferReader(data))
    names = [n for n in table.column_names if n not in ("architecture", "loss")]
    over = (table.schema.metadata or {})[b"over"].decode()
    return FrontPoints(
        tuple(over.split(",")),
        tuple(table["architecture"].to_pylist()),
        table["loss"].to_numpy(),
        {name: table[name].to_numpy() for name in names},
    )


def _chosen(data: bytes) -> Chosen:
    tree = json.loads(data)
    return Chosen(
        Architecture.from_json(tree, "architecture.json"),
        float(tree["loss"]),
        {name: float(value) for name, value in tree["costs"].items()},
        {name: float(value) for name, value in tree["limits"].items()},
        int(tree["candidates"]),
        bool(tree["proven_optimal"]),
    )


def _trials(data: bytes) -> tuple[Trial, ...]:
    names = ("learning_rate", "weight_decay", "loss")
    return tuple(Trial(*(float(t[n]) for n in names)) for t in json.loads(data)["trials"])


def _result(data: bytes) -> Result:
    tree = json.loads(data)
    metrics = {
        role: {name: float(value) for name, value in numbers.items()}
        for role, numbers in tree["metrics"].items()
    }
    for role in ("teacher", "found"):
        if not {"params", "macs"} <= metrics[role].keys():
            raise KeyError(role)
    return Result(str(tree["teacher"]), metrics)


def _curves(
    rows: list[dict[str, Any]],
) -> tuple[dict[tuple[int, int], Curve], dict[str, Curve]]:
    """Curves by cell and by network, by growing epoch and pass."""
    cells: dict[tuple[int, int], dict[int, float]] = {}
    networks: dict[str, dict[int, float]] = {}
    for row in rows:
        if row["stage"] == "distill":
            curve = cells.setdefault((int(row["block"]), int(row["cell"])), {})
            curve[int(row["epoch"])] = float(row["loss"])
        elif row["stage"] == "train":
            networks.setdefault(str(row["network"]), {})[int(row["pass"])] = float(row["loss"])
    return (
        {where: tuple(sorted(curve.items())) for where, curve in sorted(cells.items())},
        {name: tuple(sorted(curve.items())) for name, curve in networks.items()},
    )
