"""Faults on a cluster of several nodes on one machine: each ends in the identical result.

A search that a kill left behind when its teacher was adapted is gone on with by the command, joined
to a cluster, in a run folder on an S3 store. On its way it loses a task of the teacher, the
controller of its Train run, a rating worker, and a whole node with the windows that lie there, and
gets a new node.
"""

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from ray.cluster_utils import Cluster

from dna_ray.storage import Place
from tests.ray.command import COMMAND, SNAPSHOT, Finished
from tests.ray.faults import family, killed, titled, until

# Deaths of nodes are noticed within seconds.
QUICK = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 3,
}
STORE = 150 * 2**20


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head that only leads, and two nodes that work."""
    head = {"num_cpus": 0, "object_store_memory": STORE, "_system_config": QUICK}
    started = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(2):
            started.add_node(num_cpus=1, object_store_memory=STORE)
        yield started
    finally:
        started.shutdown()


def test_a_search_survives_what_befalls_its_cluster(
    cluster: Cluster, finished: Finished, s3: str, tmp_path: Path
) -> None:
    run = Place.of(s3)
    left = finished.moments["the adapted teacher"]
    for file in filter(Path.is_file, left.rglob("*")):
        (run / str(file.relative_to(left))).write(file.read_bytes())
    *_, last = (node for node in cluster.list_all_nodes() if node is not cluster.head_node)
    words = ["--resume", s3, "--workers", "2", "--address", cluster.address]
    with (
        killed("ray::teacher"),
        killed("ray::rate block"),
        (tmp_path / "shown").open("w") as shown,
    ):
        search = subprocess.Popen([COMMAND, "search", *words], stderr=shown, stdout=shown)

        def searches() -> bool:
            return search.poll() is None

        try:
            until(lambda: checkpointed(run), searches)
            first = titled(family(), "ray::TrainController")
            assert first is not None
            first.kill()
            until(lambda: another("ray::TrainController", first), searches)
            # Now, while the run goes on with another controller:
            cluster.remove_node(last, allow_graceful=False)
            cluster.add_node(num_cpus=1, object_store_memory=STORE)
            until((run / "generation-1/architecture.json").is_file, searches)
            search.send_signal(signal.SIGTERM)
            search.wait(timeout=60)
        finally:
            search.kill()
    said = (tmp_path / "shown").read_text()
    assert search.returncode == 130, said
    for record in ("cells.safetensors", "ratings.parquet", "front.parquet", "architecture.json"):
        made = (run / f"generation-1/{record}").read()
        assert made == (finished.folder(1) / record).read_bytes(), record


def checkpointed(run: Place) -> bool:
    """Whether Ray Train has written down a checkpoint of the cells."""
    snapshot = run / f"working/distill-generation-1/{SNAPSHOT}"
    if not snapshot.is_file():
        return False
    try:
        return json.loads(snapshot.read())["latest_checkpoint_result"] is not None
    except ValueError:  # it is being written
        return False


def another(title: str, first: psutil.Process) -> psutil.Process | None:
    process = titled(family(), title)
    return process if process != first else None
