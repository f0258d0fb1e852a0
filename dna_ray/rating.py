"""Rating of every path of a cell: Algorithm 1 (feature sharing) with Eq 7, batch norm recalibrated.

A path's batch-norm statistics are those of the recalibration pictures run through that very path.
They depend on the path's beginning alone, so the walk down the tree of paths carries the features
of the recalibration pictures along with those of the rating pictures, and every op is run once per
beginning: no second pass per path, and the same answers as rating each path on its own.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from dna_ray.errors import UserError
from dna_ray.network.cell import CellNet
from dna_ray.space import Op

Array = np.ndarray

# Rating pictures go through a layer in chunks: batch norm is fixed by then, so that changes no
# answer, and the widened features of a chunk stay in the processor's cache.
CHUNK = 64


@dataclass(frozen=True)
class RatingSet:
    """The held-out pictures of one block: boundary k-1 and k as (N, C, H, W) tensors.

    Boundary k-1 is there twice: for the recalibration pictures and for the rating pictures.
    """

    recalibration: Tensor
    inputs: Tensor
    targets: Tensor


def relative_l1(student: Sequence[Tensor], teacher: Tensor) -> float:
    """Eq 7: mean |student - teacher| / std(teacher), over all elements of the whole rating set.

    The student's features come in chunks along the first axis. Sums are in float64; the deviation
    is the population's (D in the paper). Raises UserError for a teacher that does not vary.
    """
    error: float = sum(
        float((s - t).abs().sum(dtype=torch.float64))
        for s, t in zip(student, teacher.split([len(s) for s in student]), strict=True)
    )
    deviation = float(teacher.double().std(correction=0))
    if deviation == 0:
        raise UserError(
            "the teacher's features must vary over the rating pictures, but a whole boundary has "
            "one value; give a trained teacher, or other pictures"
        )
    return error / teacher.numel() / deviation


@torch.inference_mode()
def rate_cell(
    net: CellNet, ops: tuple[Op, ...], data: RatingSet, prefix: tuple[Op, ...] = ()
) -> dict[tuple[Op, ...], float]:
    """Rate all paths of a cell that begin with `prefix`, in lexicographic order of `ops`.

    The cell is left as it was: batch-norm state, mode and all.
    """
    with _recalibrating(net):
        recalibration, chunks = _through(net.stem, data.recalibration, data.inputs.split(CHUNK))
        for layer, op in enumerate(prefix):
            recalibration, chunks = _through(net.op(layer, op), recalibration, chunks)
        return dict(_walk(net, ops, prefix, recalibration, chunks, data.targets))


def _walk(
    net: CellNet,
    ops: tuple[Op, ...],
    path: tuple[Op, ...],
    recalibration: Tensor,
    chunks: Sequence[Tensor],
    targets: Tensor,
) -> Iterator[tuple[tuple[Op, ...], float]]:
    """DFS-Forward of Algorithm 1."""
    if len(path) == len(net.layers):
        yield path, relative_l1(chunks, targets)
        return
    for op in ops:
        features = _through(net.op(len(path), op), recalibration, chunks)
        yield from _walk(net, ops, (*path, op), *features, targets)


def _through(
    module: nn.Module, recalibration: Tensor, chunks: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Recalibrate one layer, then run it on the rating pictures with the statistics it has now."""
    module.train()
    recalibrated = module(recalibration)
    module.eval()
    return recalibrated, [module(chunk) for chunk in chunks]


@contextmanager
def _recalibrating(net: nn.Module) -> Iterator[None]:
    """Let each batch norm keep the statistics of its last batch alone; undo everything after."""
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    buffers = {name: buffer.clone() for name, buffer in net.named_buffers()}
    training = net.training
    for norm in norms:
        norm.momentum = 1.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for name, buffer in net.named_buffers():
            buffer.copy_(buffers[name])
        net.train(training)
