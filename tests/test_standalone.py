"""`unlearn-sweep evaluate`: a table, a log that can be another's reference, and bad input told well."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from orchestrator.standalone import BENCHMARKS
from tests import tiny
from tests.rows import fake_hub
from tests.runs import Cli
from tests.tiny import LORA
from trials.logs import EvalLog, read_log, write_log
from trials.models import load_model, workspace
from trials.naming import GROUPS


@pytest.fixture(scope="module", autouse=True)
def _cold() -> Iterator[None]:
    with tiny.cold():
        yield


@pytest.fixture(scope="module")
def authors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The settings of a small benchmark, as a YAML file."""
    file = tmp_path_factory.mktemp("settings") / "small.yaml"
    file.write_text(yaml.safe_dump(tiny.AUTHORS.model_dump()), encoding="utf-8")
    return file


# -- what it says and writes -------------------------------------------------------------------------------------------


def test_a_model_is_measured_as_a_trial_measures_it(llama: Path, authors: Path, cli: Cli) -> None:
    code, out, err = cli("evaluate", "--model", llama, "--benchmark", authors, "--to", "log.json")
    assert (code, err) == (0, "")
    log = read_log(Path("log.json"))
    warm = workspace(tiny.trial(llama))
    assert dict(log.values) == pytest.approx(tiny.values(warm.reference, warm), abs=1e-12)
    assert set(log.rows) == set(log.values)
    for words in (f"{llama} on authors", "mean over rows", "extraction_strength", "log: log.json"):
        assert words in out
    for name in ("forget.nll", "holdout.probability"):
        assert f"{log.values[name]:.4g}" in out
    assert "absent: real_authors.extraction_strength" in out


def test_a_log_says_what_it_is_of(llama: Path, authors: Path, cli: Cli) -> None:
    cli("evaluate", "--model", llama, "--benchmark", authors, "--metrics", "forget.nll", "--to", "log.json")
    about = read_log(Path("log.json")).about
    assert about["model"] == str(llama)
    assert (about["benchmark"], about["dtype"]) == ("authors", "float32")
    assert about["prompt"] == "Question: Who?\nAnswer: Ada.<|end|>"
    assert all(re.fullmatch(r"[0-9a-f]{16}", about[name]) for name in ("data", "model_digest"))
    assert {"unlearn-sweep", "torch", "transformers"} <= about.keys()
    assert not {"target_log", "retain_log"} & about.keys()


@pytest.mark.slow
def test_a_model_compared_with_its_own_log_has_forget_quality_1(llama: Path, authors: Path, cli: Cli) -> None:
    asked = ("evaluate", "--model", llama, "--benchmark", authors, "--set", "evaluation.max_new_tokens=4")
    code, out, _ = cli(*asked, "--metrics", "tofu", "--to", "own.json")
    assert code == 0
    assert "absent: tofu.forget_quality, tofu.forget_quality_log10, privacy.privleak" in out
    assert "give it by --retain-log FILE" in out
    assert "tofu.forget_quality" not in read_log(Path("own.json")).values
    references = ("--retain-log", "own.json", "--target-log", "own.json")
    code, out, _ = cli(*asked, "--metrics", "tofu,privacy", *references, "--to", "compared.json")
    assert code == 0
    log = read_log(Path("compared.json"))
    assert log.values["tofu.forget_quality"] == 1.0
    assert log.values["tofu.forget_quality_log10"] == 0.0
    assert log.values["privacy.privleak"] == pytest.approx(0.0, abs=1e-6)
    assert log.values["aggregate.privacy"] == pytest.approx(1.0)
    assert "--retain-log" not in out
    assert "warning" not in out
    assert log.about["retain_log"] == log.about["target_log"]


def test_metrics_may_be_repeated_or_joined_by_commas(llama: Path, authors: Path, cli: Cli) -> None:
    asked = ("evaluate", "--model", llama, "--benchmark", authors)
    cli(*asked, "--metrics", "forget.nll, retain.nll", "--metrics", "general.e*n", "--to", "log.json")
    assert list(read_log(Path("log.json")).values) == ["general.exact_memorization", "forget.nll", "retain.nll"]


def test_settings_of_benchmark_model_and_evaluation_can_be_set(llama: Path, tofu_folder: Path, cli: Cli) -> None:
    settings = [f"benchmark.path={tofu_folder}", "benchmark.split=forget05", "benchmark.retain_eval=40"]
    settings += ["model.prompt.type=plain", "model.prompt.template='{question} {answer}'", "model.dtype=bfloat16"]
    options = [word for setting in settings for word in ("--set", setting)]
    metrics = ("--metrics", "forget.truth_ratio", "--metrics", "retain.nll")
    code, _, err = cli("evaluate", "--model", llama, "--benchmark", "tofu", *options, *metrics, "--to", "log.json")
    assert (code, err) == (0, "")
    log = read_log(Path("log.json"))
    assert (len(log.rows["forget.truth_ratio"]), len(log.rows["retain.nll"])) == (40, 40)
    assert log.about["benchmark"] == "tofu-forget05"
    assert log.about["dtype"] == "bfloat16"
    assert log.about["prompt"] == "Who? Ada.<|end|>"


def test_the_retain_model_itself_serves_where_its_log_is_not_given(llama: Path, authors: Path, cli: Cli) -> None:
    asked = ("evaluate", "--model", llama, "--benchmark", authors, "--set", f"model.retain_path={llama}")
    metrics = ("--metrics", "tofu.forget_quality,members.reference,similarity.forget_to_retain")
    assert cli(*asked, *metrics, "--to", "log.json")[0] == 0
    values = read_log(Path("log.json")).values
    assert values["tofu.forget_quality"] == 1.0
    assert values["members.reference"] == 0.0
    assert values["similarity.forget_to_retain"] == pytest.approx(1.0)


def test_a_reference_of_other_rows_or_another_prompt_is_refused(llama: Path, authors: Path, cli: Cli) -> None:
    asked = ("evaluate", "--model", llama, "--benchmark", authors, "--metrics", "tofu.forget_quality")
    assert cli(*asked, "--set", "benchmark.seed=1", "--to", "other.json")[0] == 0
    code, _, err = cli(*asked, "--retain-log", "other.json")
    assert code == 2
    assert "--retain-log: the log was taken with another data" in err
    write_log(Path("foreign.json"), EvalLog({"forget.nll": 1.0}))
    assert cli(*asked, "--retain-log", "foreign.json")[0] == 0  # it does not say what it is of
    assert cli(*asked, "--to", "plain.json")[0] == 0
    # The same words by another name are the same prompt, and other words another one.
    settings = ("--set", "model.prompt.type=plain", "--retain-log", "plain.json")
    assert cli(*asked, *settings)[0] == 0
    code, _, err = cli(*asked, *settings, "--set", "model.prompt.template='Q: {question} A: {answer}'")
    assert code == 2
    assert "--retain-log: the log was taken with another prompt, 'Question: Who?" in err


def test_a_log_that_is_there_is_not_written_over(llama: Path, authors: Path, cli: Cli) -> None:
    Path("log.json").write_text("mine", encoding="utf-8")
    code, _, err = cli("evaluate", "--model", llama, "--benchmark", authors, "--to", "log.json")
    assert code == 2
    assert "--to: 'log.json' is there already; give another, or remove it" in err
    assert Path("log.json").read_text(encoding="utf-8") == "mine"


def test_a_model_that_gives_nan_is_measured_with_a_warning(llama: Path, authors: Path, cli: Cli) -> None:
    broken = shutil.copytree(llama, Path("broken"))
    weights = load_file(broken / "model.safetensors")
    save_file({name: torch.full_like(each, math.nan) for name, each in weights.items()}, broken / "model.safetensors")
    metrics = ("--metrics", "forget.nll,forget.probability,tofu.model_utility_likelihood")
    code, out, _ = cli("evaluate", "--model", "broken", "--benchmark", authors, *metrics, "--to", "log.json")
    assert code == 0
    assert "nan" in out
    assert "warning: forget.probability, forget.nll" in out
    assert "came out as no number: the model gives NaN" in out
    assert json.loads(Path("log.json").read_text("utf-8"))["values"]["forget.nll"] is None


def test_benchmarks_are_named_as_in_a_trial(llama: Path, cli: Cli) -> None:
    assert BENCHMARKS == ("authors", "tofu", "muse", "wmdp")
    code, _, err = cli("evaluate", "--model", llama, "--benchmark", "wmdp")
    assert code == 2
    assert "benchmark.path: missing" in err


# -- kinds of models ---------------------------------------------------------------------------------------------------


def test_an_adapter_is_measured_on_the_model_that_it_belongs_to(llama: Path, authors: Path, cli: Cli) -> None:
    end = tiny.run(tiny.trial(llama, model=LORA), Path("trial"))[-1]
    checkpoint = Path("trial/checkpoint/00002")
    assert cli("evaluate", "--model", checkpoint, "--benchmark", authors, "--to", "log.json")[0] == 0
    values = read_log(Path("log.json")).values
    assert {name: end.metrics[name] for name in tiny.MEASURED} == pytest.approx(dict(values), abs=1e-5)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (checkpoint / name).unlink()  # then it is the other model's
    assert cli("evaluate", "--model", checkpoint, "--benchmark", authors, "--to", "bare.json")[0] == 0
    assert read_log(Path("bare.json")).values == values


def test_of_a_checkpoint_whose_adapter_does_not_stand_alone_the_merged_model_is_measured(
    llama: Path, authors: Path, cli: Cli
) -> None:
    config = tiny.trial(llama, model={"adapter": {"type": "lora", "rank": 2, "init": "fila"}})
    end = tiny.run(config, Path("trial"))[-1]
    assert cli("evaluate", "--model", "trial/checkpoint/00002", "--benchmark", authors, "--to", "log.json")[0] == 0
    values = read_log(Path("log.json")).values
    assert {name: end.metrics[name] for name in tiny.MEASURED} == pytest.approx(dict(values), abs=1e-4)


def test_an_adapter_whose_model_has_gone_is_told_of(llama: Path, authors: Path, cli: Cli) -> None:
    Path("adapter").mkdir()
    file = Path("adapter/adapter_config.json")
    file.write_text(json.dumps({"base_model_name_or_path": str(llama / "gone")}), encoding="utf-8")
    code, _, err = cli("evaluate", "--model", "adapter", "--benchmark", authors)
    assert code == 2
    assert "--model: the adapter in 'adapter' belongs to the model in" in err
    assert "which is not there; correct base_model_name_or_path" in err
    file.write_text("{}", encoding="utf-8")
    assert (
        "adapter_config.json in 'adapter' cannot be read"
        in cli("evaluate", "--model", "adapter", "--benchmark", authors)[2]
    )


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_every_problem_is_told_at_once(llama: Path, cli: Cli) -> None:
    Path("no.json").write_text("{}", encoding="utf-8")
    wrong = ["--model", "gone", "--benchmark", "tofuu", "--metrics", "forget.nl,forget.nll", "--set", "optim.lr=1"]
    wrong += ["--set", "seed", "--set", "model.prompt={", "--retain-log", "no.json", "--target-log", "gone.json"]
    code, out, err = cli("evaluate", *wrong, "--to", "gone/x.json")
    assert (code, out) == (2, "")
    for words in (
        "evaluate: 9 problems",
        "--benchmark: 'tofuu' is no benchmark and no file; did you mean 'tofu'?",
        "--set: 'optim.lr' does not bear on an evaluation, or has an option of its own; what can be set is benchmark,",
        "--set: 'seed' is not path=value, as in model.dtype=bfloat16",
        "model.prompt: '{' is not readable as YAML; quote it",
        "--metrics: 'forget.nl' is no metric, group or pattern of them; did you mean 'forget.nll'?",
        "--retain-log: no.json: neither a `format`",
        "--target-log: gone.json: No such file or directory; name an evaluation log",
        "--to: 'gone/x.json' is not a file in a folder that can be written; give another",
        "--model: 'gone' is not a folder; give a model's folder or a hub id",
    ):
        assert words in err
    assert [file.name for file in Path().iterdir()] == ["no.json"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--metrics", "mmlu.accuracy"], "--metrics: none can be taken on this benchmark, which has the sets forget, "),
        (["--metrics", " , "], f"--metrics: none is named; choose among {', '.join(sorted(GROUPS))}"),
        (["--metrics", "zzz"], f"group or pattern of them; choose among {', '.join(sorted(GROUPS))}"),
        (["--set", "model.dtype=half"], "model.dtype: 'half' is not allowed"),
        (["--set", "model.path=x"], "--set: 'model.path' does not bear on an evaluation, or has an option of its own"),
        (["--set", "benchmark.authors=1"], "benchmark.authors: 1 must be greater than or equal to 2"),
        (["--set", "model.retain_path=gone"], "model.retain_path: 'gone' is not a folder"),
        (["--to", "."], "--to: '.' is not a file in a folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_ends_with_2_and_says_what_to_do(
    args: list[str], message: str, llama: Path, authors: Path, cli: Cli
) -> None:
    code, out, err = cli("evaluate", "--model", llama, "--benchmark", authors, *args)
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("evaluate: 1 problem ")


def test_a_folder_without_a_model_and_one_that_cannot_be_loaded_are_told_of(
    llama: Path, authors: Path, cli: Cli
) -> None:
    Path("empty").mkdir()
    code, _, err = cli("evaluate", "--model", "empty", "--benchmark", authors)
    assert code == 2
    assert "--model: 'empty' has neither a config.json nor an adapter_config.json" in err
    torn = shutil.copytree(llama, Path("torn"))
    (torn / "model.safetensors").unlink()
    code, _, err = cli("evaluate", "--model", "torn", "--benchmark", authors)
    assert code == 2
    assert re.search(r"evaluate: 1 problem --model: .*model.safetensors", err)
    assert load_model(str(llama), tiny.trial(llama).model) is not None


def test_weights_that_are_cut_short_are_told_of(llama: Path, authors: Path, cli: Cli) -> None:
    torn = shutil.copytree(llama, Path("torn")) / "model.safetensors"
    torn.write_bytes(torn.read_bytes()[:1000])
    code, _, err = cli("evaluate", "--model", "torn", "--benchmark", authors)
    assert code == 2
    assert "evaluate: 1 problem --model: the weights of " in err
    assert "cannot be read (Error while deserializing" in err


def test_a_chat_prompt_without_a_template_and_a_gpu_that_is_not_there_are_told_of(
    llama: Path, authors: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("evaluate", "--model", llama, "--benchmark", authors, "--set")
    code, _, err = cli(*asked, "model.prompt.type=chat")
    assert code == 2
    assert "chat template" in err
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, _, err = cli(*asked, "model.device=cuda")
    assert (code, err) == (2, "evaluate: 1 problem model.device: there is no GPU here; set it to cpu or leave it out")


def test_a_benchmark_that_the_hub_does_not_give_is_told_of(
    llama: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_hub(monkeypatch, ConnectionError("no route"))
    code, _, err = cli("evaluate", "--model", llama, "--benchmark", "tofu")
    assert code == 2
    assert "benchmark.hub: 'locuslab/TOFU' could not be fetched (ConnectionError: no route); go online" in err


def test_too_little_memory_is_a_failure_and_no_mistake(
    llama: Path, authors: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise torch.OutOfMemoryError("8 GiB short")

    monkeypatch.setattr("trials.evaluate.score", full)
    code, _, err = cli("evaluate", "--model", llama, "--benchmark", authors)
    assert (code, err) == (1, "failed: out of memory; lower evaluation.batch_size (8 GiB short)")
