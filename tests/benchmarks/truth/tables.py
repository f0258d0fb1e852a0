"""The kept tables as arrays, and how far scores order architectures as training does."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import isfinite, sqrt

import numpy as np
from scipy.stats import kendalltau

from dna_ray.ranking import Evaluation, Figure, Rated, evaluate, verdict
from tests.benchmarks.report import table
from tests.benchmarks.truth.kept import Row

Array = np.ndarray

LABELS = {
    "rating": "our rating",
    "aligned": "our rating, cells aligned",
    "one_shot_loss": "SPOS, held-out loss",
    "one_shot": "SPOS, held-out {metric}",
    "mixture": "DARTS",
    "short_loss": "a sixth of a training, held-out loss",
    "short": "a sixth of a training, held-out {metric}",
    "macs": "multiply-adds",
    "params": "parameters",
    "synflow": "SynFlow",
    "gradient": "gradient norm",
    "naswot": "NASWOT",
    "itself": "one whole training, against the others",
}
GROUPS = {"spread": "across costs", "equal": "of about one cost"}


@dataclass(frozen=True)
class Truth:
    """N architectures, each trained from scratch with S seeds."""

    names: tuple[str, ...]
    groups: Array  # (N,) of text
    costs: dict[str, Array]  # (N,) each
    metrics: dict[str, Array]  # (N, S) each, more is better: `accuracy`, `auroc`, `loss` negated
    seconds: Array  # (N, S)

    def part(self, group: str) -> Array:
        """(N,) bool: those of a group."""
        return np.asarray(self.groups == group)


def truth_of(rows: Sequence[Row], seeds: Sequence[int]) -> Truth:
    """Of the kept trainings, the architectures that were trained with all seeds."""
    found = {(row["architecture"], int(row["seed"])): row for row in rows}
    names = [
        name
        for name in dict.fromkeys(row["architecture"] for row in rows)
        if all((name, seed) in found for seed in seeds)
    ]

    def values(column: str) -> Array:
        read = [[float(found[n, s][column]) for s in seeds] for n in names]
        return np.array(read).reshape(len(names), len(seeds))

    return Truth(
        names=tuple(names),
        groups=np.array([found[name, seeds[0]]["group"] for name in names]),
        costs={cost: values(cost)[:, 0] for cost in ("macs", "params")},
        metrics={
            "accuracy": values("accuracy"),
            "auroc": values("auroc"),
            "loss": -values("loss"),
        },
        seconds=values("seconds"),
    )


@dataclass(frozen=True)
class Scored:
    """What a method says of the N architectures of a truth, anew with every seed."""

    values: Array  # (N, S); S = 1 where nothing is drawn at random
    seconds: float  # of a core, for one seed


def scores_of(rows: Sequence[Row], truth: Truth) -> dict[str, Scored]:
    """The kept scores, by method; of each the seeds with which all architectures were scored."""
    found = {(row["score"], int(row["seed"]), row["architecture"]): row for row in rows}
    scored = {}
    for score in dict.fromkeys(row["score"] for row in rows):
        columns = []
        for seed in sorted({key[1] for key in found if key[0] == score}):
            column = [found.get((score, seed, name)) for name in truth.names]
            if None not in column:
                columns.append([(float(r["value"]), float(r["seconds"])) for r in column if r])
        if columns:
            array = np.array(columns)  # (S, N, 2)
            scored[score] = Scored(array[..., 0].T, float(array[0, :, 1].sum()))
    return scored


class Held:
    """Scores held against the mean of all trainings by one metric."""

    def __init__(
        self, truth: Truth, metric: str, scored: Mapping[str, Scored], resamples: int = 1000
    ) -> None:
        self.truth, self.metric, self._resamples = truth, metric, resamples
        costs = {cost: Scored(values[:, None], np.nan) for cost, values in truth.costs.items()}
        whole = Scored(truth.metrics[metric], float(truth.seconds[:, 0].sum()))
        known = {**scored, **costs, "itself": whole}
        self.scores = {score: known[score] for score in LABELS if score in known}

    def against(self, score: str, metric: str) -> Array:
        """(N,): the mean of all trainings; a training is held against the others."""
        return np.asarray(self.truth.metrics[metric][:, score == "itself" :].mean(axis=1))

    def first(self, score: str) -> Array:
        """(N,): the score with the first seed."""
        return np.asarray(self.scores[score].values[:, 0])

    def evaluated(
        self, score: str, group: str | None = None, costs: Mapping[str, Array] | None = None
    ) -> Evaluation:
        """A score of all architectures, or of one group, beside `costs`, by default the real."""
        costs = self.truth.costs if costs is None else costs
        mask = np.ones(len(self.truth.names), bool) if group is None else self.truth.part(group)
        rated = Rated(
            names=tuple(np.array(self.truth.names)[mask]),
            accuracy=self.against(score, self.metric)[mask],
            loss=-self.first(score)[mask],
            costs={name: values[mask] for name, values in costs.items()},
        )
        return evaluate(rated, resamples=self._resamples)

    def others(self, score: str) -> list[float]:
        """Kendall with each further seed of a score."""
        if score == "itself":
            return []
        against = self.against(score, self.metric)
        return [kendalltau(c, against)[0] for c in self.scores[score].values.T[1:]]

    def lead(self, score: str) -> Figure | None:
        """Kendall of our rating less that of another score, over the same resamples."""
        if "rating" not in self.scores or score in ("rating", "itself"):
            return None
        values = self.first(score)
        return self.evaluated("rating", costs={score: values - values.min()}).lead

    def by_metric(self, score: str) -> list[float]:
        """Kendall with each metric; a training with the same metric of the others."""
        return [
            kendalltau(
                values[:, 0] if score == "itself" else self.first(score),
                self.against(score, metric),
            )[0]
            for metric, values in self.truth.metrics.items()
        ]


def section(name: str, held: Held) -> str:
    """What is published of one data set: three tables with a few sentences."""
    first, second, third, verdicts = [], [], [], []
    pairs = 0
    for score, found in held.scores.items():
        label, whole = LABELS[score].format(metric=held.metric), held.evaluated(score)
        rating, near = whole.rating, whole.equal_cost["macs"]
        others, pairs = ", ".join(map(_two, held.others(score))), near.pairs
        seconds = f"{found.seconds:.0f}" if isfinite(found.seconds) else ""
        coefficients = (_two(rating.spearman.value), _two(rating.pearson.value))
        first.append([label, told(rating.kendall), others, *coefficients, seconds])
        groups = (told(held.evaluated(score, group, {}).rating.kendall) for group in GROUPS)
        given = None if score == "macs" else whole.given_cost["macs"]
        second.append([label, *groups, told(near.rating), told(given), told(held.lead(score))])
        third.append([label, *map(_two, held.by_metric(score))])
        if score in ("rating", "aligned"):
            verdicts.append(f"By {label}: {verdict(whole)}")
    parts = [
        _about(name, held.metric, held.truth),
        table(("by", "Kendall (95 %)", "other seeds", "Spearman", "Pearson", "core s"), first),
        *verdicts,
        "Kendall apart from cost, and how far our rating is ahead:",
        table(
            ("by", *GROUPS.values(), f"{pairs} near pairs", "given multiply-adds", "our lead"),
            second,
        ),
        "Kendall with other measures of the same trainings:",
        table(("by", *held.truth.metrics), third),
    ]
    return "\n\n".join(parts)


def _about(name: str, metric: str, truth: Truth) -> str:
    values = truth.metrics[metric]
    count, seeds = values.shape
    mean, pairs = values.mean(axis=1), list(combinations(values.T, 2))
    between = np.mean([kendalltau(*pair)[0] for pair in pairs])
    parts = {group: truth.part(group) for group in GROUPS}
    ranges = ", ".join(
        f"{mean[mask].min():.3f} to {mean[mask].max():.3f} for the {mask.sum()} {GROUPS[group]}"
        for group, mask in parts.items()
    )
    single = float(np.mean([np.corrcoef(*pair)[0, 1] for pair in pairs]))
    return (
        f"**{name}**: {count} architectures trained from scratch with {seeds} seeds each, "
        f"{truth.seconds.mean():.0f} core s a training; mean {metric} {ranges}; deviation between "
        f"seeds {_deviation(values):.4f}. Two trainings agree by Kendall {between:.2f} (mean of "
        f"the pairs of seeds), Pearson {single:.2f}; so with the mean of {seeds} no score can be "
        f"expected above Pearson {ceiling(single, seeds):.2f}. A random order stays within "
        f"±{chance(count):.2f} by Kendall, 19 times in 20."
    )


def _deviation(values: Array) -> float:
    """The standard deviation between trainings of the same architecture."""
    return float(np.sqrt(values.var(axis=1, ddof=1).mean()))


def ceiling(single: float, trainings: int) -> float:
    """The correlation of a mean of several trainings with what they would be without noise.

    From that of single trainings with each other (Spearman-Brown).
    """
    single = max(single, 0.0)
    return sqrt(trainings * single / (1 + (trainings - 1) * single))


def chance(count: int) -> float:
    """Where 95 % of random orders of so many things lie, by Kendall: its normal approximation."""
    return 1.96 * sqrt(2 * (2 * count + 5) / (9 * count * (count - 1)))


def told(figure: Figure | None) -> str:
    """A figure with its interval; nothing where there is none."""
    if figure is None or not isfinite(figure.value):
        return ""
    return str(figure)


_two: Callable[[float], str] = "{:.2f}".format
