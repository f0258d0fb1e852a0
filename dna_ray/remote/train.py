"""What all Ray Train and Tune runs of a search have in common."""

import json
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar
from zipfile import BadZipFile, ZipFile

import torch
from ray import train
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig

R = TypeVar("R")

# A worker can be lost to a node's death or to the kernel; its group starts again from the last
# checkpoint. More losses than this in one run mean that something is wrong with the run itself.
_MAX_FAILURES = 3


def run_config(name: str, storage: Path) -> RunConfig:
    """A named run that keeps its newest checkpoint below `storage` and goes on from a whole one."""
    _keep_if_whole(storage / name)
    return RunConfig(
        name=name,
        storage_path=str(storage.resolve()),
        failure_config=FailureConfig(max_failures=_MAX_FAILURES),
        checkpoint_config=CheckpointConfig(num_to_keep=1),
    )


def _keep_if_whole(run: Path) -> None:
    """Remove what a kill left of a run's checkpoints where Ray Train could not go on from it.

    It writes neither its list of checkpoints nor their files in one piece.
    """
    snapshot = run / "checkpoint_manager_snapshot.json"
    if not snapshot.exists():
        return
    try:
        newest = json.loads(snapshot.read_text())["latest_checkpoint_result"]["checkpoint_dir_name"]
        files = list((run / newest).iterdir())
        whole = all(ZipFile(file).testzip() is None for file in files) and bool(files)
    except (OSError, ValueError, LookupError, TypeError, BadZipFile):
        whole = False
    if not whole:
        shutil.rmtree(run)


def scaling(workers: int) -> ScalingConfig:
    """One processor for each worker."""
    return ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 1})


def save(rank: int, files: Mapping[str, Any], storage: Path) -> None:
    """End an epoch together: `files`, by name, become part of the run's newest checkpoint.

    A rank without files takes part all the same. On their way the files lie below `storage`, if
    this node has it: what a kill leaves there goes with the run's other working files.
    """
    if not files:
        train.report({})
        return
    place = storage if storage.is_dir() else None
    with tempfile.TemporaryDirectory(prefix=f"rank-{rank}-", dir=place) as folder:
        for name, state in files.items():
            torch.save(state, Path(folder) / name)
        train.report({}, checkpoint=train.Checkpoint.from_directory(folder))


def interruptible(fit: Callable[[], R]) -> R:
    """Call the `fit` of a trainer or tuner so that Ctrl-C stops the search, as everywhere else.

    On the main thread both take SIGINT over: a trainer for good, with a handler that later ends the
    process with status 0; a tuner returns as if it had finished. On another thread they do not.
    """
    outcome: Future[R] = Future()

    def run() -> None:
        try:
            outcome.set_result(fit())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, name="fit", daemon=True).start()
    return outcome.result()
