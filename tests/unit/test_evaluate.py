"""`dna-ray evaluate`: its JSON keys, its table for people, its plot, what it imports."""

import json
import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from dna_ray.errors import UserError
from dna_ray_cli.evaluate import command
from tests.data import benches
from tests.processes import modules_after


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The 23 ImageNet networks without costs; BossNAS's table with them, in Parquet."""
    folder = tmp_path_factory.mktemp("evaluate")
    tree = benches.imagenet()
    tree["archs"] = [{"code": a["code"], "top1": a["top1"]} for a in tree["archs"]]
    bench, _ = benches.write(folder, tree, benches.bossnas())
    pq.write_table(benches.bossnas(costs=True), folder / "ratings.parquet")
    return bench, folder / "ratings.parquet"


def run(*words: Any) -> Result:
    result = CliRunner().invoke(command, list(map(str, words)), catch_exceptions=False)
    assert (result.exit_code, result.stderr) == (0, "")
    return result


def tree_of(*words: Any) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(run(*words, "--json").stdout, parse_constant=refuse)


def test_json_has_the_keys_of_the_contract_and_what_is_behind_them(
    files: tuple[Path, Path],
) -> None:
    tree = tree_of(*files, "--resamples", 200, "--seed", 3)
    correlations = ["kendall", "spearman", "pearson"]
    costs = ["macs", "params"]
    assert tree["n"] == 23
    assert [round(tree[name], 3) for name in correlations] == [0.644, 0.777, 0.847]
    assert list(tree["baselines"]) == list(tree["partial_kendall"]) == costs
    for part in (tree, *tree["baselines"].values()):
        assert list(part["interval95"]) == correlations
        for name, (low, high) in part["interval95"].items():
            assert low < part[name] < high
    for cost, (low, high) in tree["partial_interval95"].items():
        assert low < tree["partial_kendall"][cost] < high
    assert tree["equal_cost_kendall"] == tree["equal_cost"]["macs"]["kendall"]
    assert tree["equal_cost"]["macs"]["pairs"] == 65
    assert tree["lead"]["over"] == "macs"
    assert tree["lead"]["kendall"] == tree["kendall"] - tree["baselines"]["macs"]["kendall"]
    assert tree["verdict"].startswith("No clear difference between the rating and cost")
    assert tree["best"] == {"code": "11/1111/1101/1011/1101", "accuracy": 75.52}
    assert tree["choice"] == tree["best"] | {"place": 1}
    assert (tree["resamples"], tree["seed"]) == (200, 3)


def test_people_read_the_same_in_tables_and_words(files: tuple[Path, Path]) -> None:
    tree = tree_of(*files, "--resamples", 200)
    text = run(*files, "--resamples", 200).stdout
    words = " ".join(text.split())
    assert tree["verdict"] in words
    for part in (tree, *tree["baselines"].values()):
        for name, (low, high) in part["interval95"].items():
            assert f"{part[name]:.3f}" in text
            assert f"{low:.3f} to {high:.3f}" in text
    assert f"{tree['partial_kendall']['params']:.3f}" in text
    assert "best: 11/1111/1101/1011/1101 at 75.520" in words
    assert "from 200 resamples" in text


def test_without_costs_there_is_nothing_to_hold_it_against(
    files: tuple[Path, Path],
) -> None:
    words = (files[0], files[1].with_name("ratings.csv"), "--resamples", 100)
    tree = tree_of(*words)
    assert (tree["baselines"], tree["partial_kendall"], tree["equal_cost"]) == ({}, {}, {})
    assert tree["equal_cost_kendall"] is tree["lead"] is None
    assert round(tree["kendall"], 3) == 0.644
    assert "add columns such as macs and params" in " ".join(run(*words).stdout.split())


def test_what_is_undefined_is_null_and_said(tmp_path: Path) -> None:
    archs = [{"code": [str(i)], "top1": i, "[b]": 2} for i in range(3)]
    bench, ratings = tmp_path / "bench.json", tmp_path / "ratings.csv"
    bench.write_text(json.dumps({"ops": ["a", "b", "c"], "archs": archs}))
    ratings.write_text("block,ops,loss\n1,a,5\n1,b,5\n1,c,5\n")
    tree = tree_of(bench, ratings)
    assert tree["kendall"] is tree["interval95"]["pearson"] is None
    assert tree["baselines"]["[b]"]["spearman"] is tree["equal_cost_kendall"] is None
    text = run(bench, ratings).stdout
    assert "undefined" in text
    assert "[b]" in text
    assert "nan" not in text


def test_the_plot_is_written_beside_the_answer(files: tuple[Path, Path], tmp_path: Path) -> None:
    plot = tmp_path / "ranking.svg"
    tree = tree_of(*files, "--resamples", 100, "--plot", plot)
    assert f"{tree['kendall']:.3f}" in plot.read_text()
    assert list(tmp_path.iterdir()) == [plot]


def test_a_wrong_plot_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\.svg or \.png file, but 'plot\.pdf' is given"):
        run("no.json", "no.csv", "--plot", "plot.pdf")


@pytest.mark.parametrize("words", [("--resamples", "99"), ("--seed", "-1"), ("--resamples", "x")])
def test_options_are_checked(files: tuple[Path, Path], words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(command, [*map(str, files), *words])
    assert result.exit_code == 2
    assert words[0] in result.stderr


def test_the_whole_nas_bench_macro_through_the_program_without_torch_or_ray(
    tmp_path: Path,
) -> None:
    bench = benches.macro()
    paths = benches.write(tmp_path, bench, benches.additive_fit(bench))
    done = modules_after("evaluate", *map(str, paths), "--resamples", "100", "--json")
    assert done.returncode == 0, done.stderr
    tree = json.loads(done.stdout)
    assert (tree["n"], round(tree["kendall"], 4)) == (6561, 0.8654)
    assert tree["best"]["code"] == "22212220"
    assert math.isclose(tree["best"]["accuracy"], 93.127, abs_tol=5e-4)
    modules = set(done.stderr.split())
    assert not modules & {"torch", "ray", "timm", "matplotlib", "scipy.stats"}
    assert "numpy" in modules
