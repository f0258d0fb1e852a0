"""The search step: ratings tables, Pareto sets, and the best architecture within limits."""

from dna_ray.search.select import Front, Selection, check_limits, pareto_front, select, totals
from dna_ray.search.table import (
    Ratings,
    ratings_of,
    read_plain_table,
    read_ratings,
    to_arrow,
)

__all__ = [
    "Front",
    "Ratings",
    "Selection",
    "check_limits",
    "pareto_front",
    "ratings_of",
    "read_plain_table",
    "read_ratings",
    "select",
    "to_arrow",
    "totals",
]
