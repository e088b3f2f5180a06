"""Recorded learning curves: what trials of finished sweeps did at each epoch, looked up by settings.

A strategy can be tried on them in seconds: a proposal gets the curve of the recorded configuration that lies nearest in
the searched space. One neighbour, nothing interpolated: every number was measured. What was stopped early in the
recording has no curve to its end and is left out; what failed fails again.

Shape suffixes: N recorded configurations, D coordinates.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.config import SweepConfig
from orchestrator.search.config import floors_of
from search_spaces.space import Domain, Float, Int, SearchSpace, flat, get_path, variant

DECIDES = 1000.0
"""Distance between two values of a choice that others hang on; of any other choice it is 1, the length of a range."""

FEWEST = 20
"""Configurations that a recording must have: with fewer, the nearest one says little."""

_META = b"unlearn_sweep"
_COLUMNS = ("configuration", "label", "seed", "epoch", "seconds", "state", "failure", "params")


@dataclass(frozen=True)
class Curve:
    """What a trial did.

    Attributes:
        configuration: Its number in the recording; trials of several seeds share it.
        label: Of a published setting.
        seed: Of the trial.
        params: Path -> value, of the space and of what else sets it apart from the base trial.
        metrics: After each epoch.
        seconds: That each epoch took.
        failure: What ended it after these epochs; None where it ran to the full budget.
    """

    configuration: int
    label: str | None
    seed: int
    params: dict[str, Any]
    metrics: tuple[dict[str, float], ...]
    seconds: tuple[float, ...]
    failure: str | None = None


@dataclass(frozen=True)
class Recording:
    """Where curves come from.

    Attributes:
        name: Of the sweep, or of the first of several.
        benchmark: Name of the benchmark.
        trial: The base trial, without the place of its data and its seed.
        space: Path -> node, as in the sweep file.
        anchors: Name of the target or retain model -> its metrics.
        data: Digest of the benchmark.
        model: Digest of the target model.
        versions: Package -> version.
        left_out: Trials that were stopped early and have no curve to their end.
    """

    name: str
    benchmark: str
    trial: dict[str, Any]
    space: dict[str, Any]
    anchors: dict[str, dict[str, float]]
    data: str
    model: str
    versions: dict[str, str]
    left_out: int = 0


class Curves:
    """Curves by settings.

    Args:
        recording: Where they come from.
        curves: At least one.

    Attributes:
        places_ND: Where each configuration lies in the space, in the order of their numbers.
    """

    def __init__(self, recording: Recording, curves: Sequence[Curve]) -> None:
        self.recording, self.curves = recording, tuple(curves)
        self.epochs = int(recording.trial["epochs"])
        self.space = SearchSpace.parse(recording.space, recording.trial)
        self._decide = {path for parameter in self.space.parameters for path in parameter.when}
        self._of: dict[int, dict[int, Curve]] = {}
        for curve in sorted(self.curves, key=lambda curve: (curve.configuration, curve.seed)):
            self._of.setdefault(curve.configuration, {})[curve.seed] = curve
        self._numbers = list(self._of)
        self._same = {settings_key(seeds[min(seeds)].params): number for number, seeds in self._of.items()}
        firsts = [next(iter(seeds.values())) for seeds in self._of.values()]
        self.places_ND = np.array([self._place(curve.params, recording.trial) for curve in firsts])

    @property
    def configurations(self) -> int:
        """How many settings were recorded."""
        return len(self._numbers)

    @property
    def seeds(self) -> list[int]:
        """Seeds of the recorded trials."""
        return sorted({curve.seed for curve in self.curves})

    @property
    def metrics(self) -> set[str]:
        """Metrics that every recorded epoch has, but for those that were not finite."""
        return {name for curve in self.curves for metrics in curve.metrics for name in metrics}

    def nearest(self, params: Mapping[str, Any], config: Mapping[str, Any], seed: int) -> Curve:
        """The curve of the recorded configuration that is nearest to a trial.

        Nearest in the recorded space: first of all the same choices where others hang on them, then the smallest
        Euclidean distance with each range scaled to [0, 1], by ratio where it is log. Of equally near ones the first.
        A published setting that was recorded is itself, though it may lie outside of the space.

        Args:
            params: Path -> value of the trial, as it was suggested.
            config: The whole trial.
            seed: Of the trial; where it was not recorded, the recorded seeds take turns.
        """
        number = self._same.get(settings_key(params))
        if number is None:
            distance_N = np.square(self.places_ND - self._place(params, config)).sum(axis=1)
            number = self._numbers[int(np.argmin(distance_N))]
        seeds = self._of[number]
        return seeds[seed] if seed in seeds else list(seeds.values())[seed % len(seeds)]

    def _place(self, params: Mapping[str, Any], config: Mapping[str, Any]) -> NDArray[np.float64]:
        """Coordinates of a trial: one of a range, one each of the values of a choice; 0 where it does not exist."""

        def value_at(path: str) -> Any:
            return params[path] if path in params else variant(get_path(config, path))

        place: list[float] = []
        for parameter in self.space.parameters:
            exists = all(value_at(path) in allowed for path, allowed in parameter.when.items())
            weight = DECIDES if parameter.path in self._decide else 1.0
            place += _coordinates(parameter.domain, value_at(parameter.path) if exists else None, weight)
        return np.array(place)

    # -- does it fit -------------------------------------------------------------------------------------------------

    def unfit(self, sweep: SweepConfig) -> list[str]:
        """Why these curves cannot stand for trials of a sweep; empty where they can."""
        reasons = []
        ours = {parameter.path for parameter in sweep.search_space.parameters}
        theirs = {parameter.path for parameter in self.space.parameters}
        if ours != theirs:
            reasons.append(f"the space differs in {', '.join(sorted(ours ^ theirs))}")
        compared = (*sweep.objectives, *floors_of(sweep.scheduler), *sweep.constraints)
        if absent := [name for name in compared if name not in self.metrics]:
            reasons.append(f"{', '.join(absent)} was not recorded")
        if sweep.trial.epochs > self.epochs:
            reasons.append(f"{self.epochs} epochs were recorded, and trials have {sweep.trial.epochs}")
        elif sweep.trial.epochs < self.epochs and sweep.trial.optim.schedule != "constant":
            reasons.append(f"trials have {sweep.trial.epochs} epochs, and the schedule of {self.epochs} was recorded")
        if self.configurations < FEWEST:
            reasons.append(f"it has {self.configurations} configurations to the full budget, {FEWEST} are needed")
        return reasons

    def differences(self, sweep: SweepConfig) -> list[str]:
        """Settings outside of the space in which a sweep's trials are not those that were recorded: `path: a, b`."""
        searched = {parameter.path for parameter in self.space.parameters}
        unions = {path.removesuffix("type") for path in searched if path.endswith(".type")}
        ours, theirs = (flat(portable(trial)) for trial in (sweep.trial.model_dump(mode="json"), self.recording.trial))
        return [
            f"{path}: {ours.get(path)!r}, recorded with {theirs.get(path)!r}"
            for path in sorted(ours.keys() | theirs.keys())
            if ours.get(path) != theirs.get(path)
            if path not in searched and not any(path.startswith(union) for union in unions)
            if path.split(".")[0] not in ("evaluation", "epochs", "log_weights")
        ]


def settings_key(params: Mapping[str, Any]) -> str:
    """One string for the same values at the same paths."""
    return json.dumps(params, sort_keys=True)


def _coordinates(domain: Domain, value: Any, weight: float) -> list[float]:
    if not isinstance(domain, Float | Int):
        # Two values that differ are `weight` apart: each is half of its square away from nothing.
        return [weight / math.sqrt(2) * (choice == value) for choice in domain.choices]
    if not isinstance(value, int | float) or (domain.log and value <= 0) or domain.low == domain.high:
        return [0.0]
    low, high, at = (math.log(x) if domain.log else float(x) for x in (domain.low, domain.high, value))
    return [(at - low) / (high - low)]


def portable(trial: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's settings without what says where its data are, and without its seed."""
    return {key: value for key, value in trial.items() if key != "seed"} | {
        "benchmark": {key: value for key, value in trial["benchmark"].items() if key not in ("path", "hub")}
    }
