"""What a front cost: its growth over epochs, within trials and over the whole sweep, and methods at equal cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator import pareto
from orchestrator.events import Record
from orchestrator.pareto import Floats
from orchestrator.results.front import Summary, candidates_of, has_all, hypervolume_of, method_of, repeats

ORDERS = 200


@dataclass(frozen=True)
class EpochPoint:
    """A candidate after one of its epochs; `last`: after its last one."""

    trial_id: str
    epoch: int
    metrics: dict[str, float]
    last: bool


@dataclass(frozen=True)
class EpochFront:
    """The candidates after one epoch.

    Attributes:
        epoch: From 1.
        trials: Candidates that have this epoch with all objectives.
        front: The non-dominated among them, best first objective first.
        hypervolume: Of `front`, against the reference point.
    """

    epoch: int
    trials: int
    front: list[EpochPoint]
    hypervolume: float


def epoch_fronts(summary: Summary) -> list[EpochFront]:
    """The front after each epoch, of the trials that are candidates after their last.

    An earlier epoch lies on a learning rate schedule that has not come to its end: a trial of so many epochs might have
    done better.
    """
    info = summary.info
    reference_M = pareto.oriented([info.reference_point], info.objectives)[0]
    by_epoch: dict[int, list[EpochPoint]] = {}
    for point in _epoch_points(summary):
        by_epoch.setdefault(point.epoch, []).append(point)
    found = []
    for epoch, points in sorted(by_epoch.items()):
        points_NM = pareto.oriented([point.metrics for point in points], info.objectives)
        volume = pareto.hypervolume(points_NM, reference_M)
        found.append(EpochFront(epoch, len(points), _front(points, points_NM), volume))
    return found


def any_epoch_front(summary: Summary) -> list[EpochPoint]:
    """The points that are non-dominated among all epochs of all candidates, best first objective first.

    Those before the last epoch tell where fewer epochs may do; see `epoch_fronts` for what they do not tell.
    """
    points = [point for each in epoch_fronts(summary) for point in each.front]  # nobody else can be on it
    return _front(points, pareto.oriented([point.metrics for point in points], summary.info.objectives))


def _epoch_points(summary: Summary) -> list[EpochPoint]:
    objectives = summary.info.objectives
    return [
        EpochPoint(record.trial_id, epoch.epoch, epoch.metrics, epoch.epoch == record.epoch)
        for record in summary.candidates
        for epoch in summary.epochs[record.trial_id]
        if epoch.epoch <= record.epoch and has_all(epoch.metrics, objectives)
    ]


def _front(points: Sequence[EpochPoint], points_NM: Floats) -> list[EpochPoint]:
    kept = np.flatnonzero(pareto.front(points_NM)).tolist()
    return [points[n] for n in sorted(kept, key=lambda n: (points_NM[n].tolist(), points[n].trial_id, points[n].epoch))]


def volume_by_epochs(summary: Summary) -> tuple[list[int], list[float]]:
    """Epochs spent by the whole sweep, and the hypervolume after them, as steps from (0, 0.0).

    A point for each ended trial that raised it, and for the last one. Trials of an earlier sweep cost nothing here.
    """
    spent, volume = [0], [0.0]
    for epochs, after in zip(summary.spent, summary.history, strict=True):
        if after > volume[-1]:
            spent.append(epochs)
            volume.append(after)
    if summary.spent and summary.spent[-1] > spent[-1]:
        spent.append(summary.spent[-1])
        volume.append(volume[-1])
    return spent, volume


# -- methods at equal cost ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Method:
    """What one method reached.

    Attributes:
        name: Type of the forget term; of a published setting its label.
        published: Whether it is one published setting.
        trials: Points that were run.
        epochs: Epochs spent on them, other seeds of them included.
        candidates: How many of them may be on a front.
        hypervolume: Of all of them, for all of their epochs.
        at_budget: Mean hypervolume for `Methods.budget` epochs, over random orders of the trials; of a published
            setting its own, at its own epochs. None without candidates.
        low: Lower end of what 95 % of the orders have; equal to `high` where the budget pays for all trials.
        high: Its upper end.
    """

    name: str
    published: bool
    trials: int
    epochs: int
    candidates: int
    hypervolume: float
    at_budget: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Methods:
    """Methods at equal cost: `budget` epochs each, the least that a searched one has spent."""

    budget: int
    rows: list[Method]


def by_method(summary: Summary) -> Methods:
    """The searched methods, best first, then the published settings.

    A method's trials are taken in `ORDERS` random orders (a fixed seed), each until the budget is used up; a trial
    that would end after that does not count. Searched trials only, with their epochs however they ended. A sampler
    that learns has given its favourite methods more trials, and better ones: a random order is fair in cost, and does
    not undo that.
    """
    repeated = repeats(summary.records)
    searched: dict[str, list[tuple[Record, int]]] = {}
    published: list[tuple[Record, int]] = []
    for record in summary.records:
        if record.of is not None or record.origin not in ("search", "baseline"):
            continue
        if record.label is not None:
            published.append((record, _epochs(record, summary)))
            continue
        own = [record, *(other for other in repeated.get(record.trial_id, []) if other.origin == "search")]
        unit = (record, sum(_epochs(each, summary) for each in own))
        searched.setdefault(method_of(summary.suggested[record.trial_id]), []).append(unit)
    spent = [sum(epochs for _, epochs in units) for units in searched.values()]
    budget = min((epochs for epochs in spent if epochs), default=0)  # who failed before an epoch has none
    rows = [_method(name, units, budget, summary) for name, units in searched.items()]
    rows.sort(key=lambda row: (-(row.at_budget or 0.0), row.name))
    for record, epochs in published:
        volume = hypervolume_of([record], summary.info.objectives, summary.info.reference_point)
        candidates = len(candidates_of([record], summary.info.objectives))
        reached = volume if candidates else None
        name = record.label or record.trial_id
        rows.append(Method(name, True, 1, epochs, candidates, volume, reached, reached, reached))
    return Methods(budget, rows)


def _epochs(record: Record, summary: Summary) -> int:
    return len(summary.epochs[record.trial_id])


def _method(name: str, units: Sequence[tuple[Record, int]], budget: int, summary: Summary) -> Method:
    objectives, reference = summary.info.objectives, summary.info.reference_point
    found = [record for record, _ in units]
    candidates = candidates_of(found, objectives)
    reached = _at_budget(units, budget, summary) if candidates else None
    return Method(
        name=name,
        published=False,
        trials=len(found),
        epochs=sum(epochs for _, epochs in units),
        candidates=len(candidates),
        hypervolume=hypervolume_of(found, objectives, reference),
        at_budget=float(reached.mean()) if reached is not None else None,
        low=float(np.quantile(reached, 0.025)) if reached is not None else None,
        high=float(np.quantile(reached, 0.975)) if reached is not None else None,
    )


def _at_budget(units: Sequence[tuple[Record, int]], budget: int, summary: Summary) -> Floats:
    """Hypervolume for a budget of epochs, in each of `ORDERS` random orders."""
    objectives = summary.info.objectives
    reference_M = pareto.oriented([summary.info.reference_point], objectives)[0]
    worth_N = np.array([bool(candidates_of([record], objectives)) for record, _ in units])
    points_NM = np.tile(reference_M, (len(units), 1))  # what is no candidate adds nothing, as the reference itself
    points_NM[worth_N] = pareto.oriented(
        [r.metrics for (r, _), on in zip(units, worth_N, strict=True) if on], objectives
    )
    epochs_N = np.array([epochs for _, epochs in units])
    rng = np.random.default_rng(0)
    reached = np.empty(ORDERS)
    for row in range(ORDERS):
        order = rng.permutation(len(units))
        paid = order[np.cumsum(epochs_N[order]) <= budget]
        reached[row] = pareto.hypervolume(points_NM[paid], reference_M)
    return reached
