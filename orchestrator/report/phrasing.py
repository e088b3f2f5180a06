"""Numbers, names and settings in words, as all sections of a report say them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from orchestrator.report.document import Cell, Estimate, number
from orchestrator.results.evidence import Confirmed
from orchestrator.results.front import Summary

ORIGINS = {
    "baseline": "published settings",
    "search": "search",
    "ablation": "ablation",
    "confirm": "fresh seeds of the best",
    "earlier": "earlier sweeps",
}
"""Who proposed a trial -> what a reader calls it."""

STRENGTHS = {"most_forgetting": "forgets most with", "most_utility": "keeps most with"}
"""What an alternative to the knee is for; its `rule` ends the sentence."""


def count(items: int, one: str, many: str) -> str:
    """`1 trial`, `2 trials`."""
    return f"{items} {one if items == 1 else many}"


def listed(items: Iterable[str]) -> str:
    """Items with commas."""
    return ", ".join(items)


def enumerated(items: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def some(items: Sequence[str], most: int = 6) -> str:
    """As `enumerated`, the rest of a long list counted."""
    if len(items) <= most:
        return enumerated(items)
    return f"{listed(items[:most])} and {len(items) - most} more"


def duration(seconds: float) -> str:
    """`3 h 05 min`, `4 min 10 s`, `12 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def share(part: float, whole: float = 1.0) -> str:
    """A share in per cent; what is not quite nothing or not quite all is not rounded to it."""
    found = part / whole
    if 0 < found < 0.005:
        return "under 1%"
    return "over 99%" if 0.995 <= found < 1 else f"{found:.0%}"


def reference(summary: Summary) -> str:
    """The reference point of the hypervolume."""
    point = summary.info.reference_point
    return listed(f"{name} = {number(point[name])}" for name in summary.info.objectives)


def estimate(point: Confirmed, objective: str) -> Estimate:
    """What the seeds of a point say of an objective."""
    return Estimate(point.mean[objective], point.low[objective], point.high[objective])


def value_cell(value: Any) -> Cell:
    """A value of a setting in a table."""
    plain = value is None or (isinstance(value, int | float) and not isinstance(value, bool))
    return value if plain else str(value)


def yaml_text(value: Any) -> str:
    """A value as `--set` reads it: 1e-05 is a string to YAML, 1.0e-05 a number."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=2**31, allow_unicode=True)
    return text.removesuffix("...\n").strip()


def set_lines(settings: Mapping[str, Any]) -> str:
    """Settings to be put behind a command, a line each."""
    lines = [f"--set {shlex.quote(f'trial.{path}={yaml_text(value)}')}" for path, value in settings.items()]
    return " \\\n".join(lines)


def setting_words(settings: Mapping[str, Any]) -> str:
    """Settings in a sentence: `criterion satimp, criterion.beta1 = 5, lr = 0.0002`."""
    said = []
    for path, value in settings.items():
        short = path.removeprefix("loss.").removeprefix("optim.")
        text = number(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
        said.append(f"{short.removesuffix('.type')} {text}" if path.endswith(".type") else f"{short} = {text}")
    return listed(said)
