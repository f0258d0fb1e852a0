"""Joining a running cluster, with Ray's token authentication on; and who is sent away, and why."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from dna_ray import __version__
from tests.ray.clusters import Served, said, script, serving

ROOM = "say(workers=joined.workers, told=sum(joined.view.told))"
CHECK = f"check_nodes(Place.of({__file__!r})); {ROOM}"
IMPATIENT = "import dna_ray.remote.join as join; join._BEYOND_LIMITS = 0"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Served]:
    with serving() as running:
        yield running


def test_a_cluster_that_grows_is_waited_for_and_a_fixed_one_is_not(cluster: Served) -> None:
    too_many = {"address": cluster.address, "workers": 4}
    fixed = cluster.driver(ROOM, **too_many)
    assert said(fixed)["refused"] == (
        "the cluster must have 4 CPU for 4 workers, but has 0 CPU; add nodes to it"
    )
    cluster.add_node(2, RAY_NODE_TYPE_NAME="scaled")
    growing = cluster.driver(ROOM, **too_many)
    present = cluster.driver(CHECK, environment={"RAY_ADDRESS": cluster.address})
    assert said(present) == {"workers": 2, "told": 0}
    assert growing.poll() is None
    cluster.add_node(2, RAY_NODE_TYPE_NAME="scaled")
    assert said(growing) == {"workers": 4, "told": 4}
    cluster.grow_no_more()
    in_vain = cluster.driver(ROOM, before=IMPATIENT, address=cluster.address, workers=9)
    assert said(in_vain)["refused"] == (
        "the cluster must have 9 CPU for 9 workers, but has 4 CPU; give --workers 4, or add nodes "
        "to it"
    )


def test_who_cannot_join_is_told_why(cluster: Served, tmp_path: Path) -> None:
    token = "must be shown its token, but "
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("another cluster's")
    url = "http://127.0.0.1:8265"
    python = sys.version.split()[0]
    cases: list[tuple[str, dict[str, str], str]] = [
        (token + "RAY_AUTH_MODE is not 'token'", {"RAY_AUTH_MODE": "disabled"}, ""),
        (
            token + "it was shown another one",
            {"RAY_AUTH_TOKEN": "", "HOME": str(tmp_path)},
            "",
        ),
        (token + "there is none here", {"RAY_AUTH_TOKEN": "", "HOME": str(tmp_path / "x")}, ""),
        (f"but RAY_ADDRESS is '{url}'", {"RAY_ADDRESS": url}, ""),
        (
            f"has Ray {ray.__version__} on Python {python}, and here is Ray 0.1 on Python {python}",
            {},
            "ray.__version__ = '0.1'",
        ),
        (
            "must run on a machine of the cluster it joins",
            {},
            "from ray._private import services; services.find_node_ids = list",
        ),
    ]
    drivers = [
        cluster.driver(
            ROOM,
            before=before,
            environment=environment,
            address=None if "RAY_ADDRESS" in environment else cluster.address,
        )
        for _, environment, before in cases
    ]
    for (reason, _, _), driver in zip(cases, drivers, strict=True):
        assert reason in said(driver)["refused"]


def test_a_job_joins_the_cluster_that_it_was_submitted_to(cluster: Served) -> None:
    words = [sys.executable, "-c", script(ROOM), json.dumps({"workers": 1})]
    submit = Path(sys.executable).with_name("ray")
    job = subprocess.run(
        [submit, "job", "submit", "--address", f"http://{cluster.dashboard}", "--", *words],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | cluster.environment,
        check=False,
    )
    assert job.returncode == 0, job.stdout + job.stderr
    assert json.dumps({"workers": 1, "told": 0}) in job.stdout.splitlines()


def test_a_node_without_dna_ray_is_named_before_anything_runs(
    cluster: Served, tmp_path: Path
) -> None:
    (tmp_path / "dna_ray").mkdir()
    (tmp_path / "dna_ray" / "__init__.py").write_text("raise ModuleNotFoundError('none here')")
    cluster.add_node(0, PYTHONPATH=str(tmp_path))
    refused = said(cluster.driver(CHECK, address=cluster.address, workers=1))["refused"]
    assert refused.startswith(f"every node must have dna-ray {__version__}, as the driver has, but")
    assert "has none" in refused
