"""The exact search, against brute force over every architecture of small tables."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dna_ray.errors import UserError
from dna_ray.search import (
    ALGORITHMS,
    Ratings,
    check_limits,
    pareto_front,
    ratings_of,
    read_ratings,
    select,
    to_arrow,
)
from dna_ray.search.pareto import nondominated, undominated
from dna_ray.search.table import BlockPaths, Edge
from dna_ray.search.traversal import traverse
from dna_ray.space import (
    Architecture,
    BlockChoice,
    Op,
    cost_table,
    load_space,
    network_costs,
    network_spec,
)
from dna_ray_cli.values import parse_limits

Draw = Callable[[st.SearchStrategy[Any]], Any]
NAMES = ("params", "macs", "latency_ms")

# Oracles


def naive_nondominated(points: np.ndarray) -> list[int]:
    """By comparing every pair: first of its equals, dominated by none; in the promised order."""
    nowhere_worse = np.ones((len(points), len(points)), bool)  # [i, j]: j against i
    equal = np.ones_like(nowhere_worse)
    for column in points.T:
        nowhere_worse &= column[None] <= column[:, None]
        equal &= column[None] == column[:, None]
    earlier = np.tri(len(points), k=-1, dtype=bool)
    beaten = (nowhere_worse & (~equal | earlier)).any(axis=1)
    return sorted(np.flatnonzero(~beaten).tolist(), key=lambda i: tuple(points[i])[::-1])


@dataclass(frozen=True)
class Everything:
    """All architectures of a table: rows taken (tuples), loss (n,), costs (n, C)."""

    rows: list[tuple[int, ...]]
    loss: np.ndarray
    costs: np.ndarray

    def points(self, columns: Sequence[int]) -> np.ndarray:
        return np.column_stack((self.loss, self.costs[:, list(columns)]))

    def within(self, limits: dict[int, float]) -> np.ndarray:
        mask: np.ndarray = np.all(
            [self.costs[:, c] <= limit for c, limit in limits.items()], axis=0
        )
        return mask

    def feasible(self, limits: dict[str, float]) -> np.ndarray:
        """Which architectures are within limits by name."""
        if not limits:
            return np.arange(len(self.rows))
        return np.flatnonzero(self.within({NAMES.index(n): v for n, v in limits.items()}))


def everything(ratings: Ratings) -> Everything:
    """One architecture after another, each summed block by block in order."""
    none = [0.0] * len(ratings.cost_names)
    edges = {(e.block, e.input_width, e.cell, e.op): e.costs for e in ratings.edges}
    assert len(edges) == len(ratings.edges)
    tables = [
        list(zip(b.cell, b.width.tolist(), b.ops, b.loss.tolist(), b.costs.tolist(), strict=True))
        for b in ratings.blocks
    ]
    rows, losses, costs = [], [], []
    for taken in product(*(range(len(table)) for table in tables)):
        loss, parts, before = 0.0, [ratings.fixed.tolist()], 0
        for number, row in enumerate(taken, 1):
            cell, width, ops, own_loss, own_costs = tables[number - 1][row]
            loss += own_loss
            parts += [own_costs, edges.get((number, before, cell, ops.split(",")[0]), none)]
            before = width
        parts.append(edges.get((len(taken) + 1, before, -1, ""), none))
        rows.append(taken)
        losses.append(loss)
        costs.append([sum(column) for column in zip(*parts, strict=True)])
    return Everything(rows, np.array(losses), np.array(costs).reshape(len(rows), -1))


# Tables


def block_of(rows: Sequence[tuple[int, int, str, float, Sequence[float]]]) -> BlockPaths:
    """A block from rows of cell, width, ops, loss and costs."""
    cell, width, ops, loss, costs = zip(*rows, strict=True)
    return BlockPaths(
        cell=np.array(cell, np.int64),
        width=np.array(width, np.int64),
        ops=tuple(ops),
        loss=np.array(loss, np.float64),
        costs=np.array(costs, np.float64).reshape(len(rows), -1),
    )


def one_block(costs: Sequence[Sequence[float]], names: tuple[str, ...] = NAMES) -> Ratings:
    """A table of one block without widths, whose rows differ in costs; all losses are equal."""
    rows = [(0, 0, f"k3e{i}", 1.0, row) for i, row in enumerate(costs, 1)]
    return Ratings((block_of(rows),), names[: len(costs[0])], np.zeros(len(costs[0])))


small_costs = st.sampled_from([0, 0, 1, 2, 3, 10**15])
differences = st.sampled_from([-1, 0, 1, 2, 10**15])
losses = st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.7]) | st.floats(0, 10)


@st.composite
def tables(draw: st.DrawFn, least_costs: int = 0, differences: Any = differences) -> Ratings:
    """Up to four blocks of up to four paths with ties; cells that share or change their width."""
    count = draw(st.integers(least_costs, 3))

    def costs(of: st.SearchStrategy[int]) -> tuple[float, ...]:
        return tuple(float(draw(of)) for _ in range(count))

    blocks: list[BlockPaths] = []
    edges: list[Edge] = []
    before: list[int] = []
    for number in range(1, draw(st.integers(1, 4)) + 1):
        widths = draw(st.lists(st.sampled_from([8, 16, 24]), min_size=1, max_size=3))
        rows = []
        for row in range(draw(st.integers(1, 4))):
            cell = draw(st.integers(0, len(widths) - 1))
            ops = f"{draw(st.sampled_from(['k3e3', 'k5e3']))},k3e{row + 1}"
            rows.append((cell, widths[cell], ops, draw(losses), costs(small_costs)))
        blocks.append(block_of(rows))
        places = product(before[1:], range(len(widths)), ("k3e3", "k5e3"))
        edges += [Edge(number, *place, costs(differences)) for place in places]
        before = list(dict.fromkeys(widths))
    edges += [Edge(len(blocks) + 1, width, -1, "", costs(differences)) for width in before[1:]]
    fixed = np.array(costs(small_costs))
    return Ratings(tuple(blocks), NAMES[:count], fixed, tuple(edges), {"seed": "1"})


# nondominated


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 4), st.data())
def test_nondominated_equals_all_pairs_with_ties(dimensions: int, data: st.DataObject) -> None:
    point = st.tuples(*[st.integers(0, 3)] * dimensions)
    rows = data.draw(st.lists(point, max_size=30))
    points = np.array(rows, np.float64).reshape(-1, dimensions)
    assert nondominated(points).tolist() == naive_nondominated(points)


def simplex(rng: np.random.Generator, count: int, dimensions: int) -> np.ndarray:
    """Points of one sum: none of them dominates another."""
    points = rng.integers(0, 10**6, (count, dimensions)).astype(np.float64)
    points[:, -1] = 10**7 - points[:, :-1].sum(axis=1)
    return points


def shadowed(rng: np.random.Generator, count: int, dimensions: int) -> np.ndarray:
    """A front, and behind its last points others that hardly any but these dominate."""
    points = simplex(rng, count, dimensions)
    shadows = points[np.argsort(points[:, -1])[-500:]]
    shadows[:, -1] += 3e5
    return rng.permutation(np.concatenate((points, shadows)))


LARGE: dict[str, Callable[[np.random.Generator, int, int], np.ndarray]] = {
    "random": lambda rng, n, d: rng.random((n, d)),
    "ties": lambda rng, n, d: rng.integers(0, 12, (n, d)).astype(np.float64),
    "few values": lambda rng, n, d: rng.integers(0, 2, (n, d)).astype(np.float64),
    "front": simplex,
    "shadows": shadowed,
    "duplicates": lambda rng, n, d: rng.permutation(np.repeat(simplex(rng, n // 2, d), 2, axis=0)),
    "one point": lambda rng, n, d: np.ones((n, d)),
    "spread": lambda rng, n, d: simplex(rng, n, d) + rng.integers(0, 3, (n, 1)) * 10.0**5,
}


@pytest.mark.parametrize("kind", LARGE)
@pytest.mark.parametrize("dimensions", [1, 2, 3, 4])
def test_nondominated_equals_all_pairs_over_many_chunks(kind: str, dimensions: int) -> None:
    points = LARGE[kind](np.random.default_rng(dimensions), 2600, dimensions)
    before = points.copy()
    found = nondominated(points).tolist()
    assert found == naive_nondominated(points)
    assert np.array_equal(points, before)
    if kind in ("front", "shadows") and dimensions > 2:
        assert len(found) >= 2600 > 2048, "the instance must outgrow a chunk of kept points"


# pareto_front


def assert_front_is_complete(ratings: Ratings, names: Sequence[str]) -> None:
    front, all_ = pareto_front(ratings, tuple(names)), everything(ratings)
    columns = [NAMES.index(name) for name in names]
    points = all_.points(columns)
    expected = {tuple(points[i]) for i in naive_nondominated(points)}
    found = list(map(tuple, np.column_stack((front.loss, front.costs[:, columns]))))
    assert set(found) == expected
    assert len(found) == len(expected) == len(front)
    assert found == sorted(found, key=lambda point: point[::-1])
    place = {rows: i for i, rows in enumerate(all_.rows)}
    for rows, loss, costs in zip(front.paths.tolist(), front.loss, front.costs, strict=True):
        i = place[tuple(rows)]
        assert loss == all_.loss[i]
        assert costs.tolist() == all_.costs[i].tolist()


@settings(max_examples=60, deadline=None)
@given(tables(), st.data())
def test_the_front_is_complete_and_exact(ratings: Ratings, data: st.DataObject) -> None:
    subsets = [s for n in range(len(ratings.cost_names) + 1) for s in combinations(NAMES[:3], n)]
    names = data.draw(st.sampled_from([s for s in subsets if set(s) <= {*ratings.cost_names}]))
    assert_front_is_complete(ratings, data.draw(st.permutations(names)))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("names", [(), ("macs",), ("macs", "params"), NAMES])
def test_the_front_of_a_larger_table(names: tuple[str, ...], seed: int) -> None:
    """Three blocks of twelve paths in three widths, random losses, costs of every size."""
    rng = np.random.default_rng(seed)
    blocks, edges, widths = [], [], (16, 8, 40)
    for number in (1, 2, 3):
        blocks.append(
            block_of(
                [
                    (i % 3, widths[i % 3], f"k{3 + 2 * (i % 2)}e3,k3e{i + 1}", rng.random(), row)
                    for i, row in enumerate(rng.integers(0, 10 ** rng.integers(1, 7), (12, 3)))
                ]
            )
        )
        for width, cell, op in product(widths[1:], range(3), ("k3e3", "k5e3")):
            costs = tuple(map(float, rng.integers(-(10**4), 10**4, 3)))
            edges.append(Edge(number + 1, width, cell, op, costs))
    edges = [edge for edge in edges if edge.block < 4]
    edges += [Edge(4, width, -1, "", (1e4, -1e3, 5.0)) for width in widths[1:]]
    assert_front_is_complete(Ratings(tuple(blocks), NAMES, np.ones(3), tuple(edges)), names)


def test_a_front_needs_a_cost_of_the_table() -> None:
    with pytest.raises(UserError, match=r"\(params, macs\).*'energy'"):
        pareto_front(one_block([[1, 2]]), ("energy",))


def test_a_front_is_a_table_of_texts_that_name_its_rows() -> None:
    wide = [(0, 8, "k3e3", 0.5, [3.0]), (1, 16, "k5e6,k3e3", 0.25, [4.0])]
    last = [(0, 24, "k7e6", 0.125, [1.0])]
    ratings = Ratings((block_of(wide), block_of(last)), ("macs",), np.array([10.0]))
    assert pareto_front(ratings, ("macs",)).to_arrow().to_pydict() == {
        "architecture": ["8:k3e3/24:k7e6", "16:k5e6,k3e3/24:k7e6"],
        "loss": [0.625, 0.375],
        "macs": [14.0, 15.0],
    }


# select


def limited(draw: Draw, all_: Everything, names: Sequence[str]) -> dict[str, float]:
    """Limits on some costs, most of them exactly met by some architecture."""
    names = draw(st.permutations(names))
    limits = {}
    for name in names[: draw(st.integers(0, len(names)))]:
        exact = float(draw(st.sampled_from(sorted(set(all_.costs[:, NAMES.index(name)])))))
        limits[name] = exact + draw(st.sampled_from([0, 0, 0.5, -0.5, -1e15]))
    return limits


@settings(max_examples=80, deadline=None)
@given(tables(), st.data())
def test_select_finds_the_optimum_or_says_what_could_be_met(
    ratings: Ratings, data: st.DataObject
) -> None:
    all_ = everything(ratings)
    limits = limited(data.draw, all_, ratings.cost_names)
    columns = {NAMES.index(name): limit for name, limit in limits.items()}
    feasible = all_.feasible(limits)
    if len(feasible) == 0:
        assert_clash_is_explained(ratings, all_, limits)
        return
    check_limits(ratings, limits)
    best = min(tuple(point) for point in all_.points(list(columns))[feasible].tolist())
    selection = select(ratings, limits)
    i = all_.rows.index(selection.found.paths)
    assert selection.found.text == ratings.text(np.array(all_.rows[i]))
    assert (selection.found.loss, *[selection.found.costs[name] for name in limits]) == best
    assert selection.found.loss == all_.loss[i]
    assert list(selection.found.costs.values()) == all_.costs[i].tolist()
    assert tuple(selection.found.costs) == ratings.cost_names
    assert selection.limits == limits
    assert selection.certificate.candidates == len(all_.rows)
    assert selection.certificate.proven_optimal


def explained(ratings: Ratings, limits: dict[str, float]) -> tuple[dict[str, float], ...]:
    """What the message says was given, and what it says could be met."""
    with pytest.raises(UserError) as caught:
        select(ratings, limits)
    with pytest.raises(UserError, match=re.escape(str(caught.value))):
        check_limits(ratings, limits)
    given_, remedy = str(caught.value).split(";")
    found = [re.findall(r"(\w+)=(\S+)", part) for part in (given_, remedy)]
    found[1] += re.findall(r"met is (\w+) (\S+)", remedy)
    return tuple({name: float(value) for name, value in part} for part in found)


def assert_clash_is_explained(ratings: Ratings, all_: Everything, limits: dict[str, float]) -> None:
    """The named limits clash, no fewer do, and each remedy is the least that brute force finds."""
    clash, remedies = explained(ratings, limits)
    assert clash.items() <= limits.items()
    assert clash.keys() == remedies.keys()
    column = {name: NAMES.index(name) for name in limits}
    assert not all_.within({column[name]: limits[name] for name in clash}).any()
    for names in combinations(limits, len(clash) - 1):
        assert not names or all_.within({column[name]: limits[name] for name in names}).any()
    for name, value in remedies.items():
        others = {column[other]: limits[other] for other in clash if other != name}
        held = all_.within(others) if others else np.ones(len(all_.rows), bool)
        assert value == all_.costs[held, column[name]].min()
        assert value > limits[name]


def test_a_limit_that_is_exactly_met_is_met() -> None:
    ratings = one_block([[3, 10**15]])
    limits = {"params": 3.0, "macs": 1e15}
    assert select(ratings, limits).found.costs == limits
    for name in limits:
        below = limits | {name: math.nextafter(limits[name], 0)}
        assert explained(ratings, below) == ({name: below[name]}, {name: limits[name]})


def test_of_equal_losses_the_smaller_first_limited_cost_wins() -> None:
    ratings = one_block([[2, 1, 5], [1, 2, 6], [1, 2, 7]])
    assert select(ratings, {"params": 9, "macs": 9}).found.costs["params"] == 1
    assert select(ratings, {"macs": 9, "params": 9}).found.costs["macs"] == 1
    assert select(ratings, {"params": 9, "latency_ms": 9}).found.costs["latency_ms"] == 6


def test_one_limit_that_nothing_meets_is_named_with_the_least_that_can_be() -> None:
    ratings = one_block([[4, 100], [7, 3]])
    assert explained(ratings, {"macs": 2, "params": 9}) == ({"macs": 2}, {"macs": 3})


def test_two_limits_that_clash_only_together_are_named_together() -> None:
    ratings = one_block([[1, 9, 0], [9, 1, 0], [5, 6, 0]])
    clash, remedies = explained(ratings, {"latency_ms": 5, "params": 5, "macs": 4})
    assert clash == {"params": 5, "macs": 4}
    assert remedies == {"params": 9, "macs": 6}
    for name, value in remedies.items():
        assert select(ratings, clash | {name: value}).found.costs[name] == value


def test_three_limits_that_clash_only_together_are_named_together() -> None:
    ratings = one_block([[1, 1, 9], [1, 8, 1], [7, 1, 1]])
    limits = dict.fromkeys(NAMES, 1.0)
    assert explained(ratings, limits) == (limits, {"params": 7, "macs": 8, "latency_ms": 9})


@pytest.mark.parametrize("least", [3.0, 0.1, 4.35, 1 / 3, 123456789.0, 1e15, 3e-12, 1e22])
def test_a_remedy_can_be_typed_as_a_limit(least: float) -> None:
    ratings = one_block([[least]], ("latency_ms",))
    with pytest.raises(UserError) as caught:
        select(ratings, {"latency_ms": least / 2})
    remedy = re.search(r"latency_ms=(\S+)$", str(caught.value))
    assert remedy
    assert select(ratings, parse_limits((remedy[0],))).found.costs == {"latency_ms": least}


def test_a_limit_on_an_unknown_cost_names_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"\(params, macs\).*'mac'"):
        select(one_block([[1, 2]]), {"mac": 5})


def test_a_table_without_costs_is_searched_by_loss_alone() -> None:
    no_costs: list[float] = []
    rows = [(0, 0, f"k3e{i}", loss, no_costs) for i, loss in enumerate((0.5, 0.25, 0.25), 1)]
    selection = select(Ratings((block_of(rows),) * 2, (), np.zeros(0)), {})
    assert (selection.found.loss, selection.found.costs, selection.certificate.candidates) == (
        0.5,
        {},
        9,
    )
    with pytest.raises(UserError, match=r"\(none\).*'macs'"):
        select(Ratings((block_of(rows),), (), np.zeros(0)), {"macs": 5})


# All ways to the same answer


@settings(max_examples=60, deadline=None)
@given(tables(differences=small_costs), st.data())  # Algorithm 2 needs costs of 0 or more
def test_all_algorithms_find_the_same_losses(ratings: Ratings, data: st.DataObject) -> None:
    """Brute force, merging within bounds, the integer program, and Algorithm 2."""
    all_ = everything(ratings)
    limits = limited(data.draw, all_, ratings.cost_names)
    feasible = all_.feasible(limits)
    if len(feasible) == 0:
        for algorithm in ALGORITHMS:
            with pytest.raises(UserError, match="none meets"):
                select(ratings, limits, algorithm=algorithm)
        return
    least = all_.loss[feasible].min()
    for algorithm in ALGORITHMS:
        selection = select(ratings, limits, algorithm=algorithm)
        i = all_.rows.index(selection.found.paths)
        assert i in feasible
        assert selection.found.loss == all_.loss[i] == pytest.approx(least, abs=1e-8)
        if algorithm != "milp":  # which works to a tolerance
            assert selection.found.loss == least
        certificate = selection.certificate
        assert (certificate.algorithm, certificate.proven_optimal) == (algorithm, True)
        assert certificate.bound <= min(selection.found.loss, least + 1e-8)
        assert certificate.gap == selection.found.loss - certificate.bound <= 1e-8
        assert len(selection.best) == 1


@settings(max_examples=60, deadline=None)
@given(tables(), st.data(), st.sampled_from(["pareto", "milp"]))
def test_the_best_of_many_are_those_of_brute_force(
    ratings: Ratings, data: st.DataObject, algorithm: str
) -> None:
    all_ = everything(ratings)
    limits = limited(data.draw, all_, ratings.cost_names)
    feasible = all_.feasible(limits)
    if len(feasible) == 0:
        return
    top = data.draw(st.integers(2, 7))
    best = select(ratings, limits, top=top, algorithm=algorithm).best
    assert len({candidate.paths for candidate in best}) == len(best)
    for candidate in best:
        i = all_.rows.index(candidate.paths)
        assert i in feasible
        assert candidate.loss == all_.loss[i]
        assert list(candidate.costs.values()) == all_.costs[i].tolist()
    expected = sorted(all_.loss[feasible])[:top]
    found = [candidate.loss for candidate in best]
    assert found == sorted(found)
    assert found == (expected if algorithm == "pareto" else pytest.approx(expected, abs=1e-8))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("algorithm", ["pareto", "milp"])
def test_six_limits_hold_at_once(seed: int, algorithm: str) -> None:
    rng, names = np.random.default_rng(seed), tuple("abcdef")
    blocks = [
        block_of([(0, 0, str(i), rng.random(), rng.integers(0, 9, 6)) for i in range(6)])
        for _ in range(4)
    ]
    all_ = everything(Ratings(tuple(blocks), names, np.zeros(6)))
    ceiling = np.quantile(all_.costs, 0.6, axis=0)
    feasible = np.flatnonzero(np.all(all_.costs <= ceiling, axis=1))
    limits = dict(zip(names, ceiling.tolist(), strict=True))
    best = select(Ratings(tuple(blocks), names, np.zeros(6)), limits, top=3, algorithm=algorithm)
    expected = sorted(all_.loss[feasible])[:3]
    assert len(expected) > 0
    assert [c.loss for c in best.best] == pytest.approx(expected, abs=1e-8)


def differing_layers(one: str, other: str) -> int:
    """Layers that are not alike, counted on the texts of two architectures."""
    count = 0
    for a, b in zip(one.split("/"), other.split("/"), strict=True):
        (width_a, _, ops_a), (width_b, _, ops_b) = a.rpartition(":"), b.rpartition(":")
        layers = zip_longest(ops_a.split(","), ops_b.split(","))
        count += sum(width_a != width_b or x != y for x, y in layers)
    return count


@settings(max_examples=60, deadline=None)
@given(tables(), st.data(), st.sampled_from(["pareto", "milp"]))
def test_diverse_ones_are_the_best_that_differ_from_all_before(
    ratings: Ratings, data: st.DataObject, algorithm: str
) -> None:
    all_ = everything(ratings)
    limits = limited(data.draw, all_, ratings.cost_names)
    left = all_.feasible(limits).tolist()
    if not left:
        return
    layers, top = data.draw(st.integers(1, 5)), data.draw(st.integers(2, 4))
    best = select(ratings, limits, top=top, diverse=layers, algorithm=algorithm).best
    texts = {i: ratings.text(np.array(all_.rows[i])) for i in left}
    for candidate in best:
        assert candidate.loss == pytest.approx(min(all_.loss[i] for i in left), abs=1e-8)
        left = [i for i in left if differing_layers(texts[i], candidate.text) >= layers]
    assert len(best) == top or not left


def large(seed: int, kind: str = "random", blocks: int = 6, paths: int = 10) -> Ratings:
    """Blocks of one cell and one layer; three costs; far too many architectures to list."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(blocks):
        costs = rng.uniform(1, 9, (paths, 3))
        loss = {
            "random": rng.random(paths),
            "correlated": 1 - costs.sum(axis=1) / 30 + 0.02 * rng.random(paths),
            "tied": np.full(paths, 0.25),
            "near ties": np.round(1 - costs.sum(axis=1) / 30, 2),
        }[kind]
        rows = [(0, 0, str(i), loss[i], costs[i]) for i in range(paths)]
        made.append(block_of(rows))
    return Ratings(tuple(made), NAMES, np.zeros(3))


@pytest.mark.parametrize("kind", ["random", "correlated", "tied", "near ties"])
@pytest.mark.parametrize("names", [NAMES[:1], NAMES[:2], NAMES])
def test_merging_agrees_with_the_integer_program_on_large_tables(
    kind: str, names: tuple[str, ...]
) -> None:
    ratings = large(len(names), kind)
    limits = dict(zip(names, (22.0, 23.5, 25.0), strict=False))
    merged = select(ratings, limits)
    solved = select(ratings, limits, algorithm="milp")
    assert (merged.certificate.algorithm, solved.certificate.algorithm) == ("pareto", "milp")
    assert merged.found.loss == pytest.approx(solved.found.loss, abs=1e-8)
    assert merged.certificate.proven_optimal
    for selection in (merged, solved):
        assert all(selection.found.costs[name] <= limit for name, limit in limits.items())


def test_the_best_of_a_large_table_come_in_order_and_without_a_gap() -> None:
    """Ten at once are the best, then the best but that one, and so on."""
    ratings, limits = large(3, "correlated"), {"params": 22.0, "macs": 23.5}
    best = select(ratings, limits, top=6).best
    assert best[0] == select(ratings, limits).found
    solved = select(ratings, limits, top=6, algorithm="milp").best
    assert [c.loss for c in best] == pytest.approx([c.loss for c in solved], abs=1e-8)


def test_what_merging_cannot_hold_is_solved_as_an_integer_program(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ratings, limits = large(5, "near ties"), dict(zip(NAMES, (22.0, 23.5, 25.0), strict=True))
    merged = select(ratings, limits)
    monkeypatch.setattr("dna_ray.search.limits.MOST", 3)
    handed_over = select(ratings, limits)
    assert merged.certificate.algorithm == "pareto"
    assert handed_over.certificate.algorithm == "milp"
    assert handed_over.found.loss == pytest.approx(merged.found.loss, abs=1e-8)
    assert handed_over.certificate.proven_optimal
    clash = limits | {"params": 6.0}  # found out by the program too
    with pytest.raises(UserError, match="none meets"):
        select(ratings, clash)


def test_a_front_too_large_to_hold_is_made_in_one_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    ratings, limits = large(2, "correlated"), {"params": 25.0, "macs": 25.0}
    whole = select(ratings, limits)
    monkeypatch.setattr("dna_ray.search.selection._FRONT_MOST", 10)
    small = select(ratings, limits)
    assert (whole.front.over, small.front.over) == (("params", "macs"), ())
    assert len(small.front) == 1
    assert small.found == whole.found
    monkeypatch.setattr("dna_ray.search.selection._FRONT_MOST", 3_000)
    middle = select(ratings, limits)
    assert middle.front.over == ("params",)
    assert middle.found == whole.found


@pytest.mark.parametrize("algorithm", ["pareto", "milp"])
def test_a_path_that_costs_out_of_all_proportion_changes_nothing(algorithm: str) -> None:
    ratings, limits = large(3, blocks=5), dict.fromkeys(NAMES, 22.0)
    first, *others = ratings.blocks
    rows = zip(first.cell, first.width, first.ops, first.loss, first.costs, strict=True)
    outlier = (0, 0, "outlier", -1.0, np.full(3, 1e15))
    spoilt = replace(ratings, blocks=(block_of([*rows, outlier]), *others))
    expected = select(ratings, limits).found.text
    assert select(spoilt, limits, algorithm=algorithm, seconds=20).found.text == expected


def test_the_integer_program_proves_that_there_is_no_other() -> None:
    costs = [1.0, 2.0, 3.0, 4.0, 1e15]
    block = block_of([(0, 0, str(i), i / 10, [cost]) for i, cost in enumerate(costs)])
    ratings = Ratings((block,) * 5, NAMES[:1], np.zeros(1))
    selection = select(ratings, {"params": 5.0}, top=2, algorithm="milp")
    assert [candidate.text for candidate in selection.best] == ["0/0/0/0/0"]
    assert selection.certificate.proven_optimal


def test_a_cost_may_be_called_as_ours_are() -> None:
    rows = [(0, 0, str(i), float(i), [100.0]) for i in range(2)]
    ratings = Ratings((block_of(rows),) * 2, ("likeness to 1",), np.zeros(1))
    best = select(ratings, {}, top=3, diverse=1).best
    assert [candidate.loss for candidate in best] == [0, 1, 1]


def test_many_objectives_lose_no_point() -> None:
    points = np.random.default_rng(0).integers(0, 3, (5000, 12)).astype(np.float64)
    assert set(nondominated(points)) <= set(undominated(points, 1).tolist())


def test_algorithm_2_refuses_what_it_is_not_made_for() -> None:
    ratings = replace(one_block([[4, 100], [7, 3]]), fixed=np.array([0.0, -5.0]))
    assert select(ratings, {"macs": 0}).found.costs["macs"] == -2
    with pytest.raises(UserError, match="costs of 0 or more"):
        select(ratings, {"macs": 0}, algorithm="traversal")


@pytest.mark.parametrize(("algorithm", "tightness"), [("traversal", 0.97), ("milp", 0.65)])
def test_an_answer_that_ran_out_of_time_is_not_called_optimal(
    algorithm: str, tightness: float
) -> None:
    ratings = large(1, "correlated", blocks=24, paths=30)
    free = select(ratings, {}).found.costs
    limits = {name: tightness * free[name] for name in ("params", "macs")}
    exact = select(ratings, limits).found.loss
    selection = select(ratings, limits, algorithm=algorithm, seconds=0.2)
    certificate = selection.certificate
    assert not certificate.proven_optimal
    assert certificate.bound <= exact <= selection.found.loss
    assert certificate.gap == selection.found.loss - certificate.bound > 0
    assert all(selection.found.costs[name] <= limit for name, limit in limits.items())


def test_a_solution_that_breaks_a_limit_by_a_hair_is_not_taken() -> None:
    """HiGHS calls it feasible; here the sum decides."""
    rows = [(0, 0, "a", 0.0, [1.0 + 1e-9]), (0, 0, "b", 1.0, [1.0]), (0, 0, "c", 2.0, [0.5])]
    ratings = Ratings((block_of(rows),), NAMES[:1], np.zeros(1))
    for algorithm in ALGORITHMS:
        assert select(ratings, {"params": 1.0}, algorithm=algorithm).found.text == "b"


def test_algorithm_2_visits_what_it_must() -> None:
    """All beginnings within the limit, and the last block up to the first path that fits."""
    costs = [[1.0], [2.0], [4.0]]
    block = block_of([(0, 0, str(i), 1.0 - i / 10, cost) for i, cost in enumerate(costs)])
    ratings = Ratings((block, block), NAMES[:1], np.zeros(1))
    found = traverse(ratings, {"params": 5.0})
    # By loss: 2 (4), 1 (2), 0 (1). Behind 4 only 1 fits, the third; behind 2 the second; behind 1
    # the first.
    assert found.visits == 3 + 3 + 2 + 1
    assert (found.loss, found.whole) == (pytest.approx(1.8), True)
    assert found.paths is not None
    assert found.paths.tolist() in ([0, 2], [2, 0], [1, 1])


# The file


def assert_same(one: Ratings, other: Ratings) -> None:
    assert one.cost_names == other.cost_names
    assert one.fixed.tolist() == other.fixed.tolist()
    assert one.edges == other.edges
    assert one.metadata == other.metadata
    for a, b in zip(one.blocks, other.blocks, strict=True):
        assert a.ops == b.ops
        for name in ("cell", "width", "loss", "costs"):
            x, y = getattr(a, name), getattr(b, name)
            assert x.shape == y.shape
            assert x.tolist() == y.tolist()


def through_parquet(ratings: Ratings) -> Ratings:
    sink = pa.BufferOutputStream()
    pq.write_table(to_arrow(ratings), sink)
    return read_ratings(pa.BufferReader(sink.getvalue()))


@settings(max_examples=25, deadline=None)
@given(tables(least_costs=1, differences=small_costs))
def test_a_table_comes_back_from_parquet_as_it_was(ratings: Ratings) -> None:
    assert_same(through_parquet(ratings), ratings)


def test_a_table_without_costs_comes_back_from_parquet() -> None:
    ratings = Ratings((block_of([(0, 8, "k3e3", 0.5, [])]),), (), np.zeros(0))
    assert_same(through_parquet(ratings), ratings)


def test_costs_that_are_no_whole_numbers_come_back_from_parquet() -> None:
    rows = [(0, 8, "k3e3", 1 / 3, [1 / 3, 0.1, 4.35])]
    ratings = Ratings((block_of(rows),), NAMES, np.array([0.1, 2.5, 1 / 3]))
    assert_same(through_parquet(ratings), ratings)


def test_the_file_has_the_columns_and_the_metadata_of_the_contract(tmp_path: Path) -> None:
    space = load_space("demo")
    table = cost_table(space, 96, 2)
    zeros = [[np.zeros(b.count(c)) for c in range(len(b.cells))] for b in space.blocks]
    ratings = ratings_of(space, table, zeros, {"seed": "7"})
    file = tmp_path / "ratings.parquet"
    pq.write_table(to_arrow(ratings), file)
    assert_same(read_ratings(file), ratings)
    written = pq.read_table(file)
    assert written.column_names == ["block", "cell", "width", "ops", "loss", "params", "macs"]
    assert written.schema.field("loss").type == pa.float64()
    assert written.num_rows == sum(b.count(c) for b in space.blocks for c in range(len(b.cells)))
    assert (min(written["block"].to_pylist()), min(written["cell"].to_pylist())) == (1, 0)
    metadata = {key.decode(): value.decode() for key, value in written.schema.metadata.items()}
    assert metadata["space"] == "demo"
    assert (metadata["resolution"], metadata["seed"]) == ("96", "7")
    assert (int(metadata["fixed.params"]), int(metadata["fixed.macs"])) == tuple(table.fixed[0])


# The real spaces


@pytest.mark.parametrize("left_out", [(), ((0, 0), (1, 0), (2, 1))])
@pytest.mark.parametrize(("name", "resolution"), [("demo", 96), ("demo", 97), ("mbconv6", 224)])
def test_costs_of_the_front_are_those_of_the_networks(
    name: str, resolution: int, left_out: tuple[tuple[int, int], ...]
) -> None:
    """Cells that are left out have no rows: costs behind the others are exact all the same."""
    space, rng = load_space(name), np.random.default_rng(resolution)
    losses = [[rng.random(b.count(c)) for c in range(len(b.cells))] for b in space.blocks]
    for b, c in left_out:
        losses[b][c][:] = np.nan
    ratings = ratings_of(space, cost_table(space, resolution, 5), losses, {})
    front = pareto_front(ratings, ("params", "macs"))
    assert len(front) > 20
    for i in rng.permutation(len(front))[:100]:
        architecture = Architecture.parse(ratings.text(front.paths[i]))
        assert not set(enumerate(architecture.cells(space))) & set(left_out)
        total = network_costs(network_spec(space, architecture, 5), resolution).total
        assert front.costs[i].tolist() == [total.params, total.macs]
        loss = 0.0
        for k, (block, cell) in enumerate(
            zip(space.blocks, architecture.cells(space), strict=True)
        ):
            place = 0
            for op in architecture.blocks[k].ops:
                place = place * len(block.ops) + block.ops.index(op)
            loss += losses[k][cell][place]
        assert front.loss[i] == loss


def test_any_architecture_can_be_the_best_and_keeps_its_exact_costs() -> None:
    """Losses that favour one architecture after another bring out costs off the usual front."""
    space, rng = load_space("demo"), np.random.default_rng(1)
    table = cost_table(space, 33, 3)
    for _ in range(40):
        losses, choices = [], []
        for block in space.blocks:
            cell = int(rng.integers(len(block.cells)))
            place = int(rng.integers(block.count(cell)))
            own = [np.ones(block.count(c)) for c in range(len(block.cells))]
            own[cell][place] = 0.0
            losses.append(own)
            ops: tuple[Op, ...] = list(block.paths(cell))[place]
            choices.append(BlockChoice(block.cells[cell].width, ops))
        best = select(ratings_of(space, table, losses, {}), {})
        assert best.architecture.blocks == tuple(choices)
        total = network_costs(network_spec(space, best.architecture, 3), 33).total
        assert best.found.costs == {"params": total.params, "macs": total.macs}


class Pickled(pa.ExtensionType):
    """A type whose values are unpickled as they are read, as that of Ray Data for objects."""

    def __init__(self) -> None:
        super().__init__(pa.binary(), "tests.pickled")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: pa.DataType, serialized: bytes) -> "Pickled":
        return cls()


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("in_memory", [False, True])
def test_columns_of_other_types_are_refused(tmp_path: Path, wrapped: bool, in_memory: bool) -> None:
    file = tmp_path / "ratings.parquet"
    column = pa.ExtensionArray.from_storage(Pickled(), pa.array([b"1", b"2"]))
    if wrapped:
        column = pa.StructArray.from_arrays([column], ["inner"])
    pa.register_extension_type(Pickled())
    try:
        pq.write_table(pa.table({"block": [1, 1], "more": column}), file)
        with pytest.raises(UserError, match=r"numbers and texts, but 'more' is of type"):
            read_ratings(pa.BufferReader(file.read_bytes()) if in_memory else file)
    finally:
        pa.unregister_extension_type("tests.pickled")
