"""A stand-alone network of the family, built from its specification."""

import torch
from torch import Tensor, nn

from dna_ray.network.layers import ConvNorm, MBConv, initialise, stem
from dna_ray.space.spec import NetworkSpec


class Network(nn.Module):
    """Stem, blocks and head. Reads pixels 0..255 (B, 3, H, W), returns logits (B, classes)."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        trunk = spec.trunk
        self.stem = stem(trunk, spec.mean, spec.std)
        self.blocks = nn.ModuleList()
        width = trunk.stem_out
        for block in spec.blocks:
            layers, stride = [], block.stride
            for op in block.ops:
                layers.append(
                    MBConv(op, width, block.width, stride, trunk.se_ratio, trunk.activation)
                )
                width, stride = block.width, 1
            self.blocks.append(nn.Sequential(*layers))
        self.head = ConvNorm(width, trunk.head_width, 1, activation=trunk.activation)
        self.classifier = nn.Linear(trunk.head_width, spec.classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) pixels to (B, classes) logits."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        x = self.head(x).mean((2, 3))
        logits: Tensor = self.classifier(x)
        return logits


def build_network(spec: NetworkSpec) -> Network:
    """A network in channels-last memory, with weights from torch's current generator."""
    return Network(spec).to(memory_format=torch.channels_last)
