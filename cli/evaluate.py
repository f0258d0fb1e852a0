"""`dna-ray evaluate`: does a rating rank?"""

import json
from math import isfinite
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dna_ray.ranking import (
    NEAR,
    Agreement,
    Evaluation,
    Figure,
    Rated,
    evaluate,
    rate,
    read_bench,
    verdict,
)
from dna_ray.search import load_ratings
from dna_ray.space import cost_name


@click.command("evaluate")
@click.argument("bench", metavar="BENCH", type=click.Path(path_type=Path))
@click.argument("ratings", metavar="RATINGS", type=click.Path(path_type=Path))
@click.option("--plot", metavar="FILE", type=click.Path(path_type=Path), help=".svg or .png.")
@click.option(
    "--resamples",
    type=click.IntRange(100, 100_000),
    default=1000,
    show_default=True,
    help="Of the architectures, for the intervals.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def command(
    bench: Path, ratings: Path, plot: Path | None, resamples: int, seed: int, as_json: bool
) -> None:
    """Hold RATINGS against BENCH: does a rating tell more than cost does?

    BENCH is JSON of architectures with the accuracies that they reached when trained one by one:
    {"ops": [OP, ...], "archs": [{"code": ["01", ...], "top1": 75.5}, ...]} with one digit per
    layer and one text per block, or the file of NAS-Bench-Macro as published. RATINGS is a ratings
    table, Parquet or CSV. Costs are taken from the bench where it has them, else from the table.
    """
    if plot:
        from dna_ray.report.plots import check_plot_file

        check_plot_file(plot)
    rated = rate(read_bench(bench), load_ratings(ratings))
    evaluation = evaluate(rated, resamples=resamples, seed=seed)
    if plot:
        from dna_ray.report.plots import plot_ranking

        plot_ranking(
            plot,
            rated.loss,
            rated.accuracy,
            kendall=evaluation.rating.kendall.value,
            cost=next(iter(rated.costs.items()), None),
        )
    if as_json:
        click.echo(json.dumps(_tree(evaluation)))
        return
    console = Console()
    console.print(_agreements(evaluation))
    if evaluation.rated.costs:
        console.print(_apart(evaluation))
    console.print(f"below each value its 95 % interval, from {resamples:,} resamples")
    best, choice = rated.best, rated.choice
    console.print(
        f"best: {rated.names[best]} at {rated.accuracy[best]:.3f}; the rating's choice: "
        f"{rated.names[choice]} at {rated.accuracy[choice]:.3f}, place {rated.place:,}",
        highlight=False,
    )
    console.print(verdict(evaluation), markup=False, highlight=False)


def _tree(evaluation: Evaluation) -> dict[str, Any]:
    """The contract's keys, and beside them pairs, the paired lead, choices and the verdict."""
    rated, equal = evaluation.rated, evaluation.equal_cost
    tree: dict[str, Any] = {"n": len(rated.accuracy), **_correlations(evaluation.rating)}
    tree["baselines"] = {cost: _correlations(a) for cost, a in evaluation.baselines.items()}
    given = evaluation.given_cost
    tree["partial_kendall"] = {cost: _number(figure.value) for cost, figure in given.items()}
    tree["partial_interval95"] = {cost: _interval(figure) for cost, figure in given.items()}
    tree["equal_cost_kendall"] = next((_number(e.rating.value) for e in equal.values()), None)
    tree["equal_cost"] = {
        cost: {
            "tolerance": NEAR,
            "pairs": e.pairs,
            "kendall": _number(e.rating.value),
            "interval95": _interval(e.rating),
            "cost_kendall": _number(e.cost.value),
            "cost_interval95": _interval(e.cost),
        }
        for cost, e in equal.items()
    }
    lead = evaluation.lead
    tree["lead"] = lead and {
        "over": evaluation.best_cost,
        "kendall": _number(lead.value),
        "interval95": _interval(lead),
    }
    tree["best"] = _architecture(rated, rated.best)
    tree["choice"] = _architecture(rated, rated.choice) | {"place": rated.place}
    tree |= {"verdict": verdict(evaluation), "resamples": evaluation.resamples}
    return tree | {"seed": evaluation.seed}


def _architecture(rated: Rated, index: int) -> dict[str, Any]:
    return {"code": rated.names[index], "accuracy": float(rated.accuracy[index])}


def _correlations(agreement: Agreement) -> dict[str, Any]:
    figures = vars(agreement)
    values: dict[str, Any] = {name: _number(figure.value) for name, figure in figures.items()}
    return values | {"interval95": {name: _interval(figure) for name, figure in figures.items()}}


def _interval(figure: Figure) -> list[float] | None:
    return [figure.low, figure.high] if isfinite(figure.low) else None


def _number(value: float) -> float | None:
    return value if isfinite(value) else None


def _agreements(evaluation: Evaluation) -> Table:
    count = len(evaluation.rated.accuracy)
    table = Table(title=f"agreement with the accuracies of {count:,} architectures")
    table.add_column("by")
    for name in ("Kendall", "Spearman", "Pearson"):
        table.add_column(name, justify="right")
    table.add_row("rating", *map(_shown, vars(evaluation.rating).values()))
    for cost, agreement in evaluation.baselines.items():
        table.add_row(Text(cost_name(cost)), *map(_shown, vars(agreement).values()))
    return table


def _apart(evaluation: Evaluation) -> Table:
    table = Table(title="Kendall of the rating apart from a cost")
    table.add_column("cost")
    for name in (
        "given it",
        f"among pairs\nalike to {100 * NEAR:.0f} %",
        "pairs",
        "the cost itself\namong these",
    ):
        table.add_column(name, justify="right")
    for cost, equal in evaluation.equal_cost.items():
        given, among = _shown(evaluation.given_cost[cost]), _shown(equal.rating)
        table.add_row(Text(cost_name(cost)), given, among, f"{equal.pairs:,}", _shown(equal.cost))
    return table


def _shown(figure: Figure) -> str:
    """A value, and below it its interval."""
    if not isfinite(figure.value):
        return "undefined"
    return f"{figure.value:.3f}\n{figure.low:.3f} to {figure.high:.3f}"
