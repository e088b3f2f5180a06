"""Does the search find the front sooner? Strategies on recorded curves, at equal epochs, on a simulated clock.

- random: independent draws, nobody stopped; nsga2: genetic, nobody stopped
- ray: Ray's own OptunaSearch and AsyncHyperBandScheduler on the first objective, the real objects
- syne tune: its MOASHA over random draws, by fronts as it comes and by a weighted sum, where it is installed
- ours: the searcher and the rungs of this repository: as a file without `scheduler` has it, and in other ways
- gp: Gaussian processes, nobody stopped; this and MOASHA by fronts run only where `--only gp,MOASHA` asks for them

All run without baselines and are driven by one event loop. What counts is the hypervolume of the full-budget trials
that had ended when so many epochs had been evaluated, against two reference points: the worst corner, and half of what
the target remembers with four fifths of what it retains, where the box of the first is nearly full after a few trials.

    python benchmarks/search.py [--curves FILE] [--repeats 20] [--first 0] [--epochs 1600] [--gpus 8] [--json FILE]

Settings of ours were chosen on repeats from 100 on; what is reported uses repeats from 0.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rivals import rival

from orchestrator import pareto
from orchestrator.config import SweepConfig
from orchestrator.rehearsal.anytime import FRACTIONS, RANDOM, Run, epochs_in_words, run_of, table_of
from orchestrator.rehearsal.curve_files import read_curves
from orchestrator.rehearsal.curves import Curves
from orchestrator.rehearsal.rehearse import STRATEGIES, at_equal_epochs, curves_of, simulate_once
from orchestrator.search.config import GP, TPE, NoScheduler, ParetoASHA

CURVES = Path(__file__).parent / "curves" / "tofu_tiny.parquet"
OURS: dict[str, dict[str, Any]] = {
    "ours: default": STRATEGIES["tpe+halving"],
    "ours: pausing": STRATEGIES["tpe+pausing"],
    "ours: nobody stopped": STRATEGIES["tpe"],
    "gp": {"sampler": GP(), "scheduler": NoScheduler()},
    "ours: rungs from epoch 2": {"sampler": TPE(), "scheduler": ParetoASHA(grace_period=2)},
}
MOASHA = "syne tune: MOASHA"
DEAR = ("gp", MOASHA)
"""Run only where `--only` asks for them: a proposal of the one and a decision of the other take seconds."""

TIGHT = (0.5, 0.8)
"""Second reference point: the first objective, and the second as a part of the target's."""


def sweep_of(curves: Curves) -> SweepConfig:
    """The sweep that was recorded, without baselines."""
    recording = curves.recording
    trial = recording.trial | {"benchmark": recording.trial["benchmark"] | {"path": "recorded", "hub": "recorded"}}
    return SweepConfig.model_validate({"name": recording.name, "trial": trial, "space": recording.space})


def ours(curves: Curves, changes: dict[str, Any], epochs: int, gpus: int, repeat: int) -> Run:
    """One repeat of a strategy of this repository."""
    return simulate_once(at_equal_epochs(sweep_of(curves), changes, epochs), curves, repeat, gpus=gpus)


def theirs(curves: Curves, name: str, epochs: int, gpus: int, repeat: int) -> Run:
    """One repeat of somebody else's."""
    sweep = at_equal_epochs(sweep_of(curves), {}, epochs)
    started = time.perf_counter()
    history = rival(name, sweep, curves_of(curves), gpus=gpus, seed=repeat)
    return run_of(history.events, sweep.objectives, time.perf_counter() - started)


def strategies(curves: Curves, epochs: int, gpus: int) -> dict[str, Callable[[int], Run]]:
    """Name -> what makes one repeat of it."""
    own = {RANDOM: STRATEGIES[RANDOM], "nsga2": STRATEGIES["nsga2"], **OURS}
    found: dict[str, Callable[[int], Run]] = {n: partial(ours, curves, s, epochs, gpus) for n, s in own.items()}
    found["ray: OptunaSearch + ASHA"] = partial(theirs, curves, "ray", epochs, gpus)
    if importlib.util.find_spec("syne_tune"):
        found[MOASHA] = partial(theirs, curves, "moasha", epochs, gpus)
        found[f"{MOASHA}, weighted"] = partial(theirs, curves, "moasha, weighted", epochs, gpus)
    return found


def main() -> None:
    """Prints a table for each reference point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curves", type=Path, nargs="+", default=[CURVES])
    parser.add_argument("--only", default="", help="strategies whose name has one of these words, with commas between")
    for name, default in {"repeats": 20, "first": 0, "epochs": 1600, "gpus": 8}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    curves = read_curves(*given.curves)
    runs: dict[str, list[Run]] = {}
    with ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("forkserver")) as pool:
        for name, once in strategies(curves, given.epochs, given.gpus).items():
            asked = any(word in name for word in given.only.split(",")) if given.only else name not in DEAR
            if name == RANDOM or asked:
                runs[name] = list(pool.map(once, range(given.first, given.first + given.repeats)))
    sweep = sweep_of(curves)
    first, second = sweep.objectives
    points = {
        "the worst corner": sweep.worst(),
        f"{first} {TIGHT[0]}, {second} {TIGHT[1]} of the target's": {
            first: TIGHT[0],
            second: TIGHT[1] * curves.recording.anchors["target"][second],
        },
    }
    console = Console(width=140)
    console.print(f"{given.repeats} repeats, {given.epochs} epochs, {given.gpus} GPUs; mean and 95 % interval")
    for words, point in points.items():
        table = Table("strategy", title=f"hypervolume against {words}")
        for heading in (*(f"{share:.0%}" for share in FRACTIONS), "epochs to random's", "full-budget", "trials"):
            table.add_column(heading)
        rows = table_of(runs, sweep.objectives, pareto.oriented([point], sweep.objectives)[0], given.epochs)
        for row in rows:
            volumes = (f"{mean:.4f} ± {high - mean:.4f}" for mean, _, high in row.hypervolume)
            trials = sum(sum(run.states.values()) for run in row.runs) / len(row.runs)
            reached = epochs_in_words(row.reached, given.epochs)
            table.add_row(row.name, *volumes, reached, f"{row.full:.0f}", f"{trials:.0f}")
        console.print(table)
    if given.json:
        given.json.write_text(json.dumps({name: [run.__dict__ for run in own] for name, own in runs.items()}))


if __name__ == "__main__":
    main()
