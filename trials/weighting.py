"""Loss reweighting: how hard each answer token is pushed.

The model: one forward pass gives the cross-entropy `ce = -log p` of every answer token. A *criterion* maps those
numbers to one weight per token; the forget term is then a reduction of `-weight * ce` (`losses.forget_loss`).
Weights carry no gradient: `TokenStats` is detached once, when it is built, so no criterion can leak any.

Granularity wraps the criterion, which never knows of it: `instance` gives the criterion one cross-entropy per answer
(the mean over its tokens) and hands the weight to each token of that answer.

Torch is imported for type checking only: a sweep file is checked without it, in a fraction of a second.

Shape suffixes: B rows, T answer positions (already shifted, padded on the right).

Source: Yang et al., "Exploring Criteria of Loss Reweighting to Enhance LLM Unlearning", ICML 2025, arXiv 2505.11953.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from torch import Tensor

Granularity = Literal["token", "instance"]
Exponent = Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)]


@dataclass(frozen=True)
class TokenStats:
    """What a criterion may look at; every tensor is detached.

    Attributes:
        ce_BT: Cross-entropy `-log p` of each answer token in nats, fp32 or fp64, >= 0; anything where masked out.
        mask_BT: True on answer tokens, False on padding.
    """

    ce_BT: Tensor
    mask_BT: Tensor

    def __post_init__(self) -> None:
        object.__setattr__(self, "ce_BT", self.ce_BT.detach())

    @property
    def p_BT(self) -> Tensor:
        """Probability of each answer token, in [0, 1]."""
        return (-self.ce_BT).exp()

    @property
    def one_minus_p_BT(self) -> Tensor:
        """1 - p in [0, 1], by expm1: exact to the last digit where p is next to 1 (bf16 or 1 - exp(-ce) gives 0)."""
        return (-(-self.ce_BT).expm1()).clamp(0, 1)


# -- criteria: pure functions, stats -> weights in [0, 1] of shape BT -------------------------------------------------


def uniform(stats: TokenStats) -> Tensor:
    """w = 1: plain gradient ascent."""
    return stats.ce_BT.new_ones(stats.ce_BT.shape)


def saturation(stats: TokenStats, *, beta1: float) -> Tensor:
    """w = p^beta1: push what the model still knows (SimSat, section 4; equals WGA, arXiv 2502.19301)."""
    return (-beta1 * stats.ce_BT).exp()


def importance(stats: TokenStats, *, beta2: float) -> Tensor:
    """w = (1 - p)^beta2: push what the model knows least (SimImp, section 4)."""
    return stats.one_minus_p_BT.pow(beta2)


def satimp(stats: TokenStats, *, beta1: float, beta2: float) -> Tensor:
    """w = p^beta1 * (1 - p)^beta2: saturation times importance (SatImp, section 5); largest at p = b1 / (b1 + b2)."""
    return saturation(stats, beta1=beta1) * importance(stats, beta2=beta2)


def mixture(stats: TokenStats, *, share: float, beta1: float, beta2: float) -> Tensor:
    """w = share * p^beta1 + (1 - share) * (1 - p)^beta2: saturation and importance added instead of multiplied.

    Source: ours. The paper (arXiv 2505.11953, section 5) combines by product only, which is 0 where either factor is.
    """
    return share * saturation(stats, beta1=beta1) + (1 - share) * importance(stats, beta2=beta2)


# -- their settings, as they stand in a sweep file -------------------------------------------------------------------


class CriterionConfig(BaseModel):
    """Base of the settings of a criterion: its fields are the keywords of `formula`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    formula: ClassVar[Callable[..., Tensor]]

    def weights(self, stats: TokenStats) -> Tensor:
        """The formula at these settings: weights of shape BT in [0, 1]."""
        return type(self).formula(stats, **self.model_dump(exclude={"type"}))


class Uniform(CriterionConfig):
    """Gradient ascent: every answer token is pushed alike."""

    type: Literal["uniform"] = "uniform"
    formula = staticmethod(uniform)


class Saturation(CriterionConfig):
    """SimSat: p^beta1."""

    type: Literal["saturation"] = "saturation"
    beta1: Exponent = 5.0
    formula = staticmethod(saturation)


class Importance(CriterionConfig):
    """SimImp: (1 - p)^beta2."""

    type: Literal["importance"] = "importance"
    beta2: Exponent = 5.0
    formula = staticmethod(importance)


class SatImp(CriterionConfig):
    """SatImp: p^beta1 * (1 - p)^beta2; defaults as in the authors' README."""

    type: Literal["satimp"] = "satimp"
    beta1: Exponent = 5.0
    beta2: Exponent = 0.1
    formula = staticmethod(satimp)


class Mixture(CriterionConfig):
    """Saturation and importance in a convex sum: share * p^beta1 + (1 - share) * (1 - p)^beta2."""

    type: Literal["mixture"] = "mixture"
    share: float = Field(0.5, ge=0, le=1, description="of saturation; the rest is importance")
    beta1: Exponent = 5.0
    beta2: Exponent = 1.0
    formula = staticmethod(mixture)


Criterion = Uniform | Saturation | Importance | SatImp | Mixture


def token_weights(criterion: CriterionConfig, stats: TokenStats, *, granularity: Granularity) -> Tensor:
    """Weights of every answer token, zero on padding, without gradient.

    Args:
        criterion: Which formula, at which settings.
        stats: Cross-entropies of shape BT and their mask.
        granularity: `token` weighs each token by its own likelihood; `instance` weighs all tokens of an answer by the
            answer's mean cross-entropy (its geometric mean likelihood).

    Returns:
        Weights of shape BT, >= 0.

    *Differs from* the published code at `instance`: there the summed cross-entropy enters, so a weight underflows to
    an exact 0 for long answers, and difficulty is confounded with length.
    """
    # A masked position may hold anything, a NaN too, and NaN * 0 is NaN: hence masked_fill rather than a product.
    if granularity == "instance":
        count_B1 = stats.mask_BT.sum(1, keepdim=True).clamp_min(1)
        mean_B1 = stats.ce_BT.masked_fill(~stats.mask_BT, 0.0).sum(1, keepdim=True) / count_B1
        stats = replace(stats, ce_BT=mean_B1.expand_as(stats.ce_BT))
    return criterion.weights(stats).masked_fill(~stats.mask_BT, 0.0)
