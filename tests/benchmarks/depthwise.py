"""Depthwise convolutions on small feature maps: forward and backward, ours against torch's own.

The maps and kernels are those of the demo space and of its teacher at 64 pixels; one thread.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import nn

from dna_ray.network.layers import DepthwiseConv
from tests.benchmarks.report import publish, table

BATCH = 32
SHAPES = [  # channels, side, kernel, stride
    (1152, 2, 5, 1),
    (768, 2, 5, 1),
    (768, 2, 3, 1),
    (672, 4, 5, 1),
    (672, 4, 5, 2),
    (384, 4, 3, 1),
    (240, 8, 5, 1),
]


def milliseconds(step: Callable[[], None]) -> float:
    """The fastest of ten."""
    step()
    times = []
    for _ in range(10):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def measure(kind: type[nn.Conv2d], channels: int, side: int, kernel: int, stride: int) -> float:
    """Milliseconds of a training step of one layer."""
    layer = kind(channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False)
    layer.to(memory_format=torch.channels_last)
    x = torch.randn(BATCH, channels, side, side).to(memory_format=torch.channels_last)
    x.requires_grad_()
    gradient = torch.randn_like(layer(x))
    return milliseconds(lambda: layer(x).backward(gradient))


def main() -> None:
    """Measure both, side by side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for shape in SHAPES:
        theirs, ours = measure(nn.Conv2d, *shape), measure(DepthwiseConv, *shape)
        rows.append([*shape, f"{theirs:.2f}", f"{ours:.2f}", f"{theirs / ours:.1f}"])
    names = ["channels", "side", "kernel", "stride", "torch, ms", "ours, ms", "ratio"]
    publish(
        "depthwise", "Depthwise convolutions on small maps", table(names, rows), write=given.write
    )


if __name__ == "__main__":
    main()
