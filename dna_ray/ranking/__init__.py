"""Does a rating rank? Held against accuracies, or paths trained alone, beside plain costs."""

from dna_ray.ranking.bench import Bench, Rated, rate, read_bench
from dna_ray.ranking.evaluation import NEAR, Agreement, EqualCost, Evaluation, Figure, evaluate
from dna_ray.ranking.truth import (
    Paths,
    Training,
    Truth,
    drawn_rows,
    hold_against,
    paths_alone,
    read_trainings,
    trainings_table,
)
from dna_ray.ranking.verdict import truth_verdict, verdict

__all__ = [
    "NEAR",
    "Agreement",
    "Bench",
    "EqualCost",
    "Evaluation",
    "Figure",
    "Paths",
    "Rated",
    "Training",
    "Truth",
    "drawn_rows",
    "evaluate",
    "hold_against",
    "paths_alone",
    "rate",
    "read_bench",
    "read_trainings",
    "trainings_table",
    "truth_verdict",
    "verdict",
]
