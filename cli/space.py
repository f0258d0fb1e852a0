"""`dna-ray space`: what a search space holds."""

import json
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from dna_ray.space import builtin_names, cost_range, cost_table, load_space


@click.command("space")
@click.argument("name", metavar="[NAME|FILE]", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def command(name: str | None, as_json: bool) -> None:
    """Show the cells, the exact size and the cost range of a space.

    NAME is a built-in space, FILE a space of your own in TOML; without either, mbconv6 is shown.
    """
    space = load_space(name or "mbconv6")
    costs = cost_range(space, cost_table(space, space.resolution, 1000))
    blocks: list[dict[str, Any]] = [
        {
            "cells": [
                {"width": cell.width, "layers": cell.layers, "paths": block.count(index)}
                for index, cell in enumerate(block.cells)
            ]
        }
        for block in space.blocks
    ]
    if as_json:
        tree = {
            "name": space.name,
            "architectures": space.architectures,
            "blocks": blocks,
            "costs": {cost: list(costs[cost]) for cost in ("macs", "params")},
        }
        click.echo(json.dumps(tree))
        return
    table = Table(title=f"{space.name}: {space.architectures:,} architectures")
    for column in ("block", "stride", "ops", "cells (layers x width)", "paths"):
        table.add_column(column, justify="right" if column == "paths" else "left")
    for number, (block, row) in enumerate(zip(space.blocks, blocks, strict=True), 1):
        table.add_row(
            str(number),
            str(block.stride),
            " ".join(map(str, block.ops)),
            ", ".join(f"{cell['layers']} x {cell['width']}" for cell in row["cells"]),
            f"{sum(cell['paths'] for cell in row['cells']):,}",
        )
    console = Console()
    console.print(table)
    for cost, label in (("macs", "multiply-adds"), ("params", "parameters")):
        low, high = costs[cost]
        console.print(f"{label}: {low:,} to {high:,} at {space.resolution} pixels, 1000 classes")
    if name is None:
        console.print(f"built-in spaces: {', '.join(builtin_names())}")
