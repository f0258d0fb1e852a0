"""Training of whole networks in shards, and the figures that networks are judged by."""

import copy
import io
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dna_ray.errors import UserError
from dna_ray.network import build_network
from dna_ray.network.layers import Pixels
from dna_ray.randomness import generator
from dna_ray.retrain import (
    PictureSet,
    Recipe,
    Trainer,
    agreement_metrics,
    label_metrics,
    logits_of,
    portions_of,
    soft_labels,
)
from dna_ray.shards import alone
from dna_ray.space import Architecture, Space, network_spec
from tests.exchanges import Exchanges

Array = np.ndarray

CLASSES = 3
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RECIPE = Recipe(
    passes=2, batch=16, shards=4, learning_rate=0.01, weight_decay=0.1, label_weight=0.3
)
STREAM = (5, "network", 1)


def a_network(space: Space) -> nn.Module:
    torch.manual_seed(0)
    spec = network_spec(space, Architecture.parse("12:k5e2,k3e1/16:k3e2"), CLASSES)
    network = build_network(replace(spec, mean=MEAN, std=STD))
    nn.init.normal_(network.classifier.weight)  # so that the loss says much about the features
    return network


def a_set(
    sizes: Sequence[int] = (15, 20, 9), *, labels: bool = True, soft: bool = True
) -> PictureSet:
    """Windows that nobody may write to, as the object store gives them."""
    rng = np.random.default_rng(len(sizes))
    windows = [rng.integers(256, size=(n, 14, 14, 3), dtype=np.uint8) for n in sizes]
    for window in windows:
        window.setflags(write=False)
    count = sum(sizes)
    return PictureSet(
        windows,
        rng.integers(CLASSES, size=count) if labels else None,
        soft_labels(rng.normal(size=(count, CLASSES))) if soft else None,
    )


def run(trainer: Trainer, passes: int) -> list[float]:
    return [trainer.train_pass() for _ in range(passes)]


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> list[str]:
    """The names of what differs."""
    assert first.keys() == second.keys()
    return [name for name, value in first.items() if not torch.equal(value, second[name])]


def stored(state: dict[str, Any]) -> Any:
    """A state as it comes back from a checkpoint."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def train_together(space: Space, workers: int) -> list[tuple[dict[str, Tensor], list[float]]]:
    """The state and the losses of every worker, each with its neighbouring shards."""
    exchanges, share = Exchanges(workers), RECIPE.shards // workers
    modules = [a_network(space) for _ in range(workers)]

    def work(worker: int) -> list[float]:
        torch.set_num_threads(1)
        own = range(worker * share, (worker + 1) * share)
        trainer = Trainer(
            modules[worker], a_set(), RECIPE, STREAM, own, lambda v: exchanges(worker, v)
        )
        return run(trainer, 2)

    with ThreadPoolExecutor(workers) as pool:
        losses = list(pool.map(work, range(workers)))
    return [(m.state_dict(), loss) for m, loss in zip(modules, losses, strict=True)]


@pytest.mark.parametrize("workers", [2, 4])
def test_any_number_of_workers_gives_the_same_bits(tiny: Space, workers: int) -> None:
    module = a_network(tiny)
    losses = run(Trainer(module, a_set(), RECIPE, STREAM, range(4), alone), 2)
    for state, worker_losses in train_together(tiny, workers):
        assert worker_losses == losses
        assert same(module.state_dict(), state) == []


def test_training_changes_the_network_and_goes_by_its_stream(tiny: Space) -> None:
    modules = [a_network(tiny) for _ in range(3)]
    run(Trainer(modules[1], a_set(), RECIPE, STREAM, range(4), alone), 1)
    run(Trainer(modules[2], a_set(), RECIPE, (6, *STREAM[1:]), range(4), alone), 1)
    parameters = {name for name, _ in modules[0].named_parameters()}
    for first, second in ((0, 1), (0, 2), (1, 2)):
        different = same(modules[first].state_dict(), modules[second].state_dict())
        assert parameters <= set(different)


class InParts:
    """A set of pictures of which a portion at a time is at hand."""

    def __init__(self, parts: Sequence[PictureSet]) -> None:
        self._parts = parts
        self.portions = list(map(len, parts))
        self.asked: list[tuple[int, int]] = []

    def portion(self, turn: int, number: int) -> PictureSet:
        self.asked.append((turn, number))
        return self._parts[number]


def test_portions_are_read_one_after_another_pass_after_pass(tiny: Space) -> None:
    parts = InParts([a_set((20,)), a_set((9, 9)), a_set((18, 16, 1))])
    told: list[float] = []
    trainer = Trainer(a_network(tiny), parts, RECIPE, STREAM, range(4), alone)
    losses = [trainer.train_pass(told.append) for _ in range(2)]
    assert parts.asked == [(turn, number) for turn in range(2) for number in range(3)]
    assert trainer.steps_done == len(told) == 2 * (1 + 1 + 2)  # of 16 in 20, 18 and 35
    assert losses == [math.fsum(told[:4]) / 4, math.fsum(told[4:]) / 4]


def test_a_portion_of_everything_is_the_whole_set(tiny: Space) -> None:
    whole, module = a_network(tiny), a_network(tiny)
    run(Trainer(whole, a_set(), RECIPE, STREAM, range(4), alone), 2)
    run(Trainer(module, InParts([a_set()]), RECIPE, STREAM, range(4), alone), 2)
    assert same(whole.state_dict(), module.state_dict()) == []


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(2, 300))
def test_portions_hold_all_windows_in_order_and_differ_little(sizes: list[int], size: int) -> None:
    parts = portions_of(sizes, size)
    assert [i for part in parts for i in part] == list(range(len(sizes)))
    assert all(parts)
    assert len(parts) == min(len(sizes), math.ceil(sum(sizes) / size))
    lengths = list(map(len, parts))
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("shards", [1, 2, 3, 6])
def test_training_leaves_the_scaling_of_pixels_alone(tiny: Space, shards: int) -> None:
    """Its mean and deviation are data of the specification and are in no checkpoint."""
    module = a_network(tiny)
    recipe = replace(RECIPE, batch=12, shards=shards)
    run(Trainer(module, a_set(), recipe, STREAM, range(shards), alone), 1)
    (pixels,) = (layer for layer in module.modules() if isinstance(layer, Pixels))
    assert torch.equal(pixels.mean.flatten(), 255 * torch.tensor(MEAN))
    assert torch.equal(pixels.std.flatten(), 255 * torch.tensor(STD))


@pytest.mark.parametrize("shards", [3, 4])
def test_training_goes_on_from_a_checkpoint_as_if_undisturbed(tiny: Space, shards: int) -> None:
    recipe = replace(RECIPE, batch=12, shards=shards, passes=3)

    def start() -> tuple[nn.Module, Trainer]:
        module = a_network(tiny)
        return module, Trainer(module, a_set(), recipe, STREAM, range(shards), alone)

    undisturbed, whole = start()
    losses = run(whole, 3)
    _, first = start()
    assert run(first, 1) == losses[:1]
    module, second = start()
    second.restore(stored(first.state()))
    assert second.passes_done == 1
    assert run(second, 2) == losses[1:]
    assert same(undisturbed.state_dict(), module.state_dict()) == []


def naive_losses(
    module: nn.Module, data: PictureSet, pictures: Array, recipe: Recipe
) -> list[float]:
    """The loop written out with torch's own tools: every shard by a copy of the network."""
    decayed = [p for p in module.parameters() if p.dim() > 1]
    plain = [p for p in module.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": recipe.weight_decay},
            {"params": plain, "weight_decay": 0},
        ]
    )
    per_pass = len(data) // recipe.batch
    steps = recipe.passes * per_pass
    warmup, step, means = round(0.1 * steps), 0, []
    for number in range(recipe.passes):
        rng = generator(STREAM[0], *STREAM[1:], "pass", number)
        order, flips = rng.permutation(len(data)), rng.random(len(data)) < 0.5
        losses = []
        for start in range(0, per_pass * recipe.batch, recipe.batch):
            copies = [copy.deepcopy(module).train() for _ in range(recipe.shards)]
            rows = np.split(order[start : start + recipe.batch], recipe.shards)
            for replica, own in zip(copies, rows, strict=True):
                x = np.stack([pictures[r, :, ::-1] if flips[r] else pictures[r] for r in own])
                log = replica(torch.from_numpy(x).permute(0, 3, 1, 2)).log_softmax(1)
                assert data.labels is not None
                assert data.soft is not None
                hard = -log[range(len(own)), data.labels[own]].mean()
                soft = -(log * torch.from_numpy(data.soft[own])).sum(1).mean()
                loss = recipe.label_weight * hard + (1 - recipe.label_weight) * soft
                loss.backward()
                losses.append(loss.item())
            with torch.no_grad():
                for parameter, *parts in zip(
                    module.parameters(), *(c.parameters() for c in copies), strict=True
                ):
                    parameter.grad = sum(p.grad for p in parts) / recipe.shards
                for buffer, *values in zip(
                    module.buffers(), *(c.buffers() for c in copies), strict=True
                ):
                    if buffer.is_floating_point():
                        buffer.copy_(sum(values) / recipe.shards)
            rate = (
                (step + 1) / warmup
                if step < warmup
                else (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2
            )
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * rate
            optimizer.step()
            step += 1
        means.append(sum(losses) / len(losses))
    return means


@pytest.mark.parametrize("shards", [1, 2])
def test_training_is_that_of_a_loop_written_out(tiny: Space, shards: int) -> None:
    recipe = replace(RECIPE, passes=3, batch=8, shards=shards, learning_rate=0.002)
    module, naive, data = a_network(tiny), a_network(tiny), a_set()
    losses = run(Trainer(module, data, recipe, STREAM, range(shards), alone), recipe.passes)
    pictures = np.concatenate(a_set()._windows)
    np.testing.assert_allclose(losses, naive_losses(naive, data, pictures, recipe), rtol=1e-3)
    assert losses[0] != pytest.approx(losses[-1], rel=1e-2)
    statistics = {n: b for n, b in naive.named_buffers() if n.endswith("running_mean")}
    for name, value in statistics.items():
        torch.testing.assert_close(module.get_buffer(name), value, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(("passes", "warmup"), [(3, 1), (20, 2)])
def test_the_learning_rate_warms_up_and_falls_along_a_cosine(
    tiny: Space, passes: int, warmup: int
) -> None:
    data = a_set((8,))
    recipe = replace(RECIPE, passes=passes, batch=8, shards=1)
    trainer = Trainer(a_network(tiny), data, recipe, STREAM, [0], alone)
    rates = []
    for _ in range(passes):  # of one step each
        trainer.train_pass()
        groups = trainer.state()["optimizer"]["param_groups"]
        assert len({group["lr"] for group in groups}) == 1
        rates.append(groups[0]["lr"])
    up = [recipe.learning_rate * (i + 1) / warmup for i in range(warmup)]
    turns = np.arange(passes - warmup) / (passes - warmup)
    down = recipe.learning_rate * np.cos(turns * np.pi / 2) ** 2
    np.testing.assert_allclose(rates, [*up, *down], rtol=1e-9)
    assert [group["weight_decay"] for group in groups] == [recipe.weight_decay, 0]


@pytest.mark.parametrize(("pictures", "shards"), [(3, 2), (7, 4), (1, 1)])
def test_too_few_pictures_are_refused(tiny: Space, pictures: int, shards: int) -> None:
    recipe = replace(RECIPE, shards=shards)
    with pytest.raises(UserError, match=f"{2 * shards} pictures"):
        Trainer(a_network(tiny), a_set((pictures,)), recipe, STREAM, range(shards), alone)


def test_fewer_pictures_than_a_minibatch_are_one_step(tiny: Space) -> None:
    trainer = Trainer(a_network(tiny), a_set((6, 5)), RECIPE, STREAM, range(4), alone)
    assert math.isfinite(trainer.train_pass())
    assert trainer.state()["step"] == 1


# Pictures and losses


@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    data=st.data(),
)
@settings(max_examples=60)
def test_pictures_are_gathered_across_windows(sizes: list[int], data: st.DataObject) -> None:
    total = sum(sizes)
    everything = np.arange(total * 12, dtype=np.int64).reshape(total, 2, 2, 3)
    windows = np.split(everything, np.cumsum(sizes)[:-1])
    pictures = PictureSet(windows, np.zeros(total, np.int64), None)
    assert len(pictures) == total
    rows = np.array(data.draw(st.lists(st.integers(0, total - 1), min_size=1, max_size=12)))
    expected = everything[rows].transpose(0, 3, 1, 2)
    assert np.array_equal(pictures.pictures(rows).numpy(), expected)


@pytest.mark.parametrize(("labels", "soft"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_loss_weighs_labels_and_soft_labels(labels: bool, soft: bool, weight: float) -> None:
    data = a_set(labels=labels, soft=soft)
    rows = np.array([3, 40, 17, 3])
    logits = np.random.default_rng(0).normal(size=(4, CLASSES)).astype(np.float32)
    log = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    parts, weights = [], []
    if data.labels is not None:
        parts.append(np.mean([-log[i, data.labels[row]] for i, row in enumerate(rows)]))
        weights.append(weight)
    if data.soft is not None:
        parts.append(np.mean([-np.dot(data.soft[row], log[i]) for i, row in enumerate(rows)]))
        weights.append(1 - weight)
    expected = np.dot(weights, parts) if len(parts) == 2 else parts[0]
    loss = data.loss(torch.from_numpy(logits), rows, weight)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_a_picture_set_teaches_something() -> None:
    with pytest.raises(ValueError, match="labels"):
        a_set(labels=False, soft=False)


@pytest.fixture
def every_warning() -> Iterator[None]:
    """Torch shows some warnings once in a process; the process is not this test's."""
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(before)


@pytest.mark.usefixtures("every_warning")
@pytest.mark.filterwarnings("error")
def test_logits_of_all_windows_come_in_order(tiny: Space) -> None:
    module = a_network(tiny)
    rng = np.random.default_rng(0)
    windows = [rng.integers(256, size=(n, 14, 14, 3), dtype=np.uint8) for n in (70, 1, 5)]
    everything = torch.from_numpy(np.concatenate(windows)).permute(0, 3, 1, 2)
    for window in windows:
        window.setflags(write=False)
    logits = logits_of(module, windows)
    assert logits.shape == (76, CLASSES)
    assert logits.dtype == np.float32
    with torch.no_grad():
        expected = module.eval()(everything).numpy()
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-6)


# Figures


def softmax(logits: Array) -> Array:
    powers = np.exp(logits.astype(np.float64))
    return np.asarray(powers / powers.sum(1, keepdims=True))


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_label_metrics_are_those_of_scikit_learn(classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shares = np.arange(1, classes + 1) / sum(range(classes + 1))
    labels = rng.choice(classes, size=60, p=shares)
    logits = (rng.normal(size=(60, classes)) + np.eye(classes)[labels]).astype(np.float32)
    scores, predicted = softmax(logits), logits.argmax(1)
    metrics = label_metrics(logits, labels)
    assert metrics == {
        "accuracy": pytest.approx(sklearn.metrics.accuracy_score(labels, predicted)),
        "balanced_accuracy": pytest.approx(
            sklearn.metrics.balanced_accuracy_score(labels, predicted)
        ),
        "auroc": pytest.approx(
            sklearn.metrics.roc_auc_score(labels, scores[:, 1])
            if classes == 2
            else sklearn.metrics.roc_auc_score(labels, scores, multi_class="ovr", average="macro")
        ),
    }


def test_auroc_counts_ties_as_half() -> None:
    logits = np.array([[0, 1], [0, 1], [0, 2], [0, 0]], np.float32)
    labels = np.array([0, 1, 1, 0])
    # Of the four pairs of a positive and a negative, three are in order and one ties.
    assert label_metrics(logits, labels)["auroc"] == pytest.approx(3.5 / 4)


def test_metrics_of_one_class_have_no_auroc() -> None:
    metrics = label_metrics(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 0]))
    assert metrics["accuracy"] == metrics["balanced_accuracy"] == 0.5
    assert math.isnan(metrics["auroc"])


@pytest.mark.parametrize("classes", [3, 5, 12])
def test_agreement_is_that_of_counting(classes: int) -> None:
    rng = np.random.default_rng(classes)
    teacher = rng.normal(size=(50, classes))
    student = teacher + rng.normal(size=(50, classes))
    metrics = agreement_metrics(student, teacher)
    ranks = [
        sorted(range(classes), key=lambda c, row=row: -row[c]).index(int(np.argmax(target)))
        for row, target in zip(student, teacher, strict=True)
    ]
    p, q = softmax(teacher), softmax(student)
    assert metrics["agreement_top1"] == pytest.approx(np.mean([r < 1 for r in ranks]))
    assert metrics["agreement_top5"] == pytest.approx(np.mean([r < 5 for r in ranks]))
    assert metrics["kl"] == pytest.approx(
        np.mean([np.sum(a * np.log(a / b)) for a, b in zip(p, q, strict=True)])
    )
    assert metrics["kl"] > 0


def test_a_network_agrees_with_itself() -> None:
    logits = np.random.default_rng(1).normal(size=(9, 7)).astype(np.float32) * 50
    metrics = agreement_metrics(logits, logits)
    assert metrics == {"agreement_top1": 1.0, "agreement_top5": 1.0, "kl": 0.0}
    shifted = agreement_metrics(logits + 100, logits)
    assert shifted["kl"] == pytest.approx(0, abs=1e-4)


def test_soft_labels_are_probabilities_even_of_large_logits() -> None:
    logits = np.array([[1000.0, 999.0, -1000.0], [0.0, 0.0, 0.0]], np.float32)
    soft = soft_labels(logits)
    assert soft.dtype == np.float32
    np.testing.assert_allclose(soft, [[0.7310586, 0.2689414, 0], [1 / 3, 1 / 3, 1 / 3]], rtol=1e-6)
