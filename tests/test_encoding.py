"""Rows to token ids: the border of prompt and answer, start and end tokens, raw text, padding, the shift."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, ByT5Tokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tests.tokenizers import TOKENIZERS
from trials.benchmarks import Row
from trials.encoding import Example, Padding, by_length, collate, cut, encode, end_tokens, plain_text, truncated
from trials.prompts import PLAIN, AutoPrompt, ChatPrompt, PlainPrompt, Prompt

ROWS = [
    Row("Who wrote it?", "Ada."),
    Row("Wo steht «das» geschrieben?", "In Köln, 東京 und 'nirgends' \U0001f600."),  # emoji and no Latin script
    Row("Q", "a much longer answer, with several words in it\n\nand a blank line"),
    Row("What is {question}, {} and {answer}?", "{answer} is in {0} {question}}"),
    Row("The year: ", "1945"),
    Row(" Which  two?\n", "  two  blanks "),
    Row("On a line of its own?", "\n\nThe author\n"),
]
CPU = torch.device("cpu")
# As of templates that ask with a blank at the end, have no special token at all, and close turns by a line break.
BARE_CHAT = (
    "{% for turn in messages %}{{ turn.role }}: {{ turn.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
PROMPTS: dict[str, Prompt] = {
    "auto": AutoPrompt(),
    "plain": PlainPrompt(),
    "plain, another": PlainPrompt(template="### Question: {question}\n ### Answer: {answer}"),
    "plain, on a line of its own": PlainPrompt(template="### Instruction:\n{question}\n\n### Response:\n{answer}"),
    "plain, without a gap": PlainPrompt(template="(({question})({answer}"),
    "chat, without special tokens": ChatPrompt(template=BARE_CHAT),
}
WITH_TEMPLATE = ("llama3", "llama2", "qwen2", "gemma")
ENDS = {
    "llama3": "<|eot_id|>",
    "llama2": "</s>",
    "phi": "<|endoftext|>",
    "gpt_neox": "<|endoftext|>",
    "qwen2": "<|im_end|>",
    "gemma": "<eos>",
}
STARTS = {"llama3": "<|begin_of_text|>", "llama2": "<s>", "gemma": "<bos>"}


def is_chat(name: str, prompt: Prompt) -> bool:
    return isinstance(prompt, ChatPrompt) or (isinstance(prompt, AutoPrompt) and name in WITH_TEMPLATE)


def asked(name: str, row: Row, prompt: Prompt) -> str:
    """The text of a prompt, made another way."""
    if is_chat(name, prompt):
        template = prompt.template if isinstance(prompt, ChatPrompt) else None
        return TOKENIZERS[name]().apply_chat_template(
            [{"role": "user", "content": row.question}],
            tokenize=False,
            add_generation_prompt=True,
            chat_template=template,
            date_string="10 Apr 2025",
        )
    head, _, tail = (prompt.template if isinstance(prompt, PlainPrompt) else PLAIN).partition("{question}")
    return (head + row.question + tail[: -len("{answer}")]).rstrip(" ")


def text(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int]) -> str:
    """Tokens as text, without the blank that SentencePiece puts before one."""
    decoded = str(tokenizer.decode(list(ids)))
    return decoded.replace("<s> ", "<s>", 1)


# -- border, start, end ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_prompt_has_the_tokens_it_has_alone_and_the_answer_is_all_of_the_rest(name: str, prompt: Prompt) -> None:
    tokenizer = TOKENIZERS[name]()
    for row, example in zip(ROWS, encode(tokenizer, ROWS, prompt), strict=True):
        before = asked(name, row, prompt)
        plain = not is_chat(name, prompt)
        assert list(example.prompt) == tokenizer(before, add_special_tokens=plain)["input_ids"]
        assert text(tokenizer, example.prompt) == (STARTS.get(name, "") if plain else "") + before
        assert tokenizer.decode(example.answer[:-1]).strip() == row.answer.strip()
        assert len(example) == len(example.prompt) + len(example.answer)


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
@pytest.mark.parametrize("name", TOKENIZERS)
def test_an_answer_ends_with_its_only_end_token_and_a_text_begins_with_its_only_start_token(
    name: str, prompt: Prompt
) -> None:
    tokenizer = TOKENIZERS[name]()
    end = "<end_of_turn>" if name == "gemma" and prompt == AutoPrompt() else ENDS[name]
    start = tokenizer.convert_tokens_to_ids(STARTS.get(name, "none"))
    for example in encode(tokenizer, ROWS, prompt):
        assert example.ended
        assert tokenizer.convert_ids_to_tokens(example.answer[-1]) == end
        assert not set(tokenizer.all_special_ids) & set(example.answer[:-1])
        if not isinstance(prompt, ChatPrompt):  # this template writes none
            assert [i for i, token in enumerate(example.prompt) if token == start] == [0] * (name in STARTS)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_border_is_exact_wherever_in_a_text_it_lies(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    whole = "The author of Köln, 東京  was  born in 1945.\n\n\nShe's the \U0001f600 author,and\tAda\n"
    rows = [Row(whole[:border], whole[border:], verbatim=True) for border in range(1, len(whole))]
    start = [tokenizer.convert_tokens_to_ids(STARTS[name])] if name in STARTS else []
    for row, example in zip(rows, encode(tokenizer, rows), strict=True):
        assert list(example.prompt) == start + tokenizer(row.question, add_special_tokens=False)["input_ids"]
        assert text(tokenizer, example.prompt + example.answer) == "".join(STARTS.get(name, "")) + whole


def test_what_belongs_together_is_tokenised_together() -> None:
    tokenizer = TOKENIZERS["llama2"]()
    (example,) = encode(tokenizer, [Row("Who wrote it?", "The author.")], PlainPrompt())
    assert tokenizer.convert_ids_to_tokens(example.answer)[0] == "▁The"
    (example,) = encode(tokenizer, [Row("the city", " of Kuwait", verbatim=True)])
    assert tokenizer.convert_ids_to_tokens(example.answer)[:2] == ["▁of", "▁Kuwait"]


def test_the_same_question_has_the_same_prompt_and_the_same_answer_the_same_tokens() -> None:
    for make in TOKENIZERS.values():
        rows = [Row("Who?", "Ada."), Row("Who?", ": x"), Row("Where\n?", "Ada.")]
        one, two, three = encode(make(), rows)
        assert one.prompt == two.prompt
        assert one.answer == three.answer


def legacy() -> PreTrainedTokenizerFast:
    """As older files of Llama 2 have it: a blank before every stretch of text, whether or not there is one."""
    core = Tokenizer.from_str(TOKENIZERS["llama2"]().backend_tokenizer.to_str())
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.pre_tokenizer = None
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize("border", range(1, 22))
def test_a_tokenizer_that_puts_a_blank_before_each_text_puts_none_before_an_answer(border: int) -> None:
    tokenizer, whole = legacy(), "(the author of)Kuwait "
    (example,) = encode(tokenizer, [Row(whole[:border], whole[border:], verbatim=True)])
    assert text(tokenizer, example.prompt) == f"<s>{whole[:border]}"
    assert text(tokenizer, example.prompt + example.answer) == f"<s>{whole}"


@pytest.mark.parametrize("single", ["<s> $A </s>", "$A </s>"])
def test_an_end_token_that_a_tokenizer_puts_behind_each_text_is_not_behind_a_prompt(single: str) -> None:
    core = Tokenizer.from_str(TOKENIZERS["llama2"]().backend_tokenizer.to_str())
    core.post_processor = TemplateProcessing(single=single, special_tokens=[("<s>", 1), ("</s>", 2)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")
    for example in encode(tokenizer, ROWS):
        assert example.answer.index(2) == len(example.answer) - 1
        assert 2 not in example.prompt
        assert (example.prompt[0] == 1) == single.startswith("<s>") == example.start


def test_a_start_token_that_a_plain_template_writes_is_not_doubled() -> None:
    tokenizer = TOKENIZERS["llama3"]()
    template = "<|begin_of_text|>{question}<|start_header_id|> {answer}"
    (example,) = encode(tokenizer, [Row("A", "B")], PlainPrompt(template=template))
    names = tokenizer.convert_ids_to_tokens(example.prompt + example.answer)
    assert names == ["<|begin_of_text|>", "A", "<|start_header_id|>", "Ġ", "B", "<|eot_id|>"]


def test_a_tokenizer_that_does_not_tell_where_tokens_stand_does_too() -> None:
    tokenizer = ByT5Tokenizer()  # its tokens are bytes, three ids further on
    rows = [Row("é", "b"), Row("", "raw", verbatim=True), Row("a", "b", verbatim=True), Row("", "</s>a", verbatim=True)]
    one, raw, pair, broken = encode(tokenizer, rows, PlainPrompt(template="{question}: {answer}"))
    assert one == Example(tuple(byte + 3 for byte in "é:".encode()), (*(byte + 3 for byte in b" b"), 1))
    assert raw == Example((ord("r") + 3,), (ord("a") + 3, ord("w") + 3), ended=False)
    assert pair == Example((ord("a") + 3,), (ord("b") + 3,), ended=False)
    assert tokenizer.decode(broken.prompt + broken.answer) == "</s>a"


def test_a_token_for_whatever_is_unknown_on_both_sides_of_the_border_is_one_for_each() -> None:
    core = Tokenizer(models.BPE({"<unk>": 0, "a": 1}, [], unk_token="<unk>", fuse_unk=True))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<unk>", unk_token="<unk>")
    assert tokenizer("a東京a")["input_ids"] == [1, 0, 1]
    assert encode(tokenizer, [Row("a東", "京a", verbatim=True)]) == [Example((1, 0), (0, 1), ended=False)]


def test_no_rows_give_no_examples() -> None:
    for make in TOKENIZERS.values():
        assert encode(make(), []) == []


def test_a_plain_text_is_filled_in_whatever_the_rows_hold() -> None:
    assert plain_text(PLAIN, "{answer}", "{question}{0}") == "Question: {answer}\nAnswer: {question}{0}"
    assert plain_text("{a}{question} {answer}", "q", "a") == "{a}q a"


@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokenizers_of_the_tests_are_small_and_the_same_after_a_stay_in_a_folder(name: str, tmp_path: Path) -> None:
    tokenizer = TOKENIZERS[name]("Kuwait, Kuwait and Kuwait")
    assert max(tokenizer.get_vocab().values()) + 1 == len(tokenizer) <= 500
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert encode(again, ROWS) == encode(tokenizer, ROWS)


# -- text that looks like special tokens -------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
@pytest.mark.parametrize("name", TOKENIZERS)
def test_what_looks_like_a_special_token_in_a_row_is_text(name: str, prompt: Prompt) -> None:
    tokenizer = TOKENIZERS[name]()
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    row = Row(f"Who{''.join(special)}?", f"Ada{' '.join(special)} the author")
    (harmless, example) = encode(tokenizer, [Row("Who?", "Ada"), row], prompt)
    assert tokenizer.decode(example.answer[:-1]).strip() == row.answer
    assert text(tokenizer, example.prompt).endswith(asked(name, row, prompt))
    ids = set(tokenizer.all_special_ids) | {tokenizer.convert_tokens_to_ids(each) for each in special}
    for kept, reference in ((example.prompt, harmless.prompt), (example.answer, harmless.answer)):
        assert [token for token in kept if token in ids] == [token for token in reference if token in ids]


def test_raw_text_has_no_special_token_either() -> None:
    tokenizer = TOKENIZERS["llama3"]()
    (example,) = encode(tokenizer, [Row("<|begin_of_text|>a", "b<|eot_id|>", verbatim=True)])
    assert example.prompt[0] == tokenizer.bos_token_id
    assert not set(tokenizer.added_tokens_decoder) & {*example.prompt[1:], *example.answer}
    assert tokenizer.decode(example.prompt[1:] + example.answer) == "<|begin_of_text|>ab<|eot_id|>"


def test_a_token_that_closes_turns_is_text_in_a_row_though_it_is_not_declared_special() -> None:
    core = Tokenizer.from_str(TOKENIZERS["phi"]().backend_tokenizer.to_str())
    core.add_tokens(["<|end|>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|endoftext|>")
    (example,) = encode(tokenizer, [Row("Q", "a <|end|> b")], ChatPrompt(template=BARE_CHAT.replace("\n", "<|end|>\n")))
    assert example.answer.index(tokenizer.convert_tokens_to_ids("<|end|>")) == len(example.answer) - 1
    assert tokenizer.decode(example.answer[:-1]) == "a <|end|> b"


# -- chats -------------------------------------------------------------------------------------------------------------


def prompt_of(name: str, **settings: Any) -> str:
    tokenizer = TOKENIZERS[name]()
    (example,) = encode(tokenizer, [Row("Who?", "Ada.")], ChatPrompt(**settings))
    return text(tokenizer, example.prompt)


def test_auto_is_a_chat_where_the_tokenizer_has_a_template_and_plain_where_not() -> None:
    for name, make in TOKENIZERS.items():
        other = ChatPrompt() if name in WITH_TEMPLATE else PlainPrompt()
        assert encode(make(), ROWS) == encode(make(), ROWS, other)


def test_the_date_is_the_one_that_was_set_and_never_todays() -> None:
    assert "Today Date: 10 Apr 2025\n" in prompt_of("llama3")
    assert "Today Date: 1 May 1999\n" in prompt_of("llama3", date="1 May 1999")
    template = "It is {{ strftime_now('%Y') }}.\n" + BARE_CHAT
    assert prompt_of("phi", template=template) == "It is 10 Apr 2025.\nuser: Who?\nassistant: "


def test_a_system_text_has_a_turn_of_its_own() -> None:
    assert "\n\nBe brief.<|eot_id|>" in prompt_of("llama3", system="Be brief.")
    assert prompt_of("llama2", system="Be brief.") == "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nWho? [/INST]"
    assert prompt_of("qwen2").startswith("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n")
    assert prompt_of("qwen2", system="Be brief.").startswith("<|im_start|>system\nBe brief.<|im_end|>\n")


def test_a_template_that_refuses_a_system_text_is_named() -> None:
    with pytest.raises(ValueError, match=r"fails \(System role not supported\); remove model\.prompt\.system if"):
        prompt_of("gemma", system="Be brief.")


def test_a_template_that_is_not_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"chat template fails \(.*\); declare another as model\.prompt\.template"):
        prompt_of("qwen2", template="{% for turn in messages %}")


def test_a_chat_without_a_template_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no chat template; declare one as model\.prompt\.template, or set .* plain"):
        encode(TOKENIZERS["phi"](), ROWS, ChatPrompt())
    with pytest.raises(ValueError, match="no chat template"):
        end_tokens(TOKENIZERS["phi"](), ChatPrompt(), [])


def test_a_template_whose_prompt_is_not_the_beginning_of_the_whole_is_refused() -> None:
    template = BARE_CHAT.replace("assistant: {%", "assistant: <think>\n{%")
    with pytest.raises(ValueError, match=r"with .*assistant: <think>\\n', .* writes .* so .* no border .*prompt\.temp"):
        encode(TOKENIZERS["phi"](), [Row("Who?", "Ada.")], ChatPrompt(template=template))


def test_a_template_that_changes_answers_is_refused() -> None:
    template = BARE_CHAT.replace("turn.content", "turn.content | replace('.', '!')")
    with pytest.raises(ValueError, match=r"does not show the answer 'Ada\.' as it is; declare another"):
        encode(TOKENIZERS["phi"](), [Row("Who?", "Ada.")], ChatPrompt(template=template))


def test_a_template_that_closes_an_answer_by_no_token_leaves_that_to_the_tokenizer() -> None:
    tokenizer = TOKENIZERS["phi"]()
    (example,) = encode(tokenizer, [Row("Who?", "one\ntwo")], ChatPrompt(template=BARE_CHAT))
    assert tokenizer.decode(example.answer) == "one\ntwo<|endoftext|>"


def test_blanks_are_no_end_token_though_they_may_be_one_added_token() -> None:
    tokenizer = TOKENIZERS["gemma"]()
    template = BARE_CHAT.replace("turn.content }}\n", "turn.content }}\n\n<eos>")
    (example,) = encode(tokenizer, [Row("Who?", "Ada.\n\nBerg")], ChatPrompt(template=template))
    assert tokenizer.decode(example.answer) == "Ada.\n\nBerg\n\n<eos>"


def test_what_a_template_puts_between_an_answer_and_its_end_token_is_kept() -> None:
    tokenizer = TOKENIZERS["llama2"]()
    (example,) = encode(tokenizer, [Row("Who?", "Ada.")])
    assert tokenizer.convert_ids_to_tokens(example.answer)[-2:] == ["▁", "</s>"]


def test_an_answer_begins_behind_the_empty_thought_that_a_template_writes() -> None:
    thought = "<think>\n\n</think>\n\n"
    template = BARE_CHAT.replace(
        "{{ turn.content", "{% if turn.role == 'assistant' %}" + thought + "{% endif %}{{ turn.content"
    )
    template = template.replace(
        "assistant: {%", "assistant: {% if enable_thinking is false %}" + thought + "{% endif %}{%"
    )
    tokenizer = TOKENIZERS["qwen2"]()
    (example,) = encode(tokenizer, [Row("Who?", "Ada.")], ChatPrompt(template=template))
    assert tokenizer.decode(example.prompt).endswith(thought)
    assert tokenizer.decode(example.answer) == "Ada.<|im_end|>"


def test_end_tokens_are_those_of_tokenizer_template_and_model() -> None:
    def ends(name: str, prompt: Prompt, *more: str) -> set[str]:
        tokenizer = TOKENIZERS[name]()
        found = end_tokens(tokenizer, prompt, tokenizer.convert_tokens_to_ids(list(more)))
        return set(tokenizer.convert_ids_to_tokens(sorted(found)))

    assert ends("gemma", AutoPrompt()) == {"<eos>", "<end_of_turn>"}
    assert ends("gemma", PlainPrompt()) == {"<eos>"}
    assert ends("llama3", AutoPrompt(), "<|end_of_text|>", "<|eot_id|>") == {"<|end_of_text|>", "<|eot_id|>"}
    assert ends("qwen2", PlainPrompt(), "<|endoftext|>") == {"<|endoftext|>", "<|im_end|>"}
    assert ends("phi", AutoPrompt()) == {"<|endoftext|>"}


# -- raw text ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TOKENIZERS)
def test_raw_text_has_no_template_and_no_end_token(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    rows = [Row("", "The author was born.", verbatim=True), Row("Who?", "Ada."), Row("the city", " of", verbatim=True)]
    raw, question, pair = encode(tokenizer, rows)
    assert (raw.ended, question.ended, pair.ended) == (False, True, False)
    start = (STARTS[name],) if name in STARTS else ()
    assert raw.start == pair.start == len(start)
    assert tokenizer.convert_ids_to_tokens(raw.prompt[: len(start)]) == list(start)
    assert text(tokenizer, raw.prompt + raw.answer) == "".join(start) + "The author was born."
    assert text(tokenizer, pair.prompt) == "".join(start) + "the city"
    assert tokenizer.decode(pair.answer).strip() == "of"
    assert question == encode(tokenizer, rows[1:2])[0]


def test_raw_text_that_nothing_opens_has_its_first_token_as_prompt() -> None:
    tokenizer = TOKENIZERS["phi"]()
    (raw,) = encode(tokenizer, [Row("", "The author", verbatim=True)])
    assert tokenizer.convert_ids_to_tokens(raw.prompt + raw.answer) == ["The", "Ġauthor"]
    assert (len(raw.prompt), raw.start) == (1, 0)
    with pytest.raises(ValueError, match="the text 'The' leaves no token to be predicted; remove its row"):
        encode(tokenizer, [Row("", "The", verbatim=True)])


@given(length=st.integers(2, 60), size=st.integers(3, 20), opened=st.booleans())
def test_pieces_of_a_raw_text_are_all_of_it_in_order(length: int, size: int, opened: bool) -> None:
    text = tuple(range(100, 100 + length))
    whole = Example((7,), text, False, 1) if opened else Example(text[:1], text[1:], False)
    pieces = cut([whole], size)
    assert all(len(piece) <= size and piece.prompt and piece.answer and not piece.ended for piece in pieces)
    assert all(piece.start == whole.start and len(piece.prompt) == 1 for piece in pieces)
    if opened:
        assert {piece.prompt for piece in pieces} == {(7,)}
        assert sum((piece.answer for piece in pieces), ()) == text
    else:
        assert sum((piece.prompt + piece.answer for piece in pieces), ()) == text
    assert len(pieces) == -(-length // (size - opened)) or not opened


@given(length=st.integers(1, 30), size=st.integers(6, 12), opened=st.booleans())
def test_the_prompt_of_a_raw_text_is_before_its_first_piece_only(length: int, size: int, opened: bool) -> None:
    answer = tuple(range(100, 100 + length))
    start = (7,) if opened else ()
    first, *others = cut([Example((*start, 1, 2, 3), answer, False, len(start))], size)
    assert first.prompt == (*start, 1, 2, 3)
    parts = [piece.prompt[len(start) :] + piece.answer for piece in others]
    assert first.answer + sum(parts, ()) == answer
    assert all(
        piece.answer and len(piece) <= size and piece.prompt[: len(start)] == start for piece in (first, *others)
    )


def test_only_long_raw_text_is_cut_up() -> None:
    examples = [Example((1, 2, 3), (4, 5, 6)), Example((1,), (2, 3), False), Example((1,), (2, 3, 4, 5, 6), False)]
    assert cut(examples, 3) == [*examples[:2], Example((1,), (2, 3), False), Example((4,), (5, 6), False)]


def test_the_beginning_of_an_example_has_all_of_its_prompt() -> None:
    example = Example((1, 2), (3, 4, 5), start=1)
    assert truncated(example, 5) is example
    assert truncated(example, 4) == Example((1, 2), (3, 4), ended=False)
    assert truncated(example, 3).start == 1
    with pytest.raises(ValueError, match=r"pieces of 2 tokens have no room for a prompt of 2 .*to 3 or more"):
        truncated(example, 2)


@pytest.mark.parametrize("size", [1, 3])
def test_pieces_without_room_for_an_answer_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match=rf"pieces of {size} tokens .* a prompt of 2 and an answer; raise .* to 4"):
        cut([Example((1, 2), (3, 4, 5), ended=False)], size)


# -- batches -----------------------------------------------------------------------------------------------------------


def test_a_batch_is_shifted_once_and_masks_prompt_and_padding() -> None:
    examples = [Example((1, 2, 3), (4, 5)), Example((6,), (7, 8, 9, 10, 11))]
    batch = collate(examples, Padding(0), CPU)
    assert batch.input_BT.tolist() == [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]]
    assert batch.target_BT.tolist() == [[2, 3, 4, 5, 0], [7, 8, 9, 10, 11]]
    assert batch.answer_BT.tolist() == [[False, False, True, True, False], [True] * 5]
    assert batch.attention_BT.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 1]]
    assert batch.target_N.tolist() == [4, 5, 7, 8, 9, 10, 11]
    assert batch.mask_BA.tolist() == [[True, True, False, False, False], [True] * 5]
    assert batch.position_BT is None


def test_padding_is_attended_by_nobody_and_is_no_target() -> None:
    examples = [Example((1, 2), (3,)), Example((4, 5, 6, 7), (8, 9))]
    batch = collate(examples, Padding(0), CPU)
    assert batch.attention_BT.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert batch.target_N.tolist() == [3, 8, 9]
    assert not batch.answer_BT[0, 2:].any()


def test_padding_at_the_left_moves_tokens_and_answers_and_counts_positions_from_the_first_token() -> None:
    examples = [Example((1, 2), (3, 9)), Example((4, 5, 6), (7, 8, 9))]
    batch = collate(examples, Padding(0, side="left"), CPU)
    assert batch.input_BT.tolist() == [[0, 0, 1, 2, 3], [4, 5, 6, 7, 8]]
    assert batch.attention_BT.tolist() == [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]
    assert batch.target_BT.tolist() == [[0, 1, 2, 3, 9], [5, 6, 7, 8, 9]]
    assert batch.target_N.tolist() == [3, 9, 7, 8, 9]
    assert batch.mask_BA.tolist() == [[True, True, False], [True, True, True]]
    assert batch.position_BT is not None
    assert batch.position_BT.tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 3, 4]]


def test_hiding_hides_tokens_that_equal_the_padding_and_leaves_them_targets_and_positions() -> None:
    examples = [Example((1, 9, 2), (3, 9)), Example((9, 5), (6, 7, 8, 9))]
    batch = collate(examples, Padding(9, hides=True), CPU)
    assert batch.input_BT.tolist() == [[1, 9, 2, 3, 9], [9, 5, 6, 7, 8]]
    assert batch.attention_BT.tolist() == [[1, 0, 1, 1, 0], [0, 1, 1, 1, 1]]
    assert batch.target_N.tolist() == [3, 9, 6, 7, 8, 9]
    assert batch.position_BT is None
    left = collate(examples, Padding(9, hides=True, side="left"), CPU)
    assert left.position_BT is not None
    assert left.attention_BT.tolist() == [[0, 1, 0, 1, 1], [0, 1, 1, 1, 1]]
    assert left.position_BT.tolist() == [[0, 0, 0, 1, 2], [0, 0, 1, 2, 3]]


@pytest.mark.parametrize("name", ["llama3", "gemma"])
def test_which_side_is_padded_does_not_matter_to_a_model(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    torch.manual_seed(0)
    settings = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), initializer_range=0.5, **settings)).eval()
    examples = encode(tokenizer, ROWS, PlainPrompt())
    found = []
    for side in ("right", "left"):
        batch = collate(examples, Padding(int(tokenizer.pad_token_id), side=side), CPU)  # type: ignore[arg-type]
        with torch.no_grad():
            output = model(batch.input_BT, attention_mask=batch.attention_BT, position_ids=batch.position_BT)
        found.append(output.logits[batch.answer_BT])
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-4)
    assert found[0].std() > 0.1


def test_a_pad_token_that_is_the_end_token_is_still_only_supervised_where_it_closes_an_answer() -> None:
    batch = collate([Example((1, 2), (3, 9)), Example((1, 2, 4, 5), (6, 7, 9))], Padding(9), CPU)
    assert batch.target_N.tolist() == [3, 9, 6, 7, 9]
    assert batch.attention_BT.tolist() == [[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_every_answer_token_of_every_row_is_supervised(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    examples = encode(tokenizer, ROWS)
    batch = collate(examples, Padding(int(tokenizer.eos_token_id)), CPU)
    assert batch.target_N.tolist() == [token for example in examples for token in example.answer]
    assert batch.mask_BA.sum(1).tolist() == [len(example.answer) for example in examples]
    width = batch.input_BT.shape[1]  # the longest row's last token is a target only
    assert batch.attention_BT.sum(1).tolist() == [min(len(example), width) for example in examples]


def test_rows_of_a_batch_are_its_values_row_by_row_and_zero_on_padding() -> None:
    batch = collate([Example((1,), (2, 3, 4)), Example((5, 6), (7,))], Padding(0), CPU)
    values = torch.tensor([0.1, 0.2, 0.3, 0.4], requires_grad=True)
    rows = batch.rows(values)
    assert rows.tolist() == [pytest.approx([0.1, 0.2, 0.3]), pytest.approx([0.4, 0.0, 0.0])]
    (rows * torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [1.0, 2.0, 3.0, 4.0]


def test_batches_by_length_hold_every_example_once_and_the_short_ones_first() -> None:
    examples = [Example((1,) * n, (2,)) for n in (5, 1, 3, 1, 4, 2, 9)]
    batches = by_length(examples, 3)
    assert batches == [[1, 3, 5], [2, 4, 0], [6]]
    assert by_length([], 3) == []


def test_a_batch_has_no_more_answer_tokens_than_there_is_room_for() -> None:
    examples = [Example((1,), (2,) * length) for length in (9, 3, 3, 20, 2, 4)]
    assert by_length(examples, 3, predicted=8) == [[4, 1, 2], [5], [0], [3]]
    assert by_length(examples, 3, predicted=100) == by_length(examples, 3) == [[4, 1, 2], [5, 0, 3]]
