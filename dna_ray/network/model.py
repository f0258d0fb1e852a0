"""Trained models: what to build, and the weights to fill it with; saved as safetensors."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from dna_ray.errors import UserError
from dna_ray.network.layers import Pixels, quicken
from dna_ray.network.standalone import build_network
from dna_ray.space.spec import NetworkSpec
from dna_ray.storage import Place

_METADATA_KEY = "dna_ray.model"


@dataclass(frozen=True, kw_only=True)
class TimmSpec:
    """A network of timm by name, and the pixel statistics that it was trained with."""

    name: str
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


class TimmNetwork(nn.Module):
    """A timm network that reads pixels 0..255 (B, 3, H, W), as every network here does."""

    def __init__(self, spec: TimmSpec) -> None:
        super().__init__()
        import timm  # a second of import that only the processes with such a teacher pay

        self.pixels = Pixels(spec.mean, spec.std)
        self.model = quicken(timm.create_model(spec.name, num_classes=spec.classes))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) pixels to (B, classes) logits."""
        logits: Tensor = self.model(self.pixels(x))
        return logits


ModelSpec = NetworkSpec | TimmSpec


@dataclass(frozen=True)
class TrainedModel:
    """A model on the CPU: its specification and its state."""

    spec: ModelSpec
    state: dict[str, Tensor]

    @property
    def fingerprint(self) -> str:
        """A hash of the specification and of every weight."""
        digest = hashlib.sha256(repr(self.spec).encode())
        for name, value in sorted(self.state.items()):
            digest.update(name.encode() + value.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def build(self) -> nn.Module:
        """The module in evaluation mode and channels-last memory."""
        module = build_model(self.spec)
        module.load_state_dict(self.state)
        return module.eval()


def build_model(spec: ModelSpec) -> nn.Module:
    """The module of a specification in channels-last memory, weights from torch's generator."""
    if isinstance(spec, NetworkSpec):
        return build_network(spec)
    return TimmNetwork(spec).to(memory_format=torch.channels_last)


def trained(spec: ModelSpec, module: nn.Module) -> TrainedModel:
    """Copy the state of a module out of it."""
    return TrainedModel(spec, {k: v.detach().cpu().clone() for k, v in module.state_dict().items()})


def save_model(model: TrainedModel) -> bytes:
    """A safetensors file whose metadata holds the specification."""
    if isinstance(model.spec, NetworkSpec):
        spec = model.spec.to_json()
    else:
        spec = json.dumps(asdict(model.spec))
    state = {key: value.contiguous() for key, value in model.state.items()}
    return save(state, {_METADATA_KEY: spec})


def load_model(file: Place | Path) -> TrainedModel:
    """Read what `save_model` wrote; raises UserError for any other file."""
    metadata, state = read_safetensors(file)
    if _METADATA_KEY not in metadata:
        raise UserError(
            f"a model of ours must say what network it holds, but '{file}' does not; "
            "give weights of a timm network as NAME:FILE"
        )
    tree = json.loads(metadata[_METADATA_KEY])
    if "blocks" in tree:
        return TrainedModel(NetworkSpec.from_json(metadata[_METADATA_KEY]), state)
    tree |= {"mean": tuple(tree["mean"]), "std": tuple(tree["std"])}
    return TrainedModel(TimmSpec(**tree), state)


def read_safetensors(file: Place | Path) -> tuple[Mapping[str, str], dict[str, Tensor]]:
    """The metadata and the tensors of a safetensors file; raises UserError."""
    place = Place.of(file) if isinstance(file, Path) else file
    if not place.is_file():
        raise UserError(f"a file of weights must exist, but there is none at '{place}'")
    data = place.read()
    try:
        state = load(data)
    except SafetensorError as error:
        raise UserError(
            f"weights must be a safetensors file, but '{place}' is not: {error}"
        ) from None
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return header.get("__metadata__", {}), state


def with_classes(model: TrainedModel, classes: int) -> TrainedModel:
    """`model` with a last layer for `classes`, which starts at zero where their number is another.

    At zero, so that all classes start even.
    """
    spec: Any = replace(model.spec, classes=classes)
    state = build_model(spec).state_dict()
    kept = {k: v for k, v in model.state.items() if v.shape == state[k].shape}
    fresh = {k: torch.zeros_like(v) for k, v in state.items() if k not in kept}
    return TrainedModel(spec, {key: kept.get(key, fresh.get(key)) for key in state})  # type: ignore[misc]


def module_costs(module: nn.Module, resolution: int) -> dict[str, int]:
    """`params` and `macs` of any module that reads pictures, counted on a run of one picture.

    Multiply-adds are those of convolutions and linear layers.
    """
    macs = 0

    def count(layer: nn.Module, inputs: Any, output: Tensor) -> None:
        nonlocal macs
        weight = layer.weight
        assert isinstance(weight, Tensor)
        places = output[0, 0].numel() if isinstance(layer, nn.Conv2d) else output[0, ..., 0].numel()
        macs += weight.numel() * places

    layers = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    training = module.training
    try:
        with torch.inference_mode():
            module.eval()(torch.zeros(1, 3, resolution, resolution))
    finally:
        module.train(training)
        for handle in handles:
            handle.remove()
    return {"params": sum(p.numel() for p in module.parameters()), "macs": macs}
