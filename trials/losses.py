"""Logits, or the hidden states under a linear head, to cross-entropies; and the retain terms.

Every term is the *share of one micro-batch* in the loss of a whole optimiser step: a sum over the micro-batch divided
by a count of the step. Accumulating micro-batches therefore gives the gradient of the big batch, whatever the
micro-batch size and however unequal the lengths.

Shape suffixes: N answer tokens one row after the other, V vocabulary, H hidden size.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy, linear

LOGITS = 2**24
"""Most logits of one chunk of `linear_ce`."""

_CACHED, _LEAST_ROWS = 2**20, 128  # on a CPU: logits that stay in its caches; fewer rows multiply slowly

PUBLISHED_LENGTH = 499
"""Positions over which the published code averages, whatever is supervised: `padded_mean` reproduces it."""


def count_of(reduction: str, *, tokens: int, rows: int) -> int:
    """What a sum over the answer tokens of a step is divided by.

    token_mean: its tokens; instance_mean_of_sums: its rows; token_sum: 1; padded_mean: rows times PUBLISHED_LENGTH.
    """
    padded = rows * PUBLISHED_LENGTH
    return {"token_mean": tokens, "instance_mean_of_sums": rows, "token_sum": 1, "padded_mean": padded}[reduction]


def token_ce(logits_NV: Tensor, target_N: Tensor) -> Tensor:
    """Cross-entropy -log p of each target in nats, fp32 or better, shape N."""
    return cross_entropy(logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32)), target_N, reduction="none")


def linear_ce(
    hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, target_N: Tensor, *, most: int = LOGITS
) -> Tensor:
    """`token_ce` of the logits of a linear head, by chunks of rows: never more than `most` logits are there at once.

    Under a frozen head, the gradient by a hidden state is a known vector times the gradient by its cross-entropy: the
    forward pass makes that vector, and nothing is projected again. Else a chunk's logits are made again in the backward
    pass: one projection more. In half precision on CUDA the kernel of cut-cross-entropy (arXiv 2411.09009) does the
    same, where the extra `gpu` is installed.

    Args:
        hidden_NH: What the head is given.
        weight_VH: The head's weight.
        bias_V: The head's bias, if it has one.
        target_N: Token ids.
        most: Logits of one chunk; a row of them is the least.
    """
    if hidden_NH.is_cuda and hidden_NH.itemsize == 2 and bias_V is None and (kernel := fused_ce()):
        fused_N: Tensor = kernel(hidden_NH, weight_VH, target_N, reduction="none", filter_eps=None)
        return fused_N.float()

    rows = chunk_rows(weight_VH, most)
    head = [each for each in (weight_VH, bias_V) if each is not None]
    trained = torch.is_grad_enabled() and any(each.requires_grad for each in head)
    frozen = torch.is_grad_enabled() and not trained and hidden_NH.requires_grad
    if trained and len(hidden_NH) <= rows:
        return token_ce(linear(hidden_NH, weight_VH, bias_V), target_N)
    if trained or frozen:
        way = _ChunkedCE if trained else _FrozenCE
        chunked_N: Tensor = way.apply(hidden_NH, weight_VH, bias_V, target_N, rows)  # type: ignore[no-untyped-call]
        return chunked_N
    return _ce_of_chunks(hidden_NH, weight_VH, bias_V, target_N, rows)


def chunk_rows(weight_VH: Tensor, most: int) -> int:
    """Rows of hidden states that are projected at once: of `most` logits, and no more than is fast."""
    vocabulary = weight_VH.shape[0]
    rows = max(1, most // vocabulary)
    return rows if weight_VH.is_cuda else min(rows, max(_LEAST_ROWS, _CACHED // vocabulary))


def _ce_of_chunks(hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, target_N: Tensor, rows: int) -> Tensor:
    chunks = zip(hidden_NH.split(rows), target_N.split(rows), strict=True)
    return torch.cat([token_ce(linear(rows_MH, weight_VH, bias_V), target_M) for rows_MH, target_M in chunks])


class _FrozenCE(torch.autograd.Function):
    """`linear_ce` under a frozen head: of softmax - one-hot, forward keeps what the head's weight makes of it."""

    @staticmethod
    def forward(
        ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, target_N: Tensor, rows: int
    ) -> Tensor:
        ce_of_chunks, by_hidden_NH = [], torch.empty_like(hidden_NH)
        chunks = zip(*(each.split(rows) for each in (hidden_NH, target_N, by_hidden_NH)), strict=True)
        for hidden_MH, target_M, by_hidden_MH in chunks:
            logits_MV = linear(hidden_MH, weight_VH, bias_V)
            log_p_MV = logits_MV.to(torch.promote_types(logits_MV.dtype, torch.float32)).log_softmax(-1)
            place = torch.arange(len(log_p_MV), device=target_M.device), target_M
            ce_of_chunks.append(-log_p_MV[place])
            by_logits_MV = log_p_MV.exp_()
            by_logits_MV[place] -= 1
            torch.mm(by_logits_MV.to(weight_VH.dtype), weight_VH, out=by_hidden_MH)
        ctx.save_for_backward(by_hidden_NH)
        return torch.cat(ce_of_chunks)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor | None, ...]:
        (by_hidden_NH,) = ctx.saved_tensors
        return (by_hidden_NH * grad_N[:, None]).to(by_hidden_NH.dtype), None, None, None, None


class _ChunkedCE(torch.autograd.Function):
    """`linear_ce` under a head that is trained; the gradient of a cross-entropy by its logits is softmax - one-hot."""

    @staticmethod
    def forward(
        ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, target_N: Tensor, rows: int
    ) -> Tensor:
        ctx.save_for_backward(hidden_NH, weight_VH, bias_V, target_N)
        ctx.rows = rows
        return _ce_of_chunks(hidden_NH, weight_VH, bias_V, target_N, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor | None, ...]:
        hidden_NH, weight_VH, bias_V, target_N = ctx.saved_tensors
        leaves = zip((hidden_NH, weight_VH, bias_V), ctx.needs_input_grad, strict=False)
        by_hidden_NH, by_weight_VH, by_bias_V = (torch.zeros_like(leaf) if asked else None for leaf, asked in leaves)
        for start in range(0, len(hidden_NH), ctx.rows):
            part = slice(start, start + ctx.rows)
            by_logits_MV = linear(hidden_NH[part], weight_VH, bias_V).to(grad_N.dtype).softmax(-1)
            by_logits_MV[torch.arange(len(by_logits_MV), device=target_N.device), target_N[part]] -= 1
            by_logits_MV = by_logits_MV.mul_(grad_N[part, None]).to(weight_VH.dtype)
            if by_hidden_NH is not None:
                by_hidden_NH[part] = by_logits_MV @ weight_VH
            if by_weight_VH is not None:  # in place: a sum of whole gradients would need room for another one
                by_weight_VH.addmm_(by_logits_MV.T, hidden_NH[part])
            if by_bias_V is not None:
                by_bias_V += by_logits_MV.sum(0)
        return by_hidden_NH, by_weight_VH, by_bias_V, None, None


@functools.cache
def fused_ce() -> Callable[..., Any] | None:
    """The kernel of cut-cross-entropy 25.1; None where it is not installed. Never run by us: we had no GPU."""
    try:
        from cut_cross_entropy import linear_cross_entropy
    except ImportError:
        return None
    return linear_cross_entropy  # type: ignore[no-any-return]


def retain_nll(ce_N: Tensor, *, count: float) -> Tensor:
    """Sum of cross-entropies over `count`: the answer tokens of the step for their mean, 1 for the sum."""
    return ce_N.sum() / count


def retain_kl(logits_NV: Tensor, reference_logits_NV: Tensor, *, tokens: int) -> Tensor:
    """KL(reference || current) averaged over the answer tokens of the step.

    *Differs from* the published code, which averages over prompts and padding too.
    """
    log_q_NV, log_p_NV = logits_NV.log_softmax(-1), reference_logits_NV.log_softmax(-1)
    return (log_p_NV.exp() * (log_p_NV - log_q_NV)).sum() / tokens


def retain_activation(hidden_NH: Tensor, reference_hidden_NH: Tensor, *, tokens: int) -> Tensor:
    """Squared distance of hidden states to the reference model's, mean of dimensions and tokens (arXiv 2403.03218)."""
    return (hidden_NH - reference_hidden_NH).square().mean(1).sum() / tokens


def retain_uniform(logits_NV: Tensor, *, tokens: int) -> Tensor:
    """KL(uniform || current) averaged over the answer tokens of the step: uld's assistant is to know none."""
    log_q_NV = logits_NV.log_softmax(-1)
    return -(log_q_NV.mean(-1) + math.log(log_q_NV.shape[-1])).sum() / tokens
