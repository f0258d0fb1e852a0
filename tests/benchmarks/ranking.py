"""What `dna-ray evaluate` says of published data, beside what is known of them.

And how often its verdict takes a rating for better or worse than cost where both are as good.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from dna_ray.ranking import Rated, evaluate
from tests.benchmarks.report import publish, table
from tests.data import benches

PROGRAM = str(Path(sys.executable).with_name("dna-ray"))
TRIALS = 400

# By bench: a figure, where it is in the JSON, and what is known of it. BossNAS: its paper (arXiv
# 2103.12424); the others were computed with scripts of their own from the published files.
KNOWN: dict[str, list[tuple[str, tuple[str, ...], str]]] = {
    "23 ImageNet networks": [
        ("BossNAS, Kendall", ("kendall",), ".644"),
        ("BossNAS, Spearman", ("spearman",), ".777"),
        ("BossNAS, Pearson", ("pearson",), ".847"),
        ("multiply-adds, Kendall", ("baselines", "macs", "kendall"), ".755"),
        ("parameters, Kendall", ("baselines", "params", "kendall"), ".708"),
    ],
    "NAS-Bench-Macro": [
        ("additive fit, Kendall", ("kendall",), ".8654"),
        ("multiply-adds, Kendall", ("baselines", "macs", "kendall"), ".5560"),
        ("parameters, Kendall", ("baselines", "params", "kendall"), ".2176"),
        ("best accuracy, %", ("best", "accuracy"), "93.127"),
        ("best code", ("best", "code"), "22212220"),
    ],
}


def files(bench: str, folder: Path) -> tuple[Path, Path]:
    """The bench and the ratings table of one name."""
    if bench == "NAS-Bench-Macro":
        tree = benches.macro()
        return benches.write(folder, tree, benches.additive_fit(tree))
    return benches.write(folder, benches.imagenet(), benches.bossnas())


def run(bench: str) -> tuple[dict[str, Any], float]:
    """The answer of the program, and how long the whole process took."""
    with tempfile.TemporaryDirectory() as folder:
        words = [PROGRAM, "evaluate", *map(str, files(bench, Path(folder))), "--json"]
        start = time.perf_counter()
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        return json.loads(done.stdout), time.perf_counter() - start


def figures(bench: str, tree: dict[str, Any]) -> list[list[str]]:
    """One row a figure: here, its interval, and what is known."""
    rows = []
    for name, keys, known in KNOWN[bench]:
        holder: Any = tree
        for key in keys[:-1]:
            holder = holder[key]
        value = holder[keys[-1]]
        interval = holder.get("interval95", {}).get(keys[-1])
        digits = len(known.partition(".")[2])
        shown = value if isinstance(value, str) else f"{value:.{digits}f}".removeprefix("0")
        within = f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else ""
        rows.append([bench, name, shown, within, known])
    return rows


def alarms(count: int, noise: float) -> list[str]:
    """How often the lead's whole interval is above, and below, 0 where there is no lead."""
    above = below = 0
    for seed in range(TRIALS):
        truth, *both = np.random.default_rng([count, seed]).normal(size=(3, count))
        score, cost = (truth + noise * error for error in both)
        lead = evaluate(Rated(("",) * count, truth, -score, {"macs": np.exp(cost)}), seed=seed).lead
        assert lead is not None
        above, below = above + (lead.low > 0), below + (lead.high < 0)
    return [str(count), f"{noise:g}", f"{above / TRIALS:.1%}", f"{below / TRIALS:.1%}"]


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    rows, notes = [], []
    for bench in KNOWN:
        tree, seconds = run(bench)
        rows += figures(bench, tree)
        notes.append(f"{bench}, {seconds:.1f} s as a whole process: {tree['verdict']}")
    text = table(("bench", "figure", "here", "95 % interval", "known"), rows)
    text += "\n\n" + "\n\n".join(notes)
    text += f"\n\nA rating and a cost of equal worth, {TRIALS} times each:\n\n"
    header = ("architectures", "noise of both", "rating called better", "cost called better")
    text += table(header, [alarms(n, noise) for n in (6, 23, 100) for noise in (0.5, 2.0)])
    publish("ranking", "Does a rating rank?", text, write=given.write)


if __name__ == "__main__":
    main()
