"""Logits to loss: the forget term, the retain term, and how token values become one number.

Every function returns the *share of one micro-batch* in the loss of a whole optimiser step: sums over the micro-batch
divided by counts of the step. Accumulating micro-batches therefore gives the gradient of the big batch, whatever the
micro-batch size and however unequal the lengths.

Shape suffixes: B rows, A answer tokens of a row (right-padded), N answer tokens one row after the other, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid

from trials.config import NPO, LossConfig, SimNPO
from trials.weighting import TokenStats, token_weights


def token_ce(logits_NV: Tensor, target_N: Tensor) -> Tensor:
    """Cross-entropy -log p of each target in nats, fp32 or better, shape N."""
    return cross_entropy(logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32)), target_N, reduction="none")


def forget_loss(
    ce_BA: Tensor,
    mask_BA: Tensor,
    loss: LossConfig,
    *,
    tokens: int,
    rows: int,
    reference_ce_BA: Tensor | None = None,
) -> Tensor:
    """The term to minimise on forget rows: a micro-batch's share in the step's.

    Reweightings: -sum(w * ce) / tokens, the mean over all answer tokens of the step, never divided by sum(w), which
    would undo saturation. npo, simnpo: their own means over the rows of the step.

    Args:
        ce_BA: Cross-entropies, with gradient.
        mask_BA: True on answer tokens.
        loss: Criterion and granularity.
        tokens: Answer tokens of the whole step.
        rows: Rows of the whole step.
        reference_ce_BA: Cross-entropies of the reference model; npo needs them.

    Returns:
        A scalar.
    """
    criterion = loss.criterion
    if isinstance(criterion, NPO):
        if reference_ce_BA is None:
            raise ValueError("npo compares with the reference model; pass reference_ce_BA")
        return npo(_sums(ce_BA, mask_BA), _sums(reference_ce_BA, mask_BA), beta=criterion.beta).sum() / rows
    if isinstance(criterion, SimNPO):
        mean_B = _sums(ce_BA, mask_BA) / mask_BA.sum(1).clamp_min(1)
        return simnpo(mean_B, beta=criterion.beta, margin=criterion.margin).sum() / rows
    weights_BA = token_weights(criterion, TokenStats(ce_BA, mask_BA), granularity=loss.granularity)
    return -(weights_BA * ce_BA.masked_fill(~mask_BA, 0.0)).sum() / tokens


def npo(sum_B: Tensor, reference_sum_B: Tensor, *, beta: float) -> Tensor:
    """-(2 / beta) * logsigmoid(beta * (s - s_ref)) per row, s the summed cross-entropy (arXiv 2404.05868, eq. 3)."""
    return -(2 / beta) * logsigmoid(beta * (sum_B - reference_sum_B))


def simnpo(mean_B: Tensor, *, beta: float, margin: float) -> Tensor:
    """-(2 / beta) * logsigmoid(beta * (m - margin)) per row, m the mean cross-entropy (arXiv 2410.07163, eq. 4).

    The margin stands inside beta, as in the published code; at margin 0, which all published settings have, its place
    makes no difference. *Differs from* that code: the length counts shifted targets, one less where the first token is
    supervised.
    """
    return -(2 / beta) * logsigmoid(beta * (mean_B - margin))


def retain_nll(ce_N: Tensor, *, tokens: int) -> Tensor:
    """Sum of cross-entropies over the answer tokens of the step: their mean once all micro-batches are added."""
    return ce_N.sum() / tokens


def retain_kl(logits_NV: Tensor, reference_logits_NV: Tensor, *, tokens: int) -> Tensor:
    """KL(reference || current) averaged over the answer tokens of the step.

    *Differs from* the published code, which averages over prompts and padding too.
    """
    log_q_NV, log_p_NV = logits_NV.log_softmax(-1), reference_logits_NV.log_softmax(-1)
    return (log_p_NV.exp() * (log_p_NV - log_q_NV)).sum() / tokens


def _sums(ce_BA: Tensor, mask_BA: Tensor) -> Tensor:
    return ce_BA.masked_fill(~mask_BA, 0.0).sum(1)
