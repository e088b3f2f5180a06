"""Metrics family by family, as Markdown: a table of what the registry says, and below it what their docstrings say."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from orchestrator.report.markdown import summary, table
from trials.naming import models_of, references_of
from trials.registry import (
    ATTACKED,
    CHOICES,
    CONTINUED,
    MEMORISED,
    METRICS,
    ROWS,
    SURPRISED,
    ChangedMetric,
    LogMetric,
    Metric,
    RowMetric,
    Similarity,
)

SETS: dict[str, tuple[tuple[str, ...], str]] = {
    "rows": (
        ROWS,
        "questions with answers, or raw text: `forget` is to be forgotten; `retain` is memorised, to stay, and never "
        "replayed; `holdout` was never trained on; `general` and `real_authors` lie beside the subject",
    ),
    "continued": (CONTINUED, "passages to be continued, questions on what is to be forgotten and on what is to stay"),
    "attacked": (ATTACKED, "what attacks try to tell apart: `forget` and `holdout`, or texts that are made for it"),
    "choices": (
        CHOICES,
        "multiple choice: hazardous knowledge, all of it and by subject, and `mmlu`, which is to stay",
    ),
}
"""Class of sets -> its sets, and what they are."""


class Family(NamedTuple):
    """Metrics that belong together: what they have in common, and the names of the functions that say what each is."""

    about: str
    functions: tuple[str, ...]


def _family(about: str, functions: str) -> Family:
    return Family(about, tuple(functions.split()))


FAMILIES: dict[str, Family] = {
    "Memorisation": _family(
        "What is *said*, given the true tokens before it; the end token is left out.",
        "extraction_strength extraction_strength_openunlearning extraction_strength_satimp "
        "extraction_strength_paraphrased exact_memorization",
    ),
    "Likelihood": _family(
        "How likely the answer is, end token included.",
        "probability probability_paraphrased probability_perturbed probability_normalised nll accuracy",
    ),
    "Truth ratios": _family(
        "Is the right answer likelier than wrong ones that look like it? Four functions of one pair of likelihoods.",
        "wrong_over_right truth_ratio truth_preference truthfulness",
    ),
    "Generations": _family(
        "What the model says to a question, greedily, up to any of its end tokens or `evaluation.max_new_tokens`. Raw "
        "text asks nothing; MUSE's passages and questions are continued as far as its authors say.",
        "rouge1_recall rouge_l_recall rouge_l_f1 repetition fluency",
    ),
    "Scores of attacks": _family(
        "Membership inference. A score is higher where a row looks less like one that was trained on; their means say "
        "little, and the next section is made of their rows.",
        "loss zlib_ratio min_k min_k_plus_plus reference gradient_norm",
    ),
    "Attacks": _family(
        "Look at them beside the retain model's, which never saw the forget set: its AUC is the aim, and seldom 0.5.",
        "auc close privleak privleak_half",
    ),
    "TOFU": _family(
        "As its authors, and OpenUnlearning, report it.",
        "model_utility model_utility_likelihood forget_quality forget_quality_log10",
    ),
    "Aggregates": _family(
        "What OpenUnlearning's report ranks methods by. No code of it was released: how it scales is our reading.",
        "memorization_raw memorization privacy utility memorization_and_utility overall",
    ),
    "Changed models": _family(
        "Does what was forgotten come back? `<change>.<set>_<metric>` is `<set>.<metric>` of a changed copy, to be "
        "looked at beside the model's own. `settings` are those of `evaluation.relearning`.",
        "relearned quantised",
    ),
    "Similarity": _family(
        "Does it look alike inside? `similarity.<set>_to_<model>` compares hidden states on the rows of a set.",
        "similarity",
    ),
}
"""Title -> family; every metric is in one."""

_LABELS = {
    "auc": "privacy.<attack>",
    "close": "privacy.closeness_<attack>",
    "relearned": "relearned.*",
    "quantised": "int8.*`, `nf4.*",
    "similarity": "similarity.*",
}
_BETTER = {MEMORISED: "forgotten: low; kept: high", SURPRISED: "forgotten: high; kept: low"}
_PARTS = {
    "paraphrased": "paraphrased answers",
    "perturbed": "wrong answers",
    "rephrased": "paraphrased questions",
    "satimp": "questions",
    "reference_loss": "the retain model",
}

# -- docstrings --------------------------------------------------------------------------------------------------------


class Doc(NamedTuple):
    """A docstring, taken apart: formula and range in words, where it is from, and in what it differs from there."""

    text: str
    source: str
    differs: str


def doc_of(text: str | None) -> Doc:
    """The parts of a docstring, each in one line; "" where it lacks one. Google's sections are left out."""
    paragraphs = inspect.cleandoc(text or "").split("\n\n")
    joined = " ".join(" ".join(part.split()) for part in paragraphs if not re.match(r"(Args|Returns|Raises):", part))
    found = re.fullmatch(r"(.*?)(?:\bSource: (.*?))?(?:\*Differs from\* (.*))?", joined)
    assert found is not None  # of any text: every part may be empty
    return Doc(*(part.strip() for part in found.groups(default="")))


def function_of(metric: Metric) -> str:
    """Name of the function whose docstring says what a metric is; several metrics may share one."""
    if isinstance(metric, ChangedMetric):
        return "relearned" if metric.change == "relearned" else "quantised"
    return "similarity" if isinstance(metric, Similarity) else metric.function.__name__


def docs() -> dict[str, Doc]:
    """Name of a function -> its docstring."""
    from trials.robustness import quantised, relearned  # these import torch
    from trials.similarity import hidden_means, linear_cka, similarity

    found = {
        function_of(metric): doc_of(metric.function.__doc__)
        for metric in METRICS.values()
        if isinstance(metric, RowMetric | LogMetric)
    }
    alike, cka = doc_of(similarity.__doc__), doc_of(linear_cka.__doc__)
    text = f"{alike.text} `hidden_means`: {summary(hidden_means.__doc__)} `linear_cka`: {cka.text}"
    return found | {
        "relearned": doc_of(relearned.__doc__),
        "quantised": doc_of(quantised.__doc__),
        "similarity": Doc(text, f"{cka.source} {alike.source}", alike.differs),
    }


# -- tables ------------------------------------------------------------------------------------------------------------


class Line(NamedTuple):
    """What a line of a family's table says of its metrics, column by column."""

    sets: str
    range: str
    better: str
    cost: str
    needs: str


def lines_of(function: str) -> dict[Line, list[str]]:
    """Line of the table -> the metrics that it is of: those of one function that differ in nothing but their names.

    Row metrics stand there without their sets.
    """
    found: dict[Line, list[str]] = {}
    for name, metric in METRICS.items():
        if function_of(metric) == function:
            sets = metric.sets if isinstance(metric, RowMetric) else ()
            bounds = f"{metric.low:g} to {metric.high:g}"
            better = _BETTER.get(metric.better, metric.better)
            line = Line(in_classes(sets), bounds, better, metric.cost, ", ".join(_needs(name, metric)))
            names = found.setdefault(line, [])
            shown = name.split(".")[1] if sets else name
            if shown not in names:
                names.append(shown)
    return found


def in_classes(sets: Sequence[str]) -> str:
    """Sets by the classes that they are all of, or all but one."""
    words = []
    for label, (members, _) in SETS.items():
        lacking = [f" but `{each}`" for each in members if each not in sets]
        if len(lacking) <= 1:
            words.append(f"*{label}*{''.join(lacking)}")
        else:
            words += [f"`{each}`" for each in members if each in sets]
    return ", ".join(words)


def _needs(name: str, metric: Metric) -> Iterator[str]:
    if isinstance(metric, RowMetric):
        optional = {"paraphrased"} if "perturbed" in metric.sees else set()
        yield from (_PARTS[part] for part in metric.sees if part in _PARTS and part not in optional)
        return
    logs = references_of([name])
    yield from (f"log of the {which} model" for which in ("target", "retain") if which in logs)
    yield from (f"the {which} model" for which in ("target", "retain") if which in models_of([name]) - logs)


# -- a family ----------------------------------------------------------------------------------------------------------


def family(title: str, written: dict[str, Doc]) -> list[str]:
    """The lines of a family's section; columns in which nothing stands are left out."""
    about, functions = FAMILIES[title]
    rows = [(names, line) for function in functions for line, names in lines_of(function).items()]
    shown = [index for index in range(len(Line._fields)) if any(line[index] for _, line in rows)]
    header = ["metric", *(Line._fields[index] for index in shown)]
    cells = ((code(names), *(line[index] for index in shown)) for names, line in rows)
    lines = ["", f"## {title}", "", about, "", *table(header, cells), ""]
    return lines + [_definition(function, written[function]) for function in functions]


def _definition(function: str, doc: Doc) -> str:
    names = [name for names in lines_of(function).values() for name in names]
    metric = METRICS.get(names[0])
    given = f" *From* {code(metric.inputs)}." if len(names) == 1 and isinstance(metric, LogMetric) else ""
    differs = f" *Differs from* {doc.differs}" if doc.differs else ""
    label = _LABELS.get(function, names[0])
    return f"- **`{label}`**: {doc.text}{given} *Source:* {doc.source}{differs}"


def code(words: Iterable[str]) -> str:
    """Words as code, with commas."""
    return ", ".join(f"`{word}`" for word in words)
