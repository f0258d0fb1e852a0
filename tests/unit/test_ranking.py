"""Agreement of rankings against scipy and against all pairs; benches; what published data say."""

import json
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dna_ray.errors import UserError
from dna_ray.ranking import Evaluation, Figure, Rated, evaluate, rate, read_bench, verdict
from dna_ray.ranking.agreement import kendall, kendall_among_near, partial, pearson, spearman
from dna_ray.search import Ratings, load_ratings, ratings_of
from dna_ray.search.reading import ratings_from_arrow
from dna_ray.search.table import BlockPaths
from dna_ray.space import (
    Architecture,
    BlockChoice,
    Space,
    cost_table,
    network_costs,
    network_spec,
)
from tests.data import benches

Array = np.ndarray

# Oracles: the textbook on things repeated as often as they count


def by_scipy(name: str, x: Array, y: Array, weights: Array) -> list[float]:
    function: Callable[..., Any] = getattr(stats, name)
    values = []
    for column in weights.T.astype(int):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.ConstantInputWarning)
            values.append(function(np.repeat(x, column), np.repeat(y, column))[0])
    return values


def by_all_pairs(
    x: Array, y: Array, weights: Array, near: Callable[[int, int], bool]
) -> tuple[int, list[float]]:
    """Tau-b over the pairs that are `near`, and their number without weights."""
    values = []
    pairs = [(i, j) for j in range(len(x)) for i in range(j) if near(i, j)]
    for w in weights.T:
        agree = untied_x = untied_y = 0.0
        for i, j in pairs:
            sx, sy = np.sign(x[i] - x[j]), np.sign(y[i] - y[j])
            agree += w[i] * w[j] * sx * sy
            untied_x += w[i] * w[j] * abs(sx)
            untied_y += w[i] * w[j] * abs(sy)
        product = untied_x * untied_y
        values.append(agree / math.sqrt(product) if product else math.nan)
    return len(pairs), values


def instance(seed: int, things: int, columns: int, values: int) -> tuple[Array, Array, Array]:
    """Correlated x and y with ties, fewer with more `values`; weights with many zeros."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, values, things).astype(np.float64)
    y = np.round(x / 2 + rng.integers(0, values, things))
    return x, y, rng.integers(0, 3, (things, columns)).astype(np.float32)


@st.composite
def weighted(draw: st.DrawFn) -> tuple[Array, Array, Array]:
    things = draw(st.integers(2, 9))
    value = st.sampled_from([-2.5, -1.0, 0.0, 0.0, 1e-3, 3.0, 1e6])
    several = st.lists(value, min_size=things, max_size=things)
    count = st.lists(st.integers(0, 3), min_size=things, max_size=things)
    columns = [c for c in draw(st.lists(count, max_size=3)) if sum(c) > 1]
    weights = np.array([[1] * things, *columns], np.float32).T
    return np.array(draw(several)), np.array(draw(several)), np.ascontiguousarray(weights)


COEFFICIENTS = {"kendalltau": kendall, "spearmanr": spearman, "pearsonr": pearson}


@settings(max_examples=120, deadline=None)
@given(weighted(), st.sampled_from(sorted(COEFFICIENTS)))
def test_coefficients_are_scipys_for_things_repeated(
    case: tuple[Array, Array, Array], name: str
) -> None:
    x, y, weights = case
    found = COEFFICIENTS[name]([x, y], y, weights)
    for own, expected in zip(found, (x, y), strict=True):
        assert own == pytest.approx(by_scipy(name, expected, y, weights), abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("name", COEFFICIENTS)
@pytest.mark.parametrize("values", [3, 40, 10**6])
def test_coefficients_of_more_weightings_than_are_worked_out_at_once(
    name: str, values: int
) -> None:
    x, y, weights = instance(values, 150, 4000, values)
    (found,) = COEFFICIENTS[name]([x], y, weights)
    some = [0, 1, 1746, 1747, 1748, 3999]
    assert found[some] == pytest.approx(by_scipy(name, x, y, weights[:, some]), abs=1e-12)


@pytest.mark.parametrize("name", COEFFICIENTS)
@pytest.mark.parametrize("size", [1e-200, 1.0, 1e200])
def test_coefficients_do_not_depend_on_units(name: str, size: float) -> None:
    x, y, weights = instance(1, 30, 5, 10**6)
    (plain,) = COEFFICIENTS[name]([x], y, weights)
    scaled, turned = COEFFICIENTS[name]([x * size + size, -x * size], y, weights)
    assert scaled == pytest.approx(plain)
    assert turned == pytest.approx(-plain)


def test_rank_coefficients_see_the_order_alone() -> None:
    x, y, weights = instance(2, 60, 5, 20)
    for coefficient in (kendall, spearman):
        (plain,) = coefficient([x], y, weights)
        (bent,) = coefficient([np.exp(x / 4)], y**3, weights)
        assert np.array_equal(plain, bent)
    assert not np.allclose(pearson([x], y, weights), pearson([np.exp(x / 4)], y**3, weights))


def test_pearson_without_an_outlier_is_not_what_rounding_leaves() -> None:
    x, y, weights = instance(3, 40, 2, 10**6)
    x[0] = 1e13
    weights[0] = [0, 1]
    (found,) = pearson([x], y, weights)
    assert found == pytest.approx(by_scipy("pearsonr", x, y, weights), rel=1e-3)


@settings(max_examples=80, deadline=None)
@given(weighted(), st.data(), st.sampled_from([0.0, 0.1, 0.5]))
def test_agreement_among_near_pairs_is_that_of_all_pairs_looked_at(
    case: tuple[Array, Array, Array], data: st.DataObject, tolerance: float
) -> None:
    x, y, weights = case
    amount = st.sampled_from([0.0, 0.0, 1.0, 9.0, 10.0, 10.0, 11.0, 20.0])
    cost = np.array(data.draw(st.lists(amount, min_size=len(x), max_size=len(x))))
    pairs, taus = kendall_among_near([x, cost], y, cost, tolerance, weights)

    def near(i: int, j: int) -> bool:
        return bool(max(cost[i], cost[j]) * (1 - tolerance) <= min(cost[i], cost[j]))

    for tau, of in zip(taus, (x, cost), strict=True):
        number, expected = by_all_pairs(of, y, weights, near)
        assert pairs == number
        assert tau == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_agreement_among_near_pairs_over_many_chunks() -> None:
    x, y, weights = instance(4, 700, 300, 12)
    cost = np.random.default_rng(4).uniform(1, 2, len(x))
    pairs, (tau,) = kendall_among_near([x], y, cost, 0.05, weights)
    ratio = cost[:, None] / cost
    near = np.triu((np.minimum(ratio, 1 / ratio) >= 0.95), k=1)
    sx, sy = np.sign(x[:, None] - x) * near, np.sign(y[:, None] - y) * near

    def total(matrix: Array) -> Array:
        sums: Array = np.einsum("ir,ij,jr->r", weights, matrix, weights, optimize=True)
        return sums

    assert pairs == near.sum()
    assert tau == pytest.approx(total(sx * sy) / np.sqrt(total(sx**2) * total(sy**2)), rel=1e-5)
    everything = kendall_among_near([x], y, cost, 0.5, weights)
    assert everything[0] == 700 * 699 // 2
    assert everything[1][0] == pytest.approx(kendall([x], y, weights)[0], abs=1e-12)


def test_partial_tau_is_the_formula_and_undefined_given_an_equal() -> None:
    xy, xz, yz = np.array([0.5, 0.2, 0.3]), np.array([0.4, 1.0, -0.1]), np.array([0.3, 0.2, -1.0])
    expected = (0.5 - 0.12) / math.sqrt((1 - 0.16) * (1 - 0.09))
    assert partial(xy, xz, yz) == pytest.approx([expected, math.nan, math.nan], nan_ok=True)


# Evaluations


def rated(
    accuracy: Sequence[float] | Array, loss: Sequence[float] | Array, **costs: Sequence[float]
) -> Rated:
    return Rated(
        names=tuple(map(str, range(len(accuracy)))),
        accuracy=np.array(accuracy, np.float64),
        loss=np.array(loss, np.float64),
        costs={name: np.array(values, np.float64) for name, values in costs.items()},
    )


def made(seed: int, count: int, rating_noise: float, cost_noise: float, **more: Any) -> Rated:
    """A rating and a cost that tell the accuracy up to noise."""
    rng = np.random.default_rng(seed)
    truth, noise = rng.normal(size=count), rng.normal(size=(2, count))
    cost = np.exp(0.2 * (truth + cost_noise * noise[1]))
    return rated(truth, -(truth + rating_noise * noise[0]), **({"macs": cost} | more))


def test_figures_are_those_of_the_architectures_themselves() -> None:
    sample = made(5, 40, 0.5, 1.0, params=list(range(40)))
    found = evaluate(sample, resamples=100)
    score, accuracy = -sample.loss, sample.accuracy
    ones = np.ones((40, 1))
    for agreement, x in (
        (found.rating, score),
        (found.baselines["macs"], sample.costs["macs"]),
        (found.baselines["params"], sample.costs["params"]),
    ):
        for name, scipys in (("kendall", "kendalltau"), ("spearman", "spearmanr")):
            expected = by_scipy(scipys, x, accuracy, ones)[0]
            assert getattr(agreement, name).value == pytest.approx(expected)
        assert agreement.pearson.value == pytest.approx(stats.pearsonr(x, accuracy)[0])
    tau = {
        name: stats.kendalltau(x, accuracy)[0]
        for name, x in {"rating": score, **sample.costs}.items()
    }
    assert found.lead is not None
    assert found.lead.value == pytest.approx(tau["rating"] - max(tau["macs"], tau["params"]))
    assert found.best_cost == "macs"
    for name, cost in sample.costs.items():
        between = stats.kendalltau(score, cost)[0]
        expected = partial(*map(np.array, (tau["rating"], between, tau[name])))
        assert found.given_cost[name].value == pytest.approx(float(expected))


def test_intervals_are_those_of_a_plain_bootstrap() -> None:
    sample = made(6, 50, 1.0, 1.0)
    found = evaluate(sample, resamples=4000, seed=1)
    rng = np.random.default_rng(2)
    taus, leads = [], []
    for _ in range(1000):
        drawn = rng.integers(50, size=50)
        accuracy = sample.accuracy[drawn]
        taus.append(stats.kendalltau(-sample.loss[drawn], accuracy)[0])
        leads.append(taus[-1] - stats.kendalltau(sample.costs["macs"][drawn], accuracy)[0])
    assert found.lead is not None
    for figure, values in ((found.rating.kendall, taus), (found.lead, leads)):
        expected = np.percentile(values, [2.5, 97.5])
        assert (figure.low, figure.high) == pytest.approx(tuple(expected), abs=0.025)


def test_an_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """Of two normal quantities of correlation r, tau is 2 / pi asin(r)."""
    truth, held = 2 / math.pi * math.asin(1 / math.sqrt(2)), 0
    for seed in range(200):
        accuracy, noise = np.random.default_rng(seed).normal(size=(2, 40))
        sample = rated(accuracy, -(accuracy + noise))
        figure = evaluate(sample, resamples=200, seed=seed).rating.kendall
        held += figure.low <= truth <= figure.high
    assert 180 <= held < 200


def test_the_same_seed_gives_the_same_and_another_another() -> None:
    sample = made(7, 30, 1.0, 1.0)
    one, same, other = (evaluate(sample, resamples=200, seed=seed) for seed in (3, 3, 4))
    assert (one.rating, one.baselines, one.lead) == (same.rating, same.baselines, same.lead)
    assert one.rating.kendall.value == other.rating.kendall.value
    assert one.rating.kendall.low != other.rating.kendall.low


def test_resamples_beyond_what_memory_holds_at_once_are_taken_in_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sample = made(8, 60, 1.0, 1.0)
    whole = evaluate(sample, resamples=3000)
    monkeypatch.setattr("dna_ray.ranking.evaluation._AT_ONCE", 60 * 700)
    apart = evaluate(sample, resamples=3000)
    for one, other in ((whole.rating.kendall, apart.rating.kendall), (whole.lead, apart.lead)):
        assert one is not None
        assert other is not None
        assert one.value == other.value
        assert one.low != other.low
        assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=0.03)


def test_a_figure_is_read_on_a_line() -> None:
    assert str(Figure(0.254, 0.1, 0.4)) == "0.25 (0.10 to 0.40)"
    assert str(Figure(float("nan"), float("nan"), float("nan"))) == "undefined"


def test_resamples_in_which_nothing_varies_are_left_out() -> None:
    figure = evaluate(rated([1, 1, 2], [3, 2, 1]), resamples=500).rating.kendall
    assert (figure.low, figure.high) == (pytest.approx(figure.value), 1.0)
    values = np.array([0.5, np.nan, *np.linspace(0, 1, 41), np.nan])
    assert Figure.of(values) == Figure(0.5, pytest.approx(0.025), pytest.approx(0.975))
    assert math.isnan(Figure.of(np.array([np.nan, 1.0])).low)
    assert math.isnan(Figure.of(np.array([0.5, np.nan])).high)


# Verdicts


def said(sample: Rated) -> str:
    text = verdict(evaluate(sample, resamples=300))
    assert "nan" not in text
    return text


def test_a_better_rating_tells_more_than_cost() -> None:
    text = said(made(9, 200, 0.2, 2.0))
    assert text.startswith("The rating tells more than cost does: Kendall 0.")
    assert "Among architectures of about equal multiply-adds it ranks:" in text


def test_a_worse_rating_tells_less_than_cost() -> None:
    text = said(made(10, 200, 3.0, 0.2))
    assert text.startswith("The rating tells less than cost does")
    assert "Choose by multiply-adds." in text


@pytest.mark.parametrize("count", [3, 6, 20, 100])
def test_a_rating_as_good_as_cost_is_not_clearly_different(count: int) -> None:
    clear = sum("No clear difference" not in said(made(s, count, 1.0, 1.0)) for s in range(20))
    assert clear <= 3


def test_a_rating_that_only_repeats_the_cost_is_not_shown_to_rank_apart_from_it() -> None:
    """The partial tau alone would say so: it is above 0 where both know the accuracy by cost."""
    rng = np.random.default_rng(11)
    size, noise = rng.normal(size=300), rng.normal(size=(2, 300))
    accuracy, score = size + noise[0], size + noise[1]
    sample = rated(accuracy, -score, macs=np.exp(size / 3).tolist())
    assert evaluate(sample, resamples=300).given_cost["macs"].low > 0
    assert "Among architectures of about equal multiply-adds it is not shown to rank" in said(
        sample
    )


def test_the_lead_is_over_the_best_of_several_costs() -> None:
    sample = made(12, 200, 0.2, 2.0)
    accuracy = sample.accuracy.argsort().argsort()
    with_time = rated(
        sample.accuracy, sample.loss, macs=sample.costs["macs"].tolist(), latency_ms=accuracy
    )
    assert "against 1.000 of latency ms" in said(with_time)
    assert "Choose by latency ms." in said(with_time)


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        (rated([1, 2, 3], [5, 5, 5], macs=[1, 2, 3]), "it is the same for all 3 architectures"),
        (rated(range(30), range(30), macs=range(30)), "ranks the wrong way round: Kendall -1.000"),
        (rated([1, 2, 3], [3, 2, 1]), "no cost is known: add columns"),
        (rated([1, 2, 3], [3, 2, 1], macs=[4, 4, 4]), "all architectures cost the same"),
        (
            rated([1, 2, 3], [3, 2, 1], macs=[4, 6, 1]),
            "nothing can be said: the bench has no",
        ),
    ],
)
def test_what_cannot_be_told_is_said(sample: Rated, words: str) -> None:
    assert words in said(sample)


# Benches and tables


def put(folder: Path, bench: Any) -> Path:
    path = folder / "bench.json"
    path.write_text(bench if isinstance(bench, str) else json.dumps(bench))
    return path


def simple(*archs: dict[str, Any]) -> dict[str, Any]:
    return {"ops": ["a", "b", "c"], "archs": list(archs)}


def arch(*code: str, top1: Any = None, **more: Any) -> dict[str, Any]:
    value = sum(int(d) for part in code for d in part if d.isdecimal())
    return {"code": list(code), "top1": value if top1 is None else top1, **more}


def table(*blocks: Sequence[tuple[str, int, float]], costs: bool = True) -> Ratings:
    """Blocks of ops, width and loss; the cost `macs` is a hundred times the loss."""
    return Ratings(
        tuple(
            BlockPaths(
                cell=np.arange(len(block)),
                width=np.array([width for _, width, _ in block]),
                ops=tuple(ops for ops, _, _ in block),
                loss=np.array([loss for _, _, loss in block]),
                costs=np.array([[100 * loss] for _, _, loss in block])[:, : int(costs)],
            )
            for block in blocks
        ),
        ("macs",) if costs else (),
        np.array([1000.0])[: int(costs)],
    )


TABLE = table(
    [("a,a", 8, 1), ("a,b", 8, 2), ("b,a", 8, 4), ("a", 16, 7)],
    [("a", 8, 10), ("b", 8, 20), ("c", 8, 30), ("b", 16, 50)],
)
GOOD = (arch("00", "0"), arch("01", "2"), arch("0", "0"))


def test_losses_and_costs_are_sums_over_the_paths_named(tmp_path: Path) -> None:
    found = rate(read_bench(put(tmp_path, simple(*GOOD))), TABLE)
    assert found.names == ("00/0", "01/2", "0/0")
    assert found.accuracy.tolist() == [0, 3, 0]
    assert found.loss.tolist() == [11, 32, 17]
    assert found.costs["macs"].tolist() == [2100, 4200, 2700]
    assert (found.best, found.choice, found.place) == (1, 0, 2)


def test_widths_tell_cells_apart(tmp_path: Path) -> None:
    archs = (arch("00", "1", widths=[8, 8]), arch("00", "1", widths=[8, 16], top1=5), GOOD[0])
    found = rate(read_bench(put(tmp_path, simple(*archs))), TABLE)
    assert found.loss.tolist() == [21, 51, 11]


def test_a_bench_knows_its_own_costs_best(tmp_path: Path) -> None:
    archs = [a | {"energy": 3 + i, "macs": i, "params": 9} for i, a in enumerate(GOOD)]
    found = rate(read_bench(put(tmp_path, simple(*archs))), TABLE)
    assert list(found.costs) == ["macs", "params", "energy"]
    assert found.costs["macs"].tolist() == [0, 1, 2]
    assert found.costs["energy"].tolist() == [3, 4, 5]


def test_costs_of_a_table_are_whole_networks_even_where_cells_change_the_width(
    tiny: Space, tmp_path: Path
) -> None:
    losses = [
        [np.zeros(block.count(cell)) for cell in range(len(block.cells))] for block in tiny.blocks
    ]
    costs = cost_table(tiny, tiny.resolution, 10)
    ratings = ratings_of(tiny, costs, losses, {})
    ops = list(dict.fromkeys(str(op) for block in tiny.blocks for op in block.ops))
    rng, archs, expected = np.random.default_rng(13), [], []
    for number in range(12):
        choices = []
        for block in tiny.blocks:
            cell = block.cells[rng.integers(len(block.cells))]
            path = tuple(block.ops[i] for i in rng.integers(len(block.ops), size=cell.layers))
            choices.append(BlockChoice(cell.width, path))
        code = ["".join(str(ops.index(str(op))) for op in c.ops) for c in choices]
        archs.append(arch(*code, top1=number, widths=[c.width for c in choices]))
        spec = network_spec(tiny, Architecture(tuple(choices)), 10)
        expected.append(network_costs(spec, tiny.resolution).total)
    found = rate(read_bench(put(tmp_path, {"ops": ops, "archs": archs})), ratings)
    assert found.costs["macs"].tolist() == [cost.macs for cost in expected]
    assert found.costs["params"].tolist() == [cost.params for cost in expected]


MACRO = {f"0000000{i}": {"mean_acc": 90.0 + i, "params": 1, "flops": 2} for i in range(3)}

WRONG: dict[str, tuple[Any, str]] = {
    "no JSON": ("{", "must be JSON.*bench.json"),
    "a list": ([], "a bench is .*'.*bench.json' is neither"),
    "nothing": ({}, "is neither"),
    "deeper than can be read": ("[" * 10**5, "must be JSON"),
    "no archs": ({"ops": ["a"]}, "is neither"),
    "archs no list": ({"ops": ["a"], "archs": 3}, "archs of a bench must be a list, but are 3"),
    "ops no texts": ({"ops": [1], "archs": []}, r"ops .* different texts, but are \[1\]"),
    "ops twice": ({"ops": ["a", "a"], "archs": []}, "different texts"),
    "too few": (simple(*GOOD[:2]), "3 architectures or more to rank, but has 2"),
    "no dictionary": (simple(*GOOD, 7), "must have a code and a top1, but architecture 4 is 7"),
    "no accuracy": (simple(*GOOD, {"code": ["0"]}), "a code and a top1, but architecture 4"),
    "code a text": (simple(*GOOD, {"code": "00", "top1": 1}), 'architecture 4 is "00"'),
    "digit too great": (
        simple(*GOOD, arch("00", "3")),
        'must be 0 to 2, .* but block 2 of architecture 4 is "3"',
    ),
    "no digit": (simple(*GOOD, arch("0x", "1")), 'block 1 of architecture 4 is "0x"'),
    "empty block": (simple(*GOOD, arch("00", "")), 'block 2 of architecture 4 is ""'),
    "another number of blocks": (
        simple(*GOOD, arch("00")),
        r"architecture 1 \(00/0\) has 2 and architecture 4 \(00\) has 1",
    ),
    "accuracy not a number": (simple(*GOOD, arch("01", "0", top1="75")), '01/0.* is "75"'),
    "accuracy not finite": (simple(*GOOD, arch("01", "0", top1=math.nan)), "01/0.* is NaN"),
    "accuracy beyond numbers": (simple(*GOOD, arch("01", "0", top1=10**400)), "finite.*01/0"),
    "accuracy true": (simple(*GOOD, arch("01", "0", top1=True)), "finite number.* is true"),
    "all accuracies equal": (
        simple(*(a | {"top1": 2} for a in GOOD)),
        "must differ to be ranked, but all are 2",
    ),
    "twice": (
        simple(*GOOD, arch("01", "2", top1=7)),
        r"architecture 4 \(01/2\) is architecture 2 \(01/2\) again",
    ),
    "a cost of one alone": (
        simple(GOOD[0], GOOD[1] | {"macs": 3}, GOOD[2]),
        r'architecture 2 \(01/2\) has "macs" and architecture 1 \(00/0\) has not',
    ),
    "a cost that one lacks": (
        simple(*(a | {"macs": 3} for a in GOOD[:2]), GOOD[2]),
        r'architecture 1 \(00/0\) has "macs" and architecture 3 \(0/0\) has not',
    ),
    "cost negative": (simple(*(a | {"macs": -1} for a in GOOD)), '"macs" of .*00/0.* is -1'),
    "cost a text": (simple(*(a | {"name": "x"} for a in GOOD)), '"name" of .*00/0.* is "x"'),
    "widths too few": (simple(*GOOD, arch("01", "0", widths=[8])), r"2 whole.*\(01/0\) are \[8\]"),
    "macro code short": (MACRO | {"0012": MACRO["00000000"]}, 'eight digits .* one is "0012"'),
    "macro digit": (MACRO | {"00000003": MACRO["00000000"]}, 'one is "00000003"'),
    "macro without costs": (
        MACRO | {"00000010": {"mean_acc": 3.0}},
        "mean_acc, params and flops, but architecture 00000010 is",
    ),
    "macro number": (MACRO | {"00000010": 3}, "architecture 00000010 is 3"),
    "macro accuracy": (
        MACRO | {"00000010": MACRO["00000000"] | {"mean_acc": None}},
        "finite number, but that of architecture 00000010 is null",
    ),
    "macro twice": (
        json.dumps(MACRO)[:-1] + ', "00000002": {}}',
        'names everything once, but "00000002" is there twice',
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_bench_is_refused_in_one_line_that_names_the_entry(
    name: str, tmp_path: Path
) -> None:
    bench, words = WRONG[name]
    with pytest.raises(UserError, match=words) as caught:
        read_bench(put(tmp_path, bench))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("archs", "words"),
    [
        ([arch("00", "0", "0")], "the bench has 3 and the table 2"),
        ([arch("02", "0")], r"block 1 of architecture 1 \(02/0\) is a,c, which is not there"),
        ([*GOOD, arch("00", "1")], r"block 2 of architecture 4 \(00/1\) is b, which .* 8 and 16"),
        ([arch("00", "1", widths=[9, 8])], "block 1 .* is a,a of width 9, which is not there"),
    ],
)
def test_a_path_must_be_in_the_table_and_of_one_cell(
    archs: list[dict[str, Any]], words: str, tmp_path: Path
) -> None:
    more = [
        arch("01", *["0"] * (len(archs[0]["code"]) - 1), top1=50),
        arch("10", *["2"] * (len(archs[0]["code"]) - 1), top1=51),
    ]
    bench = read_bench(put(tmp_path, simple(*archs, *more)))
    with pytest.raises(UserError, match=words):
        rate(bench, TABLE)


def test_a_bench_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a bench must be readable.*nowhere\.json"):
        read_bench(tmp_path / "nowhere.json")


# What published data say


def rounded(evaluation: Evaluation) -> list[float]:
    return [round(figure.value, 3) for figure in vars(evaluation.rating).values()]


def test_the_23_imagenet_networks_as_published(tmp_path: Path) -> None:
    """BossNAS (arXiv 2103.12424): tau .644, rho .777, R .847; costs alone reach .755 and .708."""
    paths = benches.write(tmp_path, benches.imagenet(), benches.bossnas())
    own = rate(read_bench(paths[0]), load_ratings(paths[1]))
    found = evaluate(own, resamples=300)
    assert rounded(found) == [0.644, 0.777, 0.847]
    assert round(found.baselines["macs"].kendall.value, 3) == 0.755
    assert round(found.baselines["params"].kendall.value, 3) == 0.708
    assert verdict(found).startswith("No clear difference between the rating and cost")


def test_costs_of_the_23_by_network_and_by_path_are_the_same(tmp_path: Path) -> None:
    tree = benches.imagenet()
    bare = [{"code": a["code"], "top1": a["top1"]} for a in tree["archs"]]
    table_ = ratings_from_arrow(benches.bossnas(costs=True))
    by_path = rate(read_bench(put(tmp_path, tree | {"archs": bare})), table_)
    for name in ("macs", "params"):
        assert by_path.costs[name].tolist() == [a[name] for a in tree["archs"]]


@pytest.mark.parametrize(
    ("distinct", "count", "flops", "params", "fit"),
    [(False, 6561, 0.5560, 0.2176, 0.8654), (True, 3969, 0.5461, 0.2155, 0.8589)],
)
def test_nas_bench_macro_as_published(
    tmp_path: Path, distinct: bool, count: int, flops: float, params: float, fit: float
) -> None:
    fitted = benches.additive_fit(benches.macro())
    paths = benches.write(tmp_path, benches.macro(distinct=distinct), fitted)
    found = evaluate(rate(read_bench(paths[0]), load_ratings(paths[1])), resamples=20)
    assert len(found.rated.accuracy) == count
    assert round(found.rating.kendall.value, 4) == fit
    assert round(found.baselines["macs"].kendall.value, 4) == flops
    assert round(found.baselines["params"].kendall.value, 4) == params
    assert found.rated.names[found.rated.best] == "22212220"
    assert round(found.rated.accuracy.max(), 3) == 93.127
    assert verdict(found).startswith("The rating tells more than cost does")
