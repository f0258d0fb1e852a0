"""Distilling and rating the demo space on one core and on two, against what a plan foretells.

Each number of workers has a Ray session of its own, in which the plan's trials come first. `stage`
is the whole stage as `dna-ray search` counts it, the start of its processes included. The teacher
is taken as it is, so that nothing is adapted.
"""

import argparse
import tempfile
from pathlib import Path

from dna_ray.config import Job, job_from_tree, job_to_toml, put, setting
from dna_ray.data import load_pictures
from dna_ray.driver import Driver
from dna_ray.generation import Generation
from dna_ray.planning.plan import Plan, make_plan
from dna_ray.progress import Silent
from dna_ray.remote.session import session
from dna_ray.remote.trials import foretell
from dna_ray.rundir import RunFolder
from dna_ray.space import load_space
from dna_ray.teacher import load_teacher
from tests.benchmarks.report import publish, table

STAGES = ("features", "distill", "rate")
WORKERS = (1, 2)


def planned(settings: list[str]) -> Plan:
    """The demo with these settings."""
    tree: dict[str, object] = {"adapt_teacher": False}
    for text in settings:
        put(tree, *setting(text))
    job: Job = job_from_tree(tree)
    return make_plan(job, load_space(job.space), load_pictures(job.data), load_teacher(job.teacher))


def measure(plan: Plan, workers: int) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of the stages with so many workers: as foretold, and as they were."""
    with tempfile.TemporaryDirectory() as folder, session(Silent(), workers=workers) as started:
        forecast = foretell(started, plan)
        foretold = {stage.name: stage.seconds for stage in forecast.stages}
        run = RunFolder.create(Path(folder) / "run", job_to_toml(plan.job), plan.job.seed)
        driver = Driver(started, run, plan)
        generation = Generation(driver, 1, plan.teacher, plan.cut)
        generation.rated(generation.distilled())
        seconds = {name: run.seconds(f"generation-1/{name}") for name in STAGES}
    return foretold, seconds


def main() -> None:
    """Measure one and two workers in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("settings", nargs="*", help="such as distill.epochs=32")
    given = parser.parse_args()
    plan, rows = planned(given.settings), []
    for repeat in range(1, given.repeats + 1):
        results = {workers: measure(plan, workers) for workers in WORKERS}
        for name in STAGES:
            for workers, (foretold, seconds) in results.items():
                rows.append(
                    [
                        repeat,
                        name,
                        workers,
                        f"{seconds[name]:.1f}",
                        f"{foretold[name]:.1f}",
                        f"{foretold[name] / seconds[name]:.2f}",
                        f"{results[1][1][name] / seconds[name]:.2f}",
                        f"{results[1][0][name] / foretold[name]:.2f}",
                    ]
                )
                print(rows[-1], flush=True)
    header = ["run", "stage", "workers", "measured, s", "foretold, s", "foretold / measured"]
    header += ["speed-up measured", "speed-up foretold"]
    settings = f"With {', '.join(given.settings)}.\n\n" if given.settings else ""
    text = settings + table(header, rows)
    publish("scale_out", "Scale-out over cores, measured and foretold", text, write=given.write)


if __name__ == "__main__":
    main()
