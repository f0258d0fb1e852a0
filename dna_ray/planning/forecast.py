"""What a search will take, foretold from sizes, multiply-adds and measured rates. Runs nothing.

The time of a stage is its work over the processors (over the GPUs, where there are any), or what
its longest part takes on its own where that is more. NOT_COUNTED says what is left out.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import Literal

from dna_ray.errors import UserError
from dna_ray.planning.cache import Cache, choose
from dna_ray.planning.placement import Resources, plan_ranks, share_out
from dna_ray.planning.plan import Plan, recipe
from dna_ray.planning.rates import Rates, Teaching
from dna_ray.planning.work import cell_params, expected_macs, makespan, walk_macs
from dna_ray.retrain import minibatches, portions_of
from dna_ray.space import NetworkSpec, network_costs, scale

NOT_COUNTED = (
    "machines that start, or are lost and their work done again",
    "windows, weights and records on their way between machines",
    "tables, batch-norm statistics and the report on disk",
)

# What takes time besides the work, as seen on two cores where a process starts in 0.2 and in 3.7 s:
# of a Train run a second, and so many starts of processes, its own and its workers'; and of Ray
# Data, or Tune.
FIT_SECONDS, FIT_STARTS, OTHER_STARTS = 0.9, 2.0, 1.0

_FLOAT = 4  # bytes
_STATE = 3  # a checkpoint has, for each weight, it and its two moments


def decided(plan: Plan, store: int) -> tuple[Cache, str]:
    """How windows are kept in a store of so many bytes, and "" or why they cannot be."""
    try:
        return choose(plan.job, plan.sizes, store), ""
    except UserError as error:
        mode: Literal["all", "stream"] = "all" if plan.job.features.cache == "all" else "stream"
        return Cache(mode=mode, ahead=0, drawing=0), str(error)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Wall-clock seconds of a stage, the work in it, and how many pictures are drawn for it."""

    generation: int
    name: str
    seconds: float
    core_seconds: float
    gpu_seconds: float
    drawn: int


@dataclass(frozen=True, kw_only=True)
class Disk:
    """Bytes: what the run folder holds in the end, at most, and what is written to it in all."""

    kept: int
    most: int
    written: int


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """A plan, on a cluster of which the rates were measured.

    `teacher` is what the first one costs, and `teachings` has an entry for every generation;
    `network` is one like those that will be found.
    `before` are the seconds before the first stage; `hindrance` is why the cluster cannot run it,
    or "".
    """

    plan: Plan
    before: float
    cache: Cache
    hindrance: str
    resources: Resources
    workers: int
    rates: Rates
    teacher: dict[str, int]
    teachings: tuple[Teaching, ...]
    network: NetworkSpec

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """All stages of all generations, in their order."""
        numbers = range(1, len(self.teachings) + 1)
        start = self._stage(1, "start", besides=self.before)
        return (start, *(stage for number in numbers for stage in self._generation(number)))

    @property
    def macs(self) -> float:
        """Multiply-adds of the networks that will be found."""
        return expected_macs(self.plan.space, self.plan.table, self.plan.limits)

    @property
    def scaled(self) -> NetworkSpec:
        """A network like the teachers of later generations."""
        return scale(self.network, self.plan.job.retrain.scale)

    def _generation(self, number: int) -> Iterator[Stage]:
        if number == 1 and self.plan.adapt:
            yield self._adapt()
        yield self._features(number)
        yield self._distill(number)
        yield self._rate(number)
        yield self._stage(number, "search", besides=self.rates.searching)
        yield self._tune(number)
        yield self._retrain(number)
        yield self._test(number)

    @property
    def _lanes(self) -> int:
        """How many compute at a time: GPUs, or processors where there are none."""
        return self.resources.gpus or max(1, int(self.resources.cpus))

    def _stage(
        self,
        generation: int,
        name: str,
        *,
        work: float = 0.0,
        on_cores: float = 0.0,
        drawn: int = 0,
        longest: float = 0.0,
        besides: float = 0.0,
        first_drawn: bool = False,
    ) -> Stage:
        """A stage of so many seconds of `work`, more of it `on_cores`, and pictures to draw.

        `longest` is what its longest part takes on its own, `besides` what is no work. Pictures are
        drawn while the work goes on, or first.
        """
        on_cores += drawn * self.rates.drawing
        cores, gpus = max(1.0, self.resources.cpus), self.resources.gpus
        times = (work / self._lanes, on_cores / cores)
        busy = max(times) if gpus and not first_drawn else sum(times)
        return Stage(
            generation=generation,
            name=name,
            seconds=max(longest, busy) + besides,
            core_seconds=on_cores + (0 if gpus else work),
            gpu_seconds=work if gpus else 0,
            drawn=drawn,
        )

    def _adapt(self) -> Stage:
        passes = self.plan.job.adapt.passes
        return self._training(1, "adapt", [(passes, self.rates.adapting)], soft=False)

    def _features(self, number: int) -> Stage:
        job, pictures = self.plan.job, self.plan.schedule.pictures
        taught, teacher = self.taught, self.teachings[number - 1].teacher
        shown = taught * job.distill.epochs if job.features.fresh else taught
        forward, drawn = pictures("rating"), 0
        if number == 1:  # what is kept is drawn once; each picture is looked at before
            drawn = len(self.plan.pictures) + pictures("rating")
            drawn += self._tried if self._streamed else pictures("train") + pictures("test")
        if not self._streamed:
            forward += shown
            drawn += shown - taught  # the views of later epochs
        work = forward * teacher
        if number == 1 and self.plan.soft:
            labelled = self._tried if self._streamed else pictures("train") - taught
            work += labelled * teacher
        begun = OTHER_STARTS * self.rates.starting if number == 1 else 0.0
        return self._stage(
            number, "features", work=work, drawn=drawn, besides=begun, first_drawn=True
        )

    def _distill(self, number: int) -> Stage:
        config, teaching = self.plan.job.distill, self.teachings[number - 1]
        trained = 0
        for rows in self.plan.schedule.first("train", self.plan.job.features.images):
            batch = min(config.batch, len(rows) // config.shards * config.shards)
            trained += len(rows) // batch * batch if batch else 0
        trained *= config.trainings
        work = config.epochs * trained * sum(teaching.cells.values())
        shown = config.epochs * self.taught if self._streamed else 0
        return self._stage(
            number,
            "distill",
            work=work + shown * teaching.teacher,
            drawn=shown,
            longest=config.epochs * trained * teaching.longest,
            besides=self._fitting,
        )

    def _rate(self, number: int) -> Stage:
        plan, config, cut = self.plan, self.plan.job.rate, self.teachings[number - 1].cut
        pictures = min(config.images + config.recalibration, plan.schedule.pictures("rating"))
        tasks = []
        for where in plan.space.cells:
            block, cell = plan.space.blocks[where[0]], where[1]
            compared = config.images * block.count(cell) / len(block.ops)
            tasks += [
                plan.job.distill.trainings
                * (
                    pictures * macs * self.rates.walking[where]
                    + compared * self.rates.comparing[where]
                )
                for macs in walk_macs(plan.space, cut, where, plan.resolution).values()
            ]
        longest = makespan(tasks, self._lanes)
        return self._stage(number, "rate", work=sum(tasks), longest=longest)

    def _tune(self, number: int) -> Stage:
        job, rates = self.plan.job, self.rates
        batch, count = minibatches([self._tried], recipe(job, 1, 0.0, 0.0))
        work = job.tune.passes * batch * count * self.macs * rates.training
        tried = self.plan.schedule.pictures("rating") * self.macs * rates.trying
        ranks = share_out(self.resources, self.workers, job.tune.trials, beside=False).ranks
        return self._stage(
            number,
            "tune",
            work=job.tune.trials * work,
            on_cores=job.tune.trials * tried,
            longest=ceil(job.tune.trials / ranks) * (work + tried),
            besides=OTHER_STARTS * rates.starting,
        )

    def _retrain(self, number: int) -> Stage:
        config, training = self.plan.job.retrain, self.rates.training
        networks = [(config.passes, self.macs * training)]
        if number < len(self.teachings):
            networks.append((config.scaled_passes, self._scaled_macs * training))
        return self._training(number, "retrain", networks, soft=self.plan.soft)

    def _training(
        self, number: int, name: str, networks: list[tuple[int, float]], *, soft: bool
    ) -> Stage:
        """Training of networks, each with its passes and the seconds of a picture."""
        job, schedule = self.plan.job, self.plan.schedule
        sizes = list(map(len, schedule.rows["train"]))
        portions = [sum(sizes[i] for i in part) for part in portions_of(sizes, job.retrain.shuffle)]
        batch, count = minibatches(portions, recipe(job, 1, 0.0, 0.0))
        work = sum(passes * batch * count * seconds for passes, seconds in networks)
        shards = job.retrain.shards
        share = share_out(self.resources, self.workers, shards, beside=self._streamed)
        longest = max(plan_ranks({(0, 0): work}, share.ranks, shards).loads)
        shown = 0
        if self._streamed:
            shown = sum(passes for passes, _ in networks) * schedule.pictures("train")
            work += shown * self.teachings[0].teacher if soft else 0
        return self._stage(
            number, name, work=work, drawn=shown, longest=longest, besides=self._fitting
        )

    def _test(self, number: int) -> Stage:
        seconds = [self.teachings[number - 1].teacher, self.macs * self.rates.testing]
        if number < len(self.teachings):
            seconds.append(self._scaled_macs * self.rates.testing)
        if not self.plan.pictures.labelled:  # each is compared with the first teacher
            seconds += [self.teachings[0].teacher] * len(seconds)
        pictures = self.plan.schedule.pictures("test")
        drawn = pictures * len(seconds) if self._streamed else 0
        return self._stage(number, "test", work=pictures * sum(seconds), drawn=drawn)

    @property
    def _fitting(self) -> float:
        """Seconds of a Train run that are not work."""
        return FIT_SECONDS + FIT_STARTS * self.rates.starting

    @property
    def _streamed(self) -> bool:
        return self.cache.mode == "stream"

    @property
    def taught(self) -> int:
        """The augmented pictures that teach the cells in one epoch."""
        images = self.plan.job.features.images
        return sum(map(len, self.plan.schedule.first("train", images)))

    @property
    def _tried(self) -> int:
        """The pictures on which a trial of Tune trains in one pass."""
        return sum(map(len, self.plan.schedule.first("train", self.plan.job.tune.images)))

    @property
    def _scaled_macs(self) -> float:
        """Multiply-adds of later generations' teachers."""
        sizes = [network_costs(n, self.plan.resolution).total for n in (self.network, self.scaled)]
        return self.macs * sizes[1].macs / sizes[0].macs

    @cached_property
    def disk(self) -> Disk:
        """What the run folder needs, from exact numbers of parameters."""
        job, space, resolution = self.plan.job, self.plan.space, self.plan.resolution
        found = _FLOAT * network_costs(self.network, resolution).total.params
        scaled = _FLOAT * network_costs(self.scaled, resolution).total.params
        adapted = sum(v.nbytes for v in self.plan.teacher.state.values()) if self.plan.adapt else 0
        kept, written = adapted, adapted * (1 + _STATE * job.adapt.passes)
        working = [_STATE * adapted]
        for number, teaching in enumerate(self.teachings, 1):
            cells = (
                _FLOAT
                * job.distill.trainings
                * sum(cell_params(space, teaching.cut, where, resolution) for where in space.cells)
            )
            networks = [(found, job.retrain.passes)]
            if number < len(self.teachings):
                networks.append((scaled, job.retrain.scaled_passes))
            kept += cells + sum(size for size, _ in networks)
            states = [(cells, job.distill.epochs), *networks]
            written += sum(size * (1 + _STATE * times) for size, times in states)
            working += [_STATE * size for size, _ in states]
        # A new checkpoint is whole before the one before it goes.
        return Disk(kept=kept, most=kept + 2 * max(working), written=written)
