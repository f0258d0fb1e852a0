"""`dna-ray verify` on a finished search: what it trains is what plain Python trains."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from dna_ray.network.model import load_model
from dna_ray.planning.plan import Plan
from dna_ray.ranking import read_trainings
from dna_ray.search import read_ratings
from dna_ray.space import Op
from dna_ray.teacher import cut_teacher
from tests import plain
from tests.ray.command import Finished, answered

ASKED = ("--generation", "1", "--blocks", "2", "--paths", "4")
TRAINED = 5  # four of the six paths are drawn, and one more aligns the second cell


def verify(run: Path, *words: str) -> tuple[dict[str, Any], str]:
    return answered("verify", run, *words)


@pytest.fixture(scope="module")
def verified(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished run, with paths trained alone."""
    run = tmp_path_factory.mktemp("verified") / "run"
    shutil.copytree(finished.run, run)
    verify(run, *ASKED, "--aligned", str(run.with_suffix(".parquet")))
    return run


def test_paths_alone_are_those_of_plain_python(verified: Path, plan: Plan) -> None:
    """On windows that are made again, behind the adapted teacher."""
    job = plan.job
    teacher = load_model(verified / "teacher.safetensors")
    cut = cut_teacher(teacher, plan.space.reductions, plan.resolution)
    windows = plain.make_windows(plan.pictures, job, plan.resolution)
    taught, held_out = plain.teach_cells(teacher, cut, windows, job)
    first = job.rate.recalibration
    data = plain.rating_set(held_out, 1, first, slice(first, first + job.rate.images))
    losses = read_trainings(verified / "generation-1" / "alone.parquet")
    assert len(losses) == TRAINED
    for training, loss in losses.items():
        assert (training.block, training.images, training.turn) == (2, job.features.images, 1)
        assert loss == plain.rated_alone(
            plan.space,
            cut,
            plan.pixels,
            taught,
            job,
            (1, training.cell),
            tuple(map(Op.parse, training.ops.split(","))),
            (job.seed, 1, "alone", 1),
            data,
        )


def test_aligned_ratings_have_the_offsets_of_these_paths(verified: Path) -> None:
    found = read_ratings(verified.with_suffix(".parquet"))
    ratings = read_ratings(verified / "generation-1" / "ratings.parquet")
    losses = read_trainings(verified / "generation-1" / "alone.parquet")
    assert found.blocks[0].loss.tolist() == ratings.blocks[0].loss.tolist()
    old, new = ratings.blocks[1], found.blocks[1]
    rated = dict(zip(zip(old.cell.tolist(), old.ops, strict=True), old.loss, strict=True))
    for cell in (0, 1):
        more = [loss - rated[t.cell, t.ops] for t, loss in losses.items() if t.cell == cell]
        own = old.cell == cell
        assert new.loss[own] - old.loss[own] == pytest.approx(np.mean(more))


def test_what_is_trained_is_not_trained_again(verified: Path) -> None:
    """The same command needs no Ray any more; other records of the run are as they were."""
    before = {f: f.stat().st_mtime_ns for f in verified.rglob("*.parquet")}
    tree, shown = verify(verified, *ASKED)
    assert shown == ""
    assert {f: f.stat().st_mtime_ns for f in verified.rglob("*.parquet")} == before
    assert tree["paths"] == TRAINED
    assert [block["block"] for block in tree["blocks"]] == [2]
    assert -1 <= tree["rating"]["kendall"] <= 1
    assert set(tree["costs"]) == {"macs", "params"}
    assert tree["alone_twice"] is None
    assert f"{TRAINED} paths trained alone" in tree["verdict"]
    assert tree["verdict"] in (verified / "report.html").read_text(encoding="utf-8")


def test_the_run_goes_on_being_whole(verified: Path, finished: Finished) -> None:
    """Neither the times nor the metrics of the search have changed."""
    manifests = [
        json.loads((run / "manifest.json").read_text()) for run in (verified, finished.run)
    ]
    assert manifests[0]["seconds"] == manifests[1]["seconds"]
    assert manifests[0]["stages"] == manifests[1]["stages"]
    added = set(manifests[0]["files"]) - set(manifests[1]["files"])
    assert added == {"generation-1/alone.parquet"}
    rows = pq.read_table(verified / "generation-1" / "ratings.parquet")
    assert np.isfinite(rows["loss"].to_numpy()).all()
