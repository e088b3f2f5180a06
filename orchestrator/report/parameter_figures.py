"""Figures of the searched parameters: who decides, where the good values lie, and which go together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from orchestrator.events import Record
from orchestrator.report.document import Cell, Table
from orchestrator.report.drawing import BLACK, BLUE, GREY, ORANGE, Plot, drawable, plot_of, style, thinned
from orchestrator.results.findings import Findings
from orchestrator.results.front import has_all
from orchestrator.results.importance import Importance
from search_spaces.space import Float, Int, SearchSpace

MOST = 8
"""Parameters that a figure shows; the most important ones, where that is known."""

_LINES = 120  # dominated trials in the parallel coordinates
_DOTS = 300  # of a group in a slice, which is small
_GOLDEN = 0.6180339887498949
_ABSENT = -0.14  # where a line goes that has no such parameter


@dataclass(frozen=True)
class Axis:
    """A searched parameter on an axis: `ticks` name the places of values that are no numbers."""

    path: str
    log: bool
    ticks: tuple[str, ...] = ()

    def place(self, record: Record) -> float | None:
        """Where a trial stands; None where it has no such parameter, or a value outside of what was searched."""
        value = record.params.get(self.path)
        if self.ticks:
            text = str(value)
            return float(self.ticks.index(text)) if self.path in record.params and text in self.ticks else None
        return float(value) if isinstance(value, int | float) and (value > 0 or not self.log) else None


def importance_plot(found: Importance) -> Plot:
    """How much each parameter decides who reaches the front."""
    rows: list[list[Cell]] = [[path, value] for path, value in found.shares.items()]
    shown = list(reversed(list(found.shares.items())[: 2 * MOST]))
    with style():
        figure = Figure(figsize=(8.4, 0.8 + 0.26 * max(2, len(shown))), layout="constrained")
        axes = figure.subplots()
        axes.barh([drawable(path) for path, _ in shown], [value for _, value in shown], color=BLUE, height=0.62)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("share of the importance for reaching the front")
        return plot_of("importance", figure, Table(["path", "share"], rows))


def axes_of(found: Findings) -> list[Axis]:
    """The searched parameters in the order of the file, or the most important ones where there are too many."""
    config = found.summary.info.config
    domains: dict[str, list[Any]] = {}
    for parameter in SearchSpace.parse(config.get("space", {}), config.get("trial", {})).parameters:
        domains.setdefault(parameter.path, []).append(parameter.domain)
    axes = []
    for path, own in domains.items():
        if all(isinstance(domain, Float | Int) for domain in own):
            axes.append(Axis(path, log=any(domain.log for domain in own)))
        else:
            examples = [str(value) for domain in own for value in domain.examples()]
            axes.append(Axis(path, log=False, ticks=tuple(dict.fromkeys(examples))))
    if len(axes) > MOST and found.importance is not None:
        shares = found.importance.shares
        best = sorted(axes, key=lambda axis: -shares.get(axis.path, 0.0))[:MOST]
        return [axis for axis in axes if axis in best]
    return axes[:MOST]


def trials_of(found: Findings) -> dict[str, list[Record]]:
    """Points that have all objectives, as they are drawn one over the other: pruned, full budget, front."""
    summary = found.summary
    front = {record.trial_id for record in summary.front}
    groups: dict[str, list[Record]] = {"pruned": [], "full": [], "front": []}
    for record in summary.records:
        if record.state != "FAIL" and record.of is None and has_all(record.metrics, summary.info.objectives):
            whole = "front" if record.trial_id in front else "full"
            groups["pruned" if record.state == "PRUNED" else whole].append(record)
    return groups


_LOOKS: dict[str, dict[str, Any]] = {
    "pruned": {"s": 7, "c": GREY, "marker": "x", "linewidths": 0.6, "alpha": 0.7},
    "full": {"s": 10, "c": "white", "edgecolors": BLUE, "linewidths": 0.7},
    "front": {"s": 20, "c": BLUE, "edgecolors": "white", "linewidths": 0.4},
}
_NAMES = {"pruned": "stopped early", "full": "full budget, dominated", "front": "front"}


def slices_plot(found: Findings) -> Plot:
    """Each searched parameter against each objective."""
    objectives = list(found.summary.info.objectives)
    axes_shown, groups = axes_of(found), trials_of(found)
    columns = min(4, len(axes_shown))
    bands = -(-len(axes_shown) // columns)
    with style():
        rows = bands * len(objectives)
        height = 1.6 * rows + 0.5
        figure = Figure(figsize=(8.4, height))
        grid = figure.subplots(rows, columns, squeeze=False, sharey="row")
        # By hand: a solver would take longer for so many panels than everything else in a report.
        figure.subplots_adjust(0.09, 0.9 / height, 0.985, 1 - 0.12 / height, wspace=0.1, hspace=0.5)
        for index in range(bands * columns):
            band, column = divmod(index, columns)
            for row, objective in enumerate(objectives):
                panel = grid[band * len(objectives) + row][column]
                if index >= len(axes_shown):
                    panel.remove()
                    continue
                _draw_slice(panel, axes_shown[index], groups, objective)
                panel.tick_params(labelsize=7)
                if column == 0:
                    panel.set_ylabel(drawable(objective, 26), fontsize=6)
                if row == len(objectives) - 1:
                    panel.set_xlabel(drawable(axes_shown[index].path, 30), fontsize=7.5)
        key = Figure().subplots()
        shown = [group for group in groups if groups[group]]
        handles = [key.scatter([], [], **_LOOKS[group]) for group in shown]
        figure.legend(handles, [_NAMES[group] for group in shown], loc="lower center", ncols=3, borderaxespad=0.3)
        return plot_of("slices", figure, _data(found, axes_shown, groups))


def _draw_slice(panel: Axes, axis: Axis, groups: dict[str, list[Record]], objective: str) -> None:
    for group, members in groups.items():
        placed = [(p, record.metrics[objective]) for record in members if (p := axis.place(record)) is not None]
        if axis.ticks:
            # Side by side within a choice, evenly by the golden section: on one line nobody sees how many there are.
            placed = [(p + 0.56 * ((index * _GOLDEN) % 1.0 - 0.5), y) for index, (p, y) in enumerate(placed)]
        if placed:
            panel.scatter(*zip(*thinned(placed, _DOTS), strict=True), **_LOOKS[group])
    if axis.log:
        panel.set_xscale("log")
        panel.minorticks_off()
        panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    if axis.ticks:
        slanted = len(axis.ticks) > 3 or max(map(len, axis.ticks)) > 9
        words: dict[str, Any] = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
        panel.set_xticks(range(len(axis.ticks)), [drawable(tick, 14) for tick in axis.ticks], **words)
        panel.set_xlim(-0.6, len(axis.ticks) - 0.4)


def parallel_plot(found: Findings) -> Plot:
    """Full-budget trials as lines across parameters and objectives: the front in colour, the knee black."""
    axes_shown, groups = axes_of(found), trials_of(found)
    objectives = list(found.summary.info.objectives)
    everyone = groups["full"] + groups["front"]
    scales = [_scale([axis.place(r) for r in everyone], log=axis.log) for axis in axes_shown]
    scales += [_scale([r.metrics[name] for r in everyone], log=False) for name in objectives]
    knee = found.knee

    def heights(record: Record) -> list[float]:
        places = [*(axis.place(record) for axis in axes_shown), *(record.metrics[name] for name in objectives)]
        return [_ABSENT if p is None else scale(p) for scale, p in zip(scales, places, strict=True)]

    with style():
        figure = Figure(figsize=(8.4, 4.2))
        panel = figure.add_axes((0.075, 0.2, 0.895, 0.77))
        across = range(len(scales))
        for record in thinned(groups["full"], _LINES):
            panel.plot(across, heights(record), color=GREY, linewidth=0.5, alpha=0.35, zorder=2)
        for record in thinned(groups["front"], _LINES):
            panel.plot(across, heights(record), color=BLUE, linewidth=1.1, alpha=0.8, zorder=3)
        if knee is not None:
            panel.plot(across, heights(knee), color=BLACK, linewidth=1.8, zorder=4)
        _label_axes(panel, axes_shown, objectives, everyone)
        key = {"full budget, dominated": GREY, "front": BLUE, "knee": BLACK}
        handles = [panel.plot([], [], color=colour)[0] for colour in key.values()]
        figure.legend(handles, list(key), loc="lower center", ncols=3, borderaxespad=0.3)
        return plot_of("parallel", figure, _data(found, axes_shown, {"full": groups["full"], "front": groups["front"]}))


def _label_axes(panel: Axes, shown: Sequence[Axis], objectives: Sequence[str], everyone: Sequence[Record]) -> None:
    """A vertical line each, with its name below and its ends on it."""
    panel.grid(visible=False)
    panel.spines[["left", "bottom"]].set_visible(False)
    small: dict[str, Any] = {"fontsize": 6.5, "ha": "center", "color": BLACK, "zorder": 6}
    small["bbox"] = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.6}
    for index in range(len(shown) + len(objectives)):
        panel.axvline(index, color=ORANGE if index >= len(shown) else "#888888", linewidth=0.9, zorder=1)
        axis = shown[index] if index < len(shown) else None
        if axis is not None and axis.ticks:
            present = sorted({p for r in everyone if (p := axis.place(r)) is not None})
            scale = _scale(present, log=False)
            marks = [(scale(p), axis.ticks[int(p)]) for p in present]
        else:
            name = objectives[index - len(shown)] if axis is None else ""
            places = [r.metrics[name] if axis is None else axis.place(r) for r in everyone]
            values = [place for place in places if place is not None]
            marks = [(0.0, f"{min(values):.3g}"), (1.0, f"{max(values):.3g}")] if values else []
        for height, text in marks:
            panel.text(index, height, drawable(text, 14), va="center", **small)
    names = [drawable(axis.path, 30) for axis in shown] + [drawable(name, 30) for name in objectives]
    panel.set_xticks(range(len(names)), [_wrapped(name) for name in names], fontsize=6.5)
    panel.set_yticks([_ABSENT], ["not there"], fontsize=6.5)
    panel.set_ylim(_ABSENT - 0.05, 1.06)


def _wrapped(name: str) -> str:
    """A dotted name in short lines."""
    parts = [part if len(part) <= 14 else part.replace("_", "_\n") for part in name.split(".")]
    return ".\n".join(parts)


def _scale(values: Sequence[float | None], *, log: bool) -> Callable[[float], float]:
    """Maps the range of values to [0, 1]; all to the middle where there is a single one."""
    known = [value for value in values if value is not None]
    measure: Callable[[float], float] = math.log if log else float
    low, high = (measure(min(known)), measure(max(known))) if known else (0.0, 0.0)
    return lambda value: (measure(value) - low) / (high - low) if high > low else 0.5


def _data(found: Findings, axes_shown: Sequence[Axis], groups: dict[str, list[Record]]) -> Table:
    objectives = list(found.summary.info.objectives)
    rows: list[list[Cell]] = [
        [
            r.trial_id,
            group,
            *(_plain(r.params.get(axis.path)) for axis in axes_shown),
            *(r.metrics[n] for n in objectives),
        ]
        for group, members in groups.items()
        for r in members
    ]
    return Table(["trial_id", "group", *(axis.path for axis in axes_shown), *objectives], rows)


def _plain(value: Any) -> Cell:
    return value if value is None or isinstance(value, int | float | str) else str(value)
