"""Intervals of means by Student's t, for the few values that a few seeds give."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def t_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, and lower and upper end of its 95 % interval; at least two values.

    Values that are all equal give an interval without width.
    """
    values_N = np.asarray(values, np.float64)
    half = _quantile(len(values_N) - 1) * float(values_N.std(ddof=1)) / math.sqrt(len(values_N))
    mean = float(values_N.mean())
    return mean, mean - half, mean + half


def difference_interval(ones: Sequence[float], others: Sequence[float]) -> tuple[float, float]:
    """95 % interval of mean(ones) - mean(others), which are not paired; at least two of each.

    Source: Welch 1947, "The generalization of 'Student's' problem when several different population variances are
    involved".
    """
    parts = [float(np.var(values, ddof=1)) / len(values) for values in (ones, others)]
    error = sum(parts)
    difference = float(np.mean(ones) - np.mean(others))
    if error == 0:
        return difference, difference
    freedom = error**2 / sum(part**2 / (len(values) - 1) for part, values in zip(parts, (ones, others), strict=True))
    half = _quantile(freedom) * math.sqrt(error)
    return difference - half, difference + half


def _quantile(freedom: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975))
