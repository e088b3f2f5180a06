"""Which metrics a user means, and what these take: names, patterns and groups of the registry."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable

from trials.logs import EvalLog, References
from trials.registry import METRICS, ROWS, ChangedMetric, LogMetric, Similarity

_KNOWN = ("extraction_strength", "exact_memorization", "probability", "nll")

GROUPS: dict[str, tuple[str, ...]] = {
    "default": tuple(f"{rows}.{name}" for rows in ROWS for name in _KNOWN),
    "tofu": (
        "default",
        "forget.truth_*",
        "forget.probability*",
        "forget.rouge_l_recall",
        "*.extraction_strength_*",
        "tofu.*",
        "aggregate.*",
        "privacy.privleak",
    ),
    "privacy": ("privacy.*",),
    "muse": ("verbmem.rouge_l_f1", "verbmem.extraction_strength", "*_knowmem.rouge_l_f1", "privacy.privleak"),
    "wmdp": ("*.accuracy",),
    "robustness": ("relearned.*", "int8.*", "nf4.*", "similarity.*"),
    "fluency": ("forget.repetition", "forget.fluency"),
    "one_pass": tuple(name for name, metric in METRICS.items() if metric.cost == "one pass"),
    "all": ("*",),
}
"""Name of a group -> names, patterns and groups."""


def named(words: Iterable[str]) -> list[str]:
    """The full names of metrics that some names, patterns (`forget.*`) and groups stand for, in the registry's order.

    Raises:
        ValueError: A word stands for nothing; it is the error's only argument.
    """
    found: set[str] = set()
    for word in words:
        here = set(named(GROUPS[word])) if word in GROUPS else set(fnmatch.filter(METRICS, word))
        if not here:
            raise ValueError(word)
        found |= here
    return [name for name in METRICS if name in found]


def with_inputs(names: Iterable[str]) -> list[str]:
    """Names, and all that they are computed from, inputs first."""
    found: set[str] = set()
    left = list(names)
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            metric = METRICS[name]
            left += metric.inputs if isinstance(metric, LogMetric) else ()
    return [name for name in METRICS if name in found]


def rows_of(name: str) -> set[str]:
    """The sets that a metric looks at; of a log metric, those of its inputs, some of which it may do without."""
    metric = METRICS[name]
    if isinstance(metric, LogMetric):
        return set().union(*(rows_of(given) for given in metric.inputs))
    if isinstance(metric, Similarity):
        return {metric.rows}
    return rows_of(metric.of) if isinstance(metric, ChangedMetric) else {name.split(".")[0]}


def references_of(names: Iterable[str]) -> set[str]:
    """The models, `target` or `retain`, whose logs some metrics need."""
    found = (METRICS[name] for name in with_inputs(names))
    return {which for metric in found if isinstance(metric, LogMetric) for which in metric.reference}


def looked_into(names: Iterable[str]) -> set[str]:
    """The models, `target` or `retain`, that some metrics look into: a log will not do."""
    found = [METRICS[name] for name in with_inputs(names)]
    near = {metric.to for metric in found if isinstance(metric, Similarity)}
    return near | {"retain" for metric in found if metric.cost == "second model"}


def models_of(names: Iterable[str]) -> set[str]:
    """The models, `target` or `retain`, whose logs or weights some metrics need."""
    names = list(names)
    return references_of(names) | looked_into(names)


def completed(
    log: EvalLog, names: Iterable[str], references: References, partial: Collection[str] = frozenset()
) -> EvalLog:
    """A log with the log metrics among `names` that follow from it; those that cannot be had are absent.

    Args:
        log: What its row metrics are.
        names: With their inputs, in the registry's order.
        references: Logs of target and retain model.
        partial: Sets that the log is of a part of only: on them it is not compared with other models.
    """
    values = dict(log.values)
    grown = EvalLog(values, log.rows, log.about)
    for name in names:
        metric = METRICS[name]
        if isinstance(metric, LogMetric):
            value = metric.function(grown, References() if rows_of(name) & set(partial) else references)
            if value is not None:
                values[name] = value
    return grown
