"""Evaluation: all metrics of all row sets from one shared pass, against one pass for each metric of each set.

Both give the same numbers; this is checked. The second is how evaluation scripts of the field work.

    python benchmarks/shared_pass.py
"""

from __future__ import annotations

import time

import torch

from trials.config import TrialConfig
from trials.evaluate import Evaluator
from trials.models import workspace
from trials.naming import named


def main() -> None:
    """Times both ways, alternating, and prints the ratio of their best times."""
    torch.set_num_threads(1)
    warm = workspace(TrialConfig())
    evaluator, names = Evaluator(warm.material), named(("default",))
    shared_times, separate_times = [], []
    for _ in range(5):
        started = time.perf_counter()
        shared = evaluator.log(warm.reference, names).values
        shared_times.append(time.perf_counter() - started)
        started = time.perf_counter()
        separate = {}
        for name in names:
            separate |= evaluator.log(warm.reference, [name]).values
        separate_times.append(time.perf_counter() - started)
    worst = max(abs(shared[name] - separate[name]) for name in shared)
    once, often = min(shared_times), min(separate_times)
    print(f"one shared pass over one pass per metric: {once / often:.3f} ({once:.2f} s / {often:.2f} s)")
    print(f"largest difference of a metric: {worst:.1e}")


if __name__ == "__main__":
    main()
