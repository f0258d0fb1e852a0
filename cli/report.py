"""`dna-ray report`: the page of a run."""

import json
from pathlib import Path

import click

from dna_ray.report import write_report


@click.command("report")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def command(run: Path, as_json: bool) -> None:
    """Make report.html of the run folder RUN: one page that needs no other file and no network.

    A run that is not finished is shown as far as it has come.
    """
    path = write_report(run)
    if as_json:
        click.echo(json.dumps({"run": str(run), "report": str(path)}))
        return
    click.echo(f"report: {path}")
