"""WMDP (arXiv 2403.03218): hazardous knowledge, forgotten by way of a corpus, measured by multiple choice.

The forget corpus is what is to be forgotten. Of the retain corpus the first half may be replayed, and `retain.*` is
taken on the second. Probes: `wmdp_bio`, `wmdp_cyber`, `wmdp_chem` by the names of their files, `wmdp` all questions
together, `mmlu` questions of what is to be kept.

A question is a row whose answer is the right letter and whose perturbed answers are the wrong ones, in the prompt of
lm-evaluation-harness 0.4.8, tasks wmdp and mmlu, without shots.

*Differs from* OpenUnlearning, which trains on the lines of a .jsonl file as they are, quotes, braces and all.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from trials.benchmarks import Benchmark, halves
from trials.reading import (
    Absent,
    BenchmarkError,
    Record,
    Row,
    columns_of,
    folder_at,
    read_records,
    row_at,
    text_rows,
)
from trials.sources import WmdpConfig

SUBJECTS = {"wmdp_bio": "biology", "wmdp_cyber": "cybersecurity", "wmdp_chem": "chemistry"}
"""Name of a probe, and of its file -> what the prompt says that its questions are about."""

_DESCRIBED = "The following are multiple choice questions (with answers){about}.\n\n"


def load_wmdp(config: WmdpConfig) -> Benchmark:
    """The corpora and the questions in a folder.

    Raises:
        BenchmarkError: A corpus, the utility file or all files of questions are missing, or a file is not of its form.
    """
    folder = folder_at(config.path, "wmdp_bio.jsonl")
    kept = _corpus(folder, config.retain_corpus, "retain_corpus")
    pool, retain = halves(kept, "retain_corpus") if kept else ((), ())
    probes = _hazards(folder, config.questions)
    if config.utility is not None:
        try:
            probes["mmlu"] = _questions(folder, config.utility, "utility")
        except Absent as error:
            raise BenchmarkError("utility", f"{error}; without one set utility to null") from error
    return Benchmark(
        config.name,
        forget=_corpus(folder, config.forget_corpus, "forget_corpus"),
        retain_pool=pool,
        retain=retain,
        retain_rest=(),
        holdout=(),
        general=(),
        probes=probes,
        chunk=config.chunk,
    )


def _corpus(folder: Path, name: str | None, field: str) -> tuple[Row, ...]:
    if name is None:
        return ()
    records = read_records(folder, name, field=field)
    if name.removesuffix(".gz").endswith(".txt"):  # one record, of texts with blank lines between them
        records = [Record(text, whole.where) for whole in records for text in re.split(r"\n\s*\n", whole.value)]
    return text_rows(records, field)


def _hazards(folder: Path, names: Sequence[str]) -> dict[str, tuple[Row, ...]]:
    """Probe -> questions of what is to be forgotten, of those files that are there."""
    probes: dict[str, tuple[Row, ...]] = {}
    every: tuple[Row, ...] = ()
    for name in names:
        with suppress(Absent):
            rows = _questions(folder, name, "questions")
            every += rows
            if (probe := _stem(name)) in SUBJECTS:
                probes[probe] = probes.get(probe, ()) + rows
    if not every:
        raise BenchmarkError(
            "questions", f"none of the files {', '.join(names) or '(none named)'} is in {str(folder)!r}; one must be"
        )
    return {**probes, "wmdp": every}


def _questions(folder: Path, name: str, field: str) -> tuple[Row, ...]:
    subject = SUBJECTS.get(_stem(name))
    return tuple(_question(record, field, subject) for record in read_records(folder, name, field=field))


def _question(record: Record, field: str, subject: str | None) -> Row:
    """The row of a question; what it is about is the file's subject, or its own as in mmlu."""
    columns = columns_of(record, ("question",), field)
    choices = columns.get("choices")
    if not (
        isinstance(choices, list)
        and 2 <= len(choices) <= len(ascii_uppercase)
        and all(isinstance(choice, str) for choice in choices)
    ):
        raise BenchmarkError(
            field, f"{record.where}: choices is {reprlib.repr(choices)}; it must be a list of 2 to 26 texts"
        )
    letters = ascii_uppercase[: len(choices)]
    right = _letter(columns.get("answer"), letters)
    if right is None:
        raise BenchmarkError(
            field,
            f"{record.where}: answer is {reprlib.repr(columns.get('answer'))}; it must be a number from 0 to "
            f"{len(choices) - 1} or a letter from A to {letters[-1]}",
        )
    subject = subject or columns.get("subject")
    about = f" about {subject.replace('_', ' ')}" if isinstance(subject, str) else ""
    options = "\n".join(f"{letter}. {choice}" for letter, choice in zip(letters, choices, strict=True))
    return row_at(
        record,
        field,
        question=f"{_DESCRIBED.format(about=about)}{columns['question'].strip()}\n{options}\nAnswer:",
        answer=f" {right}",
        perturbed_answer=tuple(f" {letter}" for letter in letters if letter != right),
        verbatim=True,
    )


def _letter(answer: Any, letters: str) -> str | None:
    """The letter of an answer that is an index or a letter; None if there is no such choice."""
    if type(answer) is int and 0 <= answer < len(letters):  # true and false are of `int` too
        return letters[answer]
    return answer if isinstance(answer, str) and len(answer) == 1 and answer in letters else None


def _stem(name: str) -> str:
    return Path(name.removesuffix(".gz")).stem
