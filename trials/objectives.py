"""What a trial minimises, as settings: a forget term (a reweighting, or one of the objectives here) and a retain term.

The formulas of the objectives are in `forget.py`, under the same names. Each says what a trial must compute for it
beyond the cross-entropies of the forget rows (`needs`). No torch: sweep files are checked with this.
"""

from __future__ import annotations

import difflib
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from trials.pooling import All, Granularity, Selection, Token
from trials.presets import PRESETS
from trials.settings import Frozen
from trials.weighting import Criterion, CriterionConfig, SatImp

Supply = Literal["reference", "logits", "reference logits", "refusals", "hidden states", "whole step"]
Beta = Annotated[float, Field(gt=0, le=100)]


class Objective(Frozen):
    """Base of the settings of an objective that is not a reweighting."""

    needs: ClassVar[frozenset[Supply]] = frozenset()


class NPO(Objective):
    """Negative preference optimisation (arXiv 2404.05868): relative to the reference model, one answer at a time."""

    type: Literal["npo"] = "npo"
    beta: Beta = 0.1
    log_ratio: Literal["answer", "micro_batch"] = Field(
        "answer", description="micro_batch: one ratio for all its answers, as published under a selection, to reproduce"
    )
    needs = frozenset({"reference"})


class SimNPO(Objective):
    """NPO without a reference, normalised by length (arXiv 2410.07163)."""

    type: Literal["simnpo"] = "simnpo"
    beta: Beta = 2.5
    margin: float = Field(0.0, ge=0, le=100)


class DPO(Objective):
    """Preference optimisation towards a refusal (arXiv 2305.18290, for unlearning arXiv 2404.05868)."""

    type: Literal["dpo"] = "dpo"
    beta: Beta = 0.1
    needs = frozenset({"reference", "refusals"})


class KTO(Objective):
    """Kahneman-Tversky optimisation (arXiv 2402.01306): forget answers are undesirable, refusals are the zero point."""

    type: Literal["kto"] = "kto"
    beta: Beta = 0.1
    link: Literal["sigmoid", "logsigmoid"] = "sigmoid"
    needs = frozenset({"reference", "refusals", "whole step"})


class IDK(Objective):
    """Likelihood of a refusal in place of the answer (arXiv 2401.06121, there part of preference optimisation)."""

    type: Literal["idk"] = "idk"
    needs = frozenset({"refusals"})


class RMU(Objective):
    """Representation misdirection (arXiv 2403.03218): hidden states of forget rows are drawn to one random vector."""

    type: Literal["rmu"] = "rmu"
    layer: PositiveInt | None = Field(
        None, description="index into the hidden states, 0 the embeddings; null: a quarter of the layers, rounded up"
    )
    steering: float = Field(6.5, gt=0, le=1e6, description="length of the vector, where it is normalised")
    normalise: bool = Field(True, description="the vector to unit length before steering")
    needs = frozenset({"hidden states"})


class UNDIAL(Objective):
    """Self-distillation from the reference model with the answer's logits lowered (arXiv 2402.10052)."""

    type: Literal["undial"] = "undial"
    strength: float = Field(3.0, ge=0, le=1e3, description="nats taken from the logit of each answer token")
    needs = frozenset({"logits", "reference logits"})


class FLAT(Objective):
    """Loss adjustment with forget data only: an f-divergence between refusal and answer (arXiv 2410.11143)."""

    type: Literal["flat"] = "flat"
    divergence: Literal["kl", "js", "pearson", "tv"] = "tv"
    needs = frozenset({"refusals"})


class IHL(Objective):
    """Inverted hinge loss of LoKU (arXiv 2408.06621); its LoRA start is `model.adapter.init: fila`."""

    type: Literal["ihl"] = "ihl"
    needs = frozenset({"logits"})


class ULD(Objective):
    """Logit difference (arXiv 2406.08607): an assistant learns the forget set, its logits are subtracted.

    What is trained is the assistant, cut from the target model's first layers; what is measured is the difference.
    """

    type: Literal["uld"] = "uld"
    layers: PositiveInt | None = Field(8, description="of the assistant; null, or more than there are: all")
    weight: PositiveFloat = Field(0.8, description="of the assistant's logits when they are subtracted")


# -- loss --------------------------------------------------------------------------------------------------------------

Objectives = NPO | SimNPO | DPO | KTO | IDK | RMU | UNDIAL | FLAT | IHL | ULD
Forget = Annotated[Criterion | Objectives, Field(discriminator="type")]
"""A criterion of reweighting, or a forget objective that is none."""

Reduction = Literal["token_mean", "instance_mean_of_sums", "token_sum", "padded_mean"]


class RetainConfig(Frozen):
    """The term that keeps the retain set: nothing, its likelihood, or closeness to the reference model."""

    term: Literal["none", "nll", "kl", "forget_kl", "activation", "uniform"] = Field(
        "nll",
        description="forget_kl: kl on the forget rows; activation: rmu's own, squared distance of hidden states; "
        "uniform: uld's own, cross-entropy of its assistant to the uniform distribution",
    )
    coefficient: float = Field(1.0, ge=0)
    reduction: Literal["token_mean", "token_sum", "padded_mean"] = Field(
        "token_mean", description="of nll; the others as published, for reproduction only"
    )


class LossConfig(Frozen):
    """forget_coefficient * forget term + retain.coefficient * retain term, both minimised."""

    preset: str | None = Field(
        None, exclude=True, description="a published setting that the others are laid over; see `presets`"
    )
    criterion: Forget = SatImp()
    granularity: Granularity = Token()
    selection: Selection = All()
    scale: Literal["none", "peak"] = Field(
        "none", description="peak: weights over the largest that the criterion can give, apart from the exponents"
    )
    reduction: Reduction = Field(
        "token_mean", description="of a reweighting, over the whole optimiser step; padded_mean for reproduction only"
    )
    forget_coefficient: float = Field(1.0, ge=0)
    retain: RetainConfig = RetainConfig()

    @model_validator(mode="before")
    @classmethod
    def _lay_over_preset(cls, raw: Any) -> Any:
        label = raw.get("preset") if isinstance(raw, dict) else None
        if label is None:
            return raw
        if not isinstance(label, str) or label not in PRESETS:
            close = difflib.get_close_matches(str(label), PRESETS, n=1)
            raise ValueError(
                f"preset {label!r} is not known; "
                + (f"did you mean {close[0]!r}?" if close else "`unlearn-sweep presets` lists them")
            )
        return _laid_over(PRESETS[label][0], raw)

    @model_validator(mode="after")
    def _defined(self) -> LossConfig:
        kind, term = self.criterion.type, self.retain.term
        if isinstance(self.criterion, CriterionConfig):
            if self.scale == "peak":
                self.criterion.need_peak()
            if kind == "uniform" and self.granularity.type != "token":
                raise ValueError(f"uniform weighs all alike; granularity {self.granularity.type!r} must be token")
            if kind == "loss_magnitude" and self.granularity.type == "batch":
                raise ValueError(
                    "loss_magnitude has mean 1 over a step: nothing is left of it at granularity 'batch'; use instance"
                )
            if "annotations" in self.criterion.needs and self.granularity.type not in ("token", "group"):
                raise ValueError(f"{kind} weighs tokens; granularity {self.granularity.type!r} must be token or group")
        else:
            for name in ("granularity", "selection", "scale", "reduction"):
                field, value = type(self).model_fields[name], getattr(self, name)
                if value != field.default and not (name == "selection" and kind in ("npo", "simnpo")):
                    chosen = getattr(value, "type", value)
                    raise ValueError(f"{name} {chosen!r} is for reweightings and means nothing to {kind}; leave it out")
        if (kind == "uld") != (term == "uniform") and (term == "uniform" or term != "none"):
            raise ValueError(
                f"retain term {term!r} with {kind}: uniform is for uld, which takes it or none; change one"
            )
        if term == "activation" and kind != "rmu":
            raise ValueError(f"retain term 'activation' is for rmu, not for {kind}; use nll or kl")
        if self.retain.reduction != "token_mean" and term != "nll":
            raise ValueError(f"retain reduction {self.retain.reduction!r} is of nll, not of {term}; leave it out")
        return self

    @property
    def needs(self) -> frozenset[str]:
        """What a trial must compute for it beyond the cross-entropies of the forget rows."""
        parts = (self.criterion, self.granularity, self.selection)
        return frozenset[str]().union(*(part.needs for part in parts))


def _laid_over(under: Any, over: Any) -> Any:
    """Two nested mappings as one; another variant of a union (its `type`) replaces all that was under it."""
    if (
        not isinstance(under, dict)
        or not isinstance(over, dict)
        or over.get("type", under.get("type")) != under.get("type")
    ):
        return over
    return under | {key: _laid_over(under[key], value) if key in under else value for key, value in over.items()}
