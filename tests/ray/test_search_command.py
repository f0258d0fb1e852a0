"""The main job whole and small, through a real Ray cluster, from the command line.

It is interrupted once, goes on to its end, and is resumed from all moments in between.
"""

import json
import shutil
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tomli_w
import torch
from click.testing import CliRunner
from safetensors.numpy import load_file

from dna_ray.errors import UserError
from dna_ray.generations import search
from dna_ray.network.model import load_model
from dna_ray.planning.plan import Plan
from dna_ray.progress import Silent
from dna_ray.remote.session import Session
from dna_ray.retrain import PictureSet
from dna_ray.rundir import RunFolder
from dna_ray.search import read_ratings, select
from dna_ray.space import Architecture, load_space, network_costs, network_spec, scale
from dna_ray.space.costs import cost_table
from dna_ray.teacher import cut_teacher
from dna_ray_cli.search import command
from tests import plain
from tests.ray.command import MOMENTS, SNAPSHOT, EnoughError, Finished, UpTo

_FEATURES = ["pictures", "features"]

# By moment: the stages that are still to do, in the view's words, up to the record named; without
# one, those up to the first that an undisturbed search has not done twice.
TO_DO: dict[str, tuple[list[str], str | None]] = {
    "a pass of the adaptation": (["pictures", "adapt"], "teacher.safetensors"),
    "the adapted teacher": (_FEATURES, None),
    "an epoch": ([*_FEATURES, "distill"], "generation-1/cells.safetensors"),
    "all cells": ([*_FEATURES, "rate"], "generation-1/ratings.parquet"),
    "trials": (["pictures", "soft labels", "soft labels", "tune"], "generation-1/tune.json"),
    "a pass": (["pictures", "soft labels", "retrain"], "generation-1/scaled.safetensors"),
    "all is trained": (["pictures", "test"], "generation-1/result.json"),
    "a generation": (_FEATURES, None),
}


# Moments with a checkpoint to go on from.
CHECKPOINTS = {m: Path(file) for m, file in MOMENTS.items() if file.endswith(SNAPSHOT)}


def test_json_follows_the_contract(finished: Finished) -> None:
    assert [g["generation"] for g in finished.tree["generations"]] == [1, 2]
    for result in finished.tree["generations"]:
        assert result["proven_optimal"] is True
        assert {"teacher", "architecture", "loss", "costs", "limits", "metrics"} <= set(result)
        stages = {"features", "distill", "rate", "search", "tune", "retrain"}
        assert all(result["seconds"][stage] > 0 for stage in stages)
        for role in ("teacher", "found"):
            assert 0 <= result["metrics"][role]["auroc"] <= 1
            assert 0 <= result["metrics"][role]["balanced_accuracy"] <= 1


def test_teacher_and_cells_are_those_of_plain_python(finished: Finished, plan: Plan) -> None:
    """Trained by Ray on two ranks, and the teacher over an interruption."""
    job, windows = plan.job, plain.make_windows(plan.pictures, plan.job, plan.resolution)
    pictures = PictureSet(windows.pictures["train"], windows.labels["train"], None)
    teacher = plain.adapt(job, pictures, plan.classes)
    made = load_model(finished.run / "teacher.safetensors").state
    assert {name: torch.equal(made[name], value) for name, value in teacher.state.items()} == (
        dict.fromkeys(made, True)
    )

    cut = cut_teacher(teacher, plan.space.reductions, plan.resolution)
    taught, _ = plain.teach_cells(teacher, cut, windows, job)
    cells = load_file(finished.folder(1) / "cells.safetensors")
    for block, cell in plain.cells(plan.space):
        weights = plain.weights(plan.space, cut, plan.pixels, taught, job, (block, cell))
        assert sum(name.startswith("member-1/") for name in weights) == len(weights) / 2
        for name, value in weights.items():
            assert np.array_equal(cells[f"block-{block + 1}-cell-{cell}/{name}"], value.numpy())


def test_ratings_cover_every_path_once(finished: Finished, task_files: Path) -> None:
    space = load_space(str(task_files / "tiny.toml"))
    for generation in (1, 2):
        ratings = read_ratings(finished.folder(generation) / "ratings.parquet")
        for block, paths in zip(space.blocks, ratings.blocks, strict=True):
            rows = list(zip(paths.cell.tolist(), paths.ops, strict=True))
            assert len(set(rows)) == len(rows) == sum(block.count(c) for c in range(2))
            assert np.isfinite(paths.loss).all()
            assert (paths.loss > 0).all()


def test_the_architecture_is_the_best_within_the_limit(
    finished: Finished, task_files: Path
) -> None:
    space = load_space(str(task_files / "tiny.toml"))
    for result in finished.tree["generations"]:
        path = finished.folder(result["generation"])
        ratings = read_ratings(path / "ratings.parquet")
        best = select(ratings, result["limits"])
        assert str(best.architecture) == result["architecture"]
        assert best.found.loss == result["loss"]
        spec = network_spec(space, best.architecture, classes=2)
        costs = network_costs(spec, space.resolution).total
        assert result["costs"] == {"params": costs.params, "macs": costs.macs}
        assert result["costs"]["macs"] <= result["limits"]["macs"]
        tree = json.loads((path / "architecture.json").read_text())
        assert str(Architecture.from_json(tree, "record")) == result["architecture"]


def test_networks_have_the_size_of_their_architecture(finished: Finished, task_files: Path) -> None:
    space = load_space(str(task_files / "tiny.toml"))
    first, last = finished.tree["generations"]
    spec = network_spec(space, Architecture.parse(first["architecture"]), classes=2)
    for record, expected in (("model", spec), ("scaled", scale(spec, 1))):
        state = load_file(finished.folder(1) / f"{record}.safetensors")
        weights = sum(v.size for k, v in state.items() if "running" not in k and "num_b" not in k)
        assert weights == network_costs(expected, 32).total.params
    assert last["metrics"]["teacher"] == first["metrics"]["next_teacher"]
    assert not (finished.folder(2) / "scaled.safetensors").exists()


def test_a_report_shows_both_generations(finished: Finished) -> None:
    page = (finished.run / "report.html").read_text(encoding="utf-8")
    for result in finished.tree["generations"]:
        assert result["architecture"] in page
        assert f"{result['metrics']['found']['params']:,}" in page


def test_the_default_limit_is_half_way(finished: Finished, task_files: Path) -> None:
    space = load_space(str(task_files / "tiny.toml"))
    table = cost_table(space, space.resolution, classes=2)
    totals = []
    for cells in product(range(2), repeat=2):
        width = [space.blocks[b].cells[c].width for b, c in enumerate(cells)]
        inputs = [0, space.input_widths(1).index(width[0])]
        lasts = [cell.width for cell in space.blocks[1].cells]
        for rows in product(
            *(
                table.paths[b][c][w][:, 1]
                for b, (c, w) in enumerate(zip(cells, inputs, strict=True))
            )
        ):
            totals.append(sum(rows) + table.fixed[lasts.index(width[1])][1])
    expected = (min(totals) + max(totals)) // 2
    assert finished.tree["generations"][0]["limits"] == {"macs": float(expected)}


def test_metrics_hold_a_loss_for_every_cell_and_epoch(finished: Finished) -> None:
    rows = [
        json.loads(line) for line in (finished.folder(1) / "metrics.jsonl").read_text().splitlines()
    ]
    cells = {(r["block"], r["cell"], r["epoch"]) for r in rows if r["stage"] == "distill"}
    assert cells == {(b, c, e) for b in (1, 2) for c in (0, 1) for e in range(1, 5)}
    networks = {r["network"] for r in rows if r["stage"] == "train"}
    assert networks == {"teacher", "found", "scaled"}


@pytest.fixture
def copy(finished: Finished, tmp_path: Path) -> Path:
    """A finished run of its own pictures, to spoil."""
    source = finished.run
    job = tomllib.loads((source / "config.toml").read_text())
    shutil.copytree(job["data"], tmp_path / "pictures")
    job["data"] = str(tmp_path / "pictures")
    inputs = json.loads((source / "manifest.json").read_text())["inputs"]
    space = (source / "space.toml").read_text()
    run = RunFolder.create(tmp_path / "run", tomli_w.dumps(job), 3, space, inputs)
    return Path(run.place.path)


def refusal(*arguments: str | Path) -> str:
    """What the command says when it refuses to start, in this process."""
    result = CliRunner().invoke(command, list(map(str, arguments)))
    assert isinstance(result.exception, UserError), result.output
    return str(result.exception)


def test_a_changed_setting_is_refused_by_its_key(copy: Path) -> None:
    said = refusal(
        "--resume", copy, "--set", "rate.images=9", "--set", "distill.batch=12", "--seed", "4"
    )
    assert "but rate.images, seed would differ" in said or "but seed, rate.images would" in said


def test_changed_pictures_are_noticed(copy: Path) -> None:
    picture = copy.parent / "pictures" / "lying" / "3.png"
    data = bytearray(picture.read_bytes())
    data[-1] ^= 1
    picture.write_bytes(data)
    assert "the data changed since" in refusal("--resume", copy)


def test_a_second_search_on_a_folder_is_refused(copy: Path) -> None:
    with RunFolder.open(copy).locked():
        assert "another is at work on" in refusal("--resume", copy)


# Killed and resumed. A kill leaves the run folder as it is at that moment: so copies of it, taken
# while all processes of an undisturbed search stood still, are what kills would have left.


class Heard(Silent):
    """A view that remembers the stages and stops the search after the last of them."""

    def __init__(self, stages: list[str], to_the_end: bool) -> None:
        self.stages: list[str] = []
        self._expected, self._to_the_end = stages, to_the_end

    def stage(self, title: str, total: int, unit: str) -> None:
        self.stages.append(title)
        if not self._to_the_end and self.stages == self._expected:
            raise EnoughError


def resume(
    session: Session, plan: Plan, folder: Path, stages: list[str], record: str | None, workers: int
) -> list[str]:
    """Go on with a copy of a run folder until that record is made or those stages are reached."""
    run = UpTo.open(folder)
    run.last = record
    heard = Heard(stages, record is not None)
    with pytest.raises(EnoughError):
        search(replace(session, workers=workers, view=heard), run, plan)
    return heard.stages


def records(folder: Path) -> dict[str, Any]:
    """The content of every record that two runs must have in common."""
    found: dict[str, Any] = {}
    files = json.loads((folder / "manifest.json").read_text())["files"]
    for name in filter(lambda name: (folder / name).exists(), files):
        data = (folder / name).read_bytes()
        found[name] = data
        if name.endswith("result.json"):
            found[name] = {k: v for k, v in json.loads(data).items() if k != "seconds"}
    return found


def check(
    session: Session,
    plan: Plan,
    finished: Finished,
    folder: Path,
    stages: list[str],
    record: str | None,
    again: str | None = None,
    workers: int = 1,
) -> None:
    """Resume, with another number of workers: nothing is done twice, all records are the same.

    `again` is the record that is made again, because another one of its stage is not there.
    """
    there = RunFolder.open(folder)
    names = [name for name in records(folder) if there.has(name) and name != again]
    written = {name: (folder / name).stat().st_mtime_ns for name in names}
    assert resume(session, plan, folder, stages, record, workers) == stages
    whole, made = records(finished.run), records(folder)
    assert record is None or record in made
    assert {name: made[name] == whole[name] for name in made} == dict.fromkeys(made, True)
    assert {name: (folder / name).stat().st_mtime_ns for name in written} == written


def measured(folder: Path) -> list[dict[str, Any]]:
    """The metrics that two runs must have in common: all but the seconds."""
    return [
        {k: v for k, v in row.items() if k != "seconds"}
        for row in RunFolder.open(folder).measured(1)
    ]


@contextmanager
def a_rank_killed() -> Iterator[None]:
    """Kill the first worker of Ray Train that this process starts while the body runs."""
    killed: list[int] = []

    def kill() -> None:
        deadline = time.monotonic() + 120
        while not killed and time.monotonic() < deadline:
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    if "RayTrainWorker" in "".join(process.cmdline()):
                        process.kill()
                        killed.append(process.pid)
                        break
            time.sleep(0.1)

    thread = threading.Thread(target=kill)
    thread.start()
    yield
    thread.join()
    assert killed


def copied(finished: Finished, moment: str, folder: Path) -> Path:
    shutil.copytree(finished.moments[moment], folder)
    return folder


@pytest.mark.parametrize("moment", [m for m in TO_DO if m not in CHECKPOINTS])
def test_killed_and_resumed(
    local: Session, finished: Finished, plan: Plan, moment: str, tmp_path: Path
) -> None:
    folder = copied(finished, moment, tmp_path / "run")
    check(local, plan, finished, folder, *TO_DO[moment])
    whole = measured(finished.run)
    assert [row for row in measured(folder) if row not in whole] == []


@pytest.mark.parametrize("moment", CHECKPOINTS)
def test_killed_after_a_checkpoint_and_resumed(
    local: Session, finished: Finished, plan: Plan, moment: str, tmp_path: Path
) -> None:
    """What the checkpoint says of the past, be it wrong, is what the metrics say in the end.

    Of two ranks that distil one is killed again.
    """
    folder = copied(finished, moment, tmp_path / "run")
    snapshot = folder / CHECKPOINTS[moment]
    newest = json.loads(snapshot.read_text())["latest_checkpoint_result"]["checkpoint_dir_name"]
    (file, *_) = sorted((snapshot.parent / newest).iterdir())
    state = torch.load(file, weights_only=True)
    if "losses" in state:
        state["losses"][0] = 123.0
    else:
        state["rows"][0]["loss"] = 123.0
    torch.save(state, file)
    again = moment == "an epoch"
    with a_rank_killed() if again else nullcontext():
        check(local, plan, finished, folder, *TO_DO[moment], workers=1 + again)
    assert sum(row.get("loss") == 123.0 for row in RunFolder.open(folder).measured(1)) == 1


def test_killed_between_two_records_of_a_stage(
    local: Session, finished: Finished, plan: Plan, tmp_path: Path
) -> None:
    folder = copied(finished, "the architecture", tmp_path / "run")
    kept, lost = "generation-1/front.parquet", "generation-1/architecture.json"
    (folder / lost).unlink()
    check(local, plan, finished, folder, ["search"], lost, again=kept)
