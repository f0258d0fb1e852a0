"""How evenly the cells of mbconv6 are shared out: the longest rank's work over the mean of all.

Each cell's training step is measured on one core as the recipe `imagenet` has it, between the
boundaries of tf_efficientnet_b7 at 224 pixels, but for smaller minibatches; the median of some
rounds counts. Plans are made from these times, and from multiply-adds alone; both are judged by the
times. `speed-up` is what one rank needs over what the longest of so many needs.
"""

import argparse
import statistics

import torch

from dna_ray.config import Distill, Job, job_from_tree, parse_job
from dna_ray.network.model import TimmSpec
from dna_ray.planning.calibration import cell_macs, try_cell
from dna_ray.planning.placement import plan_ranks
from dna_ray.planning.work import cut_by_shape, loads, useful_ranks
from dna_ray.space import Space, Where, load_space
from dna_ray.teacher import Cut
from dna_ray_cli.job import recipes
from tests.benchmarks.report import publish, table

RANKS = (1, 2, 4, 8, 16, 64)
PIXELS = ((0.5,) * 3, (0.5,) * 3)


def measure(space: Space, cut: Cut, resolution: int, batch: int, rounds: int) -> dict[Where, float]:
    """Seconds of a training step for one picture, by cell; rounds go over all cells in turn."""
    recipe = Distill(batch=batch)
    times: dict[Where, list[float]] = {where: [] for where in space.cells}
    for number in range(1, rounds + 1):
        for where, seconds in times.items():
            trial = try_cell(space, cut, PIXELS, recipe, where, resolution, "cpu")
            seconds.append(trial.seconds)
            print(f"round {number}, cell {where}: {1000 * seconds[-1]:.1f} ms", flush=True)
    return {where: statistics.median(seconds) for where, seconds in times.items()}


def imbalance(taken: list[float]) -> float:
    """The longest over the mean."""
    return max(taken) * len(taken) / sum(taken)


def main() -> None:
    """Measure the cells, then plan for every number of ranks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    job: Job = job_from_tree(parse_job(recipes()["imagenet"], "imagenet"))
    space, shards = load_space(job.space), job.distill.shards
    spec = TimmSpec(name=job.teacher, classes=1000, mean=PIXELS[0], std=PIXELS[1])
    cut = cut_by_shape(spec, space.reductions, job.resolution)
    macs = cell_macs(space, cut, job.resolution)
    times = measure(space, cut, job.resolution, given.batch, given.rounds)
    cells = [
        [
            where[0] + 1,
            where[1],
            f"{1000 * times[where]:.1f}",
            f"{macs[where] / 1e6:.1f}",
            f"{1e9 * times[where] / macs[where]:.3f}",
        ]
        for where in space.cells
    ]
    rows = []
    for ranks in RANKS:
        planned = [plan_ranks(work, ranks, shards) for work in (times, macs)]
        taken = [loads(plan, times) for plan in planned]
        rows.append(
            [
                ranks,
                *(f"{imbalance(own):.3f}" for own in taken),
                *(f"{sum(times.values()) / max(own):.1f}" for own in taken),
            ]
        )
    header = ["ranks"]
    header += [f"imbalance, by {by}" for by in ("times", "multiply-adds")]
    header += [f"speed-up, by {by}" for by in ("times", "multiply-adds")]
    text = (
        f"{given.batch} pictures a minibatch, {given.rounds} rounds. A cell is shared by up to "
        f"{shards} ranks; beyond {useful_ranks(times, shards)} the longest becomes no shorter.\n\n"
        f"{table(header, rows)}\n\n"
        + table(["block", "cell", "ms a picture", "multiply-adds, M", "ns / multiply-add"], cells)
    )
    publish("placement", "Cells of mbconv6 on ranks", text, write=given.write)


if __name__ == "__main__":
    main()
