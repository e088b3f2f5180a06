"""`unlearn-sweep export`: a folder like any other that scores as its trial did, or nothing."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from orchestrator.events import Epoch
from tests import tiny
from tests.runs import Cli, Run
from tests.tiny import LORA
from tests.tokenizers import TOKENIZERS
from trials.benchmarks import load_benchmark
from trials.checkpoints import seal
from trials.config import TrialConfig
from trials.evaluate import Evaluator
from trials.logs import read_log
from trials.models import material_of
from trials.naming import named

SHAPES = {"llama": "llama3", "phi": "phi", "gpt_neox": "gpt_neox", "qwen2": "qwen2", "gemma2": "gemma"}
"""Architecture -> the shape of its tokenizer."""

FILA = {"adapter": {"type": "lora", "rank": 2, "init": "fila"}}
ULD = {"criterion": {"type": "uld", "layers": 1}, "retain": {"term": "uniform"}}
WHOLE = {"README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}
WHOLE |= {"tokenizer_config.json", "trial.json"}
ADAPTER = WHOLE - {"config.json", "generation_config.json", "model.safetensors"}
ADAPTER |= {"adapter_config.json", "adapter_model.safetensors"}


@pytest.fixture(autouse=True)
def _cold() -> Iterator[None]:
    with tiny.cold():
        yield


def reloaded(folder: Path) -> Any:
    """As anybody would load it."""
    loader = peft.AutoPeftModelForCausalLM if (folder / "adapter_config.json").exists() else AutoModelForCausalLM
    return loader.from_pretrained(folder).eval()


def values(folder: Path, config: TrialConfig) -> dict[str, float]:
    """Metrics of a folder with its own tokenizer."""
    model, tokenizer = reloaded(folder), AutoTokenizer.from_pretrained(folder)
    material = material_of(tokenizer, model, load_benchmark(config.benchmark), config.model)
    return dict(Evaluator(material, config.evaluation).log(model, named(config.evaluation.metrics)).values)


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def measured(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.startswith("train.")}


# -- round trips -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [{}, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("name", tiny.ARCHITECTURES)
def test_train_evaluate_export_reload_evaluate(name: str, adapter: dict[str, Any], tmp_path: Path, cli: Cli) -> None:
    tokenizer = TOKENIZERS[SHAPES[name]]()
    target = tmp_path / "target"
    tiny.random_model(name, len(tokenizer)).save_pretrained(target)
    tokenizer.save_pretrained(target)
    evaluation = {"metrics": ["default", "forget.rouge_l_recall", "forget.truth_ratio"], "max_new_tokens": 6}
    config = tiny.trial(target, model=adapter, evaluation=evaluation)
    run = Run(tmp_path, config)
    recorded = measured(run.trial(config))
    assert len(recorded) == 18
    code, out, err = cli("export", run.folder, "--to", "out")
    kind = "adapter" if adapter else "model"
    said = f"out: the {kind} of trial 00000, loaded again and scoring as recorded (18 metrics, within 1e-05)"
    assert (code, out, err) == (0, said, "")
    assert names(Path("out")) - {"chat_template.jinja"} == (ADAPTER if adapter else WHOLE)
    assert values(Path("out"), config) == pytest.approx(recorded, rel=1e-5, abs=1e-6)
    settings = Path("settings.yaml")
    settings.write_text(json.dumps(tiny.AUTHORS.model_dump()), encoding="utf-8")
    asked = ("evaluate", "--model", "out", "--benchmark", settings, "--set", "evaluation.max_new_tokens=6")
    assert cli(*asked, "--metrics", ",".join(evaluation["metrics"]), "--to", "log.json")[0] == 0
    found = read_log(Path("log.json")).values
    assert {metric: found[metric] for metric in recorded} == pytest.approx(recorded, rel=1e-5, abs=1e-6)


def test_what_is_exported_are_the_very_weights_and_nothing_of_the_training(
    llama: Path, tmp_path: Path, cli: Cli
) -> None:
    config = tiny.trial(llama)
    run = Run(tmp_path, config)
    run.trial(config)
    assert cli("export", run.folder, "--to", "out")[0] == 0
    assert names(Path("out")) == WHOLE
    assert tiny.same(load_file("out/model.safetensors"), tiny.saved(run.folder / "trials" / "00000"))
    assert TrialConfig.model_validate_json(Path("out/trial.json").read_text("utf-8")) == config
    assert [file.name for file in Path().iterdir()] == ["out"], "nothing is left beside it"


def test_an_adapter_names_the_model_that_it_belongs_to(llama: Path, tmp_path: Path, cli: Cli) -> None:
    config = tiny.trial(llama, model=LORA)
    run = Run(tmp_path, config)
    recorded = run.trial(config)
    checkpoint = run.folder / "trials" / "00000" / "checkpoint" / "00002" / "adapter_config.json"
    moved = json.loads(checkpoint.read_text("utf-8")) | {"base_model_name_or_path": "elsewhere"}
    checkpoint.write_text(json.dumps(moved), encoding="utf-8")
    seal(checkpoint.parent)
    assert cli("export", run.folder, "--to", "out")[0] == 0
    assert names(Path("out")) == ADAPTER
    settings = json.loads(Path("out/adapter_config.json").read_text("utf-8"))
    assert settings["base_model_name_or_path"] == str(llama)
    assert values(Path("out"), config) == pytest.approx(measured(recorded), abs=1e-5)


@pytest.mark.parametrize(("adapter", "options"), [(LORA, ["--merge"]), (FILA, [])], ids=["--merge", "fila"])
def test_an_adapter_becomes_a_whole_model_where_that_is_asked_for_or_it_does_not_stand_alone(
    adapter: dict[str, Any], options: list[str], llama: Path, tmp_path: Path, cli: Cli
) -> None:
    config = tiny.trial(llama, model=adapter)
    run = Run(tmp_path, config)
    recorded = run.trial(config)
    code, out, _ = cli("export", run.folder, "--pick", "00000", "--to", "out", *options)
    assert (code, "the merged model of trial 00000" in out) == (0, True)
    assert names(Path("out")) == WHOLE
    assert values(Path("out"), config) == pytest.approx(measured(recorded), abs=1e-4)


def test_a_whole_model_is_merged_already(llama: Path, tmp_path: Path, cli: Cli) -> None:
    config = tiny.trial(llama)
    run = Run(tmp_path, config)
    run.trial(config)
    code, out, _ = cli("export", run.folder, "--to", "out", "--merge")
    assert (code, "the model of trial 00000" in out) == (0, True)


def test_half_precision_stays_and_is_compared_less_strictly(llama: Path, tmp_path: Path, cli: Cli) -> None:
    config = tiny.trial(llama, model={"dtype": "bfloat16"})
    run = Run(tmp_path, config)
    run.trial(config)
    code, out, _ = cli("export", run.folder, "--to", "out")
    assert (code, "(16 metrics, within 0.05)" in out) == (0, True)
    assert {weight.dtype for weight in load_file("out/model.safetensors").values()} == {torch.bfloat16}


def test_the_chat_template_that_a_model_was_asked_in_goes_with_it(tmp_path: Path, cli: Cli) -> None:
    template = (
        "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% if m['role'] == 'assistant' %}{{ eos_token }}"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    target = tiny.saved_model(tmp_path / "target")
    config = tiny.trial(target, model={"prompt": {"type": "chat", "template": template}})
    run = Run(tmp_path, config)
    run.trial(config)
    assert cli("export", run.folder, "--to", "out")[0] == 0
    assert AutoTokenizer.from_pretrained(target).chat_template is None
    assert AutoTokenizer.from_pretrained("out").chat_template == template


def test_a_trial_on_part_of_the_forget_set_is_measured_on_that_part(llama: Path, tmp_path: Path, cli: Cli) -> None:
    config = tiny.trial(llama, requests={"parts": 3, "count": 2})
    run = Run(tmp_path, config)
    recorded = run.trial(config)
    assert cli("export", run.folder, "--to", "out")[0] == 0
    whole = values(Path("out"), config)
    assert abs(whole["forget.nll"] - recorded["forget.nll"]) > 1e-3
    assert whole["retain.nll"] == pytest.approx(recorded["retain.nll"], abs=1e-5)


def test_the_tiny_model_is_a_target_like_any_other(tmp_path: Path, cli: Cli) -> None:
    section = {"path": None, "tiny": tiny.TINY.model_dump(), **LORA}
    config = tiny.trial(tmp_path, model=section, evaluation={"metrics": ["forget.nll", "tofu.forget_quality"]})
    run = Run(tmp_path, config)
    recorded = run.trial(config)
    assert "tofu.forget_quality" in recorded
    assert cli("export", run.folder, "--pick", "00000", "--to", "out")[0] == 0
    base = json.loads(Path("out/adapter_config.json").read_text("utf-8"))["base_model_name_or_path"]
    assert (Path(base) / "model.safetensors").exists()


# -- which trial -------------------------------------------------------------------------------------------------------


@pytest.fixture
def ended(llama: Path, tmp_path: Path) -> Run:
    """A sweep with a trial of each state: 00000 COMPLETE, then PRUNED, FAIL, and one that has not ended."""
    config = tiny.trial(llama)
    run = Run(tmp_path, config)
    run.trial(config)
    pruned, failed, _ = (run.suggest(config) for _ in range(3))
    run.end(pruned, [{"forget.nll": 1.0}], "PRUNED")
    run.end(failed, [], "FAIL", "Diverged: forget.nll is nan after epoch 1\nand more")
    return run


@pytest.mark.parametrize(
    ("pick", "message"),
    [
        (
            "00001",
            "trial 00001 was stopped early, after epoch 1, and its checkpoint not kept; choose among knee, 00000",
        ),
        ("00002", "trial 00002 failed: Diverged: forget.nll is nan after epoch 1; choose among knee, 00000"),
        ("00003", "trial 00003 has not ended; choose among knee, 00000"),
        ("00009", "'00009' is no trial of this sweep; did you mean '00000'?"),
        ("7", "'7' is no trial of this sweep; choose among 00000, knee"),
    ],
)
def test_a_trial_that_left_no_model_is_refused_with_the_reason(pick: str, message: str, ended: Run, cli: Cli) -> None:
    code, out, err = cli("export", ended.folder, "--pick", pick, "--to", "out")
    assert (code, out) == (2, "")
    assert f"1 problem --pick: {message}" in err
    assert not Path("out").exists()


def test_the_knee_is_picked_unless_a_trial_is_named(ended: Run, cli: Cli) -> None:
    better = ended.suggest(ended.sweep.trial)
    metrics = {"forget.extraction_strength": -1.0, "retain.extraction_strength": 2.0}
    ended.end(better, [metrics, metrics])
    code, _, err = cli("export", ended.folder, "--to", "out")
    assert code == 2
    assert f"--pick: trial {better} has no checkpoint in " in err
    assert f"any more: it was not kept (`checkpoints`: front), or deleted by hand; {again(ended, better)}" in err
    assert cli("export", ended.folder, "--pick", "00000", "--to", "out")[0] == 0
    assert f"better are {better}" in Path("out/README.md").read_text("utf-8")


def again(run: Run, trial_id: str) -> str:
    place = run.folder / "trials" / trial_id
    return f"pick another, or run it again there: `unlearn-sweep trial {place}/trial.json --folder {place}`"


def test_a_checkpoint_that_was_not_kept_is_made_again_where_the_message_says(ended: Run, cli: Cli) -> None:
    place = ended.folder / "trials" / "00000"
    (place / "trial.json").write_text(ended.sweep.trial.model_dump_json())
    shutil.rmtree(place / "checkpoint")
    code, _, err = cli("export", ended.folder, "--pick", "00000", "--to", "out")
    assert code == 2
    assert again(ended, "00000") in err
    assert cli("trial", place / "trial.json", "--folder", place)[0] == 0
    assert cli("export", ended.folder, "--pick", "00000", "--to", "out")[0] == 0


def test_without_a_front_there_is_no_knee(llama: Path, tmp_path: Path, cli: Cli) -> None:
    run = Run(tmp_path, tiny.trial(llama))
    code, _, err = cli("export", run.folder, "--to", "out")
    assert code == 2
    assert "--pick: there is no front yet, so it has no knee; finish the sweep: `resume`" in err


def test_a_difference_of_two_models_is_refused(llama: Path, tmp_path: Path, cli: Cli) -> None:
    config = tiny.trial(llama, loss=ULD)
    run = Run(tmp_path, config)
    run.trial(config)
    code, _, err = cli("export", run.folder, "--to", "out")
    assert code == 2
    assert "trial 00000: uld subtracts an assistant's logits from the target model's: two models" in err
    assert not Path("out").exists()


# -- where to ----------------------------------------------------------------------------------------------------------


def test_an_empty_folder_is_taken_and_a_full_one_left_alone(ended: Run, cli: Cli) -> None:
    Path("full").mkdir()
    Path("full/mine.txt").write_text("mine")
    Path("file").write_text("mine")
    for place in ("full", "file"):
        code, _, err = cli("export", ended.folder, "--to", place)
        assert code == 2
        assert f"--to: '{place}' is there and not an empty folder; give another" in err
    code, _, err = cli("export", ended.folder, "--to", "gone/out")
    assert (code, "--to: 'gone/out' is not in a folder that can be written" in err) == (2, True)
    assert names(Path()) == {"full", "file"}
    assert names(Path("full")) == {"mine.txt"}
    Path("empty").mkdir()
    assert cli("export", ended.folder, "--to", "empty")[0] == 0
    assert names(Path("empty")) == WHOLE


def test_no_run_folder_is_told_of(cli: Cli) -> None:
    code, _, err = cli("export", "runs/nope", "--to", "out")
    assert (code, "not a run folder: no sweep.json in it" in err) == (2, True)


# -- what does not score as recorded -----------------------------------------------------------------------------------


def test_a_damaged_checkpoint_is_told_before_anything_is_loaded(ended: Run, cli: Cli) -> None:
    place = ended.folder / "trials" / "00000" / "checkpoint" / "00002" / "model.safetensors"
    whole = place.read_bytes()
    place.write_bytes(whole[:-8])
    code, out, err = cli("export", ended.folder, "--pick", "00000", "--to", "out")
    place.write_bytes(whole)
    assert (code, out) == (2, "")
    assert "the checkpoint of trial 00000 is damaged (model.safetensors has " in err
    assert "and its model is lost; pick another trial, or run it again there: `unlearn-sweep trial " in err


def test_a_model_that_does_not_score_as_recorded_is_not_exported(ended: Run, cli: Cli) -> None:
    place = ended.folder / "trials" / "00000" / "checkpoint" / "00002" / "model.safetensors"
    other = tiny.saved_model(ended.folder / "other")
    shutil.copyfile(other / "model.safetensors", place)
    seal(place.parent)
    code, out, err = cli("export", ended.folder, "--to", "out")
    assert (code, out) == (1, "")
    said = r"failed: the model as written does not score as recorded, and was not kept: .*forget.nll [\d.]+ \(recorded "
    assert re.match(said, err)
    assert names(Path()) == set(), "nothing is left behind"


def test_a_metric_that_can_no_longer_be_had_does_not_pass_for_equal(llama: Path, tmp_path: Path, cli: Cli) -> None:
    config = tiny.trial(llama, evaluation={"metrics": ["default", "tofu.forget_quality"]})
    run = Run(tmp_path, config)
    trial_id = run.suggest(config)
    metrics = tiny.run(config, run.folder / "trials" / trial_id)[-1].metrics
    run.end(trial_id, [metrics, metrics | {"tofu.forget_quality": 0.5}])
    code, _, err = cli("export", run.folder, "--to", "out")
    assert (code, "not kept: tofu.forget_quality nan (recorded 0.5); was the trial" in err) == (1, True)


def test_metrics_that_were_taken_of_the_front_later_are_told_and_not_taken_again(
    llama: Path, tmp_path: Path, cli: Cli
) -> None:
    config = tiny.trial(llama)
    run = Run(tmp_path, config)
    run.trial(config)
    last = [event for event in run.events if isinstance(event, Epoch)][-1]
    again = run.suggest(config)
    shutil.copytree(run.folder / "trials" / "00000", run.folder / "trials" / again)
    run.end(again, [last.metrics, last.metrics | {"int8.forget_probability": 0.125}])
    assert cli("export", run.folder, "--pick", again, "--to", "out")[0] == 0
    assert "| int8.forget_probability | 0.125 |  | lower |" in Path("out/README.md").read_text("utf-8")


@pytest.mark.parametrize("part", ["model", "benchmark"])
def test_what_has_changed_since_the_sweep_is_named(part: str, tmp_path: Path, tofu_folder: Path, cli: Cli) -> None:
    target = tiny.saved_model(tmp_path / "target")
    benchmark = {"type": "tofu", "path": str(tofu_folder), "split": "forget05", "retain_eval": 40}
    config = TrialConfig.model_validate({"benchmark": benchmark, "model": {"path": str(target)}})
    run = Run(tmp_path, config)
    checkpoint = run.folder / "trials" / run.suggest(config) / "checkpoint" / "00001"
    checkpoint.mkdir(parents=True)
    (checkpoint / "epoch.json").write_text("{}")
    seal(checkpoint)
    run.end("00000", [{"forget.extraction_strength": 0.0, "retain.extraction_strength": 0.0}])
    if part == "model":
        (target / "config.json").write_text((target / "config.json").read_text() + "\n")
    else:
        (tofu_folder / "holdout05.jsonl").unlink()
    code, _, err = cli("export", run.folder, "--to", "out")
    assert code == 2
    assert f"1 problem trial.{part}: " in err
    assert "changed since the sweep ran; bring" in err
    shutil.rmtree(target)
    code, _, err = cli("export", run.folder, "--to", "out")
    assert (code, "trial.model.path: " in err) == (2, True)


def test_too_little_memory_is_a_failure_and_leaves_nothing(
    ended: Run, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise torch.OutOfMemoryError("8 GiB short")

    monkeypatch.setattr("trials.evaluate.score", full)
    code, _, err = cli("export", ended.folder, "--to", "out")
    assert (code, err) == (1, "failed: OutOfMemoryError: 8 GiB short")
    assert names(Path()) == set()
