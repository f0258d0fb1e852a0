"""Where work goes: cells on the ranks of a Train run, and processors for ranks and tasks.

Plain decisions from numbers; dna_ray.remote carries them out. None of them changes a result.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from dna_ray.space import Where

# Of a device whose memory several processes share, how much they may plan to fill.
_FILLED = 0.8

# Of a GPU on which ranks train while the teacher's tasks feed them, what the ranks have, and what
# a task has; of one that ranks have left, what a task has.
_GPU_OF_RANKS, _GPU_OF_TASK, _GPU_ALONE = 0.8, 0.1, 0.5


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a cluster has: processors, GPUs, bytes of a GPU (0: not known), and of the store."""

    cpus: float
    gpus: int = 0
    gpu_bytes: int = 0
    store_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Share:
    """How many ranks a Train run has, what each reserves, and what a task beside them reserves."""

    ranks: int
    rank_cpus: float
    rank_gpus: float
    task_cpus: float
    task_gpus: float

    @property
    def task(self) -> dict[str, float]:
        """What a task that computes reserves, as Ray's options."""
        return {"num_cpus": self.task_cpus, "num_gpus": self.task_gpus}


def share_out(
    resources: Resources, workers: int, useful: int, *, beside: bool, rank_bytes: int = 0
) -> Share:
    """Ranks for up to `useful` of the `workers`, and room for tasks.

    Where tasks work `beside` the ranks, as when windows are streamed, neither may starve the other:
    if there are not processors for both, each reserves half of one, and the operating system gives
    the time to whoever has work. Several ranks share a GPU where what each needs, `rank_bytes`,
    fits its memory.
    """
    ranks = max(1, min(workers, useful))
    gpu = 0.0
    if resources.gpus:
        per_gpu = math.ceil(ranks / resources.gpus)
        if resources.gpu_bytes and rank_bytes:
            per_gpu = min(per_gpu, max(1, int(_FILLED * resources.gpu_bytes // rank_bytes)))
        ranks = min(ranks, per_gpu * resources.gpus)
        # Rounded down, so that as many as planned fit.
        gpu = math.floor(1000 * (_GPU_OF_RANKS if beside else 1.0) / per_gpu) / 1000
    crowded = beside and resources.cpus < 2 * ranks
    task_gpus = 0.0
    if resources.gpus:
        task_gpus = _GPU_OF_TASK if beside else _GPU_ALONE
    return Share(
        ranks=ranks,
        rank_cpus=0.5 if crowded else 1.0,
        rank_gpus=gpu,
        task_cpus=0.5 if crowded else 1.0,
        task_gpus=task_gpus,
    )


@dataclass(frozen=True)
class RankPlan:
    """Which ranks train which cell. Several ranks of a cell share the shards of its minibatches.

    `loads` (ranks,) is the work of every rank, in the unit that the plan was made with.
    """

    ranks_of: dict[Where, tuple[int, ...]]
    loads: tuple[float, ...]

    @property
    def ranks(self) -> int:
        """How many ranks have a cell to train."""
        return len(self.loads)

    @property
    def imbalance(self) -> float:
        """The work of the longest rank over the mean of all: 1 is perfect."""
        return max(self.loads) * self.ranks / sum(self.loads)

    def cells(self, rank: int) -> list[Where]:
        """The cells of a rank, in an order that all ranks agree on: groups must meet in step."""
        return [where for where, ranks in self.ranks_of.items() if rank in ranks]


def plan_ranks(work: Mapping[Where, float], ranks: int, shards: int = 1) -> RankPlan:
    """Share cells out so that the longest rank has as little to do as can be.

    `work` is the time or another measure of one cell's training. A cell on one rank may share it
    with other cells: the longest first, always to the rank with the least to do. Where a cell alone
    is too long, a group of ranks trains it, whose number divides `shards`, and nothing else. All
    useful lengths for the longest are tried.
    """
    longest_first = sorted(work, key=lambda where: (-work[where], where))
    groups = [n for n in range(1, min(shards, ranks) + 1) if shards % n == 0]
    best: RankPlan | None = None
    for length in sorted({math.inf, *(cost / n for cost in work.values() for n in groups)}):
        plan = _plan(work, longest_first, ranks, groups, length)
        if plan is not None and (best is None or max(plan.loads) < max(best.loads)):
            best = plan
    assert best is not None  # at no limit every cell is on one rank
    return best


def _plan(
    work: Mapping[Where, float],
    longest_first: list[Where],
    ranks: int,
    groups: list[int],
    length: float,
) -> RankPlan | None:
    """A plan in which groups are the smallest that stay within a length; None without room."""
    ranks_of: dict[Where, tuple[int, ...]] = {}
    loads: list[float] = []
    for where in longest_first:
        size = next((n for n in groups if work[where] / n <= length), groups[-1])
        if size > 1:
            ranks_of[where] = tuple(range(len(loads), len(loads) + size))
            loads += [work[where] / size] * size
    rest = [where for where in longest_first if where not in ranks_of]
    single = [0.0] * min(ranks - len(loads), len(rest))
    if len(loads) > ranks or (rest and not single):
        return None
    for where in rest:
        rank = single.index(min(single))
        single[rank] += work[where]
        ranks_of[where] = (len(loads) + rank,)
    ordered = {where: ranks_of[where] for where in sorted(ranks_of)}
    return RankPlan(ordered, (*loads, *single))
