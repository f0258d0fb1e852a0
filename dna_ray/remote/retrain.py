"""Whole networks in one Ray Train run: the shards of every minibatch over the ranks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray import train
from ray.train.torch import TorchTrainer
from torch import Tensor, distributed

from dna_ray.errors import noted
from dna_ray.network.model import TrainedModel, trained
from dna_ray.remote.board import forwarding
from dna_ray.remote.session import Session
from dna_ray.remote.train import interruptible, run_config, save, scaling
from dna_ray.remote.windows import Window, first
from dna_ray.retrain import PictureSet, Recipe, Trainer, alone, minibatches, soft_labels

_CHECKPOINT = "network.pt"


@dataclass(frozen=True)
class PictureRefs:
    """Pictures to train or test on: windows with their labels, and a teacher's logits if any."""

    windows: tuple[Window, ...]
    logits: tuple[Any, ...] | None

    def fetch(self, use_labels: bool = True) -> PictureSet:
        """Everything from the object store, as views of it."""
        labels = None
        if use_labels and self.windows[0].labels is not None:
            labels = np.concatenate([w.labels for w in self.windows if w.labels is not None])
        soft = None
        if self.logits is not None:
            soft = soft_labels(np.concatenate(ray.get(list(self.logits))))
        return PictureSet(ray.get([w.pictures for w in self.windows]), labels, soft)

    @property
    def size(self) -> int:
        """How many pictures these are."""
        return sum(window.size for window in self.windows)

    def first(self, pictures: int) -> "PictureRefs":
        """The windows from the beginning that hold that many pictures."""
        windows = first(self.windows, pictures)
        return PictureRefs(windows, self.logits and self.logits[: len(windows)])


@dataclass(frozen=True)
class Task:
    """A network to train: where it starts, how, and the name of its random streams."""

    name: str
    model: TrainedModel
    recipe: Recipe
    stream: tuple[str | int, ...]


def retrain(
    session: Session,
    title: str,
    name: str,
    tasks: Sequence[Task],
    data: PictureRefs,
    storage: Path,
) -> tuple[list[TrainedModel], list[dict[str, Any]]]:
    """Train networks one after another in one run called `name`; a row of loss for every pass.

    `title` is what the view calls the stage.
    """
    shards = tasks[0].recipe.shards
    ranks = max(n for n in range(1, min(session.workers, shards) + 1) if shards % n == 0)
    session.view.stage(title, sum(steps(task, data.size) for task in tasks), "minibatches")
    trainer = TorchTrainer(
        _train_networks,
        train_loop_config={
            "tasks": [ray.put(task) for task in tasks],
            "data": data,
            "board": session.board,
            "storage": storage.resolve(),
        },
        scaling_config=scaling(ranks),
        run_config=run_config(name, storage),
    )
    with forwarding(session.board, session.view):
        result = interruptible(trainer.fit)
    assert result.checkpoint is not None  # every run reports at least once
    with result.checkpoint.as_directory() as folder:
        state = _load(Path(folder))
    models = [
        TrainedModel(task.model.spec, weights)
        for task, weights in zip(tasks, state["done"], strict=True)
    ]
    return models, state["rows"]


def _train_networks(config: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    data: PictureSet = config["data"].fetch()
    tasks: list[Task] = ray.get(config["tasks"])
    context = train.get_context()
    rank, ranks = context.get_world_rank(), context.get_world_size()
    done: list[dict[str, Tensor]] = []
    rows: list[dict[str, Any]] = []
    started: dict[str, Any] | None = None
    checkpoint = train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            state = _load(Path(folder))
        done, rows, started = state["done"], state["rows"], state["trainer"]
    if rank == 0:
        for task in tasks[: len(done)]:
            config["board"].put.remote(task.name, steps(task, len(data)))
    for task in tasks[len(done) :]:
        module = task.model.build()
        per_rank = task.recipe.shards // ranks
        own = range(rank * per_rank, (rank + 1) * per_rank)
        trainer = Trainer(
            module, data, task.recipe, task.stream, own, _gather if ranks > 1 else alone
        )
        if started is not None:
            trainer.restore(started)
            started = None
        tell = telling(config["board"], task.name, trainer) if rank == 0 else None
        for number in range(trainer.passes_done, task.recipe.passes):
            with noted(f"network {task.name}"):
                loss = trainer.train_pass(tell)
            rows.append({"stage": "train", "network": task.name, "pass": number + 1, "loss": loss})
            last = number + 1 == task.recipe.passes
            if last:
                done.append(trained(task.model.spec, module).state)
            # All ranks hold the same state, so the first one saves it.
            state = {"done": done, "rows": rows, "trainer": None if last else trainer.state()}
            save(rank, {_CHECKPOINT: state} if rank == 0 else {}, config["storage"])


def telling(board: Any, part: str, trainer: Trainer) -> Callable[[float], None]:
    """Who tells `board` of every minibatch of a trainer, which is one part of the stage."""

    def tell(loss: float) -> None:
        board.put.remote(part, trainer.steps_done, f"{part}: loss {loss:.4f}")

    return tell


def steps(task: Task, pictures: int) -> int:
    """The minibatches of all passes of a task."""
    return task.recipe.passes * minibatches(pictures, task.recipe)[1]


def _gather(vectors: Tensor) -> Tensor:
    """The shards of all ranks, in order: ranks hold neighbouring shards."""
    parts = [torch.empty_like(vectors) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, vectors)
    return torch.cat(parts)


def _load(folder: Path) -> Any:
    return torch.load(folder / _CHECKPOINT, weights_only=True)
