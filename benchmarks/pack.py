"""Trials of a pack against one after the other: LoRA trials of one target model, whole epochs with evaluation.

For each k the same k trials run one by one and then as a pack; both give the same metrics, which is checked. What is
timed is their epochs with checkpoints, not the start of a process or the making of adapters. On the CPU the model is
the embedded one, untrained, and time is that of the processor on one thread: other work beside it does not count. On a
GPU the model has the shape of one of that size, with random weights, and time is wall time.

    python benchmarks/pack.py --k 1 2 4 8 16
    python benchmarks/pack.py --device cuda --dtype bfloat16 --model 1B [--benchmark FOLDER OF TOFU FILES]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from shapes import add_model_options, rows_of, save_model

from trials.config import TrialConfig
from trials.models import workspace
from trials.packing import Pack
from trials.result import TrialFailed
from trials.sources import AuthorsConfig, BenchmarkConfig
from trials.unlearn import Trial


def benchmark_of(options: argparse.Namespace) -> BenchmarkConfig:
    """The rows: a small set, so that many trials end soon, where no folder is given."""
    return rows_of(options.benchmark) if options.benchmark else AuthorsConfig()


def trial(folder: Path, options: argparse.Namespace, seed: int) -> TrialConfig:
    """One of the trials: criterion, rate, betas and seed differ."""
    criterion = ({"type": "satimp", "beta1": 0.5 + seed / 8}, {"type": "npo", "beta": 0.1}, {"type": "simnpo"})[
        seed % 3
    ]
    return TrialConfig.model_validate(
        {
            "benchmark": benchmark_of(options).model_dump(),
            "model": {
                "path": str(folder),
                "device": options.device,
                "dtype": options.dtype,
                "adapter": {"type": "lora", "rank": options.rank},
            },
            "loss": {"criterion": criterion},
            "optim": {"lr": 1e-4 * (1 + seed), "batch_size": options.batch_size},
            "epochs": options.epochs,
            "seed": seed,
        }
    )


def clock(config: TrialConfig) -> float:
    """Seconds."""
    return time.process_time() if config.model.device == "cpu" else time.perf_counter()


def one_by_one(configs: list[TrialConfig], folder: Path) -> tuple[float, list[dict[str, float]]]:
    """Seconds of all epochs, and each trial's last metrics."""
    warm, seconds, ends = workspace(configs[0]), 0.0, []
    for index, config in enumerate(configs):
        with warm.fresh(config) as model:
            trial = Trial(config, warm, model)
            for _ in range(config.epochs):
                started = clock(config)
                result = trial.run_epoch()
                trial.save(folder / str(index) / "checkpoint", result)
                seconds += clock(config) - started
            ends.append(result.metrics)
    return seconds, ends


def as_pack(configs: list[TrialConfig], folder: Path) -> tuple[float, list[dict[str, float]]]:
    """The same in a pack."""
    pack = Pack(configs[0])
    for index, config in enumerate(configs):
        pack.join(str(index), config, folder / str(index))
    seconds = 0.0
    for _ in range(configs[0].epochs):
        started = clock(configs[0])
        results = pack.run_epoch()
        seconds += clock(configs[0]) - started
    ends = []
    for index in range(len(configs)):
        result = results[str(index)]
        if isinstance(result, TrialFailed):
            raise result
        ends.append(result.metrics)
        pack.leave(str(index))
    return seconds, ends


def main() -> None:
    """Prints a line for each k."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--k", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="trials of a pack")
    add_model_options(parser)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=2)
    options = parser.parse_args()
    if options.device == "cpu":
        torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        save_model(folder / "model", options.model, benchmark_of(options), options.dtype)
        configs = [trial(folder / "model", options, seed) for seed in range(max(options.k))]
        one_by_one(configs[:1], folder / "warm-up")
        as_pack(configs[:2], folder / "warm-up too")
        print("  k  alone /h  packed /h  ratio  largest difference of a metric")
        for k in options.k:
            alone, expected = one_by_one(configs[:k], folder / f"alone {k}")
            together, found = as_pack(configs[:k], folder / f"packed {k}")
            worst = max(abs(f[name] - e[name]) for f, e in zip(found, expected, strict=True) for name in e)
            print(
                f"{k:3}  {3600 * k / alone:8.0f}  {3600 * k / together:9.0f}  {alone / together:5.2f}  {worst:.1e}",
                flush=True,
            )


if __name__ == "__main__":
    main()
