"""The page of a run: its numbers are those of the records, and it is whole by itself."""

import io
import itertools
import json
import math
import re
import shutil
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dna_ray.errors import UserError
from dna_ray.randomness import generator
from dna_ray.report import read_run, report_page, write_report
from dna_ray.report.analysis import op_effects, path_costs, random_architectures, rank, spreads
from dna_ray.report.answer import times
from dna_ray.report.axes import Scale, decimals
from dna_ray.report.html import amount, column, count, duration, tag
from dna_ray.rundir import RunFolder
from dna_ray.search import read_ratings, to_arrow
from dna_ray.space import Architecture, network_costs, network_spec, parse_space
from dna_ray.storage import Place
from tests.processes import modules_after, small_files_only
from tests.runs import SPACE, Sketch, make_run, ratings_at_random
from tests.s3 import Store

PROGRAM = str(Path(sys.executable).with_name("dna-ray"))
NASTY = "/data/<b>&\"x' \u202e]]>\x1b--><script>alert(1)</script"

SKETCHES = {
    "labelled": Sketch(),
    "one": Sketch(generations=1, finished=1),
    "partial": Sketch(generations=3, finished=1),
    "unlabelled": Sketch(labelled=False, generations=1, finished=1),
    "params": Sketch(limits={"params": 30e3}),
    "both": Sketch(limits={"macs": 400e3, "params": 20e3}, generations=1, finished=1),
    "alike": Sketch(limits={"macs": 400e3, "params": 20e3}, spread=0.0),
    "loose": Sketch(limits={"macs": 1e9}, generations=1, finished=1),
    "progressive": Sketch(strategy="progressive_b", limits={"macs": 400e3, "params": 20e3}),
    "nasty": Sketch(data=NASTY, space=SPACE.format(name="<i>&amp;"), finished=1),
}


@pytest.fixture(params=list(SKETCHES))
def sketch(request: pytest.FixtureRequest) -> Sketch:
    return SKETCHES[request.param]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "run"
    make_run(path, Sketch())
    return path


@pytest.fixture
def run(made: Path, tmp_path: Path) -> RunFolder:
    """A run of its own for every test."""
    shutil.copytree(made, tmp_path / "run")
    return RunFolder.open(tmp_path / "run")


def path_of(run: RunFolder) -> Path:
    path = run.place.local
    assert path is not None
    return path


def page_of(run: RunFolder) -> ET.Element:
    """The parsed page; XML's parser takes nothing that is not well formed."""
    return ET.fromstring(write_report(path_of(run)).read())


def text_of(element: ET.Element) -> str:
    return "".join(element.itertext())


def tables(page: ET.Element) -> list[list[list[str]]]:
    """The texts of all tables, row by row."""
    return [[[text_of(cell) for cell in row] for row in t.iter("tr")] for t in page.iter("table")]


def table_below(page: ET.Element, title: str) -> list[list[str]]:
    """The rows, without the header, of the first table in a <details> with such a summary."""
    for details in page.iter("details"):
        summary = details.find("summary")
        assert summary is not None
        if re.search(title, text_of(summary)):
            found = next(details.iter("table"))
            return [[text_of(c) for c in row] for row in found.iter("tr")][1:]
    raise AssertionError(title)


def value(text: str) -> float:
    return float(text.replace("\u2212", "-").replace(",", ""))


# The page as a whole


def test_the_page_is_whole_by_itself(tmp_path: Path, sketch: Sketch) -> None:
    run = make_run(tmp_path / "run", sketch)
    page = page_of(run)
    assert page.tag == "html"
    assert {e.tag for e in page.iter()}.isdisjoint({"script", "link", "img", "iframe", "object"})
    attributes = {name for element in page.iter() for name in element.attrib}
    assert not {name for name in attributes if name.startswith("on")}
    assert attributes.isdisjoint({"src", "href", "style", "srcset", "action"})
    style = text_of(next(page.iter("style")))
    assert not re.search(r"url\(|@import|https?:|//", style)


def test_nothing_of_a_run_becomes_markup(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path / "run", SKETCHES["nasty"]))
    codes = [text_of(code) for code in page.iter("code")]
    assert NASTY.replace("\x1b", "\ufffd") in codes
    assert "<i>&amp;" in codes
    assert "i" not in {e.tag for e in page.iter()}
    assert {e.tag for e in page.iter("b") if text_of(e).startswith("&")} == set()


@given(st.text(), st.text())
def test_any_text_comes_back_from_a_parser_as_it_was(content: str, attribute: str) -> None:
    element = ET.fromstring(tag("p", content, title=attribute))
    kept = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
    # XML makes every line end a \n, and blanks of attributes spaces.
    assert text_of(element) == re.sub("\r\n?", "\n", kept.sub("\ufffd", content))
    blank = re.sub("\r\n|[\t\n\r]", " ", kept.sub("\ufffd", attribute))
    assert element.get("title") == blank


def test_the_same_records_make_the_same_page_and_stay_as_they_are(run: RunFolder) -> None:
    before = {f: f.read_bytes() for f in path_of(run).rglob("*") if f.is_file()}
    page = write_report(path_of(run))
    assert page.local == path_of(run) / "report.html"
    first = page.read()
    assert write_report(path_of(run)).read() == first
    assert report_page(read_run(path_of(run))).encode() == first
    page.remove()
    assert {f: f.read_bytes() for f in path_of(run).rglob("*") if f.is_file()} == before


def test_marks_of_charts_lie_within_them(tmp_path: Path, sketch: Sketch) -> None:
    page = page_of(make_run(tmp_path / "run", sketch))
    charts = [svg for svg in page.iter("svg") if "chart" in svg.get("class", "")]
    assert len(charts) > 5
    for svg in charts:
        _, _, width, height = map(float, svg.attrib["viewBox"].split())
        for element in svg.iter():
            for name, bound in (("x", width), ("cx", width), ("x2", width), ("y", height)):
                assert -0.1 <= float(element.get(name, 0)) <= bound + 0.1, ET.tostring(element)
            for x, y in re.findall(r"[ML]([\d.-]+) ([\d.-]+)", element.get("d", "")):
                assert -0.1 <= float(x) <= width
                assert -7 <= float(y) <= height


# Numbers are those of the records


def test_sizes_and_quality_come_first(tmp_path: Path, sketch: Sketch) -> None:
    run = make_run(tmp_path / "run", sketch)
    page = page_of(run)
    rows = {row[0]: row for row in tables(page)[0]}
    for number in range(1, sketch.finished + 1):
        metrics = run.read_json(f"generation-{number}/result.json")["metrics"]
        for role in ("teacher", "found"):
            numbers = [value(text) for text in rows[f"{role} {number}"][1:-1]]
            sizes, quality = numbers[:2], numbers[2:]
            assert sizes == [metrics[role].pop("params"), metrics[role].pop("macs")]
            assert sorted(quality) == pytest.approx(sorted(metrics[role].values()), abs=5e-5)
    header = next(page.iter("header"))
    last = run.read_json(f"generation-{sketch.finished}/result.json")["metrics"]["found"]
    assert amount(last["params"]) in text_of(header)
    assert run.read_json(f"generation-{sketch.finished}/architecture.json")["text"] in text_of(
        header
    )
    words = "KL divergence" if not sketch.labelled else "AUROC"
    assert words in text_of(header)


def test_the_front_is_listed_as_it_was_recorded(run: RunFolder) -> None:
    page = page_of(run)
    details = [d for d in page.iter("details") if d.get("class") == "generation"]
    assert len(details) == 2
    for number, generation in enumerate(details, 1):
        front = pq.read_table(path_of(run) / f"generation-{number}/front.parquet").to_pydict()
        rows = table_below(generation, "points of the front")
        chosen = run.read_json(f"generation-{number}/architecture.json")["text"]
        assert [row[0].removesuffix(" (chosen)") for row in rows] == front["architecture"]
        assert [row[0] for row in rows if "(chosen)" in row[0]] == [f"{chosen} (chosen)"]
        assert [value(row[1]) for row in rows] == pytest.approx(front["loss"], rel=1e-4)
        assert [[value(x) for x in row[2:]] for row in rows] == [
            list(pair) for pair in zip(front["params"], front["macs"], strict=True)
        ]


@pytest.mark.parametrize(("kept", "said"), [(0.25, 1), (1.0, 0)])
def test_the_page_says_of_what_a_rating_is_less(tmp_path: Path, kept: float, said: int) -> None:
    sketch = Sketch(generations=1, finished=1, interactions=kept)
    page = text_of(page_of(make_run(tmp_path / "run", sketch)))
    assert page.count("which of its ops meet, 25% is kept.") == said


@pytest.mark.parametrize(("members", "said"), [(2, 1), (1, 0)])
def test_the_page_says_of_how_many_networks_a_rating_is(
    tmp_path: Path, members: int, said: int
) -> None:
    sketch = Sketch(generations=1, finished=1, members=members)
    page = text_of(page_of(make_run(tmp_path / "run", sketch)))
    assert page.count("A path's loss is the mean in 2 networks of its cell, trained apart.") == said


def test_the_page_of_a_progressive_run_says_how_its_losses_are_meant(tmp_path: Path) -> None:
    page = text_of(page_of(make_run(tmp_path / "run", SKETCHES["progressive"])))
    assert "Its loss is that of its last block behind all others." in page
    assert "sums over the blocks" not in page
    assert "drawn at random" not in page
    assert "is proven" not in page


@pytest.mark.parametrize(
    ("loss", "words"),
    [("mse", "Mean squared distance from"), ("relative_l1", "in parts of their deviation")],
)
def test_curves_of_cells_say_by_which_loss_they_learned(
    tmp_path: Path, loss: str, words: str
) -> None:
    assert words in text_of(page_of(make_run(tmp_path / "run", Sketch(loss=loss))))


def test_a_front_too_long_for_a_page_is_thinned_and_says_so(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dna_ray.report.sections._ROWS", 3)
    size = pq.read_metadata(path_of(run) / "generation-1/front.parquet").num_rows
    assert size > 3
    assert len(table_below(page_of(run), f"3 of the {size} points of the front")) == 3


@pytest.mark.parametrize("name", ["labelled", "params", "both", "alike", "loose"])
def test_other_limits_buy_what_a_search_with_them_finds(tmp_path: Path, name: str) -> None:
    """Every offer is on the front, within the limits that are held, and beats what is cheaper."""
    run = make_run(tmp_path / "run", SKETCHES[name])
    tree = run.read_json("generation-1/architecture.json")
    front = pq.read_table(path_of(run) / "generation-1/front.parquet").to_pylist()
    section = next(d for d in page_of(run).iter("details") if d.get("class") == "generation")
    offers = [t for t in tables(section) if t[0][:2] == ["", "loss"]]
    assert len(offers) == len(tree["limits"])
    for cost, (_, *rows) in zip(tree["limits"], offers, strict=True):
        held = [n for n in tree["limits"] if n != cost]
        known = [p for p in front if all(p[n] <= tree["limits"][n] for n in held)]
        assert [row[0] for row in rows].count("chosen") == 1
        for mark, loss, *costs in rows:
            point = dict(zip(("params", "macs"), map(value, costs), strict=True))
            best = min(p["loss"] for p in known if p[cost] <= point[cost])
            assert value(loss) == pytest.approx(best, rel=1e-4)
            if mark:
                assert point == tree["costs"]


def test_blocks_add_up_to_the_network(tmp_path: Path, sketch: Sketch) -> None:
    run = make_run(tmp_path / "run", sketch)
    space = parse_space(sketch.space, "tiny")
    *blocks, fixed, total = table_below(page_of(run), "Generation 1, block by block")
    architecture = Architecture.from_json(run.read_json("generation-1/architecture.json"), "")
    costs = network_costs(network_spec(space, architecture, sketch.classes), space.resolution)
    for row, choice, cost in zip(blocks, architecture.blocks, costs.blocks, strict=True):
        assert row[1].split() == list(map(str, choice.ops))
        assert [value(row[2]), *map(value, row[5:])] == [choice.width, cost.params, cost.macs]
    assert list(map(value, fixed[5:])) == [costs.fixed.params, costs.fixed.macs]
    assert list(map(value, total[5:])) == [costs.total.params, costs.total.macs]
    if sketch.strategy == "concurrent":
        assert sum(value(row[3]) for row in blocks) == pytest.approx(value(total[3]), abs=2e-3)


def test_curves_trials_and_seconds_are_listed(run: RunFolder) -> None:
    page = page_of(run)
    generation = next(d for d in page.iter("details") if d.get("class") == "generation")
    lines = (path_of(run) / "generation-1/metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    listed = table_below(generation, "Losses by epoch")
    cells = {(r["block"], r["cell"]) for r in rows if r["stage"] == "distill"}
    for place, (block, cell) in enumerate(sorted(cells), 1):
        losses = [r["loss"] for r in rows if (r.get("block"), r.get("cell")) == (block, cell)]
        assert [value(row[place]) for row in listed] == pytest.approx(losses, abs=5e-4)
    trials = run.read_json("generation-1/tune.json")["trials"]
    *finite, diverged = table_below(generation, "Tune's trials")
    assert diverged[-1] == "\u2013"
    for row, trial in zip(finite, trials[:-1], strict=True):
        names = ("learning_rate", "weight_decay", "loss")
        assert [value(x) for x in row[1:]] == pytest.approx([trial[n] for n in names], rel=1e-3)
    found = [r["loss"] for r in rows if r.get("network") == "found"]
    listed = table_below(generation, "Losses by pass")
    assert [value(row[2]) for row in listed] == pytest.approx(found, abs=1e-4)
    seconds = next(t for t in tables(page) if t[0][0] == "seconds")
    for row in seconds[1:-1]:
        assert value(row[1]) == pytest.approx(run.seconds(f"generation-1/{row[0]}"), abs=5e-4)
    total = math.fsum(run.seconds(f"generation-1/{row[0]}") for row in seconds[1:-1])
    assert value(seconds[-1][1]) == pytest.approx(total, abs=5e-4)


# Analysis against brute force


def test_random_architectures_have_the_exact_costs_of_their_networks() -> None:
    space = parse_space(SPACE.format(name="tiny"), "tiny")
    ratings = ratings_at_random(space, 2, 5)
    known = set()
    blocks = [list(zip(b.width.tolist(), b.ops, strict=True)) for b in ratings.blocks]
    for choice in itertools.product(*blocks):
        text = "/".join(f"{width}:{ops}" for width, ops in choice)
        spec = network_spec(space, Architecture.parse(text), 2)
        total = network_costs(spec, space.resolution).total
        known.add((total.params, total.macs))
    losses, costs = random_architectures(ratings, 400, generator(0, "a"))
    assert set(map(tuple, costs.astype(int).tolist())) <= known
    assert len(set(losses)) > 200
    again = random_architectures(ratings, 400, generator(0, "a"))
    assert np.array_equal(losses, again[0])
    assert not np.array_equal(losses, random_architectures(ratings, 400, generator(0, "b"))[0])


def test_costs_of_an_architecture_are_split_exactly() -> None:
    space = parse_space(SPACE.format(name="tiny"), "tiny")
    ratings = ratings_at_random(space, 2, 5)
    rng = np.random.default_rng(0)
    for _ in range(50):
        rows = tuple(int(rng.integers(len(b.loss))) for b in ratings.blocks)
        text = "/".join(f"{b.width[r]}:{b.ops[r]}" for b, r in zip(ratings.blocks, rows))  # noqa: B905
        costs = network_costs(network_spec(space, Architecture.parse(text), 2), space.resolution)
        parts, fixed = path_costs(ratings, rows)
        assert parts.tolist() == [[c.params, c.macs] for c in costs.blocks]
        assert fixed.tolist() == [costs.fixed.params, costs.fixed.macs]


def test_ops_and_cells_are_summed_up_as_a_loop_does() -> None:
    ratings = ratings_at_random(parse_space(SPACE.format(name="tiny"), "tiny"), 2, 5)
    for paths in ratings.blocks:
        rows = list(zip(paths.cell.tolist(), paths.ops, paths.loss.tolist(), strict=True))
        assert sum(len(s.loss) for s in spreads(paths)) == len(rows)
        for spread, effect in zip(spreads(paths), op_effects(paths), strict=True):
            own = [loss for cell, _, loss in rows if cell == spread.cell]
            assert spread.quantiles[0] == min(own)
            assert spread.quantiles[-1] == max(own)
            assert effect.mean.shape == (3, spread.layers)
            for o, op in enumerate(effect.ops):
                for layer in range(spread.layers):
                    held = [
                        loss
                        for cell, ops, loss in rows
                        if cell == effect.cell and ops.split(",")[layer] == op
                    ]
                    assert effect.mean[o, layer] == pytest.approx(sum(held) / len(held))
            assert effect.relative.mean(axis=0) == pytest.approx(np.zeros(spread.layers))


@given(st.lists(st.integers(0, 5), min_size=1))
def test_the_rank_is_the_place_in_order(losses: list[int]) -> None:
    for row, loss in enumerate(losses):
        assert rank(np.array(losses), row) == sorted(losses).index(loss) + 1


@example(low=1.625, size=0.0625, wanted=2)  # a single tick
@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 8))
def test_ticks_are_round_even_and_told_apart(low: float, size: float, wanted: int) -> None:
    high = low + size
    if high - low < 1e-9 * abs(low):
        return
    ticks = Scale(low, high, 0, 100).ticks(wanted)
    assert 1 <= len(ticks) <= wanted + 2
    slack = 1e-6 * (high - low) + 1e-9 * abs(low)
    assert all(low - slack <= t <= high + slack for t in ticks)
    texts = [text for _, text in decimals(ticks)]
    assert len(set(texts)) == len(texts)
    for tick, text in decimals(ticks):
        assert value(text) == pytest.approx(tick, rel=1e-6, abs=1e-6 * size)


@given(st.integers(0, 10**12))
def test_amounts_are_true_to_three_digits(number: int) -> None:
    digits, _, unit = amount(number).partition("\u202f")
    power = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9}[unit]
    assert float(digits) * power == pytest.approx(number, rel=5.1e-3, abs=1e-9)
    assert len(digits) <= 5
    assert int(count(number).replace(",", "")) == number


def test_counts_of_huge_spaces_are_exact() -> None:
    assert count(195_898_498_887_057_409) == "195,898,498,887,057,409"


@settings(max_examples=50)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=6))
def test_a_column_has_decimals_alike(values: list[float]) -> None:
    texts = column(values)
    assert len({len(text.partition(".")[2]) for text in texts}) == 1
    unit = max(map(abs, values)) * 1e-4
    for text, number in zip(texts, values, strict=True):
        assert value(text) == pytest.approx(number, abs=unit + 1e-12)


@pytest.mark.parametrize(
    ("ours", "theirs", "text"),
    [
        (1, 7.34, "7.3\u00d7 fewer"),
        (1, 104, "104\u00d7 fewer"),
        (1.04, 1, "1.04\u00d7 more"),
        (5, 5, "as many"),
    ],
)
def test_costs_are_compared_in_words(ours: float, theirs: float, text: str) -> None:
    assert times(ours, theirs) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (99.9, "99.9 s"), (99.96, "1 min 40 s"), (7260, "2 h 01 min")],
)
def test_durations_are_read_at_a_glance(seconds: float, text: str) -> None:
    assert duration(seconds).replace("\u202f", " ") == text


# Partial runs, and records that are damaged


def test_a_run_that_is_not_finished_is_shown_as_far_as_it_is(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", SKETCHES["partial"])
    page = page_of(run)
    words = text_of(page)
    assert "1 of 3 generations are finished" in words
    generations = [d for d in page.iter("details") if d.get("class") == "generation"]
    assert [g.get("open") for g in generations] == ["open", "open"]
    second = generations[1]
    assert "not finished" in text_of(second)
    assert {"The search", "Ratings of the paths", "Ops by layer"} <= {
        text_of(h) for h in second.iter("h3")
    }
    assert run.read_json("generation-2/architecture.json")["text"] in words


def test_paths_and_cells_that_diverged_are_dashes(run: RunFolder) -> None:
    ratings = read_ratings(path_of(run) / "generation-1/ratings.parquet")
    first, *others = ratings.blocks
    loss = np.concatenate(([math.inf, math.nan], first.loss[2:]))
    diverged = replace(ratings, blocks=(replace(first, loss=loss), *others))
    sink = io.BytesIO()
    pq.write_table(to_arrow(diverged), sink)
    run.write("generation-1/ratings.parquet", sink.getvalue())
    rows = [
        {"stage": "distill", "block": 1, "cell": 0, "epoch": e, "loss": loss}
        for e, loss in ((1, 0.5), (2, math.nan))
    ]
    run.measure(1, rows)
    generation = next(d for d in page_of(run).iter("details") if d.get("class") == "generation")
    assert "nan" not in text_of(generation)
    assert "inf" not in text_of(generation)
    assert "\u2013" in [row[1] for row in table_below(generation, "Losses by epoch")]
    marks = [e.get("d", "") for e in generation.iter("path")]
    assert not any("nan" in mark or "inf" in mark for mark in marks)


def test_every_beginning_of_a_generation_can_be_shown(tmp_path: Path) -> None:
    """Records come one after another: whatever is there of generation 2 is shown, the rest not."""
    names = ["metrics.jsonl", "ratings.parquet", "front.parquet", "architecture.json", "tune.json"]
    whole = make_run(tmp_path / "whole", Sketch())
    data = {name: whole.read(f"generation-2/{name}") for name in names}
    for there in range(len(names) + 1):
        run = make_run(tmp_path / str(there), Sketch(generations=1, finished=1))
        config = run.config.replace("generations = 1", "generations = 2")
        run.write("config.toml", config.encode())
        for name in names[:there]:
            run.write(f"generation-2/{name}", data[name])
        generations = [d for d in page_of(run).iter("details") if d.get("class") == "generation"]
        assert len(generations) == 1 + (there > 0)


@pytest.mark.parametrize("finished", [None, 0])
def test_without_a_finished_generation_there_is_nothing_to_report(
    tmp_path: Path, finished: int | None
) -> None:
    path = tmp_path / "run"
    if finished is None:
        RunFolder.create(path, 'data = "solar"\n', 0)
    else:
        make_run(path, Sketch(finished=finished))
    with pytest.raises(UserError, match=r"finished generation.*--resume"):
        write_report(path)
    assert not (path / "report.html").exists()


RECORDS = [
    "config.toml",
    "space.toml",
    "generation-1/ratings.parquet",
    "generation-2/front.parquet",
    "generation-1/architecture.json",
    "generation-2/tune.json",
    "generation-1/result.json",
]


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize("damage", [b"", b"{", None])
def test_a_damaged_record_is_named(run: RunFolder, name: str, damage: bytes | None) -> None:
    (path_of(run) / name).unlink()
    if damage is not None:
        (path_of(run) / name).write_bytes(damage)
    remedy = "bring the former back" if name in ("config.toml", "space.toml") else "--resume"
    with pytest.raises(UserError, match=f"{name}.*{remedy}"):
        write_report(path_of(run))


@pytest.mark.parametrize("name", RECORDS[2:])
@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"5", b'{"blocks": 5}', b"PAR1", b"\xff"])
def test_a_record_of_another_form_is_named(run: RunFolder, name: str, content: bytes) -> None:
    """Whole by its checksum, and yet nothing that this version can read."""
    run.write(name, content)
    with pytest.raises(UserError, match=name.partition("/")[2]):
        write_report(path_of(run))


@pytest.mark.parametrize(
    "line", ["", "{", "5", "null", '{"stage": "train", ', '{"stage": "distill"}', '{"loss": 1}']
)
def test_a_damaged_line_of_the_metrics_is_named(run: RunFolder, line: str) -> None:
    file = path_of(run) / "generation-1/metrics.jsonl"
    file.write_text(f"{line}\n{file.read_text()}")
    with pytest.raises(UserError, match=r"metrics\.jsonl"):
        write_report(path_of(run))


# Writing


def test_a_report_that_cannot_be_written_leaves_the_old_one(run: RunFolder) -> None:
    (path_of(run) / "report.html").write_text("old")
    before = sorted(path_of(run).rglob("*"))
    with small_files_only(5000), pytest.raises(UserError, match=r"must be writable.*report\.html"):
        write_report(path_of(run))
    assert (path_of(run) / "report.html").read_text() == "old"
    assert sorted(path_of(run).rglob("*")) == before


def test_a_report_killed_while_it_is_written_leaves_the_old_one(run: RunFolder) -> None:
    (path_of(run) / "report.html").write_text("old")
    script = (
        "import os, pathlib, signal, sys; from dna_ray.report import write_report\n"
        "os.fsync = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_report(pathlib.Path(sys.argv[1]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path_of(run))], check=False, timeout=60
    )
    assert done.returncode == -signal.SIGKILL
    assert (path_of(run) / "report.html").read_text() == "old"
    assert page_of(run).tag == "html"


def test_the_records_alone_are_enough(run: RunFolder, tmp_path: Path) -> None:
    """A copy without weights, elsewhere, under a name that is no ASCII, makes the same page."""
    names = [*RECORDS, "manifest.json"]
    names += [f"generation-{n}/{name}" for n in (1, 2) for name in ("metrics.jsonl", "tune.json")]
    names += [str(f.relative_to(path_of(run))) for f in path_of(run).rglob("*.parquet")]
    names += [str(f.relative_to(path_of(run))) for f in path_of(run).rglob("*.json")]
    copy = tmp_path / "größe & <copy>" / "run"
    for name in names:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((path_of(run) / name).read_bytes())
    assert report_page(read_run(copy)) == report_page(read_run(path_of(run)))


def test_the_largest_built_in_space_is_shown_in_a_moment(tmp_path: Path) -> None:
    text = (resources.files("dna_ray.space") / "builtin" / "mbconv6.toml").read_text()
    run = make_run(tmp_path / "run", Sketch(space=text, generations=1, finished=1, classes=1000))
    page = page_of(run)
    assert "195,898,498,887,057,408" in text_of(page)
    assert (path_of(run) / "report.html").stat().st_size < 1_000_000
    ratings = read_ratings(path_of(run) / "generation-1/ratings.parquet")
    assert len(ratings.blocks) == 6


# The command


def dna_ray(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAM, *words], capture_output=True, text=True, check=False, timeout=60
    )


def test_the_command_says_where_the_page_is(run: RunFolder) -> None:
    done = dna_ray("report", str(path_of(run)), "--json")
    assert (done.returncode, done.stderr) == (0, "")
    tree: Any = json.loads(done.stdout)
    assert tree == {"run": str(path_of(run)), "report": str(path_of(run) / "report.html")}
    assert Path(tree["report"]).read_text() == report_page(read_run(path_of(run)))
    done = dna_ray("report", str(path_of(run)))
    assert (done.returncode, done.stderr) == (0, "")
    assert str(path_of(run) / "report.html") in done.stdout


def test_the_command_makes_the_same_page_of_a_run_on_a_store(made: Path, s3: str) -> None:
    run = Place.of(s3) / "run"
    for file in filter(Path.is_file, made.rglob("*")):
        (run / str(file.relative_to(made))).write(file.read_bytes())
    done = dna_ray("report", str(run), "--json")
    assert (done.returncode, done.stderr) == (0, "")
    page = run / "report.html"
    assert json.loads(done.stdout) == {"run": str(run), "report": str(page)}
    assert page.read().decode() == report_page(read_run(made))


def test_a_store_that_refuses_the_user_is_one_line(made: Path, s3: str, store: Store) -> None:
    with store.refusing():
        done = dna_ray("report", s3)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: a run folder must be reachable, but '{s3}' is not: ")
    assert line.endswith("its credentials")


def test_the_command_imports_neither_torch_nor_ray(run: RunFolder) -> None:
    done = modules_after("report", str(path_of(run)))
    assert done.returncode == 0, done.stderr
    assert not set(done.stderr.split()) & {"torch", "ray", "torchvision", "timm"}
