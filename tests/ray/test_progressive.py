"""The progressive strategies on Ray: they find what plain Python finds, resumed or not."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest

from dna_ray.config import job_from_tree, job_to_toml, put, setting
from dna_ray.data import load_pictures
from dna_ray.generations import search
from dna_ray.planning.plan import Plan, make_plan
from dna_ray.remote.session import Session
from dna_ray.search import Selection
from dna_ray.space import load_space
from dna_ray.teacher import load_teacher
from tests import plain, tiny
from tests.ray.command import EnoughError, UpTo

SETTINGS = (
    "distill.strategy=progressive_b",
    "distill.beam=2",
    "distill.epochs=2",
    "distill.members=1",
    "tune.trials=1",
    "retrain.passes=1",
)
LAST = "generation-1/architecture.json"


def planned(task_files: Path, *settings: str) -> Plan:
    tree: dict[str, Any] = {"seed": 3, "data": str(task_files / "pictures")}
    tree |= {"space": str(task_files / "tiny.toml"), "adapt_teacher": False}
    for text in (*tiny.SETTINGS, *SETTINGS, *settings):
        put(tree, *setting(text))
    job = job_from_tree(tree)
    return make_plan(job, load_space(job.space), load_pictures(job.data), load_teacher("lite0"))


def run_folder(place: Path, plan: Plan) -> UpTo:
    return UpTo.create(place, job_to_toml(plan.job), plan.job.seed, tiny.SPACE)


def go_on(session: Session, run: UpTo, plan: Plan, last: str = LAST) -> None:
    """Search until a record is written."""
    run.last = last
    with pytest.raises(EnoughError):
        search(session, run, plan)


class Searched(NamedTuple):
    """A search by strategy B that ran to its end, and what it says."""

    run: Path
    plan: Plan
    results: list[dict[str, Any]]


@pytest.fixture(scope="module")
def searched(
    local: Session, task_files: Path, tmp_path_factory: pytest.TempPathFactory
) -> Searched:
    run, plan = tmp_path_factory.mktemp("progressive") / "run", planned(task_files)
    return Searched(run, plan, search(local, run_folder(run, plan), plan))


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


def test_a_search_finds_what_plain_python_finds(searched: Searched) -> None:
    run = searched.run
    check(run / "generation-1", searched.plan)
    (result,) = searched.results
    assert result["proven_optimal"] is False
    assert result["seconds"]["distill"] > 0
    rows = map(json.loads, (run / "generation-1/metrics.jsonl").read_text().splitlines())
    cells = {(r["block"], r["cell"], r["epoch"]) for r in rows if r["stage"] == "distill"}
    assert cells == {(b, c, e) for b in (1, 2) for c in (0, 1) for e in (1, 2)}
    assert result["architecture"] in (run / "report.html").read_text(encoding="utf-8")


def test_strategy_a_goes_on_behind_the_last_whole_block(
    local: Session, task_files: Path, tmp_path: Path
) -> None:
    """With one worker in the place of two."""
    plan, place = planned(task_files, "distill.strategy=progressive_a"), tmp_path / "run"
    go_on(local, run_folder(place, plan), plan, "generation-1/block-1-losses.parquet")
    written = {file: file.stat().st_mtime_ns for file in place.glob("*/block-1-*")}
    assert len(written) == 2
    go_on(replace(local, workers=1), UpTo.open(place), plan)
    check(place / "generation-1", plan)
    assert {file: file.stat().st_mtime_ns for file in place.glob("*/block-1-*")} == written


def test_strategy_b_rates_again_behind_the_weights_that_are_kept(
    searched: Searched, local: Session, tmp_path: Path
) -> None:
    whole, plan, place = searched.run, searched.plan, tmp_path / "run"
    shutil.copytree(whole, place)
    lost = ["generation-1/block-2-losses.parquet", LAST]
    for name in lost:
        (place / name).unlink()
    go_on(local, UpTo.open(place), plan)
    assert all((place / name).read_bytes() == (whole / name).read_bytes() for name in lost)
