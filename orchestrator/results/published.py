"""Published settings beside the front: who beats them, and how far behind it they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator import pareto
from orchestrator.events import Record, Suggested, SweepInfo
from orchestrator.results.choices import choices, deciding
from orchestrator.results.evidence import Confirmed, probability_dominated
from orchestrator.results.front import Objectives, Summary, hypervolume_of


@dataclass(frozen=True)
class Dominator:
    """A trial of the front that dominates a published setting; `gain`: objective -> by how much, >= 0."""

    record: Record
    gain: dict[str, float]


@dataclass(frozen=True)
class Published:
    """A published setting beside the front of the whole sweep.

    Attributes:
        suggested: How it was run.
        record: What became of it; None where it has not ended.
        candidate: Whether it may be on the front: COMPLETE, with all objectives, within the constraints by its first
            seed and by most of the others.
        on_front: Whether nobody dominates it: by the means where it has several seeds, else by single seeds.
        distance: `distance`, to the same front; None for no candidate.
        hypervolume: What it dominates by itself; None for no candidate.
        dominators: Those of that front that dominate it, in its order.
        confirmed: What its seeds say, where there are any.
        beaten_by_knee: Probability that the knee's mean dominates its own; None unless both are confirmed.
    """

    suggested: Suggested
    record: Record | None
    candidate: bool
    on_front: bool
    distance: float | None
    hypervolume: float | None
    dominators: list[Dominator]
    confirmed: Confirmed | None
    beaten_by_knee: float | None


def published(summary: Summary, points: Sequence[Confirmed] | None = None) -> list[Published]:
    """Each published setting, in the order in which they were suggested.

    Args:
        summary: Of the sweep.
        points: `confirmed(summary)`, where it is there already.
    """
    points = deciding(summary, points)
    sure = {point.trial_id: point for point in points}
    knee = next((choice.confirmed for choice in choices(summary, points)), None)
    ended = {record.trial_id: record for record in summary.records}
    candidates = {record.trial_id for record in summary.candidates}
    singles = [(record, record.metrics) for record in summary.front]
    means = [(point.record, point.mean) for point in _front_of_means(points, summary.info.objectives)]
    found = []
    for trial in summary.baselines:
        record, own = ended.get(trial.trial_id), sure.get(trial.trial_id)
        candidate = record if record is not None and record.trial_id in candidates else None
        candidate = candidate if own is None or own.feasible else None
        values, front = (own.mean, means) if own else (record.metrics if record else {}, singles)
        over = _dominators(values, front, summary.info.objectives) if candidate else []
        beaten = probability_dominated(own, knee, summary.info.objectives) if own and knee and own is not knee else None
        found.append(
            Published(
                suggested=trial,
                record=record,
                candidate=candidate is not None,
                on_front=candidate is not None and not over,
                distance=distance(values, [there for _, there in front], summary.info) if candidate else None,
                hypervolume=_alone(candidate, summary) if candidate else None,
                dominators=over,
                confirmed=own,
                beaten_by_knee=beaten,
            )
        )
    return found


def _front_of_means(points: Sequence[Confirmed], objectives: Objectives) -> list[Confirmed]:
    """The feasible points whose means no other's dominates."""
    feasible = [point for point in points if point.feasible]
    if not feasible:
        return []
    on_N = pareto.front(pareto.oriented([point.mean for point in feasible], objectives))
    return [point for point, on in zip(feasible, on_N, strict=True) if on]


def distance(values: Mapping[str, float], front: Sequence[Mapping[str, float]], info: SweepInfo) -> float:
    """How far a candidate is behind a front: the least change after which it is no worse than somebody on it.

    Smallest over the front of the Euclidean length of what the candidate is worse in, with objectives scaled so that
    the best value on the front is 0 and the reference point 1: 0.1 is a tenth of the whole way. 0 on the front only.
    (The additive epsilon indicator is 0 as well for whoever ties with the best in one objective, as all do that have
    forgotten everything, however much they lose elsewhere.)

    Source: the distance d+ of Ishibuchi et al. 2015, "Modified distance calculation in generational distance and
    inverted generational distance".
    """
    front_KM = pareto.oriented(front, info.objectives)
    point_M, reference_M = pareto.oriented([values, info.reference_point], info.objectives)
    span_M = reference_M - front_KM.min(axis=0)
    worse_KM = np.maximum(point_M - front_KM, 0.0) / np.where(span_M > 0, span_M, 1.0)
    return float(np.linalg.norm(worse_KM, axis=1).min())


def _alone(record: Record, summary: Summary) -> float:
    return hypervolume_of([record], summary.info.objectives, summary.info.reference_point)


def _dominators(
    values: Mapping[str, float], front: Sequence[tuple[Record, Mapping[str, float]]], objectives: Objectives
) -> list[Dominator]:
    signs = {name: 1.0 if way == "min" else -1.0 for name, way in objectives.items()}
    found = []
    for other, there in front:
        gain = {name: sign * (values[name] - there[name]) + 0.0 for name, sign in signs.items()}
        if min(gain.values()) >= 0 and max(gain.values()) > 0:
            found.append(Dominator(other, gain))
    return found
