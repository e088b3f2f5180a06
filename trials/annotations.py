r"""Annotated importance: which answer tokens carry the key words that somebody has marked.

The file is one JSON object that maps each forget answer, letter for letter, to the list of its key words:

    {
      "The father of Ada was a florist in Kuwait City.": ["father", "florist", "Kuwait City"],
      "She was born in 1945.": ["1945"]
    }

Every forget row needs an entry with at least one key. Rows with equal answers share theirs. Entries for other answers
are let be, so that the file of a large split serves the smaller ones too.

A key is found wherever it stands as a whole word, or as whole words in a row, written as in the file: case counts
("May" is not "may"), blanks around it do not. Letters, digits and underscores make words; all else parts them, hyphen
and apostrophe too: "Anne" is found in "Anne's" and "Anne-Marie", "19" not in "1945", "he" not in "father". Scripts
written without blanks between words (Chinese, Japanese, Thai and their like; Korean, whose particles stick to the word)
have no such border to ask for: there a key is found wherever it stands.

Torch is not needed, so the file can be checked against the rows before any model is loaded.

*Differs from* the published code (of arXiv 2505.11953), which asks whether a token is a substring of all key words of
its row written in one, and so takes "the" and "he" for "father", wherever in the answer they stand. Here a token is
important for where it stands.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from trials.prompts import AUTO, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from trials.benchmarks import Row

Spans = tuple[tuple[int, int], ...]
"""Character ranges [start, end) of a text: in order, apart from each other, none empty."""

_ENTRIES = TypeAdapter(dict[str, list[str]])
_FORM = '{"Ada was born in 1945.": ["1945"]}'
_SHOWN = 3  # of many problems of one kind
_UNSPACED = ("CJK", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA", "HANGUL", "THAI", "LAO", "KHMER", "MYANMAR")
"""How the Unicode names of letters begin whose scripts do not part words by blanks."""


class AnnotationError(ValueError):
    """Annotations that cannot be read, do not fit the rows, or cannot be brought to tokens."""


# -- from the file to characters ---------------------------------------------------------------------------------------


def read_annotations(path: str | Path, rows: Sequence[Row]) -> list[Spans]:
    """Character spans [start, end) of the key words in each row's answer, in row order.

    Args:
        path: The file; its form is in the module's docstring. `~` is the home folder.
        rows: The forget rows.

    Returns:
        For each row the places of its keys in `row.answer`, at least one.

    Raises:
        AnnotationError: The file is missing, not JSON or of another form; a row has no entry or an entry without keys;
            a key is blank or does not stand in its answer as whole words. Up to three rows are named.
    """
    entries = _entries(path)
    bad = [(number, row) for number, row in enumerate(rows, 1) if _fault(row.answer, entries)]
    if bad:
        shown = [f"{_name(number, row)} {_fault(row.answer, entries, hint=True)}" for number, row in bad[:_SHOWN]]
        raise AnnotationError(
            f"{path} does not fit the forget rows: {_listed(shown, len(bad))}; each row needs an entry under exactly "
            "its answer, with keys that stand in it as whole words: write them as they stand there, case and all"
        )
    return [spans_of(row.answer, entries[row.answer]) for row in rows]


def spans_of(answer: str, keys: Sequence[str]) -> Spans:
    """Where any of the keys stands in an answer as whole words; what overlaps or touches is one span.

    Case counts, and blanks around a key do not. A key that is blank or not there adds nothing: `read_annotations`
    refuses it.
    """
    merged: list[tuple[int, int]] = []
    for start, end in sorted(found for key in keys for found in _occurrences(answer, key)):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return tuple(merged)


def _occurrences(answer: str, key: str) -> list[tuple[int, int]]:
    key = key.strip()
    if not key:
        return []
    # A lookahead takes no characters, so an occurrence that is refused does not hide one that overlaps it.
    found = [(match.start(), match.start() + len(key)) for match in re.finditer(f"(?={re.escape(key)})", answer)]
    return [(start, end) for start, end in found if _is_whole(answer, start, end)]


def _is_whole(text: str, start: int, end: int) -> bool:
    r"""Whether no word runs on over either end of text[start:end].

    The lookarounds `(?<!\w)` and `(?!\w)` of `re` do not do: an accent that is a character of its own is not of `\w`,
    and all of a Chinese sentence is.
    """
    before, after = _letter(text, start - 1), text[end : end + 1]
    if _is_mark(after):  # it belongs to the last letter, which is then another one
        return False
    return not _runs_on(before, text[start]) and not _runs_on(after, _letter(text, end - 1))


def _runs_on(outside: str, edge: str) -> bool:
    """Whether a character outside is of the word at whose edge it stands; "" is none."""
    if _is_unspaced(outside) or _is_unspaced(edge):
        return False
    return outside.isalnum() or outside == "_"


def _letter(text: str, index: int) -> str:
    """The character at an index or, where that is a combining mark, the one that carries it; "" before the text."""
    while index >= 0 and _is_mark(text[index]):
        index -= 1
    return text[index] if index >= 0 else ""


def _is_mark(char: str) -> bool:
    return bool(char) and unicodedata.category(char).startswith("M")


def _is_unspaced(char: str) -> bool:
    return char.isalpha() and unicodedata.name(char, "").startswith(_UNSPACED)


# -- reading and refusing ----------------------------------------------------------------------------------------------


def _entries(path: str | Path) -> dict[str, list[str]]:
    try:
        text = Path(os.path.expanduser(path)).read_text(encoding="utf-8-sig")  # some editors begin with a mark
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotationError(f"{path} cannot be read ({error}); give a JSON file in UTF-8, as in {_FORM}") from error
    try:
        raw = json.loads(text, object_pairs_hook=_without_doubles)
    except json.JSONDecodeError as error:
        raise AnnotationError(
            f"{path}:{error.lineno} is not JSON ({error.msg}); it must be one object, as in {_FORM}"
        ) from error
    except AnnotationError as error:
        raise AnnotationError(f"{path}: {error}") from None
    try:
        return _ENTRIES.validate_python(raw)
    except ValidationError as error:
        wrong = [_misplaced(details["loc"], details["input"]) for details in error.errors()]
        raise AnnotationError(
            f"{path}: {_listed(wrong[:_SHOWN], len(wrong))}; it must map each answer to the list of its key words, "
            f"in quotes, as in {_FORM}"
        ) from None


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of the file; JSON itself would silently keep the last of two equal entries."""
    seen: dict[str, Any] = {}
    for name, value in pairs:
        if name in seen:
            raise AnnotationError(f"{_short(name)} stands twice; give an answer one entry, with all of its keys")
        seen[name] = value
    return seen


def _misplaced(place: tuple[int | str, ...], value: Any) -> str:
    """A value of the wrong type and where it stands: nowhere, under an answer, or in the list under it."""
    if not place:
        return f"the file holds {_short(value)}"
    if len(place) == 1:
        return f"entry {_short(place[0])} holds {_short(value)}"
    return f"entry {_short(place[0])} has {_short(value)} among its keys"


def _fault(answer: str, entries: Mapping[str, Sequence[str]], *, hint: bool = False) -> str:
    """What is wrong with a row's entry, as the rest of a clause that begins with the row; "" if nothing is.

    `hint` looks for an entry that was meant, which takes too long to do for every row.
    """
    keys = entries.get(answer)
    if keys is None:
        near = difflib.get_close_matches(answer, entries, n=1, cutoff=0.8) if hint else []
        return f"has no entry{_difference(answer, near[0]) if near else ''}"
    if not keys:
        return "has no keys"
    if not all(key.strip() for key in keys):
        return "has a blank key"
    absent = [repr(key) for key in keys if not _occurrences(answer, key)]
    return f"has no {' and no '.join(absent)} as whole words" if absent else ""


def _difference(answer: str, entry: str) -> str:
    pairs = enumerate(zip(answer, entry, strict=False))
    same = next((index for index, (one, other) in pairs if one != other), min(len(answer), len(entry)))
    place = f"after {answer[max(0, same - 20) : same]!r}" if same else "from the start"
    # ascii, since two characters that look the same are what is hardest to find.
    return f" (one is near but has {entry[same : same + 10]!a} for {answer[same : same + 10]!a} {place})"


def _name(number: int, row: Row) -> str:
    return f"row {number} ({_short(row.answer)})"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:50]}…{text[-1]}"


def _listed(shown: Sequence[str], count: int) -> str:
    """The first few of `count` problems, and how many there are besides."""
    more = [f"and {count - len(shown)} more"] if count > len(shown) else []
    return ", ".join([*shown, *more])


# -- from characters to tokens -----------------------------------------------------------------------------------------


def important_tokens(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], spans: Sequence[Spans], prompt: Prompt = AUTO
) -> list[tuple[bool, ...]]:
    """Which tokens of each answer carry a key word: those whose text, blanks aside, overlaps a span.

    Args:
        tokenizer: A fast one, which knows the characters that each token stands for.
        rows: The forget rows.
        spans: Of each row, what `read_annotations` gave.
        prompt: How a question is put; it can change the tokens of an answer.

    Returns:
        For each row one flag per token of `encoding.encode(tokenizer, rows, prompt)`'s answer; an end token's is
        False. A character that is several tokens makes all of them important, and a token that reaches over the edge
        of a key word is important as a whole.

    Raises:
        AnnotationError: The tokenizer is not a fast one, or a row has no important token.
        ValueError: As `encode`.
    """
    from trials.encoding import tokenised  # with torch, which the rest of this module does without

    if not getattr(tokenizer, "is_fast", False):  # some kinds do not have the property
        raise AnnotationError(
            f"{type(tokenizer).__name__} does not tell which characters a token stands for; annotated importance "
            "needs a fast tokenizer: take a model that comes with a tokenizer.json"
        )
    flags = []
    for row, places, (example, ranges) in zip(rows, spans, tokenised(tokenizer, rows, prompt), strict=True):
        marked = [_overlaps(row.answer, start, end, places) for start, end in ranges]
        flags.append((*marked, *[False] * (len(example.answer) - len(marked))))
    bare = [_name(number, row) for number, row in enumerate(rows, 1) if not any(flags[number - 1])]
    if bare:
        raise AnnotationError(
            f"no token carries a key word in {_listed(bare[:_SHOWN], len(bare))}; each row needs one: add a key that "
            "this tokenizer has tokens for"
        )
    return flags


def _overlaps(answer: str, start: int, end: int, spans: Spans) -> bool:
    """Whether answer[start:end] without the blanks before it overlaps a span; what lies outside the answer does not."""
    end = min(end, len(answer))
    start = end - len(answer[max(start, 0) : max(end, 0)].lstrip())
    return start < end and any(low < end and start < high for low, high in spans)
