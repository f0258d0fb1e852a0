"""The report of a run: one HTML file that needs nothing else."""

import math
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from dna_ray.errors import UserError
from dna_ray.report import answer, network, sections, training, truth
from dna_ray.report.axes import Scale, picture
from dna_ray.report.charts import legend
from dna_ray.report.html import Content, Markup, count, details, duration, table, tag
from dna_ray.report.records import Generation, Run, read_run
from dna_ray.space import Space, cost_name
from dna_ray.storage import Place, reason

STAGES = ("adapt", "features", "distill", "rate", "search", "tune", "retrain")


def write_report(run: str | Path) -> Place:
    """Make `report.html` of the run folder `run`, whole or not at all, and say where it is.

    `run` is a path or a URI. Raises UserError where it is no run folder, holds no finished
    generation, has a damaged record or cannot be written to.
    """
    page = report_page(read_run(run))
    file = Place.of(run) / "report.html"
    try:
        file.write(page.encode())
    except OSError as error:
        raise UserError(
            f"the run folder must be writable, but '{file}' is not ({reason(error)}); "
            "make room, or copy the folder and report on the copy"
        ) from None
    return file


def report_page(run: Run) -> str:
    """The whole page as HTML, which is XML too; nothing in it refers to another file."""
    style = resources.files("dna_ray.report").joinpath("style.css").read_text(encoding="utf-8")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{answer.data_name(run)}: dna-ray search report"),
        tag("style", Markup(style)),
    )
    open_from = run.results[-1][0].number
    body = tag(
        "body",
        tag(
            "main",
            answer.header(run),
            _networks(run),
            _drawings(run),
            _facts(run),
            [_generation(run, g, folded=g.number < open_from) for g in run.generations],
            _time(run.generations),
            _settings(run),
        ),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def _networks(run: Run) -> Markup:
    unfinished = [str(g.number) for g in run.generations if g.result is None]
    note = None
    if len(run.results) < run.job.generations:
        note = f"{len(run.results)} of {run.job.generations} generations are finished."
        if unfinished:
            note += f" What generation {', '.join(unfinished)} has recorded so far is shown below."
    return tag(
        "section",
        tag("h2", "Found networks and their teachers"),
        tag("p", note, class_="warning") if note else None,
        tag("p", answer.quality_note(run)),
        answer.networks_table(run),
        answer.quality_charts(run),
    )


def _drawings(run: Run) -> Markup | None:
    drawn = [g for g in run.generations if g.chosen is not None]
    words = (
        "Every box is a layer, wide as its kernel and high as its expansion. Below it: the width "
        "of the block and its multiply-adds."
    )
    if len(drawn) > 1:
        words = "One line in each block for every generation. " + words
    return tag(
        "section",
        tag("h2", "The network, block by block"),
        tag("p", words),
        network.key(run.space),
        network.side_by_side(run.space, run.resolution, drawn),
        [network.block_table(g) for g in drawn],
        tag(
            "dl",
            [
                [
                    tag("dt", f"Generation {g.number}"),
                    tag("dd", tag("code", str(g.chosen.architecture))),
                ]
                for g in drawn
                if g.chosen is not None
            ],
        ),
    )


def _facts(run: Run) -> Markup:
    job, space = run.job, run.space
    chosen = next(g.chosen for g in reversed(run.generations) if g.chosen is not None)
    limits = [f"{cost_name(name)} \u2264 {count(value)}" for name, value in chosen.limits.items()]
    default = "" if job.limits else " (half way between the smallest and the largest architecture)"
    facts: list[tuple[str, Content]] = [
        ("Data", tag("code", job.data)),
        ("Teacher", [tag("code", job.teacher), _adapted(run)]),
        ("Space", [tag("code", space.name), f", {count(space.architectures)} architectures"]),
        ("Resolution", f"{run.resolution} \u00d7 {run.resolution} pixels"),
        ("Limits", "; ".join(limits) + default),
        ("Generations", f"{len(run.results)} of {job.generations} finished"),
        ("Seed", str(job.seed)),
        ("Run folder", tag("code", run.folder)),
    ]
    return tag(
        "section",
        tag("h2", "What was searched, and with what"),
        tag(
            "dl", [[tag("dt", name), tag("dd", content)] for name, content in facts], class_="facts"
        ),
        _space_table(space),
    )


def _adapted(run: Run) -> str:
    curves = run.generations[0].network_curves
    return ", adapted to the labels" if "teacher" in curves else ""


def _space_table(space: Space) -> Markup:
    rows = [
        [
            str(k + 1),
            tag("code", " ".join(map(str, block.ops))),
            ", ".join(f"{c.layers} of {c.width}" for c in block.cells),
            str(block.stride),
            count(sum(block.count(c) for c in range(len(block.cells)))),
        ]
        for k, block in enumerate(space.blocks)
    ]
    header = ("block", "ops", "cells: layers of width", "stride", "paths")
    return details(f"The space {space.name}, block by block", table(header, rows, texts=3))


def _generation(run: Run, generation: Generation, *, folded: bool) -> Markup:
    title = f"Generation {generation.number}"
    content: Sequence[Content] = [
        [tag("p", f"A cell is left out: {why}.", class_="warning") for why in generation.left_out],
        sections.front_section(generation, run.job.seed),
        sections.ratings_section(generation),
        truth.truth_section(generation, run.job.seed),
        sections.ops_section(generation),
        training.cells_section(generation, run.job.distill.loss),
        training.training_section(generation),
    ]
    return tag(
        "details",
        tag("summary", tag("h2", title), tag("span", sections.summary(generation))),
        content,
        class_="generation",
        open=None if folded else "open",
    )


def _time(generations: Sequence[Generation]) -> Markup | None:
    timed = [g for g in generations if g.seconds]
    if not timed:
        return None
    others = dict.fromkeys(s for g in timed for s in g.seconds if s not in STAGES)
    stages = [*(s for s in STAGES if any(s in g.seconds for g in timed)), *others]
    greatest = max(math.fsum(g.seconds.values()) for g in timed)
    scale, marks, height = Scale(0, greatest, 0, 320), [], 38.0
    for place, generation in enumerate(timed):
        done, top = 0.0, height * place
        total = duration(math.fsum(generation.seconds.values()))
        marks += [
            tag("text", f"generation {generation.number}", x=0, y=top + 11, class_="name"),
            tag("text", total, x=scale.end, y=top + 11, text_anchor="end"),
        ]
        for stage in stages:
            seconds = generation.seconds.get(stage, 0.0)
            said = tag("title", f"{stage}: {duration(seconds)}")
            marks.append(
                tag(
                    "rect",
                    said,
                    x=scale(done),
                    y=top + 16,
                    width=scale(done + seconds) - scale(done),
                    height=13,
                    class_=f"bar s{_shade(stage)}",
                )
            )
            done += seconds
    label = "seconds of each stage by generation"
    rows = [
        [stage, *(f"{g.seconds[stage]:.3f}" if stage in g.seconds else "" for g in timed)]
        for stage in stages
    ]
    rows.append(["all", *(f"{math.fsum(g.seconds.values()):.3f}" for g in timed)])
    return tag(
        "section",
        tag("h2", "Time"),
        tag(
            "div",
            tag(
                "figure",
                picture(320, height * len(timed), label, *marks),
                legend([(f"area s{_shade(stage)}", stage) for stage in stages]),
            ),
            table(("seconds", *(f"gen. {g.number}" for g in timed)), rows),
            class_="grid wide",
        ),
    )


def _shade(stage: str) -> int:
    """The colour of a stage, the same in every run."""
    return STAGES.index(stage) if stage in STAGES else len(STAGES)


def _settings(run: Run) -> Markup:
    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    return tag(
        "footer",
        details("All settings of the run (config.toml)", tag("pre", run.config, tabindex="0")),
        tag("p", f"Made from the run folder alone, by dna-ray. Versions of the run: {versions}."),
    )
