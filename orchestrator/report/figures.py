"""The figure of the front and the numbers in it.

Two objectives make one panel with the front as a staircase, three or more a panel for each pair, one objective a
panel over the order of the trials. Where points were run with several seeds, crosses stand at their means and a band
shows what the seeds attained.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from orchestrator.report.document import Table
from orchestrator.report.drawing import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    Plot,
    axis_label,
    drawable,
    empty,
    plot_of,
    style,
    thinned,
)
from orchestrator.results.attainment import Surface
from orchestrator.results.findings import Findings
from orchestrator.results.front import Summary, has_all

Group = Literal["front", "dominated", "seed", "missed", "pruned", "target", "retain"]

GROUPS: dict[Group, tuple[str, dict[str, Any]]] = {
    "pruned": ("stopped early: not a candidate", {"marker": "x", "s": 16, "c": GREY, "linewidths": 0.9}),
    "missed": ("misses a constraint", {"marker": "v", "s": 20, "c": "white", "edgecolors": GREY}),
    "seed": ("another seed of a point", {"marker": ".", "s": 16, "c": PURPLE, "linewidths": 0, "alpha": 0.55}),
    "dominated": ("full budget, dominated", {"marker": "o", "s": 24, "c": "white", "edgecolors": BLUE}),
    "front": ("front", {"marker": "o", "s": 40, "c": BLUE, "edgecolors": "white", "linewidths": 0.6}),
    "target": ("target model", {"marker": "s", "s": 62, "c": BLACK, "edgecolors": "white"}),
    "retain": ("retain model", {"marker": "^", "s": 82, "c": GREEN, "edgecolors": "white"}),
}

_CORNER = 0.3  # share of the drawn range, each way, under which a front is drawn a second time, larger

BAND: dict[str, Any] = {"color": PURPLE, "alpha": 0.13, "linewidth": 0}


@dataclass(frozen=True)
class Point:
    """What is drawn once in each panel: a trial or an anchor, by its group, with its objectives."""

    name: str
    group: Group
    label: str | None
    letter: str | None
    knee: bool
    order: int | None
    values: tuple[float, ...]


def points_of(found: Findings) -> list[Point]:
    """Ended trials that have all objectives and did not fail, then the anchors that have them.

    Those with a label are lettered A, B, ... in the order in which they ended.
    """
    summary = found.summary
    objectives = list(summary.info.objectives)
    front = {record.trial_id for record in summary.front}
    letters = _letters()
    points = []
    for order, record in enumerate(summary.records, start=1):
        if record.state == "FAIL" or not has_all(record.metrics, objectives):
            continue
        whole: Group = "front" if record.trial_id in front else "missed" if record.violations else "dominated"
        group: Group = "pruned" if record.state == "PRUNED" else "seed" if record.of is not None else whole
        points.append(
            Point(
                name=record.trial_id,
                group=group,
                label=record.label,
                letter=next(letters) if record.label is not None and group != "seed" else None,
                knee=found.knee is not None and record.trial_id == found.knee.trial_id,
                order=order,
                values=tuple(record.metrics[name] for name in objectives),
            )
        )
    groups: tuple[Literal["target", "retain"], ...] = ("target", "retain")
    for anchor in groups:
        metrics = summary.anchors.get(anchor, {})
        if has_all(metrics, objectives):
            values = tuple(metrics[name] for name in objectives)
            points.append(Point(f"{anchor} model", anchor, None, None, False, None, values))
    return points


def front_plot(found: Findings) -> Plot:
    """The front among all that was tried."""
    summary = found.summary
    objectives = summary.info.objectives
    points = points_of(found)
    pairs = list(itertools.combinations(range(len(objectives)), 2)) or [(0, 0)]
    around = window(points) if len(objectives) == 2 else None
    pairs = pairs * 2 if around else pairs
    columns = min(len(pairs), 3)
    rows = -(-len(pairs) // columns)
    width, height = (8.4, 4.6) if len(pairs) == 1 else (max(8.4, 3.4 * columns), (3.9 if around else 3.2) * rows + 1.0)
    header = ["name", "group", "label", "letter", "knee", "ended", *objectives]
    data = Table(header, [[p.name, p.group, p.label, p.letter, p.knee, p.order, *p.values] for p in points])
    with style():
        figure = Figure(figsize=(width, height), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
        for axes, (x, y) in zip(grid, pairs, strict=False):
            if len(objectives) == 1:
                _draw_one(axes, summary, points)
            else:
                _draw_pair(axes, summary, points, (x, y))
                _draw_seeds(axes, found, (x, y))
            if not points:
                empty(axes, "no trial has all objectives yet")
        for axes in grid[len(pairs) :]:
            axes.remove()
        if around:
            grid[1].set_title("around the front", fontsize=9, loc="left")
            grid[1].set_xlim(around[0])
            grid[1].set_ylim(around[1])
        _legend(figure, points, found, beside=len(pairs) == 1)
        return plot_of("front", figure, data)


def window(points: Sequence[Point]) -> list[tuple[float, float]] | None:
    """The part of the plane around a front that fills but a corner of it, an interval each way; None for others."""
    found = []
    for axis in (0, 1):
        all_values = [point.values[axis] for point in points]
        front = [point.values[axis] for point in points if point.group == "front"]
        if not front:
            return None
        whole, span = max(all_values) - min(all_values), max(front) - min(front)
        if whole == 0 or span > _CORNER * whole:
            return None
        margin, edge = max(0.25 * span, 0.04 * whole), 0.01 * whole  # beyond what was reached there is nothing to see
        low, high = min(all_values) - edge, max(all_values) + edge
        found.append((max(min(front) - margin, low), min(max(front) + margin, high)))
    return found


def _draw_pair(axes: Axes, summary: Summary, points: Sequence[Point], pair: tuple[int, int]) -> None:
    """One objective over another; with just two, the staircase of what the front dominates."""
    names, directions = list(summary.info.objectives), list(summary.info.objectives.values())
    x, y = pair
    front = [record.metrics for record in summary.front]
    if len(names) == 2 and front:
        # The front comes best first objective first: each step holds its second until the next takes over.
        steps = [[metrics[name] for metrics in front] for name in names]
        axes.plot(*steps, drawstyle="steps-post", color=BLUE, linewidth=1.3, alpha=0.55, zorder=2)
    _scatter(axes, [(point, point.values[x], point.values[y]) for point in points])
    # A small panel has no room for its label in one line.
    space = " " if len(names) == 2 else "\n"
    axes.set_xlabel(axis_label(names[x], directions[x], "x", space))
    axes.set_ylabel(axis_label(names[y], directions[y], "y", space))
    axes.margins(0.07)


def _draw_seeds(axes: Axes, found: Findings, pair: tuple[int, int]) -> None:
    """Crosses as long as the intervals, a thin line to what the search saw, and the band of the fronts by seed."""
    names = list(found.summary.info.objectives)
    x, y = (names[index] for index in pair)
    for point in found.confirmed:
        at = (point.mean[x], point.mean[y])
        seen = (point.record.metrics[x], point.record.metrics[y])
        axes.plot(*zip(seen, at, strict=True), color=PURPLE, linewidth=0.8, linestyle=":", zorder=3)
        reach = [[[at[0] - point.low[x]], [point.high[x] - at[0]]], [[at[1] - point.low[y]], [point.high[y] - at[1]]]]
        axes.errorbar([at[0]], [at[1]], xerr=reach[0], yerr=reach[1], **_cross())
    surfaces = {surface.level: surface for surface in found.attainment}
    if surfaces:
        best, worst = _steps(surfaces["best"]), _steps(surfaces["worst"])
        axes.fill(*zip(*best, *reversed(worst), strict=True), zorder=1, **BAND)
        median = surfaces["median"]
        axes.plot(median.x, median.y, drawstyle="steps-post", color=PURPLE, linewidth=1.0, alpha=0.6, zorder=2)


def _steps(surface: Surface) -> list[tuple[float, float]]:
    """The corners of a staircase."""
    corners = list(zip(surface.x, surface.y, strict=True))
    return [(x, y) for left, right in itertools.pairwise(corners) for x, y in (left, (right[0], left[1]))] + corners[
        -1:
    ]


def _draw_one(axes: Axes, summary: Summary, points: Sequence[Point]) -> None:
    """The only objective over the order in which trials ended; the anchors are lines."""
    ((name, direction),) = summary.info.objectives.items()
    for point in points:
        if point.order is None:
            axes.axhline(point.values[0], color=GROUPS[point.group][1]["c"], linestyle="--", linewidth=1)
    at_the_edge = len(summary.records) + 1
    _scatter(axes, [(point, point.order or at_the_edge, point.values[0]) for point in points])
    axes.set_xlabel("trials ended")
    axes.set_ylabel(axis_label(name, direction, "y"))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _scatter(axes: Axes, placed: Sequence[tuple[Point, float, float]]) -> None:
    for layer, (group, (_, look)) in enumerate(GROUPS.items(), start=3):
        members = [(x, y) for point, x, y in placed if point.group == group and point.letter is None]
        if members:
            axes.scatter(*zip(*thinned(members), strict=True), zorder=layer * 0.9, **look)
    for point, x, y in placed:
        if point.letter is not None:
            # Over what is dominated, under the front.
            depth = 9 if point.group == "front" else 5.0
            axes.scatter([x], [y], zorder=depth, **_diamond(point))
            colour = "white" if point.group == "front" else ORANGE
            words: dict[str, Any] = {
                "ha": "center",
                "va": "center_baseline",
                "fontsize": 6.5,
                "fontweight": "bold",
                "clip_on": True,
            }
            axes.text(x, y, point.letter, color=colour, zorder=depth, **words)
        if point.knee:
            axes.scatter([x], [y], zorder=8, **_ring())


def _diamond(point: Point) -> dict[str, Any]:
    """A published setting: a diamond, filled where it is on the front, dashed where it was stopped early."""
    fill = ORANGE if point.group == "front" else "white"
    dash = "--" if point.group == "pruned" else "-"
    return {"marker": "D", "s": 95, "c": fill, "edgecolors": ORANGE, "linewidths": 1.1, "linestyle": dash}


def _ring() -> dict[str, Any]:
    return {"marker": "o", "s": 190, "facecolors": "none", "edgecolors": BLACK, "linewidths": 1.4}


def _legend(figure: Figure, points: Sequence[Point], found: Findings, *, beside: bool) -> None:
    """Outside of the data: to the right of one panel, below several."""
    key = Figure().subplots()
    shown = {point.group for point in points if point.letter is None}
    order: tuple[Group, ...] = ("front", "dominated", "missed", "pruned", "seed", "target", "retain")
    entries: list[tuple[Any, str]] = [(key.scatter([], [], **GROUPS[g][1]), GROUPS[g][0]) for g in order if g in shown]
    if found.confirmed:
        entries.append((key.errorbar([], [], xerr=[], yerr=[], **_cross()), "mean of seeds, 95 % interval"))
    if found.attainment:
        entries.append((Patch(**BAND), f"fronts of {found.attainment[0].of} seeds, one each"))
    entries += [(key.scatter([], [], **{**_ring(), "s": 90}), f"knee: trial {p.name}") for p in points if p.knee]
    entries += [
        (
            key.scatter([], [], **{**_diamond(point), "s": 45}),
            f"{point.letter}  {drawable(point.label or '')}",
        )
        for point in points
        if point.letter is not None
    ]
    if entries:
        handles, titles = zip(*entries, strict=True)
        if beside:
            figure.legend(handles, titles, loc="outside right upper", labelspacing=0.75)
        else:
            figure.legend(handles, titles, loc="outside lower center", labelspacing=0.75, ncols=3)


def _cross() -> dict[str, Any]:
    return {"fmt": "none", "ecolor": PURPLE, "elinewidth": 1.3, "capsize": 2.0, "zorder": 7}


def _letters() -> itertools.chain[str]:
    alphabet = string.ascii_uppercase
    return itertools.chain(alphabet, (a + b for a, b in itertools.product(alphabet, repeat=2)))
