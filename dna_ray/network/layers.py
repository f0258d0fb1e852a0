"""The layers of the MBConv family. Feature maps are (B, C, H, W), in channels-last memory."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F  # noqa: N812 - torch's own convention
from torch.nn.grad import conv2d_input

from dna_ray.space.costs import DEPTHWISE_SEPARABLE
from dna_ray.space.ops import Op
from dna_ray.space.spaces import Trunk

# Not in place: autograd would copy what SiLU and ReLU6 overwrite, because it needs their input.
ACTIVATIONS: dict[str, type[nn.Module]] = {"silu": nn.SiLU, "relu": nn.ReLU, "relu6": nn.ReLU6}


class Pixels(nn.Module):
    """Scale pixel values 0..255 of any dtype to what a network was trained on.

    Networks hold this as their first layer, so that a picture means the same to every one of them.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        # The statistics are data of the specification, not weights: kept out of the state.
        for name, value in (("mean", mean), ("std", std)):
            self.register_buffer(name, 255 * torch.tensor(value).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) pixels to (B, 3, H, W) float32."""
        return (x.float() - self.mean) / self.std


class PointwiseConv(nn.Conv2d):
    """A 1x1 convolution, which on a processor is a product of matrices.

    In channels-last memory nothing has to be moved for that, and it takes less time than oneDNN's
    convolution, forward and backward (tests/benchmarks/step.py).
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """(B, C, H, W) to (B, C', H, W)."""
        laid_out = input.is_contiguous(memory_format=torch.channels_last)
        output: Tensor
        if input.device.type == "cpu" and bias is None and laid_out:
            output = F.linear(input.permute(0, 2, 3, 1), weight.flatten(1)).permute(0, 3, 1, 2)
        else:
            output = super()._conv_forward(input, weight, bias)
        return output


class DepthwiseConv(nn.Conv2d):
    """A depthwise convolution with symmetric padding, quick to train on small feature maps too.

    On a processor, oneDNN's gradient of the weights takes many times what the convolution takes.
    Where the map that comes out is smaller than the kernel, summing it tap by tap is several times
    as fast (tests/benchmarks/depthwise.py).
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """(B, C, H, W) to (B, C, ceil(H/stride), ceil(W/stride))."""
        small = (min(input.shape[2:]) - 1) // self.stride[0] + 1 < self.kernel_size[0]
        learns = torch.is_grad_enabled() and weight.requires_grad and bias is None
        output: Tensor
        if input.device.type == "cpu" and small and learns:
            output = _ByTaps.apply(input, weight, self.stride, self.padding)
        else:
            output = super()._conv_forward(input, weight, bias)
        return output


class _ByTaps(Function):
    """A depthwise convolution whose weight gradient passes over the map once for every tap."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, None, stride, padding, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        x, weight = ctx.saved_tensors
        of_input = None
        if ctx.needs_input_grad[0]:
            of_input = conv2d_input(
                x.shape, weight, gradient, ctx.stride, ctx.padding, groups=len(weight)
            )
        shapes = (weight.shape[2:], ctx.padding, x.shape[2:], ctx.stride, gradient.shape[2:])
        rows, columns = (
            [_reach(tap - padding, side, stride, out) for tap in range(taps)]
            for taps, padding, side, stride, out in zip(*shapes, strict=True)
        )
        sums = [
            (x[:, :, row, column] * gradient[:, :, above, beside]).sum((0, 2, 3))
            for row, above in rows
            for column, beside in columns
        ]
        return of_input, torch.stack(sums, 1).view_as(weight), None, None


def _reach(offset: int, side: int, stride: int, out: int) -> tuple[slice, slice]:
    """What a tap reads inside a map of a `side`, and for which of the `out` results.

    The tap stands `offset` after the middle of the kernel.
    """
    first = max(0, -(offset // stride))
    last = max(first - 1, min(out - 1, (side - 1 - offset) // stride))
    read = slice(first * stride + offset, last * stride + offset + 1, stride)
    return read, slice(first, last + 1)


def quicken(network: nn.Module) -> nn.Module:
    """Make the depthwise convolutions of somebody else's network quick; it stays as it is else."""
    for layer in network.modules():
        if (
            type(layer) is nn.Conv2d
            and layer.groups == layer.in_channels == layer.out_channels > 1
            and layer.padding == tuple(size // 2 for size in layer.kernel_size)
            and layer.dilation == (1, 1)
            and layer.padding_mode == "zeros"
        ):
            layer.__class__ = DepthwiseConv
    return network


class ConvNorm(nn.Sequential):
    """A convolution with symmetric padding, batch norm, and an activation where one is named."""

    def __init__(
        self,
        width_in: int,
        width_out: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        activation: str | None,
    ) -> None:
        kind = DepthwiseConv if groups > 1 else PointwiseConv if kernel == 1 else nn.Conv2d
        conv = kind(width_in, width_out, kernel, stride, kernel // 2, groups=groups, bias=False)
        layers: list[nn.Module] = [conv, nn.BatchNorm2d(width_out)]
        if activation is not None:
            layers.append(ACTIVATIONS[activation]())
        super().__init__(*layers)


class SqueezeExcite(nn.Module):
    """Channel attention: global average, two 1x1 convolutions, a sigmoid gate (Hu et al. 2018)."""

    def __init__(self, width: int, squeezed: int, activation: str) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(width, squeezed, 1)
        self.activation = ACTIVATIONS[activation]()
        self.excite = nn.Conv2d(squeezed, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        gate = self.squeeze(x.mean((2, 3), keepdim=True))
        return x * torch.sigmoid(self.excite(self.activation(gate)))


class MBConv(nn.Module):
    """An inverted residual (Sandler et al. 2018): expand, depthwise, squeeze-excite, project.

    The squeezed width is int(se_ratio x input channels), and none where that is 0. There is a
    residual connection where the stride is 1 and the widths agree.
    """

    def __init__(
        self, op: Op, width_in: int, width_out: int, stride: int, se_ratio: float, activation: str
    ) -> None:
        super().__init__()
        hidden, squeezed = width_in * op.expansion, int(se_ratio * width_in)
        layers: list[nn.Module] = []
        if op.expansion > 1:
            layers.append(ConvNorm(width_in, hidden, 1, activation=activation))
        layers.append(
            ConvNorm(hidden, hidden, op.kernel, stride=stride, groups=hidden, activation=activation)
        )
        if squeezed:
            layers.append(SqueezeExcite(hidden, squeezed, activation))
        layers.append(ConvNorm(hidden, width_out, 1, activation=None))
        self.layers = nn.Sequential(*layers)
        self.residual = stride == 1 and width_in == width_out

    def forward(self, x: Tensor) -> Tensor:
        """(B, width_in, H, W) to (B, width_out, ceil(H/stride), ceil(W/stride))."""
        y: Tensor = self.layers(x)
        return x + y if self.residual else y


def stem(trunk: Trunk, mean: tuple[float, ...], std: tuple[float, ...]) -> nn.Sequential:
    """From pixels (B, 3, H, W) to (B, stem_out, H/2, W/2)."""
    layers: list[nn.Module] = [
        Pixels(mean, std),
        ConvNorm(3, trunk.stem_width, 3, stride=2, activation=trunk.activation),
    ]
    width = trunk.stem_width
    for _ in range(trunk.stem_layers):
        layers.append(
            MBConv(DEPTHWISE_SEPARABLE, width, trunk.stem_out, 1, trunk.se_ratio, trunk.activation)
        )
        width = trunk.stem_out
    return nn.Sequential(*layers)


def initialise(module: nn.Module) -> None:
    """Draw all weights from torch's current generator, as EfficientNet does (He, fan-out)."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out")
            if layer.groups > 1:  # fan-out of one group, not of all
                with torch.no_grad():
                    layer.weight *= layer.groups**0.5
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
