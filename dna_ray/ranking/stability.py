"""Does a rating hang on chance? The same cells trained otherwise, held against the run's own.

A variant has another seed, a part of the data, or fewer epochs (Tables 8 and 9 and Fig. 8 of the
paper). Figures are Kendall's tau-b over pairs of paths of one block, as losses of different blocks
are never compared; and what a search by a variant would choose, judged by the run's own ratings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, takewhile
from math import isfinite, nan
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dna_ray.errors import UserError
from dna_ray.randomness import generator
from dna_ray.ranking.agreement import kendall_within
from dna_ray.search import Ratings, select, totals

Array = np.ndarray
Losses = tuple[Array, ...]  # by block: (P,) in the rows of the run's ratings, NaN where unknown

# Of what a search gains over a random choice, what a choice may give up and still be as good.
LITTLE = 0.1

# Architectures that are drawn at a time, how often at most, and how many within the limits are
# enough, or too few for a mean.
_DRAWN, _ROUNDS, _ENOUGH, _FEW = 2**16, 32, 10_000, 100


class Variant(NamedTuple):
    """How cells were trained: their seed, the share of the windows that taught, and how long."""

    seed: int
    fraction: float
    epochs: int


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The run's own training, and variants that differ from it in one thing each.

    `fractions` and `checkpoints` begin with those that are nearest to the whole.
    """

    own: Variant
    seeds: tuple[Variant, ...]
    fractions: tuple[Variant, ...]
    checkpoints: tuple[Variant, ...]

    @property
    def variants(self) -> tuple[Variant, ...]:
        """All of them in the order of training, in which a longer one follows a shorter one."""
        return (*self.seeds, *self.fractions, *reversed(self.checkpoints))


def wanted(
    own: Variant, windows: int, *, seeds: int, fractions: Sequence[float], checkpoints: int
) -> Wanted:
    """So many `seeds`, the run's own among them; parts of the data; and training ended early.

    `windows` teach in an epoch of the run. A fraction of them is the nearest number of whole ones,
    and neither none nor all: with one window there is none. The last one of so many `checkpoints`,
    at about equal distances, is the run's own end.
    """
    parts = {min(windows - 1, max(1, round(f * windows))) for f in fractions} - {0}
    ends = {-(-own.epochs * i // checkpoints) for i in range(1, checkpoints)} - {own.epochs}
    return Wanted(
        own=own,
        seeds=tuple(own._replace(seed=own.seed + i) for i in range(1, seeds)),
        fractions=tuple(own._replace(fraction=n / windows) for n in sorted(parts, reverse=True)),
        checkpoints=tuple(own._replace(epochs=n) for n in sorted(ends, reverse=True)),
    )


def in_rows(ratings: Ratings, losses: Sequence[Sequence[Array]]) -> Losses:
    """Losses `[block][cell]` (paths,), in the order of `Block.paths`, by the rows of the ratings.

    Those of cells that the ratings do without are left out.
    """
    return tuple(
        np.concatenate([cells[c] for c in np.unique(block.cell)])
        for block, cells in zip(ratings.blocks, losses, strict=True)
    )


def variants_table(ratings: Ratings, losses: Mapping[Variant, Losses]) -> pa.Table:
    """Losses of variants as a table with a row for every path of each, to keep."""
    sizes, count = [len(block.loss) for block in ratings.blocks], len(losses)
    columns: dict[str, Any] = {
        name: np.repeat([getattr(variant, name) for variant in losses], sum(sizes))
        for name in Variant._fields
    }
    columns["block"] = np.tile(np.repeat(np.arange(1, 1 + len(sizes)), sizes), count)
    columns["cell"] = np.tile(np.concatenate([block.cell for block in ratings.blocks]), count)
    columns["ops"] = [ops for block in ratings.blocks for ops in block.ops] * count
    columns["loss"] = np.concatenate([loss for own in losses.values() for loss in own])
    return pa.table(columns)


def read_variants(source: Any, ratings: Ratings) -> dict[Variant, Losses]:
    """The losses of such a table in a Parquet file or stream."""
    table, found = pq.read_table(source), dict[Variant, dict[tuple[int, int, str], float]]()
    names = (*Variant._fields, "block", "cell", "ops", "loss")
    rows = zip(*(table[name].to_pylist() for name in names), strict=True)
    for seed, fraction, epochs, block, cell, ops, loss in rows:
        own = found.setdefault(Variant(seed, fraction, epochs), {})
        own[block, cell, ops] = loss
    return {
        variant: tuple(
            np.array(
                [
                    own.get((k, cell, ops), nan)
                    for cell, ops in zip(b.cell.tolist(), b.ops, strict=True)
                ]
            )
            for k, b in enumerate(ratings.blocks, 1)
        )
        for variant, own in found.items()
    }


@dataclass(frozen=True, kw_only=True)
class Taus:
    """Kendall's tau of two ratings: in each block, and within all blocks together."""

    blocks: tuple[float, ...]
    total: float


def taus(one: Losses, other: Losses) -> Taus:
    """How far two ratings order paths alike, over those that both have; NaN where undefined."""
    count, groups = len(one), []
    for k, (x, y) in enumerate(zip(one, other, strict=True)):
        both = np.isfinite(x) & np.isfinite(y)
        weights = np.zeros((both.sum(), count + 1), np.float32)
        weights[:, [k, count]] = 1  # a column counts this block alone, the last one all
        if len(weights):
            groups.append((x[both], y[both], weights))
    found = kendall_within(groups).tolist() if groups else [nan] * (count + 1)
    return Taus(blocks=tuple(found[:count]), total=found[count])


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What a search by a variant finds within the run's limits.

    `alike` counts the blocks in which its path is that of the run's own choice. `regret` is what it
    loses by the run's ratings more than their best, as a share of what an architecture at random
    within the limits loses more; NaN where it is undefined.
    """

    text: str
    alike: int
    regret: float


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A variant beside the run's own; None where nothing within the limits could be chosen."""

    variant: Variant
    tau: Taus
    choice: Choice | None

    @property
    def regret(self) -> float:
        """That of its choice; NaN where there is none."""
        return nan if self.choice is None else self.choice.regret


@dataclass(frozen=True, kw_only=True)
class Stability:
    """The variants of a run compared, in the order of `Wanted`.

    `text` and `loss` are those of the run's own choice, `random` the mean loss of architectures
    within the limits. `pairs` are all pairs of seeds, the run's own among them.
    """

    own: Variant
    text: str
    loss: float
    random: float
    pairs: dict[tuple[int, int], Taus]
    seeds: tuple[Compared, ...]
    fractions: tuple[Compared, ...]
    checkpoints: tuple[Compared, ...]

    @property
    def compared(self) -> tuple[Compared, ...]:
        """All variants."""
        return (*self.seeds, *self.fractions, *self.checkpoints)

    @property
    def spread(self) -> dict[str, Taus]:
        """The mean, the lowest and the highest tau of the pairs; empty where there are none."""
        if not self.pairs:
            return {}
        values = np.array([(*tau.blocks, tau.total) for tau in self.pairs.values()])
        found = {"mean": values.mean(axis=0), "lowest": values.min(axis=0)}
        return {
            name: Taus(blocks=tuple(row[:-1].tolist()), total=float(row[-1]))
            for name, row in (found | {"highest": values.max(axis=0)}).items()
        }


def compare(
    ratings: Ratings,
    limits: Mapping[str, float],
    asked: Wanted,
    losses: Mapping[Variant, Losses],
) -> Stability:
    """Hold the losses of all variants that are `asked` for against the run's own ratings."""
    own = tuple(block.loss for block in ratings.blocks)
    best = select(ratings, limits).found
    random = _mean_at_random(ratings, limits, asked.own.seed)

    def chosen(other: Losses) -> Choice | None:
        blocks = zip(ratings.blocks, other, strict=True)
        varied = replace(ratings, blocks=tuple(replace(b, loss=loss) for b, loss in blocks))
        try:
            found = select(varied, limits).found
        except UserError:  # cells that diverged have left too few paths
            return None
        lost = max(0.0, float(totals(ratings, np.array([found.paths]))[0][0]) - best.loss)
        regret = lost / (random - best.loss) if random > best.loss else nan
        return Choice(
            text=found.text,
            alike=sum(a == b for a, b in zip(found.paths, best.paths, strict=True)),
            regret=regret if lost else 0.0,
        )

    def compared(variants: Sequence[Variant]) -> tuple[Compared, ...]:
        return tuple(
            Compared(variant=v, tau=taus(losses[v], own), choice=chosen(losses[v]))
            for v in variants
        )

    by_seed = {asked.own.seed: own} | {variant.seed: losses[variant] for variant in asked.seeds}
    return Stability(
        own=asked.own,
        text=best.text,
        loss=best.loss,
        random=random,
        pairs={(a, b): taus(by_seed[a], by_seed[b]) for a, b in combinations(by_seed, 2)},
        seeds=compared(asked.seeds),
        fractions=compared(asked.fractions),
        checkpoints=compared(asked.checkpoints),
    )


def _mean_at_random(ratings: Ratings, limits: Mapping[str, float], seed: int) -> float:
    """The mean loss of architectures within the limits; NaN where too few of those drawn are."""
    rng, found = generator(seed, "architectures at random"), np.empty(0)
    columns, ceiling = [ratings.column(cost) for cost in limits], np.array([*limits.values()])
    rated = [np.flatnonzero(np.isfinite(block.loss)) for block in ratings.blocks]
    for _ in range(_ROUNDS):
        drawn = np.column_stack([rng.choice(rows, _DRAWN) for rows in rated])
        loss, costs = totals(ratings, drawn)
        found = np.append(found, loss[np.all(costs[:, columns] <= ceiling, axis=1)])
        if len(found) >= _ENOUGH:
            break
    return float(found.mean()) if len(found) >= _FEW else nan


def stability_verdict(found: Stability) -> str:
    """One to three sentences: on the seed, on the data, and on the length of the training.

    What matters little is what leaves a choice that gives up no more than a tenth of what the
    search gains over a random choice. What gives up more, but no more than another seed does, or
    cannot be judged, is called open.
    """
    if not any(isfinite(compared.tau.total) for compared in found.compared):
        return "Nothing can be said: there are no two paths of a block that rate differently."
    sentences = []
    chance = max((c.regret for c in found.seeds if isfinite(c.regret)), default=0.0)
    if found.seeds:
        sentences.append(_of_seeds(found))
    if found.fractions:
        sentences.append(_of_fractions(found.fractions, chance))
    if found.checkpoints:
        sentences.append(_of_checkpoints(found.checkpoints, found.own.epochs, chance))
    return " ".join(sentences)


def _of_seeds(found: Stability) -> str:
    mean, lowest, highest = (tau.total for tau in found.spread.values())
    figures = f"{len(found.seeds) + 1} seeds agree by Kendall {mean:.3f}"
    if len(found.pairs) > 1:
        figures += f" ({lowest:.3f} to {highest:.3f})"
    good = _good(found.seeds)
    if len(good) == len(found.seeds):
        if all(compared.regret == 0 for compared in good):
            return f"The seed matters little: {figures}, and they choose equally well."
        return f"The seed matters little: {figures}, and {_given_up(good)} by another one's choice."
    if any(compared.regret > LITTLE for compared in found.seeds):
        return (
            f"The seed matters: {figures}, and {_given_up(found.seeds)} by another one's choice; "
            "train the cells longer (distill.epochs, features.images)."
        )
    return f"Whether the seed matters is open: {figures}, but what they choose cannot be judged."


def _of_fractions(fractions: Sequence[Compared], chance: float) -> str:
    """`chance` is what another seed gives up."""
    good = _good(fractions)
    bad = fractions[len(good)] if len(good) < len(fractions) else None
    if good:
        first = f"{good[-1].variant.fraction:.0%} of the data would do: {_figures(good)}"
        if bad is None:
            return f"{first}."
        fails = "would not" if bad.regret > max(LITTLE, chance) else "are open"
        return f"{first}; {bad.variant.fraction:.0%} {fails}: {_figures([bad], chance)}."
    part = f"{fractions[0].variant.fraction:.0%} of the data"
    figures = f"with {part}, {_figures(fractions[:1], chance)}"
    if fractions[0].regret > max(LITTLE, chance):
        return (
            f"The data matter: {figures}; more of them may change the choice again "
            "(features.images)."
        )
    return f"Whether the data matter is open: {figures}."


def _of_checkpoints(checkpoints: Sequence[Compared], epochs: int, chance: float) -> str:
    """`chance` is what another seed gives up."""
    good = _good(checkpoints)
    if good:
        return (
            f"The training is long enough: from epoch {good[-1].variant.epochs} of {epochs} on, "
            f"{_figures(good)}."
        )
    last = checkpoints[0]
    figures = f"after {last.variant.epochs} of {epochs} epochs, {_figures([last], chance)}"
    if last.regret > max(LITTLE, chance):
        return f"The training is not shown to be long enough: {figures}; raise distill.epochs."
    return f"Whether the training is long enough is open: {figures}."


def _good(compared: Sequence[Compared]) -> list[Compared]:
    """Those at the beginning that give up little."""
    return list(takewhile(lambda c: c.regret <= LITTLE, compared))


def _figures(compared: Sequence[Compared], chance: float = 0.0) -> str:
    """The lowest tau with the run's own, and the greatest regret, beside what a seed gives up."""
    tau = min(c.tau.total for c in compared)
    as_little = all(LITTLE < c.regret <= chance for c in compared)
    beside = ", no more than by another seed" if as_little else ""
    return f"Kendall {tau:.3f} with the run's own, and {_given_up(compared)}{beside}"


def _given_up(compared: Sequence[Compared]) -> str:
    known = [c.regret for c in compared if isfinite(c.regret)]
    if not known:
        return "what it chooses cannot be judged"
    if not max(known):
        return "the choice is as good"
    return f"{max(known):.0%} of what the search gains over a random choice is given up"
