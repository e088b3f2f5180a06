"""What MLflow costs: a sweep's events sent as ours are, a trial at a time in batches, beside one call per metric.

The second is what a logger callback does that calls `log_metric` for each value; it is run on fewer trials of the same
shape, since it takes so long. Both go to stores of the same kind, fresh ones, one after the other.

    python benchmarks/tracking.py [--trials 1000] [--epochs 10] [--metrics 20] [--one-by-one 10] [--uri URI]

`--uri` is a server or a database, for instance postgresql://USER@HOST/NAME; by default a SQLite file.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import mlflow

from orchestrator.config import SweepConfig
from orchestrator.events import Ended, Epoch, Suggested, SweepInfo
from orchestrator.ledger import Ledger, read_events
from orchestrator.tracking.tracker import sync


def run_folder(place: Path, name: str, uri: str, shape: tuple[int, int, int]) -> Path:
    """A run folder whose trials have ended, each with so many epochs of so many metrics."""
    trials, epochs, metrics = shape
    folder = place / name
    folder.mkdir()
    sweep = SweepConfig(name=name)
    info = SweepInfo(
        name=name,
        benchmark="throughput",
        config=sweep.model_dump(mode="json"),
        objectives=dict(sweep.objectives),
        reference_point=sweep.worst(),
        fingerprint="0" * 16,
        data="data",
        model="model",
        tracking_uri=uri,
        git_commit=None,
        versions={},
        created=time.time(),
    )
    (folder / "sweep.json").write_text(info.model_dump_json())
    config = sweep.trial.model_dump(mode="json")
    lines = []
    for number in range(trials):
        trial_id, at = f"{number:05d}", info.created + number
        events = [Suggested(at=at, trial_id=trial_id, number=number, label=None, params={}, config=config,
                            fingerprint=trial_id, seed=0)]  # fmt: skip
        for epoch in range(1, epochs + 1):
            values = {f"forget.metric_{index}": number / (epoch + index) for index in range(metrics - 2)}
            values |= {"forget.extraction_strength": number / trials, "retain.extraction_strength": 1 - 1 / epoch}
            events.append(Epoch(at=at + epoch, trial_id=trial_id, epoch=epoch, metrics=values, seconds=1.0))
        events.append(Ended(at=at + epochs + 1, trial_id=trial_id, state="COMPLETE", epoch=epochs, failure=None))
        lines += [event.model_dump_json() + "\n" for event in events]
    (folder / "ledger.jsonl").write_text("".join(lines))
    Ledger(folder).close()  # derives trials.jsonl
    return folder


def ours(folder: Path, uri: str) -> int:
    """Sends a run folder; returns how many metric points that were."""
    return sync(folder, uri).points


def one_by_one(folder: Path, uri: str) -> int:
    """Sends the metrics of a run folder's trials, a call each; returns how many."""
    client = mlflow.MlflowClient(uri)
    experiment, runs, count = client.create_experiment(f"one by one {time.time_ns()}"), {}, 0
    for event in read_events(folder):
        if isinstance(event, Suggested):
            runs[event.trial_id] = client.create_run(experiment).info.run_id
        elif isinstance(event, Epoch):
            for name, value in event.metrics.items():
                client.log_metric(runs[event.trial_id], name, value, step=event.epoch)
                count += 1
    return count


def timed(send: Callable[[Path, str], int], folder: Path, uri: str) -> float:
    """Points a second; prints what it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    count = send(folder, uri)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(
        f"{folder.name}: {count} points in {wall:.1f} s, {cpu:.1f} s of this process's CPU: {count / wall:.0f} a second"
    )
    return count / wall


def main() -> None:
    """Prints points a second of both, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"trials": 1000, "epochs": 10, "metrics": 20, "one-by-one": 10}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--uri", help="a server or a database; by default a SQLite file")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        uri = given.uri or f"sqlite:///{place}/mlflow.db"
        os.chdir(place)  # artifacts of a database without a server go below it
        mlflow.MlflowClient(uri).search_experiments()  # makes the tables, which takes seconds, once
        whole = (given.trials, given.epochs, given.metrics)
        few = (given.one_by_one, given.epochs, given.metrics)
        batches = timed(ours, run_folder(Path(place), "in-batches", uri, whole), uri)
        calls = timed(one_by_one, run_folder(Path(place), "one-call-each", uri, few), uri)
    print(f"{batches / calls:.1f} times the points a second of one call per metric")


if __name__ == "__main__":
    main()
