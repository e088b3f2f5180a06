"""Domination, ranks, crowding, hypervolume and knee against definitions and cases worked by hand."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import pareto
from orchestrator.search.layers import Staircases, Table

POINTS = [[1.0, 4.0], [2.0, 2.0], [4.0, 1.0], [3.0, 3.0], [4.0, 4.0], [2.0, 2.0]]


@st.composite
def tables(draw: st.DrawFn, least: int = 0, most: int = 9, columns: tuple[int, int] = (1, 4)) -> list[list[float]]:
    """Small whole numbers: ties, equal points and constant columns are common, and sums are exact."""
    width = draw(st.integers(*columns))
    row = st.lists(st.integers(0, 4).map(float), min_size=width, max_size=width)
    return draw(st.lists(row, min_size=1, max_size=most))


def dominates(one: list[float], other: list[float]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True)) and one != other


def ranks_by_peeling(points: list[list[float]]) -> list[int]:
    ranks: dict[int, int] = {}
    while len(ranks) < len(points):
        left = [i for i in range(len(points)) if i not in ranks]
        layer = [i for i in left if not any(dominates(points[j], points[i]) for j in left)]
        ranks.update(dict.fromkeys(layer, max(ranks.values(), default=-1) + 1))
    return [ranks[i] for i in range(len(points))]


def volume_by_inclusion_exclusion(points: list[list[float]], reference: list[float]) -> float:
    total = 0.0
    for size in range(1, len(points) + 1):
        for some in itertools.combinations(points, size):
            corner = [max(column) for column in zip(*some, strict=True)]
            box = math.prod(max(r - c, 0.0) for r, c in zip(reference, corner, strict=True))
            total += box if size % 2 else -box
    return total


def test_ranks_peel_one_front_after_the_other() -> None:
    assert pareto.ranks(POINTS).tolist() == [0, 0, 0, 1, 2, 0]


def test_front_is_rank_zero() -> None:
    assert pareto.front(POINTS).tolist() == [True, True, True, False, False, True]


@settings(deadline=None)
@given(tables())
def test_ranks_follow_the_definition(points: list[list[float]]) -> None:
    assert pareto.ranks(points).tolist() == ranks_by_peeling(points)
    assert (pareto.front(points) == (pareto.ranks(points) == 0)).all()


def test_one_objective_is_ranked_by_its_distinct_values() -> None:
    assert pareto.ranks([[3.0], [1.0], [3.0], [2.0]]).tolist() == [2, 0, 2, 1]


def test_no_points_have_no_ranks_no_front_no_crowding_and_no_volume() -> None:
    empty = np.empty((0, 2))
    assert pareto.ranks(empty).tolist() == []
    assert pareto.front(empty).tolist() == []
    assert pareto.crowding(empty).tolist() == []
    assert pareto.hypervolume(empty, [1.0, 1.0]) == 0.0


def test_crowding_adds_the_scaled_gaps_to_both_neighbours() -> None:
    # First objective: (4 - 0) / 10 and (10 - 1) / 10; second: (10 - 2) / 10 and (6 - 0) / 10.
    points = [[0.0, 10.0], [1.0, 6.0], [4.0, 2.0], [10.0, 0.0]]
    assert pareto.crowding(points).tolist() == pytest.approx([math.inf, 1.2, 1.5, math.inf])


def test_equal_points_share_the_crowding_of_one() -> None:
    alone = pareto.crowding([[0.0, 2.0], [1.0, 1.0], [2.0, 0.0]])
    twice = pareto.crowding([[0.0, 2.0], [1.0, 1.0], [2.0, 0.0], [1.0, 1.0], [2.0, 0.0]])
    assert alone.tolist() == [math.inf, 2.0, math.inf]
    assert twice.tolist() == [math.inf, 2.0, math.inf, 2.0, math.inf]


def test_a_constant_objective_does_not_change_crowding() -> None:
    points = np.array([[0.0, 10.0], [1.0, 6.0], [4.0, 2.0], [10.0, 0.0]])
    flat = np.column_stack([points[:, 0], np.full(4, 7.0), points[:, 1]])
    assert pareto.crowding(flat).tolist() == pareto.crowding(points).tolist()


def test_only_one_point_is_the_end_of_an_objective_in_which_many_tie() -> None:
    # All but the last sit at the floor of the first objective, as extraction strength does.
    points = [[0.0, 3.0, 0.0], [0.0, 2.0, 1.0], [0.0, 1.0, 2.0], [0.0, 0.0, 3.0], [1.0, 1.5, 1.5]]
    assert np.isfinite(pareto.crowding(points)).tolist() == [False, True, True, False, False]


def test_points_that_are_all_equal_are_all_extremes() -> None:
    assert pareto.crowding([[1.0, 2.0]]).tolist() == [math.inf]
    assert pareto.crowding([[1.0, 2.0], [1.0, 2.0]]).tolist() == [math.inf, math.inf]


@settings(deadline=None)
@given(tables(), st.randoms(use_true_random=False))
def test_the_order_of_the_points_changes_nothing(points: list[list[float]], random: Any) -> None:
    order = list(range(len(points)))
    random.shuffle(order)
    shuffled = [points[i] for i in order]
    reference = [5.0] * len(points[0])
    assert pareto.crowding(shuffled).tolist() == pareto.crowding(points)[order].tolist()
    assert pareto.ranks(shuffled).tolist() == pareto.ranks(points)[order].tolist()
    assert pareto.hypervolume(shuffled, reference) == pareto.hypervolume(points, reference)
    assert shuffled[pareto.knee(shuffled)] == points[pareto.knee(points)]


def test_hypervolume_of_two_steps_is_the_area_under_the_staircase() -> None:
    assert pareto.hypervolume([[0.0, 1.0], [1.0, 0.0]], [2.0, 2.0]) == 3.0


def test_hypervolume_of_three_corners_of_a_cube() -> None:
    # Three 2 x 2 x 1 slabs of 4, each pair shares 2 x 1 x 1 = 2, all three share 1: 12 - 6 + 1.
    points = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    assert pareto.hypervolume(points, [2.0, 2.0, 2.0]) == 7.0


def test_one_objective_has_a_length_as_its_volume() -> None:
    assert pareto.hypervolume([[3.0], [1.5]], [4.0]) == 2.5


def test_points_that_do_not_beat_the_reference_everywhere_add_nothing() -> None:
    assert pareto.hypervolume([[2.0, 0.0], [-5.0, 2.0], [9.0, 9.0]], [2.0, 2.0]) == 0.0
    assert pareto.hypervolume([[1.0, 1.0], [-100.0, 3.0]], [2.0, 2.0]) == 1.0


@settings(max_examples=60, deadline=None)
@given(tables(most=7), st.lists(st.integers(1, 5).map(float), min_size=4, max_size=4))
def test_hypervolume_agrees_with_inclusion_and_exclusion(points: list[list[float]], corner: list[float]) -> None:
    reference = corner[: len(points[0])]
    expected = volume_by_inclusion_exclusion(points, reference)
    assert pareto.hypervolume(points, reference) == pytest.approx(expected)


def test_hypervolume_agrees_with_inclusion_and_exclusion_on_real_numbers() -> None:
    points = np.random.default_rng(0).random((9, 4))
    expected = volume_by_inclusion_exclusion(points.tolist(), [0.9] * 4)
    assert pareto.hypervolume(points, [0.9] * 4) == pytest.approx(expected, rel=1e-9)


def test_a_knee_bends_farthest_towards_the_best_corner() -> None:
    # Scaled, the sums are 1, 0.5, 0.9 and 1; unscaled, the units of the second objective would decide alone.
    points = [[0.0, 1000.0], [0.3, 200.0], [0.8, 100.0], [1.0, 0.0]]
    assert pareto.knee(points) == 1


def test_the_best_first_objective_wins_between_equal_knees() -> None:
    assert pareto.knee([[1.0, 0.0], [0.0, 1.0]]) == 1
    assert pareto.knee([[0.7, 0.3], [1.0, 0.0], [0.1, 0.9], [0.0, 1.0]]) == 3


def test_of_two_points_the_knee_is_the_one_that_gives_up_less_in_the_units_of_the_objectives() -> None:
    assert pareto.knee([[0.0, -0.918], [0.02, -0.991]]) == 1
    assert pareto.knee([[0.0, -0.98], [0.02, -0.991]]) == 0


def test_a_single_point_is_its_own_knee_and_none_is_an_error() -> None:
    assert pareto.knee([[3.0, 4.0]]) == 0
    with pytest.raises(ValueError, match="empty front has no knee"):
        pareto.knee(np.empty((0, 2)))


def test_a_constant_objective_does_not_move_the_knee() -> None:
    assert pareto.knee([[0.0, 5.0, 1.0], [0.2, 5.0, 0.2], [1.0, 5.0, 0.0]]) == 1


def test_oriented_flips_what_is_maximised_and_keeps_the_order_of_the_objectives() -> None:
    values = [
        {"retain.nll": 1.0, "forget.nll": 3.0, "extra": math.nan},
        {"forget.nll": 0.0, "retain.nll": 2.0},
    ]
    points = pareto.oriented(values, {"forget.nll": "max", "retain.nll": "min"})
    assert points.tolist() == [[-3.0, 1.0], [0.0, 2.0]]
    assert not np.signbit(points[1, 0])


def test_oriented_of_nothing_is_an_empty_table_with_a_column_per_objective() -> None:
    assert pareto.oriented([], {"a": "min", "b": "max"}).shape == (0, 2)


def test_oriented_names_what_is_missing_or_misspelt() -> None:
    with pytest.raises(ValueError, match=r"trial 1 has no objective 'b'"):
        pareto.oriented([{"b": 1.0}, {"a": 1.0}], {"b": "min"})
    with pytest.raises(ValueError, match="write min or max"):
        pareto.oriented([{"b": 1.0}], {"b": "minimize"})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="point 0"):
        pareto.oriented([{"b": math.inf}], {"b": "min"})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_point_that_is_not_finite_is_refused(value: float) -> None:
    points = [[0.0, 0.0], [value, 0.0]]
    for function in (pareto.ranks, pareto.front, pareto.crowding, pareto.knee):
        with pytest.raises(ValueError, match=r"point 1 .* must be finite"):
            function(points)
    with pytest.raises(ValueError, match=r"point 1 .* must be finite"):
        pareto.hypervolume(points, [1.0, 1.0])


def test_points_and_reference_must_have_the_shape_of_a_table() -> None:
    with pytest.raises(ValueError, match="no table"):
        pareto.ranks([1.0, 2.0])
    with pytest.raises(ValueError, match="does not fit"):
        pareto.hypervolume([[1.0, 2.0]], [1.0])
    with pytest.raises(ValueError, match="does not fit"):
        pareto.hypervolume([[1.0, 2.0]], [1.0, math.nan])


def test_an_epsilon_net_takes_the_farthest_from_all_taken_before() -> None:
    # Scaled: (0, 1), (0.1, 0.8), (0.4, 0.5), (0.5, 0.45), (1, 0). The far end, then the middle, then what is left.
    points = [[0.0, 100.0], [1.0, 80.0], [4.0, 50.0], [5.0, 45.0], [10.0, 0.0]]
    assert pareto.epsilon_net(points).tolist() == [0, 4, 3, 1, 2]
    assert pareto.epsilon_net(points[::-1]).tolist() == [4, 0, 1, 3, 2]


def test_an_epsilon_net_is_an_order_and_not_the_ranks_of_the_points() -> None:
    # An order that is not its own inverse: taken first is 1, then 2, then 0; as ranks that would be [2, 0, 1].
    assert pareto.epsilon_net([[0.4, 0.5], [0.0, 1.0], [1.0, 0.0]]).tolist() == [1, 2, 0]


def net_by_definition(points: list[list[float]]) -> list[int]:
    spans = [max(column) - min(column) or 1.0 for column in zip(*points, strict=True)]
    taken = [min(range(len(points)), key=lambda i: (points[i], i))]
    while len(taken) < len(points):
        left = [i for i in range(len(points)) if i not in taken]
        gap = {
            i: min(sum(((a - b) / s) ** 2 for a, b, s in zip(points[i], points[j], spans, strict=True)) for j in taken)
            for i in left
        }
        taken.append(min(left, key=lambda i: (-round(gap[i], 9), points[i], i)))
    return taken


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 4))
def test_epsilon_nets_follow_the_definition(seed: int, count: int, width: int) -> None:
    points = np.random.default_rng(seed).random((count, width)).tolist()
    points += points[: count // 3]
    assert pareto.epsilon_net(points).tolist() == net_by_definition(points)
    assert pareto.epsilon_net(points, 3).tolist() == net_by_definition(points)[:3]


def test_an_epsilon_net_of_nothing_is_empty() -> None:
    assert pareto.epsilon_net(np.empty((0, 2))).tolist() == []


@pytest.mark.parametrize("width", [1, 2, 3])
def test_many_points_take_no_table_of_all_pairs(width: int) -> None:
    points = np.random.default_rng(0).random((4000, width))
    tracemalloc.start()
    ranks = pareto.ranks(points)
    front = pareto.front(points)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert ((ranks == 0) == front).all()
    assert peak < 4000**2 / 10  # bytes; a table of truth values would take ten times that


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_layers_are_the_ranks_after_each_arrival(width: int) -> None:
    for seed in range(25):
        random = np.random.default_rng(seed)
        points = random.integers(0, 3 + seed % 5, (24, width)).astype(float)
        kinds: list[Staircases | Table] = [Staircases()] if width == 2 else []
        for layers in [*kinds, Table(width)]:
            for count, point in enumerate(points.tolist(), start=1):
                expected = pareto.ranks(points[:count])
                assert layers.insert(point) == expected[-1]
                found = np.full(count, -1)
                for rank in range(len(layers)):
                    found[layers.members(rank)] = rank
                assert found.tolist() == expected.tolist()
                assert layers.sizes() == np.bincount(expected).tolist()
