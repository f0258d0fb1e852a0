"""The benches and ratings in this folder, in the forms that `dna-ray evaluate` reads.

`python -m tests.data.benches nas-bench-macro_cifar10.json` packs NAS-Bench-Macro as published into
the copy that lies here.
"""

import csv
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv as arrow_csv

from dna_ray.space import Architecture, cost_table, load_space, network_costs, network_spec

HERE = Path(__file__).parent
MACRO = HERE / "nas_bench_macro.csv"
_STAGES = (slice(0, 2), slice(2, 5), slice(5, 8))  # the layers of equal width and resolution


def canonical(code: str) -> str:
    """The code of NAS-Bench-Macro that stands for all those that build the same network.

    Behind the first layer of a stage identities change nothing, so they may stand at its end.
    """
    stages = (code[stage] for stage in _STAGES)
    return "".join(s[0] + s[1:].replace("0", "").ljust(len(s) - 1, "0") for s in stages)


def pack_macro(published: Path) -> None:
    """One row a network: accuracies of three runs, which are float32, and costs."""
    tree = json.loads(published.read_text(encoding="utf-8"))
    with MACRO.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("code", "run1", "run2", "run3", "params", "flops"))
        for code, fields in sorted(tree.items()):
            assert fields == tree[canonical(code)], code
            if code == canonical(code):
                runs = [str(np.float32(accuracy)) for accuracy in fields["test_acc"]]
                writer.writerow((code, *runs, fields["params"], fields["flops"]))


def macro(*, distinct: bool = False) -> dict[str, dict[str, Any]]:
    """NAS-Bench-Macro in its published form: all 6,561 codes, or those of `distinct` networks."""
    networks = {}
    with MACRO.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            accuracies = [float(np.float32(row[f"run{run}"])) for run in (1, 2, 3)]
            networks[row["code"]] = {
                "test_acc": accuracies,
                "mean_acc": float(np.mean(accuracies)),
                "std": float(np.std(accuracies)),
                "params": int(row["params"]),
                "flops": int(row["flops"]),
            }
    if distinct:
        return networks
    codes = map("".join, itertools.product("012", repeat=8))
    return networks | {code: networks[canonical(code)] for code in codes}


def additive_fit(bench: dict[str, dict[str, Any]]) -> pa.Table:
    """A ratings table: minus the least-squares terms of accuracy by layer and op, without costs."""
    chosen = np.array([[digit == op for digit in code for op in "012"] for code in bench], float)
    accuracy = np.array([fields["mean_acc"] for fields in bench.values()])
    terms = np.linalg.lstsq(chosen, accuracy, rcond=None)[0]
    ops = list("012") * 8
    return pa.table({"block": np.repeat(np.arange(1, 9), 3), "ops": ops, "loss": -terms})


def imagenet() -> dict[str, Any]:
    """The 23 networks, each with its costs as the built-in space mbconv4 counts them."""
    tree: dict[str, Any] = json.loads((HERE / "imagenet_mbconv_23.json").read_text())
    space = load_space("mbconv4")
    widths = [block.cells[0].width for block in space.blocks]
    for arch in tree["archs"]:
        ops = [",".join(tree["ops"][int(digit)] for digit in code) for code in arch["code"]]
        blocks = zip(widths, [*ops, "k3e6"], strict=True)  # the last block is the same in all
        text = "/".join(f"{width}:{path}" for width, path in blocks)
        total = network_costs(network_spec(space, Architecture.parse(text)), space.resolution).total
        arch |= {"macs": total.macs, "params": total.params}
    return tree


def bossnas(*, costs: bool = False) -> pa.Table:
    """BossNAS's scores of all paths, as a ratings table; with the `costs` of mbconv4 or without."""
    tree = json.loads((HERE / "bossnas_path_scores.json").read_text())
    rows = [
        (number, ",".join(tree["ops"][int(digit)] for digit in code), loss)
        for number, block in enumerate(tree["blocks"], 1)
        for code, loss in block.items()
    ]
    names = ("block", "ops", "loss")
    table = pa.table(dict(zip(names, zip(*rows, strict=True), strict=True)))
    if not costs:
        return table
    space = load_space("mbconv4")
    counted = cost_table(space, space.resolution, 1000)
    by_path = {
        (number, ",".join(map(str, path))): own
        for number, block in enumerate(space.blocks, 1)
        for path, own in zip(block.paths(0), counted.paths[number - 1][0][0], strict=True)
    }
    metadata = {}
    for column, name in enumerate(("params", "macs")):
        own = [int(by_path[number, ops][column]) for number, ops, _ in rows]
        table = table.append_column(name, pa.array(own))
        last = counted.fixed[0][column] + by_path[6, "k3e6"][column]
        metadata[f"fixed.{name}"] = str(last)
    return table.replace_schema_metadata(metadata)


def write(folder: Path, bench: dict[str, Any], ratings: pa.Table) -> tuple[Path, Path]:
    """The files that the command reads."""
    paths = folder / "bench.json", folder / "ratings.csv"
    paths[0].write_text(json.dumps(bench))
    arrow_csv.write_csv(ratings, paths[1])
    return paths


if __name__ == "__main__":
    pack_macro(Path(sys.argv[1]))
