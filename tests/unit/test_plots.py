"""Plots: what they say, that they are whole files, and that they are alike in every run."""

import io
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from PIL import Image

from dna_ray.errors import UserError
from dna_ray.ranking import Compared, Stability, Taus, Variant
from dna_ray.report.plots import check_plot_file, plot_front, plot_ranking, plot_stability
from tests.processes import small_files_only

SUFFIXES = (".svg", ".png")


def draw_ranking(path: Path, count: int = 40, **changed: Any) -> None:
    rng = np.random.default_rng(0)
    losses = rng.normal(size=count)
    accuracies = 70 - losses + rng.normal(size=count)
    costs = ("macs", rng.uniform(2e8, 4e8, count))
    plot_ranking(path, losses, accuracies, **{"kendall": 0.5, "cost": costs, **changed})


def draw_front(path: Path, count: int = 40, **changed: Any) -> None:
    rng = np.random.default_rng(1)
    costs = np.sort(rng.uniform(2e8, 4e8, count))
    losses = np.sort(rng.gamma(1, size=count))[::-1]
    arguments = {"cost": "macs", "chosen": 7, "limit": 3.5e8, **changed}
    plot_front(path, costs=costs, losses=losses, **arguments)


def draw_stability(
    path: Path, *, seeds: int = 3, fractions: int = 2, checkpoints: int = 3, blocks: int = 4
) -> None:
    rng, own = np.random.default_rng(2), Variant(0, 1.0, checkpoints + 1)

    def tau() -> Taus:
        return Taus(blocks=tuple(rng.uniform(0.4, 1, blocks)), total=float(rng.uniform(0.6, 0.9)))

    def compared(variant: Variant) -> Compared:
        return Compared(variant=variant, tau=tau(), choice=None)

    found = Stability(
        own=own,
        text="",
        loss=1.0,
        random=2.0,
        pairs={(i, j): tau() for j in range(seeds) for i in range(j)},
        seeds=tuple(compared(own._replace(seed=i)) for i in range(1, seeds)),
        fractions=tuple(
            compared(own._replace(fraction=i / (fractions + 1))) for i in range(fractions, 0, -1)
        ),
        checkpoints=tuple(compared(own._replace(epochs=i)) for i in range(checkpoints, 0, -1)),
    )
    plot_stability(path, found)


DRAWINGS = {"ranking": draw_ranking, "front": draw_front, "stability": draw_stability}


def texts(path: Path) -> str:
    """What an SVG picture says: its letters are drawn, and noted beside in comments."""
    return " | ".join(re.findall("<!-- (.*?) -->", path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("drawing", DRAWINGS)
@pytest.mark.parametrize("suffix", [*SUFFIXES, ".SVG", ".PNG"])
def test_the_suffix_says_what_is_written(tmp_path: Path, drawing: str, suffix: str) -> None:
    path = tmp_path / f"plot{suffix}"
    check_plot_file(path)
    DRAWINGS[drawing](path)
    if suffix.lower() == ".svg":
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
    else:
        with Image.open(path) as picture:
            assert picture.format == "PNG"
            assert len(picture.convert("RGB").getcolors(10**6) or ()) > 50
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("drawing", DRAWINGS)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_plots_are_alike_in_every_run_and_leave_no_settings(
    tmp_path: Path, drawing: str, suffix: str
) -> None:
    before = dict(matplotlib.rcParams)
    for name in ("one", "two"):
        DRAWINGS[drawing](tmp_path / f"{name}{suffix}")
    assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()
    assert b"<dc:date>" not in (tmp_path / f"one{suffix}").read_bytes()
    assert dict(matplotlib.rcParams) == before


def test_a_ranking_says_what_its_axes_and_colours_are(tmp_path: Path) -> None:
    path = tmp_path / "plot.svg"
    draw_ranking(path, kendall=0.64427)
    said = texts(path)
    assert "0.644, 40 architectures" in said
    assert "accuracy of the network trained alone, %" in said
    assert "rating: sum of losses (better to the right)" in said
    assert "multiply-adds" in said
    assert "300\u202fM" in said
    draw_ranking(path, kendall=float("nan"), cost=None)
    assert "undefined, 40 architectures" in texts(path)
    assert "multiply-adds" not in texts(path)


def test_better_ratings_stand_to_the_right(tmp_path: Path) -> None:
    path = tmp_path / "plot.png"
    losses, accuracies = np.linspace(0, 1, 30), np.linspace(90, 80, 30)
    plot_ranking(path, losses, accuracies, kendall=1.0)
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    blue = (pixels[..., 2] - pixels[..., 0]) > 100
    rows, columns = np.nonzero(blue)
    assert np.corrcoef(rows, columns)[0, 1] < -0.9, "upper right is better in both"


def test_a_front_says_its_cost_its_limit_and_what_was_chosen(tmp_path: Path) -> None:
    path = tmp_path / "plot.svg"
    draw_front(path)
    said = texts(path)
    assert "Pareto front (40 architectures)" in said
    assert "limit: 350\u202fM" in said
    assert re.search("chosen: 2[0-9.]+\u202fM, loss [0-9.]+", said)
    assert "loss: sum over blocks (lower is better)" in said
    draw_front(path, cost="latency_ms", chosen=None, limit=None)
    assert "latency ms" in texts(path)
    assert not re.search("limit|chosen", texts(path))


def test_a_front_in_any_order_is_the_same_line(tmp_path: Path) -> None:
    costs, losses = np.array([3.0, 1.0, 2.0, 2.0]), np.array([1.0, 5.0, 4.0, 3.0])
    for name, order in (("one", [0, 1, 2, 3]), ("two", [2, 0, 3, 1])):
        plot_front(tmp_path / f"{name}.svg", "macs", costs[order], losses[order], None, None)
    lines = [
        re.search(r'<g id="line2d_\d+">\s*<path d="([^"]*L[^"]*)" clip[^>]*#0072b2', text)
        for text in ((tmp_path / f"{n}.svg").read_text() for n in ("one", "two"))
    ]
    assert lines[0]
    assert lines[1]
    assert lines[0][1] == lines[1][1]


@pytest.mark.parametrize("drawing", ["ranking", "front"])
def test_many_points_do_not_make_a_large_file(tmp_path: Path, drawing: str) -> None:
    path = tmp_path / "plot.svg"
    DRAWINGS[drawing](path, count=20_000)
    assert path.stat().st_size < 10**6
    assert "20,000 architectures" in texts(path)


def test_stability_has_a_panel_for_each_part_that_there_is(tmp_path: Path) -> None:
    path = tmp_path / "plot.svg"
    panels = {
        "seeds": "3 pairs of seeds",
        "fractions": "a part of the data",
        "checkpoints": "training ended early",
    }
    draw_stability(path)
    said = texts(path)
    assert all(title in said for title in panels.values())
    assert "Kendall τ of two ratings" in said
    assert all(f"block {k}" in said for k in range(1, 5))
    assert "all blocks" in said
    for part, title in panels.items():
        others = dict.fromkeys(panels, 0) | {"seeds": 1, part: 3}
        draw_stability(path, **others)
        said = texts(path)
        assert title in said
        assert not any(other in said for other in panels.values() if other != title)
        assert ("block 4" in said) == (part != "seeds"), "whose axis names the blocks"
    draw_stability(path, seeds=2, blocks=1)
    assert "two seeds" in texts(path)


@pytest.mark.parametrize("costs", [[5.0], [5.0, 5.0], [0.0]])
def test_a_front_of_one_cost_is_a_picture_too(tmp_path: Path, costs: list[float]) -> None:
    path = tmp_path / "plot.png"
    plot_front(path, "macs", np.array(costs), np.ones(len(costs)), 0, 5.0)
    assert Image.open(io.BytesIO(path.read_bytes())).size[0] > 500


@pytest.mark.parametrize("name", ["plot.pdf", "plot", "svg", "plot.svg.txt", ".svg"])
def test_other_suffixes_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"must be an .svg or .png file, but '.*{name}' is given"):
        check_plot_file(tmp_path / name)


def test_a_plot_needs_a_folder_and_no_folder_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "taken.svg").mkdir()
    for name in ("nowhere/plot.svg", "taken.svg"):
        with pytest.raises(UserError, match=f"in a folder that is there, but '.*{name}' is not"):
            check_plot_file(tmp_path / name)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_leaves_the_former_plot(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"plot{suffix}"
    path.write_text("before")
    with small_files_only(1000), pytest.raises(UserError, match=r"must be writable, but '.*plot"):
        draw_ranking(path)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
