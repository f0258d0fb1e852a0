"""Windows streamed through a small object store against windows kept in a large one.

The same pictures, teacher and cells, one epoch: everything is seen once by the teacher and once by
every cell, either in two stages, with all features kept in between, or at once, with a bounded
number of windows ahead of the cells. `over store` is the bytes of all features over those of the
object store; what Ray has spilled to disk is asked of Ray itself. A second pair of runs makes four
epochs, for which a stream runs the teacher four times.
"""

import argparse
import re
import tempfile
import time
from pathlib import Path

from ray._private.internal_api import memory_summary
from ray.cluster_utils import Cluster

from dna_ray.config import Distill, Features, Job
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
SMALL, LARGE = 80 * 2**20, 6 * 2**30


def run(cache: str, store: int, images: int, epochs: int) -> tuple[float, float, float]:
    """Pictures a second through teacher and cells, features over the store, and spilled MiB."""
    job = Job(
        features=Features(images=images, views=1, window=64, cache=cache),  # type: ignore[arg-type]
        distill=Distill(epochs=epochs),
        adapt_teacher=False,
    )
    space, pictures = parse_space(SPACE, "light"), load_pictures("solar")
    plan = make_plan(job, space, pictures, load_teacher("lite0"))
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": store}
    )
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            session(Silent(), run="streaming", address=cluster.address) as ray_session,
        ):
            driver = Driver(ray_session, RunFolder.create(Path(folder) / "run", "", 0), plan)
            driver.gallery.sizes("train")  # the survey is the same for both
            generation = Generation(driver, 1, plan.teacher, plan.cut)
            start = time.perf_counter()
            generation.distilled()
            seconds = time.perf_counter() - start
            summary = memory_summary(cluster.address, stats_only=True)
        spilled = re.search(r"Spilled (\d+) MiB", summary)
        bytes_ = plan.sizes.window * images / job.features.window
        return images * epochs / seconds, bytes_ / store, float(spilled[1]) if spilled else 0.0
    finally:
        cluster.shutdown()


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=13_440)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    rows = []
    for epochs in (1, 4):
        images = arguments.images if epochs == 1 else arguments.images // 4
        kept = run("all", LARGE, images, epochs)
        streamed = run("stream", SMALL, images, epochs)
        for name, found in (("kept", kept), ("streamed", streamed)):
            speed, over, spilled = found
            rows.append(
                [
                    epochs,
                    f"{images:,}",
                    name,
                    f"{over:.1f}",
                    f"{spilled:.0f}",
                    f"{speed:.1f}",
                    f"{speed / kept[0]:.2f}",
                ]
            )
            print(rows[-1], flush=True)
    header = ["epochs", "pictures", "windows", "features over store", "spilled, MiB"]
    text = table([*header, "pictures/s", "against kept"], rows)
    publish("streaming", "Streamed windows against kept ones", text, write=arguments.write)


if __name__ == "__main__":
    main()
