"""Sweeps on a real Ray cluster of this machine, while parts of it are killed at random: what is lost, what is wrong.

Each run draws its faults from its seed: of which kinds (a node, a worker, the driver, the tracking server; `kill -9`
each), and after how many epochs of the sweep. What was killed is started again. A run ends when the sweep has; its
records are compared with the settings that they are of, and its front with that of a sweep without faults. The trials
are in closed form, the sampler is random and nobody is stopped, so that a trial is a function of its number alone.

    python benchmarks/chaos.py [RUNS] [--seed N]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # the harness is that of the tests

from orchestrator.config import SweepConfig
from orchestrator.events import Epoch
from orchestrator.ledger import read_records
from orchestrator.results.front import front_of
from tests import clusters
from tests.clusters import Cluster, cluster, waited
from tests.simulate import simulate

KINDS = ("node", "worker", "driver", "server")
TRIALS, FAULTS = 16, (2, 5)


def strike(kind: str, here: Cluster, sweep: SweepConfig, folder: Path) -> bool:
    """Kills one thing; what has to be there is started again. Returns whether there was one."""
    if kind == "node":
        here.lose_node(here.nodes[-1])
        here.add_node()
    elif kind == "worker":
        return clusters.kill_worker(folder) != ""
    elif kind == "driver":
        clusters.kill(here.drivers.pop())
        here.start_driver(sweep)
    else:
        here.lose_server()
        here.start_server()
    return True


def run(here: Cluster, output: Path, seed: int) -> dict[str, int | str]:
    """One sweep with the faults of a seed; a row of the table."""
    rng, began = np.random.default_rng(seed), time.monotonic()
    sweep, folder = clusters.cluster_sweep(TRIALS), output / "small"
    epochs = TRIALS * sweep.trial.epochs
    kinds = [str(kind) for kind in rng.choice(KINDS, rng.integers(*FAULTS))]
    times = sorted(int(number) for number in rng.integers(1, int(0.9 * epochs), len(kinds)))
    output.mkdir()
    here.output = output
    here.start_driver(sweep)
    struck: Counter[str] = Counter()
    for kind, after in zip(kinds, times, strict=True):
        waited(lambda after=after: done(folder) >= after or here.drivers[-1].poll() is not None, f"{after} epochs")
        if here.drivers[-1].poll() is None:
            struck[kind] += strike(kind, here, sweep, folder)
    code = here.drivers.pop().wait(clusters.PATIENCE)
    found = read_records(folder)
    ids = Counter(record.trial_id for record in found)
    undisturbed = output / "undisturbed"
    undisturbed.mkdir()
    simulate(sweep, undisturbed, workers=1).close()
    return {
        "seed": seed,
        **{kind: struck[kind] for kind in KINDS},
        "epochs run twice": sum(clusters.run_again(folder).values()),
        "lost records": TRIALS - len(ids),
        "duplicates": sum(count - 1 for count in ids.values()),
        "wrong states": len(clusters.wrong_states(folder, sweep)),
        "front": "equal" if front(folder, sweep) == front(undisturbed, sweep) else "differs",
        "exit code": code,
        "seconds": round(time.monotonic() - began),
    }


def done(folder: Path) -> int:
    """Epochs that the ledger has."""
    return sum(isinstance(event, Epoch) for event in clusters.events_of(folder))


def front(folder: Path, sweep: SweepConfig) -> list[tuple[str, dict[str, float]]]:
    """The front: trials and their metrics."""
    return sorted((each.trial_id, each.metrics) for each in front_of(read_records(folder), sweep.objectives))


def main(runs: int, seed: int) -> int:
    """Prints the table as Markdown; returns 1 where something was lost or wrong."""
    rows: list[dict[str, int | str]] = []
    with tempfile.TemporaryDirectory() as scratch, cluster(Path(scratch), seconds=0.2) as here:
        here.start_server()
        for number in range(runs):
            rows.append(run(here, Path(scratch, str(number)), seed + number))
            if number == 0:
                print("| " + " | ".join(rows[0]) + " |\n" + "|---" * len(rows[0]) + "|")
            print("| " + " | ".join(str(value) for value in rows[-1].values()) + " |", flush=True)
    numbers = [name for name in rows[0] if name not in ("seed", "front", "exit code")]
    sums = {name: sum(int(row[name]) for row in rows) for name in numbers}
    equal = sum(row["front"] == "equal" for row in rows)
    words = {
        "seed": "all",
        "front": f"{equal} of {runs} equal",
        "exit code": max(int(row["exit code"]) for row in rows),
    }
    print("| " + " | ".join(str((sums | words)[name]) for name in rows[0]) + " |")
    fine = equal == runs and not any(sums[name] for name in ("lost records", "duplicates", "wrong states"))
    return 0 if fine and words["exit code"] == 0 else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="kills parts of a cluster at random")
    parser.add_argument("runs", type=int, nargs="?", default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    raise SystemExit(main(arguments.runs, arguments.seed))
