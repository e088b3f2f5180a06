"""Figures of what epochs buy: hypervolume by epochs spent, fronts by epoch, and methods at equal cost."""

from __future__ import annotations

from collections.abc import Iterable

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from orchestrator.report.document import Cell, Table
from orchestrator.report.drawing import BLACK, BLUE, ORANGE, Plot, axis_label, drawable, plot_of, style
from orchestrator.results.effort import EpochFront, EpochPoint, Method
from orchestrator.results.findings import Findings

_NAMED = 6  # epochs in a legend


def hypervolume_plot(found: Findings) -> Plot:
    """Hypervolume over the epochs of all trials, and what the published settings reach by themselves."""
    summary = found.summary
    ended = zip(summary.records, summary.spent, summary.history, strict=True)
    header = ["ended", "trial_id", "label", "state", "epochs", "hypervolume"]
    data = Table(header, [[n, r.trial_id, r.label, r.state, e, v] for n, (r, e, v) in enumerate(ended, start=1)])
    spent, volumes = found.volume
    alone = found.published_volume
    with style():
        figure = Figure(figsize=(8.4, 3.0), layout="constrained")
        axes = figure.subplots()
        axes.plot(spent, volumes, drawstyle="steps-post", color=BLUE, linewidth=1.8, label="all trials")
        if alone is not None:
            axes.axhline(alone, color=ORANGE, linestyle="--", linewidth=1.2, label="published settings alone")
            axes.legend(loc="lower right")
        axes.set_xlabel("epochs spent, of all trials together")
        axes.set_ylabel("hypervolume (higher is better ↑)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlim(0, 1.01 * max(1, spent[-1]))
        top = volumes[-1]
        early = min(v for s, v in zip(spent, volumes, strict=True) if v > 0) if top > 0 else 0.0
        # The first trial leaps; the rest, which is what the search did, would be a flat line under a leap from zero.
        low = min(early, top if alone is None else alone)
        axes.set_ylim(low - 0.05 * (top - low) if top > low else 0, top + 0.08 * (top - low) if top > low else None)
        return plot_of("hypervolume", figure, data)


def epochs_plot(found: Findings) -> Plot:
    """The front after each epoch, of the trials that ran to their full budget."""
    objectives = found.summary.info.objectives
    fronts = found.epoch_fronts
    rows: list[list[Cell]] = [
        [f.epoch, f.hypervolume, p.trial_id, *_values(p, objectives)] for f in fronts for p in f.front
    ]
    with style():
        both = len(objectives) == 2
        figure = Figure(figsize=(8.4, 3.5) if both else (5.0, 3.0), layout="constrained")
        panels = figure.subplots(1, 2 if both else 1, squeeze=False, width_ratios=[1.25, 1] if both else [1])[0]
        if both:
            _draw_fronts(panels[0], fronts, found)
        axes = panels[-1]
        axes.plot([f.epoch for f in fronts], [f.hypervolume for f in fronts], color=BLUE, marker="o", markersize=4)
        axes.set_xlabel("epoch of the trials")
        axes.set_ylabel("hypervolume of the front there ↑")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        return plot_of("epochs", figure, Table(["epoch", "hypervolume", "trial_id", *objectives], rows))


def _draw_fronts(axes: Axes, fronts: list[EpochFront], found: Findings) -> None:
    """A staircase an epoch, from light (first) to dark (last)."""
    objectives = found.summary.info.objectives
    (x, x_way), (y, y_way) = objectives.items()
    last = len(fronts) - 1
    named = {round(index * last / (_NAMED - 1)) for index in range(_NAMED)}
    for index, front in enumerate(fronts):
        colour = colormaps["Blues"](0.3 + 0.7 * index / max(1, last))
        steps = [[point.metrics[name] for point in front.front] for name in objectives]
        label = f"epoch {front.epoch}" if index in named else None
        axes.plot(*steps, drawstyle="steps-post", color=colour, marker="o", markersize=3, linewidth=1.2, label=label)
    axes.set_xlabel(axis_label(x, x_way, "x"))
    axes.set_ylabel(axis_label(y, y_way, "y"), fontsize=8)
    axes.legend(loc="best", fontsize=7)


def methods_plot(found: Findings) -> Plot:
    """What each method reaches for the same number of epochs; a published setting for its own."""
    methods = found.methods
    shown = [method for method in methods.rows if method.at_budget is not None]
    header = ["method", "published", "trials", "epochs", "candidates", "hypervolume", "at_budget", "low", "high"]
    rows = [
        [m.name, m.published, m.trials, m.epochs, m.candidates, m.hypervolume, m.at_budget, m.low, m.high]
        for m in methods.rows
    ]
    with style():
        figure = Figure(figsize=(8.4, 0.9 + 0.28 * max(2, len(shown))), layout="constrained")
        axes = figure.subplots()
        for place, method in enumerate(reversed(shown)):
            _draw_method(axes, method, place)
        axes.set_yticks(range(len(shown)), [drawable(method.name) for method in reversed(shown)])
        axes.set_ylim(-0.6, len(shown) - 0.4)
        axes.set_xlabel(f"hypervolume (higher is better →), searched methods after {methods.budget} epochs each")
        return plot_of("methods", figure, Table(header, rows))


def _draw_method(axes: Axes, method: Method, place: int) -> None:
    value = method.at_budget or 0.0
    if method.published:
        axes.plot([value], [place], marker="D", color="white", markeredgecolor=ORANGE, markersize=6, linestyle="none")
        return
    reach = None
    if method.low is not None and method.high is not None:
        # Where all orders give the same, rounding may leave the mean outside of them.
        reach = [[max(0.0, value - method.low)], [max(0.0, method.high - value)]]
    axes.errorbar([value], [place], xerr=reach, fmt="o", color=BLUE, ecolor=BLACK, elinewidth=1, capsize=2.5)


def _values(point: EpochPoint, objectives: Iterable[str]) -> list[float]:
    return [point.metrics[name] for name in objectives]
