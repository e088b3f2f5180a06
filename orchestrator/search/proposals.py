"""What proposes points: Optuna's samplers, each a function of the history and the number of the trial.

Each proposal draws from a sampler seeded by (seed, number of the trial), on a study in memory that is made from the
history: it depends on nothing else, and not on which process asks, or how often one was restarted.

Told to Optuna: COMPLETE at full budget only, PRUNED when stopped early; failed and diverged trials are not told.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from orchestrator.config import SweepConfig
from orchestrator.search.config import GP, NSGA2, TPE, Random
from orchestrator.search.designs import levels, points
from orchestrator.search.observations import Generations, Recent, Told, Window, Words
from search_spaces.space import Domain, Int

Adaptive = TPE | NSGA2 | GP | Random

ASKS, DRAWS = 20, 200
"""Times that a sampler, and after it chance, is asked for a point that has not been run."""

TPE_BEST, TPE_NEWEST, TPE_MORE, TPE_RUNNING = 150, 250, 100, 100
"""What TPE looks at: see `Recent`, and running trials. Its time grows with what it sees, not with what there was."""

GP_BEST, GP_NEWEST = 100, 100
"""What Gaussian processes look at, whose cost grows with the cube."""


class Proposals:
    """What samplers know of a sweep, and what they propose.

    Args:
        sweep: The sweep.
    """

    def __init__(self, sweep: SweepConfig) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.words = Words(sweep)
        self._empty = self.words.study()
        self._window = Window(self.words, Recent(self.words, TPE_BEST, TPE_NEWEST, TPE_MORE), TPE_RUNNING)
        self._complete = Recent(self.words, GP_BEST, GP_NEWEST)
        samplers = [phase.sampler for phase in sweep.search_phases]
        sizes = {sampler.population for sampler in samplers if isinstance(sampler, NSGA2)}
        self._generations = {size: Generations(self.words, size) for size in sizes}

    def begin(self, told: Told) -> None:
        """Takes in a trial that begins."""
        self._window.begin(told)

    def end(self, told: Told) -> None:
        """Takes in what became of a trial that had begun."""
        self._window.end(told)
        if told.state == TrialState.COMPLETE and told.params:
            self._complete.end(told)
            for generations in self._generations.values():
                generations.end(told)

    def draws(self, config: Adaptive, number: int) -> Iterator[dict[str, Any]]:
        """Points for trial `number`: as the sampler proposes, then at random; of a finite space at last every one.

        Whoever asks takes the first that has not been run.
        """
        ask = self._asker(config, number)
        for _ in range(ASKS):
            yield ask()
        chance = self._asking(self.words.study(), RandomSampler(seed=_seed(config.seed, number, 1)))
        for _ in range(DRAWS):
            yield chance()
        space = self.words.space
        if space.size() is not None:
            yield from points(space, {p.name: levels(p.domain, _count(p.domain)) for p in space.parameters})

    def _asker(self, config: Adaptive, number: int) -> Callable[[], dict[str, Any]]:
        seed = _seed(config.seed, number)
        study = self.words.study()
        sampler: BaseSampler = RandomSampler(seed=seed)
        with quiet():
            if isinstance(config, TPE):
                study = self._window.study()
                sampler = TPESampler(
                    seed=seed, n_startup_trials=config.startup, multivariate=True, group=True, constant_liar=True
                )
            elif isinstance(config, NSGA2) and (parents := self._generations[config.population].parents):
                study = self._filled(parents, self._random_genes)
                sampler = _Children(population_size=max(2, len(parents)), seed=seed)
            elif isinstance(config, GP) and len(seen := self._complete.all()) >= config.startup:
                running = [told for told in self._window.running if told.params]
                study = self._filled([*seen, *running], self._middles)
                sampler = GPSampler(seed=seed, n_startup_trials=1, warn_independent_sampling=False)
        return self._asking(study, sampler)

    def _asking(self, study: optuna.Study, sampler: BaseSampler) -> Callable[[], dict[str, Any]]:
        """Asks a sampler; what it proposed is taken back, since a trial enters a study with its `Suggested` event."""

        def ask() -> dict[str, Any]:
            study.sampler = sampler
            with quiet():
                trial = study.ask()
                point = self.words.space.suggest(trial)
                study.tell(trial, state=TrialState.FAIL)
            return point

        return ask

    # Optuna's genetic and Gaussian samplers look only at parameters that all trials have, which in a tree of conditions
    # is next to nothing. So each trial gets a value for what it does not have.

    def _filled(self, found: Sequence[Told], rest: Callable[[Told], dict[str, Any]]) -> optuna.Study:
        study = self.words.study()
        for told in found:
            study.add_trial(self.words.frozen(replace(told, params={**rest(told), **told.params})))
        return study

    def _random_genes(self, told: Told) -> dict[str, Any]:
        """Genes that the trial carries without expressing them: a child may."""
        dice, study, trial = RandomSampler(seed=_seed(told.number)), self._empty, self.words.frozen(told)
        each = self.words.distributions.items()
        return {name: dice.sample_independent(study, trial, name, distribution) for name, distribution in each}

    def _middles(self, told: Told) -> dict[str, Any]:
        """The middle of each range, the same for all: it tells a Gaussian process nothing."""
        values = {p.name: levels(p.domain, 3) for p in self.words.space.parameters}
        return {name: few[len(few) // 2] for name, few in values.items()}


class _Children(NSGAIISampler):
    """NSGA-II's crossover and mutation, of a study whose trials are the parents."""

    def get_trial_generation(self, study: optuna.Study, trial: FrozenTrial) -> int:
        return 1

    def get_parent_population(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def _count(domain: Domain) -> int:
    return domain.high - domain.low + 1 if isinstance(domain, Int) else 2


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


@contextmanager
def quiet() -> Iterator[None]:
    """Without Optuna's remarks on experimental arguments, and on greenlet, with which GP would be faster."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", message="The 'greenlet' package")
        yield
