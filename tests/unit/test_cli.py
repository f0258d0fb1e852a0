"""The command line as its users run it: what goes where, and with which exit status."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dna_ray.space import (
    ZOO,
    Architecture,
    cost_range,
    cost_table,
    load_space,
    network_costs,
    network_spec,
)
from tests.processes import modules_after

PROGRAM = str(Path(sys.executable).with_name("dna-ray"))

TOML = """\
name = "mine"
resolution = 33
ops = ["k3e3", "k5e6"]
[[blocks]]
stride = 2
cells = [{ layers = 1, width = 8 }, { layers = 2, width = 16 }]
"""


def dna_ray(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAM, *words], capture_output=True, text=True, cwd=cwd, check=False, timeout=60
    )


def tree_of(*words: str, cwd: Path | None = None) -> Any:
    """The one JSON object that a command prints; the second load would meet trailing text."""
    done = dna_ray(*words, "--json", cwd=cwd)
    assert (done.returncode, done.stderr) == (0, "")
    tree = json.loads(done.stdout)
    assert isinstance(tree, dict)
    return tree


# cost


@pytest.mark.parametrize("form", ["name", "text", "file"])
def test_cost_takes_a_name_a_text_or_a_file(tmp_path: Path, form: str) -> None:
    text = ZOO["dna-c"]
    file = tmp_path / "net.json"
    file.write_text(json.dumps(Architecture.parse(text).to_json("mbconv6")))
    tree = tree_of("cost", {"name": "dna-c", "text": text, "file": str(file)}[form])
    costs = network_costs(network_spec(load_space("mbconv6"), Architecture.parse(text)), 224)
    for block in tree["blocks"]:
        layers = block.pop("layers")
        assert len(layers) == len(block["ops"])
        for name in ("params", "macs"):
            assert sum(layer[name] for layer in layers) == block[name]
    assert tree == {
        "architecture": text,
        "resolution": 224,
        "params": 5_273_896,
        "macs": costs.total.macs,
        "paper_flops": costs.total.paper_flops,
        "blocks": [
            {
                "width": block.width,
                "ops": list(map(str, block.ops)),
                "params": cost.params,
                "macs": cost.macs,
            }
            for block, cost in zip(Architecture.parse(text).blocks, costs.blocks, strict=True)
        ],
        "fixed": {"params": costs.fixed.params, "macs": costs.fixed.macs},
    }
    for name in ("params", "macs"):
        assert tree[name] == tree["fixed"][name] + sum(block[name] for block in tree["blocks"])


def test_cost_counts_in_the_space_that_a_file_names_with_the_options(tmp_path: Path) -> None:
    architecture = Architecture.parse("16:k3e3,k5e6/40:k5e3,k3e3/64:k3e6,k3e3/160:k5e6,k5e3")
    (tmp_path / "net.json").write_text(json.dumps(architecture.to_json("demo")))
    tree = tree_of("cost", "net.json", "--resolution", "97", "--classes", "2", cwd=tmp_path)
    total = network_costs(network_spec(load_space("demo"), architecture, 2), 97).total
    assert (tree["resolution"], tree["params"], tree["macs"], tree["paper_flops"]) == (
        97,
        total.params,
        total.macs,
        total.paper_flops,
    )


def test_cost_for_people_is_a_table_of_the_same_numbers() -> None:
    done = dna_ray("cost", "dna-c", "--scale", "7")
    assert (done.returncode, done.stderr) == (0, "")
    assert "64,895,312" in done.stdout
    tree = tree_of("cost", "dna-c", "--scale", "7")
    scaled = Architecture.parse(tree["architecture"])
    assert [(b.width, list(map(str, b.ops))) for b in scaled.blocks] == [
        (block["width"], block["ops"]) for block in tree["blocks"]
    ]


# space


@pytest.mark.parametrize("words", [(), ("demo",), ("mine.toml",)])
def test_space_says_what_a_space_holds(tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "mine.toml").write_text(TOML)
    tree = tree_of("space", *words, cwd=tmp_path)
    name = words[0] if words else "mbconv6"
    space = load_space(str(tmp_path / name) if name.endswith(".toml") else name)
    costs = cost_range(space, cost_table(space, space.resolution, 1000))
    assert tree == {
        "name": space.name,
        "architectures": space.architectures,
        "blocks": [
            {
                "cells": [
                    {"width": c.width, "layers": c.layers, "paths": len(block.ops) ** c.layers}
                    for c in block.cells
                ]
            }
            for block in space.blocks
        ],
        "costs": {"macs": list(costs["macs"]), "params": list(costs["params"])},
    }


def test_space_for_people_names_the_size_and_the_others() -> None:
    done = dna_ray("space")
    assert (done.returncode, done.stderr) == (0, "")
    assert "195,898,498,887,057,408" in done.stdout
    assert "demo, mbconv4, mbconv6" in done.stdout


# Wrong input: all of it is in test_wrong_input.py


def test_wrong_input_ends_the_process_with_one_line_and_status_2() -> None:
    done = dna_ray("cost", "dna-z", "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1, done.stderr


def test_no_command_at_all_is_answered_with_help_or_one_line() -> None:
    done = dna_ray()
    if done.returncode == 0:
        assert done.stdout == dna_ray("--help").stdout
    else:
        assert (done.returncode, done.stdout) == (2, "")
        assert len(done.stderr.splitlines()) == 1, done.stderr


# Start-up


@pytest.mark.parametrize(
    "words",
    [
        "--help",
        "cost dna-c",
        "space demo --json",
        "select table.csv",
        "select table.csv --top 2 --max macs=3 --max ms=9 --max params=9",
    ],
)
def test_commands_that_need_neither_torch_nor_ray_import_neither(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    table = "block,ops,loss,macs,ms,params\n1,a,0.5,3,8,1\n1,c,0.25,7,6,2\n"
    (tmp_path / "table.csv").write_text(table)
    done = modules_after(*words.split())
    assert done.returncode == 0, done.stderr
    assert done.stdout
    loaded = set(done.stderr.split())
    assert "dna_ray_cli.main" in loaded
    assert not loaded & {"torch", "ray", "torchvision", "timm"}
