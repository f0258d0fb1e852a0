"""The page of a run in a browser: on a phone and on a screen, by day and by night, and printed."""

from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest

from dna_ray.report import write_report
from tests.browser.chromium import PROGRAM, Tab, browser
from tests.runs import SPACE, Sketch, make_run

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed")

_LARGE = (resources.files("dna_ray.space") / "builtin" / "mbconv6.toml").read_text()
_LONG = "/" + "a-folder-without-a-blank-" * 6 + "<b>&\"x'"

SKETCHES = {
    "partial": Sketch(data=_LONG, space=SPACE.format(name="<i>"), generations=3, finished=1),
    "unlabelled": Sketch(labelled=False, limits={"macs": 400e3, "params": 20e3}),
    "alike": Sketch(generations=1, finished=1, spread=0.0, epochs=1),
    "large": Sketch(space=_LARGE, generations=3, finished=3, classes=1000, epochs=40),
}

OPEN_ALL = "document.querySelectorAll('details').forEach(d => d.open = true)"

# What sticks out of the page to the right, but for what scrolls by itself.
OVERFLOW = """
[...document.querySelectorAll('main *')]
  .filter(e => !e.closest('.scroll, pre') || e.matches('.scroll, pre'))
  .filter(e => e.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
  .map(e => e.outerHTML.slice(0, 120))
"""

# Pairs of texts of one drawing that cover each other by more than a hair.
OVERLAPS = """
[...document.querySelectorAll('main svg')].flatMap(svg => {
  const texts = [...svg.querySelectorAll('text')]
    .map(t => [t.textContent, t.getBoundingClientRect()]);
  return texts.flatMap(([a, r], i) => texts.slice(i + 1)
    .filter(([, s]) => Math.min(r.right, s.right) - Math.max(r.left, s.left) > 1
      && Math.min(r.bottom, s.bottom) - Math.max(r.top, s.top) > 3)
    .map(([b]) => `${svg.getAttribute('aria-label')}: ${a} / ${b}`));
})
"""

# Texts of drawings that are cut off at the edge of the screen.
CUT = """
[...document.querySelectorAll('main svg text')]
  .filter(t => { const r = t.getBoundingClientRect();
    return r.width && (r.left < 0 || r.right > document.documentElement.clientWidth + 1); })
  .map(t => t.textContent)
"""

# Contrast (WCAG 2) of text with what lies behind it, where it is less than 4.5.
FAINT = """
(() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const parts = color => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = color => { const [r, g, b] = parts(color).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = e => { for (; e; e = e.parentElement) {
    const color = getComputedStyle(e).backgroundColor;
    if (parts(color)[3] === 255) return color; }
    return 'white'; };
  return [...document.querySelectorAll('p, h1, h2, h3, h4, td, th, li, dt, dd, summary, svg text')]
    .map(e => { const style = getComputedStyle(e);
      const ink = light(e.matches('svg *') ? style.fill : style.color), back = light(behind(e));
      const ratio = (Math.max(ink, back) + 0.05) / (Math.min(ink, back) + 0.05);
      return [ratio, e.outerHTML.slice(0, 90)]; })
    .filter(([ratio]) => ratio < 4.5);
})()
"""


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return {
        name: write_report(make_run(folder / name, sketch).place.name).local
        for name, sketch in SKETCHES.items()
    }


@pytest.mark.parametrize("name", list(SKETCHES))
@pytest.mark.parametrize("width", [320, 768, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_is_in_its_place(
    tab: Tab, pages: dict[str, Path], name: str, width: int, scheme: str
) -> None:
    tab.complaints.clear()
    tab.requests.clear()
    tab.show(pages[name], width, scheme)
    for prepare in ("0", OPEN_ALL):
        tab.evaluate(prepare)
        across = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert tab.evaluate(across) <= 0
        assert tab.evaluate(OVERFLOW) == []
        assert tab.evaluate(OVERLAPS) == []
        assert tab.evaluate(CUT) == []
    assert tab.evaluate(FAINT) == []
    assert tab.complaints == []
    assert tab.requests == [pages[name].resolve().as_uri()]


def test_the_schemes_differ(tab: Tab, pages: dict[str, Path]) -> None:
    colours = []
    for scheme in ("light", "dark"):
        tab.show(pages["partial"], 375, scheme)
        colours.append(tab.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert colours[0] != colours[1]


def test_print_shows_all_generations_on_white(
    tab: Tab, pages: dict[str, Path], tmp_path: Path
) -> None:
    tab.show(pages["large"], 700, "dark", "print")
    assert tab.evaluate(OVERLAPS) == []
    assert tab.evaluate(OVERFLOW) == []
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    heights = tab.evaluate(
        "[...document.querySelectorAll('.generation')].map(g => g.getBoundingClientRect().height)"
    )
    assert len(heights) == 3
    assert min(heights) > 0.5 * max(heights)
    tab.pdf(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
