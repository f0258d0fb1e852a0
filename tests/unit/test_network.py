"""Built networks against the costs, their parts and their files."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dna_ray.errors import UserError
from dna_ray.network import CellNet, build_cell, build_network
from dna_ray.network.layers import DepthwiseConv, MBConv, quicken
from dna_ray.network.model import (
    ModelSpec,
    TimmSpec,
    TrainedModel,
    build_model,
    load_model,
    module_costs,
    save_model,
    trained,
    with_classes,
)
from dna_ray.space import (
    ZOO,
    Architecture,
    BlockChoice,
    NetworkSpec,
    Op,
    Space,
    load_space,
    network_costs,
    network_spec,
    scale,
)
from dna_ray.space.costs import path_costs, stem_costs

PIXELS = ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
TIMM = TimmSpec(name="test_efficientnet", classes=5, mean=PIXELS[0], std=PIXELS[1])


def random_architecture(space: Space, rng: np.random.Generator) -> Architecture:
    choices = []
    for block in space.blocks:
        cell = block.cells[rng.integers(len(block.cells))]
        ops = tuple(block.ops[i] for i in rng.integers(len(block.ops), size=cell.layers))
        choices.append(BlockChoice(cell.width, ops))
    return Architecture(tuple(choices))


def counted(spec: NetworkSpec, resolution: int) -> dict[str, int]:
    """Parameters and multiply-adds by torch's own counter."""
    module = build_network(spec).eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        module(torch.zeros(1, 3, resolution, resolution))
    assert counter.get_total_flops() % 2 == 0
    params = sum(math.prod(p.shape) for p in module.parameters())
    return {"params": params, "macs": counter.get_total_flops() // 2}


def told(spec: NetworkSpec, resolution: int) -> dict[str, int]:
    total = network_costs(spec, resolution).total
    return {"params": total.params, "macs": total.macs}


@pytest.mark.parametrize("name", ["mbconv6", "mbconv4", "demo"])
@pytest.mark.parametrize(("resolution", "coefficient"), [(32, 0), (47, 1), (97, 0)])
def test_costs_are_those_that_torch_counts(name: str, resolution: int, coefficient: int) -> None:
    space = load_space(name)
    architecture = random_architecture(space, np.random.default_rng(resolution))
    spec = scale(network_spec(space, architecture, classes=7), coefficient)
    assert counted(spec, resolution) == told(spec, resolution), str(architecture)


@pytest.mark.parametrize("coefficient", [2, 7])
def test_costs_of_large_copies_are_those_that_torch_counts(tiny: Space, coefficient: int) -> None:
    rng = np.random.default_rng(coefficient)
    for resolution in (15, 64):
        spec = scale(network_spec(tiny, random_architecture(tiny, rng), classes=9), coefficient)
        assert counted(spec, resolution) == told(spec, resolution)


def test_costs_of_a_zoo_network_are_those_that_torch_counts() -> None:
    spec = network_spec(load_space("mbconv6"), Architecture.parse(ZOO["dna-d"]))
    assert counted(spec, 224) == told(spec, 224)


@pytest.mark.parametrize(("name", "resolution"), [("mbconv4", 33), ("demo", 45)])
def test_module_costs_agree_with_the_costs_of_the_space(name: str, resolution: int) -> None:
    space = load_space(name)
    architecture = random_architecture(space, np.random.default_rng(1))
    spec = network_spec(space, architecture, classes=3)
    assert module_costs(build_network(spec), resolution) == told(spec, resolution)


@pytest.mark.parametrize("name", ["test_resnet", "convnext_atto", "test_vit"])
def test_module_costs_of_timm_networks_are_those_of_torch(name: str) -> None:
    size = 160 if name == "test_vit" else 65
    spec = TimmSpec(name=name, classes=4, mean=PIXELS[0], std=PIXELS[1])
    module = build_model(spec).eval()
    costs = module_costs(module, size)
    assert costs["params"] == sum(
        p.numel() for p in timm.create_model(name, num_classes=4).parameters()
    )
    convolutions_and_linears = (torch.ops.aten.convolution, torch.ops.aten.addmm)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        module(torch.zeros(1, 3, size, size))
    flops = counter.get_flop_counts()["Global"]
    assert 2 * costs["macs"] == sum(
        flops[kind] for kind in convolutions_and_linears if kind in flops
    )


@pytest.mark.parametrize("block", [0, 1])
def test_costs_of_a_widened_path_are_those_of_the_supernet(tiny: Space, block: int) -> None:
    width_in, width_out, size = 10, 20, 13
    shape = tiny.blocks[block]
    for cell, choice in enumerate(shape.cells):
        net = build_cell(tiny, block, cell, width_in, width_out, *PIXELS).eval()
        x = torch.zeros(1, width_in, size, size) if block else torch.zeros(1, 3, size, size)
        for path in shape.paths(cell):
            with torch.inference_mode(), FlopCounterMode(display=False) as counter:
                net(x, path)
            costs = path_costs(
                path,
                width_in if block else tiny.trunk.stem_out,
                choice.width,
                shape.stride,
                size if block else (size + 1) // 2,
                tiny.trunk.se_ratio,
                width_out,
            )
            stem = stem_costs(tiny.trunk, size).macs if block == 0 else 0
            assert counter.get_total_flops() == 2 * (costs.macs + stem)
            modules = [net.op(layer, op) for layer, op in enumerate(path)]
            assert costs.params == sum(p.numel() for m in modules for p in m.parameters())


def disturb(module: nn.Module) -> None:
    """Give batch norms statistics and weights that a test would notice."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.5, 2)
            nn.init.uniform_(layer.weight, 0.5, 2)
            nn.init.normal_(layer.bias)
        elif isinstance(layer, nn.Conv2d) and layer.bias is not None:
            nn.init.normal_(layer.bias)


def cell_input(block: int, width: int) -> Tensor:
    if block == 0:
        return torch.randint(256, (3, 3, 15, 15), dtype=torch.uint8)
    return torch.randn(3, width, 7, 7)


@pytest.mark.parametrize("block", [0, 1])
@pytest.mark.parametrize("training", [False, True])
def test_a_path_is_a_chain_of_layers(tiny: Space, block: int, training: bool) -> None:
    torch.manual_seed(0)
    shape = tiny.blocks[block]
    for cell, choice in enumerate(shape.cells):
        net = build_cell(tiny, block, cell, 10, 20, *PIXELS)
        disturb(net)
        net.train(training)
        x = cell_input(block, 10)
        for path in shape.paths(cell):
            widths = [10 if block else tiny.trunk.stem_out, *[choice.width] * choice.layers]
            widths[-1] = 20
            chain = nn.Sequential(
                *(
                    MBConv(op, w_in, w_out, 1 if layer else shape.stride, 0.25, "silu")
                    for layer, (op, w_in, w_out) in enumerate(
                        zip(path, widths, widths[1:], strict=False)
                    )
                )
            )
            for layer, op in enumerate(path):
                chain[layer].load_state_dict(net.op(layer, op).state_dict())
            chain.train(training)
            assert torch.equal(net(x, path), chain(net.stem(x)))


def derived(net: CellNet, block: int, path: tuple[Op, ...], network: nn.Module) -> nn.Module:
    """`network` with the weights of a path in its `block`, and those of the stem."""
    layers = network.get_submodule(f"blocks.{block}")
    assert len(list(layers.children())) == len(path)
    for layer, op in enumerate(path):
        layers.get_submodule(str(layer)).load_state_dict(net.op(layer, op).state_dict())
    if block == 0:
        network.get_submodule("stem").load_state_dict(net.stem.state_dict())
    return network.eval()


@pytest.mark.parametrize("block", [0, 1])
def test_a_path_at_narrow_widths_is_the_derived_network(tiny: Space, block: int) -> None:
    torch.manual_seed(1)
    first, second = tiny.blocks[0].cells, tiny.blocks[1].cells
    places = (
        [(cell, (shape, second[0])) for cell, shape in enumerate(first)]
        if block == 0
        else [(cell, (before, shape)) for cell, shape in enumerate(second) for before in first[1:]]
    )
    for cell, (before, after) in places:
        widths = (before.width, (before, after)[block].width)
        net = build_cell(tiny, block, cell, *widths, *PIXELS)
        disturb(net)
        net.eval().to(memory_format=torch.channels_last)
        for path in tiny.blocks[block].paths(cell):
            ops = [
                (tiny.blocks[b].ops[0],) * shape.layers for b, shape in enumerate((before, after))
            ]
            ops[block] = path
            architecture = Architecture(
                (BlockChoice(before.width, ops[0]), BlockChoice(after.width, ops[1]))
            )
            spec = replace(
                network_spec(tiny, architecture, classes=3), mean=PIXELS[0], std=PIXELS[1]
            )
            network = derived(net, block, path, build_network(spec))
            x = cell_input(block, before.width).contiguous(memory_format=torch.channels_last)
            with torch.inference_mode():
                start = network.get_submodule("stem")(x) if block == 0 else x
                expected = network.get_submodule(f"blocks.{block}")(start)
                assert torch.equal(net(x, path), expected)


def tiny_spec(tiny: Space) -> NetworkSpec:
    architecture = Architecture.parse("12:k5e2,k3e1/16:k3e2")
    return replace(network_spec(tiny, architecture, 5), mean=PIXELS[0], std=PIXELS[1])


def a_model(spec: ModelSpec) -> TrainedModel:
    torch.manual_seed(2)
    module = build_model(spec)
    disturb(module)
    return trained(spec, module)


@pytest.fixture(params=["ours", "timm"])
def model(request: pytest.FixtureRequest, tiny: Space) -> TrainedModel:
    return a_model(tiny_spec(tiny) if request.param == "ours" else TIMM)


def test_a_saved_model_comes_back(model: TrainedModel, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(save_model(model))
    loaded = load_model(file)
    assert loaded.spec == model.spec
    assert loaded.state.keys() == model.state.keys()
    assert all(torch.equal(loaded.state[name], value) for name, value in model.state.items())
    assert save_model(loaded) == save_model(model)
    pictures = torch.randint(256, (2, 3, 33, 33), dtype=torch.uint8)
    with torch.inference_mode():
        logits = loaded.build()(pictures)
        assert logits.shape == (2, 5)
        assert torch.equal(logits, model.build()(pictures))


def test_networks_scale_pixels_themselves(model: TrainedModel) -> None:
    """0..255 in any type; the statistics are those of the specification."""
    pictures = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in PIXELS)
    other = replace(
        model, spec=replace(model.spec, mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255))
    )
    with torch.inference_mode():
        logits = model.build()(pictures)
        scaled = other.build()((pictures / 255 - mean) / std)
    torch.testing.assert_close(logits, scaled, rtol=1e-4, atol=1e-5)


def test_a_trained_model_is_a_copy(tiny: Space) -> None:
    module = build_model(tiny_spec(tiny))
    copy = trained(tiny_spec(tiny), module)
    before = {name: value.clone() for name, value in copy.state.items()}
    built = copy.build()
    for changed in (module, built):
        for value in changed.state_dict().values():
            value += 1
    assert all(torch.equal(copy.state[name], value) for name, value in before.items())


@pytest.mark.parametrize("content", ["foreign", "text", "empty", "cut short", "nothing"])
def test_files_that_are_no_model_are_refused(content: str, tmp_path: Path) -> None:
    file = tmp_path / "other.safetensors"
    ours = save_model(a_model(TIMM))
    data = {
        "foreign": safetensors.torch.save({"weight": torch.ones(3)}),
        "text": b"no weights but a sentence",
        "empty": b"",
        "cut short": ours[: len(ours) // 2],
    }
    if content in data:
        file.write_bytes(data[content])
    with pytest.raises(UserError, match=r"other\.safetensors"):
        load_model(file)


def test_a_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        load_model(tmp_path)


@pytest.mark.parametrize("classes", [2, 9])
def test_new_classes_keep_all_but_the_last_layer(model: TrainedModel, classes: int) -> None:
    adapted = with_classes(model, classes)
    assert adapted.spec == replace(model.spec, classes=classes)
    different = {
        name
        for name, value in adapted.state.items()
        if value.shape != model.state[name].shape or not torch.equal(value, model.state[name])
    }
    assert {name.split(".")[-2] for name in different} == {"classifier"}
    assert len(different) == 2
    pictures = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        logits = adapted.build()(pictures)
    assert torch.equal(logits, torch.zeros(4, classes))


@pytest.mark.parametrize("side", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_depthwise_convolution_is_torchs_own(side: int, kernel: int, stride: int) -> None:
    torch.manual_seed(0)
    ours = DepthwiseConv(6, 6, kernel, stride, kernel // 2, groups=6, bias=False)
    theirs = nn.Conv2d(6, 6, kernel, stride, kernel // 2, groups=6, bias=False)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(4, 6, side, side)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [layer(i) for layer, i in zip((ours, theirs), inputs, strict=True)]
    gradient = torch.randn_like(outputs[1])
    for output in outputs:
        output.backward(gradient)
    assert torch.allclose(outputs[0], outputs[1], atol=1e-6)
    assert ours.weight.grad is not None
    assert theirs.weight.grad is not None
    assert torch.allclose(ours.weight.grad, theirs.weight.grad, atol=1e-5)
    assert inputs[0].grad is not None
    assert inputs[1].grad is not None
    assert torch.allclose(inputs[0].grad, inputs[1].grad, atol=1e-6)


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "mobilenetv3_small_050", "resnet18"])
def test_quickening_changes_no_answer(name: str) -> None:
    torch.manual_seed(0)
    network = timm.create_model(name).eval()
    x, state = torch.randn(2, 3, 64, 64), network.state_dict()
    with torch.inference_mode():
        before = network(x)
        after = quicken(network)(x)
    assert torch.allclose(before, after, rtol=1e-4, atol=1e-5)
    assert network.state_dict().keys() == state.keys()
    quick = sum(isinstance(layer, DepthwiseConv) for layer in network.modules())
    depthwise = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert quick == sum(type(m) is DepthwiseConv for m in depthwise)
    assert (quick > 0) == (len(depthwise) > 0)


def test_counting_leaves_the_mode_as_it_was() -> None:
    module = build_model(TIMM)
    for mode in (True, False):
        module_costs(module.train(mode), 32)
        assert module.training is mode
