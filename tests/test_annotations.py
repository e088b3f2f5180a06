"""Annotated importance: from key words to characters to tokens, and files that do not fit."""

import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from tests import tokenizers as shaped
from tests.tiny import AUTHORS, tiny_tokenizer
from trials.annotations import AnnotationError, Spans, important_tokens, read_annotations, spans_of
from trials.benchmarks import Row, load_benchmark
from trials.encoding import encode
from trials.prompts import AutoPrompt, ChatPrompt, PlainPrompt, Prompt

FATHER = "The father of Ada was a florist, and he met the mother at a party in 1945."
ADA = Row("Who?", "Ada wrote Iron Rain.")
BORN = Row("When?", "She was born in 1945.")


def found(answer: str, *keys: str) -> list[str]:
    return [answer[start:end] for start, end in spans_of(answer, keys)]


# -- whole words -------------------------------------------------------------------------------------------------------


def test_a_word_within_a_longer_one_is_not_found() -> None:
    assert found(FATHER, "father") == ["father"]
    assert spans_of("father mother party other 1945 19_ _19", ["the", "he", "at", "art", "19", "45", "194"]) == ()
    assert spans_of(FATHER, ["art", "19", "lor", "T"]) == ()


def test_a_short_word_is_found_where_it_stands_alone_only() -> None:
    assert spans_of(FATHER, ["he"]) == ((37, 39),)
    assert spans_of(FATHER, ["the"]) == ((44, 47),)
    assert FATHER[37:47] == "he met the"


def test_a_key_at_the_start_or_the_end_of_the_answer_is_found() -> None:
    assert spans_of("Ada met Ada", ["Ada"]) == ((0, 3), (8, 11))
    assert spans_of("Ada", ["Ada"]) == ((0, 3),)


def test_a_key_may_be_several_words_and_is_found_where_they_stand_in_a_row_only() -> None:
    answer = "Kuwait City is the city of Kuwait; Kuwait Cityscape, Old Kuwait City."
    assert spans_of(answer, ["Kuwait City"]) == ((0, 11), (57, 68))


def test_case_counts() -> None:
    assert spans_of("In May she may go.", ["May"]) == ((3, 6),)
    assert spans_of("In May she may go.", ["may"]) == ((11, 14),)
    assert spans_of("In May she may go.", ["MAY"]) == ()


def test_hyphen_and_apostrophe_part_words() -> None:
    assert found("Anne-Marie's and Joanne's well-known art", "Anne", "art", "well") == ["Anne", "well", "art"]
    assert found("Anne-Marie O'Brien", "Anne-Marie", "O'Brien") == ["Anne-Marie", "O'Brien"]
    assert spans_of("Anne-Maries", ["Anne-Marie"]) == ()


def test_a_key_may_begin_or_end_with_punctuation() -> None:
    keys = ["C++", "Ph.D.", "(hon.)", "$5"]
    assert found("C++, a Ph.D. (hon.) and $5 for C.", *keys) == keys
    assert spans_of("C++11 US$5 2.5", ["C++", "$5", ".5"]) == ()


def test_a_key_with_signs_of_regular_expressions_is_taken_as_it_stands() -> None:
    assert spans_of("abc", ["a.c", ".*", "[abc]+", "a|b"]) == ()
    assert found("a.c (x|y)", "a.c", "(x|y)") == ["a.c", "(x|y)"]


def test_blanks_around_a_key_do_not_count_and_a_blank_key_is_nowhere() -> None:
    assert spans_of("Iron Rain", [" Rain\n"]) == ((5, 9),)
    assert spans_of("Iron Rain", ["", "  "]) == ()
    assert spans_of("Iron Rain", []) == ()


def test_accents_are_of_the_word_whether_they_are_characters_of_their_own_or_not() -> None:
    whole, apart = "caf\u00e9 \u00e9tat", "cafe\u0301 e\u0301tat"
    for answer in (whole, apart):
        assert spans_of(answer, ["caf", "cafe", "tat"]) == ()
        assert found(answer, *answer.split()) == answer.split()
    assert spans_of(f"{apart}s", ["e\u0301tat"]) == ()


def test_scripts_without_blanks_have_no_border_to_ask_for() -> None:
    assert found("彼女は1945年に東京都で生まれた。", "東京", "1945", "生まれ") == ["1945", "東京", "生まれ"]
    assert found("NHK東京のAda", "東京", "Ada") == ["東京", "Ada"]
    assert found("อยู่ที่กรุงเทพ", "กรุงเทพ") == ["กรุงเทพ"]
    assert spans_of("อยู่ที่กรุงเทพ", ["ท"]) == ((12, 13),)  # the other one bears a vowel
    assert found("อยู่Ada", "อยู่") == ["อยู่"]
    assert found("อยู่Ada", "Ada") == ["Ada"]
    assert spans_of("東京Adas", ["Ada"]) == ()
    assert found("서울은 크다", "서울") == ["서울"]


def test_emoji_are_found_and_part_words() -> None:
    assert found("ok \U0001f600 go\U0001f600", "\U0001f600", "go") == ["\U0001f600", "go"]


def test_keys_that_overlap_or_touch_are_one_span_and_spans_are_in_order() -> None:
    assert spans_of("New York City Hall", ["City Hall", "New York City"]) == ((0, 18),)
    assert spans_of("New York City Hall", ["New York City Hall", "York"]) == ((0, 18),)
    assert spans_of("東京都", ["都", "東京"]) == ((0, 3),)
    assert spans_of("one two three", ["three", "one", "one"]) == ((0, 3), (8, 13))


def test_occurrences_that_overlap_each_other_are_all_found() -> None:
    assert spans_of("a-a-a", ["a-a"]) == ((0, 5),)
    # The first place is refused, and must not hide the second, which begins within it.
    assert spans_of("xab ab ab", ["ab ab"]) == ((4, 9),)


WORDS = st.text("ab1_é -'.", max_size=12)


@given(WORDS, st.lists(WORDS, max_size=3))
def test_spans_cover_what_a_regular_expression_finds_where_words_are_parted_by_blanks(
    answer: str, keys: list[str]
) -> None:
    covered = set()
    for key in filter(None, (key.strip() for key in keys)):
        for match in re.finditer(rf"(?<!\w)(?={re.escape(key)}(?!\w))", answer):
            covered |= set(range(match.start(), match.start() + len(key)))
    spans = spans_of(answer, keys)
    assert {index for start, end in spans for index in range(start, end)} == covered
    assert all(start < end for start, end in spans)
    assert all(one[1] < other[0] for one, other in pairwise(spans))


# -- the file ----------------------------------------------------------------------------------------------------------


def write(folder: Path, content: Any) -> Path:
    file = folder / "keys.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return file


def refused(folder: Path, content: Any, match: str, *rows: Row) -> None:
    with pytest.raises(AnnotationError, match=match):
        read_annotations(write(folder, content), rows or (ADA, BORN))


def test_spans_come_in_row_order_whatever_the_order_of_the_file_and_what_else_is_in_it(tmp_path: Path) -> None:
    content = {"Of another split.": [], BORN.answer: ["1945"], ADA.answer: ["Iron Rain", "Ada"]}
    spans = [((0, 3), (10, 19)), ((16, 20),)]
    assert read_annotations(write(tmp_path, content), [ADA, BORN]) == spans
    assert read_annotations(str(write(tmp_path, content)), [BORN, ADA, BORN]) == [spans[1], spans[0], spans[1]]
    assert read_annotations(write(tmp_path, content), []) == []


def test_rows_with_the_same_answer_share_its_entry(tmp_path: Path) -> None:
    again = Row("Who, once more?", ADA.answer)
    one, other = read_annotations(write(tmp_path, {ADA.answer: ["Ada"]}), [ADA, again])
    assert one == other == ((0, 3),)


def test_a_file_may_hold_any_script_escaped_or_not_and_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    row = Row("Wo?", "In Köln, 東京 \U0001f600.")
    content = {row.answer: ["Köln", "東京"]}
    for text in (json.dumps(content), json.dumps(content, ensure_ascii=False)):
        for start in ("", "\ufeff"):
            assert read_annotations(write(tmp_path, start + text), [row]) == [((3, 7), (9, 11))]


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path, {ADA.answer: ["Ada"]})
    assert read_annotations("~/keys.json", [ADA]) == [((0, 3),)]


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"none\.json cannot be read .*No such file.*give a JSON file"):
        read_annotations(tmp_path / "none.json", [ADA])
    with pytest.raises(AnnotationError, match=r"cannot be read .*directory.*give a JSON file"):
        read_annotations(tmp_path, [ADA])
    (tmp_path / "latin.json").write_bytes('{"Köln": ["Köln"]}'.encode("latin-1"))
    with pytest.raises(AnnotationError, match=r"latin\.json cannot be read .*utf-8.*in UTF-8"):
        read_annotations(tmp_path / "latin.json", [ADA])


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("", r"keys\.json:1 is not JSON \(Expecting value\); it must be one object, as in \{"),
        ('{"a": ["b"],\n "c" ["d"]}', r"keys\.json:2 is not JSON \(Expecting ':' delimiter\)"),
        ('{"Ada was.": ["Ada"], "Ada was.": ["was"]}', r"keys\.json: 'Ada was\.' stands twice; give an answer one"),
        ([{"answer": "a", "keys": ["a"]}], r"the file holds \[\{'answer'.*it must map each answer to the list"),
        ("null", r"the file holds None; it must map"),
        ({"Ada was.": "Ada"}, r"entry 'Ada was\.' holds 'Ada'; it must map each answer to the list of its key words"),
        ({"Born in 1945.": ["in", 1945]}, r"entry 'Born in 1945\.' has 1945 among its keys; it must .*in quotes"),
        ({str(n): None for n in range(5)}, r"entry '0' holds None, entry '1' .*, entry '2' .*, and 2 more; it must"),
        ({"a": [["b"]]}, r"entry 'a' has \['b'\] among its keys"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, content: Any, match: str) -> None:
    refused(tmp_path, content, match)


REMEDY = r"; each row needs an entry under exactly its answer, with keys that stand in it as whole words: write them"


def test_a_row_without_entry_is_named(tmp_path: Path) -> None:
    refused(tmp_path, {ADA.answer: ["Ada"]}, rf"rows: row 2 \('She was born in 1945\.'\) has no entry{REMEDY}")
    refused(tmp_path, {}, rf"row 1 \('Ada wrote Iron Rain\.'\) has no entry, row 2 \('She.*'\) has no entry{REMEDY}")


def test_a_row_whose_entry_is_nearly_its_answer_is_told_where_they_differ(tmp_path: Path) -> None:
    row = Row("Where?", "She was born in Köln.")
    for entry, match in (
        ("She was born in Ko\u0308ln.", r"has 'o\\u0308ln\.' for '\\xf6ln\.' after 'She was born in K'"),
        ("He was born in Köln.", r"has 'He was bor' for 'She was bo' from the start"),
        ("She was born in Köln", r"has '' for '\.' after 'She was born in Köln'"),
    ):
        refused(tmp_path, {entry: ["born"]}, rf"row 1 .* has no entry \(one is near but {match}\){REMEDY}", row)


@pytest.mark.parametrize(
    ("keys", "match"),
    [
        ([], "has no keys"),
        (["born", ""], "has a blank key"),
        (["born", " \t"], "has a blank key"),
        (["born", "he"], "has no 'he' as whole words"),
        (["born", "19"], "has no '19' as whole words"),
        (["Born", "born", "in 19"], "has no 'Born' and no 'in 19' as whole words"),
    ],
)
def test_an_entry_whose_keys_do_not_fit_its_answer_is_named(tmp_path: Path, keys: list[str], match: str) -> None:
    refused(tmp_path, {ADA.answer: ["Ada"], BORN.answer: keys}, rf"row 2 \('She was born in 1945\.'\) {match}{REMEDY}")


def test_of_many_bad_rows_three_are_named_and_the_rest_counted(tmp_path: Path) -> None:
    rows = [Row("Q", f"Answer {n} {'and so on ' * 10}") for n in range(6)]
    content = {row.answer: ["Answer"] for row in rows[:1]}
    pattern = rf"row 2 .*row 3 .*row 4 \('Answer 3 and so[^']*…'\) has no entry[^,]*, and 2 more{REMEDY}"
    refused(tmp_path, content, pattern, *rows)
    with pytest.raises(AnnotationError) as caught:
        read_annotations(write(tmp_path, content), rows)
    assert "row 5" not in str(caught.value)


# -- tokens ------------------------------------------------------------------------------------------------------------

TEXTS = ["The father of Ada was a florist in Köln.", "the mother and the party of 1945", FATHER]
ALPHABET = pre_tokenizers.ByteLevel.alphabet()
BYTES = [f"<0x{value:02X}>" for value in range(256)]


def wrapped(core: Tokenizer) -> PreTrainedTokenizerFast:
    core.add_special_tokens(["<end>"])
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>")


def byte_level(trim: bool, prefix: bool) -> PreTrainedTokenizerFast:
    """As of GPT-2 and Llama 3."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    core.post_processor = processors.ByteLevel(trim_offsets=trim)
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=ALPHABET, show_progress=False)
    core.train_from_iterator(TEXTS, trainer)
    return wrapped(core)


def metaspace(prepend: bool) -> PreTrainedTokenizerFast:
    """As of Llama 2 and Mistral: ▁ for blanks, bytes for unknown characters, a start token before a text."""
    core = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    if prepend:
        core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        core.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=310, special_tokens=["<unk>", *BYTES], limit_alphabet=24, show_progress=False
    )
    core.train_from_iterator(TEXTS, trainer)
    core.add_special_tokens(["<start>"])
    start = ("<start>", core.token_to_id("<start>"))
    core.post_processor = processors.TemplateProcessing(single="<start> $A", special_tokens=[start])
    return wrapped(core)


def unigram() -> PreTrainedTokenizerFast:
    """As of Gemma: a run of characters that it does not know is one stretch of bytes."""
    pieces = [("<unk>", 0.0), ("▁", -3.0), ("▁the", -2.0), ("▁father", -4.0), *((char, -5.0) for char in "aehrtfo")]
    core = Tokenizer(models.Unigram([*pieces, *((byte, -9.0) for byte in BYTES)], unk_id=0, byte_fallback=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    return wrapped(core)


TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "ours": tiny_tokenizer,
    "byte-level": lambda: byte_level(trim=False, prefix=False),
    "byte-level, trimmed": lambda: byte_level(trim=True, prefix=False),
    "byte-level, prefixed": lambda: byte_level(trim=True, prefix=True),
    "metaspace": lambda: metaspace(prepend=False),
    "metaspace, prepended": lambda: metaspace(prepend=True),
    "unigram": unigram,
}
KEYS = {
    FATHER: ["father", "florist", "1945"],
    "In Köln und in Ko\u0308ln.": ["Köln", "Ko\u0308ln"],
    "\U0001f600 ok \U0001f468\u200d\U0001f33e, ne\u00e9?": ["\U0001f600", "ne\u00e9"],
    "彼女は1945年に東京都で生まれた。": ["1945", "東京"],
    " two  blanks\n\nand Kuwait  City\t": ["Kuwait  City", "two"],
    "x": ["x"],
}
ROWS = [Row("Q?", answer) for answer in KEYS]
SPANS = [spans_of(answer, keys) for answer, keys in KEYS.items()]


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return TOKENIZERS[request.param]()


def widths(tokenizer: PreTrainedTokenizerFast, ids: tuple[int, ...]) -> list[int]:
    """Bytes of UTF-8 that each token stands for, from its name alone."""
    names = tokenizer.convert_ids_to_tokens(list(ids))
    if BYTES[0] not in tokenizer.get_vocab():
        return [len(name) for name in names]  # a byte-level name has one character a byte
    return [1 if name in BYTES else len(name.replace("▁", " ").encode()) for name in names]


def by_bytes(widths: list[int], answer: str, spans: Spans) -> list[bool]:
    """What is important, counted out in bytes instead of taken from the tokenizer's offsets."""
    marked: list[bool] = []
    for index, char in enumerate(answer):
        inside = any(start <= index < end for start, end in spans) and not char.isspace()
        marked += [inside] * len(char.encode())
    marked = [False] * (sum(widths) - len(marked)) + marked  # the blank before the answer, and one prepended
    ends = [sum(widths[: index + 1]) for index in range(len(widths))]
    return [any(marked[end - width : end]) for end, width in zip(ends, widths, strict=True)]


def test_there_is_one_flag_per_answer_token_and_none_is_on_the_end_token(tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [*ROWS, *load_benchmark(AUTHORS).forget]
    spans = [*SPANS, *(((0, 3),) for _ in rows[len(ROWS) :])]
    flags = important_tokens(tokenizer, rows, spans)
    assert [len(row) for row in flags] == [len(example.answer) for example in encode(tokenizer, rows)]
    assert not any(row[-1] for row in flags)
    assert all(any(row) for row in flags)


@pytest.mark.parametrize("name", [name for name in TOKENIZERS if name != "unigram"])
def test_the_tokens_of_a_key_word_are_important_down_to_the_bytes_of_its_characters(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    flags = important_tokens(tokenizer, ROWS, SPANS)
    for row, example, spans, have in zip(ROWS, encode(tokenizer, ROWS), SPANS, flags, strict=True):
        sizes = widths(tokenizer, example.answer[:-1])
        assert 1 <= sum(sizes) - len(row.answer.encode()) <= 2
        assert list(have[:-1]) == by_bytes(sizes, row.answer, spans)


def test_where_a_tokenizer_tells_of_a_stretch_only_all_of_its_bytes_are_important() -> None:
    tokenizer = unigram()
    row = Row("Q?", "東京 東 the father")
    (flags,) = important_tokens(tokenizer, [row], [((0, 1),)])
    assert flags == (False, *[True] * 6, False, *[False] * 3, False, False, False)


def test_words_that_are_parts_of_a_key_word_are_not_important() -> None:
    tokenizer = byte_level(trim=False, prefix=False)
    row = Row("Q?", "he met the father, the other: at her party")
    (flags,) = important_tokens(tokenizer, [row], [spans_of(row.answer, ["father"])])
    names = tokenizer.convert_ids_to_tokens(list(encode(tokenizer, [row])[0].answer))
    assert [name for name, flag in zip(names, flags, strict=True) if flag] == ["Ġfather"]
    # By the published rule, that a token be a substring of the key words, these would be.
    assert {"Ġhe", "Ġthe"} <= set(names)


def test_a_blank_within_a_key_is_important_only_with_the_word_that_it_comes_with() -> None:
    tokenizer = metaspace(prepend=False)
    row = Row("Q?", "Qz  Qz")
    (flags,), (example,) = important_tokens(tokenizer, [row], [((0, 6),)]), encode(tokenizer, [row])
    names = tokenizer.convert_ids_to_tokens(list(example.answer))
    assert [name for name, flag in zip(names, flags, strict=True) if not flag] == ["▁", "▁", "▁", "<end>"]


def test_a_token_that_reaches_over_the_edge_of_a_key_word_is_important() -> None:
    core = Tokenizer(models.WordLevel({"[x]": 0, "y": 1}, unk_token="y"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    row = Row("Q?", "y [x] y")
    assert important_tokens(wrapped(core), [row], [spans_of(row.answer, ["x"])]) == [(False, True, False, False)]


def test_a_token_that_reaches_over_both_ends_of_an_answer_is_important_for_what_is_in_it() -> None:
    core = Tokenizer(models.WordLevel({"(ab)": 0, "y": 1}, unk_token="y"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = wrapped(core)
    template = "{{ messages[0].content }} {% if not add_generation_prompt %}({{ messages[1].content }})<end>{% endif %}"
    flags = important_tokens(tokenizer, [Row("y", "ab")], [((0, 1),)], ChatPrompt(template=template))
    assert flags == [(True, False)]


PROMPTS: tuple[Prompt, ...] = (
    AutoPrompt(),
    PlainPrompt(),
    PlainPrompt(template="(({question})({answer}"),  # tokenised apart
    ChatPrompt(template="{% for turn in messages %}{{ turn.role }}: {{ turn.content }}\n{% endfor %}"
                        "{% if add_generation_prompt %}assistant: {% endif %}"),
)  # fmt: skip
SHAPED_ROWS = [
    Row("Who was her father?", FATHER),
    Row("Where?", "  The father: in Köln, the florist of 1945."),
    Row("father", "<|eot_id|></s>\n\nthe father</s>, <eos> a florist<|im_end|> in 1945 "),
    Row("The father of Ada was a flo", "rist and a father, in 1945", verbatim=True),
    Row("", "A father and a florist, in 1945", verbatim=True),
]


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("name", shaped.TOKENIZERS)
def test_key_words_are_found_under_any_prompt_in_the_very_tokens_that_are_encoded(name: str, prompt: Prompt) -> None:
    tokenizer = shaped.TOKENIZERS[name]()
    spans = [spans_of(row.answer, ["father", "florist", "1945"]) for row in SHAPED_ROWS]
    flags = important_tokens(tokenizer, SHAPED_ROWS, spans, prompt)
    for row, example, places, have in zip(
        SHAPED_ROWS, encode(tokenizer, SHAPED_ROWS, prompt), spans, flags, strict=True
    ):
        assert len(have) == len(example.answer)
        assert not (example.ended and have[-1])
        marked = [token for token, flag in zip(example.answer, have, strict=True) if flag]
        said = "".join(row.answer[start:end] for start, end in places)
        assert re.sub(r"\W", "", tokenizer.decode(marked)) == said  # a token may hold the comma behind a word too


def test_no_rows_have_no_tokens() -> None:
    assert important_tokens(tiny_tokenizer(), [], []) == []


def test_a_tokenizer_that_is_not_fast_is_refused() -> None:
    with pytest.raises(AnnotationError, match=r"ByT5Tokenizer does not tell .* needs a fast tokenizer: take a model"):
        important_tokens(ByT5Tokenizer(), ROWS, SPANS)


def test_a_row_whose_key_words_have_no_token_is_named() -> None:
    core = Tokenizer(models.WordLevel({"ok": 0, "<unk>": 1}, unk_token="<unk>"))
    core.normalizer = normalizers.Replace("\U0001f600", "")  # as tokenizers do that clean their text
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    rows = [Row("Q?", f"ok \U0001f600 {n}") for n in range(5)]
    spans = [spans_of(row.answer, ["\U0001f600"]) for row in rows]
    with pytest.raises(
        AnnotationError, match=r"no token .* in row 1 \('ok .*row 3 \('ok .*, and 2 more; each row needs"
    ):
        important_tokens(wrapped(core), rows, spans)
