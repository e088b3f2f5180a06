"""Other people's searchers and schedulers, the real objects, in the event loop that ours run in."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import optuna
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from orchestrator.config import SweepConfig
from orchestrator.events import Ended, Epoch, Suggested, finite
from orchestrator.ledger import History
from orchestrator.rehearsal.simulator import Clock, GPUs, Source
from orchestrator.search.schedulers import metrics_of


class FakeTrial:
    """What schedulers look at of a trial: its name."""

    def __init__(self, trial_id: str) -> None:
        self.trial_id = trial_id


class Rival:
    """Draws settings, judges epochs, and writes what happens as our searcher does.

    Args:
        sweep: Space, objectives, epochs and budget.
        history: Where events go.
    """

    def __init__(self, sweep: SweepConfig, history: History) -> None:
        self.sweep, self.history, self.space = sweep, history, sweep.search_space
        self.live: dict[str, str] = {}  # name in the loop -> trial_id
        self.count = self.epochs = 0

    def draw(self, trial_id: str) -> dict[str, Any]:
        """Path -> value of the next trial."""
        raise NotImplementedError

    def told(self, trial_id: str, result: dict[str, Any], ended: bool) -> None:
        """What the searcher hears of an epoch."""

    def decide(self, trial_id: str, epoch: int, metrics: Mapping[str, float], *, protected: bool = False) -> str:
        """`go` or `stop`."""
        raise NotImplementedError

    def suggest(self, name: str) -> dict[str, Any] | None:
        """The next trial while there is budget."""
        if self.epochs >= (self.sweep.budget.epochs or 0):
            return None
        trial_id, at = f"{self.count:05d}", self.history.clock()
        self.count += 1
        self.live[name] = trial_id
        point = self.draw(trial_id)
        trial = self.sweep.trial_at(point)
        config = trial.model_dump(mode="json")
        self.history.append(
            Suggested(at=at, trial_id=trial_id, number=int(trial_id), label=None, params=point, config=config,
                      fingerprint=trial_id, seed=trial.seed)
        )  # fmt: skip
        return {"trial_id": trial_id, "protected": False, "trial": config}

    def on_trial_result(self, name: str, result: dict[str, Any]) -> None:
        """An epoch of a trial that goes on."""
        self._record(self.live[name], result)
        self.told(self.live[name], result, ended=False)

    def on_trial_complete(self, name: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A trial that ended."""
        trial_id, result = self.live.pop(name), result or {}
        failure = result.get("failure")
        if not failure:
            self._record(trial_id, result)
        self.told(trial_id, result, ended=True)
        epoch = 0 if failure else int(result["epoch"])
        state = "FAIL" if failure else "COMPLETE" if epoch >= self.sweep.trial.epochs else "PRUNED"
        self.history.append(
            Ended(at=self.history.clock(), trial_id=trial_id, state=state, epoch=epoch, failure=failure)
        )

    def _record(self, trial_id: str, result: Mapping[str, Any]) -> None:
        self.epochs += 1
        metrics, at = finite(metrics_of(result)), self.history.clock()
        self.history.append(
            Epoch(at=at, trial_id=trial_id, epoch=result["epoch"], metrics=metrics, seconds=result["seconds"])
        )


class RayDefault(Rival):
    """`OptunaSearch` on all objectives and `AsyncHyperBandScheduler` on the first, with Ray's defaults."""

    def __init__(self, sweep: SweepConfig, history: History, seed: int) -> None:
        super().__init__(sweep, history)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        modes = list(sweep.objectives.values())
        metrics = [f"metrics/{name}" for name in sweep.objectives]
        self.searcher = OptunaSearch(space=self._suggest, metric=metrics, mode=modes, seed=seed)
        self.scheduler = AsyncHyperBandScheduler(
            time_attr="epoch", metric=next(iter(sweep.objectives)), mode=modes[0], max_t=sweep.trial.epochs
        )
        self.trials: dict[str, FakeTrial] = {}
        self._point: dict[str, Any] = {}

    def _suggest(self, trial: optuna.Trial) -> None:
        self._point = self.space.suggest(trial)

    def draw(self, trial_id: str) -> dict[str, Any]:
        self.searcher.suggest(trial_id)
        self.trials[trial_id] = FakeTrial(trial_id)
        self.scheduler.on_trial_add(None, self.trials[trial_id])
        return self._point

    def told(self, trial_id: str, result: dict[str, Any], ended: bool) -> None:
        result = result | {"training_iteration": result["epoch"]}
        if ended:
            self.searcher.on_trial_complete(trial_id, result, error="failure" in result)
        else:
            self.searcher.on_trial_result(trial_id, result)

    def decide(self, trial_id: str, epoch: int, metrics: Mapping[str, float], *, protected: bool = False) -> str:
        action = self.scheduler.on_trial_result(None, self.trials[trial_id], {"epoch": epoch, **metrics})
        return "go" if action == TrialScheduler.CONTINUE else "stop"


class SyneTune(Rival):
    """Syne Tune's MOASHA, with its defaults, over independent draws.

    In 0.16.0 its default order within a rung, `NonDominatedPriority`, returns the sorted positions where the rung
    expects a rank of each trial (`asha.py`, `Bracket.on_result`), so it keeps next to nobody. `weighted` takes its
    `LinearScalarizationPriority`, which returns what is expected.
    """

    def __init__(self, sweep: SweepConfig, history: History, seed: int, *, weighted: bool = False) -> None:
        super().__init__(sweep, history)
        priority = importlib.import_module("syne_tune.optimizer.schedulers.multiobjective.multiobjective_priority")
        moasha = importlib.import_module("syne_tune.optimizer.schedulers.multiobjective.moasha")
        self.go = importlib.import_module("syne_tune.optimizer.scheduler").SchedulerDecision.CONTINUE
        self.scheduler = moasha.MOASHA(
            config_space={},
            metrics=list(sweep.objectives),
            time_attr="epoch",
            max_t=sweep.trial.epochs,
            random_seed=seed,
            multiobjective_priority=priority.LinearScalarizationPriority() if weighted else None,
        )
        self.study = optuna.create_study(
            sampler=optuna.samplers.RandomSampler(seed=int(np.random.SeedSequence([seed, 17]).generate_state(1)[0])),
            directions=["minimize"] * len(sweep.objectives),
        )
        self.trials: dict[str, FakeTrial] = {}

    def draw(self, trial_id: str) -> dict[str, Any]:
        self.trials[trial_id] = FakeTrial(trial_id)
        self.scheduler.on_trial_add(self.trials[trial_id])
        return self.space.suggest(self.study.ask())

    def decide(self, trial_id: str, epoch: int, metrics: Mapping[str, float], *, protected: bool = False) -> str:
        signed = {name: metrics[name] * (1 if way == "min" else -1) for name, way in self.sweep.objectives.items()}
        action = self.scheduler.on_trial_result(self.trials[trial_id], {"epoch": epoch, **signed})
        return "go" if action == self.go else "stop"


RIVALS: dict[str, Callable[[SweepConfig, History, int], Rival]] = {
    "ray": RayDefault,
    "moasha": SyneTune,
    "moasha, weighted": partial(SyneTune, weighted=True),
}


def rival(name: str, sweep: SweepConfig, source: Source, *, gpus: int, seed: int) -> History:
    """One simulated sweep with somebody else's search."""
    clock = Clock()
    history = History(clock=clock)
    searcher = RIVALS[name](
        sweep.model_copy(update={"trial": sweep.trial.model_copy(update={"seed": seed})}), history, seed
    )
    GPUs(searcher, searcher, history, clock, source).run(gpus, lambda history: False)
    return history
