"""Evaluation: every one-pass metric of every set together, against one bare pass over the distinct sequences.

The bare pass computes the cross-entropies and the most likely tokens, and nothing else is done with them.

    python benchmarks/one_pass.py [FOLDER OF TOFU FILES]
"""

from __future__ import annotations

import sys
import time

import torch

from trials.config import TrialConfig
from trials.evaluate import Evaluator
from trials.models import workspace
from trials.naming import GROUPS, named, with_inputs
from trials.registry import METRICS, RowMetric
from trials.scoring import score

TINY = {"vocab_size": 4096, "hidden_size": 256, "intermediate_size": 1024, "layers": 4, "epochs": 1}


def main() -> None:
    """Times both, alternating, and prints the ratio of their best times and how many sequences were passed."""
    torch.set_num_threads(1)
    tofu = (
        {"type": "tofu", "path": sys.argv[1], "split": "forget01", "authors": 20, "retain_eval": 100}
        if len(sys.argv) > 1
        else {}
    )
    config = TrialConfig.model_validate({"benchmark": tofu or {"type": "authors"}, "model": {"tiny": TINY}})
    warm = workspace(config)
    names = named(GROUPS["one_pass"])
    evaluator = Evaluator(warm.material)
    evaluator.log(warm.reference, names)  # encodes the sets
    rows = [(name, METRICS[name]) for name in with_inputs(names)]
    distinct = {
        example
        for name, metric in rows
        if isinstance(metric, RowMetric) and (group := name.split(".")[0]) in warm.material.sets
        for part in metric.sees
        if part != "z"
        for examples in warm.material.part(group, part)
        for example in examples
    }
    passed: list[int] = []
    count = warm.reference.register_forward_pre_hook(
        lambda _, args, kwargs: passed.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    values = evaluator.log(warm.reference, names).values
    count.remove()
    bare_times, full_times = [], []
    for _ in range(5):
        started = time.perf_counter()
        score(warm.reference, list(distinct), padding=warm.padding, device=warm.device)
        bare_times.append(time.perf_counter() - started)
        started = time.perf_counter()
        evaluator.log(warm.reference, names)
        full_times.append(time.perf_counter() - started)
    bare, full = min(bare_times), min(full_times)
    print(f"{len(values)} metrics, {sum(passed)} sequences passed, {len(distinct)} distinct")
    print(f"all one-pass metrics over one bare pass: {full / bare:.3f} ({full:.2f} s / {bare:.2f} s)")


if __name__ == "__main__":
    main()
