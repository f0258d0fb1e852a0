"""`dna-ray search`: the main job."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from dna_ray.config import Job, differences, job_from_tree, job_to_toml, parse_job
from dna_ray.errors import UserError, causes, read_text
from dna_ray.rundir import RunFolder
from dna_ray.space import Space, load_space
from dna_ray.storage import Place

from .job import cluster_options, given_job, job_options
from .run import logged, recorded
from .values import amount
from .view import resumable, shown


@click.command("search")
@job_options
@click.option("--out", help="The run folder, new or empty, here or at a URI such as s3://...")
@click.option("--resume", help="A run folder to go on with.")
@cluster_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
@click.option("-v", "--verbose", is_flag=True, help="Show Ray's own messages.")
def command(
    limits: tuple[str, ...],
    out: str | None,
    resume: str | None,
    address: str | None,
    workers: int | None,
    gpu: bool,
    config: str | None,
    settings: tuple[str, ...],
    as_json: bool,
    verbose: bool,
    **options: Any,
) -> None:
    """Search the best network for a data set within cost limits.

    Without options: the smallest network that tells broken solar cells from good ones, within half
    the range of multiply-adds of the demo space, on this machine.
    """
    start = time.perf_counter()
    if resume and out:
        raise UserError(
            "a search is new (--out) or goes on with its folder (--resume), but both are given; "
            "leave one of them out"
        )
    given = given_job(config, settings, limits, options)
    with resumable("--resume the run folder to go on"), shown() as view:
        job, run, space = _resumed(resume, given) if resume else _prepared(given)
        view.note(f"dna-ray search: {job.data}, space {job.space}, teacher {job.teacher}")

        # Torch and Ray take seconds to import: the line above comes first.
        from dna_ray.data import fingerprint, load_pictures
        from dna_ray.generations import search
        from dna_ray.planning.plan import make_plan
        from dna_ray.remote.guard import remove_temporary
        from dna_ray.remote.session import session
        from dna_ray.teacher import load_teacher

        pictures = load_pictures(job.data)
        if pictures.notice:
            view.note(pictures.notice)
        teacher = load_teacher(job.teacher)
        plan = make_plan(job, space, pictures, teacher)
        inputs = {"the data": fingerprint(pictures), "the teacher": teacher.fingerprint}
        new = run is None
        run = run or _create(out, job, pictures.name, space, inputs)
        limit = " and ".join(f"{name} <= {amount(value)}" for name, value in plan.limits.items())
        view.note(f"{space.architectures:,} architectures, limit {limit}; run folder {run.place}")
        with (
            run.locked(),
            logged(run, verbose, "dna-ray search --resume"),
            _kept_if_begun(run, new),
        ):
            run.check_inputs(inputs)
            if run.session is not None:
                remove_temporary(run.session)
            name = run.place.path.rpartition("/")[2]
            with session(
                view, run=name, address=address, workers=workers, gpu=gpu, verbose=verbose
            ) as ray_session:
                if ray_session.folder is not None:
                    run.remember_session(ray_session.folder)
                if ray_session.dashboard:
                    view.note(f"Ray dashboard: http://{ray_session.dashboard}")
                results = search(ray_session, run, plan)
    seconds = time.perf_counter() - start
    if as_json:
        tree = {"run": str(run.place), "seconds": round(seconds, 3), "generations": results}
        click.echo(json.dumps(tree))
    else:
        _show(results, run.place, seconds)


def _prepared(given: dict[str, Any]) -> tuple[Job, None, Space]:
    job = job_from_tree(given)
    return job, None, load_space(job.space)


def _resumed(folder: str, given: dict[str, Any]) -> tuple[Job, RunFolder, Space]:
    """The job of a run folder; what is given besides must not differ from it."""
    run = RunFolder.open(folder)
    job, space = recorded(run)
    file = f"'{run.place / 'config.toml'}'"
    differing = differences(job, job_from_tree(_merged(parse_job(run.config, file), given)))
    if differing:
        raise UserError(
            f"a run is resumed with its own settings, but {', '.join(differing)} would differ from "
            f"{file}; leave them out, or start a new run"
        )
    return job, run, space


def _merged(tree: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """`tree` with what is given in the place of its own, section by section."""
    return tree | {
        key: _merged(tree.get(key, {}), value) if isinstance(value, dict) else value
        for key, value in given.items()
    }


def _create(
    out: str | None, job: Job, data: str, space: Space, inputs: dict[str, str]
) -> RunFolder:
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    where = out or f"runs/{data}-{space.name}-{stamp}"
    source = read_text(Path(job.space), "a space file") if job.space.endswith(".toml") else None
    return RunFolder.create(where, job_to_toml(job), job.seed, source, inputs)


@contextmanager
def _kept_if_begun(run: RunFolder, new: bool) -> Iterator[None]:
    """Remove a new run folder where wrong input ends the search before anything was made."""
    try:
        yield
    except Exception as error:
        if new and not run.begun and any(isinstance(e, UserError) for e in causes(error)):
            run.remove()
        raise


def _show(results: list[dict[str, Any]], place: Place, seconds: float) -> None:
    """The teacher against the found network, by generation."""
    from rich.console import Console
    from rich.table import Table

    quality = [name for name in results[0]["metrics"]["found"] if name not in ("params", "macs")]
    count = "1 generation" if len(results) == 1 else f"{len(results)} generations"
    table = Table(title=f"{count} in {seconds / 60:.1f} minutes")
    table.add_column("")
    for name in ("parameters", "multiply-adds", *quality):
        table.add_column(name.replace("_", " "), justify="right")
    for result in results:
        for role in ("teacher", "found"):
            metrics = result["metrics"][role]
            numbers = [amount(metrics["params"]), amount(metrics["macs"])]
            numbers += [f"{metrics[name]:.3f}" for name in quality]
            table.add_row(f"{result['generation']} {role}", *numbers)
        table.add_section()
    console = Console()
    console.print(table)
    for result in results:
        number, text = result["generation"], result["architecture"]
        console.print(f"{number} teacher: {result['teacher']}", soft_wrap=True, highlight=False)
        console.print(f"{number} found: {text}", soft_wrap=True, highlight=False)
        for why in result["left_out"]:
            console.print(f"{number} without a cell: {why}", soft_wrap=True, highlight=False)
    console.print(f"run folder: {place}", soft_wrap=True, highlight=False)
    console.print(f"report: {place / 'report.html'}", soft_wrap=True, highlight=False)
