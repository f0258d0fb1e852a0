"""The search step: fronts and limits, beside HiGHS, Algorithm 2 and an evolutionary search.

All on one core, on tables of the whole space mbconv6 whose losses are drawn: at random, correlated
with multiply-adds as real ratings are (with and without near-ties), against them, and all alike.
`latency_ms` and what follows it are drawn too.
"""

import math
import os
import random
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
import pyarrow.parquet as pq

from dna_ray.search import Ratings, pareto_front, ratings_of, select, to_arrow, totals
from dna_ray.search.front import TooLargeError
from dna_ray.search.limits import Merge
from dna_ray.search.milp import Program
from dna_ray.search.table import BlockPaths
from dna_ray.search.traversal import traverse
from dna_ray.search.trellis import trellis
from dna_ray.space import Block, cost_table, load_space
from tests.benchmarks.report import publish, table

Array = np.ndarray
COSTS = ("macs", "params", "latency_ms", "energy", "memory")
PATIENCE = 30.0  # seconds for what may not end
COMPARISONS = 20_000_000  # for a front that may not end


def drawn(kind: str, block: Block, cell: int, macs: Array, rng: np.random.Generator) -> Array:
    """Losses (P,) of the paths of a cell: what each op of each layer adds, and noise."""
    layers, ops = block.cells[cell].layers, len(block.ops)
    parts = rng.normal(0, 0.005, (layers, ops))
    added = sum(parts[i][np.indices((ops,) * layers)[i].ravel()] for i in range(layers))
    noise = rng.normal(0, 0.005, len(macs))
    size = 0.02 * (macs - macs.mean()) / (macs.std() or 1.0)
    if kind == "random":
        return rng.random(len(macs))
    if kind == "all tied":
        return np.full(len(macs), 0.5)
    if kind == "anti-correlated":
        return 0.5 + size + added + noise
    if kind == "near-ties":
        return np.round(0.5 - size + noise, 2)
    if kind == "strongly correlated":
        return 0.5 - size + 0.4 * noise
    return 0.5 - size + added + noise


def ratings_drawn(kind: str, name: str = "mbconv6", seed: int = 0) -> Ratings:
    """The table of a space with five costs."""
    space, rng = load_space(name), np.random.default_rng(seed)
    costs = cost_table(space, space.resolution, 1000)
    losses = [
        [
            drawn(kind, block, c, costs.paths[k][c][0][:, 1].astype(float), rng)
            for c in range(len(block.cells))
        ]
        for k, block in enumerate(space.blocks)
    ]
    ratings = ratings_of(space, costs, losses, {})
    blocks = []
    for block in ratings.blocks:
        macs = block.costs[:, ratings.column("macs")]
        latency = macs / 2e7 * rng.uniform(0.7, 1.3, len(macs))
        others = rng.uniform(0, 3, (len(macs), 2))
        blocks.append(replace(block, costs=np.column_stack((block.costs, latency, others))))
    more = (0.0,) * 3
    return replace(
        ratings,
        blocks=tuple(blocks),
        cost_names=(*ratings.cost_names, *COSTS[2:]),
        fixed=np.append(ratings.fixed, more),
        edges=tuple(replace(edge, costs=(*edge.costs, *more)) for edge in ratings.edges),
    )


KINDS = (
    "random",
    "correlated",
    "strongly correlated",
    "near-ties",
    "anti-correlated",
    "all tied",
)


def limits_of(ratings: Ratings, names: tuple[str, ...]) -> dict[str, float]:
    """Limits that a quarter of architectures drawn at random meet one by one."""
    rng = np.random.default_rng(1)
    paths = np.column_stack([rng.integers(0, len(b.loss), 2000) for b in ratings.blocks])
    costs = totals(ratings, paths)[1][:, [ratings.column(name) for name in names]]
    return dict(zip(names, np.quantile(costs, 0.25, axis=0).tolist(), strict=True))


def timed(call: Callable[[], Any], repeats: int = 5) -> tuple[float, Any]:
    """The median of the milliseconds of some calls, and what the last one returned."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = call()
        times.append(1000 * (time.perf_counter() - start))
    return median(times), result


def fronts() -> str:
    rows = []
    for kind in KINDS:
        ratings = ratings_drawn(kind)
        cells: list[object] = [kind]
        for costs in (("macs",), ("macs", "params")):
            milliseconds, front = timed(lambda r=ratings, c=costs: pareto_front(r, c))
            cells += [f"{len(front):,}", f"{milliseconds:.1f}"]
        rows.append(cells)
    header = ("losses", "loss, macs: points", "ms", "loss, macs, params: points", "ms")
    return table(header, rows)


def merged(ratings: Ratings, limits: dict[str, float], top: int = 1) -> Any:
    ways = trellis(ratings, tuple(limits), keep=top)
    return Merge(ways, np.array([*limits.values()]), top).best()


def whole_program(ratings: Ratings, limits: dict[str, float]) -> tuple[str, float]:
    """HiGHS on all paths, without what the relaxation rules out: time, and its best loss."""
    ways, values = trellis(ratings, tuple(limits)), np.array([*limits.values()])
    start = time.perf_counter()
    program = Program(Merge(ways, values), np.inf)
    state, arcs, _ = program.best(PATIENCE)
    seconds = time.perf_counter() - start
    loss = np.inf if arcs is None else float(program.points[arcs, 0].sum())
    return f"{1000 * seconds:,.0f}" if state == 0 else f"not within {PATIENCE:.0f} s", loss


def within_limits() -> str:
    rows = []
    for kind in KINDS:
        ratings = ratings_drawn(kind)
        for count in (1, 2, 3, 5):
            limits = limits_of(ratings, COSTS[:count])
            best, found = timed(lambda r=ratings, v=limits: merged(r, v))
            ten, _ = timed(lambda r=ratings, v=limits: merged(r, v, 10), 3)
            highs, loss = whole_program(ratings, limits) if count in (1, 3) else ("", np.nan)
            same = "" if np.isnan(loss) else f"{loss - found.points[0, 0]:+.0e}"
            rows.append((kind, count, f"{best:.0f}", f"{ten:.0f}", highs, same))
    header = ("losses", "limits", "best, ms", "10 best, ms", "HiGHS, ms", "its loss less ours")
    return table(header, rows)


def layer_of(loss: Array, costs: Array) -> BlockPaths:
    """A block of one layer."""
    zero = np.zeros(len(loss), np.int64)
    return BlockPaths(zero, zero, tuple(map(str, range(len(loss)))), loss, costs)


def other_sizes() -> str:
    """Blocks of one layer: where it grows."""
    rows = []
    for blocks, paths, count in ((20, 16, 2), (80, 16, 1), (80, 16, 2), (80, 16, 3), (6, 60, 3)):
        for kind in ("random", "correlated"):
            rng = np.random.default_rng(blocks + count)
            made = []
            for _ in range(blocks):
                costs = rng.uniform(1, 9, (paths, len(COSTS)))
                noise = rng.random(paths)
                loss = noise if kind == "random" else 1 - costs[:, :3].sum(1) / 30 + 0.02 * noise
                made.append(layer_of(loss, costs))
            ratings = Ratings(tuple(made), COSTS, np.zeros(len(COSTS)))
            limits = dict.fromkeys(COSTS[:count], 4.0 * blocks)
            start = time.perf_counter()
            found = merged(ratings, limits)
            ours = f"{1000 * (time.perf_counter() - start):,.0f}"
            highs, loss = whole_program(ratings, limits)
            if found is None:
                ours, same = f"given up after {ours}", ""
            else:
                same = f"{loss - found.points[0, 0]:+.0e}"
            rows.append((f"{blocks} x {paths}", kind, count, ours, highs, same))
    header = ("blocks x paths", "losses", "limits", "best, ms", "HiGHS, ms", "its loss less ours")
    return table(header, rows)


def fronts_of_many_blocks() -> str:
    rows = []
    for blocks in (5, 10, 20, 40):
        rng = np.random.default_rng(blocks)
        made = []
        for _ in range(blocks):
            costs = rng.uniform(1, 9, (16, 2))
            loss = 1 - costs.sum(1) / 20 + 0.02 * rng.random(16)
            made.append(layer_of(loss, costs))
        ratings = Ratings(tuple(made), COSTS[:2], np.zeros(2))
        cells: list[object] = [blocks]
        for costs_ in (COSTS[:1], COSTS[:2]):
            start = time.perf_counter()
            try:
                size = f"{len(pareto_front(ratings, costs_, COMPARISONS)):,}"
            except TooLargeError:
                size = f"more than {COMPARISONS / 1e6:.0f} M comparisons"
            cells += [size, f"{time.perf_counter() - start:.2f}"]
        rows.append(cells)
    return table(("blocks of 16 paths", "one cost: points", "s", "two costs: points", "s"), rows)


def traversals() -> str:
    rows = []
    for name in ("demo", "mbconv6"):
        ratings = ratings_drawn("correlated", name)
        limits = limits_of(ratings, ("macs",))
        milliseconds, best = timed(lambda r=ratings, v=limits: select(r, v))
        start = time.perf_counter()
        found = traverse(ratings, limits, PATIENCE)
        seconds = time.perf_counter() - start
        gap = found.loss - best.found.loss
        end = f"{seconds:.2f}" if found.whole else f"not within {seconds:.0f}"
        rows.append((name, f"{ratings.architectures:.1e}", f"{milliseconds:.1f}", end))
        rows[-1] += (f"{found.visits:,}", "none found" if found.paths is None else f"{gap:.4f}")
    header = ("space", "architectures", "pareto, ms", "Algorithm 2, s", "visits", "above the best")
    return table(header, rows)


class Evolution:
    """A plain evolutionary search: a population of 50, tournaments of 10, the oldest goes.

    A child has another path in one block; what breaks a limit is thrown away.
    """

    def __init__(self, ratings: Ratings, limits: dict[str, float]) -> None:
        columns = [ratings.column(name) for name in limits]
        self.limits = list(limits.values())
        self.losses = [block.loss.tolist() for block in ratings.blocks]
        self.widths = [block.width.tolist() for block in ratings.blocks]
        self.costs: list[dict[int, list[list[float]]]] = []
        before = {0}
        for k, block in enumerate(ratings.blocks):
            own = {w: (block.costs + ratings.edge_costs(k, w))[:, columns] for w in before}
            self.costs.append({w: costs.tolist() for w, costs in own.items()})
            before = set(self.widths[k])
        self.heads = {w: ratings.head_costs(w)[columns].tolist() for w in before}

    def loss(self, rows: list[int]) -> float:
        """The loss of an architecture; infinite where it breaks a limit."""
        width, loss, costs = 0, 0.0, [0.0] * len(self.limits)
        for k, row in enumerate(rows):
            loss += self.losses[k][row]
            costs = [a + b for a, b in zip(costs, self.costs[k][width][row], strict=True)]
            width = self.widths[k][row]
        costs = [a + b for a, b in zip(costs, self.heads[width], strict=True)]
        return loss if all(a <= b for a, b in zip(costs, self.limits, strict=True)) else math.inf

    def run(self, seconds: float, seed: int) -> float:
        """The least loss after some time."""
        rng, end = random.Random(seed), time.perf_counter() + seconds
        population: deque[tuple[float, list[int]]] = deque(maxlen=50)
        best = math.inf
        while time.perf_counter() < end:
            if len(population) < 50:
                rows = [rng.randrange(len(losses)) for losses in self.losses]
            else:
                rows = min(rng.sample(population, 10))[1].copy()
                k = rng.randrange(len(rows))
                rows[k] = rng.randrange(len(self.losses[k]))
            loss = self.loss(rows)
            if loss < math.inf:
                population.append((loss, rows))
                best = min(best, loss)
        return best


def evolutions() -> str:
    """How far above the best, in percent of the front's range of losses; median of three runs."""
    rows = []
    for kind in ("random", "correlated"):
        ratings = ratings_drawn(kind)
        for count in (1, 3):
            limits = limits_of(ratings, COSTS[:count])
            milliseconds, best = timed(lambda r=ratings, v=limits: select(r, v))
            spread = best.front.loss.max() - best.front.loss.min()
            cells: list[object] = [kind, count, f"{milliseconds:.0f}"]
            evolution = Evolution(ratings, limits)
            for factor in (1, 100):
                losses = [evolution.run(factor * milliseconds / 1000, s) for s in range(3)]
                cells.append(f"{100 * (median(losses) - best.found.loss) / spread:.1f} %")
            rows.append(cells)
    header = ("losses", "limits", "select, ms", "same time", "100 times as long")
    return table(header, rows)


def processes() -> str:
    """The command as a whole, table read from a file."""
    ratings = ratings_drawn("correlated")
    rows = []
    with TemporaryDirectory() as folder:
        path = Path(folder) / "ratings.parquet"
        pq.write_table(to_arrow(ratings), path)
        for count in (0, 1, 2, 3):
            limits = limits_of(ratings, COSTS[:count])
            words = [f"--max={name}={value:.17g}" for name, value in limits.items()]
            command = [Path(sys.executable).with_name("dna-ray"), "select", path, "--json", *words]
            milliseconds, _ = timed(
                lambda c=command: subprocess.run(c, check=True, capture_output=True)
            )
            rows.append((count, f"{milliseconds / 1000:.2f}"))
    return table(("limits", "process, s"), rows)


SECTIONS: dict[str, Callable[[], str]] = {
    "Complete fronts": fronts,
    "Best within limits, by merging and by HiGHS on the whole table": within_limits,
    "Other sizes: blocks of one layer": other_sizes,
    "Fronts of many blocks, losses nearly given by the costs": fronts_of_many_blocks,
    "Algorithm 2 as printed, one limit": traversals,
    "A plain evolutionary search: how far above the best": evolutions,
    "The command as a whole": processes,
}


@click.command()
@click.option("--only", multiple=True, help="Sections that contain this.")
@click.option("--write", is_flag=True, help="Keep the figures in RESULTS.md.")
def main(only: tuple[str, ...], write: bool) -> None:
    """Measure on one core and print."""
    os.sched_setaffinity(0, {0})
    parts = []
    for title, section in SECTIONS.items():
        if not only or any(word in title for word in only):
            parts.append(f"**{title}**\n\n{section()}")
            print(parts[-1], flush=True)
    publish("search", "The search step on one core", "\n\n".join(parts), write=write)


if __name__ == "__main__":
    main()
