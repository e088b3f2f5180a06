"""Who may go on: the rule of the rungs, by hand-worked cases and against its promises."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.events import Epoch
from orchestrator.rungs import Rungs, rung_epochs
from orchestrator.search_config import NoScheduler, ParetoASHA
from tests.sweeps import small_sweep


def metrics(forget: float, retain: float) -> dict[str, float]:
    return {"forget.extraction_strength": forget, "retain.extraction_strength": retain}


def test_rungs_are_powers_of_the_factor_below_the_budget() -> None:
    assert rung_epochs(ParetoASHA(grace_period=1, reduction_factor=3), 27) == [1, 3, 9]
    assert rung_epochs(ParetoASHA(grace_period=2, reduction_factor=2), 8) == [2, 4]
    assert rung_epochs(ParetoASHA(grace_period=2, reduction_factor=2), 9) == [2, 4, 8]
    assert rung_epochs(NoScheduler(), 8) == []


def test_the_first_to_arrive_goes_on() -> None:
    assert Rungs(small_sweep()).goes_on("a", 2, metrics(1, 0))


def test_a_dominated_trial_stops_and_one_on_the_front_goes_on() -> None:
    rungs = Rungs(small_sweep())
    assert rungs.goes_on("a", 2, metrics(0.2, 0.9))
    assert not rungs.goes_on("b", 2, metrics(0.3, 0.8))
    assert rungs.goes_on("c", 2, metrics(0.1, 0.8))


def test_directions_are_those_of_the_objectives() -> None:
    rungs = Rungs(small_sweep(objectives={"forget.extraction_strength": "max"}, baselines=[]))
    rungs.goes_on("a", 2, metrics(0.2, 0))
    assert not rungs.goes_on("b", 2, metrics(0.1, 0))
    assert rungs.goes_on("c", 2, metrics(0.3, 0))


def test_between_rungs_everything_goes_on() -> None:
    rungs = Rungs(small_sweep())
    rungs.goes_on("a", 2, metrics(0, 1))
    assert rungs.goes_on("b", 3, metrics(1, 0))


@pytest.mark.parametrize("epoch", [1, 2, 3])
@pytest.mark.parametrize("values", [metrics(math.nan, 1), metrics(0, math.inf), {"forget.extraction_strength": 0.0}])
def test_a_missing_or_infinite_objective_stops_at_once_and_is_not_recorded(
    epoch: int, values: dict[str, float]
) -> None:
    rungs = Rungs(small_sweep())
    assert not rungs.goes_on("a", epoch, values, protected=True)
    assert rungs.values == {2: {}, 4: {}}


def test_a_baseline_is_recorded_and_never_stopped() -> None:
    rungs = Rungs(small_sweep())
    rungs.goes_on("a", 2, metrics(0, 1))
    assert rungs.goes_on("b", 2, metrics(1, 0), protected=True)
    assert set(rungs.values[2]) == {"a", "b"}


def test_the_collapse_rule_stops_under_the_floor() -> None:
    floors = {"retain.extraction_strength": 0.5}
    rungs = Rungs(small_sweep(scheduler={"type": "pareto_asha", "floors": floors}))
    assert not rungs.goes_on("a", 2, metrics(0, 0.4))
    assert rungs.goes_on("b", 2, metrics(0, 0.6))


def test_replayed_rungs_decide_as_before() -> None:
    rungs, again = Rungs(small_sweep()), Rungs(small_sweep())
    events = []
    for index in range(6):
        values = metrics(0.1 * index, 0.3 + 0.1 * index)
        rungs.goes_on(str(index), 2, values)
        events.append(Epoch(trial_id=str(index), epoch=2, metrics=values, seconds=1))
    again.replay(events)
    assert again.values == rungs.values


points = st.tuples(st.floats(0, 1), st.floats(0, 1))


@given(st.lists(points, min_size=1, max_size=30), st.integers(2, 4))
def test_the_best_of_a_single_objective_is_never_stopped_and_no_more_than_a_share_goes_on(
    arrivals: list[tuple[float, float]], factor: int
) -> None:
    sweep = small_sweep(
        objectives={"forget.extraction_strength": "min"},
        scheduler={"type": "pareto_asha", "reduction_factor": factor},
    )
    rungs = Rungs(sweep)
    best = math.inf
    for index, (forget, retain) in enumerate(arrivals):
        on = rungs.goes_on(str(index), 2, metrics(forget, retain))
        if forget < best:
            assert on
        best = min(best, forget)
    assert len(rungs._best(rungs.values[2])) == math.ceil(len(arrivals) / factor)


def test_a_decision_stands_when_a_trial_reports_again_after_others_came() -> None:
    events = []
    rungs = Rungs(small_sweep())
    for index, forget in enumerate([0.5, 0.4, 0.3]):
        values = metrics(forget, 0.9)
        assert rungs.goes_on(str(index), 2, values)
        events.append(Epoch(trial_id=str(index), epoch=2, metrics=values, seconds=1))
    assert rungs.goes_on("0", 2, metrics(0.5, 0.9))
    again = Rungs(small_sweep())
    again.replay(events)
    assert again.goes_on("0", 2, metrics(0.5, 0.9))


def test_a_result_without_an_objective_is_no_point_of_a_replayed_rung() -> None:
    rungs = Rungs(small_sweep())
    rungs.replay([Epoch(trial_id="0", epoch=2, metrics={"forget.extraction_strength": 0.1}, seconds=1)])
    assert rungs.goes_on("1", 2, metrics(0.5, 0.9))
