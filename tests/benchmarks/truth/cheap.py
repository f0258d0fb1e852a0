"""Scores of a network that has not been trained. Of all, more is said to be better."""

import copy

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from dna_ray.network.layers import ACTIVATIONS, Pixels

_NONLINEAR = (*ACTIVATIONS.values(), nn.BatchNorm2d, Pixels)


def synflow(module: nn.Module, resolution: int) -> float:
    """The sum over all weights of |w x dR/dw|: synaptic flow (Tanaka et al., arXiv 2006.05467).

    R is the sum of the logits for a picture of ones with the magnitude of every weight in its
    place; batch norm and activations are left out. The logarithm is given, which ranks alike. As a
    score of whole networks: Abdelfattah et al. (arXiv 2101.08134).
    """
    linear = copy.deepcopy(module).double()
    for parent in list(linear.modules()):
        for name, child in parent.named_children():
            if isinstance(child, _NONLINEAR):
                setattr(parent, name, nn.Identity())
    parameters = list(linear.parameters())
    with torch.no_grad():
        for parameter in parameters:
            parameter.abs_()
    flow = linear(torch.ones(1, 3, resolution, resolution, dtype=torch.float64)).sum()
    gradients = torch.autograd.grad(flow, parameters)
    total = sum(float((p.detach() * g).sum()) for p, g in zip(parameters, gradients, strict=True))
    return float(np.log(total))


def gradient_norm(module: nn.Module, pictures: Tensor, labels: Tensor) -> float:
    """The norm of the gradient of the cross entropy of one minibatch, over all weights.

    As a score of architectures: Abdelfattah et al. (arXiv 2101.08134).
    """
    module.train()
    loss = F.cross_entropy(module(pictures), labels)
    gradients = torch.autograd.grad(loss, list(module.parameters()))
    return float(torch.stack([g.pow(2).sum() for g in gradients]).sum().sqrt())


@torch.no_grad()
def naswot(module: nn.Module, pictures: Tensor) -> float:
    """log |det K|: how differently pictures switch the units (Mellor et al., arXiv 2006.04647).

    K[i, j] counts the units that are on for both pictures i and j, or off for both, where a unit
    is one value of an activation's output. Pictures are one minibatch (N, 3, H, W).
    """
    kernel = np.zeros((len(pictures), len(pictures)))

    def count(_: nn.Module, __: object, output: Tensor) -> None:
        on = (output > 0).flatten(1).float()
        off = 1 - on
        kernel[...] += (on @ on.T + off @ off.T).double().numpy()

    units = [m for m in module.modules() if isinstance(m, tuple(ACTIVATIONS.values()))]
    handles = [unit.register_forward_hook(count) for unit in units]
    try:
        module.train()
        module(pictures)
    finally:
        for handle in handles:
            handle.remove()
    return float(np.linalg.slogdet(kernel)[1])
