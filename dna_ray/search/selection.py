"""The search step (section 3.3): the best architecture within limits, with what proves it.

Three algorithms give the same answer. `pareto` reduces blocks to their Pareto sets and merges them;
where that would hold too much it hands over to `milp`, an integer program. `traversal` is the
paper's Algorithm 2.
"""

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import numpy as np

from dna_ray.errors import UserError
from dna_ray.search.clash import check_limits
from dna_ray.search.front import Front, TooLargeError, pareto_front, totals
from dna_ray.search.likeness import with_likeness
from dna_ray.search.milp import best_ways
from dna_ray.search.table import Ratings
from dna_ray.search.traversal import traverse
from dna_ray.search.trellis import trellis
from dna_ray.space import Architecture

Array = np.ndarray

ALGORITHMS = ("pareto", "traversal", "milp")
_FRONT_COSTS = 2  # a front in more costs can hold more points than anyone has memory for
_FRONT_MOST = 3_000_000  # pairs of a beginning and a path that are compared for it


@dataclass(frozen=True)
class Candidate:
    """One architecture of a table: its text, the row it takes in each block, loss and all costs."""

    text: str
    paths: tuple[int, ...]
    loss: float
    costs: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Text, loss and costs; whole numbers as integers."""
        costs = {name: int(v) if v == int(v) else v for name, v in self.costs.items()}
        return {"architecture": self.text, "loss": self.loss, "costs": costs}


@dataclass(frozen=True)
class Certificate:
    """What is proven of the best architecture, how, and of which table.

    No architecture within the limits has a loss below `bound`; `gap` is how far the best is above.
    """

    proven_optimal: bool
    bound: float
    gap: float
    algorithm: str
    candidates: int
    seed: str | None
    versions: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """All fields; a bound that is not known is null."""
        fields = vars(self)
        return fields | {k: None for k in ("bound", "gap") if not np.isfinite(fields[k])}


@dataclass(frozen=True)
class Selection:
    """The best architectures within the limits, best first, and what is proven of them."""

    ratings: Ratings
    best: tuple[Candidate, ...]
    limits: dict[str, float]
    front: Front
    certificate: Certificate
    seconds: float

    @property
    def found(self) -> Candidate:
        """The best of all."""
        return self.best[0]

    @property
    def architecture(self) -> Architecture:
        """The best of all, where its ops are those of our spaces; raises UserError."""
        return Architecture.parse(self.found.text)

    def to_json(self, space: str) -> dict[str, Any]:
        """The architecture's JSON form with what was found and proven of it, in a space's name."""
        found = self.found.to_json()
        return self.architecture.to_json(space) | {
            "text": found["architecture"],
            "loss": found["loss"],
            "costs": found["costs"],
            "limits": self.limits,
            "candidates": self.certificate.candidates,
            "front_size": len(self.front),
            "algorithm": self.certificate.algorithm,
            "proven_optimal": self.certificate.proven_optimal,
        }


@dataclass(frozen=True)
class _Answer:
    """Rows (n, K) of the best architectures; by what, whether it proves them, and a bound."""

    paths: Array
    algorithm: str
    proven: bool
    bound: float


def select(
    ratings: Ratings,
    limits: Mapping[str, float],
    *,
    top: int = 1,
    diverse: int = 0,
    algorithm: str = "pareto",
    seconds: float | None = None,
) -> Selection:
    """The `top` architectures of least loss whose costs are all within `limits`.

    With `diverse`, each of them differs from all before it in so many layers or more, and is the
    best that does. Of equal losses the smaller first limited cost comes first, then the second, as
    far as `pareto` finds it. `milp` and `traversal` stop after so many `seconds` with what they
    have, which is then not proven; so does `pareto` where it has handed over to `milp`.

    Raises UserError where no architecture meets the limits, saying which and what could be met.
    """
    start = time.perf_counter()
    front = _front(ratings, limits)
    if algorithm != "pareto":
        start = time.perf_counter()  # these do not use the front
    if algorithm == "traversal":
        answer = _traversed(ratings, limits, seconds)
    elif algorithm == "pareto" and top == 1 and set(limits) <= set(front.over):
        answer = _of_front(front, limits)
    else:
        answer = _merged(ratings, limits, 1 if diverse else top, algorithm, seconds)
    if len(answer.paths) == 0:
        check_limits(ratings, limits)
        raise UserError(
            "an architecture must be found, but none was in the time that was given, nor is it "
            "proven that there is none; give more with --time-limit, or leave --algorithm out"
        )
    for _ in range(1, top if diverse else 1):
        other = _most_other(ratings, limits, answer.paths, diverse, algorithm, seconds)
        proven = answer.proven and other.proven
        paths = np.concatenate((answer.paths, other.paths))
        answer = replace(answer, paths=paths, proven=proven)
        if len(other.paths) == 0:
            break
    best = _candidates(ratings, answer.paths)
    return Selection(
        ratings=ratings,
        best=best,
        limits=dict(limits),
        front=front,
        certificate=Certificate(
            proven_optimal=answer.proven,
            bound=min(answer.bound, best[0].loss),
            gap=max(0.0, best[0].loss - answer.bound),
            algorithm=answer.algorithm,
            candidates=ratings.architectures,
            seed=ratings.metadata.get("seed"),
            versions={name: version(name) for name in ("dna-ray", "numpy", "scipy")},
        ),
        seconds=time.perf_counter() - start,
    )


def _front(ratings: Ratings, limits: Mapping[str, float]) -> Front:
    """The front in the first two limited costs; in one, or in none, where that is too large.

    Where nothing is limited it is that in multiply-adds, or in the table's first cost.
    """
    names = ratings.cost_names
    costs = tuple(limits)[:_FRONT_COSTS] or (("macs",) if "macs" in names else names[:1])
    for count in range(len(costs), 0, -1):
        with suppress(TooLargeError):
            return pareto_front(ratings, costs[:count], _FRONT_MOST)
    return pareto_front(ratings, ())


def _of_front(front: Front, limits: Mapping[str, float]) -> _Answer:
    """The best within the limits is on the front in the limited costs."""
    columns = [front.ratings.column(cost) for cost in front.over]
    ceiling = [limits.get(cost, np.inf) for cost in front.over]
    within = np.flatnonzero(np.all(front.costs[:, columns] <= ceiling, axis=1))
    keys = [front.costs[within, c] for c in reversed(columns)]
    best = within[np.lexsort((*keys, front.loss[within]))[:1]]
    return _Answer(front.paths[best], "pareto", True, float(front.loss[best].min(initial=np.inf)))


def _merged(
    ratings: Ratings,
    limits: Mapping[str, float],
    count: int,
    algorithm: str,
    seconds: float | None,
) -> _Answer:
    ways, values = trellis(ratings, tuple(limits), keep=count), np.array([*limits.values()])
    best = best_ways(ways, values, count, algorithm=algorithm, seconds=seconds)
    paths = best.ways.paths[:, :-1]  # without the head's
    return _Answer(paths, best.algorithm, best.proven, best.bound)


def _most_other(
    ratings: Ratings,
    limits: Mapping[str, float],
    paths: Array,
    layers: int,
    algorithm: str,
    seconds: float | None,
) -> _Answer:
    """The best that differs from all of `paths` in so many layers."""
    held = dict(limits)
    for number, other in enumerate(paths, 1):
        name = f"likeness to {number}"
        while name in ratings.cost_names:
            name += "'"
        ratings, most = with_likeness(ratings, name, other)
        held[name] = most - layers
    return _merged(ratings, held, 1, algorithm, seconds)


def _traversed(ratings: Ratings, limits: Mapping[str, float], seconds: float | None) -> _Answer:
    found = traverse(ratings, dict(limits), seconds)
    paths = np.empty((0, len(ratings.blocks)), np.int64)
    if found.paths is not None:
        paths = found.paths[None]
    least = sum(float(block.loss.min()) for block in ratings.blocks)
    proven = found.whole or found.loss <= least
    return _Answer(paths, "traversal", proven, found.loss if proven else least)


def _candidates(ratings: Ratings, paths: Array) -> tuple[Candidate, ...]:
    losses, costs = totals(ratings, paths)
    return tuple(
        Candidate(
            ratings.text(rows),
            tuple(rows.tolist()),
            float(loss),
            dict(zip(ratings.cost_names, own.tolist(), strict=True)),
        )
        for rows, loss, own in zip(paths, losses, costs, strict=True)
    )
