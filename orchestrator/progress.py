"""What a person sees while a sweep runs: a table on a terminal, one line per ended trial elsewhere."""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Collection, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table

from orchestrator.config import SweepConfig
from orchestrator.events import Ended, Epoch, Event, Record, Suggested, SweepInfo, record_of
from orchestrator.housekeeping import disk_of
from orchestrator.ledger import History, read_records
from orchestrator.remote import shown
from orchestrator.results.front import front_of, hypervolume_of
from orchestrator.search.spending import Spending

if TYPE_CHECKING:
    from orchestrator.sweep import Outcome

RECENT = 8
_ENDS = {"space": "every setting of the space has run", "phases": "all phases are through"}


class Search(Protocol):
    """What progress asks of the searcher."""

    @property
    def paused(self) -> Collection[str]:
        """trial_ids of those that wait for their promotion."""

    @property
    def exhausted(self) -> str | None:
        """Why nothing more is proposed; None while something is."""


class SweepProgress:
    """A listener of the ledger that keeps the screen up to date.

    Args:
        sweep: Objectives, budget and epochs.
        console: Where to.
        history: What happened before, when a sweep goes on; it goes on growing.
    """

    def __init__(self, sweep: SweepConfig, console: Console, history: History) -> None:
        self._sweep, self._console, self._history = sweep, console, history
        self._search: Search | None = None
        self._records = history.records()
        self._suggested: dict[str, Suggested] = {}
        self._latest: Suggested | None = None
        self._running: dict[str, Epoch | None] = {}
        self._paused: set[str] = set()
        self._spending = Spending(sweep.budget, sweep.resources)
        for event in history.events:
            self._take(event)
        self._running.clear()  # those of before are handed out again
        self._begin_stage()
        self._began = time.monotonic()
        self._exactly = sweep.runs_most_trials
        self._best = front_of(self._records, sweep.objectives)
        self._live = Live(console=console, refresh_per_second=4, get_renderable=self._table)

    def follow(self, search: Search) -> None:
        """Asks this searcher from here on: each round has one of its own."""
        self._search = search

    def __enter__(self) -> SweepProgress:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()
        if kind is None and self._search and (why := self._search.exhausted):
            self._console.print(f"the search has ended: {_ENDS.get(why, why)}", highlight=False, markup=False)

    def __call__(self, event: Event) -> None:
        """Takes one event."""
        confirming = self._confirming
        self._take(event)
        if self._confirming and not confirming:
            self._begin_stage()
        if self._search:
            self._paused = set(self._search.paused)
        if isinstance(event, Ended):
            self._records.append(record_of(self._history.of(event.trial_id)))
            self._best = front_of([*self._best, self._records[-1]], self._sweep.objectives)
            if not self._console.is_terminal:
                self._console.print(self._line(self._records[-1]), highlight=False, soft_wrap=True)

    def _take(self, event: Event) -> None:
        self._spending.take(event)
        if isinstance(event, Suggested):
            self._suggested[event.trial_id] = self._latest = event
            self._running[event.trial_id] = None
        elif isinstance(event, Epoch):
            self._running[event.trial_id] = event
        elif isinstance(event, Ended):
            self._running.pop(event.trial_id, None)

    # -- how far it is -----------------------------------------------------------------------------------------------

    @property
    def _confirming(self) -> bool:
        return self._latest is not None and self._latest.origin == "confirm"

    def _begin_stage(self) -> None:
        self._stage_began, self._share_before = time.monotonic(), self._share()

    def _share(self) -> float:
        """How much of the search, or of the confirmations, is through: by the budget that is nearest to its end."""
        if self._confirming:
            return self._ended("confirm") / max(1, self._confirmations())
        budget, spent = self._sweep.budget, self._spending
        paid = self._ended("baseline", "search", "ablation")
        shares = [paid / self._sweep.most_trials]
        shares += [spent.epochs / budget.epochs] if budget.epochs else []
        shares += [spent.hours(self._history.clock()) / budget.hours] if budget.hours else []
        shares += [spent.gpu_hours / budget.gpu_hours] if budget.gpu_hours else []
        return min(1.0, max(shares))

    def _ended(self, *origins: str) -> int:
        return sum(record.origin in origins for record in self._records)

    def _confirmations(self) -> int:
        """How many trials confirm candidates, at most."""
        confirm = self._sweep.confirm
        return confirm.seeds * (confirm.at_most + len(self._sweep.baselines) * confirm.published) if confirm else 0

    def _to_go(self) -> str:
        share = self._share() - self._share_before
        seconds = time.monotonic() - self._stage_began
        return _clock(seconds / share * (1 - self._share())) if share > 0 else "?"

    def _stage(self) -> str:
        """What is run now, as in `phase 2 of 3, ablation`."""
        latest, phases = self._latest, self._sweep.search_phases
        if latest is None or latest.origin in ("baseline", "earlier"):
            return "published settings" if self._sweep.baselines else phases[0].sampler.type
        if latest.phase is None:
            return f"confirming: {self._ended('confirm')} of up to {self._confirmations()} trials"
        place = f"phase {latest.phase + 1} of {len(phases)}, " if len(phases) > 1 else ""
        return f"{place}{phases[latest.phase].sampler.type}"

    def _spent(self) -> str:
        """What is used up of each limit, as in `26 of 64 trials, 210 of 900 epochs`."""
        budget, spent, sweep = self._sweep.budget, self._spending, self._sweep
        paid = self._ended("baseline", "search", "ablation")
        words = [f"{paid} of {'' if self._exactly else 'up to '}{sweep.most_trials} trials"]
        words += [f"{spent.epochs} of {budget.epochs} epochs"] if budget.epochs else []
        hours = spent.hours(self._history.clock())
        words += [f"{hours:.1f} of {budget.hours:g} hours"] if budget.hours else []
        words += [f"{spent.gpu_hours:.1f} of {budget.gpu_hours:g} GPU-hours"] if budget.gpu_hours else []
        return ", ".join(words)

    def _front(self) -> tuple[int, float]:
        """Size of the front, and its hypervolume."""
        return len(self._best), hypervolume_of(self._best, self._sweep.objectives, self._sweep.worst())

    # -- what is shown -----------------------------------------------------------------------------------------------

    def _line(self, record: Record) -> str:
        values = "  ".join(
            f"{name} {record.metrics[name]:.3f}" for name in self._sweep.objectives if name in record.metrics
        )
        why = f"  {record.failure}" if record.failure else ""
        name = self._name(record.trial_id, bracketed=True).replace("[", r"\[")
        size, volume = self._front()
        done = self._stage() if self._confirming else self._spent()
        return (
            f"{name}  {record.state.lower()} at epoch {record.epoch}  {values}{why}  "
            f"| {done}, front {size}, hypervolume {volume:.4f}"
        )

    def _table(self) -> Table:
        states = Counter(record.state for record in self._records)
        paused = self._paused
        running = [item for item in list(self._running.items()) if item[0] not in paused]
        size, volume = self._front()
        counts = {"running": len(running), "paused": len(paused), "done": states["COMPLETE"]}
        counts |= {"pruned": states["PRUNED"], "failed": states["FAIL"]}
        shown = " | ".join(f"{word} {count}" for word, count in counts.items() if count or word != "paused")
        elapsed = _clock(time.monotonic() - self._began)
        table = Table(
            title=f"{self._sweep.name}: {shown}",
            caption=f"{self._stage()} | {self._spent()}\n"
            f"elapsed {elapsed}, about {self._to_go()} to go | front {size} | hypervolume {volume:.4f}",
        )
        table.add_column("trial")
        table.add_column("state")
        table.add_column("epoch", justify="right")
        for name in self._sweep.objectives:
            table.add_column(name, justify="right")
        for trial_id, last in running:
            epoch = f"{last.epoch if last else 0}/{self._sweep.trial.epochs}"
            table.add_row(self._name(trial_id), "running", epoch, *self._values(last.metrics if last else {}))
        for record in self._records[: -RECENT - 1 : -1]:
            values = self._values(record.metrics)
            table.add_row(self._name(record.trial_id), record.state.lower(), str(record.epoch), *values, style="dim")
        return table

    def _values(self, metrics: Mapping[str, float]) -> list[str]:
        return [f"{metrics[name]:.3f}" if name in metrics else "" for name in self._sweep.objectives]

    def _name(self, trial_id: str, *, bracketed: bool = False) -> str:
        trial = self._suggested.get(trial_id)
        word = trial.label or (f"seed {trial.seed} of {trial.of}" if trial.of else trial.design) if trial else None
        return f"{trial_id} [{word}]" if word and bracketed else f"{trial_id} {word}" if word else trial_id


def show_outcome(outcome: Outcome) -> int:
    """Prints how a sweep came out and where to look; returns the exit code."""
    console = Console(soft_wrap=True, highlight=False)
    folder = shlex.quote(shown(outcome.folder))
    report = outcome.report
    objectives = SweepInfo.read(outcome.folder).objectives
    table = Table("trial", "label", title="the front")
    for name in objectives:
        table.add_column(name, justify="right", overflow="fold")
    for record in report.front:
        values = [f"{record.metrics[name]:.3f}" for name in objectives]
        knee = " (knee)" if report.knee and record.trial_id == report.knee.trial_id else ""
        table.add_row(record.trial_id + knee, record.label or "", *values)
    console.print(table if report.front else "no trial reached the full budget, so there is no front")
    states = ", ".join(f"{count} {state.lower()}" for state, count in report.counts.items())
    console.print(f"{states}; hypervolume {report.hypervolume:.4f}")
    for cause, count in report.failures.items():
        console.print(f"  {count} failed: {cause}", markup=False)
    console.print(f"report: {outcome.folder / 'report.html'}", markup=False)
    console.print(str(disk_of(outcome.folder, read_records(outcome.folder))), markup=False)
    if outcome.tracked:
        console.print(f"MLflow: unlearn-sweep ui {shlex.quote(str(outcome.folder.parent))}", markup=False)
        for title, link in outcome.links.items():
            console.print(f"  {title}: {link}", markup=False)
    else:
        console.print(
            f"the tracking server lacks some records; send them with: unlearn-sweep sync {folder}",
            markup=False,
        )
    if outcome.ended == "interrupted":
        console.print(f"interrupted; go on with: unlearn-sweep resume {folder}", markup=False)
        return 130
    if outcome.ended == "stopped":
        console.print(f"stopped early: nothing works, all trials failed alike: {outcome.why}", markup=False)
        console.print(f"mend that, then: unlearn-sweep resume {folder}; it runs them again", markup=False)
        return 3
    return 3 if report.failures else 0


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
