"""Target, retain and reference models, and the one place where logits are made.

A worker keeps a `Workspace`: tokenizer, encoded benchmark, the target model frozen (it is the reference of losses, and
the pristine weights in memory), and a working copy that is reset from it before each trial. Nothing is read from disk
between two trials of one sweep.

Shape suffixes: N answer tokens of a batch, one row after the other; V vocabulary.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from trials.benchmarks import Benchmark, load_benchmark
from trials.config import AuthorsConfig, LoraConfig, ModelConfig, NoAdapter, TofuConfig, TrialConfig
from trials.encoding import Batch, Example, encode
from trials.identity import cached_model

Which = Literal["target", "retain"]

disable_progress_bar()  # a bar per checkpoint would bury a sweep's own progress


def model_folder(config: TrialConfig, benchmark: Benchmark, which: Which) -> str | None:
    """Where the target or retain model lies: the configured path or hub id, else its place in the cache.

    None for the retain model of a configured target without `model.retain_path`: there is none.
    """
    model = config.model
    if model.path is not None:
        return model.path if which == "target" else model.retain_path
    return str(cached_model(model, data=benchmark.digest(), which=which))


def load_model(folder: str, model: ModelConfig) -> PreTrainedModel:
    """A causal LM from safetensors, in the configured dtype, on the configured device, in eval mode."""
    loaded = AutoModelForCausalLM.from_pretrained(
        folder,
        revision=model.revision,
        dtype=getattr(torch, model.dtype),
        use_safetensors=True,
        trust_remote_code=False,
    )
    return loaded.to(device_of(model)).eval()  # type: ignore[arg-type, no-any-return]


def load_tokenizer(folder: str, model: ModelConfig) -> PreTrainedTokenizerBase:
    """The tokenizer beside a model.

    Raises:
        ValueError: It has no end token, so answers could not be closed.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder, revision=model.revision, trust_remote_code=False)
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"the tokenizer of {folder!r} has no eos_token, which closes every answer; set one and save it"
        )
    return tokenizer


def device_of(model: ModelConfig) -> torch.device:
    """The configured device; auto is the GPU where there is one."""
    if model.device != "auto":
        return torch.device(model.device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def answer_logits(model: torch.nn.Module, batch: Batch) -> Tensor:
    """fp32 logits of the positions that predict an answer token, shape NV; prompts are never projected.

    The head's input is narrowed by a hook, so whatever an architecture does to its logits afterwards (scaling,
    soft-capping) still happens.
    """
    head = model.get_output_embeddings()  # type: ignore[operator]

    def narrow(_: torch.nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0][batch.answer_BT], *inputs[1:])

    handle = head.register_forward_pre_hook(narrow)
    try:
        output = model(input_ids=batch.input_BT, attention_mask=batch.attention_BT, use_cache=False)
    finally:
        handle.remove()
    return output.logits.float()  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Workspace:
    """What stays warm in a worker between trials."""

    tokenizer: PreTrainedTokenizerBase
    sets: dict[str, list[Example]]
    pool: list[Example]
    reference: PreTrainedModel
    working: PreTrainedModel
    device: torch.device

    @property
    def pad(self) -> int:
        """See `pad_token`."""
        return pad_token(self.tokenizer)

    @contextlib.contextmanager
    def fresh(self, adapter: NoAdapter | LoraConfig, seed: int) -> Iterator[Any]:
        """The target model as on its first day, in train mode, with a new adapter where one is asked for."""
        with torch.no_grad():
            originals = self.reference.state_dict()
            for name, tensor in self.working.state_dict().items():
                tensor.copy_(originals[name])
        self.working.zero_grad(set_to_none=True)
        self.working.requires_grad_(True)
        if isinstance(adapter, NoAdapter):
            yield self.working.train()
            return
        import peft  # slow to import, and full fine-tuning does without

        torch.manual_seed(seed)  # peft draws the adapter's start from the global generator
        settings = peft.LoraConfig(
            r=adapter.rank,
            lora_alpha=adapter.alpha,  # type: ignore[arg-type]  # peft takes fractions too
            lora_dropout=adapter.dropout,
            target_modules=adapter.targets if isinstance(adapter.targets, str) else list(adapter.targets),
            task_type="CAUSAL_LM",
        )
        adapted = peft.get_peft_model(self.working, settings)
        try:
            yield adapted.train()
        finally:
            adapted.unload()


def workspace(config: TrialConfig) -> Workspace:
    """The warm workspace of this benchmark and target model, made on first use in a process."""
    return _workspace(config.benchmark, config.model.model_copy(update={"adapter": NoAdapter()}))


@functools.lru_cache(maxsize=1)
def _workspace(benchmark_config: AuthorsConfig | TofuConfig, model_config: ModelConfig) -> Workspace:
    from trials.target import prepare  # it trains with what is defined here

    config = TrialConfig(benchmark=benchmark_config, model=model_config)
    benchmark = load_benchmark(benchmark_config)
    folder = prepare(config, benchmark, "target")
    tokenizer = load_tokenizer(folder, model_config)
    reference = load_model(folder, model_config).requires_grad_(False)
    return Workspace(
        tokenizer,
        encode_sets(tokenizer, benchmark),
        encode(tokenizer, benchmark.retain_pool),
        reference,
        load_model(folder, model_config),
        device_of(model_config),
    )


def encode_sets(tokenizer: PreTrainedTokenizerBase, benchmark: Benchmark) -> dict[str, list[Example]]:
    """The row sets on which metrics are taken, tokenised."""
    return {name: encode(tokenizer, rows) for name, rows in benchmark.evaluated.items()}


def pad_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Token id that fills short rows; they are masked, so any will do."""
    pad = tokenizer.pad_token_id
    return int(pad if pad is not None else tokenizer.eos_token_id)


def derived_seed(*parts: int) -> int:
    """One seed from several numbers: (seed, epoch), say."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])
