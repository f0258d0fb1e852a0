"""The pure parts of tests/benchmarks/ground_truth.py, against naive formulas."""

import gzip
from itertools import repeat
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from dna_ray.network.layers import MBConv
from dna_ray.network.model import build_model
from dna_ray.randomness import generator
from dna_ray.retrain import PictureSet, Recipe, Trainer
from dna_ray.shards import alone
from dna_ray.space import Architecture, Space, network_costs, network_spec
from dna_ray.space.spaces import parse_space
from tests.benchmarks.ground_truth import SEEDS, sample
from tests.benchmarks.truth import cheap, kept
from tests.benchmarks.truth.sample import BAND, draw, random_architecture
from tests.benchmarks.truth.supernet import (
    Mixture,
    SinglePath,
    Supernet,
    logits_by,
    train_mixture,
)
from tests.benchmarks.truth.tables import (
    Held,
    Scored,
    ceiling,
    chance,
    scores_of,
    section,
    truth_of,
)
from tests.benchmarks.truth.tasks import TASKS, read_idx, space

_SMALL = """
name = "small"
resolution = 16
ops = ["k3e1", "k3e2"]
se_ratio = 0.0
activation = "relu"
head = 16
stem = { width = 8, out = 8 }

[[blocks]]
stride = 2
cells = [{ layers = 1, width = 8 }, { layers = 2, width = 8 }]

[[blocks]]
stride = 2
cells = [{ layers = 2, width = 16 }]
"""
ARCHITECTURE = Architecture.parse("8:k3e2,k3e1/16:k3e1,k3e2")
RECIPE = Recipe(
    passes=1, batch=8, shards=1, learning_rate=1e-2, weight_decay=1e-2, label_weight=1.0
)


@pytest.fixture(scope="module")
def small() -> Space:
    return parse_space(_SMALL, "small")


def pictures(count: int, resolution: int = 16) -> np.ndarray:
    drawn = generator(0, "test pictures").integers(256, size=(count, resolution, resolution, 3))
    return drawn.astype(np.uint8)


def picture_set(count: int) -> PictureSet:
    return PictureSet([pictures(count)], np.arange(count) % 3, None)


def test_architectures_are_spread_and_within_the_band() -> None:
    task = TASKS["solar"]
    drawn = sample(task)
    assert drawn == sample(task)
    assert len({d.architecture for d in drawn}) == len(drawn) >= 24
    for d in drawn:
        spec = network_spec(space(), Architecture.parse(d.architecture), task.classes)
        total = network_costs(spec, task.resolution).total
        assert (d.macs, d.params) == (total.macs, total.params)
    spread, equal = (np.array([d.macs for d in drawn if d.group == g]) for g in ("spread", "equal"))
    assert np.all(np.diff(spread) > 0)
    assert spread[-1] > 3 * spread[0]
    assert equal.max() / equal.min() <= (1 + BAND) / (1 - BAND)


def test_too_few_of_one_cost(small: Space) -> None:
    with pytest.raises(ValueError, match=r"of about .* multiply-adds there are"):
        draw(small, 16, 3, 2, 20)


def test_table_goes_on_behind_a_row_that_was_cut_off(tmp_path: Path) -> None:
    file, columns = tmp_path / "table.csv", ("name", "value")
    assert kept.read(file) == []
    kept.append(file, columns, [{"name": "a,b", "value": 2.5}])
    kept.append(file, columns, [{"name": "c", "value": 1}])
    whole = file.read_text()
    for cut in range(len(whole) + 1):
        file.write_text(whole[:cut])
        before = kept.read(file)
        assert len(before) == max(0, whole[:cut].count("\n") - 1)
        kept.append(file, columns, [{"name": "d", "value": 0}])
        assert kept.read(file) == [*before, {"name": "d", "value": "0"}]
    kept.put_in_order(file, columns, lambda row: float(row["value"]))
    assert [row["name"] for row in kept.read(file)] == ["d", "c", "a,b"]


@torch.no_grad()
def test_synflow_of_a_chain_is_the_flow_once_per_layer() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, bias=False), nn.Conv2d(4, 5, 3, bias=False)]
    net = nn.Sequential(
        layers[0],
        nn.BatchNorm2d(4),
        nn.ReLU(),
        layers[1],
        nn.ReLU6(),
        nn.Flatten(),
        nn.Linear(20, 2, bias=False),
    )
    before = {name: value.clone() for name, value in net.state_dict().items()}
    x = torch.ones(1, 3, 6, 6, dtype=torch.float64)
    for layer in layers:
        x = F.conv2d(x, layer.weight.double().abs())
    flow = float((x.flatten(1) @ net[-1].weight.double().abs().T).sum())
    with torch.enable_grad():
        found = cheap.synflow(net, 6)
    assert found == pytest.approx(np.log(3 * flow), rel=1e-12)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def _flow(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What is left of a network where only magnitudes of weights count."""
    if isinstance(module, nn.Conv2d):
        weight = module.weight.double().abs()
        return F.conv2d(x, weight, None, module.stride, module.padding, groups=module.groups)
    if isinstance(module, MBConv):
        return _flow(module.layers, x) + (x if module.residual else 0)
    for child in module.children() if isinstance(module, nn.Sequential) else ():
        x = _flow(child, x)
    return x


@torch.no_grad()
def test_synflow_without_each_layer(small: Space) -> None:
    """The flow is linear in every layer's weights, so w x dR/dw is what is lost without them."""
    torch.manual_seed(0)
    net = build_model(network_spec(small, ARCHITECTURE, 3))

    def flow() -> float:
        x = _flow(net.stem, torch.ones(1, 3, 16, 16, dtype=torch.float64))
        for block in net.blocks:
            x = _flow(block, x)
        x = _flow(net.head, x).mean((2, 3))
        return float((x @ net.classifier.weight.double().abs().T).sum())

    with torch.enable_grad():
        found = np.exp(cheap.synflow(net, 16))
    whole, lost = flow(), []
    for layer in (m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)):
        kept_weight = layer.weight.clone()
        layer.weight.zero_()
        lost.append(whole - flow())
        layer.weight.copy_(kept_weight)
    assert min(lost) < 0.99 * max(lost)  # some are bypassed by a residual
    assert found == pytest.approx(sum(lost), rel=1e-9)


def test_gradient_norm_by_backward(small: Space) -> None:
    torch.manual_seed(0)
    net = build_model(network_spec(small, ARCHITECTURE, 3))
    data = picture_set(8)
    x, labels = data.pictures(np.arange(8)), torch.from_numpy(data.labels)
    found = cheap.gradient_norm(net, x, labels)
    F.cross_entropy(net(x), labels).backward()
    squares = [float((p.grad**2).sum()) for p in net.parameters() if p.grad is not None]
    assert found == pytest.approx(np.sqrt(sum(squares)), rel=1e-5)


def test_naswot_by_hand() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 9), nn.ReLU())
    x = torch.randn(6, 3, 2, 2)
    first = net[1](x.flatten(1)).detach()
    second = net[3](first.relu()).detach()
    codes = (torch.cat([first, second], 1) > 0).numpy()
    kernel = [[sum(a == b for a, b in zip(i, j, strict=True)) for j in codes] for i in codes]
    expected = np.log(abs(np.linalg.det(np.array(kernel, float))))
    assert cheap.naswot(net, x) == pytest.approx(expected)
    net(x)  # no hook is left behind
    assert not any(module._forward_hooks for module in net)


def test_supernet_is_the_network_with_its_weights(small: Space) -> None:
    torch.manual_seed(0)
    supernet = Supernet(small, 3)
    net = build_model(network_spec(small, ARCHITECTURE, 3))
    net.stem.load_state_dict(supernet.stem.state_dict())
    net.head.load_state_dict(supernet.head.state_dict())
    net.classifier.load_state_dict(supernet.classifier.state_dict())
    for k, (cell, choice) in enumerate(
        zip(ARCHITECTURE.cells(small), ARCHITECTURE.blocks, strict=True)
    ):
        for layer, op in enumerate(choice.ops):
            net.blocks[k][layer].load_state_dict(
                supernet.blocks[k][cell].op(layer, op).state_dict()
            )
    x = torch.from_numpy(pictures(8)).permute(0, 3, 1, 2)
    recalibration = x.split(4)
    logits = logits_by(supernet, ARCHITECTURE, recalibration, x)
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = None
    with torch.no_grad():
        for part in recalibration:
            net.train()(part)
        np.testing.assert_allclose(logits, net.eval()(x).numpy(), rtol=1e-4, atol=1e-5)


def test_a_step_of_the_single_path_leaves_the_rest(small: Space) -> None:
    torch.manual_seed(0)
    supernet = Supernet(small, 3)
    before = {name: p.detach().clone() for name, p in supernet.named_parameters()}
    trainer = Trainer(SinglePath(supernet, 5), picture_set(8), RECIPE, (0, "test"), range(1), alone)
    trainer.train_pass()
    taken = random_architecture(small, generator(5, "one shot", "paths"))
    used = {
        f"blocks.{k}.{cell}.layers.{layer}.{op}."
        for k, (cell, choice) in enumerate(zip(taken.cells(small), taken.blocks, strict=True))
        for layer, op in enumerate(choice.ops)
    }
    for name, parameter in supernet.named_parameters():
        if name.startswith("blocks."):
            changed = not torch.equal(parameter, before[name])
            assert changed == any(name.startswith(prefix) for prefix in used), name


def test_mixture_is_the_weighted_sum(small: Space) -> None:
    torch.manual_seed(0)
    mixture = Mixture(Supernet(small, 3)).eval()
    for weights in (*mixture.layers, *mixture.cells):
        weights.data.normal_()
    x = torch.from_numpy(pictures(4)).permute(0, 3, 1, 2)
    layers = iter(mixture.layers)
    with torch.no_grad():
        y = mixture.supernet.stem(x)
        for k, block in enumerate(small.blocks):
            total = torch.zeros(())
            for c, cell in enumerate(block.cells):
                z, weights = y, next(layers)
                for layer in range(cell.layers):
                    shares = torch.exp(weights[layer]) / torch.exp(weights[layer]).sum()
                    ops = [mixture.supernet.blocks[k][c].op(layer, op) for op in block.ops]
                    z = sum(float(s) * op(z) for s, op in zip(shares, ops, strict=True))
                total = total + mixture.cells[k].softmax(0)[c] * z
            y = total
        expected = mixture.supernet.logits(y)
        torch.testing.assert_close(mixture(x), expected, rtol=1e-4, atol=1e-5)


def test_mixture_gives_probabilities(small: Space) -> None:
    """Of all architectures they add up to 1; that of one is the product of what it takes."""
    torch.manual_seed(0)
    mixture = Mixture(Supernet(small, 3))
    for weights in (*mixture.layers, *mixture.cells):
        weights.data.normal_()
    names = {str(random_architecture(small, generator(i, "test"))) for i in range(400)}
    assert len(names) == small.architectures
    total = sum(np.exp(mixture.log_probability(Architecture.parse(name))) for name in names)
    assert total == pytest.approx(1)


def test_mixture_learns_both_kinds_of_weights_in_turn(small: Space) -> None:
    torch.manual_seed(0)
    mixture = Mixture(Supernet(small, 3))
    before = [w.detach().clone() for w in (*mixture.layers, *mixture.cells)]
    count = len(list(mixture.parameters()))
    trainer = Trainer(mixture, picture_set(16), RECIPE, (0, "test"), range(1), alone)
    asked = []

    def held_out() -> object:
        for _ in repeat(None):
            asked.append(trainer.steps_done)
            yield torch.from_numpy(pictures(4)).permute(0, 3, 1, 2), torch.tensor([0, 1, 2, 0])

    train_mixture(mixture, trainer, held_out(), 2, 1e-2)
    assert asked == [1, 2, 3, 4]
    after = [*mixture.layers, *mixture.cells]
    assert sum(not torch.equal(a, b) for a, b in zip(after, before, strict=True)) >= 3
    assert count == len(list(mixture.supernet.parameters()))


def rows(count: int = 12) -> tuple[list[kept.Row], list[kept.Row]]:
    rng = generator(0, "test truth")
    quality, trainings, scores = rng.normal(size=count), [], []
    for i in range(count):
        for seed in SEEDS:
            accuracy = quality[i] + 0.2 * rng.normal()
            measured = {"accuracy": accuracy, "auroc": accuracy, "loss": -accuracy}
            row = {"architecture": f"a{i}", "seed": seed, "macs": 1000 + i, "params": 50 + i}
            row |= {"group": ("spread", "equal")[i % 2], "seconds": 1.5} | measured
            trainings.append({name: str(value) for name, value in row.items()})
            score = {"score": "rating", "seed": seed, "architecture": f"a{i}", "seconds": 0.5}
            scores.append({k: str(v) for k, v in (score | {"value": quality[i] + seed}).items()})
    return trainings, scores


def test_tables_from_rows() -> None:
    trainings, scores = rows()
    truth = truth_of(trainings[:-1], SEEDS)  # the last architecture lacks a seed
    assert truth.names == tuple(f"a{i}" for i in range(11))
    np.testing.assert_array_equal(truth.metrics["loss"], truth.metrics["accuracy"])
    assert truth.part("equal").sum() == 5
    scored = scores_of(scores[: 36 - 4], truth)  # with the last seed one of the eleven is missing
    assert scored["rating"].values.shape == (11, 2)
    assert scored["rating"].seconds == pytest.approx(0.5 * 11)


def test_held_against_the_trainings() -> None:
    trainings, scores = rows()
    truth = truth_of(trainings, SEEDS)
    scored = scores_of(scores, truth)
    scored["synflow"] = Scored(-scored["rating"].values, 1.0)
    held = Held(truth, "auroc", scored, resamples=200)
    mean, values = truth.metrics["auroc"].mean(axis=1), scored["rating"].values[:, 0]
    tau = kendalltau(values, mean)[0]
    assert held.evaluated("rating").rating.kendall.value == pytest.approx(tau)
    assert held.evaluated("synflow").rating.kendall.value == pytest.approx(-tau)
    lead = held.lead("synflow")
    assert lead is not None
    assert lead.value == pytest.approx(2 * tau)
    others = truth.metrics["auroc"][:, 1:].mean(axis=1)
    itself = kendalltau(truth.metrics["auroc"][:, 0], others)[0]
    assert held.evaluated("itself").rating.kendall.value == pytest.approx(itself)
    part = truth.part("equal")
    found = held.evaluated("rating", "equal", {}).rating.kendall.value
    assert found == pytest.approx(kendalltau(values[part], mean[part])[0])
    text = section("set", held)
    assert "**set**: 12 architectures trained from scratch with 3 seeds each" in text
    assert f"| our rating | {tau:.2f} (" in text


def test_ceiling_of_a_mean_of_trainings() -> None:
    """Spearman-Brown, against trainings that are drawn."""
    rng = generator(0, "test ceiling")
    quality = rng.normal(size=20_000)
    trainings = quality + rng.normal(size=(3, len(quality)))
    single = np.corrcoef(trainings)[0, 1]
    found = np.corrcoef(trainings.mean(0), quality)[0, 1]
    assert ceiling(single, 3) == pytest.approx(found, abs=0.01)
    assert ceiling(-0.1, 3) == 0


def test_chance_of_random_orders() -> None:
    rng = generator(0, "test chance")
    taus = [kendalltau(np.arange(30), rng.permutation(30))[0] for _ in range(500)]
    assert np.mean(np.abs(taus) <= chance(30)) == pytest.approx(0.95, abs=0.03)


def test_idx_files(tmp_path: Path) -> None:
    expected = pictures(2, 5)
    header = b"\0\0\x08\x04" + b"".join(int(n).to_bytes(4, "big") for n in expected.shape)
    (tmp_path / "file.gz").write_bytes(gzip.compress(header + expected.tobytes()))
    np.testing.assert_array_equal(read_idx(tmp_path / "file.gz"), expected)
