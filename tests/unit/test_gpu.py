"""The same work on a GPU as on a processor; skipped where there is none."""

import copy
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dna_ray.alone import train_alone
from dna_ray.config import Distill, Loss, Strategy
from dna_ray.data.windows import ahead, batches, minibatch, sent, staged
from dna_ray.distill import CellTrainer
from dna_ray.network.beginnings import build_beginnings
from dna_ray.network.model import TimmSpec, TrainedModel, build_model, trained
from dna_ray.network.standalone import build_network
from dna_ray.progressive import features_behind, rate_behind
from dna_ray.rating import Calls, RatingSet, rate_cell
from dna_ray.remote.forkserver import fork_server
from dna_ray.retrain import PictureSet, Recipe, Trainer
from dna_ray.shards import alone
from dna_ray.space import Architecture, BlockChoice, Op, Space, network_spec
from dna_ray.teacher import Cut, Teacher, cut_teacher, teach
from tests.unit.test_rating import a_cell, a_set

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

Array = np.ndarray
Window = tuple[Array, Array]

PIXELS = ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
CUT = Cut(modules=("a", "b"), widths=(10, 20), sizes=(4, 2))
RECIPE = Distill(epochs=2, batch=8, learning_rate=0.01, learning_rate_first=0.02)
STREAM = (7, 1)


def on_gpu(data: RatingSet) -> RatingSet:
    return RatingSet(data.recalibration.cuda(), data.inputs.cuda(), data.targets.cuda())


def window(block: int, seed: int, images: int = 40) -> Window:
    """Boundaries k-1 and k, the one a function of the other, which nobody may write to."""
    rng = np.random.default_rng(seed)
    if block:
        inputs: Array = rng.normal(size=(images, 4, 4, 10)).astype(np.float32)
        targets = inputs.reshape(images, 2, 2, 2, 2, 10).mean((2, 4)).repeat(2, axis=3)
    else:
        inputs = rng.integers(256, size=(images, 16, 16, 3), dtype=np.uint8)
        coarse = inputs.reshape(images, 4, 4, 4, 4, 3).mean((2, 4)) / 128 - 1
        targets = np.tile(coarse, 4)[..., :10].astype(np.float32)
    for array in (inputs, targets):
        array.setflags(write=False)
    return inputs, targets


def losses(cell: CellTrainer, windows: list[Window], epochs: int) -> list[float]:
    found = []
    for _ in range(epochs):
        for index, boundaries in enumerate(windows):
            found += cell.train_window(index, *boundaries)
        cell.end_epoch()
    return found


@pytest.mark.parametrize("size", [1, 5, 40])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_minibatches_are_the_rows_of_a_window(size: int, dtype: type) -> None:
    rng = np.random.default_rng(size)
    array: Array = rng.integers(256, size=(40, 6, 6, 5)).astype(dtype)
    for _ in range(20):  # pinned memory is used again, and must not be written to too early
        rows = rng.permutation(40)[:size]
        batch = minibatch(array, rows, "cuda")
        assert batch.device.type == "cuda"
        assert batch.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(batch.cpu(), minibatch(array, rows))
    there = staged(array, "cuda")
    assert isinstance(there, Tensor)
    orders = np.stack([rng.permutation(40)[:size] for _ in range(20)])
    for order, row in zip(orders, sent(orders, "cuda"), strict=True):
        assert torch.equal(minibatch(there, row).cpu(), minibatch(array, order))
        assert torch.equal(minibatch(there, order).cpu(), minibatch(array, order))
    passed = torch.cat(list(batches(array, "cuda")))
    assert torch.equal(passed.cpu(), minibatch(array, np.arange(40)))


def test_windows_are_staged_whole_while_others_are_computed_on() -> None:
    """In memory that is used again, under a GPU that is kept busy."""
    rng = np.random.default_rng(0)
    windows = [rng.normal(size=(600, 16, 16, 64)).astype(np.float32) for _ in range(8)]
    square = torch.randn(4096, 4096, device="cuda")
    for window, there in zip(
        windows, ahead(windows, lambda each: staged(each, "cuda"), "cuda"), strict=True
    ):
        assert isinstance(there, Tensor)
        for _ in range(20):
            square = torch.tanh(square @ square)
        sums = there.double().sum((1, 2, 3)).cpu().numpy()
        assert sums == pytest.approx(window.sum((1, 2, 3), dtype=np.float64), rel=1e-6, abs=1e-4)


@pytest.mark.parametrize("where", [(0, 2), (1, 2)])
@pytest.mark.parametrize("calls", [None, Calls(2**20), Calls(10_000, stack=200_000)])
def test_ratings_are_those_of_a_processor(
    tiny: Space, where: tuple[int, int], calls: Calls | None
) -> None:
    """In full float32, however many beginnings are stacked."""
    net, data, ops = a_cell(tiny, where), a_set(where[0]), tiny.blocks[where[0]].ops
    expected = rate_cell(net, ops, data)
    net = net.cuda().to(memory_format=torch.channels_last)
    before = copy.deepcopy(net.state_dict())
    found = rate_cell(net, ops, on_gpu(data), (), calls)
    assert list(found) == list(expected)
    assert list(found.values()) == pytest.approx(list(expected.values()), rel=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("loss", ["mse", "relative_l1"])
@pytest.mark.parametrize("block", [0, 1])
def test_a_cell_learns_as_on_a_processor(tiny: Space, block: int, loss: Loss) -> None:
    """In bfloat16, so the figures differ, but not by much; and its state is float32 throughout."""
    windows, recipe = [window(block, seed) for seed in range(2)], replace(RECIPE, loss=loss)
    made = [
        CellTrainer(tiny, CUT, PIXELS, recipe, (block, 1), STREAM, device)
        for device in ("cpu", "cuda")
    ]
    one, other = (losses(cell, windows, 3) for cell in made)
    assert len(one) == len(other) == 30
    assert other[:2] == pytest.approx(one[:2], rel=0.03)
    assert np.mean(other[-5:]) == pytest.approx(np.mean(one[-5:]), rel=0.2)
    assert np.mean(one[-5:]) < 0.9 * np.mean(one[:5])
    for value in made[1].net.state_dict().values():
        assert value.dtype in (torch.float32, torch.int64)


@pytest.mark.parametrize("shards", [1, 2])
def test_a_cell_goes_on_from_a_checkpoint(tiny: Space, shards: int) -> None:
    windows, recipe = [window(1, seed) for seed in range(2)], replace(RECIPE, shards=shards)

    def a_trainer(device: str = "cuda") -> CellTrainer:
        return CellTrainer(tiny, CUT, PIXELS, recipe, (1, 1), STREAM, device)

    whole, first, second = a_trainer(), a_trainer(), a_trainer()
    expected = losses(whole, windows, 2)
    losses(first, windows, 1)
    second.restore(copy.deepcopy(first.state()))
    assert losses(second, windows, 1) == pytest.approx(expected[len(expected) // 2 :], rel=0.02)


def test_a_loss_that_explodes_stops_a_cell_at_its_step(tiny: Space) -> None:
    inputs, targets = window(1, 0)
    broken = targets.copy()
    cell = CellTrainer(tiny, CUT, PIXELS, RECIPE, (1, 1), STREAM, "cuda")
    cell.train_window(0, inputs, targets)
    assert cell.minibatches == 5
    broken[:] = np.nan
    assert len(cell.train_window(1, inputs, broken)) == 1
    assert "step 6" in cell.stopped
    assert cell.train_window(2, inputs, targets) == []


def test_a_path_alone_is_trained_and_rated(tiny: Space) -> None:
    path = next(iter(tiny.blocks[1].paths(1)))
    windows, data = [window(1, 0)], a_set(1)
    found = [
        train_alone(
            tiny, CUT, PIXELS, RECIPE, (1, 1), path, (7, 1, "alone", 1), windows, 1, held, device
        )
        for device, held in (("cpu", _shrunk(data)), ("cuda", on_gpu(_shrunk(data))))
    ]
    assert found[1] == pytest.approx(found[0], rel=0.05)


def _shrunk(data: RatingSet) -> RatingSet:
    """To the sides that CUT has."""
    parts = (data.recalibration[..., :4, :4], data.inputs[..., :4, :4], data.targets[..., :2, :2])
    return RatingSet(*(part.contiguous() for part in parts))


@pytest.mark.parametrize("strategy", ["progressive_a", "progressive_b"])
def test_cells_learn_and_are_rated_behind_beginnings(tiny: Space, strategy: Strategy) -> None:
    small, wide, other = Op(3, 1), Op(5, 2), Op(3, 3)
    beginnings = [((1, (small, wide)),), ((0, (other,)),)]
    pictures = np.random.default_rng(0).integers(256, size=(40, 16, 16, 3), dtype=np.uint8)
    _, targets = window(1, 0)
    torch.manual_seed(0)
    before = build_beginnings(tiny, CUT.widths, *PIXELS, beginnings)
    found: list[list[float]] = []
    for device in ("cpu", "cuda"):
        held = minibatch(pictures, np.arange(40), device)
        frozen = copy.deepcopy(before).to(device).to(memory_format=torch.channels_last)
        read = [pictures]
        if strategy == "progressive_b":
            read = [features_behind(frozen, n, held[:10], pictures, device) for n in (0, 1)]
        cell = CellTrainer(
            tiny,
            CUT,
            PIXELS,
            replace(RECIPE, strategy=strategy),
            (1, 1),
            STREAM,
            device,
            beginnings=beginnings,
        )
        learnt = cell.train_window(0, *read, targets)
        behind = cell.before if strategy == "progressive_a" else frozen
        data = RatingSet(held[:10], held[10:], minibatch(targets, np.arange(10, 40), device))
        rated = rate_behind(behind, 1, cell.net, tiny.blocks[1].ops, data)
        found.append([learnt[0], *rated.values()])
    assert found[1] == pytest.approx(found[0], rel=0.1)


def a_teacher(name: str) -> TrainedModel:
    torch.manual_seed(0)
    spec = TimmSpec(name=name, classes=10, mean=(0.5,) * 3, std=(0.5,) * 3)
    return trained(spec, build_model(spec))


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18"])
def test_a_teacher_gives_in_bfloat16_nearly_what_it_gives_in_float32(name: str) -> None:
    model = a_teacher(name)
    cut = cut_teacher(model, (4, 8, 16, 32), 64)
    pictures = np.random.default_rng(0).integers(256, size=(70, 64, 64, 3), dtype=np.uint8)
    one, other = (teach(Teacher(model, cut, device), pictures) for device in ("cpu", "cuda"))
    for here, there in zip([*one[0], one[1]], [*other[0], other[1]], strict=True):
        assert there.dtype == np.float32
        assert there.shape == here.shape
        assert there.flags.c_contiguous
        assert (here - there).std() < 0.1 * here.std()


def test_a_network_that_is_measured_computes_in_float32() -> None:
    model, uncut = a_teacher("resnet18"), Cut(modules=(), widths=(), sizes=())
    pictures = np.random.default_rng(0).integers(256, size=(20, 64, 64, 3), dtype=np.uint8)
    (_, here), (_, there) = (
        teach(Teacher(model, uncut, device), pictures) for device in ("cpu", "cuda")
    )
    assert np.abs(there - here).max() < 5e-3 * np.abs(here).max()


def test_a_network_trains_as_on_a_processor(tiny: Space) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=48)
    pictures = (rng.integers(40, size=(48, 16, 16, 3)) + 150 * labels[:, None, None, None]).astype(
        np.uint8
    )
    recipe = Recipe(
        passes=4, batch=12, shards=2, learning_rate=0.01, weight_decay=0.01, label_weight=0.5
    )
    choices = tuple(BlockChoice(b.cells[0].width, (b.ops[0],)) for b in tiny.blocks)

    def run(device: str) -> tuple[list[float], dict[str, Tensor]]:
        torch.manual_seed(0)
        module = build_network(network_spec(tiny, Architecture(choices), 2))
        data = PictureSet([pictures], labels, None)
        trainer = Trainer(module, data, recipe, (7, "train"), range(2), alone, device)
        found = [trainer.train_pass() for _ in range(recipe.passes)]
        return found, module.state_dict()

    (one, _), (other, state) = run("cpu"), run("cuda")
    assert other[0] == pytest.approx(one[0], rel=0.05)
    assert other[-1] < 0.8 * other[0]
    assert all(value.device.type == "cuda" for value in state.values())
    assert {value.dtype for value in state.values()} <= {torch.float32, torch.int64}


def test_a_fork_computes_on_it(tmp_path: Path) -> None:
    """What its server imports must not begin to use the GPU: no fork could go on with that."""
    script = tmp_path / "default_worker.py"
    script.write_text(
        "import sys; print('torch' in sys.modules);"
        "import torch; print(torch.ones(2, device='cuda').sum().item())"
    )
    with fork_server(tmp_path) as program:
        assert program is not None
        done = subprocess.run([program, script], stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == "True\n2.0\n"
