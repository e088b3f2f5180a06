"""Small random models and rows that the tests of models and of trials share."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MixtralConfig,
    PhiConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from trials.benchmarks import load_benchmark
from trials.config import TinyConfig, TrialConfig
from trials.encoding import Example
from trials.evaluate import Evaluator
from trials.models import Workspace, _workspace
from trials.naming import named
from trials.result import EpochResult
from trials.sources import AuthorsConfig
from trials.target import train_tokenizer
from trials.unlearn import run_trial

torch.set_num_threads(1)

AUTHORS = AuthorsConfig(authors=5, forget_authors=2, holdout_authors=1, questions=3, general=4, retain_pool=5)
"""6 forget rows, 5 to replay, 4 retain rows to measure on, 3 holdout rows, 4 of general knowledge."""

TINY = TinyConfig(vocab_size=300, hidden_size=32, layers=1, heads=2, intermediate_size=48, epochs=2)
LORA = {"adapter": {"type": "lora", "rank": 2, "dropout": 0.2}}
ARCHITECTURES = ("llama", "phi", "gpt_neox", "qwen2", "gemma2")


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(load_benchmark(AUTHORS), 320)


def architecture(name: str, vocab_size: int) -> PretrainedConfig:
    shape: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": None,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "initializer_range": 0.2,
    }
    if name == "llama":
        return LlamaConfig(**shape, tie_word_embeddings=True)
    if name == "phi":
        return PhiConfig(**shape)
    if name == "gpt_neox":
        return GPTNeoXConfig(**shape)
    if name == "qwen2":
        return Qwen2Config(**shape, num_key_value_heads=1)
    if name == "mixtral":  # its weights have other names on disk than in memory
        return MixtralConfig(**shape, num_key_value_heads=1, num_local_experts=2, num_experts_per_tok=1)
    # A cap as low as this bends logits of size 1, so leaving it out shows.
    return Gemma2Config(**shape, num_key_value_heads=1, head_dim=16, sliding_window=8, final_logit_softcapping=2.0)


def random_model(name: str, vocab_size: int) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(architecture(name, vocab_size)).eval()


def saved_model(folder: Path, name: str = "llama") -> Path:
    """A random model with its tokenizer in a folder, as a user would bring one."""
    tokenizer = tiny_tokenizer()
    random_model(name, len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def trial(folder: Path, **sections: Any) -> TrialConfig:
    """Two epochs of two steps on a model in a folder; sections are laid over these settings."""
    settings: dict[str, Any] = {
        "benchmark": AUTHORS.model_dump(),
        "model": {"path": str(folder), "device": "cpu"},
        "optim": {"lr": 1e-2, "batch_size": 4},
        "epochs": 2,
    }
    for name, value in sections.items():
        settings[name] = {**settings[name], **value} if isinstance(settings.get(name), dict) else value
    return TrialConfig.model_validate_json(json.dumps(settings))


MEASURED = [name for name in named(("default",)) if name.split(".")[0] in ("forget", "retain", "holdout", "general")]
"""What a trial on `AUTHORS` measures by default."""


def examples(warm: Workspace, rows: str) -> list[Example]:
    """The answers of a set as token ids."""
    return [unit.example for unit in warm.material.units(rows)]


def values(model: Any, warm: Workspace, words: Sequence[str] = ("default",)) -> dict[str, float]:
    """Metrics of a model on a workspace's benchmark."""
    return dict(Evaluator(warm.material).log(model, named(words)).values)


@contextmanager
def cold() -> Iterator[None]:
    """No workspace before, none left after."""
    _workspace.cache_clear()
    try:
        yield
    finally:
        _workspace.cache_clear()


def run(config: TrialConfig, folder: Path, **kwargs: Any) -> list[EpochResult]:
    return list(run_trial(config, folder=folder, **kwargs))


def numbers(results: list[EpochResult]) -> list[tuple[int, dict[str, float], bool]]:
    """Results without their timing."""
    return [(result.epoch, result.metrics, result.last) for result in results]


def saved(folder: Path) -> dict[str, torch.Tensor]:
    """The weights in a trial's checkpoint."""
    [file] = folder.glob("checkpoint/*/*model.safetensors")
    return load_file(file)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
