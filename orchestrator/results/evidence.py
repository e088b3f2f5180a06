"""How sure a front is: what several seeds of the same settings say.

A point of the front was chosen because its one seed came out well, so that seed is too good on average (the winner's
curse). Where a sweep confirms its candidates, the estimates use their fresh seeds only. Where it does not, but runs
each point with several seeds, they use all of these, and the luck of the first one is shown beside them.

Intervals and probabilities rest on each point's own spread. The noise of neighbours is not borrowed: it differs between
points (a metric at the end of its range has none at all), and an interval from pooled variances is then too narrow
exactly for the points that swing most. The price is width: of three seeds the 95 % interval is 2.5 standard deviations
to each side.

Shape suffixes: D draws, K points, S seeds of a point, M objectives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from orchestrator import pareto
from orchestrator.events import Record
from orchestrator.pareto import Floats
from orchestrator.results.front import Objectives, Summary, has_all, repeats
from orchestrator.results.intervals import t_interval
from trials.registry import METRICS

DRAWS = 4000
_NEAR = 100
"""Points that the draws compare: of more, those with the best means; a farther one is hardly ever non-dominated."""


@dataclass(frozen=True)
class Confirmed:
    """A point and what its seeds say.

    Attributes:
        record: The point as the search, or the list of published settings, ran it.
        runs: The COMPLETE trials that the estimate is made of, in the order in which they ended.
        failed: Its other seeds, which diverged or failed.
        kind: `fresh`: seeds of the confirmation, without that of `record`; `all`: every seed, `record` too.
        mean: Objective -> mean over `runs`.
        low: Objective -> lower end of the 95 % interval of the mean: Student's t, own variance, seeds - 1 degrees; cut
            at the ends of the metric's range.
        high: Objective -> its upper end.
        luck: Objective -> value of `record` minus the mean of the other seeds, in the units and sense of the metric.
        missed: How many of `runs` miss a constraint of the sweep.
        probability: That no other confirmed point dominates it (`non_dominated`).
    """

    record: Record
    runs: list[Record]
    failed: int
    kind: Literal["fresh", "all"]
    mean: dict[str, float]
    low: dict[str, float]
    high: dict[str, float]
    luck: dict[str, float]
    missed: int
    probability: float

    @property
    def trial_id(self) -> str:
        """That of `record`."""
        return self.record.trial_id

    @property
    def label(self) -> str | None:
        """That of `record`."""
        return self.record.label

    @property
    def seeds(self) -> int:
        """How many seeds the estimate is made of."""
        return len(self.runs)

    @property
    def feasible(self) -> bool:
        """Whether most of its seeds keep the constraints; the others are on no confirmed front."""
        return 2 * self.missed <= len(self.runs)


def confirmed(summary: Summary) -> list[Confirmed]:
    """The points with at least two complete seeds, best mean of the first objective first.

    Fresh seeds of a confirmation, once a point has two; else all seeds of points that were run with several.
    """
    objectives = summary.info.objectives
    kind, again = _again(summary)
    found = []
    for record in summary.records:
        others = again.get(record.trial_id, [])
        if record.state == "COMPLETE" and others and has_all(record.metrics, objectives):
            runs = _whole(others if kind == "fresh" else [record, *others], objectives)
            if len(runs) >= 2:
                found.append(_point(record, runs, kind, len(others), objectives))
    if not found:
        return []
    means_KM = pareto.oriented([point.mean for point in found], objectives)
    order = sorted(range(len(found)), key=lambda k: (means_KM[k].tolist(), found[k].trial_id))
    points = [found[k] for k in order]
    probabilities = non_dominated(points, objectives)
    return [replace(point, probability=p) for point, p in zip(points, probabilities, strict=True)]


def _again(summary: Summary) -> tuple[Literal["fresh", "all"], dict[str, list[Record]]]:
    """Which further seeds count, and those of each point: a confirmation's alone once it has two of any point."""
    again = repeats(summary.records)
    fresh = {point: [run for run in runs if run.origin == "confirm"] for point, runs in again.items()}
    if any(len(_whole(runs, summary.info.objectives)) >= 2 for runs in fresh.values()):
        return "fresh", {point: runs for point, runs in fresh.items() if runs}
    return "all", again


def _whole(runs: Sequence[Record], objectives: Objectives) -> list[Record]:
    return [run for run in runs if run.state == "COMPLETE" and has_all(run.metrics, objectives)]


def _point(
    record: Record, runs: list[Record], kind: Literal["fresh", "all"], others: int, objectives: Objectives
) -> Confirmed:
    intervals = {name: _within(name, t_interval([run.metrics[name] for run in runs])) for name in objectives}
    apart = [run for run in runs if run is not record]
    return Confirmed(
        record=record,
        runs=runs,
        failed=others - len(apart),
        kind=kind,
        mean={name: mean for name, (mean, _, _) in intervals.items()},
        low={name: low for name, (_, low, _) in intervals.items()},
        high={name: high for name, (_, _, high) in intervals.items()},
        luck={name: record.metrics[name] - sum(run.metrics[name] for run in apart) / len(apart) for name in objectives},
        missed=sum(bool(run.violations) for run in runs),
        probability=0.0,
    )


def _within(objective: str, interval: tuple[float, float, float]) -> tuple[float, float, float]:
    """An interval of a mean without what the metric cannot be: a share has no mean below 0."""
    metric = METRICS.get(objective)
    mean, low, high = interval
    return interval if metric is None else (mean, max(low, metric.low), min(high, metric.high))


def speaks_for_front(summary: Summary) -> bool:
    """Whether seeds can say who is best: all of the front ran with several, or as many as `confirm` takes.

    A few points with seeds, say those of an ablation, are no front: whoever is best among them need not be on it.
    """
    _, again = _again(summary)
    most = (summary.info.config.get("confirm") or {}).get("at_most", len(summary.front))
    covered = sum(record.trial_id in again for record in summary.front)
    return bool(summary.front) and covered >= min(most, len(summary.front))


def confirmed_front(points: Sequence[Confirmed]) -> list[Confirmed]:
    """The points that are more likely than not non-dominated, in the order given.

    Where that holds for none (many points that cannot be told apart), the likeliest alone; only feasible ones.
    """
    feasible = [point for point in points if point.feasible]
    likely = [point for point in feasible if point.probability >= 0.5]
    return likely or sorted(feasible, key=lambda point: -point.probability)[:1]


# -- draws from what the means may be ----------------------------------------------------------------------------------


def non_dominated(points: Sequence[Confirmed], objectives: Objectives) -> list[float]:
    """Probability of each point that no other feasible one dominates its mean; 0 where it is not feasible itself.

    By Monte Carlo from the posterior of the means under the usual flat prior: a multivariate t for each point, whose
    marginals are those of the intervals of `Confirmed`. Only the correlation between objectives is pooled over the
    points, since a few seeds of one point cannot tell it. A fixed seed: the same records, the same probabilities.
    """
    near = _near(points, objectives)
    draws_DKM = _draws([points[k] for k in near], objectives)
    found = [0.0] * len(points)
    for place, k in enumerate(near):
        own_D1M = draws_DKM[:, place : place + 1]
        found[k] = 1.0 - float(_dominates(draws_DKM, own_D1M).any(axis=1).mean())
    return found


def probability_dominated(point: Confirmed, by: Confirmed, objectives: Objectives) -> float:
    """Probability that the mean of one point is dominated by that of another (`non_dominated` says how)."""
    draws_D2M = _draws([point, by], objectives)
    return float(_dominates(draws_D2M[:, 1], draws_D2M[:, 0]).mean())


def _near(points: Sequence[Confirmed], objectives: Objectives) -> list[int]:
    feasible = [k for k, point in enumerate(points) if point.feasible]
    if len(feasible) <= _NEAR:
        return feasible
    ranks_K = pareto.ranks(pareto.oriented([points[k].mean for k in feasible], objectives))
    return sorted(feasible[place] for place in np.argsort(ranks_K, kind="stable")[:_NEAR])


def _draws(points: Sequence[Confirmed], objectives: Objectives) -> Floats:
    """draws_DKM of the means, to be minimised."""
    rng = np.random.default_rng(0)
    seeds = [pareto.oriented([run.metrics for run in point.runs], objectives) for point in points]
    root_MM = _root_of_correlation(seeds, len(objectives))
    draws_DKM = np.empty((DRAWS, len(points), len(objectives)))
    for k, values_SM in enumerate(seeds):
        count = len(values_SM)
        error_M = values_SM.std(axis=0, ddof=1) / math.sqrt(count)
        normal_DM = rng.standard_normal((DRAWS, len(objectives))) @ root_MM
        spread_D1 = np.sqrt((count - 1) / rng.chisquare(count - 1, (DRAWS, 1)))
        draws_DKM[:, k] = values_SM.mean(axis=0) + normal_DM * spread_D1 * error_M
    return draws_DKM


def _root_of_correlation(seeds: Sequence[Floats], width: int) -> Floats:
    """Symmetric root of the correlation of objectives within points; that of none where there is little to tell it."""
    products_MM, freedom = np.zeros((width, width)), 0
    for values_SM in seeds:
        deviation_M = values_SM.std(axis=0, ddof=1)
        if (deviation_M > 0).all():
            residual_SM = (values_SM - values_SM.mean(axis=0)) / deviation_M
            products_MM += residual_SM.T @ residual_SM
            freedom += len(values_SM) - 1
    correlation_MM = products_MM / freedom if freedom >= 2 * width else np.eye(width)
    values_M, vectors_MM = np.linalg.eigh(correlation_MM)
    return np.asarray((vectors_MM * np.sqrt(values_M.clip(0))) @ vectors_MM.T)


def _dominates(one: Floats, other: Floats) -> NDArray[np.bool_]:
    """Whether points dominate others, along the last axis."""
    return np.asarray((one <= other).all(axis=-1) & (one < other).any(axis=-1))
