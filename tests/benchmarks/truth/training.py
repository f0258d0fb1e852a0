"""One network of the bench trained from scratch, from labels alone."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from dna_ray.network.model import build_model, trained
from dna_ray.randomness import key
from dna_ray.retrain import PictureSet, label_metrics, logits_of
from dna_ray.space import Architecture, network_spec
from tests import plain
from tests.benchmarks.truth.tasks import Task, recipe, space, windows

Array = np.ndarray


def train_from_scratch(
    task: Task, name: str, seed: int, passes: int, data: PictureSet, purpose: str
) -> torch.nn.Module:
    """Weights, order and flips are drawn by the seed and by what the training is for."""
    spec = network_spec(space(), Architecture.parse(name), task.classes)
    torch.manual_seed(key(seed, purpose, name))
    start = trained(spec, build_model(spec))
    return plain.train(start, data, recipe(passes), (seed, purpose, name)).build()


def measures(module: torch.nn.Module, pictures: list[Array], labels: Array) -> dict[str, float]:
    """`accuracy`, `auroc`, and the cross entropy `loss`."""
    return measures_of(logits_of(module, pictures), labels)


def measures_of(logits: Array, labels: Array) -> dict[str, float]:
    """The same from logits (n, classes)."""
    loss = float(F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels)))
    found = label_metrics(logits, labels)
    return {"accuracy": found["accuracy"], "auroc": found["auroc"], "loss": loss}


def train_one(task: Task, name: str, seed: int, folder: Path) -> dict[str, Any]:
    """What a network reaches on the test pictures, and the seconds of a core that it took."""
    drawn, start = windows(task, 0, folder), time.process_time()
    data = PictureSet(drawn.pictures["train"], drawn.labels["train"], None)
    module = train_from_scratch(task, name, seed, task.passes, data, "ground truth")
    found = measures(module, drawn.pictures["test"], drawn.labels["test"])
    return found | {"seconds": time.process_time() - start}
