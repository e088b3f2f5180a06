"""A trial as it is measured: requests, what is due when, logs that are kept, a result measured again."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trials.references
from orchestrator.trial_checks import check_benchmark
from tests import tiny
from tests.tiny import run
from tests.tokenizers import TOKENIZERS
from trials.benchmarks import load_benchmark
from trials.config import Evaluation, TrialConfig
from trials.evaluate import Evaluator
from trials.identity import log_file
from trials.logs import read_log, write_log
from trials.measuring import evaluator_for, measure_again, requests_of
from trials.models import workspace
from trials.naming import named
from trials.references import reference_log, references
from trials.result import TrialFailed
from trials.unlearn import run_trial

DEAR = ("default", "forget.rouge_l_recall", "privacy.gradient_norm", "forget.truth_ratio")
SHAPES = {"llama": "llama3", "phi": "phi", "gpt_neox": "gpt_neox", "qwen2": "qwen2", "gemma2": "gemma"}
"""Architecture -> the shape of its tokenizer."""


# -- requests ----------------------------------------------------------------------------------------------------------


def visited(config: TrialConfig, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[set[int]]:
    """The forget rows of each epoch."""
    seen: dict[int, set[int]] = {}
    laid = trials.unlearn.Passes.lay_out

    def watch(passes: Any, epoch: int, rows: Any) -> Any:
        seen.setdefault(epoch, set()).update(int(row) for row in rows)
        return laid(passes, epoch, rows)

    with monkeypatch.context() as patch:
        patch.setattr(trials.unlearn.Passes, "lay_out", watch)
        run(config, folder)
    return [seen[epoch] for epoch in sorted(seen)]


def test_requests_that_are_made_together_are_one_forget_set(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tiny.trial(llama, requests={"parts": 3})
    assert visited(whole, tmp_path / "a", monkeypatch) == [set(range(6))] * 2
    first = tiny.trial(llama, requests={"parts": 3, "count": 2})
    assert visited(first, tmp_path / "b", monkeypatch) == [set(range(4))] * 2


def test_successive_requests_share_the_epochs_out_among_them(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny.trial(llama, requests={"parts": 3, "order": "successive"}, epochs=4)
    assert visited(config, tmp_path, monkeypatch) == [{0, 1}, {0, 1}, {2, 3}, {4, 5}]


def test_each_request_has_a_schedule_of_its_own(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[int, int]] = []

    def watch(optim: Any, step: int, total: int) -> float:
        steps.append((step, total))
        return 1e-3

    monkeypatch.setattr("trials.optimiser.learning_rate", watch)
    run(tiny.trial(llama, requests={"parts": 2, "order": "successive"}, optim={"batch_size": 2}, epochs=4), tmp_path)
    assert steps == [(step, 4) for step in range(4)] * 2


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_trial_of_successive_requests_resumes_wherever_it_was_cut(cut: int, llama: Path, tmp_path: Path) -> None:
    config = tiny.trial(llama, requests={"parts": 2, "order": "successive"}, epochs=4)
    whole = run(config, tmp_path / "whole")
    stream = run_trial(config, folder=tmp_path / "cut")
    for _ in range(cut):
        next(stream)
    stream.close()
    again = run(config, tmp_path / "cut", resume_from=tmp_path / "cut" / "checkpoint")
    assert tiny.numbers(again) == tiny.numbers(whole[cut - 1 :])
    assert tiny.same(tiny.saved(tmp_path / "cut"), tiny.saved(tmp_path / "whole"))


def test_a_trial_is_measured_on_the_rows_that_it_is_asked_to_forget(llama: Path, tmp_path: Path) -> None:
    config = tiny.trial(llama, requests={"parts": 3, "count": 1}, optim={"lr": 1e-12}, epochs=1)
    [result] = run(config, tmp_path)
    warm = workspace(config)
    rows = Evaluator(warm.material).log(warm.reference, ["forget.nll"]).rows["forget.nll"]
    assert result.metrics["forget.nll"] == pytest.approx(rows[:2].mean(), abs=1e-5)


def test_more_requests_than_there_are_rows_or_epochs_fail_the_trial_with_a_word(llama: Path) -> None:
    config = tiny.trial(llama, requests={"parts": 7})
    with pytest.raises(TrialFailed, match=r"requests\.parts: .*7"):
        requests_of(config, workspace(config).material)
    config = tiny.trial(llama, requests={"parts": 3, "order": "successive"})
    with pytest.raises(TrialFailed, match="epochs 2 are fewer than the 3 successive requests; raise epochs"):
        requests_of(config, workspace(config).material)


# -- what is due when --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("every", "at"), [(None, [4]), (2, [2, 4]), (3, [3, 4])])
def test_metrics_of_more_than_one_pass_are_measured_as_often_as_asked_and_at_the_end(
    every: int | None, at: list[int], llama: Path, tmp_path: Path
) -> None:
    evaluation = {"metrics": DEAR, "every": every, "max_new_tokens": 4}
    results = run(tiny.trial(llama, evaluation=evaluation, epochs=4), tmp_path)
    for name in ("forget.rouge_l_recall", "privacy.gradient_norm"):
        assert [result.epoch for result in results if name in result.metrics] == at
    for name in ("forget.truth_ratio", "forget.extraction_strength"):
        assert all(name in result.metrics for result in results)


def test_what_is_measured_changes_no_weight(llama: Path, tmp_path: Path) -> None:
    run(tiny.trial(llama), tmp_path / "plain")
    changes = {"metrics": ("all",), "every": 1, "max_new_tokens": 4}
    run(tiny.trial(llama, evaluation=changes), tmp_path / "all")
    assert tiny.same(tiny.saved(tmp_path / "plain"), tiny.saved(tmp_path / "all"))


# -- logs of other models ----------------------------------------------------------------------------------------------


def test_a_log_is_made_once_and_read_again(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny.trial(llama, model={"retain_path": str(llama)}, evaluation={"metrics": ("tofu.forget_quality",)})
    benchmark = load_benchmark(config.benchmark)
    made = reference_log(config, benchmark, "retain")
    assert made is not None
    assert log_file(config, data=benchmark.digest(), which="retain").exists()
    monkeypatch.setattr(trials.references, "Evaluator", None)
    again = reference_log(config, benchmark, "retain")
    assert again is not None
    assert again.values == made.values
    other = config.model_copy(update={"evaluation": Evaluation(metrics=("privacy.loss",))})
    assert log_file(other, data=benchmark.digest(), which="retain") != log_file(
        config, data=benchmark.digest(), which="retain"
    )


def test_a_retain_log_that_the_user_brings_takes_the_place_of_a_model(llama: Path, tmp_path: Path) -> None:
    names = ("tofu.forget_quality", "privacy.privleak")
    plain = tiny.trial(llama, evaluation={"metrics": names}, optim={"lr": 1e-12}, epochs=1)
    warm = workspace(plain)
    write_log(tmp_path / "log.json", Evaluator(warm.material).log(warm.reference, named(names)))
    config = tiny.trial(
        llama,
        model={"retain_log": str(tmp_path / "log.json")},
        evaluation={"metrics": names},
        optim={"lr": 1e-12},
        epochs=1,
    )
    [result] = run(config, tmp_path / "trial")
    assert result.metrics["tofu.forget_quality"] == 1.0
    assert result.metrics["privacy.privleak"] == pytest.approx(0.0, abs=1e-6)
    [without] = run(plain, tmp_path / "without")
    assert not set(names) & set(without.metrics)
    found = references(config, warm.benchmark)
    assert found.target is None
    assert found.retain is not None
    assert found.retain.values == read_log(tmp_path / "log.json").values


# -- a result, measured again ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [{}, tiny.LORA], ids=["full", "lora"])
@pytest.mark.parametrize("name", SHAPES)
def test_a_trial_on_a_real_shaped_model_measures_the_same_from_its_checkpoint(
    name: str, model: dict[str, Any], tmp_path: Path
) -> None:
    tokenizer = TOKENIZERS[SHAPES[name]]()
    folder = tmp_path / "model"
    tiny.random_model(name, len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    evaluation = {"metrics": ("default", "forget.rouge_l_recall", "forget.truth_ratio"), "max_new_tokens": 6}
    config = tiny.trial(folder, model=model, evaluation=evaluation)
    with tiny.cold():
        end = run(config, tmp_path / "trial")[-1]
        log = measure_again(config, tmp_path / "trial" / "checkpoint", named(evaluation["metrics"]))
    there = {metric: value for metric, value in end.metrics.items() if not metric.startswith("train.")}
    assert len(there) == 18
    assert {metric: log.values[metric] for metric in there} == pytest.approx(there, abs=1e-5)


@pytest.mark.parametrize(
    "sections",
    [
        {"loss": {"criterion": {"type": "uld", "layers": 1}, "retain": {"term": "uniform"}}},
        {"loss": {"criterion": {"type": "uld", "layers": 1}, "retain": {"term": "uniform"}}, "model": tiny.LORA},
        {"model": {"adapter": {"type": "lora", "rank": 2, "init": "fila"}}},
    ],
    ids=["uld", "uld with LoRA", "fila"],
)
def test_results_that_are_not_one_plain_model_measure_the_same_too(
    sections: dict[str, Any], llama: Path, tmp_path: Path
) -> None:
    config = tiny.trial(llama, **sections)
    end = run(config, tmp_path)[-1]
    log = measure_again(config, tmp_path / "checkpoint", tiny.MEASURED)
    assert log.values == pytest.approx({name: end.metrics[name] for name in tiny.MEASURED}, abs=1e-4)


def test_a_trial_without_a_whole_checkpoint_cannot_be_measured_again(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(
        TrialFailed, match=r"holds no whole checkpoint: .*; `unlearn-sweep trial .*trial.json --folder "
    ):
        measure_again(tiny.trial(llama), tmp_path, ["forget.nll"])


def test_an_evaluator_of_all_rows_has_no_choice_of_rows(llama: Path) -> None:
    config = tiny.trial(llama)
    warm = workspace(config)
    assert evaluator_for(config, warm.material, warm).forget is None
    part = evaluator_for(tiny.trial(llama, requests={"parts": 3, "count": 2}), warm.material, warm)
    assert part.forget == set(warm.benchmark.forget[:4])
    assert len(part.log(warm.reference, ["forget.nll"]).rows["forget.nll"]) == 4


# -- what a log hangs on -----------------------------------------------------------------------------------------------


def place_of(folder: Path, which: str = "target", **sections: Any) -> Path:
    config = tiny.trial(folder, **sections)
    return log_file(config, data=load_benchmark(config.benchmark).digest(), which=which)


def test_a_log_is_named_by_whatever_its_numbers_hang_on(llama: Path, tmp_path: Path) -> None:
    plain = place_of(llama)
    assert place_of(llama, optim={"lr": 0.5}, seed=3, evaluation={"every": 2, "batch_size": 3}) == plain
    assert place_of(llama, model={"prompt": {"type": "plain", "template": "Q {question} A {answer}"}}) != plain
    assert place_of(llama, evaluation={"max_new_tokens": 3}) != plain
    # A metric that looks into the retain model is another number, or absent, with another one.
    assert place_of(llama, model={"retain_path": str(llama)}) == plain
    near = {"metrics": ("similarity.forget_to_retain",)}
    assert place_of(llama, evaluation=near) != place_of(llama, evaluation=near, model={"retain_path": str(llama)})
    to_target = {"metrics": ("similarity.forget_to_target",)}
    other = tiny.saved_model(tmp_path / "m", "phi")
    retain = {"retain_path": str(llama)}
    assert place_of(llama, "retain", evaluation=to_target, model=retain) != place_of(
        other, "retain", evaluation=to_target, model=retain
    )


def test_a_changed_chat_template_is_another_model(tmp_path: Path) -> None:
    tokenizer = TOKENIZERS["qwen2"]()
    tiny.random_model("qwen2", len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    before = place_of(tmp_path)
    template = tmp_path / "chat_template.jinja"
    template.write_text(template.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert place_of(tmp_path) != before


def test_a_retain_log_of_other_rows_or_another_prompt_is_refused_before_anything_runs(
    llama: Path, tmp_path: Path
) -> None:
    config = tiny.trial(llama, model={"retain_path": str(llama)}, evaluation={"metrics": ("tofu.forget_quality",)})
    made = reference_log(config, load_benchmark(config.benchmark), "retain")
    assert made is not None
    write_log(tmp_path / "log.json", made)
    model: dict[str, Any] = {"retain_log": str(tmp_path / "log.json")}

    def said(**sections: Any) -> list[str]:
        return [problem.message for problem in check_benchmark(tiny.trial(llama, **sections))[1]]

    assert said(model=model) == []
    [other] = said(model=model, benchmark={"seed": 1})
    assert other.startswith("the log was taken with another data, ")
    [other] = said(model=model | {"hide_pad": True})
    assert other.startswith("the log was taken with another hide_pad, 'false' (authors), here 'true' (authors)")
    write_log(tmp_path / "log.json", replace(made, about={}, rows={"forget.wrong_over_right": np.ones(5)}))
    assert said(model=model) == [
        "the log has 5 forget rows and the benchmark 6; evaluate the retain model on this benchmark"
    ]
