"""How far two quantities order the same things alike: many weightings of the things at once.

A weighting says how often each of N things counts: once each is the sample itself, and a bootstrap
resample counts some twice and others not at all. So every function takes `weights` (N, R) float32,
whole counts, and gives R values at once: exactly what the textbook formula gives for the things
repeated so often, in far less time than R calls for R repeated samples. A value is NaN where it is
undefined, because one of the quantities does not vary in that weighting.
"""

from collections.abc import Callable, Sequence

import numpy as np

Array = np.ndarray

_ROWS = 256  # of a matrix of pairs that are looked at together, at most
_CACHED = 2**18  # values of a matrix of things and weightings that fit a processor's cache


def kendall(xs: Sequence[Array], y: Array, weights: Array) -> list[Array]:
    """Kendall's tau-b of each of `xs` (N,) with `y` (N,) in every weighting: (R,) each.

    Concordant less discordant pairs, over the geometric mean of the pairs untied in x and in y.
    """
    untied_y = _untied(y, weights)
    return [_tau(_concordance(x, y, weights), _untied(x, weights), untied_y) for x in xs]


def kendall_within(groups: Sequence[tuple[Array, Array, Array]]) -> Array:
    """(R,): tau-b over the pairs within groups alone; a group is x (N,), y (N,), weights (N, R)."""
    concordant = sum(_concordance(x, y, weights) for x, y, weights in groups)
    untied = [sum(_untied(group[i], group[2]) for group in groups) for i in (0, 1)]
    return _tau(np.asarray(concordant), np.asarray(untied[0]), np.asarray(untied[1]))


def _tau(concordant: Array, untied_x: Array, untied_y: Array) -> Array:
    with np.errstate(invalid="ignore"):
        tau: Array = concordant / np.sqrt(untied_x * untied_y)
    return tau


def _concordance(x: Array, y: Array, weights: Array) -> Array:
    """(R,): concordant less discordant pairs, in O(N R log N).

    Things enter a Fenwick tree over the ranks of y by growing x; each is held against those before
    it. In float32 they are whole numbers below 2^24, so exact.
    """
    rank = np.unique(y, return_inverse=True)[1] + 1
    below, above = _fenwick_paths(int(rank.max()))
    order = np.argsort(x, kind="stable")
    tree = np.zeros((len(below), weights.shape[1]), np.float32)
    alike = np.zeros_like(tree)  # by rank: what has entered
    entered = np.zeros(weights.shape[1], np.float32)
    total = np.zeros(weights.shape[1])
    for tied in np.split(order, 1 + np.flatnonzero(np.diff(x[order]))):
        for i in tied:
            lower = np.add.reduce(tree[below[rank[i] - 1]])
            total += weights[i] * (2 * lower + alike[rank[i]] - entered)
        for i in tied:
            tree[above[rank[i]]] += weights[i]
            alike[rank[i]] += weights[i]
            entered += weights[i]
    return total


def _fenwick_paths(ranks: int) -> tuple[list[Array], list[Array]]:
    """Of every rank 0..ranks: the nodes that add up to all ranks until it, and that count it."""
    below: list[list[int]] = [[]]
    above: list[list[int]] = [[] for _ in range(ranks + 1)]
    for rank in range(1, ranks + 1):
        below.append([rank, *below[rank & (rank - 1)]])
    for rank in range(ranks, 0, -1):
        parent = rank + (rank & -rank)
        above[rank] = [rank, *(above[parent] if parent <= ranks else [])]
    return [np.array(n, np.intp) for n in below], [np.array(n, np.intp) for n in above]


def _until(x: Array, weights: Array) -> tuple[Array, Array]:
    """The group of equal values (N,) that each thing is in, groups numbered by growing value.

    Behind it float64 (1 + G, R): the weights of all things before each group, and of all at last.
    """
    order = np.argsort(x, kind="stable")
    first = np.append(True, x[order][1:] != x[order][:-1])
    groups = np.empty(len(x), np.int64)
    groups[order] = np.cumsum(first) - 1
    lasts = np.flatnonzero(np.append(first[1:], True))
    until = np.zeros((1 + len(lasts), weights.shape[1]))
    until[1:] = np.cumsum(weights[order], axis=0)[lasts]
    return groups, until


def _untied(x: Array, weights: Array) -> Array:
    """(R,): the pairs whose values differ."""

    def pairs(part: Array) -> Array:
        until = _until(x, part)[1]
        counts = np.diff(until, axis=0)
        untied: Array = (until[-1] ** 2 - np.einsum("gr,gr->r", counts, counts)) / 2
        return untied

    return _by_columns(pairs, weights)


def spearman(xs: Sequence[Array], y: Array, weights: Array) -> list[Array]:
    """Spearman's rho of each of `xs` with `y`: (R,) each. Ties share their mean rank."""

    def values(part: Array) -> Array:
        ranks = midranks(y, part)
        return np.stack([_product_moment(midranks(x, part), ranks, part) for x in xs])

    return list(_by_columns(values, weights))


def _by_columns(values: Callable[[Array], Array], weights: Array) -> Array:
    """The values (..., R) of all weightings, worked out for a few at a time."""
    size = max(1, _CACHED // len(weights))
    starts = range(0, weights.shape[1], size)
    parts = [values(weights[:, i : i + size].astype(np.float64)) for i in starts]
    return np.concatenate(parts, axis=-1)


def midranks(x: Array, weights: Array) -> Array:
    """(N, R): the mean rank of each thing's repetitions, from one half."""
    groups, until = _until(x, weights)
    ranks: Array = ((until[1:] + until[:-1]) / 2)[groups]
    return ranks


def pearson(xs: Sequence[Array], y: Array, weights: Array) -> list[Array]:
    """Pearson's R of each of `xs` with `y`: (R,) each."""
    columns, y = [_scaled(x)[:, None] for x in xs], _scaled(y)[:, None]

    def values(part: Array) -> Array:
        return np.stack([_product_moment(x, y, part) for x in columns])

    return list(_by_columns(values, weights))


def _scaled(x: Array) -> Array:
    """Of a size whose squares neither overflow nor vanish."""
    scale = np.abs(x).max()
    centered = x / scale - np.mean(x / scale) if scale else x
    spread = np.abs(centered).max()
    return centered / spread if spread else centered


def _product_moment(x: Array, y: Array, weights: Array) -> Array:
    """(R,): the weighted correlation of columns (N, R) or (N, 1), in two passes.

    The columns are of size 1 or more, so equal values leave nothing but roundings of 1e-16.
    """
    count = weights.sum(axis=0)
    x = x - np.einsum("nr,nr->r", weights, np.broadcast_to(x, weights.shape)) / count
    y = y - np.einsum("nr,nr->r", weights, np.broadcast_to(y, weights.shape)) / count
    weighted = weights * x
    xy, xx = np.einsum("nr,nr->r", weighted, y), np.einsum("nr,nr->r", weighted, x)
    yy = np.einsum("nr,nr,nr->r", weights, y, y)
    varied = np.minimum(xx, yy) > 1e-28 * count
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(varied, np.clip(xy / np.sqrt(xx * yy), -1, 1), np.nan)


def partial(xy: Array, xz: Array, yz: Array) -> Array:
    """Kendall's partial tau of x and y given z, from the three taus; NaN where z orders as x or y.

    It is above 0 also where x and y have nothing but z in common, clearly so where z tells much of
    both: alone it does not show that x tells something of y that z does not.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        tau: Array = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
    return np.where(np.isfinite(tau), tau, np.nan)


def kendall_among_near(
    xs: Sequence[Array], y: Array, cost: Array, tolerance: float, weights: Array
) -> tuple[int, list[Array]]:
    """Tau-b of each of `xs` with `y` over the pairs of about equal cost alone, and their number.

    A pair is one of two things i, j whose `cost` (N,), none negative, differs by no more than
    `tolerance` of the greater one. The number is of the sample itself.
    """
    order = np.argsort(cost, kind="stable")
    least = cost[order] * (1 - tolerance)  # of the other cost of a pair whose greater one this is
    ends = np.searchsorted(least, cost[order], side="right")
    y, weights = y[order], weights[order]
    xs = [x[order] for x in xs]
    number, columns = 0, weights.shape[1]
    sums = np.zeros((1 + 2 * len(xs), columns))
    size = max(1, min(_ROWS, _CACHED // columns))
    for start in range(0, len(y), size):
        rows = slice(start, min(start + size, len(y)))
        others = slice(start, int(ends[rows.stop - 1]))
        place, row = np.arange(others.start, others.stop), np.arange(rows.start, rows.stop)
        near = (place > row[:, None]) & (place < ends[rows, None])
        number += int(near.sum())
        sign_y = np.sign(y[rows, None] - y[others]) * near
        parts = [sign_y != 0]
        for x in xs:
            sign_x = np.sign(x[rows, None] - x[others]) * near
            parts += [sign_x != 0, sign_x * sign_y]
        beside = np.concatenate(parts, dtype=np.float32) @ weights[others]
        beside = beside.reshape(len(parts), -1, columns)
        sums += np.einsum("knr,nr->kr", beside, weights[rows], dtype=np.float64)
    taus = [_tau(sums[2 + 2 * k], sums[1 + 2 * k], sums[0]) for k in range(len(xs))]
    return number, taus
