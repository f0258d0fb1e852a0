"""Why no architecture is within some limits, and what could be met."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from dna_ray.errors import UserError
from dna_ray.search.milp import best_ways
from dna_ray.search.table import Ratings
from dna_ray.search.trellis import trellis


def check_limits(ratings: Ratings, limits: Mapping[str, float]) -> None:
    """Raise UserError where no architecture meets `limits`; losses play no part.

    The message names the smallest set of limits that clash, and for each of them the smallest
    value that can be met while the others hold.
    """
    if _are_met(ratings, limits, tuple(limits)):
        return
    names = next(
        names
        for size in range(1, len(limits) + 1)
        for names in combinations(limits, size)
        if not _are_met(ratings, limits, names)
    )
    remedies = [
        f"{name}={_minimum(ratings, name, {n: limits[n] for n in names if n != name}):.17g}"
        for name in names
    ]
    given = " and ".join(f"{name}={limits[name]:.17g}" for name in names)
    if len(names) == 1:
        raise UserError(
            f"some architecture must meet the limit, but none meets {given}; "
            f"the smallest that can be met is {remedies[0]}"
        )
    raise UserError(
        f"some architecture must meet all limits, but none meets {given} together; "
        f"raise one of them, the others held: {' or '.join(remedies)}"
    )


def _are_met(ratings: Ratings, limits: Mapping[str, float], names: Sequence[str]) -> bool:
    """Whether some architecture meets the limits on all of `names`."""
    if not names:
        return True
    first, *others = names
    return _minimum(ratings, first, {name: limits[name] for name in others}) <= limits[first]


def _minimum(ratings: Ratings, cost: str, limits: Mapping[str, float]) -> float:
    """The smallest value of a cost within limits on others; infinite where nothing is."""
    ways = trellis(ratings, tuple(limits), objective=cost)
    best = best_ways(ways, np.array([*limits.values()])).ways
    return float(best.points[0, 0]) if len(best) else np.inf
