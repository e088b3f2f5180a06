"""What a person sees while a sweep runs: a table on a terminal, one line per ended trial elsewhere."""

from __future__ import annotations

import shlex
import time
from collections import Counter
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.table import Table

from orchestrator.config import SweepConfig
from orchestrator.events import Ended, Epoch, Event, Record, Suggested, SweepInfo, records
from orchestrator.front import front_of, hypervolume_of

if TYPE_CHECKING:
    from orchestrator.sweep import Outcome

RECENT = 8


class SweepProgress:
    """A listener of the ledger that keeps the screen up to date.

    Args:
        sweep: Objectives, budget and epochs.
        console: Where to.
        history: Events of before, when a sweep goes on.
    """

    def __init__(self, sweep: SweepConfig, console: Console, history: list[Event]) -> None:
        self._sweep, self._console = sweep, console
        self._events = list(history)
        self._records = records(history)
        ended = {record.trial_id for record in self._records}
        self._running: dict[str, int] = {}
        self._labels = {event.trial_id: event.label for event in history if isinstance(event, Suggested)}
        self._before = len(ended)
        self._started = time.monotonic()
        self._live = Live(console=console, refresh_per_second=4, get_renderable=self._table)

    def __enter__(self) -> SweepProgress:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def __call__(self, event: Event) -> None:
        """Takes one event."""
        self._events.append(event)
        if isinstance(event, Suggested):
            self._running[event.trial_id] = 0
            self._labels[event.trial_id] = event.label
        elif isinstance(event, Epoch):
            self._running[event.trial_id] = event.epoch
        elif isinstance(event, Ended):
            self._running.pop(event.trial_id, None)
            self._records += records(e for e in self._events if getattr(e, "trial_id", None) == event.trial_id)
            if not self._console.is_terminal:
                self._console.print(self._line(self._records[-1]), highlight=False, soft_wrap=True)

    def _line(self, record: Record) -> str:
        values = "  ".join(
            f"{name} {record.metrics[name]:.3f}" for name in self._sweep.objectives if name in record.metrics
        )
        why = f"  {record.failure}" if record.failure else ""
        label = f" [{record.label}]".replace("[", r"\[") if record.label else ""
        return (
            f"{record.trial_id}{label}  {record.state.lower()} at epoch {record.epoch}  {values}{why}  "
            f"| {len(self._records)}/{self._sweep.budget.trials} trials, front {self._front()[0]}, "
            f"hypervolume {self._front()[1]:.4f}"
        )

    def _front(self) -> tuple[int, float]:
        front = front_of(self._records, self._sweep.objectives)
        return len(front), hypervolume_of(front, self._sweep.objectives, self._sweep.worst())

    def _table(self) -> Table:
        states = Counter(record.state for record in self._records)
        pending = self._sweep.budget.trials - len(self._records) - len(self._running)
        elapsed = time.monotonic() - self._started
        done = len(self._records) - self._before
        eta = _clock(elapsed / done * (pending + len(self._running))) if done else "?"
        size, volume = self._front()
        table = Table(
            title=f"{self._sweep.name}: running {len(self._running)} | done {states['COMPLETE']} | "
            f"pruned {states['PRUNED']} | failed {states['FAIL']} | pending {max(pending, 0)}",
            caption=f"elapsed {_clock(elapsed)}, about {eta} to go | front {size} | hypervolume {volume:.4f}",
        )
        table.add_column("trial")
        table.add_column("state")
        table.add_column("epoch", justify="right")
        for name in self._sweep.objectives:
            table.add_column(name, justify="right")
        for trial_id, epoch in self._running.items():
            table.add_row(
                self._name(trial_id),
                "running",
                f"{epoch}/{self._sweep.trial.epochs}",
                *self._latest(trial_id),
            )
        for record in self._records[: -RECENT - 1 : -1]:
            values = [f"{record.metrics[n]:.3f}" if n in record.metrics else "" for n in self._sweep.objectives]
            table.add_row(self._name(record.trial_id), record.state.lower(), str(record.epoch), *values, style="dim")
        return table

    def _name(self, trial_id: str) -> str:
        label = self._labels.get(trial_id)
        return f"{trial_id} {label}" if label else trial_id

    def _latest(self, trial_id: str) -> list[str]:
        for event in reversed(self._events):
            if isinstance(event, Epoch) and event.trial_id == trial_id:
                return [f"{event.metrics[n]:.3f}" if n in event.metrics else "" for n in self._sweep.objectives]
        return [""] * len(self._sweep.objectives)


def show_outcome(outcome: Outcome) -> int:
    """Prints how a sweep came out and where to look; returns the exit code."""
    console = Console(soft_wrap=True, highlight=False)
    folder = shlex.quote(str(outcome.folder))
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
    return 3 if report.failures else 0


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
