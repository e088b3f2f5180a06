"""Metrics on hand-worked answers. The end token is the last entry of each row."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.golden import VECTORS
from trials.metrics import (
    METRICS,
    SETS,
    Answer,
    exact_memorization,
    extraction_strength,
    metric_names,
    nll,
    probability,
)

ONLY_END = Answer(np.array([0.7]), np.array([True]))


def said(*hit: int, end: int = 1) -> Answer:
    """An answer whose tokens are right (1) or wrong (0), then its end token."""
    hits = np.array([*hit, end], dtype=bool)
    return Answer(np.where(hits, 0.1, 2.0), hits)


def costing(*ce: float) -> Answer:
    return Answer(np.array(ce), np.zeros(len(ce), dtype=bool))


@pytest.mark.parametrize("pair", VECTORS["extraction_strength"], ids=lambda pair: str(pair["pred"]))
@pytest.mark.parametrize("end", [True, False])
def test_extraction_strength_is_that_of_the_vectors_with_the_floor_at_0(pair: dict[str, list[int]], end: bool) -> None:
    # The vectors' answers have no end token, and whether ours is right must not matter.
    hit = np.array([*(p == t for p, t in zip(pair["pred"], pair["label"], strict=True)), end])
    assert extraction_strength([Answer(np.zeros(len(hit)), hit)]) == pytest.approx(pair["es_satimp_repo"])


def test_extraction_strength_is_the_longest_right_suffix_over_the_length() -> None:
    assert extraction_strength([said(1, 0, 1, 1)]) == 0.5
    assert extraction_strength([said(0, 1, 1, 1)]) == 0.75
    assert extraction_strength([said(1, 1, 1, 0)]) == 0.0
    assert extraction_strength([said(1, 1, 1, 1)]) == 1.0


def test_extraction_strength_is_a_mean_over_answers_not_over_tokens() -> None:
    assert extraction_strength([said(1), said(0, 0, 0, 0, 0, 0, 0, 0)]) == 0.5


def test_exact_memorization_is_the_share_of_right_tokens_wherever_they_stand() -> None:
    assert exact_memorization([said(1, 0, 1, 0)]) == 0.5
    assert exact_memorization([said(1, 1, 1, 0), said(0)]) == 0.375
    assert exact_memorization([said(0, 0, end=1)]) == 0.0


def test_probability_is_the_geometric_mean_of_the_tokens_end_token_included() -> None:
    assert probability([costing(math.log(2), math.log(8))]) == pytest.approx(0.25)
    assert probability([costing(0.0), costing(math.log(4))]) == pytest.approx(0.625)


def test_nll_is_a_mean_of_means_in_nats() -> None:
    assert nll([costing(1.0, 3.0)]) == 2.0
    assert nll([costing(1.0, 1.0, 1.0, 1.0), costing(5.0)]) == 3.0


def test_an_answer_of_only_the_end_token_counts_as_not_extracted_and_is_left_out_of_exact_memorization() -> None:
    assert extraction_strength([ONLY_END]) == 0.0
    assert extraction_strength([ONLY_END, said(1, 1)]) == 0.5
    assert exact_memorization([ONLY_END, said(1, 0)]) == 0.5
    assert math.isnan(exact_memorization([ONLY_END]))
    assert probability([ONLY_END]) == pytest.approx(math.exp(-0.7))


def test_exact_memorization_is_never_below_extraction_strength_on_the_same_answer() -> None:
    for bits in range(64):
        answer = [said(*(bits >> place & 1 for place in range(6)))]
        assert exact_memorization(answer) >= extraction_strength(answer)


@st.composite
def answer_sets(draw: st.DrawFn) -> list[Answer]:
    sizes = draw(st.lists(st.integers(2, 6), min_size=1, max_size=5))
    return [
        Answer(
            np.array(draw(st.lists(st.floats(0, 500), min_size=size, max_size=size))),
            np.array(draw(st.lists(st.booleans(), min_size=size, max_size=size))),
        )
        for size in sizes
    ]


@settings(max_examples=60, deadline=None)
@given(answer_sets())
def test_every_metric_stays_in_its_range_and_does_not_depend_on_the_order_of_rows(answers: list[Answer]) -> None:
    for metric in METRICS.values():
        value = metric.function(answers)
        assert isinstance(value, float)
        assert metric.low <= value <= metric.high
        assert metric.function(answers[::-1]) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_reaches_the_end_of_its_range_on_a_known_and_on_a_forgotten_answer(name: str) -> None:
    known = Answer(np.zeros(4), np.ones(4, dtype=bool))
    forgotten = Answer(np.full(4, 1000.0), np.zeros(4, dtype=bool))
    metric = METRICS[name]
    if name == "nll":
        assert metric.function([known]) == metric.low == 0.0
        assert metric.function([forgotten]) == 1000.0
        assert metric.high == math.inf
    else:
        assert metric.function([known]) == metric.high == 1.0
        assert metric.function([forgotten]) == metric.low == 0.0


def test_every_metric_says_what_it_is() -> None:
    assert list(METRICS) == [metric.function.__name__ for metric in METRICS.values()]
    assert all(metric.function.__doc__ for metric in METRICS.values())


def test_metric_names_are_every_set_with_every_metric() -> None:
    names = metric_names()
    assert len(set(names)) == len(names) == len(SETS) * len(METRICS)
    assert "forget.extraction_strength" in names
    assert "general.nll" in names
