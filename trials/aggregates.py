"""Metrics of a whole model: functions of what its log holds, and of the logs of the target and the retain model.

Each takes `(log, references)` and returns None where it cannot be had, that is where an input or a reference is
missing: nothing takes its place. NaN is the result of a model that diverged. Those that are computed from others of
this page read them from the log's values by their full name (`trials/registry.py`), so the others come first.
"""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Callable, Sequence

import numpy as np

from trials.logs import EvalLog, References
from trials.metrics import EPSILON

ATTACKS = ("loss", "zlib_ratio", "min_k", "min_k_plus_plus", "reference", "gradient_norm")
"""Of membership inference; each is a row metric on `members` and `nonmembers`."""

MEMORISED = ("extraction_strength", "exact_memorization", "probability_paraphrased", "truth_preference")
"""What the Memorization score looks at, on the forget set."""

LogFunction = Callable[[EvalLog, References], float | None]
"""What every metric of this page is."""

_RATIO = "forget.wrong_over_right"
_LEAST_P = 1e-300


def harmonic_mean(values: Sequence[float]) -> float:
    """n / sum(1 / x) of numbers >= 0: 0 if any is 0, NaN if any is NaN."""
    return math.nan if any(map(math.isnan, values)) else float(statistics.harmonic_mean(values))


# -- TOFU --------------------------------------------------------------------------------------------------------------


def model_utility(log: EvalLog, references: References) -> float | None:
    """Harmonic mean of three parts of each set that is to be kept: likelihood, ROUGE-L recall, truthfulness.

    The sets are `retain` (likelihood: `probability`), and `real_authors` and `general` (`probability_normalised`),
    TOFU's nine parts with world facts as `general`. A benchmark may lack one of the latter two; of the sets that are
    there every part must be. Range [0, 1]; 0 if any part is 0.

    Source: TOFU, arXiv 2401.06121, section 2.2, truth ratio as in `wrong_over_right`.
    """
    return _utility(log, "rouge_l_recall", "truthfulness")


def model_utility_likelihood(log: EvalLog, references: References) -> float | None:
    """Model utility without its ROUGE parts, six for TOFU: needs no generation, so it is fit for every epoch.

    Range [0, 1]; not comparable with `model_utility`.

    Source: ours.
    """
    return _utility(log, "truthfulness")


def forget_quality(log: EvalLog, references: References) -> float | None:
    """p-value of the two-sample Kolmogorov-Smirnov test that r on the forget set is distributed as the retain model's.

    r is `wrong_over_right` of each row; two-sided, exact up to 10,000 rows. Range [0, 1]: 1 for the retain model
    itself; 0 once below the least float, far beyond what a few hundred rows can reach. Depends on the number of rows.
    Rows without r are left out.

    Source: TOFU, arXiv 2401.06121, section 2.2.
    """
    from scipy.stats import ks_2samp  # half a second to import, and a mistake in a sweep file is told before

    retain = references.retain
    if retain is None or _RATIO not in log.rows or _RATIO not in retain.rows:
        return None
    # A mean is NaN where a row's r is, not where a row has none: a diverged model must not pass by its last sane rows.
    if math.isnan(log.values.get(_RATIO, 0.0)) or math.isnan(retain.values.get(_RATIO, 0.0)):
        return math.nan
    there = [each[~np.isnan(each)] for each in (log.rows[_RATIO], retain.rows[_RATIO])]
    if not all(map(len, there)):
        return None
    with warnings.catch_warnings():
        # Where the exact p cannot be computed (the two are nearly equal, p nearly 1) scipy warns and approximates it.
        warnings.simplefilter("ignore", RuntimeWarning)
        return float(ks_2samp(*there).pvalue)


def forget_quality_log10(log: EvalLog, references: References) -> float | None:
    """log10 of forget quality, which spans hundreds of orders of magnitude; p below 1e-300 counts as 1e-300.

    Range [-300, 0]: always finite, so that it can be an objective.

    Source: TOFU, arXiv 2401.06121, which plots it so. *Differs from* it in the floor.
    """
    p = forget_quality(log, references)
    return p if p is None or math.isnan(p) else math.log10(max(p, _LEAST_P))


# -- privacy -----------------------------------------------------------------------------------------------------------


def attack(name: str) -> LogFunction:
    """The AUC of an attack of membership inference, one of `ATTACKS`."""

    def auc(log: EvalLog, references: References) -> float | None:
        """Probability that a row never trained on scores higher than one of the forget set, ties half.

        Range [0, 1]: 1 where the attack tells all members, 0.5 where it is blind, below where members look *less* like
        members than the others. The right value is that of the retain model, seldom 0.5. NaN if any score is.

        Source: OpenUnlearning, arXiv 2506.12618; of the score, the row metric of the same name.
        """
        members, others = log.rows.get(f"members.{name}"), log.rows.get(f"nonmembers.{name}")
        if members is None or others is None or not len(members) or not len(others):
            return None
        if np.isnan(members).any() or np.isnan(others).any():
            return math.nan
        ranked = np.sort(members)
        below = np.searchsorted(ranked, others, "left") + np.searchsorted(ranked, others, "right")
        return float(below.mean() / (2 * len(members)))

    return auc


def closeness(name: str) -> LogFunction:
    """How close an attack's AUC is to the retain model's, the attack one of `ATTACKS`."""

    def close(log: EvalLog, references: References) -> float | None:
        """a / r where the AUC a is at most the retain model's r, else (1 - a) / (1 - r).

        Range [0, 1]: 1 where the attack fares as on the retain model, 0 where it always or never succeeds.

        Source: ours; OpenUnlearning, arXiv 2506.12618, scales its attacks to [0, 1] and prints no formula. Its table 3
        has 0.003 for GradDiff, as here for an AUC of 0.001; it has 0.10 for the target, where Min-K gives 0.006 here.
        """
        pair = _with_retain(log, references, f"privacy.{name}")
        if pair is None:
            return None
        a, r = pair
        return min(_share(a, r), _share(1 - a, 1 - r))

    return close


def privleak(log: EvalLog, references: References) -> float | None:
    """100 (r - a) / (1 - r): the Min-K AUC a against the retain model's r, in per cent of 1 - r.

    -100 = full leakage, 0 = as the retain model, above 0 = over-unlearned. Range >= -100, without bound as r nears 1.

    Source: MUSE, arXiv 2407.06460, as in OpenUnlearning, arXiv 2506.12618. *Differs from* the latter without a retain
    log: absent here, where OpenUnlearning takes r = 0.5; that is `privleak_half`.
    """
    pair = _with_retain(log, references, "privacy.min_k")
    return None if pair is None else _leak(*pair)


def privleak_half(log: EvalLog, references: References) -> float | None:
    """PrivLeak against r = 0.5, the AUC of a blind attack: needs no retain model. Range [-100, 100].

    Members and non-members may differ in more than membership: the retain model's r may then be far from 0.5.

    Source: OpenUnlearning, arXiv 2506.12618, whose PrivLeak this is where it is given no retain log.
    """
    a = log.values.get("privacy.min_k")
    return None if a is None else _leak(a, 0.5)


# -- aggregates --------------------------------------------------------------------------------------------------------


def memorization_raw(log: EvalLog, references: References) -> float | None:
    """Harmonic mean of 1 - x over its four inputs: higher is more forgotten.

    Range [0, 1]; the retain model is far from 1, and how far depends on the benchmark (TOFU, Llama-3.2-1B: about 0.6).

    Source: OpenUnlearning, arXiv 2506.12618, section 5, before its scaling. *Differs from* it in extraction strength,
    which has no floor here.
    """
    now = _values(log, MEMORISED, "forget")
    return None if now is None else harmonic_mean([1 - x for x in now])


def memorization(log: EvalLog, references: References) -> float | None:
    """Harmonic mean of 1 - x / x_target, at least 0, over its four inputs.

    Range [0, 1]: 0 for the target model, 1 where nothing of the four is left. A part that the target lacks counts 0: it
    cannot be forgotten.

    Source: OpenUnlearning, arXiv 2506.12618, section 5; how is ours, for it says that it scales by the target model and
    prints no formula. Its table 3 has 0 for the target, as here, and 0.31 for the retain model of Llama-3.2-1B: out of
    reach unscaled, and what this gives where the truth preference falls by a seventh (Llama-2-7B, Phi-1.5: a sixth).
    """
    now = _values(log, MEMORISED, "forget")
    before = None if references.target is None else _values(references.target, MEMORISED, "forget")
    if now is None or before is None:
        return None
    return harmonic_mean([1 - _share(*pair) for pair in zip(now, before, strict=True)])


def privacy(log: EvalLog, references: References) -> float | None:
    """Harmonic mean of `closeness` of the attacks loss, zlib_ratio, min_k, min_k_plus_plus; in [0, 1], retain model 1.

    Source: OpenUnlearning, arXiv 2506.12618, section 5; closeness is our choice, see there.
    """
    return _mean_of(log, *(f"privacy.closeness_{name}" for name in ATTACKS[:4]))


def utility(log: EvalLog, references: References) -> float | None:
    """Model utility over the target model's, at most 1; in [0, 1].

    Source: OpenUnlearning, arXiv 2506.12618, section 5. *Differs from* it in fluency, which is left out: its judge
    there is a classifier that has to be downloaded. The retain model of Llama-3.2-1B gets 0.98 here and 0.99 there.
    """
    now = log.values.get("tofu.model_utility")
    before = None if references.target is None else references.target.values.get("tofu.model_utility")
    return None if now is None or before is None else _share(now, before)


def memorization_and_utility(log: EvalLog, references: References) -> float | None:
    """Harmonic mean of Memorization and Utility, in [0, 1]: what the report tunes its methods by.

    Privacy stays out of it since it needs a retain model, which whoever has to unlearn lacks.

    Source: OpenUnlearning, arXiv 2506.12618, section 5 and table 6.
    """
    return _mean_of(log, "aggregate.memorization", "aggregate.utility")


def overall(log: EvalLog, references: References) -> float | None:
    """Harmonic mean of Memorization, Privacy and Utility, in [0, 1]: what the report ranks methods by.

    Source: OpenUnlearning, arXiv 2506.12618, table 3.
    """
    return _mean_of(log, "aggregate.memorization", "aggregate.privacy", "aggregate.utility")


def _share(x: float, whole: float) -> float:
    """x / whole, at most 1; 1 of 0 to 0, NaN if either is."""
    if math.isnan(x) or math.isnan(whole):
        return math.nan
    return 1.0 if x >= whole else x / whole


def _values(log: EvalLog, names: Sequence[str], rows: str | None = None) -> list[float] | None:
    """Some values of a log, of one set where it is given; None unless all of them are there."""
    full = names if rows is None else [f"{rows}.{name}" for name in names]
    return [log.values[name] for name in full] if all(name in log.values for name in full) else None


def _mean_of(log: EvalLog, *names: str) -> float | None:
    found = _values(log, names)
    return None if found is None else harmonic_mean(found)


def _utility(log: EvalLog, *parts: str) -> float | None:
    there = {name.split(".")[0] for name in log.values}
    general = [rows for rows in ("real_authors", "general") if rows in there]
    if not general:
        return None
    likelihoods = ["retain.probability", *(f"{rows}.probability_normalised" for rows in general)]
    return _mean_of(log, *likelihoods, *(f"{rows}.{part}" for rows in ("retain", *general) for part in parts))


def _with_retain(log: EvalLog, references: References, name: str) -> tuple[float, float] | None:
    if references.retain is None or name not in log.values or name not in references.retain.values:
        return None
    return log.values[name], references.retain.values[name]


def _leak(a: float, r: float) -> float:
    return 100 * (r - a) / (1 - r + EPSILON)
