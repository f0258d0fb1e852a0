"""A generation of a run looked at again: its teacher and windows, as they were."""

from collections.abc import Iterator, Sequence
from functools import cached_property

from dna_ray.data.schedule import Schedule, schedule
from dna_ray.errors import UserError
from dna_ray.network.model import TrainedModel, load_model
from dna_ray.planning.cache import Cache, in_bytes, room_in
from dna_ray.planning.placement import Share, share_out
from dna_ray.planning.plan import Plan
from dna_ray.ranking import Training
from dna_ray.remote.alone import train_paths
from dna_ray.remote.calibration import cluster_resources
from dna_ray.remote.features import TeacherTasks
from dna_ray.remote.pictures import Gallery
from dna_ray.remote.session import Session
from dna_ray.remote.windows import TaughtWindow, Window
from dna_ray.rundir import RunFolder
from dna_ray.teacher import cut_teacher


class Study:
    """One rated generation, 1-based, of a run that its driver has left."""

    def __init__(self, session: Session, run: RunFolder, plan: Plan, number: int) -> None:
        self.session, self.run, self.plan, self.number = session, run, plan, number
        self.teacher = _teacher(run, plan, number)
        self.cut = cut_teacher(self.teacher, plan.space.reductions, plan.resolution)
        self._resources = cluster_resources()
        self._tasks = TeacherTasks(session, self.teacher, self.cut)

    def share(self, useful: int) -> Share:
        """What `useful` things that train at a time reserve, each."""
        return share_out(self._resources, self.session.workers, useful, beside=False)

    @cached_property
    def _gallery(self) -> Gallery:
        plan, session = self.plan, self.session
        broken = {int(index) for index in self.run.read_json("pictures.json")["broken"]}
        found = schedule(plan.pictures, plan.job, broken)
        self._check_room(found)
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

    def _taught(self, windows: Sequence[Window]) -> tuple[TaughtWindow, ...]:
        self.session.view.stage("features", len(windows), "windows")
        return self._tasks.teach_all(windows, self.share(1).task)


def _teacher(run: RunFolder, plan: Plan, number: int) -> TrainedModel:
    if number > 1:
        return load_model(run.place / run.file(number - 1, "scaled.safetensors"))
    return load_model(run.place / "teacher.safetensors") if plan.adapt else plan.teacher
