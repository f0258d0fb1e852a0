"""Does a rating rank? Agreement with the accuracies of a bench, beside that of plain costs."""

from dna_ray.ranking.bench import Bench, Rated, rate, read_bench
from dna_ray.ranking.evaluation import NEAR, Agreement, EqualCost, Evaluation, Figure, evaluate
from dna_ray.ranking.verdict import verdict

__all__ = [
    "NEAR",
    "Agreement",
    "Bench",
    "EqualCost",
    "Evaluation",
    "Figure",
    "Rated",
    "evaluate",
    "rate",
    "read_bench",
    "verdict",
]
