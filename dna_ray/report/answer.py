"""The answer, which comes first: the found networks against their teachers."""

import math
from pathlib import Path

from dna_ray.report import charts
from dna_ray.report.html import (
    Content,
    Markup,
    amount,
    count,
    decimal,
    figure,
    table,
    tag,
)
from dna_ray.report.records import Result, Run
from dna_ray.space import cost_name

QUALITY = {
    "auroc": "AUROC",
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy",
    "agreement_top1": "top-1 agreement",
    "agreement_top5": "top-5 agreement",
    "kl": "KL divergence",
}
_LESS_IS_BETTER = ("kl",)


def quality_names(result: Result) -> list[str]:
    """What quality is measured in: the names of the metrics, the most telling first."""
    names = [n for n in result.metrics["found"] if n not in ("params", "macs")]
    known = list(QUALITY)
    return sorted(names, key=lambda n: known.index(n) if n in known else len(known))


def quality_words(name: str) -> str:
    """A metric in words."""
    return QUALITY.get(name, name.replace("_", " "))


def data_name(run: Run) -> str:
    """The data set by the last part of its name."""
    return Path(run.job.data).name or run.job.data


def header(run: Run) -> Markup:
    """Title, one sentence, and the numbers of the last finished generation as cards."""
    (_, first), (last, result) = run.results[0], run.results[-1]
    found, teacher = result.metrics["found"], first.metrics["teacher"]
    sizes = [
        ("Parameters", found["params"], teacher["params"]),
        ("Multiply-adds", found["macs"], teacher["macs"]),
    ]
    cards = [
        _card(name, amount(ours), amount(theirs), times(ours, theirs), (ours, theirs))
        for name, ours, theirs in sizes
    ]
    for name in quality_names(result):
        ours, theirs = found[name], teacher.get(name, math.nan)
        words = _difference(ours, theirs, name in _LESS_IS_BETTER)
        bars = (ours, theirs) if name not in _LESS_IS_BETTER else None
        title = quality_words(name)
        cards.append(
            _card(title[:1].upper() + title[1:], decimal(ours, 3), decimal(theirs, 3), words, bars)
        )
    return tag(
        "header",
        tag("p", "dna-ray ", tag("span", "search report"), class_="eyebrow"),
        tag("h1", f"A network for {data_name(run)} with {amount(found['params'])} parameters"),
        tag("p", _sentence(run), class_="lead"),
        tag("div", cards, class_="cards"),
        tag("p", tag("code", str(last.chosen.architecture) if last.chosen else ""), class_="text"),
    )


def _sentence(run: Run) -> Content:
    (first, result), (last, _) = run.results[0], run.results[-1]
    words = ""
    if last.chosen is not None:
        limits = " and ".join(
            f"{amount(value)} {cost_name(name)}" for name, value in last.chosen.limits.items()
        )
        proof = "is proven to rate best" if last.chosen.proven_optimal else "rates best"
        words = f"Of {count(last.chosen.candidates)} architectures it {proof} within {limits}. "
    words += f"Found in generation {last.number} of {run.job.generations}, and measured against "
    words += "its teacher, " if last is first else "the first teacher, "
    return [words, tag("b", result.teacher), "."]


def _card(
    name: str, ours: str, theirs: str, words: str, bars: tuple[float, float] | None
) -> Markup:
    lengths = (0.0, 0.0)
    if bars is not None and all(map(math.isfinite, bars)) and min(bars) >= 0 < max(bars):
        lengths = 100 * bars[0] / max(bars), 100 * bars[1] / max(bars)
    drawing = tag(
        "svg",
        tag("rect", x=0, y=0, width=lengths[0], height=5, class_="ours"),
        tag("rect", x=0, y=8, width=lengths[1], height=5, class_="theirs"),
        viewBox="0 0 100 13",
        preserveAspectRatio="none",
        aria_hidden="true",
    )
    return tag(
        "div",
        tag("h2", name),
        tag("p", ours, class_="big"),
        drawing,
        tag("p", f"teacher {theirs}", tag("span", words)),
        class_="number",
    )


def times(ours: float, theirs: float) -> str:
    """How a cost compares: 7.1 times fewer."""
    if ours == theirs or min(ours, theirs) <= 0:
        return "as many"
    ratio = max(ours, theirs) / min(ours, theirs)
    places = 0 if ratio >= 9.95 else 1 if ratio >= 1.95 else 2
    return f"{ratio:.{places}f}\u00d7 {'fewer' if ours < theirs else 'more'}"


def _difference(ours: float, theirs: float, less_is_better: bool) -> str:
    difference = ours - theirs
    if not math.isfinite(difference):
        return "\u00a0"
    if abs(difference) < 0.0005:
        return "equal"
    better = (difference < 0) == less_is_better
    return f"{abs(difference):.3f} {'better' if better else 'worse'}"


def quality_note(run: Run) -> str:
    """What the quality of a network was measured on."""
    if "kl" in run.results[0][1].metrics["found"]:
        return (
            "The pictures have no labels: quality is the agreement with the first teacher on "
            "the test pictures, which taught nothing."
        )
    return "Quality is measured on the test pictures, which taught nothing."


def networks_table(run: Run) -> Markup:
    """All networks that were measured; one that is the next generation's teacher stands once."""
    names = quality_names(run.results[0][1])
    rows: list[list[Content]] = []
    for generation, result in run.results:
        roles = [("teacher", result.teacher), ("found", "")]
        if "next_teacher" in result.metrics and generation is run.results[-1][0]:
            roles.append(("next_teacher", "found network, scaled"))
        for role, words in roles:
            metrics = result.metrics[role]
            number = generation.number + (role == "next_teacher")
            cells: list[Content] = [f"{'found' if role == 'found' else 'teacher'} {number}"]
            cells += [count(metrics["params"]), count(metrics["macs"])]
            cells += [decimal(metrics.get(name, math.nan), 4) for name in names]
            rows.append([*(tag("b", c) if role == "found" else c for c in cells), words])
    header_ = ("", "parameters", "multiply-adds", *map(quality_words, names), "")
    return table(header_, rows, last_is_text=True)


def quality_charts(run: Run) -> Markup | None:
    """Quality over the generations, found network against teacher, a chart for each metric."""
    results = [(generation.number, result) for generation, result in run.results]
    if len(results) < 2:
        return None
    figures = []
    for name in quality_names(results[0][1]):
        series = [
            charts.Line(role, [(n, r.metrics[role].get(name, math.nan)) for n, r in results], style)
            for role, style in (("teacher", "c5"), ("found", "mark taken"))
        ]
        words = quality_words(name)
        better = "Lower" if name in _LESS_IS_BETTER else "Higher"
        figures.append(
            figure(
                words[:1].upper() + words[1:],
                f"{better} is better.",
                charts.lines(f"{words} by generation", ("generation", ""), series),
                charts.legend([(f"line {s.style}", s.name) for s in series]),
            )
        )
    return tag("div", figures, class_="grid fit")
