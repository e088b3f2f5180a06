"""Every metric on one page, made from the registry and the docstrings: `make docs` writes docs/metrics.md.

Range, direction, cost and needs are what the registry says, formula and source what the functions say, so the page
cannot say other than the code does.
"""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.reference.elsewhere import NAMES, TRAPS
from orchestrator.reference.metric_families import FAMILIES, SETS, code, docs, family, in_classes
from orchestrator.report.markdown import table
from trials.naming import GROUPS, named
from trials.registry import COSTS, METRICS, Cost

COST_WORDS: dict[Cost, str] = {
    "one pass": "one teacher-forced pass over each distinct sequence, for all such metrics together",
    "second model": "a pass of the retain model besides",
    "backward": "a forward and a backward pass for each row by itself",
    "generation": "greedy decoding, token after token: on large models by far the dearest",
    "another model": "a changed copy of the model to be measured, or the hidden states of two models",
}
"""Cost class -> what it takes."""

_OPENING = """\
# Metrics

Made from the code by `make docs`; do not edit.

A metric is called `<set>.<metric>`, as in `forget.extraction_strength`, or `<group>.<metric>` where it is of a model as
a whole. A metric of a set is the mean over its rows; a row that lacks what it looks at (a paraphrase, a second token)
is left out. Losses are in nats, `fluency` in bits, PrivLeak in per cent; shares, probabilities and AUCs are fractions.

**Absent, never 0.** A metric of a set that the benchmark lacks, or that is compared with a model or a log that is not
given, is not there; as an objective it is refused before anything runs. NaN is what a diverged model gives: its trial
fails, with that as its cause.

## Sets
"""

_BENCHMARKS = """
The embedded authors have *rows* but `real_authors`, and *attacked*; TOFU has *rows* and *attacked*; MUSE has `forget`,
`retain`, `holdout`, *continued* and *attacked*; WMDP has `forget`, `retain` and *choices*.

## Cost and time
"""

_WHEN = """
```yaml
trial:
  evaluation:
    metrics: [default, forget.truth_ratio, "privacy.*"]   # names, patterns, groups; objectives are measured anyway
    every: 4                      # epochs between measurements of what takes more than one pass; null: the last only
    front: [tofu, robustness]     # besides, once the search has ended, of the trials on the front
```

What takes one pass is measured after every epoch. Rungs compare nothing else, so every objective must be of that class
unless `scheduler.type` is `none`.

## Groups
"""

_REFERENCES = """
## References

*Needs*, below, is what a metric cannot do without. The *target model* is the one that trials start from. The *retain
model* never saw the forget set: where the model is ours it is trained by us; else it is `model.retain_path`, or its log
alone, `model.retain_log`, as `unlearn-sweep evaluate` or OpenUnlearning (`TOFU_EVAL.json`) writes it. Both are measured
once, before the first trial. A trial that is asked to forget only a part of the forget set (`requests.count`) is not
compared with logs of the whole of it.

*Better*: *forgotten* are `forget`, `verbmem`, `forget_knowmem` and `wmdp` with its subjects, *kept* all others but
`holdout`, which nobody was trained on.
"""


def page() -> str:
    """The page, in Markdown."""
    sets = ((f"*{label}*", code(members), about) for label, (members, about) in SETS.items())
    costs = ((f"*{cost}*", COST_WORDS[cost], str(_count(cost))) for cost in COSTS)
    lines = [*_OPENING.splitlines(), "", *table(["class", "sets", ""], sets)]
    lines += [*_BENCHMARKS.splitlines(), "", *table(["class", "takes", "metrics"], costs)]
    lines += [*_WHEN.splitlines(), "", *table(["group", "stands for", "metrics"], _groups())]
    lines += _REFERENCES.splitlines()
    written = docs()
    lines += [line for title in FAMILIES for line in family(title, written)]
    lines += [
        "",
        "## Names elsewhere",
        "",
        "Several names and several of ours in one line correspond in their order.",
        "",
    ]
    lines += table(["", "name", "here", ""], _elsewhere())
    lines += ["", "## OpenUnlearning's traps", "", "What moves its numbers unseen, read at d3d7cf9.", ""]
    lines += table(["there", "here"], TRAPS)
    return "\n".join(lines) + "\n"


def _count(cost: Cost) -> int:
    return sum(metric.cost == cost for metric in METRICS.values())


def _groups() -> Iterator[tuple[str, ...]]:
    for group, words in GROUPS.items():
        about = "every metric of that class" if group == "one_pass" else _in_short(words)
        yield f"`{group}`", about, str(len(named([group])))


def _in_short(words: tuple[str, ...]) -> str:
    """Words as they stand, but metrics that are each taken on the same sets by these."""
    full = [word.split(".") for word in words if word in METRICS]
    sets, names = ([*dict.fromkeys(column)] for column in zip(*full, strict=True)) if full else ([], [])
    every = len(full) == len(words) == len(sets) * len(names)
    return f"{code(names)} of {in_classes(sets)}" if every and len(sets) > 1 else code(words)


def _elsewhere() -> Iterator[tuple[str, ...]]:
    for place, rows in NAMES.items():
        for number, row in enumerate(rows):
            yield "" if number else place, code(row.theirs), code(row.ours) or "-", row.remark


if __name__ == "__main__":
    print(page(), end="")
