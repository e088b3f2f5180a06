"""Forward passes that training needs, as they are asked for and answered.

Who trains is a generator: it yields the pass it needs (`Asked`) and is sent what came of it (`Current`), or yields a
loss and is resumed once gradients are there. `alone` answers one by one; `packing` answers several trials at once.

Shape suffixes: N answer tokens one row after the other, V vocabulary, H hidden size.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from trials.encoding import Batch, Example
from trials.heads import Logits
from trials.logits import answer_ce, deferred_logits, linear_head

PASS = 256
"""What a pass costs, whatever it passes, in tokens (estimated: 70 on a CPU, some hundreds on a GPU)."""


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

    @classmethod
    def joined(cls, parts: Sequence[Current], place: Sequence[int]) -> Current:
        """Of several parts together, the tokens reordered: the one at `place[n]` of the parts becomes the nth."""
        targets = [part.target_N for part in parts]
        place_N = torch.tensor(place, device=targets[0].device)

        def column(name: str) -> Any:
            found = [getattr(part, name) for part in parts]
            if found[0] is None:
                return None
            if isinstance(found[0], Logits):
                return replace(found[0], rows_NX=torch.cat([each.rows_NX for each in found])[place_N])
            return torch.cat(found)[place_N]

        return cls(torch.cat(targets)[place_N], *map(column, ("logits_NV", "hidden_NH", "only_ce_N")))


Batched = Callable[[Sequence[Example]], Batch]
"""Makes a batch of examples."""

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


def passed(model: Any, batched: Batched, asked: Asked) -> Current:
    """What was asked for, from as many passes as are worth their while (`in_parts`)."""
    if asked.logits and linear_head(model, batched(asked.examples[:1])) is None:
        return one_pass(model, batched(asked.examples), asked)  # whole logits of all parts would be there twice
    return in_parts([asked.examples], lambda examples, _: one_pass(model, batched(examples), asked))


def one_pass(model: Any, batch: Batch, asked: Asked) -> Current:
    """One pass over a batch, of what was asked for."""
    with torch.set_grad_enabled(asked.gradient):
        if not asked.logits and asked.layer is None:
            return Current(batch.target_N, None, None, answer_ce(model, batch))
        logits_NV, hidden_NH = deferred_logits(model, batch, asked.layer)
        return Current(batch.target_N, logits_NV, hidden_NH, None)


def in_parts(groups: Sequence[Sequence[Example]], one: Callable[[Sequence[Example], list[int]], Current]) -> Current:
    """What `one` makes of the rows of all groups, one group after the other, in the order given.

    Rows of similar length pass together, apart from the others, where that saves more padding than a pass costs. A part
    has equally many rows of each group, for one batched product of their adapters; so groups of unequal size are not
    parted.

    Args:
        groups: Rows of one or several who ask.
        one: Passes rows of all groups, so many of each.
    """
    rows = [example for group in groups for example in group]
    orders = [sorted(range(len(group)), key=lambda row: -len(group[row])) for group in groups]
    if len({len(order) for order in orders}) > 1:
        return one(rows, [len(group) for group in groups])
    falling = (sorted(map(len, group), reverse=True) for group in groups)
    parts = cuts([max(lengths) for lengths in zip(*falling, strict=True)], len(groups))
    if len(parts) == 1:
        return one(rows, [len(group) for group in groups])
    chosen = [
        [number * len(order) + row for number, order in enumerate(orders) for row in sorted(order[part])]
        for part in parts
    ]
    found = [one([rows[index] for index in part], [len(part) // len(groups)] * len(groups)) for part in chosen]
    passed_at, at = {}, 0
    for index in itertools.chain(*chosen):
        passed_at[index] = range(at, at := at + len(rows[index].answer))
    return Current.joined(found, [place for index in range(len(rows)) for place in passed_at[index]])


def cuts(lengths: Sequence[int], each: int) -> list[slice]:
    """How to part rows so that their passes cost least, padding included.

    Args:
        lengths: Of rows, the longest first.
        each: Rows of each of these lengths.
    """
    if each * (lengths[0] * len(lengths) - sum(lengths)) <= PASS:  # most often, and it need not be searched for
        return [slice(0, len(lengths))]
    best: list[tuple[int, int]] = [(0, 0)]  # of the first n: what they cost, and where their last part begins
    for stop in range(1, len(lengths) + 1):
        starts = range(stop)
        best.append(min((best[i][0] + PASS + each * lengths[i] * (stop - i), i) for i in starts))
    parts, stop = [], len(lengths)
    while stop:
        start = best[stop][1]
        parts.append(slice(start, stop))
        stop = start
    return parts[::-1]
