"""Metrics of one row on hand-worked answers. The end token is the last entry of each answer, unless it is raw text."""

import math
import zlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.golden import VECTORS
from trials.metrics import (
    EPSILON,
    Answer,
    Seen,
    accuracy,
    exact_memorization,
    extraction_strength,
    extraction_strength_openunlearning,
    extraction_strength_paraphrased,
    extraction_strength_satimp,
    gradient_norm,
    loss,
    min_k,
    min_k_plus_plus,
    nll,
    probability,
    probability_normalised,
    probability_paraphrased,
    probability_perturbed,
    reference,
    truth_preference,
    truth_ratio,
    truthfulness,
    wrong_over_right,
    zlib_ratio,
)

Metric = Callable[[Seen], float | None]

EXTRACTION = (
    extraction_strength,
    extraction_strength_openunlearning,
    extraction_strength_satimp,
    extraction_strength_paraphrased,
)
TRUTH = (wrong_over_right, truth_ratio, truth_preference, truthfulness)
IN_UNIT_RANGE: tuple[Metric, ...] = (
    *EXTRACTION,
    exact_memorization,
    probability,
    probability_paraphrased,
    probability_perturbed,
    probability_normalised,
    accuracy,
    truth_ratio,
    truth_preference,
    truthfulness,
)
NOT_NEGATIVE: tuple[Metric, ...] = (nll, wrong_over_right, loss, zlib_ratio, min_k, gradient_norm)
ANY_SIGN: tuple[Metric, ...] = (min_k_plus_plus, reference)
ALL = (*IN_UNIT_RANGE, *NOT_NEGATIVE, *ANY_SIGN)

# What a wholly diverged model leaves behind: no loss, and an argmax that is some token.
DIVERGED = Answer(np.full(3, np.nan), np.zeros(3, dtype=bool), np.full(3, np.nan))


def hits(*hit: int, end: int = 1) -> Answer:
    """An answer whose tokens are right (1) or wrong (0), then its end token."""
    right = np.array([*hit, end], dtype=bool)
    return Answer(np.where(right, 0.1, 2.0), right)


def costing(*ce: float) -> Answer:
    return Answer(np.array(ce), np.zeros(len(ce), dtype=bool))


def likely(p: float, tokens: int = 2) -> Answer:
    """An answer of length-normalised probability p."""
    return costing(*[-math.log(p)] * tokens)


def raw(answer: Answer) -> Answer:
    """The same tokens as raw text, which no end token closes."""
    return replace(answer, ended=False)


def truths(right: float, *wrong: float, paraphrased: float | None = None) -> Seen:
    """A row by the probabilities of its right and wrong answers."""
    return Seen(
        likely(right),
        paraphrased=None if paraphrased is None else likely(paraphrased, 3),
        perturbed=tuple(likely(p, tokens) for tokens, p in enumerate(wrong, start=1)),
    )


# -- answers -----------------------------------------------------------------------------------------------------------


def test_what_is_said_of_an_answer_leaves_its_end_token_out_of_every_column() -> None:
    answer = Answer(np.array([1.0, 2.0, 3.0]), np.array([True, False, True]), np.array([-1.0, 0.0, 1.0]))
    assert (answer.said.ce.tolist(), answer.said.hit.tolist()) == ([1.0, 2.0], [True, False])
    assert answer.said.z is not None
    assert answer.said.z.tolist() == [-1.0, 0.0]
    assert answer.said.said.ce.tolist() == [1.0, 2.0]
    assert answer.loss == 2.0


def test_raw_text_is_said_to_its_last_token() -> None:
    assert raw(costing(1.0, 2.0)).said.ce.tolist() == [1.0, 2.0]
    assert costing(1.0, 2.0).said.z is None


# -- what was memorised ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", VECTORS["extraction_strength"], ids=lambda pair: str(pair["pred"]))
@pytest.mark.parametrize("end", [True, False])
def test_both_extraction_strengths_are_those_of_the_vectors(pair: dict[str, list[int]], end: bool) -> None:
    # The vectors' answers have no end token, and whether ours is right must not matter.
    hit = [p == t for p, t in zip(pair["pred"], pair["label"], strict=True)]
    seen = Seen(hits(*hit, end=end), rephrased=hits(*hit, end=end), satimp=hits(*hit, end=end))
    assert extraction_strength(seen) == pytest.approx(pair["es_satimp_repo"])
    assert extraction_strength_satimp(seen) == pytest.approx(pair["es_satimp_repo"])
    assert extraction_strength_paraphrased(seen) == pytest.approx(pair["es_satimp_repo"])
    assert extraction_strength_openunlearning(seen) == pytest.approx(pair["es_openunlearning"])


@pytest.mark.parametrize(
    ("hit", "floored_at_0", "openunlearning"),
    [
        ((1, 0, 1, 1), 0.5, 0.5),
        ((0, 1, 1, 1), 0.75, 0.75),
        ((1, 1, 1, 1), 1.0, 1.0),
        ((1, 1, 1, 0), 0.0, 0.25),
        ((0, 0, 0, 0), 0.0, 0.25),
        ((1,), 1.0, 1.0),
        ((0,), 0.0, 1.0),
        ((), 0.0, 0.0),
    ],
    ids=str,
)
def test_extraction_strength_is_the_longest_right_suffix_over_the_length(
    hit: tuple[int, ...], floored_at_0: float, openunlearning: float
) -> None:
    answer = hits(*hit)
    assert extraction_strength(Seen(answer)) == floored_at_0
    assert extraction_strength_openunlearning(Seen(answer)) == openunlearning
    row = Seen(hits(0), satimp=answer, rephrased=answer)
    assert extraction_strength_satimp(row) == extraction_strength_paraphrased(row) == floored_at_0


def test_extraction_strength_of_raw_text_counts_its_last_token_and_openunlearning_drops_it() -> None:
    text = raw(hits(1, 0, 1, end=0))
    assert extraction_strength(Seen(text)) == 0.0
    assert extraction_strength_openunlearning(Seen(text)) == pytest.approx(1 / 3)
    text = raw(hits(1, 0, 1, end=1))
    assert extraction_strength(Seen(text)) == 0.5
    assert extraction_strength_openunlearning(Seen(text)) == pytest.approx(1 / 3)


def test_openunlearnings_extraction_strength_is_1_less_the_first_start_of_a_right_suffix() -> None:
    for length in range(1, 7):
        for bits in range(2**length):
            hit = [bits >> place & 1 for place in range(length)]
            start = next((k for k in range(length - 1) if all(hit[k:])), length - 1)
            assert extraction_strength_openunlearning(Seen(hits(*hit))) == pytest.approx(1 - start / length)


@pytest.mark.parametrize("metric", [extraction_strength_satimp, extraction_strength_paraphrased])
def test_a_row_without_that_other_prompt_has_no_extraction_strength_in_it(metric: Metric) -> None:
    assert metric(Seen(hits(1, 1))) is None


def test_exact_memorization_is_the_share_of_right_tokens_wherever_they_stand() -> None:
    assert exact_memorization(Seen(hits(1, 0, 1, 0))) == 0.5
    assert exact_memorization(Seen(hits(1, 0, 0))) == pytest.approx(1 / 3)
    assert exact_memorization(Seen(hits(0, 0, end=1))) == 0.0
    assert exact_memorization(Seen(hits(0))) == 0.0
    assert exact_memorization(Seen(hits(1, end=0))) == 1.0
    assert exact_memorization(Seen(raw(hits(1, end=0)))) == 0.5


def test_an_answer_of_only_the_end_token_is_left_out_of_exact_memorization() -> None:
    assert exact_memorization(Seen(hits(end=1))) is None
    assert exact_memorization(Seen(raw(hits(end=1)))) == 1.0


def test_exact_memorization_is_never_below_extraction_strength_on_the_same_answer() -> None:
    for bits in range(64):
        row = Seen(hits(*(bits >> place & 1 for place in range(6))))
        found = exact_memorization(row)
        assert found is not None
        assert found >= extraction_strength(row)


# -- how likely the answer is ------------------------------------------------------------------------------------------


def test_probability_is_the_geometric_mean_of_the_tokens_end_token_included() -> None:
    assert probability(Seen(costing(math.log(2), math.log(8)))) == pytest.approx(0.25)
    assert probability(Seen(costing(math.log(5)))) == pytest.approx(0.2)
    assert probability(Seen(costing(0.0, 0.0))) == 1.0
    assert probability(Seen(costing(5000.0, 5000.0))) == 0.0


def test_nll_and_loss_are_the_mean_over_tokens_in_nats_end_token_included() -> None:
    for metric in (nll, loss):
        assert metric(Seen(costing(1.0, 3.0, 5.0))) == 3.0
        assert metric(Seen(costing(0.7))) == 0.7
        assert metric(Seen(raw(costing(1.0, 3.0)))) == 2.0


def test_probabilities_of_paraphrase_and_wrong_answers_are_each_normalised_by_its_own_length() -> None:
    row = truths(0.9, 0.2, 0.4, 0.6, paraphrased=0.5)
    assert probability_paraphrased(row) == pytest.approx(0.5)
    assert probability_perturbed(row) == pytest.approx(0.4)  # arithmetic, unlike in the truth ratios
    assert probability_normalised(row) == pytest.approx(0.9 / (0.9 + 1.2), abs=1e-9)


def test_the_normalised_probability_is_of_the_answer_whatever_its_paraphrase() -> None:
    assert probability_normalised(truths(0.5, 0.5, paraphrased=0.1)) == pytest.approx(0.5, abs=1e-9)
    assert probability_normalised(truths(0.25, 0.25, 0.25, 0.25)) == pytest.approx(0.25, abs=1e-9)


def test_answers_that_are_all_impossible_have_normalised_probability_0() -> None:
    nothing = costing(5000.0)
    assert probability_normalised(Seen(nothing, perturbed=(nothing, nothing))) == 0.0


def test_accuracy_asks_for_the_highest_log_likelihood_of_all_and_shares_a_tie_out() -> None:
    choices = (costing(1.0), costing(2.0), costing(3.0))
    assert accuracy(Seen(costing(0.5), perturbed=choices)) == 1.0
    assert accuracy(Seen(costing(1.0), perturbed=choices)) == 0.5
    assert accuracy(Seen(costing(1.5), perturbed=choices)) == 0.0
    assert accuracy(Seen(costing(2.0), perturbed=(costing(2.0),) * 3)) == 0.25
    assert accuracy(Seen(costing(2.0), perturbed=(costing(2.0), costing(1.0)))) == 0.0


def test_accuracy_compares_sums_not_means() -> None:
    assert accuracy(Seen(costing(0.6, 0.6), perturbed=(costing(1.0),))) == 0.0
    assert accuracy(Seen(costing(0.4, 0.4), perturbed=(costing(1.0),))) == 1.0


# -- truth ratios ------------------------------------------------------------------------------------------------------


def test_truth_ratios_of_a_row_that_still_prefers_the_right_answer() -> None:
    # W = sqrt(0.1 * 0.4) = 0.2, C = 0.8
    row = truths(0.05, 0.1, 0.4, paraphrased=0.8)
    assert wrong_over_right(row) == pytest.approx(0.25)
    assert truth_ratio(row) == pytest.approx(0.25)
    assert truth_preference(row) == pytest.approx(0.8)
    assert truthfulness(row) == pytest.approx(0.75)


def test_truth_ratios_of_a_row_that_prefers_the_wrong_answers() -> None:
    row = truths(0.9, 0.1, 0.4, paraphrased=0.05)
    assert wrong_over_right(row) == pytest.approx(4.0)
    assert truth_ratio(row) == pytest.approx(0.25)
    assert truth_preference(row) == pytest.approx(0.2)
    assert truthfulness(row) == 0.0


def test_without_a_paraphrase_the_answer_stands_for_it() -> None:
    row, same = truths(0.8, 0.1, 0.4), truths(0.3, 0.1, 0.4, paraphrased=0.8)
    for metric in TRUTH:
        assert metric(row) == pytest.approx(metric(same))


def test_right_and_wrong_equally_likely_is_a_truth_ratio_of_1() -> None:
    row = truths(0.3, 0.3, paraphrased=0.3)
    assert wrong_over_right(row) == pytest.approx(1.0)
    assert truth_ratio(row) == pytest.approx(1.0)
    assert truth_preference(row) == pytest.approx(0.5)
    assert truthfulness(row) == pytest.approx(0.0, abs=1e-8)


def test_the_wrong_answers_are_averaged_geometrically_each_by_its_own_length() -> None:
    long, short = costing(1.0, 1.0, 1.0, 1.0), costing(3.0)
    row = Seen(costing(2.0), perturbed=(long, short))
    assert wrong_over_right(row) == pytest.approx(1.0)


def test_an_impossible_right_answer_is_bounded_by_the_epsilon() -> None:
    row = Seen(costing(5000.0), perturbed=(likely(0.5),))
    assert wrong_over_right(row) == pytest.approx(0.5 / EPSILON)
    assert truth_ratio(row) == pytest.approx(2 * EPSILON, abs=EPSILON)
    assert truth_preference(row) == truthfulness(row) == 0.0


def test_impossible_wrong_answers_leave_only_the_right_one() -> None:
    row = Seen(likely(0.5), perturbed=(costing(5000.0),))
    assert wrong_over_right(row) == truth_ratio(row) == 0.0
    assert truth_preference(row) == pytest.approx(1.0)
    assert truthfulness(row) == 1.0


@pytest.mark.parametrize("metric", [*TRUTH, probability_perturbed, probability_normalised, accuracy])
def test_a_row_without_wrong_answers_is_left_out(metric: Metric) -> None:
    assert metric(Seen(likely(0.5), paraphrased=likely(0.5))) is None


def test_a_row_without_a_paraphrase_is_left_out_of_its_probability() -> None:
    assert probability_paraphrased(Seen(likely(0.5), perturbed=(likely(0.1),))) is None


# -- attacks -----------------------------------------------------------------------------------------------------------


def test_zlib_divides_the_loss_by_the_compressed_size_of_the_text_in_bytes() -> None:
    for text in ("Paris", "Zürich, 東京", "aaaa" * 50, ""):
        size = len(zlib.compress(text.encode("utf-8")))
        assert zlib_ratio(Seen(costing(1.0, 3.0), text=text)) == pytest.approx(2.0 / size)
    assert zlib_ratio(Seen(costing(2.0), text="")) == 0.25  # two bytes of header, two of data, four of checksum


def test_min_k_is_the_mean_loss_of_the_40_percent_least_likely_tokens_without_the_end_token() -> None:
    assert min_k(Seen(costing(1.0, 5.0, 2.0, 4.0, 3.0, 99.0))) == pytest.approx(4.5)  # 2 of 5
    assert min_k(Seen(costing(1.0, 5.0, 2.0, 4.0, 99.0))) == 5.0  # 1 of 4
    assert min_k(Seen(costing(1.0, 3.0, 99.0))) == 3.0  # at least one
    assert min_k(Seen(costing(1.0, 99.0))) == 1.0
    assert min_k(Seen(costing(99.0))) == 0.0
    assert min_k(Seen(raw(costing(1.0, 99.0)))) == 99.0
    assert min_k(Seen(costing(2.0, 2.0, 2.0, 2.0, 2.0, 0.0))) == 2.0


def test_min_k_plus_plus_is_the_negative_mean_of_the_40_percent_lowest_z_without_the_end_token() -> None:
    def standing(*z: float) -> Seen:
        return Seen(Answer(np.ones(len(z)), np.ones(len(z), dtype=bool), np.array(z)))

    assert min_k_plus_plus(standing(0.5, -2.0, 1.0, -1.0, 0.0, -99.0)) == pytest.approx(1.5)
    assert min_k_plus_plus(standing(0.5, 0.25, -99.0)) == -0.25
    assert min_k_plus_plus(standing(-99.0)) == 0.0
    assert min_k_plus_plus(Seen(costing(1.0, 2.0))) is None


def test_reference_is_the_loss_less_that_of_the_retain_model() -> None:
    assert reference(Seen(costing(1.0, 3.0), reference_loss=2.5)) == -0.5
    assert reference(Seen(costing(1.0, 3.0), reference_loss=0.0)) == 2.0
    assert reference(Seen(costing(1.0))) is None


def test_gradient_norm_is_what_was_seen() -> None:
    assert gradient_norm(Seen(costing(1.0), gradient=0.25)) == 0.25
    assert gradient_norm(Seen(costing(1.0), gradient=0.0)) == 0.0
    assert gradient_norm(Seen(costing(1.0))) is None


# -- of all ------------------------------------------------------------------------------------------------------------


def test_a_diverged_model_has_no_likelihoods_and_has_memorised_nothing() -> None:
    row = Seen(
        DIVERGED,
        text="Paris",
        paraphrased=DIVERGED,
        perturbed=(DIVERGED, DIVERGED),
        rephrased=DIVERGED,
        satimp=DIVERGED,
        reference_loss=1.0,
        gradient=math.nan,
    )
    values = {metric: metric(row) for metric in ALL}
    assert values.pop(extraction_strength_openunlearning) == 0.5  # its floor
    for metric in (*EXTRACTION[:1], *EXTRACTION[2:], exact_memorization, accuracy):
        assert values.pop(metric) == 0.0
    assert all(value is not None and math.isnan(value) for value in values.values()), values


@st.composite
def answers(draw: st.DrawFn) -> Answer:
    size = draw(st.integers(1, 6))

    def column(values: st.SearchStrategy[float]) -> list[float]:
        return draw(st.lists(values, min_size=size, max_size=size))

    return Answer(
        np.array(column(st.floats(0, 500))),
        np.array(column(st.booleans()), dtype=bool),
        np.array(column(st.floats(-50, 50))),
        ended=draw(st.booleans()),
    )


@st.composite
def rows(draw: st.DrawFn) -> Seen:
    return Seen(
        draw(answers()),
        text=draw(st.text(max_size=20)),
        paraphrased=draw(st.none() | answers()),
        perturbed=tuple(draw(st.lists(answers(), max_size=3))),
        rephrased=draw(st.none() | answers()),
        satimp=draw(st.none() | answers()),
        reference_loss=draw(st.none() | st.floats(0, 500)),
        gradient=draw(st.none() | st.floats(0, 1e6)),
    )


@settings(max_examples=100, deadline=None)
@given(rows())
def test_every_metric_of_any_row_is_a_finite_number_in_its_range_or_none(row: Seen) -> None:
    for metric in ALL:
        value = metric(row)
        if value is not None:
            assert type(value) is float, metric
            assert math.isfinite(value), metric
            assert value >= 0 or metric in ANY_SIGN, metric
            assert value <= 1 or metric not in IN_UNIT_RANGE, metric


@settings(max_examples=60, deadline=None)
@given(rows(), st.floats(0.01, 100))
def test_a_likelier_answer_is_never_counted_as_less_known(row: Seen, less: float) -> None:
    likelier = replace(row, paraphrased=None, answer=replace(row.answer, ce=row.answer.ce / (1 + less)))
    row = replace(row, paraphrased=None)
    for metric in (probability, probability_normalised, accuracy, truth_preference, truthfulness):
        before, after = metric(row), metric(likelier)
        assert (before is None) == (after is None)
        assert before is None or after is None or after >= before - 1e-12, metric
    for attack in (nll, loss, zlib_ratio, min_k):
        assert attack(likelier) <= attack(row)


@pytest.mark.parametrize("metric", [each for each in ALL if each is not truth_ratio], ids=lambda each: each.__name__)
def test_every_metric_tells_a_known_row_from_a_forgotten_one(metric: Metric) -> None:
    known = Answer(np.zeros(4), np.ones(4, dtype=bool), np.ones(4))
    forgotten = Answer(np.full(4, 1000.0), np.zeros(4, dtype=bool), np.full(4, -1.0))

    def row(right: Answer, wrong: Answer, gradient: float) -> Seen:
        return Seen(right, "Paris", right, (wrong,), right, right, reference_loss=1.0, gradient=gradient)

    one, other = metric(row(known, forgotten, 0.0)), metric(row(forgotten, known, 9.0))
    assert one is not None
    assert other is not None
    if metric in IN_UNIT_RANGE and metric is not probability_perturbed:
        assert one > other
    else:
        assert one < other
