"""The losses of the SatImp repository by their official names, and what is wrong in that release: data, in our words.

Five trainer files (base, sat, granu, hard, imp) choose a loss by name: 60 branches, 56 distinct names. Each is a point
of our space, that of the presets named here, up to the numbers that the release leaves to its command line.

Source: the repository of arXiv 2505.11953; `RELATED` that of arXiv 2502.19301 too. Neither has a licence: read, not
copied.
"""

from __future__ import annotations

from typing import NamedTuple


class Official(NamedTuple):
    """One official name.

    Attributes:
        files: Trainer files with a branch of that name.
        presets: What stands for it here, in the order of the files where they differ.
        remark: Which of its settings is which, what differs, and why (defects of `DEFECTS` by their numbers).
    """

    files: tuple[str, ...]
    presets: tuple[str, ...]
    remark: str


def _row(files: str, presets: str, remark: str = "") -> Official:
    return Official(tuple(files.split()), tuple(presets.split()), remark)


_BY_ANSWER = "exponent is `hyper_param`, 5 where not given (B3, B4)"
_BY_STEP = f"{_BY_ANSWER}; a batch is a step, not a micro-batch"
_BY_GROUP = "exponent is `beta`, size is `hyper_param`; padding by the mask (B2, B5, B6)"
_FRACTION = "fraction is `hyper_param`"
_RATIO = "log-ratio by answer (B10)"

OFFICIAL: dict[str, Official] = {
    "grad_ascent": _row("base", "gradient_ascent"),
    "ga": _row(
        "sat hard imp", "gradient_ascent", "the same as `grad_ascent`, which the yamls of these files name (B14)"
    ),
    "grad_diff": _row("base", "gradient_difference"),
    "gd": _row("hard imp", "gradient_difference", "the same as `grad_diff`"),
    "KL": _row("base", "gradient_ascent_kl", "KL over answer tokens (B12)"),
    "grad_ascent_forgetKL": _row("base", "gradient_ascent_forget_kl", "KL on forget rows, over answer tokens (B12)"),
    "fine_tuned": _row("base", "retain_only"),
    "rmu_*": _row(
        "base", "rmu_satimp", "whatever follows `rmu_` is ignored, width 4096 is fixed (B15); both free here"
    ),
    "idk": _row("base sat", "idk_tofu idk", "base: one mean over refusal and retain tokens, here a coefficient each"),
    "idk_kl": _row("sat", "idk_kl", "never loads a refusal: it trains on the forget answers (B13); here it loads them"),
    "dpo": _row("base", "dpo"),
    "dpo_grad_diff": _row("base", "dpo_gd"),
    "dpo_KL": _row("base", "dpo_kl", "KL over answer tokens (B12)"),
    "kto_sigmoid": _row("base", "kto", "zero point over the step, not the micro-batch"),
    "kto_logsigmoid": _row("base", "kto_logsigmoid", "zero point over the step, not the micro-batch"),
    "kto_logsigmoid_grad_diff": _row("base", "kto_logsigmoid_gd", "zero point over the step, not the micro-batch"),
    "simnpo": _row("base", "simnpo", "`gamma` is `margin` / `beta`; length in shifted tokens (B25)"),
    "simnpo_grad_diff": _row(
        "base", "simnpo_tofu05 simnpo_tofu10 muse_wmdp_base_cfg", "`npo_coeff` on the forget term"
    ),
    "npo": _row("base", "npo"),
    "npo_grad_diff": _row("base", "npo_ou", "`npo_coeff` on the forget term"),
    "npo_KL": _row("base", "npo_kl", "KL over answer tokens (B12); `npo_coeff` on the forget term"),
    "satimp": _row("sat", "satimp_readme", "beta1 is `hyper_param`, beta2 is `beta` (B2)"),
    "satimp_gd": _row("sat", "satimp_gd_readme", "the same; `coeff` on the retain term"),
    "simsat_ga": _row("sat", "simsat1_ga", "its exponent is 1 whatever is set (B1); `wga_ge` has 5"),
    "simsat_gd": _row("sat", "simsat5_gd_yaml simsat5", "`coeff` on the forget term, 0.1 in the yaml; exponent 5 (B2)"),
    "simimp_ga": _row("sat", "simimp5_ga", "exponent is `hyper_param`, not `beta` (B2)"),
    "simimp_gd": _row("sat", "simimp5", "exponent is `hyper_param`, not `beta` (B2)"),
    "instance_simsat_ga": _row("granu", "instance_simsat5 instance_simsat5_mean", _BY_ANSWER),
    "instance_simsat_gd": _row("granu", "instance_simsat5_gd", _BY_ANSWER),
    "instance_simimp_ga": _row("granu", "instance_simimp5", _BY_ANSWER),
    "instance_simimp_gd": _row("granu", "instance_simimp5_gd", _BY_ANSWER),
    "batch_simsat_ga": _row("granu", "batch_simsat5 batch_simsat5_mean", _BY_STEP),
    "batch_simsat_gd": _row("granu", "batch_simsat5_gd", _BY_STEP),
    "batch_simimp_ga": _row("granu", "batch_simimp5", _BY_STEP),
    "batch_simimp_gd": _row("granu", "batch_simimp5_gd", _BY_STEP),
    "group_simsat_ga": _row("granu", "group_simsat", _BY_GROUP),
    "group_simsat_gd": _row("granu", "group_simsat_gd", _BY_GROUP),
    "group_simimp_ga": _row("granu", "group_simimp", _BY_GROUP),
    "group_simimp_gd": _row("granu", "group_simimp_gd", _BY_GROUP),
    "ga_topk": _row("hard", "top15 top15_published", f"{_FRACTION}, 0.15 where not given; strict quantile (B8)"),
    "gd_topk": _row("hard", "top15_gd", f"{_FRACTION}, 0.15 where not given; both terms summed (B4, B11)"),
    "ga_bottomk": _row("hard", "bottom50", "`hyper_param` is the share that is dropped (B8), 0.5 where not given"),
    "gd_bottomk": _row("hard", "bottom50_gd", "the same; both terms summed (B4, B11)"),
    "ga_rand": _row("hard", "random50", f"{_FRACTION}, 0.5 where not given; the loss is 0 unless `soft_p` is 1 (B7)"),
    "gd_rand": _row("hard", "random20_gd", f"{_FRACTION}, 0.2 where not given; the same (B7), both summed (B11)"),
    "npo_topk": _row("hard", "npo_top15 npo_top15_published", f"{_FRACTION}; {_RATIO}"),
    "npo_bottomk": _row("hard", "npo_bottom50", f"`hyper_param` is the share that is dropped (B8); {_RATIO}"),
    "npo_rand": _row("hard", "npo_random50", f"{_FRACTION}; {_RATIO}; mask of floats (B7)"),
    "npo_gd_topk": _row("hard", "npo_top15_gd", f"as `npo_topk`; `coeff` on the forget term; {_RATIO}"),
    "npo_gd_bottomk": _row("hard", "npo_bottom50_gd", f"as `npo_bottomk`; `coeff` on the forget term; {_RATIO}"),
    "npo_gd_rand": _row("hard", "npo_random50_gd", f"as `npo_rand`; `coeff` on the forget term; {_RATIO}"),
    "ga_imp": _row("imp", "annotated80", "does not run as released (B9); `hyper_param` is `share`"),
    "gd_imp": _row("imp", "annotated80_gd annotated80_gd_published", "the same; mean over 499 positions a row (B4)"),
    "npo_imp": _row("imp", "npo_annotated80", f"does not run as released (B9); {_RATIO}"),
    "npo_gd_imp": _row("imp", "npo_annotated80_gd", f"does not run as released (B9); {_RATIO}"),
    "npo_kl_imp": _row("imp", "npo_annotated80_kl", f"does not run as released (B9); {_RATIO}; beta (B2); KL (B12)"),
}
"""Official name -> what it is here."""

RELATED: dict[str, Official] = {
    "att_*": _row("data", "key_tokens", "a prefix that masks labels, without a branch (B9); mean over all tokens here"),
    "wga": _row("G-effect", "wga_ge", "exponent is `hyper_param`, 5 where not given"),
    "wga_kl": _row("G-effect", "wga_ge_kl", "the same; KL over answer tokens (B12)"),
    "tnpo": _row("G-effect", "tnpo4", "beta is `hyper_param`, 4 where not given"),
    "tnpo_kl": _row("G-effect", "tnpo4_kl", "the same; KL over answer tokens (B12)"),
    "wtnpo_<a>": _row("G-effect", "wtnpo4", "beta is `hyper_param`, alpha is in the name"),
    "wtnpo_<a>_kl": _row("G-effect", "wtnpo4_kl", "the same; KL over answer tokens (B12)"),
    "ins_npo": _row("G-effect", "tnpo4", "older name of `tnpo`: by token, whatever it says"),
    "w_ins_npo": _row("G-effect", "wtnpo4", "older name of `wtnpo_<a>`; beta 0.1, alpha is `hyper_param`"),
}
"""Names beside the 56: a data set's prefix of the same release, and its predecessor's losses."""

DEFECTS: dict[str, tuple[str, str]] = {
    "B1": (
        "SimSat without retain term ignores its exponent and writes weights to a text file at every step",
        "the exponent always applies; `log_weights` records statistics",
    ),
    "B2": (
        "an exponent is read from one setting if another is given, else silently replaced; 'None' is a string",
        "a typed field for each number; what is unknown or of another type is refused before a run",
    ),
    "B3": (
        "by answer or batch, likelihoods are products: exactly 0 in fp32 for long answers, and a matter of length",
        "`likelihood: mean`, the geometric mean, by default; `sum` to reproduce",
    ),
    "B4": (
        "token means, means of sums, sums, means over padding: each branch its own",
        "`reduction: token_mean` unless set; the others to reproduce",
    ),
    "B5": ("sequence length 499 is written into group and hard selection", "shapes follow from the rows"),
    "B6": ("a token is padding if its cross-entropy is 0", "padding is what the mask says"),
    "B7": ("a soft random mask is cast to integers: the loss is 0", "factors are floats"),
    "B8": (
        "bottom selection keeps 1 - k; strict quantiles keep too few, or none",
        "`fraction` is the share kept, rounded up; `count: published` to reproduce",
    ),
    "B9": (
        "annotated importance does not run: arguments and tuples do not fit, `att_` has no branch",
        "`benchmark.annotations`: key words found as whole words at their places, not as substrings of a token",
    ),
    "B10": (
        "NPO under a mask takes one log-ratio for a micro-batch",
        "one an answer; `log_ratio: micro_batch` to reproduce",
    ),
    "B11": (
        "hard selection computes a retain mask, does not use it, sums the retain term and ignores its coefficient",
        "selection is of forget rows; `retain` has its own coefficient and reduction",
    ),
    "B12": ("KL is averaged over prompt and padding too", "over answer tokens"),
    "B13": ("`idk_kl` trains on the forget answers", "every loss that needs refusals is given them"),
    "B14": (
        "an unknown name fails late; shipped yamls and the README name losses that their trainer lacks",
        "an unknown word is refused in a second, with the nearest one",
    ),
    "B15": (
        "RMU ignores layer and length, its vector has 4096 dimensions",
        "settings; the vector is as wide as the model",
    ),
    "B16": (
        "data sets seed the global generator by index: dropout and pairing repeat",
        "generators of their own, keyed by purpose, seed, epoch and row",
    ),
    "B17": ("padding is trained and forgotten on WMDP", "padding is never a target"),
    "B18": ("the release lacks files and imports, and does not run unmodified", "what is shipped runs in the tests"),
    "B19": (
        "evaluation unpacks three values into two names and drops aggregates on one GPU",
        "one evaluation, after each epoch, on any device",
    ),
    "B20": (
        "template words count as answer; prompt and answer are parted by tokenising the prompt alone",
        "`Answer:` is prompt; the two are tokenised apart",
    ),
    "B21": (
        "OpenUnlearning's SatImp and WGA load a reference model in vain; SatImp's yaml and README swap coefficients",
        "a reference only where a loss needs it; both are presets",
    ),
    "B22": ("1 - p is 0 in bf16, and in fp32 next to p = 1", "fp32 cross-entropies, and expm1"),
    "B23": (
        "gradient accumulation averages means of micro-batches of unequal length",
        "counts of the whole optimiser step",
    ),
    "B24": ("G-effect's `npo_kl` uses one number as beta and as coefficient", "two settings"),
    "B25": (
        "SimNPO divides by one token too many where the first one is supervised",
        "targets are counted once shifted",
    ),
    "B26": (
        "trainers of different versions scale accumulated losses differently",
        "a loop of our own; a test that micro-batches add up to the step",
    ),
}
"""Number -> (what is wrong in the published code, what is done here)."""
