"""The parts of networks that are timed on their own: layers with their ops, stem and head."""

from dataclasses import dataclass

from dna_ray.space.architecture import Architecture
from dna_ray.space.costs import Layer, block_sizes, last_widths, layers_of
from dna_ray.space.spaces import Space


@dataclass(frozen=True)
class Part:
    """What is timed on its own: an op in a layer, or (`op` says so) the stem or the head."""

    op: str
    layer: Layer  # the head's channels out are the classes


def stem_part(space: Space, resolution: int) -> Part:
    """The stem on pictures of `resolution` x `resolution` pixels."""
    return Part("stem", Layer(3, space.trunk.stem_out, 2, resolution))


def head_part(width: int, size: int, classes: int) -> Part:
    """Convolution, pool and linear layer on `width` channels of `size` x `size`."""
    return Part("head", Layer(width, classes, 1, size))


def space_parts(space: Space, resolution: int, classes: int) -> tuple[Part, ...]:
    """Every distinct part of the networks of `space`, the stem first, the heads last."""
    parts = [stem_part(space, resolution)]
    *sizes, last = block_sizes(space, resolution)
    for number, (block, size) in enumerate(zip(space.blocks, sizes, strict=True)):
        for width in space.input_widths(number):
            for cell in block.cells:
                layers = layers_of(cell.layers, width, cell.width, block.stride, size)
                parts += [Part(str(op), layer) for layer in layers for op in block.ops]
    parts += [head_part(width, last, classes) for width in last_widths(space)]
    return tuple(dict.fromkeys(parts))


def reference_parts(space: Space, resolution: int) -> list[Part]:
    """One layer of every block, which together ask of a machine about what a network does."""
    parts = []
    *sizes, _ = block_sizes(space, resolution)
    for number, (block, size) in enumerate(zip(space.blocks, sizes, strict=True)):
        cell, (width, *_) = block.cells[0], space.input_widths(number)
        *_, last = layers_of(cell.layers, width, cell.width, block.stride, size)
        parts.append(Part(str(block.ops[number % len(block.ops)]), last))
    return parts


def network_parts(
    space: Space, architecture: Architecture, resolution: int, classes: int
) -> list[Part]:
    """The parts of one network in order, from the stem to the head."""
    parts, width = [stem_part(space, resolution)], space.trunk.stem_out
    *sizes, last = block_sizes(space, resolution)
    for block, choice, size in zip(space.blocks, architecture.blocks, sizes, strict=True):
        layers = layers_of(len(choice.ops), width, choice.width, block.stride, size)
        parts += [Part(str(op), layer) for op, layer in zip(choice.ops, layers, strict=True)]
        width = choice.width
    return [*parts, head_part(width, last, classes)]
