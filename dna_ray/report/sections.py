"""The search of one generation: the front, the ratings of paths, and how ops rate."""

from collections.abc import Sequence

import numpy as np

from dna_ray.randomness import generator
from dna_ray.report import charts
from dna_ray.report.analysis import OpEffects, op_effects, random_architectures, rank, spreads
from dna_ray.report.html import (
    Content,
    Markup,
    amount,
    column,
    count,
    decimal,
    details,
    figure,
    signed,
    table,
    tag,
)
from dna_ray.report.records import Chosen, FrontPoints, Generation
from dna_ray.search import Ratings
from dna_ray.space import cost_name

_DRAWS = 1500
_ROWS = 500
_OFFERS = 9
_SUMS = " Losses and costs are exact sums over the blocks."
_BEHIND = (
    " Its loss is that of its last block behind all others. Blocks were searched one after another:"
    " what is shown of a path is its least loss behind any of the beginnings that were kept."
)


def front_section(generation: Generation, seed: int) -> Markup | None:
    """Loss against multiply-adds, and against whatever else is limited."""
    ratings, front, chosen = generation.ratings, generation.front, generation.chosen
    if ratings is None or front is None or chosen is None:
        return None
    draws = 0 if ratings.progressive else _DRAWS  # what is drawn is rated by sums
    rng = generator(seed, "report", generation.number)
    losses, costs = random_architectures(ratings, draws, rng)
    shown = dict.fromkeys([*chosen.limits, "macs"])
    figures = []
    for cost in shown:
        name, alone = cost_name(cost), front.over == (cost,)
        cloud = losses, costs[:, ratings.cost_names.index(cost)]
        drawing = charts.front_chart(cost, name, front, chosen, cloud)
        what = "front" if alone else "front of " + " and ".join(map(cost_name, front.over))
        entries: list[tuple[str, Content]] = [
            ("chosen", "chosen"),
            ("front" if alone else "points", f"{what}, {count(len(front.loss))} architectures"),
        ]
        if draws:
            entries.append(("cloud", f"{count(draws)} drawn at random"))
        figures.append(
            figure(
                f"Loss against {name}",
                _limit_words(cost, chosen),
                drawing,
                charts.legend(entries),
            )
        )
    known = {*chosen.limits} <= {*front.over} and draws  # else the front does not tell
    offers = [_offers(front, chosen, cost) for cost in chosen.limits if known]
    return tag(
        "section",
        tag("h3", "The search"),
        tag("p", _proof(front, chosen), _SUMS if draws else _BEHIND),
        tag("div", figures, offers, class_="grid wide"),
        _front_table(front, chosen),
    )


def _limit_words(cost: str, chosen: Chosen) -> str:
    limit = chosen.limits.get(cost)
    used = f"The chosen network takes {count(chosen.costs[cost])} {cost_name(cost)}"
    if limit is None:
        return f"{used}; they are not limited."
    share = chosen.costs[cost] / limit
    return f"{used}, {share:.1%} of the limit of {count(limit)}. Lower is better."


def _proof(front: FrontPoints, chosen: Chosen) -> str:
    """What the search proves, in a sentence."""
    limits = " and ".join(
        f"{cost_name(name)} \u2264 {count(value)}" for name, value in chosen.limits.items()
    )
    best = "is proven to have the least loss of all" if chosen.proven_optimal else "is the best of"
    objectives = " and ".join(["loss", *map(cost_name, front.over)])
    return (
        f"The chosen architecture {best} {count(chosen.candidates)} architectures within "
        f"{limits}. The front holds the {count(len(front.loss))} that no other betters in "
        f"{objectives}."
    )


def _offers(front: FrontPoints, chosen: Chosen, cost: str) -> Markup:
    """What another limit on `cost` would have bought, the others held: points along the front."""
    held = [front.costs[name] <= chosen.limits[name] for name in chosen.limits if name != cost]
    order = np.lexsort((front.loss, front.costs[cost]))
    order = order[np.all([np.full(len(order), True), *held], axis=0)[order]]
    least = np.minimum.accumulate(front.loss[order])
    # Of equal losses the search may have taken one that is not the cheapest in this cost.
    is_chosen = np.array([front.architectures[i] == str(chosen.architecture) for i in order])
    order = order[np.append(True, least[1:] < least[:-1]) | is_chosen]
    values = front.costs[cost][order]
    own = [front.architectures[i] for i in order].index(str(chosen.architecture))
    wanted = np.linspace(values[0], values[-1], _OFFERS)
    places = set(np.searchsorted(values, wanted, side="right") - 1)
    places = {p for p in places if abs(values[p] - values[own]) > 0.03 * np.ptp(values)} | {own}
    taken = order[sorted(places)]
    rows = []
    for i, loss in zip(taken, column(front.loss[taken]), strict=True):
        mine = i == order[own]
        cells = ["chosen" if mine else "", loss, *(count(v[i]) for v in front.costs.values())]
        rows.append([tag("b", c) for c in cells] if mine else cells)
    return tag(
        "div",
        tag("h4", f"What other limits on {cost_name(cost)} would have bought"),
        table(("", "loss", *map(cost_name, front.costs)), rows),
    )


def _front_table(front: FrontPoints, chosen: Chosen) -> Markup:
    size = len(front.loss)
    taken = np.unique(np.linspace(0, size - 1, min(size, _ROWS)).round().astype(int))
    text = str(chosen.architecture)
    losses = column(front.loss[taken], 6)
    rows = [
        [
            [
                tag("code", front.architectures[i]),
                " (chosen)" if front.architectures[i] == text else "",
            ],
            loss,
            *(count(values[i]) for values in front.costs.values()),
        ]
        for i, loss in zip(taken, losses, strict=True)
    ]
    part = f"{count(len(taken))} of the " if len(taken) < size else ""
    return details(
        f"{part}{count(size)} points of the front",
        table(("architecture", "loss", *map(cost_name, front.costs)), rows),
    )


def ratings_section(generation: Generation) -> Markup | None:
    """How the paths of every block rate, and where the chosen one stands."""
    ratings = generation.ratings
    if ratings is None:
        return None
    panels, rows = [], []
    for k, paths in enumerate(ratings.blocks):
        cells = spreads(paths)
        chosen: tuple[int, float] | None = None
        words: Content = None
        if generation.chosen_rows:
            row = generation.chosen_rows[k]
            loss = float(paths.loss[row])
            chosen = int(paths.cell[row]), loss
            place = f"{count(rank(paths.loss, row))} of {count(len(paths.loss))}"
            words = [
                tag("code", paths.ops[row].replace(",", " ")),
                tag("br"),
                f"loss {decimal(loss)}, rank {place}",
            ]
        label = f"losses of the paths of block {k + 1}"
        drawing = charts.distribution(label, cells, chosen)
        panels.append(figure(f"Block {k + 1}", words, drawing))
        for cell in cells:
            name = f"{k + 1}, {charts.shape(cell)}"
            rows.append([name, count(len(cell.loss)), *column(cell.quantiles)])
    marks: list[tuple[str, Content]] = [("chosen", "chosen path")] if generation.chosen_rows else []
    return tag(
        "section",
        tag("h3", "Ratings of the paths"),
        tag(
            "p",
            "Every path of every cell was rated; each histogram is drawn to its own height. Left "
            "is better. A block whose paths lie far "
            "apart decides more; a chosen path that is not the best of its block saved its costs "
            "for another.",
            f" A path's loss is the mean in {ratings.members} networks of its cell, trained apart."
            if ratings.members > 1
            else None,
            " Of what a path's loss owes to which of its ops meet, "
            f"{ratings.interactions:.0%} is kept."
            if ratings.interactions < 1
            else None,
        ),
        charts.legend(marks) if marks else None,
        tag("div", panels, class_="grid"),
        details(
            "Losses of the paths by cell",
            table(
                (
                    "block, cell",
                    "paths",
                    "best",
                    "lower quarter",
                    "median",
                    "upper quarter",
                    "worst",
                ),
                rows,
            ),
        ),
    )


def ops_section(generation: Generation) -> Markup | None:
    """How the ops rate by layer: the chosen cells at first, all others folded away."""
    ratings = generation.ratings
    if ratings is None:
        return None
    effects = [op_effects(paths) for paths in ratings.blocks]
    shares = np.concatenate([e.relative.ravel() for cells in effects for e in cells])
    greatest = float(np.max(np.abs(shares), initial=0.0, where=np.isfinite(shares))) or 1.0
    first: list[Markup] = []
    others: list[Markup] = []
    for k, cells in enumerate(effects):
        taken = generation.chosen_cell(k)
        for effect in cells:
            ops = _chosen_ops(ratings, generation, k) if effect.cell == taken else ()
            heat = _heat(k, effect, ops, greatest)
            (first if effect.cell == taken else others).append(heat)
    means = [
        [f"{k + 1}, cell {effect.cell}", op, str(layer + 1), text]
        for k, cells in enumerate(effects)
        for effect in cells
        for op, losses in zip(effect.ops, effect.mean, strict=True)
        for layer, text in enumerate(column(losses))
    ]
    return tag(
        "section",
        tag("h3", "Ops by layer"),
        tag(
            "p",
            "The mean loss of all paths that hold an op at a layer, against the mean of its cell. "
            "Negative is better. Ringed: the chosen ops.",
        ),
        tag("div", first, class_="heats") if first else None,
        details("The other cells" if first else "All cells", tag("div", others, class_="heats"))
        if others
        else None,
        details("Mean losses", table(("block", "op", "layer", "mean loss"), means, texts=2)),
    )


def _chosen_ops(ratings: Ratings, generation: Generation, block: int) -> Sequence[str]:
    return ratings.blocks[block].ops[generation.chosen_rows[block]].split(",")


def _heat(block: int, effect: OpEffects, chosen: Sequence[str], greatest: float) -> Markup:
    layers = effect.mean.shape[1]
    header = tag("tr", tag("th", "op"), [tag("th", str(n + 1), scope="col") for n in range(layers)])
    rows = []
    for op, shares in zip(effect.ops, effect.relative, strict=True):
        cells = []
        for layer, share in enumerate(shares):
            level = round(4 * float(share) / greatest) if np.isfinite(share) else 0
            style = f"h{'b' if level < 0 else 'w'}{abs(level)}"
            if chosen and chosen[layer] == op:
                style += " ring"
            cells.append(tag("td", signed(100 * float(share), 1), class_=style))
        rows.append(tag("tr", tag("th", tag("code", op), scope="row"), cells))
    caption = tag(
        "caption", tag("b", f"Block {block + 1}"), f" cell {effect.cell}, {effect.width} wide; %"
    )
    return tag("table", caption, tag("thead", header), tag("tbody", rows), class_="heat")


def summary(generation: Generation) -> str:
    """One line that names a generation when it is folded."""
    if generation.chosen is None:
        return "not finished"
    words = f"loss {decimal(generation.chosen.loss)}, {amount(generation.chosen.costs['macs'])}"
    return words + (" multiply-adds" if generation.result else " multiply-adds, not finished")
