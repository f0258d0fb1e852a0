"""Whether the windows of a run stay in Ray's object store or are streamed through it.

Decided from sizes before anything runs. Windows are the same either way, and so are the results.
"""

from dataclasses import dataclass
from typing import Literal

from dna_ray.config import Job
from dna_ray.data.schedule import Schedule
from dna_ray.errors import UserError
from dna_ray.network.model import TrainedModel
from dna_ray.teacher import Cut

# Of the store, the most that is planned to be filled: at four fifths Ray begins to spill to disk.
_FILLED = 0.7

# Of that, what windows that are read and drawn may take at least before they are made.
_DRAWING = 0.3

# At least so many streamed windows are there at a time: one is read, one is made.
_LEAST, _MOST = 2, 64


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Bytes in the store.

    `window` is one window with all boundaries and logits; `everything` what `cache = all` keeps;
    `kept` what stays there when windows are streamed: those that rate, those of Tune's trials, and,
    as in `everything`, the teacher's weights.
    """

    window: int
    everything: int
    kept: int


@dataclass(frozen=True, kw_only=True)
class Cache:
    """What was decided; how many streamed windows may be `ahead`, and bytes to draw them in."""

    mode: Literal["all", "stream"]
    ahead: int
    drawing: int


def sizes(
    job: Job, plan: Schedule, teacher: TrainedModel, cut: Cut, classes: int, resolution: int
) -> Sizes:
    """The bytes of a run's windows, from the shapes at the teacher's cut, and of its weights."""
    # Twice: processes still hold those of the model that they ran before.
    weights = 2 * sum(tensor.nbytes for tensor in teacher.state.values())
    picture = 3 * resolution**2
    features = 4 * sum(width * size**2 for width, size in zip(cut.widths, cut.sizes, strict=True))
    logits = 4 * classes
    train, rating = plan.pictures("train"), plan.pictures("rating")
    taught = sum(map(len, plan.first("train", job.features.images)))
    epochs = job.distill.epochs if job.features.fresh else 1
    begun = 0
    if job.distill.strategy == "progressive_b":  # what the beginnings make of what teaches
        maps = zip(cut.widths[:-1], cut.sizes[:-1], strict=True)
        begun = job.distill.beam * 4 * max((width * size**2 for width, size in maps), default=0)
    everything = (
        weights
        + taught * epochs * begun
        + (train + rating + plan.pictures("test")) * (picture + logits)
        + (taught * epochs + rating) * features
        + taught * (epochs - 1) * picture
    )
    tried = sum(map(len, plan.first("train", job.tune.images)))
    return Sizes(
        window=job.features.window * (picture + features + logits),
        everything=everything,
        kept=weights + rating * (picture + features + logits) + tried * (picture + logits),
    )


def room_in(store: int) -> int:
    """The bytes that may be kept in a store of so many."""
    return int((1 - _DRAWING) * int(_FILLED * store))


def choose(job: Job, need: Sizes, store: int) -> Cache:
    """Choose by what fits a store of so many bytes; raises UserError where nothing does."""
    have, room = int(_FILLED * store), room_in(store)
    of = f"{1 - _DRAWING:.0%} of {_FILLED:.0%} of Ray's object store"
    if need.everything <= room and job.features.cache != "stream":
        return Cache(mode="all", ahead=_MOST, drawing=have - need.everything)
    if job.features.cache == "all" or job.distill.progressive:
        setting, remedy = "features.cache=all", "features.cache=stream"
        if job.distill.progressive:
            setting = f"distill.strategy={job.distill.strategy}"
            remedy = "distill.strategy=concurrent"
        raise UserError(
            f"with {setting} every window must fit {of}, but "
            f"{in_bytes(need.everything)} are needed and there are {in_bytes(room)}; set "
            f"{remedy}, features.images lower, or give the cluster a larger store"
        )
    # One more than is ahead: a rank still holds the one that it has read.
    ahead = min(_MOST, (room - need.kept) // need.window - 1)
    if ahead < _LEAST:
        raise UserError(
            f"to stream, the windows that rate and {_LEAST + 1} of {job.features.window} pictures "
            f"must fit {of}, but {in_bytes(need.kept + (_LEAST + 1) * need.window)} are needed and "
            f"there are {in_bytes(room)}; set features.window or rate.images lower, or give the "
            "cluster a larger store"
        )
    return Cache(mode="stream", ahead=ahead, drawing=have - room)


def describe(cache: Cache, need: Sizes, store: int) -> str:
    """The choice in a line, for people."""
    room = f"{in_bytes(need.everything)} for an object store of {in_bytes(store)}"
    if cache.mode == "all":
        return f"cache: all windows are kept ({room})"
    return (
        f"cache: windows are streamed, {cache.ahead} of {in_bytes(need.window)} ahead at most "
        f"({room})"
    )


def in_bytes(count: float) -> str:
    """An amount for people."""
    for power, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if count >= power:
            return f"{count / power:.3g} {unit}"
    return f"{count / 1e3:.3g} KB"
