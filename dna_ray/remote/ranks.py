"""The ranks of a Ray Train run: how they are started, and how they talk to each other."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import ray
import torch
from ray import PlacementGroupID
from ray.exceptions import ActorDiedError
from ray.train import Checkpoint, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.placement_group import (
    PlacementGroup,
    placement_group_table,
    remove_placement_group,
)
from torch import Tensor, distributed

from dna_ray.planning.placement import Share
from dna_ray.remote.train import interruptible, persistent, run_config
from dna_ray.shards import Exchange
from dna_ray.storage import Place

# Ray Train starts lost ranks again, but nobody its controller, without which they end.
_CONTROLLERS = 3

# By these a run has two more processes: one for datasets of Ray Train, which no loop of ours reads,
# and one to do what `_release` does, for which every run waits half a second at its end.
_UNUSED = {"DatasetsCallback", "PlacementGroupCleanerCallback"}


class _Trainer(TorchTrainer):
    """A trainer without what is of no use here.

    The method is Ray's own: where another version has no such method, or other names, runs have
    these processes and are else the same.
    """

    def _create_default_callbacks(self) -> list[Any]:
        # For checkers of types Ray's trainer is still that of its first version.
        callbacks: list[Any] = super()._create_default_callbacks()  # type: ignore[misc]
        return [callback for callback in callbacks if type(callback).__name__ not in _UNUSED]


def fit(
    loop: Callable[[dict[str, Any]], None],
    config: dict[str, Any],
    name: str,
    share: Share,
    ranks: int,
    storage: Place,
) -> Checkpoint:
    """Run `loop` on `ranks` of a run called `name`; its last checkpoint. Every loop saves one.

    Where the run's controller dies, another one goes on from the checkpoint before.
    """
    reserved = {"CPU": share.rank_cpus}
    if share.rank_gpus:
        reserved["GPU"] = share.rank_gpus

    def run() -> Checkpoint:
        trainer = _Trainer(
            loop,
            train_loop_config=config,
            # NCCL wants a GPU for every rank alone; gloo works everywhere.
            torch_config=TorchConfig(backend="nccl" if share.rank_gpus == 1 else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=ranks, use_gpu=bool(share.rank_gpus), resources_per_worker=reserved
            ),
            run_config=run_config(name, storage),
        )
        checkpoint: Checkpoint | None = interruptible(trainer.fit).checkpoint
        assert checkpoint is not None
        return checkpoint

    for _ in range(_CONTROLLERS - 1):
        with suppress(ActorDiedError):
            return persistent(run, storage)
        _release()
    return persistent(run, storage)


def _release() -> None:
    """Give back what a dead controller had reserved for its ranks; Ray does not.

    The groups are those of this job, whose runs come one after another.
    """
    job = ray.get_runtime_context().get_job_id()
    for name, group in placement_group_table().items():
        if name.endswith(job) and group["state"] != "REMOVED":
            remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(name))))


def exchange(group: Any, ranks: int) -> Exchange:
    """How ranks that have neighbouring shards give each other theirs."""

    def gather(vectors: Tensor) -> Tensor:
        through = vectors if distributed.get_backend(group) == "nccl" else vectors.cpu()
        parts = [torch.empty_like(through) for _ in range(ranks)]
        distributed.all_gather(parts, through, group=group)
        return torch.cat(parts).to(vectors.device)

    return gather
