"""HTML and SVG text that is escaped by default, and the numbers in it.

Everything that `tag` is given is escaped but for what `tag` itself has made, so that nothing of a
run (names of data, classes, files) can become markup. The result is XML too.
"""

import html
import math
import re
from collections.abc import Iterable, Sequence

# What neither HTML nor XML can hold, however it is written.
_FORBIDDEN = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Content = str | Iterable["Content"] | None


def escape(text: str) -> Markup:
    """Any text as HTML that shows it; characters that HTML cannot hold become U+FFFD."""
    return Markup(html.escape(_FORBIDDEN.sub("\ufffd", text)))


def join(content: Content) -> Markup:
    """Content one after another: markup as it is, text escaped, None left out."""
    if content is None:
        return Markup("")
    if isinstance(content, Markup):
        return content
    if isinstance(content, str):
        return escape(content)
    return Markup("".join(map(join, content)))


def tag(name: str, /, *content: Content, **attributes: str | float | None) -> Markup:
    """An element. `class_` is class, other underscores are hyphens; None leaves one out."""
    words = [name]
    for key, value in attributes.items():
        if value is not None:
            text = number(value) if isinstance(value, int | float) else value
            words.append(f'{key.strip("_").replace("_", "-")}="{escape(text)}"')
    start, inside = " ".join(words), join(content)
    return Markup(f"<{start}>{inside}</{name}>" if content else f"<{start} />")


def number(value: float) -> str:
    """A coordinate or a length, to a tenth."""
    return f"{value:.1f}".removesuffix(".0")


def table(
    header: Sequence[Content],
    rows: Iterable[Sequence[Content]],
    texts: int = 1,
    *,
    last_is_text: bool = False,
) -> Markup:
    """A table that scrolls by itself; all but the first `texts` columns are numbers."""
    last = len(header) - 1

    def style(place: int) -> str | None:
        if place == last and last_is_text:
            return "words"
        return None if place < texts else "n"

    def line(cell: str, cells: Sequence[Content]) -> Markup:
        return tag(
            "tr", [tag(cell, content, class_=style(place)) for place, content in enumerate(cells)]
        )

    head = tag("thead", line("th", header))
    body = tag("tbody", [line("td", row) for row in rows])
    return tag("div", tag("table", head, body), class_="scroll", tabindex="0")


def details(summary: Content, *content: Content) -> Markup:
    """What is folded away until it is asked for."""
    return tag("details", tag("summary", summary), *content)


def figure(title: Content, caption: Content, *content: Content) -> Markup:
    """A picture with its title and, where there is a caption, what is to be seen."""
    words = None if caption is None else tag("figcaption", caption)
    return tag("figure", tag("h4", title), words, *content)


def count(value: float) -> str:
    """A number or a cost in full: 7,331,200; what is not whole to five digits."""
    return f"{int(value):,}" if value == round(value) else f"{value:,.5g}"


def amount(value: float) -> str:
    """A count to three digits: 7.33 M, 484 K."""
    for power, letter in ((10**9, "G"), (10**6, "M"), (10**3, "K")):
        if abs(value) >= power * 0.9995:
            return f"{_digits(value / power)}\u202f{letter}"
    return f"{value:.0f}" if value == round(value) else _digits(value)


def _digits(value: float) -> str:
    places = 2 - math.floor(math.log10(abs(value)))
    return f"{value:.{max(0, min(2, places))}f}"


def decimal(value: float, places: int = 4) -> str:
    """A measured number; what is none is a dash."""
    return f"{value:.{places}f}".replace("-", "\u2212") if math.isfinite(value) else "\u2013"


def column(values: Iterable[float], digits: int = 5) -> list[str]:
    """Measured numbers that stand below each other: `digits` of the greatest, decimals alike."""
    known = list(values)
    greatest = max((abs(v) for v in known if math.isfinite(v)), default=1.0) or 1.0
    places = max(0, digits - 1 - math.floor(math.log10(greatest)))
    return [decimal(value, places) for value in known]


def signed(value: float, places: int) -> str:
    """A difference with its sign."""
    if not math.isfinite(value):
        return decimal(value)
    text = decimal(abs(value), places)
    sign = "" if float(f"{value:.{places}f}") == 0 else "+" if value > 0 else "\u2212"
    return sign + text


def duration(seconds: float) -> str:
    """12.3 s, 4 min 05 s, 2 h 10 min."""
    if seconds < 99.95:
        return f"{seconds:.1f}\u202fs"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}\u202fmin {rest:02}\u202fs"
    return f"{minutes // 60}\u202fh {minutes % 60:02}\u202fmin"
