"""Metrics of one row's generated text: beside the answer it should be, and by itself.

Each is None where nothing was generated for the row, and the row is then left out of the mean. A model that says
nothing at all has generated something: the empty text.

ROUGE counts words of ASCII letters and digits, in lower case and stemmed, and drops all else. A text without such words
(empty, or Chinese) on either side scores 0.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from trials.metrics import Seen

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.scoring import Score

_WORD = re.compile(r"\w+|[^\w\s]")


def rouge1_recall(seen: Seen) -> float | None:
    """Share of the answer's words that are in the generated text, each as often as it is there; in [0, 1].

    Blind to whatever else is said. Source: Lin, "ROUGE", 2004, as package rouge-score computes it.
    """
    return None if seen.generated is None else float(_rouge(seen.text, seen.generated)["rouge1"].recall)


def rouge_l_recall(seen: Seen) -> float | None:
    """Words of the longest common subsequence of answer and generated text, over words of the answer; in [0, 1].

    What TOFU reports, arXiv 2401.06121, section 2.2. Source: Lin, "ROUGE", 2004, as package rouge-score computes it.
    """
    return None if seen.generated is None else float(_rouge(seen.text, seen.generated)["rougeL"].recall)


def rouge_l_f1(seen: Seen) -> float | None:
    """Harmonic mean of the longest common subsequence's share of the answer and of the generated text; in [0, 1].

    What MUSE reports, arXiv 2407.06460. Source: Lin, "ROUGE", 2004, as package rouge-score computes it.
    """
    return None if seen.generated is None else float(_rouge(seen.text, seen.generated)["rougeL"].fmeasure)


def repetition(seen: Seen) -> float | None:
    """seq-rep-4: 1 - distinct 4-grams / 4-grams of the generated words, in [0, 1); 0 with fewer than four words.

    Source: Welleck et al., arXiv 1908.04319. *Differs from* it in tokens: words and punctuation marks here, whatever
    the model's tokenizer, so that models can be compared. A script without spaces is read as one word a clause.
    """
    if seen.generated is None:
        return None
    counts = _ngrams(seen.generated, 4)
    return 1 - len(counts) / counts.total() if counts else 0.0


def fluency(seen: Seen) -> float | None:
    """Generation entropy: a third of the bigrams' entropy and two thirds of the trigrams', in bits; >= 0.

    It falls where a model repeats itself, rises with the length of a text that does not (to log2 of its n-grams), and
    says nothing of grammar. 0 where there are fewer than two words, or one over and over.

    Source: ROME, arXiv 2202.05262, with the weights of its code. *Differs from* it in tokens: words and
    punctuation marks as in `repetition`, not those of nltk, whose sentence splitter is a download.
    """
    if seen.generated is None:
        return None
    return (_entropy(_ngrams(seen.generated, 2)) + 2 * _entropy(_ngrams(seen.generated, 3))) / 3


@functools.lru_cache(maxsize=8192)
def _rouge(answer: str, generated: str) -> dict[str, Score]:
    """Remembered, since several metrics look at one pair of texts, and the alignment takes milliseconds."""
    return _scorer().score(answer, generated)  # type: ignore[no-any-return]


@functools.cache
def _scorer() -> RougeScorer:
    from rouge_score.rouge_scorer import RougeScorer  # two seconds to import, and most trials generate nothing

    return RougeScorer(["rouge1", "rougeL"], use_stemmer=True)


def _ngrams(text: str, n: int) -> Counter[tuple[str, ...]]:
    words = _WORD.findall(text)
    return Counter(zip(*(words[start:] for start in range(n)), strict=False))


def _entropy(counts: Counter[tuple[str, ...]]) -> float:
    """In bits; 0 of nothing."""
    p = np.array(list(counts.values())) / max(1, counts.total())
    return float(p @ np.log2(1 / p)) if counts else 0.0
