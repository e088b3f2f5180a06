"""Checkpoints: a resumed trial is the uninterrupted one, and what is left behind is a model like any other."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
from transformers import AutoModelForCausalLM

from tests import tiny
from tests.tiny import LORA, numbers, run, same, saved
from trials.checkpoints import damage_of
from trials.logits import LogitDifference
from trials.measuring import measure_again
from trials.models import workspace
from trials.result import TrialFailed
from trials.unlearn import run_trial

ULD = {"criterion": {"type": "uld", "layers": 1}, "retain": {"term": "uniform"}}

both_ways = pytest.mark.parametrize("model", [{}, LORA], ids=["full", "lora"])


@pytest.fixture(scope="module", autouse=True)
def _cold() -> Iterator[None]:
    with tiny.cold():
        yield


@both_ways
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_resumed_trial_gives_the_results_of_an_uninterrupted_one(
    stop: int, model: dict[str, Any], llama: Path, tmp_path: Path
) -> None:
    config = tiny.trial(
        llama,
        model=model,
        epochs=3,
        loss={"criterion": {"type": "npo"}},
        optim={"schedule": "linear", "weight_decay": 0.1},
    )
    whole = run(config, tmp_path / "whole")
    stream = run_trial(config, folder=tmp_path / "cut")
    before = [next(stream) for _ in range(stop)]
    stream.close()
    run(tiny.trial(llama, model=model, seed=9), tmp_path / "another")
    with tiny.cold():
        after = run(config, tmp_path / "cut", resume_from=tmp_path / "cut" / "checkpoint")
    assert numbers(before) == numbers(whole[:stop])
    assert after[0] == before[-1]  # as it was, its timing too
    assert numbers(after) == numbers(whole[stop - 1 :])
    assert same(saved(tmp_path / "cut"), saved(tmp_path / "whole"))


@both_ways
def test_a_resumed_trial_of_uld_is_the_uninterrupted_one(model: dict[str, Any], llama: Path, tmp_path: Path) -> None:
    config = tiny.trial(llama, model=model, loss=ULD, epochs=3, optim={"schedule": "linear", "weight_decay": 0.1})
    whole = run(config, tmp_path / "whole")
    stream = run_trial(config, folder=tmp_path / "cut")
    before = next(stream)
    stream.close()
    run(tiny.trial(llama, model=model, seed=9), tmp_path / "another")
    with tiny.cold():
        after = run(config, tmp_path / "cut", resume_from=tmp_path / "cut" / "checkpoint")
    assert after[0] == before
    assert numbers(after) == numbers(whole)
    assert same(saved(tmp_path / "cut"), saved(tmp_path / "whole"))


@pytest.mark.parametrize("name", tiny.ARCHITECTURES)
def test_the_checkpoint_of_uld_is_its_assistant_whatever_the_architecture(name: str, tmp_path: Path) -> None:
    config = tiny.trial(tiny.saved_model(tmp_path / "model", name), loss=ULD)
    end = run(config, tmp_path / "trial")[-1]
    place = tmp_path / "trial" / "checkpoint" / "00002"
    assistant = AutoModelForCausalLM.from_pretrained(place)
    assert assistant.config.num_hidden_layers == 1
    warm = workspace(config)
    values = tiny.values(LogitDifference(warm.reference, assistant, 0.8), warm)
    assert values == pytest.approx({name: end.metrics[name] for name in tiny.MEASURED}, abs=1e-5)


def test_resuming_where_there_is_no_checkpoint_starts_afresh(llama: Path, tmp_path: Path) -> None:
    config = tiny.trial(llama)
    whole = run(config, tmp_path / "whole")
    assert numbers(run(config, tmp_path / "a", resume_from=tmp_path / "never written")) == numbers(whole)


@both_ways
def test_a_half_written_checkpoint_is_passed_over(model: dict[str, Any], llama: Path, tmp_path: Path) -> None:
    config = tiny.trial(llama, model=model)
    whole = run(config, tmp_path / "whole")
    stream = run_trial(config, folder=tmp_path / "cut")
    next(stream)
    stream.close()
    place = tmp_path / "cut" / "checkpoint"
    shutil.copytree(place / "00001", place / ".00002.part")
    (place / "00002").mkdir()
    (place / "00002" / "model.safetensors").write_bytes(b"half of")
    after = run(config, tmp_path / "cut", resume_from=place)
    assert numbers(after) == numbers(whole)
    assert [file.name for file in place.iterdir()] == ["00002"]
    assert same(saved(tmp_path / "cut"), saved(tmp_path / "whole"))


def test_of_two_whole_checkpoints_the_newer_one_counts(llama: Path, tmp_path: Path) -> None:
    # A worker killed before it dropped the older one leaves both.
    config = tiny.trial(llama, epochs=3)
    place, kept = tmp_path / "cut" / "checkpoint", tmp_path / "kept"
    whole = []
    for result in run_trial(config, folder=tmp_path / "cut"):
        whole.append(result)
        shutil.copytree(place, kept, dirs_exist_ok=True)
    shutil.rmtree(kept / "00003")
    assert sorted(file.name for file in kept.iterdir()) == ["00001", "00002"]
    assert numbers(run(config, tmp_path / "again", resume_from=kept)) == numbers(whole[1:])


def test_only_the_last_checkpoint_stays_and_it_is_on_disk_before_its_result_is_known(
    llama: Path, tmp_path: Path
) -> None:
    for result in run_trial(tiny.trial(llama, epochs=3), folder=tmp_path):
        [place] = (tmp_path / "checkpoint").iterdir()
        assert place.name == f"{result.epoch:05d}"
        assert json.loads((place / "epoch.json").read_text(encoding="utf-8"))["metrics"] == result.metrics
        assert (place / "optimizer.safetensors").exists() is not result.last


def test_a_finished_trial_is_a_model_that_can_be_the_target_of_another(llama: Path, tmp_path: Path) -> None:
    config = tiny.trial(llama)
    end = run(config, tmp_path / "one")[-1]
    place = tmp_path / "one" / "checkpoint" / "00002"
    again = tiny.trial(place, optim={"lr": 1e-12}, epochs=1)
    with tiny.cold():
        [start] = run(again, tmp_path / "two")
    for name in tiny.MEASURED:
        assert start.metrics[name] == pytest.approx(end.metrics[name], abs=1e-5)


def test_a_finished_lora_trial_is_an_adapter_that_peft_loads_onto_the_target(llama: Path, tmp_path: Path) -> None:
    config = tiny.trial(llama, model=LORA)
    end = run(config, tmp_path)[-1]
    place = tmp_path / "checkpoint" / "00002"
    names = {file.name for file in place.iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json"} <= names
    assert "model.safetensors" not in names
    warm = workspace(config)
    model = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(llama), place)
    values = tiny.values(model, warm)
    assert values == pytest.approx({name: end.metrics[name] for name in tiny.MEASURED}, abs=1e-5)


def test_nothing_in_a_checkpoint_is_pickled(llama: Path, tmp_path: Path) -> None:
    next(run_trial(tiny.trial(llama), folder=tmp_path))
    suffixes = {file.suffix for file in (tmp_path / "checkpoint").rglob("*") if file.is_file()}
    assert suffixes <= {".safetensors", ".json", ".jinja", ".md", ".txt"}


@pytest.mark.parametrize("changes", [{}, {"dtype": "bfloat16"}], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["mixtral", "gemma2"])
def test_architectures_that_rename_their_weights_and_half_precision_resume_whole(
    name: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    folder = tiny.saved_model(tmp_path / "model", name)
    config = tiny.trial(folder, model=changes, epochs=2)
    whole = run(config, tmp_path / "whole")
    stream = run_trial(config, folder=tmp_path / "cut")
    next(stream)
    stream.close()
    after = run(config, tmp_path / "cut", resume_from=tmp_path / "cut" / "checkpoint")
    assert numbers(after) == numbers(whole)
    assert same(saved(tmp_path / "cut"), saved(tmp_path / "whole"))


def test_half_precision_moves_at_a_learning_rate_below_its_spacing(tmp_path: Path) -> None:
    # An update of 1e-5 is less than half a step of bfloat16 at a weight of 0.02: only their sum is felt.
    folder = tiny.saved_model(tmp_path / "model", "llama")
    config = tiny.trial(folder, model={"dtype": "bfloat16"}, epochs=8, optim={"lr": 2e-4, "batch_size": 1})
    first, *_, last = run(config, tmp_path / "trial")
    assert last.metrics["forget.nll"] != first.metrics["forget.nll"]


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-50] ^= 1  # of a tensor: every reader would take it
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "harm", "said"),
    [
        ("model.safetensors", cut_short, r"model.safetensors has \d+ bytes of \d+"),
        ("model.safetensors", flip, "model.safetensors is not what was written"),
        ("model.safetensors", Path.unlink, "model.safetensors is missing"),
        ("optimizer.safetensors", flip, "optimizer.safetensors is not what was written"),
        ("epoch.json", flip, "epoch.json is not what was written"),
        ("checksums.json", cut_short, "checksums.json is missing or cannot be read"),
        ("checksums.json", Path.unlink, "checksums.json is missing or cannot be read"),
    ],
)
def test_a_trial_with_a_damaged_checkpoint_begins_anew_and_says_so(
    name: str, harm: Any, said: str, llama: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny.trial(llama, epochs=2)
    stream = run_trial(config, folder=tmp_path)
    first = next(stream)
    stream.close()
    (place,) = (tmp_path / "checkpoint").iterdir()
    harm(place / name)
    again = run(config, tmp_path, resume_from=tmp_path / "checkpoint")
    assert [result.epoch for result in again] == [1, 2]
    assert numbers(again[:1]) == numbers([first])
    (line,) = [message for message in caplog.messages if "damaged" in message]
    assert re.search(rf"00001 is damaged \({said}\): the trial begins anew", line)
    assert damage_of(tmp_path / "checkpoint" / "00002") == ""


def test_a_damaged_checkpoint_is_not_measured(llama: Path, tmp_path: Path) -> None:
    config = tiny.trial(llama, epochs=1)
    run(config, tmp_path)
    flip(tmp_path / "checkpoint" / "00001" / "model.safetensors")
    with pytest.raises(TrialFailed, match=r"is damaged \(model.safetensors is not what was written\): the trial's mo"):
        measure_again(config, tmp_path / "checkpoint", tiny.MEASURED)
