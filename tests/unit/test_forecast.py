"""What `dna-ray plan` foretells: work against what is computed, and stages against sums by hand."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dna_ray.config import Distill, Features, Job, Rate, Retrain, Tune
from dna_ray.network.cell import CellNet, build_cell
from dna_ray.network.model import TrainedModel, build_model, module_costs, trained
from dna_ray.planning.cache import Cache
from dna_ray.planning.calibration import cell_macs
from dna_ray.planning.forecast import (
    FIT_SECONDS,
    FIT_STARTS,
    OTHER_STARTS,
    Forecast,
    Stage,
    decided,
)
from dna_ray.planning.outlook import outlook
from dna_ray.planning.placement import Resources, plan_ranks
from dna_ray.planning.plan import Plan, make_plan
from dna_ray.planning.rates import Rates, Teaching, later_teaching
from dna_ray.planning.stand_in import made_pictures, teacher_or_its_shape
from dna_ray.planning.work import (
    cell_params,
    likely_network,
    loads,
    macs_below,
    makespan,
    teacher_costs,
    useful_ranks,
    walk_bytes,
    walk_macs,
    worth_measuring,
)
from dna_ray.rating import RatingSet, rate_cell
from dna_ray.space import Architecture, Space, Where, network_costs, network_spec
from dna_ray.teacher import Cut, cut_teacher
from dna_ray_cli.plan import _show

PIXELS = ((0.5,) * 3, (0.5,) * 3)
RESOLUTION = 16
COSTS = st.lists(st.floats(0.1, 100), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def teacher(tiny: Space) -> TrainedModel:
    torch.manual_seed(0)
    spec = network_spec(tiny, Architecture.parse("8:k3e1/16:k3e2"), classes=2)
    return trained(spec, build_model(spec))


@pytest.fixture(scope="module")
def cut(tiny: Space, teacher: TrainedModel) -> Cut:
    return cut_teacher(teacher, tiny.reductions, RESOLUTION)


def net_of(space: Space, cut: Cut, where: Where) -> CellNet:
    block, cell = where
    return build_cell(space, block, cell, cut.width_in(block), cut.widths[block], *PIXELS)


# The work in cells


@contextmanager
def counted(module: nn.Module) -> Iterator[list[int]]:
    """The multiply-adds of everything that runs in a module, over all pictures."""
    macs: list[int] = []

    def count(layer: nn.Module, inputs: object, output: Tensor) -> None:
        weight = layer.weight
        assert isinstance(weight, Tensor)
        macs.append(weight.numel() * output[:, 0].numel())

    convs = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    handles = [layer.register_forward_hook(count) for layer in convs]
    yield macs
    for handle in handles:
        handle.remove()


def cells_of_tiny() -> list[Where]:
    return [(block, cell) for block in range(2) for cell in range(3)]


@pytest.mark.parametrize("where", cells_of_tiny())
def test_the_multiply_adds_of_a_walk_are_those_that_rating_computes(
    tiny: Space, cut: Cut, where: Where
) -> None:
    block = where[0]
    net, sides = net_of(tiny, cut, where), (RESOLUTION, *cut.sizes)
    inputs = torch.rand(5, cut.width_in(block), sides[block], sides[block])
    targets = torch.rand(3, cut.widths[block], sides[block + 1], sides[block + 1])
    data, ops = RatingSet(inputs[:2], inputs[2:], targets), tiny.blocks[block].ops
    foretold = walk_macs(tiny, cut, where, RESOLUTION)
    assert list(foretold) == list(ops)
    whole = next(tiny.blocks[block].paths(where[1]))
    for prefix in [(op,) for op in ops] + [whole[:length] for length in range(len(whole) + 1)]:
        with counted(net) as computed:
            rate_cell(net, ops, data, prefix)
        assert sum(computed) == 5 * macs_below(tiny, cut, where, RESOLUTION, prefix)
        if len(prefix) == 1:
            assert sum(computed) == 5 * foretold[prefix[0]]


@pytest.mark.parametrize("where", cells_of_tiny())
def test_parameters_and_features_are_those_of_the_cell(tiny: Space, cut: Cut, where: Where) -> None:
    block = where[0]
    net = net_of(tiny, cut, where).eval()
    assert cell_params(tiny, cut, where, RESOLUTION) == sum(p.numel() for p in net.parameters())
    side = cut.sizes[block - 1] if block else RESOLUTION
    x = net.stem(torch.zeros(1, cut.width_in(block), side, side))
    kept = [x]
    for layer in range(len(net.layers)):
        x = net.op(layer, tiny.blocks[block].ops[0])(x)
        kept.append(x)
    kept.append(x)  # the teacher's feature is like the last
    picture = 3 * side**2 if block == 0 else 0  # bytes
    assert walk_bytes(tiny, cut, where, RESOLUTION) == picture + sum(f.nbytes for f in kept)


def test_costs_from_shapes_alone_are_those_of_the_network(teacher: TrainedModel) -> None:
    assert teacher_costs(teacher.spec, 32) == module_costs(teacher.build(), 32)


@given(COSTS, COSTS, st.integers(1, 9), st.sampled_from([1, 2, 4]))
@settings(deadline=None)
def test_what_ranks_take_is_all_the_work_whatever_they_were_planned_by(
    planned: list[float], taken: list[float], ranks: int, shards: int
) -> None:
    taken = (taken * 6)[: len(planned)]
    by, work = ({(i, 0): v for i, v in enumerate(values)} for values in (planned, taken))
    plan = plan_ranks(by, ranks, shards)
    assert sum(loads(plan, work)) == pytest.approx(sum(taken))
    assert loads(plan, by) == pytest.approx(plan.loads)


@given(COSTS, st.sampled_from([1, 2, 4]))
@settings(deadline=None)
def test_beyond_the_useful_ranks_nothing_becomes_shorter(costs: list[float], shards: int) -> None:
    work: dict[Where, float] = {(index, 0): cost for index, cost in enumerate(costs)}
    useful = useful_ranks(work, shards)
    longest = [max(plan_ranks(work, n, shards).loads) for n in range(1, len(work) * shards + 1)]
    assert longest[useful - 1] <= 1.01 * min(longest)
    assert useful == 1 or longest[useful - 2] > 1.01 * min(longest)


@given(COSTS, st.integers(1, 8))
def test_tasks_on_lanes_take_as_long_as_the_longest_or_their_share(
    seconds: list[float], lanes: int
) -> None:
    found = makespan(seconds, lanes)
    least = max(max(seconds), sum(seconds) / lanes)
    assert least * (1 - 1e-9) <= found <= sum(seconds) / lanes + max(seconds)
    assert makespan(seconds, 1) == pytest.approx(sum(seconds))
    assert makespan(seconds, len(seconds)) == max(seconds)


def test_a_likely_network_is_of_the_space_and_near_the_limit(tiny: Space) -> None:
    def macs(limit: float) -> int:
        spec = likely_network(tiny, limit, RESOLUTION, 2)
        for block, chosen in zip(tiny.blocks, spec.blocks, strict=True):
            assert (len(chosen.ops), chosen.width) in {(c.layers, c.width) for c in block.cells}
            assert set(chosen.ops) <= set(block.ops)
        return network_costs(spec, RESOLUTION).total.macs

    smallest, largest = macs(0), macs(1e12)
    between = macs((smallest + largest) / 2)
    assert smallest < between < largest


def test_cells_are_tried_where_that_is_little_beside_their_training() -> None:
    recipe = Distill(batch=10)
    assert not worth_measuring(recipe, 4000)
    assert worth_measuring(recipe, 4001)


# Stages

JOB = Job(
    features=Features(images=48, views=2, window=24),
    distill=Distill(epochs=3, batch=12, members=2),
    rate=Rate(images=20, recalibration=4),
    tune=Tune(trials=3, images=24, passes=2),
    retrain=Retrain(passes=4, batch=12, shards=2, label_weight=1.0),
)


def planned(space: Space, teacher: TrainedModel, job: Job) -> Plan:
    return make_plan(job, space, made_pictures(200, 0, 2), teacher)


def foretold(
    plan: Plan, resources: Resources, mode: str = "all", ranks: int = 1, drawing: float = 0.0
) -> Forecast:
    """With every picture through a cell a second, through the teacher half of one."""
    cells = dict.fromkeys(plan.space.cells, 1.0)
    rates = Rates(
        starting=STARTING,
        drawing=drawing,
        teacher=0.5,
        adapting=2.0,
        cells=cells,
        comparing=dict.fromkeys(cells, 1e-3),
        walking=dict.fromkeys(cells, 1e-6),
        training=3e-6,
        testing=1e-6,
        trying=1e-6,
        searching=0.25,
    )
    placed = plan_ranks(cells, ranks, plan.job.distill.shards)
    teaching = Teaching(cut=plan.cut, teacher=0.5, cells=cells, ranks=placed)
    return Forecast(
        plan=plan,
        before=BEFORE,
        cache=Cache(mode="stream" if mode == "stream" else "all", ahead=2, drawing=0),
        hindrance="",
        resources=resources,
        workers=int(resources.cpus),
        rates=rates,
        teacher=teacher_costs(plan.teacher.spec, plan.resolution),
        teachings=(teaching,) * plan.job.generations,
        network=likely_network(plan.space, plan.limits["macs"], plan.resolution, plan.classes),
    )


def stages(forecast: Forecast) -> dict[str, Stage]:
    return {stage.name: stage for stage in forecast.stages if stage.generation == 1}


BEFORE, STARTING = 12.0, 2.0
FITTING, BEGINNING = FIT_SECONDS + FIT_STARTS * STARTING, OTHER_STARTS * STARTING
ONE = Resources(cpus=1, store_bytes=10**9)


def test_stages_on_one_processor_are_sums_of_all_their_work(
    tiny: Space, teacher: TrainedModel
) -> None:
    plan = planned(tiny, teacher, JOB)
    forecast, drawing = foretold(plan, ONE, drawing=0.1), 0.1
    found = stages(forecast)
    names = ["start", "features", "distill", "rate", "search", "tune", "retrain", "test"]
    assert list(found) == names
    train, rating, test = (plan.schedule.pictures(s) for s in ("train", "rating", "test"))
    assert (train, rating, test) == (256, 24, 40)
    seconds = {name: stage.seconds for name, stage in found.items()}
    assert seconds["start"] == BEFORE
    # Every picture is looked at, then drawn; those that teach or rate go through the teacher.
    drawn = 200 + train + rating + test
    assert found["features"].drawn == drawn
    assert seconds["features"] == pytest.approx(drawn * drawing + (48 + rating) * 0.5 + BEGINNING)
    assert seconds["distill"] == pytest.approx(2 * 3 * 48 * len(tiny.cells) + FITTING)
    macs = [sum(walk_macs(tiny, plan.cut, w, plan.resolution).values()) for w in tiny.cells]
    paths = sum(tiny.blocks[block].count(cell) for block, cell in tiny.cells)
    assert seconds["rate"] == pytest.approx(2 * (24 * sum(macs) * 1e-6 + 20 * paths * 1e-3))
    assert seconds["search"] == 0.25
    network = forecast.macs * 1e-6
    assert forecast.macs == plan.limits["macs"]
    assert seconds["tune"] == pytest.approx(
        3 * (2 * 24 * 3 * network + rating * network) + BEGINNING
    )
    assert seconds["retrain"] == pytest.approx(4 * 252 * 3 * network + FITTING)  # of 256, 21 x 12
    assert seconds["test"] == pytest.approx(40 * (0.5 + network))
    assert all(stage.gpu_seconds == 0 for stage in found.values())


def test_twice_the_processors_halve_what_can_be_shared(tiny: Space, teacher: TrainedModel) -> None:
    job = replace(JOB, distill=replace(JOB.distill, epochs=300), retrain=replace(JOB.retrain))
    plan = planned(tiny, teacher, job)
    one, two = (stages(foretold(plan, Resources(cpus=n), ranks=n, drawing=0.1)) for n in (1, 2))
    assert two["test"].seconds == pytest.approx(one["test"].seconds / 2)
    begun = BEGINNING
    assert two["features"].seconds - begun == pytest.approx((one["features"].seconds - begun) / 2)
    for name in ("distill", "retrain"):
        assert two[name].seconds - FITTING == pytest.approx((one[name].seconds - FITTING) / 2)
        assert two[name].core_seconds == one[name].core_seconds
    assert one["rate"].seconds / 2 <= two["rate"].seconds < one["rate"].seconds


def test_what_is_streamed_is_drawn_and_taught_while_cells_are_trained(
    tiny: Space, teacher: TrainedModel
) -> None:
    plan = planned(tiny, teacher, JOB)
    kept, streamed = (stages(foretold(plan, ONE, mode, drawing=0.1)) for mode in ("all", "stream"))
    shown = 3 * 48
    assert streamed["distill"].drawn == shown
    more = shown * (0.5 + 0.1)  # one processor does it all
    assert streamed["distill"].seconds == pytest.approx(kept["distill"].seconds + more)
    assert streamed["features"].drawn == 200 + 24 + 24  # what rates, and what Tune tries on
    assert streamed["retrain"].drawn == 4 * 256


def test_fresh_views_are_drawn_and_taught_in_every_epoch(
    tiny: Space, teacher: TrainedModel
) -> None:
    fresh = replace(JOB, features=replace(JOB.features, fresh=True))
    once, anew = (
        stages(foretold(planned(tiny, teacher, job), ONE, drawing=0.1)) for job in (JOB, fresh)
    )
    extra = 2 * 48 * (0.5 + 0.1)  # in the second epoch and in the third
    assert anew["features"].seconds == pytest.approx(once["features"].seconds + extra)
    assert anew["distill"].seconds == once["distill"].seconds


def test_a_stage_is_as_long_as_what_takes_longest(tiny: Space, teacher: TrainedModel) -> None:
    """Of the longest rank, all work over the GPUs, and the drawing over the processors."""
    plan, shown = planned(tiny, teacher, JOB), 3 * 48
    cells, teaching = 2 * len(tiny.cells), 0.5

    def distill(gpus: int, ranks: int, drawing: float) -> Stage:
        have = Resources(cpus=4, gpus=gpus)
        return stages(foretold(plan, have, "stream", ranks, drawing))["distill"]

    assert distill(1, 2, 0.1).seconds == pytest.approx(shown * (cells + teaching) + FITTING)
    assert distill(4, 2, 0.1).seconds == pytest.approx(shown * cells / 2 + FITTING)
    assert distill(4, 2, 40.0).seconds == pytest.approx(shown * 40 / 4 + FITTING)
    assert distill(1, 2, 0.1).gpu_seconds == pytest.approx(shown * (cells + teaching))
    assert distill(1, 2, 0.1).core_seconds == pytest.approx(shown * 0.1)


def test_an_unlabelled_task_learns_and_is_tested_by_the_teacher(
    tiny: Space, teacher: TrainedModel
) -> None:
    plan = make_plan(JOB, tiny, made_pictures(200, 0, 0), teacher)
    found = stages(foretold(plan, ONE))
    train, test = plan.schedule.pictures("train"), plan.schedule.pictures("test")
    taught = 48 + plan.schedule.pictures("rating") + (train - 48)
    assert found["features"].seconds == pytest.approx(taught * 0.5 + BEGINNING)
    network = plan.limits["macs"] * 1e-6
    assert found["test"].seconds == pytest.approx(test * (0.5 + network + 2 * 0.5))


def test_a_teacher_that_is_adapted_takes_a_stage(tiny: Space, teacher: TrainedModel) -> None:
    plan = make_plan(JOB, tiny, made_pictures(200, 0, 3), teacher)
    assert plan.adapt
    train = plan.schedule.pictures("train") // 12 * 12
    assert stages(foretold(plan, ONE))["adapt"].seconds == pytest.approx(train * 2.0 + FITTING)


def test_a_later_teacher_changes_the_cells_with_its_widths(
    tiny: Space, teacher: TrainedModel
) -> None:
    job = replace(JOB, generations=3)
    plan = planned(tiny, teacher, job)
    forecast = foretold(plan, ONE)
    later = later_teaching(plan, forecast.teachings[0], forecast.scaled, 7.0)
    assert later.teacher == 7.0
    before, now = (cell_macs(tiny, c, plan.resolution) for c in (plan.cut, later.cut))
    assert later.cells == pytest.approx({w: now[w] / before[w] for w in tiny.cells})
    whole = replace(forecast, teachings=(forecast.teachings[0], later, later))
    by_name = {(stage.generation, stage.name): stage for stage in whole.stages}
    assert by_name[2, "distill"].seconds == pytest.approx(
        2 * 3 * 48 * sum(later.cells.values()) + FITTING
    )
    # The last generation makes no further teacher.
    assert by_name[1, "retrain"].seconds > by_name[3, "retrain"].seconds
    assert by_name[2, "test"].seconds > by_name[3, "test"].seconds


# Disk


def test_the_run_folder_is_as_large_as_its_weights(tiny: Space, teacher: TrainedModel) -> None:
    plan = planned(tiny, teacher, JOB)
    forecast = foretold(plan, ONE)
    cells = 2 * sum(p.nbytes for w in tiny.cells for p in net_of(tiny, plan.cut, w).parameters())
    found = 4 * network_costs(forecast.network, plan.resolution).total.params
    disk = forecast.disk
    assert disk.kept == cells + found
    assert disk.most == disk.kept + 2 * 3 * max(cells, found)
    assert disk.written == cells * (1 + 3 * 3) + found * (1 + 3 * 4)
    two = foretold(replace(plan, job=replace(JOB, generations=2)), ONE)
    scaled = 4 * network_costs(two.scaled, plan.resolution).total.params
    assert two.disk.kept == 2 * (cells + found) + scaled


# What is told


def test_all_is_told_as_one_json_object_and_for_people(
    tiny: Space, teacher: TrainedModel, capsys: pytest.CaptureFixture[str]
) -> None:
    have = Resources(cpus=4, gpus=2)
    forecast = foretold(planned(tiny, teacher, JOB), have, ranks=4, drawing=0.1)
    tree = json.loads(json.dumps(outlook(forecast)))
    assert sum(stage["share"] for stage in tree["stages"]) == pytest.approx(1)
    assert tree["seconds"] == pytest.approx(sum(stage["seconds"] for stage in tree["stages"]))
    assert tree["gpu_hours_held"] == pytest.approx(2 * tree["seconds"] / 3600)
    assert tree["gpu_hours"] <= tree["gpu_hours_held"]
    picture = sum(boundary["bytes"] for boundary in tree["features"]["boundaries"])
    assert tree["features"]["window_bytes"] == 24 * (picture + 4 * 2)
    assert [cell["ranks"] for cell in tree["cells"]] == [[0], [1], [2], [3], [0], [1]]
    _show(tree)
    shown = capsys.readouterr().out
    assert f"{tiny.architectures:,} architectures" in shown
    assert "GPU-hours" in shown
    for stage in tree["stages"]:
        assert f"{stage['generation']} {stage['stage']}" in shown


def test_uneven_ranks_and_idle_workers_are_warned_of(tiny: Space, teacher: TrainedModel) -> None:
    plan = planned(tiny, teacher, JOB)

    def warnings(slow: float, ranks: int) -> str:
        forecast = foretold(plan, Resources(cpus=ranks), ranks=ranks)
        cells = {**forecast.teachings[0].cells, (1, 2): slow}
        teaching = replace(forecast.teachings[0], cells=cells, ranks=plan_ranks(cells, ranks))
        return " ".join(outlook(replace(forecast, teachings=(teaching,)))["warnings"])

    assert warnings(1.0, 6) == ""
    assert "longest of 6 has 4.00 times the mean" in warnings(10.0, 6)
    assert "block 2, cell 2 alone" in warnings(10.0, 6)
    assert "of 6 workers 2 are useful" in warnings(10.0, 6)
    assert "useful" not in warnings(1.0, 2)


def test_pictures_that_do_not_fit_a_gpu_when_they_rate_are_warned_of(
    tiny: Space, teacher: TrainedModel
) -> None:
    plan = planned(tiny, teacher, JOB)
    most = max(walk_bytes(tiny, plan.cut, where, plan.resolution) for where in tiny.cells)
    for memory, warned in ((int(2.6 * 24 * most), False), (int(2.4 * 24 * most), True)):
        have = Resources(cpus=4, gpus=1, gpu_bytes=memory)
        told = " ".join(outlook(foretold(plan, have))["warnings"])
        assert ("set rate.images lower" in told) == warned


@pytest.mark.parametrize("mode", ["auto", "all", "stream"])
def test_a_store_that_is_too_small_is_told_first_and_the_rest_all_the_same(
    tiny: Space, teacher: TrainedModel, mode: Literal["auto", "all", "stream"]
) -> None:
    job = replace(JOB, features=replace(JOB.features, cache=mode))
    plan = planned(tiny, teacher, job)
    for store, fits in ((10**9, True), (1000, False)):
        cache, hindrance = decided(plan, store)
        assert (hindrance == "") == fits
        forecast = replace(foretold(plan, ONE), cache=cache, hindrance=hindrance)
        tree = outlook(forecast)
        told = [f"this cluster cannot run it: {hindrance}"]
        assert tree["warnings"][:1] == ([] if fits else told)
        assert tree["seconds"] > 0


# What stands in


def test_made_pictures_are_split_as_others_and_can_be_decoded() -> None:
    pictures = made_pictures(1000, 60, 10)
    sizes = {name: len(members) for name, members in pictures.splits.items()}
    assert sizes == {"train": 1000 - 10 * 16, "rating": 10 * 16, "test": 60}
    assert np.bincount(pictures.labels[pictures.splits["test"]]).tolist() == [6] * 10
    (data,) = pictures.read([999])
    assert isinstance(data, bytes)
    assert 50_000 < len(data) < 200_000  # as a photograph of that size


def test_a_teacher_without_weights_is_planned_with_by_its_shape(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    teacher, lacking = teacher_or_its_shape("test_resnet.r160_in1k")
    assert "weights of test_resnet.r160_in1k" in lacking
    assert teacher_costs(teacher.spec, 160)["params"] > 0
