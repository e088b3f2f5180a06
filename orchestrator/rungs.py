"""Who may go on: successive halving on all objectives at once, the rule alone, without Ray.

At each rung (an epoch) a trial is compared with every trial that has been there: non-dominated sorting over all
objectives, each in its own direction, ties by crowding. One in `reduction_factor` goes on. Nothing waits: early
arrivals are compared with the few that came before them (the stopping variant of ASHA, arXiv 1810.05934; several
objectives as in MO-ASHA, arXiv 2106.12639).

Baselines are recorded at the rungs but never stopped: a published setting deserves its full budget.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from orchestrator.config import SweepConfig
from orchestrator.events import Epoch, Event, Suggested
from orchestrator.pareto import crowding, oriented, ranks
from orchestrator.search_config import ASHA, Median, NoScheduler, ParetoASHA


def rung_epochs(config: ParetoASHA | ASHA | Median | NoScheduler, epochs: int) -> list[int]:
    """Epochs at which trials are compared: grace period times powers of the reduction factor, below the budget."""
    if isinstance(config, NoScheduler | Median):
        return []
    rungs = [config.grace_period]
    while rungs[-1] * config.reduction_factor < epochs:
        rungs.append(rungs[-1] * config.reduction_factor)
    return [rung for rung in rungs if rung < epochs]


class Rungs:
    """Who was where with which values, and who may go on.

    Args:
        sweep: Objectives, scheduler and epochs.
    """

    def __init__(self, sweep: SweepConfig) -> None:
        self._objectives = dict(sweep.objectives)
        self._factor = getattr(sweep.scheduler, "reduction_factor", 1)
        self._floors = dict(getattr(sweep.scheduler, "floors", {}))
        self.values: dict[int, dict[str, dict[str, float]]] = {
            rung: {} for rung in rung_epochs(sweep.scheduler, sweep.trial.epochs)
        }

        self._decided: dict[tuple[str, int], bool] = {}

    def replay(self, events: Iterable[Event]) -> None:
        """Takes the rungs from a ledger: what was decided before a restart stays decided."""
        baselines = set()
        for event in events:
            if isinstance(event, Suggested) and event.label is not None:
                baselines.add(event.trial_id)
            elif isinstance(event, Epoch):
                self.goes_on(event.trial_id, event.epoch, event.metrics, protected=event.trial_id in baselines)

    def goes_on(self, trial_id: str, epoch: int, metrics: Mapping[str, float], *, protected: bool = False) -> bool:
        """Records a result and decides.

        Args:
            trial_id: Whose.
            epoch: After which epoch.
            metrics: All metrics; an objective that is missing or NaN stops the trial, at any epoch.
            protected: Whether only that may stop it.
        """
        if any(not math.isfinite(metrics.get(name, math.nan)) for name in self._objectives):
            return False
        if epoch not in self.values:
            return True
        # A trial that was interrupted reports its last epoch again, and is not judged anew by those who came since.
        if (trial_id, epoch) not in self._decided:
            self._decided[trial_id, epoch] = self._decide(trial_id, self.values[epoch], metrics, protected)
        return self._decided[trial_id, epoch]

    def _decide(
        self, trial_id: str, rung: dict[str, dict[str, float]], metrics: Mapping[str, float], protected: bool
    ) -> bool:
        rung[trial_id] = dict(metrics)
        if protected:
            return True
        if any(metrics.get(name, math.inf) < floor for name, floor in self._floors.items()):
            return False
        return trial_id in self._best(rung)

    def _best(self, rung: Mapping[str, Mapping[str, float]]) -> set[str]:
        """The best 1 / reduction_factor of a rung, at least one: by front, then by crowding, then by arrival."""
        ids = list(rung)
        points = oriented(list(rung.values()), self._objectives)
        rank_N = ranks(points)
        crowd_N = np.zeros(len(ids))
        for rank in np.unique(rank_N):
            crowd_N[rank_N == rank] = crowding(points[rank_N == rank])
        order = np.lexsort((np.arange(len(ids)), -crowd_N, rank_N))
        return {ids[index] for index in order[: math.ceil(len(ids) / self._factor)]}
