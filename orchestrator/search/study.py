"""Ray's searcher, and the one who writes the history: what is proposed, what became of it.

All state is a function of the events: a driver that takes up a sweep shows the searcher what has happened (`take`),
and it goes on as if it had been there. `study.log` (Optuna's journal) is a copy for other tools, such as
optuna-dashboard; nothing is read back from it.

A trial that the rungs pause has ended for Ray, which costs nothing; here it has not, and its settings are handed out
again once it is promoted. (Ray's own OptunaSearch tells early-stopped trials as COMPLETE with their low-budget values,
and leaves NaN trials running.)
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from optuna.trial import TrialState
from ray.tune.search import Searcher

from orchestrator.config import SweepConfig
from orchestrator.events import Anchor, Ended, Epoch, Event, Promoted, State, Suggested, finite
from orchestrator.ledger import History
from orchestrator.search.agenda import Agenda, Proposal
from orchestrator.search.constraints import violations
from orchestrator.search.journal import Journal
from orchestrator.search.observations import Told
from orchestrator.search.proposals import Proposals
from orchestrator.search.rungs import Rungs, protected
from orchestrator.search.schedulers import metrics_of

STATES: dict[State, TrialState] = {
    "COMPLETE": TrialState.COMPLETE,
    "PRUNED": TrialState.PRUNED,
    "FAIL": TrialState.FAIL,
}


class StudySearcher(Searcher):
    """Ray's searcher over a history.

    Args:
        sweep: The sweep.
        history: What has happened already, and where events go.
        folder: The run folder; None writes nothing.
        concurrent: Trials at once.
        digests: Digests of data and model, for fingerprints.
        rungs: The scheduler's, with the history replayed; None pauses nobody.

    Attributes:
        live: Ray's id of a trial -> what Ray runs now.
        causes: Ray's id of a trial -> what ended it; the scheduler hears of it first, and writes it here.
        broken: What kept an event from being written.
    """

    def __init__(
        self,
        sweep: SweepConfig,
        history: History,
        folder: Path | None,
        *,
        concurrent: int,
        digests: tuple[str, str],
        rungs: Rungs | None = None,
    ) -> None:
        super().__init__()
        self.sweep, self.history, self.folder, self.concurrent, self.rungs = sweep, history, folder, concurrent, rungs
        self.live: dict[str, Suggested] = {}
        self.causes: dict[str, str] = {}
        self.broken: OSError | None = None
        self.proposals = Proposals(sweep)
        self.agenda = Agenda(sweep, history, self.proposals, digests)
        self._journal = Journal(folder, sweep, self.proposals.words) if folder else None
        self._anchors: dict[str, dict[str, float]] = {}
        self._last: dict[str, Epoch] = {}  # trial_id -> its last epoch, until it has ended
        self._told: dict[str, Told] = {}
        self._silent: set[str] = set()  # Ray's ids of trials that have not reported since they were handed out
        self._again: set[str] = set()
        for event in history.events:
            self._take(event)
        if self._journal:
            self._journal.follow()
        self._interrupted = deque(self.agenda.unended.values())

    @property
    def done(self) -> bool:
        """Whether nothing is left to run, to promote, to propose or to confirm."""
        return not self.agenda.unended and self.agenda.next() is None

    @property
    def exhausted(self) -> str | None:
        """Why the search proposes nothing more, as in `epochs 400 of 400`; None while it does."""
        return self.agenda.exhausted

    @property
    def paused(self) -> list[str]:
        """trial_ids of those that wait for their promotion."""
        return [trial_id for trial_id in (self.rungs.paused if self.rungs else ()) if trial_id in self.agenda.unended]

    # -- what Ray calls ----------------------------------------------------------------------------------------------

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]  # FINISHED is a str
        """Settings for Ray's trial: one that was interrupted first, then one that is promoted, then a new one."""
        if len(self.live) >= self.concurrent:
            return None
        event = self._next()
        if event is None:  # what is running may have to be started again
            return None if self.live else str(Searcher.FINISHED)
        self.live[trial_id] = event
        self._silent.add(trial_id)
        return {
            "trial_id": event.trial_id,
            "label": event.label,
            "protected": protected(event),
            "trial": event.config,
            "folder": str(self.folder / "trials" / event.trial_id) if self.folder else "",
        }

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """An epoch of a trial that goes on."""
        self._silent.discard(trial_id)
        self._record_epoch(self.live[trial_id].trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A trial that ended: at full budget, stopped, paused, failed, or with its worker dead beyond retries."""
        event = self.live.pop(trial_id)
        result = result or {}
        failure = result.get("failure")
        if error and trial_id in self._silent and event.trial_id not in self._again:
            # Its worker may have died of the trial before: Ray then fails the next one without a retry.
            self._again.add(event.trial_id)
            self._interrupted.append(event)
            return
        if error:
            failure = self.causes.get(trial_id, "its worker process died")
            if self.sweep.resources.retries:
                failure += f" (retried {self.sweep.resources.retries} times)"
        elif failure is None and "epoch" not in result:
            failure = "ended without a result"
        elif failure is None:
            self._record_epoch(event.trial_id, result)
            failure = self._lacking(metrics_of(result), full=self._is_full(event))
        if failure is None and not self._is_full(event) and event.trial_id in self.paused:
            return
        self.end(event, "FAIL" if failure else "COMPLETE" if self._is_full(event) else "PRUNED", failure)

    def save(self, checkpoint_path: str) -> None:
        """Ray asks for a snapshot; the ledger is all that is ever restored from."""

    def restore(self, checkpoint_path: str) -> None:
        """See `save`."""

    def __getstate__(self) -> dict[str, Any]:
        """Ray pickles the searcher when a sweep starts, and nobody reads that pickle: leave out what has a lock."""
        return {}

    # -- ours --------------------------------------------------------------------------------------------------------

    def end(self, event: Suggested, state: State, failure: str | None = None) -> None:
        """Writes the end of a trial; constraints bind those at full budget."""
        last = self._last.get(event.trial_id)
        missed = violations(self.sweep.constraints, last.metrics, self._anchors) if last and state == "COMPLETE" else {}
        self._append(
            Ended(
                at=self.history.clock(),
                trial_id=event.trial_id,
                state=state,
                epoch=last.epoch if last else 0,
                failure=failure,
                violations=missed,
            )
        )

    def _next(self) -> Suggested | None:
        while True:
            if event := self._waiting():
                return event
            proposal = self.agenda.next()
            if isinstance(proposal, Proposal):
                return self._suggest(proposal)
            if self.live or not self.agenda.unended:
                return None
            for event in list(self.agenda.unended.values()):  # paused, and nobody can promote them any more
                self.end(event, "PRUNED")

    def _waiting(self) -> Suggested | None:
        """A trial that has been suggested and is to go on: it was interrupted, or is promoted now."""
        while self._interrupted:
            event = self._interrupted.popleft()
            if event.trial_id not in self.paused:
                return event
        while self.rungs and (promoted := self.rungs.promote()):
            if promoted in self.agenda.unended:
                self._append(Promoted(at=self.history.clock(), trial_id=promoted))
                return self.agenda.unended[promoted]
        return None

    def _suggest(self, proposal: Proposal) -> Suggested:
        number = self.agenda.number
        event = Suggested(
            at=self.history.clock(),
            trial_id=f"{number:05d}",
            number=number,
            label=proposal.label,
            params=proposal.params,
            config=proposal.trial.model_dump(mode="json"),
            fingerprint=self.agenda.fingerprint(proposal.trial),
            seed=proposal.trial.seed,
            origin=proposal.origin,
            of=proposal.of,
            phase=proposal.phase,
            design=proposal.design,
            base=proposal.base,
        )
        self._append(event)
        return event

    def _append(self, event: Event) -> None:
        try:
            self.history.append(event)
        except OSError as error:  # Ray turns it into an error of its own: keep what it was
            self.broken = error
            raise
        self._take(event)

    def _take(self, event: Event) -> None:
        """Takes in the next event of the history, whether it happens now or happened before."""
        self.agenda.take(event)
        if isinstance(event, Anchor):
            self._anchors[event.name] = event.metrics
        elif isinstance(event, Epoch):
            self._last[event.trial_id] = event
        elif isinstance(event, Suggested):
            told = Told(event.number, self.proposals.words.located(event), repeats=event.of is not None)
            self._told[event.trial_id] = told
            self.proposals.begin(told)
            if self._journal:
                self._journal.begin(told, **_attributes(event))
        elif isinstance(event, Ended):
            if self.rungs:
                self.rungs.end(event.trial_id)
            if event.trial_id in self._told:  # of several ends the first is told
                told = self._as_told(event)
                self.proposals.end(told)
                if self._journal:
                    self._journal.end(told)

    def _as_told(self, event: Ended) -> Told:
        told, last = self._told.pop(event.trial_id), self._last.pop(event.trial_id, None)
        if event.state != "COMPLETE":
            return replace(told, state=STATES[event.state])
        metrics = last.metrics if last else {}
        if any(name not in metrics for name in self.sweep.objectives):  # an earlier sweep's, with other objectives
            return replace(told, state=TrialState.FAIL)
        return replace(
            told,
            state=TrialState.COMPLETE,
            values=tuple(metrics[name] for name in self.sweep.objectives),
            violations=tuple((name, event.violations.get(name, 0.0)) for name in self.sweep.constraints),
        )

    def _is_full(self, event: Suggested) -> bool:
        last = self._last.get(event.trial_id)
        return last is not None and last.epoch >= self.sweep.trial.epochs

    def _lacking(self, metrics: Mapping[str, float], *, full: bool) -> str | None:
        needed = (*self.sweep.objectives, *self.sweep.constraints) if full else self.sweep.objectives
        missing = [name for name in dict.fromkeys(needed) if not math.isfinite(metrics.get(name, math.nan))]
        return f"did not report {' and '.join(missing)}" if missing else None

    def _record_epoch(self, trial_id: str, result: Mapping[str, Any]) -> None:
        # A resumed trial reports its last epoch again, and Ray a last result twice: the first time counts.
        last = self._last.get(trial_id)
        if last is None or result["epoch"] > last.epoch:
            self._append(
                Epoch(
                    at=self.history.clock(),
                    trial_id=trial_id,
                    epoch=result["epoch"],
                    metrics=finite(metrics_of(result)),
                    seconds=result["seconds"],
                )
            )


def _attributes(event: Suggested) -> dict[str, Any]:
    """What those who look at the study want to know of a trial besides its values."""
    known = {"label": event.label, "of": event.of, "design": event.design}
    return {"origin": event.origin} | {name: value for name, value in known.items() if value is not None}
