"""The forecast of a search, from short trials on a cluster. Nothing that is trained is kept."""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import ray
import torch

from dna_ray.config import Job
from dna_ray.data import Pictures
from dna_ray.network.model import TrainedModel, build_model, trained, with_classes
from dna_ray.planning.calibration import TRIED, cell_macs, rank_bytes, time_teacher
from dna_ray.planning.forecast import Forecast, decided
from dna_ray.planning.placement import Resources, plan_ranks, share_out
from dna_ray.planning.plan import Plan, recipe
from dna_ray.planning.rates import Rates, Teaching, later_teaching
from dna_ray.planning.trials import time_drawing, time_search, time_training, time_walk
from dna_ray.planning.work import expected_macs, likely_network, teacher_costs, worth_measuring
from dna_ray.remote.calibration import cluster_resources, try_cells, try_teacher
from dna_ray.remote.session import Session
from dna_ray.remote.tasks import device, single_threaded, task
from dna_ray.retrain import Recipe
from dna_ray.space import NetworkSpec, Where, network_costs, scale
from dna_ray.teacher import Cut, Teacher

# On a processor a trial takes so many multiply-adds, some seconds' worth, and fewer pictures of
# larger networks for that; a GPU is quick, and slow only where it has little to do at a time.
_TRIAL = 60e9

# A training step takes about so many times the multiply-adds of the forward pass.
_STEP = 3

# At most as many pictures go through a network where it is not trained; so many are drawn; and so
# many minibatches of a small network are trained on.
_TESTED, _DRAWN, _STEPS = 512, 64, 16


def foretell(session: Session, plan: Plan, before: float = 0.0) -> Forecast:
    """Measure the work of a planned search on a cluster, and foretell what it will take.

    `before` are the seconds that everything has taken until now, as it would in a search.
    """
    job, space = plan.job, plan.space
    starting = _start(session)
    resources = cluster_resources()
    cache, hindrance = decided(plan, resources.store_bytes)
    macs = cell_macs(space, plan.cut, plan.resolution)
    beside, useful = cache.mode == "stream", len(macs) * job.distill.shards
    share = share_out(resources, session.workers, useful, beside=beside)
    heaviest = max(len(space.blocks[block].ops) * macs[block, cell] for block, cell in macs)
    batch = job.distill.batch // job.distill.shards
    batch = _affordable(batch, _STEP * TRIED * heaviest, resources.gpus)
    trials = try_cells(
        session,
        space,
        plan.cut,
        plan.pixels,
        replace(job.distill, batch=batch, shards=1),
        plan.resolution,
        {"num_cpus": share.rank_cpus, "num_gpus": share.rank_gpus},
    )
    cells = {where: trial.seconds for where, trial in trials.items()}
    needed = rank_bytes(trials.values(), plan.sizes.window)
    share = share_out(resources, session.workers, useful, beside=beside, rank_bytes=needed)
    measured = worth_measuring(job.distill, job.features.images * job.distill.epochs)
    ranks = plan_ranks(cells if measured else macs, share.ranks, job.distill.shards)
    teacher = teacher_costs(plan.teacher.spec, plan.resolution)
    expected = expected_macs(space, plan.table, plan.limits)
    network = likely_network(space, expected, plan.resolution, plan.classes)
    rates = _rates(session, plan, resources, network, teacher["macs"], cells, starting)
    teachings = [Teaching(cut=plan.cut, teacher=rates.teacher, cells=cells, ranks=ranks)]
    if job.generations > 1:
        scaled = scale(network, job.retrain.scale)
        seconds = rates.testing * network_costs(scaled, plan.resolution).total.macs
        teachings += [later_teaching(plan, teachings[0], scaled, seconds)] * (job.generations - 1)
    return Forecast(
        plan=plan,
        before=before,
        cache=cache,
        hindrance=hindrance,
        resources=resources,
        workers=session.workers,
        rates=rates,
        teacher=teacher,
        teachings=tuple(teachings),
        network=network,
    )


def _start(session: Session) -> float:
    """Seconds until as many new processes as work at a time have begun to compute.

    The first ones are not counted: what starts processes may only just have been started itself.
    """
    seconds, count = 0.0, session.workers
    session.view.stage("processes", 2 * count, "processes")
    process: Any = ray.remote(num_cpus=0)(_Process)  # all at a time, whatever else there is
    for _ in range(2):
        start = time.perf_counter()
        started = [process.remote() for _ in range(count)]
        session.wait([one.begin.remote() for one in started])
        seconds = time.perf_counter() - start
        for one in started:  # one that ends by itself takes half a second of the next trials
            ray.kill(one)
    return seconds


def _affordable(most: int, macs: float, gpus: int) -> int:
    """How many pictures, or minibatches, a trial takes where each costs so many multiply-adds."""
    return most if gpus else int(min(most, max(2, _TRIAL // macs)))


def _rates(
    session: Session,
    plan: Plan,
    resources: Resources,
    network: NetworkSpec,
    teacher_macs: int,
    cells: Mapping[Where, float],
    starting: float,
) -> Rates:
    """All other rates, by trials that disturb each other as a search's work does."""
    job, space, resolution = plan.job, plan.space, plan.resolution
    macs, gpus = cell_macs(space, plan.cut, resolution), resources.gpus
    own = network_costs(network, resolution).total.macs
    found = ray.put(trained(network, build_model(network)))
    alone: dict[str, Any] = {"num_cpus": 1, "num_gpus": min(1, gpus)}
    shard = job.retrain.batch // job.retrain.shards

    def start(function: Any, *args: Any, on_gpu: bool = True) -> Any:
        reserved = alone if on_gpu else {"num_cpus": 1}
        return task(function, name="trial of a part", **reserved).remote(*args)

    def train(model: Any, macs: float) -> Any:
        batch = _affordable(shard, _STEP * TRIED * macs, gpus)
        steps = _affordable(_STEPS, _STEP * batch * macs, gpus)
        given = replace(recipe(job, 1, 1e-3, 0.0), batch=batch, shards=1)
        return start(_train, model, given, resolution, max(TRIED, steps))

    refs: dict[Any, Any] = {
        "training": train(found, own),
        "testing": start(_test, found, resolution, _affordable(_TESTED, own, gpus), True),
        "trying": start(
            _test, found, resolution, _affordable(_TESTED, own, 0), False, on_gpu=False
        ),
        "drawing": start(_draw, ray.put(plan.pictures), job, resolution, on_gpu=False),
    }
    if plan.adapt:
        refs["adapting"] = train(ray.put(with_classes(plan.teacher, plan.classes)), teacher_macs)
    rated = min(_TESTED, job.rate.recalibration + job.rate.images)
    for where in space.cells:
        # Twice, with all ops behind one beginning for each: about the work of so many paths.
        count = _affordable(rated, 4 * len(space.blocks[where[0]].ops) * macs[where], gpus)
        about = space, plan.cut, plan.pixels, where, resolution
        refs[where] = start(_walk, *about, max(4, count), job.rate)
    session.view.stage("calibration", len(refs) + 1, "trials")
    taught = _affordable(_TESTED, teacher_macs, gpus)
    teacher = try_teacher(plan.teacher, plan.cut, resolution, taught, alone)
    session.view.advance(1)
    session.wait(list(refs.values()))
    seconds = {name: ray.get(ref) for name, ref in refs.items()}
    return Rates(
        starting=starting,
        drawing=seconds["drawing"],
        teacher=teacher,
        adapting=seconds.get("adapting", 0.0),
        cells=cells,
        comparing={where: seconds[where][1] for where in space.cells},
        walking={where: seconds[where][0] for where in space.cells},
        training=seconds["training"] / own,
        testing=seconds["testing"] / own,
        trying=seconds["trying"] / own,
        searching=time_search(space, plan.table, plan.limits),
    )


class _Process:
    """A new process, which can say that it computes."""

    def begin(self) -> None:
        torch.ones(2).sum()


@single_threaded
def _train(model: TrainedModel, given: Recipe, resolution: int, steps: int) -> float:
    return time_training(model, given, resolution, steps, device())


@single_threaded
def _test(model: TrainedModel, resolution: int, pictures: int, on_gpu: bool) -> float:
    whole = Cut(modules=(), widths=(), sizes=())
    where = device() if on_gpu else "cpu"
    return time_teacher(Teacher(model, whole, where), resolution, pictures)


@single_threaded
def _draw(pictures: Pictures, job: Job, resolution: int) -> float:
    return time_drawing(pictures, job, resolution, _DRAWN)


@single_threaded
def _walk(*about: Any) -> tuple[float, float]:
    return time_walk(*about, device=device())
