"""`dna-ray measure` as its users run it, and the cost that it joins onto rated paths."""

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click import ClickException
from click.testing import CliRunner, Result

from dna_ray import latency
from dna_ray.errors import UserError
from dna_ray.randomness import generator
from dna_ray.search import Ratings, load_ratings, ratings_of, to_arrow, totals
from dna_ray.search.join import join_cost
from dna_ray.search.table import BlockPaths
from dna_ray.space import Space, cost_table, parse_space
from dna_ray.space.correction import Correction
from dna_ray.space.costs import Layer
from dna_ray.space.latency import Conditions, LatencyTable, Sample, Subject
from dna_ray.space.parts import Part
from dna_ray_cli.measure import command
from tests import tiny as two_blocks
from tests.processes import small_files_only

FACTS = {"latency_ms.device": "cpu"}


def rated(space: Space, seed: int = 0) -> Ratings:
    """Every path of a space with its exact costs and a random loss."""
    rng = np.random.default_rng(seed)
    losses = [[rng.uniform(size=b.count(c)) for c in range(len(b.cells))] for b in space.blocks]
    return ratings_of(space, cost_table(space, space.resolution, 10), losses, {"method": "made up"})


def by_hand(ratings: Ratings) -> Ratings:
    """As someone writes a table who knows no widths, in another order and without some paths."""
    blocks = []
    for block in ratings.blocks:
        rows = np.arange(len(block.loss))[::-2]
        ops = tuple(block.ops[row] for row in rows)
        none = np.zeros(len(rows), np.int64), np.empty((len(rows), 0))
        blocks.append(BlockPaths(block.cell[rows], none[0], ops, block.loss[rows], none[1]))
    return Ratings(tuple(blocks), (), np.zeros(0))


# Joining


def milliseconds(part: Part) -> float:
    return float(generator(3, part.op, *part.layer).uniform(0.1, 1))


def latencies(space: Space, offset: float, factor: float) -> Any:
    """The additive cost of parts that take `milliseconds` each."""
    where = Conditions(
        space=space.name,
        fingerprint="",
        resolution=space.resolution,
        classes=10,
        batch=1,
        threads=1,
        device="cpu",
        processor="",
        torch="",
        networks=4,
        seed=0,
    )
    table = LatencyTable(space, where)
    table.samples = {part: [Sample(milliseconds(part), 1.0)] for part in table.parts}
    return table.costs(Correction(offset, factor))


def network_milliseconds(
    ratings: Ratings, space: Space, rows: tuple[int, ...], offset: float, factor: float
) -> float:
    """Layer after layer, from the rows of the table alone."""
    width, size = space.trunk.stem_out, -(-space.resolution // 2)
    parts = [Part("stem", Layer(3, width, 2, space.resolution))]
    for block, paths, row in zip(space.blocks, ratings.blocks, rows, strict=True):
        out = block.cells[paths.cell[row]].width
        for number, op in enumerate(paths.ops[row].split(",")):
            stride = block.stride if number == 0 else 1
            parts.append(Part(op, Layer(width, out, stride, size)))
            width, size = out, -(-size // stride)
    parts.append(Part("head", Layer(width, 10, 1, size)))
    return offset + factor * sum(map(milliseconds, parts))


@pytest.mark.parametrize("form", ["ours", "by hand"])
@pytest.mark.parametrize(("offset", "factor"), [(0.0, 1.0), (-0.3, 1.7), (2.5, 0.4)])
def test_every_architecture_costs_what_its_layers_cost(
    tiny: Space, form: str, offset: float, factor: float
) -> None:
    ratings = rated(tiny) if form == "ours" else by_hand(rated(tiny))
    joined = join_cost(ratings, tiny, "latency_ms", latencies(tiny, offset, factor), FACTS)
    rows = list(product(*(range(len(block.ops)) for block in ratings.blocks)))
    _, costs = totals(joined, np.array(rows))
    expected = [network_milliseconds(ratings, tiny, row, offset, factor) for row in rows]
    assert costs[:, joined.column("latency_ms")] == pytest.approx(np.array(expected))


def test_all_that_was_there_stays(tiny: Space) -> None:
    ratings = rated(tiny)
    joined = join_cost(ratings, tiny, "latency_ms", latencies(tiny, 0.1, 2.0), FACTS)
    assert joined.cost_names == ("params", "macs", "latency_ms")
    assert joined.metadata == ratings.metadata | FACTS
    rows = np.array(list(product(*(range(len(block.ops)) for block in ratings.blocks))))
    for before, after in zip(totals(ratings, rows), totals(joined, rows), strict=True):
        assert np.array_equal(before, after[:, :2] if after.ndim == 2 else after)


def test_joined_again_the_column_is_replaced(tiny: Space) -> None:
    once = join_cost(rated(tiny), tiny, "latency_ms", latencies(tiny, 9.0, 5.0), FACTS)
    again = join_cost(once, tiny, "latency_ms", latencies(tiny, 0.1, 2.0), FACTS)
    fresh = join_cost(rated(tiny), tiny, "latency_ms", latencies(tiny, 0.1, 2.0), FACTS)
    assert to_arrow(again).equals(to_arrow(fresh), check_metadata=True)


def test_joined_ratings_are_read_as_they_were_written(tiny: Space, tmp_path: Path) -> None:
    joined = join_cost(rated(tiny), tiny, "latency_ms", latencies(tiny, -0.1, 2.0), FACTS)
    pq.write_table(to_arrow(joined), tmp_path / "joined.parquet")
    read = load_ratings(tmp_path / "joined.parquet")
    assert to_arrow(read).equals(to_arrow(joined), check_metadata=True)


def _row(ratings: Ratings, **changed: Any) -> Ratings:
    """`ratings` with other values in the third row of block 2."""
    block = ratings.blocks[1]
    ops = (*block.ops[:2], changed.get("ops", block.ops[2]), *block.ops[3:])
    cell, width = block.cell.copy(), block.width.copy()
    cell[2], width[2] = changed.get("cell", cell[2]), changed.get("width", width[2])
    other = replace(block, ops=ops, cell=cell, width=width)
    return replace(ratings, blocks=(ratings.blocks[0], other))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"ops": "k9e9"}, "'k9e9' of block 2, cell 1"),
        ({"ops": "k3e2,k3e2,k3e2"}, "'k3e2,k3e2,k3e2' of block 2, cell 1"),
        ({"cell": 7}, "cell 7"),
        ({"width": 17}, "width 17"),
    ],
)
def test_a_row_that_is_no_path_is_named(tiny: Space, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        join_cost(_row(rated(tiny), **changed), tiny, "x", latencies(tiny, 0, 1), {})
    assert said in str(error.value)
    assert "\n" not in str(error.value)


# The command


@dataclass
class Fake:
    """A stopwatch that answers at once; it is interrupted instead of the `stop`-th time."""

    space: Space
    conditions: Conditions
    stop: int | None = None
    asked: int = 0

    def __call__(self, subject: Subject) -> Sample:
        if self.asked == self.stop:
            raise KeyboardInterrupt
        self.asked += 1
        return Sample(float(generator(1, str(subject)).uniform(1, 2)), 1.0)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a space and its ratings, which commands run in."""
    (tmp_path / "tiny.toml").write_text(two_blocks.SPACE)
    space = parse_space(two_blocks.SPACE, "tiny")
    pq.write_table(to_arrow(rated(space)), tmp_path / "ratings.parquet")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "Stopwatch", Fake)


def run(*words: str, space: str = "tiny.toml") -> Result:
    return CliRunner().invoke(command, ["--space", space, *words], standalone_mode=False)


def tree_of(*words: str) -> Any:
    result = run(*words, "--json")
    assert result.exception is None, result.exception
    tree = json.loads(result.stdout)
    assert isinstance(tree, dict)
    return tree


def test_a_real_measurement_from_the_layers_to_the_limit(here: Path) -> None:
    tree = tree_of("--repeats", "2", "--networks", "4", "--ratings", "ratings.parquet")
    assert (tree["latency_table"], tree["joined"]) == ("latency.parquet", "joined.parquet")
    assert (tree["networks"], tree["samples"], tree["device"]) == (4, 2, "cpu")
    assert tree["correction"]["factor"] > 0
    assert set(tree["held_out"]) == {
        *(f"{kind}_error_{when}" for kind in ("mean", "worst") for when in ("before", "after")),
        "kendall",
        "spearman",
    }
    rows = pq.read_table("latency.parquet").to_pylist()
    assert tree["layers"] == sum(row["op"].startswith("k") for row in rows)
    assert all(row["milliseconds"] > 0 and row["samples"] == 2 for row in rows)
    parts = [row["milliseconds"] for row in rows if row["op"] != "network"]
    wholes = [row["milliseconds"] for row in rows if row["op"] == "network"]
    assert min(wholes) > 2 * np.median(parts)
    joined = load_ratings(here / "joined.parquet")
    assert joined.cost_names == ("params", "macs", "latency_ms")
    assert joined.metadata["latency_ms.threads"] == "1"
    assert float(joined.metadata["latency_ms.factor"]) == tree["correction"]["factor"]
    (least,) = (sum(b.costs[:, 2].min() for b in joined.blocks) + joined.fixed[2],)
    assert 0 < least < 100 * max(wholes)


@pytest.mark.usefixtures("fake")
def test_the_table_for_people_says_the_same(here: Path) -> None:
    tree = tree_of("--networks", "6", "--repeats", "1")
    result = run("--networks", "6", "--repeats", "1")
    assert result.exception is None
    errors = tree["held_out"]
    for name in errors:
        text = f"{errors[name]:.1%}" if "error" in name else f"{errors[name]:.3f}"
        assert text in result.stdout
    assert f"{tree['layers']} layers" in result.stdout


@pytest.mark.usefixtures("fake")
def test_a_finished_table_is_joined_without_measuring_and_without_torch(here: Path) -> None:
    tree_of("--repeats", "2", "--networks", "4")
    before = (here / "latency.parquet").read_bytes()
    words = ["--space", "tiny.toml", "--repeats", "2", "--networks", "4", "--json"]
    words += ["--ratings", "ratings.parquet", "--joined", "mine.parquet"]
    script = (
        "import sys\nfrom dna_ray_cli.measure import command\n"
        f"command.main({words!r}, standalone_mode=False)\n"
        "assert not {'torch', 'ray'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=here
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["joined"] == "mine.parquet"
    assert "complete" in done.stderr
    assert load_ratings(here / "mine.parquet").column("latency_ms") == 2
    assert (here / "latency.parquet").read_bytes() == before


def test_interrupted_it_says_how_to_go_on_and_goes_on(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--repeats", "2", "--networks", "4")
    watches: list[Fake] = []

    def watch(space: Space, conditions: Conditions) -> Fake:
        watches.append(Fake(space, conditions, stop=None if watches else 25))
        return watches[-1]

    monkeypatch.setattr(latency, "Stopwatch", watch)
    stopped = run(*words)
    cause = stopped.exception.__cause__ if stopped.exception else None
    assert isinstance(cause, KeyboardInterrupt)
    assert cause.__notes__ == ["the same command goes on with 'latency.parquet'"]
    resumed = run(*words)
    assert resumed.exception is None
    assert "gone on with, 25 samples are there" in resumed.stderr
    rows = pq.read_table("latency.parquet").to_pylist()
    assert sum(watch.asked for watch in watches) == 2 * len(rows)
    assert {row["samples"] for row in rows} == {2}


@pytest.mark.usefixtures("fake")
def test_ratings_of_another_resolution_are_joined_and_pointed_out(here: Path) -> None:
    words = ("--repeats", "1", "--networks", "4", "--ratings", "ratings.parquet")
    result = run(*words, "--resolution", "24")
    assert result.exception is None
    assert "the ratings are of 32 pixels, not of 24" in result.stderr
    metadata = load_ratings(here / "joined.parquet").metadata
    assert (metadata["resolution"], metadata["latency_ms.resolution"]) == ("32", "24")


# Wrong input

RIGHT = ("--networks", "4", "--repeats", "1")


def _no_table(here: Path) -> None:
    (here / "latency.parquet").write_text("mine")


def _other_ratings(here: Path) -> None:
    space = parse_space(two_blocks.SPACE.replace('"tiny"', '"other"'), "other")
    pq.write_table(to_arrow(rated(space)), here / "ratings.parquet")


def _other_paths(here: Path) -> None:
    space = parse_space(two_blocks.SPACE.replace("k3e2", "k5e2"), "tiny")
    pq.write_table(to_arrow(rated(space)), here / "ratings.parquet")


def _mine(here: Path) -> None:
    (here / "joined.parquet").write_text("mine")


JOIN = ("--ratings", "ratings.parquet")


@pytest.mark.parametrize(
    ("words", "said", "place"),
    [
        (("--space", "dmo"), ("did you mean 'demo'?",), None),
        (("--device", "tpu"), ("--device", "tpu"), None),
        (("--batch", "0"), ("--batch",), None),
        (("--threads", "0"), ("--threads",), None),
        (("--repeats", "0"), ("--repeats",), None),
        (("--networks", "3"), ("--networks",), None),
        (("--resolution", "0"), ("--resolution",), None),
        (("--seed", "-1"), ("--seed",), None),
        (("--out", "no/latency.parquet"), ("must be writable", "no/latency"), None),
        (("--out", "latency.csv"), ("--out must be a .parquet file", "'latency.csv'"), None),
        ((*JOIN, "--joined", "joined"), ("--joined must be a .parquet file", "'joined'"), None),
        ((), ("one of ours", "'latency.parquet'", "--out"), _no_table),
        (("--out", "ratings.parquet"), ("one of ours", "'ratings.parquet'"), None),
        (("--joined", "x.parquet"), ("--joined x.parquet", "give --ratings"), None),
        (("--ratings", "no.parquet"), ("'no.parquet'",), None),
        (("--ratings", "tiny.toml"), ("'tiny.toml'",), None),
        (JOIN, ("of 'other'", "'tiny'"), _other_ratings),
        (JOIN, ("a path of space 'tiny'", "k5e2"), _other_paths),
        ((*JOIN, "--joined", "ratings.parquet"), ("'ratings.parquet' is neither",), None),
        (JOIN, ("'joined.parquet' is neither", "--joined"), _mine),
        ((*JOIN, "--joined", "no/joined.parquet"), ("no/joined.parquet",), None),
        ((*JOIN, "--joined", "latency.parquet"), ("latency.parquet", "--joined"), None),
    ],
)
@pytest.mark.usefixtures("fake")
def test_wrong_input_is_one_clear_line_and_nothing_is_written(
    here: Path, words: tuple[str, ...], said: tuple[str, ...], place: Any
) -> None:
    if place:
        place(here)
    before = {path: path.read_bytes() for path in here.iterdir()}
    result = run(*RIGHT, *words, "--json")
    error = result.exception
    assert isinstance(error, UserError | ClickException)
    line = error.format_message() if isinstance(error, ClickException) else str(error)
    assert [text for text in said if text not in line] == [], line
    assert "\n" not in line
    assert result.stdout == ""
    assert {path: path.read_bytes() for path in here.iterdir()} == before


@pytest.mark.usefixtures("fake")
def test_a_table_of_other_settings_is_refused_and_kept(here: Path) -> None:
    tree_of(*RIGHT)
    before = (here / "latency.parquet").read_bytes()
    result = run(*RIGHT, "--batch", "8", "--threads", "2")
    assert isinstance(result.exception, UserError)
    assert "batch 1 instead of 8, threads 1 instead of 2" in str(result.exception)
    assert (here / "latency.parquet").read_bytes() == before


@pytest.mark.usefixtures("fake")
def test_a_space_of_three_networks_is_too_small(here: Path) -> None:
    few = (
        'name = "few"\nresolution = 16\nops = ["k3e1", "k3e2", "k5e1"]\n'
        "[[blocks]]\nstride = 2\ncells = [{ layers = 1, width = 8 }]\n"
    )
    (here / "few.toml").write_text(few)
    result = run(*RIGHT, space="few.toml")
    assert isinstance(result.exception, UserError)
    assert "'few' has 3" in str(result.exception)


@pytest.mark.usefixtures("fake")
def test_a_full_disk_is_told_in_one_line(here: Path) -> None:
    with small_files_only(0):
        result = run(*RIGHT)
    assert isinstance(result.exception, UserError)
    assert "must be writable" in str(result.exception)
    assert not (here / "latency.parquet").exists()


@pytest.mark.skipif(latency.torch.cuda.is_available(), reason="a GPU is there")
def test_cuda_where_there_is_none_is_refused(here: Path) -> None:
    result = run(*RIGHT, "--device", "cuda")
    assert isinstance(result.exception, UserError)
    assert "finds none" in str(result.exception)
    assert list(here.glob("latency*")) == []
