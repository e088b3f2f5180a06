"""Rows, and where they come from: files and sets on the hub, whose records know where they stand.

Files are JSON lines (`.jsonl`), one JSON array (`.json`) or plain text (`.txt`), in UTF-8, each of them also gzipped
(`.gz`).
"""

from __future__ import annotations

import difflib
import gzip
import json
import os
import reprlib
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError
from pydantic.dataclasses import dataclass as validated

KINDS = (".jsonl", ".json", ".txt")


class BenchmarkError(ValueError):
    """A benchmark that cannot be had as configured; `field` is the setting to look at."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class Absent(BenchmarkError):
    """What is asked for is not there; a benchmark does without what is optional."""


@validated(frozen=True)
class Row:
    """One question with its right answer and, where the source has them, paraphrases, wrong answers, key words.

    In a `verbatim` row question and answer are joined as they are: no prompt template, no end token; the question may
    then be empty.
    """

    question: str
    answer: Annotated[str, Field(min_length=1)]
    paraphrased_question: str | None = None
    paraphrased_answer: str | None = None
    perturbed_answer: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    verbatim: bool = False

    def __post_init__(self) -> None:
        if not (self.question or self.verbatim):
            raise ValueError("a question may be empty only in a verbatim row")


_COLUMNS = [column.name for column in fields(Row) if column.name != "verbatim"]


@dataclass(frozen=True)
class Record:
    """One entry of a source, as it was read, and where it stands: `row 3 of raw/forget.json`."""

    value: Any
    where: str


# -- from files and the hub to records ---------------------------------------------------------------------------------


def folder_at(path: str, inside: str) -> Path:
    """The folder of a benchmark's files, in which `inside` is looked for.

    Raises:
        BenchmarkError: It is not a folder.
    """
    folder = Path(os.path.expanduser(path))  # Path's own raises where there is no such user
    if not folder.is_dir():
        raise BenchmarkError("path", f"path {path!r} is not a folder; give one with {inside} in it")
    return folder


def read_records(folder: Path, *names: str, field: str) -> list[Record]:
    """What is in the first of several files that is there, plain or gzipped; a `.txt` file is one record.

    Raises:
        Absent: None of them is there.
        BenchmarkError: The file cannot be read, is not what its name says, or is empty.
    """
    if outside := next((name for name in names if Path(name).is_absolute() or ".." in Path(name).parts), None):
        raise BenchmarkError(field, f"{outside!r} leads out of {str(folder)!r}; name a file in it")
    for name in names:
        for label in (name, f"{name}.gz"):
            if (folder / label).is_file():
                return _recorded(_values(folder / label, field), label, field)
    raise _absent(folder, names, field)


def hub_records(hub: str, name: str, split: str, field: str) -> list[Record]:
    """The rows of one split of one configuration of a dataset on the hub.

    Raises:
        Absent: The dataset has no such configuration or split.
        BenchmarkError: It cannot be fetched, or is empty.
    """
    import datasets  # slow to import, and not needed for local files

    try:
        rows = datasets.load_dataset(hub, name, split=split)
    except ValueError as error:
        raise Absent(field, f"{hub!r} has no {name}/{split} ({error}); correct the {field} or set path") from error
    except (OSError, datasets.exceptions.DatasetsError) as error:
        raise BenchmarkError(
            "hub",
            f"{hub!r} could not be fetched ({type(error).__name__}: {error}); go online or set path to a folder",
        ) from error
    return _recorded(enumerate(rows, 1), f"{name}/{split}", field)


def _recorded(numbered: Iterable[tuple[int, Any]], source: str, field: str) -> list[Record]:
    records = [Record(value, f"row {number} of {source}") for number, value in numbered]
    if not records:
        raise BenchmarkError(field, f"{source} has no rows; a set that is named must have some")
    return records


# -- from records to rows ----------------------------------------------------------------------------------------------


def columns_of(record: Record, names: Sequence[str], field: str) -> Mapping[str, Any]:
    """All columns of a record that has some texts, by name whatever their order.

    Raises:
        BenchmarkError: One of the named columns is missing, empty, or not a text.
    """
    columns = record.value if isinstance(record.value, Mapping) else {}
    missing = [name for name in names if not isinstance(columns.get(name), str) or not columns[name]]
    if missing:
        raise BenchmarkError(
            field, f"{record.where} has no {' and no '.join(missing)}; every row needs {' and '.join(names)}, as text"
        )
    return columns


def row_at(record: Record, field: str, **columns: Any) -> Row:
    """The row of a record.

    Raises:
        BenchmarkError: A column is not of its type; it is named, and where the record stands.
    """
    try:
        return Row(**columns)
    except ValidationError as error:
        first = error.errors()[0]
        raise BenchmarkError(
            field, f"{record.where}: {first['loc'][0]} is {reprlib.repr(first['input'])}; {first['msg']}"
        ) from None


def qa_rows(records: Iterable[Record], field: str) -> tuple[Row, ...]:
    """Rows of records that have TOFU's columns: question and answer, and any other column of a row.

    Raises:
        BenchmarkError: A column is missing or not of its type.
    """
    found = [(record, columns_of(record, ("question", "answer"), field)) for record in records]
    return tuple(
        row_at(record, field, **{name: columns[name] for name in _COLUMNS if columns.get(name) is not None})
        for record, columns in found
    )


def text_rows(records: Iterable[Record], field: str) -> tuple[Row, ...]:
    """Rows of raw text: of records that are texts, or have one under `text`; blank ones are left out.

    Raises:
        BenchmarkError: A record has no text, or all are blank.
    """
    rows, where = [], "the file"
    for record in records:
        text = record.value.get("text") if isinstance(record.value, Mapping) else record.value
        if not isinstance(text, str):
            raise BenchmarkError(field, f"{record.where} has no text; every row must be a text, or have one as `text`")
        if text.strip():
            rows.append(row_at(record, field, question="", answer=text, verbatim=True))
        where = record.where
    if not rows:
        raise BenchmarkError(field, f"there is nothing but blanks up to {where}; a set that is named must have rows")
    return tuple(rows)


# -- files -------------------------------------------------------------------------------------------------------------


def _values(file: Path, field: str) -> list[tuple[int, Any]]:
    """The entries of a file, each with its number: that of its line in a file of JSON lines."""
    opener, kind = (gzip.open, Path(file.stem).suffix) if file.suffix == ".gz" else (open, file.suffix)
    try:
        with opener(file, "rt", encoding="utf-8-sig") as stream:  # some editors begin with a mark
            text = stream.read()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise BenchmarkError(
            field, f"{file} cannot be read ({error}); it must be UTF-8 text, gzipped where it ends in .gz"
        ) from error
    if kind == ".txt":
        return [(1, text)]
    if kind == ".json" and text.lstrip().startswith("["):
        return list(enumerate(_json(text, file, 0, field), 1))
    # Not splitlines, which takes characters for ends of lines that JSON allows within a text.
    lines = enumerate(text.split("\n"), 1)
    return [(number, _json(line, file, number - 1, field)) for number, line in lines if line.strip()]


def _json(text: str, file: Path, before: int, field: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise BenchmarkError(
            field,
            f"{file}:{before + error.lineno} is not JSON ({error.msg}); one object a line is needed, "
            "or in a .json file one array",
        ) from error


def _absent(folder: Path, names: Sequence[str], field: str) -> Absent:
    """The error that names a file, the other forms it may have, and what is there in its place."""
    file = folder / names[0]
    forms = ", ".join([f"{file.suffix}.gz", *(Path(name).suffix for name in names[1:])])
    beside = (each.name.removesuffix(".gz") for each in file.parent.glob("*"))
    there = sorted({name.removesuffix(file.suffix) for name in beside if name.endswith(KINDS)})
    near = difflib.get_close_matches(file.stem, there, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(there) or f'no {file.suffix} file'}"
    return Absent(field, f"{file.name} (or {forms}) is not in {str(file.parent)!r}; {hint}")
