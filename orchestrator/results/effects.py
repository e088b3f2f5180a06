"""What an ablation says: each part of a setting against the base, seed by seed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from orchestrator.events import Record, State, Suggested
from orchestrator.results.cost import STATES
from orchestrator.results.front import Summary, metric_names
from orchestrator.results.intervals import t_interval
from search_spaces.space import get_path, variant

OTHERS = 4
"""Metrics beside the objectives in a table."""


@dataclass(frozen=True)
class Delta:
    """A difference, by trials with the same seed.

    Attributes:
        mean: Mean difference, in the units and sense of the metric.
        low: Lower end of the 95 % interval (Student's t over the pairs); None for one pair.
        high: Its upper end.
        pairs: Seeds that both have.
        agree: Pairs whose difference has the sign of the mean; none where that is 0.
    """

    mean: float
    low: float | None
    high: float | None
    pairs: int
    agree: int


@dataclass(frozen=True)
class AblationRow:
    """One design of an ablation, with all of its seeds.

    Attributes:
        design: What it does, in the words of the phase.
        runs: Its ended trials, however they ended.
        counts: State -> number of them; all three states are there.
        running: Its trials that have not ended.
        mean: Metric -> mean over its COMPLETE trials.
        delta: Metric -> difference to the base; empty for the base itself and where no seed has both.
    """

    design: str
    runs: list[Record]
    counts: dict[State, int]
    running: int
    mean: dict[str, float]
    delta: dict[str, Delta]


@dataclass(frozen=True)
class MainEffect:
    """Of a factorial: mean of all COMPLETE points with this value, minus that of all COMPLETE points, seed by seed."""

    path: str
    value: Any
    delta: dict[str, Delta]


@dataclass(frozen=True)
class AblationTable:
    """What a phase of ablation says.

    Attributes:
        phase: Its position in the search.
        design: `one_factor`, `leave_one_out`, `factorial` or `paired`.
        base: Design that the others are compared with: `base`, or the first where the phase has none.
        metrics: The objectives, then a few others.
        rows: One a design, in the order in which they were suggested.
        effects: Of a factorial, path by path; none where no seed has all combinations.
    """

    phase: int
    design: str
    base: str
    metrics: list[str]
    rows: list[AblationRow]
    effects: list[MainEffect]


def ablations(summary: Summary) -> list[AblationTable]:
    """The table of each ablation that has begun, by phase."""
    by_phase: dict[int, list[Suggested]] = {}
    for trial in summary.suggested.values():
        if trial.origin == "ablation":
            by_phase.setdefault(trial.phase or 0, []).append(trial)
    return [_table(phase, trials, summary) for phase, trials in sorted(by_phase.items())]


def _table(phase: int, trials: Sequence[Suggested], summary: Summary) -> AblationTable:
    config = summary.info.config
    phases = config.get("phases") or [{"sampler": config.get("sampler", {})}]
    sampler = phases[phase]["sampler"] if phase < len(phases) else {}
    ended = {record.trial_id: record for record in summary.records}
    designs = _designs(trials, summary)
    runs = {name: [ended[t.trial_id] for t in own if t.trial_id in ended] for name, own in designs.items()}
    metrics = _metrics([record for own in runs.values() for record in own], summary)
    base = "base" if "base" in designs else next(iter(designs))
    rows = []
    for name, own in designs.items():
        states = Counter(record.state for record in runs[name])
        by_seed = {m: (_by_seed(runs[name], m), _by_seed(runs[base], m)) for m in metrics}
        rows.append(
            AblationRow(
                design=name,
                runs=runs[name],
                counts={state: states[state] for state in STATES},
                running=len(own) - len(runs[name]),
                mean={m: sum(values.values()) / len(values) for m, (values, _) in by_seed.items() if values},
                delta={} if name == base else _deltas(by_seed),
            )
        )
    factorial = sampler.get("design") == "factorial"
    paths = sampler.get("values") or dict.fromkeys(path for trial in trials for path in trial.params)
    balanced = _balanced(paths, trials, ended) if factorial else {}
    effects = (
        [effect for path in paths for effect in _main_effects(path, trials, balanced, metrics)] if balanced else []
    )
    return AblationTable(phase, str(sampler.get("design", "ablation")), base, metrics, rows, effects)


def _designs(trials: Sequence[Suggested], summary: Summary) -> dict[str, list[Suggested]]:
    """Design -> its trials. The base may have run before the phase, or as the knee of it; further seeds of it count."""
    ran = next((trial.base for trial in trials if trial.base), None)
    designs: dict[str, list[Suggested]] = {}
    if ran is not None:
        known = [trial for trial in summary.suggested.values() if ran in (trial.trial_id, trial.of)]
        designs["base"] = [trial for trial in known if trial.origin != "confirm"]
    for trial in trials:
        if ran is None or trial.design != "base":
            designs.setdefault(trial.design or "", []).append(trial)
    return designs


def _metrics(found: Sequence[Record], summary: Summary) -> list[str]:
    """The objectives, then a few of what all complete trials have; of what anchors have too, where there are any."""
    complete = [record for record in found if record.state == "COMPLETE"]
    known = summary.anchors.get("target")
    objectives = list(summary.info.objectives)
    others = metric_names(complete, objectives)[len(objectives) :]
    shared = [name for name in others if all(name in record.metrics for record in complete)]
    return objectives + [name for name in shared if known is None or name in known][:OTHERS]


def _by_seed(found: Sequence[Record], metric: str) -> dict[int, float]:
    return {r.seed: r.metrics[metric] for r in found if r.state == "COMPLETE" and metric in r.metrics}


def _deltas(by_seed: Mapping[str, tuple[Mapping[int, float], Mapping[int, float]]]) -> dict[str, Delta]:
    found = {}
    for metric, (values, base) in by_seed.items():
        if shared := sorted(values.keys() & base.keys()):
            found[metric] = _delta([values[seed] - base[seed] for seed in shared])
    return found


def _delta(differences: Sequence[float]) -> Delta:
    mean = sum(differences) / len(differences)
    agree = sum(np.sign(difference) == np.sign(mean) != 0 for difference in differences)
    low, high = t_interval(differences)[1:] if len(differences) > 1 else (None, None)
    return Delta(mean, low, high, len(differences), int(agree))


def _balanced(paths: Iterable[str], trials: Sequence[Suggested], ended: Mapping[str, Record]) -> dict[str, Record]:
    """The COMPLETE records of the seeds with which every combination is complete: means over others would be skewed."""
    levels = [{repr(variant(get_path(trial.config, path))) for trial in trials} for path in paths]
    combinations = math.prod(len(values) for values in levels)
    done = [ended[t.trial_id] for t in trials if t.trial_id in ended and ended[t.trial_id].state == "COMPLETE"]
    count = Counter(record.seed for record in done)
    return {record.trial_id: record for record in done if count[record.seed] == combinations}


def _main_effects(
    path: str, trials: Sequence[Suggested], ended: Mapping[str, Record], metrics: Iterable[str]
) -> list[MainEffect]:
    """One effect a value of the path, in the order of the design; none where it has but one.

    Args:
        path: The factor.
        trials: Of the phase.
        ended: Records of the seeds that all combinations have, by trial_id.
        metrics: Which.
    """
    levels: dict[str, tuple[Any, list[Record]]] = {}
    for trial in trials:
        value = variant(get_path(trial.config, path))
        own = levels.setdefault(repr(value), (value, []))[1]
        own += [ended[trial.trial_id]] if trial.trial_id in ended else []
    everyone = [record for _, own in levels.values() for record in own]
    effects = []
    for value, own in levels.values():
        effects.append(MainEffect(path, value, _deltas({m: (_means(own, m), _means(everyone, m)) for m in metrics})))
    return effects if len(effects) > 1 else []


def _means(found: Sequence[Record], metric: str) -> dict[int, float]:
    """Seed -> mean of the COMPLETE trials with that seed."""
    by_seed: dict[int, list[float]] = {}
    for record in found:
        if record.state == "COMPLETE" and metric in record.metrics:
            by_seed.setdefault(record.seed, []).append(record.metrics[metric])
    return {seed: sum(values) / len(values) for seed, values in by_seed.items()}
