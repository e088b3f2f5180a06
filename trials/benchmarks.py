"""What is to be forgotten and what is to stay: the row sets of a benchmark.

Sets of rows: `forget`; `retain_pool`, which the unlearner may replay; `retain`, memorised like the pool but never
replayed, where `retain.*` metrics are taken (replayed rows hide the damage); `holdout`, never trained on; `general` and
`real_authors`, knowledge outside the benchmark's subject. `retain_rest` is memorised and otherwise unused. `probes` are
measured on and nothing else.

Rows of TOFU's columns come from our own generator, from a folder of JSON lines, or from the hub; MUSE and WMDP have
modules of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import Any

from trials.annotations import AnnotationError, Spans, read_annotations, spans_of
from trials.authors import generate_authors
from trials.config import Requests
from trials.identity import digest
from trials.reading import Absent, BenchmarkError, Record, Row, folder_at, hub_records, qa_rows, read_records
from trials.sources import AuthorsConfig, BenchmarkConfig, MuseConfig, TofuConfig, WmdpConfig

__all__ = ["Benchmark", "BenchmarkError", "Continuation", "Row", "load_benchmark", "parts_of"]

ROWS_PER_AUTHOR = 20  # of TOFU; the files have no author column, authors are consecutive blocks
_FORGET_SETTING = {"tofu": "split", "muse": "forget", "wmdp": "forget_corpus"}


@dataclass(frozen=True)
class Continuation:
    """How the questions of a set are continued, where its authors say so.

    Attributes:
        max_new_tokens: Longest generation.
        stops: Texts that end it; the first of them and what follows are cut off.
        cut_reference: Whether the answer it is compared with is cut to as many tokens.
    """

    max_new_tokens: int
    stops: tuple[str, ...] = ()
    cut_reference: bool = False


@dataclass(frozen=True)
class Benchmark:
    """The row sets of one benchmark; see the module's docstring for what each is for.

    Attributes:
        key_spans: Where in each forget answer the annotated key words stand; empty where nobody annotated them.
        probes: Name -> rows that are only measured on.
        requests: Sizes of the forget set's own requests, in the order of its rows; empty where it has none.
        chunk: Longest piece in tokens that raw text is cut into; None where rows are taken whole.
        continuations: Name of a set -> how its questions are continued.
    """

    name: str
    forget: tuple[Row, ...]
    retain_pool: tuple[Row, ...]
    retain: tuple[Row, ...]
    retain_rest: tuple[Row, ...]
    holdout: tuple[Row, ...]
    general: tuple[Row, ...]
    key_spans: tuple[Spans, ...] = ()
    real_authors: tuple[Row, ...] = ()
    probes: Mapping[str, tuple[Row, ...]] = field(default_factory=dict)
    requests: tuple[int, ...] = ()
    chunk: int | None = None
    continuations: Mapping[str, Continuation] = field(default_factory=dict)

    @property
    def kept(self) -> tuple[Row, ...]:
        """What the retain model is trained on: everything memorised but the forget set."""
        return self.retain_pool + self.retain + self.retain_rest + self.general + self.real_authors

    @property
    def evaluated(self) -> dict[str, tuple[Row, ...]]:
        """Name of a metric's set -> its rows; sets that the source lacks are left out.

        Attacks tell `members` from `nonmembers`: forget from holdout rows, unless the source has probes for them.
        """
        sets = {name: getattr(self, name) for name in ("forget", "retain", "holdout", "general", "real_authors")}
        if self.forget and self.holdout and self.probes.keys().isdisjoint({"members", "nonmembers"}):
            sets |= {"members": self.forget, "nonmembers": self.holdout}
        return {name: rows for name, rows in (sets | dict(self.probes)).items() if rows}

    def digest(self, *, annotations: bool = False) -> str:
        """Sixteen hex digits that name the texts, which models are trained on, and if asked for the key words too."""
        texts = {name: _plain(value) for name, value in vars(self).items() if name != "key_spans"}
        return digest(texts | ({"key_spans": self.key_spans} if annotations and self.key_spans else {}))


def load_benchmark(config: BenchmarkConfig) -> Benchmark:
    """The rows of a benchmark, checked.

    Raises:
        BenchmarkError: A file, column or row set is missing, empty, or forget and retain overlap.
    """
    benchmark = _annotated(config, _load(config))
    shared = {(r.question, r.answer) for r in benchmark.forget} & {(r.question, r.answer) for r in benchmark.kept}
    if shared:
        question, answer = min(shared)
        raise BenchmarkError(
            _FORGET_SETTING.get(config.type, "type"),
            f"{len(shared)} rows are in the forget and in the retain set, {(question or answer)[:60]!r} among them; "
            "what is to be forgotten must not be replayed: remove them from one",
        )
    return benchmark


def parts_of(benchmark: Benchmark, requests: Requests) -> list[range]:
    """Which forget rows each request is about, in the order in which they are made.

    The benchmark's own requests, or `parts` ranges whose sizes differ by at most one; the first `count` of them.

    Raises:
        BenchmarkError: More parts or requests are asked for than there are, or parts of a benchmark that has requests
            of its own; its field is one of `requests`.
    """
    rows, parts, sizes = len(benchmark.forget), requests.parts, benchmark.requests
    if sizes and parts > 1:
        raise BenchmarkError(
            "parts",
            f"parts {parts} would cut up the {len(sizes)} requests that {benchmark.name} has of its own; set it to 1",
        )
    if parts > rows:
        raise BenchmarkError("parts", f"parts {parts} is more than the {rows} rows of the forget set; lower it")
    ends = list(accumulate(sizes)) or [rows * part // parts for part in range(1, parts + 1)]
    count = requests.count or len(ends)
    if count > len(ends):
        raise BenchmarkError("count", f"count {count} is more than there are requests ({len(ends)}); lower it")
    return [range(start, end) for start, end in pairwise([0, *ends[:count]])]


def halves(rows: Sequence[Row], field: str) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """What may be replayed, and what is measured on, of rows that are to be kept: the first half and the second.

    Raises:
        BenchmarkError: There is only one.
    """
    if len(rows) < 2:
        raise BenchmarkError(field, "one text to be kept is too few: half are replayed, half measured on; give two")
    middle = len(rows) // 2
    return tuple(rows[:middle]), tuple(rows[middle:])


def _plain(value: Any) -> Any:
    """Values of a benchmark as JSON; key words are left out of rows, since models are not trained on them."""
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return {k: v for k, v in vars(value).items() if k != "keys"} if isinstance(value, Row | Continuation) else value


# -- sources -----------------------------------------------------------------------------------------------------------


def _load(config: BenchmarkConfig) -> Benchmark:
    if isinstance(config, MuseConfig):
        from trials.muse import load_muse  # it makes what is defined here

        return load_muse(config)
    if isinstance(config, WmdpConfig):
        from trials.wmdp import load_wmdp

        return load_wmdp(config)
    return _authors(config) if isinstance(config, AuthorsConfig) else _tofu(config)


def _authors(config: AuthorsConfig) -> Benchmark:
    try:
        rows = generate_authors(
            authors=config.authors,
            forget_authors=config.forget_authors,
            holdout_authors=config.holdout_authors,
            questions=config.questions,
            general=config.general,
            seed=config.seed,
        )
    except ValueError as error:
        raise BenchmarkError("authors", str(error)) from error
    retain = _generated(rows.retain)
    pool = config.retain_pool
    if pool >= len(retain):
        raise BenchmarkError(
            "retain_pool",
            f"retain_pool {pool} leaves none of the {len(retain)} retain rows to measure on; lower it",
        )
    return Benchmark(
        config.name,
        forget=_generated(rows.forget),
        retain_pool=retain[:pool],
        retain=retain[pool:],
        retain_rest=(),
        holdout=_generated(rows.holdout),
        general=_generated(rows.general),
    )


def _generated(rows: Sequence[Any]) -> tuple[Row, ...]:
    return qa_rows([Record(row, f"row {number} of the generator") for number, row in enumerate(rows, 1)], "authors")


def _tofu(config: TofuConfig) -> Benchmark:
    retain_split, holdout_split = _companions(config)
    forget = _perturbed(config, config.split)
    retain = _read(config, retain_split, "retain_split")
    if config.authors is not None:
        keep = config.authors * ROWS_PER_AUTHOR - len(forget)
        if keep <= 0:
            raise BenchmarkError(
                "authors",
                f"authors {config.authors} must exceed the {len(forget) // ROWS_PER_AUTHOR} authors of "
                f"{config.split}; raise it or take a smaller forget split",
            )
        retain = retain[:keep]
    paraphrased = {(r.question, r.answer): r for r in _read(config, "retain_perturbed", "path", optional=True)}
    retain = tuple(paraphrased.get((row.question, row.answer), row) for row in retain)
    measured, rest = retain[: config.retain_eval], retain[config.retain_eval :]
    pool = rest[: config.retain_pool]
    if not pool:
        raise BenchmarkError(
            "retain_eval",
            f"retain_eval {config.retain_eval} leaves none of the {len(retain)} retain rows to replay; "
            "lower it or take more authors",
        )
    return Benchmark(
        config.name,
        forget=forget,
        retain_pool=pool,
        retain=measured,
        retain_rest=rest[len(pool) :],
        holdout=_read(config, holdout_split, "holdout_split", optional=config.holdout_split is None),
        general=_read(config, config.general_split, "general_split", optional=True),
        real_authors=_read(config, config.real_authors_split, "real_authors_split", optional=True),
    )


def _companions(config: TofuConfig) -> tuple[str, str]:
    """Retain and holdout split that belong to a forget split: forget05 -> retain95, holdout05."""
    share = config.split.removeprefix("forget")
    if config.split.startswith("forget") and share.isdigit():
        retain, holdout = f"retain{100 - int(share)}", f"holdout{share}"
    elif config.retain_split is None:
        raise BenchmarkError(
            "retain_split",
            f"split {config.split!r} is not of the form forgetNN, so its retain set cannot be guessed; "
            "set retain_split",
        )
    else:
        retain, holdout = "", "holdout"
    return config.retain_split or retain, config.holdout_split or holdout


def _perturbed(config: TofuConfig, split: str) -> tuple[Row, ...]:
    """The forget rows, with paraphrases and wrong answers where the source has them."""
    return _read(config, f"{split}_perturbed", "split", optional=True) or _read(config, split, "split")


def _read(config: TofuConfig, name: str, field: str, *, optional: bool = False) -> tuple[Row, ...]:
    try:
        if config.path is None:
            records = hub_records(config.hub, name, "train", field)
        else:
            records = read_records(folder_at(config.path, f"{name}.jsonl"), f"{name}.jsonl", field=field)
    except Absent:
        if optional:
            return ()
        raise
    return qa_rows(records, field)


def _annotated(config: BenchmarkConfig, benchmark: Benchmark) -> Benchmark:
    """With the places of key words: from the user's file, or where every forget row brings its own."""
    if isinstance(config, TofuConfig) and config.annotations is not None:
        try:
            return replace(benchmark, key_spans=tuple(read_annotations(config.annotations, benchmark.forget)))
        except AnnotationError as error:
            raise BenchmarkError("annotations", str(error)) from error
    if all(row.keys for row in benchmark.forget):
        return replace(benchmark, key_spans=tuple(spans_of(row.answer, row.keys) for row in benchmark.forget))
    return benchmark
