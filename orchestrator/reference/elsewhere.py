"""Metrics by the names that others give them, and where OpenUnlearning's numbers mislead: data, in our words.

Source: OpenUnlearning (arXiv 2506.12618) at d3d7cf9, the papers of TOFU (arXiv 2401.06121), MUSE (arXiv 2407.06460) and
WMDP (arXiv 2403.03218), and the code of SatImp (arXiv 2505.11953).
"""

from __future__ import annotations

from typing import NamedTuple


class Named(NamedTuple):
    """A metric elsewhere.

    Attributes:
        theirs: Its names there.
        ours: What is the same here, or nearest to it; nothing where nothing is.
        remark: In what it differs.
    """

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    remark: str = ""


def _row(theirs: str, ours: str, remark: str = "") -> Named:
    return Named(tuple(theirs.split()), tuple(ours.split()), remark)


NAMES: dict[str, tuple[Named, ...]] = {
    "OpenUnlearning, TOFU": (
        _row("forget_Q_A_Prob", "forget.probability"),
        _row("forget_Q_A_PARA_Prob", "forget.probability_paraphrased"),
        _row("forget_Q_A_PERT_Prob", "forget.probability_perturbed"),
        _row("forget_Q_A_ROUGE", "forget.rouge_l_recall"),
        _row("forget_truth_ratio", "forget.truth_ratio", "its rows are those of `forget.wrong_over_right`"),
        _row("forget_truth_ratio", "forget.truth_preference", "by its aggregator `prob_mean`, under the same name"),
        _row(
            "retain_Q_A_Prob retain_Q_A_ROUGE retain_Truth_Ratio",
            "retain.probability retain.rouge_l_recall retain.truthfulness",
        ),
        _row(
            "ra_Q_A_Prob_normalised ra_Q_A_ROUGE ra_Truth_Ratio",
            "real_authors.probability_normalised real_authors.rouge_l_recall real_authors.truthfulness",
        ),
        _row(
            "wf_Q_A_Prob_normalised wf_Q_A_ROUGE wf_Truth_Ratio",
            "general.probability_normalised general.rouge_l_recall general.truthfulness",
        ),
        _row("model_utility", "tofu.model_utility"),
        _row("forget_quality", "tofu.forget_quality", "often plotted as `tofu.forget_quality_log10`"),
        _row("forget_Q_A_gibberish", "", "a classifier to download; see `forget.repetition`, `forget.fluency`"),
    ),
    "OpenUnlearning": (
        _row("extraction_strength", "forget.extraction_strength_openunlearning", "of MUSE, `verbmem.`"),
        _row("exact_memorization", "forget.exact_memorization", "of MUSE, `verbmem.`; there it drops the last token"),
        _row(
            "mia_loss mia_zlib mia_min_k mia_min_k_plus_plus",
            "privacy.loss privacy.zlib_ratio privacy.min_k privacy.min_k_plus_plus",
        ),
        _row(
            "mia_reference mia_gradnorm", "privacy.reference privacy.gradient_norm", "its `gradnorm` leaves dropout on"
        ),
        _row("privleak", "privacy.privleak", "without a retain log, `privacy.privleak_half`"),
    ),
    "its report": (
        _row("Mem Priv", "aggregate.memorization aggregate.privacy"),
        _row("Util Agg", "aggregate.utility aggregate.overall", "without fluency"),
    ),
    "MUSE": (
        _row("verbmem_f", "verbmem.rouge_l_f1", "OpenUnlearning: `forget_verbmem_ROUGE`"),
        _row("knowmem_f", "forget_knowmem.rouge_l_f1", "OpenUnlearning: `forget_knowmem_ROUGE`"),
        _row("knowmem_r", "retain_knowmem.rouge_l_f1", "its utility; OpenUnlearning: `retain_knowmem_ROUGE`"),
        _row("privleak", "privacy.privleak"),
    ),
    "WMDP": (
        _row(
            "wmdp_bio wmdp_cyber wmdp_chem",
            "wmdp_bio.accuracy wmdp_cyber.accuracy wmdp_chem.accuracy",
            "`acc` of lm-evaluation-harness",
        ),
        _row("wmdp mmlu", "wmdp.accuracy mmlu.accuracy", "over all questions"),
    ),
    "SatImp": (
        _row("exact", "retain.extraction_strength_satimp", "on its first 400 rows; of the forget set, `forget.`"),
        _row("perturb", "retain.extraction_strength_paraphrased", "here in the model's own prompt"),
    ),
}
"""Where -> its metrics, and ours."""

TRAPS: tuple[tuple[str, str], ...] = (
    (
        "extraction strength is never 0: at least 1 / length, and 1 for a single token, right or wrong",
        "`extraction_strength` starts at 0; theirs is `extraction_strength_openunlearning`",
    ),
    (
        "two truth ratios share a name: wrong / right, and by `prob_mean` right / (right + wrong)",
        "four names; a log of theirs whose rows may be either is refused",
    ),
    (
        "forget quality of a `prob_mean` log against an older retain log is a meaningless p-value, without a word",
        "always of `wrong_over_right`, in both logs",
    ),
    (
        "the losses of wrong answers are averaged, the TOFU paper averages their probabilities: model utility of a "
        "Llama-2-7B 0.623 or 0.586",
        "the losses too, so that published tables compare",
    ),
    (
        "the last labelled token is dropped by some metrics and kept by others, whether or not it is an end token",
        "what asks what was said drops the *end token*; raw text has none and keeps its last",
    ),
    (
        "attention is `id != pad`: where pad is the end token, ends of turns in the prompt are hidden",
        "only padding is hidden; `model.hide_pad: true` for their numbers",
    ),
    (
        "a NaN loss raises in every attack, and the evaluation is lost",
        "NaN is the value; the trial fails with that as its cause, the sweep goes on",
    ),
    (
        "logits are as fine as transformers makes them: fp32 in 4.45, later bf16, on which likelihoods fail",
        "cross-entropies in fp32 whatever the weights are, means in fp64",
    ),
    (
        "plain prompts are cut to 512 tokens at the right: a few-shot prompt loses its question, an answer its end",
        "no question is cut; raw text goes in pieces of `benchmark.chunk`, and a prompt that fills one is refused",
    ),
    (
        "prompt and answer are parted by tokenising the prompt alone; a merge over the border moves it",
        "by the tokens' offsets; where a merge reaches over it, the two are tokenised apart",
    ),
    (
        "PrivLeak without a retain log silently takes an AUC of 0.5",
        "`privacy.privleak` is absent, `privacy.privleak_half` says what it is",
    ),
    (
        "an AUC stands alone, as if 0.5 were right",
        "`privacy.closeness_*` sets each beside the retain model's",
    ),
    (
        "forget quality depends on the number of rows: TOFU's own code takes 300, OpenUnlearning all 400",
        "all; compare p-values of as many rows only",
    ),
    (
        "the holdout split stays `holdout10` whatever is forgotten",
        "it follows `benchmark.split`: `holdout05` for `forget05`",
    ),
    (
        "results that are there are reused, of another model in the same folder too",
        "logs are kept under a digest of model, data and all that is measured",
    ),
    (
        "of a WMDP corpus in .jsonl the lines are trained on as they stand, braces and all",
        "their `text`",
    ),
    (
        "`*_gibberish` is the probability of *clean* text: higher is better",
        "`fluency` and `repetition` are called what they are",
    ),
)
"""What to know of OpenUnlearning's numbers, and what is done here."""
