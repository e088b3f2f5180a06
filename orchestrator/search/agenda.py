"""What is to be run, one trial after the other: baselines, the phases of the search with replicates, confirmations.

A function of the events: whoever is shown the same history goes on with the same trial. Nothing runs twice: what has
the fingerprint of a trial that was suggested before, in this folder or in one of `warm_start`, is passed over. But for
one that was stopped early: what must reach its end, as an ablation or a baseline, runs again.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import ValidationError

from orchestrator import pareto
from orchestrator.config import SweepConfig
from orchestrator.events import Ended, Event, Origin, Record, Suggested
from orchestrator.ledger import History
from orchestrator.results.front import front_of, knee_of
from orchestrator.search.config import Ablation, Designed, Grid, Phase, replicates_of
from orchestrator.search.designs import BASE, ablation_points, grid_points
from orchestrator.search.proposals import Proposals
from orchestrator.search.spending import Spending
from search_spaces.space import flat, get_path, variant, with_paths
from trials.config import TrialConfig
from trials.identity import fingerprint

logger = logging.getLogger(__name__)

Wait = Literal["wait"]


@dataclass(frozen=True)
class Proposal:
    """A trial that may be run next; the attributes are those of `Suggested`."""

    trial: TrialConfig
    params: dict[str, Any]
    origin: Origin
    label: str | None = None
    of: str | None = None
    phase: int | None = None
    design: str | None = None
    base: str | None = None


class Agenda:
    """What is to be run.

    Args:
        sweep: The sweep.
        history: Its history; what it holds already has been taken in by nobody.
        proposals: The samplers.
        digests: Digests of data and model, for fingerprints.

    Attributes:
        unended: trial_id -> trials that were suggested and have not ended, in their order.
        suggested: trial_id -> all trials.
        exhausted: Why the search proposes nothing more, as in `epochs 400 of 400`; None while it does.
        number: That of the next trial: one more than the last one's, also where some in between are lost.
    """

    def __init__(self, sweep: SweepConfig, history: History, proposals: Proposals, digests: tuple[str, str]) -> None:
        self.sweep, self.history, self.proposals = sweep, history, proposals
        self.unended: dict[str, Suggested] = {}
        self.suggested: dict[str, Suggested] = {}
        self.exhausted: str | None = None
        self.spending = Spending(sweep.budget, sweep.resources)
        self.number = 0
        self._data, self._model = digests
        self._base = sweep.trial.model_dump(mode="json")
        self._searched = dict.fromkeys(parameter.path for parameter in proposals.words.space.parameters)
        self._seen: dict[str, str] = {}  # fingerprint -> trial_id, of the latest
        self._stopped: set[str] = set()
        self._first: dict[int, int] = {}  # phase -> number of its first trial
        self._count: Counter[int] = Counter()
        self._point: Suggested | None = None  # the last point of an adaptive phase, whose replicates may be due
        self._stage = 0
        self._known: Iterator[Proposal] | None = None  # of the stage: what is known beforehand
        self._head: Proposal | None = None
        self._confirming = False
        self._ahead: Proposal | Wait | None = None

    def take(self, event: Event) -> None:
        """Takes in the next event of the history."""
        self._ahead = None
        self.spending.take(event)
        if isinstance(event, Ended):
            self.unended.pop(event.trial_id, None)
            if event.state == "PRUNED":
                self._stopped.add(event.trial_id)
        elif isinstance(event, Suggested):
            self.unended[event.trial_id] = self.suggested[event.trial_id] = event
            self.number = max(self.number, event.number + 1)
            self._seen[event.fingerprint] = event.trial_id
            if event.phase is not None:
                self._first.setdefault(event.phase, event.number)
                self._count[event.phase] += 1
            if event.of is None:
                self._point = event

    def fingerprint(self, trial: TrialConfig) -> str:
        """Identity of a trial of this sweep."""
        return fingerprint(trial, data=self._data, model=self._model)

    def next(self) -> Proposal | Wait | None:
        """The trial to run next; `wait` until those that run have ended; None when there is nothing left.

        The same until another event is taken in.
        """
        self._ahead = self._ahead or self._look_ahead()
        return self._ahead

    def _look_ahead(self) -> Proposal | Wait | None:
        if not self._confirming:
            self.exhausted = self.spending.exhausted(self.history.clock())
            if self.exhausted is None:
                if found := self._search():
                    return found
                self.exhausted = "phases" if self.sweep.phases else "space"
            if self.sweep.confirm is None:
                return None
            if any(event.origin != "confirm" for event in self.unended.values()):
                return "wait"
            self._confirming, self._head, self._known = True, None, self._confirmations()
        return self._next_known()

    # -- the search --------------------------------------------------------------------------------------------------

    def _search(self) -> Proposal | Wait | None:
        phases = self.sweep.search_phases
        while self._stage <= len(phases):
            found = self._next_of(self._stage - 1, phases[self._stage - 1]) if self._stage else self._baseline()
            if found:
                return found
            self._stage, self._known, self._head = self._stage + 1, None, None
        return None

    def _baseline(self) -> Proposal | None:
        self._known = self._known or self._baselines()
        return self._next_known()

    def _next_of(self, position: int, phase: Phase) -> Proposal | Wait | None:
        if phase.trials is not None and self._count[position] >= phase.trials:
            return None
        if not isinstance(phase.sampler, Designed):
            return self._adaptive(position, phase)
        if self._known is None:
            begun = position in self._first
            if not begun and self.unended and isinstance(phase.sampler, Ablation) and phase.sampler.base == "knee":
                return "wait"
            self._known = self._design(position, phase)
        return self._next_known()

    def _next_known(self) -> Proposal | None:
        """The first of what is known beforehand that has not been run."""
        assert self._known is not None
        while self._head is None or self._has_run(self._head):
            self._head = next(self._known, None)
            if self._head is None:
                return None
        return self._head

    def _has_run(self, proposal: Proposal) -> bool:
        ran = self._seen.get(self.fingerprint(proposal.trial))
        return ran is not None and (proposal.origin == "search" or ran not in self._stopped)

    def _adaptive(self, position: int, phase: Phase) -> Proposal | None:
        point = self._point
        if point and point.phase == position and replicates_of(phase, self.sweep.replicates) > 1:
            trial = TrialConfig.model_validate(point.config)
            for again in self._replicates(Proposal(trial, point.params, "search", phase=position), phase):
                if self.fingerprint(again.trial) not in self._seen:
                    return again
        assert not isinstance(phase.sampler, Grid | Ablation)
        for values in self.proposals.draws(phase.sampler, self.number):
            trial = self.sweep.trial_at(values)
            if self.fingerprint(trial) not in self._seen:
                return Proposal(trial, self._params(trial, values), "search", phase=position)
        logger.info("phase %d ends: no point of the space is left that has not been run", position + 1)
        return None

    # -- what is known beforehand ------------------------------------------------------------------------------------

    def _baselines(self) -> Iterator[Proposal]:
        phase = Phase(replicates=self.sweep.replicates)
        for label in self.sweep.baselines:
            trial = self.sweep.baseline(label)
            ran = self._seen.get(self.fingerprint(trial))
            if ran and ran not in self._stopped and self.suggested[ran].label != label:
                logger.info("baseline %s is not run: trial %s has its settings", label, ran)
            own = flat(self._base)  # what sets it apart may not be searched
            apart = (path for path, value in flat(trial.model_dump(mode="json")).items() if own.get(path) != value)
            proposal = Proposal(trial, self._params(trial, {}, apart), "baseline", label=label)
            yield from self._replicates(proposal, phase)

    def _design(self, position: int, phase: Phase) -> Iterator[Proposal]:
        sampler, space = phase.sampler, self.proposals.words.space
        if isinstance(sampler, Grid):
            for point in grid_points(space, sampler):
                trial = self.sweep.trial_at(point)
                proposal = Proposal(trial, self._params(trial, point), "search", phase=position)
                yield from self._replicates(proposal, phase)
            return
        assert isinstance(sampler, Ablation)
        base = self._base_of(position, sampler)
        print_of_base = self.fingerprint(TrialConfig.model_validate(base))
        for words, point in ablation_points(sampler, space, base, self._base, checked=False):
            try:
                trial = TrialConfig.model_validate(with_paths(base, point))
            except ValidationError as error:  # the knee is known to nobody beforehand
                logger.warning("phase %d: %r is not run: %s", position + 1, words, error.errors()[0]["msg"])
                continue
            # The base may have run before the phase: whoever reads the ledger must find it.
            ran = self._seen.get(print_of_base)
            there = None if words == BASE or ran in self._stopped else ran
            params = self._params(trial, {}, point)
            proposal = Proposal(trial, params, "ablation", phase=position, design=words, base=there)
            yield from self._replicates(proposal, phase)

    def _base_of(self, position: int, sampler: Ablation) -> dict[str, Any]:
        """The setting that an ablation starts from, with the seed that is the first of all points."""
        if isinstance(sampler.base, Mapping):
            return with_paths(self._base, sampler.base)
        begin = self._first.get(position, self.number)
        before = [each for each in self.history.records() if self.suggested[each.trial_id].number < begin]
        knee = knee_of(front_of(before, self.sweep.objectives), self.sweep.objectives)
        if sampler.base == "trial" or knee is None:
            return self._base
        return self.suggested[knee.trial_id].config | {"seed": self.sweep.trial.seed}

    def _replicates(self, first: Proposal, phase: Phase) -> Iterator[Proposal]:
        """A point, then the same with further seeds; those are not run before it."""
        yield first
        point = self._seen.get(self.fingerprint(first.trial))
        of = self.suggested[point].of or point if point else None
        for index in range(1, replicates_of(phase, self.sweep.replicates)):
            seed = first.trial.seed + index
            yield replace(first, trial=first.trial.model_copy(update={"seed": seed}), label=None, of=of)

    def _confirmations(self) -> Iterator[Proposal]:
        """Fresh seeds of the candidates, beyond those of all replicates."""
        assert self.sweep.confirm is not None
        most = max(replicates_of(phase, self.sweep.replicates) for phase in self.sweep.search_phases)
        ran = Counter(each.of for each in self.suggested.values() if each.origin == "confirm")
        for candidate in candidates(self.sweep, self.history.records()):
            event = self.suggested[candidate.trial_id]
            trial = TrialConfig.model_validate(event.config)
            seed, left = self.sweep.trial.seed + max(most, self.sweep.replicates), self.sweep.confirm.seeds
            left -= ran[event.trial_id]
            while left > 0:
                fresh = trial.model_copy(update={"seed": seed})
                if self.fingerprint(fresh) not in self._seen:
                    left -= 1
                    yield Proposal(fresh, event.params, "confirm", of=event.trial_id)
                seed += 1

    def _params(self, trial: TrialConfig, point: Mapping[str, Any], more: Iterable[str] = ()) -> dict[str, Any]:
        """Values at the searched paths, and at `more`.

        A variant chosen by its bare word is that word; a preset is in the point and not in the settings.
        """
        settings = trial.model_dump(mode="json")
        paths = {**self._searched, **dict.fromkeys(more)}
        values = {path: point.get(path, variant(get_path(settings, path))) for path in paths}
        return {path: value for path, value in values.items() if value is not None}


def candidates(sweep: SweepConfig, found: Iterable[Record]) -> list[Record]:
    """Whom to run again: of the front the knee, its ends and then the loneliest, and the published settings.

    Args:
        sweep: The sweep; `confirm` says how many, and whether those published too.
        found: All ended trials.
    """
    if sweep.confirm is None:
        return []
    found = list(found)
    front = front_of(found, sweep.objectives)
    chosen: dict[str, Record] = {}
    if knee := knee_of(front, sweep.objectives):
        points_NM = pareto.oriented([record.metrics for record in front], sweep.objectives)
        lonely = (-pareto.crowding(points_NM)).argsort(kind="stable").tolist()
        ends = points_NM.argmin(axis=0).tolist()
        order = dict.fromkeys([front.index(knee), *ends, *lonely])
        chosen = {front[index].trial_id: front[index] for index in list(order)[: sweep.confirm.at_most]}
    if sweep.confirm.published:
        chosen |= {r.trial_id: r for r in found if r.label and r.of is None and r.state == "COMPLETE"}
    return list(chosen.values())
