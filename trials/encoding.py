"""Rows to token ids: prompt and answer with an exact border, the end token, batches.

A text is tokenised as a whole, as it was when the model was trained, and the tokens that end beyond the border are its
answer. Where that would change the prompt's own tokens (a merge reaches over the border) the two are tokenised apart:
an answer that is given is measured behind the very tokens that generation starts from.

Everything is shifted once, here: a batch's inputs are all tokens but the last, `target_BT` holds the next token of
each position, and `answer_BT` is True where that next token belongs to the answer (its end token included).

Shape suffixes: B rows, T positions, A answer positions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, takewhile
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from trials.prompts import AUTO, ChatPrompt, Prompt
from trials.wording import Wording, closing, resolved, word
from trials.wording import plain_text as plain_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from trials.benchmarks import Row


@dataclass(frozen=True)
class Example:
    """Token ids of one row.

    Attributes:
        prompt: At least one token.
        answer: At least one token; the last is an end token if `ended`.
        ended: False for raw text, which runs on.
        start: How many tokens of the prompt are not of its text, but open every text of this tokenizer.
    """

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    ended: bool = True
    start: int = field(default=0, compare=False)

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


@dataclass(frozen=True)
class Padding:
    """How short rows are filled.

    Attributes:
        token: What with.
        hides: Hide every token that equals it from attention, real end tokens too, as OpenUnlearning does; else only
            those that fill.
        side: Where.
    """

    token: int
    hides: bool = False
    side: Literal["right", "left"] = "right"


@dataclass(frozen=True)
class Batch:
    """Padded examples on a device.

    Attributes:
        input_BT: Token ids.
        attention_BT: 1 on tokens, 0 on padding and whatever else is hidden.
        answer_BT: True where the next token is of the answer.
        target_BT: The next token.
        mask_BA: True on answer tokens, rows aligned at the left: the shape in which losses and weights live.
        position_BT: Where each token stands among those that are not hidden, from 0, as in generation; None for
            padding at the right, which leaves a model's own positions as they are.
    """

    input_BT: Tensor
    attention_BT: Tensor
    answer_BT: Tensor
    target_BT: Tensor
    mask_BA: Tensor
    position_BT: Tensor | None = None

    @property
    def target_N(self) -> Tensor:
        """The answer tokens of all rows, one after the other."""
        return self.target_BT[self.answer_BT]

    def rows(self, values_N: Tensor) -> Tensor:
        """Values of answer tokens, one after the other, as a BA tensor, zero on padding."""
        return values_N.new_zeros(self.mask_BA.shape).masked_scatter(self.mask_BA, values_N)


PREDICTED = 4096
"""Answer tokens of a pass: each is a row of logits over the vocabulary, 0.5 MB in fp32 for one of 128,000 tokens."""

# -- rows to tokens ----------------------------------------------------------------------------------------------------

Ranges = tuple[tuple[int, int], ...]
"""Of each token the characters [start, end) that it stands for; (0, 0) where the tokenizer does not tell."""


def encode(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], prompt: Prompt = AUTO) -> list[Example]:
    """Token ids of rows, one example each.

    Args:
        tokenizer: The model's.
        rows: Questions with answers. In verbatim ones question and answer are one raw text without an end token, and
            where there is neither a question nor a start token the first token is the prompt.
        prompt: How the other questions are put.

    Raises:
        ValueError: The chat template does not fit, or a verbatim row has no answer token.
    """
    return [example for example, _ in tokenised(tokenizer, rows, prompt)]


def tokenised(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], prompt: Prompt
) -> Iterator[tuple[Example, Ranges]]:
    """What `encode` gives, and the range in `Row.answer` of each answer token but the end token.

    A token that begins before the answer's text (with a blank, say) begins below 0.
    """
    chosen = resolved(tokenizer, prompt)
    end = closing(tokenizer, chosen)
    wordings = word(tokenizer, rows, chosen, end)
    start = _start(tokenizer)
    wholes = _tokens(tokenizer, [wording.whole for wording in wordings])
    prompts = _tokens(tokenizer, [wording.whole[: wording.border] for wording in wordings])
    for row, wording, (ids, ranges), (asked, _) in zip(rows, wordings, wholes, prompts, strict=True):
        count = sum(stop <= wording.border for _, stop in ranges)
        if wording.cuts or ids[:count] != asked:
            ids, ranges, count = _apart(tokenizer, wording)
        is_chat = isinstance(chosen, ChatPrompt) and not row.verbatim  # its template writes the start token
        opening = () if is_chat or ids[: len(start)] == start else start
        count = count if opening or count else 1  # nothing is predicted from nothing
        ends = () if row.verbatim or end.token is None else (end.token,)
        example = Example(opening + ids[:count], ids[count:] + ends, bool(ends), len(opening))
        if not (example.prompt and example.answer):
            raise ValueError(f"the text {wording.whole[:60]!r} leaves no token to be predicted; remove its row")
        yield example, tuple((low - wording.answer, high - wording.answer) for low, high in ranges[count:])


def end_tokens(
    tokenizer: PreTrainedTokenizerBase, prompt: Prompt, generation_eos: Sequence[int] = ()
) -> frozenset[int]:
    """All tokens that end an answer: the tokenizer's, the model's own, and what a chat template puts behind a turn."""
    end = closing(tokenizer, resolved(tokenizer, prompt)).token
    return frozenset(token for token in (tokenizer.eos_token_id, end, *generation_eos) if token is not None)


def _tokens(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[tuple[tuple[int, ...], Ranges]]:
    """Tokens of texts, without what the tokenizer puts around each."""
    if not texts:
        return []
    fast = getattr(tokenizer, "is_fast", False)  # some kinds do not have the property
    found = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=fast, verbose=False)
    ids = [tuple(each) for each in found["input_ids"]]
    ranges = found["offset_mapping"] if fast else [[(0, 0)] * len(each) for each in ids]
    return list(zip(ids, map(tuple, ranges), strict=True))


def _apart(tokenizer: PreTrainedTokenizerBase, wording: Wording) -> tuple[tuple[int, ...], Ranges, int]:
    """Tokens of a text of which none reaches over the border or a cut, and how many are the prompt's."""
    ids: tuple[int, ...] = ()
    ranges: Ranges = ()
    count = 0
    for low, high in pairwise(sorted({0, wording.border, *wording.cuts, len(wording.whole)})):
        piece = wording.whole[low:high]
        # SentencePiece puts a blank before a text; what goes on from another is tokenised behind a line break instead.
        lead, (both, places) = _tokens(tokenizer, ["\n", f"\n{piece}"])
        size, shift = len(lead[0]), low - 1
        if low == 0 or (both[:size], places[:size]) != lead:
            size, shift = 0, low
            ((both, places),) = _tokens(tokenizer, [piece])
        ids += both[size:]
        ranges += tuple((start + shift, stop + shift) for start, stop in places[size:])
        count = len(ids) if high <= wording.border else count
    return ids, ranges, count


def _start(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """What the tokenizer puts before each text."""
    found = tokenizer("a", return_special_tokens_mask=True)
    added = takewhile(lambda pair: pair[1], zip(found["input_ids"], found["special_tokens_mask"], strict=True))
    return tuple(token for token, _ in added)


# -- long texts --------------------------------------------------------------------------------------------------------


def cut(examples: Iterable[Example], size: int) -> list[Example]:
    """Examples with raw text of more than `size` tokens in consecutive pieces of at most that many.

    Each token of an answer is in the answer of one piece; but where nothing opens every text, a piece's first token is
    its prompt.

    Raises:
        ValueError: There is no room for a prompt and two tokens more.
    """
    return [piece for example in examples for piece in _pieces(example, size)]


def _pieces(example: Example, size: int) -> Iterator[Example]:
    if example.ended or len(example) <= size:
        yield example
        return
    _check_room(example, size, 2)
    prompt, rest = example.prompt, example.answer
    while rest:
        prompt, rest = (prompt, rest) if prompt else (rest[:1], rest[1:])
        room = size - len(prompt)
        if not example.start and len(rest) == room + 1:
            room -= 1  # one token that is left over could only be a prompt
        yield Example(prompt, rest[:room], ended=False, start=example.start)
        prompt, rest = example.prompt[: example.start], rest[room:]


def truncated(example: Example, size: int) -> Example:
    """The first `size` tokens of an example.

    Raises:
        ValueError: There is no room for a token of the answer.
    """
    if len(example) <= size:
        return example
    _check_room(example, size, 1)
    return Example(example.prompt, example.answer[: size - len(example.prompt)], ended=False, start=example.start)


def _check_room(example: Example, size: int, least: int) -> None:
    needed = len(example.prompt) + least
    if size < needed:
        raise ValueError(f"pieces of {size} tokens have no room for a prompt of {needed - least} and an answer; "
                         f"raise the chunk size to {needed} or more")  # fmt: skip


# -- batches -----------------------------------------------------------------------------------------------------------


def collate(examples: Sequence[Example], padding: Padding, device: torch.device) -> Batch:
    """One padded batch, shifted."""
    width = max(map(len, examples))
    ids = torch.full((len(examples), width), padding.token)
    real = torch.zeros(ids.shape, dtype=torch.bool)
    answer = torch.zeros_like(real)
    for row, example in enumerate(examples):
        stop = width if padding.side == "left" else len(example)
        start = stop - len(example)
        ids[row, start:stop] = torch.tensor(example.prompt + example.answer)
        real[row, start:stop] = True
        answer[row, start + len(example.prompt) : stop] = True
    attention_BT = (real & (ids != padding.token) if padding.hides else real)[:, :-1].long()
    answer_BT = answer[:, 1:]
    counts_B1 = answer_BT.sum(1, keepdim=True)
    mask_BA = torch.arange(int(counts_B1.max())) < counts_B1
    return Batch(
        ids[:, :-1].to(device),
        attention_BT.to(device),
        answer_BT.to(device),
        ids[:, 1:].to(device),
        mask_BA.to(device),
        (attention_BT.cumsum(1) - 1).clamp(min=0).to(device) if padding.side == "left" else None,
    )


def by_length(examples: Sequence[Example], size: int, predicted: int | None = None) -> list[list[int]]:
    """Indices of examples in batches of similar length: little padding.

    Args:
        examples: To be shared out.
        size: Most examples of a batch.
        predicted: Most answer tokens of a batch, where it has more than one example; None: as many as there are.
    """
    batches: list[list[int]] = []
    room = 0
    for index in sorted(range(len(examples)), key=lambda index: (len(examples[index]), index)):
        tokens = len(examples[index].answer)
        if not batches or len(batches[-1]) == size or (predicted is not None and tokens > room):
            batches.append([])
            room = predicted or 0
        batches[-1].append(index)
        room -= tokens
    return batches
