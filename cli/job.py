"""The options that `search` and `plan` share: what is to be searched, and where it runs."""

from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import click

from dna_ray.config import parse_job, put, setting
from dna_ray.data import EMBEDDED
from dna_ray.errors import UserError, nearest, read_text

from .values import parse_limits

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--generations", type=int, help="Generations of DNA+ (default: 1)."),
    click.option("--data", help="solar, photos, or a folder of pictures (default: solar)."),
    click.option(
        "--space",
        help="demo, mbconv6, mbconv4, or a .toml file (default: demo); NAME-single has one cell a "
        "block.",
    ),
    click.option(
        "--teacher", help="lite0, a timm network, NAME:FILE.safetensors, or a folder of ours."
    ),
    click.option(
        "--adapt-teacher/--no-adapt-teacher",
        default=None,
        help="Fit the teacher to the labels first (default: where its classes are others).",
    ),
    click.option("--max", "limits", multiple=True, metavar="COST=VALUE", help="Such as macs=15M."),
    click.option("--seed", type=int, help="Of all random streams (default: 0)."),
    click.option("--config", help="imagenet, the paper's recipe, or a TOML file of settings."),
    click.option(
        "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Such as rate.images=64."
    ),
)


_CLUSTER_OPTIONS = (
    click.option(
        "--address",
        help="A running Ray cluster to join: HOST:PORT, or auto; RAY_ADDRESS counts too.",
    ),
    click.option(
        "--workers",
        type=click.IntRange(min=1),
        help="Processes at a time (default: one for each GPU, or for each CPU without any).",
    ),
    click.option("--gpu", is_flag=True, help="Wait until every worker can have a GPU of its own."),
)


def cluster_options(command: F) -> F:
    """Give a command the options that say where it runs: those of `session`."""
    for option in reversed(_CLUSTER_OPTIONS):
        command = option(command)
    return command


def job_options(command: F) -> F:
    """Give a command the options that say what is to be searched."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def given_job(
    config: str | None, settings: tuple[str, ...], limits: tuple[str, ...], options: dict[str, Any]
) -> dict[str, Any]:
    """All that was asked for, as a tree: the file or recipe first, then --set, then the options."""
    held = parse_limits(limits)
    tree = {} if config is None else _configured(config)
    for text in settings:
        put(tree, *setting(text))
    tree |= {name: value for name, value in options.items() if value is not None}
    if held:
        tree["limits"] = held
    for name in ("data", "teacher"):
        source = tree.get(name)
        if isinstance(source, str) and source not in (*EMBEDDED, "lite0"):
            tree[name] = _absolute(source)
    return tree


def recipes() -> dict[str, str]:
    """The named recipes that come with the package, as TOML."""
    folder = resources.files("dna_ray") / "recipes"
    return {
        file.name.removesuffix(".toml"): file.read_text(encoding="utf-8")
        for file in folder.iterdir()
        if file.name.endswith(".toml")
    }


def _configured(given: str) -> dict[str, Any]:
    """The tree of a recipe by its name, or of a file; raises UserError."""
    known = recipes()
    if given in known:
        return parse_job(known[given], f"the recipe '{given}'")
    if not Path(given).suffix and not Path(given).exists():
        raise UserError(
            f"a configuration must be a named recipe or a TOML file, but '{given}' is neither; "
            f"{nearest(given, known)}"
        )
    return parse_job(read_text(Path(given), "a configuration file"), f"'{given}'")


def _absolute(source: str) -> str:
    """A path, or the path in NAME:FILE, from the root: a run may be resumed from elsewhere."""
    name, colon, file = source.rpartition(":")
    path = Path(file)
    return f"{name}{colon}{path.resolve()}" if path.exists() else source
