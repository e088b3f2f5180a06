"""Target, retain and reference models, adapters, and what stays warm in a worker.

A worker keeps a `Workspace`: tokenizer, encoded benchmark, the target model frozen (it is the reference of losses, and
the pristine weights in memory), and a working copy that is reset from it before each trial. Nothing is read from disk
between two trials of one sweep.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from trials.benchmarks import Benchmark, load_benchmark
from trials.config import LoraConfig, ModelConfig, NoAdapter, TrialConfig
from trials.encoding import Example, Padding, end_tokens
from trials.identity import cached_model
from trials.logits import LogitDifference
from trials.logs import References
from trials.material import Material
from trials.objectives import ULD
from trials.result import TrialFailed
from trials.sources import BenchmarkConfig

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


def settings_of(model: ModelConfig, which: Which) -> ModelConfig:
    """The settings of a model that is loaded from the hub: a retain model has a revision of its own."""
    return model if which == "target" else model.model_copy(update={"revision": model.retain_revision})


def load_model(folder: str, model: ModelConfig) -> PreTrainedModel:
    """A causal LM from safetensors, in the configured dtype, on the configured device or devices, in eval mode.

    Raises:
        TrialFailed: Not all layers fit on the GPUs.
        ValueError: Weights are missing.
    """
    result: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        revision=model.revision,
        dtype=getattr(torch, model.dtype),
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
        device_map=model.device_map,
    )
    loaded, found = result
    if missing := sorted(found["missing_keys"]):
        # They would be random numbers, and whatever is measured too.
        raise ValueError(f"the model in {folder!r} lacks {len(missing)} weights, {missing[0]!r} first; save it whole")
    if model.device_map is None:
        return loaded.to(device_of(model)).eval()  # type: ignore[no-any-return]
    places = {str(place) for place in getattr(loaded, "hf_device_map", {}).values()}
    if torch.cuda.is_available() and (outside := places & {"cpu", "disk"}):  # weights there are read, never trained
        raise TrialFailed(f"layers of the model are left to the {min(outside)}: take more GPUs (resources.gpu)")
    return loaded.eval()  # type: ignore[no-any-return]


def load_unlearned(config: TrialConfig, checkpoint: Path, target: str) -> Any:
    """The model that a trial ended with, from its last checkpoint, as it was measured, in eval mode.

    Args:
        config: The trial.
        checkpoint: `checkpoint/<epoch>` of a trial at its full budget.
        target: Folder or hub id of the target model, on which an adapter sits.
    """
    local = config.model.model_copy(update={"revision": None})
    whole = checkpoint / "merged" if (checkpoint / "merged").exists() else checkpoint
    criterion = config.loss.criterion
    if isinstance(criterion, ULD):
        return LogitDifference(load_model(target, config.model), load_model(str(whole), local), criterion.weight).eval()
    if whole == checkpoint and isinstance(config.model.adapter, LoraConfig):
        import peft  # slow to import, and full fine-tuning does without

        return peft.PeftModel.from_pretrained(load_model(target, config.model), checkpoint).eval()
    return load_model(str(whole), local)


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
    """Where batches go: the configured device; auto is the GPU where there is one, of several the first."""
    if model.device != "auto":
        return torch.device(model.device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Workspace:
    """What stays warm in a worker between trials."""

    material: Material
    pool: list[Example]
    reference: PreTrainedModel
    working: PreTrainedModel
    logs: dict[str, References] = field(default_factory=dict)
    """Settings of evaluation -> logs of the target and retain model, once they were read."""
    reference_ce: list[torch.Tensor] = field(default_factory=list)
    """Cross-entropies of the reference model on each forget row, once a loss has asked for them."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Of the target model."""
        return self.material.tokenizer

    @property
    def benchmark(self) -> Benchmark:
        """The rows."""
        return self.material.benchmark

    @property
    def padding(self) -> Padding:
        """How short rows are filled."""
        return self.material.padding

    @property
    def device(self) -> torch.device:
        """Where the models are; of several, where batches go."""
        return self.material.device

    @property
    def gpus(self) -> list[torch.device]:
        """All that the working copy lies on; none where there is no GPU."""
        found = {parameter.device for parameter in self.working.parameters() if parameter.device.type == "cuda"}
        return sorted(found, key=str)

    @functools.cached_property
    def forget(self) -> list[Example]:
        """The forget set, unit by unit."""
        return [unit.example for unit in self.material.units("forget")]

    @property
    def layers(self) -> int:
        """Of the target model."""
        return int(self.reference.config.num_hidden_layers)

    @contextlib.contextmanager
    def fresh(self, config: TrialConfig) -> Iterator[Any]:
        """What a trial trains, as on its first day and in train mode: the target model, or the assistant of uld.

        With a new adapter where one is asked for.
        """
        with torch.no_grad():
            originals = self.reference.state_dict()
            for name, tensor in self.working.state_dict().items():
                tensor.copy_(originals[name])
        self.working.zero_grad(set_to_none=True)
        criterion = config.loss.criterion
        base = self.assistant(criterion.layers) if isinstance(criterion, ULD) else self.working
        base.requires_grad_(True)
        adapter = config.model.adapter
        if isinstance(adapter, NoAdapter):
            yield base.train()
            return
        import peft  # slow to import, and full fine-tuning does without

        torch.manual_seed(config.seed)  # peft draws the adapter's start from the global generator
        settings = peft.LoraConfig(
            r=adapter.rank,
            lora_alpha=adapter.alpha,  # type: ignore[arg-type]  # peft takes fractions too
            lora_dropout=adapter.dropout,
            target_modules=adapter.targets if isinstance(adapter.targets, str) else list(adapter.targets),
            task_type="CAUSAL_LM",
        )
        try:
            adapted = peft.get_peft_model(base, settings)
        except ValueError as error:  # no such modules in this model
            raise TrialFailed(f"model.adapter.targets {adapter.targets!r}: {error}; name others") from error
        try:
            yield adapted.train()
        finally:
            adapted.unload()

    def assistant(self, layers: int | None) -> PreTrainedModel:
        """A copy of the target model cut to its first layers, embeddings and head included; None: all of them."""
        settings = copy.deepcopy(self.reference.config)
        settings.num_hidden_layers = min(layers or self.layers, self.layers)
        if getattr(settings, "layer_types", None):
            settings.layer_types = settings.layer_types[: settings.num_hidden_layers]
        cut = AutoModelForCausalLM.from_config(settings, dtype=self.reference.dtype)
        missing = cut.load_state_dict(self.reference.state_dict(), strict=False).missing_keys
        if missing:
            raise TrialFailed(f"the target model has no {missing[0]!r} to cut an assistant from; use another criterion")
        return cut.to(self.device)  # type: ignore[no-any-return]


def workspace(config: TrialConfig) -> Workspace:
    """The warm workspace of this benchmark and target model, made on first use in a process."""
    return _workspace(config.benchmark, config.model.model_copy(update={"adapter": NoAdapter()}))


@functools.lru_cache(maxsize=1)
def _workspace(benchmark_config: BenchmarkConfig, model_config: ModelConfig) -> Workspace:
    from trials.target import prepare  # it trains with what is defined here

    config = TrialConfig(benchmark=benchmark_config, model=model_config)
    benchmark = load_benchmark(benchmark_config)
    folder = prepare(config, benchmark, "target")
    reference = load_model(folder, model_config).requires_grad_(False)
    try:
        material = material_of(load_tokenizer(folder, model_config), reference, benchmark, model_config)
        pool = [unit.example for unit in material.pieces(benchmark.retain_pool, whole=True)]
    except ValueError as error:  # a tokenizer without an end token, a chat template that does not fit
        raise TrialFailed(str(error)) from error
    return Workspace(material, pool, reference, load_model(folder, model_config))


def material_of(
    tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, benchmark: Benchmark, settings: ModelConfig
) -> Material:
    """A benchmark in the tokens of a model, which generates until one of its end tokens."""
    ends = getattr(model.generation_config, "eos_token_id", None)
    generation = [ends] if isinstance(ends, int) else list(ends or [])
    return Material(
        tokenizer,
        benchmark,
        settings.prompt,
        Padding(pad_token(tokenizer), hides=settings.hide_pad),
        device_of(settings),
        end_tokens(tokenizer, settings.prompt, generation),
    )


def pad_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Token id that fills short rows; they are masked, so any will do."""
    pad = tokenizer.pad_token_id
    return int(pad if pad is not None else tokenizer.eos_token_id)


def derived_seed(*parts: int) -> int:
    """One seed from several numbers: (seed, epoch), say."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])
