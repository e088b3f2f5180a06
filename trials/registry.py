"""Every metric by name: on which sets, from what, at what cost, in what range, and which way is better.

Four kinds. A *row* metric is a mean over the rows of a set, `<set>.<metric>`. A *log* metric is a function of what
others left behind, and of the logs of target and retain model. A *changed* metric is a row metric of the model after
something was done to it: relearning, quantisation. A *similarity* compares hidden states with another model's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from trials import aggregates, metrics, texts
from trials.aggregates import ATTACKS
from trials.logs import EvalLog, References
from trials.metrics import Seen

ROWS = ("forget", "retain", "holdout", "general", "real_authors")
"""Sets of questions and answers, or of raw text."""

CONTINUED = ("verbmem", "forget_knowmem", "retain_knowmem")
"""Sets of which the continuation of a prompt is scored (MUSE)."""

ATTACKED = ("members", "nonmembers")
"""Rows of the forget set and rows never trained on, which attacks of membership inference try to tell apart."""

CHOICES = ("wmdp", "wmdp_bio", "wmdp_cyber", "wmdp_chem", "mmlu")
"""Sets of multiple-choice questions."""

Cost = Literal["one pass", "second model", "backward", "generation", "another model"]
"""From cheap to dear. `one pass`: of all such metrics together, over each distinct sequence; fit for rungs."""

COSTS: tuple[Cost, ...] = ("one pass", "second model", "backward", "generation", "another model")
_COST_OF_PART: dict[str, Cost] = {"generated": "generation", "gradient": "backward", "reference_loss": "second model"}

MEMORISED = "lower on what is to be forgotten, higher on what is to be kept"
SURPRISED = "higher on what is to be forgotten, lower on what is to be kept"
ATTACK = "none by itself: an input of the attack"
LOWER, HIGHER = "lower", "higher"
AS_RETAIN = "near that of the retain model"


@dataclass(frozen=True)
class RowMetric:
    """A mean over rows. `sees` are the parts of `Seen` that it looks at."""

    function: Callable[[Seen], float | None]
    low: float
    high: float
    better: str
    sets: tuple[str, ...]
    sees: tuple[str, ...] = ("answer",)

    @property
    def cost(self) -> Cost:
        """What it takes."""
        return max((_COST_OF_PART.get(part, "one pass") for part in self.sees), key=COSTS.index)


@dataclass(frozen=True)
class LogMetric:
    """A function of a log. `inputs` are the full names it is computed from; `reference` whose log it needs besides."""

    function: Callable[[EvalLog, References], float | None]
    low: float
    high: float
    better: str
    inputs: tuple[str, ...]
    reference: tuple[str, ...] = ()

    @property
    def cost(self) -> Cost:
        """That of its dearest input."""
        return max((METRICS[name].cost for name in self.inputs), key=COSTS.index)


Change = Literal["relearned", "int8", "nf4"]
"""What can be done to a model before it is measured again."""


@dataclass(frozen=True)
class ChangedMetric:
    """A row metric, `of` by its full name, of the model after a change."""

    change: Change
    of: str
    cost: Cost = "another model"

    @property
    def row(self) -> RowMetric:
        """The metric that is taken again."""
        found = METRICS[self.of]
        assert isinstance(found, RowMetric)
        return found

    low = property(lambda self: self.row.low)
    high = property(lambda self: self.row.high)
    better = property(lambda self: self.row.better)


@dataclass(frozen=True)
class Similarity:
    """Linear CKA of hidden states on the rows of `rows` with those of the model `to`."""

    rows: str
    to: Literal["target", "retain"]
    better: str
    low: float = 0.0
    high: float = 1.0
    cost: Cost = "another model"


Metric = RowMetric | LogMetric | ChangedMetric | Similarity

_INF = float("inf")
_QA = ("forget", "retain", "general", "real_authors")
_SPOKEN = (*ROWS, *CONTINUED)

_ROW_METRICS: dict[str, RowMetric] = {
    "extraction_strength": RowMetric(metrics.extraction_strength, 0, 1, MEMORISED, _SPOKEN),
    "exact_memorization": RowMetric(metrics.exact_memorization, 0, 1, MEMORISED, _SPOKEN),
    "probability": RowMetric(metrics.probability, 0, 1, MEMORISED, _SPOKEN),
    "nll": RowMetric(metrics.nll, 0, _INF, SURPRISED, _SPOKEN),
    "extraction_strength_openunlearning": RowMetric(
        metrics.extraction_strength_openunlearning, 0, 1, MEMORISED, _SPOKEN
    ),
    "extraction_strength_satimp": RowMetric(
        metrics.extraction_strength_satimp, 0, 1, MEMORISED, ROWS, ("answer", "satimp")
    ),
    "extraction_strength_paraphrased": RowMetric(
        metrics.extraction_strength_paraphrased, 0, 1, MEMORISED, _QA, ("answer", "rephrased")
    ),
    "probability_paraphrased": RowMetric(
        metrics.probability_paraphrased, 0, 1, MEMORISED, _QA, ("answer", "paraphrased")
    ),
    "probability_perturbed": RowMetric(metrics.probability_perturbed, 0, 1, LOWER, _QA, ("answer", "perturbed")),
    "probability_normalised": RowMetric(
        metrics.probability_normalised, 0, 1, MEMORISED, (*_QA, *CHOICES), ("answer", "perturbed")
    ),
    "wrong_over_right": RowMetric(
        metrics.wrong_over_right, 0, _INF, SURPRISED, _QA, ("answer", "paraphrased", "perturbed")
    ),
    "truth_ratio": RowMetric(metrics.truth_ratio, 0, 1, SURPRISED, _QA, ("answer", "paraphrased", "perturbed")),
    "truth_preference": RowMetric(
        metrics.truth_preference, 0, 1, MEMORISED, _QA, ("answer", "paraphrased", "perturbed")
    ),
    "truthfulness": RowMetric(metrics.truthfulness, 0, 1, MEMORISED, _QA, ("answer", "paraphrased", "perturbed")),
    "accuracy": RowMetric(metrics.accuracy, 0, 1, MEMORISED, CHOICES, ("answer", "perturbed")),
    "rouge1_recall": RowMetric(texts.rouge1_recall, 0, 1, MEMORISED, _SPOKEN, ("answer", "generated")),
    "rouge_l_recall": RowMetric(texts.rouge_l_recall, 0, 1, MEMORISED, _SPOKEN, ("answer", "generated")),
    "rouge_l_f1": RowMetric(texts.rouge_l_f1, 0, 1, MEMORISED, _SPOKEN, ("answer", "generated")),
    "repetition": RowMetric(texts.repetition, 0, 1, LOWER, _SPOKEN, ("answer", "generated")),
    "fluency": RowMetric(texts.fluency, 0, _INF, HIGHER, _SPOKEN, ("answer", "generated")),
    "loss": RowMetric(metrics.loss, 0, _INF, ATTACK, ATTACKED),
    "zlib_ratio": RowMetric(metrics.zlib_ratio, 0, _INF, ATTACK, ATTACKED),
    "min_k": RowMetric(metrics.min_k, 0, _INF, ATTACK, ATTACKED),
    "min_k_plus_plus": RowMetric(metrics.min_k_plus_plus, -_INF, _INF, ATTACK, ATTACKED, ("answer", "z")),
    "reference": RowMetric(metrics.reference, -_INF, _INF, ATTACK, ATTACKED, ("answer", "reference_loss")),
    "gradient_norm": RowMetric(metrics.gradient_norm, 0, _INF, ATTACK, ATTACKED, ("answer", "gradient")),
}


def _of(rows: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{rows}.{name}" for name in names)


def _auc(attack: str) -> tuple[str, ...]:
    return (f"members.{attack}", f"nonmembers.{attack}")


_UTILITY = (
    *_of("retain", "probability", "truthfulness"),
    *_of("general", "probability_normalised", "truthfulness"),
    *_of("real_authors", "probability_normalised", "truthfulness"),
)
_SPOKEN_UTILITY = (*_UTILITY, *(f"{rows}.rouge_l_recall" for rows in ("retain", "general", "real_authors")))
_MEMORY = _of("forget", "extraction_strength", "exact_memorization", "probability_paraphrased", "truth_preference")
_CHEAP_ATTACKS = ("loss", "zlib_ratio", "min_k", "min_k_plus_plus")
_PARTS = ("aggregate.memorization", "aggregate.privacy", "aggregate.utility")

_LOG_METRICS: dict[str, LogMetric] = {
    "tofu.model_utility": LogMetric(aggregates.model_utility, 0, 1, HIGHER, _SPOKEN_UTILITY),
    "tofu.model_utility_likelihood": LogMetric(aggregates.model_utility_likelihood, 0, 1, HIGHER, _UTILITY),
    "tofu.forget_quality": LogMetric(
        aggregates.forget_quality, 0, 1, HIGHER, ("forget.wrong_over_right",), ("retain",)
    ),
    "tofu.forget_quality_log10": LogMetric(
        aggregates.forget_quality_log10, -300, 0, HIGHER, ("forget.wrong_over_right",), ("retain",)
    ),
    **{f"privacy.{name}": LogMetric(aggregates.attack(name), 0, 1, AS_RETAIN, _auc(name)) for name in ATTACKS},
    **{
        f"privacy.closeness_{name}": LogMetric(
            aggregates.closeness(name), 0, 1, HIGHER, (f"privacy.{name}",), ("retain",)
        )
        for name in ATTACKS
        if name != "reference"  # against the retain model itself it says nothing of that model
    },
    "privacy.privleak": LogMetric(aggregates.privleak, -100, _INF, "near 0", ("privacy.min_k",), ("retain",)),
    "privacy.privleak_half": LogMetric(aggregates.privleak_half, -100, 100, "near 0", ("privacy.min_k",)),
    "aggregate.memorization_raw": LogMetric(aggregates.memorization_raw, 0, 1, HIGHER, _MEMORY),
    "aggregate.memorization": LogMetric(aggregates.memorization, 0, 1, HIGHER, _MEMORY, ("target",)),
    "aggregate.privacy": LogMetric(
        aggregates.privacy, 0, 1, HIGHER, tuple(f"privacy.closeness_{name}" for name in _CHEAP_ATTACKS), ("retain",)
    ),
    "aggregate.utility": LogMetric(aggregates.utility, 0, 1, HIGHER, ("tofu.model_utility",), ("target",)),
    "aggregate.memorization_and_utility": LogMetric(
        aggregates.memorization_and_utility, 0, 1, HIGHER, (_PARTS[0], _PARTS[2]), ("target",)
    ),
    "aggregate.overall": LogMetric(aggregates.overall, 0, 1, HIGHER, _PARTS, ("target", "retain")),
}

_MEASURES = ("extraction_strength", "exact_memorization", "probability")
_FORGOTTEN_AGAIN = (*_of("forget", *_MEASURES), *_of("verbmem", "extraction_strength"), *_of("wmdp", "accuracy"))
_KEPT_AGAIN = (*_of("retain", *_MEASURES), *_of("mmlu", "accuracy"))
_AGAIN: dict[Change, tuple[str, ...]] = {
    "relearned": _FORGOTTEN_AGAIN,
    "int8": (*_FORGOTTEN_AGAIN, *_KEPT_AGAIN),
    "nf4": (*_FORGOTTEN_AGAIN, *_KEPT_AGAIN),
}

METRICS: dict[str, Metric] = {
    **{f"{rows}.{name}": metric for name, metric in _ROW_METRICS.items() for rows in metric.sets},
    **_LOG_METRICS,  # inputs before what is computed from them
    **{
        f"{change}.{name.replace('.', '_')}": ChangedMetric(change, name)
        for change, names in _AGAIN.items()
        for name in names
    },
    "similarity.forget_to_target": Similarity("forget", "target", LOWER),
    "similarity.forget_to_retain": Similarity("forget", "retain", HIGHER),
    "similarity.retain_to_target": Similarity("retain", "target", HIGHER),
    "similarity.retain_to_retain": Similarity("retain", "retain", HIGHER),
}
"""Full name -> metric."""
