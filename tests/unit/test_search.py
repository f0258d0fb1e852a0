"""The exact search, against brute force over every architecture of small tables."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dna_ray.errors import UserError
from dna_ray.search import (
    Ratings,
    Selection,
    check_limits,
    pareto_front,
    ratings_of,
    read_ratings,
    select,
    to_arrow,
)
from dna_ray.search.pareto import nondominated
from dna_ray.search.table import BlockPaths, Edge
from dna_ray.space import BlockChoice, Op, cost_table, load_space, network_costs, network_spec
from dna_ray_cli.values import parse_limits

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
def tables(draw: st.DrawFn, least_costs: int = 0) -> Ratings:
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


def rows_of(ratings: Ratings, selection: Selection) -> tuple[int, ...]:
    """The rows that an architecture's text stands for; they are unique in the tables above."""
    rows = []
    for block, choice in zip(ratings.blocks, selection.architecture.blocks, strict=True):
        texts = [f"{w}:{ops}" for w, ops in zip(block.width, block.ops, strict=True)]
        assert texts.count(str(choice)) == 1
        rows.append(texts.index(str(choice)))
    return tuple(rows)


@settings(max_examples=80, deadline=None)
@given(tables(), st.data())
def test_select_finds_the_optimum_or_says_what_could_be_met(
    ratings: Ratings, data: st.DataObject
) -> None:
    all_ = everything(ratings)
    names = data.draw(st.permutations(ratings.cost_names))
    limits = {}
    for name in names[: data.draw(st.integers(0, len(names)))]:
        exact = float(data.draw(st.sampled_from(sorted(set(all_.costs[:, NAMES.index(name)])))))
        limits[name] = exact + data.draw(st.sampled_from([0, 0, 0.5, -0.5, -1e15]))
    columns = {NAMES.index(name): limit for name, limit in limits.items()}
    feasible = np.flatnonzero(all_.within(columns)) if limits else np.arange(len(all_.rows))
    if len(feasible) == 0:
        assert_clash_is_explained(ratings, all_, limits)
        return
    check_limits(ratings, limits)
    best = min(tuple(point) for point in all_.points(list(columns))[feasible].tolist())
    selection = select(ratings, limits)
    i = all_.rows.index(rows_of(ratings, selection))
    assert (selection.loss, *[selection.costs[name] for name in limits]) == best
    assert selection.loss == all_.loss[i]
    assert list(selection.costs.values()) == all_.costs[i].tolist()
    assert tuple(selection.costs) == ratings.cost_names
    assert selection.limits == limits
    assert selection.candidates == len(all_.rows)
    assert selection.proven_optimal


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
    assert select(ratings, limits).costs == limits
    for name in limits:
        below = limits | {name: math.nextafter(limits[name], 0)}
        assert explained(ratings, below) == ({name: below[name]}, {name: limits[name]})


def test_of_equal_losses_the_smaller_first_limited_cost_wins() -> None:
    ratings = one_block([[2, 1, 5], [1, 2, 6], [1, 2, 7]])
    assert select(ratings, {"params": 9, "macs": 9}).costs["params"] == 1
    assert select(ratings, {"macs": 9, "params": 9}).costs["macs"] == 1
    assert select(ratings, {"params": 9, "latency_ms": 9}).costs["latency_ms"] == 6


def test_one_limit_that_nothing_meets_is_named_with_the_least_that_can_be() -> None:
    ratings = one_block([[4, 100], [7, 3]])
    assert explained(ratings, {"macs": 2, "params": 9}) == ({"macs": 2}, {"macs": 3})


def test_two_limits_that_clash_only_together_are_named_together() -> None:
    ratings = one_block([[1, 9, 0], [9, 1, 0], [5, 6, 0]])
    clash, remedies = explained(ratings, {"latency_ms": 5, "params": 5, "macs": 4})
    assert clash == {"params": 5, "macs": 4}
    assert remedies == {"params": 9, "macs": 6}
    for name, value in remedies.items():
        assert select(ratings, clash | {name: value}).costs[name] == value


def test_three_limits_that_clash_only_together_are_named_together() -> None:
    ratings = one_block([[1, 1, 9], [1, 8, 1], [7, 1, 1]])
    limits = dict.fromkeys(NAMES, 1.0)
    assert explained(ratings, limits) == (limits, {"params": 7, "macs": 8, "latency_ms": 9})


@pytest.mark.parametrize("least", [3.0, 0.1, 4.35, 1 / 3, 123456789.0, 1e15])
def test_a_remedy_can_be_typed_as_a_limit(least: float) -> None:
    ratings = one_block([[least]], ("latency_ms",))
    with pytest.raises(UserError) as caught:
        select(ratings, {"latency_ms": least / 2})
    remedy = re.search(r"latency_ms=(\S+)$", str(caught.value))
    assert remedy
    assert select(ratings, parse_limits((remedy[0],))).costs == {"latency_ms": least}


def test_a_limit_on_an_unknown_cost_names_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"\(params, macs\).*'mac'"):
        select(one_block([[1, 2]]), {"mac": 5})


def test_a_table_without_costs_is_searched_by_loss_alone() -> None:
    no_costs: list[float] = []
    rows = [(0, 0, f"k3e{i}", loss, no_costs) for i, loss in enumerate((0.5, 0.25, 0.25), 1)]
    selection = select(Ratings((block_of(rows),) * 2, (), np.zeros(0)), {})
    assert (selection.loss, selection.costs, selection.candidates) == (0.5, {}, 9)
    with pytest.raises(UserError, match=r"\(none\).*'macs'"):
        select(Ratings((block_of(rows),), (), np.zeros(0)), {"macs": 5})


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
@given(tables(least_costs=1))
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


@pytest.mark.parametrize(("name", "resolution"), [("demo", 96), ("demo", 97), ("mbconv6", 224)])
def test_costs_of_the_front_are_those_of_the_networks(name: str, resolution: int) -> None:
    space, rng = load_space(name), np.random.default_rng(resolution)
    losses = [[rng.random(b.count(c)) for c in range(len(b.cells))] for b in space.blocks]
    ratings = ratings_of(space, cost_table(space, resolution, 5), losses, {})
    front = pareto_front(ratings, ("params", "macs"))
    assert len(front) > 30
    for i in rng.permutation(len(front))[:100]:
        architecture = front.architecture(i)
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
        assert best.costs == {"params": total.params, "macs": total.macs}


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
