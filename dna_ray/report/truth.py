"""Is the rating of one generation true? Its paths against themselves trained alone."""

from math import isfinite

from dna_ray.ranking import Figure, Truth, hold_against, truth_verdict
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
            f"Kendall {_shown(by_block[part.block].rating)}",
            charts.scatter(
                f"rating and loss alone of the paths of block {part.block}",
                ("rating", "loss trained alone"),
                list(zip(part.names, part.loss.tolist(), part.alone.tolist(), strict=True)),
            ),
        )
        for part in parts
    ]
    rows = [[f"block {number}", *_row(truth, total)] for number, truth in by_block.items()]
    if len(rows) > 1:
        rows.append(["all", *_row(total, total)])
    header = ["", "paths", "rating", *map(cost_name, total.costs), "random order"]
    header += ["alone, twice"] * (total.itself is not None)
    losses = [
        [f"{part.block}", name.replace(":", ": "), *texts]
        for part in parts
        for name, *texts in zip(
            part.names, column(part.loss.tolist()), column(part.alone.tolist()), strict=True
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
            "orders them as that does; below each its 95 % interval.",
        ),
        tag("div", panels, class_="grid"),
        table(header, rows),
        details("Losses of these paths", table(("block", "cell: ops", "rating", "alone"), losses)),
    )


def _row(truth: Truth, total: Truth) -> list[str]:
    figures = [truth.rating, *truth.costs.values(), truth.chance]
    texts = [count(truth.paths), *map(_shown, figures)]
    if total.itself is not None:
        texts.append("" if truth.itself is None else _shown(truth.itself))
    return texts


def _shown(found: Figure) -> str:
    if not isfinite(found.value):
        return "undefined"
    return f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"
