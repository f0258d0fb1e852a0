"""A rating held against itself trained otherwise: figures by hand, words by cases, the command."""

import io
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, product
from math import inf, isnan, nan
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from scipy.stats import kendalltau

from dna_ray.errors import UserError
from dna_ray.ranking import (
    Choice,
    Compared,
    Losses,
    Stability,
    Taus,
    Variant,
    compare,
    in_rows,
    read_variants,
    stability_verdict,
    taus,
    variants_table,
    wanted,
)
from dna_ray.rundir import RunFolder
from dna_ray.search import Ratings, select, totals
from dna_ray.space import Space, parse_space
from dna_ray.stability import Variants, searched
from dna_ray.verification import rated
from dna_ray_cli.stability import command
from tests.processes import modules_after
from tests.runs import SPACE, Sketch, make_run, ratings_at_random
from tests.unit.test_truth import naive_tau

Array = np.ndarray
OWN = Variant(3, 1.0, 8)
LIMITS = {"macs": 900e3, "params": 9.5e3}


@pytest.fixture(scope="module")
def space() -> Space:
    return parse_space(SPACE.format(name="tiny"), "tiny.toml")


@pytest.fixture(scope="module")
def ratings(space: Space) -> Ratings:
    return ratings_at_random(space, 2, 0)


def varied(ratings: Ratings, seed: int, noise: float) -> Losses:
    rng = np.random.default_rng(seed)
    return tuple(block.loss + noise * rng.normal(size=len(block.loss)) for block in ratings.blocks)


def own(ratings: Ratings) -> Losses:
    return tuple(block.loss for block in ratings.blocks)


# What is compared


def test_each_variant_differs_in_one_thing() -> None:
    asked = wanted(OWN, 10, seeds=3, fractions=(0.4, 0.8), checkpoints=4)
    assert asked.seeds == (Variant(4, 1.0, 8), Variant(5, 1.0, 8))
    assert asked.fractions == (Variant(3, 0.8, 8), Variant(3, 0.4, 8))
    assert asked.checkpoints == (Variant(3, 1.0, 6), Variant(3, 1.0, 4), Variant(3, 1.0, 2))
    assert asked.variants == (*asked.seeds, *asked.fractions, *asked.checkpoints[::-1])


def test_each_kind_can_be_left_out() -> None:
    assert wanted(OWN, 10, seeds=1, fractions=(), checkpoints=1).variants == ()


@pytest.mark.parametrize(
    ("windows", "fractions", "parts"),
    [
        (1, (0.8, 0.4), []),
        (2, (0.8, 0.4), [1 / 2]),
        (3, (0.8, 0.4), [2 / 3, 1 / 3]),
        (5, (0.8, 0.4), [4 / 5, 2 / 5]),
        (100, (0.29, 0.999, 1e-9), [99 / 100, 29 / 100, 1 / 100]),
    ],
)
def test_parts_of_the_data_are_whole_windows(
    windows: int, fractions: Sequence[float], parts: list[float]
) -> None:
    asked = wanted(OWN, windows, seeds=1, fractions=fractions, checkpoints=1)
    assert [variant.fraction for variant in asked.fractions] == parts


@pytest.mark.parametrize(
    ("epochs", "checkpoints", "ends"),
    [(8, 4, [6, 4, 2]), (8, 3, [6, 3]), (2, 4, [1]), (1, 4, []), (3, 100, [2, 1]), (20, 2, [10])],
)
def test_checkpoints_come_at_about_equal_distances(
    epochs: int, checkpoints: int, ends: list[int]
) -> None:
    asked = wanted(OWN._replace(epochs=epochs), 1, seeds=1, fractions=(), checkpoints=checkpoints)
    assert [variant.epochs for variant in asked.checkpoints] == ends


# What is kept


def test_losses_come_back_from_the_record(space: Space, ratings: Ratings) -> None:
    losses = {OWN._replace(seed=n): varied(ratings, n, 0.1) for n in (4, 5)}
    losses[OWN._replace(fraction=2 / 3)] = own(ratings)
    losses[OWN._replace(seed=5)][0][3] = nan
    buffer = io.BytesIO()
    pq.write_table(variants_table(ratings, losses), buffer)
    buffer.seek(0)
    table = pq.read_table(buffer)
    assert table.column_names == ["seed", "fraction", "epochs", "block", "cell", "ops", "loss"]
    found = read_variants(buffer, ratings)
    assert list(found) == list(losses)
    for variant, parts in losses.items():
        for one, other in zip(found[variant], parts, strict=True):
            assert np.array_equal(one, other, equal_nan=True)


def test_losses_stand_in_the_rows_of_the_ratings(space: Space, ratings: Ratings) -> None:
    """Also where the run has left a cell out."""
    losses = [
        [np.random.default_rng(c).random(b.count(c)) for c in range(len(b.cells))]
        for b in space.blocks
    ]
    block = ratings.blocks[0]
    kept = block.cell != 1
    short = replace(
        block,
        cell=block.cell[kept],
        width=block.width[kept],
        ops=tuple(ops for ops, own in zip(block.ops, kept, strict=True) if own),
        loss=block.loss[kept],
        costs=block.costs[kept],
    )
    for table in (ratings, replace(ratings, blocks=(short, ratings.blocks[1]))):
        rows = in_rows(table, losses)
        for k, paths in enumerate(table.blocks):
            by_name = {
                (c, ",".join(map(str, path))): losses[k][c][i]
                for c in range(len(space.blocks[k].cells))
                for i, path in enumerate(space.blocks[k].paths(c))
            }
            names = zip(paths.cell.tolist(), paths.ops, strict=True)
            assert rows[k].tolist() == [by_name[name] for name in names]


def test_what_is_rated_is_not_missing_any_more(tmp_path: Path, space: Space) -> None:
    run = make_run(tmp_path / "run", Sketch())
    ratings = rated(run, 1)
    asked = wanted(OWN, 3, seeds=2, fractions=(0.5,), checkpoints=2).variants
    assert Variants(run, 1, ratings).missing(asked) == list(asked)
    losses = [[np.full(b.count(c), float(c)) for c in range(len(b.cells))] for b in space.blocks]
    Variants(run, 1, ratings).add(asked[1], losses)
    again = Variants(run, 1, ratings)
    assert again.missing(asked) == [asked[0], asked[2]]
    assert [part.tolist() for part in again.losses[asked[1]]] == [
        block.cell.tolist() for block in ratings.blocks
    ]
    assert Variants(run, 2, rated(run, 2)).missing(asked) == list(asked)


# Figures


def test_a_block_gives_what_scipy_gives_and_all_the_pairs_within_blocks(ratings: Ratings) -> None:
    one, other = varied(ratings, 1, 0.03), tuple(np.round(x, 2) for x in own(ratings))
    one[0][2] = nan
    other[1][5] = inf
    found = taus(one, other)
    both = [np.isfinite(x) & np.isfinite(y) for x, y in zip(one, other, strict=True)]
    pairs = [(x[b], y[b]) for x, y, b in zip(one, other, both, strict=True)]
    assert found.blocks == pytest.approx([kendalltau(x, y)[0] for x, y in pairs])
    assert found.total == pytest.approx(naive_tau([(x, y, np.ones(len(x))) for x, y in pairs]))
    assert found == taus(other, one)


def test_a_block_without_ratings_is_undefined_and_counts_for_nothing(ratings: Ratings) -> None:
    one = varied(ratings, 1, 0.03)
    found = taus((np.full_like(one[0], nan), one[1]), own(ratings))
    assert isnan(found.blocks[0])
    assert found.total == found.blocks[1]
    assert isnan(taus(tuple(np.full_like(x, nan) for x in one), one).total)
    assert taus(one, one) == Taus(blocks=(1.0, 1.0), total=1.0)


@pytest.mark.parametrize("limits", [{}, LIMITS])
def test_the_regret_is_that_of_brute_force(ratings: Ratings, limits: dict[str, float]) -> None:
    """All architectures are looked at; the command draws some at random for the mean."""
    sizes = [range(len(block.loss)) for block in ratings.blocks]
    every = np.array(list(product(*sizes)))
    loss, costs = totals(ratings, every)
    columns = [ratings.cost_names.index(name) for name in limits]
    within = np.all(costs[:, columns] <= [*limits.values()], axis=1)
    assert 90 < within.sum() <= len(every)
    asked = wanted(OWN, 3, seeds=4, fractions=(), checkpoints=1)
    losses = {v: varied(ratings, v.seed, 0.05) for v in asked.seeds}
    found = compare(ratings, limits, asked, losses)
    best = int(np.argmin(np.where(within, loss, inf)))
    assert found.loss == loss[best]
    assert found.text == ratings.text(every[best])
    assert found.random == pytest.approx(loss[within].mean(), rel=0.01)
    for compared in found.seeds:
        own_ = losses[compared.variant]
        sums = own_[0][every[:, 0]] + own_[1][every[:, 1]]
        chosen = int(np.argmin(np.where(within, sums, inf)))
        assert compared.choice is not None
        assert compared.choice.text == ratings.text(every[chosen])
        assert compared.choice.alike == int(np.sum(every[chosen] == every[best]))
        regret = (loss[chosen] - loss[best]) / (loss[within].mean() - loss[best])
        assert compared.regret == pytest.approx(regret, rel=0.05)
    assert any(compared.regret > 0 for compared in found.seeds)


def test_all_pairs_of_seeds_are_compared(ratings: Ratings) -> None:
    asked = wanted(OWN, 3, seeds=3, fractions=(0.5,), checkpoints=2)
    losses = {v: varied(ratings, n, 0.03) for n, v in enumerate(asked.variants)}
    found = compare(ratings, {}, asked, losses)
    by_seed = {3: own(ratings)} | {v.seed: losses[v] for v in asked.seeds}
    expected = {(a, b): taus(by_seed[a], by_seed[b]) for a, b in combinations((3, 4, 5), 2)}
    assert found.pairs == expected
    for name, function in (("mean", np.mean), ("lowest", np.min), ("highest", np.max)):
        assert found.spread[name].total == function([t.total for t in expected.values()])
        for k in range(2):
            values = [tau.blocks[k] for tau in expected.values()]
            assert found.spread[name].blocks[k] == pytest.approx(function(values))
    assert [c.tau for c in (*found.fractions, *found.checkpoints)] == [
        taus(losses[v], own(ratings)) for v in (*asked.fractions, *asked.checkpoints)
    ]


def test_the_run_itself_gives_up_nothing(ratings: Ratings) -> None:
    asked = wanted(OWN, 1, seeds=2, fractions=(), checkpoints=1)
    found = compare(ratings, LIMITS, asked, {asked.seeds[0]: own(ratings)})
    (compared,) = found.seeds
    assert compared.choice == Choice(text=found.text, alike=2, regret=0.0)
    assert compared.tau.total == 1


def test_a_variant_whose_cells_diverged_chooses_nothing(ratings: Ratings) -> None:
    asked = wanted(OWN, 1, seeds=2, fractions=(), checkpoints=1)
    losses = (np.full(len(ratings.blocks[0].loss), nan), ratings.blocks[1].loss)
    (compared,) = compare(ratings, LIMITS, asked, {asked.seeds[0]: losses}).seeds
    assert compared.choice is None
    assert isnan(compared.regret)


def test_where_one_architecture_alone_is_within_limits_regret_is_undefined(
    ratings: Ratings,
) -> None:
    every = np.array(list(product(*(range(len(block.loss)) for block in ratings.blocks))))
    least = float(totals(ratings, every)[1][:, ratings.cost_names.index("macs")].min())
    asked = wanted(OWN, 1, seeds=2, fractions=(), checkpoints=1)
    found = compare(ratings, {"macs": least}, asked, {asked.seeds[0]: varied(ratings, 1, 1.0)})
    assert select(ratings, {"macs": least}).found.text == found.text
    assert isnan(found.random) or found.random == pytest.approx(found.loss)
    assert found.seeds[0].regret == 0, "there is nothing else to choose"


# Words


def some(fraction: float, epochs: int, tau: float, regret: float) -> Compared:
    return Compared(
        variant=Variant(0, fraction, epochs),
        tau=Taus(blocks=(tau, tau), total=tau),
        choice=Choice(text="", alike=1, regret=regret),
    )


def stability(**parts: Sequence[Compared]) -> Stability:
    seeds = tuple(parts.get("seeds", ()))
    taus_ = [compared.tau for compared in seeds]
    return Stability(
        own=Variant(0, 1.0, 8),
        text="",
        loss=1.0,
        random=2.0,
        pairs={(0, n): tau for n, tau in enumerate(taus_, 1)},
        seeds=seeds,
        fractions=tuple(parts.get("fractions", ())),
        checkpoints=tuple(parts.get("checkpoints", ())),
    )


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (
            {"seeds": [some(1, 8, 0.9, 0.0), some(1, 8, 0.8, 0.0)]},
            "The seed matters little: 3 seeds agree by Kendall 0.850 (0.800 to 0.900), and they "
            "choose equally well.",
        ),
        (
            {"seeds": [some(1, 8, 0.9, 0.04)]},
            "The seed matters little: 2 seeds agree by Kendall 0.900, and 4% of what the search "
            "gains over a random choice is given up by another one's choice.",
        ),
        (
            {"seeds": [some(1, 8, 0.9, 0.04), some(1, 8, 0.3, 0.5)]},
            "The seed matters: 3 seeds agree by Kendall 0.600 (0.300 to 0.900), and 50% of what "
            "the search gains over a random choice is given up by another one's choice; train "
            "the cells longer (distill.epochs, features.images).",
        ),
        (
            {"seeds": [some(1, 8, 0.9, nan)]},
            "Whether the seed matters is open: 2 seeds agree by Kendall 0.900, but what they "
            "choose cannot be judged.",
        ),
        (
            {"fractions": [some(0.8, 8, 0.9, 0.0), some(0.4, 8, 0.8, 0.02)]},
            "40% of the data would do: Kendall 0.800 with the run's own, and 2% of what the "
            "search gains over a random choice is given up.",
        ),
        (
            {"fractions": [some(0.8, 8, 0.9, 0.0), some(0.4, 8, 0.5, 0.2)]},
            "80% of the data would do: Kendall 0.900 with the run's own, and the choice is as "
            "good; 40% would not: Kendall 0.500 with the run's own, and 20% of what the search "
            "gains over a random choice is given up.",
        ),
        (
            {"fractions": [some(0.8, 8, 0.4, 0.3), some(0.4, 8, 0.5, 0.0)]},
            "The data matter: with 80% of the data, Kendall 0.400 with the run's own, and 30% of "
            "what the search gains over a random choice is given up; more of them may change the "
            "choice again (features.images).",
        ),
        (
            {"fractions": [some(0.8, 8, 0.4, nan)]},
            "Whether the data matter is open: with 80% of the data, Kendall 0.400 with the run's "
            "own, and what it chooses cannot be judged.",
        ),
        (
            {"fractions": [some(0.8, 8, 0.9, 0.0), some(0.4, 8, 0.5, nan)]},
            "80% of the data would do: Kendall 0.900 with the run's own, and the choice is as "
            "good; 40% are open: Kendall 0.500 with the run's own, and what it chooses cannot be "
            "judged.",
        ),
        (
            {"checkpoints": [some(1, 6, 0.9, 0.0), some(1, 4, 0.7, 0.05), some(1, 2, 0.1, 0.8)]},
            "The training is long enough: from epoch 4 of 8 on, Kendall 0.700 with the run's own, "
            "and 5% of what the search gains over a random choice is given up.",
        ),
        (
            {"checkpoints": [some(1, 6, 0.4, 0.3), some(1, 4, 0.7, 0.05)]},
            "The training is not shown to be long enough: after 6 of 8 epochs, Kendall 0.400 with "
            "the run's own, and 30% of what the search gains over a random choice is given up; "
            "raise distill.epochs.",
        ),
        (
            {"checkpoints": [some(1, 6, 0.4, nan)]},
            "Whether the training is long enough is open: after 6 of 8 epochs, Kendall 0.400 with "
            "the run's own, and what it chooses cannot be judged.",
        ),
        (
            {"seeds": [some(1, 8, nan, nan)]},
            "Nothing can be said: there are no two paths of a block that rate differently.",
        ),
    ],
)
def test_the_verdict(parts: dict[str, Sequence[Compared]], said: str) -> None:
    assert stability_verdict(stability(**parts)) == said


def test_what_is_no_more_than_chance_is_called_open() -> None:
    """What a part of the data or fewer epochs give up is held against what another seed does."""
    seeds = [some(1, 8, 0.5, 0.3), some(1, 8, 0.5, nan)]
    for regret, open_ in ((0.3, True), (0.31, False)):
        part = [some(0.5, 4, 0.6, regret)]
        words = stability_verdict(stability(seeds=seeds, fractions=part, checkpoints=part))
        assert words.count("no more than by another seed.") == 2 * open_
        assert ("Whether the data matter is open" in words) == open_
        assert ("Whether the training is long enough is open" in words) == open_
        assert ("The data matter: " in words) == (not open_)
    two = [some(0.8, 8, 0.9, 0.0), some(0.4, 8, 0.5, 0.2)]
    words = stability_verdict(stability(seeds=seeds, fractions=two))
    assert re.search("80% of the data would do: .*; 40% are open: .* another seed.$", words)


def test_the_verdict_has_a_sentence_for_each_part() -> None:
    part = [some(0.5, 4, 0.9, 0.0)]
    words = stability_verdict(stability(seeds=part, fractions=part, checkpoints=part))
    assert words.count(". ") == 2
    assert [words.index(w) for w in ("The seed", "of the data", "The training")] == sorted(
        words.index(w) for w in ("The seed", "of the data", "The training")
    )


# The command, where everything is rated already


@pytest.fixture
def run(tmp_path: Path, space: Space) -> RunFolder:
    """A run of 8 epochs of 3 windows all of whose variants are rated."""
    made = make_run(tmp_path / "run", Sketch())
    for number in (1, 2):
        ratings = rated(made, number)
        asked = wanted(Variant(0, 1.0, 8), 3, seeds=3, fractions=(0.8, 0.4), checkpoints=4)
        losses = {v: varied(ratings, n, 0.02) for n, v in enumerate(asked.variants)}
        made.write_table(made.file(number, "stability.parquet"), variants_table(ratings, losses))
    return made


def call(*words: Any) -> Result:
    result = CliRunner().invoke(command, list(map(str, words)), catch_exceptions=False)
    assert (result.exit_code, result.stderr) == (0, "")
    return result


def tree_of(*words: Any) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(call(*words, "--json").stdout, parse_constant=refuse)


def test_json_has_all_figures(run: RunFolder) -> None:
    tree = tree_of(run.place)
    assert tree["generation"] == 2
    assert tree["limits"] == searched(run, 2)
    assert tree["own"]["epochs"] == 8
    assert tree["own"]["loss"] < tree["random_loss"]
    assert [pair["seeds"] for pair in tree["seeds"]["pairs"]] == [[0, 1], [0, 2], [1, 2]]
    assert [v["seed"] for v in tree["seeds"]["variants"]] == [1, 2]
    assert [v["fraction"] for v in tree["fractions"]] == [2 / 3, 1 / 3]
    assert [v["epochs"] for v in tree["checkpoints"]] == [2, 4, 6]
    taus_ = [pair["kendall"] for pair in tree["seeds"]["pairs"]]
    assert tree["seeds"]["kendall"]["lowest"] == min(taus_)
    for variant in (*tree["seeds"]["variants"], *tree["fractions"], *tree["checkpoints"]):
        assert variant["regret"] >= 0
        assert len(variant["blocks"]) == 2
        assert (variant["architecture"] == tree["own"]["architecture"]) == (
            variant["blocks_alike"] == 2
        )


def test_people_read_the_same_in_a_table_and_words(run: RunFolder) -> None:
    tree, text = tree_of(run.place, "--generation", 1), call(run.place, "--generation", 1).stdout
    words = " ".join(text.split())
    assert tree["generation"] == 1
    assert tree["verdict"] in words
    assert f"the run's choice: {tree['own']['architecture']}" in words
    named = {
        **{f"seed {v['seed']}": v for v in tree["seeds"]["variants"]},
        **{f"{v['fraction']:.0%} of the data": v for v in tree["fractions"]},
        **{f"{v['epochs']} of 8 epochs": v for v in tree["checkpoints"]},
    }
    lines = text.splitlines()
    for name, variant in named.items():
        (row,) = (line for line in lines if line.startswith(f"│ {name} "))
        cells = [cell.strip() for cell in row.strip("│").split("│")][1:]
        figures = [*variant["blocks"], variant["kendall"]]
        alike, regret = f"{variant['blocks_alike']} of 2", f"{variant['regret']:.0%}"
        assert cells == [*(f"{value:.2f}" for value in figures), alike, regret]
        assert (f"{name}: {variant['architecture']}" in words) == (variant["blocks_alike"] < 2)
    assert all(f"pairs, {name}" in text for name in ("mean", "lowest", "highest"))


def test_a_part_that_is_left_out_is_null(run: RunFolder) -> None:
    tree = tree_of(run.place, "--fractions", "", "--checkpoints", 1, "--seeds", 2)
    assert tree["fractions"] is tree["checkpoints"] is None
    assert len(tree["seeds"]["pairs"]) == 1
    tree = tree_of(run.place, "--seeds", 1, "--fractions", "0.7")
    assert tree["seeds"] is None
    assert [variant["fraction"] for variant in tree["fractions"]] == [2 / 3]


def test_the_plot_is_written_beside_the_answer(run: RunFolder, tmp_path: Path) -> None:
    call(run.place, "--plot", tmp_path / "plot.svg")
    assert "3 pairs of seeds" in (tmp_path / "plot.svg").read_text()


def test_where_nothing_is_missing_neither_torch_nor_ray_is_imported(run: RunFolder) -> None:
    done = modules_after("stability", str(run.place))
    assert done.returncode == 0, done.stderr
    assert not set(done.stderr.split()) & {"torch", "ray", "timm", "matplotlib"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--fractions", "0.8,x"], r"--fractions must be numbers between 0 and 1, .* '0.8,x'"),
        (["--fractions", "1"], r"--fractions must be numbers between 0 and 1, .* '1'"),
        (["--fractions", "nan"], r"--fractions must be numbers between 0 and 1, .* 'nan'"),
        (
            ["--seeds", "1", "--fractions", "", "--checkpoints", "1"],
            r"something must be compared, but --seeds 1, --fractions '' and --checkpoints 1 ask",
        ),
        (["--plot", "plot.pdf"], r"\.svg or \.png file, but 'plot\.pdf' is given"),
        (["--generation", "3"], r"has no generation-3/ratings.parquet; --resume it"),
    ],
)
def test_wrong_input_is_told_before_anything_runs(
    run: RunFolder, words: list[str], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        call(run.place, *words)


def test_a_generation_that_has_not_been_searched_has_no_choice_to_compare(
    run: RunFolder, tmp_path: Path
) -> None:
    (run.place / "generation-2" / "architecture.json").remove()
    assert tree_of(run.place)["generation"] == 1
    with pytest.raises(UserError, match=r"architecture\.json' is missing or damaged; --resume"):
        call(run.place, "--generation", "2")
    begun = make_run(tmp_path / "begun", Sketch(finished=0))
    assert searched(begun, 1)
    with pytest.raises(UserError, match=r"has no generation-2/architecture\.json; --resume it"):
        searched(begun, 2)
