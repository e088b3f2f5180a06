"""Rows to token ids: prompt and answer apart, so that the border between them is exact.

Everything is shifted once, here: a batch's inputs are all tokens but the last, `target_BT` holds the next token of
each position, and `answer_BT` is True where that next token belongs to the answer (its end token included).

Shape suffixes: B rows, T positions, A answer positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trials.benchmarks import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROMPT = "Question: {question}\nAnswer:"


@dataclass(frozen=True)
class Example:
    """Token ids of one row; `answer` ends with the tokenizer's end token."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


@dataclass(frozen=True)
class Batch:
    """Right-padded examples on a device.

    Attributes:
        input_BT: Token ids.
        attention_BT: 1 on tokens, 0 on padding.
        answer_BT: True where the next token is of the answer.
        target_BT: The next token.
        mask_BA: True on answer tokens, rows aligned at the left: the shape in which losses and weights live.
    """

    input_BT: Tensor
    attention_BT: Tensor
    answer_BT: Tensor
    target_BT: Tensor
    mask_BA: Tensor

    @property
    def target_N(self) -> Tensor:
        """The answer tokens of all rows, one after the other."""
        return self.target_BT[self.answer_BT]

    def rows(self, values_N: Tensor) -> Tensor:
        """Values of answer tokens, one after the other, as a BA tensor, zero on padding."""
        return values_N.new_zeros(self.mask_BA.shape).masked_scatter(self.mask_BA, values_N)


def encode(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row]) -> list[Example]:
    """Token ids of rows, tokenised in two parts: no merge can cross the border of prompt and answer."""
    end = tokenizer.eos_token_id
    prompts = tokenizer([PROMPT.format(question=row.question) for row in rows])["input_ids"] if rows else []
    answers = tokenizer([f" {row.answer}" for row in rows], add_special_tokens=False)["input_ids"] if rows else []
    return [
        # Some tokenizers close every text with their end token; a prompt is not at its end.
        Example(tuple(p[:-1] if p and p[-1] == end else p), (*a, end))
        for p, a in zip(prompts, answers, strict=True)
    ]


def collate(examples: Sequence[Example], pad: int, device: torch.device) -> Batch:
    """One right-padded batch, shifted."""
    width = max(map(len, examples)) - 1
    ids = torch.full((len(examples), width + 1), pad, dtype=torch.long)
    attention = torch.zeros(len(examples), width + 1, dtype=torch.long)
    answer = torch.zeros(len(examples), width + 1, dtype=torch.bool)
    for row, example in enumerate(examples):
        ids[row, : len(example)] = torch.tensor(example.prompt + example.answer)
        attention[row, : len(example)] = 1
        answer[row, len(example.prompt) : len(example)] = True
    answer_BT = answer[:, 1:]
    counts_B1 = answer_BT.sum(1, keepdim=True)
    mask_BA = torch.arange(int(counts_B1.max())) < counts_B1
    return Batch(
        ids[:, :-1].to(device),
        attention[:, :-1].to(device),
        answer_BT.to(device),
        ids[:, 1:].to(device),
        mask_BA.to(device),
    )


def by_length(examples: Sequence[Example], size: int) -> list[list[int]]:
    """Indices of examples in batches of similar length: little padding."""
    order = sorted(range(len(examples)), key=lambda index: (len(examples[index]), index))
    return [order[start : start + size] for start in range(0, len(order), size)]
