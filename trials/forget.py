"""The forget term: what is minimised on forget rows, reweighting or not.

Every formula returns the *share of one micro-batch* in the loss of a whole optimiser step, as in `losses`. A
reweighting is `-sum(weight * cross-entropy)` over a count; the other objectives follow, named as their settings.

Shape suffixes: B rows, A answer tokens of a row (right-padded), R tokens of its refusal, N answer tokens one row after
the other, V vocabulary, H hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from trials.heads import Logits
from trials.losses import count_of, token_ihl, token_undial
from trials.objectives import DPO, FLAT, IDK, IHL, KTO, NPO, RMU, ULD, UNDIAL, LossConfig, SimNPO
from trials.pooling import token_weights
from trials.weighting import CriterionConfig, TokenStats, Uniform

_LOG_2, _UNIFORM = math.log(2), Uniform()


@dataclass(frozen=True)
class Refusals:
    """Cross-entropies of a refusal in place of each answer, under the current and the reference model.

    Attributes:
        ce_BR: In nats, with gradient.
        mask_BR: True on tokens of the refusal.
        reference_ce_BR: Without gradient; dpo and kto need it.
    """

    ce_BR: Tensor
    mask_BR: Tensor
    reference_ce_BR: Tensor | None = None


@dataclass(frozen=True)
class ForgetPass:
    """What a forget term may look at: one micro-batch of forget rows after the forward pass.

    Attributes:
        ce_BA: Cross-entropies in nats, with gradient; anything on padding.
        mask_BA: True on answer tokens.
        tokens: Answer tokens of the whole step.
        rows: Rows of the whole step.
        reference_ce_BA: Cross-entropies of the reference model.
        important_BA: True on annotated key tokens.
        draw_BA: Uniform numbers in [0, 1) for a random selection.
        logits_NV: With gradient, made when they are looked at; undial and ihl need them.
        target_N: Token ids of the answers.
        reference_logits_NV: Of the reference model; undial needs them.
        hidden_NH: Hidden states at the layer of rmu, with gradient, where an answer token is predicted.
        direction_H: The vector that rmu draws them to.
        refusals: For dpo, kto, idk and flat.
        weights_BA: Weights made from the whole step, where `needs` names it; None to make them from this micro-batch.
        kto_baseline: The zero point of kto over the whole step; None to take it from this micro-batch.
    """

    ce_BA: Tensor
    mask_BA: Tensor
    tokens: int
    rows: int
    reference_ce_BA: Tensor | None = None
    important_BA: Tensor | None = None
    draw_BA: Tensor | None = None
    logits_NV: Logits | None = None
    target_N: Tensor | None = None
    reference_logits_NV: Logits | None = None
    hidden_NH: Tensor | None = None
    direction_H: Tensor | None = None
    refusals: Refusals | None = None
    weights_BA: Tensor | None = None
    kto_baseline: Tensor | None = None

    def need(self, name: str) -> Any:
        """One of the values that may be missing.

        Raises:
            ValueError: It is missing.
        """
        value = getattr(self, name)
        if value is None:
            raise ValueError(f"{name} is missing from the forget pass and this loss needs it; pass it")
        return value

    def stats(self) -> TokenStats:
        """What weights may depend on."""
        return TokenStats(self.ce_BA, self.mask_BA, self.reference_ce_BA, self.important_BA, self.draw_BA)


def forget_loss(view: ForgetPass, loss: LossConfig) -> Tensor:
    """The term to minimise on forget rows: a micro-batch's share in the step's, a scalar.

    Raises:
        ValueError: The loss needs something that the pass does not carry.
    """
    criterion = loss.criterion
    if isinstance(criterion, CriterionConfig):
        return reweighted(view, loss)
    if isinstance(criterion, NPO | SimNPO):
        view = replace(view, weights_BA=token_weights(_UNIFORM, view.stats(), selection=loss.selection))
    return OBJECTIVES[type(criterion)](view, criterion)


def weights_of(stats: TokenStats, loss: LossConfig) -> Tensor:
    """Weights of shape BA of a loss that is a reweighting, without gradient."""
    if not isinstance(loss.criterion, CriterionConfig):
        raise TypeError(f"{loss.criterion.type} has no weights; only reweightings do")
    return token_weights(
        loss.criterion, stats, granularity=loss.granularity, selection=loss.selection, scale=loss.scale
    )


# -- forget terms ------------------------------------------------------------------------------------------------------


def reweighted(view: ForgetPass, loss: LossConfig) -> Tensor:
    """-sum(w * ce), divided as `reduction` says (`count_of`): never by sum(w), which would undo saturation."""
    weights_BA = weights_of(view.stats(), loss) if view.weights_BA is None else view.weights_BA
    count = count_of(loss.reduction, tokens=view.tokens, rows=view.rows)
    return -(weights_BA * view.ce_BA.masked_fill(~view.mask_BA, 0.0)).sum() / count


def npo(view: ForgetPass, config: NPO) -> Tensor:
    """-(2 / beta) * logsigmoid(beta * (s - s_ref)), mean of rows; s the summed cross-entropy (arXiv 2404.05868, eq. 3).

    Under a selection s is the sum over selected tokens, s_ref alike. *Differs from* the published masked variants,
    which take one log-ratio for all rows of a micro-batch: `log_ratio: micro_batch` reproduces them.
    """
    gap_BA = view.ce_BA - view.need("reference_ce_BA")
    gap_B = _sums(view.need("weights_BA") * gap_BA, view.mask_BA)
    if config.log_ratio == "micro_batch":
        return -(2 / config.beta) * logsigmoid(config.beta * gap_B.sum()) * len(gap_B) / view.rows
    return -(2 / config.beta) * logsigmoid(config.beta * gap_B).sum() / view.rows


def simnpo(view: ForgetPass, config: SimNPO) -> Tensor:
    """-(2 / beta) * logsigmoid(beta * m - margin), mean of rows; m the mean cross-entropy (arXiv 2410.07163, eq. 4).

    *Differs from* the published code, which takes the margin inside beta (its gamma is margin / beta here; all
    published settings have 0) and counts one token too many where the first one is supervised.
    """
    weights_BA = view.need("weights_BA")
    mean_B = _sums(weights_BA * view.ce_BA, view.mask_BA) / weights_BA.sum(1).clamp_min(1e-9)
    return -(2 / config.beta) * logsigmoid(config.beta * mean_B - config.margin).sum() / view.rows


def dpo(view: ForgetPass, config: DPO) -> Tensor:
    """-(2 / beta) * logsigmoid(beta * ((s - s_ref) - (r - r_ref))), mean of rows; r the refusal's summed cross-entropy.

    Source: arXiv 2305.18290, eq. 7, with the factor 2 of arXiv 2404.05868.
    """
    gap_B = _sums(view.ce_BA - view.need("reference_ce_BA"), view.mask_BA) - _refusal_gap(view)
    return -(2 / config.beta) * logsigmoid(config.beta * gap_B).sum() / view.rows


def kto(view: ForgetPass, config: KTO) -> Tensor:
    """1 - (2 / beta) * link(K + beta * (s - s_ref)), mean of rows; K the mean over the step of r_ref - r, no gradient.

    Source: arXiv 2402.01306, its undesirable half, as used for unlearning by arXiv 2404.05868. *Differs from* that
    code, which takes K from the micro-batch; and from the paper, which clamps K at 0 and multiplies it by beta too.
    """
    baseline = kto_baseline(view) / view.rows if view.kto_baseline is None else view.kto_baseline
    value_B = baseline + config.beta * _sums(view.ce_BA - view.need("reference_ce_BA"), view.mask_BA)
    linked_B = value_B.sigmoid() if config.link == "sigmoid" else logsigmoid(value_B)
    return (1 - (2 / config.beta) * linked_B).sum() / view.rows


def kto_baseline(view: ForgetPass) -> Tensor:
    """Sum over the rows of a micro-batch of r_ref - r; its mean over the step is the zero point of kto."""
    return -_refusal_gap(view).detach().sum()


def idk(view: ForgetPass, config: IDK) -> Tensor:
    """Cross-entropy of the refusal, mean of its tokens, then of rows (arXiv 2401.06121).

    *Differs from* the published code, a mean over the tokens of all refusals: here each row counts alike.
    """
    refusals: Refusals = view.need("refusals")
    return (_sums(refusals.ce_BR, refusals.mask_BR) / refusals.mask_BR.sum(1).clamp_min(1)).sum() / view.rows


def flat(view: ForgetPass, config: FLAT) -> Tensor:
    """-g(P_refusal) + f(g(P_answer)), mean of rows; P the mean over an answer's tokens of their probability.

    g the optimal witness and f the conjugate of the divergence: kl g = v, f = exp(u - 1); pearson g = v, f = u^2/4 + u;
    js g = log 2 - log(1 + exp(-v)), f = -log(2 - exp(u)); tv g = tanh(v) / 2, f = u.

    Source: arXiv 2410.11143. *Differs from* its code, which divides by prompt and padding too and takes one
    P for a whole micro-batch.
    """
    refusals: Refusals = view.need("refusals")
    answer_B = _mean_p(view.ce_BA, view.mask_BA)
    refusal_B = _mean_p(refusals.ce_BR, refusals.mask_BR)
    if config.divergence == "kl":
        loss_B = -refusal_B + (answer_B - 1).exp()
    elif config.divergence == "pearson":
        loss_B = -refusal_B + answer_B**2 / 4 + answer_B
    elif config.divergence == "js":
        loss_B = softplus(-refusal_B) + softplus(answer_B) - 2 * _LOG_2
    else:
        loss_B = (answer_B.tanh() - refusal_B.tanh()) / 2
    return loss_B.sum() / view.rows


def undial(view: ForgetPass, config: UNDIAL) -> Tensor:
    """Cross-entropy to softmax(reference logits - strength at the answer token), mean of tokens (arXiv 2402.10052).

    *Differs from* OpenUnlearning, which averages over prompt and padding too.
    """
    logits_NV: Logits = view.need("logits_NV")
    of_each = partial(token_undial, strength=config.strength)
    return logits_NV.each(of_each, view.need("target_N"), view.need("reference_logits_NV")).sum() / view.tokens


def ihl(view: ForgetPass, config: IHL) -> Tensor:
    """1 + p(answer token) - max over the other tokens of p, in [0, 2], mean of tokens (arXiv 2408.06621)."""
    logits_NV: Logits = view.need("logits_NV")
    return logits_NV.each(token_ihl, view.need("target_N")).sum() / view.tokens


def rmu(view: ForgetPass, config: RMU) -> Tensor:
    """Squared distance of the hidden states to the steering vector, mean of dimensions, then of tokens.

    Source: arXiv 2403.03218. *Differs from* it: every trainable weight is updated, not three layers' MLPs;
    and dimensions are averaged, as in its code, not added.
    """
    gap_NH: Tensor = view.need("hidden_NH") - view.need("direction_H")
    return gap_NH.square().mean(1).sum() / view.tokens


def uld(view: ForgetPass, config: ULD) -> Tensor:
    """Cross-entropy of the answer, mean of tokens: the assistant is to *learn* the forget set (arXiv 2406.08607).

    *Differs from* the published code, which adds paraphrases to the forget rows and wrong answers to the retain rows.
    """
    return view.ce_BA.masked_fill(~view.mask_BA, 0.0).sum() / view.tokens


OBJECTIVES: dict[type, Callable[[ForgetPass, Any], Tensor]] = {
    NPO: npo, SimNPO: simnpo, DPO: dpo, KTO: kto, IDK: idk, RMU: rmu, UNDIAL: undial, FLAT: flat, IHL: ihl, ULD: uld,
}  # fmt: skip
"""Settings -> formula."""


def _sums(values_BA: Tensor, mask_BA: Tensor) -> Tensor:
    return values_BA.masked_fill(~mask_BA, 0.0).sum(1)


def _mean_p(ce_BA: Tensor, mask_BA: Tensor) -> Tensor:
    # Masked before it is raised too: the gradient of exp at a NaN is NaN, and NaN * 0 is NaN.
    return _sums((-ce_BA.masked_fill(~mask_BA, 0.0)).exp(), mask_BA) / mask_BA.sum(1).clamp_min(1)


def _refusal_gap(view: ForgetPass) -> Tensor:
    """r - r_ref of each row."""
    refusals: Refusals = view.need("refusals")
    if refusals.reference_ce_BR is None:
        raise ValueError("this loss compares refusals with the reference model's; pass reference_ce_BR")
    return _sums(refusals.ce_BR - refusals.reference_ce_BR, refusals.mask_BR)
