"""What is told of a run is checked where it is told, and what can be seen of it is on a board."""

import json
import re
import shutil
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray._common.utils import get_default_ray_temp_dir
from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE

from dna_ray.remote.metrics import METRICS, exported, observe
from tests.monitoring import FOLDER, metrics_of, panels, queries

ROWS = ["Features", "Distill", "Rate", "Search", "Retrain", "Cluster"]


class Board:
    """Takes the place of an actor handle, and remembers."""

    def __init__(self) -> None:
        self.told: list[tuple[dict[str, float], dict[str, str]]] = []
        self.observe = self

    def remote(self, values: dict[str, float], tags: dict[str, str]) -> None:
        self.told.append((values, tags))


def test_metrics_are_told_as_plain_numbers_and_words() -> None:
    board = Board()
    observe(board, {"cell_loss": 1, "cell_steps": 20}, block=2, cell=0)
    observe(board, {"paths_rated": 3})
    told = ({"cell_loss": 1.0, "cell_steps": 20.0}, {"block": "2", "cell": "0"})
    assert board.told == [told, ({"paths_rated": 3.0}, {})]
    assert type(board.told[0][0]["cell_loss"]) is float


@pytest.mark.parametrize(
    ("values", "tags", "said"),
    [
        ({"cell_los": 1.0}, {"block": 1, "cell": 0}, "must be one of .* is 'cell_los'"),
        ({"cell_loss": 1.0}, {"block": 1}, r"\['block', 'cell'\], but are \['block'\]"),
        ({"generation": 1}, {"block": 1}, r"must be \[\], but are \['block'\]"),
        ({"cell_loss": 1.0, "generation": 1}, {"block": 1, "cell": 0}, "tags of 'generation'"),
        ({"paths_rated": -1}, {}, "'paths_rated' only grows"),
        ({"teacher_images": float("nan")}, {}, "'teacher_images' only grows"),
    ],
)
def test_a_wrong_name_tag_or_value_is_an_error_where_it_is_told(
    values: dict[str, float], tags: dict[str, Any], said: str
) -> None:
    board = Board()
    with pytest.raises(ValueError, match=said):
        observe(board, values, **tags)
    assert board.told == []


def test_names_follow_the_rules_of_prometheus() -> None:
    for name, metric in METRICS.items():
        assert re.fullmatch("[a-z][a-z_]*", name)
        assert exported(name).endswith("_total") == (metric.kind in ("counter", "total"))
        for unit in ("seconds", "bytes"):
            assert name.endswith(unit) == (metric.unit == unit)
        assert "run" not in metric.tags


def test_every_panel_says_what_it_shows_and_in_what_unit() -> None:
    for panel in panels():
        title = panel["title"]
        assert title
        assert panel["description"].endswith("."), title
        assert panel["fieldConfig"]["defaults"]["unit"], title
        assert panel["targets"], title
        for target in panel["targets"]:
            assert metrics_of(target["expr"]), title
            assert target["legendFormat"], title
    assert len({panel["title"] for panel in panels()}) == len(panels())


def test_the_rows_are_the_stages_in_their_order_and_no_panel_overlaps_another() -> None:
    everything = json.loads((FOLDER / "dashboard.json").read_text())["panels"]
    assert [p["title"] for p in everything if p["type"] == "row"] == ROWS
    assert len({panel["id"] for panel in everything}) == len(everything)
    places = {p["id"]: p["gridPos"] for p in everything}
    for place in places.values():
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24
        assert place["y"] >= 0
        assert place["h"] > 0
    for a, b in combinations(places.values(), 2):
        apart_x = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        apart_y = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert apart_x or apart_y, (a, b)
    # Grafana puts a panel into the last row above it, whatever the order in the file.
    assert [p["gridPos"]["y"] for p in everything] == sorted(p["gridPos"]["y"] for p in everything)


def test_all_metrics_of_a_run_are_on_the_dashboard_and_no_others() -> None:
    shown = {name for query in queries() for name in metrics_of(query)}
    assert {n for n in shown if n.startswith("ray_dna_ray_")} == set(map(exported, METRICS))


def test_queries_use_the_tags_that_their_metrics_have() -> None:
    known = {exported(name): {"run", *metric.tags} for name, metric in METRICS.items()}
    for panel in panels():
        for target in panel["targets"]:
            for name in metrics_of(target["expr"]) & set(known):
                chosen = set(re.findall(r"(\w+)!?=~?\"", target["expr"]))
                grouped = re.findall(r" by \(([^)]*)\)", target["expr"])
                tags = set(re.findall(r"\w+", " ".join(grouped)))
                assert chosen | tags <= known[name], target["expr"]
                assert "run" in chosen, target["expr"]
                assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) == tags
                assert known[name] - chosen - tags == set(), "series would be mixed up"


def test_only_counters_are_asked_for_rates() -> None:
    rated = {n for q in queries() for n in re.findall(r"rate\((ray_\w+)", q)}
    growing = {exported(name) for name, metric in METRICS.items() if metric.grows}
    assert {exported("teacher_images"), exported("cell_steps")} <= rated <= growing


def test_prometheus_reads_the_file_that_ray_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    (discovery,) = job["file_sd_configs"]
    written = Path(get_default_ray_temp_dir()) / PROMETHEUS_SERVICE_DISCOVERY_FILE
    assert discovery["files"] == [str(written)]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no Prometheus is installed")
def test_prometheus_accepts_its_configuration_and_every_query(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yml"
    group = {"name": "queries", "rules": [{"record": "x", "expr": query} for query in queries()]}
    rules.write_text(yaml.safe_dump({"groups": [group]}))
    for command in (["config", FOLDER / "prometheus.yml"], ["rules", rules]):
        done = subprocess.run(["promtool", "check", *command], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
