"""What is said of a log: intervals, tables, directions, and why a metric is absent."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from orchestrator.report.scores import Given, absences, direction, intervals, lines, tables
from trials.logs import EvalLog, References
from trials.naming import named
from trials.registry import METRICS

NAME = "forget.probability"


def log_of(**rows: list[float]) -> EvalLog:
    """A log of rows, `__` for the dot of a name, and their means."""
    columns = {name.replace("__", "."): np.array(values) for name, values in rows.items()}
    return EvalLog({name: float(np.nanmean(values)) for name, values in columns.items()}, columns)


def shown(log: EvalLog, names: list[str]) -> str:
    console = Console(file=io.StringIO(), width=120, highlight=False)
    for table in tables(log, names):
        console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


# -- intervals ---------------------------------------------------------------------------------------------------------


def test_an_interval_is_as_wide_as_the_normal_one_where_there_are_many_rows() -> None:
    values = np.random.default_rng(7).normal(3.0, 2.0, size=400)
    low, high = intervals(EvalLog({NAME: values.mean()}, {NAME: values}))[NAME]
    error = values.std() / math.sqrt(len(values))
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.2 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.2 * error)


def test_an_interval_is_the_same_each_time_and_stays_within_the_rows() -> None:
    log = log_of(forget__probability=[0.0, 0.0, 1.0])
    assert intervals(log) == intervals(log) == {NAME: (0.0, 1.0)}


def test_rows_without_a_value_are_not_drawn() -> None:
    with_gap = log_of(forget__probability=[0.2, math.nan, 0.4, 0.9, math.nan])
    assert intervals(with_gap) == intervals(log_of(forget__probability=[0.2, 0.4, 0.9]))


@pytest.mark.parametrize(
    ("value", "rows"),
    [(0.5, [0.5]), (0.5, [0.5, 0.5, 0.5]), (math.nan, [0.5, 0.7]), (math.inf, [1.0, math.inf])],
    ids=["one row", "rows that agree", "a mean of NaN", "an infinite mean"],
)
def test_where_rows_tell_nothing_of_a_spread_there_is_no_interval(value: float, rows: list[float]) -> None:
    assert intervals(EvalLog({NAME: value}, {NAME: np.array(rows)})) == {}


# -- directions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("forget.probability", "lower"),
        ("retain.probability", "higher"),
        ("forget.nll", "higher"),
        ("general.nll", "lower"),
        ("verbmem.rouge_l_f1", "lower"),
        ("retain_knowmem.rouge_l_f1", "higher"),
        ("wmdp_bio.accuracy", "lower"),
        ("mmlu.accuracy", "higher"),
        ("holdout.probability", "near that of the retain model"),
        ("int8.retain_probability", "higher"),
        ("relearned.forget_probability", "lower"),
        ("tofu.forget_quality", "higher"),
        ("privacy.privleak", "near 0"),
    ],
)
def test_which_way_is_better_depends_on_what_is_to_be_forgotten(name: str, expected: str) -> None:
    assert direction(name) == expected


def test_no_direction_leaves_it_to_the_reader_which_set_is_meant() -> None:
    assert all(direction(name) and "what is to be" not in direction(name) for name in METRICS)


# -- tables ------------------------------------------------------------------------------------------------------------


def test_a_metric_has_a_line_and_each_set_a_column_with_the_interval_below() -> None:
    log = log_of(forget__probability=[0.25, 0.75], retain__probability=[1.0, 1.0], forget__nll=[2.0, 2.0])
    lines_of = shown(log, list(log.values)).splitlines()
    head = next(line for line in lines_of if "mean over rows" in line)
    assert head.replace("┃", " ").split() == ["mean", "over", "rows", "forget", "retain"]
    place = next(index for index, line in enumerate(lines_of) if "probability" in line)
    assert lines_of[place].replace("│", " ").split() == ["probability", "0.5", "1"]
    assert lines_of[place + 1].replace("│", " ").split() == ["0.25", "to", "0.75"]
    nll = next(line for line in lines_of if "nll" in line)
    assert nll.replace("│", " ").split() == ["nll", "2"]


def test_kinds_of_sets_have_tables_of_their_own_and_names_that_were_not_asked_for_none() -> None:
    log = EvalLog(
        {"forget.nll": 1.0, "verbmem.nll": 2.0, "mmlu.accuracy": 0.5, "members.loss": 3.0, "int8.forget_probability": 0}
        | {"tofu.model_utility": math.nan, "retain.nll": 4.0}
    )
    asked = [name for name in log.values if name != "retain.nll"]
    text = shown(log, [*asked, "holdout.nll"])
    assert text.count("mean over rows") == 5
    assert text.count("of the whole model") == 1
    assert "nan" in text
    assert not any(word in text for word in ("retain", "holdout", "interval"))


# -- absences ----------------------------------------------------------------------------------------------------------

NOTHING = Given({"forget", "retain", "members", "nonmembers"}, References(), set())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mmlu.accuracy", "the benchmark has no such set"),
        ("tofu.model_utility", "the benchmark has no general set"),
        ("forget.truth_ratio", "no row of its set has a paraphrased answer or wrong answers"),
        ("forget.rouge_l_recall", "no row of its set has a question to answer"),
        ("forget.exact_memorization", "no row of its set has enough tokens"),
        ("members.reference", "it looks into the retain model; give its folder by --set model.retain_path=DIR"),
        ("similarity.forget_to_retain", "it looks into the retain model; give its folder"),
        ("similarity.forget_to_target", "it is compared with the target model's weights, which a sweep alone knows"),
        ("relearned.forget_probability", "no row of its set has enough tokens"),
        ("tofu.forget_quality", "it is compared with the retain model's log; give it by --retain-log FILE"),
        ("aggregate.privacy", "it is compared with the retain model's log; give it by --retain-log FILE"),
    ],
)
def test_what_is_absent_says_why_and_what_to_do(name: str, reason: str) -> None:
    there = {"retain.probability": 0.5, "retain.truthfulness": 0.5, "retain.rouge_l_recall": 0.5}
    there |= {"forget.wrong_over_right": 2.0, "members.loss": 1.0, "nonmembers.loss": 1.0, "privacy.loss": 0.5}
    [(said, names)] = absences(EvalLog(there), [name], NOTHING).items()
    assert names == [name]
    assert said.startswith(reason)


def test_a_reference_that_lacks_the_input_is_told_apart_from_none() -> None:
    log = EvalLog({"forget.wrong_over_right": 2.0})
    given = Given({"forget"}, References(retain=EvalLog({"forget.nll": 1.0})), set())
    reason = "the log of the retain model lacks forget.wrong_over_right; measure it there too"
    assert absences(log, ["tofu.forget_quality"], given) == {reason: ["tofu.forget_quality"]}


def test_what_is_there_is_not_absent_and_reasons_are_told_once() -> None:
    found = absences(EvalLog({"forget.nll": 1.0}), ["forget.nll", *named(["wmdp"])], NOTHING)
    said = "absent: wmdp.accuracy, wmdp_bio.accuracy, wmdp_cyber.accuracy, wmdp_chem.accuracy and 1 more: "
    assert list(lines(found)) == [said + "the benchmark has no such set"]


def test_every_metric_can_be_said_to_be_absent() -> None:
    nothing: dict[str, Any] = {"sets": set(), "references": References(), "models": set()}
    found = absences(EvalLog(), METRICS, Given(**nothing))
    assert sorted(name for names in found.values() for name in names) == sorted(METRICS)
