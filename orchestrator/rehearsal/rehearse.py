"""How a sweep would go, before it runs: its strategy beside others on recorded curves, at equal epochs.

Each strategy is simulated several times, with other random numbers each time. What is compared is the hypervolume of
the full-budget trials that had ended when so many epochs had been evaluated, whoever ran them.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from orchestrator import pareto
from orchestrator.config import SweepConfig
from orchestrator.events import Suggested
from orchestrator.problems import ConfigError, Problem, did_you_mean
from orchestrator.rehearsal.anytime import FRACTIONS, RANDOM, Row, Run, epochs_in_words, run_of, table_of
from orchestrator.rehearsal.curves import Curves
from orchestrator.rehearsal.plan import Forecast
from orchestrator.rehearsal.recordings import in_words
from orchestrator.rehearsal.simulator import simulate
from orchestrator.results.intervals import t_interval
from orchestrator.search.config import ASHA, NSGA2, TPE, Budget, NoScheduler, ParetoASHA, Random

THIS = "this file"

STRATEGIES: dict[str, dict[str, Any]] = {
    RANDOM: {"sampler": Random(), "scheduler": NoScheduler()},
    "tpe": {"sampler": TPE(), "scheduler": NoScheduler()},
    "nsga2": {"sampler": NSGA2(), "scheduler": NoScheduler()},
    "random+halving": {"sampler": Random(), "scheduler": ParetoASHA()},
    "tpe+halving": {"sampler": TPE(), "scheduler": ParetoASHA()},
    "tpe+pausing": {"sampler": TPE(), "scheduler": ParetoASHA(promotion="pause")},
    "tpe+asha": {"sampler": TPE(), "scheduler": ASHA()},
}
"""What a sweep can be compared with: name -> its sampler and scheduler."""


@dataclass(frozen=True)
class Rehearsal:
    """Strategies at equal epochs.

    Attributes:
        rows: Of each strategy.
        epochs: At which they are compared.
        gpus: Simulated.
        repeats: Of each strategy.
        source: What was recorded, in words.
    """

    rows: list[Row]
    epochs: int
    gpus: int
    repeats: int
    source: str


def rehearse(
    sweep: SweepConfig,
    curves: Curves,
    *,
    repeats: int = 20,
    gpus: int = 8,
    strategies: Iterable[str] = (RANDOM, "tpe", "nsga2", "tpe+halving"),
) -> Rehearsal:
    """Simulates a sweep as its file has it, and others with as many epochs."""
    names = list(dict.fromkeys([RANDOM, *strategies]))
    with workers() as pool:
        own = simulate_often(pool, alone(sweep), curves, repeats, gpus)
        epochs = round(float(np.mean([run.epochs for run in own])))
        runs = {THIS: own}
        for name in names:
            runs[name] = simulate_often(pool, at_equal_epochs(sweep, STRATEGIES[name], epochs), curves, repeats, gpus)
    worst = pareto.oriented([sweep.worst()], sweep.objectives)[0]
    return Rehearsal(table_of(runs, sweep.objectives, worst, epochs), epochs, gpus, repeats, in_words(curves))


def alone(sweep: SweepConfig) -> SweepConfig:
    """A sweep's search without what comes before and after it: earlier sweeps and confirmations."""
    return sweep.model_copy(update={"warm_start": (), "confirm": None})


def at_equal_epochs(sweep: SweepConfig, strategy: Mapping[str, Any], epochs: int) -> SweepConfig:
    """A sweep with another strategy, that ends by epochs alone."""
    budget = Budget(trials=max(epochs, 1), epochs=max(epochs, 1))
    return alone(sweep).model_copy(update={"phases": (), "budget": budget, **strategy})


def workers() -> Executor:
    """Processes to simulate in, one a core; what they need is imported once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["orchestrator.rehearsal.simulator"])
    return ProcessPoolExecutor(os.cpu_count(), mp_context=context)


def simulate_often(pool: Executor, sweep: SweepConfig, curves: Curves, repeats: int, gpus: int) -> list[Run]:
    """Repeats of one strategy, each with seeds of its own."""
    return list(pool.map(partial(simulate_once, sweep, curves, gpus=gpus), range(repeats), chunksize=1))


def simulate_once(sweep: SweepConfig, curves: Curves, repeat: int, *, gpus: int) -> Run:
    """One simulated sweep: `repeat` is added to the seeds of its samplers and to the trials' own."""
    seeded = sweep.model_copy(
        update={
            "sampler": _reseeded(sweep.sampler, repeat),
            "phases": tuple(
                phase.model_copy(update={"sampler": _reseeded(phase.sampler, repeat)}) for phase in sweep.phases
            ),
            "trial": sweep.trial.model_copy(update={"seed": sweep.trial.seed + repeat}),
        }
    )
    started = time.perf_counter()
    history = simulate(seeded, curves_of(curves), gpus=gpus, anchors=curves.recording.anchors)
    return run_of(history.events, sweep.objectives, time.perf_counter() - started)


def curves_of(curves: Curves) -> Callable[[Suggested], Any]:
    """What a trial will do: the curve of the nearest configuration."""
    return lambda trial: curves.nearest(trial.params, trial.config, trial.seed)


def _reseeded(sampler: Any, repeat: int) -> Any:
    return sampler.model_copy(update={"seed": sampler.seed + repeat})


def forecast(sweep: SweepConfig, curves: Curves, *, gpus: int, repeats: int = 6) -> Forecast:
    """What a sweep will come to, from few rehearsals."""
    with workers() as pool:
        runs = simulate_often(pool, alone(sweep), curves, repeats, gpus)
    worst = pareto.oriented([sweep.worst()], sweep.objectives)[0]
    points = [pareto.oriented([metrics for _, metrics in run.found], sweep.objectives) for run in runs]
    epochs = [float(run.epochs) for run in runs]
    return Forecast(
        t_interval(epochs),
        t_interval([1 - run.epochs / (sum(run.states.values()) * sweep.trial.epochs) for run in runs]),
        t_interval([pareto.hypervolume(each, worst) for each in points]),
        t_interval([float(pareto.front(each).sum()) for each in points]),
        repeats,
        in_words(curves),
    )


def named_strategies(words: str) -> list[str]:
    """Strategies by their names, with commas between them.

    Raises:
        ConfigError: One is none.
    """
    names = [name.strip() for name in words.split(",") if name.strip()]
    problems = [
        Problem("--strategies", f"{name!r} is not known{did_you_mean(name, STRATEGIES)}")
        for name in names
        if name not in STRATEGIES
    ]
    if problems:
        raise ConfigError("rehearse", problems)
    return names


def show_rehearsal(found: Rehearsal, notes: Sequence[str], console: Console) -> None:
    """Prints a table of strategies.

    Args:
        found: What to print.
        notes: What else to say of the recording: where the sweep's trials differ from it.
        console: Where to.
    """
    console.print(f"Rehearsed on recorded curves, not run: {found.source}.", markup=False)
    for note in notes:
        console.print(f"differs: {note}", markup=False)
    title = f"hypervolume; {found.repeats} repeats, {found.epochs} epochs, {found.gpus} simulated GPUs"
    table = Table("strategy", title=title)
    for share in FRACTIONS:
        table.add_column(f"{share:.0%}", justify="right")
    for heading in ("epochs to random's", "full", "decisions/s"):
        table.add_column(heading, justify="right")
    for row in found.rows:
        table.add_row(
            row.name,
            *(f"{mean:.4f} ± {high - mean:.4f}" for mean, _, high in row.hypervolume),
            epochs_in_words(row.reached, found.epochs),
            f"{row.full:.1f}",
            f"{row.rate:.0f}",
        )
    console.print(table)
    console.print(
        "Mean and 95 % interval, of the full-budget trials that had ended by then; epochs until the mean is what "
        "random has at 100 %; full: trials to the full budget.",
        markup=False,
    )
