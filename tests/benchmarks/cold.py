"""From nothing to the first step of a cell: on a cold cluster, and what comes over the network.

A cluster of one node has just started and run nothing. A process joins it and distils the demo's
space without adapting its teacher; the times are those since the process was started. A cell is
then sent two boundaries of every window; their bytes are those of the arrays themselves.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time

import psutil
from ray.cluster_utils import Cluster

from tests.benchmarks.report import publish, table

_FIRST = "first step of a cell"


def child(address: str) -> None:
    """Distil for an epoch, and print what was when, as JSON."""
    started = psutil.Process().create_time()
    times: dict[str, float] = {}

    def done(name: str) -> None:
        times.setdefault(name, time.time() - started)

    import ray

    from dna_ray.config import Distill, Job
    from dna_ray.data import load_pictures
    from dna_ray.driver import Driver
    from dna_ray.generation import Generation
    from dna_ray.planning.plan import make_plan
    from dna_ray.progress import Silent
    from dna_ray.remote.session import session
    from dna_ray.rundir import RunFolder
    from dna_ray.space import load_space
    from dna_ray.teacher import load_teacher

    class Watch(Silent):
        title = ""

        def stage(self, title: str, total: int, unit: str) -> None:
            self.title = title

        def advance(self, steps: int, detail: str = "") -> None:
            if self.title == "distill":
                done(_FIRST)

        def end_stage(self, seconds: float) -> None:
            if self.title != "distill":
                done(f"{self.title} done")

    done("imports")
    job = Job(adapt_teacher=False, distill=Distill(epochs=1))
    plan = make_plan(job, load_space("demo"), load_pictures("solar"), load_teacher("lite0"))
    done("pictures listed, teacher read")
    with session(Watch(), run="cold", address=address) as ray_session:
        done("joined")
        with tempfile.TemporaryDirectory() as folder:
            driver = Driver(ray_session, RunFolder.create(f"{folder}/run", "", 0), plan)
            generation = Generation(driver, 1, plan.teacher, plan.cut)
            generation.distilled()
            window = generation._taught["train"][0]
            sizes = [array.nbytes for array in ray.get(list(window.boundaries))]
    print(json.dumps({"times": times, "boundaries": sizes, "pictures": window.size}))


def main() -> None:
    """Measure once and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--child", metavar="ADDRESS", help="what this script calls itself with")
    given = parser.parse_args()
    if given.child:
        child(given.child)
        return
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    try:
        out = subprocess.run(
            [sys.executable, "-m", "tests.benchmarks.cold", "--child", cluster.address],
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
    finally:
        cluster.shutdown()
    found = json.loads(out.splitlines()[-1])
    sizes, pictures = found["boundaries"], found["pictures"]
    when = table(["", "s"], [[name, f"{at:.1f}"] for name, at in found["times"].items()])
    rows = [
        [
            block,
            f"{sizes[block - 1] / 1e6:.2f}",
            f"{sizes[block] / 1e6:.2f}",
            f"{(sizes[block - 1] + sizes[block]) / 1e6:.2f}",
        ]
        for block in range(1, len(sizes))
    ]
    sent = table(
        ["block", "boundary before, MB", "boundary behind, MB", "a cell is sent, MB"], rows
    )
    text = f"{when}\n\nOf every window of {pictures} pictures at 96 pixels:\n\n{sent}"
    publish("cold", "A cold cluster, and what a cell is sent", text, write=given.write)


if __name__ == "__main__":
    main()
