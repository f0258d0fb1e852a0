"""Blocks behind the student's beginnings: training against loops by hand, features, ratings."""

import copy
import io
from collections import Counter
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from dna_ray.config import Distill, Strategy
from dna_ray.distill import CellTrainer
from dna_ray.network.beginnings import Beginnings, build_beginnings
from dna_ray.network.cell import build_cell
from dna_ray.progressive import features_behind, rate_behind
from dna_ray.randomness import generator, key
from dna_ray.rating import RatingSet
from dna_ray.space import Beginning, Op, Space
from dna_ray.teacher import Cut
from tests.unit.test_rating import eq7

Array = np.ndarray

CUT = Cut(modules=("a", "b"), widths=(10, 20), sizes=(4, 2))
PIXELS = ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
RECIPE = Distill(
    paths_per_minibatch=1,
    epochs=2,
    batch=4,
    learning_rate=0.01,
    learning_rate_first=0.02,
    decay=0.5,
    strategy="progressive_a",
)
STREAM = (7, 1)
WHERE = (1, 1)
SMALL, WIDE, OTHER = Op(3, 1), Op(5, 2), Op(3, 3)
# Two share the cell and an op, the third has a cell of its own.
BEGINNINGS: list[Beginning] = [((1, (SMALL, WIDE)),), ((1, (OTHER, WIDE)),), ((0, (OTHER,)),)]


def pictures(seed: int, images: int = 10) -> Array:
    return np.random.default_rng(seed).integers(256, size=(images, 16, 16, 3), dtype=np.uint8)


def features(seed: int, block: int, images: int = 10) -> Array:
    """Boundary `block`, as a teacher might give it."""
    shape = (images, CUT.sizes[block - 1], CUT.sizes[block - 1], CUT.widths[block - 1])
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def tensor(array: Array) -> Tensor:
    return torch.from_numpy(array).permute(0, 3, 1, 2)


def trainer(
    space: Space, strategy: Strategy, beginnings: list[Beginning] = BEGINNINGS
) -> CellTrainer:
    recipe = replace(RECIPE, strategy=strategy)
    return CellTrainer(space, CUT, PIXELS, recipe, WHERE, STREAM, beginnings=beginnings)


def trained(cell: CellTrainer, windows: list[tuple[Array, ...]]) -> CellTrainer:
    for _ in range(RECIPE.epochs):
        for index, window in enumerate(windows):
            cell.train_window(index, *window)
        cell.end_epoch()
    return cell


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def close(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        torch.allclose(one[name], other[name], rtol=1e-4, atol=1e-5) for name in one
    )


def some_beginnings(space: Space) -> Beginnings:
    """With statistics and scales that tell layers apart, in training mode as after training."""
    torch.manual_seed(3)
    made = build_beginnings(space, CUT.widths, *PIXELS, BEGINNINGS)
    for layer in made.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.weight, 0.5, 2)
            nn.init.normal_(layer.bias)
    return made.to(memory_format=torch.channels_last)


# Training


def test_b_behind_the_teachers_own_features_is_concurrent_training(tiny: Space) -> None:
    """A beginning that reproduces the teacher, several times over, changes nothing."""
    windows = [(features(n, 1), features(9 + n, 2)) for n in range(2)]
    alone = trained(trainer(tiny, "concurrent", [()]), windows)
    behind = trained(trainer(tiny, "progressive_b"), [(x, x, x, y) for x, y in windows])
    assert all(torch.equal(v, behind.net.state_dict()[n]) for n, v in weights(alone.net).items())
    assert not list(behind.before.parameters())  # what is frozen is not even there


@pytest.mark.parametrize("strategy", ["progressive_a", "progressive_b"])
def test_training_is_that_of_a_loop_by_hand(tiny: Space, strategy: Strategy) -> None:
    """B reads what each frozen beginning gives; A trains its own beginnings end to end."""
    frozen = strategy == "progressive_b"
    windows: list[tuple[Array, ...]] = [
        (*(features(10 * n + b, 1) for b in range(3)), features(99 + n, 2))
        if frozen
        else (pictures(n), features(99 + n, 2))
        for n in range(2)
    ]
    cell = trained(trainer(tiny, strategy), windows)

    names = ("distill", 1, *WHERE)
    torch.manual_seed(key(7, *names, "weights"))
    net = build_cell(tiny, *WHERE, 10, 20, *PIXELS).train()
    torch.manual_seed(key(7, *names, "beginnings"))
    before = build_beginnings(tiny, CUT.widths, *PIXELS, BEGINNINGS).train()
    for part in (net, before):  # Adam makes much of the last bits of small gradients
        part.to(memory_format=torch.channels_last)
    groups = [{"params": list(net.parameters()), "lr": 0.01}]
    if not frozen:
        groups.append({"params": list(before.parameters()), "lr": 0.02})
    adam = torch.optim.Adam(groups, weight_decay=RECIPE.weight_decay, fused=True)
    ops, step = tiny.blocks[1].ops, 0
    for epoch in range(RECIPE.epochs):
        for index, (*inputs, targets) in enumerate(windows):
            order = generator(7, *names, "order", epoch, index).permutation(10)
            for rows in (order[:4], order[4:8]):
                rng = generator(7, *names, "paths", step // len(ops))
                drawn = rng.permuted(np.tile(np.arange(len(ops)), (2, 1)), axis=1)
                path = [ops[i] for i in drawn[:, step % len(ops)]]
                rng = generator(7, *names, "beginnings", "paths", step // 3)
                number = rng.permuted(np.arange(3)[None], axis=1)[0, step % 3]
                adam.zero_grad()
                if frozen:
                    x = tensor(inputs[number][rows])
                else:
                    ((cell_, begun),) = BEGINNINGS[number]
                    x = before[f"block-1-cell-{cell_}"](tensor(inputs[0][rows]), begun)
                F.mse_loss(net(x, path), tensor(targets[rows])).backward()
                adam.step()
                step += 1
        for group in adam.param_groups:
            group["lr"] *= RECIPE.decay
    assert close(weights(cell.net), weights(net))
    if not frozen:
        assert close(weights(cell.before), weights(before))


def test_a_trains_all_that_its_beginnings_take_and_nothing_else(tiny: Space) -> None:
    cell = trainer(tiny, "progressive_a")
    start = {name: value.clone() for name, value in cell.before.named_parameters()}
    trained(cell, [(pictures(n), features(n, 2)) for n in range(2)])
    changed = {n for n, v in cell.before.named_parameters() if not torch.equal(v, start[n])}
    taken = {
        f"block-1-cell-{c}.layers.{layer}.{op}."
        for ((c, path),) in BEGINNINGS
        for layer, op in enumerate(path)
    } | {f"block-1-cell-{c}.stem." for c in (0, 1)}
    expected = {name for name in start if name.startswith(tuple(taken))}
    assert changed == expected
    assert expected < set(start)


def test_beginnings_that_take_a_cell_share_its_weights(tiny: Space) -> None:
    before = some_beginnings(tiny)
    assert sorted(before) == ["block-1-cell-0", "block-1-cell-1"]
    assert before.parts(0)[0][0] is before.parts(1)[0][0]


@pytest.mark.parametrize("sampling", ["fair", "uniform"])
def test_beginnings_are_drawn_as_paths_are(
    tiny: Space, sampling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each once a round where that is fair; every pair of a beginning and a path is met."""
    recipe = replace(RECIPE, sampling=sampling)
    cell = CellTrainer(tiny, CUT, PIXELS, recipe, WHERE, STREAM, beginnings=BEGINNINGS)
    drawn: list[tuple[int, tuple[Op, ...]]] = []
    cell.before.register_forward_hook(lambda _, given, __: drawn.append((given[1], ())))
    layered = cell.net.layered

    def spy(x: Tensor, path: tuple[Op, ...]) -> Tensor:
        drawn.append((drawn.pop()[0], path))
        return layered(x, path)

    monkeypatch.setattr(cell.net, "layered", spy)
    for index in range(60):
        cell.train_window(index, pictures(index, 8), features(index, 2, 8))
    assert len(drawn) == 120
    rounds = [sorted(n for n, _ in drawn[i : i + 3]) for i in range(0, 120, 3)]
    assert (rounds == [[0, 1, 2]] * 40) == (sampling == "fair")
    assert set(drawn) == set(product(range(3), product(tiny.blocks[1].ops, repeat=2)))
    counts = Counter(number for number, _ in drawn)
    assert max(counts.values()) < 2 * min(counts.values())


def test_several_paths_of_a_minibatch_share_its_beginning(tiny: Space) -> None:
    recipe = replace(RECIPE, paths_per_minibatch=2)
    cell = CellTrainer(tiny, CUT, PIXELS, recipe, WHERE, STREAM, beginnings=BEGINNINGS)
    drawn: list[int] = []
    cell.before.register_forward_hook(lambda _, given, __: drawn.append(given[1]))
    for index in range(3):
        cell.train_window(index, pictures(index, 8), features(index, 2, 8))
    assert sorted(drawn) == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("strategy", ["progressive_a", "progressive_b"])
def test_training_goes_on_from_a_checkpoint(tiny: Space, strategy: Strategy) -> None:
    x = [pictures(0)] if strategy == "progressive_a" else [features(n, 1) for n in range(3)]
    window = (*x, features(5, 2))
    whole = trained(trainer(tiny, strategy), [window])
    first = trainer(tiny, strategy)
    first.train_window(0, *window)
    first.end_epoch()
    file = io.BytesIO()
    torch.save(first.state(), file)
    file.seek(0)
    second = trainer(tiny, strategy)
    second.restore(torch.load(file, weights_only=True))
    second.train_window(0, *window)
    second.end_epoch()
    for one, other in ((whole.net, second.net), (whole.before, second.before)):
        assert all(torch.equal(v, other.state_dict()[n]) for n, v in weights(one).items())


@pytest.mark.parametrize("strategy", ["progressive_a", "progressive_b"])
def test_one_worker_or_two_train_the_same(tiny: Space, strategy: Strategy) -> None:
    """A worker with all cells takes turns between them; another has one to itself."""
    x = [pictures(0)] if strategy == "progressive_a" else [features(n, 1) for n in range(3)]
    window, recipe = (*x, features(5, 2)), replace(RECIPE, strategy=strategy)

    def cell(number: int) -> CellTrainer:
        where = (1, number)
        return CellTrainer(tiny, CUT, PIXELS, recipe, where, STREAM, beginnings=BEGINNINGS)

    together = [cell(2), cell(0)]
    for _ in range(2):
        for each in together:
            each.train_window(0, *window)
    for each in together:
        alone = cell(each.where[1])
        for _ in range(2):
            alone.train_window(0, *window)
        for name, value in weights(alone.net).items():
            assert torch.equal(value, each.net.state_dict()[name])


# Features and ratings


@torch.no_grad()
def naive_features(
    before: Beginnings, number: int, recalibration: Tensor, images: Tensor
) -> tuple[Tensor, Tensor]:
    """Of pictures that recalibrate, and of others behind the statistics of these."""
    net = copy.deepcopy(before)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    first = net.train()(recalibration, number)
    return first, net.eval()(images, number)


@pytest.mark.parametrize("number", range(3))
def test_a_frozen_beginning_is_recalibrated_and_stays_as_it_was(tiny: Space, number: int) -> None:
    before, held_out, window = some_beginnings(tiny), pictures(0, 9), pictures(1, 70)
    start = weights(before)
    made = features_behind(before, number, tensor(held_out), window)
    _, expected = naive_features(before, number, tensor(held_out), tensor(window))
    assert made.flags["C_CONTIGUOUS"]
    torch.testing.assert_close(tensor(made), expected, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(value, start[name]) for name, value in before.state_dict().items())
    assert before.training


@pytest.mark.parametrize("number", range(3))
def test_paths_are_rated_behind_a_beginning(tiny: Space, number: int) -> None:
    before, (block, cell) = some_beginnings(tiny), WHERE
    torch.manual_seed(1)
    net = build_cell(tiny, block, cell, 10, 20, *PIXELS).to(memory_format=torch.channels_last)
    data = RatingSet(tensor(pictures(0, 9)), tensor(pictures(1, 70)), tensor(features(2, 2, 70)))
    ops = tiny.blocks[block].ops
    rated = rate_behind(before, number, net, ops, data)
    assert list(rated) == list(tiny.blocks[block].paths(cell))
    first, x = naive_features(before, number, data.recalibration, data.inputs)
    for path, loss in rated.items():
        alone = copy.deepcopy(net)
        for layer in alone.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = 1.0
        with torch.no_grad():
            alone.train()(first, path)
            expected = eq7(alone.eval()(x, path), data.targets)
        assert loss == pytest.approx(expected, rel=1e-4)
