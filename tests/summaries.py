"""Summaries made by hand: one call, one trial; two objectives, both in [0, 1]."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Literal

from orchestrator.events import Anchor, Ended, Epoch, Event, Origin, State, Suggested, SweepInfo
from orchestrator.results.front import Summary, summarise

FORGET, RETAIN = "forget.extraction_strength", "retain.extraction_strength"
OBJECTIVES: dict[str, Literal["min", "max"]] = {FORGET: "min", RETAIN: "max"}
TRIAL: dict[str, Any] = {"loss": {"criterion": {"type": "satimp"}}, "optim": {"lr": 1e-4}, "epochs": 4}


class Sweep:
    """Events of a sweep under construction; `config` is laid over its sweep file."""

    def __init__(self, objectives: dict[str, Literal["min", "max"]] = OBJECTIVES, **config: Any) -> None:
        self.info = SweepInfo(
            name="made",
            benchmark="authors",
            config={"trial": TRIAL, "space": {}} | config,
            objectives=objectives,
            reference_point={name: 1.0 if way == "min" else 0.0 for name, way in objectives.items()},
            fingerprint="f" * 16,
            data="d" * 16,
            model="e" * 16,
            tracking_uri="sqlite:///mlflow.db",
            git_commit=None,
            versions={},
            created=0.0,
        )
        self.events: list[Event] = []
        self._numbers = itertools.count()

    def anchor(self, name: Literal["target", "retain"], *values: float, **others: float) -> None:
        metrics = dict(zip(self.info.objectives, values, strict=True))
        self.events.append(Anchor(at=0.0, name=name, metrics=metrics | _dotted(others)))

    def trial(
        self,
        *values: float,
        curve: Sequence[tuple[float, ...]] | None = None,
        state: State | None = "COMPLETE",
        seed: int = 0,
        settings: dict[str, Any] | None = None,
        others: dict[str, float] | None = None,
        violations: dict[str, float] | None = None,
        **suggested: Any,
    ) -> str:
        """A trial with these objectives after each of four epochs (two where not COMPLETE), or with a curve of its own.

        Args:
            values: The objectives.
            curve: The objectives after each epoch, instead.
            state: How it ended; None where it has not.
            seed: Its seed.
            settings: Laid over its config at the top.
            others: Metrics beside the objectives.
            violations: Constraints that it misses.
            suggested: More of `Suggested`: origin, of, label, params, phase, design.

        Returns:
            Its trial_id.
        """
        number = next(self._numbers)
        trial_id = f"{number:05d}"
        origin: Origin = suggested.pop("origin", "baseline" if suggested.get("label") else "search")
        fields = {"label": None, "params": {}, "fingerprint": "f" * 16, "config": TRIAL | (settings or {})} | suggested
        self.events.append(Suggested(at=0.0, trial_id=trial_id, number=number, seed=seed, origin=origin, **fields))
        points = curve or [values] * (4 if state in ("COMPLETE", None) else 2)
        for epoch, point in enumerate(points, 1):
            metrics = dict(zip(self.info.objectives, point, strict=True)) | (others or {})
            self.events.append(Epoch(at=0.0, trial_id=trial_id, epoch=epoch, metrics=metrics, seconds=10.0))
        if state is not None:
            failure = "loss is nan" if state == "FAIL" else None
            self.events.append(
                Ended(
                    at=0.0,
                    trial_id=trial_id,
                    state=state,
                    epoch=len(points),
                    failure=failure,
                    violations=violations or {},
                )
            )
        return trial_id

    def seeds(
        self, of: str, *points: tuple[float, ...], origin: Origin = "confirm", first: int = 1, **more: Any
    ) -> None:
        """Repeats of a trial with the seeds `first`, `first` + 1, ..."""
        for seed, point in enumerate(points, first):
            self.trial(*point, of=of, origin=origin, seed=seed, **more)

    @property
    def summary(self) -> Summary:
        return summarise(self.info, self.events)


def _dotted(others: dict[str, float]) -> dict[str, float]:
    return {name.replace("__", "."): value for name, value in others.items()}
