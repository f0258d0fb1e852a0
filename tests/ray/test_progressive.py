"""The progressive strategies on Ray: they find what plain Python finds, resumed or not."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from dna_ray.config import job_from_tree, job_to_toml, parse_job
from dna_ray.data import load_pictures
from dna_ray.driver import Driver
from dna_ray.planning.plan import Plan, make_plan
from dna_ray.progression import ProgressiveGeneration
from dna_ray.remote.session import Session
from dna_ray.rundir import RunFolder
from dna_ray.search import Selection
from dna_ray.space import load_space
from dna_ray.teacher import load_teacher
from tests import plain, tiny
from tests.ray.command import answered

SETTINGS = (
    "distill.strategy=progressive_b",
    "distill.beam=2",
    "distill.epochs=2",
    "tune.trials=1",
    "retrain.passes=1",
)


@pytest.fixture(scope="module")
def searched(task_files: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the command says of a search by strategy B."""
    run = tmp_path_factory.mktemp("progressive") / "run"
    settings = [part for text in SETTINGS for part in ("--set", text)]
    words = [*tiny.words(task_files), *settings, "--no-adapt-teacher"]
    tree, _ = answered("search", "--out", run, *words)
    return tree


def planned(folder: Path) -> Plan:
    job = job_from_tree(parse_job((folder / "config.toml").read_text(), "config.toml"))
    return make_plan(job, load_space(job.space), load_pictures(job.data), load_teacher("lite0"))


def expected(plan: Plan) -> Selection:
    """The search in plain Python."""
    windows, job = plain.make_windows(plan.pictures, plan.job, plan.resolution), plan.job
    taught, held_out = plain.teach_cells(plan.teacher, plan.cut, windows, job)
    return plain.progressive(
        plan.space, plan.cut, plan.pixels, taught, held_out, job, plan.table, plan.limits
    )


def check(folder: Path, plan: Plan) -> None:
    """The records of a generation are those of plain Python, to the last bit."""
    best = expected(plan)
    tree = json.loads((folder / "architecture.json").read_text())
    assert tree == best.to_json("tiny")
    assert tree["proven_optimal"] is False
    assert pq.read_table(folder / "front.parquet").equals(best.front.to_arrow())
    ratings = pq.read_table(folder / "ratings.parquet")
    losses = [loss for block in best.ratings.blocks for loss in block.loss.tolist()]
    assert ratings["loss"].to_pylist() == losses
    method = ratings.schema.metadata[b"method"].decode()
    assert method == plan.job.distill.strategy


def test_the_command_finds_what_plain_python_finds(searched: dict[str, Any]) -> None:
    run = Path(searched["run"])
    check(run / "generation-1", planned(run))
    (result,) = searched["generations"]
    assert result["proven_optimal"] is False
    assert result["seconds"]["distill"] > 0
    rows = map(json.loads, (run / "generation-1/metrics.jsonl").read_text().splitlines())
    cells = {(r["block"], r["cell"], r["epoch"]) for r in rows if r["stage"] == "distill"}
    assert cells == {(b, c, e) for b in (1, 2) for c in (0, 1) for e in (1, 2)}
    assert result["architecture"] in (run / "report.html").read_text(encoding="utf-8")


class EnoughError(Exception):
    """The first block is rated."""


class UpTo(RunFolder):
    """A run folder that stops the search once the first block is rated."""

    def write(self, name: str, data: bytes) -> None:
        super().write(name, data)
        if name.endswith("block-1-losses.parquet"):
            raise EnoughError


def search(session: Session, run: RunFolder, plan: Plan) -> None:
    driver = Driver(session, run, plan)
    ProgressiveGeneration(driver, 1, plan.teacher, plan.cut).architecture()


def test_strategy_a_goes_on_behind_the_last_whole_block(
    searched: dict[str, Any], local: Session, tmp_path: Path
) -> None:
    """With one worker in the place of two."""
    plan, place = planned(Path(searched["run"])), tmp_path / "run"
    job = replace(plan.job, distill=replace(plan.job.distill, strategy="progressive_a"))
    plan = replace(plan, job=job)
    with pytest.raises(EnoughError):
        search(local, UpTo.create(place, job_to_toml(job), job.seed, tiny.SPACE), plan)
    written = {file: file.stat().st_mtime_ns for file in place.glob("*/block-1-*")}
    assert len(written) == 2
    search(replace(local, workers=1), RunFolder.open(place), plan)
    check(place / "generation-1", plan)
    assert {file: file.stat().st_mtime_ns for file in place.glob("*/block-1-*")} == written


def test_strategy_b_rates_again_behind_the_weights_that_are_kept(
    searched: dict[str, Any], local: Session, tmp_path: Path
) -> None:
    whole, place = Path(searched["run"]), tmp_path / "run"
    shutil.copytree(whole, place)
    lost = [f"generation-1/{name}" for name in ("block-2-losses.parquet", "architecture.json")]
    for name in lost:
        (place / name).unlink()
    search(local, RunFolder.open(place), planned(place))
    assert all((place / name).read_bytes() == (whole / name).read_bytes() for name in lost)
