"""Rating of every path of a cell: Algorithm 1 (feature sharing) with Eq 7, batch norm recalibrated.

A path's batch-norm statistics are those of the recalibration pictures run through that very path.
They depend on the path's beginning alone, so the walk down the tree of paths carries the features
of the recalibration pictures along with those of the rating pictures, and every op is run once per
beginning: no second pass per path, and the same answers as rating each path on its own.

Beginnings of one length may share a call of an op too, stacked along the first axis, each with
statistics of its own. That fills a wide device; one processor is quicker with one at a time, whose
batch norm is then folded into its convolutions (tests/benchmarks/rating.py).
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from dna_ray.errors import UserError
from dna_ray.network.cell import CellNet
from dna_ray.network.layers import ConvNorm
from dna_ray.space import Op

Array = np.ndarray
Path = tuple[Op, ...]

# Flags of cuDNN: in full float32, where it would round to TF32.
_EXACT = {"enabled": True, "deterministic": True, "allow_tf32": False}


@dataclass(frozen=True)
class RatingSet:
    """The held-out pictures of one block: boundary k-1 and k as (N, C, H, W) tensors.

    Boundary k-1 is there twice: for the recalibration pictures and for the rating pictures.
    """

    recalibration: Tensor
    inputs: Tensor
    targets: Tensor


@dataclass(frozen=True)
class Calls:
    """How much one call of an op takes, in bytes of float32 features.

    Rating pictures go through in chunks whose boundary k-1 takes `chunk` bytes: batch norm is fixed
    by then, so that changes no answer. Path beginnings are stacked while their features are within
    `stack` bytes; 0 is one at a time, depth-first.
    """

    chunk: int
    stack: int = 0


# By the kind of device, never by its speed or its free memory: stacks of another size round
# differently, and a rating must not depend on where it was made. What a chunk is widened to stays
# in a processor's cache.
CALLS = {"cpu": Calls(chunk=3 * 2**20), "cuda": Calls(chunk=256 * 2**20, stack=256 * 2**20)}


@dataclass(frozen=True)
class Node:
    """A beginning of paths, and the features that the pictures have at its end.

    Those of the recalibration pictures (R, C, H, W), and of each chunk of the rating pictures.
    """

    path: Path
    recalibration: Tensor
    chunks: Sequence[Tensor]

    @property
    def bytes(self) -> int:
        """What the features take."""
        return sum(features.nbytes for features in (self.recalibration, *self.chunks))


def relative_l1(student: Sequence[Tensor], teacher: Tensor) -> float:
    """Eq 7: mean |student - teacher| / std(teacher), over all elements of the whole rating set.

    The student's features come in chunks along the first axis. Raises UserError for a teacher that
    does not vary.
    """
    chunks = teacher.split([len(chunk) for chunk in student])
    return float(_distance(student, chunks)) / teacher.numel() / _deviation(teacher)


def _distance(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """The sum of |student - teacher|: over a map's pixels in float32, over the maps in float64."""
    maps = [(s - t).abs_().sum((2, 3)) for s, t in zip(student, teacher, strict=True)]
    return torch.stack([each.sum(dtype=torch.float64) for each in maps]).sum()


def _deviation(teacher: Tensor) -> float:
    """That of the population (D in the paper), in float64."""
    deviation = float(teacher.double().std(correction=0))
    if deviation == 0:
        raise UserError(
            "the teacher's features must vary over the rating pictures, but a whole boundary has "
            "one value; give a trained teacher, or other pictures"
        )
    return deviation


@torch.inference_mode()
def rate_cell(
    net: CellNet, ops: Path, data: RatingSet, prefix: Path = (), calls: Calls | None = None
) -> dict[Path, float]:
    """Rate all paths of a cell that begin with `prefix`, in lexicographic order of `ops`.

    The cell is left as it was. `calls` are by default those of the kind of device it is on.
    """
    calls = calls or CALLS[data.inputs.device.type]
    net, layers = _recalibrated(net, len(data.recalibration)), len(net.layers)
    scale = data.targets.numel() * _deviation(data.targets)
    pictures = max(1, calls.chunk // (4 * data.inputs[0].numel()))
    targets = data.targets.split(pictures)
    with torch.backends.cudnn.flags(**_EXACT):
        root = [Node(prefix, data.recalibration, data.inputs.split(pictures))]
        for module in (net.stem, *(net.op(layer, op) for layer, op in enumerate(prefix))):
            root = _through(module, root)
        leaves = _below(net, ops, root, len(prefix), calls.stack)
        sums = {leaf.path: _distance(leaf.chunks, targets) for leaf in leaves}
    losses = dict(zip(sums, (torch.stack(list(sums.values())) / scale).tolist(), strict=True))
    paths = (prefix + rest for rest in product(ops, repeat=layers - len(prefix)))
    return {path: losses[path] for path in paths}


@torch.inference_mode()
def behind(
    parts: Sequence[tuple[CellNet, Path]], recalibration: Tensor, batches: Iterable[Tensor]
) -> list[Tensor]:
    """What cells one behind another, each along its path, make of pictures.

    Of the recalibration pictures, which give batch norm its statistics as in rating, and then of
    every batch with these statistics. The cells are left as they were.
    """
    nets = [(_recalibrated(net, len(recalibration)), path) for net, path in parts]
    features: list[Tensor] = []
    with torch.backends.cudnn.flags(**_EXACT):
        for x in (recalibration, *batches):
            for net, path in nets:
                x = net.train(not features)(x, path)
            features.append(x)
    return features


def _below(
    net: CellNet, ops: Path, nodes: Iterable[Node], layer: int, stack: int
) -> Iterator[Node]:
    """The ends of all paths below some nodes: DFS-Forward of Algorithm 1, a stack at a time."""
    if layer == len(net.layers):
        yield from nodes
        return
    for group in _stacks(nodes, stack):
        yield from _below(net, ops, _children(net, ops, group, layer), layer + 1, stack)


def _stacks(nodes: Iterable[Node], stack: int) -> Iterator[list[Node]]:
    """Nodes in groups whose features are within `stack` bytes, but no fewer than one."""
    group: list[Node] = []
    for node in nodes:
        group.append(node)
        if (len(group) + 1) * node.bytes > stack:
            yield group
            group = []
    if group:
        yield group


def _children(net: CellNet, ops: Path, group: Sequence[Node], layer: int) -> Iterator[Node]:
    """Every op after every one of a group, op by op, made when they are asked for."""
    for op in ops:
        for node in _through(net.op(layer, op), group):
            yield Node((*node.path, op), node.recalibration, node.chunks)


def _through(module: nn.Module, group: Sequence[Node]) -> list[Node]:
    """Recalibrate one layer, then run it on the rating pictures with the statistics it has now."""

    def run(features: Sequence[Tensor]) -> Sequence[Tensor]:
        results: Tensor = module(features[0] if len(features) == 1 else torch.cat(list(features)))
        return results.chunk(len(group))

    module.train()
    recalibrated = run([node.recalibration for node in group])
    module.eval()
    columns = [run(column) for column in zip(*[node.chunks for node in group], strict=True)]
    rows = zip(*columns, strict=True)
    return [
        Node(node.path, recalibration, chunks)
        for node, recalibration, chunks in zip(group, recalibrated, rows, strict=True)
    ]


class _Recalibrated(nn.Module):
    """A ConvNorm whose batch norm has the statistics of its last recalibration pictures alone.

    In training mode it reads the recalibration pictures of one path beginning or of several, and in
    evaluation mode rating pictures of as many. That of a single one is folded into the convolution.
    """

    def __init__(self, layer: ConvNorm, pictures: int) -> None:
        """`pictures` recalibrate one beginning. The convolution's parameters become tensors."""
        super().__init__()
        conv, norm, *activation = layer
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        self.conv, self.norm, self.activation = conv, norm, nn.Sequential(*activation)
        self.pictures, self.weight = pictures, conv.weight.detach()
        del conv.weight, conv.bias
        self.scale = self.shift = torch.empty(0)  # (P, C)

    def forward(self, x: Tensor) -> Tensor:
        """(P B, C, H, W) to (P B, C', H', W')."""
        if self.training:
            self.conv.weight, self.conv.bias = self.weight, None
            y = self._recalibrate(self.conv(x))
            if len(self.scale) == 1:
                self.conv.weight = self.weight * self.scale.view(-1, 1, 1, 1)
                self.conv.bias = self.shift.view(-1)
        else:
            y = self.conv(x)
            if len(self.scale) > 1:
                scale, shift = (v[:, None, :, None, None] for v in (self.scale, self.shift))
                y = torch.addcmul(shift, y.unflatten(0, (len(scale), -1)), scale).view_as(y)
        activated: Tensor = self.activation(y)
        return activated

    def _recalibrate(self, y: Tensor) -> Tensor:
        """Batch norm of each beginning by its own statistics, kept as torch would keep them.

        These pictures are normalised by the biased variance and later ones by the unbiased. To
        torch, the channels of all beginnings are channels of one.
        """
        stacks, norm = len(y) // self.pictures, self.norm
        channels = y.unflatten(0, (stacks, -1)).transpose(0, 1).flatten(1, 2)
        mean, variance = (torch.zeros(channels.shape[1], device=y.device) for _ in range(2))
        weight, bias = norm.weight.repeat(stacks), norm.bias.repeat(stacks)
        channels = F.batch_norm(channels, mean, variance, weight, bias, True, 1.0, norm.eps)
        scale = weight * torch.rsqrt(variance + norm.eps)
        self.scale, self.shift = (v.view(stacks, -1) for v in (scale, bias - mean * scale))
        apart: Tensor = channels.unflatten(1, (stacks, -1)).transpose(0, 1).flatten(0, 1)
        return apart.contiguous(memory_format=torch.channels_last)


def _recalibrated(net: CellNet, pictures: int) -> CellNet:
    """A copy of a cell to rate with: its batch norm recalibrated, its activations in place."""
    net = copy.deepcopy(net)
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, ConvNorm):
                module.register_module(name, _Recalibrated(child, pictures))
            elif isinstance(child, nn.ReLU | nn.ReLU6 | nn.SiLU):
                child.inplace = True
    return net
