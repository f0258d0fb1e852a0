"""The driver: DNA and DNA+ (sections 3.3 and 3.4 of the paper) as one loop over generations.

pictures -> teacher -> features -> distill -> rate -> search -> tune -> retrain -> next teacher

Every stage leaves its record in the run folder and is skipped where that record is there and whole.
"""

import shutil
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from safetensors.torch import load, save

from dna_ray.config import Job
from dna_ray.data import Pictures
from dna_ray.errors import noted
from dna_ray.network.model import (
    ModelSpec,
    TrainedModel,
    build_model,
    load_model,
    module_costs,
    save_model,
    trained,
    with_classes,
)
from dna_ray.randomness import key
from dna_ray.remote.distill import Where, distill
from dna_ray.remote.features import check_store, make_windows, predict, teach
from dna_ray.remote.rating import rate
from dna_ray.remote.retrain import PictureRefs, Task, retrain
from dna_ray.remote.session import Session
from dna_ray.remote.tune import sweep
from dna_ray.remote.windows import TaughtWindow, Window, first
from dna_ray.report import write_report
from dna_ray.retrain import Recipe, agreement_metrics, label_metrics, minibatches
from dna_ray.rundir import RunFolder
from dna_ray.search import (
    Ratings,
    check_limits,
    ratings_of,
    read_ratings,
    select,
    to_arrow,
)
from dna_ray.space import (
    Architecture,
    CostTable,
    NetworkSpec,
    Space,
    cost_range,
    cost_table,
    network_spec,
    scale,
)
from dna_ray.teacher import Cut, cut_teacher

Array = np.ndarray


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that is known and checked before anything runs."""

    job: Job
    space: Space
    pictures: Pictures
    teacher: TrainedModel
    adapt: bool
    resolution: int
    cut: Cut
    table: CostTable
    limits: dict[str, float]

    @property
    def classes(self) -> int:
        """What the last layer of every network of the run tells apart."""
        return len(self.pictures.classes) or self.teacher.spec.classes

    @property
    def pixels(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The mean and std by which all networks of the run scale pictures: the teacher's."""
        return self.teacher.spec.mean, self.teacher.spec.std

    @property
    def soft(self) -> bool:
        """Whether the first teacher speaks of the task's classes, so that its labels teach."""
        return self.adapt or self.teacher.spec.classes == self.classes


def make_plan(job: Job, space: Space, pictures: Pictures, teacher: TrainedModel) -> Plan:
    """Check that everything fits together, before any work; raises UserError."""
    resolution = job.resolution or space.resolution
    classes = len(pictures.classes) or teacher.spec.classes
    differs = pictures.labelled and teacher.spec.classes != classes
    adapt = differs if job.adapt_teacher is None else job.adapt_teacher and pictures.labelled
    table = cost_table(space, resolution, classes)
    limits = job.limits or default_limits(space, table)
    zeros = [[np.zeros(b.count(c)) for c in range(len(b.cells))] for b in space.blocks]
    check_limits(ratings_of(space, table, zeros, {}), limits)
    views = job.features.views * len(pictures.splits["train"])
    minibatches(views, recipe(job, 1, 0.0, 0.0))
    return Plan(
        job=job,
        space=space,
        pictures=pictures,
        teacher=teacher,
        adapt=adapt,
        resolution=resolution,
        cut=cut_teacher(teacher, space.reductions, resolution),
        table=table,
        limits=limits,
    )


def recipe(job: Job, passes: int, learning_rate: float, weight_decay: float) -> Recipe:
    """A training recipe with the job's own batch, shards and weight of labels."""
    return Recipe(
        passes=passes,
        batch=job.retrain.batch,
        shards=job.retrain.shards,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        label_weight=job.retrain.label_weight,
    )


def default_limits(space: Space, table: CostTable) -> dict[str, float]:
    """Half way between the multiply-adds of the smallest and of the largest architecture.

    Without a limit the search is trivial: the best path of each block.
    """
    low, high = cost_range(space, table)["macs"]
    return {"macs": float((low + high) // 2)}


def search(session: Session, run: RunFolder, plan: Plan) -> list[dict[str, Any]]:
    """Run all generations of a plan; one result each, in the form of the command's JSON."""
    driver = _Driver(session, run, plan)
    teacher, cut = driver.first_teacher(), plan.cut
    results = []
    for number in range(1, plan.job.generations + 1):
        generation = _Generation(driver, number, teacher, cut)
        cells = generation.distilled()
        ratings = generation.rated(cells)
        architecture = generation.searched(ratings)
        best = generation.tuned(architecture)
        found, scaled = generation.retrained(architecture, best)
        results.append(generation.result(architecture, found, scaled))
        _report(session, run)
        if scaled is not None:
            teacher = scaled
            cut = cut_teacher(scaled, plan.space.reductions, plan.resolution)
    shutil.rmtree(driver.storage, ignore_errors=True)
    return results


def _report(session: Session, run: RunFolder) -> None:
    """Make the run's page anew. A page that fails must not cost what is trained: it is said."""
    try:
        write_report(run.path)
    except Exception as error:
        run.log(traceback.format_exc())
        session.view.note(f"no report could be made ({error}); the trace is in {run.path}/log.txt")


class _Driver:
    """What all generations share: session, run folder, and the pictures once they are made."""

    def __init__(self, session: Session, run: RunFolder, plan: Plan) -> None:
        self.session, self.run, self.plan, self.job = session, run, plan, plan.job
        self.storage = run.working
        self._windows: dict[str, tuple[Window, ...]] | None = None
        self._soft: dict[str, list[Any]] = {}

    @contextmanager
    def stage(self, generation: int, name: str) -> Iterator[None]:
        """Keep a stage's state and time in the manifest and tell the view when it ends.

        The body writes the stage's records: a stage that is done has them.
        """
        stage, start, done = f"generation-{generation}/{name}", time.perf_counter(), False
        self.run.begin(stage)
        try:
            with noted(f"generation {generation}, {name}"):
                yield
            done = True
        finally:
            seconds = time.perf_counter() - start
            self.run.end(stage, seconds, done=done)
        self.session.view.end_stage(seconds)

    def windows(self, split: str) -> tuple[Window, ...]:
        """The windows of a split; pictures are decoded at the first call."""
        if self._windows is None:
            with self.stage(1, "features"):
                self._windows = make_windows(
                    self.session, self.plan.pictures, self.job, self.plan.resolution
                )
        return self._windows[split]

    def first_teacher(self) -> TrainedModel:
        """The teacher of generation 1, fitted to the labels of the task where that is asked for."""
        if not self.plan.adapt:
            return self.plan.teacher
        record = "teacher.safetensors"
        if not self.run.has(record):
            data = PictureRefs(self.windows("train"), None)
            config = self.job.adapt
            adapting = recipe(self.job, config.passes, config.learning_rate, config.weight_decay)
            start = with_classes(self.plan.teacher, self.plan.classes)
            task = Task("teacher", start, adapting, (self.job.seed, "adapt"))
            with self.stage(1, "adapt"):
                models, rows = retrain(
                    self.session, "adapt", "adapt-teacher", [task], data, self.storage
                )
                self.run.measure(1, rows)
                self.run.write(record, save_model(models[0]))
        return load_model(self.run.path / record)

    def soft_labels(
        self, split: str, taught: Sequence[TaughtWindow] = ()
    ) -> tuple[Any, ...] | None:
        """References to the first teacher's logits of a split; None where they mean nothing.

        `taught` are windows at the beginning of the split that this teacher has seen already.
        """
        if not self.plan.soft:
            return None
        if split not in self._soft:
            known = [window.logits for window in taught]
            rest, teacher = self.windows(split)[len(known) :], self.first_teacher()
            if rest:
                self.session.view.stage("soft labels", len(rest), "windows")
                with self.stage(1, "features"):
                    known += predict(self.session, teacher, rest)
            self._soft[split] = known
        return tuple(self._soft[split])

    def data(self, split: str) -> PictureRefs:
        """The pictures of a split with all that is known of them."""
        return PictureRefs(self.windows(split), self.soft_labels(split))

    def metrics(self, model: TrainedModel) -> dict[str, float]:
        """Size and quality of a network: on the test labels, or by agreement with the teacher."""
        windows = self.windows("test")
        logits = np.concatenate(ray.get(predict(self.session, model, windows)))
        costs = module_costs(model.build(), self.plan.resolution)
        if self.plan.pictures.labelled:
            labels = np.concatenate([w.labels for w in windows if w.labels is not None])
            return {**costs, **label_metrics(logits, labels)}
        teacher = np.concatenate(ray.get(list(self.soft_labels("test") or ())))
        return {**costs, **agreement_metrics(logits, teacher)}


class _Generation:
    """One generation: each stage reads its record or makes it."""

    def __init__(self, driver: _Driver, number: int, teacher: TrainedModel, cut: Cut) -> None:
        self._driver, self._number, self._teacher, self._cut = driver, number, teacher, cut
        self._run, self._plan, self._job = driver.run, driver.plan, driver.job
        self._stream = (driver.job.seed, number)
        self._taught: dict[str, tuple[TaughtWindow, ...]] | None = None
        driver.session.view.generation(number, driver.job.generations, self._title())

    def _title(self) -> str:
        if self._number > 1:
            scale_ = self._job.retrain.scale
            return f"generation {self._number - 1}, scaled by coefficient {scale_}"
        return self._job.teacher + (" adapted to the labels" if self._plan.adapt else "")

    def _record(self, name: str) -> str:
        return self._run.file(self._number, name)

    def taught(self, split: str) -> tuple[TaughtWindow, ...]:
        """The teacher's features of the windows that teach (`train`) or rate (`rating`)."""
        if self._taught is None:
            driver, session = self._driver, self._driver.session
            check_store(self._cut, self._job, self._plan.resolution)
            train = first(driver.windows("train"), self._job.features.images)
            rating = driver.windows("rating")
            with driver.stage(self._number, "features"):
                session.view.stage("features", len(train) + len(rating), "windows")
                taught = teach(session, self._teacher, self._cut, (*train, *rating))
            self._taught = {"train": taught[: len(train)], "rating": taught[len(train) :]}
            if self._number == 1:  # this teacher's logits are the soft labels of the run
                for name, windows in self._taught.items():
                    driver.soft_labels(name, windows)
        return self._taught[split]

    def distilled(self) -> dict[Where, dict[str, torch.Tensor]]:
        """The weights of every cell."""
        record, where = self._record("cells.safetensors"), "block-{}-cell-{}/"
        cells = [(b, c) for b, k in enumerate(self._plan.space.blocks) for c in range(len(k.cells))]
        if not self._run.has(record):
            windows = self.taught("train")
            with self._driver.stage(self._number, "distill"):
                weights, rows = distill(
                    self._driver.session,
                    self._plan.space,
                    self._cut,
                    self._plan.pixels,
                    windows,
                    self._job.distill,
                    self._plan.resolution,
                    self._stream,
                    self._driver.storage,
                )
                self._run.measure(self._number, rows)
                tensors = {
                    where.format(b + 1, c) + name: value.contiguous()
                    for (b, c), state in weights.items()
                    for name, value in state.items()
                }
                self._run.write(record, save(tensors))
        tensors = load(self._run.read(record))
        return {
            (b, c): {
                name.removeprefix(where.format(b + 1, c)): value
                for name, value in tensors.items()
                if name.startswith(where.format(b + 1, c))
            }
            for b, c in cells
        }

    def rated(self, cells: dict[Where, dict[str, torch.Tensor]]) -> Ratings:
        """The ratings table."""
        record, plan = self._record("ratings.parquet"), self._plan
        if not self._run.has(record):
            windows = self.taught("rating")
            with self._driver.stage(self._number, "rate"):
                losses = rate(
                    self._driver.session,
                    plan.space,
                    self._cut,
                    plan.pixels,
                    cells,
                    windows,
                    self._job.rate,
                    plan.resolution,
                )
                metadata = {"method": "dna", "seed": str(self._job.seed)}
                ratings = ratings_of(plan.space, plan.table, losses, metadata)
                self._run.write_table(record, to_arrow(ratings))
        return read_ratings(pa.BufferReader(self._run.read(record)))

    def searched(self, ratings: Ratings) -> Architecture:
        """The best architecture within the limits."""
        record, front = self._record("architecture.json"), self._record("front.parquet")
        if not (self._run.has(record) and self._run.has(front)):
            view = self._driver.session.view
            with self._driver.stage(self._number, "search"):
                view.stage("search", self._plan.space.architectures, "architectures")
                best = select(ratings, self._plan.limits)
                view.advance(ratings.architectures, f"front of {len(best.front)}")
                self._run.write_table(front, best.front.to_arrow())
                self._run.write_json(record, best.to_json(self._plan.space.name))
        return Architecture.from_json(self._run.read_json(record), record)

    def tuned(self, architecture: Architecture) -> dict[str, float]:
        """The best of Tune's trials for the found network."""
        record = self._record("tune.json")
        if not self._run.has(record):
            config = self._job.tune
            data, held_out = self._driver.data("train"), self._driver.data("rating")
            # Every trial puts its own rate and decay in the place of these.
            task = Task(
                "found",
                self._fresh(self._found_spec(architecture), "found"),
                recipe(self._job, config.passes, config.learning_rate[0], config.weight_decay[0]),
                (self._job.seed, "tune", self._number),
            )
            with self._driver.stage(self._number, "tune"):
                trials = sweep(
                    self._driver.session,
                    f"tune-generation-{self._number}",
                    task,
                    data.first(config.images),
                    held_out,
                    config,
                    self._driver.storage,
                )
                self._run.write_json(record, {"trials": trials})
        best: dict[str, float] = self._run.read_json(record)["trials"][0]
        return best

    def retrained(
        self, architecture: Architecture, best: dict[str, float]
    ) -> tuple[TrainedModel, TrainedModel | None]:
        """The found network, and before another generation its scaled copy, trained."""
        records = [self._record("model.safetensors")]
        specs = [("found", self._found_spec(architecture), self._job.retrain.passes)]
        if self._number < self._job.generations:
            records.append(self._record("scaled.safetensors"))
            scaled = scale(specs[0][1], self._job.retrain.scale)
            specs.append(("scaled", scaled, self._job.retrain.scaled_passes))
        if not all(map(self._run.has, records)):
            tasks = [
                Task(
                    name,
                    self._fresh(spec, name),
                    recipe(self._job, passes, best["learning_rate"], best["weight_decay"]),
                    (self._job.seed, "retrain", self._number, name),
                )
                for name, spec, passes in specs
            ]
            data = self._driver.data("train")
            with self._driver.stage(self._number, "retrain"):
                models, rows = retrain(
                    self._driver.session,
                    "retrain",
                    f"retrain-generation-{self._number}",
                    tasks,
                    data,
                    self._driver.storage,
                )
                self._run.measure(self._number, rows)
                for record, model in zip(records, models, strict=True):
                    self._run.write(record, save_model(model))
        models = [load_model(self._run.path / record) for record in records]
        return models[0], models[1] if len(models) > 1 else None

    def _found_spec(self, architecture: Architecture) -> NetworkSpec:
        mean, std = self._plan.pixels
        spec = network_spec(self._plan.space, architecture, self._plan.classes)
        return replace(spec, mean=mean, std=std)

    def _fresh(self, spec: ModelSpec, name: str) -> TrainedModel:
        """A network with new weights, from a stream of its own."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(key(*self._stream, "weights", name))
            return trained(spec, build_model(spec))

    def result(
        self, architecture: Architecture, found: TrainedModel, scaled: TrainedModel | None
    ) -> dict[str, Any]:
        """What the command says of this generation."""
        record = self._record("result.json")
        if not self._run.has(record):
            if not self._plan.pictures.labelled:
                self._driver.soft_labels("test")  # what networks are held against; a stage itself
            with self._driver.stage(self._number, "retrain"):
                networks = {"teacher": self._teacher, "found": found}
                if scaled is not None:
                    networks["next_teacher"] = scaled
                tests = len(networks) * len(self._driver.windows("test"))
                self._driver.session.view.stage("test", tests, "windows")
                metrics = {role: self._driver.metrics(net) for role, net in networks.items()}
            search_ = self._run.read_json(self._record("architecture.json"))
            stages = ("adapt", "features", "distill", "rate", "search", "tune", "retrain")
            seconds = {s: self._run.seconds(f"generation-{self._number}/{s}") for s in stages}
            tree = {
                "generation": self._number,
                "teacher": self._title(),
                "architecture": str(architecture),
                "loss": search_["loss"],
                "costs": search_["costs"],
                "limits": search_["limits"],
                "proven_optimal": search_["proven_optimal"],
                "metrics": metrics,
                "seconds": {name: round(value, 3) for name, value in seconds.items()},
            }
            self._run.write_json(record, tree)
        result: dict[str, Any] = self._run.read_json(record)
        return result
