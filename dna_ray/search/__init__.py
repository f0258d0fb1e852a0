"""The search step: ratings tables, Pareto sets, and the best architecture within limits."""

from dna_ray.search.beam import Beam, Grown, losses_table, read_losses
from dna_ray.search.clash import check_limits
from dna_ray.search.front import Front, pareto_front, totals
from dna_ray.search.reading import load_ratings, read_plain_table, read_ratings
from dna_ray.search.selection import ALGORITHMS, Candidate, Certificate, Selection, select
from dna_ray.search.table import Ratings, ratings_of, to_arrow

__all__ = [
    "ALGORITHMS",
    "Beam",
    "Candidate",
    "Certificate",
    "Front",
    "Grown",
    "Ratings",
    "Selection",
    "check_limits",
    "load_ratings",
    "losses_table",
    "pareto_front",
    "ratings_of",
    "read_losses",
    "read_plain_table",
    "read_ratings",
    "select",
    "to_arrow",
    "totals",
]
