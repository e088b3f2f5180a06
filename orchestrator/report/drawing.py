"""How figures are drawn: one style, colours that all can tell apart, and files that are the same each time.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart, and no group differs from another by
colour alone.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeVar

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont
from matplotlib.ft2font import FT2Font

from orchestrator.report.document import Table

BLUE, ORANGE, GREEN, PURPLE, BLACK, GREY = "#0072B2", "#D55E00", "#009E73", "#AA4499", "#1a1a1a", "#9a9a9a"

MARKERS = 1500
"""Points of a group that a panel draws: more cannot be told apart, and make files large. The CSV has them all."""

T = TypeVar("T")

_DRAWING = threading.Lock()


@dataclass(frozen=True)
class Plot:
    """A figure in both formats, and the numbers in it.

    Attributes:
        name: Of its files under `figures/`, without an ending.
        png: For screens; `pdf` is the same figure for print.
        data: What was drawn, and what was left out as too much to draw.
    """

    name: str
    png: bytes
    pdf: bytes
    data: Table


@contextmanager
def style() -> Iterator[None]:
    """Our own settings, whatever the reader's matplotlibrc says: the same records draw the same figure.

    They are global, and the tracking thread draws too: one figure is drawn at a time.
    """
    ours: dict[Any, Any] = {
        "axes.edgecolor": "#888888",
        "axes.grid": True,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.axisbelow": True,
        "figure.constrained_layout.h_pad": 0.09,
        "figure.constrained_layout.w_pad": 0.09,
        "font.family": "DejaVu Sans",
        "font.size": 9.0,
        "grid.color": "#e6e6e6",
        "legend.borderaxespad": 1.2,
        "legend.fontsize": 8.0,
        "legend.frameon": False,
        # A dollar in a label is a dollar.
        "text.parse_math": False,
        "text.usetex": False,
    }
    with _DRAWING, matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(ours)
        yield


def png_of(figure: Figure) -> bytes:
    """The bytes of a figure, the same each time."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160, metadata={"Software": None})
    return buffer.getvalue()


def plot_of(name: str, figure: Figure, data: Table) -> Plot:
    """A drawn figure with its numbers, in both formats; the same bytes each time. Within `style`."""
    png = png_of(figure)
    figure.set_layout_engine("none")  # the first drawing has laid it out; to do so again takes as long as all the rest
    buffer = io.BytesIO()
    dateless = {"CreationDate": None, "Creator": None, "Producer": None}
    figure.savefig(buffer, format="pdf", dpi=160, metadata=dateless)
    return Plot(name, png, buffer.getvalue(), data)


def thinned(items: Sequence[T], most: int = MARKERS) -> list[T]:
    """At most so many items, evenly from the first to the last."""
    if len(items) <= most:
        return list(items)
    return [items[index * (len(items) - 1) // (most - 1)] for index in range(most)]


def axis_label(name: str, direction: str, axis: Literal["x", "y"], space: str = " ") -> str:
    """An objective on an axis, and which way is better."""
    arrow = {("min", "x"): "←", ("max", "x"): "→", ("min", "y"): "↓", ("max", "y"): "↑"}[direction, axis]
    return f"{drawable(name)}{space}({'lower' if direction == 'min' else 'higher'} is better {arrow})"


def drawable(text: str, most: int = 34) -> str:
    """One short line of characters that the font has: others draw as boxes and warn."""
    known = _characters()
    line = "".join(c if ord(c) in known else "?" for c in " ".join(text.split()))
    return line if len(line) <= most else line[: most - 1] + "…"


def empty(axes: Axes, why: str) -> None:
    """Says in the middle of a panel why there is nothing in it."""
    axes.text(0.5, 0.5, why, ha="center", transform=axes.transAxes)


@cache
def _characters() -> frozenset[int]:
    return frozenset(FT2Font(findfont("DejaVu Sans")).get_charmap())
