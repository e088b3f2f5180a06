"""The registry: what each metric says of itself is so, and names, patterns and groups find the metrics they should."""

import dataclasses
import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trials.benchmarks import load_benchmark
from trials.logs import EvalLog, References
from trials.metrics import Answer, Seen
from trials.muse import CONTINUATIONS
from trials.naming import GROUPS, completed, models_of, named, references_of, rows_of, with_inputs
from trials.registry import (
    ATTACKED,
    CHOICES,
    CONTINUED,
    COSTS,
    METRICS,
    ROWS,
    ChangedMetric,
    LogMetric,
    RowMetric,
)
from trials.sources import AuthorsConfig
from trials.wmdp import SUBJECTS

EVERY_SET = (*ROWS, *CONTINUED, *ATTACKED, *CHOICES)
ROW = {name: metric for name, metric in METRICS.items() if isinstance(metric, RowMetric)}
LOG = {name: metric for name, metric in METRICS.items() if isinstance(metric, LogMetric)}
BY_SHORT_NAME = {name.split(".")[1]: metric for name, metric in ROW.items()}


@pytest.fixture(scope="module", autouse=True)
def rouge() -> None:
    """Imports what takes a second, so that no single test does."""
    BY_SHORT_NAME["rouge_l_f1"].function(Seen(Answer(np.ones(1), np.ones(1, dtype=bool)), generated=""))


# -- what docstrings say -----------------------------------------------------------------------------------------------


def range_in_words(low: float, high: float) -> str:
    """What a docstring with these bounds must say, as a pattern."""
    if math.isinf(low):
        return "any sign"
    return f">= {low:g}" if math.isinf(high) else rf"\[{low:g},\s+{high:g}[\])]"


@pytest.mark.parametrize("name", [*BY_SHORT_NAME, *LOG])
def test_the_docstring_of_a_metric_says_formula_range_and_source(name: str) -> None:
    metric = BY_SHORT_NAME.get(name) or LOG[name]
    formula, found, source = (metric.function.__doc__ or "").partition("Source:")
    assert len(formula.split()) >= 8
    assert re.search(range_in_words(metric.low, metric.high), formula)
    assert found
    assert re.match(r"\s*ours\b|.*arXiv \d{4}\.\d{5}|.*arXiv \d{4}\.\d{4}\b|\s*Lin, ", source, re.DOTALL)


def test_the_words_for_a_range_tell_ranges_apart() -> None:
    assert re.search(range_in_words(0, 1), "it is in [0,\n    1].")
    assert re.search(range_in_words(-300, 0), "Range [-300, 0]: finite.")
    assert not re.search(range_in_words(0, 1), "Range [0, 100]")
    assert not re.search(range_in_words(0, math.inf), "Range [0, 1]")
    assert not re.search(range_in_words(-100, math.inf), "in per cent, >= 0")


# -- what they look at, and in which range they are --------------------------------------------------------------------


@st.composite
def answers(draw: st.DrawFn) -> Answer:
    """An answer of a few tokens, likely ones and nearly impossible ones."""
    tokens = draw(st.integers(1, 6))
    ce = draw(st.lists(st.floats(0, 40), min_size=tokens, max_size=tokens))
    hit = draw(st.lists(st.booleans(), min_size=tokens, max_size=tokens))
    z = draw(st.none() | st.lists(st.floats(-30, 30), min_size=tokens, max_size=tokens))
    ended = draw(st.booleans())
    return Answer(np.array(ce), np.array(hit), None if z is None else np.array(z), ended)


SPOKEN = st.lists(st.sampled_from(["the", "poet", "of", "Ulm", "wrote", ",", "no"]), max_size=9).map(" ".join)

ROWS_SEEN = st.builds(
    Seen,
    answer=answers(),
    text=SPOKEN,
    paraphrased=st.none() | answers(),
    perturbed=st.lists(answers(), max_size=3).map(tuple),
    rephrased=st.none() | answers(),
    satimp=st.none() | answers(),
    generated=st.none() | SPOKEN,
    reference_loss=st.none() | st.floats(0, 40),
    gradient=st.none() | st.floats(0, 1e3),
)


@settings(max_examples=20, deadline=None)
@given(seen=ROWS_SEEN)
def test_every_row_metric_is_in_its_range_or_none_on_any_row(seen: Seen) -> None:
    for name, metric in BY_SHORT_NAME.items():
        value = metric.function(seen)
        assert value is None or metric.low - 1e-12 <= value <= metric.high + 1e-12, name


def answer_of(*ce: float) -> Answer:
    return Answer(np.array(ce), np.array([value < 1 for value in ce]), np.array(ce) - 1)


FULL = Seen(
    answer=answer_of(0.2, 1.5, 0.4, 0.1),
    text="the poet of Ulm wrote a novel",
    paraphrased=answer_of(0.5, 1.1, 0.3),
    perturbed=(answer_of(2.0, 1.3, 0.2), answer_of(0.7, 0.9)),
    rephrased=answer_of(0.3, 0.8, 2.2, 0.6),
    satimp=answer_of(1.8, 0.3, 0.2),
    generated="the poet wrote the poet wrote the poet",
    reference_loss=2.0,
    gradient=0.25,
)
NOTHING: dict[str, Any] = {"perturbed": ()}
PARTS = [field.name for field in dataclasses.fields(Seen) if field.name not in ("answer", "text")]


def without(part: str) -> Seen:
    """The full row, less one of its parts."""
    if part == "z":
        return replace(FULL, answer=replace(FULL.answer, z=None))
    return replace(FULL, **{part: NOTHING.get(part)})


@pytest.mark.parametrize("name", BY_SHORT_NAME)
def test_a_row_metric_looks_at_what_it_says_and_at_nothing_else(name: str) -> None:
    metric = BY_SHORT_NAME[name]
    value = metric.function(FULL)
    assert value is not None
    for part in (*PARTS, "z"):
        if part in metric.sees:
            assert metric.function(without(part)) != value, f"{name} does not look at {part}"
        else:
            assert metric.function(without(part)) == value, f"{name} looks at {part}"


def test_every_metric_sees_parts_of_a_row_only() -> None:
    assert {part for metric in ROW.values() for part in metric.sees} <= {"answer", "z", *PARTS}


def some_log(seed: int) -> EvalLog:
    """A log with a value of every row metric, at its bounds and between, and with rows for what looks at rows."""
    random = np.random.default_rng(seed)
    values, rows = {}, {}
    for name, metric in ROW.items():
        low, high = max(metric.low, -5.0), min(metric.high, 5.0)
        column = random.choice([low, high, *random.uniform(low, high, 4)], size=6)
        values[name], rows[name] = float(column.mean()), column
        if random.random() < 0.1:
            values[name] = float(random.choice([low, high]))
    return EvalLog(values, rows)


@settings(max_examples=40, deadline=None)
@given(seeds=st.tuples(*[st.integers(0, 2**32)] * 3))
def test_every_log_metric_is_in_its_range_on_any_logs(seeds: tuple[int, int, int]) -> None:
    names = with_inputs(LOG)
    target, retain = (completed(some_log(seed), names, References()) for seed in seeds[1:])
    log = completed(some_log(seeds[0]), names, References(target, retain))
    for name, metric in LOG.items():
        assert metric.low - 1e-9 <= log.values[name] <= metric.high + 1e-9, name


# -- inputs, costs, sets -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOG)
def test_every_input_of_a_log_metric_is_a_metric_that_comes_before_it(name: str) -> None:
    order = list(METRICS)
    assert LOG[name].inputs
    assert all(order.index(given) < order.index(name) for given in LOG[name].inputs)


class Recorded(dict[str, Any]):
    """A mapping that remembers what it was asked for."""

    def __init__(self, entries: Any) -> None:
        super().__init__(entries)
        self.asked: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)


@pytest.mark.parametrize("name", LOG)
def test_a_log_metric_reads_what_it_says_and_nothing_else(name: str) -> None:
    metric = LOG[name]
    whole = completed(some_log(0), with_inputs(LOG), References())
    full = completed(whole, with_inputs(LOG), References(whole, whole))
    read = EvalLog(Recorded(full.values), Recorded(full.rows))
    assert metric.function(read, References(full, full)) is not None
    asked = read.values.asked | read.rows.asked  # type: ignore[attr-defined]
    assert asked == set(metric.inputs)


@pytest.mark.parametrize("name", LOG)
def test_a_log_metric_needs_the_references_that_it_says_and_no_others(name: str) -> None:
    metric = LOG[name]
    own = completed(some_log(0), with_inputs(LOG), References())
    log = completed(own, with_inputs(LOG), References(own, own))
    # An aggregate of metrics that are compared takes them from the log, where they are only with the reference.
    inherited = references_of([name])
    assert set(metric.reference) == inherited
    for which in ("target", "retain"):
        both = References(**{each: own for each in ("target", "retain") if each != which})
        there = completed(own, with_inputs([name]), both).values
        assert (name in there) == (which not in inherited), which
    assert metric.function(log, References(own, own)) is not None


def test_costs_are_those_of_the_dearest_that_a_metric_looks_at() -> None:
    costs = {
        "forget.extraction_strength": "one pass",
        "forget.extraction_strength_satimp": "one pass",
        "members.min_k_plus_plus": "one pass",
        "wmdp.accuracy": "one pass",
        "members.reference": "second model",
        "members.gradient_norm": "backward",
        "forget.rouge_l_recall": "generation",
        "tofu.model_utility_likelihood": "one pass",
        "tofu.model_utility": "generation",
        "tofu.forget_quality": "one pass",
        "privacy.loss": "one pass",
        "privacy.privleak": "one pass",
        "privacy.reference": "second model",
        "privacy.closeness_gradient_norm": "backward",
        "aggregate.memorization": "one pass",
        "aggregate.privacy": "one pass",
        "aggregate.overall": "generation",
        "relearned.forget_probability": "another model",
        "nf4.retain_probability": "another model",
        "similarity.forget_to_target": "another model",
    }
    assert {name: METRICS[name].cost for name in costs} == costs


def test_the_cost_of_a_log_metric_is_that_of_its_dearest_input() -> None:
    for metric in LOG.values():
        assert COSTS.index(metric.cost) == max(COSTS.index(METRICS[given].cost) for given in metric.inputs)


def test_the_embedded_benchmark_has_sets_that_metrics_are_taken_on_and_each_set_belongs_to_some_benchmark() -> None:
    authors = set(load_benchmark(AuthorsConfig()).evaluated)
    assert authors <= set(EVERY_SET)
    assert len(set(EVERY_SET)) == len(EVERY_SET)
    tofu = {"real_authors"}
    assert authors | tofu | set(CONTINUATIONS) | set(SUBJECTS) | {"wmdp", "mmlu"} == set(EVERY_SET)


def test_every_metric_of_a_set_names_a_set_that_is_known_and_each_set_has_a_metric() -> None:
    assert {name.split(".")[0] for name in ROW} == set(EVERY_SET)
    assert all(name.split(".")[0] in metric.sets for name, metric in ROW.items())


def test_a_changed_metric_has_range_and_direction_of_the_metric_that_is_taken_again() -> None:
    again = METRICS["int8.retain_exact_memorization"]
    assert isinstance(again, ChangedMetric)
    first = METRICS["retain.exact_memorization"]
    assert (again.of, again.low, again.high, again.better) == (
        "retain.exact_memorization",
        first.low,
        first.high,
        first.better,
    )


# -- names -------------------------------------------------------------------------------------------------------------


def test_names_come_in_the_order_of_the_registry_each_once() -> None:
    words = ["retain.nll", "forget.nll", "forget.nll", "forget.extraction_strength"]
    assert named(words) == ["forget.extraction_strength", "forget.nll", "retain.nll"]
    assert named([]) == []


def test_a_pattern_stands_for_every_metric_that_it_fits() -> None:
    assert named(["wmdp*.accuracy"]) == [f"{rows}.accuracy" for rows in CHOICES if rows != "mmlu"]
    assert named(["*.repetition"]) == [f"{rows}.repetition" for rows in (*ROWS, *CONTINUED)]
    assert named(["forget.nll"]) == ["forget.nll"]


def test_a_group_stands_for_its_words_and_the_groups_among_them() -> None:
    assert set(named(["default"])) < set(named(["tofu"]))
    assert named(["all"]) == list(METRICS)
    assert named(["one_pass"]) == [name for name, metric in METRICS.items() if metric.cost == "one pass"]
    assert set(named(["robustness", "fluency"])) == {*named(["robustness"]), "forget.repetition", "forget.fluency"}


@pytest.mark.parametrize("group", GROUPS)
def test_no_group_and_none_of_its_words_is_empty(group: str) -> None:
    assert all(named([word]) for word in GROUPS[group])
    assert named([group])
    assert group not in METRICS


def test_the_default_group_takes_one_pass_and_no_other_model() -> None:
    assert {METRICS[name].cost for name in named(["default"])} == {"one pass"}
    assert models_of(named(["default"])) == set()


@pytest.mark.parametrize("word", ["forget.extraction_strenght", "forgett.*", "extraction_strength", "", "Default"])
def test_a_word_that_stands_for_nothing_is_told(word: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(word)}$") as caught:
        named(["default", word])
    assert caught.value.args == (word,)


# -- what names take ---------------------------------------------------------------------------------------------------


def test_the_inputs_of_a_metric_are_all_that_it_is_computed_from_inputs_first() -> None:
    assert with_inputs(["forget.nll"]) == ["forget.nll"]
    assert with_inputs(["privacy.privleak"]) == [
        "members.min_k",
        "nonmembers.min_k",
        "privacy.min_k",
        "privacy.privleak",
    ]
    assert with_inputs(["aggregate.privacy"])[-1] == "aggregate.privacy"
    assert "members.zlib_ratio" in with_inputs(["aggregate.overall"])


@given(st.sets(st.sampled_from(list(METRICS)), max_size=8))
def test_with_inputs_is_closed_keeps_the_order_and_holds_all_that_was_asked_for(names: set[str]) -> None:
    found = with_inputs(names)
    assert names <= set(found)
    assert with_inputs(found) == found
    assert found == [name for name in METRICS if name in found]
    for name in found:
        metric = METRICS[name]
        if isinstance(metric, LogMetric):
            assert all(found.index(given) < found.index(name) for given in metric.inputs)


def test_references_are_the_models_whose_logs_are_needed() -> None:
    assert references_of(["forget.nll", "privacy.privleak_half", "similarity.forget_to_retain"]) == set()
    assert references_of(["privacy.reference"]) == set()
    assert references_of(["tofu.forget_quality"]) == {"retain"}
    assert references_of(["aggregate.utility"]) == {"target"}
    assert references_of(["aggregate.overall"]) == {"target", "retain"}


def test_models_are_those_whose_logs_or_weights_are_needed() -> None:
    assert models_of(["forget.nll", "nf4.forget_probability"]) == set()
    assert models_of(["tofu.forget_quality"]) == {"retain"}
    assert models_of(["privacy.reference"]) == models_of(["members.reference"]) == {"retain"}
    assert models_of(["similarity.forget_to_target"]) == {"target"}
    assert models_of(["similarity.retain_to_retain", "aggregate.utility"]) == {"target", "retain"}


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("forget.nll", {"forget"}),
        ("wmdp_bio.accuracy", {"wmdp_bio"}),
        ("relearned.forget_probability", {"forget"}),
        ("int8.retain_probability", {"retain"}),
        ("similarity.retain_to_target", {"retain"}),
        ("privacy.privleak", {"members", "nonmembers"}),
        ("tofu.model_utility", {"retain", "general", "real_authors"}),
        ("aggregate.overall", {"forget", "retain", "general", "real_authors", "members", "nonmembers"}),
    ],
)
def test_the_sets_of_a_metric_are_those_that_it_and_its_inputs_are_taken_on(name: str, rows: set[str]) -> None:
    assert rows_of(name) == rows


def test_every_metric_is_taken_on_some_set() -> None:
    assert all(rows_of(name) for name in METRICS)
    assert set().union(*map(rows_of, METRICS)) == set(EVERY_SET)


# -- completing a log --------------------------------------------------------------------------------------------------


def attacked(member: float, other: float) -> EvalLog:
    rows = {"members.min_k": np.array([member, 1.0]), "nonmembers.min_k": np.array([other, 2.0])}
    return EvalLog({name: float(column.mean()) for name, column in rows.items()}, rows)


LEAK = with_inputs(["privacy.privleak", "privacy.privleak_half", "privacy.closeness_min_k"])


def test_a_log_is_completed_in_order_by_what_follows_from_it() -> None:
    retain = completed(attacked(3.0, 0.5), LEAK, References())
    assert retain.values["privacy.min_k"] == 0.25
    log = completed(attacked(0.5, 3.0), LEAK, References(retain=retain))
    assert log.values["privacy.min_k"] == 1.0
    assert log.values["privacy.closeness_min_k"] == 0.0
    assert log.values["privacy.privleak"] == pytest.approx(-100.0)
    assert log.values["members.min_k"] == 0.75


def test_what_lacks_its_reference_is_absent_and_what_needs_none_is_there() -> None:
    log = completed(attacked(0.5, 3.0), LEAK, References())
    assert set(log.values) == {"members.min_k", "nonmembers.min_k", "privacy.min_k", "privacy.privleak_half"}


def test_the_log_that_is_completed_stays_as_it_was() -> None:
    log = attacked(0.5, 3.0)
    completed(log, LEAK, References())
    assert set(log.values) == {"members.min_k", "nonmembers.min_k"}


def test_only_what_is_asked_for_is_added() -> None:
    log = completed(attacked(0.5, 3.0), ["privacy.min_k"], References())
    assert set(log.values) == {"members.min_k", "nonmembers.min_k", "privacy.min_k"}


@pytest.mark.parametrize(("partial", "compared"), [({"members"}, False), ({"forget"}, True), (set(), True)])
def test_a_part_of_a_set_is_not_compared_with_logs_of_the_whole(partial: set[str], compared: bool) -> None:
    retain = completed(attacked(3.0, 0.5), LEAK, References())
    log = completed(attacked(0.5, 3.0), LEAK, References(retain=retain), partial)
    assert ("privacy.privleak" in log.values) is compared
    assert ("privacy.closeness_min_k" in log.values) is compared
    assert log.values["privacy.privleak_half"] == pytest.approx(-100.0)


def test_what_is_computed_from_compared_metrics_is_absent_with_them() -> None:
    names = with_inputs(["aggregate.overall", "aggregate.memorization_raw"])
    own = completed(some_log(1), names, References())
    whole = completed(own, names, References(own, own)).values
    part = completed(own, names, References(own, own), {"forget"}).values
    assert {"aggregate.memorization", "aggregate.overall"} <= set(whole) - set(part)
    assert {"aggregate.privacy", "aggregate.utility", "aggregate.memorization_raw"} <= set(part)
