"""Metrics of generated texts, on texts short enough to count by hand."""

import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trials.metrics import Answer, Seen
from trials.texts import fluency, repetition, rouge1_recall, rouge_l_f1, rouge_l_recall

ROUGES = (rouge1_recall, rouge_l_recall, rouge_l_f1)
ALL = (*ROUGES, repetition, fluency)
ANSWER = Answer(np.array([0.1]), np.array([True]))


def said(generated: str | None, answer: str = "") -> Seen:
    return Seen(ANSWER, text=answer, generated=generated)


@pytest.mark.parametrize("metric", ALL)
def test_a_row_for_which_nothing_was_generated_is_left_out(metric: Callable[[Seen], float | None]) -> None:
    assert metric(said(None, "He was born in Paris.")) is None


# -- beside the answer -------------------------------------------------------------------------------------------------


def test_rouge_1_counts_each_word_of_the_answer_as_often_as_it_is_said() -> None:
    assert rouge1_recall(said("the dog sat", "the cat sat on the mat")) == pytest.approx(2 / 6)
    assert rouge1_recall(said("the the the dog sat", "the cat sat on the mat")) == pytest.approx(3 / 6)


def test_rouge_l_wants_the_words_in_their_order() -> None:
    answer, generated = "one two three four", "four three two one zero"
    assert rouge1_recall(said(generated, answer)) == 1.0
    assert rouge_l_recall(said(generated, answer)) == 0.25
    assert rouge_l_f1(said(generated, answer)) == pytest.approx(2 * (1 / 4) * (1 / 5) / (1 / 4 + 1 / 5))


def test_recall_is_blind_to_what_else_is_said_and_f1_is_not() -> None:
    row = said("I think that he was born in Paris or in London or in Rome", "born in Paris")
    assert rouge1_recall(row) == rouge_l_recall(row) == 1.0
    assert rouge_l_f1(row) == pytest.approx(2 * 3 / (3 + 14))


def test_rouge_looks_past_case_punctuation_and_endings_of_words() -> None:
    assert [metric(said("he WRITES novel", "He writes novels.")) for metric in ROUGES] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("metric", ROUGES)
@pytest.mark.parametrize(
    ("generated", "answer"),
    [("", "Paris"), ("Paris", ""), ("", ""), ("...", "Paris"), ("巴黎", "巴黎"), ("Paris", "Париж")],
    ids=["says nothing", "no answer", "neither", "only dots", "both Chinese", "answer Cyrillic"],
)
def test_a_text_without_ascii_words_scores_0(
    metric: Callable[[Seen], float | None], generated: str, answer: str
) -> None:
    assert metric(said(generated, answer)) == 0.0


def test_the_same_pair_the_other_way_round_is_another_pair() -> None:
    assert rouge_l_recall(said("born in Paris", "in Paris")) == 1.0
    assert rouge_l_recall(said("in Paris", "born in Paris")) == pytest.approx(2 / 3)


def test_rouge_recalls_of_every_logged_generation_are_the_logged_ones(tofu: Path) -> None:
    def lines(name: str) -> list[dict[str, Any]]:
        data = (tofu / name).read_bytes()
        return [json.loads(line) for line in (gzip.decompress(data) if name.endswith("gz") else data).splitlines()]

    logs = {
        (log["finetuned_on"], log["eval_set"]): log
        for log in lines("eval_reference.jsonl.gz")
        if (log["model_family"], log["weight_decay"]) == ("llama2-7b", "0.01")
    }
    answers = {name: [row["answer"] for row in lines(f"{name}.jsonl")] for _, name in logs}
    generations = lines("eval_reference_generations.jsonl.gz")
    assert len(generations) == 2908
    for each in generations:
        name, index = each["eval_set"], each["index"]
        log, row = logs[each["finetuned_on"], name], said(each["generated_text"], answers[name][index])
        assert rouge1_recall(row) == pytest.approx(log["rouge1_recall"][index], abs=1e-9), each
        assert rouge_l_recall(row) == pytest.approx(log["rougeL_recall"][index], abs=1e-9), each


# -- by itself ---------------------------------------------------------------------------------------------------------


def test_repetition_is_the_share_of_4_grams_that_were_there_before() -> None:
    assert repetition(said("a b c d e f")) == 0.0
    assert repetition(said("a b c d a b c d")) == pytest.approx(1 - 4 / 5)
    assert repetition(said("no no no no no no no")) == pytest.approx(1 - 1 / 4)


def test_marks_are_words_in_any_script_and_case_counts() -> None:
    assert repetition(said("да, да, да, да,")) == pytest.approx(1 - 2 / 5)
    assert repetition(said("No no No no")) == 0.0
    assert repetition(said("No no No no No no")) == pytest.approx(1 - 2 / 3)


@pytest.mark.parametrize("generated", ["", " \n", "a", "a a a", "a, a"])
def test_fewer_than_four_words_do_not_repeat(generated: str) -> None:
    assert repetition(said(generated)) == 0.0


def test_fluency_is_a_third_of_the_bigram_and_two_thirds_of_the_trigram_entropy() -> None:
    # a b c d e: 4 bigrams and 3 trigrams, each once.
    assert fluency(said("a b c d e")) == pytest.approx((math.log2(4) + 2 * math.log2(3)) / 3)
    # a b a b a: bigrams ab, ab, ba, ba; trigrams aba, aba, bab.
    uneven = -(2 / 3) * math.log2(2 / 3) - (1 / 3) * math.log2(1 / 3)
    assert fluency(said("a b a b a")) == pytest.approx((1 + 2 * uneven) / 3)


@pytest.mark.parametrize("generated", ["", "a", "a b", "no no no no no no no no"])
def test_one_word_over_and_over_or_hardly_any_has_no_entropy(generated: str) -> None:
    assert fluency(said(generated)) == 0.0


def test_a_model_in_a_loop_is_less_fluent_than_one_that_goes_on() -> None:
    loop, prose = said("I am a cat. " * 8), said(" ".join(f"word{index}" for index in range(40)))
    assert fluency(loop) < fluency(prose)
    assert repetition(loop) > 0.8
    assert repetition(prose) == 0.0


@settings(max_examples=80, deadline=None)
@given(st.text(max_size=60), st.text(max_size=60))
def test_every_metric_of_any_text_is_finite_and_in_its_range(generated: str, answer: str) -> None:
    row = said(generated, answer)
    for metric in ALL:
        value = metric(row)
        assert isinstance(value, float)
        assert value >= 0
        assert value <= (math.log2(max(2, len(generated))) if metric is fluency else 1)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=30))
def test_whoever_says_the_answer_scores_1(words: list[str]) -> None:
    text = " ".join(words)
    assert [metric(said(text, text)) for metric in ROUGES] == [1.0, 1.0, 1.0]
