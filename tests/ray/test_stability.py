"""`dna-ray stability` on a finished search: variants are those of plain Python, trained once."""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dna_ray.data.schedule import draw, schedule
from dna_ray.network.model import load_model
from dna_ray.planning.plan import Plan
from dna_ray.ranking import Losses, Variant, in_rows, read_variants
from dna_ray.remote.distill import distill
from dna_ray.remote.session import Session
from dna_ray.rundir import RunFolder
from dna_ray.search import Ratings, read_ratings
from dna_ray.study import Study
from dna_ray.teacher import Cut, cut_teacher
from tests import plain
from tests.ray.command import SNAPSHOT, Finished, answered

Array = np.ndarray

# Of a run with seed 3 and 4 epochs of 2 windows.
OWN = Variant(3, 1.0, 4)
SEED, HALF, EARLY = OWN._replace(seed=4), OWN._replace(fraction=0.5), OWN._replace(epochs=2)
ALL = ("--generation", "1", "--seeds", "2", "--fractions", "0.5", "--checkpoints", "2")


def stability(run: Path, *words: str) -> tuple[dict[str, Any], str]:
    """With one worker; the search had two."""
    return answered("stability", run, *words, workers=1)


def begun(shown: str) -> list[str]:
    """The variants that were begun, in the view's words."""
    return [line.partition(": ")[2] for line in shown.splitlines() if "of the data" in line]


@pytest.fixture(scope="module")
def compared(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished run with its variants."""
    run = tmp_path_factory.mktemp("compared") / "run"
    shutil.copytree(finished.run, run)
    _, shown = stability(run, *ALL)
    assert begun(shown) == [
        "seed 4, 100% of the data, 4 epochs",
        "seed 3, 50% of the data, 4 epochs",
        "seed 3, 100% of the data, 2 epochs",
    ]
    return run


def kept(run: Path) -> tuple[Ratings, dict[Variant, Losses]]:
    folder = run / "generation-1"
    ratings = read_ratings(folder / "ratings.parquet")
    return ratings, read_variants(folder / "stability.parquet", ratings)


class Pure:
    """All variants of a run in plain Python, on windows that are made again."""

    def __init__(self, run: Path, plan: Plan) -> None:
        self.plan, job = plan, plan.job
        self.teacher = load_model(run / "teacher.safetensors")
        self.cut: Cut = cut_teacher(self.teacher, plan.space.reductions, plan.resolution)
        windows = plain.make_windows(plan.pictures, job, plan.resolution)
        self.taught, self.held_out = plain.teach_cells(self.teacher, self.cut, windows, job)
        self.count = len(self.taught)

    def _teach(self, windows: Sequence[Array]) -> list[plain.Features]:
        return [f for f, _ in plain.teach_windows(self.teacher, self.cut, windows)]

    def losses(self, variant: Variant, fresh: bool = False) -> list[list[Array]]:
        """A part of the windows is shown as often as makes as many as in the run."""
        plan, shown = self.plan, round(variant.fraction * self.count)
        total = variant.epochs * self.count
        repeated = [self.taught[i % shown] for i in range(total)]
        if fresh:
            found = schedule(plan.pictures, plan.job)
            rows = [
                found.rows["train"][i % shown].later(i // shown * found.views) for i in range(total)
            ]
            drawn = [draw(plan.pictures, own, plan.job, plan.resolution) for own in rows]
            repeated = self._teach(drawn)
        job = replace(
            plan.job,
            seed=variant.seed,
            features=replace(plan.job.features, fresh=True),  # a window for every step of the loop
            distill=replace(plan.job.distill, epochs=variant.epochs),
        )
        first, count = plan.job.rate.recalibration, plan.job.rate.images
        losses: list[list[Array]] = [[] for _ in plan.space.blocks]
        for block, cell in plain.cells(plan.space):
            data = plain.rating_set(self.held_out, block, first, slice(first, first + count))
            about = plan.space, self.cut, plan.pixels
            weights = plain.weights(*about, repeated, job, (block, cell))
            losses[block].append(np.array(plain.rate(*about, (block, cell), weights, data)))
        return losses


@pytest.fixture(scope="module")
def pure(finished: Finished, plan: Plan) -> Pure:
    return Pure(finished.run, plan)


def test_variants_are_those_of_plain_python(compared: Path, pure: Pure) -> None:
    ratings, losses = kept(compared)
    assert list(losses) == [SEED, HALF, EARLY]
    for variant in (SEED, HALF, EARLY):
        expected = in_rows(ratings, pure.losses(variant))
        assert [part.tolist() for part in losses[variant]] == [part.tolist() for part in expected]


def test_the_run_itself_is_the_variant_that_differs_in_nothing(compared: Path, pure: Pure) -> None:
    ratings, losses = kept(compared)
    own = [block.loss.tolist() for block in ratings.blocks]
    assert [part.tolist() for part in in_rows(ratings, pure.losses(OWN))] == own
    for parts in losses.values():
        assert all(part.tolist() != one for part, one in zip(parts, own, strict=True))


def test_what_is_rated_is_not_trained_again(compared: Path) -> None:
    """The same command needs no Ray any more; the records of the run are as they were."""
    before = {f: f.stat().st_mtime_ns for f in compared.rglob("*.parquet")}
    tree, shown = stability(compared, *ALL)
    assert shown == ""
    assert {f: f.stat().st_mtime_ns for f in compared.rglob("*.parquet")} == before
    assert [pair["seeds"] for pair in tree["seeds"]["pairs"]] == [[3, 4]]
    assert [part["fraction"] for part in tree["fractions"]] == [0.5]
    assert [part["epochs"] for part in tree["checkpoints"]] == [2]
    search = json.loads((compared / "generation-1" / "architecture.json").read_text())
    assert (tree["own"]["architecture"], tree["limits"]) == (search["text"], search["limits"])
    for part in (*tree["seeds"]["variants"], *tree["fractions"], *tree["checkpoints"]):
        assert -1 <= part["kendall"] <= 1
        assert part["blocks_alike"] in (0, 1, 2)
    assert all(word in tree["verdict"] for word in ("seed", "50% of the data", "epoch"))


def test_the_run_goes_on_being_whole(compared: Path, finished: Finished) -> None:
    """Neither times, stages nor metrics of the search have changed, and no checkpoint is left."""
    manifests = [
        json.loads((run / "manifest.json").read_text()) for run in (compared, finished.run)
    ]
    assert manifests[0]["seconds"] == manifests[1]["seconds"]
    assert manifests[0]["stages"] == manifests[1]["stages"]
    added = set(manifests[0]["files"]) - set(manifests[1]["files"])
    assert added == {"generation-1/stability.parquet"}
    metrics = [run / "generation-1" / "metrics.jsonl" for run in (compared, finished.run)]
    assert metrics[0].read_bytes() == metrics[1].read_bytes()
    assert not (compared / "working").exists()


@pytest.fixture
def opened(finished: Finished, tmp_path: Path) -> Iterator[RunFolder]:
    """Another copy of the finished run, at work."""
    shutil.copytree(finished.run, tmp_path / "run")
    run = RunFolder.open(tmp_path / "run")
    with run.locked():
        yield run


@pytest.fixture
def single(local: Session) -> Session:
    """The session with one worker."""
    return replace(local, workers=1)


def test_a_longer_training_goes_on_from_a_shorter_one(
    single: Session, opened: RunFolder, plan: Plan, pure: Pure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interruption before a rating costs the rating alone."""
    starts: list[str] = []
    checkpoints = opened.working / "stability" / "generation-1-seed-3-windows-2"
    snapshot = checkpoints / "distill-generation-1" / SNAPSHOT

    def spy(*given: Any, **named: Any) -> Any:
        """Note the checkpoint that a training begins from."""
        newest = ""
        if snapshot.is_file():
            newest = json.loads(snapshot.read())["latest_checkpoint_result"]["checkpoint_dir_name"]
        starts.append(newest)
        return distill(*given, **named)

    monkeypatch.setattr("dna_ray.study.distill", spy)
    two, three = (OWN._replace(epochs=epochs) for epochs in (2, 3))
    varying = Study(single, opened, plan, 1).vary([two, three])
    assert equal(next(varying)[1], pure.losses(two))
    with monkeypatch.context() as broken:
        broken.setattr("dna_ray.study.rate", fail)
        with pytest.raises(KeyboardInterrupt):
            next(varying)
    study = Study(single, opened, plan, 1)
    ((_, losses),) = study.vary([three])
    assert equal(losses, pure.losses(three))
    fresh, two_there, three_there = starts
    assert fresh == ""
    assert "" != two_there != three_there != ""
    assert not opened.working.is_folder()


def test_windows_that_do_not_fit_are_streamed(
    single: Session, opened: RunFolder, plan: Plan, pure: Pure
) -> None:
    """With the same result; fresh views of a part of the pictures are of that part."""
    features = replace(plan.job.features, cache="stream", fresh=True)
    plan = replace(plan, job=replace(plan.job, features=features))
    variant = HALF._replace(epochs=2)
    ((_, losses),) = Study(single, opened, plan, 1).vary([variant])
    assert equal(losses, pure.losses(variant, fresh=True))


def equal(one: list[list[Array]], other: list[list[Array]]) -> bool:
    return all(
        np.array_equal(a, b)
        for cells, others in zip(one, other, strict=True)
        for a, b in zip(cells, others, strict=True)
    )


def fail(*_: Any) -> None:
    raise KeyboardInterrupt
