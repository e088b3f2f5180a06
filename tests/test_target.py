"""The targets that we train: once, reproducibly, in a cache that is keyed by what they are made of."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from tests import tiny
from tests.tiny import same
from trials.benchmarks import load_benchmark
from trials.config import LoraConfig, ModelConfig, TinyConfig, TrialConfig
from trials.identity import cache_folder
from trials.models import model_folder
from trials.target import prepare


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrialConfig:
    """A tiny target, with a cache folder of its own."""
    monkeypatch.setenv("UNLEARN_SWEEP_CACHE", str(tmp_path / "cäche 'ü'"))
    return TrialConfig(benchmark=tiny.AUTHORS, model=ModelConfig(tiny=tiny.TINY, device="cpu"))


def test_a_target_is_trained_once_and_then_found(own: TrialConfig, tmp_path: Path) -> None:
    benchmark = load_benchmark(own.benchmark)
    steps: list[tuple[int, int]] = []
    folder = prepare(own, benchmark, "target", lambda done, total: steps.append((done, total)))
    assert Path(folder).is_relative_to(tmp_path / "cäche 'ü'" / "models")
    assert steps == [(done, len(steps)) for done in range(1, len(steps) + 1)]
    first = load_file(Path(folder, "model.safetensors"))
    steps.clear()
    assert prepare(own, benchmark, "target", lambda done, total: steps.append((done, total))) == folder
    assert not steps
    assert [file.name for file in Path(folder).parent.iterdir()] == [Path(folder).name]  # no scratch left
    assert AutoTokenizer.from_pretrained(folder).eos_token == "<|end|>"
    assert all(tensor.isfinite().all() for tensor in first.values())


def test_training_a_target_twice_gives_the_same_weights(own: TrialConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = load_benchmark(own.benchmark)
    first = load_file(Path(prepare(own, benchmark, "target"), "model.safetensors"))
    monkeypatch.setenv("UNLEARN_SWEEP_CACHE", f"{cache_folder()} again")
    torch.rand(3)
    assert same(first, load_file(Path(prepare(own, benchmark, "target"), "model.safetensors")))


def test_target_and_retain_model_differ_in_weights_and_share_a_tokenizer(own: TrialConfig) -> None:
    benchmark = load_benchmark(own.benchmark)
    target, retain = (prepare(own, benchmark, which) for which in ("target", "retain"))
    assert target != retain
    assert not same(*(load_file(Path(folder, "model.safetensors")) for folder in (target, retain)))
    texts = [Path(folder, "tokenizer.json").read_text(encoding="utf-8") for folder in (target, retain)]
    assert texts[0] == texts[1]


def test_another_recipe_or_other_rows_have_another_folder(own: TrialConfig) -> None:
    benchmark = load_benchmark(own.benchmark)
    other_rows = load_benchmark(tiny.AUTHORS.model_copy(update={"seed": 1}))
    folders = {model_folder(own, benchmark, "target"), model_folder(own, benchmark, "retain")}
    for change in ({"lr": 1e-3}, {"epochs": 3}, {"hidden_size": 64}, {"seed": 1}):
        recipe = TinyConfig.model_validate(tiny.TINY.model_dump() | change)
        model = own.model.model_copy(update={"tiny": recipe})
        folders.add(model_folder(own.model_copy(update={"model": model}), benchmark, "target"))
    folders.add(model_folder(own, other_rows, "target"))
    assert len(folders) == 7


def test_what_does_not_bear_identity_does_not_move_the_folder(own: TrialConfig) -> None:
    benchmark = load_benchmark(own.benchmark)
    for change in ({"device": "cuda:3"}, {"dtype": "bfloat16"}, {"adapter": LoraConfig()}):
        other = own.model_copy(update={"model": own.model.model_copy(update=change)})
        assert model_folder(other, benchmark, "target") == model_folder(own, benchmark, "target")


def test_the_cache_is_where_the_environment_says_and_else_in_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNLEARN_SWEEP_CACHE", "some where")
    assert cache_folder() == Path("some where")
    for unset in ("", None):
        if unset is None:
            monkeypatch.delenv("UNLEARN_SWEEP_CACHE")
        else:
            monkeypatch.setenv("UNLEARN_SWEEP_CACHE", unset)
        assert cache_folder().is_absolute()
        assert cache_folder().name == "unlearn-sweep"


def test_a_folder_that_another_sweep_finished_first_is_taken(own: TrialConfig) -> None:
    benchmark = load_benchmark(own.benchmark)
    place = Path(str(model_folder(own, benchmark, "target")))

    def finish_first(done: int, total: int) -> None:
        if done == total:
            place.mkdir()
            (place / "config.json").write_text("{}", encoding="utf-8")

    assert prepare(own, benchmark, "target", finish_first) == str(place)
    assert (place / "config.json").read_text(encoding="utf-8") == "{}"
    assert [file.name for file in place.parent.iterdir()] == [place.name]
