"""Every metric of the embedded benchmark, on the target model and on one that never saw the forget set.

The two end points are known before any trial is run: the target knows the forget set, the retain model does not, and
both know the rest. A metric that does not tell them apart, or tells them apart where they are alike, is wrong.
"""

import math

import pytest

from trials.benchmarks import load_benchmark
from trials.config import Evaluation, TrialConfig
from trials.logs import EvalLog, References
from trials.naming import completed, named, with_inputs
from trials.references import reference_log
from trials.registry import ATTACK, MEMORISED, METRICS, SURPRISED, ChangedMetric, RowMetric, Similarity

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CONFIG = TrialConfig(evaluation=Evaluation(metrics=("all",), max_new_tokens=48))
NAMES = named(CONFIG.evaluation.metrics)


@pytest.fixture(scope="module")
def logs() -> tuple[EvalLog, EvalLog]:
    """Of the target and of the retain model, each compared with both."""
    benchmark = load_benchmark(CONFIG.benchmark)
    target, retain = (reference_log(CONFIG, benchmark, which) for which in ("target", "retain"))
    assert target is not None
    assert retain is not None
    both = References(target, retain)
    return completed(target, with_inputs(NAMES), both), completed(retain, with_inputs(NAMES), both)


def test_every_metric_that_this_benchmark_has_columns_for_is_there(logs: tuple[EvalLog, EvalLog]) -> None:
    lacking = {name for name in NAMES if name not in logs[0].values}
    sets = {"real_authors", "verbmem", "forget_knowmem", "retain_knowmem", "wmdp", "wmdp_bio", "wmdp_cyber"}
    changed = {name for name in lacking if isinstance(METRICS[name], ChangedMetric)}
    assert {name.split(".")[0] for name in lacking - changed} == {*sets, "wmdp_chem", "mmlu"}
    assert {name.split(".")[1].split("_")[0] for name in changed} == {"verbmem", "wmdp", "mmlu"}
    assert lacking == {name for name in NAMES if name not in logs[1].values}


@pytest.mark.parametrize("name", NAMES)
def test_a_metric_is_in_its_range(name: str, logs: tuple[EvalLog, EvalLog]) -> None:
    for log in logs:
        if name in log.values:
            assert math.isfinite(log.values[name])
            assert METRICS[name].low - 1e-9 <= log.values[name] <= METRICS[name].high + 1e-9


FORGET = [n for n in NAMES if n.startswith("forget.") and METRICS[n].better in (MEMORISED, SURPRISED)]
KEPT = [n for n in NAMES if n.split(".")[0] in ("retain", "general") and METRICS[n].better in (MEMORISED, SURPRISED)]


@pytest.mark.parametrize("name", FORGET)
def test_the_target_knows_the_forget_set_and_the_retain_model_does_not(
    name: str, logs: tuple[EvalLog, EvalLog]
) -> None:
    target, retain = (log.values[name] for log in logs)
    assert target > retain if METRICS[name].better == MEMORISED else target < retain


@pytest.mark.parametrize("name", KEPT)
def test_both_know_what_is_kept_alike(name: str, logs: tuple[EvalLog, EvalLog]) -> None:
    # As far apart as on the forget set they are nowhere.
    gap = abs(logs[0].values[name] - logs[1].values[name])
    apart = abs(logs[0].values[f"forget.{name.split('.')[1]}"] - logs[1].values[f"forget.{name.split('.')[1]}"])
    assert gap < 0.5 * apart


def test_attacks_find_the_members_of_the_target_and_are_nearly_blind_to_the_retain_model(
    logs: tuple[EvalLog, EvalLog],
) -> None:
    target, retain = logs
    for name in ("loss", "zlib_ratio", "min_k", "min_k_plus_plus", "gradient_norm", "reference"):
        assert target.values[f"privacy.{name}"] > 0.95
        if name == "reference":  # of the retain model against itself nothing can be told
            assert retain.values["privacy.reference"] == 0.5
            continue
        assert abs(retain.values[f"privacy.{name}"] - 0.5) < 0.25
        assert retain.values[f"privacy.closeness_{name}"] == 1.0
        assert target.values[f"privacy.closeness_{name}"] < 0.2
    assert target.values["privacy.privleak"] < -80
    assert retain.values["privacy.privleak"] == 0.0
    assert target.values["privacy.privleak_half"] < -80 < retain.values["privacy.privleak_half"]


def test_the_retain_model_has_all_the_forget_quality_and_the_target_none(logs: tuple[EvalLog, EvalLog]) -> None:
    target, retain = logs
    assert target.values["tofu.forget_quality"] < 1e-6
    assert target.values["tofu.forget_quality_log10"] < -6
    assert retain.values["tofu.forget_quality"] == 1.0
    for name in ("tofu.model_utility", "tofu.model_utility_likelihood"):
        assert target.values[name] > 0.4
        assert retain.values[name] == pytest.approx(target.values[name], abs=0.1)


def test_the_aggregates_put_the_target_at_the_bottom_and_the_retain_model_above(logs: tuple[EvalLog, EvalLog]) -> None:
    target, retain = logs
    assert target.values["aggregate.memorization"] == 0.0
    assert retain.values["aggregate.memorization"] > 0.3
    assert target.values["aggregate.memorization_raw"] < retain.values["aggregate.memorization_raw"]
    assert target.values["aggregate.utility"] == 1.0
    assert retain.values["aggregate.utility"] > 0.9
    assert retain.values["aggregate.privacy"] == 1.0
    assert target.values["aggregate.privacy"] < 0.2
    for name in ("aggregate.overall", "aggregate.memorization_and_utility"):
        assert target.values[name] == 0.0
        assert retain.values[name] > 0.4


CHANGED = [n for n in NAMES if isinstance(m := METRICS[n], ChangedMetric) and m.of.startswith(("forget.", "retain."))]


@pytest.mark.parametrize("name", CHANGED)
def test_changed_models_differ_as_the_models_do(name: str, logs: tuple[EvalLog, EvalLog]) -> None:
    metric = METRICS[name]
    assert isinstance(metric, ChangedMetric)
    target, retain = logs
    if metric.of.startswith("forget."):
        assert target.values[name] > retain.values[name]
    if metric.change == "int8":  # hardly a change
        assert target.values[name] == pytest.approx(target.values[metric.of], abs=0.05)


def test_a_model_is_most_like_itself(logs: tuple[EvalLog, EvalLog]) -> None:
    target, retain = logs
    for rows in ("forget", "retain"):
        assert target.values[f"similarity.{rows}_to_target"] == pytest.approx(1.0)
        assert retain.values[f"similarity.{rows}_to_retain"] == pytest.approx(1.0)
        assert target.values[f"similarity.{rows}_to_retain"] < 0.999
    assert any(isinstance(METRICS[name], Similarity) for name in NAMES)


def test_no_row_metric_of_the_forget_set_is_left_out_of_these_orderings() -> None:
    row_metrics = {n for n in NAMES if n.startswith("forget.") and isinstance(METRICS[n], RowMetric)}
    assert row_metrics - set(FORGET) == {"forget.probability_perturbed", "forget.repetition", "forget.fluency"}
    assert all(METRICS[name].better != ATTACK for name in FORGET)
