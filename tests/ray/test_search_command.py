"""The main job whole and small, through a real Ray cluster, from the command line."""

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tomli_w
from click.testing import CliRunner
from safetensors.numpy import load_file

from dna_ray.errors import UserError
from dna_ray.rundir import RunFolder
from dna_ray.search import read_ratings, select
from dna_ray.space import Architecture, load_space, network_costs, network_spec, scale
from dna_ray.space.costs import cost_table
from dna_ray_cli.search import command
from tests import tiny

COMMAND = Path(sys.executable).with_name("dna-ray")
GENERATIONS = 2


def run_search(*arguments: str | Path) -> dict[str, Any]:
    """Run the command; its JSON."""
    done = subprocess.run(
        [COMMAND, "search", "--json", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    tree: dict[str, Any] = json.loads(done.stdout)
    return tree


def arguments(task: Path, out: Path, workers: int, generations: int) -> list[str | Path]:
    settings = [part for text in tiny.SETTINGS for part in ("--set", text)]
    return [
        *("--data", task / "pictures", "--space", task / "tiny.toml", "--out", out),
        *("--generations", str(generations), "--workers", str(workers), "--seed", "3", *settings),
    ]


def sessions() -> set[Path]:
    """What Ray keeps in the temporary directory."""
    return set((Path(tempfile.gettempdir()) / "ray").glob("session_*"))


@pytest.fixture(scope="module")
def finished(task_files: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A whole search with two workers."""
    before, sessions_before = {p.pid for p in psutil.process_iter()}, sessions()
    tree = run_search(
        *arguments(task_files, tmp_path_factory.mktemp("runs") / "two", 2, GENERATIONS)
    )
    started = [p for p in psutil.process_iter(["cmdline"]) if p.pid not in before]
    names = [" ".join(p.info["cmdline"] or ()) for p in started]
    assert [name for name in names if "raylet" in name or "ray::" in name] == []
    assert sessions() <= sessions_before
    return tree


def folder(tree: dict[str, Any], generation: int) -> Path:
    return Path(tree["run"]) / f"generation-{generation}"


def test_json_follows_the_contract(finished: dict[str, Any]) -> None:
    assert [g["generation"] for g in finished["generations"]] == [1, 2]
    for result in finished["generations"]:
        assert result["proven_optimal"] is True
        assert {"teacher", "architecture", "loss", "costs", "limits", "metrics"} <= set(result)
        stages = {"features", "distill", "rate", "search", "tune", "retrain"}
        assert all(result["seconds"][stage] > 0 for stage in stages)
        for role in ("teacher", "found"):
            assert 0 <= result["metrics"][role]["auroc"] <= 1
            assert 0 <= result["metrics"][role]["balanced_accuracy"] <= 1


def test_ratings_cover_every_path_once(finished: dict[str, Any], task_files: Path) -> None:
    space = load_space(str(task_files / "tiny.toml"))
    for generation in (1, 2):
        ratings = read_ratings(folder(finished, generation) / "ratings.parquet")
        for block, paths in zip(space.blocks, ratings.blocks, strict=True):
            rows = list(zip(paths.cell.tolist(), paths.ops, strict=True))
            assert len(set(rows)) == len(rows) == sum(block.count(c) for c in range(2))
            assert np.isfinite(paths.loss).all()
            assert (paths.loss > 0).all()


def test_the_architecture_is_the_best_within_the_limit(
    finished: dict[str, Any], task_files: Path
) -> None:
    space = load_space(str(task_files / "tiny.toml"))
    for result in finished["generations"]:
        path = folder(finished, result["generation"])
        ratings = read_ratings(path / "ratings.parquet")
        best = select(ratings, result["limits"])
        assert str(best.architecture) == result["architecture"]
        assert best.loss == result["loss"]
        spec = network_spec(space, best.architecture, classes=2)
        costs = network_costs(spec, space.resolution).total
        assert result["costs"] == {"params": costs.params, "macs": costs.macs}
        assert result["costs"]["macs"] <= result["limits"]["macs"]
        tree = json.loads((path / "architecture.json").read_text())
        assert str(Architecture.from_json(tree, "record")) == result["architecture"]


def test_networks_have_the_size_of_their_architecture(
    finished: dict[str, Any], task_files: Path
) -> None:
    space = load_space(str(task_files / "tiny.toml"))
    first, last = finished["generations"]
    spec = network_spec(space, Architecture.parse(first["architecture"]), classes=2)
    for record, expected in (("model", spec), ("scaled", scale(spec, 1))):
        state = load_file(folder(finished, 1) / f"{record}.safetensors")
        weights = sum(v.size for k, v in state.items() if "running" not in k and "num_b" not in k)
        assert weights == network_costs(expected, 32).total.params
    assert last["metrics"]["teacher"] == first["metrics"]["next_teacher"]
    assert not (folder(finished, 2) / "scaled.safetensors").exists()


def test_a_report_shows_both_generations(finished: dict[str, Any]) -> None:
    page = (Path(finished["run"]) / "report.html").read_text(encoding="utf-8")
    for result in finished["generations"]:
        assert result["architecture"] in page
        assert f"{result['metrics']['found']['params']:,}" in page


def test_the_default_limit_is_half_way(finished: dict[str, Any], task_files: Path) -> None:
    space = load_space(str(task_files / "tiny.toml"))
    table = cost_table(space, space.resolution, classes=2)
    totals = []
    for cells in product(range(2), repeat=2):
        width = [space.blocks[b].cells[c].width for b, c in enumerate(cells)]
        inputs = [0, space.input_widths(1).index(width[0])]
        lasts = [cell.width for cell in space.blocks[1].cells]
        for rows in product(
            *(
                table.paths[b][c][w][:, 1]
                for b, (c, w) in enumerate(zip(cells, inputs, strict=True))
            )
        ):
            totals.append(sum(rows) + table.fixed[lasts.index(width[1])][1])
    expected = (min(totals) + max(totals)) // 2
    assert finished["generations"][0]["limits"] == {"macs": float(expected)}


def test_metrics_hold_a_loss_for_every_cell_and_epoch(finished: dict[str, Any]) -> None:
    rows = [
        json.loads(line)
        for line in (folder(finished, 1) / "metrics.jsonl").read_text().splitlines()
    ]
    cells = {(r["block"], r["cell"], r["epoch"]) for r in rows if r["stage"] == "distill"}
    assert cells == {(b, c, e) for b in (1, 2) for c in (0, 1) for e in (1, 2)}
    networks = {r["network"] for r in rows if r["stage"] == "train"}
    assert networks == {"teacher", "found", "scaled"}


def test_interrupted_with_one_worker_and_resumed_with_two(
    finished: dict[str, Any], task_files: Path, tmp_path: Path
) -> None:
    """What was made on one worker stays, what is missing or damaged is made, all is the same."""
    out = tmp_path / "run"
    record = out / "generation-1" / "architecture.json"
    search = subprocess.Popen(
        [COMMAND, "search", *map(str, arguments(task_files, out, 1, 1))],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while not record.exists() and search.poll() is None:
        time.sleep(0.2)
    search.send_signal(signal.SIGINT)
    _, shown = search.communicate(timeout=300)
    assert search.returncode == 130, shown
    assert "interrupted" in shown.splitlines()[-1]

    ratings = out / "generation-1" / "ratings.parquet"
    made = ratings.stat().st_mtime_ns
    front = out / "generation-1" / "front.parquet"
    front.write_bytes(front.read_bytes()[:-20])
    again = run_search("--resume", out, "--workers", "2")
    assert ratings.stat().st_mtime_ns == made
    assert different_records(finished, again, 1) == []


@pytest.fixture
def copy(finished: dict[str, Any], tmp_path: Path) -> Path:
    """A finished run of its own pictures, to spoil."""
    source = Path(finished["run"])
    job = tomllib.loads((source / "config.toml").read_text())
    shutil.copytree(job["data"], tmp_path / "pictures")
    job["data"] = str(tmp_path / "pictures")
    inputs = json.loads((source / "manifest.json").read_text())["inputs"]
    space = (source / "space.toml").read_text()
    run = RunFolder.create(tmp_path / "run", tomli_w.dumps(job), 3, space, inputs)
    return run.path


def refusal(*arguments: str | Path) -> str:
    """What the command says when it refuses to start, in this process."""
    result = CliRunner().invoke(command, list(map(str, arguments)))
    assert isinstance(result.exception, UserError), result.output
    return str(result.exception)


def test_a_changed_setting_is_refused_by_its_key(copy: Path) -> None:
    said = refusal(
        "--resume", copy, "--set", "rate.images=9", "--set", "distill.batch=12", "--seed", "4"
    )
    assert "but rate.images, seed would differ" in said or "but seed, rate.images would" in said


def test_changed_pictures_are_noticed(copy: Path) -> None:
    picture = copy.parent / "pictures" / "lying" / "3.png"
    data = bytearray(picture.read_bytes())
    data[-1] ^= 1
    picture.write_bytes(data)
    assert "the data changed since" in refusal("--resume", copy)


def test_a_second_search_on_a_folder_is_refused(copy: Path) -> None:
    with RunFolder.open(copy).locked():
        assert "another is at work on" in refusal("--resume", copy)


def different_records(one: dict[str, Any], other: dict[str, Any], generation: int) -> list[str]:
    """The records of a generation whose bytes differ between two runs."""
    names = ["cells.safetensors", "ratings.parquet", "front.parquet", "architecture.json"]
    return [
        name
        for name in [*names, "tune.json", "model.safetensors"]
        if (folder(one, generation) / name).read_bytes()
        != (folder(other, generation) / name).read_bytes()
    ]
