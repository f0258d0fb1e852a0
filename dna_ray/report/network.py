"""Architectures drawn block by block, as in the paper's Fig. 13, and set side by side."""

from collections.abc import Sequence

from dna_ray.report.analysis import path_costs, rank
from dna_ray.report.html import (
    Content,
    Markup,
    amount,
    column,
    count,
    details,
    table,
    tag,
)
from dna_ray.report.records import Generation
from dna_ray.space import Op, Space
from dna_ray.space.costs import halved

_STEP, _HEIGHT = 40, 74
_KERNELS = (3, 5, 7)


def side_by_side(space: Space, resolution: int, generations: Sequence[Generation]) -> Markup:
    """The chosen networks of `generations`, one below the other within every block."""
    greatest = max(op.expansion for block in space.blocks for op in block.ops)
    chosen = [(g, g.chosen.architecture) for g in generations if g.chosen is not None]
    trunk, size = space.trunk, halved(resolution, 2)
    stem = [_grey("3\u00d73"), *[_grey("k3e1")] * trunk.stem_layers]
    words = f"{trunk.stem_out} wide"
    cards = [_card("Stem", f"to {size} \u00d7 {size} pixels", [_row(None, stem, words)], "end")]
    for k, block in enumerate(space.blocks):
        size = halved(size, block.stride)
        rows = []
        for generation, architecture in chosen:
            choice = architecture.blocks[k]
            words = f"{choice.width} wide"
            if generation.chosen_rows and generation.ratings is not None:
                macs = generation.ratings.cost_names.index("macs")
                costs, _ = path_costs(generation.ratings, generation.chosen_rows)
                words += f" \u00b7 {amount(costs[k, macs])}"
            number = generation.number if len(chosen) > 1 else None
            rows.append(_row(number, [_glyph(op, greatest) for op in choice.ops], words))
        cards.append(_card(f"Block {k + 1}", f"to {size} \u00d7 {size} pixels", rows))
    head = [_grey("1\u00d71"), _grey("linear")]
    words = f"{trunk.head_width} wide"
    cards.append(_card("Head", "to the classes", [_row(None, head, words)], "end"))
    return tag("div", cards, class_="network")


def _card(title: str, words: str, rows: Sequence[Markup], style: str = "") -> Markup:
    heading = tag("h4", title, tag("small", words))
    return tag("div", heading, rows, class_=f"card {style}".strip())


def _row(number: int | None, glyphs: Sequence[Markup], words: str) -> Markup:
    width = _STEP * len(glyphs)
    middle = 30
    chain = tag("line", x1=0, x2=width, y1=middle, y2=middle, class_="chain")
    layers = [
        tag("g", glyph, transform=f"translate({_STEP * place + _STEP // 2} {middle})")
        for place, glyph in enumerate(glyphs)
    ]
    drawing = tag(
        "svg", chain, layers, width=width, height=_HEIGHT, viewBox=f"0 0 {width} {_HEIGHT}"
    )
    badge = None if number is None else tag("b", str(number), title=f"generation {number}")
    return tag("div", badge, drawing, tag("span", words), class_="layers")


def _glyph(op: Op, greatest: int) -> Markup:
    """One layer: wide as its kernel, high as its expansion."""
    style = f"k{op.kernel}" if op.kernel in _KERNELS else "kx"
    said = f"{op}: kernel {op.kernel} x {op.kernel}, expansion {op.expansion}"
    return _box(min(34, 4 * op.kernel + 2), 12 + 40 * op.expansion / greatest, str(op), style, said)


def _grey(name: str) -> Markup:
    return _box(14, 12, name, "fixed", f"{name}, in every network of the space")


def _box(width: float, height: float, name: str, style: str, said: str) -> Markup:
    box = tag(
        "rect",
        tag("title", said),
        x=-width / 2,
        y=-height / 2,
        width=width,
        height=height,
        rx=3,
        class_=f"op {style}",
    )
    return tag("g", box, tag("text", name, y=40, text_anchor="middle"))


def key(space: Space) -> Markup:
    """What width, height and colour of a layer mean, for the ops of a space."""
    ops = {op for block in space.blocks for op in block.ops}
    kernels = sorted({op.kernel for op in ops})
    expansions = sorted({op.expansion for op in ops})
    items = [
        tag(
            "li",
            tag(
                "svg",
                tag(
                    "rect",
                    x=0,
                    y=1,
                    width=min(34, 4 * kernel + 2),
                    height=12,
                    rx=3,
                    class_=f"op {f'k{kernel}' if kernel in _KERNELS else 'kx'}",
                ),
                width=min(34, 4 * kernel + 2),
                height=14,
                aria_hidden="true",
            ),
            f"kernel {kernel} \u00d7 {kernel}",
        )
        for kernel in kernels
    ]
    *others, greatest = map(str, expansions)
    words = f"{', '.join(others)} or {greatest}" if others else greatest
    items.append(tag("li", f"height: expansion {words}"))
    return tag("ul", items, class_="legend")


def block_table(generation: Generation) -> Markup:
    """The chosen path of every block in numbers: ops, loss, rank, and exact costs."""
    ratings, chosen = generation.ratings, generation.chosen
    if ratings is None or chosen is None:
        return Markup("")
    rows = generation.chosen_rows
    costs, fixed = path_costs(ratings, rows)
    names = [ratings.cost_names.index(name) for name in ("params", "macs")]
    losses = [block.loss[row] for block, row in zip(ratings.blocks, rows, strict=True)]
    texts = column([*losses, chosen.loss])
    lines: list[list[Content]] = []
    for k, (block, row) in enumerate(zip(ratings.blocks, rows, strict=True)):
        choice = chosen.architecture.blocks[k]
        lines.append(
            [
                f"block {k + 1}",
                tag("code", " ".join(map(str, choice.ops))),
                str(choice.width),
                texts[k],
                f"{count(rank(block.loss, row))} of {count(len(block.loss))}",
                *(count(costs[k, n]) for n in names),
            ]
        )
    lines.append(["stem, head", "", "", "", "", *(count(fixed[n]) for n in names)])
    total = costs.sum(0) + fixed
    lines.append(["all", "", "", texts[-1], "", *(count(total[n]) for n in names)])
    header = ("part", "ops", "width", "loss", "rank", "parameters", "multiply-adds")
    return details(
        f"Generation {generation.number}, block by block in numbers", table(header, lines, texts=2)
    )
