"""10,000 trials over 1,000 simulated GPUs: decisions a second, peak memory, and how the time of the report grows.

python benchmarks/scale.py [--trials 10000] [--gpus 1000] [--sampler tpe]
"""

from __future__ import annotations

import argparse
import math
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from orchestrator.config import SweepConfig
from orchestrator.events import Epoch, Event, Suggested, SweepInfo
from orchestrator.ledger import History
from orchestrator.rehearsal.curves import Curve
from orchestrator.rehearsal.simulator import simulate
from orchestrator.report.report import write_report

SPACE = {
    "loss.criterion": {"one_of": {"satimp": {"beta1": {"float": [0.5, 12]}, "beta2": {"float": [0, 1]}},
                                  "npo": {"beta": {"float": [0.05, 1], "log": True}}}},
    "loss.retain.coefficient": {"float": [0.2, 5], "log": True},
    "optim.lr": {"float": [1e-4, 1e-3], "log": True},
}  # fmt: skip


def sweep_of(trials: int, sampler: str) -> SweepConfig:
    """A sweep of two objectives and 8 epochs."""
    raw = {"name": "scale", "trial": {"epochs": 8}, "space": SPACE, "sampler": {"type": sampler}}
    return SweepConfig.model_validate(raw | {"budget": {"trials": trials}})


def source(trial: Suggested) -> Curve:
    """Curves in closed form: what forgets faster damages more, in part by chance."""
    push = trial.config["optim"]["lr"] * 2e3
    noise_E = np.random.default_rng(trial.number).normal(1, 0.05, 8)
    brake = 1 + trial.config["loss"]["retain"]["coefficient"]
    metrics = tuple(
        {
            "forget.extraction_strength": math.exp(-push * epoch * noise),
            "retain.extraction_strength": math.exp(-push * epoch * noise / brake / 4),
        }
        for epoch, noise in enumerate(noise_E.tolist(), start=1)
    )
    return Curve(trial.number, None, trial.seed, trial.params, metrics, (1.0 + trial.number % 11 / 10,) * 8)


def report_seconds(sweep: SweepConfig, events: list[Event], trials: int) -> float:
    """CPU time of `write_report` over so many of the trials."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, sweep.name)
        folder.mkdir()
        info = SweepInfo(
            name=sweep.name,
            benchmark="simulated",
            config=sweep.model_dump(mode="json"),
            objectives=sweep.objectives,
            reference_point=sweep.worst(),
            fingerprint="0" * 16,
            data="data",
            model="model",
            tracking_uri="",
            git_commit=None,
            versions={},
            created=0.0,
        )
        (folder / "sweep.json").write_text(info.model_dump_json())
        kept = [event for event in events if int(getattr(event, "trial_id", 0)) < trials]
        (folder / "ledger.jsonl").write_text("".join(event.model_dump_json() + "\n" for event in kept))
        started = time.process_time()
        write_report(folder, {})
        return time.process_time() - started


def main() -> None:
    """Runs the sweep and the reports, and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--gpus", type=int, default=1_000)
    parser.add_argument("--sampler", default="tpe")
    given = parser.parse_args()
    sweep = sweep_of(given.trials, given.sampler)
    marks: dict[int, float] = {}
    started, used = time.perf_counter(), time.process_time()

    def mark(history: History) -> bool:
        event = history.events[-1]
        if isinstance(event, Suggested) and (event.number + 1) % (given.trials // 8) == 0:
            marks[event.number + 1] = time.process_time() - used
        return False

    events = simulate(sweep, source, gpus=given.gpus, until=mark).events
    seconds, cpu = time.perf_counter() - started, time.process_time() - used
    epochs = sum(isinstance(event, Epoch) for event in events)
    print(f"{given.trials} trials, {given.gpus} GPUs, {given.sampler}: {epochs} epochs, {seconds:.0f} s, {cpu:.0f} CPU")
    print(f"{epochs / cpu:.0f} decisions and {given.trials / cpu:.0f} proposals a second of CPU")
    print("CPU by trials proposed: " + ", ".join(f"{count}: {at:.0f} s" for count, at in marks.items()))
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB")
    counts = [given.trials // 8, given.trials // 4, given.trials // 2, given.trials]
    times = [report_seconds(sweep, events, count) for count in counts]
    exponent = np.polyfit(np.log(counts), np.log(times), 1)[0]
    print("report, s CPU: " + ", ".join(f"{count}: {t:.1f}" for count, t in zip(counts, times, strict=True)))
    print(f"report grows with trials to the power of {exponent:.2f}")


if __name__ == "__main__":
    main()
