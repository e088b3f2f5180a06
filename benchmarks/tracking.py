"""What MLflow costs: a sweep's events sent as ours are, a trial at a time in batches, beside one call per metric.

The second is what a logger callback does that calls `log_metric` for each value; it is run on fewer trials of the same
shape, since it takes so long, and what the whole would take is extrapolated. All go to one store, one after the other:

1. one call per metric, on a sample of the trials;
2. afterwards: `sync` of a run folder that has all events;
3. live: the events come at a pace, as from running trials, and the tracker's thread sends them; a second between looks.

    python benchmarks/tracking.py [--trials 1000] [--epochs 10] [--metrics 20] [--pace 100]
                                  [--afterwards 1000] [--one-by-one 10] [--uri URI]

`--uri` is a server or a database, for instance postgresql://USER@HOST/NAME. By default a server is started on this
machine, without a login, with PostgreSQL behind it where that is installed (that of the tests), else SQLite.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import mlflow
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))  # the server is that of the tests

from orchestrator.config import SweepConfig
from orchestrator.events import Ended, Epoch, Event, Suggested, SweepInfo
from orchestrator.ledger import Ledger, read_events
from orchestrator.tracking.tracker import Tracker, sync
from tests.servers import postgres, postgres_missing, tracking_server

SLOTS = 16
"""Trials that run at the same time, live."""


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


def as_they_ran(events: list[Event]) -> list[Event]:
    """The events of trials one after the other, in an order in which `SLOTS` trials run at a time."""
    trials: dict[str, list[Event]] = {}
    for event in events:
        if isinstance(event, Suggested | Epoch | Ended):
            trials.setdefault(event.trial_id, []).append(event)
    waiting, running, found = list(trials.values())[::-1], list[list[Event]](), list[Event]()
    while waiting or running:
        while waiting and len(running) < SLOTS:
            running.append(waiting.pop()[::-1])
        found += [trial.pop() for trial in running]
        running = [trial for trial in running if trial]
    return found


def live(folder: Path, uri: str, pace: float) -> None:
    """Hands a tracker the events of a run folder at a pace of epochs a second; prints how far behind it was."""
    events = as_they_ran(read_events(folder))
    (folder / "ledger.jsonl").write_text("")  # they come one by one
    process, tracker, behind = psutil.Process(), Tracker(folder, uri), list[int]()
    resident, cpu, began, epochs = process.memory_info().rss, process.cpu_times(), time.perf_counter(), 0
    look = began
    for event in events:
        epochs += isinstance(event, Epoch)
        time.sleep(max(0.0, began + epochs / pace - time.perf_counter()))
        tracker(event)
        if time.perf_counter() >= look:
            behind.append(tracker.backlog)
            look += 1.0
    fed = time.perf_counter() - began
    whole = tracker.finish(1800.0)
    wall, used = time.perf_counter() - began, process.cpu_times()
    busy = used.user + used.system - cpu.user - cpu.system
    second = sorted(behind[len(behind) // 2 :])
    print(
        f"live: {len(events)} events, {epochs / fed:.0f} epochs a second, for {fed:.0f} s; the store had everything "
        f"{wall - fed:.1f} s later ({'whole' if whole else 'NOT WHOLE'})\n"
        f"live: events not yet sent, at most {max(behind)}, median of the second half {second[len(second) // 2]}; "
        f"{100 * busy / wall:.0f} % of a core; memory {resident / 2**20:.0f} -> "
        f"{process.memory_info().rss / 2**20:.0f} MiB"
    )


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


@contextlib.contextmanager
def server() -> Iterator[str]:
    """A server on this machine, and what is behind it."""
    with contextlib.ExitStack() as stack:
        missing = postgres_missing()
        database = None if missing else stack.enter_context(postgres())
        print(
            f"MLflow server on this machine, {f'SQLite behind it ({missing})' if missing else 'PostgreSQL behind it'}"
        )
        yield stack.enter_context(tracking_server(database, login=False)).uri


def main() -> None:
    """Prints points a second of both, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {
        "trials": 1000,
        "epochs": 10,
        "metrics": 20,
        "pace": 100,
        "afterwards": 1000,
        "one-by-one": 10,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--uri", help="a server or a database; by default a server that is started for this")
    given = parser.parse_args()
    print(f"load of the machine at the start: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        place = Path(name)
        uri = given.uri or stack.enter_context(server())
        os.chdir(place)  # artifacts of a database without a server go below it
        mlflow.MlflowClient(uri).search_experiments()  # makes the tables, which takes seconds, once
        each = (given.epochs, given.metrics)
        calls = timed(one_by_one, run_folder(place, "one-call-each", uri, (given.one_by_one, *each)), uri)
        points = given.trials * given.epochs * given.metrics
        print(f"{given.trials} trials so, EXTRAPOLATED from {given.one_by_one}: {points / calls:.0f} s")
        batches = timed(ours, run_folder(place, "in-batches", uri, (given.afterwards, *each)), uri)
        print(f"{batches / calls:.1f} times the points a second of one call per metric", flush=True)
        live(run_folder(place, "live", uri, (given.trials, *each)), uri, given.pace)
        os.chdir("/")
    print(f"load of the machine at the end: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
