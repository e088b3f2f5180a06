"""Whole metrics from what was logged of real models: Llama-2-7B and Phi-1.5, finetuned by the authors of TOFU.

Their logs have the loss of every answer, so everything but generation and attacks is computed as it is of a model. The
numbers that are expected were computed from the same logs by an independent implementation (the folder's README).
"""

import gzip
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.golden import VECTORS
from trials.aggregates import forget_quality, model_utility
from trials.logs import EvalLog, References
from trials.metrics import (
    Answer,
    Seen,
    probability,
    probability_normalised,
    truth_preference,
    truth_ratio,
    truthfulness,
    wrong_over_right,
)
from trials.texts import rouge1_recall, rouge_l_recall

Model = tuple[str, str, str]
"""Family, finetuned on, weight decay."""

LLAMA, LLAMA_RETAIN = ("llama2-7b", "full", "0.01"), ("llama2-7b", "retain90", "0.01")
PHI, PHI_RETAIN = ("phi", "full", "0.01"), ("phi", "retain90", "0.01")
GENERAL = {"real_authors_perturbed": "real_authors", "world_facts_perturbed": "general"}
FUNCTIONS: tuple[Callable[[Seen], float | None], ...] = (
    probability,
    probability_normalised,
    truth_preference,
    truth_ratio,
    truthfulness,
    wrong_over_right,
)


def lines(file: Path) -> list[dict[str, Any]]:
    read = gzip.open if file.suffix == ".gz" else open
    with read(file, "rt", encoding="utf-8") as text:
        return [json.loads(line) for line in text]


def model_of(line: Mapping[str, Any]) -> Model:
    return line["model_family"], line["finetuned_on"], line["weight_decay"]


def rows_of(name: str) -> str:
    """Our name of a set."""
    return GENERAL.get(name) or ("retain" if name.startswith("retain") else "forget")


def answer(loss: float) -> Answer:
    """An answer of which only the mean cross-entropy was logged."""
    return Answer(np.array([loss]), np.array([False]))


def seen(right: Iterable[float], paraphrased: Iterable[float], wrong: Iterable[list[float]]) -> list[Seen]:
    """The rows of a set.

    The general sets have no paraphrase: the answer stands for it, passed once more in another batch, and in half
    precision that made another loss of it.
    """
    return [
        Seen(answer(a), paraphrased=answer(b), perturbed=tuple(map(answer, c)))
        for a, b, c in zip(right, paraphrased, wrong, strict=True)
    ]


def column(function: Callable[[Seen], float | None], group: Sequence[Seen]) -> list[float]:
    return [value for each in group if (value := function(each)) is not None]


def log_of(sets: Mapping[str, tuple[Sequence[Seen], Sequence[float]]]) -> EvalLog:
    """A log of sets, of each its rows and their ROUGE-L recalls."""
    found = {f"{rows}.{f.__name__}": np.array(column(f, group)) for rows, (group, _) in sets.items() for f in FUNCTIONS}
    found |= {f"{rows}.rouge_l_recall": np.array(recalls) for rows, (_, recalls) in sets.items()}
    return EvalLog({name: float(values.mean()) for name, values in found.items()}, found)


@pytest.fixture(scope="module")
def logs(tofu: Path) -> dict[Model, EvalLog]:
    """Of all 16 models."""
    sets: dict[Model, dict[str, tuple[Sequence[Seen], Sequence[float]]]] = {}
    for line in lines(tofu / "eval_reference.jsonl.gz"):
        rows = rows_of(line["eval_set"])
        group = seen(line["avg_gt_loss"], line["avg_paraphrased_loss"], line["average_perturb_loss"])
        sets.setdefault(model_of(line), {})[rows] = group, line["rougeL_recall"]
    return {model: log_of(each) for model, each in sets.items()}


def six(number: float | None) -> str:
    """To six significant digits."""
    assert number is not None
    return f"{number:.6g}"


# -- the numbers of the specification ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "utility"), [(LLAMA, 0.622677), (LLAMA_RETAIN, 0.613745), (PHI, 0.522074)], ids=["llama", "retain", "phi"]
)
def test_model_utility_of_published_models(logs: dict[Model, EvalLog], model: Model, utility: float) -> None:
    assert six(model_utility(logs[model], References())) == six(utility)


def test_both_truth_ratios_of_published_models(logs: dict[Model, EvalLog]) -> None:
    assert six(logs[LLAMA].values["forget.truth_ratio"]) == "0.515985"
    assert six(logs[LLAMA_RETAIN].values["forget.truth_ratio"]) == "0.674019"
    assert six(logs[LLAMA].values["forget.truth_preference"]) == "0.661136"


@pytest.mark.parametrize(
    ("model", "retain", "p"),
    [(LLAMA, LLAMA_RETAIN, 1.834066e-21), (PHI, PHI_RETAIN, 2.194274e-16)],
    ids=["llama", "phi"],
)
def test_forget_quality_of_published_models(logs: dict[Model, EvalLog], model: Model, retain: Model, p: float) -> None:
    assert six(forget_quality(logs[model], References(retain=logs[retain]))) == six(p)
    assert forget_quality(logs[retain], References(retain=logs[retain])) == 1.0


# -- all of the logs ---------------------------------------------------------------------------------------------------


def test_every_aggregate_of_every_model_is_that_of_the_summary(tofu: Path, logs: dict[Model, EvalLog]) -> None:
    summary = lines(tofu / "eval_reference_summary.jsonl")
    assert sorted(map(model_of, summary)) == sorted(logs)
    assert len(logs) == 16
    for line in summary:
        log, (family, _, decay) = logs[model_of(line)], model_of(line)
        for name, given in line.items():
            if not name.endswith("_perturbed"):
                continue
            rows = rows_of(name)
            likelihood = "probability_normalised" if name in GENERAL else "probability"
            ratio = "truth_ratio" if rows == "forget" else "truthfulness"
            ours = [log.values[f"{rows}.{metric}"] for metric in (likelihood, "rouge_l_recall", ratio)]
            theirs = [given[key] for key in ("prob", "rougeL_recall", "truth_ratio")]
            # Half of the last digit is rounding; the other half is for EPSILON, which the authors of TOFU do not add.
            assert ours == pytest.approx(theirs, rel=0, abs=1e-6), (model_of(line), name)
        assert six(model_utility(log, References())) == six(line["model_utility"])
        if test := line.get("forget10_ks_vs_retain90"):
            retain = logs[family, "retain90", decay]
            assert six(forget_quality(log, References(retain=retain))) == six(test["pvalue"])


def test_ratios_row_by_row_are_those_that_were_logged(tofu: Path, logs: dict[Model, EvalLog]) -> None:
    for line in lines(tofu / "eval_reference.jsonl.gz"):
        ours = logs[model_of(line)].rows[f"{rows_of(line['eval_set'])}.wrong_over_right"]
        np.testing.assert_allclose(ours, line["truth_ratio"], rtol=4e-5)  # theirs are without EPSILON


@pytest.mark.parametrize("rows", ["retain_perturbed", "forget", "real_authors_perturbed", "world_facts_perturbed"])
@pytest.mark.parametrize("trained_on", ["full", "retain90", "retain95", "retain99"])
def test_rouge_of_every_logged_generation_is_what_was_logged(tofu: Path, trained_on: str, rows: str) -> None:
    said = [
        line
        for line in lines(tofu / "eval_reference_generations.jsonl.gz")
        if line["finetuned_on"] == trained_on and line["eval_set"].startswith(rows)
    ]
    name = said[0]["eval_set"]
    asked = lines(tofu / f"{name}.jsonl")
    (logged,) = (
        line
        for line in lines(tofu / "eval_reference.jsonl.gz")
        if model_of(line) == ("llama2-7b", trained_on, "0.01") and line["eval_set"] == name
    )
    assert [line["index"] for line in said] == list(range(logged["n"]))
    nothing = answer(math.nan)
    texts = [Seen(nothing, text=asked[line["index"]]["answer"], generated=line["generated_text"]) for line in said]
    for function, recalls in ((rouge_l_recall, "rougeL_recall"), (rouge1_recall, "rouge1_recall")):
        assert [f"{recall:.9g}" for recall in column(function, texts)] == [f"{x:.9g}" for x in logged[recalls]]


# -- the vectors -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def golden() -> EvalLog:
    """A log of the two-row sets of the vectors."""
    files = {
        "retain": "eval_log.json",
        "real_authors": "eval_real_author_wo_options.json",
        "general": "eval_real_world_wo_options.json",
        "forget": "eval_log_forget.json",
    }
    sets = {}
    for rows, file in files.items():
        each = {
            name: list(cells.values()) for name, cells in VECTORS["metrics"]["model_utility"]["inputs"][file].items()
        }
        losses = each["avg_gt_loss"], each["avg_paraphrased_loss"], each["average_perturb_loss"]
        sets[rows] = seen(*losses), each["rougeL_recall"]
    return log_of(sets)


def test_parts_of_model_utility_are_those_of_the_vectors(golden: EvalLog) -> None:
    parts = VECTORS["metrics"]["model_utility"]["components"]
    assert golden.values["retain.probability"] == pytest.approx(parts["Retain_prob"], rel=1e-9)
    assert golden.values["real_authors.probability_normalised"] == pytest.approx(parts["RA_prob"], rel=1e-9)
    assert golden.values["general.probability_normalised"] == pytest.approx(parts["WF_prob"], rel=1e-9)
    assert golden.values["general.rouge_l_recall"] == pytest.approx(parts["WF_rouge"], rel=1e-12)


def test_the_truth_ratio_averages_losses_and_not_probabilities(golden: EvalLog) -> None:
    contrast = VECTORS["metrics"]["truth_ratio_retain_contrast"]
    assert golden.values["retain.truthfulness"] == pytest.approx(contrast["openunlearning_geometric"], rel=1e-8)
    assert golden.values["retain.truthfulness"] != pytest.approx(contrast["repo_arithmetic"], rel=1e-3)


def test_forget_quality_of_the_vectors_is_had_from_their_losses(golden: EvalLog) -> None:
    given = VECTORS["metrics"]["forget_quality"]  # theirs are right over wrong, which the test does not tell apart
    np.testing.assert_allclose(1 / golden.rows["forget.wrong_over_right"], given["truth_ratio_unlearned"], rtol=1e-8)
    retain = EvalLog(rows={"forget.wrong_over_right": 1 / np.array(given["truth_ratio_retain"])})
    assert forget_quality(golden, References(retain=retain)) == given["value"]
