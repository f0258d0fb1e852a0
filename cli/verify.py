"""`dna-ray verify`: is the rating of a run true?"""

import json
from dataclasses import replace
from math import isfinite, nan
from pathlib import Path
from typing import Any

import click

from dna_ray.config import Job
from dna_ray.errors import UserError
from dna_ray.ranking import (
    ALIGNED,
    LEAST,
    Figure,
    Training,
    Truth,
    aligned,
    hold_against,
    truth_verdict,
)
from dna_ray.rundir import RunFolder
from dna_ray.search import to_arrow
from dna_ray.space import Space, cost_name
from dna_ray.verification import Verification, rated

from .files import check_made_again, write_table
from .job import cluster_options
from .run import logged, recorded
from .view import resumable, shown

_NONE = Figure(nan, nan, nan)


@click.command("verify")
@click.argument("folder", metavar="RUN")
@click.option("--generation", type=click.IntRange(min=1), help="Default: the last one rated.")
@click.option(
    "--paths",
    type=click.IntRange(3, 10_000),
    default=12,
    show_default=True,
    help="Of each block, at random.",
)
@click.option("--blocks", help="Such as 1,3 (default: all).")
@click.option(
    "--trainings",
    type=click.IntRange(1, 10),
    default=1,
    show_default=True,
    help="Of each path; with 2 it is seen how far training alone agrees with itself.",
)
@click.option(
    "--images", type=click.IntRange(min=2), help="Of an epoch (default: as the cells had)."
)
@click.option(
    "--aligned",
    "to",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write ratings whose cells are aligned by these paths, for dna-ray select.",
)
@cluster_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
@click.option("-v", "--verbose", is_flag=True, help="Show Ray's own messages.")
def command(
    folder: str,
    generation: int | None,
    paths: int,
    blocks: str | None,
    trainings: int,
    images: int | None,
    to: Path | None,
    address: str | None,
    workers: int | None,
    gpu: bool,
    as_json: bool,
    verbose: bool,
) -> None:
    """Train some paths of each block of RUN alone, and hold the rating against them.

    Each is trained by the recipe of its cell, with weights of its own, and loses what it loses on
    the pictures that rated. How the rating orders them is shown beside multiply-adds, parameters
    and a random order, with 95 % intervals. What is trained is kept: the same command goes on, and
    more --paths add to those that are there.

    The search compares paths of all cells of a block, which differ in depth and width, and the
    rating may favour some. --aligned adds to the losses of each cell what its paths lose more alone
    than they rate, in the mean; of every cell three paths at least are trained for it.
    """
    if to:
        check_made_again(to, "--aligned", ALIGNED)
    run = RunFolder.open(folder)
    job, space = recorded(run)
    number = generation or _last_rated(run, job.generations)
    ratings, chosen = rated(run, number), _blocks(blocks, len(space.blocks))
    if images is not None:
        job = replace(job, features=replace(job.features, images=images))
    with run.locked():
        verification = Verification(run, number, ratings, job.features.images)
        missing = verification.missing(chosen, paths, trainings, LEAST if to else 0)
        if missing:
            with (
                resumable("the same command goes on"),
                shown() as view,
                logged(run, verbose, "dna-ray verify"),
            ):
                view.note(f"dna-ray verify: generation {number} of {run.place}")
                _train(
                    verification,
                    missing,
                    run,
                    number,
                    job,
                    space,
                    {
                        "view": view,
                        "address": address,
                        "workers": workers,
                        "gpu": gpu,
                        "verbose": verbose,
                    },
                )
    parts = verification.paths(chosen)
    if to:
        write_table(to, to_arrow(aligned(ratings, parts)))
    total = hold_against(parts, seed=job.seed)
    by_block = {part.block: hold_against([part], seed=job.seed) for part in parts}
    verdict = truth_verdict(total, by_block)
    if as_json:
        tree = {"run": str(run.place), "generation": number, "verdict": verdict, **_tree(total)}
        tree["aligned_ratings"] = str(to) if to else None
        tree["blocks"] = [{"block": number, **_tree(t)} for number, t in by_block.items()]
        click.echo(json.dumps(tree))
        return
    _show(total, by_block)
    click.echo(verdict)
    if to:
        click.echo(f"ratings whose cells are aligned: {to}; dna-ray select {to} searches them")


def _train(
    verification: Verification,
    missing: list[Training],
    run: RunFolder,
    number: int,
    job: Job,
    space: Space,
    cluster: dict[str, Any],
) -> None:
    """Train the paths that are missing, and make the run's page anew."""
    # Torch and Ray take seconds to import.
    from dna_ray.data import fingerprint, load_pictures
    from dna_ray.planning.plan import make_plan
    from dna_ray.remote.session import session
    from dna_ray.report import write_report
    from dna_ray.study import Study
    from dna_ray.teacher import load_teacher

    pictures, teacher = load_pictures(job.data), load_teacher(job.teacher)
    plan = make_plan(job, space, pictures, teacher)
    run.check_inputs({"the data": fingerprint(pictures), "the teacher": teacher.fingerprint})
    with session(**cluster) as ray_session:
        for training, loss in Study(ray_session, run, plan, number).train_alone(missing):
            verification.add(training, loss)
    if run.has(run.file(number, "result.json")):
        write_report(run.place.name)


def _last_rated(run: RunFolder, generations: int) -> int:
    rated = [n for n in range(1, generations + 1) if run.has(run.file(n, "ratings.parquet"))]
    return max(rated, default=1)


def _blocks(text: str | None, count: int) -> list[int]:
    """The numbers in `1,3`, each once and in order; all without a text."""
    if text is None:
        return list(range(1, count + 1))
    numbers = [int(part) if part.strip().isdecimal() else 0 for part in text.split(",")]
    if not all(1 <= number <= count for number in numbers):
        raise UserError(
            f"--blocks must be numbers from 1 to {count}, such as 1,{count}, but are '{text}'"
        )
    return sorted(set(numbers))


def _tree(truth: Truth) -> dict[str, Any]:
    return {
        "paths": truth.paths,
        "rating": _figure(truth.rating),
        "costs": {name: _figure(figure) for name, figure in truth.costs.items()},
        "lead": truth.lead and {"over": truth.best_cost, **_figure(truth.lead)},
        "random": _figure(truth.chance),
        "favour": {
            str(cell): {"places": figure.value, "interval95": [figure.low, figure.high]}
            for cell, figure in truth.favour.items()
            if isfinite(figure.low)
        },
        "aligned": truth.aligned and _figure(truth.aligned),
        "gain": truth.gain and _figure(truth.gain),
        "alone_twice": truth.itself and _figure(truth.itself),
    }


def _figure(figure: Figure) -> dict[str, Any]:
    interval = [figure.low, figure.high] if isfinite(figure.low) else None
    return {"kendall": figure.value if isfinite(figure.value) else None, "interval95": interval}


def _show(total: Truth, by_block: dict[int, Truth]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Kendall's tau with the losses of paths trained alone")
    names = ["rating", *map(cost_name, total.costs), "random order"]
    if total.itself is not None:
        names.append("alone, twice")
    for name in ("block", "paths", *names):
        table.add_column(name, justify="left" if name == "block" else "right")
    rows = {str(number): truth for number, truth in by_block.items()}
    if len(rows) > 1:
        rows["all"] = total
    for name, truth in rows.items():
        if name == "all":
            table.add_section()
        figures = [truth.rating, *truth.costs.values(), truth.chance]
        if total.itself is not None:
            figures.append(truth.itself or _NONE)
        table.add_row(name, f"{truth.paths:,}", *map(_shown, figures))
    console = Console()
    console.print(table)
    console.print("below each value its 95 % interval, from 1,000 resamples of the paths")
    if total.aligned is not None and total.gain is not None:
        console.print(f"with cells aligned: {total.aligned}, a gain of {total.gain}")
    for number, truth in by_block.items():
        for cell, figure in truth.favour.items():
            if figure.low > 0 or figure.high < 0:
                better = "better" if figure.value > 0 else "worse"
                console.print(
                    f"block {number}: paths of cell {cell} rate {abs(figure.value):.0f} of 100 "
                    f"places {better} than they deserve"
                )


def _shown(figure: Figure) -> str:
    """A value, and below it its interval."""
    if not isfinite(figure.value):
        return "undefined"
    return f"{figure.value:.2f}\n{figure.low:.2f} to {figure.high:.2f}"
