"""The embedded target and retain model: a tiny Llama, trained by us until it has memorised its rows.

Both share one tokenizer, trained on all texts of the benchmark. A trained model lies in the user's cache folder under
a digest of recipe and data, so a second sweep on the same benchmark starts at once. What was tried on the way to the
recipe, and what each part is worth: docs/tiny-model.md.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from trials.benchmarks import Benchmark, Row
from trials.config import TinyConfig, TrialConfig
from trials.encoding import Example, Padding, by_length, collate, cut, encode, plain_text
from trials.logits import answer_logits
from trials.models import Which, derived_seed, device_of, model_folder
from trials.prompts import PLAIN

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all)."""

END = "<|end|>"
PAD = "<|pad|>"


def prepare(config: TrialConfig, benchmark: Benchmark, which: Which, progress: Progress | None = None) -> str:
    """The folder or hub id of the target or retain model, trained first where it is ours and not there yet.

    Raises:
        ValueError: There is no such model: a retain model of a configured target without `model.retain_path`.
    """
    folder = model_folder(config, benchmark, which)
    if folder is None:
        raise ValueError("model.retain_path is not set, so there is no retain model; set it or do without that anchor")
    if config.model.path is not None or Path(folder, "config.json").exists():
        return folder
    place = Path(folder)
    place.parent.mkdir(parents=True, exist_ok=True)
    # Two sweeps may train the same model at once: each writes its own folder, the first to finish names it.
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.name}.") as scratch:
        made = Path(scratch) / "model"
        tokenizer = train_tokenizer(benchmark, config.model.tiny.vocab_size)
        rows = benchmark.kept if which == "retain" else benchmark.forget + benchmark.kept
        examples = encode(tokenizer, rows, config.model.prompt)
        if benchmark.chunk:
            examples = cut(examples, benchmark.chunk)
        model = train_tiny(config.model.tiny, tokenizer, examples, device_of(config.model), progress)
        model.save_pretrained(made)
        tokenizer.save_pretrained(made)
        try:
            os.replace(made, place)
        except OSError:
            if not (place / "config.json").exists():
                raise
            shutil.rmtree(made)
    return folder


def train_tokenizer(benchmark: Benchmark, vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most `vocab_size` tokens, trained on every text of the benchmark that is memorised."""
    rows: Sequence[Row] = benchmark.forget + benchmark.kept
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((plain_text(PLAIN, r.question, r.answer) for r in rows), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=PAD)


def train_tiny(
    tiny: TinyConfig,
    tokenizer: PreTrainedTokenizerFast,
    examples: Sequence[Example],
    device: torch.device,
    progress: Progress | None = None,
) -> LlamaForCausalLM:
    """Trains a tiny Llama on the answers of `examples`: AdamW, a long ramp up, then linear to 0."""
    torch.manual_seed(tiny.seed)  # transformers draws initial weights from the global generator
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=tiny.hidden_size,
            num_hidden_layers=tiny.layers,
            num_attention_heads=tiny.heads,
            intermediate_size=tiny.intermediate_size,
            max_position_embeddings=2048,
            initializer_range=tiny.init_std,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    ).to(device)  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW(model.parameters(), lr=tiny.lr, betas=(0.9, 0.99), weight_decay=0.0)
    batches = by_length(examples, tiny.batch_size)
    total = tiny.epochs * len(batches)
    ramp = max(1, round(tiny.warmup * total))
    step = 0
    for epoch in range(tiny.epochs):
        for index in np.random.default_rng(derived_seed(tiny.seed, epoch)).permutation(len(batches)):
            factor = (step + 1) / ramp if step < ramp else 1 - step / total
            for group in optimizer.param_groups:
                group["lr"] = tiny.lr * factor
            batch = collate([examples[i] for i in batches[index]], Padding(tokenizer.pad_token_id), device)
            loss = cross_entropy(answer_logits(model, batch), batch.target_N)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
            if progress:
                progress(step, total)
    return model.eval()  # type: ignore[no-any-return]
