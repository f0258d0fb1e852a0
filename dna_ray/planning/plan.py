"""All that is known and checked of a search before anything runs."""

from dataclasses import dataclass

import numpy as np

from dna_ray.config import Job
from dna_ray.data import Pictures
from dna_ray.data.schedule import Schedule, schedule
from dna_ray.network.model import TrainedModel
from dna_ray.planning.cache import Sizes, sizes
from dna_ray.retrain import Recipe, minibatches, portions_of
from dna_ray.search import check_limits, ratings_of
from dna_ray.space import CostTable, Space, cost_range, cost_table
from dna_ray.teacher import Cut, cut_teacher


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A job with all that it speaks of; `schedule` takes every picture for one that can be read."""

    job: Job
    space: Space
    pictures: Pictures
    teacher: TrainedModel
    adapt: bool
    resolution: int
    cut: Cut
    table: CostTable
    limits: dict[str, float]
    schedule: Schedule

    @property
    def classes(self) -> int:
        """What the last layer of every network of the run tells apart."""
        return len(self.pictures.classes) or self.teacher.spec.classes

    @property
    def pixels(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The mean and std by which all networks of the run scale pictures: the teacher's."""
        return self.teacher.spec.mean, self.teacher.spec.std

    @property
    def soft(self) -> bool:
        """Whether the first teacher's labels teach: it speaks of the classes, and they count."""
        speaks = self.adapt or self.teacher.spec.classes == self.classes
        return speaks and not (self.pictures.labelled and self.job.retrain.label_weight == 1)

    @property
    def sizes(self) -> Sizes:
        """The bytes of the run's windows."""
        return sizes(self.job, self.schedule, self.teacher, self.cut, self.classes, self.resolution)


def make_plan(job: Job, space: Space, pictures: Pictures, teacher: TrainedModel) -> Plan:
    """Check that everything fits together, before any work; raises UserError."""
    resolution = job.resolution or space.resolution
    classes = len(pictures.classes) or teacher.spec.classes
    differs = pictures.labelled and teacher.spec.classes != classes
    adapt = differs if job.adapt_teacher is None else job.adapt_teacher and pictures.labelled
    table = cost_table(space, resolution, classes)
    limits = job.limits or default_limits(space, table)
    zeros = [[np.zeros(b.count(c)) for c in range(len(b.cells))] for b in space.blocks]
    check_limits(ratings_of(space, table, zeros, {}), limits)
    windows = schedule(pictures, job)
    train = list(map(len, windows.rows["train"]))
    portions = [sum(train[i] for i in part) for part in portions_of(train, job.retrain.shuffle)]
    minibatches(portions, recipe(job, 1, 0.0, 0.0))
    return Plan(
        job=job,
        space=space,
        pictures=pictures,
        teacher=teacher,
        adapt=adapt,
        resolution=resolution,
        cut=cut_teacher(teacher, space.reductions, resolution),
        table=table,
        limits=limits,
        schedule=windows,
    )


def recipe(job: Job, passes: int, learning_rate: float, weight_decay: float) -> Recipe:
    """A training recipe with the job's own batch, shards and weight of labels."""
    return Recipe(
        passes=passes,
        batch=job.retrain.batch,
        shards=job.retrain.shards,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        label_weight=job.retrain.label_weight,
    )


def default_limits(space: Space, table: CostTable) -> dict[str, float]:
    """Half way between the multiply-adds of the smallest and of the largest architecture.

    Without a limit the search is trivial: the best path of each block.
    """
    low, high = cost_range(space, table)["macs"]
    return {"macs": float((low + high) // 2)}
