"""Logits that are made when they are looked at: under a linear head a chunk of rows at a time, forward and backward.

Shape suffixes: N answer tokens one row after the other, M those of a chunk, V vocabulary, H hidden size, X either.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from trials.losses import token_ce

LOGITS = 2**24
"""Most logits of one chunk."""

_CACHED, _LEAST_ROWS = 2**20, 128  # on a CPU: logits that stay in its caches; fewer rows multiply slowly

Formula = Callable[..., Tensor]
"""Logits MV, and whatever is given of the same rows -> a value of each row, shape M. No row looks at another."""


@dataclass(frozen=True, eq=False)
class Logits:
    """Logits of shape NV: what a linear head makes of hidden states, or where there is no such head, themselves.

    Attributes:
        rows_NX: What the head is given; without a head, the logits.
        weight_VH: The head's weight, if there is a head.
        bias_V: The head's bias, if it has one.
    """

    rows_NX: Tensor
    weight_VH: Tensor | None = None
    bias_V: Tensor | None = None

    def __getitem__(self, part: slice) -> Logits:
        return replace(self, rows_NX=self.rows_NX[part])

    def split(self, sizes: list[int]) -> list[Logits]:
        """Cut apart into so many rows each."""
        return [replace(self, rows_NX=part) for part in self.rows_NX.split(sizes)]

    def whole(self) -> Tensor:
        """All of them at once, in fp32 or better."""
        if self.weight_VH is None:
            return self.rows_NX
        return _projected(self.rows_NX.to(self.weight_VH.device), self.weight_VH, self.bias_V).to(self.rows_NX.device)

    def chunks(self, most: int = LOGITS) -> Iterator[Tensor]:
        """All of them, one chunk of rows of at most so many after the other."""
        for part in _parts(self.rows_NX, self._rows(most)):
            yield self[part].whole()

    def ce(self, target_N: Tensor, *, most: int = LOGITS) -> Tensor:
        """`each` of `token_ce`: the cross-entropy of each target.

        In half precision on CUDA the kernel of cut-cross-entropy (arXiv 2411.09009) makes it, where the extra `gpu` is
        installed.
        """
        weight_VH, half = self.weight_VH, self.rows_NX.is_cuda and self.rows_NX.itemsize == 2
        if half and weight_VH is not None and self.bias_V is None and (kernel := fused_ce()):
            rows_NH, targets_N = self.rows_NX.to(weight_VH.device), target_N.to(weight_VH.device)
            fused_N: Tensor = kernel(rows_NH, weight_VH, targets_N, reduction="none", filter_eps=None)
            return fused_N.to(self.rows_NX.device).float()
        return self.each(token_ce, target_N, most=most)

    def each(self, formula: Formula, *given: Tensor | Logits, most: int = LOGITS) -> Tensor:
        """What a formula makes of each row, shape N: under a head, never more than `most` logits are there at once.

        Under a frozen head, the gradient by a hidden state is a known vector times the gradient by the row's value: the
        forward pass makes that vector, and nothing is projected again. Else a chunk's logits are made again in the
        backward pass: one projection more.

        Args:
            formula: Of logits and of what is given.
            given: Of N rows each, without gradient. The formula gets a chunk of each; of `Logits`, as a tensor.
            most: Logits of one chunk; a row of them is the least.
        """
        if self.weight_VH is None:
            return formula(self.rows_NX, *_of(given, slice(None), self.rows_NX.device))
        hidden_NH, work = self.rows_NX.to(self.weight_VH.device), _Work(formula, given, self._rows(most))
        head = [part for part in (self.weight_VH, self.bias_V) if part is not None]
        trained = torch.is_grad_enabled() and any(part.requires_grad for part in head)
        frozen = torch.is_grad_enabled() and not trained and hidden_NH.requires_grad
        if frozen or (trained and len(hidden_NH) > work.rows):
            way = _UnderTrained if trained else _UnderFrozen
            value_N: Tensor = way.apply(hidden_NH, self.weight_VH, self.bias_V, work)  # type: ignore[no-untyped-call]
        else:  # without gradient, or of one chunk, whose logits are kept for the way back
            value_N = work.values(hidden_NH, self.weight_VH, self.bias_V)
        return value_N.to(self.rows_NX.device)

    def _rows(self, most: int) -> int:
        """Rows whose logits are made at once: of `most` logits, and no more than is fast."""
        weight_VH = self.weight_VH
        vocabulary = self.rows_NX.shape[1] if weight_VH is None else weight_VH.shape[0]
        rows = max(1, most // vocabulary)
        if weight_VH is None or weight_VH.is_cuda:
            return rows
        return min(rows, max(_LEAST_ROWS, _CACHED // vocabulary))


@dataclass(frozen=True, eq=False)
class _Work:
    """A formula, what is given to it, and how many rows of it are worked off at once."""

    formula: Formula
    given: Sequence[Tensor | Logits]
    rows: int

    def values(self, hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None) -> Tensor:
        """Of the formula, shape N."""
        values = []
        for part in _parts(hidden_NH, self.rows):
            logits_MV = _projected(hidden_NH[part], weight_VH, bias_V)
            values.append(self.formula(logits_MV, *_of(self.given, part, logits_MV.device)))
        return torch.cat(values)

    def with_gradient(self, logits_MV: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        """Values of a part, shape M, and the gradient of each by its row of logits."""
        given = _of(self.given, part, logits_MV.device)
        if self.formula is token_ce:  # softmax - one-hot by hand: 4/5 of the time on a CPU, and the usual case
            log_p_MV, (target_M,) = logits_MV.log_softmax(-1), given
            place = torch.arange(len(log_p_MV), device=target_M.device), target_M
            ce_M = -log_p_MV[place]
            by_logits_MV = log_p_MV.exp_()
            by_logits_MV[place] -= 1
            return ce_M, by_logits_MV
        leaf_MV = logits_MV.detach().requires_grad_()
        with torch.enable_grad():
            value_M = self.formula(leaf_MV, *given)
        (by_logits_MV,) = torch.autograd.grad(value_M, leaf_MV, torch.ones_like(value_M))
        return value_M.detach(), by_logits_MV


class _UnderFrozen(torch.autograd.Function):
    """`Logits.each` under a frozen head: forward keeps what the head's weight makes of the gradients by logits."""

    @staticmethod
    def forward(ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, work: _Work) -> Tensor:
        values, by_hidden_NH = [], torch.empty_like(hidden_NH)
        for part in _parts(hidden_NH, work.rows):
            value_M, by_logits_MV = work.with_gradient(_projected(hidden_NH[part], weight_VH, bias_V), part)
            values.append(value_M)
            torch.mm(by_logits_MV.to(weight_VH.dtype), weight_VH, out=by_hidden_NH[part])
        ctx.save_for_backward(by_hidden_NH)
        return torch.cat(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor | None, ...]:
        (by_hidden_NH,) = ctx.saved_tensors
        return (by_hidden_NH * grad_N[:, None]).to(by_hidden_NH.dtype), None, None, None


class _UnderTrained(torch.autograd.Function):
    """`Logits.each` under a head that is trained: backward makes the logits again."""

    @staticmethod
    def forward(ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, work: _Work) -> Tensor:
        ctx.save_for_backward(hidden_NH, weight_VH, bias_V)
        ctx.work = work
        return work.values(hidden_NH, weight_VH, bias_V)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor | None, ...]:
        hidden_NH, weight_VH, bias_V = ctx.saved_tensors
        leaves = zip((hidden_NH, weight_VH, bias_V), ctx.needs_input_grad, strict=False)
        by_hidden_NH, by_weight_VH, by_bias_V = (torch.zeros_like(leaf) if asked else None for leaf, asked in leaves)
        for part in _parts(hidden_NH, ctx.work.rows):
            by_logits_MV = ctx.work.with_gradient(_projected(hidden_NH[part], weight_VH, bias_V), part)[1]
            by_logits_MV = by_logits_MV.mul_(grad_N[part, None]).to(weight_VH.dtype)
            if by_hidden_NH is not None:
                by_hidden_NH[part] = by_logits_MV @ weight_VH
            if by_weight_VH is not None:  # in place: a sum of whole gradients would need room for another one
                by_weight_VH.addmm_(by_logits_MV.T, hidden_NH[part])
            if by_bias_V is not None:
                by_bias_V += by_logits_MV.sum(0)
        return by_hidden_NH, by_weight_VH, by_bias_V, None


def _projected(hidden_MH: Tensor, weight_VH: Tensor, bias_V: Tensor | None) -> Tensor:
    logits_MV = linear(hidden_MH, weight_VH, bias_V)
    return logits_MV.to(torch.promote_types(logits_MV.dtype, torch.float32))


def _parts(rows_NX: Tensor, rows: int) -> list[slice]:
    """So many rows after the other; of no rows, one part."""
    return [slice(start, start + rows) for start in range(0, max(1, len(rows_NX)), rows)]


def _of(given: Sequence[Tensor | Logits], part: slice, place: torch.device) -> list[Tensor]:
    """Some rows of what is given to a formula, as tensors."""
    cut = (each[part] for each in given)
    return [(each.whole() if isinstance(each, Logits) else each).to(place) for each in cut]


@functools.cache
def fused_ce() -> Callable[..., Any] | None:
    """The kernel of cut-cross-entropy 25.1; None where it is not installed. Never run by us: we had no GPU."""
    try:
        from cut_cross_entropy import linear_cross_entropy
    except ImportError:
        return None
    return linear_cross_entropy  # type: ignore[no-any-return]
