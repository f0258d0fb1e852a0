"""What all Ray Train runs of a search have in common."""

from pathlib import Path

from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig

# A worker can be lost to a node's death or to the kernel; its group starts again from the last
# checkpoint. More losses than this in one run mean that something is wrong with the run itself.
_MAX_FAILURES = 3


def run_config(name: str, storage: Path) -> RunConfig:
    """A named run whose newest checkpoint is kept below `storage`."""
    return RunConfig(
        name=name,
        storage_path=str(storage.resolve()),
        failure_config=FailureConfig(max_failures=_MAX_FAILURES),
        checkpoint_config=CheckpointConfig(num_to_keep=1),
    )


def scaling(workers: int) -> ScalingConfig:
    """One processor for each worker."""
    return ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 1})
