"""Checkpoints, on this machine and on a store: what a kill cut off is not gone on from."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ray import train
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from dna_ray.remote.ranks import _UNUSED, _Trainer
from dna_ray.remote.train import interruptible, persistent, run_config, save
from dna_ray.storage import Place
from tests.ray.command import SNAPSHOT
from tests.s3 import Store


@pytest.fixture(params=["disk", "S3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place.of(tmp_path if request.param == "disk" else request.getfixturevalue("s3"))


def cut(file: Place) -> None:
    data = file.read()
    file.write(data[: len(data) // 2])


def flip(file: Place) -> None:
    data = bytearray(file.read())
    data[len(data) // 2] ^= 1
    file.write(bytes(data))


DAMAGES: dict[str, tuple[Callable[[Place], object], bool]] = {
    "none": (lambda run: None, True),
    "list cut off": (lambda run: cut(run / SNAPSHOT), False),
    "list empty": (lambda run: (run / SNAPSHOT).write(b""), False),
    "list without a checkpoint": (
        lambda run: (run / SNAPSHOT).write(b'{"latest_checkpoint_result": null}'),
        False,
    ),
    "file cut off": (lambda run: cut(run / "checkpoint_1" / "cell.pt"), False),
    "file changed": (lambda run: flip(run / "checkpoint_1" / "cell.pt"), False),
    "file empty": (lambda run: (run / "checkpoint_1" / "cell.pt").write(b""), False),
    "file missing": (lambda run: (run / "checkpoint_1" / "cell.pt").remove(), False),
    "another on its way": (lambda run: (run / "checkpoint_2").make_folder(), True),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_only_a_whole_checkpoint_is_gone_on_from(
    damage: str, storage: Place, tmp_path: Path
) -> None:
    run = storage / "train"
    torch.save({"weights": torch.zeros(1000)}, tmp_path / "cell.pt")
    (run / "checkpoint_1" / "cell.pt").write((tmp_path / "cell.pt").read_bytes())
    newest = {"checkpoint_dir_name": "checkpoint_1"}
    (run / SNAPSHOT).write(json.dumps({"latest_checkpoint_result": newest}).encode())
    spoil, whole = DAMAGES[damage]
    spoil(run)
    run_config("train", storage)
    assert run.is_folder() == whole


def test_a_run_without_a_checkpoint_is_left_to_ray(storage: Place) -> None:
    (storage / "train" / "checkpoint_1").make_folder()
    run_config("train", storage)
    run_config("another", storage)
    assert (storage / "train" / "checkpoint_1").is_folder()


def test_a_store_that_cannot_be_read_costs_no_checkpoint(
    s3: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dna_ray.storage._PAUSES", ())
    snapshot = Place.of(s3) / "train" / SNAPSHOT
    snapshot.write(b"{")
    with store.refusing(1), pytest.raises(OSError, match="ACCESS_DENIED"):
        run_config("train", Place.of(s3))
    assert snapshot.is_file()


@pytest.mark.parametrize("losses", range(5))
def test_a_run_that_a_store_ends_is_begun_again_some_times(
    s3: str, monkeypatch: pytest.MonkeyPatch, losses: int
) -> None:
    """As where it refuses Ray's own list of checkpoints, which Ray writes once."""
    left, waited = [train.ControllerError(OSError("lost"))] * losses, list[float]()
    monkeypatch.setattr("time.sleep", waited.append)

    def fit() -> str:
        if left:
            raise left.pop()
        return "done"

    if losses < 4:
        assert persistent(fit, Place.of(s3)) == "done"
        assert waited == [1, 3, 9][:losses]
    else:
        with pytest.raises(OSError, match="lost"):
            persistent(fit, Place.of(s3))
        assert left == []


@pytest.mark.parametrize("error", [ValueError("nan"), FileNotFoundError("a picture")], ids=repr)
def test_what_no_store_has_done_ends_a_run_at_once(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("it was tried again"))

    def fit() -> None:
        raise train.WorkerGroupError("rank 0", {0: error})

    with pytest.raises(train.WorkerGroupError):
        persistent(fit, Place.of(s3))
    error = OSError("the disk is full")
    with pytest.raises(OSError, match="the disk is full"):
        persistent(fit, Place.of(tmp_path))


def _listed(snapshot: Place, checkpoints: int) -> bool:
    """Whether Ray Train has written down that many checkpoints: until then a loss costs them."""
    data = snapshot.read() if snapshot.is_file() else b"{}"
    return bool(json.loads(data).get("current_report_index", 0) >= checkpoints)


def _count(config: dict[str, Any]) -> None:
    """Note three times which start of this loop it is, each time with a checkpoint of every rank.

    The second time the store does not know anybody for two seconds. Before the third time rank 1
    is killed, but for the last start.
    """
    rank, made = train.get_context().get_world_rank(), list[int]()
    checkpoint = train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            made = torch.load(Path(folder) / f"rank-{rank}.pt", weights_only=True)
    while len(made) < 3:
        while made and not _listed(config["snapshot"], len(made)):
            time.sleep(0.1)
        if len(made) == 1 and rank == 0:
            config["store"].refuse(0)
            threading.Timer(2, config["store"].refuse, [float("inf")]).start()
        if len(made) == 2 and rank == 1 and not config["last"]:
            os.kill(os.getpid(), signal.SIGKILL)
        made.append(1 + config["last"])
        save({f"rank-{rank}.pt": made}, config["storage"])


@pytest.mark.usefixtures("local")
def test_a_run_on_a_store_outlives_a_loss_of_credentials_and_is_gone_on_from(
    s3: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dna_ray.remote.train._MAX_FAILURES", 0)
    storage = Place.of(s3)

    def count(last: bool) -> train.Result:
        trainer = TorchTrainer(
            _count,
            train_loop_config={
                "storage": storage,
                "snapshot": storage / "count" / SNAPSHOT,
                "store": store,
                "last": last,
            },
            scaling_config=ScalingConfig(num_workers=2),
            run_config=run_config("count", storage),
        )
        return interruptible(trainer.fit)

    with pytest.raises(train.TrainingFailedError):
        count(last=False)
    checkpoint = count(last=True).checkpoint
    assert checkpoint is not None
    assert checkpoint.filesystem == storage.filesystem
    with checkpoint.as_directory() as folder:
        files = sorted(Path(folder).iterdir())
        assert [file.name for file in files] == ["rank-0.pt", "rank-1.pt"]
        for file in files:
            assert torch.load(file, weights_only=True) == [1, 1, 2]


def test_a_run_has_no_processes_that_are_of_no_use(tmp_path: Path) -> None:
    """Where Ray comes to call them otherwise, it is told here: runs would only be slower."""
    trainer = _Trainer(
        lambda: None,
        scaling_config=ScalingConfig(num_workers=1),
        run_config=RunConfig(storage_path=str(tmp_path)),
    )
    of_ray = TorchTrainer._create_default_callbacks(trainer)  # type: ignore[attr-defined]
    ours = trainer._create_default_callbacks()
    kinds, left = ({type(callback).__name__ for callback in each} for each in (of_ray, ours))
    assert kinds - left == _UNUSED
