"""Plots as files, SVG or PNG by the name's ending: made whole or not at all, alike in every run."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from dna_ray.errors import UserError
from dna_ray.ranking import Stability, Taus
from dna_ray.report.html import amount
from dna_ray.space import cost_name
from dna_ray.storage import write_whole

Array = np.ndarray

_SUFFIXES = (".svg", ".png")
_MANY = 2000  # points beyond which an SVG file holds them as a picture
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "dna-ray",
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.9",
    "legend.frameon": False,
}
_LINE, _CHOSEN = "#0072b2", "#d55e00"  # told apart by whoever sees few colours


def check_plot_file(path: Path) -> None:
    """Raise UserError where `path` can be no plot: before any work is done for it."""
    if path.suffix.lower() not in _SUFFIXES:
        raise UserError(f"a plot must be an .svg or .png file, but '{path}' is given")
    if path.is_dir() or not path.parent.is_dir():
        raise UserError(
            f"a plot must be a file in a folder that is there, but '{path}' is not; make the folder"
        )


def plot_ranking(
    path: Path,
    losses: Array,
    accuracies: Array,
    *,
    kendall: float,
    cost: tuple[str, Array] | None = None,
) -> None:
    """A rating against accuracy: one point per architecture (N,), better ones to the upper right.

    `kendall` is their agreement, for the title; `cost`, a name and (N,), is shown as colour.
    """
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure()
        size = 36 if len(losses) < 200 else 8
        if cost is None:
            marks = axes.scatter(losses, accuracies, size, color=_LINE, linewidths=0)
        else:
            name, values = cost
            marks = axes.scatter(losses, accuracies, size, values, cmap="viridis", linewidths=0)
            bar = figure.colorbar(marks, ax=axes, format=_TICKS, pad=0.02)
            bar.set_label(cost_name(name))
            bar.outline.set_visible(False)
        marks.set_rasterized(len(losses) > _MANY)
        axes.invert_xaxis()
        axes.set_xlabel("rating: sum of losses (better to the right)")
        percent = ", %" if accuracies.max() > 1 else ""
        axes.set_ylabel(f"accuracy of the network trained alone{percent}")
        tau = f"Kendall τ = {kendall:.3f}" if np.isfinite(kendall) else "Kendall τ undefined"
        axes.set_title(f"{tau}, {len(losses):,} architectures", loc="left")
        _save(figure, path)


def plot_front(
    path: Path, cost: str, costs: Array, losses: Array, chosen: int | None, limit: float | None
) -> None:
    """A Pareto front: `losses` (n,) against `costs` (n,), named `cost`.

    `chosen` is the index of the architecture to mark, `limit` the largest cost allowed.
    """
    order = np.lexsort((losses, costs))
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure()
        least = np.minimum.accumulate(losses[order])
        axes.step(costs[order], least, where="post", color=_LINE, linewidth=1, zorder=2)
        label = f"Pareto front ({len(costs):,} architectures)"
        marks = axes.scatter(costs, losses, s=12, color=_LINE, linewidths=0, zorder=2, label=label)
        marks.set_rasterized(len(costs) > _MANY)
        if limit is not None:
            label = f"limit: {_amount(limit)}"
            axes.axvline(limit, color="0.3", linestyle="--", linewidth=1.2, label=label)
        if chosen is not None:
            axes.scatter(
                costs[chosen],
                losses[chosen],
                s=110,
                marker="D",
                color=_CHOSEN,
                edgecolors="white",
                zorder=3,
                label=f"chosen: {amount(costs[chosen])}, loss {losses[chosen]:.4g}",
            )
        axes.xaxis.set_major_formatter(_TICKS)
        axes.set_xlabel(cost_name(cost))
        axes.set_ylabel("loss: sum over blocks (lower is better)")
        figure.legend(loc="outside upper left", ncols=3, fontsize=10, columnspacing=1)
        _save(figure, path)


def plot_stability(path: Path, found: Stability) -> None:
    """Kendall's tau of a run's rating with itself trained otherwise, by block and in all.

    Over the epochs and the share of the data that the cells were trained with, and of each pair of
    seeds; a panel for each of these that there is.
    """
    epochs = [(float(c.variant.epochs), c.tau) for c in found.checkpoints]
    shares = [(c.variant.fraction, c.tau) for c in found.fractions]
    pairs, panels = list(found.pairs.values()), sum(map(bool, (epochs, shares, found.pairs)))
    with matplotlib.rc_context(_STYLE):
        layout = ConstrainedLayoutEngine(w_pad=0.12)
        figure = Figure(figsize=(2 + 3.5 * panels, 4.5), layout=layout)
        every = list(figure.subplots(1, panels, sharey=True, squeeze=False)[0])
        left = iter(every)
        if epochs:
            axes = next(left)
            _tau_lines(axes, epochs)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.set_xlim(0, found.own.epochs)
            axes.set_xlabel(f"epoch, of {found.own.epochs}")
            axes.set_title("training ended early", loc="left")
        if shares:
            axes = next(left)
            _tau_lines(axes, shares)
            axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
            axes.set_xlim(0, 1)
            axes.set_xlabel("of the windows that teach")
            axes.set_title("a part of the data", loc="left")
        if pairs:
            axes = next(left)
            _tau_points(axes, pairs)
            axes.set_xlabel("block")
            name = "two seeds" if len(pairs) == 1 else f"{len(pairs)} pairs of seeds"
            axes.set_title(name, loc="left")
        every[0].set_ylim(top=1.03)
        every[0].set_ylabel("Kendall τ of two ratings")
        if epochs or shares:  # else the axis names them
            handles, labels = every[0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside upper left", ncols=4 * panels)
        _save(figure, path)


def _tau_series(taus: Sequence[Taus]) -> list[tuple[str, Array, dict[str, Any]]]:
    """Of each block, from dark to light through the network, and of all: name, values, style."""
    values = np.array([(*tau.blocks, tau.total) for tau in taus]).T
    blocks, marks = len(values) - 1, "sD^vP*Xp"
    names = [*(f"block {k}" for k in range(1, blocks + 1)), "all blocks"]
    styles: list[dict[str, Any]] = [
        {"color": colour, "marker": marks[k % len(marks)], "linewidth": 1.2, "markersize": 6}
        for k, colour in enumerate(matplotlib.colormaps["viridis"](np.linspace(0, 0.85, blocks)))
    ]
    styles.append({"color": "black", "marker": "o", "linewidth": 2.6, "markersize": 7})
    return list(zip(names, values, styles, strict=True))


def _tau_lines(axes: Axes, points: Sequence[tuple[float, Taus]]) -> None:
    """A line for every block, and one for all together."""
    points = sorted(points, key=lambda point: point[0])
    for name, values, style in _tau_series([tau for _, tau in points]):
        axes.plot([x for x, _ in points], values, label=name, **style)


def _tau_points(axes: Axes, taus: Sequence[Taus]) -> None:
    """A point for each in every block, and in all together."""
    series = _tau_series(taus)
    for place, (name, values, style) in enumerate(series):
        axes.plot(np.full(len(values), place), values, label=name, **style | {"linestyle": ""})
    axes.set_xticks(range(len(series)), [*map(str, range(1, len(series))), "all"])
    axes.set_xlim(-0.6, len(series) - 0.4)


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7, 5), layout="constrained")
    return figure, figure.add_subplot()


def _amount(value: float) -> str:
    """An amount without zeros at its end, as ticks have it: 80 M, 2.5."""
    for power, letter in ((1e9, "G"), (1e6, "M"), (1e3, "K")):
        if abs(value) >= power:
            return f"{value / power:.6g}\u202f{letter}"
    return f"{value:.6g}"


_TICKS = FuncFormatter(lambda value, _: _amount(value))


def _save(figure: Figure, path: Path) -> None:
    kind = path.suffix.lower().removeprefix(".")
    buffer = io.BytesIO()
    metadata = {"svg": {"Date": None}, "png": {"Software": None}}[kind]
    figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
    try:
        write_whole(path, buffer.getvalue())
    except OSError as error:
        raise UserError(
            f"a plot must be writable, but '{path}' is not ({error.strerror}); give another file"
        ) from None
