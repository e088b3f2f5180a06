"""Orchestration overhead: wall time of a sweep's trials x workers, over the time that the trials themselves report.

1.0 would mean that workers do nothing but train and evaluate. Two figures: over the whole command (start of Ray, two
cold workers importing torch, report and tracking included), and from the first epoch on, which is what stays when a
sweep grows. The target model is trained first, outside the clock.

    python benchmarks/overhead.py [FILE] [--set path=value ...]
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from orchestrator.config import load_sweep
from orchestrator.events import Epoch
from orchestrator.ledger import read_events
from orchestrator.prepare import prepare_models
from orchestrator.sweep import run_sweep


def main(file: str, settings: list[str]) -> None:
    """Runs the sweep once and prints both ratios."""
    with tempfile.TemporaryDirectory() as output:
        sweep, benchmark = load_sweep(file, ["budget.concurrent=2", *settings], output=Path(output))
        prepare_models(sweep.trial, sweep.digests(benchmark)[0], Console())
        started = time.time()
        run_sweep(sweep, benchmark, output=Path(output), console=Console(quiet=True))
        ended = time.time()
        epochs = [event for event in read_events(Path(output, sweep.name)) if isinstance(event, Epoch)]
    workers = sweep.budget.concurrent or 1
    busy = sum(epoch.seconds for epoch in epochs)
    # Each worker has just finished an epoch when its first result arrives: its time before that is not in the window.
    steady = sum(epoch.seconds for epoch in epochs[workers:])
    window = epochs[-1].at - epochs[workers - 1].at
    print(f"trials: {sweep.budget.trials}, workers: {workers}, epochs: {len(epochs)}, trial time: {busy:.1f} s")
    print(f"whole command:        {(ended - started) * workers / busy:.2f} ({ended - started:.1f} s wall)")
    print(f"from first epoch on:  {window * workers / steady:.2f} ({window:.1f} s wall)")


if __name__ == "__main__":
    arguments = [argument for argument in sys.argv[1:] if argument != "--set"]
    main(arguments[0] if arguments and "=" not in arguments[0] else "smoke", [a for a in arguments if "=" in a])
