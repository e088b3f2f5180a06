"""What a sweep would cost, before it runs: no torch, no Ray, no GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orchestrator.config import SweepConfig
from orchestrator.events import SweepInfo, records
from orchestrator.ledger import read_events
from orchestrator.rungs import rung_epochs
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
    """

    rungs: dict[int, float]
    epochs_at_most: int
    epochs_expected: float
    concurrent: int | None
    seconds_an_epoch: float | None

    @property
    def hours(self) -> float | None:
        """Expected wall time, where earlier records tell."""
        if self.seconds_an_epoch is None or self.concurrent is None:
            return None
        return self.epochs_expected * self.seconds_an_epoch / self.concurrent / 3600


def make_plan(sweep: SweepConfig, benchmark: Benchmark | None, output: Path) -> Plan:
    """Counts what a sweep would run."""
    epochs, trials, baselines = sweep.trial.epochs, sweep.budget.trials, len(sweep.baselines)
    searched = trials - baselines
    stops = rung_epochs(sweep.scheduler, epochs)
    factor = getattr(sweep.scheduler, "reduction_factor", 1)
    reaching = {rung: baselines + searched / factor**index for index, rung in enumerate(stops)}
    ends = [*stops, epochs]
    expected = baselines * epochs + sum(
        searched / factor**index * (end - begin)
        for index, (begin, end) in enumerate(zip([0, *stops], ends, strict=True))
    )
    return Plan(
        reaching | {epochs: baselines + searched / factor ** len(stops)},
        trials * epochs,
        expected,
        _concurrent(sweep),
        _seconds_an_epoch(sweep, benchmark, output) if benchmark else None,
    )


def _concurrent(sweep: SweepConfig) -> int | None:
    if sweep.budget.concurrent:
        return sweep.budget.concurrent
    if sweep.resources.gpu or os.environ.get("RAY_ADDRESS"):
        return None
    return max(1, int((os.cpu_count() or 1) / sweep.resources.cpu))


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


def show_plan(sweep: SweepConfig, plan: Plan, console: Console) -> None:
    """Prints a plan."""
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
    table = Table("epoch", "trials expected to get there", title=f"rungs ({sweep.scheduler.type})")
    for epoch, trials in plan.rungs.items():
        table.add_row(str(epoch), f"{trials:.1f}")
    console.print(table)
    at_once = "as many as the cluster carries" if plan.concurrent is None else str(plan.concurrent)
    if lacking := absence(sweep.trial):
        console.print(lacking, markup=False)
    console.print(f"objectives: {', '.join(f'{name} {way}' for name, way in sweep.objectives.items())}")
    console.print(f"{sweep.budget.trials} trials, at once: {at_once}, seed {sweep.sampler.seed} ({sweep.sampler.type})")
    saved = 1 - plan.epochs_expected / plan.epochs_at_most
    console.print(
        f"epochs: {plan.epochs_at_most} at most, about {plan.epochs_expected:.0f} expected ({saved:.0%} saved)"
    )
    if plan.hours is not None:
        time = f"{plan.hours:.1f} hours" if plan.hours >= 1.5 else f"{max(plan.hours * 60, 1):.0f} minutes"
        console.print(f"about {time}, at {plan.seconds_an_epoch:.2g} s an epoch as in earlier sweeps here")
    else:
        console.print("hours: not known before a sweep on this benchmark and model has run here")
