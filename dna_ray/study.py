"""A generation of a run looked at again: its teacher and windows, as they were."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property

import numpy as np

from dna_ray.data.schedule import Schedule, schedule
from dna_ray.errors import UserError
from dna_ray.network.members import Weights
from dna_ray.network.model import TrainedModel, load_model
from dna_ray.planning.cache import Cache, choose, in_bytes, room_in
from dna_ray.planning.calibration import cell_macs
from dna_ray.planning.placement import RankPlan, Share, plan_ranks, share_out
from dna_ray.planning.plan import Plan
from dna_ray.ranking import Training, Variant
from dna_ray.remote.alone import train_paths
from dna_ray.remote.calibration import cluster_resources
from dna_ray.remote.distill import distill
from dna_ray.remote.features import TeacherTasks
from dna_ray.remote.feed import fed
from dna_ray.remote.pictures import Gallery
from dna_ray.remote.rating import rate
from dna_ray.remote.session import Session
from dna_ray.remote.windows import Held, Series, TaughtWindow, Window
from dna_ray.rundir import RunFolder
from dna_ray.space import Where
from dna_ray.storage import Place
from dna_ray.teacher import cut_teacher

Array = np.ndarray


class Study:
    """One rated generation, 1-based, of a run that its driver has left."""

    def __init__(self, session: Session, run: RunFolder, plan: Plan, number: int) -> None:
        self.session, self.run, self.plan, self.number = session, run, plan, number
        self.teacher = _teacher(run, plan, number)
        self.cut = cut_teacher(self.teacher, plan.space.reductions, plan.resolution)
        self._resources = cluster_resources()
        self._tasks = TeacherTasks(session, self.teacher, self.cut)

    def share(self, useful: int, *, beside: bool = False) -> Share:
        """What `useful` things that train at a time reserve, each; and tasks `beside` them."""
        return share_out(self._resources, self.session.workers, useful, beside=beside)

    @cached_property
    def _gallery(self) -> Gallery:
        plan, session = self.plan, self.session
        broken = {int(index) for index in self.run.read_json("pictures.json")["broken"]}
        found = schedule(plan.pictures, plan.job, broken)
        store = self._resources.store_bytes
        cache = Cache(mode="stream", ahead=1, drawing=(store - room_in(store)) // 2)
        return Gallery(session, plan.pictures, found, plan.job, plan.resolution, cache)

    def _check_room(self, found: Schedule) -> None:
        """Raise UserError where the windows that teach and rate do not fit the object store."""
        features, distill = self.plan.job.features, self.plan.job.distill
        taught = sum(map(len, found.first("train", features.images)))
        held = taught * (distill.epochs if features.fresh else 1) + found.pictures("rating")
        need = held * self.plan.sizes.window // features.window
        have = room_in(self._resources.store_bytes)
        if need > have:
            raise UserError(
                "the windows that teach and rate must fit into Ray's object store, but "
                f"they are {in_bytes(need)} and there is room for {in_bytes(have)}; ask for "
                "fewer with --images"
            )

    @cached_property
    def windows(self) -> tuple[TaughtWindow, ...]:
        """Those that teach the cells: of one epoch, or with fresh views of all epochs."""
        job, gallery = self.plan.job, self._gallery
        self._check_room(gallery.plan)
        if not job.features.fresh:
            gallery.hold("train", job.features.images)
            return self._taught(gallery.held("train", job.features.images))
        total = self.count * job.distill.epochs
        self.session.view.stage("pictures", total, "windows")
        passes = gallery.passes("train", 0, cpus=1, pictures=job.features.images, fresh=True)
        drawn = []
        for _ in range(total):
            drawn.append(next(passes))
            self.session.view.advance(1)
        return self._taught(drawn)

    @property
    def count(self) -> int:
        """The windows of one epoch."""
        return len(self._gallery.plan.first("train", self.plan.job.features.images))

    @cached_property
    def rating_windows(self) -> tuple[TaughtWindow, ...]:
        """Those that recalibrate and rate."""
        self._gallery.hold("rating")
        return self._taught(self._gallery.held("rating"))

    def train_alone(self, trainings: Sequence[Training]) -> Iterator[tuple[Training, float]]:
        """Every training of a path with its loss, as soon as it is done."""
        plan, share = self.plan, self.share(len(trainings))
        return train_paths(
            self.session,
            plan.space,
            self.cut,
            plan.pixels,
            plan.job.distill,
            plan.job.rate,
            (plan.job.seed, self.number),
            trainings,
            self.windows,
            self.count,
            self.rating_windows,
            {"num_cpus": share.rank_cpus, "num_gpus": share.rank_gpus},
        )

    def vary(self, variants: Sequence[Variant]) -> Iterator[tuple[Variant, list[list[Array]]]]:
        """All cells of every variant trained, and the loss of every path, as soon as it is rated.

        Losses are `[block][cell]` (paths,). A variant goes on from one before it that differs in
        nothing but fewer epochs, and from where it was interrupted itself.
        """
        for number, variant in enumerate(variants, 1):
            self.session.view.note(f"{number} of {len(variants)}: {_words(variant)}")
            yield variant, self._rated(self._distilled(variant))
        self._kept.remove()
        if not self.run.working.inside():
            self.run.working.remove()

    def _distilled(self, variant: Variant) -> dict[Where, Weights]:
        """The weights of all cells, but of those whose training came to nothing."""
        plan = self.plan
        recipe = replace(plan.job.distill, epochs=variant.epochs)
        work = cell_macs(plan.space, self.cut, plan.resolution)
        share = self.share(len(work) * recipe.shards, beside=self._streamed)
        ranks = plan_ranks(work, share.ranks, recipe.shards)
        with self._series(variant, ranks, share) as windows:
            made = distill(
                self.session,
                plan.space,
                self.cut,
                plan.pixels,
                windows,
                self.count,
                recipe,
                ranks,
                share,
                (variant.seed, self.number),
                self._checkpoints(variant),
                longer=True,
            )
        for why in made.stopped.values():
            self.session.view.note(f"a cell is left out: {why}")
        return made.weights

    def _rated(self, cells: dict[Where, Weights]) -> list[list[Array]]:
        plan = self.plan
        return rate(
            self.session,
            plan.space,
            self.cut,
            plan.pixels,
            cells,
            self.rating_windows,
            plan.job.rate,
            plan.resolution,
            self.share(1).task,
        )

    @property
    def _kept(self) -> Place:
        """Where the checkpoints of variants are until all are rated."""
        return self.run.working / "stability"

    def _checkpoints(self, variant: Variant) -> Place:
        """Where the checkpoints of a variant go, and are of one with fewer epochs."""
        part = f"generation-{self.number}-seed-{variant.seed}-windows-{self._shown(variant)}"
        place = self._kept / part
        note = place / "epochs.txt"
        if note.is_file() and int(note.read()) > variant.epochs:
            place.remove()  # what was trained for longer cannot be taken back
        note.write(str(variant.epochs).encode())
        return place

    def _shown(self, variant: Variant) -> int:
        """How many windows teach a variant."""
        return max(1, round(variant.fraction * self.count))

    @cached_property
    def _cache(self) -> Cache:
        return choose(self.plan.job, self.plan.sizes, self._resources.store_bytes)

    @property
    def _streamed(self) -> bool:
        """Whether windows that teach variants are made while they are read."""
        return self._cache.mode == "stream" or self.plan.job.features.fresh

    @contextmanager
    def _series(
        self, variant: Variant, plan: RankPlan, share: Share
    ) -> Iterator[Series[TaughtWindow]]:
        """The windows that teach a variant.

        A part of the data is the first of them, shown again until they are as many as in the run:
        so it has the same steps, with the same learning rates.
        """
        gallery, features = self._gallery, self.plan.job.features
        shown = self._shown(variant)
        if not self._streamed:
            yield Held(self.windows[:shown])
            return
        pictures = sum(map(len, gallery.plan.first("train", features.images)[:shown]))

        def make(position: int) -> Iterator[TaughtWindow]:
            for window in gallery.passes(
                "train",
                position,
                cpus=share.task_cpus,
                pictures=pictures,
                fresh=features.fresh,
            ):
                yield self._tasks.teach(window, share.task)

        total = self.count * variant.epochs
        with fed(self.session, make, total, plan.ranks, self._cache.ahead) as series:
            yield series

    def _taught(self, windows: Sequence[Window]) -> tuple[TaughtWindow, ...]:
        self.session.view.stage("features", len(windows), "windows")
        return self._tasks.teach_all(windows, self.share(1).task)


def _teacher(run: RunFolder, plan: Plan, number: int) -> TrainedModel:
    if number > 1:
        return load_model(run.place / run.file(number - 1, "scaled.safetensors"))
    return load_model(run.place / "teacher.safetensors") if plan.adapt else plan.teacher


def _words(variant: Variant) -> str:
    return f"seed {variant.seed}, {variant.fraction:.0%} of the data, {variant.epochs} epochs"
