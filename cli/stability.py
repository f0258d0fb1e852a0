"""`dna-ray stability`: does the rating of a run hang on chance?"""

import json
from math import isfinite
from pathlib import Path
from typing import Any

import click

from dna_ray.config import Job
from dna_ray.errors import UserError
from dna_ray.ranking import (
    Compared,
    Stability,
    Taus,
    Variant,
    Wanted,
    compare,
    stability_verdict,
    wanted,
)
from dna_ray.rundir import RunFolder
from dna_ray.space import Space
from dna_ray.stability import Variants, searched
from dna_ray.verification import rated

from .job import cluster_options
from .run import logged, recorded
from .view import resumable, shown


@click.command("stability")
@click.argument("folder", metavar="RUN")
@click.option("--generation", type=click.IntRange(min=1), help="Default: the last one rated.")
@click.option(
    "--seeds",
    type=click.IntRange(1, 100),
    default=3,
    show_default=True,
    help="The run's own is one of them; 1 leaves them out.",
)
@click.option(
    "--fractions",
    default="0.8,0.4",
    show_default=True,
    help='Of the windows that teach, in whole ones, for as many steps; "" leaves them out.',
)
@click.option(
    "--checkpoints",
    type=click.IntRange(1, 100),
    default=4,
    show_default=True,
    help="Of the training, its end among them; 1 leaves them out.",
)
@click.option("--plot", metavar="FILE", type=click.Path(path_type=Path), help=".svg or .png.")
@cluster_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
@click.option("-v", "--verbose", is_flag=True, help="Show Ray's own messages.")
def command(
    folder: str,
    generation: int | None,
    seeds: int,
    fractions: str,
    checkpoints: int,
    plot: Path | None,
    address: str | None,
    workers: int | None,
    gpu: bool,
    as_json: bool,
    verbose: bool,
) -> None:
    """Train the cells of RUN with other seeds, on less data and for less time, and compare.

    The pictures are the run's own; a seed is that of weights, paths and the order of minibatches.
    How alike the ratings order paths is shown, and what a search by each would have chosen within
    the run's limits. What is rated is kept: the same command goes on, and more add to what is
    there.
    """
    if plot:
        from dna_ray.report.plots import check_plot_file

        check_plot_file(plot)
    parts = _fractions(fractions)
    run = RunFolder.open(folder)
    job, space = recorded(run)
    number = generation or _last_searched(run, job.generations)
    ratings, limits = rated(run, number), searched(run, number)
    asked = _wanted(job, seeds, parts, checkpoints)
    with run.locked():
        variants = Variants(run, number, ratings)
        missing = variants.missing(asked.variants)
        if missing:
            with (
                resumable("the same command goes on"),
                shown() as view,
                logged(run, verbose, "dna-ray stability"),
            ):
                view.note(f"dna-ray stability: generation {number} of {run.place}")
                _train(
                    variants,
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
    found = compare(ratings, limits, asked, variants.losses)
    verdict = stability_verdict(found)
    if plot:
        from dna_ray.report.plots import plot_stability

        plot_stability(plot, found)
    if as_json:
        tree = {"run": str(run.place), "generation": number, "verdict": verdict}
        click.echo(json.dumps(tree | {"limits": limits} | _tree(found)))
        return
    _show(found)
    click.echo(verdict)


def _train(
    variants: Variants,
    missing: list[Variant],
    run: RunFolder,
    number: int,
    job: Job,
    space: Space,
    cluster: dict[str, Any],
) -> None:
    """Train and rate the variants that are missing."""
    # Torch and Ray take seconds to import.
    from dna_ray.data import fingerprint, load_pictures
    from dna_ray.planning.plan import make_plan
    from dna_ray.remote.session import session
    from dna_ray.study import Study
    from dna_ray.teacher import load_teacher

    pictures, teacher = load_pictures(job.data), load_teacher(job.teacher)
    plan = make_plan(job, space, pictures, teacher)
    run.check_inputs({"the data": fingerprint(pictures), "the teacher": teacher.fingerprint})
    with session(**cluster) as ray_session:
        for variant, losses in Study(ray_session, run, plan, number).vary(missing):
            variants.add(variant, losses)


def _last_searched(run: RunFolder, generations: int) -> int:
    names = ((n, run.file(n, "architecture.json")) for n in range(1, generations + 1))
    return max((n for n, name in names if run.has(name)), default=1)


def _fractions(text: str) -> list[float]:
    """The numbers in `0.8,0.4`; none in an empty text."""
    try:
        parts = [float(part) for part in text.split(",")] if text.strip() else []
    except ValueError:
        parts = [0.0]
    if not all(0 < part < 1 for part in parts):
        raise UserError(
            f"--fractions must be numbers between 0 and 1, such as 0.8,0.4, but are '{text}'"
        )
    return parts


def _wanted(job: Job, seeds: int, fractions: list[float], checkpoints: int) -> Wanted:
    """All that is to be compared; raises UserError where that is nothing."""
    own = Variant(job.seed, 1.0, job.distill.epochs)
    windows = -(-job.features.images // job.features.window)
    asked = wanted(own, windows, seeds=seeds, fractions=fractions, checkpoints=checkpoints)
    if not asked.variants:
        raise UserError(
            f"something must be compared, but --seeds {seeds}, --fractions "
            f"'{','.join(map(str, fractions))}' and --checkpoints {checkpoints} ask for nothing of "
            f"a run with {own.epochs} epochs of {windows} windows; give --seeds 2"
        )
    return asked


def _tree(found: Stability) -> dict[str, Any]:
    """The run's own choice, and what is compared with it; a part that was left out is null."""
    seeds = {
        "kendall": {name: _number(tau.total) for name, tau in found.spread.items()},
        "pairs": [{"seeds": list(pair), **_taus(tau)} for pair, tau in found.pairs.items()],
        "variants": [{"seed": c.variant.seed, **_compared(c)} for c in found.seeds],
    }
    fractions = [{"fraction": c.variant.fraction, **_compared(c)} for c in found.fractions]
    checkpoints = [{"epochs": c.variant.epochs, **_compared(c)} for c in found.checkpoints[::-1]]
    return {
        "own": {
            "seed": found.own.seed,
            "epochs": found.own.epochs,
            "architecture": found.text,
            "loss": found.loss,
        },
        "random_loss": _number(found.random),
        "seeds": seeds if found.seeds else None,
        "fractions": fractions or None,
        "checkpoints": checkpoints or None,
    }


def _taus(tau: Taus) -> dict[str, Any]:
    return {"kendall": _number(tau.total), "blocks": [_number(value) for value in tau.blocks]}


def _compared(compared: Compared) -> dict[str, Any]:
    choice = compared.choice
    return _taus(compared.tau) | {
        "architecture": choice and choice.text,
        "blocks_alike": choice and choice.alike,
        "regret": _number(compared.regret),
    }


def _number(value: float) -> float | None:
    return value if isfinite(value) else None


def _show(found: Stability) -> None:
    from rich.console import Console
    from rich.table import Table

    blocks = len(found.compared[0].tau.blocks)
    table = Table(title="Kendall's tau with the run's own rating")
    table.add_column("")
    for name in (*(f"block {k}" for k in range(1, blocks + 1)), "all", "same\nblocks", "regret"):
        table.add_column(name, justify="right")
    for names, part in _parts(found):
        table.add_section()
        for name, compared in zip(names, part, strict=True):
            table.add_row(name, *_shown(compared.tau), *_chosen(compared, blocks))
        if part is found.seeds and len(found.pairs) > 1:
            for name, tau in found.spread.items():
                table.add_row(f"pairs, {name}", *_shown(tau))
    console = Console()
    console.print(table)
    console.print(
        "same blocks: in which a search by these would choose the run's path; regret: what its "
        "choice loses by the run's rating more than the run's, of what a random one loses more"
    )
    console.print(f"the run's choice: {found.text}", soft_wrap=True, highlight=False)
    for names, part in _parts(found):
        for name, compared in zip(names, part, strict=True):
            if compared.choice and compared.choice.alike < blocks:
                text = f"{name}: {compared.choice.text}"
                console.print(text, soft_wrap=True, highlight=False)


def _parts(found: Stability) -> list[tuple[list[str], tuple[Compared, ...]]]:
    """What is compared, by kind, each with the names of its rows."""
    checkpoints, epochs = found.checkpoints[::-1], found.own.epochs
    return [
        ([f"seed {c.variant.seed}" for c in found.seeds], found.seeds),
        ([f"{c.variant.fraction:.0%} of the data" for c in found.fractions], found.fractions),
        ([f"{c.variant.epochs} of {epochs} epochs" for c in checkpoints], checkpoints),
    ]


def _shown(tau: Taus) -> list[str]:
    return [f"{v:.2f}" if isfinite(v) else "undefined" for v in (*tau.blocks, tau.total)]


def _chosen(compared: Compared, blocks: int) -> list[str]:
    if compared.choice is None:
        return ["none", ""]
    regret = compared.regret
    shown = f"{regret:.0%}" if isfinite(regret) else "undefined"
    return [f"{compared.choice.alike} of {blocks}", shown]
