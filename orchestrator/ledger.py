"""The run folder's memory: an append-only file of events, and the records that follow from it.

`ledger.jsonl` is the only source of truth. One line is one event, written by the driver with a single call and
fsynced before anything else hears of it, so whatever else dies (Ray, the tracking server, the driver itself) can be
rebuilt: the study, the rungs of the scheduler, the MLflow runs, `trials.jsonl` and the report are all functions of it.
A line cut short by a killed driver is the last one and is dropped on reading.
"""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

State = Literal["COMPLETE", "PRUNED", "FAIL"]


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Anchor(_Line):
    """Metrics of a model that is not a trial: the target model or the retain model."""

    event: Literal["anchor"] = "anchor"
    at: float = Field(default_factory=time.time)
    name: Literal["target", "retain"]
    metrics: dict[str, float]


class Suggested(_Line):
    """A trial was proposed. `params` are the values at the paths of the search space, `config` the whole trial."""

    event: Literal["suggested"] = "suggested"
    at: float = Field(default_factory=time.time)
    trial_id: str
    number: int
    label: str | None
    params: dict[str, Any]
    config: dict[str, Any]
    fingerprint: str
    seed: int


class Epoch(_Line):
    """An epoch of a trial was evaluated; `seconds` is the trial's own time for it."""

    event: Literal["epoch"] = "epoch"
    at: float = Field(default_factory=time.time)
    trial_id: str
    epoch: int
    metrics: dict[str, float]
    seconds: float


class Ended(_Line):
    """A trial ended: COMPLETE at full budget, PRUNED when stopped early, FAIL with its cause in `failure`."""

    event: Literal["ended"] = "ended"
    at: float = Field(default_factory=time.time)
    trial_id: str
    state: State
    epoch: int
    failure: str | None = None


class Measured(_Line):
    """A trial of the front was measured again, once the search had ended; or could not be: why is in `failure`."""

    event: Literal["measured"] = "measured"
    at: float = Field(default_factory=time.time)
    trial_id: str
    metrics: dict[str, float]
    seconds: float
    failure: str | None = None


Event = Annotated[Anchor | Suggested | Epoch | Ended | Measured, Field(discriminator="event")]
_EVENT: TypeAdapter[Event] = TypeAdapter(Event)


class Record(_Line):
    """One ended trial, a line of `trials.jsonl`: metrics of its last epoch and measured later; `seconds` of its own."""

    trial_id: str
    state: State
    epoch: int
    label: str | None
    params: dict[str, Any]
    metrics: dict[str, float]
    fingerprint: str
    seed: int
    failure: str | None
    started: float
    seconds: float


class SweepInfo(_Line):
    """`sweep.json`: what this sweep is.

    Attributes:
        name: Name of the sweep and of its folder.
        benchmark: Name of the benchmark, and of the MLflow experiment.
        config: The sweep file, resolved.
        objectives: Metric -> min or max.
        reference_point: Metric -> the value against which hypervolume is measured.
        fingerprint: Identity of the sweep; `data` and `model` are digests of benchmark and target model.
        tracking_uri: Where MLflow records go.
        created: Unix time.
    """

    name: str
    benchmark: str
    config: dict[str, Any]
    objectives: dict[str, Literal["min", "max"]]
    reference_point: dict[str, float]
    fingerprint: str
    data: str
    model: str
    tracking_uri: str
    git_commit: str | None
    versions: dict[str, str]
    created: float

    @classmethod
    def read(cls, folder: Path) -> SweepInfo:
        """The sweep of a run folder.

        Raises:
            FileNotFoundError: Not a run folder.
        """
        return cls.model_validate_json((folder / "sweep.json").read_text(encoding="utf-8"))


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics without NaN and inf: JSON has no word for them, and a metric that is not a number is absent."""
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}


class Ledger:
    """Appends events to `<folder>/ledger.jsonl` and keeps `<folder>/trials.jsonl` in step.

    Args:
        folder: The run folder; it exists.

    Raises:
        BlockingIOError: Another process has this ledger open.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._listeners: list[Callable[[Event], None]] = []
        path = folder / "ledger.jsonl"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # two drivers on one folder would run trials twice
        except BlockingIOError:
            os.close(self._file)
            raise
        self.events = read_events(folder)
        # A torn last line would join the next one and lose it: cut it off before appending.
        self._length = sum(len(line) for line in _whole_lines(path))
        os.ftruncate(self._file, self._length)
        self._write_records()

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Calls `listener` with each event after it is on disk, in this thread: it must be quick and must not raise."""
        self._listeners.append(listener)

    def append(self, event: Event) -> None:
        """Writes one event, then tells the listeners.

        Raises:
            OSError: The disk is full or gone; nothing was told to anybody.
        """
        self._write(event.model_dump_json())
        self.events.append(event)
        if isinstance(event, Ended):
            record = records(e for e in self.events if getattr(e, "trial_id", None) == event.trial_id)[-1]
            with open(self.folder / "trials.jsonl", "a", encoding="utf-8") as file:
                file.write(record.model_dump_json() + "\n")
        elif isinstance(event, Measured):
            self._write_records()
        for listener in self._listeners:
            listener(event)

    def records(self) -> list[Record]:
        """One record per ended trial, in the order in which they ended."""
        return records(self.events)

    def close(self) -> None:
        """Closes the file; the ledger takes no more events."""
        os.close(self._file)

    def _write_records(self) -> None:
        lines = [f"{record.model_dump_json()}\n" for record in self.records()]
        write_atomically(self.folder / "trials.jsonl", "".join(lines))

    def _write(self, line: str) -> None:
        data = (line + "\n").encode()
        try:
            if os.write(self._file, data) != len(data):
                raise OSError(errno.ENOSPC, "the ledger could not be written whole; free some space and `resume`")
            os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, self._length)  # half a line would swallow the next one
            raise
        self._length += len(data)


def in_use(folder: Path) -> bool:
    """Whether a driver is at work in a run folder now."""
    try:
        descriptor = os.open(folder / "ledger.jsonl", os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def read_events(folder: Path) -> list[Event]:
    """The events of a run folder in order; empty where there is no ledger yet.

    Raises:
        ValueError: A line in the middle is not an event: the file was edited or is of another version.
    """
    return [_EVENT.validate_python(json.loads(line)) for line in _whole_lines(folder / "ledger.jsonl")]


def records(events: Iterable[Event]) -> list[Record]:
    """What became of each ended trial, in the order in which they ended; what was measured later replaces nothing."""
    suggested: dict[str, Suggested] = {}
    epochs: dict[str, dict[int, Epoch]] = {}
    ended: list[Ended] = []
    later: dict[str, dict[str, float]] = {}
    for event in events:
        if isinstance(event, Suggested):
            suggested[event.trial_id] = event
        elif isinstance(event, Epoch):
            epochs.setdefault(event.trial_id, {})[event.epoch] = event
        elif isinstance(event, Ended):
            ended.append(event)
        elif isinstance(event, Measured):
            later[event.trial_id] = event.metrics | later.get(event.trial_id, {})
    found = []
    for end in ended:
        trial, history = suggested[end.trial_id], epochs.get(end.trial_id, {})
        last = history.get(end.epoch)
        found.append(
            Record(
                **trial.model_dump(include={"trial_id", "label", "params", "fingerprint", "seed"}),
                state=end.state,
                epoch=end.epoch,
                metrics=later.get(end.trial_id, {}) | (last.metrics if last else {}),
                failure=end.failure,
                started=trial.at,
                seconds=sum(epoch.seconds for epoch in history.values()),
            )
        )
    return found


def read_records(folder: Path) -> list[Record]:
    """The lines of `<folder>/trials.jsonl`.

    Raises:
        FileNotFoundError: No such file: not a run folder, or no trial has ended.
    """
    lines = (folder / "trials.jsonl").read_text(encoding="utf-8").splitlines()
    return [Record.model_validate_json(line) for line in lines]


def write_atomically(path: Path, text: str) -> None:
    """Writes a whole file or leaves the old one: never half of it."""
    temporary = path.with_name(f".{path.name}.part")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _whole_lines(path: Path) -> list[bytes]:
    if not path.exists():
        return []
    lines = path.read_bytes().splitlines(keepends=True)
    return [line for line in lines if line.endswith(b"\n")]
