"""The driver: DNA and DNA+ (sections 3.3 and 3.4 of the paper) as one loop over generations.

pictures -> teacher -> features -> distill -> rate -> search -> tune -> retrain -> next teacher

With a progressive strategy (section 4.6) distill, rate and search take turns, block by block. Every
stage leaves its record in the run folder and is skipped where that record is there and whole.
"""

import traceback
from typing import Any

from dna_ray.driver import Driver
from dna_ray.generation import Generation
from dna_ray.planning.plan import Plan
from dna_ray.progression import ProgressiveGeneration
from dna_ray.remote.nodes import check_nodes
from dna_ray.remote.session import Session
from dna_ray.report import write_report
from dna_ray.rundir import RunFolder
from dna_ray.teacher import cut_teacher


def search(session: Session, run: RunFolder, plan: Plan) -> list[dict[str, Any]]:
    """Run all generations of a plan; one result each, in the form of the command's JSON."""
    if session.folder is None:  # a cluster that we joined, with nodes of its own
        check_nodes(run.place / "config.toml")
    driver = Driver(session, run, plan)
    teacher, cut = driver.first_teacher(), plan.cut
    kind = ProgressiveGeneration if plan.job.distill.progressive else Generation
    results = []
    for number in range(1, plan.job.generations + 1):
        generation = kind(driver, number, teacher, cut)
        architecture = generation.architecture()
        best = generation.tuned(architecture)
        found, scaled = generation.retrained(architecture, best)
        results.append(generation.result(architecture, found, scaled))
        _report(session, run)
        if scaled is not None:
            teacher = scaled
            cut = cut_teacher(scaled, plan.space.reductions, plan.resolution)
    run.working.remove()
    return results


def _report(session: Session, run: RunFolder) -> None:
    """Make the run's page anew. A page that fails must not cost what is trained: it is said."""
    try:
        write_report(run.place.name)
    except Exception as error:
        run.log(traceback.format_exc())
        session.view.note(
            f"no report could be made ({error}); the trace is in {run.place / 'log.txt'}"
        )
