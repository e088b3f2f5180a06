"""What samplers look at: trials in Optuna's words, and which of many thousands are shown.

All of it is a function of the order in which trials began and ended. What is shown is bounded, so a proposal costs the
same after ten thousand trials as after one thousand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from orchestrator import pareto
from orchestrator.config import SweepConfig
from orchestrator.events import Ended, Epoch, State, Suggested
from search_spaces.space import Domain, Float, Int
from trials.identity import with_digests


@dataclass(frozen=True)
class Told:
    """A trial as samplers see it.

    Attributes:
        number: Its position in the history.
        params: Optuna's name of a parameter -> value; empty outside the space.
        repeats: Whether it is another seed of an earlier trial.
        state: RUNNING until it is told.
        values: Objectives in their own directions; empty unless COMPLETE.
        violations: Constraint -> how far it was missed, 0 where it holds; empty unless COMPLETE.
    """

    number: int
    params: Mapping[str, Any]
    repeats: bool = False
    state: TrialState = TrialState.RUNNING
    values: tuple[float, ...] = ()
    violations: tuple[tuple[str, float], ...] = ()

    @property
    def missed(self) -> float:
        """Sum of what its constraints were missed by."""
        return sum(amount for _, amount in self.violations)


STATES: dict[State, TrialState] = {
    "COMPLETE": TrialState.COMPLETE,
    "PRUNED": TrialState.PRUNED,
    "FAIL": TrialState.FAIL,
}


def ended_as(told: Told, end: Ended, last: Epoch | None, sweep: SweepConfig) -> Told:
    """A trial as samplers see it once it has ended.

    Args:
        told: As they saw it before.
        end: Its end.
        last: Its last epoch.
        sweep: Objectives and constraints.
    """
    if end.state != "COMPLETE":
        return replace(told, state=STATES[end.state])
    metrics = last.metrics if last else {}
    if any(name not in metrics for name in sweep.objectives):  # an earlier sweep's, with other objectives
        return replace(told, state=TrialState.FAIL)
    return replace(
        told,
        state=TrialState.COMPLETE,
        values=tuple(metrics[name] for name in sweep.objectives),
        violations=tuple((name, end.violations.get(name, 0.0)) for name in sweep.constraints),
    )


class Words:
    """A sweep's objectives and space in Optuna's words.

    Args:
        sweep: The sweep.
    """

    def __init__(self, sweep: SweepConfig) -> None:
        self._sweep = sweep
        self.space = sweep.search_space
        self.distributions = {each.name: _distribution(each.domain) for each in self.space.parameters}
        minimise, maximise = StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE
        self.directions = [minimise if way == "min" else maximise for way in sweep.objectives.values()]
        self.sign_M = np.array([1.0 if way == "min" else -1.0 for way in sweep.objectives.values()])

    def study(self, storage: BaseStorage | None = None, name: str | None = None) -> optuna.Study:
        """An empty study, in memory unless told otherwise."""
        return optuna.create_study(study_name=name, storage=storage or InMemoryStorage(), directions=self.directions)

    def located(self, event: Suggested) -> dict[str, Any]:
        """Name of each parameter -> value of a trial; none where it lies outside the space, as a baseline may.

        The settings are searched for the values, with the point as it was suggested: a preset is not in the settings.
        """
        params = self.space.locate(event.config, event.params)
        if params is None or event.origin == "search":
            return params or {}
        values = {each.path: params[each.name] for each in self.space.parameters if each.name in params}
        there = self._sweep.trial_at(values).model_dump(mode="json")
        return params if _settings(there) == _settings(event.config) else {}  # else it differs in what is not searched

    def frozen(self, told: Told, **attributes: Any) -> FrozenTrial:
        """A trial, with attributes for those who look at the study."""
        return optuna.trial.create_trial(
            state=told.state,
            params=dict(told.params),
            distributions={name: self.distributions[name] for name in told.params},
            values=told.values or None,
            constraints=dict(told.violations),
            user_attrs=attributes,
        )


def end_as(storage: BaseStorage, trial_id: int, ended: FrozenTrial) -> None:
    """Ends a running trial of a study as another trial did: constraints, values, state.

    `Study.tell` takes no constraints, and copies the trial several times.
    """
    for key, value in ended.system_attrs.items():
        storage.set_trial_system_attr(trial_id, key, value)
    storage.set_trial_state_values(trial_id, ended.state, ended.values)


def best_of(found: Sequence[Told], count: int, sign_M: NDArray[np.float64]) -> list[Told]:
    """The best of COMPLETE trials: within the constraints by front, then the loneliest; the others by how little
    they miss. In the order of their numbers.

    Args:
        found: The trials.
        count: How many, at most.
        sign_M: 1 for each objective that is minimised, -1 for each that is maximised.
    """
    fine = [told for told in found if told.missed <= 0]
    order: list[Told] = []
    if fine:
        points_NM = np.array([told.values for told in fine]) * sign_M
        rank_N, crowd_N = pareto.ranks(points_NM), np.zeros(len(fine))
        for rank in np.unique(rank_N):
            crowd_N[rank_N == rank] = pareto.crowding(points_NM[rank_N == rank])
        order = [fine[index] for index in np.lexsort((np.arange(len(fine)), -crowd_N, rank_N))]
    order += sorted((told for told in found if told.missed > 0), key=lambda told: told.missed)
    return sorted(order[:count], key=lambda told: told.number)


class Recent:
    """The newest trials, and of those before them the best.

    Args:
        words: Of the sweep.
        best: Trials of the best fronts that are kept, once not all fit.
        newest: Newest trials that are kept, whatever became of them.
        more: How many more come before it is cut down to these.
    """

    def __init__(self, words: Words, best: int, newest: int, more: int = 0) -> None:
        self._words = words
        self._sizes = best, newest, more
        self._best: list[Told] = []
        self._newest: list[Told] = []

    def end(self, told: Told) -> bool:
        """Takes in an ended trial; True when others had to leave."""
        best, newest, more = self._sizes
        self._newest.append(told)
        if len(self._best) + len(self._newest) <= best + newest + more:
            return False
        older, self._newest = self._newest[:-newest], self._newest[-newest:]
        done = [each for each in (*self._best, *older) if each.state == TrialState.COMPLETE]
        self._best = best_of(done, best, self._words.sign_M)
        return True

    def all(self) -> list[Told]:
        """What is kept, by number."""
        return sorted((*self._best, *self._newest), key=lambda told: told.number)


class Window:
    """A study of the best and the newest trials; running ones are in it, so that nobody is sent to where another is.

    Args:
        words: Of the sweep.
        recent: What is kept of those that have ended.
        at_once: Running trials that are shown, at most; one that begins beyond is shown once it has ended.
    """

    def __init__(self, words: Words, recent: Recent, at_once: int) -> None:
        self._words, self._recent, self._at_once = words, recent, at_once
        self._running: dict[int, Told] = {}
        self._place: dict[int, int] = {}  # number in the history -> order in which it was shown first
        self._study: optuna.Study | None = None
        self._storage = InMemoryStorage()
        self._ids: dict[int, int] = {}  # number in the history -> id in the storage

    def begin(self, told: Told) -> None:
        """Takes in a trial that begins."""
        if len(self._running) < self._at_once:
            self._running[told.number] = told
            self._show(told)

    def end(self, told: Told) -> None:
        """Takes in what became of it; who failed is not shown."""
        running = self._running.pop(told.number, None)
        if told.state != TrialState.FAIL and self._recent.end(told):
            self._study = None  # made anew with the next proposal
        if running is None and told.state != TrialState.FAIL:
            self._show(told)
        elif running is not None and self._study is not None:
            end_as(self._storage, self._ids[told.number], self._words.frozen(told))

    @property
    def running(self) -> list[Told]:
        """Trials that have begun and not ended, as far as they are shown, by number."""
        return list(self._running.values())

    def study(self) -> optuna.Study:
        """The study as it is now: the same whether it was made just now or has grown."""
        if self._study is None:
            self._storage, self._ids = InMemoryStorage(), {}
            self._study = self._words.study(self._storage)
            shown = [*self._recent.all(), *self._running.values()]
            for told in sorted(shown, key=lambda each: self._place[each.number]):
                self._add(self._study, told)
        return self._study

    def _show(self, told: Told) -> None:
        self._place[told.number] = len(self._place)
        if self._study is not None:
            self._add(self._study, told)

    def _add(self, study: optuna.Study, told: Told) -> None:
        study_id = self._storage.get_study_id_from_name(study.study_name)
        self._ids[told.number] = self._storage.create_new_trial(study_id, self._words.frozen(told))


class Generations:
    """Parents of a genetic search: after each `population` trials the best of them and of the parents before.

    A generation is what has ended, whoever proposed it and whenever it began: no worker waits for another.

    Args:
        words: Of the sweep.
        population: Parents, and trials of a generation.
    """

    def __init__(self, words: Words, population: int) -> None:
        self._words, self._population = words, population
        self.parents: list[Told] = []
        self._children: list[Told] = []

    def end(self, told: Told) -> None:
        """Takes in a COMPLETE trial; other seeds of a point are not another point."""
        if told.repeats:
            return
        self._children.append(told)
        if len(self._children) >= self._population:
            self.parents = best_of([*self.parents, *self._children], self._population, self._words.sign_M)
            self._children = []


def _settings(trial: dict[str, Any]) -> dict[str, Any]:
    """What a trial does, wherever data and model lie, and whatever its seed."""
    return {key: value for key, value in with_digests(trial, data="", model="").items() if key != "seed"}


def _distribution(domain: Domain) -> BaseDistribution:
    if isinstance(domain, Float):
        return FloatDistribution(domain.low, domain.high, log=domain.log)
    if isinstance(domain, Int):
        return IntDistribution(domain.low, domain.high, log=domain.log)
    return CategoricalDistribution(domain.choices)
