"""What all generations of a search share: the session, the run folder, and the pictures."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np

from dna_ray.data.schedule import Schedule, schedule
from dna_ray.errors import noted
from dna_ray.network.model import TrainedModel, load_model, module_costs, save_model, with_classes
from dna_ray.planning.cache import choose, describe
from dna_ray.planning.placement import Share, share_out
from dna_ray.planning.plan import Plan, recipe
from dna_ray.remote.calibration import cluster_resources
from dna_ray.remote.features import TeacherTasks, predict
from dna_ray.remote.feed import fed
from dna_ray.remote.metrics import observe
from dna_ray.remote.pictures import Gallery, survey
from dna_ray.remote.retrain import Task, ranks_for, retrain
from dna_ray.remote.session import Session
from dna_ray.remote.windows import Held, Series, TaughtWindow, Window
from dna_ray.retrain import agreement_metrics, label_metrics
from dna_ray.rundir import RunFolder

Array = np.ndarray

# Windows for so many ranks and passes, there while a body trains on them.
ToTrain = Callable[[int, int], AbstractContextManager[Series[Window]]]


class Driver:
    """Runs the stages of all generations, each as one that leaves its record or is skipped."""

    def __init__(self, session: Session, run: RunFolder, plan: Plan) -> None:
        self.session, self.run, self.plan, self.job = session, run, plan, plan.job
        self.storage = run.working
        self.resources = cluster_resources()
        self.cache = choose(self.job, plan.sizes, self.resources.store_bytes)
        session.view.note(describe(self.cache, plan.sizes, self.resources.store_bytes))
        self._gallery: Gallery | None = None
        self._soft: dict[str, list[Any]] = {}

    @property
    def streamed(self) -> bool:
        """Whether windows are made while they are read."""
        return self.cache.mode == "stream"

    def share(self, useful: int, *, beside: bool = False, rank_bytes: int = 0) -> Share:
        """Ranks, `useful` of them at most, and what they and tasks reserve."""
        return share_out(
            self.resources, self.session.workers, useful, beside=beside, rank_bytes=rank_bytes
        )

    def tell(self, values: dict[str, float], **tags: str | int) -> None:
        """Let a monitoring system know."""
        observe(self.session.board, values, **tags)

    @contextmanager
    def stage(self, generation: int, name: str) -> Iterator[dict[str, Any]]:
        """Keep a stage's state and time in the manifest and tell the view when it ends.

        The body writes the stage's records: a stage that is done has them. What it puts into the
        dictionary that it is given becomes a row of the metrics, with the seconds.
        """
        stage, start, done = f"generation-{generation}/{name}", time.perf_counter(), False
        facts: dict[str, Any] = {}
        with noted(f"generation {generation}, {name}"):
            self.run.begin(stage)
            self.tell({"stage_at_work": 1}, stage=name)
            try:
                yield facts
                done = True
            finally:
                seconds = time.perf_counter() - start
                self.run.end(stage, seconds, done=done)
                self.tell({"stage_at_work": 0}, stage=name)
            if facts:
                row = {"stage": name, "seconds": round(seconds, 3)}
                self.run.measure(generation, [row | facts])
        self.session.view.end_stage(seconds)

    @property
    def gallery(self) -> Gallery:
        """The windows of all pictures that can be read; the first call surveys them."""
        if self._gallery is None:
            self._gallery = Gallery(
                self.session,
                self.plan.pictures,
                self._schedule(),
                self.job,
                self.plan.resolution,
                self.cache,
            )
        return self._gallery

    def _schedule(self) -> Schedule:
        record = "pictures.json"
        if not self.run.has(record):
            with self.stage(1, "features") as facts:
                found = survey(self.session, self.plan.pictures, self.plan.resolution)
                facts |= {"stage": "survey", "pictures": len(self.plan.pictures)}
                facts["broken"] = len(found)
                self.run.write_json(record, {"broken": found})
        broken = {int(index) for index in self.run.read_json(record)["broken"]}
        return schedule(self.plan.pictures, self.job, broken)

    def held(self, split: str, pictures: int | None = None) -> tuple[Window, ...]:
        """Windows of a split to keep, or those at its beginning with so many pictures."""
        if not self.gallery.holds(split, pictures):
            with self.stage(1, "features") as facts:
                made = self.gallery.hold(split, pictures)
                facts |= {"stage": "pictures", "images": made}
        return self.gallery.held(split, pictures)

    def held_passes(self, passes: int) -> tuple[Window, ...]:
        """The windows that teach the cells, to keep: of one pass, or with fresh views of all."""
        images, first = self.job.features.images, self.held("train", self.job.features.images)
        if not self.job.features.fresh:
            return first
        with self.stage(1, "features") as facts:
            rest = (passes - 1) * len(first)
            facts |= {"stage": "fresh views", "images": (passes - 1) * sum(w.size for w in first)}
            self.session.view.stage("fresh views", rest, "windows")
            later = self.gallery.passes("train", len(first), cpus=1, pictures=images, fresh=True)
            kept = list(islice(later, rest))
            self.session.wait([window.pictures for window in kept])
        return (*first, *kept)

    def first_teacher(self) -> TrainedModel:
        """The teacher of generation 1, fitted to the labels of the task where that is asked for."""
        if not self.plan.adapt:
            return self.plan.teacher
        record = "teacher.safetensors"
        if not self.run.has(record):
            config = self.job.adapt
            adapting = recipe(self.job, config.passes, config.learning_rate, config.weight_decay)
            start = with_classes(self.plan.teacher, self.plan.classes)
            task = Task("teacher", start, adapting, (self.job.seed, "adapt"))
            windows = self.to_train(soft=False)
            with self.stage(1, "adapt"):
                models = self.train(1, "adapt", "adapt-teacher", [task], windows)
                self.run.write(record, save_model(models[0]))
        return load_model(self.run.place / record)

    def with_soft_labels(self, split: str, windows: Sequence[Window]) -> list[Window]:
        """Windows at the beginning of a split, with the first teacher's logits where they teach."""
        if not self.plan.soft:
            return list(windows)
        known = self._soft.setdefault(split, [])
        missing = windows[len(known) :]
        if missing:
            teacher = self.first_teacher()
            self.session.view.stage("soft labels", len(missing), "windows")
            with self.stage(1, "features"):
                tasks, resources = TeacherTasks(self.session, teacher), self.share(1).task
                known += [tasks.logits(window, resources) for window in missing]
                self.session.wait(known[-len(missing) :])
        return [replace(w, logits=logits) for w, logits in zip(windows, known, strict=False)]

    def know_soft_labels(self, split: str, taught: Sequence[TaughtWindow]) -> None:
        """The first teacher has seen the windows at the beginning of a split already."""
        if self.plan.soft:
            self._soft.setdefault(split, [window.logits for window in taught])

    def to_train(self, *, soft: bool = True) -> ToTrain:
        """The windows that networks are trained on; those that are kept are made now."""
        if self.streamed:
            teacher = self.first_teacher() if soft and self.plan.soft else None
            return lambda ranks, passes: self._streamed(teacher, ranks, passes)
        windows: Sequence[Window] = self.held("train")
        if soft:
            windows = self.with_soft_labels("train", windows)
        return lambda ranks, passes: nullcontext(Held(windows))

    @contextmanager
    def _streamed(
        self, teacher: TrainedModel | None, ranks: int, passes: int
    ) -> Iterator[Series[Window]]:
        share = self.share(ranks, beside=True)
        tasks = teacher and TeacherTasks(self.session, teacher)

        def make(position: int) -> Iterator[Window]:
            for window in self.gallery.passes("train", position, cpus=share.task_cpus):
                logits = tasks and tasks.logits(window, share.task)
                yield replace(window, logits=logits)

        total = passes * len(self.gallery.sizes("train"))
        with fed(self.session, make, total, ranks, self.cache.ahead) as series:
            yield series

    def train(
        self, generation: int, title: str, name: str, tasks: Sequence[Task], windows: ToTrain
    ) -> list[TrainedModel]:
        """Train networks one after another in the run `name`, and keep their losses."""
        ranks = ranks_for(tasks[0].recipe, self.session.workers)
        share = self.share(ranks, beside=self.streamed)
        ranks = ranks_for(tasks[0].recipe, share.ranks)
        with windows(ranks, sum(task.recipe.passes for task in tasks)) as series:
            models, rows = retrain(
                self.session,
                title,
                name,
                tasks,
                series,
                self.gallery.sizes("train"),
                self.job.retrain.shuffle,
                replace(share, ranks=ranks),
                self.storage,
            )
        self.run.measure(generation, rows)
        return models

    def metrics(self, model: TrainedModel, role: str) -> dict[str, float]:
        """Size and quality of a network: on the test labels, or by agreement with the teacher."""
        logits = self._test(model)
        measured: dict[str, float]
        if self.plan.pictures.labelled:
            shown = [rows.pictures for rows in self.gallery.plan.rows["test"]]
            measured = label_metrics(logits, self.plan.pictures.labels[np.concatenate(shown)])
        else:
            measured = agreement_metrics(logits, self._test(self.first_teacher()))
        for name, value in measured.items():
            self.tell({"quality": value}, measure=name, role=role)
        return {**module_costs(model.build(), self.plan.resolution), **measured}

    def _test(self, model: TrainedModel) -> Array:
        """A network's logits on the test pictures."""
        share = self.share(1)
        windows = self.gallery.each("test", share.task_cpus)
        found = predict(self.session, model, windows, self.cache.ahead, share.task)
        return np.concatenate(list(found))
