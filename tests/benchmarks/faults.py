"""What befalls a cluster in mid-run, what comes of it, and the seconds that it costs.

A small search is gone on with from copies of its run folder, on a cluster of a head and two nodes
on this machine: undisturbed, and with one fault each. `lost` is the difference in seconds until the
stage's record is written, Ray's restarts of processes included. The records must be the same, to
the last byte. The driver's own death is measured by tests.benchmarks.kills.
"""

import argparse
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ray.cluster_utils import Cluster

from tests import tiny
from tests.benchmarks.report import publish, table
from tests.ray.command import (
    COMMAND,
    MOMENTS,
    SNAPSHOT,
    arguments,
    searching,
    stopped,
    there,
    wait_for,
)
from tests.ray.faults import family, titled, until

QUICK = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 3,
}
STORE = 150 * 2**20
CELLS, RATINGS = "generation-1/cells.safetensors", "generation-1/ratings.parquet"
NETWORKS = "generation-1/scaled.safetensors"


class Nodes:
    """A head that only leads, and two nodes that work."""

    def __init__(self) -> None:
        head = {"num_cpus": 0, "object_store_memory": STORE, "_system_config": QUICK}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        for _ in range(2):
            self.add()

    def add(self) -> None:
        self.cluster.add_node(num_cpus=1, object_store_memory=STORE)

    def lose(self) -> None:
        *_, last = (n for n in self.cluster.list_all_nodes() if n is not self.cluster.head_node)
        self.cluster.remove_node(last, allow_graceful=False)


@dataclass(frozen=True)
class Fault:
    """From a moment to a record: when a file or a process with a title is there, act."""

    name: str
    happens: str
    moment: str
    record: str
    seen: str
    act: Callable[[Nodes], None]


def kill(title: str) -> Callable[[Nodes], None]:
    def act(nodes: Nodes) -> None:
        process = titled(family(), title)
        assert process is not None
        process.kill()

    return act


def lose(nodes: Nodes) -> None:
    nodes.lose()


def lose_and_add(nodes: Nodes) -> None:
    nodes.lose()
    nodes.add()


EPOCH = f"working/distill-generation-1/{SNAPSHOT}"
PASS = f"working/retrain-generation-1/{SNAPSHOT}"
FAULTS = [
    Fault(
        "a task of the teacher",
        "Ray runs it again",
        "the adapted teacher",
        CELLS,
        "ray::teacher",
        kill("ray::teacher"),
    ),
    Fault(
        "a rank that distils",
        "all ranks go on from the last epoch",
        "the adapted teacher",
        CELLS,
        EPOCH,
        kill("ray::RayTrainWorker"),
    ),
    Fault(
        "the controller of the Train run",
        "another one goes on from the last epoch",
        "the adapted teacher",
        CELLS,
        EPOCH,
        kill("ray::TrainController"),
    ),
    Fault(
        "a node with ranks and windows, another joins",
        "its windows are made again, ranks start on the new node",
        "the adapted teacher",
        CELLS,
        EPOCH,
        lose_and_add,
    ),
    Fault(
        "a worker that rates",
        "Ray runs its prefix again",
        "all cells",
        RATINGS,
        "ray::rate block",
        kill("ray::rate block"),
    ),
    Fault(
        "a node with windows while paths are rated",
        "its windows are made again on the node that is left",
        "all cells",
        RATINGS,
        "ray::rate block",
        lose,
    ),
    Fault(
        "a rank that retrains",
        "all ranks go on from the last pass",
        "trials",
        NETWORKS,
        PASS,
        kill("ray::RayTrainWorker"),
    ),
]


def moments(folder: Path) -> dict[str, Path]:
    """Copies of the run folder of an undisturbed search, and the folder itself as `whole`."""
    tiny.put_task(folder)
    run, wanted = folder / "run", {fault.moment for fault in FAULTS}
    with searching(*arguments(folder, run)) as process:
        for name, file in MOMENTS.items():
            if name in wanted:
                with stopped(wait_for(process, run, file)):
                    shutil.copytree(run, folder / name)
        wait_for(process, run, NETWORKS)
    return {name: folder / name for name in wanted} | {"whole": run}


def go_on(nodes: Nodes, source: Path, record: str, fault: Fault | None, whole: Path) -> float:
    """Seconds from the start of the command to the record, which must be that of `whole`."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        shutil.copytree(source, run)
        words = ["--resume", str(run), "--workers", "2", "--address", nodes.cluster.address]
        start = time.perf_counter()
        search = subprocess.Popen([COMMAND, "search", *words], stderr=subprocess.DEVNULL)

        def alive() -> bool:
            return search.poll() is None

        if fault is not None:

            def seen() -> object:
                if fault.seen.startswith("ray::"):
                    return titled(family(), fault.seen)
                return any(run.glob(fault.seen))

            until(seen, alive)
            fault.act(nodes)
        until(lambda: there(run, record), alive)
        seconds = time.perf_counter() - start
        search.terminate()
        search.wait(timeout=60)
        assert (run / record).read_bytes() == (whole / record).read_bytes()
        return seconds


def main() -> None:
    """Measure all faults and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    arguments_ = parser.parse_args()
    rows, undisturbed = [], {}
    with tempfile.TemporaryDirectory() as folder:
        copies = moments(Path(folder))
        for fault in FAULTS:
            stretch = fault.moment, fault.record
            for disturbed in (None, fault):
                if disturbed is None and stretch in undisturbed:
                    continue
                nodes = Nodes()
                try:
                    source, whole = copies[fault.moment], copies["whole"]
                    seconds = go_on(nodes, source, fault.record, disturbed, whole)
                finally:
                    nodes.cluster.shutdown()
                if disturbed is None:
                    undisturbed[stretch] = seconds
            before = undisturbed[stretch]
            lost = f"{seconds - before:.1f}"
            rows.append([fault.name, fault.happens, f"{before:.1f}", f"{seconds:.1f}", lost])
            print(rows[-1], flush=True)
    header = ["killed", "what happens", "undisturbed, s", "disturbed, s", "lost, s"]
    publish("faults", "Faults on a cluster", table(header, rows), write=arguments_.write)


if __name__ == "__main__":
    main()
