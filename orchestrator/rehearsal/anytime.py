"""Search strategies compared at equal epochs: how much of the objectives they had covered when.

What counts is the hypervolume of the full-budget trials that had ended when so many epochs had been evaluated, whoever
ran them. Everything here is a function of what was found; who found it, and how, is not asked.

Shape suffixes: R repeats, E epochs, M objectives.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from orchestrator import pareto
from orchestrator.events import Ended, Epoch, Event, Suggested
from orchestrator.results.front import Objectives, has_all
from orchestrator.results.intervals import t_interval
from orchestrator.results.volume import volumes

RANDOM = "random"
"""The strategy that others are measured against: independent draws, nobody stopped."""

FRACTIONS = (0.25, 0.5, 1.0)
"""Of the epochs, at which strategies are compared."""

Interval = tuple[float, float, float]
"""Mean over repeats, and the ends of its 95 % interval."""


@dataclass(frozen=True)
class Run:
    """What came of one simulated sweep.

    Attributes:
        epochs: Evaluated, all in all.
        states: State -> trials.
        found: Of each candidate of the front, epochs that had been evaluated when it ended, and its objectives.
        rate: Decisions a second: epochs judged, with all proposals.
    """

    epochs: int
    states: dict[str, int]
    found: list[tuple[int, dict[str, float]]]
    rate: float


@dataclass(frozen=True)
class Row:
    """A strategy over all repeats.

    Attributes:
        name: Of the strategy.
        hypervolume: At each of `FRACTIONS`.
        reached: Epochs until its mean hypervolume was what `random` has in the end; inf where it never was.
        full: Trials that ran to the full budget.
        epochs: Evaluated.
        rate: Decisions a second.
        runs: All that came of it.
    """

    name: str
    hypervolume: list[Interval]
    reached: Interval
    full: float
    epochs: float
    rate: float
    runs: list[Run] = field(repr=False)


def run_of(events: Iterable[Event], objectives: Objectives, seconds: float) -> Run:
    """What came of a simulated sweep that took so many seconds."""
    trials: dict[str, Suggested] = {}
    last: dict[str, dict[str, float]] = {}
    states = {"COMPLETE": 0, "PRUNED": 0, "FAIL": 0}
    found: list[tuple[int, dict[str, float]]] = []
    spent = 0
    for event in events:
        if isinstance(event, Suggested):
            trials[event.trial_id] = event
        elif isinstance(event, Epoch):
            last[event.trial_id], spent = event.metrics, spent + 1
        elif isinstance(event, Ended):
            states[event.state] += 1
            own = event.state == "COMPLETE" and trials[event.trial_id].of is None and not event.violations
            if own and has_all(last[event.trial_id], objectives):
                found.append((spent, {name: last[event.trial_id][name] for name in objectives}))
    return Run(spent, states, found, spent / seconds if seconds else float("inf"))


def table_of(
    runs: Mapping[str, Sequence[Run]], objectives: Objectives, worst_M: NDArray[np.float64], epochs: int
) -> list[Row]:
    """A row for each strategy; `random` is what others are measured against.

    Args:
        runs: Strategy -> its repeats.
        objectives: Metric -> min or max.
        worst_M: The reference point, oriented.
        epochs: At which strategies are compared.
    """
    volume = {name: np.array([volume_by_epoch(r, objectives, worst_M, epochs) for r in runs[name]]) for name in runs}
    return [
        Row(
            name,
            [t_interval(volume[name][:, max(1, round(epochs * share)) - 1].tolist()) for share in FRACTIONS],
            reached(volume[name], volume[RANDOM][:, -1]),
            float(np.mean([run.states["COMPLETE"] for run in own])),
            float(np.mean([run.epochs for run in own])),
            float(np.mean([run.rate for run in own])),
            list(own),
        )
        for name, own in runs.items()
    ]


def volume_by_epoch(run: Run, objectives: Objectives, worst_M: NDArray[np.float64], epochs: int) -> NDArray[np.float64]:
    """Hypervolume of what had ended after 1, 2, ..., `epochs` epochs of the whole sweep."""
    by_epoch = np.zeros(epochs)
    points_NM = pareto.oriented([metrics for _, metrics in run.found], objectives)
    for (spent, _), volume in zip(run.found, volumes(points_NM, worst_M), strict=True):
        by_epoch[spent - 1 :] = volume
    return by_epoch


def reached(volumes_RE: NDArray[np.float64], random_R: NDArray[np.float64]) -> Interval:
    """Epochs until the mean hypervolume is that of `random` in the end, inf where it stays below; bootstrap interval.

    Args:
        volumes_RE: Hypervolume of each repeat after each epoch.
        random_R: That of each repeat of `random` in the end.
    """

    def first(mean_E: NDArray[np.float64], target: float) -> float:
        there = np.flatnonzero(mean_E >= target - 1e-12)
        return float(there[0] + 1) if len(there) else float("inf")

    ours, theirs = _resamples(len(volumes_RE)), _resamples(len(random_R), seed=1)
    epochs = sorted(
        first(volumes_RE[mine].mean(axis=0), float(random_R[other].mean()))
        for mine, other in zip(ours, theirs, strict=True)
    )
    low, high = epochs[round(0.025 * len(epochs))], epochs[round(0.975 * len(epochs)) - 1]
    return first(volumes_RE.mean(axis=0), float(random_R.mean())), low, high


def _resamples(count: int, seed: int = 0, times: int = 1000) -> NDArray[np.intp]:
    return np.random.default_rng(seed).integers(count, size=(times, count))


def epochs_in_words(reached_: Interval, epochs: int) -> str:
    """Epochs as `240 [200, 310]`; `> 400` where that many were not enough."""
    mean, low, high = (f"{value:.0f}" if np.isfinite(value) else f"> {epochs}" for value in reached_)
    return mean if mean.startswith(">") and low == mean else f"{mean} [{low}, {high}]"
