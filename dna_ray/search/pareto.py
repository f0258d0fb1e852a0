"""Pareto sets on plain arrays: which points are not dominated, all objectives minimised."""

import numpy as np

Array = np.ndarray

_CHUNK = 512
_MANY = 4096  # from here on a look at a grid pays before points are compared
_GRID_CELLS = 1 << 17
_GRID_AXES = 8
_QUICK = 3  # so many objectives are compared in O(n log^2 n)


def nondominated(points: Array) -> Array:
    """The indices of the nondominated rows of `points` (n, d), one for each distinct point.

    Of equal points the one with the smallest index stays. The result is ordered by the last
    column, then by the one before, and so on. Up to three columns take O(n log^2 n).
    """
    if len(points) == 0:
        return np.empty(0, np.intp)
    index = np.arange(len(points))
    if points.shape[1] > 2 and len(points) > _MANY:
        index = _thinned(points)
    index = index[np.lexsort(points[index].T)]  # stable: equal points keep their order
    points = points[index]
    if points.shape[1] == 1:
        return np.asarray(index[:1])
    if points.shape[1] == 2:
        return np.asarray(index[_staircase(points[:, 0])])
    if points.shape[1] == 3:
        return np.asarray(index[_halves(points)])
    return np.asarray(index[_sweep(points)])


def undominated(points: Array, count: int) -> Array:
    """The indices of `points` (n, d), in order, but for many that need not be looked at further.

    Left out are only points that `count` others are nowhere worse than, of equals the earlier ones;
    not all of them, where to find them all would take long.
    """
    if count > 1 or points.shape[1] > _QUICK:
        return _thinned(points) if count == 1 and len(points) > _MANY else np.arange(len(points))
    return np.sort(nondominated(points))


def _staircase(values: Array) -> Array:
    """Where `values` falls below all that came before it."""
    best_before = np.minimum.accumulate(values)[:-1]
    return np.flatnonzero(np.concatenate(([True], values[1:] < best_before)))


def _thinned(points: Array) -> Array:
    """The indices of `points` but for those that a coarse grid shows to be dominated.

    The grid lies over all columns but the first and holds the least of the first. Whatever is in
    a lower cell along every axis is smaller in all these columns.
    """
    others = points[:, 1:]
    if others.shape[1] > _GRID_AXES:
        return np.arange(len(points))
    side = int(_GRID_CELLS ** (1 / others.shape[1]))
    sample = others[:: max(1, len(points) // (8 * side))]
    cells = []
    for column, values in zip(others.T, np.sort(sample, axis=0).T, strict=True):
        bounds = np.unique(values[:: max(1, len(values) // side)])
        cells.append(np.searchsorted(bounds, column))  # bounds[i - 1] < value <= bounds[i]
    least = np.full([int(cell.max()) + 2 for cell in cells], np.inf)
    np.minimum.at(least, tuple(cell + 1 for cell in cells), points[:, 0])
    for axis in range(len(cells)):
        np.minimum.accumulate(least, axis=axis, out=least)
    return np.flatnonzero(least[tuple(cells)] > points[:, 0])


def _halves(points: Array) -> Array:
    """Three objectives, `points` sorted: a point is dominated only by an earlier one.

    Runs of 1, 2, 4, ... points are merged in pairs, all pairs at once: in each pair the points of
    both halves are walked by their second objective, with the least first objective of the earlier
    half in hand.
    """
    count = len(points)
    by_second = np.empty(count, np.int64)
    by_second[np.argsort(points[:, 1], kind="stable")] = np.arange(count)
    values, by_first = np.unique(points[:, 0], return_inverse=True)
    alive, half = np.arange(count), 1
    while half < count:
        pair = alive // (2 * half)
        order = np.argsort(pair * count + by_second[alive])
        walked, pair = alive[order], pair[order]
        earlier = walked // half % 2 == 0
        # Counted down from pair to pair, so that no pair sees the least of the one before.
        base = -pair * (len(values) + 1)
        least = np.minimum.accumulate(np.where(earlier, by_first[walked], len(values)) + base)
        dominated = ~earlier & (least <= by_first[walked] + base)
        alive = np.sort(walked[~dominated])
        half *= 2
    return alive


def _sweep(points: Array) -> Array:
    """Four objectives or more, `points` sorted: a point is dominated only by an earlier one."""
    kept = np.empty((0, points.shape[1]))
    kept_index: list[Array] = []
    for start in range(0, len(points), _CHUNK):
        index = np.arange(start, min(start + _CHUNK, len(points)))
        index = index[~_dominated(points[index], kept)]
        chunk = points[index]
        covered = np.all(chunk[None] <= chunk[:, None], axis=2)  # [i, j]: j is nowhere worse than i
        index = index[~np.any(np.tril(covered, -1), axis=1)]
        kept = np.concatenate((kept, points[index]))
        kept_index.append(index)
    return np.concatenate(kept_index)


def _dominated(chunk: Array, kept: Array) -> Array:
    """(len(chunk),): whether some row of `kept`, all of them earlier, is nowhere worse."""
    worse = np.zeros(len(chunk), bool)
    for start in range(0, len(kept), 4 * _CHUNK):
        open_ = np.flatnonzero(~worse)
        part = kept[start : start + 4 * _CHUNK]
        covers = np.ones((len(open_), len(part)), bool)
        for column in range(kept.shape[1]):
            covers &= part[None, :, column] <= chunk[open_, None, column]
        worse[open_] = covers.any(axis=1)
    return worse
