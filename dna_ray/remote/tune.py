"""The sweep of the retraining's learning rate and weight decay with Ray Tune.

Trials are short and run to their end: a scheduler that stops trials by the clock, such as ASHA,
would let the timing of a machine decide which of them wins, and the same seed would no longer give
the same networks.
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray import tune

from dna_ray.config import Tune
from dna_ray.randomness import generator
from dna_ray.remote.board import forwarding
from dna_ray.remote.retrain import PictureRefs, Task, steps, telling
from dna_ray.remote.session import Session
from dna_ray.remote.train import interruptible
from dna_ray.retrain import Trainer, alone, logits_of


def sweep(
    session: Session,
    name: str,
    task: Task,
    data: PictureRefs,
    held_out: PictureRefs,
    config: Tune,
    storage: Path,
) -> list[dict[str, float]]:
    """All trials, best first: `learning_rate`, `weight_decay` and the loss on held-out pictures.

    Every trial trains the task's network by its recipe, but for these two values. The task's
    stream keys the values that are tried and the trials themselves.
    """
    session.view.stage("tune", config.trials * steps(task, data.size), "minibatches")
    trainable = tune.with_resources(
        tune.with_parameters(_trial, task=task, data=data, held_out=held_out, board=session.board),
        {"CPU": 1},
    )
    tuner = tune.Tuner(
        trainable,
        param_space={"point": tune.grid_search(_points(config, task.stream))},
        tune_config=tune.TuneConfig(
            metric="loss", mode="min", max_concurrent_trials=session.workers, reuse_actors=True
        ),
        run_config=tune.RunConfig(name=name, storage_path=str(storage.resolve()), verbose=0),
    )
    with forwarding(session.board, session.view):
        results = interruptible(tuner.fit)
    for error in results.errors:
        raise error
    trials = []
    for index in range(len(results)):
        trial = results[index]
        assert trial.config is not None
        assert trial.metrics is not None
        trials.append({**trial.config["point"], "loss": trial.metrics["loss"]})
    # A trial that diverged has no loss to compare: it comes last, and of equals the gentler first.
    return sorted(
        trials, key=lambda t: (not math.isfinite(t["loss"]), t["loss"], t["learning_rate"])
    )


def _points(config: Tune, stream: tuple[str | int, ...]) -> list[dict[str, float]]:
    """Log-uniform points, stratified in the learning rate (a Latin hypercube in both)."""
    seed, *names = stream
    rng = generator(int(seed), *names)
    axes = []
    for low, high in (config.learning_rate, config.weight_decay):
        places = (rng.permutation(config.trials) + rng.random(config.trials)) / config.trials
        axes.append(low * (high / low) ** places)
    return [
        {"learning_rate": float(rate), "weight_decay": float(decay)}
        for rate, decay in zip(*axes, strict=True)
    ]


def _trial(
    config: dict[str, Any], task: Task, data: PictureRefs, held_out: PictureRefs, board: Any
) -> None:
    torch.set_num_threads(1)
    point = config["point"]
    recipe = replace(task.recipe, **point)
    module = task.model.build()
    trainer = Trainer(module, data.fetch(), recipe, task.stream, range(recipe.shards), alone)
    tell = telling(board, f"learning rate {point['learning_rate']:.2g}", trainer)
    for _ in range(recipe.passes):
        trainer.train_pass(tell)
    pictures = held_out.fetch()
    logits = torch.from_numpy(logits_of(module, ray.get([w.pictures for w in held_out.windows])))
    loss = float(pictures.loss(logits, np.arange(len(pictures)), recipe.label_weight))
    tune.report({"loss": loss})
