"""Who may go on: the rule of the rungs, by hand-worked cases and against its promises."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.events import Ended, Epoch, Event, Promoted, Suggested
from orchestrator.pareto import crowding, epsilon_net, ranks
from orchestrator.search import standings
from orchestrator.search.config import ASHA, Median, NoScheduler, ParetoASHA
from orchestrator.search.rungs import Rungs, protected, rung_epochs
from orchestrator.search.standings import ByFronts, ByMetric, ByWeights, Standing
from tests.sweeps import small_sweep

FORGET, RETAIN = "forget.extraction_strength", "retain.extraction_strength"
ORDERS = ("crowding", "epsilon_net", "scalarised")


def metrics(forget: float, retain: float) -> dict[str, float]:
    return {FORGET: forget, RETAIN: retain}


def rungs_of(scheduler: dict[str, Any] | None = None, **changes: Any) -> Rungs:
    """Rungs of the small sweep at epochs 2 and 4; `scheduler` changes its pareto_asha."""
    return Rungs(small_sweep(scheduler={"type": "pareto_asha", "grace_period": 2} | (scheduler or {}), **changes))


def suggested(trial_id: str, origin: Any = "search") -> Suggested:
    return Suggested(
        trial_id=trial_id, number=0, label=None, params={}, config={}, fingerprint="f", seed=0, origin=origin
    )


def epoch(trial_id: str, number: int, values: dict[str, float]) -> Epoch:
    return Epoch(trial_id=trial_id, epoch=number, metrics=values, seconds=1)


# -- where the rungs are -----------------------------------------------------------------------------------------------


def test_rungs_are_powers_of_the_factor_below_the_budget() -> None:
    assert rung_epochs(ParetoASHA(grace_period=1, reduction_factor=3), 27) == [1, 3, 9]
    assert rung_epochs(ParetoASHA(grace_period=2, reduction_factor=2), 8) == [2, 4]
    assert rung_epochs(ASHA(grace_period=2, reduction_factor=2), 9) == [2, 4, 8]
    assert rung_epochs(NoScheduler(), 8) == []


@pytest.mark.parametrize(("epochs", "rungs"), [(8, [6]), (2, [1]), (3, [2]), (5, [4]), (10, [8]), (100, [75]), (1, [])])
def test_the_first_rung_lies_at_three_quarters_where_nothing_is_said(epochs: int, rungs: list[int]) -> None:
    assert rung_epochs(ParetoASHA(), epochs) == rungs


def test_each_further_bracket_begins_one_rung_later() -> None:
    config = ParetoASHA(grace_period=1, reduction_factor=3, brackets=3)
    assert [rung_epochs(config, 27, bracket) for bracket in range(4)] == [[1, 3, 9], [3, 9], [9], []]


def test_brackets_take_turns_and_compare_their_own_trials_only() -> None:
    rungs = rungs_of({"brackets": 2})
    assert rungs.decide("00000", 2, metrics(0.1, 0.9)) == "go"
    assert rungs.decide("00001", 2, metrics(0.9, 0.1)) == "go"  # of the second bracket, which begins at epoch 4
    assert rungs.decide("00002", 2, metrics(0.9, 0.1)) == "stop"
    assert rungs.decide("00000", 4, metrics(0.1, 0.9)) == "go"
    assert rungs.decide("00001", 4, metrics(0.9, 0.1)) == "go"
    assert rungs.decide("00003", 4, metrics(0.95, 0.05)) == "stop"
    assert rungs.sizes() == {2: 2, 4: 3}


def test_without_a_scheduler_everything_that_is_finite_goes_on() -> None:
    rungs = Rungs(small_sweep(scheduler={"type": "none"}))
    assert {rungs.decide(str(n), 2, metrics(0.1 * n, 0.5)) for n in range(9)} == {"go"}
    assert rungs.decide("9", 2, metrics(math.nan, 0.5)) == "stop"


# -- stopping ----------------------------------------------------------------------------------------------------------


def test_the_first_to_arrive_goes_on() -> None:
    assert rungs_of().decide("a", 2, metrics(1, 0)) == "go"


def test_a_dominated_trial_stops_and_one_on_the_front_goes_on() -> None:
    rungs = rungs_of()
    assert rungs.decide("a", 2, metrics(0.2, 0.9)) == "go"
    assert rungs.decide("b", 2, metrics(0.3, 0.8)) == "stop"
    assert rungs.decide("c", 2, metrics(0.1, 0.8)) == "go"


def test_directions_are_those_of_the_objectives() -> None:
    rungs = rungs_of(objectives={FORGET: "max"}, baselines=[])
    rungs.decide("a", 2, metrics(0.2, 0))
    assert rungs.decide("b", 2, metrics(0.1, 0)) == "stop"
    assert rungs.decide("c", 2, metrics(0.3, 0)) == "go"


def test_between_rungs_everything_goes_on() -> None:
    rungs = rungs_of()
    rungs.decide("a", 2, metrics(0, 1))
    assert rungs.decide("b", 3, metrics(1, 0)) == "go"


@pytest.mark.parametrize("promotion", ["stop", "pause"])
@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("values", [metrics(math.nan, 1), metrics(0, math.inf), {FORGET: 0.0}])
def test_a_missing_or_infinite_objective_stops_at_once_and_is_not_recorded(
    number: int, values: dict[str, float], promotion: str
) -> None:
    rungs = rungs_of({"promotion": promotion})
    assert rungs.decide("a", number, values, protected=True) == "stop"
    assert rungs.sizes() in ({}, {2: 0})
    assert rungs.paused == {}
    assert rungs.promote() is None


@pytest.mark.parametrize("promotion", ["stop", "pause"])
def test_a_protected_trial_is_recorded_and_neither_stopped_nor_paused(promotion: str) -> None:
    rungs = rungs_of({"promotion": promotion})
    rungs.decide("a", 2, metrics(0.2, 0.9))
    assert rungs.decide("b", 2, metrics(1, 0), protected=True) == "go"
    assert rungs.decide("c", 2, metrics(0, 1), protected=True) == "go"
    assert rungs.sizes() == {2: 3}
    assert rungs.decide("d", 2, metrics(0.3, 0.85)) == promotion  # the third of four


@pytest.mark.parametrize("origin", ["baseline", "ablation", "confirm", "earlier"])
def test_all_but_the_proposals_of_a_search_are_protected(origin: str) -> None:
    assert protected(suggested("a", origin))
    assert not protected(suggested("a"))


@pytest.mark.parametrize("promotion", ["stop", "pause"])
def test_the_collapse_rule_stops_under_the_floor(promotion: str) -> None:
    rungs = rungs_of({"floors": {RETAIN: 0.5}, "promotion": promotion})
    assert rungs.decide("a", 2, metrics(0, 0.4)) == "stop"
    assert rungs.decide("b", 2, metrics(-0.1, 0.6)) == "go"
    assert rungs.paused == {}


def test_a_decision_stands_when_a_trial_reports_again_after_others_came() -> None:
    events = []
    rungs = rungs_of()
    for index, forget in enumerate([0.5, 0.4, 0.3]):
        assert rungs.decide(str(index), 2, metrics(forget, 0.9)) == "go"
        events.append(epoch(str(index), 2, metrics(forget, 0.9)))
    assert rungs.decide("0", 2, metrics(0.5, 0.9)) == "go"
    again = rungs_of()
    again.replay(events)
    assert again.decide("0", 2, metrics(0.5, 0.9)) == "go"


def test_a_result_without_an_objective_is_no_point_of_a_replayed_rung() -> None:
    rungs = rungs_of()
    rungs.replay([epoch("0", 2, {FORGET: 0.1})])
    assert rungs.decide("1", 2, metrics(0.5, 0.9)) == "go"


# -- other rules -------------------------------------------------------------------------------------------------------


def test_asha_looks_at_one_objective_alone() -> None:
    for metric, expected in ((None, "stop"), (RETAIN, "go")):
        rungs = Rungs(small_sweep(scheduler={"type": "asha", "metric": metric, "grace_period": 2}))
        rungs.decide("a", 2, metrics(0.2, 0.5))
        assert rungs.decide("b", 2, metrics(0.3, 0.9)) == expected


@pytest.mark.parametrize("promotion", ["stop", "pause"])
def test_asha_tells_those_that_tie_in_its_metric_by_the_other_objectives(promotion: str) -> None:
    rungs = Rungs(small_sweep(scheduler={"type": "asha", "grace_period": 2, "promotion": promotion}))
    rungs.decide("00000", 2, {FORGET: 0.0, RETAIN: 0.5})
    decision = rungs.decide("00001", 2, {FORGET: 0.0, RETAIN: 0.9})
    assert decision == "go" or rungs.promote() == "00001"


def test_the_median_rule_stops_whom_more_than_half_of_the_earlier_beat_at_any_epoch_from_the_grace_period_on() -> None:
    rungs = Rungs(small_sweep(scheduler={"type": "median", "grace_period": 2, "at_least": 3}))
    for index, forget in enumerate([0.1, 0.2, 0.9]):
        for number in (1, 2, 3):
            assert rungs.decide(str(index), number, metrics(forget, 0.5)) == "go"  # too few to be compared with
    assert rungs.decide("a", 1, metrics(0.95, 0.5)) == "go"
    assert rungs.decide("b", 3, metrics(0.2, 0.5)) == "go"  # the median itself
    assert rungs.decide("c", 3, metrics(0.21, 0.5)) == "stop"  # 0.1, 0.2, 0.2 of four are better
    assert rungs.decide("d", 2, metrics(0.21, 0.5)) == "stop"
    assert rungs.decide("e", 3, metrics(0.95, 0.5), protected=True) == "go"
    assert rungs.decide("f", 8, metrics(0.99, 0.5)) == "go"  # the last epoch stops nobody


def test_the_median_rule_has_floors_too() -> None:
    rungs = Rungs(small_sweep(scheduler=Median(grace_period=2, floors={RETAIN: 0.5}).model_dump()))
    assert rungs.decide("a", 3, metrics(0, 0.4)) == "stop"
    assert rungs.decide("b", 1, metrics(0, 0.4)) == "go"


# -- constraints -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", [{"type": "pareto_asha", "grace_period": 2}, {"type": "asha", "grace_period": 2}])
def test_who_misses_a_constraint_stands_behind_all_who_miss_none(scheduler: dict[str, Any]) -> None:
    sweep = small_sweep(scheduler=scheduler, constraints={RETAIN: ">= 0.5 * target"})
    rungs = Rungs(sweep, {"target": {RETAIN: 0.8}})
    assert rungs.decide("a", 2, metrics(0.0, 0.2)) == "go"  # infeasible, and the only one
    assert rungs.decide("b", 2, metrics(0.0, 0.3)) == "go"  # misses by less
    assert rungs.decide("c", 2, metrics(0.0, 0.25)) == "go"  # the second of three
    assert rungs.decide("d", 2, metrics(0.9, 0.5)) == "go"
    assert rungs.decide("e", 2, metrics(0.0, 0.29)) == "go"  # third of five: d, b, e
    assert rungs.decide("f", 2, metrics(0.0, 0.1)) == "stop"
    assert rungs.decide("g", 2, metrics(0.8, 0.6)) == "go"
    assert rungs.decide("h", 2, metrics(0.0, 0.295)) == "go"  # g, d, b, h
    assert rungs.decide("i", 2, metrics(0.0, 0.28)) == "stop"


def test_a_missing_constrained_metric_stops_like_an_objective() -> None:
    sweep = small_sweep(constraints={"retain.nll": "<= 3"})
    assert Rungs(sweep).decide("a", 1, metrics(0, 1), protected=True) == "stop"
    assert Rungs(sweep).decide("a", 1, metrics(0, 1) | {"retain.nll": 9.0}) == "go"


def test_rungs_say_at_once_that_an_anchor_is_missing() -> None:
    with pytest.raises(ValueError, match="relative to the target model, which has no such metric"):
        Rungs(small_sweep(constraints={RETAIN: ">= 0.5 * target"}), {"retain": {RETAIN: 1.0}})


def test_the_infeasible_are_promoted_by_how_little_they_miss() -> None:
    rungs = rungs_of({"promotion": "pause"}, constraints={RETAIN: ">= 0.5"})
    for name, retain in (("a", 0.9), ("b", 0.4), ("c", 0.2), ("d", 0.3)):
        rungs.decide(name, 2, metrics(0.5, retain))
    assert rungs.promote() == "b"
    rungs.decide("e", 2, metrics(0.5, 0.1))
    rungs.decide("f", 2, metrics(0.5, 0.1))
    assert (rungs.promote(), rungs.promote()) == ("d", None)


# -- pausing -----------------------------------------------------------------------------------------------------------


def test_a_paused_trial_goes_on_once_it_belongs_to_the_best() -> None:
    rungs = rungs_of({"promotion": "pause"})
    assert rungs.decide("a", 2, metrics(0.2, 0.9)) == "go"
    assert rungs.decide("b", 2, metrics(0.3, 0.8)) == "pause"
    assert rungs.decide("c", 2, metrics(0.4, 0.7)) == "pause"
    assert rungs.paused == {"b": 2, "c": 2}
    assert rungs.promote() is None
    assert rungs.decide("d", 2, metrics(0.9, 0.1)) == "pause"  # four have been here: two go on
    assert rungs.promote() == "b"
    assert rungs.promote() is None
    assert rungs.paused == {"c": 2, "d": 2}
    assert rungs.decide("b", 2, metrics(0.3, 0.8)) == "go"  # it reports again where it goes on from


def test_promotion_looks_at_the_highest_rung_first() -> None:
    rungs = rungs_of({"promotion": "pause"})
    for name, forget in (("a", 0.1), ("b", 0.2), ("c", 0.3), ("d", 0.4)):
        rungs.decide(name, 2, metrics(forget, 0.5))
        rungs.decide(name, 4, metrics(forget, 0.5), protected=name in "cd")
    assert rungs.paused == {"b": 4}
    for name, forget in (("e", 0.15), ("f", 0.9), ("g", 0.9), ("h", 0.9)):
        rungs.decide(name, 2, metrics(forget, 0.5))
    assert rungs.promote() == "b"


def test_a_trial_that_has_ended_waits_no_longer() -> None:
    rungs = rungs_of({"promotion": "pause"})
    for name, forget in (("a", 0.1), ("b", 0.2), ("c", 0.3)):
        rungs.decide(name, 2, metrics(forget, 0.5))
    rungs.end("b")
    rungs.decide("d", 2, metrics(0.4, 0.5), protected=True)
    assert rungs.paused == {"c": 2}
    assert rungs.promote() is None


def test_an_event_of_a_promotion_is_enough_to_replay_it() -> None:
    rungs = rungs_of({"promotion": "pause"})
    rungs.replay(
        [
            *(epoch(name, 2, metrics(forget, 0.5)) for name, forget in (("a", 0.1), ("b", 0.2), ("c", 0.3))),
            epoch("d", 2, metrics(0.4, 0.5)),
            Promoted(trial_id="b"),
            epoch("e", 2, metrics(0.0, 0.9)),
            epoch("c", 3, metrics(0.3, 0.5)),
            Ended(trial_id="d", state="PRUNED", epoch=2),
        ]
    )
    assert rungs.paused == {}
    assert rungs.decide("b", 2, metrics(0.2, 0.5)) == "go"


# -- promises ----------------------------------------------------------------------------------------------------------

coordinate = st.integers(0, 6).map(lambda value: value / 6)
arrivals = st.lists(st.tuples(coordinate, coordinate), min_size=1, max_size=30)
rules = st.fixed_dictionaries(
    {
        "order": st.sampled_from(ORDERS),
        "promotion": st.sampled_from(["stop", "pause"]),
        "reduction_factor": st.integers(2, 4),
    }
)


@settings(deadline=None, max_examples=60)
@given(arrivals, rules)
def test_a_trial_that_dominates_all_others_is_never_stopped(
    points: list[tuple[float, float]], rule: dict[str, Any]
) -> None:
    rungs = rungs_of(rule)
    for index, point in enumerate(points):
        decision = rungs.decide(str(index), 2, metrics(*point))
        if all(a >= point[0] and b <= point[1] and (a, b) != point for a, b in points[:index]):
            assert decision == "go"


@settings(deadline=None, max_examples=60)
@given(st.permutations(range(12)), st.permutations(range(12)), rules)
def test_the_best_of_a_single_objective_goes_on_once_two_do(
    forgets: list[int], retains: list[int], rule: dict[str, Any]
) -> None:
    rungs = rungs_of(rule | {"order": "crowding" if rule["order"] == "scalarised" else rule["order"]})
    for index, (forget, retain) in enumerate(zip(forgets, retains, strict=True)):
        decision = rungs.decide(str(index), 2, metrics(forget, retain))
        count, factor = index + 1, rule["reduction_factor"]
        two = count > factor if rule["promotion"] == "stop" else count >= 2 * factor
        if two and (forget == min(forgets[:count]) or retain == max(retains[:count])):
            assert decision == "go"


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from(range(8)), min_size=1, max_size=60), arrivals, rules, st.data())
def test_a_driver_killed_anywhere_finds_the_rungs_as_they_were(
    turns: list[int], points: list[tuple[float, float]], rule: dict[str, Any], data: st.DataObject
) -> None:
    """Trials take turns as `turns` has it; whoever is free for it is promoted after every third."""
    events: list[Event] = [suggested("6", "baseline")]
    rungs, told = rungs_of(rule), []
    done: dict[int, int] = {}
    cut = data.draw(st.integers(0, len(turns)))
    again = None
    for step, trial in enumerate(turns):
        if step == cut:
            again = rungs_of(rule)
            again.replay(events)
            assert again.paused == rungs.paused
        both = [rungs] if again is None else [rungs, again]
        if str(trial) not in rungs.paused and done.get(trial, 0) < 7:
            done[trial] = done.get(trial, 0) + 1
            point = metrics(*points[(7 * trial + done[trial]) % len(points)])
            decisions = [each.decide(str(trial), done[trial], point, protected=trial == 6) for each in both]
            told.append(decisions[0])
            assert len(set(decisions)) == 1
            events.append(epoch(str(trial), done[trial], point))
            if decisions[0] == "stop":
                done[trial] = 7
        if step % 3 == 2:
            promoted = [each.promote() for each in both]
            assert len(set(promoted)) == 1
            if promoted[0] is not None:
                events.append(Promoted(trial_id=promoted[0]))
        assert all(each.paused == rungs.paused for each in both)


# -- standings, against orders made anew -------------------------------------------------------------------------------


def order_of(points: Sequence[Sequence[float]], misses: Sequence[float], within: str) -> list[int]:
    """The whole order, from the definitions."""
    feasible = [i for i, miss in enumerate(misses) if miss == 0]
    behind = sorted((i for i, miss in enumerate(misses) if miss), key=lambda i: (misses[i], i))
    rank_of = dict(zip(feasible, ranks([points[i] for i in feasible]).tolist() if feasible else [], strict=True))
    order: list[int] = []
    for rank in sorted(set(rank_of.values())):
        members = [i for i in feasible if rank_of[i] == rank]
        front = [points[i] for i in members]
        if within == "epsilon_net":
            order += [members[i] for i in epsilon_net(front)]
        else:
            order += [members[i] for i in np.argsort(-crowding(front), kind="stable")]
    return order + behind


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 4), st.sampled_from(["crowding", "epsilon_net"]), st.integers(1, 4))
def test_a_standing_is_the_order_of_fronts_made_anew(seed: int, levels: int, within: Any, width: int) -> None:
    random = np.random.default_rng(seed)
    points = random.integers(0, 2 * levels, (16, width)).tolist()
    misses = (random.integers(0, 3, 16) * (random.random(16) < 0.3)).tolist()
    standing: Standing = ByMetric() if width == 1 else ByFronts(width, within)
    wanted: dict[int, None] = {}
    for index in range(16):
        assert standing.add(points[index], misses[index]) == index
        order = order_of(points[: index + 1], misses[: index + 1], within)
        count = (index + 2) // 2
        assert standing.newest_among(count) == (index in order[:count])
        if index not in order[:count]:
            wanted[index] = None
        found = standing.first(count, wanted)
        assert found == next((trial for trial in order[:count] if trial in wanted), None)
        if found is not None and random.random() < 0.7:
            del wanted[found]


def weights(count: int = 5, objectives: int = 2) -> Any:
    return np.random.default_rng(1).dirichlet(np.ones(objectives), count)


def test_under_random_weights_the_best_of_each_weighting_come_first() -> None:
    standing = ByWeights(np.array([[0.9, 0.1], [0.1, 0.9]]))
    for point in ([0.5, 0.5], [0.0, 1.0], [1.0, 0.0], [0.6, 0.6]):
        standing.add(point)
    # Max and a twentieth of the sum: 0.475, 0.105, 0.945, 0.57 under the first; the same but 1 and 2 swapped under the
    # second. Places 1, 0, 3, 2 and 1, 3, 0, 2: the ends share the first place, and the earlier of them is first.
    order = []
    wanted = dict.fromkeys(range(4))
    while (best := standing.first(4, wanted)) is not None:
        order.append(best)
        del wanted[best]
    assert order == [1, 2, 0, 3]


def test_beyond_the_exact_size_random_weights_decide_nearly_as_if_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    points = np.random.default_rng(0).random((300, 2))
    exact, quick = ByWeights(weights()), ByWeights(weights())
    same = 0
    for count, point in enumerate(points.tolist(), start=1):
        monkeypatch.setattr(standings, "EXACT", 10**9)
        exact.add(point)
        expected = exact.newest_among(count // 2)
        monkeypatch.setattr(standings, "EXACT", 100)
        quick.add(point)
        found = quick.newest_among(count // 2)
        assert found == expected or count > 100
        same += found == expected
    assert same >= 0.99 * len(points)


def test_a_front_too_large_for_an_epsilon_net_is_ordered_by_crowding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standings, "EXACT", 3)
    standing = ByFronts(2, "epsilon_net")
    for point in ([0.0, 1.0], [1.0, 0.0], [0.9, 0.15], [0.8, 0.2], [0.3, 0.4]):
        standing.add(point)
    assert standing.first(5, {2, 3, 4}) == 4
