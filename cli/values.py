"""Values of options: amounts with K, M, G, and limits on costs."""

import math
import re
from decimal import Decimal

from dna_ray.errors import UserError

_AMOUNT = re.compile(r"((?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?)([kKmMgG]?)")
_POWERS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


def parse_limits(given: tuple[str, ...]) -> dict[str, float]:
    """Limits from `COST=VALUE` texts, such as macs=400M; raises UserError."""
    limits: dict[str, float] = {}
    for text in given:
        name, equals, value = map(str.strip, text.rpartition("="))
        match = _AMOUNT.fullmatch(value)
        limit = float(Decimal(match[1]) * _POWERS[match[2].lower()]) if match else math.inf
        if not (name and equals and math.isfinite(limit)) or name.endswith("="):
            raise UserError(
                f"a limit is written COST=VALUE with a VALUE such as 15M or 5.3M, "
                f"but '{text}' is given"
            )
        if name in limits:
            raise UserError(f"each cost has one limit at most, but '{name}' is given twice")
        limits[name] = limit
    return limits


def amount(value: float) -> str:
    """A count for people, to four digits: 15.3 M, 818.2 K."""
    for power, letter in ((10**9, "G"), (10**6, "M"), (10**3, "K")):
        if value >= power:
            return f"{value / power:.4g} {letter}"
    return f"{value:.4g}"
