"""Forward passes of a model under training, as they are asked for and answered.

Who trains is a generator: it yields the pass it needs (`Asked`) and is sent what came of it (`Current`), or yields a
loss and is resumed once gradients are there. `alone` answers with one model; `packing` answers several trials at once.

Shape suffixes: N answer tokens one row after the other, V vocabulary, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from trials.encoding import Batch, Example
from trials.logits import answer_ce, answer_states
from trials.losses import token_ce


@dataclass(frozen=True)
class Asked:
    """A forward pass that somebody is to make.

    Attributes:
        examples: Whose answer tokens are looked at.
        logits: Whether logits are looked at, not cross-entropies alone.
        layer: Whose hidden states are looked at; None: of no layer.
        gradient: Whether a loss goes back through it.
    """

    examples: Sequence[Example]
    logits: bool
    layer: int | None
    gradient: bool

    @property
    def tokens(self) -> int:
        """Answer tokens."""
        return sum(len(example.answer) for example in self.examples)


@dataclass(frozen=True)
class Current:
    """What came of a pass; None is what was not asked for."""

    logits_NV: Tensor | None
    ce_N: Tensor
    hidden_NH: Tensor | None
    target_N: Tensor

    def split(self, sizes: list[int]) -> list[Current]:
        """Cut apart into so many tokens each."""
        columns = [
            [None] * len(sizes) if column is None else column.split(sizes)
            for column in (self.logits_NV, self.ce_N, self.hidden_NH, self.target_N)
        ]
        return [Current(*part) for part in zip(*columns, strict=True)]


T = TypeVar("T")
Asking = Generator[Asked | Tensor, Current | None, T]
"""What ends in a T, and on its way asks for passes, or for the way back from a loss."""


def answer(asked: Asked) -> Asking[Current]:
    """Asks for a pass.

    Raises:
        ValueError: Whoever was asked has sent nothing.
    """
    current = yield asked
    if current is None:
        raise ValueError("a pass was asked for and nothing came of it; send a Current")
    return current


def alone(asking: Asking[T], passing: Callable[[Asked], Current]) -> T:
    """Answers each pass by itself, to the end."""
    current: Current | None = None
    while True:
        try:
            asked = asking.send(current)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        if isinstance(asked, Asked):
            current = passing(asked)
        else:
            asked.backward()
            current = None


def passed(model: Any, batch: Batch, asked: Asked) -> Current:
    """The pass that was asked for, over its examples as a batch."""
    with torch.set_grad_enabled(asked.gradient):
        if not asked.logits and asked.layer is None:
            return Current(None, answer_ce(model, batch), None, batch.target_N)
        logits_NV, hidden_NH = answer_states(model, batch, asked.layer)
        return Current(logits_NV, token_ce(logits_NV, batch.target_N), hidden_NH, batch.target_N)
