"""Trials an hour with 1 to n workers on one machine, by whole sweeps, and what each worker adds.

    python benchmarks/scaling.py [--workers 1 2] [--trial real|sleep] [--set resources.gpu=1 ...]

Every sweep proposes, records in an MLflow store of its own and lets each trial run to its end; it has --trials for each
worker. `real` is the trial of the sweep file, whose target model is trained outside the clock; `sleep` computes
nothing, so what it loses is the driver's. Counted are epochs from when each worker has ended one (all have started and
imported by then) to the beginning of the last trial (after that workers run dry). Efficiency is trials an hour over
those of as many times the first figure; on a machine where all workers and the driver share the cores it tells of the
cores.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from rich.console import Console

from orchestrator.config import SweepConfig, load_sweep
from orchestrator.events import Epoch
from orchestrator.ledger import read_events
from orchestrator.prepare import prepare_models
from orchestrator.sweep import run_sweep
from orchestrator.worker import TrialFunction
from trials.config import TrialConfig
from trials.result import EpochResult


def sleeping(seconds: float) -> TrialFunction:
    """A trial of that length that computes nothing."""

    def trial(config: TrialConfig, *, folder: Path, resume_from: Path | None = None) -> Iterator[EpochResult]:
        metrics = {"forget.extraction_strength": config.optim.lr, "retain.extraction_strength": 1 - config.optim.lr}
        for epoch in range(1, config.epochs + 1):
            time.sleep(seconds / config.epochs)
            yield EpochResult(epoch, metrics, seconds / config.epochs, epoch == config.epochs)

    return trial


def hourly(epochs: Sequence[Epoch], workers: int, per_trial: int) -> tuple[float, float]:
    """Trials an hour in the window told above, and its seconds.

    Raises:
        ValueError: There is no such window: too few trials.
    """
    first = sorted((epoch for epoch in epochs if epoch.epoch == 1), key=lambda epoch: epoch.at)
    begin, end = first[workers - 1].at, max(epoch.at - epoch.seconds for epoch in first)
    if end <= begin:
        raise ValueError(f"{len(first)} trials are too few for {workers} workers; raise --trials")
    inside = sum(
        max(0.0, min(end, epoch.at) - max(begin, epoch.at - epoch.seconds)) / epoch.seconds for epoch in epochs
    )
    return 3600 * inside / per_trial / (end - begin), end - begin


def swept(given: argparse.Namespace, workers: int, place: Path) -> tuple[float, float]:
    """One sweep: as `hourly`."""
    settings = [f"budget.trials={given.trials * workers}", f"budget.concurrent={workers}", "scheduler.type=none"]
    settings += [f"trial.epochs={given.epochs}", "baselines=[]"]
    sweep, benchmark = load_sweep(given.file, [*settings, *given.set], output=place)
    trial = sleeping(given.seconds) if given.trial == "sleep" else None
    if trial is None:
        prepare_models(sweep.trial, sweep.digests(benchmark)[0], Console(quiet=True))
    run_sweep(sweep, benchmark, output=place, trial=trial, console=Console(quiet=True))
    return hourly(_epochs(sweep, place), workers, sweep.trial.epochs)


def _epochs(sweep: SweepConfig, place: Path) -> list[Epoch]:
    return [event for event in read_events(place / sweep.name) if isinstance(event, Epoch)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a line for each number of workers, and one of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--trials", type=int, default=10, help="for each worker")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--trial", choices=("real", "sleep"), default="real")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a trial that sleeps")
    parser.add_argument("--file", default="smoke", help="sweep file")
    parser.add_argument("--set", action="append", default=[])
    given = parser.parse_args(arguments)
    logging.getLogger().setLevel(logging.ERROR)
    words, first = [], 0.0
    for workers in given.workers:
        with tempfile.TemporaryDirectory() as place:
            found, seconds = swept(given, workers, Path(place))
        first = first or found / workers
        name = f"{workers} worker{'s' * (workers > 1)}"
        print(f"{name}: {given.trials * workers} trials of {given.epochs} epochs, window {seconds:.1f} s", flush=True)
        words.append(f"{name}: {found:.0f} trials/h ({100 * found / workers / first:.0f} %)")
    print("; ".join(words))


if __name__ == "__main__":
    main()
