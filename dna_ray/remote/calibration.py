"""What the cluster has, and short trials of the work on it."""

from collections.abc import Mapping

import ray
import torch

from dna_ray.config import Distill
from dna_ray.network.model import TrainedModel
from dna_ray.planning.calibration import Pixels, Trial, time_teacher, try_cell
from dna_ray.planning.placement import Resources
from dna_ray.remote.session import Session
from dna_ray.remote.tasks import device, single_threaded, task
from dna_ray.space import Space, Where
from dna_ray.teacher import Cut, Teacher


def cluster_resources() -> Resources:
    """What there is now, all nodes together."""
    have = ray.cluster_resources()
    gpus = int(have.get("GPU", 0))
    ask = task(_gpu_bytes, name="memory of a GPU", num_cpus=0, num_gpus=0.01)
    return Resources(
        cpus=have.get("CPU", 0.0),
        gpus=gpus,
        gpu_bytes=ray.get(ask.remote()) if gpus else 0,
        store_bytes=int(have.get("object_store_memory", 0)),
    )


def _gpu_bytes() -> int:
    return int(torch.cuda.get_device_properties(0).total_memory)


def try_cells(
    session: Session,
    space: Space,
    cut: Cut,
    pixels: Pixels,
    recipe: Distill,
    resolution: int,
    resources: Mapping[str, float],
) -> dict[Where, Trial]:
    """Train every cell for a few minibatches, several at a time, as they will be trained."""
    session.view.stage("calibration", len(space.cells), "cells")
    run = task(_try_cell, name="trial of a cell", **resources)
    refs = {
        where: run.remote(space, cut, pixels, recipe, where, resolution) for where in space.cells
    }
    session.wait(list(refs.values()))
    return {where: ray.get(ref) for where, ref in refs.items()}


def try_teacher(
    model: TrainedModel,
    cut: Cut,
    resolution: int,
    pictures: int,
    resources: Mapping[str, float],
) -> float:
    """Seconds per picture of the teacher."""
    run = task(_try_teacher, name="trial of the teacher", **resources)
    seconds: float = ray.get(run.remote(model, cut, resolution, pictures))
    return seconds


@single_threaded
def _try_cell(
    space: Space, cut: Cut, pixels: Pixels, recipe: Distill, where: Where, resolution: int
) -> Trial:
    return try_cell(space, cut, pixels, recipe, where, resolution, device())


@single_threaded
def _try_teacher(model: TrainedModel, cut: Cut, resolution: int, pictures: int) -> float:
    return time_teacher(Teacher(model, cut, device()), resolution, pictures)
