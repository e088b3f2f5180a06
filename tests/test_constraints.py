"""Bounds as they are written, by how much they are missed, and how infeasible trials are ordered."""

from __future__ import annotations

import math

import pytest

from orchestrator.search.constraints import Bound, bounds_of, total_violation, violations

ANCHORS = {"target": {"retain.nll": 2.0, "utility": 0.8}, "retain": {"utility": 0.5, "zero": 0.0}}


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        (">= 0.5 * target", Bound(at_least=True, factor=0.5, of="target")),
        ("<=1.1*retain", Bound(at_least=False, factor=1.1, of="retain")),
        ("<= 0.2", Bound(at_least=False, factor=0.2, of=None)),
        (">= -1e-3", Bound(at_least=True, factor=-0.001, of=None)),
        ("<= .5", Bound(at_least=False, factor=0.5, of=None)),
    ],
)
def test_a_bound_is_read_as_it_is_written(text: str, bound: Bound) -> None:
    assert bounds_of({"utility": text}) == {"utility": bound}


@pytest.mark.parametrize("text", ["0.5", "> 0.5", ">= half", ">= 0.5 * base", ">= 0.5 target", ">= 0.5 * target * 2"])
def test_what_is_no_bound_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match=r"no bound of 'utility'; write one as in '>= 0.5 \* target'"):
        bounds_of({"utility": text})


def test_only_missed_constraints_are_told_and_in_units_of_the_metric() -> None:
    constraints = {"utility": ">= 0.5 * target", "retain.nll": "<= 1.5 * target", "forget": "<= 0.2"}
    metrics = {"utility": 0.3, "retain.nll": 2.9, "forget": 0.25, "other": math.nan}
    assert violations(constraints, metrics, ANCHORS) == pytest.approx({"utility": 0.1, "forget": 0.05})


def test_a_value_on_its_limit_is_feasible() -> None:
    assert violations({"a": ">= 0.25", "b": "<= 0.25"}, {"a": 0.25, "b": 0.25}, {}) == {}


def test_a_missing_anchor_is_named() -> None:
    with pytest.raises(ValueError, match=r"'retain\.nll' is relative to the retain model, which has no such metric"):
        violations({"retain.nll": "<= 1.5 * retain"}, {"retain.nll": 1.0}, ANCHORS)
    with pytest.raises(ValueError, match="relative to the target model"):
        violations({"utility": ">= 0.5 * target"}, {"utility": 1.0}, {"target": {"utility": math.nan}})


@pytest.mark.parametrize("metrics", [{}, {"utility": math.nan}, {"utility": math.inf}])
def test_a_trial_without_a_constrained_metric_is_neither_feasible_nor_infeasible(metrics: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="the trial has no 'utility'"):
        violations({"utility": ">= 0.5"}, metrics, {})


def test_the_total_weighs_each_miss_by_the_size_of_its_limit() -> None:
    constraints = {"utility": ">= 0.5 * target", "retain.nll": "<= 4", "loss": ">= -2", "held": "<= 1"}
    missed = {"utility": 0.1, "retain.nll": 1.0, "loss": 1.0}
    assert total_violation(constraints, missed, ANCHORS) == pytest.approx(0.1 / 0.4 + 1 / 4 + 1 / 2)
    assert total_violation(constraints, {}, ANCHORS) == 0


def test_a_limit_of_zero_divides_by_one() -> None:
    assert total_violation({"a": "<= 0", "zero": ">= 2 * retain"}, {"a": 0.3, "zero": 0.2}, ANCHORS) == 0.5
