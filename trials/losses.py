"""Logits to a value of each answer token, and the retain terms.

Every term is the *share of one micro-batch* in the loss of a whole optimiser step: a sum over the micro-batch divided
by a count of the step. Accumulating micro-batches therefore gives the gradient of the big batch, whatever the
micro-batch size and however unequal the lengths.

Shape suffixes: N answer tokens one row after the other, V vocabulary, H hidden size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

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


def token_kl(logits_NV: Tensor, reference_logits_NV: Tensor) -> Tensor:
    """KL(reference || current) of each token in nats, shape N.

    As a retain term, averaged over the answer tokens of the step. *Differs from* the published code, which averages
    over prompts and padding too.
    """
    log_q_NV, log_p_NV = logits_NV.log_softmax(-1), reference_logits_NV.log_softmax(-1)
    return (log_p_NV.exp() * (log_p_NV - log_q_NV)).sum(-1)


def token_uniform(logits_NV: Tensor) -> Tensor:
    """KL(uniform || current) of each token in nats, shape N: as a retain term, uld's assistant is to know none."""
    log_q_NV = logits_NV.log_softmax(-1)
    return -(log_q_NV.mean(-1) + math.log(log_q_NV.shape[-1]))


def token_undial(logits_NV: Tensor, target_N: Tensor, reference_logits_NV: Tensor, *, strength: float) -> Tensor:
    """Cross-entropy to softmax(reference logits - strength at the target) of each token in nats, shape N."""
    target_N1 = target_N[:, None]
    lowering_N1 = reference_logits_NV.new_full(target_N1.shape, -strength)
    lowered_NV = reference_logits_NV.scatter_add(1, target_N1, lowering_N1)
    return -(lowered_NV.softmax(-1) * logits_NV.log_softmax(-1)).sum(-1)


def token_ihl(logits_NV: Tensor, target_N: Tensor) -> Tensor:
    """1 + p(target) - max over the other tokens of p, shape N."""
    p_NV, target_N1 = logits_NV.softmax(-1), target_N[:, None]
    other_N = p_NV.scatter(1, target_N1, -1.0).amax(1)
    return 1 + p_NV.gather(1, target_N1)[:, 0] - other_N


def retain_nll(ce_N: Tensor, *, count: float) -> Tensor:
    """Sum of cross-entropies over `count`: the answer tokens of the step for their mean, 1 for the sum."""
    return ce_N.sum() / count


def retain_activation(hidden_NH: Tensor, reference_hidden_NH: Tensor, *, tokens: int) -> Tensor:
    """Squared distance of hidden states to the reference model's, mean of dimensions and tokens (arXiv 2403.03218)."""
    return (hidden_NH - reference_hidden_NH).square().mean(1).sum() / tokens
