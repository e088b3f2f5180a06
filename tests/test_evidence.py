"""Seeds, choices, cost and effects against sweeps that are small enough to be worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from orchestrator import pareto
from orchestrator.results.attainment import attainment, seed_fronts
from orchestrator.results.evidence import confirmed, confirmed_front, probability_dominated
from orchestrator.results.intervals import difference_interval, t_interval
from tests.summaries import FORGET, OBJECTIVES, RETAIN, Sweep

# -- intervals ---------------------------------------------------------------------------------------------------------


def test_an_interval_of_three_values_reaches_two_and_a_half_deviations() -> None:
    mean, low, high = t_interval([0.1, 0.2, 0.3])
    half = 4.302652729911275 * 0.1 / math.sqrt(3)  # t of two degrees of freedom
    assert (mean, low, high) == pytest.approx((0.2, 0.2 - half, 0.2 + half))


def test_equal_values_have_an_interval_without_width() -> None:
    assert t_interval([0.5, 0.5]) == (0.5, 0.5, 0.5)
    assert difference_interval([0.5, 0.5], [0.2, 0.2]) == (0.3, 0.3)


def test_95_of_100_intervals_hold_the_mean_also_where_points_differ_in_noise() -> None:
    rng = np.random.default_rng(0)
    held = []
    for noise in np.tile([0.01, 1.0], 1000):
        _, low, high = t_interval(rng.normal(3.0, noise, 3).tolist())
        held.append(low <= 3.0 <= high)
    assert np.mean(held[::2]) == pytest.approx(0.95, abs=0.02)
    assert np.mean(held[1::2]) == pytest.approx(0.95, abs=0.02)


def test_the_interval_of_a_difference_is_welchs() -> None:
    from scipy import stats

    ones, others = [0.91, 0.93, 0.90], [0.80, 0.88, 0.83, 0.86]
    expected = stats.ttest_ind(ones, others, equal_var=False).confidence_interval(0.95)
    assert difference_interval(ones, others) == pytest.approx((expected.low, expected.high))


def test_an_interval_of_seeds_ends_where_the_metric_does() -> None:
    sweep = Sweep()
    point = sweep.trial(0.0, 0.98)
    sweep.seeds(point, (0.0, 0.97), (0.01, 1.0))
    (found,) = confirmed(sweep.summary)
    assert (found.low[FORGET], found.high[RETAIN]) == (0.0, 1.0)
    assert found.high[FORGET] == pytest.approx(t_interval([0.0, 0.01])[2])


# -- confirmed points --------------------------------------------------------------------------------------------------


def test_estimates_are_of_the_fresh_seeds_and_the_luck_of_the_search_is_beside_them() -> None:
    sweep = Sweep()
    lucky = sweep.trial(0.1, 0.9)
    sweep.trial(0.1, 0.9, of=lucky, seed=1)  # a replicate of the search is no fresh seed
    sweep.seeds(lucky, (0.2, 0.8), (0.3, 0.8), (0.4, 0.8), first=2)
    (point,) = confirmed(sweep.summary)
    assert (point.trial_id, point.kind, point.seeds, point.failed) == (lucky, "fresh", 3, 0)
    assert point.mean == pytest.approx({FORGET: 0.3, RETAIN: 0.8})
    assert point.luck == pytest.approx({FORGET: -0.2, RETAIN: 0.1})
    assert (point.low[RETAIN], point.high[RETAIN]) == pytest.approx((0.8, 0.8))
    assert point.low[FORGET] == pytest.approx(0.3 - 4.302652729911275 * 0.1 / math.sqrt(3))
    assert point.probability == 1.0


def test_without_a_confirmation_all_seeds_of_replicated_points_count() -> None:
    sweep = Sweep()
    one = sweep.trial(0.2, 0.8)
    sweep.seeds(one, (0.4, 0.8), origin="search")
    sweep.trial(0.5, 0.95)  # one seed: no evidence
    (point,) = confirmed(sweep.summary)
    assert (point.kind, point.seeds) == ("all", 2)
    assert point.mean[FORGET] == pytest.approx(0.3)
    assert point.luck[FORGET] == pytest.approx(-0.2)


def test_seeds_that_diverge_are_counted_and_one_seed_left_is_no_evidence() -> None:
    sweep = Sweep()
    steady, wild = sweep.trial(0.2, 0.8), sweep.trial(0.1, 0.9)
    sweep.seeds(steady, (0.2, 0.8), (0.3, 0.8))
    sweep.seeds(steady, (0.9, 0.1), first=3, state="FAIL")
    sweep.seeds(wild, (0.1, 0.9))
    sweep.seeds(wild, (0.9, 0.1), (0.9, 0.1), first=2, state="FAIL")
    (point,) = confirmed(sweep.summary)
    assert (point.trial_id, point.seeds, point.failed) == (steady, 2, 1)


def test_a_sweep_with_one_seed_each_has_no_confirmed_points() -> None:
    sweep = Sweep()
    sweep.trial(0.2, 0.8)
    assert confirmed(sweep.summary) == []
    assert confirmed_front([]) == []
    assert attainment(sweep.summary) == []


def test_probabilities_tell_the_certain_from_the_uncertain() -> None:
    sweep = Sweep()
    best = sweep.trial(0.0, 0.9)
    twin = sweep.trial(0.0, 0.9)
    poor = sweep.trial(0.5, 0.5)
    sweep.seeds(best, (0.0, 0.90), (0.0, 0.92), (0.0, 0.88))
    sweep.seeds(twin, (0.0, 0.88), (0.0, 0.90), (0.0, 0.92))
    sweep.seeds(poor, (0.5, 0.50), (0.51, 0.51), (0.49, 0.49))
    points = {point.trial_id: point for point in confirmed(sweep.summary)}
    # The twins have forgotten all, so whoever keeps more dominates the other: even odds.
    assert points[best].probability == pytest.approx(0.5, abs=0.05)
    assert points[twin].probability == pytest.approx(0.5, abs=0.05)
    assert points[poor].probability < 0.05
    assert probability_dominated(points[poor], points[best], OBJECTIVES) > 0.95
    assert probability_dominated(points[best], points[poor], OBJECTIVES) < 0.01
    assert poor not in [point.trial_id for point in confirmed_front(list(points.values()))]


def test_the_probability_of_two_points_is_that_of_their_t_distributions() -> None:
    sweep = Sweep()
    one, other = sweep.trial(0.0, 0.5), sweep.trial(0.0, 0.5)
    sweep.seeds(one, (0.0, 0.4), (0.0, 0.5), (0.0, 0.6))
    sweep.seeds(other, (0.0, 0.5), (0.0, 0.5), (0.0, 0.5))
    first, second = sorted(confirmed(sweep.summary), key=lambda point: point.trial_id)
    # The second's mean is certain, so it is dominated if a t of two degrees around 0.5 is above 0.5.
    assert probability_dominated(second, first, OBJECTIVES) == pytest.approx(0.5, abs=0.03)
    assert probability_dominated(first, second, OBJECTIVES) == pytest.approx(0.5, abs=0.03)


def test_the_same_records_give_the_same_probabilities() -> None:
    sweep = Sweep()
    for value in (0.2, 0.3, 0.4):
        sweep.seeds(sweep.trial(value, value), (value, value), (value + 0.1, value + 0.2))
    assert confirmed(sweep.summary) == confirmed(sweep.summary)


def test_points_whose_seeds_miss_a_constraint_are_on_no_confirmed_front() -> None:
    sweep = Sweep()
    kept, missed = sweep.trial(0.2, 0.8), sweep.trial(0.1, 0.9)
    sweep.seeds(kept, (0.2, 0.8), (0.2, 0.8))
    sweep.seeds(missed, (0.1, 0.9), (0.1, 0.9), violations={RETAIN: 0.1})
    points = confirmed(sweep.summary)
    assert {point.trial_id: (point.missed, point.probability) for point in points} == {kept: (0, 1.0), missed: (2, 0.0)}
    assert [point.trial_id for point in confirmed_front(points)] == [kept]


def test_where_none_is_likely_the_likeliest_is_the_confirmed_front() -> None:
    sweep = Sweep()
    for shift in range(5):  # five that cannot be told apart
        values = [(0.0, 0.5 + 0.1 * ((shift + seed) % 5)) for seed in range(5)]
        sweep.seeds(sweep.trial(0.0, 0.7), *values)
    points = confirmed(sweep.summary)
    assert max(point.probability for point in points) < 0.5
    assert len(confirmed_front(points)) == 1


def test_many_points_are_compared_as_few_are() -> None:
    sweep = Sweep()
    for number in range(120):
        value = number / 120
        sweep.seeds(sweep.trial(value, 1 - value), (value, 1 - value), (value, 1 - value), origin="search")
    points = confirmed(sweep.summary)
    assert len(points) == 120
    assert [point.probability for point in points] == [1.0] + [0.0] * 119  # the first dominates all others, surely


# -- attainment --------------------------------------------------------------------------------------------------------


def _two_seeds() -> Sweep:
    """Two settings, two fresh seeds of each: in seed 1 both are on the front, in seed 2 the first dominates."""
    sweep = Sweep()
    one, two = sweep.trial(0.1, 0.7), sweep.trial(0.3, 0.9)
    sweep.seeds(one, (0.1, 0.6), (0.2, 0.8))
    sweep.seeds(two, (0.3, 0.9), (0.4, 0.7))
    return sweep


def test_each_seed_has_a_front_of_its_own() -> None:
    fronts = seed_fronts(_two_seeds().summary)
    assert [(each.seed, [run.metrics[FORGET] for run in each.front]) for each in fronts] == [
        (1, [0.1, 0.3]),
        (2, [0.2]),
    ]
    assert fronts[0].hypervolume == pytest.approx(0.2 * 0.6 + 0.7 * 0.9)
    assert fronts[1].hypervolume == pytest.approx(0.8 * 0.8)


def test_attainment_surfaces_are_what_one_and_all_seeds_reach() -> None:
    surfaces = {surface.level: surface for surface in attainment(_two_seeds().summary)}
    assert (surfaces["best"].x, surfaces["best"].y) == ([0.1, 0.2, 0.3], [0.6, 0.8, 0.9])
    assert (surfaces["worst"].x, surfaces["worst"].y) == ([0.2, 0.3], [0.6, 0.8])
    assert [(s.attained, s.of) for s in surfaces.values()] == [(1, 2), (1, 2), (2, 2)]


def test_attainment_surfaces_agree_with_counting_fronts_at_every_point_of_a_grid() -> None:
    rng = np.random.default_rng(3)
    sweep = Sweep()
    for _ in range(6):
        point = sweep.trial(0.5, 0.5)
        sweep.seeds(point, *((float(x), float(y)) for x, y in rng.uniform(0, 1, (5, 2)).round(2)))
    summary = sweep.summary
    fronts = [pareto.oriented([r.metrics for r in each.front], OBJECTIVES) for each in seed_fronts(summary)]
    for surface in attainment(summary):
        corners = np.column_stack([surface.x, -np.array(surface.y)])
        for place in rng.uniform([0, -1], [1, 0], (200, 2)):
            reached = sum(bool((front <= place).all(axis=1).any()) for front in fronts)
            assert bool((corners <= place).all(axis=1).any()) == (reached >= surface.attained)
