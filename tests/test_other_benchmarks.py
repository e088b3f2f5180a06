"""Trials on MUSE and WMDP, from their files to their metrics, on invented rows and tiny models."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.test_muse import MUSE, lay
from tests.tiny import run
from trials.benchmarks import load_benchmark
from trials.config import TrialConfig
from trials.evaluate import Evaluator
from trials.measuring import measure_again
from trials.models import load_model, load_tokenizer, material_of, workspace
from trials.naming import named
from trials.sources import WmdpConfig

WORDS = ["amber", "barge", "cedar", "drift", "ember", "fjord", "grove", "heath", "inlet", "jetty"]


def passage(number: int, words: int) -> str:
    return " ".join(WORDS[(number * 3 + n * n) % 10] for n in range(words)) + "."


def on(folder: Path, benchmark: dict[str, Any], **sections: Any) -> TrialConfig:
    return TrialConfig.model_validate(
        {
            "benchmark": benchmark,
            "model": {"path": str(folder), "device": "cpu", "retain_path": str(folder)},
            "optim": {"lr": 1e-3, "batch_size": 4},
            "epochs": 2,
            **sections,
        }
    )


def muse(place: Path, **benchmark: Any) -> dict[str, Any]:
    return {"type": "muse", "path": str(lay(place / "muse", MUSE)), "chunk": 16, **benchmark}


@pytest.mark.parametrize("model", [{}, tiny.LORA], ids=["full", "lora"])
def test_a_trial_on_muse_has_all_of_its_metrics(model: dict[str, Any], llama: Path, tmp_path: Path) -> None:
    evaluation = {"metrics": ["muse", "default"], "max_new_tokens": 9}
    config = on(llama, muse(tmp_path), evaluation=evaluation)
    adapter = tiny.trial(llama, model=model).model.adapter
    config = config.model_copy(update={"model": config.model.model_copy(update={"adapter": adapter})})
    with tiny.cold():
        first, last = run(config, tmp_path / "trial")
    assert {"privacy.privleak", "forget.nll", "retain.nll", "verbmem.extraction_strength"} <= set(first.metrics)
    spoken = {"verbmem.rouge_l_f1", "forget_knowmem.rouge_l_f1", "retain_knowmem.rouge_l_f1"}
    assert spoken <= set(last.metrics)
    assert not spoken & set(first.metrics)


def test_long_texts_are_forgotten_and_measured_piece_by_piece(llama: Path, tmp_path: Path) -> None:
    config = on(llama, muse(tmp_path))
    with tiny.cold():
        warm = workspace(config)
        assert len(warm.forget) > len(warm.benchmark.forget)
        assert max(map(len, warm.forget)) <= 16
        assert len(warm.pool) > len(warm.benchmark.retain_pool)
        whole = on(llama, muse(tmp_path, chunk=4096))
    with tiny.cold():
        long = workspace(whole)
        assert len(long.forget) == len(long.benchmark.forget)
        assert not any(example.ended for example in long.forget)


def test_members_and_what_is_continued_are_cut_once_and_not_into_pieces(llama: Path, tmp_path: Path) -> None:
    with tiny.cold():
        warm = workspace(on(llama, muse(tmp_path)))
        assert len(warm.material.units("members")) == len(MUSE["privleak/forget"])
        assert max(len(unit.example.answer) for unit in warm.material.units("members")) <= 16


def test_the_text_that_a_passage_is_compared_with_is_as_long_as_what_is_generated(llama: Path, tmp_path: Path) -> None:
    files = {**MUSE, "verbmem/forget": [{"prompt": "amber barge", "gt": passage(1, 100)}]}
    benchmark = {"type": "muse", "path": str(lay(tmp_path / "muse", files))}
    with tiny.cold():
        warm = workspace(on(llama, benchmark))
        [seen] = Evaluator(warm.material).see(warm.reference, ["verbmem.rouge_l_f1"])["verbmem"]
    assert len(warm.tokenizer(seen.text)["input_ids"]) == pytest.approx(128, abs=2)
    assert passage(1, 100).startswith(seen.text.strip()[:40])


@pytest.mark.parametrize("order", ["together", "successive"])
def test_the_requests_of_muse_are_made_in_their_order(order: str, llama: Path, tmp_path: Path) -> None:
    files = MUSE | {f"sust/forget_{n}": [passage(n, 9 + n), passage(n + 4, 12)] for n in (1, 2, 3)}
    benchmark = {"type": "muse", "path": str(lay(tmp_path / "muse", files)), "forget": "sust"}
    config = on(llama, benchmark, requests={"order": order, "count": 2})
    with tiny.cold():
        first, last = run(config, tmp_path / "trial")
        whole = Evaluator(workspace(config).material).log(workspace(config).reference, ["forget.nll"])
    assert len(whole.rows["forget.nll"]) == 6
    assert first.metrics["forget.nll"] != last.metrics["forget.nll"]


def test_a_trial_on_wmdp_counts_right_letters(llama: Path, tmp_path: Path) -> None:
    choices = ["amber", "barge", "cedar", "drift"]
    rows = {
        "forget_corpus.jsonl": [{"text": passage(n, 40)} for n in range(4)],
        "retain_corpus.jsonl": [{"text": passage(n, 25)} for n in range(20, 26)],
        "wmdp_bio.jsonl": [{"question": f"What is {n}?", "choices": choices, "answer": n % 4} for n in range(8)],
        "mmlu.jsonl": [{"question": f"Who is {n}?", "choices": choices, "answer": n % 4} for n in range(8)],
    }
    for name, found in rows.items():
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    benchmark = {"type": "wmdp", "path": str(tmp_path), "chunk": 32}
    with tiny.cold():
        [*_, last] = run(on(llama, benchmark, evaluation={"metrics": ["wmdp", "default"]}), tmp_path / "trial")
    assert {"wmdp.accuracy", "wmdp_bio.accuracy", "mmlu.accuracy", "forget.nll", "retain.nll"} <= set(last.metrics)
    # The right letter is each of the four equally often, so a model that always says one is right in a quarter.
    for name in ("wmdp.accuracy", "mmlu.accuracy"):
        assert 0.0 <= last.metrics[name] <= 0.5


def test_attacks_on_part_of_long_texts_are_on_those_texts(llama: Path, tmp_path: Path) -> None:
    files = {name: rows for name, rows in MUSE.items() if not name.startswith("privleak")}
    files["raw/forget"] = [passage(n, 60) for n in range(4)]
    benchmark = {"type": "muse", "path": str(lay(tmp_path / "muse", files)), "chunk": 16}
    config = on(llama, benchmark, requests={"parts": 2, "count": 1}, evaluation={"metrics": ["privacy.loss"]})
    with tiny.cold():
        [*_, last] = run(config, tmp_path / "trial")
        log = measure_again(config, tmp_path / "trial" / "checkpoint", ["privacy.loss", "forget.nll"])
    assert len(log.rows["members.loss"]) == 2
    assert len(log.rows["forget.nll"]) > 8
    assert last.metrics["privacy.loss"] == log.values["privacy.loss"]


def test_questions_alone_are_measured_and_what_needs_a_forget_set_is_absent(llama: Path, tmp_path: Path) -> None:
    row = {"question": "What is it?", "choices": ["amber", "barge", "cedar", "drift"], "answer": 2}
    (tmp_path / "wmdp_bio.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    config = WmdpConfig(path=str(tmp_path), forget_corpus=None, retain_corpus=None, utility=None)
    benchmark, settings = load_benchmark(config), tiny.trial(llama).model
    model = load_model(str(llama), settings)
    material = material_of(load_tokenizer(str(llama), settings), model, benchmark, settings)
    log = Evaluator(material, models={"target": lambda: model}).log(model, named(("all",)))
    changed = {f"{change}.wmdp_accuracy" for change in ("int8", "nf4")}
    assert {name for name in log.values if "accuracy" in name} == {"wmdp.accuracy", "wmdp_bio.accuracy"} | changed
    assert not [name for name in log.values if name.startswith(("relearned", "similarity", "forget"))]
