"""Which setting to take: the knee and two named alternatives, and how far published settings are from the front.

Where points were run with several seeds, the choice is among the confirmed front and by its means; else among the front
by its one seed each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from orchestrator import pareto
from orchestrator.events import Record
from orchestrator.results.evidence import (
    Confirmed,
    confirmed,
    confirmed_front,
    speaks_for_front,
)
from orchestrator.results.front import Objectives, Summary
from search_spaces.space import Float, Int, SearchSpace

LOSS = 0.05
"""What the two alternatives may give up or leave, as a share of the target model's own value."""


END = 0.02
"""Part of a searched range that counts as its end."""


@dataclass(frozen=True)
class Choice:
    """One setting that a reader may want.

    Attributes:
        name: `knee` gives up least; `most_forgetting` forgets most among those that stay useful; `most_utility` stays
            the most useful among those that forget enough.
        record: The trial.
        values: Objective -> mean over seeds where it was confirmed, else what its one seed gave.
        confirmed: What its seeds say; None where there is one seed.
        rule: What had to be met, as the end of a sentence; empty for the knee.
        same_as: An earlier choice that is the same trial.
    """

    name: Literal["knee", "most_forgetting", "most_utility"]
    record: Record
    values: dict[str, float]
    confirmed: Confirmed | None
    rule: str
    same_as: str | None


@dataclass(frozen=True)
class Sides:
    """Which objective is about forgetting, and which about what is to be kept; the same where there is but one."""

    forgetting: str
    utility: str


def sides(objectives: Objectives) -> Sides:
    """Forgetting: the first objective of the forget set, else the first to be minimised. Utility: the first of the
    others that is of the retain set, else to be maximised, else the first of them."""
    names = list(objectives)
    lower = [name for name in names if objectives[name] == "min"]
    forgetting = ([name for name in names if name.startswith("forget")] + lower + names)[0]
    others = [name for name in names if name != forgetting] or names
    higher = [name for name in others if objectives[name] == "max"]
    return Sides(forgetting, ([name for name in others if name.startswith("retain")] + higher + others)[0])


def choices(summary: Summary, points: Sequence[Confirmed] | None = None) -> list[Choice]:
    """The knee, then the alternatives that somebody qualifies for; none without a front.

    Args:
        summary: Of the sweep.
        points: `confirmed(summary)`, where it is there already.
    """
    objectives = summary.info.objectives
    front: list[Confirmed | Record] = list(confirmed_front(deciding(summary, points)))
    front = front or list(summary.front)
    if not front:
        return []
    values = [_values(point, objectives) for point in front]
    points_NM = pareto.oriented(values, objectives)
    found = [_choice("knee", front[pareto.knee(points_NM)], objectives, "", [])]
    if len(objectives) < 2:
        return found
    chosen = sides(objectives)
    wanted: list[tuple[Literal["most_forgetting", "most_utility"], str, tuple[float, str] | None]] = [
        ("most_forgetting", chosen.forgetting, _floor(summary, chosen.utility, values)),
        ("most_utility", chosen.utility, _bar(summary, chosen.forgetting)),
    ]
    names = list(objectives)
    for name, best, limit in wanted:
        other = chosen.utility if best == chosen.forgetting else chosen.forgetting
        if limit is None:
            continue
        sign = 1.0 if objectives[other] == "min" else -1.0
        within = [k for k, each in enumerate(values) if sign * each[other] <= sign * limit[0]]
        if within:
            order = [names.index(best), names.index(other)]
            first = min(within, key=lambda k: (points_NM[k, order].tolist(), k))
            found.append(_choice(name, front[first], objectives, limit[1], found))
    return found


def deciding(summary: Summary, points: Sequence[Confirmed] | None) -> list[Confirmed]:
    """The points with several seeds, where they speak for the whole front; else none, and single seeds decide."""
    if not speaks_for_front(summary):
        return []
    return list(confirmed(summary) if points is None else points)


def recommended(summary: Summary, points: Sequence[Confirmed] | None = None) -> Record | None:
    """The trial to take: the knee of the front, of the confirmed one where there is one; None without a front."""
    found = choices(summary, points)
    return found[0].record if found else None


def at_ends(record: Record, summary: Summary) -> list[tuple[str, float]]:
    """Searched ranges that a trial is at the end of, within a fiftieth of their length: path, and that end."""
    config = summary.info.config
    found = []
    for parameter in SearchSpace.parse(config.get("space", {}), config.get("trial", {})).parameters:
        domain, value = parameter.domain, record.params.get(parameter.path)
        if not isinstance(domain, Float | Int) or not isinstance(value, int | float) or record.label is not None:
            continue
        if any(record.params.get(path) not in (None, *allowed) for path, allowed in parameter.when.items()):
            continue
        if not domain.low <= value <= domain.high:  # an ablation may lead out of the space
            continue
        low, high, at = (math.log(x) if domain.log else float(x) for x in (domain.low, domain.high, value))
        if high > low and min(at - low, high - at) <= END * (high - low):
            found.append((parameter.path, float(domain.low if at - low < high - at else domain.high)))
    return found


def _values(point: Confirmed | Record, objectives: Objectives) -> dict[str, float]:
    return point.mean if isinstance(point, Confirmed) else {name: point.metrics[name] for name in objectives}


def _choice(
    name: Literal["knee", "most_forgetting", "most_utility"],
    point: Confirmed | Record,
    objectives: Objectives,
    rule: str,
    before: Sequence[Choice],
) -> Choice:
    sure = point if isinstance(point, Confirmed) else None
    record = point.record if isinstance(point, Confirmed) else point
    same = next((choice.name for choice in before if choice.record.trial_id == record.trial_id), None)
    return Choice(name, record, _values(point, objectives), sure, rule, same)


def _floor(summary: Summary, name: str, values: Sequence[dict[str, float]]) -> tuple[float, str]:
    """What a useful model has: a limit and its words."""
    if constrained := _constrained(summary, name):
        return constrained
    at_least = summary.info.objectives[name] == "max"
    target = summary.anchors.get("target", {}).get(name)
    own = target
    if own is None:
        own = (max if at_least else min)(each[name] for each in values)
    limit = own - LOSS * abs(own) if at_least else own + LOSS * abs(own)
    whose = f"the target model's own {own:.4g}" if target is not None else f"the best of the front, {own:.4g}"
    return limit, f"{name} of at {'least' if at_least else 'most'} {limit:.4g}, {LOSS:.0%} worse than {whose}"


def _bar(summary: Summary, name: str) -> tuple[float, str] | None:
    """What a model that has forgotten has; None where neither anchor nor constraint says."""
    if constrained := _constrained(summary, name):
        return constrained
    at_least = summary.info.objectives[name] == "max"
    words = f"{name} of at {'least' if at_least else 'most'}"
    retain = summary.anchors.get("retain", {}).get(name)
    if retain is not None:
        return retain, f"{words} {retain:.4g}, that of the retain model"
    target = summary.anchors.get("target", {}).get(name)
    if target is None or target <= 0 or at_least:
        return None
    return LOSS * target, f"{words} {LOSS * target:.4g}, {LOSS:.0%} of the target model's own {target:.4g}"


def _constrained(summary: Summary, name: str) -> tuple[float, str] | None:
    """The constraint of the sweep on a metric: every candidate keeps it, so it sets no further limit."""
    bound = summary.info.config.get("constraints", {}).get(name)
    if bound is None:
        return None
    return (np.inf if summary.info.objectives[name] == "min" else -np.inf), f"{name} {bound}, the sweep's constraint"
