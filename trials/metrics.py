"""Metrics: per-token arrays of one row set -> one number.

The input is what a single teacher-forced pass leaves behind, row by row: the cross-entropy of each answer token and
whether it was the most likely one. The end token is the last entry of each row; metrics that ask what was *said*
(extraction strength, exact memorization) leave it out, those that ask how likely the answer is keep it.

On every metric but `nll`, higher means more memorised: to be lowered on the forget set, kept on the retain set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Answer:
    """What one pass saw of one answer of n tokens, end token included.

    Attributes:
        ce: Cross-entropy of each token in nats, shape (n,), float64.
        hit: Whether each token was the argmax given the true tokens before it, shape (n,), bool.
    """

    ce: NDArray[np.float64]
    hit: NDArray[np.bool_]


def extraction_strength(answers: Sequence[Answer]) -> float:
    """Mean share of the answer that greedy decoding continues rightly to its end: longest correct suffix / length.

    Range [0, 1]; 0 when the last token is wrong. The end token is left out; an answer of only an end token counts 0.

    Source: Carlini et al., arXiv 2012.07805; Wang et al., arXiv 2406.09179.
    *Differs from* OpenUnlearning, whose floor is 1/length: a wholly wrong answer is 0 here.
    """
    return float(np.mean([_suffix(answer.hit[:-1]) for answer in answers]))


def exact_memorization(answers: Sequence[Answer]) -> float:
    """Mean share of answer tokens that are the argmax given the true tokens before them, end token left out.

    Range [0, 1]; answers of only an end token are left out. Source: Tirumala et al., arXiv 2205.10770.
    """
    shares = [answer.hit[:-1].mean() for answer in answers if len(answer.hit) > 1]
    return float(np.mean(shares)) if shares else float("nan")


def probability(answers: Sequence[Answer]) -> float:
    """Mean of exp(-mean cross-entropy): the length-normalised probability of the answer, in [0, 1].

    Source: TOFU, arXiv 2401.06121, section 2.2.
    """
    return float(np.mean([np.exp(-answer.ce.mean()) for answer in answers]))


def nll(answers: Sequence[Answer]) -> float:
    """Mean over answers of their mean cross-entropy in nats, >= 0, without upper bound; higher = less memorised.

    Finer than extraction strength where that lies at its floor: it still tells over-forgetting apart.
    """
    return float(np.mean([answer.ce.mean() for answer in answers]))


@dataclass(frozen=True)
class Metric:
    """A metric's formula and its range."""

    function: Callable[[Sequence[Answer]], float]
    low: float
    high: float


METRICS: dict[str, Metric] = {
    "extraction_strength": Metric(extraction_strength, 0.0, 1.0),
    "exact_memorization": Metric(exact_memorization, 0.0, 1.0),
    "probability": Metric(probability, 0.0, 1.0),
    "nll": Metric(nll, 0.0, float("inf")),
}
SETS = ("forget", "retain", "holdout", "general")


def metric_names() -> list[str]:
    """Every `<set>.<metric>` that a trial may report."""
    return [f"{rows}.{metric}" for rows in SETS for metric in METRICS]


def _suffix(hit: NDArray[np.bool_]) -> float:
    wrong = np.flatnonzero(~hit)
    if len(hit) == 0:
        return 0.0
    return float((len(hit) - 1 - wrong[-1]) / len(hit)) if len(wrong) else 1.0
