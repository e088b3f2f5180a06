"""Metrics of whole models, on logs worked by hand and on the tables of the report that they come from."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.golden import VECTORS
from trials.aggregates import (
    ATTACKS,
    MEMORISED,
    LogFunction,
    attack,
    closeness,
    forget_quality,
    forget_quality_log10,
    harmonic_mean,
    memorization,
    memorization_and_utility,
    memorization_raw,
    model_utility,
    model_utility_likelihood,
    overall,
    privacy,
    privleak,
    privleak_half,
    utility,
)
from trials.logs import EvalLog, References

NONE = References()
NAN = math.nan
RATIO = "forget.wrong_over_right"
PARTS = {
    "retain.probability": 0.5,
    "retain.rouge_l_recall": 0.8,
    "retain.truthfulness": 0.4,
    "real_authors.probability_normalised": 0.5,
    "real_authors.rouge_l_recall": 1.0,
    "real_authors.truthfulness": 0.25,
    "general.probability_normalised": 0.4,
    "general.rouge_l_recall": 0.8,
    "general.truthfulness": 0.2,
}
FORGET = {f"forget.{name}": value for name, value in zip(MEMORISED, (0.5, 0.75, 0.2, 0.6), strict=True)}


def rows(**columns: list[float]) -> EvalLog:
    """A log of rows, `__` in the place of the dot."""
    return EvalLog(rows={name.replace("__", "."): np.array(column) for name, column in columns.items()})


def ratios(*r: float) -> EvalLog:
    return EvalLog({RATIO: float(np.mean(r))}, {RATIO: np.array(r)})


def retain(**privacy: float) -> References:
    return References(retain=aucs(**privacy))


def aucs(**privacy: float) -> EvalLog:
    return EvalLog({f"privacy.{name}": value for name, value in privacy.items()})


def auc(members: list[float], nonmembers: list[float], name: str = "min_k") -> float | None:
    return attack(name)(rows(**{f"members__{name}": members, f"nonmembers__{name}": nonmembers}), NONE)


# -- harmonic mean -----------------------------------------------------------------------------------------------------


def test_the_harmonic_mean_is_the_number_over_the_sum_of_the_inverses() -> None:
    assert harmonic_mean([1.0, 0.5]) == pytest.approx(2 / 3)
    assert harmonic_mean([0.2, 0.3, 0.6]) == pytest.approx(0.3)
    assert harmonic_mean([0.7]) == 0.7


def test_the_harmonic_mean_is_0_with_a_0_and_nan_with_a_nan_even_beside_a_0() -> None:
    assert harmonic_mean([1.0, 0.0]) == 0.0
    assert math.isnan(harmonic_mean([0.5, NAN]))
    assert math.isnan(harmonic_mean([0.0, NAN]))


# -- model utility -----------------------------------------------------------------------------------------------------


def test_model_utility_is_the_harmonic_mean_of_nine_parts() -> None:
    # 9 / (2 + 1.25 + 2.5 + 2 + 1 + 4 + 2.5 + 1.25 + 5)
    assert model_utility(EvalLog(PARTS), NONE) == pytest.approx(9 / 21.5)


def test_model_utility_of_the_golden_parts_is_the_golden_value() -> None:
    given = VECTORS["metrics"]["model_utility"]
    sets = {"Retain": "retain", "RA": "real_authors", "WF": "general"}
    names = {"prob": "probability_normalised", "rouge": "rouge_l_recall", "tr": "truthfulness"}
    values = {}
    for name, value in given["components"].items():
        rows, part = name.split("_")
        values[f"{sets[rows]}.{'probability' if name == 'Retain_prob' else names[part]}"] = value
    assert model_utility(EvalLog(values), NONE) == pytest.approx(given["value"], rel=1e-14)


def test_utility_by_likelihood_is_the_six_parts_without_rouge() -> None:
    expected = 6 / (2 + 2.5 + 2 + 4 + 2.5 + 5)
    assert model_utility_likelihood(EvalLog(PARTS), NONE) == pytest.approx(expected)
    spoken = {name: value for name, value in PARTS.items() if "rouge" not in name}
    assert model_utility_likelihood(EvalLog(spoken), NONE) == pytest.approx(expected)
    assert model_utility(EvalLog(spoken), NONE) is None


@pytest.mark.parametrize("gone", ["real_authors", "general"])
def test_a_benchmark_may_lack_one_of_the_general_sets_but_not_both(gone: str) -> None:
    kept = {name: value for name, value in PARTS.items() if not name.startswith(gone)}
    assert model_utility(EvalLog(kept), NONE) == pytest.approx(harmonic_mean(list(kept.values())))
    only_retain = {name: value for name, value in PARTS.items() if name.startswith("retain")}
    assert model_utility(EvalLog(only_retain), NONE) is None


@pytest.mark.parametrize("gone", PARTS)
def test_model_utility_is_absent_where_a_set_lacks_a_part(gone: str) -> None:
    assert model_utility(EvalLog({name: value for name, value in PARTS.items() if name != gone}), NONE) is None


def test_model_utility_is_0_with_a_part_at_0_and_nan_with_one_at_nan() -> None:
    assert model_utility(EvalLog({**PARTS, "general.truthfulness": 0.0}), NONE) == 0.0
    assert math.isnan(model_utility(EvalLog({**PARTS, "general.truthfulness": NAN}), NONE) or 0.0)


# -- forget quality ----------------------------------------------------------------------------------------------------


def quality(ours: EvalLog, theirs: EvalLog) -> float | None:
    return forget_quality(ours, References(retain=theirs))


def test_forget_quality_of_the_retain_model_itself_is_1() -> None:
    log = ratios(0.3, 0.9, 1.4, 0.9)
    assert quality(log, log) == 1.0
    assert forget_quality_log10(log, References(retain=log)) == 0.0


def test_forget_quality_of_two_and_two_rows_apart_is_a_third() -> None:
    # Of the 6 orders of four values, 2 part the models wholly.
    assert quality(ratios(1.0, 2.0), ratios(3.0, 4.0)) == pytest.approx(1 / 3)


def test_forget_quality_is_that_of_the_vectors() -> None:
    given = VECTORS["metrics"]["forget_quality"]
    assert quality(ratios(*given["truth_ratio_unlearned"]), ratios(*given["truth_ratio_retain"])) == given["value"]


@pytest.mark.parametrize(("n", "published"), [(200, 1.94e-119), (400, 1.06e-239)])
def test_models_wholly_apart_get_the_value_that_openunlearning_prints_of_gradient_ascent(
    n: int, published: float
) -> None:
    assert quality(ratios(*[0.0] * n), ratios(*[1.0] * n)) == pytest.approx(published, rel=3e-3)


def test_a_p_value_below_the_least_float_is_300_orders_of_magnitude_down() -> None:
    apart = ratios(*[0.0] * 2000), References(retain=ratios(*[1.0] * 2000))
    assert forget_quality(*apart) == 0.0
    assert forget_quality_log10(*apart) == -300


def test_forget_quality_of_single_rows_is_1() -> None:
    assert quality(ratios(0.1), ratios(0.9)) == 1.0


def test_forget_quality_does_not_ask_in_which_order_rows_stand() -> None:
    more = ratios(3.0, 1.0, 2.0, 5.0)
    assert quality(ratios(1.0, 2.0, 4.0), more) == quality(ratios(4.0, 1.0, 2.0), more)


def test_rows_without_a_ratio_are_left_out_of_forget_quality() -> None:
    holes = EvalLog({RATIO: 1.5}, {RATIO: np.array([1.0, NAN, 2.0])})
    assert quality(holes, ratios(3.0, 4.0)) == pytest.approx(1 / 3)
    assert quality(EvalLog(rows={RATIO: np.array([NAN])}), ratios(3.0)) is None


def test_forget_quality_of_a_model_that_diverged_is_nan_even_where_some_rows_are_sane() -> None:
    diverged = ratios(1.0, 2.0, NAN)
    assert math.isnan(quality(diverged, ratios(1.0, 2.0)) or 0.0)
    assert math.isnan(forget_quality_log10(diverged, References(retain=ratios(1.0))) or 0.0)
    assert math.isnan(quality(ratios(1.0, 2.0), diverged) or 0.0)


def test_forget_quality_is_absent_without_the_retain_models_rows() -> None:
    for references in (NONE, References(retain=EvalLog({RATIO: 0.6})), References(target=ratios(1.0))):
        assert forget_quality(ratios(1.0), references) is None
        assert forget_quality_log10(ratios(1.0), references) is None
    assert quality(EvalLog(), ratios(1.0)) is None


# -- attacks -----------------------------------------------------------------------------------------------------------


def test_the_auc_is_the_share_of_pairs_in_which_the_non_member_scores_higher() -> None:
    assert auc([1.0, 2.0], [3.0, 4.0]) == 1.0
    assert auc([3.0, 4.0], [1.0, 2.0]) == 0.0
    assert auc([1.0, 3.0], [2.0, 4.0, 0.0]) == pytest.approx(3 / 6)  # 2 > 1, 4 > 1, 4 > 3
    assert auc([1.0], [2.0]) == 1.0


def test_ties_count_half() -> None:
    assert auc([1.0, 1.0], [1.0, 1.0]) == 0.5
    assert auc([1.0, 2.0], [2.0]) == 0.75


@given(
    st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=8),
    st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=8),
)
def test_the_auc_is_the_mean_over_all_pairs(members: list[float], others: list[float]) -> None:
    pairs = [1.0 if b > a else 0.5 if b == a else 0.0 for a in members for b in others]
    assert auc(members, others) == pytest.approx(np.mean(pairs))


def test_the_auc_of_a_model_that_diverged_is_nan_and_of_infinite_scores_a_number() -> None:
    assert math.isnan(auc([1.0, NAN], [2.0]) or 0.0)
    assert math.isnan(auc([1.0], [NAN, 2.0]) or 0.0)
    assert auc([1.0, math.inf], [math.inf]) == 0.75


def test_an_attack_is_absent_where_one_side_is() -> None:
    assert attack("loss")(rows(members__loss=[1.0]), NONE) is None
    assert attack("loss")(rows(nonmembers__loss=[1.0]), NONE) is None
    assert attack("loss")(rows(members__loss=[1.0], nonmembers__loss=[]), NONE) is None


@pytest.mark.parametrize("name", ATTACKS)
def test_each_attack_looks_at_its_own_scores(name: str) -> None:
    assert auc([1.0], [2.0], name) == 1.0
    others = [other for other in ATTACKS if other != name]
    log = rows(**{f"{side}__{other}": [1.0] for side in ("members", "nonmembers") for other in others})
    assert attack(name)(log, NONE) is None


# -- against the retain model ------------------------------------------------------------------------------------------


def test_closeness_is_a_over_r_below_the_retain_model_and_the_same_from_the_other_end_above() -> None:
    assert closeness("min_k")(aucs(min_k=0.2), retain(min_k=0.4)) == 0.5
    assert closeness("min_k")(aucs(min_k=0.7), retain(min_k=0.4)) == pytest.approx(0.5)
    assert closeness("min_k")(aucs(min_k=0.4), retain(min_k=0.4)) == 1.0


def test_closeness_is_0_at_either_end_and_1_where_the_retain_model_is_there_too() -> None:
    for a, r, expected in [(0, 0.4, 0), (1, 0.4, 0), (0, 0, 1), (1, 1, 1), (0, 1, 0), (1, 0, 0), (0.25, 0, 0.75)]:
        assert closeness("loss")(aucs(loss=float(a)), retain(loss=float(r))) == expected


@pytest.mark.parametrize(("a", "printed"), [(0.001, 0.003), (0.9966, 0.006)])
def test_closeness_of_the_published_extremes(a: float, printed: float) -> None:
    assert closeness("min_k")(aucs(min_k=a), retain(min_k=0.382)) == pytest.approx(printed, abs=5e-4)


def test_privleak_is_minus_100_in_full_leakage_0_as_the_retain_model_and_unbounded_above() -> None:
    assert privleak(aucs(min_k=1.0), retain(min_k=0.4)) == pytest.approx(-100)
    assert privleak(aucs(min_k=0.4), retain(min_k=0.4)) == 0
    assert privleak(aucs(min_k=0.0), retain(min_k=0.98)) == pytest.approx(4900)


def test_privleak_is_the_published_one_of_the_published_aucs() -> None:
    # OpenUnlearning's full model: AUC 0.9966 in four digits, PrivLeak -99.457.
    assert privleak(aucs(min_k=0.99664), retain(min_k=0.3821)) == pytest.approx(-99.457, abs=2e-3)


def test_privleak_against_a_half_needs_no_retain_model() -> None:
    assert privleak_half(aucs(min_k=1.0), NONE) == pytest.approx(-100)
    assert privleak_half(aucs(min_k=0.5), NONE) == 0
    assert privleak_half(aucs(min_k=0.0), NONE) == pytest.approx(100)
    assert privleak_half(EvalLog(), NONE) is None


@pytest.mark.parametrize("function", [privleak, closeness("min_k")], ids=["privleak", "closeness"])
def test_what_is_anchored_is_absent_without_its_anchor_and_nan_after_divergence(function: LogFunction) -> None:
    log = aucs(min_k=0.4)
    assert function(log, NONE) is None
    assert function(log, References(target=log)) is None
    assert function(log, retain(loss=0.4)) is None
    assert function(EvalLog(), retain(min_k=0.4)) is None
    for r in (0.0, 0.4, 1.0):
        assert math.isnan(function(aucs(min_k=NAN), retain(min_k=r)) or 0.0)


# -- aggregates --------------------------------------------------------------------------------------------------------


def test_raw_memorization_is_the_harmonic_mean_of_what_is_not_memorised() -> None:
    # 4 / (1/0.5 + 1/0.25 + 1/0.8 + 1/0.4)
    assert memorization_raw(EvalLog(FORGET), NONE) == pytest.approx(4 / 9.75)


def test_memorization_scales_each_part_by_that_of_the_target() -> None:
    target = References(target=EvalLog(FORGET))
    half = EvalLog({name: value / 2 for name, value in FORGET.items()})
    assert memorization(half, target) == pytest.approx(0.5)
    uneven = EvalLog({**half.values, "forget.extraction_strength": 0.125})
    assert memorization(uneven, target) == pytest.approx(4 / (1 / 0.75 + 2 + 2 + 2))


def test_memorization_of_the_target_is_0_and_where_nothing_is_left_1() -> None:
    target = References(target=EvalLog(FORGET))
    assert memorization(EvalLog(FORGET), target) == 0.0
    assert memorization(EvalLog(dict.fromkeys(FORGET, 0.0)), target) == 1.0


def test_a_part_that_is_memorised_more_than_before_or_never_was_counts_0() -> None:
    more = EvalLog({**dict.fromkeys(FORGET, 0.0), "forget.exact_memorization": 0.8})
    assert memorization(more, References(target=EvalLog(FORGET))) == 0.0
    never = References(target=EvalLog({**FORGET, "forget.extraction_strength": 0.0}))
    assert memorization(EvalLog(dict.fromkeys(FORGET, 0.0)), never) == 0.0


def test_memorization_is_absent_without_the_target_or_a_part_and_nan_after_divergence() -> None:
    log, target = EvalLog(FORGET), References(target=EvalLog(FORGET))
    assert memorization(log, NONE) is None
    assert memorization(log, References(retain=log)) is None
    for gone in FORGET:
        part = EvalLog({name: value for name, value in FORGET.items() if name != gone})
        assert memorization(part, target) is None
        assert memorization(log, References(target=part)) is None
        assert memorization_raw(part, NONE) is None
        assert math.isnan(memorization(EvalLog({**FORGET, gone: NAN}), target) or 0.0)


def test_raw_memorization_of_the_published_retain_model_lies_where_the_known_parts_leave_it() -> None:
    known = dict(zip(FORGET, (0.0598, 0.5861, 0.0535), strict=False))
    low, high = (memorization_raw(EvalLog({**known, "forget.truth_preference": x}), NONE) for x in (0.63, 0.50))
    assert low == pytest.approx(0.55, abs=0.005)
    assert high == pytest.approx(0.61, abs=0.005)


def test_scaled_memorization_of_the_published_retain_model_can_be_what_is_printed() -> None:
    # Of the target only extraction strength is published; its truth preference falls by a seventh.
    log = EvalLog(dict(zip(FORGET, (0.0598, 0.5861, 0.0535, 0.6), strict=True)))
    target = EvalLog(dict(zip(FORGET, (0.7063, 0.95, 0.11, 0.7), strict=True)))
    assert memorization(log, References(target=target)) == pytest.approx(0.31, abs=0.01)


def test_privacy_is_the_harmonic_mean_of_four_closenesses() -> None:
    values = {f"privacy.closeness_{name}": x for name, x in zip(ATTACKS, (0.5, 1.0, 0.25, 0.5, 0.9, 0.9), strict=True)}
    assert privacy(EvalLog(values), NONE) == pytest.approx(4 / (2 + 1 + 4 + 2))
    del values["privacy.closeness_reference"], values["privacy.closeness_gradient_norm"]
    assert privacy(EvalLog(values), NONE) == pytest.approx(4 / 9)
    del values["privacy.closeness_zlib_ratio"]
    assert privacy(EvalLog(values), NONE) is None


def test_utility_is_a_share_of_the_targets_and_at_most_1() -> None:
    def of(now: float, before: float) -> float | None:
        mine, target = (EvalLog({"tofu.model_utility": x}) for x in (now, before))
        return utility(mine, References(target=target))

    assert of(0.3, 0.6) == 0.5
    assert of(0.7, 0.6) == 1.0
    assert of(0.0, 0.6) == 0.0
    assert of(0.0, 0.0) == 1.0
    assert math.isnan(of(NAN, 0.6) or 0.0)
    assert math.isnan(of(NAN, 0.0) or 0.0)
    assert of(0.5893, 0.599153) == pytest.approx(0.99, abs=0.01)  # the published retain model


def test_utility_is_absent_without_the_target() -> None:
    log = EvalLog({"tofu.model_utility": 0.5})
    assert utility(log, NONE) is None
    assert utility(log, References(retain=log)) is None
    assert utility(EvalLog(), References(target=log)) is None


TABLE_3 = {  # Agg, Mem, Priv, Util
    "Init": (0.00, 0.00, 0.10, 1.00),
    "Retain": (0.58, 0.31, 1.00, 0.99),
    "SimNPO": (0.53, 0.32, 0.63, 1.00),
    "RMU": (0.52, 0.47, 0.50, 0.61),
    "UNDIAL": (0.42, 0.27, 0.48, 0.78),
    "AltPO": (0.15, 0.63, 0.06, 0.95),
    "IdkNLL": (0.15, 0.08, 0.17, 0.93),
    "NPO": (0.15, 0.52, 0.06, 0.99),
    "IdkDPO": (0.14, 0.56, 0.06, 0.95),
}
TABLE_6 = {"AltPO": 0.76, "IdkDPO": 0.71, "NPO": 0.69, "RMU": 0.53, "SimNPO": 0.49, "UNDIAL": 0.40, "IdkNLL": 0.14}


def rounded(name: str) -> Iterator[EvalLog]:
    """The lowest and the highest log that rounds to what is printed in table 3."""
    for shift in (-0.005, 0.005):
        values = (min(1.0, max(0.0, value + shift)) for value in TABLE_3[name][1:])
        yield EvalLog(
            dict(zip(("aggregate.memorization", "aggregate.privacy", "aggregate.utility"), values, strict=True))
        )


@pytest.mark.parametrize("name", TABLE_3)
def test_the_overall_score_is_that_of_the_reports_table_3(name: str) -> None:
    low, high = (overall(log, NONE) for log in rounded(name))
    assert low is not None
    assert high is not None
    assert low - 0.005 <= TABLE_3[name][0] <= high + 0.005
    assert high - low < 0.05


@pytest.mark.parametrize("name", TABLE_6)
def test_the_tuning_objective_is_that_of_the_reports_table_6(name: str) -> None:
    low, high = (memorization_and_utility(log, NONE) for log in rounded(name))
    assert low is not None
    assert high is not None
    assert low - 0.005 <= TABLE_6[name] <= high + 0.005
    assert high - low < 0.05


def test_the_scores_are_absent_without_one_of_theirs() -> None:
    log = EvalLog({"aggregate.memorization": 0.5, "aggregate.utility": 1.0})
    assert overall(log, NONE) is None
    assert memorization_and_utility(log, NONE) == pytest.approx(2 / 3)
    assert memorization_and_utility(EvalLog({"aggregate.memorization": 0.5}), NONE) is None
