"""What all Ray Train and Tune runs of a search have in common."""

import json
import platform
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from io import BytesIO
from typing import Any, TypeVar
from zipfile import BadZipFile, ZipFile

import torch
from ray import train
from ray.train import CheckpointConfig, FailureConfig, RunConfig

from dna_ray.errors import UserError, causes
from dna_ray.storage import Place, again

R = TypeVar("R")

# A worker can be lost to a node's death or to the kernel; its group starts again from the last
# checkpoint. More losses than this in one run mean that something is wrong with the run itself.
_MAX_FAILURES = 3


def run_config(name: str, storage: Place) -> RunConfig:
    """A named run that keeps its newest checkpoint below `storage` and goes on from a whole one."""
    _keep_if_whole(storage / name)
    return RunConfig(
        name=name,
        failure_config=FailureConfig(max_failures=_MAX_FAILURES),
        checkpoint_config=CheckpointConfig(num_to_keep=1),
        **at(storage),
    )


def at(storage: Place) -> dict[str, Any]:
    """The part of a RunConfig, of Train's or of Tune's, that says where a run's files go."""
    return {"storage_path": storage.path, "storage_filesystem": storage.filesystem}


def _keep_if_whole(run: Place) -> None:
    """Remove what a kill left of a run's checkpoints where Ray Train could not go on from it.

    It writes its list of checkpoints in pieces, and looks into none of the files that it lists.
    """
    snapshot = run / "checkpoint_manager_snapshot.json"
    if not snapshot.is_file():
        return
    try:
        newest = json.loads(snapshot.read())["latest_checkpoint_result"]["checkpoint_dir_name"]
        files = [run / newest / info.base_name for info in (run / newest).inside()]
        whole = bool(files) and all(_is_whole(file) for file in files)
    except (ValueError, LookupError, TypeError):
        whole = False
    if not whole:
        run.remove()


def _is_whole(file: Place) -> bool:
    """Whether what `torch.save` wrote is all there: it is an archive with checksums."""
    try:
        with ZipFile(BytesIO(file.read())) as archive:
            return archive.testzip() is None
    except BadZipFile:
        return False


def save(files: Mapping[str, Any], storage: Place) -> None:
    """End an epoch together: `files`, by name, become part of the run's newest checkpoint.

    A rank without files takes part all the same. Every file is written as a record of the run
    folder is: whole, and again where the store refuses it for the moment.
    """
    if not files:
        train.report({})
        return

    def put(_: train.Checkpoint, name: str) -> train.Checkpoint:
        if not storage.is_folder():
            raise UserError(
                f"every node must reach the run folder, but '{storage}' is not there on "
                f"{platform.node()}; give an --out that all share, such as s3://BUCKET/FOLDER"
            )
        folder = storage / train.get_context().get_experiment_name() / name
        for file, state in files.items():
            data = BytesIO()
            torch.save(state, data)
            (folder / file).write(data.getvalue())
        return train.Checkpoint(folder.path, folder.filesystem)

    # Ray hands `put` the checkpoint that it is to upload; what it uploads it has from here.
    given = train.Checkpoint(storage.path, storage.filesystem)
    train.report({}, checkpoint=given, checkpoint_upload_fn=put)


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


def persistent(fit: Callable[[], R], storage: Place) -> R:
    """Call `fit`, which makes a run and trains it, again where a store elsewhere has failed it.

    What ranks write is tried again where it is written. But where the store refuses Ray's own list
    of checkpoints, the run ends at once; another one goes on from the last that is listed.
    """

    def run() -> R:
        try:
            return fit()
        except Exception as error:
            for cause in causes(error):
                if isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError):
                    raise OSError(str(cause)) from error
            raise

    return again(storage, run)
