"""`dna-ray measure` on this machine, twice: how wrong a sum of parts is, and if it repeats."""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from tests.benchmarks.report import publish, table

COMMAND = Path(sys.executable).with_name("dna-ray")
SPACES = ("demo", "mbconv6")


def measured(space: str, out: Path) -> dict[str, Any]:
    """What the command says of a space that it measures with its defaults."""
    words = ["measure", "--space", space, "--out", str(out), "--json"]
    done = subprocess.run([COMMAND, *words], stdout=subprocess.PIPE, text=True, check=True)
    tree: dict[str, Any] = json.loads(done.stdout)
    return tree


def parts(path: Path) -> dict[tuple[Any, ...], float]:
    """Milliseconds of a table by part."""
    return {
        tuple(row[name] for name in ("op", "width_in", "width_out", "stride", "resolution")): row[
            "milliseconds"
        ]
        for row in pq.read_table(path).to_pylist()
        if row["op"] != "network"
    }


def repeated(first: Path, second: Path) -> list[str]:
    """How far two runs are apart: the common factor, and what parts differ besides."""
    one, other = parts(first), parts(second)
    ratios = np.array([other[part] / one[part] for part in one])
    factor = np.median(ratios)
    apart = np.abs(ratios / factor - 1)
    return [f"{factor:.3f}", f"{np.median(apart):.1%}", f"{np.percentile(apart, 95):.1%}"]


def main() -> None:
    """Measure all spaces, then all of them again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--spaces", nargs="*", default=SPACES)
    arguments = parser.parse_args()
    rows, repeats = [], []
    with tempfile.TemporaryDirectory() as folder:
        outs = {
            (run, space): Path(folder) / f"{space}-{run}.parquet"
            for run in (1, 2)
            for space in arguments.spaces
        }
        for (run, space), out in outs.items():
            tree = measured(space, out)
            held_out = tree["held_out"]
            errors = [
                f"{held_out[f'{kind}_error_{when}']:.1%}"
                for kind in ("mean", "worst")
                for when in ("before", "after")
            ]
            ranks = [f"{held_out[rank]:.3f}" for rank in ("kendall", "spearman")]
            low, high = tree["networks_ms"]
            numbers = [f"{tree['seconds']:.0f}", f"{low:.3g} to {high:.3g}", *errors, *ranks]
            spreads = [f"{tree[name]:.1%}" for name in ("spread", "unrest")]
            rows.append([space, run, tree["layers"], tree["networks"], *numbers, *spreads])
        for space in arguments.spaces:
            repeats.append([space, *repeated(outs[1, space], outs[2, space])])
    header = ["space", "run", "layers", "networks", "s", "ms of a network", "mean error, sum"]
    header += ["corrected", "worst error, sum", "corrected", "Kendall", "Spearman"]
    header += ["spread of a sample", "of the machine"]
    text = (
        f"Batch 1, one thread. Errors and ranks are those of the networks that took no part in "
        f"the correction.\n\n{table(header, sorted(rows))}\n\n"
        "The second run against the first, part by part: the factor common to all is the machine's "
        "own speed at the time.\n\n"
        f"{table(['space', 'common factor', 'half of the parts within', '95 % within'], repeats)}"
    )
    publish("latency", "Latency as an additive cost", text, write=arguments.write)


if __name__ == "__main__":
    main()
