"""`dna-ray select`: the search step alone, on any ratings table."""

import json
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dna_ray.errors import UserError
from dna_ray.search import ALGORITHMS, Selection, load_ratings, select

from .files import check_table_file, write_table
from .values import amount, parse_limits


@click.command("select")
@click.argument("ratings", metavar="RATINGS", type=click.Path(path_type=Path))
@click.option("--max", "limits", multiple=True, metavar="COST=VALUE", help="Such as macs=400M.")
@click.option(
    "--top",
    type=click.IntRange(1, 10_000),
    default=1,
    show_default=True,
    metavar="K",
    help="So many, the best one first.",
)
@click.option(
    "--diverse",
    type=click.IntRange(0, 10_000),
    default=0,
    metavar="D",
    help="Each of the K differs from those before it in D layers or more.",
)
@click.option(
    "--algorithm", type=click.Choice(ALGORITHMS), default=ALGORITHMS[0], show_default=True
)
@click.option(
    "--time-limit",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Of milp and traversal; what is found by then is not proven.",
)
@click.option("--front", type=click.Path(path_type=Path), help="Write it: a .parquet or .csv file.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw it: a .svg or .png file.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def command(
    ratings: Path,
    limits: tuple[str, ...],
    top: int,
    diverse: int,
    algorithm: str,
    time_limit: float | None,
    front: Path | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """The best architecture of RATINGS within all limits, proven over every one there is.

    RATINGS is a Parquet or CSV table with a row for every path: block (1, 2, ...), ops
    (comma-joined), loss, and any cost columns; where there are several cells or widths, cell and
    width.
    """
    bounds = parse_limits(limits)
    if algorithm == "traversal" and top > 1:
        raise UserError(
            f"Algorithm 2 finds one architecture, but --top {top} is given; "
            "use --algorithm pareto or milp"
        )
    if diverse and top == 1:
        raise UserError(
            f"--diverse {diverse} needs others to differ from, but --top is 1; give --top 2 or more"
        )
    if front:
        check_table_file(front)
        if front.exists() and front.samefile(ratings):
            raise UserError(
                f"--front must not be the ratings, but both are '{front}'; name another"
            )
    if plot:
        from dna_ray.report.plots import check_plot_file

        check_plot_file(plot)
    table = load_ratings(ratings)
    if table.progressive:
        click.echo(
            "the sums that follow are not losses of architectures: these paths were rated behind "
            f"beginnings (distill.strategy={table.metadata['method']}), each by the least that it "
            "had; for other limits, search again",
            err=True,
        )
    found = select(
        table,
        bounds,
        top=top,
        diverse=diverse,
        algorithm=algorithm,
        seconds=time_limit,
    )
    if front:
        write_table(front, found.front.to_arrow())
    if plot:
        _draw(found, plot)
    if as_json:
        click.echo(json.dumps(_tree(found)))
    else:
        _show(found)


def _tree(found: Selection) -> dict[str, object]:
    proof = found.certificate
    return found.found.to_json() | {
        "limits": found.limits,
        "candidates": proof.candidates,
        "front_size": len(found.front),
        "front_costs": list(found.front.over),
        "algorithm": proof.algorithm,
        "proven_optimal": proof.proven_optimal,
        "certificate": proof.to_json(),
        "seconds": found.seconds,
        "alternatives": [candidate.to_json() for candidate in found.best],
    }


def _draw(found: Selection, path: Path) -> None:
    from dna_ray.report.plots import plot_front

    front = found.front
    if not front.over:
        raise UserError(
            "a front is drawn against a cost, but there is none, or the front in it is too large; "
            "leave --plot out"
        )
    cost = front.over[0]
    at = [i for i, paths in enumerate(front.paths.tolist()) if tuple(paths) == found.found.paths]
    plot_front(
        path,
        cost,
        front.costs[:, front.ratings.column(cost)],
        front.loss,
        at[0] if at else None,
        found.limits.get(cost),
    )


def _show(found: Selection) -> None:
    console, proof = Console(markup=False, emoji=False), found.certificate
    table = Table(title=f"the best of {proof.candidates:,} architectures")
    names = found.ratings.cost_names
    for name in ("", "loss", *names):
        table.add_column(Text(name), justify="right")
    for number, candidate in enumerate(found.best, 1):
        costs = [amount(candidate.costs[name]) for name in names]
        table.add_row(str(number), f"{candidate.loss:.6g}", *costs)
    if found.limits:
        limits = [amount(found.limits[n]) if n in found.limits else "" for n in names]
        table.add_section()
        table.add_row("at most", "", *limits)
    console.print(table)
    for number, candidate in enumerate(found.best, 1):
        console.print(f"{number:>3}  {candidate.text}", soft_wrap=True, highlight=False)
    if proof.proven_optimal:
        proven = "proven: no other within the limits has a smaller loss"
    else:
        proven = f"not proven: another may have a loss down to {proof.bound:.6g}"
    console.print(f"{proven} ({proof.algorithm}, {found.seconds:.3g} s)", highlight=False)
    over = ", ".join(("loss", *found.front.over))
    console.print(f"front in {over}: {len(found.front):,} architectures", highlight=False)
