"""Layers that are computed in another way than torch's own, against torch's own."""

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from dna_ray.network.layers import DepthwiseConv, PointwiseConv

LAYOUTS = [torch.channels_last, torch.contiguous_format]


def trained(layer: nn.Conv2d, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The output, and the gradients of input and weights, for a random gradient of the output."""
    x = x.clone().requires_grad_()
    output = layer(x)
    torch.manual_seed(1)
    output.backward(torch.randn(output.shape))
    assert x.grad is not None
    assert layer.weight.grad is not None
    return output.detach(), x.grad, layer.weight.grad


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("side", [1, 2, 5])
def test_a_pointwise_convolution_is_torchs_own(
    side: int, bias: bool, layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    ours, theirs = PointwiseConv(6, 9, 1, bias=bias), nn.Conv2d(6, 9, 1, bias=bias)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(4, 6, side, side).contiguous(memory_format=layout)
    for mine, other in zip(trained(ours, x), trained(theirs, x), strict=True):
        assert mine.shape == other.shape
        assert torch.allclose(mine, other, atol=1e-5)


@pytest.mark.parametrize("side", [2, 3])
def test_a_layout_stays_what_it_was(side: int) -> None:
    x = torch.randn(4, 6, side, side).contiguous(memory_format=torch.channels_last)
    layers = (
        PointwiseConv(6, 6, 1, bias=False),
        DepthwiseConv(6, 6, 5, 1, 2, groups=6, bias=False),
    )
    for layer in layers:
        for mode in (nullcontext(), torch.inference_mode()):
            with mode:
                assert layer(x).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", [(2, 7), (7, 2), (4, 3)])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_small_depthwise_map_need_not_be_square(shape: tuple[int, int], stride: int) -> None:
    torch.manual_seed(0)
    ours = DepthwiseConv(6, 6, 5, stride, 2, groups=6, bias=False)
    theirs = nn.Conv2d(6, 6, 5, stride, 2, groups=6, bias=False)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(4, 6, *shape)
    for mine, other in zip(trained(ours, x), trained(theirs, x), strict=True):
        assert torch.allclose(mine, other, atol=1e-5)


def test_only_what_learns_has_a_gradient() -> None:
    layer = DepthwiseConv(6, 6, 5, 1, 2, groups=6, bias=False)
    layer(torch.randn(4, 6, 2, 2)).sum().backward()  # pictures: no gradient of the input
    assert layer.weight.grad is not None
    layer.requires_grad_(False)
    x = torch.randn(4, 6, 2, 2, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
