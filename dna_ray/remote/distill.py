"""All cells of every block in one Ray Train run: a plan gives each rank its cells."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray import train
from ray.train.torch import TorchTrainer

from dna_ray.config import Distill
from dna_ray.distill import CellTrainer
from dna_ray.errors import noted
from dna_ray.remote.board import forwarding
from dna_ray.remote.session import Session
from dna_ray.remote.train import interruptible, run_config, save, scaling
from dna_ray.remote.windows import TaughtWindow
from dna_ray.space import Space
from dna_ray.space.costs import halved, path_costs, stem_costs
from dna_ray.teacher import Cut

Where = tuple[int, int]  # block and cell, both 0-based


def cell_work(space: Space, cut: Cut, resolution: int) -> dict[Where, float]:
    """Multiply-adds of one picture through an average path of every widened cell."""
    work = {}
    for b, block in enumerate(space.blocks):
        size = cut.sizes[b - 1] if b else halved(resolution, 2)
        width_in = cut.widths[b - 1] if b else space.trunk.stem_out
        for c, cell in enumerate(block.cells):
            macs = [
                path_costs(
                    (op,) * cell.layers,
                    width_in,
                    cell.width,
                    block.stride,
                    size,
                    space.trunk.se_ratio,
                    cut.widths[b],
                ).macs
                for op in block.ops
            ]
            stem = 0 if b else stem_costs(space.trunk, resolution).macs
            work[b, c] = stem + sum(macs) / len(macs)
    return work


def plan_ranks(work: dict[Where, float], ranks: int) -> list[list[Where]]:
    """Give each rank its cells: the longest first, always to the rank with the least to do."""
    plan: list[list[Where]] = [[] for _ in range(ranks)]
    load = [0.0] * ranks
    for where in sorted(work, key=lambda w: (-work[w], w)):
        rank = load.index(min(load))
        plan[rank].append(where)
        load[rank] += work[where]
    return plan


def distill(
    session: Session,
    space: Space,
    cut: Cut,
    pixels: tuple[tuple[float, ...], tuple[float, ...]],
    windows: Sequence[TaughtWindow],
    recipe: Distill,
    resolution: int,
    stream: tuple[int, int],
    storage: Path,
) -> tuple[dict[Where, dict[str, torch.Tensor]], list[dict[str, Any]]]:
    """Train every cell; the weights by (block, cell), and one row of losses per epoch and cell.

    `stream` = (seed, generation). Checkpoints of the run go below `storage`, from which a lost
    worker's group starts again.
    """
    work = cell_work(space, cut, resolution)
    ranks = min(session.workers, len(work))
    session.view.stage("distill", recipe.epochs * len(windows) * len(work), "windows")
    trainer = TorchTrainer(
        _train_cells,
        train_loop_config={
            "space": space,
            "cut": cut,
            "pixels": pixels,
            "recipe": recipe,
            "stream": stream,
            "plan": plan_ranks(work, ranks),
            "boundaries": [window.boundaries for window in windows],
            "board": session.board,
            "storage": storage.resolve(),
        },
        scaling_config=scaling(ranks),
        run_config=run_config(f"distill-generation-{stream[1]}", storage),
    )
    with forwarding(session.board, session.view):
        result = interruptible(trainer.fit)
    weights, rows = {}, []
    assert result.checkpoint is not None  # every run reports at least once
    with result.checkpoint.as_directory() as folder:
        for block, cell in work:
            state = _load(Path(folder), block, cell)
            weights[block, cell] = state["trainer"]["net"]
            rows += [
                {"stage": "distill", "block": block + 1, "cell": cell, "epoch": e, "loss": loss}
                for e, loss in enumerate(state["losses"], 1)
            ]
    return weights, rows


def _train_cells(config: dict[str, Any]) -> None:
    """The loop of one rank: epochs, windows, its cells; a checkpoint of them after each epoch."""
    torch.set_num_threads(1)
    recipe: Distill = config["recipe"]
    rank = train.get_context().get_world_rank()
    trainers = [
        CellTrainer(
            config["space"], config["cut"], config["pixels"], recipe, where, config["stream"]
        )
        for where in config["plan"][rank]
    ]
    losses: dict[Where, list[float]] = {trainer.where: [] for trainer in trainers}
    checkpoint = train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            for trainer in trainers:
                state = _load(Path(folder), *trainer.where)
                trainer.restore(state["trainer"])
                losses[trainer.where] = state["losses"]
    for _ in range(trainers[0].epoch, recipe.epochs):
        steps: dict[Where, list[float]] = {trainer.where: [] for trainer in trainers}
        for index, boundaries in enumerate(config["boundaries"]):
            for trainer in trainers:
                block, cell = trainer.where
                inputs, targets = ray.get([boundaries[block], boundaries[block + 1]])
                with noted(f"block {block + 1}, cell {cell}"):
                    steps[trainer.where] += trainer.train_window(index, inputs, targets)
                part = f"block {block + 1}, cell {cell}"
                done = trainer.epoch * len(config["boundaries"]) + index + 1
                config["board"].put.remote(
                    part, done, f"{part}: loss {steps[trainer.where][-1]:.4f}"
                )
        files = {}
        for trainer in trainers:
            trainer.end_epoch()
            losses[trainer.where].append(float(np.mean(steps[trainer.where])))
            files[_name(*trainer.where)] = {
                "trainer": trainer.state(),
                "losses": losses[trainer.where],
            }
        save(rank, files, config["storage"])


def _name(block: int, cell: int) -> str:
    return f"block-{block + 1}-cell-{cell}.pt"


def _load(folder: Path, block: int, cell: int) -> Any:
    return torch.load(folder / _name(block, cell), weights_only=True)
