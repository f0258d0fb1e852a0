"""What Ray costs when nothing is computed: the Ray calls of generation 1 with empty bodies.

A process of its own starts Ray as `dna-ray search` does, maps a dataset, runs three Train runs
(adapt, distill, retrain) and a sweep of Tune, all on two workers, and ends. No arrangement of our
stages is faster than this with the same Ray libraries.
"""

import argparse
import os
import tempfile
import time
from typing import Any

from tests.benchmarks.report import publish, table


def nothing(_: dict[str, Any]) -> None:
    """A trial."""


def checkpoint(config: dict[str, Any]) -> None:
    """A training loop: one checkpoint, of nothing."""
    from ray import train

    from dna_ray.remote.train import save

    first = train.get_context().get_world_rank() == 0
    save({"nothing.pt": {}} if first else {}, config["storage"])


def unchanged(batch: dict[str, Any]) -> dict[str, Any]:
    """A map over a dataset."""
    return batch


def empty() -> dict[str, float]:
    """The seconds of every step."""
    start = time.perf_counter()
    seconds: dict[str, float] = {}

    def done(name: str) -> None:
        seconds[name] = time.perf_counter() - start - sum(seconds.values())

    import pyarrow as pa
    import ray
    from ray import tune

    from dna_ray.planning.placement import Resources, share_out
    from dna_ray.progress import Silent
    from dna_ray.remote.ranks import fit
    from dna_ray.remote.session import session
    from dna_ray.storage import Place

    done("imports")
    with session(Silent(), workers=2), tempfile.TemporaryDirectory() as folder:
        done("start of Ray")
        tables = [pa.table({"number": [number]}) for number in range(23)]
        ray.data.from_arrow(tables).map_batches(unchanged, batch_size=None).materialize()
        done("dataset")
        for name in ("adapt", "distill", "retrain"):
            share = share_out(Resources(cpus=2), 2, 2, beside=False)
            fit(checkpoint, {"storage": Place.of(folder)}, name, share, 2, Place.of(folder))
            done(f"Train run: {name}")
        tune.Tuner(
            tune.with_resources(nothing, {"CPU": 1}),
            param_space={"point": tune.grid_search([1, 2, 3, 4])},
            tune_config=tune.TuneConfig(max_concurrent_trials=2, reuse_actors=True),
            run_config=tune.RunConfig(name="tune", storage_path=folder, verbose=0),
        ).fit()
        done("Tune")
    done("end of Ray")
    return seconds


def main() -> None:
    """Measure once and print the parts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    os.environ["PYTHONPATH"] = os.getcwd()  # there Ray's workers find the bodies above
    seconds = empty()
    rows = [[name, f"{value:.1f}"] for name, value in seconds.items()]
    rows.append(["all", f"{sum(seconds.values()):.1f}"])
    publish("ray_floor", "Ray with nothing to do", table(["", "s"], rows), write=given.write)


if __name__ == "__main__":
    from tests.benchmarks import ray_floor  # by its name, by which Ray's workers import it

    ray_floor.main()
