"""Who stands where among the trials at one rung, kept up to date as they arrive.

A standing answers two questions: is the newest trial among the best so many, and which of the trials that wait is the
best of these? Feasible trials come first, by a rule of their own; behind them all who miss a constraint, by how much
they miss (Deb 2000). Of equals the first to arrive is better. Trials are known by the order of their arrival, from 0.

`ByMetric` and `ByFronts` are exact at any size, but for what is said of epsilon nets; `ByWeights` is up to `EXACT`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left, insort
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from orchestrator.pareto import crowding, epsilon_net
from orchestrator.search.layers import Staircases, Table

Floats = NDArray[np.float64]

EXACT = 1000
"""Up to so many trials an order is made anew for each decision, where to make it takes time that grows with them."""

GROWTH = 1.02
"""Beyond that it is made anew when there are so many times more than the last time."""


class Standing(ABC):
    """Trials in order."""

    def __init__(self) -> None:
        self._points: list[tuple[float, ...]] = []
        self._behind: list[tuple[float, int]] = []  # (violation, trial) of the infeasible, sorted
        self._violation = 0.0  # of the newest

    def __len__(self) -> int:
        return len(self._points)

    def add(self, point: Sequence[float], violation: float = 0.0) -> int:
        """Takes a trial in.

        Args:
            point: Its objectives, to be minimised.
            violation: By how much it misses the constraints all in all; 0 if it is feasible.

        Returns:
            Its number.
        """
        trial = len(self)
        self._points.append(tuple(point))
        self._violation = violation
        if violation > 0:
            insort(self._behind, (violation, trial))
        else:
            self._take(trial, self._points[trial])
        return trial

    def newest_among(self, count: int) -> bool:
        """Whether the trial that was added last is among the best `count`."""
        if self._violation > 0:
            place = bisect_left(self._behind, (self._violation, len(self) - 1))
            return len(self) - len(self._behind) + place < count
        return self._newest_among(count)

    def first(self, count: int, wanted: Collection[int]) -> int | None:
        """The best of the wanted trials that are among the best `count`; None where there is none.

        Args:
            count: How many.
            wanted: Who waits. A trial may leave it, and joins it before the first search after its arrival or never.
        """
        feasible = len(self) - len(self._behind)
        found = next((trial for trial in self._best(min(count, feasible), wanted) if trial in wanted), None)
        if found is None and count > feasible:
            return next((trial for _, trial in self._behind[: count - feasible] if trial in wanted), None)
        return found

    @abstractmethod
    def _take(self, trial: int, point: tuple[float, ...]) -> None:
        """Takes a feasible trial in."""

    @abstractmethod
    def _newest_among(self, count: int) -> bool:
        """As `newest_among`, of a feasible trial."""

    @abstractmethod
    def _best(self, count: int, wanted: Collection[int]) -> Iterator[int]:
        """The best `count` of the feasible trials, the best first; who is not wanted may be left out."""


class ByMetric(Standing):
    """By the first objective; who ties there by the others, in their order."""

    def __init__(self) -> None:
        super().__init__()
        self._sorted: list[tuple[tuple[float, ...], int]] = []

    def newest_beaten_by_most(self) -> bool:
        """Whether more than half of the others are strictly better than the trial that was added last."""
        place = bisect_left(self._sorted, (self._points[-1][:1], -1))
        if self._violation > 0:
            place = len(self._sorted) + bisect_left(self._behind, (self._violation, -1))
        return place > (len(self) - 1) / 2

    def _take(self, trial: int, point: tuple[float, ...]) -> None:
        insort(self._sorted, (tuple(point), trial))

    def _newest_among(self, count: int) -> bool:
        return bisect_left(self._sorted, (tuple(self._points[-1]), len(self) - 1)) < count

    def _best(self, count: int, wanted: Collection[int]) -> Iterator[int]:
        return (trial for _, trial in self._sorted[:count])


class ByFronts(Standing):
    """By front; within a front the loneliest first, or in the order of an epsilon net.

    Fronts are exact at any size. An epsilon net takes time that grows with the square of its front: in a front of more
    than `EXACT` trials the loneliest come first.

    Args:
        objectives: How many there are, at least two.
        order: That within a front.
    """

    def __init__(self, objectives: int, order: Literal["crowding", "epsilon_net"]) -> None:
        super().__init__()
        self._layers: Staircases | Table = Staircases() if objectives == 2 else Table(objectives)
        self._order = order
        self._trials: list[int] = []  # position in the layers -> trial
        self._arrived: list[int] = []  # position -> rank on arrival
        self._clear = 0  # layers before this one have nobody who is wanted
        self._searched = 0  # positions that `_clear` takes into account
        self._last = (0, 0, np.empty(0, dtype=np.intp))  # how many trials, which layer, and its order then

    def _take(self, trial: int, point: tuple[float, ...]) -> None:
        self._trials.append(trial)
        self._arrived.append(self._layers.insert(point))

    def _newest_among(self, count: int) -> bool:
        sizes, rank = self._layers.sizes(), self._arrived[-1]
        room = count - sum(sizes[:rank])
        return room >= sizes[rank] or (room > 0 and self._trials[-1] in self._ordered(rank)[:room])

    def _best(self, count: int, wanted: Collection[int]) -> Iterator[int]:
        # Trials only ever move to later layers: those before `_clear` need not be searched again.
        new = range(self._searched, len(self._trials))
        self._clear = min([self._clear, *(self._arrived[p] for p in new if self._trials[p] in wanted)])
        self._searched = len(self._trials)
        sizes = self._layers.sizes()
        count -= sum(sizes[: self._clear])
        for rank in range(self._clear, len(sizes)):
            if count <= 0:
                return
            if any(self._trials[position] in wanted for position in self._layers.members(rank)):
                yield from self._ordered(rank)[:count].tolist()
            elif rank == self._clear:
                self._clear += 1
            count -= sizes[rank]

    def _ordered(self, rank: int) -> NDArray[np.intp]:
        """The trials of a layer, the best first."""
        if self._last[:2] != (len(self._trials), rank):
            positions = np.sort(np.array(self._layers.members(rank), dtype=np.intp))
            points = self._layers.points_NM[positions]
            if self._order == "epsilon_net" and len(points) <= EXACT:
                order = epsilon_net(points)
            else:
                order = np.argsort(-crowding(points), kind="stable")
            self._last = (len(self._trials), rank, np.array(self._trials)[positions[order]])
        return self._last[2]


class ByWeights(Standing):
    """By the best place under several weightings of the objectives, whatever the fronts.

    Under each weighting w, trials are placed by max_m w_m z_m + 0.05 sum_m w_m z_m, where z are the objectives scaled
    to [0, 1] over all feasible trials: with the maximum, every trial of a front is the best under some weights, also
    where the front is not convex. A trial counts by the best of its places, then by their mean.

    Beyond `EXACT` feasible trials scale and places are made anew at each `GROWTH`; a trial that came since is placed
    among those that were there then, and is not found by `first` before the next time.

    Args:
        weights_KM: K weightings of M objectives, each weight > 0.

    Source: Knowles 2006, "ParEGO", equation 2, for the scalarisation; the best over random weights as in Schmucker et
    al. 2021 (arXiv 2106.12639). *Differs from* these: places are compared and not values, so that no weighting counts
    for more than another.
    """

    def __init__(self, weights_KM: Floats) -> None:
        super().__init__()
        self._weights_KM = weights_KM
        self._trials: list[int] = []
        self._known = 0  # of the feasible trials, when the order was made
        self._low_M = self._span_M = np.zeros(weights_KM.shape[1])
        self._sorted_NK = np.empty((0, len(weights_KM)))
        self._order: list[int] = []
        self._keys: list[tuple[float, float]] = []  # of the trials in `_order`

    def _take(self, trial: int, point: tuple[float, ...]) -> None:
        self._trials.append(trial)

    def _newest_among(self, count: int) -> bool:
        self._refresh()
        if self._known == len(self._trials):
            return self._trials[-1] in self._order[:count]
        newest = self._keys_of(self._scores(np.array([self._points[-1]])))[0]
        return count > 0 and newest < self._keys[min(count, self._known) - 1]

    def _best(self, count: int, wanted: Collection[int]) -> Iterator[int]:
        self._refresh()
        return islice(self._order, count)

    def _refresh(self) -> None:
        count = len(self._trials)
        if count == self._known or (count > EXACT and count < GROWTH * self._known):
            return
        points_NM = np.array([self._points[trial] for trial in self._trials])
        self._low_M, self._span_M = points_NM.min(axis=0), np.ptp(points_NM, axis=0)
        scores_NK = self._scores(points_NM)
        self._sorted_NK = np.sort(scores_NK, axis=0)
        keys = self._keys_of(scores_NK)
        order = sorted(range(count), key=keys.__getitem__)
        self._order, self._keys = [self._trials[i] for i in order], [keys[i] for i in order]
        self._known = count

    def _scores(self, points_NM: Floats) -> Floats:
        scaled_NM = (points_NM - self._low_M) / np.where(self._span_M > 0, self._span_M, 1.0)
        weighted_NKM = scaled_NM[:, None, :] * self._weights_KM
        return np.asarray(weighted_NKM.max(axis=2) + 0.05 * weighted_NKM.sum(axis=2))

    def _keys_of(self, scores_NK: Floats) -> list[tuple[float, float]]:
        """Best and mean place, from 0; equal scores share the better place."""
        places_NK = np.column_stack(
            [
                np.searchsorted(sorted_N, score_N)
                for sorted_N, score_N in zip(self._sorted_NK.T, scores_NK.T, strict=True)
            ]
        )
        return list(zip(places_NK.min(axis=1).tolist(), places_NK.mean(axis=1).tolist(), strict=True))
