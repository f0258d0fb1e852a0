"""Axes of charts: where a value lies, and at which round values there are ticks."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from dna_ray.report.html import Markup, amount, decimal, tag

Texts = Sequence[tuple[float, str]]


@dataclass(frozen=True)
class Scale:
    """A map of values from `low` to `high` onto lengths from `start` to `end`, even or in logs."""

    low: float
    high: float
    start: float
    end: float
    logs: bool = False

    def __call__(self, value: float) -> float:
        """Where `value` lies."""
        low, high, x = self.low, self.high, value
        if self.logs:
            low, high, x = math.log(low), math.log(high), math.log(value)
        return self.start + (x - low) / (high - low) * (self.end - self.start)

    def ticks(self, wanted: int) -> list[float]:
        """About `wanted` round values within the scale."""
        return _log_ticks(self.low, self.high) if self.logs else _ticks(self.low, self.high, wanted)


def padded(values: Iterable[float], share: float = 0.05) -> tuple[float, float]:
    """The range of some values with a margin of `share` of it on both sides; never empty."""
    known = [v for v in values if math.isfinite(v)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    margin = share * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def padded_logs(values: Iterable[float], share: float = 0.08) -> tuple[float, float]:
    """`padded` in logs, of values above 0."""
    low, high = padded(map(math.log, values), share)
    if high - low < 0.5:
        low, high = low - 0.25, high + 0.25
    return math.exp(low), math.exp(high)


def _ticks(low: float, high: float, wanted: int) -> list[float]:
    step = 10 ** math.floor(math.log10((high - low) / wanted))
    step *= next(m for m in (1, 2, 5, 10) if (high - low) / (step * m) <= wanted + 0.5)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(n * step, 12) for n in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1,), (1, 3), (1, 2, 5)):
        ticks = [s * 10.0**d for d in decades for s in steps if low <= s * 10.0**d <= high]
        if len(ticks) >= 3:
            break
    return ticks


def amounts(ticks: Sequence[float]) -> Texts:
    """Ticks with the texts of counts: 2 M, 4 M."""
    texts = []
    for tick in ticks:
        digits, space, unit = amount(tick).partition("\u202f")
        if "." in digits:
            digits = digits.rstrip("0").rstrip(".")
        texts.append((tick, digits + space + unit))
    return texts


def decimals(ticks: Sequence[float]) -> Texts:
    """Ticks with as many decimals as their distance needs, or as a single one has."""
    gaps = [b - a for a, b in pairwise(ticks)]
    step = min(gaps, default=abs(next(iter(ticks), 1.0)) or 1.0)
    places = next((p for p in range(9) if abs(round(step, p) - step) < step * 1e-6), 9)
    return [(tick, decimal(tick, places)) for tick in ticks]


def powers(ticks: Sequence[float]) -> Texts:
    """Ticks of small numbers in logs: 0.001, 0.0003."""
    return [(tick, f"{tick:.9f}".rstrip("0").rstrip(".")) for tick in ticks]


@dataclass(frozen=True)
class Frame:
    """The place of a chart: its size, and the scales of both axes within it."""

    width: float
    height: float
    x: Scale
    y: Scale

    @classmethod
    def of(
        cls,
        size: tuple[float, float],
        x: tuple[float, float],
        y: tuple[float, float],
        *,
        top: float = 22,
        logs: bool = False,
    ) -> "Frame":
        """A frame of `size` with room for ticks and names; `logs` are those of x."""
        width, height = size
        return cls(
            width,
            height,
            Scale(*x, 40, width - 8, logs),
            Scale(*y, height - 34, top),
        )

    def draw(
        self, label: str, names: tuple[str, str], ticks: tuple[Texts, Texts], *marks: Markup
    ) -> Markup:
        """The chart: `marks` over a grid. `label` says what it is to who does not see it."""
        left, right, bottom, top = self.x.start, self.x.end, self.y.start, self.y.end
        parts = [
            tag("line", x1=left, x2=right, y1=self.y(t), y2=self.y(t), class_="gridline")
            for t, _ in ticks[1]
        ]
        parts += [
            tag("text", text, x=left - 6, y=self.y(t) + 3.5, text_anchor="end")
            for t, text in ticks[1]
        ]
        for tick, text in ticks[0]:
            x = self.x(tick)
            anchor = "end" if x > right - 12 else "middle"
            parts += [
                tag("line", x1=x, x2=x, y1=bottom, y2=bottom + 4, class_="axis"),
                tag("text", text, x=min(x, right + 6), y=bottom + 16, text_anchor=anchor),
            ]
        parts += [
            tag("line", x1=left, x2=right, y1=bottom, y2=bottom, class_="axis"),
            tag("text", names[0], x=right, y=bottom + 30, text_anchor="end", class_="name"),
        ]
        if names[1]:
            parts.append(tag("text", names[1], x=2, y=top - 10, class_="name"))
        return picture(self.width, self.height, label, *parts, *marks)


def picture(width: float, height: float, label: str, *content: Markup) -> Markup:
    """An SVG that fills the width it is given."""
    return tag(
        "svg",
        *content,
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        aria_label=label,
        class_="chart small" if width < 300 else "chart",
    )
