"""Run folders without a search: records as the driver writes them, with losses drawn at random."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from dna_ray.config import job_from_tree, job_to_toml
from dna_ray.rundir import RunFolder
from dna_ray.search import Beam, Ratings, Selection, ratings_of, select, to_arrow
from dna_ray.space import Space, cost_range, cost_table, parse_space

SPACE = """
name = "{name}"
resolution = 32
ops = ["k3e1", "k5e3", "k7e6"]
se_ratio = 0.25
activation = "relu"
head = 64
stem = {{ width = 8, out = 8 }}

[[blocks]]
stride = 2
cells = [{{ layers = 1, width = 8 }}, {{ layers = 2, width = 8 }}, {{ layers = 2, width = 16 }}]

[[blocks]]
stride = 2
cells = [{{ layers = 2, width = 24 }}, {{ layers = 3, width = 16 }}]
"""


@dataclass(kw_only=True)
class Sketch:
    """What the run of a test shall be like."""

    data: str = "pictures"
    space: str = SPACE.format(name="tiny")
    generations: int = 2
    finished: int = 2
    labelled: bool = True
    limits: Mapping[str, float] = field(default_factory=dict)
    classes: int = 2
    epochs: int = 3
    spread: float = 1.0  # of losses; at 0 all paths rate alike
    strategy: str = "concurrent"
    loss: str = "mse"
    interactions: float = 0.25
    members: int = 1


def make_run(where: str | Path, sketch: Sketch) -> RunFolder:
    """A run folder by the sketch at a path or URI.

    Behind the finished generations one stops after its search.
    """
    tree = {
        "data": sketch.data,
        "space": "tiny.toml",
        "teacher": "lite0",
        "generations": sketch.generations,
        "limits": dict(sketch.limits),
        "features": {"images": 384, "window": 128},
        "distill": {
            "epochs": 8,
            "strategy": sketch.strategy,
            "loss": sketch.loss,
            "members": sketch.members,
        },
        "rate": {"interactions": sketch.interactions},
    }
    with patch("os.fsync"):  # it need not outlive a power cut
        run = RunFolder.create(where, job_to_toml(job_from_tree(tree)), 0, sketch.space)
        space = parse_space(sketch.space, "tiny.toml")
        for number in range(1, sketch.generations + 1):
            if number <= sketch.finished + 1:
                _generation(run, space, number, sketch)
    return run


def ratings_at_random(space: Space, classes: int, seed: int, spread: float = 1.0) -> Ratings:
    """Ratings in which every op has an effect of its own, with exact costs."""
    rng = np.random.default_rng(seed)
    losses: list[list[np.ndarray]] = []
    for block in space.blocks:
        effects = {op: spread * rng.uniform(0, 0.1) for op in block.ops}
        losses.append(
            [
                np.array(
                    [
                        0.5
                        + sum(effects[op] for op in path) / len(path)
                        + spread * rng.normal(0, 0.02)
                        for path in block.paths(cell)
                    ]
                )
                for cell in range(len(block.cells))
            ]
        )
    table = cost_table(space, space.resolution, classes)
    return ratings_of(space, table, losses, {"method": "dna", "seed": "0"})


def _generation(run: RunFolder, space: Space, number: int, sketch: Sketch) -> None:
    rng = np.random.default_rng(number)
    if number == 1 and sketch.labelled:
        run.measure(1, [{"stage": "train", "network": "teacher", "pass": 1, "loss": 0.4}])
    rows = [
        {"stage": "distill", "block": k + 1, "cell": c, "epoch": e, "loss": 5 / e + rng.random()}
        for k, block in enumerate(space.blocks)
        for c in range(len(block.cells))
        for e in range(1, sketch.epochs + 1)
    ]
    run.measure(number, rows)
    ratings = ratings_at_random(space, sketch.classes, number, sketch.spread)
    kept = {"interactions": str(sketch.interactions), "members": str(sketch.members)}
    ratings = replace(ratings, metadata=ratings.metadata | kept)
    low, high = cost_range(space, cost_table(space, space.resolution, sketch.classes))["macs"]
    limits = sketch.limits or {"macs": float((low + high) // 2)}
    if sketch.strategy == "concurrent":
        best = select(ratings, limits)
    else:
        ratings = replace(ratings, metadata=ratings.metadata | {"method": sketch.strategy})
        best = _beamed(space, ratings, limits, sketch.classes)
    run.write_table(run.file(number, "ratings.parquet"), to_arrow(ratings))
    run.write_table(run.file(number, "front.parquet"), best.front.to_arrow())
    run.write_json(run.file(number, "architecture.json"), best.to_json(space.name))
    for stage in ("features", "distill", "rate", "search"):
        run.end(f"generation-{number}/{stage}", 1 + 30 * float(rng.random()))
    if number <= sketch.finished:
        _finish(run, number, sketch, best.found.costs, rng)


def _beamed(space: Space, ratings: Ratings, limits: Mapping[str, float], classes: int) -> Selection:
    """The best by a beam of two in which paths lose about the same behind any beginning."""
    beam, kept = Beam(space, cost_table(space, space.resolution, classes), limits, 2), ((),)
    for block in ratings.blocks:
        ends = np.cumsum(np.bincount(block.cell))[:-1]
        beginnings = kept
        losses = [np.split(block.loss + 0.01 * n, ends) for n in range(len(beginnings))]
        grown = beam.grow(beginnings, losses)
        kept = beam.kept(beginnings, grown)
    return beam.selected(ratings, beginnings, grown)


def _finish(
    run: RunFolder, number: int, sketch: Sketch, costs: dict[str, float], rng: np.random.Generator
) -> None:
    trials = [
        {"learning_rate": 0.001 * 2**i, "weight_decay": 0.01 / 3**i, "loss": 0.5 + 0.07 * i}
        for i in range(3)
    ]
    trials.append({"learning_rate": 0.1, "weight_decay": 0.001, "loss": float("inf")})
    run.write_json(run.file(number, "tune.json"), {"trials": trials})
    networks = ["found"] + ["scaled"] * (number < sketch.generations)
    rows = [
        {"stage": "train", "network": name, "pass": p, "loss": 0.7 - 0.1 * p + rng.random() / 50}
        for name in networks
        for p in range(1, 4)
    ]
    run.measure(number, rows)
    roles = ["teacher", "found"] + ["next_teacher"] * (number < sketch.generations)
    result = {
        "teacher": "lite0" if number == 1 else f"generation {number - 1}, scaled by coefficient 1",
        "metrics": {role: _metrics(role, sketch, costs, rng) for role in roles},
    }
    run.write_json(run.file(number, "result.json"), result)
    for stage in ("tune", "retrain"):
        run.end(f"generation-{number}/{stage}", 1 + 90 * float(rng.random()))


def _metrics(
    role: str, sketch: Sketch, costs: dict[str, float], rng: np.random.Generator
) -> dict[str, Any]:
    size = {"teacher": 7.3, "found": 1, "next_teacher": 1.4}[role]
    metrics: dict[str, Any] = {name: int(size * costs[name]) for name in ("params", "macs")}
    names = ("accuracy", "balanced_accuracy", "auroc")
    if not sketch.labelled:
        names = ("agreement_top1", "agreement_top5", "kl")
    return metrics | {name: 0.8 + 0.2 * float(rng.random()) for name in names}
