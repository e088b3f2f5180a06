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
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher

from orchestrator.config import SweepConfig
from orchestrator.events import Anchor, Ended, Epoch, Event, Promoted, Resumed, State, Suggested, finite
from orchestrator.ledger import History
from orchestrator.search.agenda import Agenda, Proposal
from orchestrator.search.constraints import violations
from orchestrator.search.faults import LOST, PLACE, Fault, Streaks, given_up, node_of, remedy, settings
from orchestrator.search.journal import Journal, attributes
from orchestrator.search.observations import Told, ended_as
from orchestrator.search.proposals import Proposals
from orchestrator.search.rungs import Rungs, protected
from orchestrator.search.schedulers import metrics_of
from trials.result import Diverged


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
        causes: Ray's id of a trial -> what befell it; the scheduler hears of it first, and writes it here.
        full: The words of a full disk, once one kept something from being written.
        streaks: Failures that are kept back; says what is broken.
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
        self.causes: dict[str, Fault] = {}
        self.full: str | None = None
        self.streaks = Streaks(concurrent)
        self.proposals = Proposals(sweep)
        self.agenda = Agenda(sweep, history, self.proposals, digests)
        self._journal = Journal(folder, sweep, self.proposals.words) if folder else None
        self._anchors: dict[str, dict[str, float]] = {}
        self._last: dict[str, Epoch] = {}  # trial_id -> its last epoch, until it has ended
        self._told: dict[str, Told] = {}
        self._nodes: dict[str, str] = {}  # Ray's id of a trial -> where it runs; "" where that is not known
        for event in history.events:
            self._take(event)
        if self._journal:
            self._journal.follow()
        self._interrupted = deque(self.agenda.unended.values())
        self._taken_up = set(self.agenda.unended)  # of those, who were under way when the driver before stopped

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
        if self.stopped:
            raise RuntimeError(self.stopped)  # Ray ends the whole run
        if len(self.live) >= self.concurrent:
            return None
        event = self._next()
        if event is None:  # what is running may have to be started again
            return None if self.live else str(Searcher.FINISHED)
        self.live[trial_id] = event
        if self.folder:  # where it ran before says nothing any more
            (self.folder / "trials" / event.trial_id / PLACE).unlink(missing_ok=True)
        return {
            "trial_id": event.trial_id,
            "label": event.label,
            "protected": protected(event),
            "trial": settings(event, self.history),
            "folder": str(self.folder / "trials" / event.trial_id) if self.folder else "",
        }

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """An epoch of a trial that goes on."""
        self._write(self.streaks.worked(self._node(trial_id)))
        self._record_epoch(self.live[trial_id].trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A trial that ended: at full budget, stopped, paused, failed; or its worker did, and it goes on elsewhere."""
        node, event, result = self._node(trial_id), self.live.pop(trial_id), result or {}
        failure, fault = result.get("failure"), self.causes.pop(trial_id, LOST) if error else None
        if result.get("out_of_memory"):
            fault = Fault("memory", str(failure))
        if fault and fault.kind == "disk":
            self.full = fault.cause
            return
        if fault and fault.kind == "leaving":  # nothing of it has run
            self._interrupted.appendleft(event)
            return
        if fault and (resumed := remedy(fault, event, self.history, self.sweep.resources)):
            self._append(resumed)
            self._interrupted.append(event)
            return
        if fault:
            failure = given_up(fault, event, self.history)
        elif failure is None and "epoch" not in result:
            failure = "ended without a result"
        elif failure is None:
            self._record_epoch(event.trial_id, result)
            failure = self._lacking(metrics_of(result), full=self._is_full(event))
        state: State = "FAIL" if failure else "COMPLETE" if self._is_full(event) else "PRUNED"
        if state == "FAIL" and not str(failure).startswith(Diverged.__name__):
            others = {self._node(other) for other in self.live}
            self._write(self.streaks.failed(node, self._ended(event, state, failure), others))
            return
        self._write(self.streaks.worked(node))
        if state != "PRUNED" or event.trial_id not in self.paused:
            self.end(event, state, failure)

    def save(self, checkpoint_path: str) -> None:
        """Ray asks for a snapshot; the ledger is all that is ever restored from."""

    def restore(self, checkpoint_path: str) -> None:
        """See `save`."""

    def __getstate__(self) -> dict[str, Any]:
        """Ray pickles the searcher when a sweep starts, and nobody reads that pickle: leave out what has a lock."""
        return {}

    # -- ours --------------------------------------------------------------------------------------------------------

    @property
    def stopped(self) -> str | None:
        """Why nothing more is to run in this round: the disk is full, or a node or everything is broken."""
        return self.full or self.streaks.broken or next(iter(self.streaks.aside.values()), None)

    def end(self, event: Suggested, state: State, failure: str | None = None) -> None:
        """Writes the end of a trial."""
        self._append(self._ended(event, state, failure))

    def _ended(self, event: Suggested, state: State, failure: str | None) -> Ended:
        """The end of a trial; constraints bind those at full budget."""
        last = self._last.get(event.trial_id)
        missed = violations(self.sweep.constraints, last.metrics, self._anchors) if last and state == "COMPLETE" else {}
        return Ended(
            at=self.history.clock(),
            trial_id=event.trial_id,
            state=state,
            epoch=last.epoch if last else 0,
            failure=failure,
            violations=missed,
        )

    def _write(self, ends: Iterable[Ended]) -> None:
        for end in ends:
            self._append(end)

    def _node(self, trial_id: str) -> str:
        """The node of what Ray runs; "" where that is not known, or not yet."""
        if not self._nodes.get(trial_id) and self.folder:
            self._nodes[trial_id] = node_of(self.folder / "trials" / self.live[trial_id].trial_id)
        return self._nodes.get(trial_id, "")

    def _next(self) -> Suggested | None:
        while True:
            if event := self._waiting():
                return event
            proposal = self.agenda.next()
            if isinstance(proposal, Proposal):
                return self._suggest(proposal)
            if self.live or not self.agenda.unended:
                return None
            if kept := self.streaks.release():
                self._write(kept)
                continue
            for event in list(self.agenda.unended.values()):  # paused, and nobody can promote them any more
                self.end(event, "PRUNED")

    def _waiting(self) -> Suggested | None:
        """A trial that has been suggested and is to go on: it was interrupted, or is promoted now."""
        while self._interrupted:
            event = self._interrupted.popleft()
            if event.trial_id in self.paused:
                continue
            if event.trial_id in self._taken_up and not isinstance(self.history.of(event.trial_id)[-1], Resumed):
                cause = "the sweep was taken up again"
                self._append(Resumed(at=self.history.clock(), trial_id=event.trial_id, why="driver", cause=cause))
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
            self.full = str(error)
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
                self._journal.begin(told, **attributes(event))
        elif isinstance(event, Ended):
            if self.rungs:
                self.rungs.end(event.trial_id)
            if event.trial_id in self._told:  # of several ends the first is told
                last = self._last.pop(event.trial_id, None)
                told = ended_as(self._told.pop(event.trial_id), event, last, self.sweep)
                self.proposals.end(told)
                if self._journal:
                    self._journal.end(told)

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
            at, metrics, seconds = self.history.clock(), finite(metrics_of(result)), result["seconds"]
            self._append(Epoch(at=at, trial_id=trial_id, epoch=result["epoch"], metrics=metrics, seconds=seconds))
