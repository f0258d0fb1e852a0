"""Ratings held against paths trained alone: figures by hand, words by cases."""

import io
import re
from dataclasses import replace
from itertools import combinations
from math import isnan

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau, rankdata

from dna_ray.errors import UserError
from dna_ray.ranking import (
    ALIGNED,
    LEAST,
    Figure,
    Paths,
    Training,
    Truth,
    aligned,
    drawn_rows,
    hold_against,
    paths_alone,
    read_trainings,
    trainings_table,
    truth_verdict,
)
from dna_ray.ranking.agreement import kendall_within
from dna_ray.search import Ratings
from dna_ray.space import parse_space
from tests.runs import SPACE, ratings_at_random

Array = np.ndarray


@pytest.fixture(scope="module")
def ratings() -> Ratings:
    return ratings_at_random(parse_space(SPACE.format(name="tiny"), "tiny.toml"), 2, 0)


def some_paths(block: int, count: int, seed: int, noise: float = 0.3, turns: int = 1) -> Paths:
    rng = np.random.default_rng((block, seed))
    quality = rng.normal(size=count)
    return Paths(
        block=block,
        cell=np.arange(count) % 2,
        ops=tuple(f"op {number}" for number in range(count)),
        loss=quality + noise * rng.normal(size=count),
        turns=np.stack([quality + 0.05 * rng.normal(size=count) for _ in range(turns)], axis=1),
        costs={"params": rng.random(count), "macs": -quality + 2 * noise * rng.normal(size=count)},
    )


def naive_tau(groups: list[tuple[Array, Array, Array]]) -> float:
    """Pair by pair, over things that are repeated so often as they weigh."""
    concordant = untied_x = untied_y = 0
    for x, y, weights in groups:
        things = np.repeat(np.arange(len(x)), weights.astype(int))
        for i, j in combinations(things, 2):
            a, b = np.sign(x[i] - x[j]), np.sign(y[i] - y[j])
            concordant += a * b
            untied_x += a != 0
            untied_y += b != 0
    return float(concordant / np.sqrt(untied_x * untied_y)) if untied_x * untied_y else np.nan


values = st.integers(0, 4)
group = st.lists(st.tuples(values, values, st.integers(0, 3)), min_size=2, max_size=8)


@settings(deadline=None)
@given(st.lists(group, min_size=1, max_size=3))
def test_pairs_are_made_within_groups_alone(drawn: list[list[tuple[int, int, int]]]) -> None:
    columns = [np.array(rows, float).T for rows in drawn]
    groups = [(x, y, w[:, None].astype(np.float32)) for x, y, w in columns]
    found = kendall_within(groups)
    expected = naive_tau([(x, y, w) for x, y, w in columns])
    assert found[0] == pytest.approx(expected, nan_ok=True)


def test_one_block_gives_what_scipy_gives() -> None:
    part = some_paths(2, 30, 0)
    truth = hold_against([part])
    assert truth.paths == 30
    assert truth.rating.value == pytest.approx(kendalltau(part.loss, part.alone)[0])
    for name, cost in part.costs.items():  # more is better
        assert truth.costs[name].value == pytest.approx(kendalltau(cost, -part.alone)[0])
    assert truth.best_cost == "macs"
    assert truth.lead is not None
    assert truth.lead.value == pytest.approx(truth.rating.value - truth.costs["macs"].value)
    assert truth.itself is None
    for figure in (truth.rating, truth.lead, *truth.costs.values()):
        assert figure.low < figure.value < figure.high


def test_losses_of_different_blocks_are_never_compared() -> None:
    """A block whose losses are all far greater changes nothing."""
    parts = [some_paths(block, 12, 1) for block in (1, 2, 3)]
    moved = [replace(parts[0], loss=1000 + parts[0].loss), *parts[1:]]
    assert hold_against(parts) == hold_against(moved)


def test_a_random_order_reaches_what_theory_says() -> None:
    """Without ties tau has a variance of 2 (2n + 5) / (9 n (n - 1))."""
    for count in (8, 40):
        chance = hold_against([some_paths(1, count, 2)], resamples=4000).chance
        width = 1.96 * np.sqrt(2 * (2 * count + 5) / (9 * count * (count - 1)))
        assert chance.value == 0
        assert (-chance.low, chance.high) == pytest.approx((width, width), rel=0.12)


def test_a_cell_that_is_rated_better_than_it_deserves_is_told() -> None:
    """Its paths rate as if they lost a constant less: so many places in the mean, by hand."""
    part = some_paths(1, 40, 6, noise=0.0)
    fair = hold_against([part]).favour
    assert all(figure.low <= 0 <= figure.high for figure in fair.values())
    loss = np.where(part.cell == 0, part.alone - 1.5, part.alone)
    favour = hold_against([replace(part, loss=loss)]).favour
    for cell, sign in ((0, 1), (1, -1)):
        own = part.cell == cell
        places = rankdata(part.alone)[own].mean() - rankdata(loss)[own].mean()
        assert favour[cell].value == pytest.approx(100 * places / 40)
        assert sign * favour[cell].low > 0
        assert sign * favour[cell].high > 0
    assert hold_against([part, some_paths(2, 9, 3)]).favour == {}
    assert hold_against([replace(part, cell=np.zeros(40))]).favour == {}


def test_aligned_each_path_has_the_offset_of_the_others_of_its_cell() -> None:
    part = replace(some_paths(1, 30, 4), cell=np.arange(30) % 3)
    part.loss[part.cell == 1] += 2.0
    offsets = [
        np.mean([part.alone[j] - part.loss[j] for j in range(30) if j % 3 == i % 3 and j != i])
        for i in range(30)
    ]
    before, after = (kendalltau(part.loss + add, part.alone)[0] for add in (0.0, offsets))
    truth = hold_against([part])
    assert truth.aligned is not None
    assert truth.gain is not None
    assert truth.aligned.value == pytest.approx(after)
    assert truth.gain.value == pytest.approx(after - before)
    assert truth.gain.low > 0
    single = replace(part, cell=np.zeros(30))
    assert (hold_against([single]).aligned, hold_against([single]).gain) == (None, None)
    lonely = replace(part, cell=np.append(part.cell[:-1], 9))  # left out: it has no others
    rest = replace(
        part,
        cell=part.cell[:-1],
        ops=part.ops[:-1],
        loss=part.loss[:-1],
        turns=part.turns[:-1],
        costs={name: costs[:-1] for name, costs in part.costs.items()},
    )
    found, expected = hold_against([lonely]).aligned, hold_against([rest]).aligned
    assert found is not None
    assert expected is not None
    assert found.value == pytest.approx(expected.value)


def trained(ratings: Ratings, rows_of: dict[int, list[int]], offsets: list[Array]) -> list[Paths]:
    """Paths that lose their rating and the offset of their cell when trained alone."""
    losses = {
        Training(number, int(block.cell[row]), block.ops[row], 64, 1): float(
            block.loss[row] + offsets[number - 1][block.cell[row]]
        )
        for number, rows in rows_of.items()
        for block in (ratings.blocks[number - 1],)
        for row in rows
    }
    return paths_alone(ratings, losses)


def test_aligned_ratings_have_the_offset_of_every_cell(ratings: Ratings) -> None:
    """The blocks that were asked for, and nothing else; twice is once."""
    offsets = [np.array([-0.5, 0.25, 0.0]), np.array([0.125, -1.0, 0.5])]
    rows = {2: drawn_rows(ratings, 2, 0, LEAST).tolist()}
    found = aligned(ratings, trained(ratings, rows, offsets))
    first, second = ratings.blocks
    assert found.blocks[0] is first
    expected = second.loss + offsets[1][second.cell]
    assert found.blocks[1].loss == pytest.approx(expected)
    assert found.metadata == ratings.metadata | {ALIGNED: "2"}
    again = aligned(found, trained(found, rows, [0 * o for o in offsets]))
    assert again.blocks[1].loss == pytest.approx(expected)


def test_a_cell_with_too_few_paths_is_not_aligned(ratings: Ratings) -> None:
    rows = drawn_rows(ratings, 1, 0, LEAST).tolist()
    cell = ratings.blocks[0].cell
    of_one = [row for row in rows if cell[row] == cell[rows[0]]]
    rows.remove(of_one[0])
    parts = trained(ratings, {1: rows}, [np.zeros(3), np.zeros(3)])
    said = rf"{len(of_one)} paths .* cell {cell[of_one[0]]} of block 1 it is {len(of_one) - 1}"
    with pytest.raises(UserError, match=said):
        aligned(ratings, parts)


def test_of_every_cell_so_many_are_drawn(ratings: Ratings) -> None:
    for block in (1, 2):
        cell = ratings.blocks[block - 1].cell
        some, more = drawn_rows(ratings, block, 2), drawn_rows(ratings, block, 2, LEAST)
        assert more[:2].tolist() == some.tolist()
        assert len(set(more.tolist())) == len(more)
        counts = [int((cell[more] == c).sum()) for c in np.unique(cell)]
        assert all(n >= min(LEAST, (cell == c).sum()) for c, n in enumerate(counts))


def test_what_was_trained_twice_agrees_with_itself() -> None:
    part = some_paths(1, 20, 3, turns=2)
    turns = part.turns.copy()
    turns[15:, 1] = np.nan  # these once
    part = replace(part, turns=turns)
    truth = hold_against([part, some_paths(2, 9, 3)])
    assert part.alone[16] == turns[16, 0]
    assert part.alone[3] == pytest.approx(turns[3].mean())
    assert truth.itself is not None
    assert truth.itself.value == pytest.approx(kendalltau(*turns[:15].T)[0])


def test_paths_that_all_lose_the_same_say_nothing() -> None:
    part = some_paths(1, 5, 4)
    truth = hold_against([replace(part, turns=np.ones((5, 1)))])
    assert isnan(truth.rating.value)
    assert isnan(truth.chance.high)
    assert truth.best_cost is None
    assert truth_verdict(truth, {1: truth}).startswith("Nothing can be said: 5 paths")


def test_more_paths_are_the_same_and_more(ratings: Ratings) -> None:
    for block in (1, 2):
        count = len(ratings.blocks[block - 1].loss)
        few, all_ = drawn_rows(ratings, block, 5), drawn_rows(ratings, block, 10 * count)
        assert all_[:5].tolist() == few.tolist()
        assert sorted(all_) == list(range(count))


def test_what_is_kept_comes_back(ratings: Ratings) -> None:
    rows = {block: drawn_rows(ratings, block, 4) for block in (1, 2)}
    losses = {
        Training(block, int(paths.cell[row]), paths.ops[row], 48, turn): row + block / turn
        for block in (1, 2)
        for paths in (ratings.blocks[block - 1],)
        for turn in range(1, 1 + block)
        for row in rows[block]
    }
    buffer = io.BytesIO()
    pq.write_table(trainings_table(losses), buffer)
    buffer.seek(0)
    assert read_trainings(buffer) == losses
    for part in paths_alone(ratings, losses):
        paths, own = ratings.blocks[part.block - 1], np.sort(rows[part.block])
        assert part.loss.tolist() == paths.loss[own].tolist()
        assert part.turns.shape == (4, part.block)
        assert part.turns[:, -1].tolist() == (own + 1).tolist()
        assert {n: v.tolist() for n, v in part.costs.items()} == {
            n: paths.costs[own, i].tolist() for i, n in enumerate(ratings.cost_names)
        }


def test_which_path_was_trained_first_does_not_matter(ratings: Ratings) -> None:
    losses = {
        Training(block, cell, ops, 48, turn): float(row + turn)
        for block, table in enumerate(ratings.blocks, 1)
        for row, (cell, ops) in enumerate(zip(table.cell.tolist(), table.ops, strict=True))
        for turn in (1, 2)
    }
    backward = dict(reversed(losses.items()))
    held = [hold_against(paths_alone(ratings, each)) for each in (losses, backward)]
    assert held[0] == held[1]


def figure(value: float, spread: float) -> Figure:
    return Figure(value, value - spread, value + spread)


def truth(rating: Figure, cost: float, lead: Figure) -> Truth:
    return Truth(
        paths=48,
        rating=rating,
        costs={"macs": figure(cost, 0.1), "params": figure(-0.1, 0.1)},
        lead=lead,
        chance=figure(0, 0.2),
        favour={},
        aligned=figure(0.9, 0.05),
        gain=figure(0.0, 0.1),
        itself=None,
    )


@pytest.mark.parametrize(
    ("rating", "cost", "lead", "said"),
    [
        (figure(0.8, 0.1), 0.4, figure(0.4, 0.2), "ranks, and tells more than cost does: "),
        (figure(0.8, 0.1), 0.7, figure(0.1, 0.2), "ranks: .* cost does is open: 0.700 of mult"),
        (figure(0.4, 0.1), 0.8, figure(-0.4, 0.2), "ranks, but tells less than cost does: "),
        (figure(0.1, 0.2), 0.0, figure(0.1, 0.2), "is not shown to rank: .* reaches 0.200"),
        (figure(-0.5, 0.2), 0.0, figure(-0.5, 0.2), "ranks the wrong way round: "),
    ],
)
def test_the_verdict(
    rating: Figure, cost: float, lead: Figure, said: str, recwarn: pytest.WarningsRecorder
) -> None:
    total = truth(rating, cost, lead)
    words = truth_verdict(total, {1: total})
    assert re.match(f"The rating {said}", words), words
    assert "48 paths trained alone" in words
    assert "unfairly" not in words
    unfair = replace(total, gain=figure(0.1, 0.05))
    assert "unfairly: aligned, they rank by Kendall 0.900 (" in truth_verdict(unfair, {1: unfair})


def test_the_verdict_names_blocks_that_fall_short() -> None:
    good = truth(figure(0.8, 0.1), 0.4, figure(0.4, 0.2))
    poor = truth(figure(0.1, 0.2), 0.4, figure(-0.3, 0.2))
    assert truth_verdict(good, {1: good, 2: poor, 3: good}).endswith(
        "By block 2 alone that is not shown."
    )
    assert truth_verdict(good, {1: poor, 2: poor, 3: good}).endswith(
        "By blocks 1, 2 alone that is not shown."
    )
