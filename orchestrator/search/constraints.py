"""Bounds on metrics, plain or relative to the target or the retain model, and by how much a trial misses them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.search.config import BOUND

Anchors = Mapping[str, Mapping[str, float]]
"""Name of the target or retain model -> its metrics."""


@dataclass(frozen=True)
class Bound:
    """One bound, as in `>= 0.5 * target`.

    Attributes:
        at_least: Whether the metric must not be less than the limit; otherwise it must not be more.
        factor: The limit itself, or what the metric of a model is multiplied by.
        of: Name of the model whose metric counts, `target` or `retain`; None for a plain number.
    """

    at_least: bool
    factor: float
    of: str | None

    def limit(self, metric: str, anchors: Anchors) -> float:
        """The number that the metric is held against, in its units.

        Raises:
            ValueError: The bound is relative to a model that has no such metric.
        """
        if self.of is None:
            return self.factor
        value = anchors.get(self.of, {}).get(metric, math.nan)
        if not math.isfinite(value):
            raise ValueError(
                f"the bound of {metric!r} is relative to the {self.of} model, which has no such metric; "
                "measure that model or write a plain number"
            )
        return self.factor * value


def bounds_of(constraints: Mapping[str, str]) -> dict[str, Bound]:
    """Metric -> its bound.

    Raises:
        ValueError: A bound is none.
    """
    bounds = {}
    for metric, text in constraints.items():
        if not re.fullmatch(BOUND, text.strip()):
            raise ValueError(
                f"{text!r} is no bound of {metric!r}; write one as in '>= 0.5 * target', '>= 0.9 * retain' or '<= 0.2'"
            )
        number, _, of = text.strip()[2:].partition("*")
        bounds[metric] = Bound(text.strip().startswith(">="), float(number), of.strip() or None)
    return bounds


def violations(constraints: Mapping[str, str], metrics: Mapping[str, float], anchors: Anchors) -> dict[str, float]:
    """By how much a trial misses its constraints.

    Args:
        constraints: Metric -> bound.
        metrics: Those of the trial.
        anchors: What relative bounds are relative to.

    Returns:
        Metric -> distance to its limit, > 0 and in the metric's units; those that hold are not there.

    Raises:
        ValueError: The trial lacks a constrained metric or it is not finite, or as `Bound.limit` and `bounds_of`.
    """
    missed = {}
    for metric, bound in bounds_of(constraints).items():
        value = metrics.get(metric, math.nan)
        if not math.isfinite(value):
            raise ValueError(f"the trial has no {metric!r}, which a constraint is on; a trial without it has failed")
        limit = bound.limit(metric, anchors)
        amount = limit - value if bound.at_least else value - limit
        if amount > 0:
            missed[metric] = amount
    return missed


def total_violation(constraints: Mapping[str, str], missed: Mapping[str, float], anchors: Anchors) -> float:
    """One number to order infeasible trials by: the sum of what they miss, each divided by the size of its limit.

    A limit of 0 divides by 1.

    Args:
        constraints: Metric -> bound.
        missed: As `violations` has it.
        anchors: What relative bounds are relative to.

    Returns:
        0 for a feasible trial, otherwise > 0; without units.

    Source: Deb 2000, "An efficient constraint handling method for genetic algorithms": the sum of scaled violations.
    """
    bounds = bounds_of({metric: constraints[metric] for metric in missed})
    return sum(amount / (abs(bounds[metric].limit(metric, anchors)) or 1.0) for metric, amount in missed.items())
