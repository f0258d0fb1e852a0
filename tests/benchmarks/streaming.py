"""Windows streamed through a small object store against windows kept in a large one.

Teacher and cells are the same, and so are the pictures but for their number. In one epoch all is
seen once by the teacher and once by every cell, either in two stages, with all features kept in
between, or at once, with a bounded number of windows ahead of the cells. `features over store` is
the bytes of all features over those of the object store; what Ray has spilled to disk is asked of
Ray itself. A second pair of runs makes four epochs, for which a stream runs the teacher four times.
"""

import argparse
import re
import tempfile
import time
from pathlib import Path

from ray._private.internal_api import memory_summary
from ray.cluster_utils import Cluster

from dna_ray.config import Distill, Features, Job, Rate, Tune
from dna_ray.data import load_pictures
from dna_ray.driver import Driver
from dna_ray.generation import Generation
from dna_ray.planning.plan import make_plan
from dna_ray.progress import Silent
from dna_ray.remote.session import session
from dna_ray.rundir import RunFolder
from dna_ray.space import parse_space
from dna_ray.teacher import load_teacher
from tests.benchmarks.report import publish, table

SPACE = """
name = "light"
resolution = 96
ops = ["k3e1", "k3e2"]
activation = "relu6"
stem = { width = 16, out = 16 }

[[blocks]]
stride = 2
cells = [{ layers = 2, width = 24 }]

[[blocks]]
stride = 2
cells = [{ layers = 2, width = 40 }]

[[blocks]]
stride = 2
cells = [{ layers = 2, width = 80 }]

[[blocks]]
stride = 2
cells = [{ layers = 2, width = 192 }]
"""
# As in the cluster files: a worker that is idle for a moment is used again.
KEEP_WORKERS = {"idle_worker_killing_time_threshold_ms": 600_000}
SMALL, LARGE = 120 * 2**20, 6 * 2**30


class Watch(Silent):
    """Measures every stage from its first finished step to its last, and what comes before."""

    def __init__(self) -> None:
        self.at_work, self._first, self._last = 0.0, 0.0, 0.0

    def stage(self, title: str, total: int, unit: str) -> None:
        self.at_work += self._last - self._first
        self._first = self._last = 0.0

    def advance(self, steps: int, detail: str = "") -> None:
        self._last = time.perf_counter()
        self._first = self._first or self._last


def run(cache: str, store: int, images: int, epochs: int) -> tuple[float, float, float, float]:
    """Pictures a second, at work and in all, features over the store, and spilled MiB."""
    job = Job(
        features=Features(images=images, views=1, window=32, cache=cache),  # type: ignore[arg-type]
        distill=Distill(epochs=epochs),
        rate=Rate(images=32, recalibration=32),
        tune=Tune(images=64),
        adapt_teacher=False,
    )
    space, pictures = parse_space(SPACE, "light"), load_pictures("solar")
    plan = make_plan(job, space, pictures, load_teacher("lite0"))
    node = {"num_cpus": 2, "object_store_memory": store, "_system_config": KEEP_WORKERS}
    cluster, watch = Cluster(initialize_head=True, head_node_args=node), Watch()
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            session(watch, run="streaming", address=cluster.address) as ray_session,
        ):
            driver = Driver(ray_session, RunFolder.create(Path(folder) / "run", "", 0), plan)
            driver.gallery.sizes("train")  # the survey is the same for both
            generation = Generation(driver, 1, plan.teacher, plan.cut)
            watch.stage("", 0, "")
            watch.at_work, start = 0.0, time.perf_counter()
            generation.distilled()
            watch.stage("", 0, "")
            seconds = time.perf_counter() - start
            summary = memory_summary(cluster.address, stats_only=True)
        spilled = re.search(r"Spilled (\d+) MiB", summary)
        over = plan.sizes.window * images / job.features.window / store
        seen = images * epochs
        return seen / watch.at_work, seen / seconds, over, float(spilled[1]) if spilled else 0.0
    finally:
        cluster.shutdown()


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kept", type=int, default=6_720, help="pictures of the runs that fit")
    parser.add_argument("--streamed", type=int, default=16_800, help="of the one that does not")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    rows = []
    for epochs, kept, streamed in (
        (1, arguments.kept, arguments.streamed),
        (4, arguments.kept // 4, arguments.kept // 4),
    ):
        first = 0.0
        for name, images, store in (("kept", kept, LARGE), ("streamed", streamed, SMALL)):
            cache = "all" if name == "kept" else "stream"
            speed, whole, over, spilled = run(cache, store, images, epochs)
            first = first or speed
            rows.append(
                [
                    epochs,
                    f"{images:,}",
                    name,
                    f"{over:.1f}",
                    f"{spilled:.0f}",
                    f"{speed:.0f}",
                    f"{speed / first:.2f}",
                    f"{whole:.0f}",
                ]
            )
            print(rows[-1], flush=True)
    header = ["epochs", "pictures", "windows", "features over store", "spilled, MiB"]
    header += ["pictures/s at work", "against kept", "pictures/s with start-up"]
    text = table(header, rows)
    publish("streaming", "Streamed windows against kept ones", text, write=arguments.write)


if __name__ == "__main__":
    main()
