"""MUSE (arXiv 2407.06460): news or books to be forgotten, as raw text, from a folder or from the hub.

A target model of MUSE has read raw/forget (with scal and sust, their files), raw/retain1 and raw/retain2. The
unlearner may replay retain1, and `retain.*` is taken on retain2. Probes: `verbmem`, passages to be continued;
`forget_knowmem` and `retain_knowmem`, questions after ten answered ones; `members` and `nonmembers`, passages that were
read and that were not.

Rows are whole texts, as long as a book: they are cut by tokens, so after tokenisation.

*Differs from* OpenUnlearning, which joins all texts before it cuts them; and from the authors' code, whose prompts end
with the blank after `Answer:`, which here begins the answer, as tokenizers have it.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Literal

from trials.benchmarks import Benchmark, Continuation, halves
from trials.reading import (
    Absent,
    BenchmarkError,
    Record,
    Row,
    columns_of,
    folder_at,
    hub_records,
    read_records,
    row_at,
    text_rows,
)
from trials.sources import MuseConfig

SHOT = "Question: {question}\nAnswer: {answer}\n\n"
ASKED = "Question: {question}\nAnswer:"

_KNOWLEDGE = Continuation(32, stops=("\n\n", "\nQuestion", "Question:"))
CONTINUATIONS = {
    "verbmem": Continuation(128, cut_reference=True),
    "forget_knowmem": _KNOWLEDGE,
    "retain_knowmem": _KNOWLEDGE,
}

_FORMER_CORPUS = {"news": "bbc", "books": "hp"}
_FORMER_SPLIT = {"retain_qa": "retain2_qa", "retain_qa_icl": "retain2_qa_icl"}
_MOST_REQUESTS = 4


def load_muse(config: MuseConfig) -> Benchmark:
    """The rows of one corpus of MUSE; probes and the holdout set may be missing.

    Raises:
        BenchmarkError: The forget or the retain set is missing, or a file is not as MUSE's are.
    """
    corpus = _Corpus(config)
    forget = _forget(corpus, config.forget)
    pool = corpus.texts("raw", "retain1")
    retain = corpus.texts("raw", "retain2", optional=True)
    if not retain:
        pool, retain = halves(pool, corpus.field)
    probes = {
        "verbmem": _passages(corpus),
        "forget_knowmem": _questions(corpus, "forget"),
        "retain_knowmem": _questions(corpus, "retain"),
        "members": corpus.texts("privleak", "forget", optional=True),
        "nonmembers": corpus.texts("privleak", "holdout", optional=True),
    }
    if bool(probes["members"]) != bool(probes["nonmembers"]):
        raise BenchmarkError(
            corpus.field, "privleak has only one of forget and holdout; an attack needs both: add the other or drop it"
        )
    return Benchmark(
        config.name,
        forget=tuple(row for request in forget for row in request),
        retain_pool=pool,
        retain=retain,
        retain_rest=(),
        holdout=corpus.texts("raw", "holdout", optional=True),
        general=(),
        probes={name: rows for name, rows in probes.items() if rows},
        requests=() if config.forget == "raw" else tuple(len(request) for request in forget),
        chunk=config.chunk,
        continuations=CONTINUATIONS,
    )


class _Corpus:
    """Where one corpus lies: in a folder of files, or on the hub."""

    def __init__(self, config: MuseConfig) -> None:
        self.hub = config.hub or f"muse-bench/MUSE-{config.corpus.title()}"
        self.field = "hub" if config.path is None else "path"
        self.folder = None
        if config.path is not None:
            root = folder_at(config.path, "raw/forget.json")
            named = (root / config.corpus, root / _FORMER_CORPUS[config.corpus])
            self.folder = next((folder for folder in named if folder.is_dir()), root)

    def texts(self, group: str, split: str, *, optional: bool = False) -> tuple[Row, ...]:
        """Raw text, a row each."""
        records = self.records(group, split, optional=optional)
        return text_rows(records, self.field) if records else ()

    def records(self, group: str, split: str, *, optional: bool = False) -> list[Record]:
        """What a split holds, under its name or its former one; nothing if it is optional and not there."""
        try:
            return self._read(group, split)
        except Absent:
            if split in _FORMER_SPLIT:
                with suppress(Absent):
                    return self._read(group, _FORMER_SPLIT[split])
            if not optional:
                raise
        return []

    def _read(self, group: str, split: str) -> list[Record]:
        field = "forget" if group in ("scal", "sust") else self.field
        if self.folder is None:
            return hub_records(self.hub, group, split, field)
        kinds = (".json", ".jsonl") if group in ("knowmem", "verbmem") else (".json", ".jsonl", ".txt")
        return read_records(self.folder, *(f"{group}/{split}{kind}" for kind in kinds), field=field)


def _forget(corpus: _Corpus, which: Literal["raw", "scal", "sust"]) -> list[tuple[Row, ...]]:
    """The forget rows of each request, one request if they are `raw`.

    The files of `scal` nest: what a request adds is what the files before it lack.
    """
    if which == "raw":
        return [corpus.texts("raw", "forget")]
    files = [corpus.texts(which, f"forget_{n}", optional=n > 1) for n in range(1, _MOST_REQUESTS + 1)]
    if which == "sust":
        return [rows for rows in files if rows]
    requests: list[tuple[Row, ...]] = []
    known: set[Row] = set()
    for number, rows in enumerate(files, 1):
        new = tuple(row for row in rows if row not in known)
        if rows and not new:
            raise BenchmarkError(
                "forget", f"scal/forget_{number} adds no text to those before it; each request must add some"
            )
        requests += [new] if new else []
        known.update(rows)
    return requests


def _passages(corpus: _Corpus) -> tuple[Row, ...]:
    rows = []
    for record in corpus.records("verbmem", "forget", optional=True):
        columns = columns_of(record, ("prompt", "gt"), corpus.field)
        rows.append(_continued(record, corpus.field, columns["prompt"], columns["gt"]))
    return tuple(rows)


def _questions(corpus: _Corpus, which: Literal["forget", "retain"]) -> tuple[Row, ...]:
    """Each question after all the answered ones that belong to it."""
    asked = corpus.records("knowmem", f"{which}_qa", optional=True)
    if not asked:
        return ()
    names = ("question", "answer")
    answered = corpus.records("knowmem", f"{which}_qa_icl")
    shots = "".join(SHOT.format_map(columns_of(record, names, corpus.field)) for record in answered)
    rows = []
    for record in asked:
        columns = columns_of(record, names, corpus.field)
        rows.append(_continued(record, corpus.field, shots + ASKED.format_map(columns), columns["answer"]))
    return tuple(rows)


def _continued(record: Record, field: str, prompt: str, answer: str) -> Row:
    return row_at(record, field, question=prompt, answer=f" {answer}", verbatim=True)
