"""The course of a sweep as MLflow charts it: what follows from its events beyond each trial's own metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from orchestrator.events import OF_NO_TRIAL, Anchor, Ended, Epoch, Event, Record, Suggested, SweepInfo, record_of
from orchestrator.results.front import front_of, has_all, hypervolume_of
from orchestrator.results.intervals import t_interval
from orchestrator.tracking.client import charted, points
from search_spaces.space import get_path

if TYPE_CHECKING:
    from mlflow.entities import Metric


class Course:
    """What the events of a sweep come to, as points of metrics that are still to be sent.

    Attributes:
        events: All of them.
        of_trial: trial_id -> its own events.
        models: Name of the target or retain model -> its metrics, while they are still to be sent.
        front: The trials on the front.
        last: Time of the latest event.
        sweep: Points of the sweep's run.
        estimates: trial_id -> points that say what the seeds of this trial say together.
    """

    def __init__(self, info: SweepInfo) -> None:
        self.info = info
        self.events: list[Event] = []
        self.of_trial: dict[str, list[Event]] = {}
        self.models: dict[str, Anchor] = {}
        self.front: list[Record] = []
        self.last = info.created
        self.sweep: list[Metric] = []
        self.estimates: dict[str, list[Metric]] = {}
        self._states: Counter[str] = Counter()
        self._epochs: set[tuple[str, int]] = set()
        self._seeds: dict[str, dict[str, list[Record]]] = {}

    @property
    def open_trials(self) -> int:
        """Trials that were suggested and have not ended."""
        return len(self.of_trial) - self._states.total()

    def take(self, event: Event) -> None:
        """Adds one event."""
        self.events.append(event)
        self.last = max(self.last, event.at)
        if isinstance(event, Anchor):
            self.models[event.name] = event
        elif not isinstance(event, OF_NO_TRIAL):
            own = self.of_trial.setdefault(event.trial_id, [])
            own.append(event)
            if isinstance(event, Epoch) and not _is_earlier(own):
                self._epochs.add((event.trial_id, event.epoch))
            elif isinstance(event, Ended):
                self._end(event, record_of(own))

    def model_points(self, event: Anchor) -> list[Metric]:
        """Metrics of an anchor: at no epoch and at the last one, so that charts draw a level line beside the trials."""
        epochs = get_path(self.info.config, "trial.epochs")
        steps = (0, epochs) if isinstance(epochs, int) else (0,)
        values = {charted(name): value for name, value in event.metrics.items()}
        return [point for step in steps for point in points(values, event.at, step)]

    def _end(self, event: Ended, record: Record) -> None:
        self._states[event.state] += 1
        self.front = front_of([*self.front, record], self.info.objectives)
        metrics: dict[str, float] = {
            "front_size": len(self.front),
            "trials_complete": self._states["COMPLETE"],
            "trials_pruned": self._states["PRUNED"],
            "trials_failed": self._states["FAIL"],
            "epochs_spent": len(self._epochs),
        }
        if self.info.objectives.keys() <= self.info.reference_point.keys():
            volume = hypervolume_of(self.front, self.info.objectives, self.info.reference_point)
            metrics["hypervolume"] = volume
            self.sweep += points({"hypervolume_by_epochs_spent": volume}, event.at, len(self._epochs))
        self.sweep += points(metrics, event.at, self._states.total())
        self._add_seed(event, record)

    def _add_seed(self, event: Ended, record: Record) -> None:
        """What the seeds of a point say, once more by a seed.

        `confirmed` is of the fresh seeds of a confirmation alone, since the search kept its own seed for having come
        out well; `replicates` is of all seeds that the search itself gave the point.
        """
        if record.state != "COMPLETE" or not has_all(record.metrics, self.info.objectives):
            return
        point = record.of or record.trial_id
        section = "confirmed" if record.origin == "confirm" else "replicates"
        runs = self._seeds.setdefault(point, {}).setdefault(section, [])
        runs.append(record)
        if len(runs) > 1:
            values = seed_metrics(section, runs, list(self.info.objectives))
            self.estimates.setdefault(point, []).extend(points(values, event.at, len(runs)))


def seed_metrics(section: str, runs: Sequence[Record], objectives: Sequence[str]) -> dict[str, float]:
    """What at least two complete seeds of a point say together: mean and 95 % interval by Student's t.

    Returns:
        `<section>.seeds`, and `<section>.<objective>.mean`, `.low` and `.high`: no slash, so that these charts stand
        below those by epoch.
    """
    found: dict[str, float] = {f"{section}.seeds": len(runs)}
    for name in objectives:
        estimate = t_interval([run.metrics[name] for run in runs])
        found |= {f"{section}.{name}.{part}": v for part, v in zip(("mean", "low", "high"), estimate, strict=True)}
    return found


def _is_earlier(events: Sequence[Event]) -> bool:
    """Whether a trial comes from another run folder: its epochs were not spent here."""
    return any(isinstance(event, Suggested) and event.origin == "earlier" for event in events)
