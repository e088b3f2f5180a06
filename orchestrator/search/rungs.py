"""Who may go on: successive halving on all objectives at once, the rule alone, without Ray.

At each rung (an epoch) a trial is compared with every trial that has been there, stopped, paused or protected ones
included: by fronts over all objectives, each in its own direction, and within a front by crowding. One in
`reduction_factor` goes on. Nothing waits (ASHA, Li et al. 2018, arXiv 1810.05934; several objectives as in MO-ASHA,
Schmucker et al. 2021, arXiv 2106.12639). Who misses a constraint stands behind all who miss none (Deb 2000).

- `promotion: stop`: of n that have been at a rung, the best ceil(n / factor) go on; whoever is not among them on
  arrival has ended. Early arrivals have it easy.
- `promotion: pause`: the best max(1, floor(n / factor)) go on. Whoever is not among them waits, and goes on once it is,
  from the highest rung down.

What holds: a feasible trial that dominates all others at its rung goes on. So does, with two objectives and an order
by crowding or epsilon_net, one that is the best of the feasible in a single objective, once two trials go on (more than
`factor` of them have arrived, or with pausing twice as many): it is first or second, unless others equal it or the
other end. With M objectives crowding puts it among the first 2 M. `scalarised` does not promise it. A trial that lacks
an objective or a constrained metric, or where one is not finite, is stopped at any epoch, and not recorded.

Baselines, ablations, confirmations and earlier trials are recorded at the rungs but neither stopped nor paused there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np

from orchestrator.config import SweepConfig
from orchestrator.events import Ended, Epoch, Event, Promoted, Suggested
from orchestrator.pareto import oriented
from orchestrator.search.config import ASHA, Median, NoScheduler, ParetoASHA, floors_of, grace_of
from orchestrator.search.constraints import bounds_of, total_violation, violations
from orchestrator.search.standings import ByFronts, ByMetric, ByWeights, Standing

Decision = Literal["go", "pause", "stop"]

WEIGHTINGS = 16
"""Random weightings of the objectives at a rung, where the order is by them."""


def protected(event: Suggested) -> bool:
    """Whether a trial is recorded at the rungs and never stopped there: every trial but the proposals of a search."""
    return event.origin != "search"


def rung_epochs(config: ParetoASHA | ASHA | Median | NoScheduler, epochs: int, bracket: int = 0) -> list[int]:
    """Epochs at which trials are compared: grace period times powers of the reduction factor, below the budget.

    Args:
        config: The scheduler; only one that halves has rungs.
        epochs: Full budget of a trial.
        bracket: Each further bracket leaves out one more of the first rungs.
    """
    if isinstance(config, NoScheduler | Median):
        return []
    rungs = [grace_of(config, epochs) * config.reduction_factor**bracket]
    while rungs[-1] * config.reduction_factor < epochs:
        rungs.append(rungs[-1] * config.reduction_factor)
    return [rung for rung in rungs if rung < epochs]


class _Rung:
    """Those that have been at one epoch, in one bracket."""

    def __init__(self, epoch: int, standing: Standing) -> None:
        self.epoch, self.standing = epoch, standing
        self.waiting: dict[int, str] = {}  # number in the standing -> trial_id
        self.changed = False  # since nobody was found to be promoted


class Rungs:
    """Who was where with which values, and who may go on.

    Args:
        sweep: Objectives, constraints, scheduler and epochs.
        anchors: What relative constraints are relative to: name of the target or retain model -> its metrics.

    Attributes:
        paused: Trials that wait for their promotion -> the epoch at which they do.

    Raises:
        ValueError: A constraint is relative to a metric that the anchors lack.
    """

    def __init__(self, sweep: SweepConfig, anchors: Mapping[str, Mapping[str, float]] = {}) -> None:
        self.paused: dict[str, int] = {}
        self._scheduler, self._epochs = sweep.scheduler, sweep.trial.epochs
        self._objectives, self._constraints, self._anchors = dict(sweep.objectives), dict(sweep.constraints), anchors
        for metric, bound in bounds_of(self._constraints).items():
            bound.limit(metric, anchors)
        name = getattr(sweep.scheduler, "metric", None) or next(iter(self._objectives))
        one = isinstance(sweep.scheduler, ASHA | Median)
        # Who ties in the one that decides is told from others by the rest.
        self._compared = {name: self._objectives[name], **self._objectives} if one else self._objectives
        self._seed = sweep.search_phases[0].sampler.seed
        self._rungs: dict[tuple[int, int], _Rung] = {}  # (bracket, epoch)
        self._decided: dict[tuple[str, int], Decision] = {}

    def decide(self, trial_id: str, epoch: int, metrics: Mapping[str, float], *, protected: bool = False) -> Decision:
        """Records a result and decides. Who has reported an epoch already hears what was decided then.

        Args:
            trial_id: Whose: the number of a trial, with or without zeros before it, where there are several brackets.
            epoch: After which epoch.
            metrics: All metrics; an objective or a constrained metric that is missing or NaN stops the trial, at any
                epoch.
            protected: Whether only that may stop it.
        """
        if self.paused.get(trial_id, epoch) < epoch:  # it went on
            self._release(trial_id)
        needed = (*self._objectives, *self._constraints)
        if any(not math.isfinite(metrics.get(name, math.nan)) for name in needed):
            return "stop"
        rung = self._rung(trial_id, epoch)
        if rung is None:
            return "go"
        # A trial that was interrupted reports its last epoch again, and is not judged anew by those who came since.
        if (trial_id, epoch) not in self._decided:
            self._decided[trial_id, epoch] = self._decide(trial_id, rung, metrics, protected)
        return self._decided[trial_id, epoch]

    def promote(self) -> str | None:
        """Names a paused trial that belongs to the best of its rung by now, from the highest rung down; or nobody.

        It is paused no longer; its epoch is decided `go`.
        """
        for _, rung in sorted(self._rungs.items(), key=lambda item: (-item[0][1], item[0][0])):
            while rung.changed and rung.waiting:
                best = rung.standing.first(self._places(rung), rung.waiting)
                if best is None:
                    rung.changed = False
                elif self.paused.get(trial_id := rung.waiting.pop(best)) == rung.epoch:  # else it went on long ago
                    self._release(trial_id)
                    return trial_id
        return None

    def end(self, trial_id: str) -> None:
        """A trial has ended: it waits no longer."""
        self.paused.pop(trial_id, None)

    def replay(self, events: Iterable[Event]) -> None:
        """Takes the rungs from a ledger: what was decided before a restart stays decided."""
        safe = set()
        for event in events:
            if isinstance(event, Suggested) and protected(event):
                safe.add(event.trial_id)
            elif isinstance(event, Epoch):
                self.decide(event.trial_id, event.epoch, event.metrics, protected=event.trial_id in safe)
            elif isinstance(event, Promoted):
                self._release(event.trial_id)
            elif isinstance(event, Ended):
                self.end(event.trial_id)

    def sizes(self) -> dict[int, int]:
        """Epoch of a rung -> trials that have been there, in all brackets."""
        sizes: dict[int, int] = {}
        for _, epoch in sorted(self._rungs, key=lambda key: key[1]):
            sizes[epoch] = sum(len(rung.standing) for (_, e), rung in self._rungs.items() if e == epoch)
        return sizes

    def _release(self, trial_id: str) -> None:
        epoch = self.paused.pop(trial_id, None)
        if epoch is not None:
            self._decided[trial_id, epoch] = "go"

    def _rung(self, trial_id: str, epoch: int) -> _Rung | None:
        """The rung of a trial at an epoch; None where there is none."""
        scheduler, bracket = self._scheduler, 0
        if isinstance(scheduler, NoScheduler):
            return None
        if isinstance(scheduler, Median):
            if epoch < grace_of(scheduler, self._epochs) or epoch >= self._epochs:
                return None
        else:
            bracket = int(trial_id) % scheduler.brackets if scheduler.brackets > 1 else 0
            if epoch not in rung_epochs(scheduler, self._epochs, bracket):
                return None
        if (bracket, epoch) not in self._rungs:
            self._rungs[bracket, epoch] = _Rung(epoch, self._standing(epoch))
        return self._rungs[bracket, epoch]

    def _standing(self, epoch: int) -> Standing:
        scheduler, objectives = self._scheduler, len(self._compared)
        if objectives == 1 or not isinstance(scheduler, ParetoASHA):
            return ByMetric()
        if scheduler.order == "scalarised":
            weights = np.random.default_rng([self._seed, epoch]).dirichlet(np.ones(objectives), WEIGHTINGS)
            return ByWeights(weights)
        return ByFronts(objectives, scheduler.order)

    def _places(self, rung: _Rung) -> int:
        """How many of a rung go on."""
        scheduler = self._scheduler
        assert isinstance(scheduler, ParetoASHA | ASHA)
        count, factor = len(rung.standing), scheduler.reduction_factor
        return max(1, count // factor) if scheduler.promotion == "pause" else math.ceil(count / factor)

    def _decide(self, trial_id: str, rung: _Rung, metrics: Mapping[str, float], protected: bool) -> Decision:
        violation = 0.0
        if self._constraints:
            missed = violations(self._constraints, metrics, self._anchors)
            violation = total_violation(self._constraints, missed, self._anchors)
        number = rung.standing.add(oriented([metrics], self._compared)[0].tolist(), violation)
        rung.changed = True
        if protected:
            return "go"
        if any(metrics.get(name, math.inf) < floor for name, floor in floors_of(self._scheduler).items()):
            return "stop"
        if isinstance(self._scheduler, Median):
            enough = len(rung.standing) - 1 >= self._scheduler.at_least
            assert isinstance(rung.standing, ByMetric)
            return "stop" if enough and rung.standing.newest_beaten_by_most() else "go"
        if rung.standing.newest_among(self._places(rung)):
            return "go"
        if getattr(self._scheduler, "promotion", "stop") == "stop":
            return "stop"
        rung.waiting[number], self.paused[trial_id] = trial_id, rung.epoch
        return "pause"
