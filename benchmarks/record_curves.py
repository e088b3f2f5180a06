"""Records learning curves of `tofu_tiny`'s space: random configurations and the baselines, to the full budget, twice.

The second time with another seed of the trials and the same configurations. About an hour a seed on two cores; a
recording that was interrupted goes on where it was.

    python benchmarks/record_curves.py --tofu DIR [--runs DIR]       # runs the sweeps, writes curves/
    python benchmarks/record_curves.py --from RUN_FOLDER RUN_FOLDER  # writes it from finished ones
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from orchestrator.rehearsal.curve_files import read_curves, write_curves

TARGET = Path(__file__).parent / "curves" / "tofu_tiny.parquet"
METRICS = [f"{rows}.{name}" for rows in ("forget", "retain")
           for name in ("extraction_strength", "exact_memorization", "probability", "nll")]  # fmt: skip


def record(tofu: Path, runs: Path, seeds: range) -> list[Path]:
    """Runs one sweep a seed; returns their run folders."""
    folders = []
    for seed in seeds:
        settings = {
            "name": f"curves_seed{seed}",
            "trial.benchmark.path": tofu.resolve(),
            "trial.evaluation.metrics": f"[{','.join(METRICS)}]",
            "trial.seed": seed,
            "sampler": "{type: random, seed: 0}",
            "scheduler": "{type: none}",
            "budget.trials": 510,
        }
        arguments = [word for path, value in settings.items() for word in ("--set", f"{path}={value}")]
        command = [
            str(Path(sys.executable).with_name("unlearn-sweep")),
            "run",
            "tofu_tiny",
            "--output",
            str(runs),
            *arguments,
        ]
        subprocess.run(command, check=True)
        folders.append(runs / f"curves_seed{seed}")
    return folders


def main() -> None:
    """Records, or reads what was recorded, and writes one file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--tofu", type=Path, help="folder of TOFU's files")
    source.add_argument("--from", dest="folders", type=Path, nargs="+", help="run folders, one a seed")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where run folders go")
    given = parser.parse_args()
    curves = read_curves(*(given.folders or record(given.tofu, given.runs, range(2))))
    TARGET.parent.mkdir(exist_ok=True)
    write_curves(curves, TARGET)
    print(
        f"{TARGET}: {curves.configurations} configurations, seeds {curves.seeds}, {TARGET.stat().st_size / 1e3:.0f} kB"
    )


if __name__ == "__main__":
    main()
