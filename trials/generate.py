"""What models say: greedy continuations of prompts, in batches of similar length, with a cache of keys and values.

What is said does not depend on batch size or order, but for rounding: in bf16 two tokens that are nearly as likely may
change places.

Shape suffixes: B rows, T positions, V vocabulary.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from trials.encoding import Padding
from trials.logits import LogitDifference, positions_of
from trials.result import TrialFailed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Greedy:
    """How to generate.

    Attributes:
        ends: Tokens that end a continuation; none: it always has full length.
        max_new_tokens: Longest continuation.
        padding: How short prompts are filled; at the left, whatever its side.
        device: Of the model.
        batch_size: Prompts at a time.
    """

    ends: frozenset[int]
    max_new_tokens: int
    padding: Padding
    device: torch.device
    batch_size: int = 32


@torch.no_grad()
def generate(model: Any, prompts: Sequence[Tokens], settings: Greedy) -> list[Tokens]:
    """The most likely token again and again, until an end token or the longest continuation; one for each prompt.

    A continuation is shorter where the model has no positions for more. Settings of generation that a checkpoint brings
    (sampling, penalties, lengths) do not count, and the global random state stays as it is.

    Args:
        model: Of any kind that `answer_logits` takes, adapters included; in eval mode meanwhile.
        prompts: Token ids; the same prompt is continued once.
        settings: See `Greedy`.

    Returns:
        Token ids in the order given, without prompt and end token.

    Raises:
        TrialFailed: A prompt is empty, or fills all positions of the model.
    """
    spoken = model.target if isinstance(model, LogitDifference) else model
    if not isinstance(spoken, PreTrainedModel):
        spoken = spoken.get_base_model()  # peft puts its adapters into the layers of this
    limit = positions_of(model)
    said: dict[Tokens, Tokens] = {}
    with _as_asked(model, spoken):
        for length, batch in _batches(prompts, settings, limit):
            ids_BT, attention_BT = _left_padded(batch, settings)
            found_BT = spoken.generate(  # type: ignore[operator]
                ids_BT,
                attention_mask=attention_BT,
                logits_processor=LogitsProcessorList(
                    [_LessAssistant(model, attention_BT)] if isinstance(model, LogitDifference) else []
                ),
                generation_config=GenerationConfig(
                    do_sample=False,
                    use_cache=True,
                    max_new_tokens=length,
                    eos_token_id=sorted(settings.ends) or None,
                    pad_token_id=settings.padding.token,
                ),
            )
            for prompt, tokens in zip(batch, found_BT[:, ids_BT.shape[1] :].tolist(), strict=True):
                said[prompt] = tuple(itertools.takewhile(lambda token: token not in settings.ends, tokens))
    return [said[prompt] for prompt in prompts]


def text_of(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], stops: Sequence[str] = ()) -> str:
    """Tokens as text, without special tokens, up to the first of the stop texts, stripped of white space."""
    text = str(tokenizer.decode(list(ids), skip_special_tokens=True))
    for stop in stops:
        text = text.partition(stop)[0]
    return text.strip()


def _batches(prompts: Sequence[Tokens], settings: Greedy, limit: int) -> Iterator[tuple[int, list[Tokens]]]:
    """Distinct prompts of similar length, with the number of tokens that each of them is to be continued by.

    Prompts with less room than others are kept apart from them: who shares a batch must not matter.
    """
    for prompt in prompts:
        if not 0 < len(prompt) < limit:
            raise TrialFailed(
                f"a prompt of {len(prompt)} tokens cannot be continued by a model with {limit} positions; "
                "it must have at least one token and fewer than the model has positions"
            )
    ordered = sorted(set(prompts), key=lambda prompt: (len(prompt), prompt))
    for length, group in itertools.groupby(ordered, lambda prompt: min(settings.max_new_tokens, limit - len(prompt))):
        alike = list(group)
        for start in range(0, len(alike), settings.batch_size):
            yield length, alike[start : start + settings.batch_size]


def _left_padded(prompts: Sequence[Tokens], settings: Greedy) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask."""
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), settings.padding.token)
    attention = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        attention[row, width - len(prompt) :] = 1
    if settings.padding.hides:
        attention = (ids != settings.padding.token).long()
    return ids.to(settings.device), attention.to(settings.device)


@contextlib.contextmanager
def _as_asked(model: torch.nn.Module, spoken: PreTrainedModel) -> Iterator[None]:
    """In eval mode, and without the checkpoint's own settings, which would fill in all that ours leave open."""
    training, own = model.training, spoken.generation_config
    model.eval()
    spoken.generation_config = GenerationConfig()
    try:
        yield
    finally:
        spoken.generation_config = own
        model.train(training)


class _LessAssistant(LogitsProcessor):
    """Takes the assistant's weighted logits off the target's, one step after the other, with a cache of its own."""

    def __init__(self, difference: LogitDifference, attention_BT: Tensor) -> None:
        self.difference, self.attention_BT = difference, attention_BT
        self.cache: Any = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self.cache is not None:
            self.attention_BT = torch.nn.functional.pad(self.attention_BT, (0, 1), value=1)
            input_ids = input_ids[:, -1:]
        output = self.difference.assistant(
            input_ids=input_ids,
            attention_mask=self.attention_BT,
            position_ids=(self.attention_BT.cumsum(1) - 1).clamp(min=0)[:, -input_ids.shape[1] :],
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.cache = output.past_key_values
        assisted_BV: Tensor = output.logits[:, -1].float()
        return scores - self.difference.weight * assisted_BV
