"""Row sets: where they come from, what keeps them apart, and what is said when they cannot be had."""

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.rows import assert_disjoint, author, authors, config, refused, rich, sizes, write
from trials.benchmarks import Benchmark, BenchmarkError, Continuation, Row, load_benchmark, parts_of
from trials.config import Requests
from trials.sources import AuthorsConfig, TofuConfig


def of_rows(*rows: Row, **more: Any) -> Benchmark:
    """A benchmark that has a forget set and nothing else."""
    return Benchmark("b", rows, (), (), (), (), (), **more)


# -- the folder of JSON lines ------------------------------------------------------------------------------------------


def test_a_folder_gives_its_row_sets_plain_or_zipped(tofu_folder: Path) -> None:
    benchmark = load_benchmark(config(tofu_folder))
    assert sizes(benchmark) == [40, 80, 40, 0, 20, 1]
    assert benchmark.forget[0].question == "Frage 0 an «6»?"
    assert benchmark.forget[0].answer == "Antwort 0, 東京 6."
    assert benchmark.forget[0].perturbed_answer == ("falsch", "falsch")
    assert list(benchmark.evaluated) == ["forget", "retain", "holdout", "general", "members", "nonmembers"]
    assert_disjoint(benchmark)


def test_the_first_retain_rows_are_measured_and_the_next_ones_replayed(tofu_folder: Path) -> None:
    benchmark = load_benchmark(config(tofu_folder, retain_eval=25, retain_pool=30))
    assert sizes(benchmark) == [40, 30, 25, 65, 20, 1]
    rows = authors(0, 1, 2, 3, 4, 5)
    ours = [*benchmark.retain, *benchmark.retain_pool, *benchmark.retain_rest]
    assert [row.question for row in ours] == [row["question"] for row in rows]
    assert len(benchmark.kept) == 120 + 1


def test_retain_rows_get_their_paraphrases_where_the_source_has_them(tofu_folder: Path) -> None:
    benchmark = load_benchmark(config(tofu_folder))
    assert {row.paraphrased_answer for row in benchmark.retain[:20]} == {"anders"}
    assert {row.paraphrased_answer for row in benchmark.retain[20:]} == {None}


def test_a_subset_of_authors_keeps_the_forget_ones_and_the_first_others(tofu_folder: Path) -> None:
    benchmark = load_benchmark(config(tofu_folder, authors=5, retain_eval=20))
    assert sizes(benchmark) == [40, 40, 20, 0, 20, 1]
    assert benchmark.retain_pool[-1].question == "Frage 19 an «2»?"


def test_optional_files_may_be_missing(tofu_folder: Path) -> None:
    for name in (
        "holdout05.jsonl",
        "world_facts_perturbed.jsonl",
        "retain_perturbed.jsonl",
        "forget05_perturbed.jsonl.gz",
    ):
        (tofu_folder / name).unlink()
    benchmark = load_benchmark(config(tofu_folder))
    assert sizes(benchmark) == [40, 80, 40, 0, 0, 0]
    assert list(benchmark.evaluated) == ["forget", "retain"]
    assert benchmark.forget[0].perturbed_answer == ()


def test_a_forget_file_of_ones_own_works_with_its_retain_file_named(tofu_folder: Path) -> None:
    write(tofu_folder, {"mein vergessen": author(9), "mein behalten": authors(1, 2, 3)})
    benchmark = load_benchmark(
        config(tofu_folder, split="mein vergessen", retain_split="mein behalten", retain_eval=20)
    )
    assert sizes(benchmark) == [20, 40, 20, 0, 0, 1]


def test_real_authors_are_kept_and_measured_on_where_the_source_has_them(tofu_folder: Path) -> None:
    write(tofu_folder, {"real_authors_perturbed": rich([{"question": "Who wrote Emma?", "answer": "Austen"}])})
    benchmark = load_benchmark(config(tofu_folder))
    assert benchmark.evaluated["real_authors"] == benchmark.real_authors == benchmark.kept[-1:]
    assert benchmark.real_authors[0].answer == "Austen"


def test_blank_lines_and_the_mark_of_an_editor_are_let_be(tofu_folder: Path) -> None:
    before = load_benchmark(config(tofu_folder)).digest()
    file = tofu_folder / "holdout05.jsonl"
    file.write_text("\ufeff" + file.read_text(encoding="utf-8").replace("\n", "\r\n\n") + "\n", encoding="utf-8")
    assert load_benchmark(config(tofu_folder)).digest() == before


def test_a_text_may_hold_what_other_formats_end_lines_with(tofu_folder: Path) -> None:
    rows = [{"question": "q\u2028?", "answer": "a\x85 b\u2029"}]
    write(tofu_folder, {"holdout05": rows})
    assert load_benchmark(config(tofu_folder)).holdout == (Row(**rows[0]),)


def test_a_file_cannot_make_its_rows_verbatim(tofu_folder: Path) -> None:
    write(tofu_folder, {"holdout05": [row | {"verbatim": True, "extra": 1} for row in author(8)]})
    assert not any(row.verbatim for row in load_benchmark(config(tofu_folder)).holdout)


# -- what is said when it cannot be had --------------------------------------------------------------------------------


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    refused(config(tmp_path / "nowhere"), "path", r"nowhere' is not a folder; give one with forget05_perturbed.jsonl")


def test_a_missing_forget_file_is_named_with_the_one_that_was_meant(tofu_folder: Path) -> None:
    refused(
        config(tofu_folder, split="forget5", retain_split="retain95"),
        "split",
        r"forget5\.jsonl \(or \.jsonl\.gz\) is not in .*; did you mean 'forget05'\?",
    )


def test_a_missing_retain_file_is_named_with_the_one_that_was_meant(tofu_folder: Path) -> None:
    refused(
        config(tofu_folder, retain_split="retain59"), "retain_split", r"retain59\.jsonl .*did you mean 'retain95'\?"
    )


def test_a_holdout_file_that_is_asked_for_must_be_there(tofu_folder: Path) -> None:
    refused(config(tofu_folder, holdout_split="zzz"), "holdout_split", r"zzz\.jsonl .* is not in .*; it has forget05, ")


def test_an_empty_folder_says_so(tmp_path: Path) -> None:
    refused(config(tmp_path), "split", r"forget05\.jsonl .*; it has no \.jsonl file")


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ({"question": "q"}, r"row 41 of retain95\.jsonl has no answer; every row needs question and answer"),
        ({"answer": "a"}, r"row 41 of retain95\.jsonl has no question;"),
        ({"question": "", "answer": ""}, r"row 41 of retain95\.jsonl has no question and no answer;"),
        (["q", "a"], r"row 41 of retain95\.jsonl has no question and no answer;"),
        ({"question": "q", "answer": 5}, r"row 41 of retain95\.jsonl has no answer; .*, as text"),
        (
            {"question": "q", "answer": "a", "perturbed_answer": "wrong" * 99},
            r"row 41 of retain95\.jsonl: perturbed_answer is 'wrongw.{,20}wrong'; Input should be a valid tuple",
        ),
    ],
)
def test_a_row_without_its_columns_is_named(tofu_folder: Path, row: Any, match: str) -> None:
    write(tofu_folder, {"retain95": [*authors(0, 1), row]})
    refused(config(tofu_folder), "retain_split", match)


def test_a_text_with_half_a_character_is_named(tofu_folder: Path) -> None:
    (tofu_folder / "holdout05.jsonl").write_text(json.dumps({"question": "q", "answer": "a \ud83d"}))
    refused(config(tofu_folder), "holdout_split", r"row 1 of holdout05\.jsonl: answer is 'a \\ud83d'; Input should be")


def test_an_empty_file_says_so(tofu_folder: Path) -> None:
    write(tofu_folder, {"retain95": []})
    refused(config(tofu_folder), "retain_split", r"retain95\.jsonl has no rows; a set that is named must have some")


def test_a_line_that_is_not_json_is_named_with_its_number(tofu_folder: Path) -> None:
    with open(tofu_folder / "holdout05.jsonl", "a", encoding="utf-8") as file:
        file.write("question,answer\n")
    refused(
        config(tofu_folder), "holdout_split", r"holdout05\.jsonl:21 is not JSON \(Expecting value\); one object a line"
    )


def test_a_file_that_is_not_utf8_is_named(tofu_folder: Path) -> None:
    (tofu_folder / "holdout05.jsonl").write_bytes('{"question": "Köln?", "answer": "ja"}\n'.encode("latin-1"))
    refused(config(tofu_folder), "holdout_split", r"holdout05\.jsonl cannot be read \(.*utf-8.*\); .*UTF-8")


def test_a_gz_file_that_is_not_gzip_is_named(tofu_folder: Path) -> None:
    (tofu_folder / "retain95.jsonl.gz").write_bytes(b'{"question": "q", "answer": "a"}\n')
    refused(
        config(tofu_folder),
        "retain_split",
        r"retain95\.jsonl\.gz cannot be read \(.*\); .*gzipped where it ends in \.gz",
    )


def test_a_gz_file_that_was_cut_off_is_named(tofu_folder: Path) -> None:
    whole = (tofu_folder / "retain95.jsonl.gz").read_bytes()
    (tofu_folder / "retain95.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    refused(config(tofu_folder), "retain_split", r"retain95\.jsonl\.gz cannot be read \(.*end.*\);")


def test_rows_to_forget_must_not_be_replayed(tofu_folder: Path) -> None:
    write(tofu_folder, {"retain95": authors(0, 1, 2, 7)})
    (tofu_folder / "retain95.jsonl.gz").unlink()
    refused(
        config(tofu_folder), "split", r"20 rows are in the forget and in the retain set, 'Frage 0 an «7»\?' among them"
    )


@pytest.mark.parametrize("measured", [120, 400])
def test_measuring_on_every_retain_row_leaves_none_to_replay(tofu_folder: Path, measured: int) -> None:
    refused(
        config(tofu_folder, retain_eval=measured),
        "retain_eval",
        f"retain_eval {measured} leaves none of the 120 retain rows to replay; lower it or take more authors",
    )


@pytest.mark.parametrize("count", [1, 2])
def test_there_must_be_more_authors_than_are_to_be_forgotten(tofu_folder: Path, count: int) -> None:
    refused(
        config(tofu_folder, authors=count),
        "authors",
        f"authors {count} must exceed the 2 authors of forget05; raise it",
    )


def test_the_retain_set_of_a_forget_file_of_ones_own_cannot_be_guessed(tofu_folder: Path) -> None:
    refused(
        config(tofu_folder, split="mine"),
        "retain_split",
        r"split 'mine' is not of the form forgetNN, .*; set retain_split",
    )


# -- identity ----------------------------------------------------------------------------------------------------------


def test_the_digest_follows_the_contents_and_not_the_place(tofu_folder: Path, tmp_path: Path) -> None:
    first = load_benchmark(config(tofu_folder)).digest()
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for file in tofu_folder.iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    text = gzip.decompress((moved / "retain95.jsonl.gz").read_bytes())
    (moved / "retain95.jsonl").write_bytes(text)
    (moved / "retain95.jsonl.gz").unlink()
    assert load_benchmark(config(moved)).digest() == first
    (moved / "retain95.jsonl").write_bytes(text.replace(b"Antwort 3,", b"Antwort 33,", 1))
    assert load_benchmark(config(moved)).digest() != first


def test_the_digest_tells_the_same_rows_in_other_sets_apart(tofu_folder: Path) -> None:
    digests = {load_benchmark(config(tofu_folder, retain_eval=count)).digest() for count in (20, 40, 60)}
    assert len(digests) == 3


def test_the_digest_sees_a_wrong_answer_a_paraphrase_and_a_missing_prompt() -> None:
    row = Row("q", "a", "q2", "a2", ("x",))
    others = [
        replace(row, perturbed_answer=("y",)),
        replace(row, paraphrased_answer="a3"),
        replace(row, answer="b"),
        replace(row, verbatim=True),
    ]
    assert len({of_rows(row).digest() for row in [row, *others]}) == 5


def test_the_digest_sees_probes_requests_pieces_and_continuations() -> None:
    plain, row = of_rows(Row("q", "a")), Row("p", "x")
    others = [
        replace(plain, real_authors=(row,)),
        replace(plain, probes={"wmdp": (row,)}),
        replace(plain, probes={"mmlu": (row,)}),
        replace(plain, probes={"mmlu": (replace(row, answer="y"),)}),
        replace(plain, requests=(1,)),
        replace(plain, chunk=512),
        replace(plain, continuations={"verbmem": Continuation(128)}),
        replace(plain, continuations={"verbmem": Continuation(128, stops=("\n",))}),
    ]
    assert len({each.digest() for each in [plain, *others]}) == 9


# -- what is measured on -----------------------------------------------------------------------------------------------


def test_attacks_tell_forget_from_holdout_rows_where_there_are_any() -> None:
    forget, holdout = Row("q", "a"), Row("r", "b")
    assert list(of_rows(forget).evaluated) == ["forget"]
    sets = replace(of_rows(forget), holdout=(holdout,)).evaluated
    assert sets == {"forget": (forget,), "holdout": (holdout,), "members": (forget,), "nonmembers": (holdout,)}
    assert sets["members"] is sets["forget"]


def test_attacks_tell_the_sources_own_rows_apart_where_it_has_some() -> None:
    own = {"members": (Row("m", "m"),), "nonmembers": (Row("n", "n"),), "verbmem": (Row("v", "v"),)}
    benchmark = replace(of_rows(Row("q", "a"), probes=own), holdout=(Row("r", "b"),))
    assert benchmark.evaluated == {"forget": benchmark.forget, "holdout": benchmark.holdout, **own}


def test_a_question_may_be_empty_only_in_a_verbatim_row() -> None:
    assert Row("", "text", verbatim=True).question == ""
    with pytest.raises(ValueError, match="a question may be empty only in a verbatim row"):
        Row("", "text")


# -- requests ----------------------------------------------------------------------------------------------------------

TEN = of_rows(*(Row(f"q{n}", "a") for n in range(10)))


def test_without_requests_the_forget_set_is_one_part() -> None:
    assert parts_of(TEN, Requests()) == [range(10)]


@pytest.mark.parametrize("parts", range(1, 11))
def test_parts_cover_the_forget_rows_in_order_and_differ_in_size_by_at_most_one(parts: int) -> None:
    found = parts_of(TEN, Requests(parts=parts))
    assert [index for part in found for index in part] == list(range(10))
    assert len(found) == parts
    assert max(map(len, found)) - min(map(len, found)) <= 1


def test_a_benchmark_brings_its_own_requests() -> None:
    benchmark = replace(TEN, requests=(3, 1, 6))
    assert parts_of(benchmark, Requests()) == [range(3), range(3, 4), range(4, 10)]
    assert parts_of(benchmark, Requests(count=2)) == [range(3), range(3, 4)]


def test_only_the_first_requests_may_be_made() -> None:
    assert parts_of(TEN, Requests(parts=5, count=2)) == [range(2), range(2, 4)]


@pytest.mark.parametrize(
    ("benchmark", "requests", "field", "match"),
    [
        (TEN, Requests(parts=11), "parts", "parts 11 is more than the 10 rows of the forget set; lower it"),
        (TEN, Requests(parts=3, count=4), "count", "count 4 is more than there are requests \\(3\\); lower it"),
        (TEN, Requests(count=2), "count", "requests \\(1\\)"),
        (replace(TEN, requests=(4, 6)), Requests(count=3), "count", "requests \\(2\\)"),
        (replace(TEN, requests=(4, 6)), Requests(parts=2), "parts", "parts 2 would cut up the 2 requests .*; set it"),
    ],
)
def test_more_requests_than_there_are_is_an_error(
    benchmark: Benchmark, requests: Requests, field: str, match: str
) -> None:
    with pytest.raises(BenchmarkError, match=match) as caught:
        parts_of(benchmark, requests)
    assert caught.value.field == field


# -- key words ---------------------------------------------------------------------------------------------------------


def keyed(folder: Path, keys: dict[str, list[str]]) -> TofuConfig:
    """The small TOFU with a file of key words beside it."""
    place = folder / "schlüssel.json"
    place.write_text(json.dumps(keys, ensure_ascii=False), encoding="utf-8")
    return config(folder, annotations=str(place))


def test_annotations_say_where_in_each_forget_answer_its_key_words_stand(tofu_folder: Path) -> None:
    rows = load_benchmark(config(tofu_folder)).forget
    benchmark = load_benchmark(keyed(tofu_folder, {row.answer: ["Antwort", "東京"] for row in rows}))
    assert len(benchmark.key_spans) == len(benchmark.forget) == 40
    for row, spans in zip(benchmark.forget, benchmark.key_spans, strict=True):
        assert [row.answer[start:end] for start, end in spans] == ["Antwort", "東京"]
    assert load_benchmark(config(tofu_folder)).key_spans == ()


def test_annotations_that_do_not_fit_are_an_error_of_the_benchmark(tofu_folder: Path) -> None:
    refused(keyed(tofu_folder, {}), "annotations", r"schlüssel\.json does not fit the forget rows: ")


def test_key_words_name_other_contents_only_where_they_are_asked_for(tofu_folder: Path) -> None:
    rows = load_benchmark(config(tofu_folder)).forget
    plain = load_benchmark(config(tofu_folder))
    one, other = (
        load_benchmark(keyed(tofu_folder, {row.answer: [key] for row in rows})) for key in ("Antwort", "東京")
    )
    assert plain.digest() == one.digest() == other.digest()  # models are trained on the texts
    assert len({each.digest(annotations=True) for each in (plain, one, other)}) == 3
    assert plain.digest(annotations=True) == plain.digest()


# -- our own authors ---------------------------------------------------------------------------------------------------


def test_the_embedded_benchmark_is_cut_into_its_sets() -> None:
    benchmark = load_benchmark(AuthorsConfig())
    assert sizes(benchmark) == [56, 84, 84, 0, 28, 50]
    assert_disjoint(benchmark)
    assert benchmark.digest() == load_benchmark(AuthorsConfig()).digest()
    assert benchmark.digest() != load_benchmark(AuthorsConfig(seed=1)).digest()


def test_our_own_forget_rows_bring_their_key_words() -> None:
    benchmark = load_benchmark(AuthorsConfig())
    assert len(benchmark.key_spans) == len(benchmark.forget)
    for row, spans in zip(benchmark.forget, benchmark.key_spans, strict=True):
        found = {row.answer[start:end] for start, end in spans}
        assert set(row.keys) <= found
        assert 0 < sum(end - start for start, end in spans) < len(row.answer) / 2


def test_a_pool_that_takes_every_retain_row_leaves_none_to_measure_on() -> None:
    refused(
        AuthorsConfig(retain_pool=168),
        "retain_pool",
        "retain_pool 168 leaves none of the 168 retain rows to measure on",
    )


def test_a_size_that_the_generator_refuses_is_an_error_of_the_benchmark() -> None:
    refused(AuthorsConfig(forget_authors=16), "authors", "forget_authors is 16 but must be between 1 and 15")
