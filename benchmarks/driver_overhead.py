"""What a driver adds to trials of a known length: ours, beside Ray Tune with OptunaSearch and its MLflow callback.

    python benchmarks/driver_overhead.py [--seconds 2 10] [--trials 24] [--workers 2] [--epochs 8]

Trials sleep, so that neither side computes anything: an epoch of each takes the same time. Both record 8 metrics an
epoch in a SQLite MLflow store of their own, propose by Optuna's TPE over the same space and let every trial run to its
end. Counted is the time from when each slot has ended an epoch (all have started and imported by then) to the beginning
of the last trial (after that slots run dry): slots times that time, over the time spent in epochs meanwhile, less 1.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import ray
from ray import tune
from rich.console import Console

from orchestrator.cluster import ENVIRONMENT
from orchestrator.config import SweepConfig
from orchestrator.sweep import run_sweep
from trials.benchmarks import load_benchmark
from trials.config import TrialConfig
from trials.result import EpochResult

OBJECTIVES = ["forget.extraction_strength", "retain.extraction_strength"]
METRICS = [f"forget.metric_{number}" for number in range(6)] + OBJECTIVES


def epochs_of(place: str, seconds: float, epochs: int, beta1: float) -> Iterator[dict[str, float]]:
    """Sleeps through each epoch, and notes when it began and ended; `place` is a folder of such notes."""
    note = Path(place) / f"{os.getpid()}-{time.time_ns()}.jsonl"
    for epoch in range(epochs):
        began = time.time()
        time.sleep(seconds / epochs)
        with note.open("a") as file:
            file.write(json.dumps([began, time.time()]) + "\n")
        yield {name: beta1 / (epoch + number + 1) for number, name in enumerate(METRICS)}


def overhead(notes: Path, workers: int) -> float:
    """Slots x time over the time in epochs, less 1, in the window told above."""
    trials = [[json.loads(line) for line in file.read_text().splitlines()] for file in notes.iterdir()]
    begin, end = sorted(trial[0][1] for trial in trials)[workers - 1], max(trial[0][0] for trial in trials)
    busy = sum(max(0.0, min(end, b) - max(begin, a)) for trial in trials for a, b in trial)
    return workers * (end - begin) / busy - 1


def ours(place: Path, notes: Path, given: argparse.Namespace, seconds: float) -> None:
    """A sweep of ours."""
    epochs = given.epochs

    def trial(config: TrialConfig, *, folder: Path, resume_from: Path | None = None) -> Iterator[EpochResult]:
        beta1: Any = getattr(config.loss.criterion, "beta1", 1.0)
        for number, metrics in enumerate(epochs_of(str(notes), seconds, epochs, beta1), 1):
            yield EpochResult(number, metrics, seconds / epochs, number == epochs)

    space = {"loss.criterion.beta1": {"float": [0.1, 10]}}
    sweep = SweepConfig.model_validate(
        {
            "name": "ours",
            "trial": {"epochs": epochs, "loss": {"criterion": {"type": "saturation", "beta1": 1.0}}},
            "space": space,
            "scheduler": {"type": "none"},
            "budget": {"trials": given.trials, "concurrent": given.workers},
        }
    )
    benchmark = load_benchmark(sweep.trial.benchmark)
    run_sweep(sweep, benchmark, output=place, trial=trial, console=Console(quiet=True))


def plain(place: Path, notes: Path, given: argparse.Namespace, seconds: float) -> None:
    """Ray Tune as its pages have it, with warm workers or without."""
    from ray.air.integrations.mlflow import MLflowLoggerCallback
    from ray.tune.search.optuna import OptunaSearch

    epochs = given.epochs

    def trainable(config: dict[str, float]) -> None:
        for metrics in epochs_of(str(notes), seconds, epochs, config["beta1"]):
            tune.report(metrics)

    search = OptunaSearch(metric=OBJECTIVES, mode=["min", "max"], seed=0)
    callback = MLflowLoggerCallback(tracking_uri=f"sqlite:///{place}/mlflow.db", experiment_name="plain")
    tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1}),
        param_space={"beta1": tune.uniform(0.1, 10)},
        tune_config=tune.TuneConfig(
            search_alg=search,
            num_samples=given.trials,
            max_concurrent_trials=given.workers,
            reuse_actors=given.reuse,
        ),
        run_config=tune.RunConfig(storage_path=str(place), name="plain", callbacks=[callback], verbose=0),
    ).fit()


def main() -> None:
    """Runs each in turn and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, nargs="+", default=[2.0, 10.0], help="of a trial")
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=8)
    given = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)
    os.environ.update(ENVIRONMENT)
    sides = {"ours": (ours, True), "Ray Tune, reuse_actors": (plain, True), "Ray Tune": (plain, False)}
    print(f"{given.trials} trials of {given.epochs} epochs, {given.workers} workers", flush=True)
    for seconds in given.seconds:
        for name, (run, given.reuse) in sides.items():
            with tempfile.TemporaryDirectory() as place:
                notes = Path(place, "notes")
                notes.mkdir()
                if run is plain:
                    slots = {"num_cpus": given.workers, "include_dashboard": False, "log_to_driver": False}
                    ray.init("local", logging_level=logging.ERROR, **slots)
                run(Path(place), notes, given, seconds)
                ray.shutdown()
                found = overhead(notes, given.workers)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            says = f"{100 * found:.1f} % on top; this process had {peak:.0f} MiB at the most"
            print(f"{seconds:g}-second trials, {name}: {says}", flush=True)


if __name__ == "__main__":
    main()
