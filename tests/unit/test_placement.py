"""Cells on ranks, and processors for ranks and tasks."""

import math
from itertools import product

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dna_ray.planning.calibration import Trial, rank_bytes
from dna_ray.planning.placement import RankPlan, Resources, plan_ranks, share_out
from dna_ray.space import Where

COSTS = st.lists(st.floats(0.1, 100), min_size=1, max_size=6)


def as_work(costs: list[float]) -> dict[Where, float]:
    return {(index // 2, index % 2): cost for index, cost in enumerate(costs)}


def check(plan: RankPlan, work: dict[Where, float], ranks: int, shards: int) -> None:
    """Every cell has its ranks, groups share evenly and are alone, and the loads add up."""
    assert list(plan.ranks_of) == sorted(work)
    assert 1 <= plan.ranks <= ranks
    loads = [0.0] * plan.ranks
    for where, group in plan.ranks_of.items():
        assert shards % len(group) == 0
        assert len(set(group)) == len(group)
        for rank in group:
            loads[rank] += work[where] / len(group)
            assert where in plan.cells(rank)
            if len(group) > 1:
                assert plan.cells(rank) == [where]
    assert all(plan.cells(rank) for rank in range(plan.ranks))
    assert plan.loads == pytest.approx(loads)
    assert plan.imbalance == pytest.approx(max(loads) / (sum(loads) / len(loads)))


@example(costs=[1.0] * 5, ranks=4, shards=1)
@given(COSTS, st.integers(1, 12), st.sampled_from([1, 2, 4, 6, 8]))
@settings(deadline=None)
def test_a_plan_is_whole_and_never_longer_than_longest_first(
    costs: list[float], ranks: int, shards: int
) -> None:
    work = as_work(costs)
    plan = plan_ranks(work, ranks, shards)
    check(plan, work, ranks, shards)
    loads = [0.0] * ranks
    for cost in sorted(costs, reverse=True):
        loads[loads.index(min(loads))] += cost
    assert max(plan.loads) <= max(loads) * (1 + 1e-12)
    if shards == 1:  # Graham's bound for any list
        used = min(ranks, len(costs))
        assert max(plan.loads) <= sum(costs) / used + (1 - 1 / used) * max(costs) + 1e-9


def best_groups(work: dict[Where, float], ranks: int, shards: int) -> float:
    """Brute force where no two cells may share a rank: all sizes of all groups."""
    sizes = [n for n in range(1, shards + 1) if shards % n == 0]
    fits = [c for c in product(sizes, repeat=len(work)) if sum(c) <= ranks]
    return min(max(w / n for w, n in zip(work.values(), c, strict=True)) for c in fits)


@given(st.lists(st.floats(1, 9), min_size=1, max_size=4), st.integers(0, 8))
@settings(deadline=None)
def test_more_ranks_than_cells_are_used_as_well_as_groups_of_their_own_can_be(
    costs: list[float], spare: int
) -> None:
    work = as_work(costs)
    plan = plan_ranks(work, len(costs) + spare, 4)
    assert max(plan.loads) <= best_groups(work, len(costs) + spare, 4) * (1 + 1e-12)


def test_heavy_cells_get_groups_and_light_ones_share() -> None:
    work = as_work([8.0, 1.0, 1.0, 1.0, 1.0])
    plan = plan_ranks(work, 6, 4)
    assert len(plan.ranks_of[0, 0]) == 4
    assert max(plan.loads) == 2
    assert plan.ranks == 6


@pytest.mark.parametrize(
    ("cpus", "workers", "beside", "ranks", "reserved"),
    [
        (2, 2, False, 2, 1.0),
        (2, 2, True, 2, 0.5),  # both ranks and two tasks find room
        (2, 1, True, 1, 1.0),
        (64, 64, True, 12, 1.0),
        (16, 16, True, 12, 0.5),
        (1, 1, True, 1, 0.5),
    ],
)
def test_neither_ranks_nor_tasks_beside_them_starve(
    cpus: float, workers: int, beside: bool, ranks: int, reserved: float
) -> None:
    share = share_out(Resources(cpus=cpus), workers, 12, beside=beside)
    assert (share.ranks, share.rank_cpus, share.rank_gpus) == (ranks, reserved, 0)
    assert share.ranks * share.rank_cpus + beside * share.task_cpus <= cpus


@given(
    st.integers(1, 16), st.integers(1, 40), st.integers(1, 40), st.booleans(), st.integers(0, 40)
)
def test_gpus_are_shared_where_they_must_and_memory_lets_them(
    gpus: int, workers: int, useful: int, beside: bool, gigabytes: int
) -> None:
    have = Resources(cpus=64, gpus=gpus, gpu_bytes=40 * 10**9)
    share = share_out(have, workers, useful, beside=beside, rank_bytes=gigabytes * 10**9)
    assert 1 <= share.ranks <= min(workers, useful)
    per_gpu = math.ceil(share.ranks / gpus)
    assert per_gpu * share.rank_gpus + beside * share.task_gpus <= 1
    assert per_gpu == 1 or per_gpu * gigabytes <= 32
    fitting = gpus * max(1, 32 // gigabytes) if gigabytes else math.inf
    assert share.ranks == min(workers, useful, fitting)


def test_a_rank_has_room_for_its_largest_cell_and_two_windows() -> None:
    trials = [Trial(seconds=1.0, gpu_bytes=size) for size in (300, 500, 400)]
    assert rank_bytes(trials, 70) == 640
    assert rank_bytes([Trial(seconds=1.0, gpu_bytes=0)], 70) == 0
