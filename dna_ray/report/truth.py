"""Is the rating of one generation true? Its paths against themselves trained alone."""

from math import isfinite

from dna_ray.ranking import Paths, Truth, hold_against, truth_verdict
from dna_ray.report import charts
from dna_ray.report.html import Markup, column, count, details, figure, table, tag
from dna_ray.report.records import Generation
from dna_ray.space import cost_name


def truth_section(generation: Generation, seed: int) -> Markup | None:
    """What `dna-ray verify` found; nothing where it was never run."""
    parts = generation.alone
    if not parts:
        return None
    total = hold_against(parts, seed=seed)
    by_block = {part.block: hold_against([part], seed=seed) for part in parts}
    panels = [
        figure(
            f"Block {part.block}",
            f"Kendall {by_block[part.block].rating}",
            charts.scatter(
                f"rating and loss alone of the paths of block {part.block}",
                ("rating", "loss trained alone"),
                list(zip(_names(part), part.loss.tolist(), part.alone.tolist(), strict=True)),
            ),
        )
        for part in parts
    ]
    rows = [[f"block {number}", *_row(truth, total)] for number, truth in by_block.items()]
    if len(rows) > 1:
        rows.append(["all", *_row(total, total)])
    header = ["", "paths", "rating"] + ["cells aligned"] * (total.aligned is not None)
    header += [*map(cost_name, total.costs), "random order"]
    header += ["alone, twice"] * (total.itself is not None)
    losses = [
        [str(part.block), name, *texts]
        for part in parts
        for name, *texts in zip(
            _names(part), column(part.loss.tolist()), column(part.alone.tolist()), strict=True
        )
    ]
    return tag(
        "section",
        tag("h3", "Is the rating true?"),
        tag("p", truth_verdict(total, by_block)),
        tag(
            "p",
            "Some paths of each block, drawn at random, were trained alone with weights of their "
            "own. Kendall's tau says how far the rating, and what one could choose by instead, "
            "orders them as that does; below each its 95 % interval."
            + " Cells are aligned by what their other paths lose more alone than they rate."
            * (total.aligned is not None),
        ),
        tag("div", panels, class_="grid"),
        table(header, rows),
        _favours(by_block),
        details("Losses of these paths", table(("block", "cell: ops", "rating", "alone"), losses)),
    )


def _names(part: Paths) -> list[str]:
    return [f"cell {cell}: {ops}" for cell, ops in zip(part.cell, part.ops, strict=True)]


def _favours(by_block: dict[int, Truth]) -> Markup | None:
    """Whether cells of one block, which differ in depth and width, are compared fairly."""
    rows = [
        [
            f"block {number}, cell {cell}",
            f"{found.value:+.0f} ({found.low:+.0f} to {found.high:+.0f})",
        ]
        for number, truth in by_block.items()
        for cell, found in truth.favour.items()
        if isfinite(found.low)
    ]
    if not rows:
        return None
    header = ("", "places of 100 that its paths rate better than they deserve")
    return details("Are cells of a block compared fairly?", table(header, rows))


def _row(truth: Truth, total: Truth) -> list[str]:
    texts = [count(truth.paths), str(truth.rating)]
    if total.aligned is not None:
        texts.append("" if truth.aligned is None else str(truth.aligned))
    texts += map(str, [*truth.costs.values(), truth.chance])
    if total.itself is not None:
        texts.append("" if truth.itself is None else str(truth.itself))
    return texts
