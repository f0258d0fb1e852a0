"""Cells distilled from streamed windows, some by groups of ranks, one of which is killed.

Everything ends in what plain Python trains with all windows at hand, to the last bit.
"""

import json
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

from dna_ray.config import Job, job_from_tree, put, setting
from dna_ray.data import Pictures, load_pictures
from dna_ray.data.schedule import draw, schedule
from dna_ray.driver import Driver
from dna_ray.errors import UserError
from dna_ray.network.model import TrainedModel, build_model, trained
from dna_ray.planning.cache import Cache
from dna_ray.planning.placement import RankPlan, Resources, share_out
from dna_ray.planning.plan import make_plan
from dna_ray.remote.distill import distill
from dna_ray.remote.features import TeacherTasks
from dna_ray.remote.feed import fed
from dna_ray.remote.pictures import Gallery
from dna_ray.remote.session import Session
from dna_ray.remote.windows import TaughtWindow
from dna_ray.rundir import RunFolder
from dna_ray.space import Architecture, Space, load_space, network_spec
from dna_ray.storage import Place
from dna_ray.teacher import cut_teacher
from tests import plain, tiny
from tests.ray.faults import killed

RESOLUTION = 32
PIXELS = ((0.5,) * 3, (0.5,) * 3)
AHEAD = 2

# Two cells are each trained by both ranks; the others by one.
PLAN = RankPlan({(0, 0): (0, 1), (0, 1): (0,), (1, 0): (1,), (1, 1): (0, 1)}, (1.0, 1.0))


@pytest.fixture(scope="module")
def job(task_files: Path) -> Job:
    tree: dict[str, Any] = {"seed": 5, "space": str(task_files / "tiny.toml")}
    for text in (*tiny.SETTINGS, "distill.shards=2", "features.fresh=true", "distill.epochs=3"):
        put(tree, *setting(text))
    return job_from_tree(tree)


@pytest.fixture(scope="module")
def pictures(task_files: Path) -> Pictures:
    return load_pictures(str(task_files / "pictures"))


@pytest.fixture(scope="module")
def space(job: Job) -> Space:
    return load_space(job.space)


@pytest.fixture(scope="module")
def teacher(space: Space) -> TrainedModel:
    torch.manual_seed(0)
    spec = network_spec(space, Architecture.parse("8:k3e2/16:k3e2"), classes=2)
    return trained(spec, build_model(spec).eval())


def test_streamed_by_groups_with_a_rank_killed(
    local: Session,
    job: Job,
    pictures: Pictures,
    space: Space,
    teacher: TrainedModel,
    tmp_path: Path,
) -> None:
    cut, plan = cut_teacher(teacher, space.reductions, RESOLUTION), schedule(pictures, job)
    first = plan.first("train", job.features.images)
    share = share_out(Resources(cpus=2), 2, 2, beside=True)
    cache = Cache(mode="stream", ahead=AHEAD, drawing=10**7)
    gallery = Gallery(local, pictures, plan, job, RESOLUTION, cache)
    tasks = TeacherTasks(local, teacher, cut)

    def make(position: int) -> Iterator[TaughtWindow]:
        for window in gallery.passes(
            "train", position, cpus=share.task_cpus, pictures=job.features.images, fresh=True
        ):
            yield tasks.teach(window, share.task)

    total = job.distill.epochs * len(first)
    with (
        fed(local, make, total, PLAN.ranks, AHEAD) as series,
        killed("ray::RayTrainWorker"),
    ):
        made = distill(
            local,
            space,
            cut,
            PIXELS,
            series,
            len(first),
            job.distill,
            PLAN,
            share,
            (job.seed, 1),
            Place.of(tmp_path),
        )

    assert [row["epoch"] for row in made.rows] == [1, 2, 3] * 4
    shown = [rows.later(epoch * plan.views) for epoch in range(3) for rows in first]
    drawn = [draw(pictures, rows, job, RESOLUTION) for rows in shown]
    boundaries = [features for features, _ in plain.teach_windows(teacher, cut, drawn)]
    for where in space.cells:
        expected = plain.weights(space, cut, PIXELS, boundaries, job, where)
        assert {n: torch.equal(made.weights[where][n], expected[n]) for n in expected} == (
            dict.fromkeys(expected, True)
        )
    named(local)


def named(session: Session) -> None:
    """Ray's dashboard calls the run and its datasets by names that a person understands."""
    job_id = ray.get_runtime_context().get_job_id()
    runs = ask(session, "/api/train/v2/runs/v1")["train_runs"]
    assert "distill-generation-1" in {run["name"] for run in runs}
    datasets = ask(session, f"/api/data/datasets/{job_id}")["datasets"]
    assert any(dataset["dataset"].startswith("windows of pass 2") for dataset in datasets)


def ask(session: Session, path: str) -> Any:
    token = (Path.home() / ".ray" / "auth_token").read_text().strip()
    request = urllib.request.Request(
        f"http://{session.dashboard}{path}", headers={"Authorization": f"Bearer {token}"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def test_fresh_views_are_the_same_where_all_are_kept(
    local: Session,
    job: Job,
    pictures: Pictures,
    space: Space,
    teacher: TrainedModel,
    tmp_path: Path,
) -> None:
    driver = Driver(
        local, RunFolder.create(tmp_path / "run", "", 0), make_plan(job, space, pictures, teacher)
    )
    assert not driver.streamed
    plan = driver.gallery.plan
    first = plan.first("train", job.features.images)
    kept = driver.held_passes(job.distill.epochs)
    shown = [rows.later(epoch * plan.views) for epoch in range(3) for rows in first]
    for window, rows in zip(kept, shown, strict=True):
        expected = draw(pictures, rows, job, RESOLUTION)
        assert np.array_equal(ray.get(window.pictures), expected)


def test_what_cannot_fit_the_store_is_refused_before_anything_runs(
    local: Session,
    job: Job,
    pictures: Pictures,
    space: Space,
    teacher: TrainedModel,
    tmp_path: Path,
) -> None:
    """Pictures so large that no store holds the windows that rate."""
    plan = replace(make_plan(job, space, pictures, teacher), resolution=20_000)
    for cache, said in (("auto", "to stream"), ("all", "features.cache=all")):
        asked = replace(job, features=replace(job.features, cache=cache))  # type: ignore[arg-type]
        run = RunFolder.create(tmp_path / cache, "", 0)
        with pytest.raises(UserError, match=f"{said}.* are needed and there are .* set features"):
            Driver(local, run, replace(plan, job=asked))
        assert not run.begun
