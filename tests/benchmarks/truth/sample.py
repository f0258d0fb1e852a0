"""Which architectures are trained: half across all costs, half of about one cost."""

from typing import NamedTuple

import numpy as np

from dna_ray.randomness import generator
from dna_ray.space import Architecture, BlockChoice, Space, network_costs, network_spec

CANDIDATES = 2048
BAND = 0.03  # by which the multiply-adds of those of about one cost differ from it, at most


class Drawn(NamedTuple):
    """An architecture of the bench, why it is there, and its costs."""

    architecture: str
    group: str  # "spread" or "equal"
    params: int
    macs: int


def random_architecture(space: Space, rng: np.random.Generator) -> Architecture:
    """A cell of every block, and an op of each of its layers, each as likely as any other."""
    blocks = []
    for block in space.blocks:
        cell = block.cells[rng.integers(len(block.cells))]
        drawn = rng.integers(len(block.ops), size=cell.layers)
        blocks.append(BlockChoice(cell.width, tuple(block.ops[i] for i in drawn)))
    return Architecture(tuple(blocks))


def draw(
    space: Space, resolution: int, classes: int, spread: int, equal: int, seed: int = 0
) -> list[Drawn]:
    """`spread` architectures across multiply-adds, then `equal` ones of about the median count.

    Of `CANDIDATES` random architectures. The logarithm of their multiply-adds is cut into `spread`
    parts, of each of which the architecture nearest to the middle is taken. Raises ValueError where
    there are too few of about one cost.
    """
    rng = generator(seed, "ground truth", "architectures")
    names = dict.fromkeys(str(random_architecture(space, rng)) for _ in range(CANDIDATES))
    costs = {}
    for name in names:
        spec = network_spec(space, Architecture.parse(name), classes)
        costs[name] = network_costs(spec, resolution).total
    macs = {name: cost.macs for name, cost in costs.items()}
    edges = np.geomspace(min(macs.values()), max(macs.values()), spread + 1)
    taken: dict[str, str] = {}
    for middle in np.sqrt(edges[1:] * edges[:-1]):
        left = (name for name in macs if name not in taken)
        taken[min(left, key=lambda name: abs(macs[name] - middle))] = "spread"
    centre = float(np.median(list(macs.values())))
    near = [n for n, m in macs.items() if n not in taken and abs(m / centre - 1) <= BAND]
    if len(near) < equal:
        raise ValueError(f"of about {centre:.0f} multiply-adds there are {len(near)}, not {equal}")
    taken |= dict.fromkeys(near[:equal], "equal")
    return [Drawn(n, group, costs[n].params, costs[n].macs) for n, group in taken.items()]
