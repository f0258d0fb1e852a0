"""Checkpoints that a kill cut off are not gone on from."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dna_ray.remote.train import run_config
from tests.ray.command import SNAPSHOT


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, tuple[Callable[[Path], object], bool]] = {
    "none": (lambda run: None, True),
    "list cut off": (lambda run: cut(run / SNAPSHOT), False),
    "list empty": (lambda run: (run / SNAPSHOT).write_text(""), False),
    "list without a checkpoint": (
        lambda run: (run / SNAPSHOT).write_text('{"latest_checkpoint_result": null}'),
        False,
    ),
    "file cut off": (lambda run: cut(run / "checkpoint_1" / "cell.pt"), False),
    "file changed": (lambda run: flip(run / "checkpoint_1" / "cell.pt"), False),
    "file empty": (lambda run: (run / "checkpoint_1" / "cell.pt").write_bytes(b""), False),
    "file missing": (lambda run: (run / "checkpoint_1" / "cell.pt").unlink(), False),
    "another on its way": (lambda run: (run / "checkpoint_2").mkdir(), True),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_only_a_whole_checkpoint_is_gone_on_from(damage: str, tmp_path: Path) -> None:
    run = tmp_path / "train"
    (run / "checkpoint_1").mkdir(parents=True)
    torch.save({"weights": torch.zeros(1000)}, run / "checkpoint_1" / "cell.pt")
    newest = {"checkpoint_dir_name": "checkpoint_1"}
    (run / SNAPSHOT).write_text(json.dumps({"latest_checkpoint_result": newest}))
    spoil, whole = DAMAGES[damage]
    spoil(run)
    run_config("train", tmp_path)
    assert run.exists() == whole


def test_a_run_without_a_checkpoint_is_left_to_ray(tmp_path: Path) -> None:
    (tmp_path / "train" / "checkpoint_1").mkdir(parents=True)
    run_config("train", tmp_path)
    run_config("another", tmp_path)
    assert (tmp_path / "train" / "checkpoint_1").exists()
