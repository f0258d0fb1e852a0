"""Ground truth in the small: whole networks trained from scratch, and what predicts them.

Table 7 of the paper for two labelled sets that packages ship. `train` trains architectures of one
small space from scratch, three seeds each: half across all costs, half of about one count of
multiply-adds. `score` asks our rating, supernets without blocks (SPOS, DARTS), short trainings and
scores of untrained networks about each of them, three seeds too. `table` holds the scores against
the trainings, with intervals. Two processes by default, one thread each. Everything is kept in
tests/data as it is found, so that running a step again goes on where it was stopped, by Ctrl-C too.

On two idle cores `train` takes some 25 minutes and `score` some 10 for each set. What is kept
belongs to the space and the recipes that made it: after a change of either, remove
tests/data/ground_truth_*.csv.
"""

import argparse
import multiprocessing
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests import plain
from tests.benchmarks.report import publish
from tests.benchmarks.truth import kept
from tests.benchmarks.truth.methods import METHODS, Score
from tests.benchmarks.truth.sample import Drawn, draw
from tests.benchmarks.truth.tables import LABELS, Held, scores_of, section, truth_of
from tests.benchmarks.truth.tasks import TASKS, Task, ready, space, teacher, windows
from tests.benchmarks.truth.training import train_one

DATA = Path(__file__).parents[1] / "data"
STEPS = ("train", "score", "table")
SEEDS = (0, 1, 2)
# Of the scores of a method that gives several, the one that its last rows hold.
LAST = {"rating": "aligned", "untrained": "naswot"}
SPREAD = EQUAL = 15
TRAINING = (*Drawn._fields, "seed", "accuracy", "auroc", "loss", "seconds")


def trainings_file(task: Task) -> Path:
    """Where the trainings of a task are kept, a row each."""
    return DATA / f"ground_truth_{task.name}.csv"


def scores_file(task: Task) -> Path:
    """Where the scores are kept, a row for each method, seed and architecture."""
    return DATA / f"ground_truth_{task.name}_scores.csv"


def sample(task: Task) -> list[Drawn]:
    """The architectures of a task."""
    return draw(space(), task.resolution, task.classes, SPREAD, EQUAL)


def _start() -> None:
    """A worker leaves Ctrl-C to the process that started it, which ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    plain.one_thread()


def _prepare(asked: tuple[Task, int, Path]) -> None:
    task, seed, folder = asked
    windows(task, seed, folder)


def _train(asked: tuple[Task, Drawn, int, Path]) -> dict[str, Any]:
    task, drawn, seed, folder = asked
    found = train_one(task, drawn.architecture, seed, folder)
    return drawn._asdict() | {"seed": seed} | {name: f"{v:.6g}" for name, v in found.items()}


def _score(asked: tuple[Task, str, int, Path]) -> list[Score]:
    task, method, seed, folder = asked
    names = [drawn.architecture for drawn in sample(task)]
    return METHODS[method](task, names, seed, folder)


def train(task: Task, pool: Any, folder: Path) -> None:
    """Train what has not been trained yet; all architectures with one seed, then the next."""
    pool.map(_prepare, [(task, 0, folder)])
    file, all_drawn = trainings_file(task), sample(task)
    done = {(row["architecture"], int(row["seed"])) for row in kept.read(file)}
    order = {drawn.architecture: number for number, drawn in enumerate(all_drawn)}
    asked = [
        (task, drawn, seed, folder)
        for seed in SEEDS
        for drawn in all_drawn
        if (drawn.architecture, seed) not in done
    ]
    tell = _progress(f"{task.name}, trainings", len(asked))
    for row in pool.imap_unordered(_train, asked):
        kept.append(file, TRAINING, [row])
        tell()
    kept.put_in_order(file, TRAINING, lambda row: (order[row["architecture"]], int(row["seed"])))


def score(task: Task, pool: Any, folder: Path) -> None:
    """Ask the methods that have not been asked yet."""
    file = scores_file(task)
    order = {drawn.architecture: number for number, drawn in enumerate(sample(task))}
    rows_of = Counter((row["score"], int(row["seed"])) for row in kept.read(file))
    asked = [
        (task, method, seed, folder)
        for method in METHODS
        for seed in SEEDS
        if rows_of[LAST.get(method, method), seed] < len(order)
    ]
    if asked:
        first, *others = SEEDS  # the first makes files of pictures that the others read
        pool.apply(_prepare, ((task, first, folder),))
        pool.map(_prepare, [(task, seed, folder) for seed in others], chunksize=1)
        pool.apply(teacher, (task, folder))
    tell = _progress(f"{task.name}, scores", len(asked))
    for rows in pool.imap_unordered(_score, asked):
        written = (row._asdict() | {"seconds": f"{row.seconds:.4g}"} for row in rows)
        kept.append(file, Score._fields, written)
        tell()
    kept.put_in_order(
        file,
        Score._fields,
        lambda r: (list(LABELS).index(r["score"]), int(r["seed"]), order[r["architecture"]]),
    )


def _progress(what: str, count: int) -> Callable[[], None]:
    """What to call after each of `count` things."""
    begin, done = time.perf_counter(), 0

    def tell() -> None:
        nonlocal done
        done += 1
        left = (time.perf_counter() - begin) / done * (count - done) / 60
        print(f"{what}: {done} of {count}, about {left:.1f} minutes left", flush=True)

    return tell


def tables(tasks: Sequence[Task], *, write: bool) -> None:
    """Hold what is kept of scores against what is kept of trainings."""
    sections = []
    for task in tasks:
        truth = truth_of(kept.read(trainings_file(task)), SEEDS)
        if len(truth.names) < 3:
            print(f"{task.name}: too little is trained yet", file=sys.stderr)
            continue
        scored = scores_of(kept.read(scores_file(task)), truth)
        sections.append(section(task.name, Held(truth, task.metric, scored)))
    title = "Ground truth in the small: what predicts whole networks"
    publish("ground_truth", title, "\n\n".join(sections), write=write and bool(sections))


def main() -> int:
    """Run the steps that are named, all by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("steps", nargs="*", metavar="STEP", help="train, score, table: all of them")
    parser.add_argument("--data", nargs="*", choices=TASKS, default=list(TASKS))
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(tempfile.gettempdir()) / "dna-ray-ground-truth",
        help="for pictures and the fitted teachers",
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    steps = given.steps or STEPS
    if not set(steps) <= set(STEPS):
        parser.error(f"a step is one of {', '.join(STEPS)}, but {' '.join(steps)} are given")
    given.folder.mkdir(parents=True, exist_ok=True)
    tasks = [TASKS[name] for name in given.data]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if steps != ["table"]:
            with multiprocessing.get_context("spawn").Pool(given.processes, _start) as pool:
                for task in tasks:
                    if lacking := ready(task):
                        print(f"{task.name} is left out: {lacking}", file=sys.stderr)
                        continue
                    for step, run in (("train", train), ("score", score)):
                        if step in steps:
                            run(task, pool, given.folder)
    except KeyboardInterrupt:
        print("stopped; run it again to go on", file=sys.stderr)
        return 130
    if "table" in steps:
        tables(tasks, write=given.write)
    return 0


if __name__ == "__main__":
    sys.exit(main())
