"""`dna-ray report`: the page of a run."""

import json

import click

from dna_ray.report import write_report


@click.command("report")
@click.argument("run", metavar="RUN")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def command(run: str, as_json: bool) -> None:
    """Make report.html of the run folder RUN: one page that needs no other file and no network.

    RUN is a path or a URI, such as s3://BUCKET/FOLDER. A run that is not finished is shown as far
    as it has come.
    """
    page = write_report(run)
    if as_json:
        click.echo(json.dumps({"run": run, "report": str(page)}))
        return
    click.echo(f"report: {page}")
