"""MUSE's files, in a folder and on the hub: sets, requests, probes, and what is said when they cannot be had."""

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest

from tests.rows import assert_disjoint, fake_hub, refused, sizes
from trials.benchmarks import Continuation, Row, load_benchmark, parts_of
from trials.config import Requests
from trials.sources import MuseConfig

Files = dict[str, Any]


def texts(name: str, count: int) -> list[str]:
    return [f"{name} «{n}».\n\nOf 東京, they say." for n in range(count)]


def raw(name: str, count: int) -> tuple[Row, ...]:
    """The rows that `texts` give."""
    return tuple(Row("", text, verbatim=True) for text in texts(name, count))


RAW: Files = {
    "raw/forget": texts("forget", 4),
    "raw/retain1": texts("pool", 3),
    "raw/retain2": texts("kept", 5),
    "raw/holdout": texts("new", 2),
}
PROBES: Files = {
    "verbmem/forget": [{"gt": "a time.", "prompt": "Once {upon}", "rougeL_target": 0.5}],
    "knowmem/forget_qa": [{"answer": "Nobody {0}.", "question": "Who?"}, {"answer": "Here.", "question": "Where?"}],
    "knowmem/forget_qa_icl": [{"question": "Why?", "answer": "So."}, {"question": "When?", "answer": "Then."}],
    "knowmem/retain_qa": [{"question": "What?", "answer": "That."}],
    "knowmem/retain_qa_icl": [{"question": "How?", "answer": "Thus."}],
    "privleak/forget": texts("member", 2),
    "privleak/retain": texts("kept member", 2),
    "privleak/holdout": texts("stranger", 3),
}
MUSE: Files = RAW | PROBES


def lay(folder: Path, files: Files) -> Path:
    """Writes files as MUSE's authors do: one array each."""
    for name, rows in files.items():
        place = folder / f"{name}.json"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")
    return folder


def at(folder: Path, **changes: Any) -> MuseConfig:
    return MuseConfig(path=str(folder), **changes)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "muse 'daten' 東京"


# -- sets --------------------------------------------------------------------------------------------------------------


def test_raw_texts_are_verbatim_rows_and_the_second_retain_file_is_never_replayed(place: Path) -> None:
    benchmark = load_benchmark(at(lay(place, MUSE)))
    assert benchmark.name == "muse-news"
    assert benchmark.forget == raw("forget", 4)
    assert benchmark.retain_pool == raw("pool", 3)
    assert benchmark.retain == raw("kept", 5)
    assert benchmark.holdout == raw("new", 2)
    assert benchmark.kept == raw("pool", 3) + raw("kept", 5)
    assert (benchmark.general, benchmark.real_authors, benchmark.key_spans) == ((), (), ())
    assert (benchmark.requests, benchmark.chunk) == ((), 2048)
    assert load_benchmark(at(place, chunk=64)).chunk == 64
    assert_disjoint(benchmark)


def test_without_a_second_retain_file_the_second_half_of_the_first_is_measured_on(place: Path) -> None:
    benchmark = load_benchmark(at(lay(place, {"raw/forget": texts("forget", 1), "raw/retain1": texts("pool", 5)})))
    assert benchmark.retain_pool == raw("pool", 5)[:2]
    assert benchmark.retain == raw("pool", 5)[2:]
    assert list(benchmark.evaluated) == ["forget", "retain"]


def test_a_set_is_read_from_any_form_that_its_file_may_have(place: Path) -> None:
    lay(place, {name: rows for name, rows in MUSE.items() if not name.startswith("raw")})
    (place / "raw").mkdir()
    (place / "raw" / "forget.txt").write_text("A whole book.\n\n\nIts end.\n", encoding="utf-8")
    lines = "".join(json.dumps({"text": text, "input_ids": [1, 2]}) + "\n" for text in texts("pool", 3))
    (place / "raw" / "retain1.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    lay(place, {"raw/retain2": [{"id": 7, "text": text} for text in texts("kept", 5)]})
    (place / "raw" / "holdout.jsonl").write_text("".join(json.dumps(t) + "\n" for t in texts("new", 2)))
    benchmark = load_benchmark(at(place))
    assert benchmark.forget == (Row("", "A whole book.\n\n\nIts end.\n", verbatim=True),)
    rest = load_benchmark(at(lay(place / "other", MUSE)))
    assert replace(benchmark, forget=rest.forget) == rest


def test_the_folder_may_hold_both_corpora_under_their_names_or_their_former_ones(place: Path) -> None:
    lay(place / "news", MUSE)
    lay(place / "hp", MUSE | {"raw/forget": texts("book", 2)})
    assert load_benchmark(at(place)).forget == raw("forget", 4)
    books = load_benchmark(at(place, corpus="books"))
    assert (books.name, books.forget) == ("muse-books", raw("book", 2))


def test_blank_texts_are_left_out(place: Path) -> None:
    lay(place, MUSE | {"raw/forget": ["", *texts("forget", 4), " \n"]})
    assert load_benchmark(at(place)).forget == raw("forget", 4)


# -- probes ------------------------------------------------------------------------------------------------------------


def test_a_passage_is_continued_after_its_prompt_and_cut_as_long_as_what_is_generated(place: Path) -> None:
    benchmark = load_benchmark(at(lay(place, MUSE)))
    assert benchmark.probes["verbmem"] == (Row("Once {upon}", " a time.", verbatim=True),)
    assert benchmark.continuations["verbmem"] == Continuation(128, (), True)


def test_a_question_of_knowledge_comes_after_all_the_answered_ones_of_its_kind(place: Path) -> None:
    benchmark = load_benchmark(at(lay(place, MUSE)))
    shots = "Question: Why?\nAnswer: So.\n\nQuestion: When?\nAnswer: Then.\n\n"
    assert benchmark.probes["forget_knowmem"] == (
        Row(f"{shots}Question: Who?\nAnswer:", " Nobody {0}.", verbatim=True),
        Row(f"{shots}Question: Where?\nAnswer:", " Here.", verbatim=True),
    )
    assert benchmark.probes["retain_knowmem"] == (
        Row("Question: How?\nAnswer: Thus.\n\nQuestion: What?\nAnswer:", " That.", verbatim=True),
    )
    for name in ("forget_knowmem", "retain_knowmem"):
        assert benchmark.continuations[name] == Continuation(32, ("\n\n", "\nQuestion", "Question:"))


def test_attacks_are_on_the_rows_of_privleak_where_there_are_any(place: Path) -> None:
    sets = load_benchmark(at(lay(place, MUSE))).evaluated
    assert sets["members"] == raw("member", 2)
    assert sets["nonmembers"] == raw("stranger", 3)
    sets = load_benchmark(at(lay(place / "raw only", RAW))).evaluated
    assert (sets["members"], sets["nonmembers"]) == (raw("forget", 4), raw("new", 2))


def test_each_probe_may_be_missing(place: Path) -> None:
    groups = [["verbmem"], ["forget_qa"], ["retain_qa"], ["privleak"], ["verbmem", "knowmem", "privleak", "holdout"]]
    names = ["verbmem", "forget_knowmem", "retain_knowmem", "members", "nonmembers"]
    found = []
    for number, parts in enumerate(groups):
        kept = {name: rows for name, rows in MUSE.items() if not any(part in name for part in parts)}
        found.append(set(names) - set(load_benchmark(at(lay(place / str(number), kept))).probes))
    assert found == [{"verbmem"}, {"forget_knowmem"}, {"retain_knowmem"}, {"members", "nonmembers"}, set(names)]


def test_former_names_of_splits_are_known(place: Path) -> None:
    former = {name.replace("retain_qa", "retain2_qa"): rows for name, rows in MUSE.items()}
    assert "knowmem/retain2_qa_icl" in former
    assert load_benchmark(at(lay(place, former))) == load_benchmark(at(lay(place / "now", MUSE)))


# -- requests ----------------------------------------------------------------------------------------------------------


def test_each_file_of_scal_adds_what_those_before_it_lack(place: Path) -> None:
    grown = {f"scal/forget_{n}": texts("forget", size) for n, size in ((1, 2), (2, 3), (3, 5), (4, 9))}
    grown["scal/forget_3"] = grown["scal/forget_3"][::-1]
    benchmark = load_benchmark(at(lay(place, MUSE | grown), forget="scal"))
    assert benchmark.name == "muse-news-scal"
    assert benchmark.requests == (2, 1, 2, 4)
    assert parts_of(benchmark, Requests(count=3)) == [range(2), range(2, 3), range(3, 5)]
    rows = raw("forget", 9)
    assert benchmark.forget == (*rows[:3], rows[4], rows[3], *rows[5:])


def test_each_file_of_sust_is_a_request(place: Path) -> None:
    files = {f"sust/forget_{n}": texts(f"request {n}", n) for n in (1, 2, 3)}
    benchmark = load_benchmark(at(lay(place, MUSE | files), forget="sust"))
    assert benchmark.requests == (1, 2, 3)
    assert benchmark.forget == raw("request 1", 1) + raw("request 2", 2) + raw("request 3", 3)
    assert len({benchmark.digest(), replace(benchmark, requests=(6,)).digest()}) == 2


def test_requests_need_no_raw_forget_set(place: Path) -> None:
    files = {name: rows for name, rows in MUSE.items() if name != "raw/forget"}
    benchmark = load_benchmark(at(lay(place, files | {"sust/forget_1": texts("one", 2)}), forget="sust"))
    assert sizes(benchmark) == [2, 3, 5, 0, 2, 0]


# -- the hub -----------------------------------------------------------------------------------------------------------


def on_hub(files: Files) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """The same rows by configuration and split; on the hub every row has columns."""
    return {
        (group, split): [row if isinstance(row, dict) else {"text": row} for row in rows]
        for name, rows in files.items()
        for group, split in [name.split("/")]
    }


def test_without_a_path_the_corpus_comes_from_its_dataset(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = fake_hub(monkeypatch, on_hub(MUSE))
    assert load_benchmark(MuseConfig()) == load_benchmark(at(lay(place, MUSE)))
    used = set(MUSE) - {"privleak/retain"}
    assert sorted(calls) == sorted(("muse-bench/MUSE-News", *name.split("/")) for name in used)
    load_benchmark(MuseConfig(corpus="books"))
    assert calls[-1][0] == "muse-bench/MUSE-Books"
    load_benchmark(MuseConfig(hub="someone/else"))
    assert calls[-1][0] == "someone/else"


def test_what_the_hub_lacks_may_be_missing_or_have_its_former_name(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {name.replace("retain_qa", "retain2_qa"): rows for name, rows in MUSE.items() if "verbmem" not in name}
    fake_hub(monkeypatch, on_hub(files))
    assert list(load_benchmark(MuseConfig()).probes) == ["forget_knowmem", "retain_knowmem", "members", "nonmembers"]


def test_requests_that_a_corpus_does_not_have_are_an_error_of_their_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_hub(monkeypatch, on_hub(MUSE))
    refused(
        MuseConfig(corpus="books", forget="scal"),
        "forget",
        r"'muse-bench/MUSE-Books' has no scal/forget_1 \(.*not found.*\); correct the forget or set path",
    )
    refused(MuseConfig(forget="sust"), "forget", "'muse-bench/MUSE-News' has no sust/forget_1")


def test_being_offline_is_one_error_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_hub(monkeypatch, ConnectionError("Couldn't reach the Hub"))
    refused(MuseConfig(), "hub", r"'muse-bench/MUSE-News' could not be fetched \(ConnectionError: .*\); go online")


def test_a_real_datasets_folder_stands_in_for_the_hub(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(place / "cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    files = {name: RAW[name] for name in ("raw/forget", "raw/retain1", "raw/retain2")}
    hub = place / "hub"
    named = on_hub(files | {"verbmem/forget": PROBES["verbmem/forget"]})
    lay(hub, {"/".join(name): rows for name, rows in named.items()})
    configs: dict[str, list[dict[str, str]]] = {}
    for group, split in named:
        configs.setdefault(group, []).append({"split": split, "path": f"{group}/{split}.json"})
    card = [{"config_name": group, "data_files": splits} for group, splits in configs.items()]
    (hub / "README.md").write_text(f"---\nconfigs: {json.dumps(card)}\n---\n", encoding="utf-8")
    benchmark = load_benchmark(MuseConfig(hub=str(hub)))
    assert benchmark.forget == raw("forget", 4)
    assert list(benchmark.probes) == ["verbmem"]
    refused(MuseConfig(hub=str(hub), forget="scal"), "forget", "has no scal/forget_1")


# -- what is said when it cannot be had --------------------------------------------------------------------------------


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    refused(at(tmp_path / "nowhere"), "path", r"nowhere' is not a folder; give one with raw/forget\.json in it")


@pytest.mark.parametrize(
    ("missing", "hint"), [("forget", "it has holdout, retain1, retain2$"), ("retain1", "did you mean 'retain2'")]
)
def test_the_forget_and_the_retain_set_must_be_there(place: Path, missing: str, hint: str) -> None:
    lay(place, {name: rows for name, rows in MUSE.items() if name != f"raw/{missing}"})
    refused(at(place), "path", rf"^{missing}\.json \(or \.json\.gz, \.jsonl, \.txt\) is not in .*/raw.; {hint}")


def test_answered_questions_must_be_there_where_others_are_asked(place: Path) -> None:
    lay(place, {name: rows for name, rows in MUSE.items() if name != "knowmem/retain_qa_icl"})
    refused(
        at(place), "path", r"^retain_qa_icl\.json \(or \.json\.gz, \.jsonl\) is not in .*; did you mean 'retain_qa'"
    )


@pytest.mark.parametrize("missing", ["privleak/forget", "privleak/holdout"])
def test_an_attack_needs_both_of_its_files(place: Path, missing: str) -> None:
    lay(place, {name: rows for name, rows in MUSE.items() if name != missing})
    refused(at(place), "path", "privleak has only one of forget and holdout; an attack needs both")


def test_requests_without_a_file_are_an_error_of_their_setting(place: Path) -> None:
    refused(at(lay(place, MUSE), forget="scal"), "forget", r"forget_1\.json \(or .*\) is not in .*/scal.; it has no")


def test_a_file_of_scal_that_adds_nothing_is_named(place: Path) -> None:
    lay(place, MUSE | {"scal/forget_1": texts("forget", 2), "scal/forget_2": texts("forget", 1)})
    refused(at(place, forget="scal"), "forget", "scal/forget_2 adds no text to those before it")


def test_a_text_to_forget_must_not_be_replayed(place: Path) -> None:
    lay(place, MUSE | {"raw/retain1": texts("pool", 2) + texts("forget", 1)})
    refused(at(place), "forget", "1 rows are in the forget and in the retain set, 'forget «0».*remove them from one")


def test_one_retain_text_cannot_be_both_replayed_and_measured_on(place: Path) -> None:
    lay(place, {"raw/forget": texts("forget", 1), "raw/retain1": texts("pool", 1)})
    refused(at(place), "path", "one text to be kept is too few: half are replayed, half measured on; give two")


@pytest.mark.parametrize(
    ("name", "rows", "match"),
    [
        ("raw/forget", [], r"raw/forget\.json has no rows; a set that is named must have some"),
        ("raw/forget", ["", "\n"], r"nothing but blanks up to row 2 of raw/forget\.json"),
        ("raw/forget", ["a", {"txt": "b"}], r"row 2 of raw/forget\.json has no text; every row must be a text"),
        ("privleak/holdout", ["a", 5], r"row 2 of privleak/holdout\.json has no text"),
        ("verbmem/forget", [{"text": "t"}], r"row 1 of verbmem/forget\.json has no prompt and no gt; .* prompt and gt"),
        ("verbmem/forget", ["t"], r"row 1 of verbmem/forget\.json has no prompt and no gt"),
        ("knowmem/forget_qa", [{"question": "q"}], r"row 1 of knowmem/forget_qa\.json has no answer;"),
        ("knowmem/forget_qa_icl", [{"answer": "a"}], r"row 1 of knowmem/forget_qa_icl\.json has no question;"),
        (
            "knowmem/retain_qa",
            {"question": "q"},
            r"retain_qa\.json:1 is not JSON \(.*\); .* in a \.json file one array",
        ),
    ],
)
def test_a_file_that_is_not_as_muses_are_is_named(place: Path, name: str, rows: Any, match: str) -> None:
    refused(at(lay(place, MUSE | {name: rows})), "path", match)


def test_the_line_at_which_an_array_breaks_off_is_named(place: Path) -> None:
    lay(place, MUSE)
    (place / "raw" / "holdout.json").write_text('[\n"a",\n"b"\n"c"]')
    refused(at(place), "path", r"raw/holdout\.json:4 is not JSON \(Expecting ',' delimiter\)")
