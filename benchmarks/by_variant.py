"""Which variant of a choice reaches the better front, at an equal number of trials, seed by seed: a Markdown table.

    python benchmarks/by_variant.py runs/criteria_seed0 runs/criteria_seed1 --by loss.criterion.type
    python benchmarks/by_variant.py runs/smoothness_seed* --by loss.criterion.type loss.criterion.beta1:1,4

The second cuts a number at 1 and at 4: three variants of each criterion that has it.

Made for sweeps that draw at random and stop nothing (`sampler.type=random`, `scheduler.type=none`), where no variant is
favoured. Variants get unequal numbers of trials by chance, and a front grows with its trials: so a variant's
hypervolume is its mean over subsets of as many trials as the least drawn one has, all that there are or 300 of them.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.events import Record, SweepInfo
from orchestrator.results.front import hypervolume_of
from search_spaces.space import get_path

SUBSETS = 300
FORGOTTEN = 0.05  # extraction strength of the forget set


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, help="run folders of the same sweep at several seeds")
    parser.add_argument("--by", nargs="+", required=True, help="paths of what makes a variant, numbers with :cuts")
    options = parser.parse_args()
    seeds = [drawn_trials(run, options.by) for run in options.runs]
    names = sorted(set.intersection(*(set(groups) for groups in seeds)))
    smallest = min(len(groups[name]) for groups in seeds for name in names)
    info = SweepInfo.read(options.runs[0])
    print(f"{smallest} trials a variant and seed; hypervolume against {dict(info.reference_point)}\n")
    columns = [f"seed {index}" for index in range(len(seeds))]
    head = ["variant", "trials", "hypervolume, mean", *columns, f"best retain at forget <= {FORGOTTEN:g}, by seed"]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    rows = []
    for name in names:
        groups = [groups[name] for groups in seeds]
        volumes = [expected_volume(group, smallest, info) for group in groups]
        kept = ", ".join(best_retain(group) for group in groups)
        counts = " + ".join(str(len(group)) for group in groups)
        rows.append((float(np.mean(volumes)), [name, counts, *volumes], kept))
    for mean, (name, counts, *volumes), kept in sorted(rows, key=lambda row: -row[0]):
        print(f"| {name} | {counts} | {mean:.3f} | " + " | ".join(f"{each:.3f}" for each in volumes) + f" | {kept} |")


def drawn_trials(run: Path, paths: Sequence[str]) -> dict[str, list[Record]]:
    """Variant -> its trials at full budget; baselines, which nobody drew, are left out. Diverged ones are not there."""
    groups: dict[str, list[Record]] = {}
    for line in (run / "trials.jsonl").read_text(encoding="utf-8").splitlines():
        record = Record.model_validate(json.loads(line))
        config: dict[str, Any] = json.loads((run / "trials" / record.trial_id / "trial.json").read_text("utf-8"))
        if record.label is None and record.state == "COMPLETE":
            parts = [variant_of(config, path) for path in paths]
            groups.setdefault(", ".join(part for part in parts if part), []).append(record)
    return groups


def variant_of(config: dict[str, Any], path: str) -> str:
    """The value at a path, or the range between cuts that it lies in; empty where the trial has no such value."""
    path, _, cuts = path.partition(":")
    value = get_path(config, path)
    if value is None or not cuts:
        return "" if value is None else str(value)
    edges = [-np.inf, *map(float, cuts.split(",")), np.inf]
    low, high = next((low, high) for low, high in itertools.pairwise(edges) if low <= value < high)
    name = path.rpartition(".")[2]
    if np.isinf(low):
        return f"{name} < {high:g}"
    return f"{name} >= {low:g}" if np.isinf(high) else f"{low:g} <= {name} < {high:g}"


def expected_volume(group: Sequence[Record], size: int, info: SweepInfo) -> float:
    """Mean hypervolume of the fronts of subsets of `size` trials."""
    subsets = list(itertools.islice(itertools.combinations(group, size), SUBSETS + 1))
    if len(subsets) > SUBSETS:
        rng = np.random.default_rng(0)
        subsets = [tuple(group[i] for i in rng.choice(len(group), size, replace=False)) for _ in range(SUBSETS)]
    return float(np.mean([hypervolume_of(subset, info.objectives, info.reference_point) for subset in subsets]))


def best_retain(group: Sequence[Record]) -> str:
    """The most that a trial keeps among those that forget; a dash where none does."""
    kept = [
        record.metrics["retain.extraction_strength"]
        for record in group
        if record.metrics["forget.extraction_strength"] <= FORGOTTEN
    ]
    return f"{max(kept):.2f}" if kept else "-"


if __name__ == "__main__":
    main()
