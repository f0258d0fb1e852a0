"""Whole networks in one Ray Train run: the shards of every minibatch over the ranks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray import train
from torch import Tensor, distributed

from dna_ray.errors import noted
from dna_ray.network.model import TrainedModel, trained
from dna_ray.planning.placement import Share
from dna_ray.remote.board import forwarding
from dna_ray.remote.metrics import observe
from dna_ray.remote.ranks import exchange, fit
from dna_ray.remote.session import Session
from dna_ray.remote.tasks import device
from dna_ray.remote.train import save
from dna_ray.remote.windows import Reader, Series, Window
from dna_ray.retrain import PictureSet, Recipe, Trainer, minibatches, portions_of, soft_labels
from dna_ray.shards import alone, own_shards
from dna_ray.storage import Place

_CHECKPOINT = "network.pt"


def fetch(windows: Sequence[Window]) -> PictureSet:
    """All of some windows from the object store, as views of it."""
    labels = soft = None
    if windows[0].labels is not None:
        labels = np.concatenate([w.labels for w in windows if w.labels is not None])
    if windows[0].logits is not None:
        soft = soft_labels(np.concatenate(ray.get([w.logits for w in windows])))
    return PictureSet(ray.get([w.pictures for w in windows]), labels, soft)


class WindowPortions:
    """A pass over a series of windows of given `sizes`, `shuffle` pictures or so at a time."""

    def __init__(
        self, windows: Reader[Window], sizes: Sequence[int], shuffle: int, turns: int = 0
    ) -> None:
        """`turns` passes over the series lie behind."""
        self._windows, self._count, self._turns = windows, len(sizes), turns
        self._parts = portions_of(sizes, shuffle)
        self.portions = [sum(sizes[i] for i in part) for part in self._parts]

    def portion(self, turn: int, number: int) -> PictureSet:
        """One portion, fetched."""
        start = (self._turns + turn) * self._count
        return fetch([self._windows[start + index] for index in self._parts[number]])


@dataclass(frozen=True)
class Task:
    """A network to train: where it starts, how, and the name of its random streams."""

    name: str
    model: TrainedModel
    recipe: Recipe
    stream: tuple[str | int, ...]


def steps(task: Task, portions: Sequence[int]) -> int:
    """The minibatches of all passes of a task."""
    return task.recipe.passes * minibatches(portions, task.recipe)[1]


def ranks_for(recipe: Recipe, workers: int) -> int:
    """How many of the workers can share the shards of a recipe evenly."""
    shards = recipe.shards
    return max(n for n in range(1, min(workers, shards) + 1) if shards % n == 0)


def retrain(
    session: Session,
    title: str,
    name: str,
    tasks: Sequence[Task],
    windows: Series[Window],
    sizes: Sequence[int],
    shuffle: int,
    share: Share,
    storage: Place,
) -> tuple[list[TrainedModel], list[dict[str, Any]]]:
    """Train networks one after another in one run called `name`; a row of loss for every pass.

    `title` is what the view calls the stage. Windows of `sizes` make a pass. `share.ranks` divides
    the shards of every task.
    """
    portions = [sum(sizes[i] for i in part) for part in portions_of(sizes, shuffle)]
    session.view.stage(title, sum(steps(task, portions) for task in tasks), "minibatches")
    with forwarding(session.board, session.view):
        result = fit(
            _train_networks,
            {
                "tasks": [ray.put(task) for task in tasks],
                "windows": windows,
                "sizes": sizes,
                "shuffle": shuffle,
                "board": session.board,
                "storage": storage,
            },
            name,
            share,
            share.ranks,
            storage,
        )
    with result.as_directory() as folder:
        state = _load(Path(folder))
    models = [
        TrainedModel(task.model.spec, weights)
        for task, weights in zip(tasks, state["done"], strict=True)
    ]
    return models, state["rows"]


def _train_networks(config: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    tasks: list[Task] = ray.get(config["tasks"])
    context = train.get_context()
    rank, ranks = context.get_world_rank(), context.get_world_size()
    group = distributed.group.WORLD if ranks > 1 else None
    done: list[dict[str, Tensor]] = []
    rows: list[dict[str, Any]] = []
    started: dict[str, Any] | None = None
    checkpoint = train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            state = _load(Path(folder))
        done, rows, started = state["done"], state["rows"], state["trainer"]
    windows = config["windows"].reader(rank)
    for index, task in enumerate(tasks):
        turns = sum(before.recipe.passes for before in tasks[:index])
        data = WindowPortions(windows, config["sizes"], config["shuffle"], turns)
        if index < len(done):
            if rank == 0:
                config["board"].put.remote(task.name, steps(task, data.portions))
            continue
        module = task.model.build()
        trainer = Trainer(
            module,
            data,
            task.recipe,
            task.stream,
            own_shards(task.recipe.shards, ranks, rank),
            alone if group is None else exchange(group, ranks),
            device(),
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
                if task is tasks[-1]:
                    windows.close()
            # All ranks hold the same state, so the first one saves it.
            state = {"done": done, "rows": rows, "trainer": None if last else trainer.state()}
            save({_CHECKPOINT: state} if rank == 0 else {}, config["storage"])


def telling(board: Any, part: str, trainer: Trainer) -> Callable[[float], None]:
    """Who tells `board` of every minibatch of a trainer, which is one part of the stage."""

    def tell(loss: float) -> None:
        board.put.remote(part, trainer.steps_done, f"{part}: loss {loss:.4f}")
        observe(board, {"network_loss": loss, "network_steps": trainer.steps_done}, network=part)

    return tell


def _load(folder: Path) -> Any:
    return torch.load(folder / _CHECKPOINT, weights_only=True, map_location="cpu")
