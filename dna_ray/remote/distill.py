"""All cells of every block in one Ray Train run: a plan gives each rank its cells."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import ray
import torch
from ray import train
from torch import distributed

from dna_ray.config import Distill
from dna_ray.data.windows import ahead, staged
from dna_ray.distill import CellTrainer, member_stream
from dna_ray.errors import noted
from dna_ray.network.members import Weights, together
from dna_ray.planning.placement import RankPlan, Share
from dna_ray.remote.board import forwarding
from dna_ray.remote.metrics import observe
from dna_ray.remote.ranks import exchange, fit
from dna_ray.remote.session import Session
from dna_ray.remote.tasks import device
from dna_ray.remote.train import save
from dna_ray.remote.windows import Series, TaughtWindow
from dna_ray.shards import alone, own_shards
from dna_ray.space import Beginning, Space, Where, cell_name, cell_text
from dna_ray.storage import Place
from dna_ray.teacher import Cut

Boundary = np.ndarray | torch.Tensor


@dataclass(frozen=True)
class Distilled:
    """The weights of the cells, one row of losses per epoch and cell, and why cells stopped.

    Weights are those of all members of a cell `together`, losses the mean of theirs. A cell with a
    member that came to nothing has no weights; the others are as they would be without. `before`
    are those of the beginnings that a cell was trained with, where it was with any.
    """

    weights: dict[Where, Weights]
    before: dict[Where, Weights]
    rows: list[dict[str, Any]]
    stopped: dict[Where, str]


def distill(
    session: Session,
    space: Space,
    cut: Cut,
    pixels: tuple[tuple[float, ...], tuple[float, ...]],
    windows: Series[TaughtWindow],
    count: int,
    recipe: Distill,
    plan: RankPlan,
    share: Share,
    stream: tuple[int, int],
    storage: Place,
    beginnings: Sequence[Beginning] = ((),),
    *,
    longer: bool = False,
) -> Distilled:
    """Train every cell of the plan.

    `count` windows make an epoch. `stream` = (seed, generation). Checkpoints of the run go below
    `storage`, from which a lost worker's group starts again; so does a `longer` training from where
    this one ends, if there is to be one. With `beginnings` of any blocks, the plan's cells are
    those of the block behind them.
    """
    name = f"distill-generation-{stream[1]}"
    if recipe.progressive:
        name += f"-block-{len(beginnings[0]) + 1}"
    total = recipe.epochs * count * len(plan.ranks_of)
    session.view.stage("distill", total, "windows")
    with forwarding(session.board, session.view):
        result = fit(
            _train_cells,
            {
                "space": space,
                "cut": cut,
                "pixels": pixels,
                "recipe": recipe,
                "stream": stream,
                "plan": plan,
                "windows": windows,
                "count": count,
                "board": session.board,
                "storage": storage,
                "beginnings": beginnings,
                "longer": longer,
            },
            name,
            share,
            plan.ranks,
            storage,
        )
    made = Distilled({}, {}, [], {})
    with result.as_directory() as folder:
        for where in plan.ranks_of:
            state = _load(Path(folder), where)
            members = state["members"]
            stopped = [member["stopped"] for member in members if member["stopped"]]
            if stopped:
                made.stopped[where] = stopped[0]
            else:
                made.weights[where] = together([member["net"] for member in members])
                made.before[where] = members[0]["before"]
            block, cell = where
            made.rows.extend(
                {"stage": "distill", "block": block + 1, "cell": cell, "epoch": e, "loss": loss}
                for e, loss in enumerate(state["losses"], 1)
            )
    return made


def _train_cells(config: dict[str, Any]) -> None:
    """The loop of one rank: epochs, windows, its cells; a checkpoint of them after each epoch."""
    torch.set_num_threads(1)
    recipe: Distill = config["recipe"]
    plan: RankPlan = config["plan"]
    rank, count = train.get_context().get_world_rank(), config["count"]
    exchanges = {}
    for where, ranks in plan.ranks_of.items():  # every rank makes all groups, in the same order
        group = distributed.new_group(list(ranks)) if len(ranks) > 1 else None
        exchanges[where] = alone if group is None else exchange(group, len(ranks))
    ranks_of = plan.ranks_of
    cells = {
        where: [
            CellTrainer(
                config["space"],
                config["cut"],
                config["pixels"],
                recipe,
                where,
                member_stream(config["stream"], member),
                device(),
                own_shards(recipe.shards, len(ranks_of[where]), ranks_of[where].index(rank)),
                exchanges[where],
                beginnings=config["beginnings"],
            )
            for member in range(recipe.trainings)
        ]
        for where in plan.cells(rank)
    }
    leading = {where for where in cells if ranks_of[where][0] == rank}
    losses: dict[Where, list[float]] = {where: [] for where in cells}
    done = 0
    checkpoint = train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            for where, members in cells.items():
                state = _load(Path(folder), where)
                done = state["members"][0]["epoch"]
                if done == recipe.epochs:
                    return  # all ranks are done, and only the driver has yet to read it
                for member, own in zip(members, state["members"], strict=True):
                    member.restore(own)
                losses[where] = state["losses"]
    windows = config["windows"].reader(rank)
    blocks = sorted({block for block, _ in cells})

    def read(position: int) -> dict[int, list[Boundary]]:
        """What the cells of each block read of a window; each boundary once."""
        window = windows[position]
        around = {block: window.around(block) for block in blocks}
        refs = list(dict.fromkeys(chain.from_iterable(around.values())))
        there = (staged(boundary, device()) for boundary in ray.get(refs))
        boundaries = dict(zip(refs, there, strict=True))
        return {block: [boundaries[ref] for ref in refs] for block, refs in around.items()}

    for epoch in range(done, recipe.epochs):
        steps: dict[Where, list[float]] = {where: [] for where in cells}
        positions = range(epoch * count, (epoch + 1) * count)
        for index, around in enumerate(ahead(positions, read, device())):
            for where, members in cells.items():
                with noted(cell_text(where)):
                    each = [member.train_window(index, *around[where[0]]) for member in members]
                # As far as all have come, should one have stopped.
                steps[where] += map(fmean, zip(*each, strict=False))
                if where in leading:
                    _tell(config["board"], members, epoch * count + index + 1, steps[where])
        for where, members in cells.items():
            for member in members:
                member.end_epoch()
            if not any(member.stopped for member in members):
                losses[where].append(float(np.mean(steps[where])))
        last = epoch + 1 == recipe.epochs
        ended = last and not config["longer"]
        files = {
            _name(where): {
                "members": [member.state(ended=ended) for member in cells[where]],
                "losses": losses[where],
            }
            for where in leading
        }
        if last:
            windows.close()
        save(files, config["storage"])


def _tell(board: Any, members: Sequence[CellTrainer], done: int, steps: list[float]) -> None:
    """Let whoever watches know of a window that a cell has read, or passed over once it stopped."""
    where, part = members[0].where, cell_text(members[0].where)
    if any(member.stopped for member in members):
        board.put.remote(part, done, f"{part}: stopped")
        return
    board.put.remote(part, done, f"{part}: loss {steps[-1]:.4f}")
    values = {"cell_loss": steps[-1], "cell_steps": members[0].minibatches}
    observe(board, values, block=where[0] + 1, cell=where[1])


def _name(where: Where) -> str:
    return f"{cell_name(where)}.pt"


def _load(folder: Path, where: Where) -> Any:
    return torch.load(folder / _name(where), weights_only=True, map_location="cpu")
