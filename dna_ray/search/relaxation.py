"""A bound on every way through a trellis: limits are priced instead of held (Lagrange).

With a price on each cost, the least loss plus priced costs is found backward, block by block. No
architecture within the limits has a smaller loss than that sum less the price of the limits; the
best prices are found by cutting planes (Kelley 1960).
"""

from dataclasses import dataclass

import numpy as np

from dna_ray.search.trellis import Trellis

Array = np.ndarray

_ROUNDS = 60
_HIGHEST_PRICE = 1e4  # in units of the spread of losses over that of the cost
_ACCURACY = 1e-7  # in the same units; any prices give a true bound


@dataclass(frozen=True)
class Relaxation:
    """Prices and what they bound.

    `spread` (1 + D,) is how far loss and costs can differ between two ways; `weights` (1 + D,) are
    1 and the prices of the D costs; `to_go[k][state]` is the least weighted sum from a state before
    step k to the end; `bound` is below the loss of all that is within the limits.
    """

    spread: Array
    weights: Array
    to_go: tuple[dict[int, float], ...]
    bound: float


def least(trellis: Trellis, weights: Array) -> tuple[tuple[dict[int, float], ...], Array]:
    """The least weighted sums from every state to the end, and the totals (1 + D,) of that way."""
    values = {0: 0.0}
    totals = {0: np.zeros(len(weights))}
    to_go = [values]
    for steps in reversed(trellis):
        before: dict[int, float] = {}
        before_totals: dict[int, Array] = {}
        for step in steps:
            sums = step.points @ weights
            best = int(np.argmin(sums))
            value = float(sums[best]) + values[step.end]
            if value < before.get(step.start, np.inf):
                before[step.start] = value
                before_totals[step.start] = step.points[best] + totals[step.end]
        values, totals = before, before_totals
        to_go.append(values)
    return tuple(reversed(to_go)), totals[0]


def relax(trellis: Trellis, limits: Array) -> Relaxation:
    """The best prices for `limits` (D,), nearly; the bound holds exactly whatever they are."""
    spread = _spread(trellis, limits)
    prices = np.zeros(len(limits))
    best: Relaxation | None = None
    ways: list[Array] = []
    for _ in range(_ROUNDS):
        weights = np.append(1.0, prices * spread[0] / spread[1:])
        to_go, way = least(trellis, weights)
        bound = to_go[0][0] - float(weights[1:] @ limits)
        if best is None or bound > best.bound:
            best = Relaxation(spread, weights, to_go, bound)
        if len(limits) == 0:
            break
        ways.append((way - np.append(0.0, limits)) / spread)
        found = _next_prices(np.array(ways))
        if found is None:
            break
        prices, ceiling = found
        if ceiling - best.bound / spread[0] <= _ACCURACY:
            break
    assert best is not None
    return best


def _spread(trellis: Trellis, limits: Array) -> Array:
    """How far loss and costs (1 + D,) can differ at most between two ways; never 0.

    Whatever costs more than the limit (D,) counts as if it cost just that.
    """
    total = 0
    for steps in trellis:
        points = np.concatenate([step.points for step in steps])
        points[:, 1:] = np.minimum(points[:, 1:], limits)
        total = total + points.max(axis=0) - points.min(axis=0)
    spread = np.asarray(total, np.float64)
    return np.where(spread > 0, spread, 1.0)


def _next_prices(ways: Array) -> tuple[Array, float] | None:
    """The prices at which the known ways bound best, and that bound: none can be above it.

    `ways` (n, 1 + D) holds the loss of each and by how much it exceeds the limits. None where the
    numbers are of too different sizes for the solver; then the prices at hand must do.
    """
    from scipy.optimize import linprog  # half a second of import that one limit does not need

    if not np.isfinite(ways).all():
        return None
    count = ways.shape[1] - 1
    solution = linprog(
        np.append(-1.0, np.zeros(count)),
        A_ub=np.column_stack((np.ones(len(ways)), -ways[:, 1:])),
        b_ub=ways[:, 0],
        bounds=[(None, None), *[(0, _HIGHEST_PRICE)] * count],
        method="highs",
    )
    return None if solution.x is None else (solution.x[1:], float(solution.x[0]))
