"""The training of one generation: curves of the cells, Tune's trials, curves of the networks."""

from collections.abc import Mapping

from dna_ray.config import Loss
from dna_ray.report import charts
from dna_ray.report.html import Content, Markup, column, details, figure, table, tag
from dna_ray.report.records import Curve, Generation

NETWORKS = {"teacher": "teacher, adapted", "found": "found network", "scaled": "its scaled copy"}


_DISTANCES: dict[Loss, str] = {
    "mse": "Mean squared distance from the teacher's features",
    "relative_l1": "Mean distance from the teacher's features, in parts of their deviation",
}


def cells_section(generation: Generation, loss: Loss) -> Markup | None:
    """Loss curves of the cells while they learned the teacher's features by a loss."""
    curves = generation.cell_curves
    if not curves:
        return None
    panels = []
    for block in sorted({block for block, _ in curves}):
        taken = generation.chosen_cell(block - 1)
        series = [
            charts.Line(f"cell {cell}", curve, f"c{cell % 6}" + (" taken" if cell == taken else ""))
            for (at, cell), curve in curves.items()
            if at == block
        ]
        drawing = charts.lines(f"loss of the cells of block {block}", ("epoch", "loss"), series)
        ends = column((line.points[-1][1] for line in series), 4)
        entries: list[tuple[str, Content]] = [
            (f"line {s.style}", f"{s.name}: {end}{', chosen' * ('taken' in s.style)}")
            for s, end in zip(series, ends, strict=True)
        ]
        panels.append(figure(f"Block {block}", None, drawing, charts.legend(entries)))
    return tag(
        "section",
        tag("h3", "Training of the cells"),
        tag(
            "p",
            f"{_DISTANCES[loss]}, averaged over the steps of an epoch, and below each chart the "
            "last of them. Every cell learns by itself; the scales differ from block to block.",
        ),
        tag("div", panels, class_="grid"),
        _curve_table(
            "Losses by epoch, for each block and cell",
            "epoch",
            {f"block {b}, {c}": curve for (b, c), curve in curves.items()},
        ),
    )


def _curve_table(title: str, unit: str, curves: Mapping[str, Curve]) -> Markup:
    texts = [
        dict(zip([step for step, _ in curve], column(loss for _, loss in curve), strict=True))
        for curve in curves.values()
    ]
    steps = sorted({step for values in texts for step in values})
    rows = [[str(step), *(values.get(step, "") for values in texts)] for step in steps]
    return details(title, table((unit, *curves), rows))


def training_section(generation: Generation) -> Markup | None:
    """Tune's trials and the training of the networks."""
    figures: list[Markup] = []
    tables: list[Markup] = []
    if generation.trials:
        figures.append(
            figure(
                f"{len(generation.trials)} trials of Tune",
                f"Short trainings of the found network; the best, at a learning rate of "
                f"{generation.trials[0].learning_rate:.2g}, sets the recipe.",
                charts.trials_chart(generation.trials),
                charts.legend([("chosen", "best trial"), ("dot c0", "other trials")]),
            )
        )
        rows = [
            [str(place), f"{t.learning_rate:.4g}", f"{t.weight_decay:.4g}", loss]
            for place, (t, loss) in enumerate(
                zip(generation.trials, column(t.loss for t in generation.trials), strict=True), 1
            )
        ]
        header = ("rank", "learning rate", "weight decay", "loss on held-out pictures")
        tables.append(details("Tune's trials", table(header, rows)))
    if generation.network_curves:
        series = [
            charts.Line(NETWORKS.get(name, name), curve, f"c{place}")
            for place, (name, curve) in enumerate(generation.network_curves.items())
        ]
        words = "Training loss, averaged over a pass."
        if "teacher" in generation.network_curves:
            words += " The teacher learned the labels alone: its loss is of another scale."
        figures.append(
            figure(
                "Retraining",
                words,
                charts.lines("training loss by pass", ("pass", "loss"), series, charts.MIDDLE),
                charts.legend([(f"line {s.style}", s.name) for s in series]),
            )
        )
        named = {NETWORKS.get(n, n): curve for n, curve in generation.network_curves.items()}
        tables.append(_curve_table("Losses by pass", "pass", named))
    if not figures:
        return None
    return tag(
        "section",
        tag("h3", "Tune and retraining"),
        tag("div", figures, class_="grid wide"),
        tables,
    )
