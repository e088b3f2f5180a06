"""Trials an hour: warm workers against the habit, with the same model, data, epochs and metrics.

The habit: a process for each trial that imports, loads and trains, then another that loads the checkpoint and evaluates
it metric by metric. It measures next to nothing while it trains (one metric of the forget set); ours measures all of
them after every epoch, as early stopping needs. Both run the same core, one trial at a time, so that only the habit
differs, and the last metrics are compared.

    python benchmarks/trial_throughput.py [--trials 12] [--epochs 8] [--set trial.benchmark.authors=40 ...]
    python benchmarks/trial_throughput.py --device cuda --dtype bfloat16 --model 1B [--benchmark FOLDER OF TOFU FILES]

The second form runs a model of that shape with random weights on as many rows as TOFU's forget10 has, or on those rows:
it takes the time of a real one, and learns nothing. The target model is measured outside the clock, for both. Disk: the
optimiser's state of a trial twice (of 1B 30 GB), and a checkpoint for each trial (2.5 GB).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shapes import add_model_options, rows_of, save_model

from orchestrator.config import load_sweep
from search_spaces.space import with_paths
from trials.config import TrialConfig

LEAST = {"evaluation.metrics": ["forget.nll"]}


def train(config: TrialConfig, folder: Path) -> dict[str, float]:
    """A trial; returns its last metrics."""
    import torch

    from trials.unlearn import run_trial

    torch.set_num_threads(1)
    *_, last = run_trial(config, folder=folder)
    return last.metrics


def evaluate(config: TrialConfig, folder: Path) -> dict[str, float]:
    """Metrics of a trial's checkpoint, one after the other, each with passes of its own."""
    import torch

    from trials.benchmarks import load_benchmark
    from trials.measuring import evaluator_for, latest_checkpoint
    from trials.models import load_tokenizer, load_unlearned, material_of
    from trials.naming import named
    from trials.target import prepare

    torch.set_num_threads(1)
    benchmark = load_benchmark(config.benchmark)
    target, place = prepare(config, benchmark, "target"), latest_checkpoint(folder / "checkpoint")
    if place is None:
        raise FileNotFoundError(folder)
    model = load_unlearned(config, place, target)
    material = material_of(load_tokenizer(target, config.model), model, benchmark, config.model)
    evaluator = evaluator_for(config, material)
    found: dict[str, float] = {}
    for name in named(config.evaluation.metrics):
        found |= {key: value for key, value in evaluator.log(model, [name]).values.items() if key == name}
    return found


def run(what: str, configs: Sequence[TrialConfig], folders: Sequence[Path]) -> list[dict[str, float]]:
    """Does it in a fresh process, for these trials in turn; returns metrics and seconds of each."""
    work = [[config.model_dump(mode="json"), str(folder)] for config, folder in zip(configs, folders, strict=True)]
    command = [sys.executable, str(Path(__file__).resolve()), "--do", what]
    done = subprocess.run(command, input=json.dumps(work), capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def work(what: str) -> None:
    """In such a process."""
    for raw, folder in json.loads(sys.stdin.read()):
        config = TrialConfig.model_validate(raw)
        print(json.dumps((train if what == "train" else evaluate)(config, Path(folder))), flush=True)


def shaped(given: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Settings of a trial of the model of a shape, which is made."""
    rows = rows_of(given.benchmark)
    save_model(place / "model", given.model, rows, given.dtype)
    os.environ["UNLEARN_SWEEP_CACHE"] = str(place / "cache")  # nobody asks for what is measured of this model again
    return {
        "benchmark": rows.model_dump(mode="json"),
        "model.path": str(place / "model"),
        "model.device": given.device,
        "model.dtype": given.dtype,
        "optim.batch_size": given.batch_size,
    }


def main() -> None:
    """Runs both ways and prints trials an hour, their ratio, and how far the metrics differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--file", default="smoke", help="sweep file whose trial is run")
    parser.add_argument("--set", action="append", default=[])
    add_model_options(parser, model=None)
    parser.add_argument("--do", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.do:
        work(given.do)
        return
    if not given.model and (given.device, given.dtype, given.benchmark) != ("cpu", "float32", None):
        parser.error("--device, --dtype and --benchmark go with --model; without it, say --set trial.model.device=cuda")
    with tempfile.TemporaryDirectory() as place:
        sweep, _ = load_sweep(
            given.file, [f"trial.epochs={given.epochs}", "scheduler.type=none", *given.set], output=Path(place)
        )
        raw = sweep.trial.model_dump(mode="json")
        if given.model:
            raw = with_paths(raw, shaped(given, Path(place)))
        changes = [{"optim.lr": 1e-4 * (1 + number), "seed": number} for number in range(given.trials)]
        configs = [TrialConfig.model_validate(with_paths(raw, change)) for change in changes]
        # The target model is trained and measured outside the clock.
        run("train", [configs[0].model_copy(update={"epochs": 1})], [Path(place, "first")])
        folders = [Path(place, f"habit-{number}") for number in range(given.trials)]
        training, evaluating = 0.0, 0.0
        habit = []
        for config, folder in zip(configs, folders, strict=True):
            started = time.perf_counter()
            least = TrialConfig.model_validate(with_paths(config.model_dump(mode="json"), LEAST))
            run("train", [least], [folder])
            trained = time.perf_counter()
            habit += run("evaluate", [config], [folder])
            training += trained - started
            evaluating += time.perf_counter() - trained
            shutil.rmtree(folder)
        started = time.perf_counter()
        ours = run("train", configs, [Path(place, f"ours-{number}") for number in range(given.trials)])
        seconds = time.perf_counter() - started
    worst = max(abs(a[name] - b[name]) for a, b in zip(habit, ours, strict=True) for name in a)
    hourly = [3600 * given.trials / spent for spent in (seconds, training + evaluating)]
    shape = f"; {given.model}, {given.dtype}, {given.device}" if given.model else ""
    print(
        f"{given.trials} trials of {given.epochs} epochs, {len(habit[0])} metrics; {given.file} {' '.join(given.set)}"
        f"{shape}"
    )
    print(f"habit: {hourly[1]:.0f} trials an hour ({training:.1f} s of training, {evaluating:.1f} s of evaluation)")
    print(f"ours:  {hourly[0]:.0f} trials an hour ({seconds:.1f} s, one cold start included)")
    print(f"ratio: {hourly[0] / hourly[1]:.2f}; metrics differ by {worst:.1e} at the most")


if __name__ == "__main__":
    main()
