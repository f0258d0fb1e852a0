"""Pareto sets on plain arrays: which points are not dominated, all objectives minimised."""

import numpy as np

Array = np.ndarray

_CHUNK = 512


def nondominated(points: Array) -> Array:
    """The indices of the nondominated rows of `points` (n, d), one for each distinct point.

    Of equal points the one with the smallest index stays. The result is ordered by the last
    column, then by the one before, and so on.
    """
    if len(points) == 0:
        return np.empty(0, np.intp)
    order = np.asarray(np.lexsort(points.T))  # stable: equal points keep their order
    points = points[order]
    if points.shape[1] == 1:
        return np.asarray(order[:1])
    if points.shape[1] == 2:
        return np.asarray(order[_staircase(points[:, 0])])
    return np.asarray(order[_sweep(points)])


def _staircase(values: Array) -> Array:
    """Where `values` falls below all that came before it."""
    best_before = np.minimum.accumulate(values)[:-1]
    return np.flatnonzero(np.concatenate(([True], values[1:] < best_before)))


def _sweep(points: Array) -> Array:
    """Three objectives or more, `points` sorted: a point is dominated only by an earlier one."""
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
