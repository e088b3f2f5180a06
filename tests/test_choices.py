"""Which setting to take, and published settings beside the front, by hand."""

from __future__ import annotations

import pytest

from orchestrator.results.choices import Sides, at_ends, choices, recommended, sides
from orchestrator.results.published import distance, published
from tests.summaries import FORGET, RETAIN, Sweep

# -- choices -----------------------------------------------------------------------------------------------------------


def _front(**config: object) -> tuple[Sweep, list[str]]:
    """A front of four: forget 0, 0.04, 0.2, 0.6 with retain 0.5, 0.8, 0.93, 0.99."""
    sweep = Sweep(**config)
    return sweep, [sweep.trial(*point) for point in ((0.0, 0.5), (0.04, 0.8), (0.2, 0.93), (0.6, 0.99))]


def test_alternatives_are_judged_by_the_target_model() -> None:
    sweep, (_, second, third, _) = _front()
    sweep.anchor("target", 1.0, 0.96)
    knee, forgetting, utility = choices(sweep.summary)
    assert (knee.name, knee.record.trial_id, knee.rule) == ("knee", second, "")
    # 95 % of 0.96 is 0.912, 5 % of 1.0 is 0.05.
    assert (forgetting.name, forgetting.record.trial_id) == ("most_forgetting", third)
    assert forgetting.rule == f"{RETAIN} of at least 0.912, 5% worse than the target model's own 0.96"
    assert (utility.name, utility.record.trial_id, utility.same_as) == ("most_utility", second, "knee")
    assert utility.rule == f"{FORGET} of at most 0.05, 5% of the target model's own 1"


def test_the_retain_model_says_how_much_forgetting_is_enough() -> None:
    sweep, (_, _, third, _) = _front()
    sweep.anchor("target", 1.0, 0.96)
    sweep.anchor("retain", 0.3, 0.9)
    utility = choices(sweep.summary)[2]
    assert (utility.record.trial_id, utility.rule) == (third, f"{FORGET} of at most 0.3, that of the retain model")


def test_a_constraint_of_the_sweep_is_the_floor() -> None:
    sweep, (first, _, _, _) = _front(constraints={RETAIN: ">= 0.5 * target"})
    sweep.anchor("target", 1.0, 0.96)
    forgetting = choices(sweep.summary)[1]
    assert forgetting.record.trial_id == first
    assert forgetting.rule == f"{RETAIN} >= 0.5 * target, the sweep's constraint"


def test_without_anchors_the_floor_is_set_by_the_front_and_nobody_says_what_is_forgotten() -> None:
    sweep, (_, _, _, last) = _front()
    knee, forgetting = choices(sweep.summary)
    assert knee.name == "knee"
    assert forgetting.rule.endswith("5% worse than the best of the front, 0.99")
    assert forgetting.record.trial_id == last


def test_there_is_no_alternative_where_nobody_qualifies_and_no_choice_without_a_front() -> None:
    sweep = Sweep()
    sweep.anchor("target", 1.0, 1.0)
    assert choices(sweep.summary) == []
    sweep.trial(0.5, 0.5)
    assert [choice.name for choice in choices(sweep.summary)] == ["knee"]


def test_choices_are_among_confirmed_points_by_their_means() -> None:
    sweep, (_, second, third, fourth) = _front(confirm={"seeds": 2, "at_most": 3})
    sweep.anchor("target", 1.0, 0.96)
    sweep.seeds(second, (0.06, 0.8), (0.08, 0.8))  # the search had luck: its mean misses the bar
    sweep.seeds(third, (0.2, 0.91), (0.3, 0.93))
    sweep.seeds(fourth, (0.6, 0.99), (0.6, 0.99))
    knee, forgetting = choices(sweep.summary)  # and no third: nobody's mean is below the bar
    assert (knee.record.trial_id, forgetting.record.trial_id, forgetting.same_as) == (third, third, "knee")
    assert getattr(recommended(sweep.summary), "trial_id", None) == third
    assert knee.confirmed is not None
    assert knee.values == pytest.approx({FORGET: 0.25, RETAIN: 0.92})


def test_the_sides_of_a_trade_off_are_found_by_name_then_by_direction() -> None:
    assert sides({FORGET: "min", RETAIN: "max"}) == Sides(FORGET, RETAIN)
    assert sides({"retain.nll": "min", "forget.nll": "max"}) == Sides("forget.nll", "retain.nll")
    assert sides({"utility": "max", "leak": "min"}) == Sides("leak", "utility")


def test_a_single_objective_has_a_best_trial_and_no_alternatives() -> None:
    sweep = Sweep({FORGET: "min"})
    sweep.trial(0.5)
    best = sweep.trial(0.4)
    assert [choice.record.trial_id for choice in choices(sweep.summary)] == [best]


def test_an_objective_to_be_minimised_may_be_the_useful_one() -> None:
    sweep = Sweep({"forget.nll": "max", "retain.nll": "min"})
    sweep.anchor("target", 0.1, 1.0)
    near = sweep.trial(3.0, 1.04)
    sweep.trial(9.0, 2.0)
    forgetting = choices(sweep.summary)[1]
    assert forgetting.record.trial_id == near
    assert forgetting.rule == "retain.nll of at most 1.05, 5% worse than the target model's own 1"


# -- published settings ------------------------------------------------------------------------------------------------


def test_a_published_setting_is_placed_by_distance_volume_and_who_beats_it() -> None:
    sweep = Sweep()
    sweep.trial(0.5, 0.6, label="wga")
    sweep.trial(0.0, 0.9, label="npo_ou", state="PRUNED")
    sweep.trial(0.0, 0.9, label="simsat5", state=None)
    best = sweep.trial(0.2, 0.8)
    end = sweep.trial(0.0, 0.1)
    wga, npo, simsat = published(sweep.summary)
    assert (wga.candidate, wga.on_front) == (True, False)
    assert wga.hypervolume == pytest.approx(0.5 * 0.6)
    assert [dominator.record.trial_id for dominator in wga.dominators] == [best]
    assert wga.dominators[0].gain == pytest.approx({FORGET: 0.3, RETAIN: 0.2})
    # From the best of the front (0 and 0.8) to the reference point (1 and 0): nearest is `best`, 0.3 and 0.2 / 0.8 off.
    assert wga.distance == pytest.approx((0.3**2 + 0.25**2) ** 0.5)
    assert (npo.candidate, npo.distance, npo.dominators) == (False, None, [])
    assert (simsat.record, simsat.hypervolume) == (None, None)
    assert end in [record.trial_id for record in sweep.summary.front]


def test_who_ties_with_the_front_in_one_objective_is_as_far_behind_as_the_others_say() -> None:
    sweep = Sweep()
    sweep.trial(0.0, 0.6, label="wga")
    sweep.trial(0.0, 0.8)
    (wga,) = published(sweep.summary)
    assert wga.distance == pytest.approx(0.25)


def test_a_published_setting_on_the_front_is_at_distance_zero() -> None:
    sweep = Sweep()
    sweep.trial(0.1, 0.6, label="wga")
    sweep.trial(0.5, 0.8)
    (wga,) = published(sweep.summary)
    assert (wga.on_front, wga.distance, wga.dominators) == (True, 0.0, [])


def test_a_published_setting_with_seeds_is_placed_among_the_means() -> None:
    sweep = Sweep(confirm={"seeds": 2, "at_most": 1})
    wga = sweep.trial(0.1, 0.9, label="wga")  # on the front of single seeds, by luck
    other = sweep.trial(0.2, 0.8)
    sweep.trial(0.0, 0.2)  # nobody ran it again: it says nothing of means
    sweep.seeds(wga, (0.4, 0.6), (0.4, 0.6))
    sweep.seeds(other, (0.2, 0.8), (0.2, 0.8))
    (found,) = published(sweep.summary)
    assert [dominator.record.trial_id for dominator in found.dominators] == [other]
    assert found.dominators[0].gain == pytest.approx({FORGET: 0.2, RETAIN: 0.2})
    # From the best of the means (0.2 and 0.8) to the reference point (1 and 0).
    assert found.distance == pytest.approx(
        distance({FORGET: 0.4, RETAIN: 0.6}, [{FORGET: 0.2, RETAIN: 0.8}], sweep.summary.info)
    )
    assert found.distance == pytest.approx(((0.2 / 0.8) ** 2 * 2) ** 0.5)
    assert found.on_front is False


def test_a_few_points_with_seeds_decide_nothing() -> None:
    """As those of an ablation whose base is no good: the knee is that of the front, by single seeds."""
    sweep, (_, second, _, _) = _front()
    poor = sweep.trial(0.7, 0.5, label="wga")
    sweep.seeds(poor, (0.7, 0.5), (0.7, 0.5), origin="ablation")
    knee = choices(sweep.summary)[0]
    assert (knee.record.trial_id, knee.confirmed) == (second, None)
    (wga,) = published(sweep.summary)
    assert (wga.on_front, wga.confirmed) == (False, None)
    assert wga.distance is not None
    assert wga.distance > 0.05


def test_who_misses_a_constraint_with_most_fresh_seeds_is_no_candidate() -> None:
    sweep = Sweep(constraints={RETAIN: ">= 0.5"}, confirm={"seeds": 2})
    wga = sweep.trial(0.0, 0.6, label="wga")
    sweep.seeds(wga, (0.0, 0.4), (0.0, 0.3), violations={f"{RETAIN} >= 0.5": 0.1})
    (found,) = published(sweep.summary)
    assert (found.candidate, found.on_front, found.distance) == (False, False, None)
    assert choices(sweep.summary)[0].confirmed is None  # nobody is left, so single seeds decide


def test_a_value_outside_of_the_space_lies_at_no_end_of_it() -> None:
    sweep = Sweep(space={"loss.retain.coefficient": {"float": [0.1, 5], "log": True}})
    sweep.trial(0.1, 0.6, params={"loss.retain.coefficient": 0})
    assert at_ends(sweep.summary.records[0], sweep.summary) == []


@pytest.mark.parametrize(("rate", "end"), [(9.9e-4, 1e-3), (1.01e-4, 1e-4), (5e-4, None)])
def test_a_value_at_the_end_of_its_range_is_told(rate: float, end: float | None) -> None:
    space = {"optim.lr": {"float": [1e-4, 1e-3], "log": True}, "loss.granularity": {"choice": ["token", "batch"]}}
    sweep = Sweep(space=space)
    sweep.trial(0.1, 0.6, params={"optim.lr": rate, "loss.granularity": "token"})
    assert at_ends(sweep.summary.records[0], sweep.summary) == ([] if end is None else [("optim.lr", end)])


def test_with_seeds_it_is_told_how_sure_it_is_that_the_knee_beats_a_published_setting() -> None:
    sweep = Sweep()
    wga, best = sweep.trial(0.5, 0.6, label="wga"), sweep.trial(0.2, 0.8)
    sweep.seeds(wga, (0.5, 0.6), (0.51, 0.61), (0.49, 0.59), label="wga")
    sweep.seeds(best, (0.2, 0.8), (0.21, 0.81), (0.19, 0.79))
    (found,) = published(sweep.summary)
    assert found.confirmed is not None
    assert found.confirmed.seeds == 3
    assert found.beaten_by_knee is not None
    assert found.beaten_by_knee > 0.95
