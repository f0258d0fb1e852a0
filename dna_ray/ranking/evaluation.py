"""Does a rating rank? Its agreement with accuracies, beside that of plain costs.

Every figure comes with a 95 % percentile bootstrap interval over architectures. All figures are
taken from the same resamples, so that differences between them are paired.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite

import numpy as np

from dna_ray.randomness import generator
from dna_ray.ranking.agreement import kendall, kendall_among_near, partial, pearson, spearman
from dna_ray.ranking.bench import Rated

Array = np.ndarray

NEAR = 0.05  # costs that differ by no more of the greater one are about equal
_AT_ONCE = 2**23  # values of a matrix of architectures and resamples: 32 MB in float32


@dataclass(frozen=True)
class Figure:
    """A value with its 95 % interval; NaN where undefined.

    Resamples in which the value is undefined, because something does not vary in them, are left
    out of the interval.
    """

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Array) -> "Figure":
        """From the sample's own value, first, and those of its resamples."""
        resampled = values[1:][np.isfinite(values[1:])]
        if not (isfinite(values[0]) and len(resampled)):
            return cls(float(values[0]), np.nan, np.nan)
        low, high = np.percentile(resampled, [2.5, 97.5])
        return cls(float(values[0]), float(low), float(high))

    def __str__(self) -> str:
        """The value and its interval on a line."""
        if not isfinite(self.value):
            return "undefined"
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True)
class Agreement:
    """How far something orders architectures as their accuracies do; positive is good."""

    kendall: Figure  # tau-b
    spearman: Figure
    pearson: Figure


@dataclass(frozen=True)
class EqualCost:
    """Kendall's tau-b over the `pairs` of architectures of about equal cost alone."""

    pairs: int
    rating: Figure
    cost: Figure  # what is left of the cost's own agreement in these pairs


@dataclass(frozen=True)
class Evaluation:
    """What a bench says of a rating, and of each cost by which one could choose instead.

    A cost orders architectures by "more expensive is better". `given_cost` is Kendall's partial tau
    of rating and accuracy given a cost. `lead` is Kendall's tau of the rating less that of the cost
    that agrees best, in the sample and anew in every resample; None where no cost is known.
    """

    rated: Rated
    rating: Agreement
    baselines: dict[str, Agreement]
    given_cost: dict[str, Figure]
    equal_cost: dict[str, EqualCost]
    lead: Figure | None
    seed: int
    resamples: int

    @property
    def best_cost(self) -> str | None:
        """The cost whose Kendall's tau is the greatest; None where none is defined."""
        taus = {name: a.kendall.value for name, a in self.baselines.items()}
        defined = {name: tau for name, tau in taus.items() if isfinite(tau)}
        return max(defined, key=defined.__getitem__) if defined else None


def evaluate(rated: Rated, *, resamples: int = 1000, seed: int = 0) -> Evaluation:
    """Hold a rating against the accuracies of a bench."""
    parts = [_figures(rated, weights) for weights in _weightings(rated, resamples, seed)]
    pairs = parts[0][0]
    values = {key: np.concatenate([part[1][key] for part in parts]) for key in parts[0][1]}
    figures = {key: Figure.of(value) for key, value in values.items()}

    def agreement(of: str | None) -> Agreement:
        return Agreement(figures["kendall", of], figures["spearman", of], figures["pearson", of])

    return Evaluation(
        rated=rated,
        rating=agreement(None),
        baselines={cost: agreement(cost) for cost in rated.costs},
        given_cost={cost: figures["given", cost] for cost in rated.costs},
        equal_cost={
            cost: EqualCost(pairs[cost], figures["equal", cost], figures["equal alone", cost])
            for cost in rated.costs
        },
        lead=figures.get(("lead", None)),
        seed=seed,
        resamples=resamples,
    )


def _weightings(rated: Rated, resamples: int, seed: int) -> Iterator[Array]:
    """Matrices (N, R) of how often each architecture counts: first the sample, then resamples."""
    count = len(rated.accuracy)
    rng = generator(seed, "resamples")
    size = max(1, _AT_ONCE // count)
    for start in range(0, 1 + resamples, size):
        columns = min(size, 1 + resamples - start)
        drawn = rng.integers(count, size=(count, columns)) * columns + np.arange(columns)
        weights = np.bincount(drawn.ravel(), minlength=count * columns).reshape(count, columns)
        if start == 0:
            weights[:, 0] = 1
        yield weights.astype(np.float32)


def _figures(
    rated: Rated, weights: Array
) -> tuple[dict[str, int], dict[tuple[str, str | None], Array]]:
    """Pairs of about equal cost by cost; and by kind, and cost (None: the rating), values (R,)."""
    score, costs = -rated.loss, list(rated.costs.values())
    coefficients = {"kendall": kendall, "spearman": spearman, "pearson": pearson}
    values: dict[tuple[str, str | None], Array] = {}
    for kind, coefficient in coefficients.items():
        found = coefficient([score, *costs], rated.accuracy, weights)
        values |= {(kind, of): v for of, v in zip((None, *rated.costs), found, strict=True)}
    between = kendall(costs, score, weights)
    pairs = {}
    for (name, cost), tau in zip(rated.costs.items(), between, strict=True):
        values["given", name] = partial(values["kendall", None], tau, values["kendall", name])
        pairs[name], (values["equal", name], values["equal alone", name]) = kendall_among_near(
            (score, cost), rated.accuracy, cost, NEAR, weights
        )
    if costs:
        best = np.fmax.reduce([values["kendall", name] for name in rated.costs])
        values["lead", None] = values["kendall", None] - best
    return pairs, values
