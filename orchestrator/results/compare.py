"""Two sweeps or more side by side: what each reaches, by how much one is ahead, and whether that can be told.

Where each sweep has confirmed its front, its numbers come from the fronts of single seeds over the settings it
confirmed: how far they vary with the seed is known then. Else they come from the full-budget trials of one seed each,
as many epochs into each sweep as the cheapest has spent, and the interval from drawing these trials anew (bootstrap).
Such a draw repeats some trials and lacks others, so its hypervolume is too small; the draws are centred on the sweep's
own value. They take trials for independent: after a sampler that learns, the interval is rather too narrow.

Shape suffixes: N and K points, M objectives.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from orchestrator import pareto
from orchestrator.events import SweepInfo
from orchestrator.ledger import read_events
from orchestrator.pareto import Floats
from orchestrator.problems import ConfigError, Problem, require_run_folder
from orchestrator.report.document import Estimate
from orchestrator.results.attainment import seed_fronts
from orchestrator.results.evidence import speaks_for_front
from orchestrator.results.front import Objectives, Summary, candidates_of, summarise
from orchestrator.results.intervals import difference_interval, t_interval

DRAWS = 500
_RANKS = 20
"""A point behind so many others, each dominated by the next, is on the front of a draw in e^-20 of the draws."""


@dataclass(frozen=True)
class Side:
    """One of the sweeps.

    Attributes:
        name: Of its folder, or the whole path where names are not unique.
        summary: What came out of it.
        sets: What its numbers are taken over, oriented: the fronts of its seeds; or the one front of its trials.
        draws: Fronts of its trials drawn anew; none where its seeds speak.
        volumes: Hypervolumes of `draws`, else of `sets`.
        hypervolume: By the rule of the comparison (`Comparison.by`), against the common reference point.
        whole: Hypervolume of all its full-budget trials, one seed each, against that point.
    """

    name: str
    summary: Summary
    sets: list[Floats]
    draws: list[Floats]
    volumes: list[float]
    hypervolume: Estimate
    whole: float


@dataclass(frozen=True)
class Pair:
    """One sweep against another.

    Attributes:
        one: Name of the first.
        other: Name of the second.
        difference: Hypervolume of the first minus that of the second.
        epsilon: `epsilon` of (first, second) and of (second, first); None where one has no candidate.
        coverage: `coverage` of the same.
        ahead: Name of the one that reaches more; None where the interval holds 0.
    """

    one: str
    other: str
    difference: Estimate
    epsilon: tuple[Estimate | None, Estimate | None]
    coverage: tuple[Estimate | None, Estimate | None]
    ahead: str | None


@dataclass(frozen=True)
class Comparison:
    """What there is to say of some sweeps.

    Attributes:
        by: `seeds`: fronts of single seeds over confirmed settings; `trials`: trials drawn anew.
        epochs: Epochs of each sweep that count where `by` is `trials`: what the cheapest has spent
            without confirmations.
        reference: Objective -> worst coordinate of all their reference points.
        sides: As they were given.
        pairs: Each two of them.
        notes: What keeps the comparison from being one of like with like, as sentences.
    """

    by: Literal["seeds", "trials"]
    epochs: int
    reference: dict[str, float]
    sides: list[Side]
    pairs: list[Pair]
    notes: list[str]


def epsilon(one_NM: Floats, other_KM: Floats) -> float:
    """Additive epsilon indicator: what must be taken off every objective of `one` so that it covers all of `other`.

    0 or less: it does already. Source: Zitzler et al. 2003, "Performance assessment of multiobjective optimizers".
    """
    return float((one_NM[:, None] - other_KM[None]).max(axis=2).min(axis=0).max())


def coverage(one_NM: Floats, other_KM: Floats) -> float:
    """C(one, other): share of `other` that a point of `one` dominates or equals.

    Source: Zitzler, Thiele 1998, "Multiobjective optimization using evolutionary algorithms: a comparative case study".
    """
    return float((one_NM[:, None] <= other_KM[None]).all(axis=2).any(axis=0).mean())


def load_sides(folders: Sequence[Path]) -> list[tuple[str, Summary]]:
    """Name and summary of some run folders, which are only read.

    Raises:
        ConfigError: Fewer than two, one twice, one that is no run folder or has nothing to compare, or other
            objectives than the first.
    """
    if len({folder.resolve() for folder in folders}) < max(2, len(folders)):
        raise ConfigError("compare", [Problem("", "wants two run folders or more, each once, as in runs/a runs/b")])
    for folder in folders:
        require_run_folder(folder)
    infos = [SweepInfo.read(folder) for folder in folders]
    words = [", ".join(f"{name} {way}" for name, way in sorted(info.objectives.items())) for info in infos]
    problems = [
        Problem("", f"{folder} has the objectives {other}, {folders[0]} has {words[0]}: they have no common scale")
        for folder, other in zip(folders, words, strict=True)
        if other != words[0]
    ]
    if problems:
        raise ConfigError("compare", problems)
    found = [summarise(info, read_events(folder)) for info, folder in zip(infos, folders, strict=True)]
    problems = [
        Problem("", f"{folder} has no full-budget trial with all objectives yet; compare it when one has ended")
        for folder, summary in zip(folders, found, strict=True)
        if not summary.front
    ]
    if problems:
        raise ConfigError("compare", problems)
    names = [folder.resolve().name for folder in folders]
    unique = len(set(names)) == len(names)
    return [(name if unique else str(f), s) for name, f, s in zip(names, folders, found, strict=True)]


def compare(sweeps: Sequence[tuple[str, Summary]]) -> Comparison:
    """Compares sweeps with the same objectives, each with a front."""
    objectives = sweeps[0][1].info.objectives
    worst = {name: max if way == "min" else min for name, way in objectives.items()}
    reference = {name: pick(s.info.reference_point[name] for _, s in sweeps) for name, pick in worst.items()}
    reference_M = pareto.oriented([reference], objectives)[0]
    epochs = min(_searching(summary) for _, summary in sweeps)
    fronts = [_fronts_of_seeds(summary, objectives) for _, summary in sweeps]
    sure = all(len(sets) > 1 and speaks_for_front(s) for sets, (_, s) in zip(fronts, sweeps, strict=True))
    by: Literal["seeds", "trials"] = "seeds" if sure else "trials"
    sides: list[Side] = []
    for position, (name, summary) in enumerate(sweeps):
        whole = pareto.hypervolume(_points(summary, objectives), reference_M)
        if by == "seeds":
            volumes = [pareto.hypervolume(each, reference_M) for each in fronts[position]]
            sides.append(Side(name, summary, fronts[position], [], volumes, Estimate(*t_interval(volumes)), whole))
            continue
        points_NM = _points(summary, objectives, epochs)
        draws = _draw(points_NM, position)
        volumes = [pareto.hypervolume(each, reference_M) for each in draws]
        estimate = _centred(pareto.hypervolume(points_NM, reference_M), np.array(volumes))
        sides.append(Side(name, summary, [points_NM[pareto.front(points_NM)]], draws, volumes, estimate, whole))
    pairs = [_pair(one, other) for one, other in itertools.combinations(sides, 2)]
    return Comparison(by, epochs, reference, sides, pairs, _notes(sides))


def _searching(summary: Summary) -> int:
    """Epochs spent on all but confirmations, which find nothing new."""
    return sum(cost.epochs for origin, cost in summary.cost.items() if origin not in ("confirm", "earlier"))


def _fronts_of_seeds(summary: Summary, objectives: Objectives) -> list[Floats]:
    return [pareto.oriented([run.metrics for run in each.front], objectives) for each in seed_fronts(summary)]


def _points(summary: Summary, objectives: Objectives, epochs: int | None = None) -> Floats:
    """The candidates, oriented; with `epochs` those that had ended when the sweep had spent so many."""
    ended = [r for r, spent in zip(summary.records, summary.spent, strict=True) if epochs is None or spent <= epochs]
    return pareto.oriented([record.metrics for record in candidates_of(ended, objectives)], objectives)


def _draw(points_NM: Floats, seed: int) -> list[Floats]:
    """Fronts of `DRAWS` draws of as many trials, with replacement; another seed for each sweep."""
    if len(points_NM) == 0:
        return [points_NM] * DRAWS
    rng = np.random.default_rng(seed)
    near = np.flatnonzero(pareto.ranks(points_NM) < _RANKS)
    near_KM = points_NM[near]
    found = []
    for _ in range(DRAWS):
        there = np.zeros(len(points_NM), dtype=np.bool_)
        there[rng.integers(len(points_NM), size=len(points_NM))] = True
        drawn_KM = near_KM[there[near]]
        found.append(drawn_KM[pareto.front(drawn_KM)])
    return found


def _centred(value: float, draws: Floats) -> Estimate:
    low, high = np.quantile(draws - draws.mean() + value, [0.025, 0.975])
    return Estimate(value, float(low), float(high))


def _pair(one: Side, other: Side) -> Pair:
    value = one.hypervolume.mean - other.hypervolume.mean
    if one.draws:
        low_high = _centred(value, np.array(one.volumes) - np.array(other.volumes))
    else:
        low_high = Estimate(value, *difference_interval(one.volumes, other.volumes))
    low, high = low_high.low or 0.0, low_high.high or 0.0
    return Pair(
        one=one.name,
        other=other.name,
        difference=low_high,
        epsilon=(_over(epsilon, one, other), _over(epsilon, other, one)),
        coverage=(_over(coverage, one, other), _over(coverage, other, one)),
        ahead=None if low <= 0 <= high else one.name if value > 0 else other.name,
    )


def _over(indicator: Callable[[Floats, Floats], float], one: Side, other: Side) -> Estimate | None:
    """Of fronts of single seeds: mean, least and most over all pairs of seeds. Of trials: value, and 95 % of draws."""
    values = [indicator(a, b) for a in one.sets for b in other.sets if len(a) and len(b)]
    if not values:
        return None
    mean = sum(values) / len(values)
    if not one.draws:
        return Estimate(mean, min(values), max(values))
    drawn = [indicator(a, b) for a, b in zip(one.draws, other.draws, strict=True) if len(a) and len(b)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(mean, float(low), float(high))


def _notes(sides: Sequence[Side]) -> list[str]:
    notes = []
    first = sides[0]
    for side in sides[1:]:
        info, other = side.summary.info, first.summary.info
        what = ["data"] * (info.data != other.data) + ["target models"] * (info.model != other.model)
        if what:
            notes.append(
                f"The {' and '.join(what)} of {side.name} and {first.name} differ: a difference may be theirs."
            )
        if info.config.get("constraints", {}) != other.config.get("constraints", {}):
            notes.append(f"{side.name} and {first.name} have other constraints, so other trials are candidates.")
    for side in sides:
        if earlier := side.summary.cost.get("earlier"):
            notes.append(
                f"{side.name} began with {_trials(earlier.trials)} of earlier sweeps, whose epochs do not count."
            )
        if running := side.summary.unfinished:
            notes.append(f"{side.name} has {_trials(running)} that {'has' if running == 1 else 'have'} not ended.")
    return notes


def _trials(count: int) -> str:
    return "1 trial" if count == 1 else f"{count} trials"
