"""Weight against likelihood, drawn: a figure for each trial, and one that sets criteria side by side.

Above, the mean weight of the tokens in each tenth of p, a line an epoch from light to dark: saturation rises,
importance falls, satimp has a hump. Below, where the tokens are and where that leaves the weight: a large weight that
few tokens have moves little.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MultipleLocator, PercentFormatter

from orchestrator.events import Ended, Event
from orchestrator.ledger import write_atomically
from orchestrator.report.drawing import ORANGE, Plot, drawable, plot_of, png_of, style
from orchestrator.report.table_files import csv_of
from orchestrator.report.weight_profiles import FILES, History, Profile, histories, weights_table
from trials.weight_profile import BINS

Colour = tuple[float, float, float, float]

_LOG = logging.getLogger(__name__)
_EDGES = [index / BINS for index in range(BINS + 1)]
_CENTRES = [(index + 0.5) / BINS for index in range(BINS)]
_TOKENS: dict[str, Any] = {"color": "#b9c3cf", "linewidth": 0}
_WEIGHT: dict[str, Any] = {"color": ORANGE, "linewidth": 1.4}
_NAMED = 6  # epochs in a legend


def trial_png(history: History) -> bytes:
    """One trial: a PNG, the same bytes for the same weights."""
    with style():
        figure = Figure(figsize=(7.2, 5.0), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1.6])
        _draw(upper, lower, history)
        name = f"Trial {history.trial_id}: {history.settings}" if history.trial_id else history.settings
        figure.suptitle(drawable(name, 94), x=0.012, ha="left", fontsize=9.5, fontweight="bold")
        upper.set_title(f"After epoch {history.last.epoch}: {caption(history.last)}", loc="left", fontsize=8.5)
        upper.set_ylabel("mean weight")
        lower.set_ylabel("share")
        lower.set_xlabel("p of the token")
        colours, epochs = _colours(len(history.profiles)), [profile.epoch for profile in history.profiles]
        shown = _named(len(epochs))
        key = _shares(f"after epoch {epochs[-1]}") | {f"epoch {epochs[i]}": _line(colours[i]) for i in shown}
        # Filled column by column, two entries each.
        figure.legend(key.values(), key.keys(), loc="outside lower left", ncols=-(-len(shown) // 2) + 1)
        return png_of(figure)


def criteria_plot(chosen: Sequence[History]) -> Plot:
    """Several trials, a column each, at most three in a row."""
    columns = min(3, len(chosen))
    rows = math.ceil(len(chosen) / columns)
    with style():
        figure = Figure(figsize=(3.1 * columns + 0.4, 3.7 * rows + 0.5), layout="constrained")
        grid = figure.subplots(2 * rows, columns, sharex=True, squeeze=False, height_ratios=[3, 1.4] * rows)
        for index in range(rows * columns):
            row, column = divmod(index, columns)
            upper, lower = grid[2 * row][column], grid[2 * row + 1][column]
            if index >= len(chosen):
                upper.remove()
                lower.remove()
                continue
            history = chosen[index]
            _draw(upper, lower, history)
            upper.set_title(
                f"{drawable(history.settings, 44)}\n{caption(history.last, short=True)}", loc="left", fontsize=8
            )
            lower.tick_params(labelbottom=True)
            lower.set_xlabel("p of the token")
            if column == 0:
                upper.set_ylabel("mean weight")
                lower.set_ylabel("share")
        light, dark = _colours(2)
        key = {"after the first epoch": _line(light), "after the last epoch": _line(dark)} | _shares("then")
        figure.legend(key.values(), key.keys(), loc="outside lower left", ncols=min(4, 2 * columns - 1))
        return plot_of("weights", figure, weights_table(chosen))


def caption(profile: Profile, *, short: bool = False) -> str:
    """The two numbers of an epoch in words."""
    effective, tenth = _percent(profile.effective), _percent(profile.least_likely_tenth)
    if short:
        return f"effective {effective}, least likely tenth {tenth}"
    return f"effective sample {effective} of the tokens, {tenth} of the weight on the least likely tenth of them"


def weight_shares(profile: Profile) -> list[float]:
    """For each bin its share of all weight; zeros where no token has any."""
    weights = [tokens * (mean or 0.0) for tokens, mean in zip(profile.tokens, profile.means, strict=True)]
    total = sum(weights)
    return [weight / total if total > 0 else 0.0 for weight in weights]


def write_figure(place: Path, history: History) -> None:
    """Writes the figure of a trial and its data into a folder; where the data lie there already, nothing is drawn."""
    png, table = (place / name for name in FILES)
    text = csv_of(weights_table([history]))
    if png.exists() and table.exists() and table.read_text(encoding="utf-8") == text:
        return
    place.mkdir(parents=True, exist_ok=True)
    png.write_bytes(trial_png(history))
    write_atomically(table, text)


def write_figures(folder: Path, events: Sequence[Event], since: int = 0) -> None:
    """Writes the figures of trials with weights into their folders; what could not be drawn is said in the log.

    Args:
        folder: The run folder.
        events: Its events.
        since: Only of trials that end in `events[since:]`.
    """
    ended = {event.trial_id for event in events[since:] if isinstance(event, Ended)}
    for trial_id, history in histories(events, ended).items() if ended else ():
        try:
            write_figure(folder / "trials" / trial_id, history)
        except Exception:  # whatever it is: a figure can be made again, and is not worth the records
            _LOG.warning("the weights of trial %s could not be drawn", trial_id, exc_info=True)


def _draw(upper: Axes, lower: Axes, history: History) -> None:
    colours = _colours(len(history.profiles))
    for profile, colour in zip(history.profiles, colours, strict=True):
        # A gap where there are no tokens: a line over it would tell of weights that nobody has.
        means = [math.nan if mean is None else mean for mean in profile.means]
        upper.plot(_CENTRES, means, color=colour, marker="o", markersize=3.5, linewidth=1.5)
    lower.stairs(history.last.tokens, _EDGES, fill=True, **_TOKENS)
    lower.stairs(weight_shares(history.last), _EDGES, **_WEIGHT)
    upper.set_ylim(bottom=0)
    lower.set_ylim(0, 1)
    lower.set_xlim(0, 1)
    lower.xaxis.set_major_locator(MultipleLocator(0.2))
    lower.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def _shares(when: str) -> dict[str, Artist]:
    """Legend of the lower panel."""
    return {f"share of the tokens {when}": Patch(**_TOKENS), f"share of the weight {when}": Line2D([], [], **_WEIGHT)}


def _line(colour: Colour) -> Line2D:
    return Line2D([], [], color=colour, marker="o", markersize=3.5, linewidth=1.5)


def _colours(count: int) -> list[Colour]:
    """Light to dark; a single one is dark."""
    return [colormaps["Blues"](1.0 if count == 1 else 0.35 + 0.65 * index / (count - 1)) for index in range(count)]


def _named(count: int) -> list[int]:
    """Which epochs a legend names: all of a few, else some from the first to the last."""
    if count <= _NAMED:
        return list(range(count))
    return sorted({round(index * (count - 1) / (_NAMED - 1)) for index in range(_NAMED)})


def _percent(share: float) -> str:
    return "0%" if share == 0 else "<0.1%" if share < 0.001 else f"{share:.1%}" if share < 0.1 else f"{share:.0%}"
