"""The runs of one sweep in one MLflow store: what an event becomes there.

One experiment per benchmark, a parent run per sweep, a child run per trial and for the target and the retain model.
A trial that repeats another one with a fresh seed is a child of that trial's run, which is told what its seeds say
together. A trial's `forget.nll` is called `forget/nll` there, because the UI draws a section of charts for each prefix
before a slash. The parent's metrics have no slash: sections with a name come first and would bury `hypervolume`.

Sending an event twice stores it once: a metric point carries the time of its event and the epoch as step, runs are
found by their tags and reused, and a run that is already ended as the ledger says is left alone. What a trial of the
front was given later goes to its run, ended or not, at the step of its last epoch; the tag `measured` says that it did.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.events import OF_NO_TRIAL, Anchor, Ended, Epoch, Event, Measured, Suggested, SweepInfo
from orchestrator.redaction import redacted
from orchestrator.report.weight_profiles import FILES
from orchestrator.results.evidence import confirmed
from orchestrator.results.front import summarise
from orchestrator.tracking.client import (
    charted,
    client_of,
    experiment_of,
    milliseconds,
    params_of,
    points,
    runs_of,
    send,
    sweep_tag,
    tag_value,
)
from orchestrator.tracking.course import Course
from orchestrator.tracking.login import require_store
from orchestrator.tracking.note import experiment_note, is_ours, sweep_note
from orchestrator.tracking.runs import ANCHORS, anchor_tags, end_tags, sweep_tags, trial_name, trial_tags
from orchestrator.tracking.views import views_of

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run

_STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}
_TEXTS = ("sweep.yaml", "sweep.json", "report.md", "report.html", "front.csv", "front.json")
_FOLDERS = ("figures", "tables")
_NOTE, _PARENT = "mlflow.note.content", "mlflow.parentRunId"


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
        self.course = Course(self.info)
        self.experiment = experiment_of(self.client, uri, self.info.benchmark)
        self.children: dict[str, _Child] = {}
        self.models: dict[str, Run] = {}
        self._pending: dict[str, list[Event]] = {}
        self._points = 0
        self._sent: set[str] = set()
        self._equip()
        parent: Run | None = None
        for run in runs_of(self.client, self.experiment.experiment_id, self.sweep):
            tags = run.data.tags
            if trial_id := tags.get("trial_id"):
                self.children.setdefault(trial_id, _child(run))
            elif name := tags.get("anchor"):
                self.models.setdefault(name, run)
            elif parent is None:
                parent = run
        tags = sweep_tags(self.info)
        self.parent = parent or self._create(self.info.name, self.info.created, tags, None)
        self.run_id: str = self.parent.info.run_id
        known = self.parent.data
        new = {key: value for key, value in tags.items() if known.tags.get(key) != tag_value(value)}
        # A parameter cannot change: of a sweep that was extended it says how the sweep began.
        params = {key: value for key, value in params_of(self.info.config).items() if key not in known.params}
        self._send(self.run_id, [], params, new)

    @property
    def open_trials(self) -> int:
        """Trials that were suggested and have not ended."""
        return self.course.open_trials

    def result(self) -> SyncResult:
        return SyncResult(
            uri=redacted(self.uri),
            experiment_id=self.experiment.experiment_id,
            run_id=self.run_id,
            trials=len(self.course.of_trial),
            sent=len(self._sent),
            points=self._points,
        )

    def reopen(self) -> None:
        """Marks the sweep as running."""
        if self.parent.info.status != "RUNNING":
            self.client.update_run(self.run_id, status="RUNNING")

    def take(self, event: Event) -> None:
        """Remembers what follows from one event."""
        self.course.take(event)
        if not isinstance(event, OF_NO_TRIAL):
            self._pending.setdefault(event.trial_id, []).append(event)

    def flush(self) -> None:
        """Sends all that is remembered, a trial at a time."""
        course = self.course
        for name in list(course.models):
            self._send_model(course.models[name])
            del course.models[name]
        for trial_id in list(self._pending):
            self._flush_trial(trial_id, self._pending[trial_id])
            del self._pending[trial_id]
        for trial_id in list(course.estimates):
            self._send(self.children[trial_id].run_id, course.estimates[trial_id], {}, {})
            del course.estimates[trial_id]
        self._send(self.run_id, course.sweep, {}, {})
        course.sweep = []
        self._mark_front()

    def close(self, interrupted: bool | None) -> None:
        """Uploads the report files, describes the sweep and ends its run.

        Args:
            interrupted: Whether the sweep was ended before its trials; None where nobody knows, and then a
                sweep with open trials is left as it is.
        """
        for name in _TEXTS:
            if (path := self.folder / name).is_file():
                self.client.log_text(self.run_id, redacted(path.read_text(encoding="utf-8")), name)
        for folder in _FOLDERS:
            for path in sorted((self.folder / folder).glob("*")):
                self.client.log_artifact(self.run_id, str(path), folder)
        self._describe()
        if interrupted is not None or not self.open_trials:
            at = milliseconds(self.course.last)
            self.client.set_terminated(self.run_id, "KILLED" if interrupted else "FINISHED", at)

    def _equip(self) -> None:
        """Gives the experiment a description, where nobody has, and the saved views of this sweep."""
        there = self.experiment.tags
        wanted = {_NOTE: there.get(_NOTE) or experiment_note(self.info.benchmark)} | views_of(self.info)
        for key, value in wanted.items():
            if there.get(key) != value:
                self.client.set_experiment_tag(self.experiment.experiment_id, key, value)

    def _describe(self) -> None:
        """Describes the sweep, unless somebody has written a description of their own."""
        summary = summarise(self.info, self.course.events)
        place = self.experiment.experiment_id, self.run_id
        picture = (self.folder / "figures" / "front.png").is_file()
        if is_ours(self.client.get_run(self.run_id).data.tags.get(_NOTE)):
            self._send(self.run_id, [], {}, {_NOTE: sweep_note(summary, confirmed(summary), place, picture=picture)})

    def _mark_front(self) -> None:
        front = {record.trial_id for record in self.course.front}
        for trial_id, child in self.children.items():
            if (trial_id in front) != child.front:
                self.client.set_tag(child.run_id, "front", "true" if trial_id in front else "false")
                child.front = trial_id in front

    def _send_model(self, anchor: Anchor) -> None:
        """The run of the target or retain model, which is there whole or not at all."""
        run = self.models.get(anchor.name)
        if run is None:
            tags = anchor_tags(anchor, self.info)
            run = self.models[anchor.name] = self._create(ANCHORS[anchor.name], anchor.at, tags, self.run_id)
        self._send(run.info.run_id, self.course.model_points(anchor), {}, {})
        if run.info.status != "FINISHED":
            self.client.set_terminated(run.info.run_id, "FINISHED", milliseconds(anchor.at))

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
        trial = next(e for e in self.course.of_trial[trial_id] if isinstance(e, Suggested))
        child = self.children.get(trial_id)
        if child is None:
            above = self.children[trial.of].run_id if trial.of else self.run_id
            run = self._create(trial_name(trial), trial.at, trial_tags(trial, self.info), above)
            child = self.children[trial_id] = _child(run)
        metrics, tags = [], {}
        for event in events:
            if isinstance(event, Epoch):
                values = {charted(name): value for name, value in event.metrics.items()}
                metrics += points(values | {"seconds": event.seconds}, event.at, event.epoch)
                tags["epoch"] = str(event.epoch)
        tags |= end_tags(ended) if ended else {}
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
        step = max((e.epoch for e in self.course.of_trial[trial_id] if isinstance(e, Ended)), default=0)
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

    def _create(self, name: str, at: float, tags: Mapping[str, str], above: str | None) -> Run:
        own = {"sweep": self.sweep} | {key: tag_value(value) for key, value in tags.items()}
        own |= {_PARENT: above} if above else {}
        return self.client.create_run(self.experiment.experiment_id, milliseconds(at), own, name)


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
