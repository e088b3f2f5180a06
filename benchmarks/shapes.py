"""Models of a size with random weights, and rows of realistic number and length: no trained model is needed.

Such a model takes the time and memory of a real one of its shape. Its tokenizer is trained on the benchmark's texts, to
4,096 tokens (the tiny one's to 1,536): on TOFU's that is 4.0 characters a token, about what tokenizers of large models
have in English. Its ids are the first ones of the vocabulary; the head projects to all of it.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when the libraries are imported; nothing is fetched

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from trials.benchmarks import load_benchmark
from trials.sources import AuthorsConfig, BenchmarkConfig, TofuConfig
from trials.target import train_tokenizer

SHAPES: dict[str, dict[str, int]] = {
    "tiny": {
        "hidden_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "intermediate_size": 256,
        "vocab_size": 1536,
    },
    "100M": {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 12,
        "intermediate_size": 2048,
        "vocab_size": 32000,
    },
    "1B": {
        "hidden_size": 2048,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 8192,
        "vocab_size": 128256,
    },
}
"""Name -> shape of a Llama whose head is its embedding: the embedded model, 109 million parameters, Llama 3.2 1B."""

_TOKENS = 4096

_FORGET10 = AuthorsConfig(authors=286, forget_authors=29, holdout_authors=29, retain_pool=3198)
"""406 forget rows, 400 retain rows to measure on, 3,198 to replay: TOFU's forget10 but for texts and length."""


def rows_of(folder: str | None) -> BenchmarkConfig:
    """TOFU's forget10 from a folder of its files; without one as many embedded rows, which are shorter by a third."""
    return TofuConfig(path=folder) if folder else _FORGET10


def save_model(folder: Path, shape: str, rows: BenchmarkConfig, dtype: str = "float32") -> None:
    """Writes a random Llama with a tokenizer of the benchmark's texts: what `model.path` names.

    Args:
        folder: Where.
        shape: Of `SHAPES`.
        rows: The benchmark.
        dtype: That it is made and saved in. It is made on the CPU, so that none of it stays on a GPU.
    """
    settings = SHAPES[shape]
    tokenizer = train_tokenizer(load_benchmark(rows), min(_TOKENS, settings["vocab_size"]))
    config = LlamaConfig(
        **settings,  # type: ignore[arg-type]
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def add_model_options(parser: argparse.ArgumentParser, **defaults: Any) -> None:
    """The options that say what is trained: --device, --dtype, --model, --batch-size, --benchmark.

    Args:
        parser: Takes them.
        defaults: Other values than usual where an option is not given, by its name with underscores.
    """
    usual = {"device": "cpu", "dtype": "float32", "model": "tiny", "batch_size": 8, "benchmark": None} | defaults
    parser.add_argument("--device", default=usual["device"], help="cpu, cuda, cuda:1")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default=usual["dtype"])
    parser.add_argument("--model", choices=SHAPES, default=usual["model"], help="shape of a model with random weights")
    parser.add_argument("--batch-size", type=int, default=usual["batch_size"], help="forget rows of a step")
    parser.add_argument(
        "--benchmark", metavar="FOLDER", default=usual["benchmark"], help="TOFU's files: rows of its forget10"
    )
