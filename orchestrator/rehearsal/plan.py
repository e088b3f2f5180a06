"""What a sweep would cost, before it runs: no torch, no Ray, no GPU."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orchestrator.config import SweepConfig
from orchestrator.events import SweepInfo, records
from orchestrator.ledger import read_events
from orchestrator.rehearsal.anytime import Interval
from orchestrator.resources import AUTO
from orchestrator.search.config import Ablation, replicates_of
from orchestrator.search.rungs import rung_epochs
from orchestrator.trial_checks import absence
from trials.benchmarks import Benchmark
from trials.presets import PRESETS


@dataclass(frozen=True)
class Plan:
    """The bill of a sweep.

    Attributes:
        rungs: Epoch of each rung -> trials expected to reach it.
        epochs_at_most: Epochs if nothing is stopped.
        epochs_expected: Epochs if each rung lets one in `reduction_factor` go on, baselines all the way.
        concurrent: Trials at once on this machine; None when that is for the cluster to say.
        seconds_an_epoch: Mean of earlier sweeps on the same benchmark and model; None without any.
        confirm_epochs: Epochs at most of those who are run again when the search has ended; not of the budget.
    """

    rungs: dict[int, float]
    epochs_at_most: int
    epochs_expected: float
    concurrent: int | None
    seconds_an_epoch: float | None
    confirm_epochs: int = 0

    @property
    def hours(self) -> float | None:
        """Expected wall time, where earlier records tell; with confirmations."""
        if self.seconds_an_epoch is None or self.concurrent is None:
            return None
        return (self.epochs_expected + self.confirm_epochs) * self.seconds_an_epoch / self.concurrent / 3600


@dataclass(frozen=True)
class Forecast:
    """What a sweep did when it was rehearsed on recorded curves; each a mean over repeats and its 95 % interval.

    Attributes:
        epochs: Evaluated.
        saved: Part of the epochs that its trials would have taken to the full budget.
        hypervolume: Of the front.
        front: Trials on the front.
        repeats: Of the rehearsal.
        source: What was recorded, in words.
    """

    epochs: Interval
    saved: Interval
    hypervolume: Interval
    front: Interval
    repeats: int
    source: str


def make_plan(sweep: SweepConfig, benchmark: Benchmark | None, output: Path) -> Plan:
    """Counts what a sweep would run."""
    epochs, trials = sweep.trial.epochs, sweep.budget.trials
    protected = min(trials, len(sweep.baselines) * sweep.replicates + _ablated(sweep))
    reaching = defaultdict(float, {epochs: float(protected)})
    expected = float(protected * epochs)
    brackets = getattr(sweep.scheduler, "brackets", 1)
    factor = getattr(sweep.scheduler, "reduction_factor", 1)
    for bracket in range(brackets):
        stops, left = rung_epochs(sweep.scheduler, epochs, bracket), (trials - protected) / brackets
        for begin, end in pairwise([0, *stops, epochs]):
            expected += left * (end - begin)
            reaching[end] += left
            left /= factor
    for rung in reaching:
        if rung < epochs:
            reaching[rung] += protected
    share = 1.0
    if sweep.budget.epochs:
        share = min(1.0, sweep.budget.epochs / expected)
    return Plan(
        {epoch: reaching[epoch] * share for epoch in sorted(reaching)},
        trials * epochs,
        expected * share,
        _concurrent(sweep),
        _seconds_an_epoch(sweep, benchmark, output) if benchmark else None,
        _confirmed(sweep) * epochs,
    )


def _ablated(sweep: SweepConfig) -> int:
    """Trials of ablations, as far as the file says how many."""
    return sum(phase.trials or 0 for phase in sweep.search_phases if isinstance(phase.sampler, Ablation))


def _confirmed(sweep: SweepConfig) -> int:
    """Trials at most that confirm the front and the published settings."""
    if sweep.confirm is None:
        return 0
    return sweep.confirm.seeds * (sweep.confirm.at_most + len(sweep.baselines) * sweep.confirm.published)


def _concurrent(sweep: SweepConfig) -> int | None:
    if sweep.budget.concurrent:
        return sweep.budget.concurrent
    if sweep.resources.gpu or os.environ.get("RAY_ADDRESS"):
        return None
    return max(1, int((os.cpu_count() or 1) / sweep.resources.cpu)) * sweep.resources.pack


def _seconds_an_epoch(sweep: SweepConfig, benchmark: Benchmark, output: Path) -> float | None:
    data, model = sweep.digests(benchmark)
    seconds, epochs = 0.0, 0
    for folder, info in earlier_sweeps(output):
        if (info.data, info.model) == (data, model):
            for record in records(read_events(folder)):
                seconds, epochs = seconds + record.seconds, epochs + record.epoch
    return seconds / epochs if epochs else None


def earlier_sweeps(output: Path) -> Iterator[tuple[Path, SweepInfo]]:
    """The run folders of an output folder; what is not one (of this version) is passed over."""
    for file in sorted(output.glob("*/sweep.json")):
        try:
            info = SweepInfo.read(file.parent)
        except ValidationError:
            continue
        if (file.parent / "trials.jsonl").exists():
            yield file.parent, info


def show_plan(sweep: SweepConfig, plan: Plan, console: Console, forecast: Forecast | None = None) -> None:
    """Prints a plan, and what a rehearsal says of it."""
    words = escape(f"{sweep.trial.benchmark.name}  {sweep.description}".rstrip())
    console.print(f"[bold]{sweep.name}[/bold] on {words}")
    space = sweep.search_space
    size = space.size()
    table = Table("path", "values", "only where", title="space")
    for parameter in space.parameters:
        when = ", ".join(f"{path} is {' or '.join(map(str, values))}" for path, values in parameter.when.items())
        table.add_row(parameter.path, escape(str(parameter.domain)), escape(when))
    console.print(table)
    console.print(f"{len(space.parameters)} parameters, {'a continuum of' if size is None else size} points")
    if sweep.baselines:
        table = Table("baseline", "source", title="published settings, first and to the full budget")
        for label in sweep.baselines:
            table.add_row(label, PRESETS[label][1])
        console.print(table)
    _show_search(sweep, plan, console)
    saved = 1 - plan.epochs_expected / plan.epochs_at_most
    console.print(
        f"epochs: {plan.epochs_at_most} at most, about {plan.epochs_expected:.0f} expected ({saved:.0%} saved)"
    )
    if plan.confirm_epochs:
        who = f"{_confirmed(sweep)} trials at most, fresh seeds of the front"
        console.print(f"confirmation: {plan.confirm_epochs} epochs on top of the budget ({who})")
    if plan.hours is not None:
        time = f"{plan.hours:.1f} hours" if plan.hours >= 1.5 else f"{max(plan.hours * 60, 1):.0f} minutes"
        console.print(f"about {time}, at {plan.seconds_an_epoch:.2g} s an epoch as in earlier sweeps here")
    else:
        console.print("hours: not known before a sweep on this benchmark and model has run here")
    if forecast is not None:
        _show_forecast(forecast, console)


def _show_search(sweep: SweepConfig, plan: Plan, console: Console) -> None:
    """What proposes, what stops, and when it ends."""
    table = Table("epoch", "trials expected to get there", title=f"rungs ({sweep.scheduler.type})")
    for epoch, trials in plan.rungs.items():
        table.add_row(str(epoch), f"{trials:.1f}")
    console.print(table)
    if sweep.phases:
        table = Table("phase", "sampler", "trials at most", "seeds of a point", title="one after the other")
        for number, phase in enumerate(sweep.phases, start=1):
            most = str(phase.trials) if phase.trials else "what is left"
            seeds = str(replicates_of(phase, sweep.replicates))
            table.add_row(str(number), f"{phase.sampler.type}, seed {phase.sampler.seed}", most, seeds)
        console.print(table)
    at_once = "as many as the cluster carries" if plan.concurrent is None else str(plan.concurrent)
    if sweep.resources.gpu == AUTO:
        most = f", {plan.concurrent} at most" if plan.concurrent else ""
        at_once = f"as many as fit{most}: a probe measures the memory of one before the first starts"
    if lacking := absence(sweep.trial):
        console.print(lacking, markup=False)
    console.print(f"objectives: {', '.join(f'{name} {way}' for name, way in sweep.objectives.items())}")
    for name, bound in sweep.constraints.items():
        console.print(f"constraint: {name} {bound}", markup=False)
    proposes = "phases" if sweep.phases else f"seed {sweep.sampler.seed} ({sweep.sampler.type})"
    seeds = f", {sweep.replicates} seeds a point" if sweep.replicates > 1 else ""
    console.print(f"{sweep.budget.trials} trials{seeds}, at once: {at_once}, {proposes}")
    limits = [
        f"{value:g} {name}" for name in ("epochs", "hours", "gpu_hours") if (value := getattr(sweep.budget, name))
    ]
    if limits:
        console.print(f"or, if that is sooner: {', '.join(limits)}; what runs then is finished")
    if sweep.warm_start:
        console.print(f"earlier sweeps, whose trials are not run again: {', '.join(sweep.warm_start)}", markup=False)


def _show_forecast(forecast: Forecast, console: Console) -> None:
    console.print(f"forecast, {forecast.repeats} rehearsals on recorded curves, {forecast.source}:", markup=False)
    for words, (mean, low, high), form in (
        ("epochs", forecast.epochs, ".0f"),
        ("saved by stopping", forecast.saved, ".0%"),
        ("hypervolume of the front", forecast.hypervolume, ".4f"),
        ("trials on the front", forecast.front, ".1f"),
    ):
        console.print(f"  {words}: {mean:{form}} ({low:{form}} to {high:{form}})", markup=False)
