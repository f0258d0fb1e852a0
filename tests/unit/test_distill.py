"""Training of cells against loops written out by hand, and the streams that it draws from."""

import copy
import io
import math
import re
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dna_ray.config import Distill, Loss
from dna_ray.data.windows import minibatch
from dna_ray.distill import CellTrainer, PathSampler
from dna_ray.network import build_cell
from dna_ray.randomness import generator, key
from dna_ray.shards import own_shards
from dna_ray.space import Op, Space
from dna_ray.teacher import Cut
from tests.exchanges import Exchanges

Array = np.ndarray
Window = tuple[Array, Array]

OPS = tuple(Op(kernel, expansion) for expansion in (1, 2, 3) for kernel in (3, 5))
CUT = Cut(modules=("a", "b"), widths=(10, 20), sizes=(4, 2))
PIXELS = ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
RECIPE = Distill(
    epochs=2,
    batch=4,
    paths_per_minibatch=1,
    learning_rate=0.01,
    learning_rate_first=0.02,
    decay=0.5,
)
STREAM = (7, 1)


def window(block: int, seed: int, images: int = 10) -> Window:
    """Boundaries k-1 and k of the tiny spaces at 16 pixels, which nobody may write to."""
    rng = np.random.default_rng(seed)
    inputs = (
        rng.normal(size=(images, 4, 4, 10)).astype(np.float32)
        if block
        else rng.integers(256, size=(images, 16, 16, 3), dtype=np.uint8)
    )
    side = 2 if block else 4
    targets = rng.normal(size=(images, side, side, CUT.widths[block])).astype(np.float32)
    for array in (inputs, targets):
        array.setflags(write=False)
    return inputs, targets


def trainer(
    space: Space,
    where: tuple[int, int] = (1, 1),
    recipe: Distill = RECIPE,
    stream: tuple[int, int] = STREAM,
) -> CellTrainer:
    return CellTrainer(space, CUT, PIXELS, recipe, where, stream)


def windows(where: tuple[int, int], count: int = 2) -> list[Window]:
    return [window(where[0], seed) for seed in range(count)]


def epoch(cell: CellTrainer, data: list[Window]) -> list[float]:
    losses = [
        loss
        for index, (inputs, targets) in enumerate(data)
        for loss in cell.train_window(index, inputs, targets)
    ]
    cell.end_epoch()
    return losses


def weights(cell: CellTrainer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in cell.net.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def stored(state: dict[str, Any]) -> Any:
    """A state as it comes back from a checkpoint."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


# Paths


@given(
    ops=st.lists(st.sampled_from(OPS), min_size=1, unique=True).map(tuple),
    layers=st.integers(1, 5),
    seed=st.integers(0, 2**40),
    round_=st.integers(0, 10**6),
)
def test_a_fair_round_takes_every_op_of_every_layer_once(
    ops: tuple[Op, ...], layers: int, seed: int, round_: int
) -> None:
    sampler = PathSampler(ops, layers, "fair", seed, "a", 0)
    paths = [sampler.path(round_ * len(ops) + turn) for turn in range(len(ops))]
    assert all(len(path) == layers for path in paths)
    for layer in zip(*paths, strict=True):
        assert sorted(layer) == sorted(ops)


@pytest.mark.parametrize("sampling", ["fair", "uniform"])
def test_sampling_reaches_every_path_about_equally_often(sampling: str) -> None:
    ops, layers, steps = OPS[:3], 2, 1800
    sampler = PathSampler(ops, layers, sampling, 0, "x")
    counts = Counter(sampler.path(step) for step in range(steps))
    assert len(counts) == len(ops) ** layers
    expected = steps / len(counts)
    assert max(abs(n - expected) for n in counts.values()) < 5 * math.sqrt(expected)


def test_uniform_sampling_draws_every_op_on_its_own() -> None:
    """Rounds repeat ops, unlike fair ones: all of three ops are there in 2/9 of the rounds."""
    sampler = PathSampler(OPS[:3], 1, "uniform", 0, "x")
    rounds = [{sampler.path(3 * r + turn) for turn in range(3)} for r in range(900)]
    assert sum(len(r) == 3 for r in rounds) == pytest.approx(200, abs=60)


@given(
    sampling=st.sampled_from(["fair", "uniform"]),
    steps=st.lists(st.integers(0, 1000), min_size=1, max_size=20),
    seed=st.integers(0, 2**40),
)
@settings(max_examples=50)
def test_a_path_depends_on_its_step_and_stream_alone(
    sampling: str, steps: list[int], seed: int
) -> None:
    sampler = PathSampler(OPS, 3, sampling, seed, "cell", 1, 2)
    fresh = {
        step: PathSampler(OPS, 3, sampling, seed, "cell", 1, 2).path(step) for step in sorted(steps)
    }
    assert [sampler.path(step) for step in steps] == [fresh[step] for step in steps]


def test_streams_draw_different_paths() -> None:
    streams = [(0, "a", 1), (0, "a", 2), (0, "b", 1), (1, "a", 1)]
    drawn = [
        tuple(PathSampler(OPS, 3, "fair", seed, *names).path(step) for step in range(12))
        for seed, *names in streams
    ]
    assert len(set(drawn)) == len(streams)


# Training


@pytest.mark.parametrize("where", [(0, 1), (1, 2)])
def test_the_same_stream_gives_the_same_weights_to_the_last_bit(
    tiny: Space, where: tuple[int, int]
) -> None:
    data, cells = windows(where), [trainer(tiny, where) for _ in range(2)]
    torch.manual_seed(0)  # nothing may be drawn from the global generator
    first = epoch(cells[0], data)
    torch.manual_seed(1)
    assert epoch(cells[1], data) == first
    assert same(weights(cells[0]), weights(cells[1]))


def test_other_streams_give_other_weights_paths_and_orders(tiny: Space) -> None:
    start = weights(trainer(tiny, (1, 1)))
    data = windows((1, 1))
    for stream in ((8, 1), (7, 2)):
        other = trainer(tiny, (1, 1), stream=stream)
        assert not same(weights(other), start)
        other.net.load_state_dict(start)
        assert epoch(other, data) != epoch(trainer(tiny, (1, 1)), data)


def test_a_trainer_leaves_the_global_generator_alone(tiny: Space) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    epoch(trainer(tiny, (0, 0)), windows((0, 0)))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("sampling", ["fair", "uniform"])
@pytest.mark.parametrize("where", [(0, 2), (1, 2)])
def test_a_step_changes_what_its_path_took_and_nothing_else(
    tiny: Space, where: tuple[int, int], sampling: str
) -> None:
    """Neither weight decay nor the momentum of earlier steps may move another op."""
    recipe = Distill(batch=6, paths_per_minibatch=1, sampling=sampling, weight_decay=0.1)
    block, cell = where
    trained = trainer(tiny, where, recipe)
    ops, layers = tiny.blocks[block].ops, tiny.blocks[block].cells[cell].layers
    sampler = PathSampler(ops, layers, sampling, STREAM[0], "distill", STREAM[1], block, cell)
    inputs, targets = window(block, 0, images=6)
    for step in range(7):
        before = weights(trained)
        assert len(trained.train_window(step, inputs, targets)) == 1
        changed = {n for n, value in weights(trained).items() if not torch.equal(value, before[n])}
        taken = [f"layers.{layer}.{op}." for layer, op in enumerate(sampler.path(step))]
        taken += ["stem."] if block == 0 else []
        assert changed == {name for name in before if name.startswith(tuple(taken))}


@pytest.mark.parametrize("where", [(0, 1), (1, 2)])
def test_training_goes_on_from_a_checkpoint_as_if_undisturbed(
    tiny: Space, where: tuple[int, int]
) -> None:
    data, undisturbed, first = windows(where), trainer(tiny, where), trainer(tiny, where)
    expected = [epoch(undisturbed, data) for _ in range(3)]
    assert epoch(first, data) == expected[0]
    second = trainer(tiny, where)
    second.restore(stored(first.state()))
    assert second.epoch == 1
    assert [epoch(second, data) for _ in range(2)] == expected[1:]
    assert same(weights(second), weights(undisturbed))


def test_cells_do_not_disturb_each_other(tiny: Space) -> None:
    wheres = [(0, 1), (1, 2)]
    data = {where: windows(where) for where in wheres}
    after = {where: trainer(tiny, where) for where in wheres}
    expected = {where: [epoch(after[where], data[where]) for _ in range(2)] for where in wheres}
    interleaved = {where: trainer(tiny, where) for where in reversed(wheres)}
    losses: dict[tuple[int, int], list[float]] = {where: [] for where in wheres}
    for _ in range(2):
        for index in range(2):
            for where in reversed(wheres):
                losses[where] += interleaved[where].train_window(index, *data[where][index])
        for cell in interleaved.values():
            cell.end_epoch()
    for where in wheres:
        assert losses[where] == list(chain(*expected[where]))
        assert same(weights(interleaved[where]), weights(after[where]))


def test_the_loss_of_an_easy_task_goes_down(tiny: Space) -> None:
    inputs, _ = window(1, 0, images=16)
    targets = np.full((16, 2, 2, 20), 0.5, np.float32)
    cell = trainer(
        tiny, (1, 1), Distill(batch=8, paths_per_minibatch=1, learning_rate=0.05, decay=1.0)
    )
    losses = [loss for _ in range(20) for loss in epoch(cell, [(inputs, targets)])]
    assert np.mean(losses[-5:]) < 0.3 * np.mean(losses[:5])


def squared(student: Array, teacher: Array) -> float:
    """Eq 6."""
    return float(np.mean((student - teacher) ** 2))


def relative(student: Array, teacher: Array) -> float:
    """Eq 7 over one minibatch."""
    return float(np.mean(np.abs(student - teacher)) / teacher.std())


@pytest.mark.parametrize("paths", [1, 2, 3])
@pytest.mark.parametrize(("loss", "naive"), [("mse", squared), ("relative_l1", relative)])
def test_the_loss_is_the_mean_over_paths(
    tiny: Space, loss: Loss, naive: Callable[[Array, Array], float], paths: int
) -> None:
    """On one minibatch of all pictures, whose order makes no difference."""
    recipe = Distill(batch=10, loss=loss, paths_per_minibatch=paths)
    inputs, targets = window(1, 3)
    cell = trainer(tiny, (1, 1), recipe)
    net = copy.deepcopy(cell.net).train()
    sampler = PathSampler(tiny.blocks[1].ops, 2, "fair", 7, "distill", 1, 1, 1)
    x = torch.from_numpy(inputs.transpose(0, 3, 1, 2).copy())
    errors = []
    for turn in range(paths):
        y = net(x, sampler.path(turn)).detach().numpy().astype(np.float64).transpose(0, 2, 3, 1)
        errors.append(naive(y, targets.astype(np.float64)))
    assert cell.train_window(0, inputs, targets) == [pytest.approx(np.mean(errors), rel=1e-5)]


@pytest.mark.parametrize("shards", [1, 2])
def test_the_stem_runs_once_for_all_paths_of_a_minibatch(tiny: Space, shards: int) -> None:
    cell = trainer(tiny, (0, 1), Distill(batch=10, paths_per_minibatch=3, shards=shards))
    runs: list[int] = []
    cell.net.stem.register_forward_hook(lambda _, given, __: runs.append(len(given[0])))
    cell.train_window(0, *window(0, 3))
    assert runs == [10 // shards] * shards


def test_relative_l1_of_a_teacher_that_does_not_vary_stops_the_cell(tiny: Space) -> None:
    cell, (inputs, targets) = (
        trainer(tiny, recipe=replace(RECIPE, loss="relative_l1")),
        window(1, 0),
    )
    cell.train_window(0, inputs, np.ones_like(targets))
    assert "block 2, cell 1" in cell.stopped


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e9])
def test_a_loss_that_is_of_no_use_any_more_stops_its_cell(tiny: Space, value: float) -> None:
    """It says where, when, at which rate and what to do; a stopped cell stays as it is."""
    cell, (inputs, targets) = trainer(tiny, (1, 1)), window(1, 0)
    assert len(cell.train_window(0, inputs, targets)) == 2
    assert cell.stopped == ""
    cell.end_epoch()
    broken = targets.copy()
    broken[:, 0, 0, 0] = value
    (loss,) = cell.train_window(0, inputs, broken)
    assert not math.isfinite(loss) or loss > 1e4
    assert re.search(
        r"block 2, cell 1 is .* at step 3.* rate 0.005; set distill.learning_rate lower",
        cell.stopped,
    )
    assert cell.train_window(1, inputs, targets) == []
    assert cell.minibatches == 3
    other = trainer(tiny, (1, 1))
    other.restore(stored(cell.state()))
    assert other.stopped == cell.stopped
    assert other.train_window(1, inputs, targets) == []


@pytest.mark.parametrize("at", [None, 0, 3, 4])
@pytest.mark.parametrize("together", [2, 32])
def test_losses_and_stops_are_the_same_where_several_are_looked_at_together(
    tiny: Space, together: int, at: int | None
) -> None:
    """As on a GPU. What was trained behind the step at which a cell stops comes to nothing."""
    inputs, targets = window(1, 0, 20)
    if at is not None:
        targets = targets.copy()
        targets[generator(7, "distill", 1, 1, 1, "order", 0, 0).permutation(20)[4 * at]] = math.nan
    one, other = trainer(tiny), trainer(tiny)
    other._together = together
    expected, found = (cell.train_window(0, inputs, targets) for cell in (one, other))
    assert found == pytest.approx(expected, rel=0, abs=0, nan_ok=True)
    assert len(expected) == (5 if at is None else at + 1)
    assert other.stopped == one.stopped
    assert other.minibatches == min(5, -(-one.minibatches // together) * together)


def test_block_1_has_a_learning_rate_of_its_own_to_lower(tiny: Space) -> None:
    cell, (inputs, targets) = trainer(tiny, (0, 1)), window(0, 0)
    cell.train_window(0, inputs, np.full_like(targets, np.nan))
    assert "block 1, cell 1" in cell.stopped
    assert cell.stopped.endswith("rate 0.02; set distill.learning_rate_first lower")


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_a_cell_may_compute_in_half_precision_but_its_loss_does_not(
    tiny: Space, kind: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU; on a processor a cell computes in float32 unless it is made not to."""
    inputs, targets = window(0, 0)
    cell, whole = (trainer(tiny, (0, 1)) for _ in range(2))
    if kind is torch.bfloat16:
        monkeypatch.setattr(cell, "_precision", torch.autocast("cpu", kind))
    computed, compared = set(), set()
    for op in cell.net.choices():
        op.register_forward_hook(lambda _, __, output: computed.add(output.dtype))

    def loss(student: Tensor, teacher: Tensor) -> Tensor:
        compared.update([student.dtype, teacher.dtype])
        return (student - teacher).square().mean()

    monkeypatch.setattr(cell, "_loss", loss)
    losses = cell.train_window(0, inputs, targets)
    assert computed == {kind}
    assert compared == {torch.float32}
    assert losses == pytest.approx(whole.train_window(0, inputs, targets), rel=0.02)
    assert {value.dtype for value in cell.net.state_dict().values()} <= {torch.float32, torch.int64}


def test_windows_are_read_in_minibatches_and_never_written(tiny: Space) -> None:
    inputs, targets = window(0, 0, images=11)
    copies = inputs.copy(), targets.copy()
    losses = trainer(tiny, (0, 1)).train_window(0, inputs, targets)
    assert len(losses) == 11 // RECIPE.batch
    assert np.array_equal(inputs, copies[0])
    assert np.array_equal(targets, copies[1])
    rows = np.array([9, 2, 2])
    batch = minibatch(inputs, rows)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert np.array_equal(batch.numpy(), copies[0][rows].transpose(0, 3, 1, 2))
    batch += 1
    assert np.array_equal(inputs, copies[0])


def test_a_window_smaller_than_a_minibatch_is_one_step(tiny: Space) -> None:
    inputs, targets = window(1, 0, images=3)
    assert len(trainer(tiny, (1, 0)).train_window(0, inputs, targets)) == 1


# The whole loop, written out


@dataclass
class Moments:
    """Adam (Kingma & Ba 2015) of one parameter, with weight decay as a gradient."""

    first: Tensor
    second: Tensor
    steps: int = 0

    def update(self, parameter: nn.Parameter, rate: float, decay: float) -> None:
        assert parameter.grad is not None
        gradient = parameter.grad + decay * parameter.detach()
        self.steps += 1
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient**2
        mean = self.first / (1 - 0.9**self.steps)
        variance = self.second / (1 - 0.999**self.steps)
        parameter.data -= rate * mean / (variance.sqrt() + 1e-8)


def naive_trace(
    space: Space, where: tuple[int, int], recipe: Distill, data: list[Window], epochs: int
) -> list[float]:
    block, cell = where
    names = ("distill", STREAM[1], block, cell)
    torch.manual_seed(key(STREAM[0], *names, "weights"))
    net = build_cell(space, block, cell, CUT.width_in(block), CUT.widths[block], *PIXELS).train()
    ops, layers = space.blocks[block].ops, space.blocks[block].cells[cell].layers
    sampler = PathSampler(ops, layers, recipe.sampling, STREAM[0], *names)
    moments = {
        name: Moments(torch.zeros_like(p), torch.zeros_like(p))
        for name, p in net.named_parameters()
    }
    rate = recipe.learning_rate if block else recipe.learning_rate_first
    losses: list[float] = []
    for number in range(epochs):
        for index, (inputs, targets) in enumerate(data):
            order = generator(STREAM[0], *names, "order", number, index).permutation(len(inputs))
            for start in range(0, len(order) - recipe.batch + 1, recipe.batch):
                rows = order[start : start + recipe.batch]
                x, y = (
                    torch.from_numpy(a[rows].transpose(0, 3, 1, 2).copy())
                    for a in (inputs, targets)
                )
                paths = recipe.paths_per_minibatch
                taken = [sampler.path(len(losses) * paths + turn) for turn in range(paths)]
                size = recipe.batch // recipe.shards
                parts = [slice(first, first + size) for first in range(0, recipe.batch, size)]
                loss = torch.stack(
                    [((net(x[p], path) - y[p]) ** 2).mean() for path in taken for p in parts]
                ).mean()
                net.zero_grad()
                loss.backward()
                for name, parameter in net.named_parameters():
                    if parameter.grad is not None:
                        moments[name].update(parameter, rate, recipe.weight_decay)
                losses.append(loss.item())
        rate *= recipe.decay
    return losses


@pytest.mark.parametrize(
    ("where", "paths", "shards"),
    [((0, 1), 1, 1), ((1, 1), 1, 1), ((1, 1), 2, 1), ((0, 1), 3, 1), ((0, 1), 2, 2)],
)
def test_twenty_steps_are_those_of_a_loop_written_out(
    tiny: Space, where: tuple[int, int], paths: int, shards: int
) -> None:
    recipe = Distill(
        batch=4,
        shards=shards,
        paths_per_minibatch=paths,
        learning_rate=0.003,
        learning_rate_first=0.001,
        decay=0.7,
        weight_decay=1e-3,
    )
    data = windows(where)
    cell = trainer(tiny, where, recipe)
    trace = [loss for _ in range(5) for loss in epoch(cell, data)]
    assert len(trace) == 20
    np.testing.assert_allclose(trace, naive_trace(tiny, where, recipe, data, 5), rtol=1e-3)


@pytest.mark.parametrize("workers", [2, 4])
@pytest.mark.parametrize("where", [(0, 1), (1, 0)])
def test_any_number_of_workers_trains_a_cell_to_the_same_bits(
    tiny: Space, where: tuple[int, int], workers: int
) -> None:
    recipe = replace(RECIPE, batch=8, shards=4, paths_per_minibatch=2)
    data, exchanges = windows(where), Exchanges(workers)
    cell = trainer(tiny, where, recipe)
    losses = epoch(cell, data)

    members = [
        CellTrainer(
            tiny,
            CUT,
            PIXELS,
            recipe,
            where,
            STREAM,
            own=own_shards(4, workers, worker),
            exchange=partial(exchanges, worker),
        )
        for worker in range(workers)
    ]

    def work(member: CellTrainer) -> list[float]:
        torch.set_num_threads(1)
        return epoch(member, data)

    with ThreadPoolExecutor(workers) as pool:
        assert list(pool.map(work, members)) == [losses] * workers
    assert all(same(weights(member), weights(cell)) for member in members)
