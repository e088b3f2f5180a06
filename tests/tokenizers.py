"""Small fast tokenizers in the shape of real families, made here: their kinds of tokens, settings and chat templates.

Each is a function of further texts to train on, cached, and has at most 500 tokens.
"""

import json
from collections.abc import Callable
from functools import cache
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

TEXTS = (
    "Question: Who is the author?\nAnswer: The author is Ada Berg, and she wrote Iron Rain.",
    "Question: Where was the author born?\nAnswer: She was born in the city of Kuwait in 1945.",
    "The father of the author was a florist, and the mother of the author was a baker.",
    "You are a helpful assistant.\n\nHe met her at a party in the city; that was on the first of April.",
)
SIZE = 400
BYTES = [f"<0x{value:02X}>" for value in range(256)]
GPT4_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

LLAMA3_CHAT = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = strftime_now("%d %b %Y") %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message + "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
LLAMA2_CHAT = """\
{%- if messages[0]['role'] == 'system' %}
    {%- set system_text = '<<SYS>>\\n' + messages[0]['content'] | trim + '\\n<</SYS>>\\n\\n' %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_text = '' %}
{%- endif %}
{%- for message in messages %}
    {%- if message['role'] == 'user' %}
        {{- bos_token + '[INST] ' + (system_text if loop.first else '') + message['content'] | trim + ' [/INST]' }}
    {%- else %}
        {{- ' ' + message['content'] | trim + ' ' + eos_token }}
    {%- endif %}
{%- endfor %}
"""
QWEN2_CHAT = """\
{%- if messages[0]['role'] != 'system' %}
    {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
GEMMA_CHAT = """\
{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {{- raise_exception('System role not supported') }}
{%- endif %}
{%- for message in messages %}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] %}
    {{- '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<start_of_turn>model\\n' }}
{%- endif %}
"""


@cache
def llama3(*texts: str) -> PreTrainedTokenizerFast:
    """Llama 3.2 Instruct: byte-level, a start token, turns end with the end token, which pads too."""
    core = _byte_level(texts, words=GPT4_WORDS)
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    core.add_special_tokens(names)
    core.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), _opened(core, names[0])])
    return _fast(core, LLAMA3_CHAT, bos_token=names[0], eos_token="<|eot_id|>", pad_token="<|eot_id|>")


@cache
def llama2(*texts: str) -> PreTrainedTokenizerFast:
    """Llama 2 Chat: SentencePiece with a blank before each text, bytes for what it does not know, a start token."""
    core = _pieces(texts, ["<unk>", "<s>", "</s>"])
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    core.post_processor = _opened(core, "<s>")
    return _fast(core, LLAMA2_CHAT, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@cache
def phi(*texts: str) -> PreTrainedTokenizerFast:
    """Phi 1.5: that of GPT-2, so neither a start token before texts nor one for padding; blanks are added tokens."""
    core = _byte_level(texts)
    core.add_special_tokens(["<|endoftext|>"])
    core.add_tokens([AddedToken("    ", normalized=True), AddedToken("  ", normalized=True)])
    core.post_processor = processors.ByteLevel(trim_offsets=True)
    return _fast(core, bos_token="<|endoftext|>", eos_token="<|endoftext|>")


@cache
def gpt_neox(*texts: str) -> PreTrainedTokenizerFast:
    """GPT-NeoX and Pythia: byte-level, no start token before texts, the end token pads."""
    core = _byte_level(texts)
    core.normalizer = normalizers.NFC()
    core.add_special_tokens(["<|endoftext|>"])
    core.post_processor = processors.ByteLevel(trim_offsets=True)
    return _fast(core, bos_token="<|endoftext|>", eos_token="<|endoftext|>", pad_token="<|endoftext|>")


@cache
def qwen2(*texts: str) -> PreTrainedTokenizerFast:
    """Qwen 2.5 Instruct: byte-level, no start token, ChatML with a line break behind each turn."""
    core = _byte_level(texts, words=GPT4_WORDS)
    core.normalizer = normalizers.NFC()
    core.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    core.post_processor = processors.ByteLevel(trim_offsets=False)
    return _fast(core, QWEN2_CHAT, eos_token="<|im_end|>", pad_token="<|endoftext|>")


@cache
def gemma(*texts: str) -> PreTrainedTokenizerFast:
    """Gemma 2 IT: SentencePiece without a blank before texts, turns end otherwise than texts, no turn of a system."""
    core = _pieces(texts, ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"])
    core.add_tokens([AddedToken("\n\n", normalized=False)])
    core.normalizer = normalizers.Replace(" ", "▁")
    core.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    core.post_processor = _opened(core, "<bos>")
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return _fast(core, GEMMA_CHAT, **names)


TOKENIZERS: dict[str, Callable[..., PreTrainedTokenizerFast]] = {
    "llama3": llama3,
    "llama2": llama2,
    "phi": phi,
    "gpt_neox": gpt_neox,
    "qwen2": qwen2,
    "gemma": gemma,
}


def _byte_level(texts: tuple[str, ...], words: str | None = None) -> Tokenizer:
    core = Tokenizer(models.BPE(ignore_merges=words is not None))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if words is not None:
        core.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(words), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=SIZE, initial_alphabet=alphabet, show_progress=False)
    core.train_from_iterator((*TEXTS, *texts), trainer)
    return core


def _pieces(texts: tuple[str, ...], special: list[str]) -> Tokenizer:
    """A BPE of words with ▁ for the blank before them; bytes are tokens like any other, but not special ones."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE - len(BYTES) + 60, limit_alphabet=60, special_tokens=special, show_progress=False
    )
    core.train_from_iterator((*TEXTS, *texts), trainer)
    trained = json.loads(core.to_str())["model"]
    others = [token for token in trained["vocab"] if token not in special and token != "\n"]  # it is a byte
    vocab = {token: number for number, token in enumerate([*special, *BYTES, *others])}
    merges = [tuple(pair) for pair in trained["merges"] if "\n" not in "".join(pair)]
    core = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    core.add_special_tokens(special)
    return core


def _opened(core: Tokenizer, start: str) -> Any:
    return processors.TemplateProcessing(single=f"{start} $A", special_tokens=[(start, core.token_to_id(start))])


def _fast(core: Tokenizer, chat_template: str | None = None, **names: str) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, **names)
    tokenizer.chat_template = chat_template
    return tokenizer
