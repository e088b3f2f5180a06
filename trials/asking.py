"""Forward passes that training needs, as they are asked for and answered.

Who trains is a generator: it yields the pass it needs (`Asked`) and is sent what came of it (`Current`), or yields a
loss and is resumed once gradients are there. `alone` answers one by one; `packing` answers several trials at once.

Shape suffixes: N answer tokens one row after the other, V vocabulary, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from trials.encoding import Batch, Example
from trials.heads import Logits
from trials.logits import answer_ce, deferred_logits


@dataclass(frozen=True)
class Asked:
    """A forward pass that somebody is to make.

    Attributes:
        examples: Whose answer tokens are looked at.
        logits: Whether logits are looked at, not cross-entropies alone.
        layer: Whose hidden states are looked at; None: of no layer.
        gradient: Whether a loss goes back through it.
        reference: Whether it is a pass of the reference model, not of the one that is trained.
    """

    examples: Sequence[Example]
    logits: bool
    layer: int | None
    gradient: bool
    reference: bool = False

    @property
    def tokens(self) -> int:
        """Answer tokens."""
        return sum(len(example.answer) for example in self.examples)


@dataclass(frozen=True)
class Current:
    """What came of a pass; None is what was not asked for.

    Attributes:
        target_N: Token ids.
        logits_NV: Made when they are looked at.
        hidden_NH: Hidden states of the layer.
        only_ce_N: Cross-entropies, where no logits were asked for.
    """

    target_N: Tensor
    logits_NV: Logits | None
    hidden_NH: Tensor | None
    only_ce_N: Tensor | None

    @cached_property
    def ce_N(self) -> Tensor:
        """Cross-entropies in nats."""
        if self.only_ce_N is not None:
            return self.only_ce_N
        return self.need_logits().ce(self.target_N)

    def need_logits(self) -> Logits:
        """The logits.

        Raises:
            ValueError: They were not asked for.
        """
        if self.logits_NV is None:
            raise ValueError("logits are looked at and were not asked for; ask for them")
        return self.logits_NV

    def split(self, sizes: list[int]) -> list[Current]:
        """Cut apart into so many tokens each."""
        columns = [
            [None] * len(sizes) if column is None else column.split(sizes)
            for column in (self.target_N, self.logits_NV, self.hidden_NH, self.only_ce_N)
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
            return Current(batch.target_N, None, None, answer_ce(model, batch))
        logits_NV, hidden_NH = deferred_logits(model, batch, asked.layer)
        return Current(batch.target_N, logits_NV, hidden_NH, None)
