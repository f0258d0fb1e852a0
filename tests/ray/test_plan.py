"""The calibration of a plan on a real session: every rate is measured, and nothing is left."""

import json
from pathlib import Path
from typing import Any

import pytest
import ray

from dna_ray.config import Job, job_from_tree, put, setting
from dna_ray.data import load_pictures
from dna_ray.network.model import build_model, trained
from dna_ray.planning.forecast import Forecast
from dna_ray.planning.outlook import outlook
from dna_ray.planning.plan import make_plan
from dna_ray.remote.session import Session
from dna_ray.remote.trials import foretell
from dna_ray.space import Architecture, load_space, network_spec
from tests import tiny


@pytest.fixture(scope="module")
def job(task_files: Path) -> Job:
    tree: dict[str, Any] = {"space": str(task_files / "tiny.toml"), "generations": 2}
    tree["data"] = str(task_files / "pictures")
    for text in tiny.SETTINGS:
        put(tree, *setting(text))
    return job_from_tree(tree)


@pytest.fixture(scope="module")
def forecast(local: Session, job: Job) -> Forecast:
    space = load_space(job.space)
    spec = network_spec(space, Architecture.parse("8:k3e2/16:k3e2"), classes=5)
    teacher = trained(spec, build_model(spec))
    return foretell(local, make_plan(job, space, load_pictures(job.data), teacher))


def test_every_rate_is_measured(forecast: Forecast) -> None:
    rates = forecast.rates
    assert forecast.plan.adapt  # the teacher knows five classes, the pictures have two
    by_cell = ("cells", "comparing", "walking")
    assert all(value > 0 for name, value in vars(rates).items() if name not in by_cell)
    for name in by_cell:
        seconds = getattr(rates, name)
        assert list(seconds) == list(forecast.plan.space.cells)
        assert min(seconds.values()) > 0
    assert rates.training > rates.testing  # a step goes forward, and more


def test_the_forecast_is_of_this_session(local: Session, job: Job, forecast: Forecast) -> None:
    assert forecast.workers == local.workers
    assert forecast.resources.store_bytes == int(ray.cluster_resources()["object_store_memory"])
    assert (forecast.cache.mode, forecast.hindrance) == ("all", "")
    assert forecast.teachings[0].ranks.ranks == 2
    names = ["features", "distill", "rate", "search", "tune", "retrain", "test"]
    assert [(s.generation, s.name) for s in forecast.stages] == [
        (1, "start"),
        (1, "adapt"),
        *((number, name) for number in (1, 2) for name in names),
    ]
    tree = json.loads(json.dumps(outlook(forecast)))
    bytes_ = sum(file.stat().st_size for file in Path(job.data).rglob("*.png"))
    drawn = tree["pictures"]["drawn"]
    assert tree["pictures"]["read_bytes"] == pytest.approx(drawn * bytes_ / 80, abs=1)
