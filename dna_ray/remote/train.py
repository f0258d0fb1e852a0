"""What all Ray Train and Tune runs of a search have in common."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig

R = TypeVar("R")

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
