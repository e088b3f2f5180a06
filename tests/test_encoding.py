"""Rows to token ids: the border of prompt and answer, the end token, padding, the shift."""

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from trials.authors import generate_authors
from trials.benchmarks import Benchmark, Row
from trials.encoding import PROMPT, Example, by_length, collate, encode
from trials.target import END, PAD, train_tokenizer

ROWS = [
    Row("Who wrote it?", "Ada."),
    Row("Wo steht «das» geschrieben?", "In Köln, 東京 und 'nirgends' \U0001f600."),  # emoji and no Latin script
    Row("Q", "a much longer answer, with several words in it\n\nand a blank line"),
]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def plain() -> PreTrainedTokenizerFast:
    rows = generate_authors(authors=4, forget_authors=1, holdout_authors=0, questions=3, general=2, seed=0)
    texts = tuple(Row(str(row["question"]), str(row["answer"])) for row in rows.retain)
    return train_tokenizer(Benchmark("tiny", texts, (), (), (), (), ()), 400)


@pytest.fixture(scope="module", params=["plain", "BOS", "BOS and EOS"])
def tokenizer(request: pytest.FixtureRequest, plain: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """As trained; with a start token before each text; with an end token after it too."""
    if request.param == "plain":
        return plain
    core = type(plain.backend_tokenizer).from_str(plain.backend_tokenizer.to_str())
    core.add_special_tokens(["<s>"])
    ends = [("<s>", core.token_to_id("<s>")), (END, core.token_to_id(END))]
    single = "<s> $A" if request.param == "BOS" else f"<s> $A {END}"
    core.post_processor = TemplateProcessing(single=single, special_tokens=ends)
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token=END, pad_token=PAD)


def test_prompt_and_answer_meet_exactly_and_the_answer_ends_with_one_end_token(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    end, start = tokenizer.eos_token_id, tokenizer.bos_token_id
    for row, example in zip(ROWS, encode(tokenizer, ROWS), strict=True):
        assert tokenizer.decode(example.answer[:-1]) == f" {row.answer}"
        assert example.answer[-1] == end
        assert end not in (*example.prompt, *example.answer[:-1])
        body = example.prompt if start is None else example.prompt[1:]
        assert tokenizer.decode(body) == PROMPT.format(question=row.question)
        assert (start is not None) == (example.prompt[0] == start)
        assert start is None or start not in (*body, *example.answer)
        assert len(example) == len(example.prompt) + len(example.answer)


def test_no_merge_crosses_the_border(tokenizer: PreTrainedTokenizerFast) -> None:
    # The same question with another answer has the same prompt, and the other way round.
    one, two, three = encode(tokenizer, [Row("Who?", "Ada."), Row("Who?", ": x"), Row("Where\n?", "Ada.")])
    assert one.prompt == two.prompt
    assert one.answer == three.answer


def test_no_rows_give_no_examples(plain: PreTrainedTokenizerFast) -> None:
    assert encode(plain, []) == []


def test_a_batch_is_shifted_once_and_masks_prompt_and_padding() -> None:
    examples = [Example((1, 2, 3), (4, 5)), Example((6,), (7, 8, 9, 10, 11))]
    batch = collate(examples, 0, CPU)
    assert batch.input_BT.tolist() == [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]]
    assert batch.target_BT.tolist() == [[2, 3, 4, 5, 0], [7, 8, 9, 10, 11]]
    assert batch.answer_BT.tolist() == [[False, False, True, True, False], [True] * 5]
    assert batch.attention_BT.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 1]]
    assert batch.target_N.tolist() == [4, 5, 7, 8, 9, 10, 11]
    assert batch.mask_BA.tolist() == [[True, True, False, False, False], [True] * 5]


def test_padding_is_attended_by_nobody_and_is_no_target() -> None:
    examples = [Example((1, 2), (3,)), Example((4, 5, 6, 7), (8, 9))]
    batch = collate(examples, 0, CPU)
    assert batch.attention_BT.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert batch.target_N.tolist() == [3, 8, 9]
    assert not batch.answer_BT[0, 2:].any()


def test_a_pad_token_that_is_the_end_token_is_still_only_supervised_where_it_closes_an_answer() -> None:
    batch = collate([Example((1, 2), (3, 9)), Example((1, 2, 4, 5), (6, 7, 9))], 9, CPU)
    assert batch.target_N.tolist() == [3, 9, 6, 7, 9]


def test_every_answer_token_of_every_row_is_supervised(tokenizer: PreTrainedTokenizerFast) -> None:
    examples = encode(tokenizer, ROWS)
    batch = collate(examples, int(tokenizer.pad_token_id), CPU)
    assert batch.target_N.tolist() == [token for example in examples for token in example.answer]
    assert batch.mask_BA.sum(1).tolist() == [len(example.answer) for example in examples]
    width = batch.input_BT.shape[1]  # the longest row's last token is a target only
    assert batch.attention_BT.sum(1).tolist() == [min(len(example), width) for example in examples]


def test_rows_of_a_batch_are_its_values_row_by_row_and_zero_on_padding() -> None:
    batch = collate([Example((1,), (2, 3, 4)), Example((5, 6), (7,))], 0, CPU)
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
