"""`dna-ray measure`: latency on this machine, as an exact additive cost."""

import json
import platform
import time
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import numpy as np

from dna_ray.errors import UserError
from dna_ray.progress import View
from dna_ray.search import Ratings, load_ratings, to_arrow
from dna_ray.search.join import check_paths, join_cost
from dna_ray.space import Space, load_space
from dna_ray.space.correction import Correction, HeldOut
from dna_ray.space.latency import Conditions, LatencyTable, fingerprint, read_latencies

from .files import check_made_again, check_parquet, write_table
from .view import resumable, shown

_COLUMN = "latency_ms"


@click.command("measure")
@click.option(
    "--space", "name", default="demo", show_default=True, help="A built-in name or a .toml file."
)
@click.option(
    "--resolution", type=click.IntRange(min=1), help="Pixels on a side (default: the space's)."
)
@click.option("--classes", type=click.IntRange(min=1), default=1000, show_default=True)
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="Where networks run.",
)
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Pictures a run; milliseconds are those of a whole batch.",
)
@click.option(
    "--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Of the CPU."
)
@click.option(
    "--repeats",
    type=click.IntRange(min=1),
    default=9,
    show_default=True,
    help="Rounds over everything; a figure is their median.",
)
@click.option(
    "--networks",
    type=click.IntRange(min=4),
    default=40,
    show_default=True,
    help="How many whole networks to measure.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("latency.parquet"),
    show_default=True,
    help="The latency table, new or to go on with.",
)
@click.option(
    "--ratings", type=click.Path(path_type=Path), help="A ratings table to join latency_ms onto."
)
@click.option(
    "--joined",
    type=click.Path(path_type=Path),
    help="Where the joined ratings go (default: joined.parquet).",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def command(
    name: str,
    resolution: int | None,
    repeats: int,
    out: Path,
    ratings: Path | None,
    joined: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure the latency of every layer of a space on this machine.

    A network's latency is taken to be the sum of those of its layers, stem and head. Whole networks
    are measured too: half of them correct the sum, the others say how far off it is. With --ratings
    the rated paths get a cost latency_ms, for dna-ray select to limit.

    Interrupted, the same command goes on where it was.
    """
    start = time.perf_counter()
    space = load_space(name)
    if space.architectures < 4:
        raise UserError(
            f"four networks or more must be there to fit and judge the correction, but space "
            f"'{space.name}' has {space.architectures}; give its blocks more ops or cells"
        )
    rated = _rated(ratings, joined, space)
    joined = joined or (Path("joined.parquet") if rated else None)
    check_parquet(out, "--out")
    if joined:
        check_made_again(joined, "--joined", f"{_COLUMN}.device")
        if joined.resolve() == out.resolve():
            raise UserError(
                f"--joined and --out must be two files, but both are '{out}'; give another --joined"
            )
    with shown() as view:
        conditions = Conditions(
            space=space.name,
            fingerprint=fingerprint(space),
            resolution=resolution or space.resolution,
            processor=_processor(options["device"]),
            torch=metadata.version("torch"),
            **options,
        )
        table = _measured(space, conditions, repeats, out, view)
        correction, held_out = table.additivity()
        if rated and joined:
            join = _joined(rated, table, correction)
            write_table(joined, to_arrow(join))
            view.note(f"{_COLUMN} joined onto {sum(len(b.loss) for b in join.blocks):,} paths")
            pixels = rated.metadata.get("resolution", str(conditions.resolution))
            if pixels != str(conditions.resolution):
                view.note(f"the ratings are of {pixels} pixels, not of {conditions.resolution}")
    tree = _summary(table, correction, held_out) | {
        "latency_table": str(out),
        "joined": str(joined) if joined else None,
        "seconds": round(time.perf_counter() - start, 3),
    }
    if as_json:
        click.echo(json.dumps(tree))
    else:
        _show(tree)


def _rated(ratings: Path | None, joined: Path | None, space: Space) -> Ratings | None:
    """The ratings to join onto, all of them paths of `space`."""
    if ratings is None:
        if joined:
            raise UserError(
                f"joined ratings are made of ratings, but --joined {joined} is given without; "
                "give --ratings too"
            )
        return None
    rated = load_ratings(ratings)
    check_paths(rated, space)
    return rated


def _processor(device: str) -> str:
    """What runs the networks, by its name; raises UserError where there is none."""
    if device == "cuda":
        import torch  # takes seconds, and CPUs are known without

        if not torch.cuda.is_available():
            raise UserError("a GPU must be there for --device cuda, but torch finds none; use cpu")
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _measured(
    space: Space, conditions: Conditions, rounds: int, out: Path, view: View
) -> LatencyTable:
    """The table of `out`, new or gone on with, with so many samples of everything."""
    table = LatencyTable(space, conditions)
    if out.exists():
        table = read_latencies(out, space, conditions)
    if table.rounds >= rounds:
        view.note(f"'{out}' is complete, {table.rounds} samples each: nothing is measured")
        return table
    there = sum(map(len, table.samples.values()))
    view.note(
        f"dna-ray measure: space {space.name} at {conditions.resolution} pixels, batch "
        f"{conditions.batch}, {_device(asdict(conditions))}"
        + (f"; '{out}' is gone on with, {there:,} samples are there" if there else "")
    )

    def save() -> None:
        write_table(out, table.to_arrow())

    save()  # a place that cannot be written to is known before anything takes time

    from dna_ray.latency import Stopwatch, measure  # torch takes seconds to import

    with resumable(f"the same command goes on with '{out}'"):
        measure(table, rounds, Stopwatch(space, conditions), view, save)
    return table


def _joined(rated: Ratings, table: LatencyTable, correction: Correction) -> Ratings:
    facts = asdict(table.conditions) | asdict(correction)
    notes = {f"{_COLUMN}.{key}": str(value) for key, value in facts.items()}
    return join_cost(rated, table.space, _COLUMN, table.costs(correction), notes)


def _summary(table: LatencyTable, correction: Correction, held_out: HeldOut) -> dict[str, Any]:
    times = table.milliseconds()
    wholes = [times[network] for network in table.networks]
    return asdict(table.conditions) | {
        "layers": sum(part.op not in ("stem", "head") for part in table.parts),
        "networks": len(wholes),
        "samples": table.rounds,
        "spread": float(np.median(list(table.spreads().values()))),
        "unrest": table.unrest(),
        "networks_ms": [min(wholes), max(wholes)],
        "correction": asdict(correction),
        "held_out": asdict(held_out),
    }


def _device(tree: dict[str, Any]) -> str:
    """What runs the networks, for people."""
    if tree["device"] == "cuda":
        return str(tree["processor"])
    threads = tree["threads"]
    return f"{threads} thread{'s' * (threads > 1)} of {tree['processor']}"


def _show(tree: dict[str, Any]) -> None:
    """How wrong a sum of parts is, before and after the correction."""
    from rich.console import Console
    from rich.table import Table

    errors, size = tree["held_out"], tree["resolution"]
    table = Table(
        title=f"{tree['space']} at {size} x {size} pixels, batch {tree['batch']}",
        caption=f"{tree['networks'] // 2} networks that took no part in the correction",
    )
    for column in ("against whole networks", "sum of parts", "corrected"):
        table.add_column(column, justify="left" if column.startswith("against") else "right")
    for kind, text in (("mean", "mean error"), ("worst", "worst error")):
        before, after = (errors[f"{kind}_error_{when}"] for when in ("before", "after"))
        table.add_row(text, f"{before:.1%}", f"{after:.1%}")
    for rank in ("kendall", "spearman"):
        value = "none" if errors[rank] is None else f"{errors[rank]:.3f}"
        table.add_row(f"{rank.capitalize()} correlation", value, value)
    low, high = tree["networks_ms"]
    fit = tree["correction"]
    console = Console()
    console.print(table)
    for line in (
        f"device: {_device(tree)}, torch {tree['torch']}",
        f"{tree['layers']} layers, {tree['networks']} networks of {low:.3g} to {high:.3g} ms; "
        f"{tree['samples']} samples each, typical spread {tree['spread']:.1%} (that of the "
        f"machine's own speed, {tree['unrest']:.1%}, is taken out)",
        f"milliseconds = {fit['offset_ms']:.3g} + {fit['factor']:.3g} x sum of parts",
        f"latency table: {tree['latency_table']}",
    ):
        console.print(line, soft_wrap=True, highlight=False)
    if tree["joined"]:
        console.print(f"joined ratings: {tree['joined']}", soft_wrap=True, highlight=False)
        hint = f"dna-ray select {tree['joined']} --max {_COLUMN}={(low + high) / 2:.3g}"
        console.print(f"limit it with: {hint}", soft_wrap=True, highlight=False)
