"""WMDP's corpora and questions from a folder, and what is said when they cannot be had."""

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.rows import assert_disjoint, refused
from trials.benchmarks import Row, load_benchmark
from trials.sources import WmdpConfig


def texts(name: str, count: int) -> list[str]:
    return [f'{name} «{n}»: {{"quoted"}}\n\nand more.' for n in range(count)]


def raw(*texts: str) -> tuple[Row, ...]:
    return tuple(Row("", text, verbatim=True) for text in texts)


def asked(question: str, answer: Any = 1, choices: Any = ("yes", "no", "{maybe}", "never"), **more: Any) -> Any:
    return {"question": question, "choices": choices, "answer": answer, **more}


def lay(folder: Path, name: str, rows: Iterable[Any]) -> None:
    (folder / name).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with all files by their usual names."""
    folder = tmp_path / "wmdp 'daten' 東京"
    folder.mkdir()
    lay(folder, "forget_corpus.jsonl", ({"title": "T", "text": text} for text in texts("forget", 3)))
    lay(folder, "retain_corpus.jsonl", ({"text": text} for text in texts("keep", 5)))
    lay(folder, "wmdp_bio.jsonl", [asked("Is it alive? "), asked("Is it ill?", 0)])
    lay(folder, "wmdp_cyber.jsonl", [asked("Is it open?", 3)])
    lay(folder, "wmdp_chem.jsonl", [asked("Is it sour?", 2)])
    lay(folder, "mmlu.jsonl", [asked("Is it prime?", "C", subject="abstract_algebra")])
    return folder


def at(folder: Path, **changes: Any) -> WmdpConfig:
    return WmdpConfig(path=str(folder), **changes)


# -- corpora -----------------------------------------------------------------------------------------------------------


def test_the_texts_of_a_corpus_are_rows_and_half_of_what_is_kept_is_never_replayed(place: Path) -> None:
    benchmark = load_benchmark(at(place))
    assert (benchmark.name, benchmark.chunk, benchmark.requests) == ("wmdp", 512, ())
    assert benchmark.forget == raw(*texts("forget", 3))
    assert benchmark.retain_pool == raw(*texts("keep", 5)[:2])
    assert benchmark.retain == raw(*texts("keep", 5)[2:])
    assert benchmark.kept == benchmark.retain_pool + benchmark.retain
    assert (benchmark.holdout, benchmark.general, benchmark.key_spans) == ((), (), ())
    assert_disjoint(benchmark)


def test_texts_of_a_txt_file_have_blank_lines_between_them(place: Path) -> None:
    text = "\n\nOne text,\nof two lines.\n \n\n\nAnother one.\n"
    (place / "mine.txt").write_text(text, encoding="utf-8")
    (place / "kept.txt.gz").write_bytes(gzip.compress(b"A.\r\n\r\nB."))
    benchmark = load_benchmark(at(place, forget_corpus="mine.txt", retain_corpus="kept.txt"))
    assert benchmark.forget == raw("One text,\nof two lines.", "Another one.\n")
    assert (benchmark.retain_pool, benchmark.retain) == (raw("A."), raw("B."))
    assert load_benchmark(at(place, retain_corpus="kept.txt.gz")).retain == raw("B.")


# -- questions ---------------------------------------------------------------------------------------------------------


def test_a_question_is_put_with_its_options_and_answered_by_a_letter(place: Path) -> None:
    about = "The following are multiple choice questions (with answers) about"
    options = "A. yes\nB. no\nC. {maybe}\nD. never\nAnswer:"
    probes = load_benchmark(at(place)).probes
    assert probes["wmdp_bio"] == (
        Row(
            f"{about} biology.\n\nIs it alive?\n{options}",
            " B",
            perturbed_answer=(" A", " C", " D"),
            verbatim=True,
        ),
        Row(f"{about} biology.\n\nIs it ill?\n{options}", " A", perturbed_answer=(" B", " C", " D"), verbatim=True),
    )
    assert probes["wmdp_cyber"][0].question == f"{about} cybersecurity.\n\nIs it open?\n{options}"
    assert probes["wmdp_chem"][0].question == f"{about} chemistry.\n\nIs it sour?\n{options}"
    assert [row.answer for row in (*probes["wmdp_cyber"], *probes["wmdp_chem"])] == [" D", " C"]
    assert probes["mmlu"] == (
        Row(
            f"{about} abstract algebra.\n\nIs it prime?\n{options}",
            " C",
            perturbed_answer=(" A", " B", " D"),
            verbatim=True,
        ),
    )


def test_all_questions_of_what_is_to_be_forgotten_are_one_probe_too(place: Path) -> None:
    sets = load_benchmark(at(place)).evaluated
    assert list(sets) == ["forget", "retain", "wmdp_bio", "wmdp_cyber", "wmdp_chem", "wmdp", "mmlu"]
    assert sets["wmdp"] == sets["wmdp_bio"] + sets["wmdp_cyber"] + sets["wmdp_chem"]


def test_files_of_questions_that_are_not_there_are_left_out(place: Path) -> None:
    (place / "wmdp_bio.jsonl").unlink()
    (place / "wmdp_chem.jsonl").unlink()
    probes = load_benchmark(at(place, utility=None)).probes
    assert list(probes) == ["wmdp_cyber", "wmdp"]
    assert probes["wmdp"] == probes["wmdp_cyber"]


def test_questions_of_ones_own_are_in_the_common_probe_only(place: Path) -> None:
    (place / "mine.json").write_text(json.dumps([asked("Is it?")]), encoding="utf-8")
    zipped = gzip.compress(json.dumps(asked("Is it bio?")).encode())
    (place / "wmdp_bio.jsonl").unlink()
    (place / "wmdp_bio.jsonl.gz").write_bytes(zipped)
    probes = load_benchmark(at(place, questions=("mine.json", "wmdp_bio.jsonl.gz"))).probes
    assert list(probes) == ["wmdp_bio", "wmdp", "mmlu"]
    assert probes["wmdp"][0].question.startswith(
        "The following are multiple choice questions (with answers).\n\nIs it?"
    )
    assert probes["wmdp"][1:] == probes["wmdp_bio"]


@pytest.mark.parametrize("answer", [25, "Z"])
def test_a_question_may_have_as_many_choices_as_there_are_letters(place: Path, answer: Any) -> None:
    lay(place, "wmdp_bio.jsonl", [asked("Which?", answer, [str(n) for n in range(26)])])
    row = load_benchmark(at(place)).probes["wmdp_bio"][0]
    assert (row.answer, len(row.perturbed_answer)) == (" Z", 25)
    assert row.question.endswith("\nY. 24\nZ. 25\nAnswer:")


def test_a_question_may_have_two_choices_and_the_first_may_be_right(place: Path) -> None:
    lay(place, "wmdp_bio.jsonl", [asked("Which?", answer, ["yes", "no"]) for answer in (0, "A", 1, "B")])
    rows = load_benchmark(at(place)).probes["wmdp_bio"]
    assert [(row.answer, row.perturbed_answer) for row in rows] == [(" A", (" B",))] * 2 + [(" B", (" A",))] * 2


# -- what is said when it cannot be had --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "match"),
    [
        (asked("q", -1), r"row 2 of wmdp_bio\.jsonl: answer is -1; .* a number from 0 to 3 or a letter from A to D"),
        (asked("q", 4), "answer is 4; it must"),
        (asked("q", True), "answer is True; it must"),
        (asked("q", 1.0), r"answer is 1\.0; it must"),
        (asked("q", "E"), "answer is 'E'; it must"),
        (asked("q", "b"), "answer is 'b'; it must"),
        (asked("q", "AB"), "answer is 'AB'; it must"),
        (asked("q", ""), "answer is ''; it must"),
        (asked("q", None), "answer is None; it must"),
        (asked("q", 0, ["one"]), r"row 2 of wmdp_bio\.jsonl: choices is \['one'\]; it must be a list of 2 to 26 texts"),
        (asked("q", 0, ["c"] * 27), "choices is .*; it must"),
        (asked("q", 0, "yes"), "choices is 'yes'; it must"),
        (asked("q", 0, ["yes", 2]), "choices is .*; it must"),
        (asked("q", 0, None), "choices is None; it must"),
        (asked(""), r"row 2 of wmdp_bio\.jsonl has no question; every row needs question, as text"),
        (["q"], r"row 2 of wmdp_bio\.jsonl has no question;"),
    ],
)
def test_a_bad_question_is_named_with_its_place(place: Path, row: Any, match: str) -> None:
    lay(place, "wmdp_bio.jsonl", [asked("Good?"), row])
    refused(at(place), "questions", match)


def test_a_bad_question_of_what_is_to_be_kept_is_an_error_of_its_own_setting(place: Path) -> None:
    lay(place, "mmlu.jsonl", [asked("q", 9)])
    refused(at(place), "utility", r"row 1 of mmlu\.jsonl: answer is 9; it must")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    refused(at(tmp_path / "no"), "path", r"no' is not a folder; give one with wmdp_bio\.jsonl in it")


@pytest.mark.parametrize("corpus", ["forget_corpus", "retain_corpus"])
def test_both_corpora_must_be_there(place: Path, corpus: str) -> None:
    (place / f"{corpus}.jsonl").rename(place / f"{corpus}.txt")
    match = rf"{corpus}\.jsonl \(or \.jsonl\.gz\) is not in .*; did you mean '{corpus}\.txt'"
    refused(at(place), corpus, match)


def test_one_file_of_questions_must_be_there(place: Path) -> None:
    match = r"none of the files a\.jsonl, b\.jsonl is in .*; one must be"
    refused(at(place, questions=("a.jsonl", "b.jsonl")), "questions", match)
    refused(at(place, questions=()), "questions", r"none of the files \(none named\)")


def test_what_is_to_be_kept_is_asked_for_unless_the_user_does_without(place: Path) -> None:
    (place / "mmlu.jsonl").unlink()
    refused(at(place), "utility", r"mmlu\.jsonl \(or .*\) is not in .*; without one set utility to null")
    assert "mmlu" not in load_benchmark(at(place, utility=None)).probes


@pytest.mark.parametrize(
    ("name", "lines", "match"),
    [
        ("forget_corpus", ['{"text": "a"}', "plain text"], r"forget_corpus\.jsonl:2 is not JSON"),
        ("forget_corpus", ['{"text": "a"}', "", '{"body": "b"}'], r"row 3 of forget_corpus\.jsonl has no text;"),
        ("forget_corpus", ['{"text": " "}'], r"nothing but blanks up to row 1 of forget_corpus\.jsonl"),
        ("retain_corpus", [], r"retain_corpus\.jsonl has no rows; a set that is named must have some"),
        ("retain_corpus", ['{"text": "a"}'], "one text to be kept is too few: .*; give two"),
    ],
)
def test_a_bad_corpus_is_named_with_its_place(place: Path, name: str, lines: list[str], match: str) -> None:
    (place / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    refused(at(place), name, match)


def test_a_text_to_forget_must_not_be_kept(place: Path) -> None:
    lay(place, "retain_corpus.jsonl", ({"text": text} for text in texts("forget", 2)))
    refused(at(place), "forget_corpus", "2 rows are in the forget and in the retain set, 'forget «0»")


def test_without_corpora_there_is_something_to_measure_and_nothing_to_forget(place: Path) -> None:
    benchmark = load_benchmark(at(place, forget_corpus=None, retain_corpus=None))
    assert set(benchmark.evaluated) == {"wmdp", "wmdp_bio", "wmdp_cyber", "wmdp_chem", "mmlu"}
    assert benchmark.forget == benchmark.retain_pool == ()
