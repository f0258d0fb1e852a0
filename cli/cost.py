"""`dna-ray cost`: exact costs of one architecture."""

import json
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from dna_ray.errors import UserError
from dna_ray.space import (
    ZOO,
    Architecture,
    BlockChoice,
    load_space,
    network_costs,
    network_spec,
    read_architecture,
    scale,
)


@click.command("cost")
@click.argument("architecture", metavar="ARCH")
@click.option("--resolution", type=click.IntRange(min=1), help="Pixels on a side; the space's.")
@click.option("--space", help="Whose stem, head and strides to count with (default: mbconv6).")
@click.option("--classes", type=click.IntRange(min=1), default=1000, show_default=True)
@click.option("--scale", "coefficient", type=int, default=0, help="Compound coefficient, 0 to 7.")
@click.option("--layers", "by_layer", is_flag=True, help="Show every layer (JSON has them always).")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def command(
    architecture: str,
    resolution: int | None,
    space: str | None,
    classes: int,
    coefficient: int,
    by_layer: bool,
    as_json: bool,
) -> None:
    """Exact parameters and multiply-adds of ARCH.

    ARCH is a zoo name such as dna-c, a text such as 24:k5e3,k3e3/..., or a .json file.
    """
    parsed, named = read_architecture(architecture, ZOO)
    if space and named and space != named:
        raise UserError(f"the file is of space '{named}', but --space {space} is given; drop it")
    whole = load_space(space or named or "mbconv6")
    spec = scale(network_spec(whole, parsed, classes), coefficient)
    resolution = resolution or whole.resolution
    costs = network_costs(spec, resolution)
    blocks: list[dict[str, Any]] = [
        {
            "width": block.width,
            "ops": list(map(str, block.ops)),
            "params": cost.params,
            "macs": cost.macs,
            "layers": [{"params": layer.params, "macs": layer.macs} for layer in layers],
        }
        for block, cost, layers in zip(spec.blocks, costs.blocks, costs.layers, strict=True)
    ]
    if as_json:
        tree = {
            "architecture": str(
                Architecture(tuple(BlockChoice(b.width, b.ops) for b in spec.blocks))
            ),
            "resolution": resolution,
            "params": costs.total.params,
            "macs": costs.total.macs,
            "paper_flops": costs.total.paper_flops,
            "blocks": blocks,
            "fixed": {"params": costs.fixed.params, "macs": costs.fixed.macs},
        }
        click.echo(json.dumps(tree))
        return
    table = Table(title=f"{architecture} at {resolution} x {resolution} pixels")
    for name in ("part", "width", "ops", "parameters", "multiply-adds"):
        table.add_column(name, justify="left" if name in ("part", "ops") else "right")
    for number, block in enumerate(blocks, 1):
        if by_layer:
            table.add_section()
        ops = " ".join(block["ops"])
        table.add_row(f"block {number}", str(block["width"]), ops, *_counts(block))
        if by_layer:
            layers = zip(block["ops"], block["layers"], strict=True)
            for layer, (op, cost) in enumerate(layers, 1):
                table.add_row(f"  layer {layer}", "", op, *_counts(cost))
    table.add_row("stem, head", "", "", f"{costs.fixed.params:,}", f"{costs.fixed.macs:,}")
    table.add_section()
    table.add_row("all", "", "", f"{costs.total.params:,}", f"{costs.total.macs:,}")
    console = Console()
    console.print(table)
    console.print(f"FLOPs as the paper counts them: {costs.total.paper_flops:,}")


def _counts(cost: dict[str, Any]) -> tuple[str, str]:
    return f"{cost['params']:,}", f"{cost['macs']:,}"
