"""`dna-ray plan`: what a search will take, before anything runs."""

import json
import time
from typing import Any

import click

from dna_ray.config import job_from_tree
from dna_ray.errors import UserError
from dna_ray.space import cost_name, load_space

from .job import cluster_options, given_job, job_options
from .values import amount
from .view import shown


@click.command("plan")
@job_options
@click.option("--pictures", type=click.IntRange(min=1), help="So many, in the place of --data.")
@click.option("--classes", type=click.IntRange(min=1), help="Of these pictures (default: none).")
@click.option("--tests", type=click.IntRange(min=1), help="So many more, in a part that tests.")
@cluster_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
@click.option("-v", "--verbose", is_flag=True, help="Show Ray's own messages.")
def command(
    limits: tuple[str, ...],
    config: str | None,
    settings: tuple[str, ...],
    pictures: int | None,
    classes: int | None,
    tests: int | None,
    address: str | None,
    workers: int | None,
    gpu: bool,
    as_json: bool,
    verbose: bool,
    **options: Any,
) -> None:
    """Tell what a search with the same options will take, and whether its limits can be met.

    The work is tried on the cluster for a minute or so; nothing is trained. With --pictures no
    data need be there.
    """
    if pictures is None and (classes or tests):
        raise UserError(
            "--classes and --tests say more of --pictures, but that is not given; give it too"
        )
    if pictures is not None and options["data"] is not None:
        raise UserError(
            f"a plan is for --data or for --pictures, but both are given, '{options['data']}' and "
            f"{pictures}; leave one of them out"
        )
    start = time.perf_counter()
    given = given_job(config, settings, limits, options)
    with shown() as view:
        job = job_from_tree(given)
        if job.distill.progressive:
            raise UserError(
                "a plan foretells a search of all blocks at once, but distill.strategy is "
                f"{job.distill.strategy}; set distill.strategy=concurrent"
            )
        space = load_space(job.space)
        shape = "" if pictures is None else f"{pictures:,} pictures to come"
        view.note(f"dna-ray plan: {shape or job.data}, space {job.space}, teacher {job.teacher}")

        # Torch and Ray take seconds to import: the line above comes first.
        from dna_ray.data import load_pictures
        from dna_ray.planning.outlook import outlook
        from dna_ray.planning.plan import make_plan
        from dna_ray.planning.stand_in import made_pictures, teacher_or_its_shape
        from dna_ray.remote.session import session
        from dna_ray.remote.trials import foretell

        if pictures is None:
            found = load_pictures(job.data)
        else:
            found = made_pictures(pictures, tests or 0, classes or 0)
        view.note(found.notice)
        teacher, lacking = teacher_or_its_shape(job.teacher)
        plan = make_plan(job, space, found, teacher)
        with session(
            view, address=address, workers=workers, gpu=gpu, verbose=verbose
        ) as ray_session:
            tree = outlook(foretell(ray_session, plan, time.perf_counter() - start))
    if lacking:
        tree["warnings"].append(f"planned with a teacher without its weights: {lacking}")
    tree["teacher"]["weights"] = not lacking
    tree["planned_in"] = round(time.perf_counter() - start, 3)
    if as_json:
        click.echo(json.dumps(tree))
    else:
        _show(tree)


def _show(tree: dict[str, Any]) -> None:
    """Sizes and costs, then what every stage takes, then what to mind."""
    from rich.console import Console

    console = Console()
    for line in _facts(tree):
        console.print(line, soft_wrap=True, highlight=False)
    console.print(_stages(tree))
    gpus, cluster = tree["cluster"]["gpus"], tree["cluster"]
    hours = f"{_figure(tree['core_hours'])} core-hours"
    if gpus:
        hours += f" and {_figure(tree['gpu_hours'])} GPU-hours of work; GPUs are held for "
        hours += _figure(tree["gpu_hours_held"])
    lines = [
        f"{_duration(tree['seconds'])} on {cluster['cpus']:g} processors"
        + (f" and {gpus} GPUs" if gpus else "")
        + f": {hours}",
        f"run folder: {_bytes(tree['disk']['kept'])} in the end, {_bytes(tree['disk']['most'])} at "
        f"most; {_bytes(tree['disk']['written'])} are written to it in all",
        f"not counted: {'; '.join(tree['not_counted'])}",
        *(f"mind: {warning}" for warning in tree["warnings"]),
    ]
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False)


def _facts(tree: dict[str, Any]) -> list[str]:
    """What is known before anything is measured, and the cells' placement."""
    pictures, features, placement = tree["pictures"], tree["features"], tree["placement"]
    limits = [
        f"{cost_name(name)} <= {amount(value)} (from {amount(tree['costs'][name][0])} to "
        f"{amount(tree['costs'][name][1])})"
        for name, value in tree["limits"].items()
    ]
    cells = sum(cell["macs"] for cell in tree["cells"])
    read, rates = pictures["read_bytes"], tree["rates"]
    speeds = {
        "the teacher": rates["teacher"],
        "all cells in training": sum(cell["seconds"] for cell in tree["cells"]),
        "the found network in training": rates["training"] * tree["found"]["macs"],
    }
    measured = ", ".join(f"{name} {_figure(1 / seconds)}" for name, seconds in speeds.items())
    unit = "GPU" if tree["cluster"]["gpus"] else "processor"
    kept = "" if features["cache"] == "all" else f", {_bytes(features['kept_bytes'])} all the time"
    return [
        f"{tree['architectures']:,} architectures; limits that can be met: {' and '.join(limits)}",
        f"multiply-adds of a picture: teacher {amount(tree['teacher']['macs'])}, one path of each "
        f"cell {amount(cells)}, found network {amount(tree['found']['macs'])}",
        f"pictures: {pictures['taught']:,} teach in an epoch; drawn {pictures['drawn']:,} times in "
        f"all{'' if read is None else f', {_bytes(read)} to read'}",
        f"features: {_bytes(features['window_bytes'])} a window of {features['window']:,} pictures,"
        f" {_bytes(features['bytes'])} all; cache {features['cache']}{kept}; the object store has "
        f"{_bytes(tree['cluster']['store_bytes'])}",
        f"measured, pictures a second on one {unit}: {measured}; drawn on one processor "
        f"{_figure(1 / rates['drawing'])}",
        f"cells: {len(tree['cells'])} on {placement['ranks']} ranks, of which the longest has "
        f"{placement['imbalance']:.2f} times the mean to do; {placement['useful_ranks']} ranks are "
        "useful at most",
    ]


def _stages(tree: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table(title=f"{tree['space']} at {tree['resolution']} pixels, stage by stage")
    gpus = bool(tree["cluster"]["gpus"])
    for name in ("stage", "time", "share", "core-hours", *(["GPU-hours"] if gpus else [])):
        table.add_column(name, justify="left" if name == "stage" else "right")
    for stage in tree["stages"]:
        hours = [stage["core_hours"], *([stage["gpu_hours"]] if gpus else [])]
        table.add_row(
            f"{stage['generation']} {stage['stage']}",
            _duration(stage["seconds"]),
            f"{stage['share']:.1%}",
            *map(_figure, hours),
        )
    return table


def _duration(seconds: float) -> str:
    for length, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * length:
            return f"{_figure(seconds / length)} {name}"
    return f"{_figure(seconds)} s"


def _figure(value: float) -> str:
    """Three digits, or all of those before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _bytes(count: float) -> str:
    return f"{amount(count)}B"
