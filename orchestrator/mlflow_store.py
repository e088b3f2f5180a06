"""The runs of one sweep in one MLflow store: what an event becomes there.

One experiment per benchmark, a parent run per sweep, a child run per trial. A trial's `forget.nll` is called
`forget/nll` there, because the UI draws a section of charts for each prefix before a slash. The parent's metrics have
no slash, since sections with a name come first and would bury `hypervolume`: an anchor's is `target.forget.nll` or
`retain_model.forget.nll`.

Sending an event twice stores it once: a metric point carries the time of its event and the epoch as step, runs are
found by their tags and reused, and a run that is already ended as the ledger says is left alone. What a trial of the
front was given later goes to its run, ended or not, at the step of its last epoch; the tag `measured` says that it did.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.events import Anchor, Ended, Epoch, Event, Measured, Opened, Record, Suggested, SweepInfo, records
from orchestrator.front import front_of, hypervolume_of
from orchestrator.mlflow_client import (
    charted,
    client_of,
    milliseconds,
    params_of,
    points,
    runs_of,
    send,
    sweep_tag,
    tag_value,
)
from orchestrator.tracking_uri import TrackingError, redacted, require_store, sqlite_path
from orchestrator.weight_profiles import FILES

if TYPE_CHECKING:
    from mlflow.entities import Experiment, Metric, Run

_LOG = logging.getLogger(__name__)
_STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}
_TEXTS = ("sweep.yaml", "sweep.json", "report.md", "report.html", "front.csv", "front.json")


@dataclass(frozen=True)
class SyncResult:
    """What `sync` did.

    Attributes:
        uri: The store, without credentials.
        experiment_id: MLflow's experiment, one per benchmark.
        run_id: The parent run.
        trials: Trials of the ledger.
        sent: Trials of which something was sent; the others were there already, whole.
        points: Metric points sent, those included that were there already.
    """

    uri: str
    experiment_id: str
    run_id: str
    trials: int
    sent: int
    points: int


@dataclass
class _Child:
    run_id: str
    params: set[str] = field(default_factory=set)
    sealed: tuple[str, str] | None = None  # (state, epoch) of a run that is ended in the store
    front: bool = False
    measured: str | None = None


class Store:
    """The runs of one sweep in one store. `take` only remembers; whatever sends may be called again."""

    def __init__(self, folder: Path, uri: str) -> None:
        self.folder, self.uri, self.info = folder, uri, SweepInfo.read(folder)
        require_store(uri)
        self.client = client_of(uri)
        self.sweep = sweep_tag(self.info)
        self.experiment = self._experiment()
        self.children: dict[str, _Child] = {}
        self._events: dict[str, list[Event]] = {}
        self._pending: dict[str, list[Event]] = {}
        self._summary: list[Metric] = []
        self._states: Counter[str] = Counter()
        self._front: list[Record] = []
        self._last = self.info.created
        self._points = 0
        self._sent: set[str] = set()
        parent: Run | None = None
        for run in runs_of(self.client, self.experiment.experiment_id, self.sweep):
            if trial_id := run.data.tags.get("trial_id"):
                self.children.setdefault(trial_id, _child(run))
            elif parent is None:
                parent = run
        self.parent = parent or self._create_parent()
        self.run_id: str = self.parent.info.run_id
        known = self.parent.data.params
        self._send(self.run_id, [], {k: v for k, v in params_of(self.info.config).items() if k not in known}, {})

    @property
    def open_trials(self) -> int:
        """Trials that were suggested and have not ended."""
        return len(self._events) - self._states.total()

    def result(self) -> SyncResult:
        return SyncResult(
            uri=redacted(self.uri),
            experiment_id=self.experiment.experiment_id,
            run_id=self.run_id,
            trials=len(self._events),
            sent=len(self._sent),
            points=self._points,
        )

    def reopen(self) -> None:
        """Marks the sweep as running."""
        if self.parent.info.status != "RUNNING":
            self.client.update_run(self.run_id, status="RUNNING")

    def take(self, event: Event) -> None:
        """Remembers what follows from one event."""
        self._last = max(self._last, event.at)
        if isinstance(event, Opened):
            return
        if isinstance(event, Anchor):
            prefix = {"target": "target", "retain": "retain_model"}[event.name]
            values = {f"{prefix}.{name}": value for name, value in event.metrics.items()}
            self._summary += points(values, event.at, 0)
            return
        self._events.setdefault(event.trial_id, []).append(event)
        self._pending.setdefault(event.trial_id, []).append(event)
        if isinstance(event, Ended):
            self._states[event.state] += 1
            record = records(self._events[event.trial_id])[-1]
            self._front = front_of([*self._front, record], self.info.objectives)
            self._summary += points(_summary(self._states, self._front, self.info), event.at, self._states.total())

    def flush(self) -> None:
        """Sends all that is remembered, a trial at a time."""
        for trial_id in list(self._pending):
            self._flush_trial(trial_id, self._pending[trial_id])
            del self._pending[trial_id]
        self._send(self.run_id, self._summary, {}, {})
        self._summary = []

    def close(self, interrupted: bool | None) -> None:
        """Marks the front, uploads the report files and ends the parent run.

        Args:
            interrupted: Whether the sweep was ended before its trials; None where nobody knows, and then a
                sweep with open trials is left as it is.
        """
        front = {record.trial_id for record in self._front}
        for trial_id, child in self.children.items():
            if (trial_id in front) != child.front:
                self.client.set_tag(child.run_id, "front", "true" if trial_id in front else "false")
                child.front = trial_id in front
        for name in _TEXTS:
            if (path := self.folder / name).is_file():
                self.client.log_text(self.run_id, redacted(path.read_text(encoding="utf-8")), name)
        for path in sorted((self.folder / "figures").glob("*")):
            self.client.log_artifact(self.run_id, str(path), "figures")
        if interrupted is not None or not self.open_trials:
            self.client.set_terminated(self.run_id, "KILLED" if interrupted else "FINISHED", milliseconds(self._last))

    def _flush_trial(self, trial_id: str, events: Sequence[Event]) -> None:
        own = [event for event in events if isinstance(event, Suggested | Epoch | Ended)]
        later = [event for event in events if isinstance(event, Measured)]
        ended = next((event for event in reversed(own) if isinstance(event, Ended)), None)
        child = self.children.get(trial_id)
        if own and not (child and ended and child.sealed == (ended.state, str(ended.epoch))):
            self._send_trial(trial_id, own, ended)
            self._sent.add(trial_id)
        if later and self.children[trial_id].measured != _told(later[-1]):
            self._send_measured(trial_id, later)
            self._sent.add(trial_id)

    def _send_trial(self, trial_id: str, events: Sequence[Event], ended: Ended | None) -> None:
        trial = next(e for e in self._events[trial_id] if isinstance(e, Suggested))
        child = self.children.get(trial_id)
        if child is None:
            child = self.children[trial_id] = self._create_child(trial)
        metrics, tags = [], {}
        for event in events:
            if isinstance(event, Epoch):
                values = {charted(name): value for name, value in event.metrics.items()}
                metrics += points(values | {"seconds": event.seconds}, event.at, event.epoch)
                tags["epoch"] = str(event.epoch)
        if ended:
            tags |= {"state": ended.state, "epoch": str(ended.epoch)}
            tags |= {"failure": ended.failure} if ended.failure else {}
        params = {key: value for key, value in params_of(trial.config).items() if key not in child.params}
        self._send(child.run_id, metrics, params, tags)
        child.params |= params.keys()
        if ended:
            for path in (self.folder / "trials" / trial_id / name for name in FILES):
                if path.is_file():
                    self.client.log_artifact(child.run_id, str(path))
            self.client.set_terminated(child.run_id, _STATUS[ended.state], milliseconds(ended.at))
            child.sealed = ended.state, str(ended.epoch)

    def _send_measured(self, trial_id: str, events: Sequence[Measured]) -> None:
        """Adds to a run that is ended: the tag says that it was done, or why it could not be."""
        child = self.children[trial_id]
        step = max((e.epoch for e in self._events[trial_id] if isinstance(e, Ended)), default=0)
        metrics = [
            point
            for event in events
            for point in points({charted(name): value for name, value in event.metrics.items()}, event.at, step)
        ]
        self._send(child.run_id, metrics, {}, {"measured": _told(events[-1])})
        child.measured = _told(events[-1])

    def _send(self, run_id: str, metrics: Sequence[Metric], params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        send(self.client, run_id, metrics, params, tags)
        self._points += len(metrics)

    def _experiment(self) -> Experiment:
        from mlflow.exceptions import MlflowException

        name = self.info.benchmark
        experiment = self.client.get_experiment_by_name(name)
        if experiment is None:
            database = sqlite_path(self.uri)
            place = database.parent.resolve() / "mlartifacts" / re.sub(r"[^\w.-]", "_", name) if database else None
            try:
                self.client.create_experiment(name, artifact_location=place.as_uri() if place else None)
            except MlflowException:
                # Another sweep was quicker; another reason shows in the next line.
                _LOG.debug("experiment %r not created", name, exc_info=True)
            experiment = self.client.get_experiment_by_name(name)
        if experiment is None or experiment.lifecycle_stage != "active":
            raise TrackingError(
                f"MLflow experiment {name!r} in {redacted(self.uri)!r} cannot be made or was deleted, and "
                "a deleted one keeps its name; restore it with `mlflow experiments restore`"
            )
        return experiment

    def _create_parent(self) -> Run:
        info = self.info
        goals = ", ".join(f"{direction} {name}" for name, direction in info.objectives.items())
        tags = {
            "sweep": self.sweep,
            "fingerprint": info.fingerprint,
            "mlflow.note.content": f"Objectives: {goals}",
        }
        tags |= {"git_commit": info.git_commit, "mlflow.source.git.commit": info.git_commit} if info.git_commit else {}
        tags |= {"data": info.data, "model": info.model}
        tags |= {f"versions.{key}": value for key, value in info.versions.items()}
        return self.client.create_run(self.experiment.experiment_id, milliseconds(info.created), tags, info.name)

    def _create_child(self, trial: Suggested) -> _Child:
        tags = {
            "mlflow.parentRunId": self.run_id,
            "sweep": self.sweep,
            "trial_id": trial.trial_id,
            "fingerprint": trial.fingerprint,
            "seed": str(trial.seed),
            "state": "RUNNING",
        }
        if trial.label:
            tags["label"] = redacted(trial.label)
        if self.info.git_commit:
            tags["git_commit"] = tags["mlflow.source.git.commit"] = self.info.git_commit
        name = f"{trial.trial_id} {redacted(trial.label)}" if trial.label else trial.trial_id
        return _child(self.client.create_run(self.experiment.experiment_id, milliseconds(trial.at), tags, name))


def _child(run: Run) -> _Child:
    tags = run.data.tags
    ended = run.info.status in _STATUS.values()
    return _Child(
        run_id=run.info.run_id,
        params=set(run.data.params),
        sealed=(tags.get("state", ""), tags.get("epoch", "")) if ended else None,
        front=tags.get("front") == "true",
        measured=tags.get("measured"),
    )


def _told(event: Measured) -> str:
    """What the tag `measured` says."""
    return tag_value(event.failure or "true")


def _summary(states: Counter[str], front: Sequence[Record], info: SweepInfo) -> dict[str, float]:
    summary: dict[str, float] = {
        "front_size": len(front),
        "trials_complete": states["COMPLETE"],
        "trials_pruned": states["PRUNED"],
        "trials_failed": states["FAIL"],
    }
    if info.objectives.keys() <= info.reference_point.keys():
        summary["hypervolume"] = hypervolume_of(front, info.objectives, info.reference_point)
    return summary
