"""How much architectures have in common, as one more cost: it adds up over blocks too.

The layers of two paths are compared one by one. A layer differs where its op does, where only one
of the two has it, and where the widths of the paths differ.
"""

from dataclasses import replace

import numpy as np

from dna_ray.search.table import BlockPaths, Ratings

Array = np.ndarray


def with_likeness(ratings: Ratings, name: str, paths: Array) -> tuple[Ratings, float]:
    """`ratings` with a cost column `name`: how like an architecture is to that of rows `paths`.

    Also its most: an architecture differs in that much less its likeness, in layers.
    """
    blocks, most = [], 0.0
    for block, row in zip(ratings.blocks, paths, strict=True):
        differing = _differing(block, int(row))
        likeness = differing.max() - differing
        most += float(differing.max())
        blocks.append(replace(block, costs=np.column_stack((block.costs, likeness))))
    edges = tuple(replace(edge, costs=(*edge.costs, 0.0)) for edge in ratings.edges)
    changed = replace(
        ratings,
        blocks=tuple(blocks),
        cost_names=(*ratings.cost_names, name),
        fixed=np.append(ratings.fixed, 0.0),
        edges=edges,
    )
    return changed, most


def _differing(block: BlockPaths, row: int) -> Array:
    """(P,) in how many layers each path of a block differs from that of one row."""
    own = block.ops[row].split(",")
    same_width = (block.width == block.width[row]).tolist()
    differing = []
    for text, same in zip(block.ops, same_width, strict=True):
        ops = text.split(",")
        common = sum(map(str.__eq__, ops, own)) if same else 0
        differing.append(max(len(ops), len(own)) - common)
    return np.array(differing, np.float64)
