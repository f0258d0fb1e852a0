"""The configuration of a search: one frozen dataclass per stage, each of which checks itself.

The defaults are those of the embedded demo on two cores; tests/benchmarks/RESULTS.md holds the
measurements behind them. Every key can be set in a TOML file or by `--set SECTION.KEY=VALUE`.
"""

import dataclasses
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import tomli_w

from dna_ray.errors import UserError, nearest

Sampling = Literal["fair", "uniform"]
Loss = Literal["mse", "relative_l1"]
CacheChoice = Literal["auto", "all", "stream"]
Strategy = Literal["concurrent", "progressive_a", "progressive_b"]


def _check(section: str, key: str, value: float, low: float, high: float = float("inf")) -> None:
    if not low <= value <= high:
        bound = f"at least {low:g}" if high == float("inf") else f"between {low:g} and {high:g}"
        raise UserError(f"{section}.{key} must be {bound}, but is {value:g}")


def _check_shards(section: str, batch: int, shards: int) -> None:
    _check(section, "shards", shards, 1)
    if batch % shards or batch // shards < 2:
        raise UserError(
            f"{section}.batch must be a multiple of {section}.shards, two pictures or more each, "
            f"but they are {batch} and {shards}"
        )


@dataclass(frozen=True, kw_only=True)
class Features:
    """The windows of augmented pictures, and how many of them have the teacher's features.

    `images` augmented pictures teach the cells; all `views` x pictures teach the found networks.
    With `fresh`, the cells see new views of the pictures in every epoch, not the same again.
    `cache`: `all` makes every window once and keeps it in Ray's object store; `stream` makes a
    bounded number ahead of who reads them, anew for every pass; `auto` is `all` where that fits.
    The windows are the same, and so are the results. `crop` is the smallest share of a picture
    that a random resized crop keeps; `jitter` the strength of colour jitter; `erasing` how
    likely random erasing is.
    """

    images: int = 1024
    views: int = 2
    window: int = 128
    fresh: bool = False
    cache: CacheChoice = "auto"
    crop: float = 0.5
    jitter: float = 0.0
    erasing: float = 0.0

    def __post_init__(self) -> None:
        _check("features", "images", self.images, 1)
        _check("features", "views", self.views, 1)
        _check("features", "window", self.window, 2)
        _check("features", "crop", self.crop, 0.01, 1)
        _check("features", "jitter", self.jitter, 0, 1)
        _check("features", "erasing", self.erasing, 0, 1)


@dataclass(frozen=True, kw_only=True)
class Distill:
    """Training of the cells. `learning_rate_first` is block 1's.

    `loss`: `mse` is Eq 6; `relative_l1` is Eq 7, as rating has it, over the minibatch.
    `sampling`: `fair` takes every op of every layer once a round; `uniform` is the paper's. A
    minibatch is computed in `shards` parts of equal size; where there are more workers than cells,
    up to that number of them train one cell, and the result is the same on any of them.
    Each cell is trained as `members` networks apart, with weights, paths and an order of their own,
    and a path's rating is the mean of its losses in them; 0 is five, or one where the strategy is
    progressive.
    `strategy`: `concurrent` trains all blocks at once, each behind the teacher's; `progressive_a`
    and `progressive_b` train and search block after block, each behind the `beam` best beginnings
    found so far, which A trains again from scratch with the block and B keeps frozen (section 4.6).
    """

    epochs: int = 2
    batch: int = 16
    shards: int = 1
    paths_per_minibatch: int = 2
    sampling: Sampling = "fair"
    members: int = 0
    loss: Loss = "mse"
    learning_rate: float = 0.003
    learning_rate_first: float = 0.005
    decay: float = 0.35
    weight_decay: float = 1e-4
    strategy: Strategy = "concurrent"
    beam: int = 4

    def __post_init__(self) -> None:
        _check("distill", "epochs", self.epochs, 1)
        _check("distill", "batch", self.batch, 2)
        _check_shards("distill", self.batch, self.shards)
        _check("distill", "paths_per_minibatch", self.paths_per_minibatch, 1)
        _check("distill", "learning_rate", self.learning_rate, 1e-12)
        _check("distill", "learning_rate_first", self.learning_rate_first, 1e-12)
        _check("distill", "decay", self.decay, 1e-6, 1)
        _check("distill", "weight_decay", self.weight_decay, 0)
        _check("distill", "beam", self.beam, 1)
        _check("distill", "members", self.members, 0)
        if self.progressive and self.members > 1:
            raise UserError(
                f"with distill.strategy={self.strategy} a cell is trained once, but "
                f"distill.members is {self.members}; set distill.members=1"
            )
        if self.progressive and self.shards > 1:
            raise UserError(
                f"with distill.strategy={self.strategy} one worker trains a cell, but "
                f"distill.shards is {self.shards}; set distill.shards=1"
            )

    @property
    def trainings(self) -> int:
        """How many members each cell has."""
        return self.members or (1 if self.progressive else 5)

    @property
    def progressive(self) -> bool:
        """Whether blocks are trained and searched one after another."""
        return self.strategy != "concurrent"


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Rating of the paths (Eq 7) on `images` held-out pictures.

    Batch norm is recalibrated on `recalibration` further held-out pictures. `interactions` is the
    part of what ops of a path have to do with each other that stays in its rating; with 1 it is the
    loss alone, as in the paper.
    """

    images: int = 320
    recalibration: int = 64
    interactions: float = 0.25

    def __post_init__(self) -> None:
        _check("rate", "images", self.images, 2)
        _check("rate", "recalibration", self.recalibration, 2)
        _check("rate", "interactions", self.interactions, 0, 1)


@dataclass(frozen=True, kw_only=True)
class Adapt:
    """Fine-tuning of the first teacher to the labels of the task, in passes over the windows."""

    passes: int = 1
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2

    def __post_init__(self) -> None:
        _check("adapt", "passes", self.passes, 1)
        _check("adapt", "learning_rate", self.learning_rate, 1e-12)
        _check("adapt", "weight_decay", self.weight_decay, 0)


@dataclass(frozen=True, kw_only=True)
class Tune:
    """The sweep of the retraining's learning rate and weight decay, log-uniform in these ranges."""

    trials: int = 4
    images: int = 512
    passes: int = 2
    learning_rate: tuple[float, float] = (1e-3, 1e-2)
    weight_decay: tuple[float, float] = (1e-3, 1e-1)

    def __post_init__(self) -> None:
        _check("tune", "trials", self.trials, 1)
        _check("tune", "images", self.images, 2)
        _check("tune", "passes", self.passes, 1)
        for name in ("learning_rate", "weight_decay"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise UserError(
                    f"tune.{name} must be a range 0 < low <= high, but is {low}, {high}"
                )


@dataclass(frozen=True, kw_only=True)
class Retrain:
    """Training of the found network, in passes over all windows, and of its scaled copy.

    The loss is `label_weight` x cross entropy with the labels + the rest x cross entropy with the
    first teacher's soft labels; without labels it is the soft labels alone. A minibatch is
    computed in `shards` parts of equal size, on as many workers as there are up to that number:
    the result is the same on any of them. Minibatches are drawn among `shuffle` pictures at a time.
    `scale` is the compound coefficient (0 to 7) by which the found network grows to be the next
    teacher.
    """

    passes: int = 3
    scaled_passes: int = 4
    batch: int = 64
    shards: int = 2
    shuffle: int = 8192
    label_weight: float = 0.5
    scale: int = 1

    def __post_init__(self) -> None:
        _check("retrain", "passes", self.passes, 1)
        _check("retrain", "scaled_passes", self.scaled_passes, 1)
        _check("retrain", "shuffle", self.shuffle, 2)
        _check("retrain", "label_weight", self.label_weight, 0, 1)
        _check("retrain", "scale", self.scale, 0, 7)
        _check("retrain", "batch", self.batch, 2)
        _check_shards("retrain", self.batch, self.shards)


@dataclass(frozen=True, kw_only=True)
class Job:
    """A whole search."""

    data: str = "solar"
    space: str = "demo"
    teacher: str = "lite0"
    adapt_teacher: bool | None = None
    generations: int = 1
    seed: int = 0
    resolution: int = 0
    limits: dict[str, float] = field(default_factory=dict)
    features: Features = field(default_factory=Features)
    distill: Distill = field(default_factory=Distill)
    rate: Rate = field(default_factory=Rate)
    adapt: Adapt = field(default_factory=Adapt)
    tune: Tune = field(default_factory=Tune)
    retrain: Retrain = field(default_factory=Retrain)

    def __post_init__(self) -> None:
        if self.generations < 1:
            raise UserError(f"generations must be 1 or more, but are {self.generations}")
        if self.seed < 0:
            raise UserError(f"the seed must be 0 or more, but is {self.seed}")
        if self.resolution and self.resolution < 32:
            raise UserError(f"the resolution must be 32 or more, but is {self.resolution}")
        if self.distill.progressive and self.features.cache == "stream":
            raise UserError(
                f"with distill.strategy={self.distill.strategy} windows must be kept, but "
                "features.cache is stream; set features.cache=all"
            )
        for name, value in self.limits.items():
            if not value > 0:
                raise UserError(f"a limit must be more than 0, but {name} is {value:g}")


def parse_job(text: str, source: str) -> dict[str, Any]:
    """The tree of a TOML configuration; raises UserError where it is not TOML."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"a configuration must be TOML, but {source} is not: {error}") from None


def job_from_tree(tree: Mapping[str, Any]) -> Job:
    """Build and check a Job; unknown keys are named with the nearest valid one."""
    return typing.cast(Job, _build(Job, tree, ""))


def job_to_toml(job: Job) -> str:
    """The whole configuration, defaults included, as TOML that `job_from_tree` reads back."""
    return tomli_w.dumps(_plain(dataclasses.asdict(job)))


def differences(one: Job, other: Job) -> list[str]:
    """The keys, `SECTION.KEY`, in which two configurations differ."""
    trees = [_flat(dataclasses.asdict(job), "") for job in (one, other)]
    return [key for key in trees[0] | trees[1] if trees[0].get(key) != trees[1].get(key)]


def _flat(tree: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = prefix + key
        flat |= _flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


def setting(text: str) -> tuple[list[str], Any]:
    """Split `SECTION.KEY=VALUE` into its path and its value, which is read as TOML or as a word."""
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise UserError(
            f"a setting is written KEY=VALUE or SECTION.KEY=VALUE, but '{text}' is given"
        )
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value
    return name.split("."), parsed


def put(tree: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Set one key of a nested tree."""
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
        if not isinstance(tree, dict):
            raise UserError(f"'{'.'.join(path)}' is no configuration key: '{name}' is no section")
    tree[path[-1]] = value


def _plain(tree: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _plain(value) if isinstance(value, dict) else value
        for key, value in tree.items()
        if value is not None
    }


def _build(kind: type, tree: Mapping[str, Any], prefix: str) -> Any:
    hints = typing.get_type_hints(kind)
    for key in tree:
        if key not in hints:
            raise UserError(f"unknown configuration key '{prefix}{key}'; {nearest(key, hints)}")
    return kind(**{key: _value(hints[key], value, f"{prefix}{key}") for key, value in tree.items()})


def _value(hint: Any, value: Any, name: str) -> Any:
    """Check `value` against the type of a field and convert what TOML cannot say."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        if isinstance(value, Mapping):
            return _build(typing.cast(type, hint), value, f"{name}.")
    elif origin is Literal:
        if value in parts:
            return value
        raise UserError(f"{name} must be known, but is '{value}'; {nearest(str(value), parts)}")
    elif origin is types.UnionType:
        return _value(parts[0], value, name)
    elif origin is tuple:
        if isinstance(value, list | tuple) and len(value) == len(parts):
            return tuple(_value(p, v, name) for p, v in zip(parts, value, strict=True))
    elif origin is dict:
        if isinstance(value, Mapping):
            return {key: _value(parts[1], v, f"{name}.{key}") for key, v in value.items()}
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif isinstance(value, hint) and isinstance(value, bool) == (hint is bool):
        return value
    expected = getattr(hint, "__name__", str(hint)) if origin is None else str(hint)
    raise UserError(f"{name} must be of type {expected}, but is {value!r}")
