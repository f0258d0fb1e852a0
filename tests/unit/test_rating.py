"""Ratings with shared features against every path rated on its own."""

import copy
from collections import Counter
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dna_ray.errors import UserError
from dna_ray.network import CellNet, build_cell
from dna_ray.rating import Calls, RatingSet, rate_cell, relative_l1
from dna_ray.space import Op, Space

PIXELS = ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
WIDTHS = (10, 20)
CHUNK = 64 * 10 * 5 * 5 * 4  # 64 pictures of block 2
ALL_CELLS = [(block, cell) for block in (0, 1) for cell in (0, 1, 2)]


def a_cell(space: Space, where: tuple[int, int]) -> CellNet:
    """A cell as training leaves it: with statistics, and in training mode."""
    torch.manual_seed(sum(where))
    net = build_cell(space, *where, WIDTHS[0], WIDTHS[where[0]], *PIXELS)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.5, 2)
            nn.init.uniform_(layer.weight, 0.5, 2)
            nn.init.normal_(layer.bias)
            layer.momentum = 0.1 + 0.01 * (layer.num_features % 7)
    return net.train()


def a_set(block: int, images: int = 66, recalibration: int = 9) -> RatingSet:
    rng = torch.Generator().manual_seed(block)

    def pictures(count: int) -> Tensor:
        if block == 0:
            return torch.randint(256, (count, 3, 12, 12), generator=rng, dtype=torch.uint8)
        return torch.randn(count, WIDTHS[0], 5, 5, generator=rng)

    return RatingSet(
        pictures(recalibration),
        pictures(images),
        3 + 2 * torch.randn(images, WIDTHS[block], 3, 3, generator=rng),
    )


def eq7(student: Tensor, teacher: Tensor) -> float:
    s, t = student.numpy().astype(np.float64), teacher.numpy().astype(np.float64)
    return float(np.mean(np.abs(s - t)) / np.sqrt(np.mean((t - t.mean()) ** 2)))


@torch.no_grad()
def naive_rating(net: CellNet, path: tuple[Op, ...], data: RatingSet) -> float:
    """Algorithm 1 without sharing: recalibrate the whole path, then evaluate it."""
    net = copy.deepcopy(net)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    net.train()(data.recalibration, path)
    return eq7(net.eval()(data.inputs, path), data.targets)


@pytest.mark.parametrize(
    "calls",
    [None, Calls(CHUNK), Calls(1, stack=100_000), Calls(CHUNK, stack=10**9), Calls(10**9, 10**9)],
)
@pytest.mark.parametrize(
    ("where", "plain"), [*((where, False) for where in ALL_CELLS), ((0, 1), True), ((1, 1), True)]
)
def test_ratings_are_those_of_every_path_on_its_own(
    tiny: Space, tiny_plain: Space, where: tuple[int, int], plain: bool, calls: Calls | None
) -> None:
    """One beginning at a time or several, and whatever a chunk holds."""
    space = tiny_plain if plain else tiny
    net, data, block = a_cell(space, where), a_set(where[0]), space.blocks[where[0]]
    ratings = rate_cell(net, block.ops, data, (), calls)
    assert list(ratings) == list(block.paths(where[1]))
    for path, rating in ratings.items():
        assert rating == pytest.approx(naive_rating(net, path, data), rel=1e-6)
    assert len(set(ratings.values())) == len(ratings)


@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize("where", [(0, 2), (1, 2)])
def test_parts_of_the_tree_make_up_the_whole(
    tiny: Space, where: tuple[int, int], length: int
) -> None:
    net, data, ops = a_cell(tiny, where), a_set(where[0]), tiny.blocks[where[0]].ops
    length = min(length, len(net.layers))
    union: dict[tuple[Op, ...], float] = {}
    for prefix in product(ops, repeat=length):
        part = rate_cell(net, ops, data, prefix)
        assert all(path[:length] == prefix for path in part)
        union |= part
    whole = rate_cell(net, ops, data)
    assert union == whole
    assert list(union) == list(whole)


@pytest.mark.parametrize("stack", [0, 10**9])
def test_an_op_runs_once_for_every_stack_of_beginnings(tiny: Space, stack: int) -> None:
    net, data, ops = a_cell(tiny, (1, 2)), a_set(1, 6, 4), tiny.blocks[1].ops
    runs: Counter[tuple[int, Op]] = Counter()
    for layer, op in product(range(3), ops):
        net.op(layer, op).register_forward_hook(lambda *_, place=(layer, op): runs.update([place]))
    rate_cell(net, ops, data, (), Calls(10**9, stack))
    beginnings = [1, 1, 1] if stack else [1, len(ops), len(ops) ** 2]
    # Recalibration pictures, and one chunk of rating pictures.
    assert runs == {(layer, op): 2 * beginnings[layer] for layer in range(3) for op in ops}


def snapshot(net: nn.Module) -> list[object]:
    values: list[object] = [
        (name, value.tolist()) for name, value in sorted(net.state_dict().items())
    ]
    values += [value.tolist() for value in net.buffers()]
    values += [module.training for module in net.modules()]
    return values + [m.momentum for m in net.modules() if isinstance(m, nn.BatchNorm2d)]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("fault", [False, True])
@pytest.mark.parametrize("where", [(0, 1), (1, 1)])
def test_a_cell_is_left_as_it_was(
    tiny: Space, where: tuple[int, int], fault: bool, training: bool
) -> None:
    net, data, ops = a_cell(tiny, where), a_set(where[0], 6, 4), tiny.blocks[where[0]].ops
    net.train(training)
    before = snapshot(net)
    if fault:

        def fail(*_: object) -> None:
            raise RuntimeError("in the middle")

        net.op(1, ops[-1]).register_forward_hook(fail)
        with pytest.raises(RuntimeError, match="in the middle"):
            rate_cell(net, ops, data)
    else:
        rate_cell(net, ops, data)
    assert snapshot(net) == before


def test_a_rated_cell_can_be_trained_on(tiny: Space) -> None:
    """Nothing of inference mode stays behind, and training goes as if there had been no rating."""
    data, ops = a_set(1, 6, 4), tiny.blocks[1].ops
    rated, other = a_cell(tiny, (1, 1)), a_cell(tiny, (1, 1))
    rate_cell(rated, ops, data)
    for net in (rated, other):
        net(data.inputs, ops[:2]).square().mean().backward()
    assert snapshot(rated) == snapshot(other)
    for first, second in zip(rated.parameters(), other.parameters(), strict=True):
        assert (first.grad is None) == (second.grad is None)
        assert first.grad is None or torch.equal(first.grad, second.grad)


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
    offset=st.sampled_from([0.0, 10.0]),
    seed=st.integers(0, 999),
)
@settings(max_examples=60)
def test_relative_l1_is_eq_7_however_it_is_chunked(
    sizes: list[int], scale: float, offset: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    shape = (sum(sizes), 3, 2, 2)
    student, teacher = (
        torch.from_numpy((offset + scale * rng.normal(size=shape)).astype(np.float32))
        for _ in range(2)
    )
    whole = relative_l1([student], teacher)
    # The differences of float32 features are rounded to float32, but their sum is not.
    assert whole == pytest.approx(eq7(student, teacher), rel=1e-6)
    assert relative_l1(student.split(sizes), teacher) == pytest.approx(whole, rel=1e-12)
    assert relative_l1(list(student.split(1)), teacher) == pytest.approx(whole, rel=1e-12)


def test_relative_l1_of_equal_features_is_0_and_of_their_mean_is_below_1() -> None:
    teacher = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert relative_l1([teacher], teacher) == 0
    # The mean absolute deviation of a normal distribution is sqrt(2 / pi) of its deviation.
    mean = torch.full_like(teacher, float(teacher.mean()))
    assert relative_l1([mean], teacher) == pytest.approx((2 / np.pi) ** 0.5, abs=0.05)
    assert relative_l1([3 * mean], 3 * teacher) == pytest.approx(relative_l1([mean], teacher))


def test_a_teacher_that_does_not_vary_is_refused() -> None:
    features = torch.full((4, 3, 2, 2), 1.5)
    with pytest.raises(UserError, match="must vary over the rating pictures"):
        relative_l1([torch.randn(4, 3, 2, 2)], features)
