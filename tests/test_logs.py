"""Evaluation logs: ours, written and read again, and OpenUnlearning's."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trials.aggregates import forget_quality
from trials.logs import EvalLog, LogError, References, fingerprint_of, read_log, write_log

NAN = math.nan
LOG = EvalLog(
    values={"forget.nll": 0.1 + 0.2, "retain.probability": 5e-324, "tofu.forget_quality": 1e300, "privacy.loss": -0.0},
    rows={"forget.nll": np.array([0.3, NAN, 0.1, math.inf, -math.inf, 7.0])},
    about={"model": 'mein "modell" 東京', "benchmark": "tofu-forget10"},
)


def written(tmp_path: Path, document: Any) -> Path:
    file = tmp_path / "TOFU_EVAL 'ü'.json"
    file.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return file


# -- ours --------------------------------------------------------------------------------------------------------------


def test_a_log_is_read_as_it_was_written_to_the_last_bit(tmp_path: Path) -> None:
    write_log(tmp_path / "log.json", LOG)
    read = read_log(tmp_path / "log.json")
    assert read.values == LOG.values
    assert math.copysign(1, read.values["privacy.loss"]) == -1
    assert read.about == LOG.about
    assert list(read.rows) == ["forget.nll"]
    assert read.rows["forget.nll"].dtype == np.float64
    np.testing.assert_array_equal(read.rows["forget.nll"], LOG.rows["forget.nll"])


@given(st.lists(st.floats()))
def test_every_float_comes_back(tmp_path_factory: pytest.TempPathFactory, floats: list[float]) -> None:
    file = tmp_path_factory.getbasetemp() / "floats.json"
    write_log(file, EvalLog({str(at): value for at, value in enumerate(floats)}, {"all": np.array(floats)}))
    read = read_log(file)
    np.testing.assert_array_equal(read.rows["all"], floats)
    np.testing.assert_array_equal(list(read.values.values()), floats)


def test_the_file_is_plain_json_that_any_tool_reads(tmp_path: Path) -> None:
    file = tmp_path / "log.json"
    write_log(file, EvalLog({"forget.nll": np.float32(0.5), "retain.nll": NAN}, {"forget.nll": np.array([1, NAN])}))

    def refuse(name: str) -> None:
        raise AssertionError(name)

    assert json.loads(file.read_text(encoding="utf-8"), parse_constant=refuse) == {
        "format": "unlearn-sweep evaluation 1",
        "about": {},
        "values": {"forget.nll": 0.5, "retain.nll": None},
        "rows": {"forget.nll": [1.0, None]},
    }


def test_a_log_that_cannot_be_written_leaves_the_old_one_alone(tmp_path: Path) -> None:
    file = tmp_path / "log.json"
    write_log(file, LOG)
    before = file.read_bytes()
    with pytest.raises(ValueError, match="could not convert"):
        write_log(file, EvalLog({"forget.nll": "much"}))  # type: ignore[dict-item]
    assert file.read_bytes() == before
    write_log(file, EvalLog())
    assert read_log(file) == EvalLog()
    assert list(tmp_path.iterdir()) == [file]


def test_numbers_written_by_hand_without_a_point_are_read(tmp_path: Path) -> None:
    file = written(tmp_path, {"format": "unlearn-sweep evaluation 1", "values": {"a": 1}, "rows": {"a": [0, 2]}})
    read = read_log(file)
    assert read.values == {"a": 1.0}
    assert read.rows["a"].tolist() == [0.0, 2.0]


OURS: dict[str, Any] = {"format": "unlearn-sweep evaluation 1"}


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ("", "not a JSON file"),
        ("{'forget': 1}", "not a JSON file"),
        ([1, 2], "not an object; name an evaluation log"),
        ({}, "nor any metric of OpenUnlearning; name an evaluation log"),
        ({"trial_id": "7", "params": {"lr": 0.1}}, "nor any metric of OpenUnlearning"),
        ({"format": "unlearn-sweep evaluation 2"}, "format is 'unlearn-sweep evaluation 2', not 'unlearn-sweep eval"),
        ({**OURS, "values": [0.5]}, r"values is \[0.5\], not an object; mend it"),
        ({**OURS, "values": {"forget.nll": "much"}}, "values.forget.nll is 'much', not a number or null; mend it"),
        ({**OURS, "values": {"forget.nll": True}}, "values.forget.nll is True, not a number"),
        ({**OURS, "rows": {"forget.nll": 0.5}}, "rows.forget.nll is 0.5, not a list; mend it"),
        ({**OURS, "rows": {"forget.nll": [[0.5]]}}, r"rows.forget.nll is \[0.5\], not a number"),
        ({"forget_Q_A_Prob": {"agg_value": "much"}}, "`forget_Q_A_Prob` is 'much', not a number"),
        ({"forget_Q_A_Prob": {"value_by_index": [1.0]}}, r"forget_Q_A_Prob is \[1.0\], not an object"),
        ({"exact_memorization": {"value_by_index": {"3": 0.5}}}, "`exact_memorization` of row 3 is 0.5, not an object"),
        ({"mia_loss": {"forget": {"value_by_index": {"3": {"score": "x"}}}}}, "row 3 is 'x', not a number"),
    ],
)
def test_a_file_that_is_no_log_is_named_with_what_is_wrong(tmp_path: Path, document: Any, problem: str) -> None:
    file = written(tmp_path, document)
    with pytest.raises(LogError, match=f"^{re.escape(str(file))}: .*{problem}"):
        read_log(file)


def test_a_file_that_is_not_there_or_is_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"gone\.json: No such file or directory; name an evaluation log"):
        read_log(tmp_path / "gone.json")
    with pytest.raises(LogError, match="Is a directory; name an evaluation log"):
        read_log(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LogError, match=r"model\.safetensors: not a JSON file: .*utf-8"):
        read_log(tmp_path / "model.safetensors")


# -- fingerprints ------------------------------------------------------------------------------------------------------


def test_a_fingerprint_survives_the_file_and_does_not_ask_for_order_or_description(tmp_path: Path) -> None:
    write_log(tmp_path / "log.json", LOG)
    turned = EvalLog(dict(reversed(LOG.values.items())), LOG.rows, {"model": "elsewhere"})
    assert fingerprint_of(read_log(tmp_path / "log.json")) == fingerprint_of(LOG) == fingerprint_of(turned)
    assert re.fullmatch("[0-9a-f]{16}", fingerprint_of(LOG))


def test_a_fingerprint_changes_with_any_name_value_or_row() -> None:
    rows = LOG.rows["forget.nll"]
    others = [
        EvalLog({**LOG.values, "forget.nll": 0.3}, LOG.rows),
        EvalLog({**LOG.values, "holdout.nll": 0.1}, LOG.rows),
        EvalLog({**LOG.values, "forget.nll": NAN}, LOG.rows),
        EvalLog(LOG.values, {"forget.nll": rows[::-1]}),
        EvalLog(LOG.values, {"retain.nll": rows}),
        EvalLog(LOG.values, {"forget.nll": np.where(np.isnan(rows), 0.0, rows)}),
        EvalLog(LOG.values),
    ]
    assert len({fingerprint_of(log) for log in (LOG, *others)}) == 1 + len(others)


# -- OpenUnlearning's --------------------------------------------------------------------------------------------------


def entry(key: str, column: list[Any], total: float | None = None, **more: list[Any]) -> dict[str, Any]:
    """What OpenUnlearning logs of one metric."""
    columns = {key: column, **more}
    cells = {
        str(at): dict(zip(columns, row, strict=True)) for at, row in enumerate(zip(*columns.values(), strict=True))
    }
    return {"agg_value": total, "value_by_index": cells}


def losses(column: list[Any]) -> dict[str, Any]:
    """An entry of a probability: of a row with several answers, both numbers are lists."""
    prob = [np.exp(-np.array(loss)).tolist() for loss in column]
    return entry("prob", prob, float(np.mean(prob)), avg_loss=column)


def attacked(forget: list[float], holdout: list[float], auc: float) -> dict[str, Any]:
    return {"forget": entry("score", forget), "holdout": entry("score", holdout), "auc": auc, "agg_value": auc}


PARAPHRASED, PERTURBED = [0.5, 2.0], [[1.0, 2.0], [1.0, 1.0]]
R = [math.exp(0.5 - 1.5), math.exp(2.0 - 1.0)]  # one below 1, one above
FORGET: dict[str, Any] = {
    "forget_Q_A_Prob": losses([0.1, 0.4]),
    "forget_Q_A_PARA_Prob": losses(PARAPHRASED),
    "forget_Q_A_PERT_Prob": losses(PERTURBED),
}
CLOSER_TO_1 = entry("score", R, (R[0] + 1 / R[1]) / 2)
PROB_MEAN = entry("score", [1 / (1 + r) for r in R], sum(1 / (1 + r) for r in R) / 2)


def opened(tmp_path: Path, document: Mapping[str, Any]) -> EvalLog:
    return read_log(written(tmp_path, document))


def test_losses_become_our_metrics_by_our_formulas(tmp_path: Path) -> None:
    log = opened(tmp_path, FORGET)
    assert log.about == {"from": "OpenUnlearning"}
    expected = {
        "probability": [math.exp(-0.1), math.exp(-0.4)],
        "nll": [0.1, 0.4],
        "probability_paraphrased": [math.exp(-0.5), math.exp(-2.0)],
        "probability_perturbed": [(math.exp(-1) + math.exp(-2)) / 2, math.exp(-1)],
        "probability_normalised": [
            math.exp(-0.1) / (math.exp(-0.1) + math.exp(-1) + math.exp(-2)),
            math.exp(-0.4) / (math.exp(-0.4) + 2 * math.exp(-1)),
        ],
        "wrong_over_right": R,
        "truth_ratio": [R[0], 1 / R[1]],
        "truth_preference": [1 / (1 + r) for r in R],
        "truthfulness": [1 - R[0], 0.0],
    }
    assert set(log.rows) == set(log.values) == {f"forget.{name}" for name in expected}
    for name, column in expected.items():
        np.testing.assert_allclose(log.rows[f"forget.{name}"], column, rtol=1e-8)
        assert log.values[f"forget.{name}"] == pytest.approx(np.mean(column), rel=1e-8)


@pytest.mark.parametrize("ratio", [CLOSER_TO_1, PROB_MEAN], ids=["closer_to_1_better", "prob_mean"])
def test_forget_quality_does_not_depend_on_the_aggregator_that_a_log_was_made_with(
    tmp_path: Path, ratio: dict[str, Any]
) -> None:
    log = opened(tmp_path, {**FORGET, "forget_truth_ratio": ratio})
    np.testing.assert_allclose(log.rows["forget.wrong_over_right"], R, rtol=1e-8)
    assert log.values["forget.truth_ratio"] == pytest.approx(CLOSER_TO_1["agg_value"])
    assert log.values["forget.truth_preference"] == pytest.approx(PROB_MEAN["agg_value"])
    ours = EvalLog(rows={"forget.wrong_over_right": np.array(R)})
    assert forget_quality(ours, References(retain=log)) == 1.0


def test_ratios_without_losses_are_taken_where_one_is_above_1(tmp_path: Path) -> None:
    log = opened(tmp_path, {"forget_truth_ratio": CLOSER_TO_1})
    assert log.rows["forget.wrong_over_right"].tolist() == R
    assert set(log.values) == {"forget.wrong_over_right"}


def test_ratios_below_1_are_taken_where_their_value_tells_which_they_are(tmp_path: Path) -> None:
    log = opened(tmp_path, {"retain_Truth_Ratio": entry("score", [0.2, 0.5], 0.65)})
    assert log.rows["retain.wrong_over_right"].tolist() == [0.2, 0.5]
    assert log.values["retain.truthfulness"] == 0.65


@pytest.mark.parametrize("ratio", [PROB_MEAN, entry("score", [0.2, 0.5], 0.35), entry("score", [0.2, 0.5])])
def test_ratios_that_may_be_either_of_two_are_refused(tmp_path: Path, ratio: dict[str, Any]) -> None:
    with pytest.raises(
        LogError,
        match=r"`forget_truth_ratio` may be wrong/right or, .* that has forget_Q_A_PARA_Prob and forget_Q_A_PERT_Prob",
    ):
        opened(tmp_path, {"forget_truth_ratio": ratio})
    with pytest.raises(LogError, match=r"`wf_Truth_Ratio` may be .*wf_Q_A_Prob and wf_Q_A_PERT_Prob as well"):
        opened(tmp_path, {"wf_Truth_Ratio": ratio})


def test_the_general_sets_have_no_paraphrase_and_take_the_answer_itself(tmp_path: Path) -> None:
    wf = {"wf_Q_A_Prob": losses([0.5]), "wf_Q_A_PERT_Prob": losses([[1.0, 2.0, 3.0]])}
    ra = {"ra_Q_A_Prob": losses([0.25]), "ra_Q_A_Prob_normalised": entry("prob", [0.4], 0.4)}
    log = opened(tmp_path, {**wf, **ra, "ra_Truth_Ratio": {"agg_value": 0.3}})
    assert log.values["general.wrong_over_right"] == pytest.approx(math.exp(0.5 - 2.0))
    assert log.values["general.truthfulness"] == pytest.approx(1 - math.exp(0.5 - 2.0))
    assert log.values["real_authors.probability"] == pytest.approx(math.exp(-0.25))
    assert log.values["real_authors.probability_normalised"] == 0.4
    assert log.values["real_authors.truthfulness"] == 0.3
    assert "real_authors.wrong_over_right" not in log.rows


def test_rows_that_were_left_out_of_a_mean_stay_left_out(tmp_path: Path) -> None:
    said = {"exact_memorization": entry("score", [0.5, None, 0.25], 0.375)}
    asked = {"retain_Q_A_Prob": losses([0.5, 0.7])}
    asked["retain_Q_A_Prob"]["value_by_index"]["1"] = None
    log = opened(tmp_path, said | asked)
    assert log.values["forget.exact_memorization"] == 0.375
    np.testing.assert_array_equal(log.rows["forget.exact_memorization"], [0.5, NAN, 0.25])
    assert log.values["retain.nll"] == 0.5
    np.testing.assert_array_equal(log.rows["retain.nll"], [0.5, NAN])


def test_a_model_that_diverged_is_nan_and_does_not_vanish(tmp_path: Path) -> None:
    log = opened(tmp_path, {"forget_Q_A_Prob": losses([0.5, NAN]), "model_utility": {"agg_value": NAN}})
    assert math.isnan(log.values["forget.nll"])
    assert math.isnan(log.values["tofu.model_utility"])


def test_extraction_strength_goes_by_the_name_of_its_variant(tmp_path: Path) -> None:
    log = opened(tmp_path, {"extraction_strength": entry("score", [0.125, 1.0], 0.5625)})
    assert log.values == {"forget.extraction_strength_openunlearning": 0.5625}


def test_rouge_is_taken_apart(tmp_path: Path) -> None:
    spoken = entry(
        "rouge1_recall", [0.5, 0.7], 0.4, rougeL_f1=[0.2, 0.4], rougeL_recall=[0.3, 0.5], generation=["a", "b"]
    )
    log = opened(tmp_path, {"forget_Q_A_ROUGE": spoken})
    assert log.values == pytest.approx(
        {"forget.rouge1_recall": 0.6, "forget.rouge_l_f1": 0.3, "forget.rouge_l_recall": 0.4}
    )
    assert log.rows["forget.rouge_l_recall"].tolist() == [0.3, 0.5]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("mia_loss", "loss"),
        ("mia_zlib", "zlib_ratio"),
        ("mia_min_k", "min_k"),
        ("mia_min_k_plus_plus", "min_k_plus_plus"),
        ("mia_reference", "reference"),
        ("mia_gradnorm", "gradient_norm"),
    ],
)
def test_attacks_bring_their_auc_and_the_scores_of_both_sides(tmp_path: Path, theirs: str, ours: str) -> None:
    log = opened(tmp_path, {theirs: attacked([1.0, 3.0], [2.0, 4.0], 0.75)})
    assert log.values == {f"privacy.{ours}": 0.75, f"members.{ours}": 2.0, f"nonmembers.{ours}": 3.0}
    assert log.rows[f"nonmembers.{ours}"].tolist() == [2.0, 4.0]


def test_comparisons_with_a_model_that_the_file_does_not_name_are_left_out(tmp_path: Path) -> None:
    log = opened(tmp_path, {"model_utility": 0.6, "forget_quality": 0.9, "privleak": -99.4, "forget_truth_ratio": 0.5})
    assert log.values == {"tofu.model_utility": 0.6}


def test_a_summary_has_values_without_rows(tmp_path: Path) -> None:
    summary = {
        "exact_memorization": 0.9,
        "extraction_strength": 0.7,
        "forget_Q_A_Prob": 0.88,
        "forget_Q_A_ROUGE": 0.82,
        "mia_min_k": 0.38,
        "model_utility": 0.6,
        "ra_Q_A_Prob_normalised": 0.39,
        "retain_Truth_Ratio": 0.51,
        "forget_Q_A_gibberish": 0.9,
    }
    log = opened(tmp_path, summary)
    assert log.rows == {}
    assert log.values == {
        "forget.exact_memorization": 0.9,
        "forget.extraction_strength_openunlearning": 0.7,
        "forget.probability": 0.88,
        "forget.rouge_l_recall": 0.82,
        "privacy.min_k": 0.38,
        "tofu.model_utility": 0.6,
        "real_authors.probability_normalised": 0.39,
        "retain.truthfulness": 0.51,
    }


def test_a_log_of_muse_has_its_metrics_on_the_verbatim_passages(tmp_path: Path) -> None:
    muse = {"forget_verbmem_ROUGE": 0.58, "forget_knowmem_ROUGE": 0.64, "retain_knowmem_ROUGE": 0.56}
    log = opened(tmp_path, {**muse, "extraction_strength": 0.3, "mia_min_k": 0.4, "privleak": -99.8})
    assert log.values == {
        "verbmem.rouge_l_f1": 0.58,
        "forget_knowmem.rouge_l_f1": 0.64,
        "retain_knowmem.rouge_l_f1": 0.56,
        "verbmem.extraction_strength_openunlearning": 0.3,
        "privacy.min_k": 0.4,
    }


def test_entries_of_other_rows_than_each_other_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"`forget_Q_A_\*_Prob` entries are not of the same rows; evaluate"):
        opened(tmp_path, {**FORGET, "forget_Q_A_Prob": losses([0.1])})


def test_rows_in_another_order_are_brought_together_by_their_index(tmp_path: Path) -> None:
    turned = {"agg_value": None, "value_by_index": dict(reversed(losses(PERTURBED)["value_by_index"].items()))}
    log = opened(tmp_path, {**FORGET, "forget_Q_A_PERT_Prob": turned})
    np.testing.assert_allclose(log.rows["forget.wrong_over_right"], R, rtol=1e-8)
