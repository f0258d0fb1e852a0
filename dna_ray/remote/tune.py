"""The sweep of the retraining's learning rate and weight decay with Ray Tune.

Trials are short and run to their end: a scheduler that stops trials by the clock, such as ASHA,
would let the timing of a machine decide which of them wins, and the same seed would no longer give
the same networks.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import ray
import torch
from ray import tune

from dna_ray.config import Tune
from dna_ray.planning.placement import Share
from dna_ray.randomness import generator
from dna_ray.remote.board import forwarding
from dna_ray.remote.retrain import Task, fetch, steps, telling
from dna_ray.remote.session import Session
from dna_ray.remote.tasks import device
from dna_ray.remote.train import at, interruptible
from dna_ray.remote.windows import Window
from dna_ray.retrain import Trainer, logits_of
from dna_ray.shards import alone
from dna_ray.storage import Place


def sweep(
    session: Session,
    name: str,
    task: Task,
    windows: Sequence[Window],
    held_out: Sequence[Window],
    config: Tune,
    share: Share,
    storage: Place,
) -> list[dict[str, float]]:
    """All trials, best first: `learning_rate`, `weight_decay` and the loss on held-out pictures.

    Every trial trains the task's network by its recipe, but for these two values. The task's
    stream keys the values that are tried and the trials themselves.
    """
    pictures = sum(window.size for window in windows)
    session.view.stage("tune", config.trials * steps(task, [pictures]), "minibatches")
    reserved = {"CPU": share.rank_cpus}
    if share.rank_gpus:
        reserved["GPU"] = share.rank_gpus
    trainable = tune.with_resources(
        tune.with_parameters(
            retraining_trial, task=task, windows=windows, held_out=held_out, board=session.board
        ),
        reserved,
    )
    tuner = tune.Tuner(
        trainable,
        param_space={"trial": tune.grid_search(_trials(config, task.stream))},
        tune_config=tune.TuneConfig(
            metric="loss",
            mode="min",
            max_concurrent_trials=share.ranks,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(name=name, verbose=0, **at(storage)),
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
        trials.append({**trial.config["trial"]["point"], "loss": trial.metrics["loss"]})
    # A trial that diverged has no loss to compare: it comes last, and of equals the gentler first.
    return sorted(
        trials, key=lambda t: (not math.isfinite(t["loss"]), t["loss"], t["learning_rate"])
    )


def _trials(config: Tune, stream: tuple[str | int, ...]) -> list[dict[str, Any]]:
    """Log-uniform points, stratified in the learning rate (a Latin hypercube in both)."""
    seed, *names = stream
    rng = generator(int(seed), *names)
    axes = []
    for low, high in (config.learning_rate, config.weight_decay):
        places = (rng.permutation(config.trials) + rng.random(config.trials)) / config.trials
        axes.append(low * (high / low) ** places)
    return [
        {"number": n, "point": {"learning_rate": float(rate), "weight_decay": float(decay)}}
        for n, (rate, decay) in enumerate(zip(*axes, strict=True), 1)
    ]


def retraining_trial(
    config: dict[str, Any],
    task: Task,
    windows: Sequence[Window],
    held_out: Sequence[Window],
    board: Any,
) -> None:
    """Train the task's network by one recipe, and report its loss on held-out pictures."""
    torch.set_num_threads(1)
    trial = config["trial"]
    recipe = replace(task.recipe, **trial["point"])
    module = task.model.build()
    trainer = Trainer(
        module, fetch(windows), recipe, task.stream, range(recipe.shards), alone, device()
    )
    tell = telling(board, f"trial {trial['number']}", trainer)
    for _ in range(recipe.passes):
        trainer.train_pass(tell)
    pictures = fetch(held_out)
    logits = logits_of(module.cpu(), ray.get([w.pictures for w in held_out]))
    everything = np.arange(len(pictures))
    loss = float(pictures.loss(torch.from_numpy(logits), everything, recipe.label_weight))
    tune.report({"loss": loss})
