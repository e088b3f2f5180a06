"""What a trial costs on a cluster beyond its own time: a sweep of ours, and plain Ray Tune beside it.

A head and two nodes, each a process of this machine with two CPUs and token authentication: six trials at once. A trial
sleeps a known time an epoch. Ours proposes (tpe), keeps the ledger, sends MLflow (SQLite) and writes the report; plain
Tune has fixed settings, FIFO and no loggers. Both reuse workers. The best possible is trial seconds over slots; printed
are the wall time of the whole run, connected already, and that from the first trial's begin to the last one's end. A
short run of plain Tune goes first and is not counted: nodes that have just started are slow.

    python benchmarks/cluster_overhead.py [--trials 1000] [--epochs 2] [--seconds 0.5]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # the cluster is that of the tests

from ray import tune

from orchestrator.config import SweepConfig
from orchestrator.search.config import Budget
from tests.clusters import ROOT, Cluster, cluster, cluster_sweep
from tests.surrogate import result
from trials.config import TrialConfig
from trials.result import EpochResult

NODES, SLOTS = 3, 6
BUNDLE = {"CPU": 1.0, "GPU": 0.25}


def nap(times: Path) -> None:
    """An epoch: sleeps, and notes when; a file for each process, so that nobody waits for another."""
    began = time.time()
    time.sleep(float(os.environ["SURROGATE_SECONDS"]))
    with open(times / f"{os.uname().nodename}-{os.getpid()}.txt", "a") as file:
        file.write(f"{began} {time.time()}\n")


def trial(config: TrialConfig, *, folder: Path, resume_from: Path | None = None) -> Iterator[EpochResult]:
    """A trial of ours."""
    times = folder.parents[2] / "times"
    for epoch in range(1, config.epochs + 1):
        nap(times)
        yield result(config, epoch)


class Nap(tune.Trainable):
    """The same trial for Tune."""

    def setup(self, config: dict[str, Any]) -> None:
        """Begins a trial."""
        self._settings, self._epoch = config, 0

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begins the next one in the same process."""
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """An epoch."""
        self._epoch += 1
        nap(Path(self._settings["times"]))
        return {"loss": 0.5, "done": self._epoch == self._settings["epochs"]}


def run_ours(sweep: SweepConfig, output: Path) -> None:
    """A sweep of ours."""
    from rich.console import Console

    from orchestrator.sweep import run_sweep
    from trials.benchmarks import load_benchmark
    from trials.sources import AuthorsConfig

    run_sweep(sweep, load_benchmark(AuthorsConfig()), output=output, console=Console(quiet=True), trial=trial)


def run_tune(sweep: SweepConfig, output: Path) -> None:
    """As many trials by Tune alone."""
    os.environ |= {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "TUNE_MAX_PENDING_TRIALS_PG": str(SLOTS)}
    settings = {"times": str(output / "times"), "epochs": sweep.trial.epochs}
    tune.Tuner(
        tune.with_resources(Nap, tune.PlacementGroupFactory([BUNDLE])),
        param_space=settings,
        tune_config=tune.TuneConfig(num_samples=sweep.budget.trials, reuse_actors=True),
        run_config=tune.RunConfig(name="plain", storage_path=str(output), verbose=0),
    ).fit()


def drive(kind: str, settings: str, place: str) -> None:
    """Runs one of the two in this process and prints what it took, as JSON."""
    import psutil

    from orchestrator.cluster import connect

    output = Path(place)
    sweep = SweepConfig.model_validate_json(Path(settings).read_text(encoding="utf-8"))
    connect()
    began, cpu = time.time(), time.process_time()
    {"ours": run_ours, "tune": run_tune}[kind](sweep, output)
    wall, cpu = time.time() - began, time.process_time() - cpu
    print(json.dumps({"wall": wall, "cpu": cpu, "memory": psutil.Process().memory_info().rss / 2**20}))


def measured(here: Cluster, kind: str, sweep: SweepConfig, place: Path) -> dict[str, float]:
    """What a driver of this kind took, in a process of its own."""
    output = place / kind
    (output / "times").mkdir(parents=True)
    settings = place / "sweep.json"
    settings.write_text(sweep.model_dump_json())
    command = [sys.executable, "-m", "benchmarks.cluster_overhead", "--drive", kind, str(settings), str(output)]
    with open(output / "screen.txt", "w") as screen:
        environment = here.environment | {"RAY_ADDRESS": here.address}
        done = subprocess.run(command, env=environment, cwd=ROOT, stdout=screen, stderr=subprocess.STDOUT, check=False)
    said = (output / "screen.txt").read_text().splitlines()
    if done.returncode:
        raise RuntimeError("\n".join(said[-30:]))
    found = json.loads(next(line for line in reversed(said) if line.startswith('{"wall"')))
    naps = [line.split() for path in (output / "times").iterdir() for line in path.read_text().splitlines()]
    begins, ends = [float(nap[0]) for nap in naps], [float(nap[1]) for nap in naps]
    slept = sum(ends) - sum(begins)
    return dict(found) | {"epochs": len(naps), "best": slept / SLOTS, "window": max(ends) - min(begins)}


def main() -> None:
    """Prints the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0.5, help="what an epoch sleeps")
    parser.add_argument("--drive", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.drive:
        drive(*given.drive)
        return
    sweep = cluster_sweep(given.trials, trial={"epochs": given.epochs}, sampler={"type": "tpe"}, baselines=[])
    print(
        f"{given.trials} trials of {given.epochs} x {given.seconds} s, {NODES} nodes, {SLOTS} at a time; "
        f"load of the machine at the start {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n"
    )
    header = "driver|trial seconds / slots|whole run, s|over it|first begin to last end, s|over it"
    columns = [*header.split("|"), "ms a trial", "driver's CPU, s", "driver's memory at the end, MiB"]
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|", flush=True)
    with tempfile.TemporaryDirectory() as scratch, cluster(Path(scratch), NODES, given.seconds) as here:
        measured(here, "tune", sweep.model_copy(update={"budget": Budget(trials=2 * SLOTS)}), Path(scratch, "warm"))
        for kind, name in {"tune": "plain Ray Tune", "ours": "unlearn-sweep"}.items():
            found = measured(here, kind, sweep, Path(scratch))
            best, window = found["best"], found["window"]
            whole = [f"{best:.1f}", f"{found['wall']:.1f}", f"{found['wall'] / best:.2f}"]
            over = 1000 * (window - best) * SLOTS / given.trials
            steady = [f"{window:.1f}", f"{window / best:.2f}", f"{over:.0f}"]
            row = [name, *whole, *steady, f"{found['cpu']:.1f}", f"{found['memory']:.0f}"]
            print("| " + " | ".join(row) + " |", flush=True)
    print(f"\nload of the machine at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
