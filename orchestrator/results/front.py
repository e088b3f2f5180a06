"""What came out of a sweep, as pure functions of its records and events.

Only COMPLETE trials that have every objective are candidates for the front: a trial that was stopped early
has hardly been trained, keeps its full utility for that reason alone, and would poison the utility end. The
functions are cheap enough to be called after every trial; `summarise` gathers what the report says.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from orchestrator import pareto
from orchestrator.events import (
    Anchor,
    Ended,
    Epoch,
    Event,
    Measured,
    Opened,
    Origin,
    Packed,
    Record,
    Suggested,
    SweepInfo,
    records,
)
from orchestrator.resources import AUTO
from orchestrator.results.cost import STATES, Cost, budgets_of, cost_of, epochs_spent
from orchestrator.results.volume import volumes
from search_spaces.space import get_path

Objectives = Mapping[str, Literal["min", "max"]]


def has_all(metrics: Mapping[str, float], objectives: Iterable[str]) -> bool:
    """Whether every objective is there and finite, so that the metrics are a point."""
    return all(math.isfinite(metrics.get(name, math.nan)) for name in objectives)


def candidates_of(found: Iterable[Record], objectives: Objectives) -> list[Record]:
    """The trials that may be on the front, in the order given.

    COMPLETE, with all objectives, within the constraints, and points of their own: other seeds of a point say how sure
    it is, and do not get another chance to be lucky.
    """
    return [
        record
        for record in found
        if record.state == "COMPLETE" and record.of is None and not record.violations
        if has_all(record.metrics, objectives)
    ]


def front_of(found: Iterable[Record], objectives: Objectives) -> list[Record]:
    """The candidates that no other candidate dominates, best first objective first, then by trial_id.

    Trials with equal objectives are all on the front, or none is.
    """
    candidates = candidates_of(found, objectives)
    points_NM = pareto.oriented([record.metrics for record in candidates], objectives)
    front = [
        (point.tolist(), record)
        for point, record, kept in zip(points_NM, candidates, pareto.front(points_NM), strict=True)
        if kept
    ]
    return [record for _, record in sorted(front, key=lambda pair: (pair[0], pair[1].trial_id))]


def knee_of(front: Sequence[Record], objectives: Objectives) -> Record | None:
    """The trial of a front that gives up least (`pareto.knee`); None for an empty front."""
    if not front:
        return None
    return front[pareto.knee(pareto.oriented([record.metrics for record in front], objectives))]


def hypervolume_of(found: Iterable[Record], objectives: Objectives, reference_point: Mapping[str, float]) -> float:
    """Hypervolume of the candidates against the reference point, in the units of the objectives, multiplied.

    Raises:
        ValueError: The reference point lacks an objective.
    """
    reference_M = pareto.oriented([reference_point], objectives)[0]
    candidates = candidates_of(found, objectives)
    return pareto.hypervolume(pareto.oriented([r.metrics for r in candidates], objectives), reference_M)


def hypervolume_history(
    found: Sequence[Record], objectives: Objectives, reference_point: Mapping[str, float]
) -> list[float]:
    """Hypervolume after each ended trial, in the order in which they ended; never falls."""
    reference_M = pareto.oriented([reference_point], objectives)[0]
    candidates = candidates_of(found, objectives)
    after = dict(
        zip(
            (record.trial_id for record in candidates),
            volumes(pareto.oriented([record.metrics for record in candidates], objectives), reference_M),
            strict=True,
        )
    )
    history: list[float] = []
    for record in found:
        history.append(after.get(record.trial_id, history[-1] if history else 0.0))
    return history


def dominators_of(record: Record, front: Iterable[Record], objectives: Objectives) -> list[Record]:
    """The trials of a front that dominate a trial, in its order; none for one that is no point."""
    if not has_all(record.metrics, objectives):
        return []
    return [
        other for other in front if not pareto.front(pareto.oriented([record.metrics, other.metrics], objectives))[0]
    ]


@dataclass(frozen=True)
class Summary:
    """What a report says about a sweep.

    Attributes:
        info: What the sweep is.
        records: Ended trials, in the order in which they ended.
        suggested: trial_id -> how it was suggested; of unfinished trials too.
        anchors: Name of the target or retain model -> its metrics.
        front: Non-dominated candidates, best first objective first.
        hypervolume: Of all candidates, against `info.reference_point`.
        history: Hypervolume after each of `records`.
        counts: State -> number of ended trials; all three states are there.
        failures: Cause, the first line of `failure` -> number of trials, most frequent first.
        unmeasured: trial_id of the front -> why it could not be measured again, where that failed.
        epochs_spent: Epochs evaluated; as all below, without trials of an earlier sweep, which cost nothing here.
        epochs_saved: Epochs that PRUNED trials had left.
        epochs_full: Epochs that COMPLETE and PRUNED trials would have taken at full budget.
        seconds: The trials' own time, summed.
        epochs: trial_id -> its evaluated epochs, ascending, each once; of unfinished trials too.
        spent: Epochs evaluated, of all trials, by the time that each of `records` ended.
        cost: Origin -> what its trials took; those that occur, earlier ones too.
        opened: The drivers that took the sweep up, in order.
        gpu: GPUs, or the part of one, that a trial takes; of `auto`, as it was measured last.
    """

    info: SweepInfo
    records: list[Record]
    suggested: dict[str, Suggested]
    anchors: dict[str, dict[str, float]]
    front: list[Record]
    hypervolume: float
    history: list[float]
    counts: dict[str, int]
    failures: dict[str, int]
    unmeasured: dict[str, str]
    epochs_spent: int
    epochs_saved: int
    epochs_full: int
    seconds: float
    epochs: dict[str, list[Epoch]]
    spent: list[int]
    cost: dict[Origin, Cost]
    opened: list[Opened]
    gpu: float

    @property
    def candidates(self) -> list[Record]:
        """The trials that may be on the front."""
        return candidates_of(self.records, self.info.objectives)

    @property
    def baselines(self) -> list[Suggested]:
        """The published settings, in the order in which they were suggested; without other seeds of them."""
        return [trial for trial in self.suggested.values() if trial.label is not None and trial.of is None]

    @property
    def unfinished(self) -> int:
        """Trials that were suggested and have not ended."""
        return len(self.suggested.keys() - {record.trial_id for record in self.records})

    @property
    def violators(self) -> list[Record]:
        """COMPLETE points that miss a constraint, and are not candidates for that reason."""
        return [
            record for record in self.records if record.state == "COMPLETE" and record.of is None and record.violations
        ]

    @property
    def gpu_hours(self) -> float:
        """The trials' own time on the GPUs that each of them held; 0 where they ran without."""
        return self.seconds / 3600 * self.gpu


def summarise(info: SweepInfo, events: Iterable[Event]) -> Summary:
    """Everything a report says, from the events of a run folder.

    Raises:
        ValueError: The reference point lacks an objective.
    """
    events = list(events)
    found = records(events)
    suggested = {event.trial_id: event for event in events if isinstance(event, Suggested)}
    epochs: dict[str, dict[int, Epoch]] = {trial_id: {} for trial_id in suggested}
    for event in events:
        if isinstance(event, Epoch):
            epochs[event.trial_id][event.epoch] = event
    curves = {trial_id: [own[epoch] for epoch in sorted(own)] for trial_id, own in epochs.items()}
    front = front_of(found, info.objectives)
    states = Counter(record.state for record in found)
    causes = Counter(_cause(event) for event in events if isinstance(event, Ended) and event.state == "FAIL")
    tried = {event.trial_id: event for event in events if isinstance(event, Measured)}  # the last time counts
    cost = cost_of(suggested, found, curves)
    here = [cost[origin] for origin in cost if origin != "earlier"]
    budgets = budgets_of(suggested, found)
    return Summary(
        info=info,
        records=found,
        suggested=suggested,
        anchors={event.name: event.metrics for event in events if isinstance(event, Anchor)},
        front=front,
        hypervolume=hypervolume_of(front, info.objectives, info.reference_point),
        history=hypervolume_history(found, info.objectives, info.reference_point),
        counts={state: states[state] for state in STATES},
        failures=dict(sorted(causes.items(), key=lambda pair: (-pair[1], pair[0]))),
        unmeasured={r.trial_id: _cause(e) for r in front if (e := tried.get(r.trial_id)) and e.failure},
        epochs_spent=sum(each.epochs for each in here),
        epochs_saved=sum(each.saved for each in here),
        epochs_full=sum(
            max(r.epoch, budgets[r.trial_id]) for r in found if r.state != "FAIL" and r.origin != "earlier"
        ),
        seconds=sum(each.seconds for each in here),
        epochs=curves,
        spent=epochs_spent(events, suggested),
        cost=cost,
        opened=[event for event in events if isinstance(event, Opened)],
        gpu=_gpu_of(info, events),
    )


def _gpu_of(info: SweepInfo, events: Iterable[Event]) -> float:
    gpu = get_path(info.config, "resources.gpu", 0.0)
    if gpu == AUTO:
        return next((event.gpu for event in reversed(list(events)) if isinstance(event, Packed)), 0.0)
    return float(gpu) / float(get_path(info.config, "resources.pack", 1))


def _cause(event: Ended | Measured) -> str:
    lines = (event.failure or "").strip().splitlines()
    return lines[0].strip() if lines else "no cause was recorded"


def method_of(suggested: Suggested) -> str:
    """The method of a trial: the type of its forget term, a criterion of reweighting or another objective."""
    found = get_path(suggested.config, "loss.criterion.type", None)
    return str(found) if found is not None else suggested.label or "unnamed"


def repeats(found: Iterable[Record]) -> dict[str, list[Record]]:
    """trial_id of a point -> the ended trials that repeat it with other seeds, in their order."""
    repeated: dict[str, list[Record]] = {}
    for record in found:
        if record.of is not None:
            repeated.setdefault(record.of, []).append(record)
    return repeated


def metric_names(found: Iterable[Record], objectives: Iterable[str]) -> list[str]:
    """The objectives in their order, then the other metrics by name."""
    first = list(objectives)
    return first + sorted({name for record in found for name in record.metrics} - set(first))


def param_paths(found: Iterable[Record]) -> list[str]:
    """Paths of the space in the order in which they are first met; some trials may lack some of them."""
    return list(dict.fromkeys(path for record in found for path in record.params))


def settings_of(record: Record, suggested: Suggested, base: Mapping[str, Any]) -> dict[str, Any]:
    """What makes the sweep's base trial this trial: path -> value, a union's `type` before its parameters.

    Its params, and what else of its config differs from the base trial: a published setting may lie outside
    of the space.
    """
    others = {path: value for path, value in _leaves(suggested.config) if get_path(base, path) != value}
    found = {**record.params, **{path: value for path, value in others.items() if path not in record.params}}
    # Setting `x.type` clears what stands at x, so it goes first; sorted() keeps the order of the rest.
    return dict(sorted(found.items(), key=lambda pair: not pair[0].endswith(".type")))


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
