"""The command `select`: any table, any limits; what it prints and what it writes."""

import csv
import json
import subprocess
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dna_ray.errors import UserError
from dna_ray.search import Ratings, load_ratings, select, to_arrow
from dna_ray.search.table import BlockPaths
from dna_ray.space import Architecture, load_space
from dna_ray_cli.main import main
from tests.runs import ratings_at_random

TABLE = """block,ops,loss,macs,ms
1,"a,a",0.5,1,0.5
1,"a,b",0.25,3,1.5
2,0,0.75,2,0.25
2,1,0.5,5,0.125
2,2,0.5,9,0.5
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table.csv"
    path.write_text(TABLE)
    return path


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """The exit status of `dna-ray`, and what it wrote on standard output and error."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["dna-ray", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
    out, err = capsys.readouterr()
    assert isinstance(end.value.code, int)
    return end.value.code, out, err


def answer(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    status, out, err = run(capsys, "select", *words, "--json")
    assert (status, err) == (0, "")
    tree: dict[str, Any] = json.loads(out)
    return tree


# What it finds


def test_the_best_within_limits_of_a_table_made_by_hand(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = answer(capsys, table, "--max", "macs=8")
    assert tree["architecture"] == "a,b/1"
    assert (tree["loss"], tree["costs"]) == (0.75, {"macs": 8, "ms": 1.625})
    assert (tree["limits"], tree["candidates"]) == ({"macs": 8}, 6)
    assert (tree["algorithm"], tree["proven_optimal"]) == ("pareto", True)
    # (0.75, 8), (1, 5) or (1, 6), (1.25, 3)
    assert (tree["front_size"], tree["front_costs"]) == (3, ["macs"])
    assert tree["seconds"] > 0
    best = {key: tree[key] for key in ("architecture", "loss", "costs")}
    assert tree["alternatives"] == [best]
    certificate = tree["certificate"]
    assert (certificate["bound"], certificate["gap"], certificate["seed"]) == (0.75, 0, None)
    assert {"dna-ray", "numpy", "scipy"} <= certificate["versions"].keys()


@pytest.mark.parametrize("method", ["dna", "progressive_a"])
def test_sums_of_what_was_rated_progressively_are_not_called_losses(
    method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ratings = replace(ratings_at_random(load_space("demo"), 2, 0), metadata={"method": method})
    pq.write_table(to_arrow(ratings), tmp_path / "ratings.parquet")
    status, _, err = run(capsys, "select", tmp_path / "ratings.parquet")
    assert status == 0
    assert ("distill.strategy=progressive_a" in err) == (method != "dna")


def test_several_limits_hold_together(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = answer(capsys, table, "--max", "macs=0.008K", "--max", "ms=1.6")
    assert tree["architecture"] == "a,a/1"
    assert tree["front_costs"] == ["macs", "ms"]


@pytest.mark.parametrize("algorithm", ["pareto", "milp"])
def test_the_next_best_come_with_the_best(
    table: Path, capsys: pytest.CaptureFixture[str], algorithm: str
) -> None:
    tree = answer(capsys, table, "--top", 3, "--max", "macs=8", "--algorithm", algorithm)
    assert [a["loss"] for a in tree["alternatives"]] == [0.75, 1, 1]
    assert tree["alternatives"][0]["architecture"] == tree["architecture"] == "a,b/1"
    assert {a["architecture"] for a in tree["alternatives"][1:]} == {"a,a/1", "a,b/0"}
    assert tree["algorithm"] == algorithm


def test_there_may_be_fewer_than_asked_for(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(answer(capsys, table, "--top", 99)["alternatives"]) == 6
    tree = answer(capsys, table, "--top", 99, "--diverse", 2)
    assert [a["architecture"] for a in tree["alternatives"]] == ["a,b/1", "a,a/2"]


def test_algorithm_2_on_the_command_line(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = answer(capsys, table, "--max", "macs=8", "--algorithm", "traversal")
    assert (tree["architecture"], tree["algorithm"]) == ("a,b/1", "traversal")


def test_the_table_of_a_run_is_searched_as_the_run_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = load_space("demo")
    ratings = ratings_at_random(space, 2, 1, 0.1)
    path = tmp_path / "ratings.parquet"
    pq.write_table(to_arrow(ratings), path)
    tree = answer(capsys, path, "--max", "macs=10M")
    expected = select(ratings, {"macs": 1e7})
    assert tree["loss"] == expected.found.loss
    assert tree["candidates"] == space.architectures
    Architecture.parse(tree["architecture"]).cells(space)  # it is one of the space
    parquet, as_csv = load_ratings(path), tmp_path / "ratings.csv"
    rows = to_arrow(ratings).to_pylist()
    with as_csv.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    for one, other in zip(load_ratings(as_csv).blocks, parquet.blocks, strict=True):
        assert one.ops == other.ops
        assert one.loss.tolist() == other.loss.tolist()
        assert one.costs.tolist() == other.costs.tolist()


# What it prints and writes


def test_a_person_sees_the_whole_architecture_and_the_proof(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = run(capsys, "select", table, "--max", "ms=1.6", "--top", 2)
    assert (status, err) == (0, "")
    for text in ("best of 6", "at most", "1  a,a/1", "2  a,a/2", "proven: no other", "2 arch"):
        assert text in out


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_the_front_is_written_as_a_table(
    table: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    path = table.with_name(f"front{suffix}")
    answer(capsys, table, "--max", "ms=9", "--front", path)
    front = pq.read_table(path) if suffix == ".parquet" else pa.csv.read_csv(path)
    assert front.column_names == ["architecture", "loss", "macs", "ms"]
    assert front["architecture"].to_pylist() == ["a,a/1", "a,b/1"]
    assert front["ms"].to_pylist() == [0.625, 1.625]


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_the_front_is_drawn(table: Path, capsys: pytest.CaptureFixture[str], suffix: str) -> None:
    path = table.with_name(f"front{suffix}")
    answer(capsys, table, "--max", "macs=6", "--plot", path)
    if suffix == ".png":
        with Image.open(path) as picture:
            assert min(picture.size) > 300
    else:
        assert "chosen" in path.read_text()


# Tables that anyone may have made


def rows(*changes: dict[str, Any]) -> pa.Table:
    """A sound table of four paths, with changes to its first rows."""
    whole: list[dict[str, Any]] = [
        {"block": 1, "ops": "a", "loss": 0.5, "macs": 1.0},
        {"block": 1, "ops": "b", "loss": 0.5, "macs": 1.0},
        {"block": 2, "ops": "a", "loss": 0.5, "macs": 1.0},
        {"block": 2, "ops": "b", "loss": 0.5, "macs": 1.0},
    ]
    for row, change in zip(whole, changes, strict=False):
        row |= change
    return pa.Table.from_pylist(whole)


def without(name: str) -> pa.Table:
    return rows().drop_columns([name])


WRONG_TABLES: dict[str, tuple[pa.Table, str]] = {
    "no losses": (without("loss"), "column 'loss'.*'block', 'ops', 'macs'"),
    "no ops": (without("ops"), "column 'ops'"),
    "no blocks": (without("block"), "column 'block'"),
    "no rows": (rows().slice(0, 0), "a row for every path"),
    "NaN": (rows({}, {"loss": np.nan}), "'loss' must be a finite number.*row 2;"),
    "null": (rows({}, {"macs": None}), "'macs' must be a finite number.*row 2;"),
    "infinite": (rows({"loss": np.inf}, {}, {}, {"loss": -np.inf}), "'loss'.*rows 1, 4;"),
    "infinite cost": (rows({"macs": np.inf}), "'macs' must be a finite number.*row 1;"),
    "negative": (rows({}, {}, {"macs": -1.0}), "0 or more, but 'macs' is negative in row 3;"),
    "many": (rows(*[{"macs": -1.0}] * 4), "in rows 1, 2, 3 and 1 more;"),
    "twice": (rows({"ops": "b"}), "rows 1, 2 all are 'b' in block 1.*column 'width'"),
    "spaces": (rows({"ops": " b"}), "rows 1, 2 all are 'b' in block 1"),
    "gap": (rows({}, {}, {"block": 3}, {"block": 3}), "block 2 is missing, and row 3 is of bl"),
    "from 0": (rows({"block": 0}, {"block": 0}), "'block' must be a whole number, 1 or more.*1, 2"),
    "half": (rows(*[{"cell": 0.5}] * 4), "'cell' must be a whole number"),
    "words": (rows({"energy": "much"}, {"energy": "1"}), "'energy' must hold numbers.*rows? 1"),
    "bytes": (rows({"energy": b"1"}), "'energy' is of type binary; leave that column out"),
    "lists": (rows({"energy": [1]}), "'energy' is of type list.*leave that column out"),
    "no ops in it": (rows({}, {"ops": None}), "ops must be texts without.* in row 2;"),
    "slashes": (rows({"ops": "a/b"}), "ops must be texts without.* in row 1;"),
    "tabs": (rows({"ops": "a,\tb"}), "ops must be texts without.* in row 1;"),
    "no name": (rows({"": 1.0}), "a cost must have a name of its own, but.* called ''"),
    "capitals": (rows({"Width": 8}), "a cost must have a name of its own, but.* called 'Width'"),
    "text": (rows({"architecture": 8}), "a cost must have a name of its own"),
    "truths": (rows(*[{"energy": True}] * 4), "'energy' is of type bool; leave that column out"),
    "days": (rows(*[{"day": date(2026, 1, 1)}] * 4), "'day' is of type date32"),
    "overflow": (rows({"macs": 1e308}, {}, {"macs": 1e308}), "stay below 1e.300, but.*'macs'"),
    "great losses": (rows({"loss": -1e308}), "must stay below 1e.300, but those of 'loss'"),
    "edges": (rows().replace_schema_metadata({"edges": "[{}]"}), "metadata 'edges' must list"),
    "edges alone": (rows().replace_schema_metadata({"edges": "{}"}), "metadata 'edges' must list"),
    "deep edges": (rows().replace_schema_metadata({"edges": "[" * 9999}), "'edges' must list"),
    "no JSON": (rows().replace_schema_metadata({"edges": "["}), "metadata 'edges' must list"),
    "fixed": (rows().replace_schema_metadata({"fixed.macs": "all"}), "'fixed.macs' must be a fin"),
    "negative edge": (
        rows().replace_schema_metadata(
            {
                "edges": '[{"block": 2, "input_width": 0, "cell": 0, "op": "a", "macs": -2}]',
            }
        ),
        "by the metadata 'edges' 'macs' is negative in block 2 behind a width of 0",
    ),
}


@pytest.mark.parametrize("name", WRONG_TABLES)
def test_a_wrong_table_is_refused_and_its_rows_named(name: str, tmp_path: Path) -> None:
    table, said = WRONG_TABLES[name]
    path = tmp_path / "table"
    pq.write_table(table, path)
    with pytest.raises(UserError, match=f"'{path}': .*{said}"):
        load_ratings(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("block,ops,loss\n1,a,half\n", "'loss' must hold numbers.* in row 1;"),
        ("block,ops,loss\n1,a,0.5\n1,b,nan\n", "'loss' must be a finite number.* in row 2;"),
        ("block,ops,loss\n1,a,0.5,7\n", "must be a Parquet or CSV file"),
        ("block,ops,loss,loss\n1,a,0.5,7\n", "'loss' is there twice"),
        ("block,loss\n1,0.5\n", "column 'ops'"),
        ("", "must be a Parquet or CSV file"),
        ("PAR1 and no more", "must be a Parquet or CSV file"),
        ("\0\0\xff", "must be a Parquet or CSV file"),
        ("\x89PNG\r\n\x1a\n\0\0", "must be a Parquet or CSV file.*other bytes than text"),
    ],
)
def test_a_wrong_text_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode("latin1"))
    with pytest.raises(UserError, match=said):
        load_ratings(path)


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    """Some bytes changed anywhere: an error to tell, or a table."""
    sink = pa.BufferOutputStream()
    pq.write_table(rows(), sink)
    whole, rng = sink.getvalue().to_pybytes(), np.random.default_rng(0)
    path, told = tmp_path / "table", list[str]()
    for _ in range(300):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), 2):
            data[place] ^= int(rng.integers(1, 256))
        path.write_bytes(data)
        try:
            load_ratings(path)
        except UserError as error:
            told.append(str(error))
    assert len(told) > 50
    assert all(map(str.isprintable, told))


def test_a_table_may_come_through_a_pipe(table: Path) -> None:
    with subprocess.Popen(["cat", table], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        piped = load_ratings(Path(f"/dev/fd/{process.stdout.fileno()}"))
    assert piped.blocks[1].ops == ("0", "1", "2")


def test_ops_as_categories_and_great_counts_are_read(tmp_path: Path) -> None:
    path, whole = tmp_path / "table", rows({"macs": 2**60 + 1.0})
    ops = whole["ops"].combine_chunks().dictionary_encode()
    macs = pa.array([2**60 + 1, 1, 1, 1])
    pq.write_table(whole.set_column(1, "ops", ops).set_column(3, "macs", macs), path)
    block = load_ratings(path).blocks[0]
    assert (block.ops, block.costs[0, 0]) == (("a", "b"), 2.0**60)


def test_what_is_shown_is_what_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Brackets are no markup."""
    path = tmp_path / "table.csv"
    path.write_text("block,ops,loss,[red]\n1,[a],0.5,1\n2,[b],0.5,1\n")
    status, out, _ = run(capsys, "select", path)
    assert status == 0
    assert "1  [a]/[b]" in out
    assert "[red]" in out


def test_the_ratings_are_not_written_over(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = table.read_bytes()
    status, _, err = run(capsys, "select", table, "--front", table)
    assert (status, table.read_bytes()) == (2, before)
    assert "must not be the ratings" in err


def test_rows_may_come_in_any_order_and_cells_and_widths_be_left_out(tmp_path: Path) -> None:
    path = tmp_path / "table"
    pq.write_table(rows({"loss": 0.1}).take([3, 0, 2, 1]), path)
    ratings = load_ratings(path)
    assert [block.ops for block in ratings.blocks] == [("a", "b"), ("b", "a")]
    assert [block.cell.tolist() for block in ratings.blocks] == [[0, 0], [0, 0]]
    assert select(ratings, {}).found.text in ("a/a", "a/b")


def test_ops_that_look_like_numbers_stay_texts(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("block,ops,loss\n1,00,0.5\n1,0,0.25\n")
    assert load_ratings(path).blocks[0].ops == ("00", "0")


def test_a_path_that_diverged_is_not_chosen_but_a_block_of_them_is_an_error() -> None:
    zero = np.zeros(2, np.int64)
    block = BlockPaths(zero, zero, ("a", "b"), np.array([np.nan, 0.5]), np.array([[1.0], [9.0]]))
    ratings = Ratings((block,), ("macs",), np.zeros(1))
    assert select(ratings, {}).found.text == "b"
    worst = replace(ratings, blocks=(replace(block, loss=np.full(2, np.inf)),))
    with pytest.raises(UserError, match="none of block 1 has: they diverged"):
        select(worst, {})
