"""Benchmarks start, and what they print parses and fits together; how long anything took is not looked at."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def printed(*command: str) -> str:
    """What a benchmark prints."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    words = [sys.executable, f"benchmarks/{command[0]}", *command[1:]]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=230)
    assert done.returncode == 0, done.stderr
    return done.stdout


def numbers(pattern: str, text: str) -> list[float]:
    """Numbers of the only place that looks so, where # stands for a number."""
    [found] = re.findall(re.escape(pattern).replace(r"\#", r"([\d.]+)"), text)
    return [float(number) for number in found]


def test_train_step_counts_the_flops_that_a_formula_gives() -> None:
    text = printed("train_step.py", "--steps", "2", "--warm-up", "1", "--batch-size", "32")
    tokens, padded, answer = numbers("; # tokens/s (# with padding, # of answers)", text)
    done, share, peak = numbers("achieved # TFLOP/s = # % of the peak # (", text)
    alone, utilisation = numbers("model FLOP/s # = # %", text)
    assert answer < tokens < padded
    assert share == pytest.approx(100 * done / peak, abs=0.1)
    assert utilisation == pytest.approx(100 * alone / peak, abs=0.1)
    phases = numbers("time: forward # %, backward # %, optimiser # %, rest # %", text)
    assert sum(phases) == pytest.approx(100, abs=2)
    layers, head = 2 * (4 * 96 * 96 + 3 * 96 * 256), 96 * 1536
    attention = 14 * 2 * 96  # of a token and each that it looks at, in two layers: 2 products forth, 5 back
    assert 1e12 * alone == pytest.approx((6 * layers + attention * 46) * tokens + 6 * head * answer, rel=0.01)
    # Rows of 46 tokens are filled up; so many answer tokens are projected twice: 8 and not 6.
    width = 46 * padded / tokens
    assert 1e12 * done == pytest.approx((6 * layers + attention * width) * padded + 8 * head * answer, rel=0.02)


def test_train_step_of_an_adapter_takes_less_than_that_of_all_weights() -> None:
    text = printed("train_step.py", "--steps", "1", "--warm-up", "1", "--adapter", "lora", "--peak", "2")
    [tokens, _, answer] = numbers("; # tokens/s (# with padding, # of answers)", text)
    [alone, _] = numbers("model FLOP/s # = # %", text)
    layers, head = 2 * (4 * 96 * 96 + 3 * 96 * 256), 96 * 1536
    adapter = 8 * 2 * (4 * (96 + 96) + 3 * (96 + 256))
    once = 2 * layers * tokens + 2 * head * answer
    assert 1.9 < (1e12 * alone - 6 * adapter * tokens) / once < 2.2  # no gradients of the frozen weights
    assert "of the peak 2 (given)" in text


def test_packs_print_a_ratio_and_the_metrics_of_the_same_trials_alone() -> None:
    header, *lines = printed("pack.py", "--k", "1", "2", "--epochs", "1").splitlines()
    assert "ratio" in header
    rows = [[float(word) for word in line.split()] for line in lines]
    assert [row[0] for row in rows] == [1, 2]
    for _, alone, packed, ratio, difference in rows:
        assert ratio == pytest.approx(packed / alone, abs=0.02)
        assert difference < 1e-3


@pytest.mark.ray
def test_scaling_prints_the_efficiency_of_more_workers() -> None:
    text = printed("scaling.py", "--trial", "sleep", "--seconds", "0.5", "--trials", "4", "--epochs", "2")
    one, two, efficiency = numbers("1 worker: # trials/h (100 %); 2 workers: # trials/h (# %)", text)
    assert 0 < one <= 3600 / 0.5
    assert efficiency == pytest.approx(100 * two / one / 2, abs=1)
