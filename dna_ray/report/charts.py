"""The charts of one generation, each from its records alone."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np

from dna_ray.report.analysis import Spread
from dna_ray.report.axes import (
    Frame,
    Scale,
    amounts,
    decimals,
    padded,
    padded_logs,
    picture,
    powers,
)
from dna_ray.report.html import Content, Markup, amount, count, decimal, number, tag
from dna_ray.report.records import Chosen, FrontPoints, Trial

Array = np.ndarray
WIDE, MIDDLE, SMALL = (400.0, 280.0), (400.0, 220.0), (250.0, 160.0)


@dataclass(frozen=True)
class Line:
    """One line of a chart: its points by growing x, and the classes that style it."""

    name: str
    points: Sequence[tuple[float, float]]
    style: str


def legend(entries: Iterable[tuple[str, Content]]) -> Markup:
    """What the marks of a chart mean: (class of the mark, words)."""
    items = []
    for style, words in entries:
        if "area" in style:
            mark = tag("rect", x=2, y=3, width=14, height=8, class_=style)
        elif "line" in style or "front" in style:
            mark = tag("path", d="M0 7h18", class_=style)
        elif "chosen" in style:
            mark = diamond(9, 7)
        else:
            mark = tag("circle", cx=9, cy=7, r=3, class_=style)
        key = tag("svg", mark, viewBox="0 0 18 14", class_="key", aria_hidden="true")
        items.append(tag("li", key, words))
    return tag("ul", items, class_="legend")


def diamond(x: float, y: float, title: str | None = None) -> Markup:
    """The mark of what was chosen, in all charts."""
    return tag(
        "path",
        None if title is None else tag("title", title),
        d=f"M{number(x)} {number(y - 6)}l6 6l-6 6l-6-6z",
        class_="chosen",
    )


def lines(
    label: str, names: tuple[str, str], series: Sequence[Line], size: tuple[float, float] = SMALL
) -> Markup:
    """Curves over whole numbers such as epochs; points that are not finite are left out."""
    shown = [Line(s.name, [p for p in s.points if isfinite(p[1])], s.style) for s in series]
    points = [p for line in shown for p in line.points]
    x_low, x_high = min((p[0] for p in points), default=0), max((p[0] for p in points), default=1)
    if x_low == x_high:
        x_low, x_high = x_low - 1, x_high + 1
    top = 22 if names[1] else 8
    frame = Frame.of(size, (x_low, x_high), padded(p[1] for p in points), top=top)
    whole = [t for t in frame.x.ticks(8) if t == int(t)]
    ticks = decimals(whole), decimals(frame.y.ticks(4))
    marks = []
    for line in shown:
        places = [(frame.x(x), frame.y(y)) for x, y in line.points]
        marks.append(tag("path", None, d=_through(places), class_=f"line {line.style}"))
        marks += [
            tag(
                "circle",
                tag("title", f"{line.name}: {names[0]} {x:g}, {names[1]} {decimal(y)}"),
                cx=place[0],
                cy=place[1],
                r=2.5,
                class_=f"dot {line.style}",
            )
            for (x, y), place in zip(line.points, places, strict=True)
        ]
    return frame.draw(label, names, ticks, *marks)


def _through(places: Sequence[tuple[float, float]]) -> str:
    return "".join(f"{'L' if i else 'M'}{number(x)} {number(y)}" for i, (x, y) in enumerate(places))


def scatter(
    label: str, names: tuple[str, str], points: Sequence[tuple[str, float, float]]
) -> Markup:
    """Named points (name, x, y)."""
    frame = Frame.of(SMALL, padded(x for _, x, _ in points), padded(y for _, _, y in points))
    marks = [
        tag(
            "circle",
            tag("title", f"{name}: {names[0]} {decimal(x)}, {names[1]} {decimal(y)}"),
            cx=frame.x(x),
            cy=frame.y(y),
            r=3,
            class_="dot c0",
        )
        for name, x, y in points
    ]
    ticks = decimals(frame.x.ticks(4)), decimals(frame.y.ticks(4))
    return frame.draw(label, names, ticks, *marks)


def front_chart(
    cost: str, name: str, front: FrontPoints, chosen: Chosen, cloud: tuple[Array, Array]
) -> Markup:
    """Loss against one cost: architectures at random, the front, the limit, the chosen one.

    `cloud` holds losses and this cost of architectures at random. The front is a staircase where
    it is the front in this cost alone, else single points.
    """
    losses, costs = (values[np.isfinite(cloud[0])] for values in cloud)
    limit = chosen.limits.get(cost)
    reach = float(max(front.costs[cost].max(), costs.max(initial=0)))
    drawn = limit is not None and limit <= 1.2 * reach
    x_range = padded((*costs, *front.costs[cost], *([limit] if drawn and limit else ())), 0.03)
    y_range = padded((*losses, *front.loss))
    frame = Frame.of(WIDE, (max(0.0, x_range[0]), x_range[1]), y_range)
    places = sorted(
        {(number(frame.x(x)), number(frame.y(y))) for x, y in zip(costs, losses, strict=True)}
    )
    marks = [tag("path", None, d="".join(f"M{x} {y}h0" for x, y in places), class_="cloud")]
    if drawn and limit is not None:
        marks = [_beyond(frame, limit), *marks]
    order = np.argsort(front.costs[cost], kind="stable")
    points = [(frame.x(front.costs[cost][i]), frame.y(front.loss[i])) for i in order]
    if front.over == (cost,):
        marks.append(tag("path", None, d=_stairs(points), class_="front"))
    marks.append(
        tag(
            "path",
            None,
            d="".join(f"M{number(x)} {number(y)}h0" for x, y in points),
            class_="points",
        )
    )
    x, y = frame.x(chosen.costs[cost]), frame.y(chosen.loss)
    said = f"chosen: {count(chosen.costs[cost])} {name}, loss {decimal(chosen.loss)}"
    marks.append(diamond(x, y, said))
    if drawn and limit is not None:
        marks.append(_limit_name(frame, limit))
    ticks = amounts(frame.x.ticks(5)), decimals(frame.y.ticks(5))
    return frame.draw(f"loss against {name}; {said}", (name, "loss"), ticks, *marks)


def _beyond(frame: Frame, limit: float) -> Markup:
    x = frame.x(limit)
    shade = tag(
        "rect",
        None,
        x=x,
        y=frame.y.end,
        width=max(0.0, frame.x.end - x),
        height=frame.y.start - frame.y.end,
        class_="beyond",
    )
    line = tag("line", x1=x, x2=x, y1=frame.y.start, y2=frame.y.end, class_="limit")
    return tag("g", shade, line)


def _limit_name(frame: Frame, limit: float) -> Markup:
    x = frame.x(limit)
    left = x > (frame.x.start + frame.x.end) / 2
    return tag(
        "text",
        f"limit {amount(limit)}",
        x=x - 5 if left else x + 5,
        y=frame.y.end + 10,
        text_anchor="end" if left else "start",
        class_="limit-name",
    )


def _stairs(places: Sequence[tuple[float, float]]) -> str:
    """Along x first: between two points of a front nothing is better than the left one."""
    (x, y), *rest = places
    return f"M{number(x)} {number(y)}" + "".join(f"H{number(a)}V{number(b)}" for a, b in rest)


def distribution(
    label: str, cells: Sequence[Spread], chosen: tuple[int, float] | None, bins: int = 36
) -> Markup:
    """The losses of a block's paths, a histogram for each cell; `chosen` is a cell and a loss."""
    every = np.concatenate([c.loss[np.isfinite(c.loss)] for c in cells])
    width, row, top = SMALL[0], 52.0, 2.0
    height = top + row * len(cells) + 36
    x = Scale(*padded(every, 0.02), 6, width - 6)
    edges = np.linspace(x.low, x.high, bins + 1)
    parts = []
    for place, cell in enumerate(cells):
        base = top + row * (place + 1) - 4
        heights = np.histogram(cell.loss[np.isfinite(cell.loss)], edges)[0]
        parts += [
            tag("text", shape(cell), x=x.start, y=base - 36, class_="name"),
            tag("text", f"{count(len(cell.loss))} paths", x=x.end, y=base - 36, text_anchor="end"),
            tag("path", None, d=_bars(x, edges, heights, base), class_=f"area c{cell.cell % 6}"),
            tag("line", x1=x.start, x2=x.end, y1=base, y2=base, class_="axis"),
        ]
    foot = top + row * len(cells)
    for tick, text in decimals([t for t in x.ticks(4) if 14 < x(t) < width - 14]):
        parts.append(tag("text", text, x=x(tick), y=foot + 14, text_anchor="middle"))
        parts.append(tag("line", x1=x(tick), x2=x(tick), y1=foot - 4, y2=foot + 1, class_="axis"))
    parts.append(tag("text", "loss", x=x.end, y=foot + 30, text_anchor="end", class_="name"))
    if chosen is not None:
        place = [c.cell for c in cells].index(chosen[0])
        base = top + row * (place + 1) - 4
        at = x(chosen[1])
        parts += [
            tag("line", x1=at, x2=at, y1=base, y2=base - 30, class_="chosen-line"),
            diamond(at, base, f"chosen path: loss {decimal(chosen[1])}"),
        ]
    return picture(width, height, label, *parts)


def shape(cell: Spread) -> str:
    """A cell in words: 2 layers of 16."""
    return f"cell {cell.cell}: {cell.layers} layer{'s' * (cell.layers > 1)} of {cell.width}"


def _bars(x: Scale, edges: Array, heights: Array, base: float) -> str:
    unit = 30 / max(1, int(heights.max()))
    steps = "".join(
        f"H{number(x(left))}V{number(base - height * unit)}H{number(x(right))}"
        for left, right, height in zip(edges, edges[1:], heights, strict=False)
    )
    return f"M{number(x(edges[0]))} {number(base)}{steps}V{number(base)}z"


def trials_chart(trials: Sequence[Trial]) -> Markup:
    """The loss of Tune's trials by learning rate; the best is marked."""
    known = [t for t in trials if isfinite(t.loss)]
    frame = Frame.of(
        MIDDLE,
        padded_logs(t.learning_rate for t in known),
        padded((t.loss for t in known), 0.12),
        logs=True,
    )
    marks = []
    for place, trial in enumerate(known):
        x, y = frame.x(trial.learning_rate), frame.y(trial.loss)
        said = (
            f"learning rate {trial.learning_rate:.2g}, weight decay {trial.weight_decay:.2g}: "
            f"loss {decimal(trial.loss)}"
        )
        dot = tag("circle", tag("title", said), cx=x, cy=y, r=4, class_="dot c0")
        marks.append(dot if place else diamond(x, y, said))
    ticks = powers(frame.x.ticks(4)), decimals(frame.y.ticks(4))
    label = f"loss of {len(known)} trials by learning rate"
    return frame.draw(label, ("learning rate", "loss on held-out pictures"), ticks, *marks)
