"""Every remote stage gives what the same functions give in plain Python."""

import re
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray
import torch
from safetensors.torch import save

from dna_ray.config import Job, job_from_tree, job_to_toml, put, setting
from dna_ray.data import Pictures, load_pictures
from dna_ray.data.schedule import draw, schedule
from dna_ray.distill import CellTrainer
from dna_ray.errors import UserError, causes, noted
from dna_ray.generations import search
from dna_ray.network.members import together
from dna_ray.network.model import TrainedModel, build_model, load_model, trained
from dna_ray.planning.cache import Cache
from dna_ray.planning.placement import RankPlan
from dna_ray.planning.plan import Plan, make_plan, recipe
from dna_ray.progress import Silent
from dna_ray.randomness import generator, key
from dna_ray.remote.distill import _train_cells
from dna_ray.remote.features import TeacherTasks, predict
from dna_ray.remote.pictures import Gallery, survey
from dna_ray.remote.rating import rate
from dna_ray.remote.session import Session
from dna_ray.remote.windows import Held, TaughtWindow, Window
from dna_ray.retrain import PictureSet, logits_of
from dna_ray.rundir import RunFolder
from dna_ray.space import Architecture, Space, load_space, network_spec
from dna_ray.teacher import Cut, cut_teacher
from dna_ray_cli.main import failure
from tests import plain, tiny

RESOLUTION = 32


class Heard(Silent):
    """A view that remembers what it was told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


PIXELS = ((0.5,) * 3, (0.5,) * 3)
RESOURCES = {"num_cpus": 1.0}
KEPT = Cache(mode="all", ahead=4, drawing=10**8)
STREAMED = Cache(mode="stream", ahead=2, drawing=10**6)


@pytest.fixture(scope="module")
def job(task_files: Path) -> Job:
    tree: dict[str, Any] = {"seed": 5, "space": str(task_files / "tiny.toml")}
    for text in tiny.SETTINGS:
        put(tree, *setting(text))
    return job_from_tree(tree)


@pytest.fixture(scope="module")
def pictures(task_files: Path) -> Pictures:
    return load_pictures(str(task_files / "pictures"))


@pytest.fixture(scope="module")
def space(job: Job) -> Space:
    return load_space(job.space)


@pytest.fixture(scope="module")
def teacher(space: Space) -> TrainedModel:
    architecture = Architecture.parse("8:k3e2/16:k3e2")
    torch.manual_seed(0)
    spec = network_spec(space, architecture, classes=2)
    module = build_model(spec).train()
    for _ in range(20):  # running statistics that mean something
        module(torch.randint(0, 256, (8, 3, RESOLUTION, RESOLUTION)))
    return trained(spec, module)


@pytest.fixture(scope="module")
def cut(teacher: TrainedModel, space: Space) -> Cut:
    return cut_teacher(teacher, space.reductions, RESOLUTION)


def gallery(session: Session, pictures: Pictures, job: Job, cache: Cache) -> Gallery:
    broken = survey(session, pictures, RESOLUTION)
    return Gallery(session, pictures, schedule(pictures, job, broken), job, RESOLUTION, cache)


@pytest.fixture(scope="module")
def windows(local: Session, pictures: Pictures, job: Job) -> dict[str, tuple[Window, ...]]:
    kept = gallery(local, pictures, job, KEPT)
    kept.hold("train")
    return {split: kept.held(split) for split in ("train", "rating", "test")}


@pytest.fixture(scope="module")
def pure_windows(pictures: Pictures, job: Job) -> plain.Windows:
    return plain.make_windows(pictures, job, RESOLUTION)


@pytest.fixture(scope="module")
def pure_cells(
    space: Space, cut: Cut, teacher: TrainedModel, pure_windows: plain.Windows, job: Job
) -> dict[tuple[int, int], dict[str, torch.Tensor]]:
    taught = plain.teach_windows(teacher, cut, pure_windows.pictures["train"])
    boundaries = [features for features, _ in taught]
    return {
        where: plain.weights(space, cut, PIXELS, boundaries, job, where)
        for where in plain.cells(space)
    }


def equal_states(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_windows(windows: dict[str, tuple[Window, ...]], pure_windows: plain.Windows) -> None:
    for split in ("train", "rating", "test"):
        drawn = ray.get([w.pictures for w in windows[split]])
        assert [w.size for w in windows[split]] == list(map(len, drawn))
        expected = pure_windows.pictures[split]
        assert len(drawn) == len(expected)
        assert all(np.array_equal(a, b) for a, b in zip(drawn, expected, strict=True))
        labels = np.concatenate([w.labels for w in windows[split] if w.labels is not None])
        assert np.array_equal(labels, pure_windows.labels[split])


@pytest.mark.parametrize("fresh", [False, True])
def test_streamed_windows_are_those_that_are_kept(
    local: Session, pictures: Pictures, job: Job, fresh: bool
) -> None:
    """From any position on, over the end of a pass; with fresh views every pass has its own."""
    plan = schedule(pictures, job)
    streamed = Gallery(local, pictures, plan, job, RESOLUTION, STREAMED)
    rows = plan.first("train", job.features.images)
    series = streamed.passes("train", 1, cpus=0.5, pictures=job.features.images, fresh=fresh)
    for position in range(1, len(rows) + 2):
        window = next(series)
        turn, index = divmod(position, len(rows))
        shown = rows[index].later(turn * plan.views * fresh)
        expected = draw(pictures, shown, job, RESOLUTION)
        assert np.array_equal(ray.get(window.pictures), expected)
        assert window.labels is not None
        assert np.array_equal(window.labels, pictures.labels[shown.pictures])


def spoil(folder: Path, names: Sequence[str]) -> None:
    """Cut pictures off in the middle, or put text in their place."""
    for number, name in enumerate(names):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2] if number % 2 else b"no picture")


def test_broken_pictures_are_left_out(
    local: Session, task_files: Path, job: Job, tmp_path: Path
) -> None:
    folder = tmp_path / "pictures"
    shutil.copytree(task_files / "pictures", folder)
    before = load_pictures(str(folder))
    broken = ["lying/0.png", "lying/1.png", "standing/7.png"]
    spoil(folder, broken)
    heard = Heard()
    made = gallery(replace(local, view=heard), load_pictures(str(folder)), job, KEPT)
    made.hold("train")
    assert heard.notes == ["3 of 80 pictures cannot be read and are left out: 0.png, 1.png, 7.png"]
    for split, members in before.splits.items():
        whole = [i for i in members if not before.name_of(i).endswith(tuple(broken))]
        views = job.features.views if split == "train" else 1
        drawn = ray.get([w.pictures for w in made.held(split)])
        assert sum(map(len, drawn)) == views * len(whole)
        labels = np.concatenate([w.labels for w in made.held(split) if w.labels is not None])
        order = generator(job.seed, "order", split).permutation(members)
        kept = [before.labels[i] for i in order if i in whole]
        assert labels.tolist() == kept * views
        assert all(picture.std() > 10 for picture in np.concatenate(drawn))  # none is black


def test_too_many_broken_pictures_are_an_error(
    local: Session, task_files: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "pictures"
    shutil.copytree(task_files / "pictures", folder)
    spoil(folder, [f"lying/{number}.png" for number in range(9)])
    with pytest.raises(UserError, match="9 of 80 are not"):
        survey(local, load_pictures(str(folder)), RESOLUTION)


def test_a_picture_that_turns_unreadable_ends_the_stream_and_is_named(
    local: Session, task_files: Path, job: Job, tmp_path: Path
) -> None:
    folder = tmp_path / "pictures"
    shutil.copytree(task_files / "pictures", folder)
    pictures = load_pictures(str(folder))
    streamed = gallery(local, pictures, job, STREAMED)
    windows = streamed.passes("train", 0, cpus=0.5)
    next(windows)
    lost = streamed.plan.rows["train"][-1].pictures[0]
    Path(pictures.name_of(lost)).unlink()
    with pytest.raises(ray.exceptions.RayTaskError) as caught:
        ray.get([window.pictures for window in islice(windows, 20)])
    errors = [e for e in causes(caught.value) if isinstance(e, UserError)]
    assert re.search(
        "must stay readable while a search runs, but '.*' no longer is", str(errors[0])
    )


@pytest.mark.parametrize("first", [True, False])
def test_a_cell_that_stops_does_not_poison_others(
    first: bool,
    windows: dict[str, tuple[Window, ...]],
    pure_windows: plain.Windows,
    space: Space,
    teacher: TrainedModel,
    cut: Cut,
    job: Job,
    pure_cells: dict[tuple[int, int], dict[str, torch.Tensor]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One rank's loop, over an epoch's checkpoint: block 1 diverges, block 2 ends as it would.

    In block 1 it is all members that diverge, or all but the `first`.
    """
    taught = [f for f, _ in plain.teach_windows(teacher, cut, pure_windows.pictures["train"])]
    stored = {
        (n, k): array for n, features in enumerate(taught) for k, array in enumerate(features)
    }
    held = Held(
        [
            TaughtWindow(tuple((n, k) for k in range(len(features))), None, len(features[0]))
            for n, features in enumerate(taught)
        ]
    )

    def diverging(*given: Any, **named: Any) -> CellTrainer:
        *about, recipe, where, stream = given[:6]
        if first or "member" in stream:
            recipe = replace(recipe, learning_rate_first=1e30)
        return CellTrainer(*about, recipe, where, stream, *given[6:], **named)

    saved: list[dict[str, Any]] = []
    told: list[str] = []

    def save(files: dict[str, Any], _: None) -> None:
        saved.append(deepcopy(files))
        if len(saved) == 1:
            raise ConnectionError("lost")

    checkpoint = SimpleNamespace(as_directory=lambda: nullcontext(""))
    context = SimpleNamespace(get_world_rank=lambda: 0)
    train = SimpleNamespace(
        get_context=lambda: context, get_checkpoint=lambda: checkpoint if saved else None
    )
    for name, value in {
        "train": train,
        "ray": SimpleNamespace(get=lambda refs: [stored[ref] for ref in refs]),
        "save": save,
        "observe": lambda *_, **__: None,
        "_load": lambda _, where: saved[-1][f"block-{where[0] + 1}-cell-{where[1]}.pt"],
        "CellTrainer": diverging,
    }.items():
        monkeypatch.setattr(f"dna_ray.remote.distill.{name}", value)
    put = SimpleNamespace(remote=lambda part, done, text: told.append(text))
    config = {
        "space": space,
        "cut": cut,
        "pixels": PIXELS,
        "stream": (job.seed, 1),
        "beginnings": ((),),
        "plan": RankPlan(dict.fromkeys(space.cells, (0,)), (1.0,)),
        "windows": held,
        "count": len(taught),
        "board": SimpleNamespace(put=put),
        "storage": None,
        "longer": False,
    }
    with pytest.raises(ConnectionError):
        _train_cells(config | {"recipe": job.distill})
    for _ in range(2):  # gone on with, and found to have ended
        _train_cells(config | {"recipe": job.distill})
    assert len(saved) == job.distill.epochs > 1
    for block, cell in space.cells:
        state = saved[-1][f"block-{block + 1}-cell-{cell}.pt"]
        members = state["members"]
        if block == 0:
            assert [f"block 1, cell {cell} is" in s["stopped"] for s in members] == [first, True]
            assert state["losses"] == []
        else:
            assert [member["stopped"] for member in members] == ["", ""]
            nets = together([member["net"] for member in members])
            assert equal_states(nets, pure_cells[block, cell])
    assert {"block 1, cell 0: stopped", "block 1, cell 1: stopped"} < set(told)


def test_features(
    local: Session,
    windows: dict[str, tuple[Window, ...]],
    pure_windows: plain.Windows,
    teacher: TrainedModel,
    cut: Cut,
) -> None:
    taught = TeacherTasks(local, teacher, cut).teach_all(windows["train"], RESOURCES)
    expected = plain.teach_windows(teacher, cut, pure_windows.pictures["train"])
    for window, (features, logits) in zip(taught, expected, strict=True):
        for ref, feature in zip(window.boundaries, features, strict=True):
            assert np.array_equal(ray.get(ref), feature)
        assert np.array_equal(ray.get(window.logits), logits)
    alone = list(predict(local, teacher, windows["test"], 2, RESOURCES))
    expected_alone = logits_of(teacher.build(), pure_windows.pictures["test"])
    assert np.array_equal(np.concatenate(alone), expected_alone)


def test_rate(
    local: Session,
    windows: dict[str, tuple[Window, ...]],
    pure_windows: plain.Windows,
    space: Space,
    teacher: TrainedModel,
    cut: Cut,
    job: Job,
    pure_cells: dict[tuple[int, int], dict[str, torch.Tensor]],
) -> None:
    taught = TeacherTasks(local, teacher, cut).teach_all(windows["rating"], RESOURCES)
    losses = rate(local, space, cut, PIXELS, pure_cells, taught, job.rate, RESOLUTION, RESOURCES)
    held_out = [f for f, _ in plain.teach_windows(teacher, cut, pure_windows.pictures["rating"])]
    for block, cell in plain.cells(space):
        first = job.rate.recalibration
        data = plain.rating_set(held_out, block, first, slice(first, first + job.rate.images))
        expected = plain.rate(space, cut, PIXELS, (block, cell), pure_cells[block, cell], data)
        assert losses[block][cell].tolist() == expected


def test_a_failure_in_a_worker_is_one_line_with_its_place(
    local: Session,
    windows: dict[str, tuple[Window, ...]],
    space: Space,
    teacher: TrainedModel,
    cut: Cut,
    job: Job,
    pure_cells: dict[tuple[int, int], dict[str, torch.Tensor]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    taught = TeacherTasks(local, teacher, cut).teach_all(windows["rating"], RESOURCES)
    wrong = [replace(w, boundaries=tuple(reversed(w.boundaries))) for w in taught]
    with pytest.raises(ray.exceptions.RayTaskError) as caught, noted("generation 1, rate"):
        rate(local, space, cut, PIXELS, pure_cells, wrong, job.rate, RESOLUTION, RESOURCES)
    assert failure(caught.value) == 1
    out, shown = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(
        r"failed: generation 1, rate, block \d, cell \d: RuntimeError: .*size of tensor.*\n", shown
    )


def fresh(plan: Plan, architecture: str) -> TrainedModel:
    """The found network of generation 1 before its training."""
    mean, std = plan.pixels
    spec = network_spec(plan.space, Architecture.parse(architecture), plan.classes)
    spec = replace(spec, mean=mean, std=std)
    torch.manual_seed(key(plan.job.seed, 1, "weights", "found"))
    return trained(spec, build_model(spec))


def test_a_search_without_labels(
    local: Session,
    task_files: Path,
    teacher: TrainedModel,
    job: Job,
    space: Space,
    pure_cells: dict[tuple[int, int], dict[str, torch.Tensor]],
    tmp_path: Path,
) -> None:
    """A flat folder: the found network learns the teacher's soft labels and is held against it.

    What is distilled is the same without labels, and taken from there, and so is what Tune finds.
    Trained on two ranks the network is that of plain Python.
    """
    flat = tmp_path / "flat"
    flat.mkdir()
    for picture in sorted((task_files / "pictures").rglob("*.png")):
        shutil.copy(picture, flat / f"{picture.parent.name}-{picture.name}")
    unlabelled = replace(job, data=str(flat), generations=1, limits={})
    plan = make_plan(unlabelled, space, load_pictures(unlabelled.data), teacher)
    run = RunFolder.create(tmp_path / "run", job_to_toml(unlabelled), unlabelled.seed)
    cells = {
        f"block-{block + 1}-cell-{cell}/{name}": tensor.contiguous()
        for (block, cell), state in pure_cells.items()
        for name, tensor in state.items()
    }
    run.write("generation-1/cells.safetensors", save(cells))
    best = {"learning_rate": 0.01, "weight_decay": 0.01, "loss": 0.5}
    run.write_json("generation-1/tune.json", {"trials": [best]})
    (result,) = search(local, run, plan)
    assert result["metrics"]["teacher"]["agreement_top1"] == 1
    assert result["metrics"]["teacher"]["kl"] == pytest.approx(0, abs=1e-6)
    found = result["metrics"]["found"]
    assert 0 <= found["agreement_top1"] <= found["agreement_top5"] == 1  # there are two classes
    assert found["kl"] > 0
    assert not run.has("teacher.safetensors")  # without labels nothing is adapted
    rows = run.measured(1)
    passes = [(row["network"], row["pass"]) for row in rows if row["stage"] == "train"]
    assert passes == [("found", n + 1) for n in range(job.retrain.passes)]

    drawn = plain.make_windows(plan.pictures, unlabelled, RESOLUTION).pictures["train"]
    trained_alone = plain.train(
        fresh(plan, result["architecture"]),
        PictureSet(drawn, None, plain.soft(teacher, drawn)),
        recipe(job, job.retrain.passes, best["learning_rate"], best["weight_decay"]),
        (job.seed, "retrain", 1, "found"),
    )
    model = load_model(run.place / "generation-1/model.safetensors")
    assert equal_states(model.state, trained_alone.state)
