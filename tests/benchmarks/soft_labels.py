"""What the teacher's soft labels add to the retraining of a found network, on `solar`.

A finished run's found network is trained anew with labels alone, with both, and with soft labels
alone, over three seeds; the test AUROC of each. Two processes, one thread each.
"""

import argparse
import json
import multiprocessing
from pathlib import Path

import numpy as np
import torch

from dna_ray.config import Job
from dna_ray.data import load_pictures
from dna_ray.network.model import TrainedModel, build_model, load_model, trained
from dna_ray.retrain import PictureSet, Recipe, label_metrics, logits_of
from tests import plain
from tests.benchmarks.report import publish, table

WEIGHTS = (1.0, 0.5, 0.0)
SEEDS = (0, 1, 2)


def measure(task: tuple[str, float, int]) -> dict[str, float]:
    """Train the found network of a run folder with one weight of the labels and one seed."""
    folder, weight, seed = task
    plain.one_thread()
    job = Job(seed=seed)
    run = Path(folder)
    teacher = load_model(run / "teacher.safetensors")
    spec = load_model(run / "generation-1" / "model.safetensors").spec
    best = json.loads((run / "generation-1" / "tune.json").read_text())["trials"][0]
    windows = plain.make_windows(load_pictures("solar"), job, 64)
    pictures = windows.pictures["train"]
    data = PictureSet(pictures, windows.labels["train"], plain.soft(teacher, pictures))
    recipe = Recipe(
        passes=job.retrain.passes,
        batch=job.retrain.batch,
        shards=job.retrain.shards,
        learning_rate=best["learning_rate"],
        weight_decay=best["weight_decay"],
        label_weight=weight,
    )
    torch.manual_seed(seed)
    start: TrainedModel = trained(spec, build_model(spec))
    found = plain.train(start, data, recipe, (seed, "soft labels"))
    return label_metrics(logits_of(found.build(), windows.pictures["test"]), windows.labels["test"])


def main() -> None:
    """Measure all weights and seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="the folder of a finished run on solar")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    tasks = [(arguments.run, weight, seed) for weight in WEIGHTS for seed in SEEDS]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        results = pool.map(measure, tasks, chunksize=1)
    rows = []
    for index, weight in enumerate(WEIGHTS):
        part = results[index * len(SEEDS) : (index + 1) * len(SEEDS)]
        aurocs = [r["auroc"] for r in part]
        balanced = [r["balanced_accuracy"] for r in part]
        numbers = (f"{np.mean(aurocs):.3f}", f"{min(aurocs):.3f} to {max(aurocs):.3f}")
        rows.append([weight, *numbers, f"{np.mean(balanced):.3f}"])
    header = ["label weight", "AUROC, mean of 3 seeds", "range", "balanced accuracy"]
    publish("soft_labels", "Labels and soft labels", table(header, rows), write=arguments.write)


if __name__ == "__main__":
    main()
