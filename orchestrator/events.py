"""What a sweep remembers: events, one a line of the ledger, and the records of trials that follow from them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from orchestrator.redaction import redacted

State = Literal["COMPLETE", "PRUNED", "FAIL"]
Why = Literal["node", "worker", "error", "memory", "driver"]
Origin = Literal["baseline", "search", "ablation", "confirm", "earlier"]
"""Who proposed a trial: `confirm` runs a candidate again with a fresh seed, `earlier` comes from another run folder."""


TrialId = Annotated[str, Field(pattern=r"^[0-9A-Za-z]{1,20}$")]
"""A trial's name, in a sweep its number with zeros before it: it names folders, and leads nowhere else."""
Failure = Annotated[str, AfterValidator(redacted)]
"""Why something failed: whatever raised it, no secret is written down."""


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Anchor(_Line):
    """Metrics of a model that is not a trial: the target model or the retain model."""

    event: Literal["anchor"] = "anchor"
    at: float = Field(default_factory=time.time)
    name: Literal["target", "retain"]
    metrics: dict[str, float]


class Packed(_Line):
    """The memory of a trial at its largest was measured (`resources.gpu: auto`), or looked at with another margin.

    Attributes:
        of: Digest of the trial and the kind of device that were measured: the same is not measured again.
        device: Name of the GPU; "" where there is none, and trials share the memory of a machine.
        peak: Bytes at the most.
        total: Bytes of the GPU, or those that Ray gives to the workers of the machine.
        margin: Share of `total` that is left free.
        trials: That fit, on a GPU or by the memory of that machine.
        gpu: What a trial takes of a GPU from here on.
        memory: GiB that a trial takes of a machine without; None where there is a GPU.
    """

    event: Literal["packed"] = "packed"
    at: float = Field(default_factory=time.time)
    of: str
    device: str
    peak: int
    total: int
    margin: float
    trials: int
    gpu: float
    memory: float | None


class Suggested(_Line):
    """A trial was proposed.

    Attributes:
        trial_id: Its name in the run folder.
        number: Its position, from 0, in the ledger and in the study.
        label: Of a published setting.
        params: Values at the paths of the search space.
        config: The whole trial.
        fingerprint: Its identity: settings, data and model.
        seed: That of `config`.
        origin: Who proposed it; only trials of a `search` may be stopped early.
        of: trial_id of the trial that this one repeats with another seed; None for a point of its own.
        phase: Position of the phase of the search; None for baselines, confirmations and earlier trials.
        design: What an ablation does here, `base` or as in `loss.granularity = token`.
        base: trial_id of the trial that an ablation is compared with; it may have run before the ablation began.
    """

    event: Literal["suggested"] = "suggested"
    at: float = Field(default_factory=time.time)
    trial_id: TrialId
    number: int
    label: str | None
    params: dict[str, Any]
    config: dict[str, Any]
    fingerprint: str
    seed: int
    origin: Origin = "search"
    of: str | None = None
    phase: int | None = None
    design: str | None = None
    base: str | None = None


class Epoch(_Line):
    """An epoch of a trial was evaluated; `seconds` is the trial's own time for it."""

    event: Literal["epoch"] = "epoch"
    at: float = Field(default_factory=time.time)
    trial_id: TrialId
    epoch: int
    metrics: dict[str, float]
    seconds: float


class Promoted(_Line):
    """A paused trial belonged to the best of its rung and went on."""

    event: Literal["promoted"] = "promoted"
    at: float = Field(default_factory=time.time)
    trial_id: TrialId


class Resumed(_Line):
    """A trial that had begun was handed out again, to go on from its checkpoint.

    Attributes:
        why: `node` or `worker` were lost, the trial met an `error`, its device's `memory` did not suffice, or a new
            `driver` took it up.
        cause: The same in words, a line.
        changed: Path of a setting -> what it is from here on, where the trial could not go on as it was.
    """

    event: Literal["resumed"] = "resumed"
    at: float = Field(default_factory=time.time)
    trial_id: TrialId
    why: Why
    cause: Failure
    changed: dict[str, Any] = {}


class Ended(_Line):
    """A trial ended: COMPLETE at full budget, PRUNED when stopped early, FAIL with its cause in `failure`.

    `violations`: constraint -> how far it was missed, > 0; those that hold are not there.
    """

    event: Literal["ended"] = "ended"
    at: float = Field(default_factory=time.time)
    trial_id: TrialId
    state: State
    epoch: int
    failure: Failure | None = None
    violations: dict[str, float] = {}


class Measured(_Line):
    """A trial of the front was measured again, once the search had ended; or could not be: why is in `failure`."""

    event: Literal["measured"] = "measured"
    at: float = Field(default_factory=time.time)
    trial_id: TrialId
    metrics: dict[str, float]
    seconds: float
    failure: Failure | None = None


class Opened(_Line):
    """A driver took up the sweep: to begin it, to go on with it, or to extend it.

    Attributes:
        fingerprint: Of the sweep from here on.
        changed: Path of a setting -> what it was and what it is from here on.
    """

    event: Literal["opened"] = "opened"
    at: float = Field(default_factory=time.time)
    fingerprint: str
    changed: dict[str, tuple[Any, Any]] = {}


Event = Annotated[
    Opened | Anchor | Packed | Suggested | Epoch | Promoted | Resumed | Ended | Measured, Field(discriminator="event")
]
OF_NO_TRIAL = Opened | Anchor | Packed
"""Events of the sweep as a whole."""


class Record(_Line):
    """One ended trial, a line of `trials.jsonl`: metrics of its last epoch and measured later; `seconds` of its own.

    `resumed`: why it was handed out again, each time. `changed`: settings with which it ended, other than it began.
    """

    trial_id: TrialId
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
    origin: Origin = "search"
    of: str | None = None
    phase: int | None = None
    design: str | None = None
    base: str | None = None
    violations: dict[str, float] = {}
    resumed: tuple[Why, ...] = ()
    changed: dict[str, Any] = {}


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
        return cls.model_validate_json((folder / "sweep.json").read_bytes())


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics without NaN and inf: JSON has no word for them, and a metric that is not a number is absent."""
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}


def record_of(events: Iterable[Event]) -> Record:
    """What became of one trial, from its own events; of several ends the last counts.

    Raises:
        StopIteration: It was not suggested, or has not ended.
    """
    own = list(events)
    trial = next(event for event in own if isinstance(event, Suggested))
    end = next(event for event in reversed(own) if isinstance(event, Ended))
    history = {event.epoch: event for event in own if isinstance(event, Epoch)}
    later: dict[str, float] = {}
    for event in own:
        if isinstance(event, Measured):
            later = event.metrics | later
    again = [event for event in own if isinstance(event, Resumed)]
    last = history.get(end.epoch)
    shared = {"trial_id", "label", "params", "fingerprint", "seed", "origin", "of", "phase", "design", "base"}
    return Record(
        **trial.model_dump(include=shared),
        state=end.state,
        epoch=end.epoch,
        metrics=later | (last.metrics if last else {}),
        failure=end.failure,
        violations=end.violations,
        resumed=tuple(event.why for event in again),
        changed={path: value for event in again for path, value in event.changed.items()},
        started=trial.at,
        seconds=sum(epoch.seconds for epoch in history.values()),
    )


def records(events: Iterable[Event]) -> list[Record]:
    """What became of each ended trial, in the order in which they ended; what was measured later replaces nothing."""
    of_trial: dict[str, list[Event]] = {}
    ended: list[str] = []
    for event in events:
        if not isinstance(event, OF_NO_TRIAL):
            of_trial.setdefault(event.trial_id, []).append(event)
            if isinstance(event, Ended):
                ended.append(event.trial_id)
    return [record_of(of_trial[trial_id]) for trial_id in ended]
