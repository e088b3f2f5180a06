"""The fronts of a growing set of points, kept up to date as points arrive instead of being sorted anew.

Layer 0 is the front, layer 1 the front of the rest, and so on, exactly as `pareto.ranks` has it. A newcomer goes to
the first layer none of whose points dominates it; a search by halves finds it, since who is dominated by a layer is
dominated by all that lie before it. What the newcomer dominates there moves one layer down, and what that dominates
one further. Once a whole layer moves, all below it move as they are.

Source: Li et al. 2017, "Efficient nondomination level update method for steady-state evolutionary multiobjective
optimization"; the shortcut for whole layers is ours.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Step = tuple[float, float, int]
"""A point of a staircase: both objectives and its number."""
Layer = TypeVar("Layer", list[Step], NDArray[np.intp])


class Layers(ABC, Generic[Layer]):
    """Points to be minimised, sorted into layers; they are known by the order of their arrival, from 0.

    Args:
        objectives: M, values of each point.
    """

    def __init__(self, objectives: int) -> None:
        self._layers: list[Layer] = []
        self._points_NM = np.empty((64, objectives))
        self._count = 0

    @property
    def points_NM(self) -> NDArray[np.float64]:
        """All points by their arrival; not to be written to."""
        return self._points_NM[: self._count]

    def __len__(self) -> int:
        return len(self._layers)

    def sizes(self) -> list[int]:
        """Points of each layer."""
        return [len(layer) for layer in self._layers]

    @abstractmethod
    def members(self, rank: int) -> Sequence[int] | NDArray[np.intp]:
        """Who is in a layer, in no particular order."""

    def insert(self, point: Sequence[float]) -> int:
        """Adds a point.

        Args:
            point: One finite value per objective.

        Returns:
            Its rank.
        """
        if self._count == len(self._points_NM):
            self._points_NM = np.concatenate([self._points_NM, np.empty_like(self._points_NM)])
        self._points_NM[self._count] = point
        moving = self._alone(self._count)
        self._count += 1
        rank = bisect_left(range(len(self)), True, key=lambda rank: not self._beaten(rank, point))
        for below in range(rank, len(self)):
            whole = len(self._layers[below])
            moving = self._exchange(below, moving)
            if len(moving) in (0, whole):
                break
        else:
            below = len(self) - 1
        if len(moving):
            self._layers.insert(below + 1, moving)
        return rank

    @abstractmethod
    def _alone(self, index: int) -> Layer:
        """A layer of one point."""

    @abstractmethod
    def _beaten(self, rank: int, point: Sequence[float]) -> bool:
        """Whether a point of the layer dominates this one."""

    @abstractmethod
    def _exchange(self, rank: int, moving: Layer) -> Layer:
        """Puts points into a layer; returns those of its points that they dominate, which leave it."""


class Staircases(Layers[list[Step]]):
    """Layers for two objectives: each is a staircase, the first objective rising and the second falling.

    What moves is one piece of a staircase, and what it dominates one piece of the next: both are found by halves. A
    point costs O(L log N) for L layers touched.
    """

    def __init__(self) -> None:
        super().__init__(2)

    def members(self, rank: int) -> list[int]:
        """Who is in a layer, by the first objective."""
        return [index for _, _, index in self._layers[rank]]

    def _alone(self, index: int) -> list[Step]:
        first, second = self._points_NM[index].tolist()
        return [(first, second, index)]

    def _beaten(self, rank: int, point: Sequence[float]) -> bool:
        layer = self._layers[rank]
        before = bisect_left(layer, tuple(point)) - 1  # of those no worse in the first objective the best in the second
        return before >= 0 and layer[before][1] <= point[1]

    def _exchange(self, rank: int, moving: list[Step]) -> list[Step]:
        layer = self._layers[rank]
        # Behind its equals, which stay: a newcomer may have some here, and who moves further has none.
        begin = bisect_left(layer, (*moving[0][:2], math.inf))
        end = bisect_right(layer, -moving[-1][1], lo=begin, key=lambda entry: -entry[1])
        beaten = layer[begin:end]
        layer[begin:end] = moving
        return beaten


class Table(Layers[NDArray[np.intp]]):
    """Layers for any number of objectives, by comparing all points of a layer at once.

    A point costs O(K S M) a layer touched, for K points that move into one of S points with M objectives.
    """

    def members(self, rank: int) -> NDArray[np.intp]:
        """Who is in a layer."""
        return self._layers[rank]

    def _alone(self, index: int) -> NDArray[np.intp]:
        return np.array([index])

    def _beaten(self, rank: int, point: Sequence[float]) -> bool:
        layer_SM, point_M = self._points_NM[self._layers[rank]], np.asarray(point)
        return bool(((layer_SM <= point_M).all(axis=1) & (layer_SM < point_M).any(axis=1)).any())

    def _exchange(self, rank: int, moving: NDArray[np.intp]) -> NDArray[np.intp]:
        layer = self._layers[rank]
        no_worse_KS = np.ones((len(moving), len(layer)), dtype=np.bool_)
        better_KS = np.zeros_like(no_worse_KS)
        for column_N in self._points_NM.T:  # one objective at a time: a table of K x S x M would be M times the memory
            moving_K1, layer_S = column_N[moving, None], column_N[layer]
            no_worse_KS &= moving_K1 <= layer_S
            better_KS |= moving_K1 < layer_S
        beaten_S = (no_worse_KS & better_KS).any(axis=0)
        self._layers[rank] = np.concatenate([layer[~beaten_S], moving])
        return layer[beaten_S]
