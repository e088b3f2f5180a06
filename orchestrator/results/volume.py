"""Hypervolume as points come in, one after the other: what `pareto.hypervolume` would say after each of them.

Everything is minimised. Only the gain of a point is computed, so a history of N points costs far less than N volumes.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from orchestrator import pareto
from orchestrator.pareto import Floats


def volumes(points_NM: ArrayLike, reference_M: ArrayLike) -> Iterator[float]:
    """Hypervolume after each point; never falls.

    O(N log N) for two objectives (the front is a sorted staircase); for others a point that is not on the front so far
    costs one comparison with it, and one that is costs the volume of the part of the front that lies within its box
    (the exclusive hypervolume of While et al. 2012, "A fast way of calculating exact hypervolumes", section III).

    Args:
        points_NM: Finite points in the order in which they came; those beyond the reference add nothing.
        reference_M: What counts as worthless, oriented as the points are.
    """
    points_NM, reference_M = np.asarray(points_NM, np.float64), np.asarray(reference_M, np.float64)
    if points_NM.ndim == 2 and points_NM.shape[1] == 2:
        yield from _staircase(points_NM, reference_M)
        return
    front_KM, volume = np.empty((0, len(reference_M))), 0.0
    for point_M in points_NM:
        if (point_M < reference_M).all() and not (front_KM <= point_M).all(axis=1).any():
            inside_KM = np.maximum(front_KM, point_M)
            volume += math.prod(reference_M - point_M) - pareto.hypervolume(inside_KM, reference_M)
            front_KM = np.vstack([front_KM[~(point_M <= front_KM).all(axis=1)], point_M])
        yield volume


def _staircase(points_N2: Floats, reference_2: Floats) -> Iterator[float]:
    """`xs` ascend and `ys` descend: the front so far."""
    xs: list[float] = []
    ys: list[float] = []
    volume, (end, top) = 0.0, reference_2.tolist()
    for x, y in points_N2.tolist():
        left = bisect_right(xs, x) - 1
        if x < end and y < top and not (left >= 0 and ys[left] <= y):
            first = last = bisect_left(xs, x)
            edge, height = x, ys[first - 1] if first else top
            while last < len(xs) and ys[last] >= y:  # what the point dominates
                volume += (xs[last] - edge) * (height - y)
                edge, height = xs[last], ys[last]
                last += 1
            volume += ((xs[last] if last < len(xs) else end) - edge) * (height - y)
            xs[first:last], ys[first:last] = [x], [y]
        yield volume
