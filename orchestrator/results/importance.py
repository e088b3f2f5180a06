"""Which of the searched parameters decide who reaches the front."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator import pareto
from orchestrator.events import Record
from orchestrator.results.front import Summary, candidates_of
from search_spaces.space import SearchSpace

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

MOST = 2000
"""Trials that importance looks at: of more, evenly spaced ones."""
LEAST = 20
"""Searched trials without which importance is not told."""


@dataclass(frozen=True)
class Importance:
    """Which parameters decide who reaches the front.

    Attributes:
        shares: Path -> share of the importance, the largest first; they add up to 1.
        trials: Searched trials that were looked at.
        best: How many of them count as having reached the front.
    """

    shares: dict[str, float]
    trials: int
    best: int


def importance(summary: Summary) -> Importance | None:
    """PED-ANOVA: how much more of the best trials lie where the others do not, parameter by parameter.

    The best are a tenth of all searched trials (at least five): the first fronts of the candidates, within a front the
    loneliest first. All others are compared with, those that were stopped early or failed too: a parameter matters
    also by what it ruins. A parameter that exists for some choices only counts by the trials that have it; Optuna
    treats it as a regime of its own (conditional PED-ANOVA), so it can be compared with the others.

    Returns:
        None for fewer than `LEAST` searched trials, fewer than five candidates, or where nothing is searched.

    Source: Watanabe et al. 2023, "PED-ANOVA: efficiently quantifying hyperparameter importance in arbitrary subspaces"
    (arXiv 2304.10255); for conditional parameters arXiv 2601.20800; Optuna's implementation.
    """
    config = summary.info.config
    if not config.get("space"):
        return None
    space = SearchSpace.parse(config["space"], config["trial"])
    drawn: list[tuple[Record, dict[str, Any], _Walk]] = []
    for record in _spaced([r for r in summary.records if r.of is None and r.origin in ("search", "earlier")]):
        values = space.locate(summary.suggested[record.trial_id].config, record.params)
        if values is not None:  # the space may have been another one when an earlier trial was drawn
            walk = _Walk(values)
            space.suggest(walk)
            drawn.append((record, values, walk))
    places = _places([record for record, _, _ in drawn], summary)
    best = min(max(5, math.ceil(len(drawn) / 10)), sum(place < len(drawn) for place in places))
    if len(drawn) < LEAST or best < 5:
        return None
    rows = [(values, walk.found, place) for (_, values, walk), place in zip(drawn, places, strict=True)]
    by_name = _ped_anova(rows, (best - 0.5) / len(rows))
    shares: dict[str, float] = {}
    for parameter in space.parameters:
        shares[parameter.path] = shares.get(parameter.path, 0.0) + by_name.get(parameter.name, 0.0)
    total = sum(shares.values())
    ordered = sorted(shares.items(), key=lambda pair: (-pair[1], pair[0]))
    return Importance({path: share / total for path, share in ordered}, len(drawn), best) if total > 0 else None


@dataclass
class _Walk:
    """Walks a space as a trial with known values does, and notes the distributions that it meets."""

    values: Mapping[str, Any]
    found: dict[str, BaseDistribution] = field(default_factory=dict)

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        from optuna.distributions import FloatDistribution

        self.found[name] = FloatDistribution(low, high, log=log)
        return float(self.values[name])

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        from optuna.distributions import IntDistribution

        self.found[name] = IntDistribution(low, high, log=log)
        return int(self.values[name])

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        from optuna.distributions import CategoricalDistribution

        self.found[name] = CategoricalDistribution(choices)
        return self.values[name]


def _ped_anova(
    rows: Sequence[tuple[Mapping[str, Any], Mapping[str, BaseDistribution], int]], quantile: float
) -> dict[str, float]:
    """Name of a parameter -> importance, for (values, distributions, place) of each trial; a low place is good."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="minimize")
    study.add_trials(
        [
            optuna.trial.create_trial(params=dict(values), distributions=dict(found), value=float(place))
            for values, found, place in rows
        ]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a choice was made once or twice: its share is small then
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=quantile)
        return evaluator.evaluate(study)


def _spaced(found: Sequence[Record]) -> Sequence[Record]:
    return found if len(found) <= MOST else [found[n] for n in np.linspace(0, len(found) - 1, MOST).round().astype(int)]


def _places(found: Sequence[Record], summary: Summary) -> list[int]:
    """Place of each trial, 0 for the best; of all that are no candidates, the number of trials."""
    objectives = summary.info.objectives
    candidates = candidates_of(found, objectives)
    points_NM = pareto.oriented([record.metrics for record in candidates], objectives)
    ranks_N = pareto.ranks(points_NM)
    lonely_N = np.zeros(len(candidates))
    for rank in np.unique(ranks_N):
        lonely_N[ranks_N == rank] = pareto.crowding(points_NM[ranks_N == rank])
    order = np.lexsort((-lonely_N, ranks_N))
    places = {candidates[index].trial_id: place for place, index in enumerate(order)}
    return [places.get(record.trial_id, len(found)) for record in found]
