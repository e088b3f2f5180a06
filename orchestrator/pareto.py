"""What it means that one trial beats another when there is more than one objective.

Everything is minimised here; `oriented` flips the sign of what is to be maximised. A point dominates another
when it is no worse in every objective and better in at least one. The points that nobody dominates are the
front: rank 0. Take them away, and the points that nobody dominates now have rank 1, and so on. Hypervolume
measures a whole set: the volume of what it dominates, up to a reference point. All functions are pure and
depend on values alone, never on the order of the rows, but for equal points.

Shape suffixes: N trials, M objectives.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def oriented(values: Sequence[Mapping[str, float]], objectives: Mapping[str, Literal["min", "max"]]) -> Floats:
    """Metrics of N trials as points to be minimised, one column per objective, in the order of `objectives`.

    Args:
        values: Metrics of each trial; those that are no objective are left out.
        objectives: Metric -> min or max, at least one.

    Returns:
        points_NM; a column whose objective is `max` has its sign flipped.

    Raises:
        ValueError: A trial lacks an objective, a value is not finite, or a direction is neither min nor max.
    """
    for name, direction in objectives.items():
        if direction not in ("min", "max"):
            raise ValueError(f"direction {direction!r} of objective {name!r} is unknown; write min or max")
        for position, metrics in enumerate(values):
            if name not in metrics:
                raise ValueError(
                    f"trial {position} has no objective {name!r}: every point needs all of them; leave it out"
                )
    sign_M = np.array([1.0 if direction == "min" else -1.0 for direction in objectives.values()])
    points_NM = np.array([[metrics[name] for name in objectives] for metrics in values], dtype=np.float64)
    return _checked(points_NM.reshape(len(values), len(objectives)) * sign_M)


def ranks(points_NM: ArrayLike) -> NDArray[np.intp]:
    """Non-dominated sorting: 0 for the front, 1 for the front of what is left, and so on.

    Equal points share a rank. Takes O(N log N) time for two objectives, and about O(N sqrt(N)) to O(N^2) for more;
    memory is O(N M).

    Returns:
        ranks_N, integers from 0.

    Raises:
        ValueError: The points are not a finite table of N rows and at least one column.

    Source: Deb et al. 2002, "A fast and elitist multiobjective genetic algorithm: NSGA-II", section III.A, for what a
    rank is; Zhang et al. 2015, "An efficient approach to nondominated sorting" (ENS-BS), for how it is found.
    """
    distinct_KM, copy_of_N = _distinct(_checked(points_NM))
    if distinct_KM.shape[1] > 2:
        return _ranks_of_many(distinct_KM)[copy_of_N]
    ranks_K = np.empty(len(distinct_KM), dtype=np.intp)
    lowest: list[float] = []  # of each front the least second objective so far; they rise from front to front
    for position, height in enumerate(distinct_KM[:, 1:].max(axis=1, initial=-np.inf).tolist()):
        ranks_K[position] = rank = bisect_right(lowest, height)
        lowest[rank : rank + 1] = [height]
    return ranks_K[copy_of_N]


def front(points_NM: ArrayLike) -> NDArray[np.bool_]:
    """Which points no other point dominates; of equal points, all or none.

    Takes O(N log N) time for one or two objectives, O(N F M) for more and a front of F.

    Returns:
        mask_N.

    Raises:
        ValueError: As `ranks`.
    """
    distinct_KM, copy_of_N = _distinct(_checked(points_NM))
    mask_K = np.ones(len(distinct_KM), dtype=np.bool_)
    if distinct_KM.shape[1] > 2:
        mask_K = _ranks_of_many(distinct_KM, most=1) == 0
    elif len(distinct_KM):
        height_K = distinct_KM[:, 1:].max(axis=1, initial=-np.inf)
        mask_K[1:] = height_K[1:] < np.minimum.accumulate(height_K)[:-1]
    return mask_K[copy_of_N]


def crowding(points_NM: ArrayLike) -> Floats:
    """Crowding distance: how much room a point has among others of the same rank; more is lonelier.

    Sum over objectives of (next - previous) / (largest - smallest), where next and previous are the
    neighbours when the points are sorted by that objective. The first and the last of an objective have inf.
    Equal points count once and share their distance; points that tie in one objective are sorted by the
    others. An objective that is the same for all says nothing and adds nothing. Where all points are equal
    there are only extremes: inf.

    Args:
        points_NM: Points none of which dominates another; this is not checked.

    Returns:
        distance_N in [0, M] or inf.

    Raises:
        ValueError: As `ranks`.

    Source: Deb et al. 2002, NSGA-II, section III.B.
    *Differs from* it for equal points, where its result depends on their order.
    """
    points_NM = _checked(points_NM)
    distinct_KM, copy_of_N = _distinct(points_NM)
    if len(distinct_KM) <= 1:
        return np.full(len(points_NM), np.inf)
    distance_K = np.zeros(len(distinct_KM))
    for column in range(distinct_KM.shape[1]):
        # np.lexsort sorts by its last key first: this objective, and the others only where it ties.
        others = np.delete(distinct_KM, column, axis=1).T[::-1]
        order_K = np.lexsort((*others, distinct_KM[:, column]))
        sorted_K = distinct_KM[order_K, column]
        span = sorted_K[-1] - sorted_K[0]
        if span > 0:
            distance_K[order_K[1:-1]] += (sorted_K[2:] - sorted_K[:-2]) / span
            distance_K[order_K[[0, -1]]] = np.inf
    return distance_K[copy_of_N]


def epsilon_net(points_NM: ArrayLike, count: int | None = None) -> NDArray[np.intp]:
    """An order in which a front is covered evenly from the start: the next is the farthest from all taken before.

    The first is the best in the first objective. Distances are Euclidean, each objective scaled to [0, 1] over these
    points. Of equally far ones the best in the first objective is taken (then in the second, and so on); a point that
    equals one taken already comes last, by its position.

    Args:
        points_NM: A front.
        count: Length of the order; None: all points. Takes O(N M) time for each.

    Returns:
        Positions in `points_NM`, the first to be taken first. They are an order, no ranks: position i of the result
        says who is the i-th.

    Raises:
        ValueError: As `ranks`.

    Source: Schmucker et al. 2021, "Multi-objective asynchronous successive halving" (arXiv 2106.12639), section 4.
    """
    points_NM = _checked(points_NM)
    count = len(points_NM) if count is None else min(count, len(points_NM))
    by_value_N = np.lexsort(points_NM.T[::-1])  # stable: equal points stay in the order of their positions
    span_M = np.ptp(points_NM, axis=0) if len(points_NM) else 1.0
    scaled_NM = (points_NM / np.where(span_M > 0, span_M, 1.0))[by_value_N]
    distance_N = np.full(len(points_NM), np.inf)
    taken = []
    for _ in range(count):
        taken.append(int(distance_N.argmax()))
        step_N = np.sqrt(((scaled_NM - scaled_NM[taken[-1]]) ** 2).sum(axis=1))
        distance_N = np.minimum(distance_N, step_N)
        distance_N[taken[-1]] = -1.0
    return by_value_N[np.array(taken, dtype=np.intp)]


def hypervolume(points_NM: ArrayLike, reference_M: ArrayLike) -> float:
    """Volume of what the points dominate within the box below the reference point, exactly.

    For one objective, reference - min; for two, the area under a staircase, O(N log N). For more, the last
    objective is cut at each point into slices, each of which is a problem with one objective less.

    Args:
        points_NM: Points, dominated or not; those not better than the reference in every objective add 0.
        reference_M: What counts as worthless, oriented as the points are: a `max` objective changes sign.

    Returns:
        The volume, >= 0; 0 without points. In the units of the objectives, multiplied.

    Raises:
        ValueError: A value is not finite, or the reference has not one value per objective.

    Source: While et al. 2006, "A faster algorithm for calculating hypervolume" (slicing objectives).
    """
    points_NM = _checked(points_NM)
    reference_M = np.asarray(reference_M, dtype=np.float64)
    if reference_M.shape != points_NM.shape[1:] or not np.isfinite(reference_M).all():
        raise ValueError(
            f"reference point {reference_M.tolist()} does not fit: give one finite value for each of the "
            f"{points_NM.shape[1]} objectives"
        )
    return _volume(points_NM[(points_NM < reference_M).all(axis=1)], reference_M)


def knee(points_NM: ArrayLike) -> int:
    """The point of a front that gives up least: the smallest sum of objectives, each scaled to [0, 1].

    0 is the best value on the front and 1 the worst, so the smallest sum lies farthest below the plane on
    which the sum is 1; with two objectives that is the line through both ends of the front. An objective that
    is the same for all adds 0. With two points both sums are 1; of sums within 1e-9 of each other the smallest
    in the objectives' own units wins, then the best first objective (then the second, and so on, then the
    position).

    Args:
        points_NM: The front, at least one point.

    Returns:
        Position of the knee in `points_NM`; 0 for a single point.

    Raises:
        ValueError: There is no point, or as `ranks`.

    Source: Das 1999, "On characterizing the knee of the Pareto curve based on normal-boundary intersection".
    """
    points_NM = _checked(points_NM)
    if len(points_NM) == 0:
        raise ValueError("an empty front has no knee; ask only where a trial is complete")
    best_M, span_M = points_NM.min(axis=0), np.ptp(points_NM, axis=0)
    sum_N = ((points_NM - best_M) / np.where(span_M > 0, span_M, 1.0)).sum(axis=1)
    candidates = np.flatnonzero(sum_N <= sum_N.min() + 1e-9)
    tied_KM = points_NM[candidates]
    first = np.lexsort((*tied_KM.T[::-1], np.round(tied_KM.sum(axis=1), 9)))[0]
    return int(candidates[first])


def _checked(points_NM: ArrayLike) -> Floats:
    points_NM = np.asarray(points_NM, dtype=np.float64)
    if points_NM.ndim != 2 or points_NM.shape[1] == 0:
        raise ValueError(f"points of shape {points_NM.shape} are no table; give N rows of at least one objective")
    if not np.isfinite(points_NM).all():
        row = int(np.flatnonzero(~np.isfinite(points_NM).all(axis=1))[0])
        raise ValueError(f"point {row} is {points_NM[row].tolist()}: a point must be finite; leave it out or fail it")
    # Flipping the sign of 0 gives -0, which is equal to 0 but prints otherwise.
    return points_NM + 0.0


def _distinct(points_NM: Floats) -> tuple[Floats, NDArray[np.intp]]:
    """The distinct points, sorted by the first objective, then the second, and so on; and the row of each point."""
    order_N = np.lexsort(points_NM.T[::-1])
    sorted_NM = points_NM[order_N]
    new_N = np.ones(len(points_NM), dtype=np.bool_)
    new_N[1:] = (sorted_NM[1:] != sorted_NM[:-1]).any(axis=1)
    copy_of_N = np.empty(len(points_NM), dtype=np.intp)
    copy_of_N[order_N] = np.cumsum(new_N) - 1
    return sorted_NM[new_N], copy_of_N


def _ranks_of_many(distinct_KM: Floats, most: int | None = None) -> NDArray[np.intp]:
    """Ranks of points as `_distinct` sorts them; with `most`, those of so many fronts, and `most` for all others.

    Who dominates a point comes before it, and who is dominated by a front is dominated by all before that front:
    the first front that does not dominate a point is found by halves.
    """
    others_KM = distinct_KM[:, 1:]  # the first objective of whoever came before is no worse
    fronts: list[Floats] = []  # an objective a row, with room to spare behind `sizes`
    sizes: list[int] = []
    ranks_K = np.empty(len(distinct_KM), dtype=np.intp)
    for position, point_M in enumerate(others_KM):
        rank = bisect_left(
            range(len(fronts)),
            True,
            key=lambda rank: not (fronts[rank][:, : sizes[rank]] <= point_M[:, None]).all(axis=0).any(),
        )
        ranks_K[position] = rank
        if rank == most:
            continue
        if rank == len(fronts):
            fronts.append(np.empty((others_KM.shape[1], 16)))
            sizes.append(0)
        elif sizes[rank] == fronts[rank].shape[1]:
            fronts[rank] = np.concatenate([fronts[rank], np.empty_like(fronts[rank])], axis=1)
        fronts[rank][:, sizes[rank]] = point_M
        sizes[rank] += 1
    return ranks_K


def _volume(points_NM: Floats, reference_M: Floats) -> float:
    """Hypervolume of points that are all better than the reference in every objective."""
    if len(points_NM) == 0:
        return 0.0
    if points_NM.shape[1] == 1:
        return float(reference_M[0] - points_NM.min())
    if points_NM.shape[1] == 2:
        points_NM = points_NM[np.lexsort(points_NM.T[::-1])]
        width_N = np.diff(points_NM[:, 0], append=reference_M[0])
        height_N = reference_M[1] - np.minimum.accumulate(points_NM[:, 1])
        return float((width_N * height_N).sum())
    points_NM = points_NM[front(points_NM)]
    points_NM = points_NM[np.argsort(points_NM[:, -1], kind="stable")]
    depth_N = np.diff(points_NM[:, -1], append=reference_M[-1])
    return sum(
        float(depth) * _volume(points_NM[: position + 1, :-1], reference_M[:-1])
        for position, depth in enumerate(depth_N)
        if depth > 0
    )
