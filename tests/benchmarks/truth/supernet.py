"""Supernets of whole networks, trained from labels: one path at a time, or all as a mixture.

They are what a space looks like without blocks that learn from a teacher: SPOS (Guo et al., arXiv
1904.00420) samples a path a step and evaluates architectures with the shared weights; DARTS (Liu et
al., arXiv 1806.09055) weighs all ops at once and learns the weights on pictures of their own.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from dna_ray.network import CellNet
from dna_ray.network.layers import ConvNorm, MBConv, initialise, stem
from dna_ray.randomness import generator
from dna_ray.retrain import Trainer
from dna_ray.space import Architecture, Space
from tests.benchmarks.truth.sample import random_architecture

Array = np.ndarray


class Supernet(nn.Module):
    """Every cell of every block, with weights of its own, between one stem and one head.

    The cells of a block must have one width.
    """

    def __init__(self, space: Space, classes: int) -> None:
        super().__init__()
        trunk, self.space = space.trunk, space
        self.stem = stem(trunk, (0.5,) * 3, (0.5,) * 3)
        self.blocks = nn.ModuleList()
        width = trunk.stem_out
        for block in space.blocks:
            (out,) = {cell.width for cell in block.cells}
            cells = nn.ModuleList()
            for cell in block.cells:
                layers: list[dict[str, nn.Module]] = []
                for layer in range(cell.layers):
                    first = layer == 0
                    shape = (width if first else out, out, block.stride if first else 1)
                    layers.append(
                        {
                            str(op): MBConv(op, *shape, trunk.se_ratio, trunk.activation)
                            for op in block.ops
                        }
                    )
                cells.append(CellNet(None, layers))
            self.blocks.append(cells)
            width = out
        self.head = ConvNorm(width, trunk.head_width, 1, activation=trunk.activation)
        self.classifier = nn.Linear(trunk.head_width, classes)
        initialise(self)

    def forward(self, x: Tensor, architecture: Architecture) -> Tensor:
        """(B, 3, H, W) pixels to (B, classes) logits by one architecture."""
        x = self.stem(x)
        chosen = architecture.cells(self.space)
        for cells, cell, choice in zip(self.blocks, chosen, architecture.blocks, strict=True):
            x = cells[cell](x, choice.ops)
        return self.logits(x)

    def logits(self, x: Tensor) -> Tensor:
        """The head on what the last block gives."""
        logits: Tensor = self.classifier(self.head(x).mean((2, 3)))
        return logits


class SinglePath(nn.Module):
    """The supernet as something that trains like a network: each step one architecture at random.

    Weights that a step does not use have no gradient, so the optimiser passes over them.
    """

    def __init__(self, supernet: Supernet, seed: int) -> None:
        super().__init__()
        self.supernet = supernet
        self._rng = generator(seed, "one shot", "paths")

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) pixels to (B, classes) logits."""
        return self.supernet(x, random_architecture(self.supernet.space, self._rng))


@torch.no_grad()
def logits_by(
    supernet: Supernet, architecture: Architecture, recalibration: Sequence[Tensor], test: Tensor
) -> Array:
    """(n, classes): the logits of `test` after batch norm took its statistics from minibatches."""
    for norm in supernet.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all minibatches
    supernet.train()
    for pictures in recalibration:
        supernet(pictures, architecture)
    supernet.eval()
    return np.concatenate([supernet(part, architecture).numpy() for part in test.split(64)])


class Mixture(nn.Module):
    """The supernet with all ops of a layer, and all cells of a block, added up by their weights.

    `layers` holds (layers, ops) of every block and cell, `cells` (cells,) of every block: both go
    through a softmax. They are no parameters of the module: what trains its weights leaves them.
    """

    def __init__(self, supernet: Supernet) -> None:
        super().__init__()
        self.supernet = supernet
        self.layers: list[Tensor] = []
        self.cells: list[Tensor] = []
        for block in supernet.space.blocks:
            self.cells.append(_almost_even(len(block.cells)))
            for cell in block.cells:
                self.layers.append(_almost_even(cell.layers, len(block.ops)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) pixels to (B, classes) logits."""
        x, layers = self.supernet.stem(x), iter(self.layers)
        for cells, weights in zip(self.supernet.blocks, self.cells, strict=True):
            shares = weights.softmax(0)
            x = torch.stack(
                [s * _mixed(cell, next(layers), x) for s, cell in zip(shares, cells, strict=True)]
            ).sum(0)
        return self.supernet.logits(x)

    @torch.no_grad()
    def log_probability(self, architecture: Architecture) -> float:
        """The sum of the log softmax weights of what an architecture takes."""
        total, layers = 0.0, iter(self.layers)
        space = self.supernet.space
        chosen = architecture.cells(space)
        parts = zip(space.blocks, architecture.blocks, chosen, self.cells, strict=True)
        for block, choice, cell, weights in parts:
            total += float(weights.log_softmax(0)[cell])
            of_ops = [next(layers) for _ in block.cells][cell].log_softmax(1)
            total += sum(float(of_ops[i, block.ops.index(op)]) for i, op in enumerate(choice.ops))
        return total


def _almost_even(*shape: int) -> Tensor:
    return (1e-3 * torch.randn(shape)).requires_grad_()


def _mixed(cell: CellNet, weights: Tensor, x: Tensor) -> Tensor:
    """A cell with all ops of each layer at once."""
    for choices, shares in zip(cell.layers, weights.softmax(1), strict=True):
        x = torch.stack([s * op(x) for s, op in zip(shares, choices.values(), strict=True)]).sum(0)
    return x


def train_mixture(
    mixture: Mixture,
    weights: Trainer,
    held_out: Iterator[tuple[Tensor, Tensor]],
    passes: int,
    learning_rate: float,
) -> None:
    """First-order DARTS: after every step of the weights, one of the architecture weights.

    `weights` trains the mixture on its half of the pictures; `held_out` goes on giving minibatches
    of the other half. Adam is set as in the paper, but for its learning rate.
    """
    searched = [*mixture.layers, *mixture.cells]
    optimizer = torch.optim.Adam(searched, lr=learning_rate, betas=(0.5, 0.999), weight_decay=1e-3)

    def step(_: float) -> None:
        pictures, labels = next(held_out)
        loss = F.cross_entropy(mixture(pictures), labels)
        gradients = torch.autograd.grad(loss, searched)
        for parameter, gradient in zip(searched, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()

    for _ in range(passes):
        weights.train_pass(tell=step)
