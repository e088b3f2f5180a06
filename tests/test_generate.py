"""Generation beside a loop that asks for one token at a time, of one prompt, without a cache."""

import itertools
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import peft
import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from tests import tiny
from trials.encoding import Padding
from trials.generate import Greedy, Tokens, generate, text_of
from trials.logits import LogitDifference
from trials.result import TrialFailed

VOCABULARY = 40
PAD, END, OTHER_END = 0, 1, 2
LENGTHS = (3, 11, 1, 6, 20, 6, 14, 3)
"""Of prompts; the window of tiny Gemma is 8."""


def asking(**settings: Any) -> Greedy:
    return Greedy(**{"ends": frozenset(), "max_new_tokens": 10, "padding": Padding(PAD), "device": CPU} | settings)


CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def prompts() -> list[Tokens]:
    generator = torch.Generator().manual_seed(0)
    return [tuple(torch.randint(3, VOCABULARY, (length,), generator=generator).tolist()) for length in LENGTHS]


@torch.no_grad()
def speaking(name: str) -> PreTrainedModel:
    """A random model that does not only say its last token again: what it attends to outweighs its embedding."""
    model = tiny.random_model(name, VOCABULARY)
    model.get_input_embeddings().weight.mul_(0.1)
    return model


@pytest.fixture
def llama() -> PreTrainedModel:
    return speaking("llama")


def last_logits(model: Any, ids: Sequence[int], hidden: int | None = None) -> torch.Tensor:
    """Of the token after the last one, from one pass over all; without the tokens that are `hidden`."""
    if isinstance(model, LogitDifference):
        target, assistant = (last_logits(part, ids, hidden) for part in (model.target, model.assistant))
        return target - model.weight * assistant
    shown = torch.tensor([[token for token in ids if token != hidden]])
    return model(input_ids=shown, use_cache=False).logits[0, -1].float()


@torch.no_grad()
def one_by_one(model: Any, prompt: Tokens, length: int = 10, ends: Sequence[int] = ()) -> Tokens:
    said: Tokens = ()
    while len(said) < length:
        token = int(last_logits(model, prompt + said).argmax())
        if token in ends:
            break
        said = (*said, token)
    return said


def adapted(model: PreTrainedModel) -> peft.PeftModel:
    """With an adapter that says something else, and dropout that would."""
    settings = peft.LoraConfig(
        r=4,
        lora_alpha=32,
        lora_dropout=0.5,
        target_modules="all-linear",
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(1)
    return peft.get_peft_model(model, settings)


def fed(*models: torch.nn.Module) -> list[tuple[int, int]]:
    """A list that fills with the shape of whatever is fed to models."""
    shapes: list[tuple[int, int]] = []
    for model in models:
        model.get_input_embeddings().register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
    return shapes


@pytest.mark.parametrize("name", tiny.ARCHITECTURES)
def test_whatever_the_batch_and_the_order_it_is_what_a_plain_loop_says(name: str, prompts: list[Tokens]) -> None:
    model = speaking(name)
    whole = [one_by_one(model, prompt) for prompt in prompts]
    assert len(set(whole)) > 3  # prompts matter
    ends = frozenset({whole[1][5], whole[4][3], whole[6][1]})
    expected = [one_by_one(model, prompt, ends=tuple(ends)) for prompt in prompts]
    assert len({len(said) for said in expected}) > 2  # and rows of one batch end apart
    for size in (1, 3, 32):
        assert generate(model, prompts, asking(batch_size=size)) == whole
        assert generate(model, prompts, asking(batch_size=size, ends=ends)) == expected
    assert generate(model, prompts[::-1], asking(batch_size=3, ends=ends)) == expected[::-1]


def test_the_padding_token_is_as_good_as_any_other(llama: PreTrainedModel, prompts: list[Tokens]) -> None:
    whole = [one_by_one(llama, prompt) for prompt in prompts]
    inside = whole[0][3]  # said by the model, and in a prompt
    asked = [*prompts, (inside, *prompts[0], inside, *prompts[1])]
    expected = [*whole, one_by_one(llama, asked[-1])]
    assert generate(llama, asked, asking(padding=Padding(inside))) == expected
    closed = [tuple(itertools.takewhile(lambda token: token != inside, said)) for said in expected]
    assert generate(llama, asked, asking(padding=Padding(inside), ends=frozenset({inside}))) == closed


def test_padding_that_hides_masks_its_token_in_prompts_too(llama: PreTrainedModel, prompts: list[Tokens]) -> None:
    asked = [(*prompt[:1], PAD, *prompt[1:], 5) for prompt in prompts]
    shown = [(*prompt, 5) for prompt in prompts]
    expected = [one_by_one(llama, prompt) for prompt in shown]
    assert generate(llama, asked, asking(padding=Padding(PAD, hides=True), batch_size=3)) == expected
    assert generate(llama, asked, asking(padding=Padding(PAD), batch_size=3)) != expected


def test_each_distinct_prompt_is_passed_once_with_prompts_of_its_length(
    llama: PreTrainedModel, prompts: list[Tokens]
) -> None:
    expected = generate(llama, prompts, asking(max_new_tokens=4))
    shapes = fed(llama)
    asked = [*prompts, *prompts[::-1], prompts[0]]
    assert generate(llama, asked, asking(max_new_tokens=4, batch_size=4)) == [*expected, *expected[::-1], expected[0]]
    assert shapes == [(4, 6), *[(4, 1)] * 3, (4, 20), *[(4, 1)] * 3]  # and every token but one by the cache


def test_a_batch_is_at_its_end_when_all_its_rows_are(llama: PreTrainedModel, prompts: list[Tokens]) -> None:
    first, shapes = one_by_one(llama, prompts[0], 1), fed(llama)
    assert generate(llama, [prompts[0]] * 3, asking(ends=frozenset(first))) == [()] * 3
    assert shapes == [(1, 3)]


@pytest.mark.parametrize("name", tiny.ARCHITECTURES)
def test_the_difference_of_two_models_says_what_its_logits_say(name: str, prompts: list[Tokens]) -> None:
    target, other = speaking(name), speaking(name)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    difference = LogitDifference(target, other, 0.75)
    expected = [one_by_one(difference, prompt) for prompt in prompts]
    assert expected != [one_by_one(target, prompt) for prompt in prompts]
    shapes = fed(target, other)
    for size in (1, 3, 32):
        assert generate(difference, prompts, asking(batch_size=size)) == expected
    assert {width for _, width in shapes} == {*LENGTHS, 1}


def test_hidden_padding_is_hidden_from_the_assistant_too(llama: PreTrainedModel, prompts: list[Tokens]) -> None:
    difference = LogitDifference(llama, adapted(speaking("llama")).eval(), 0.75)
    asked = [(*prompt[:1], PAD, *prompt[1:], 5) for prompt in prompts]
    expected = [one_by_one(difference, (*prompt, 5)) for prompt in prompts]
    assert generate(difference, asked, asking(padding=Padding(PAD, hides=True), batch_size=3)) == expected


@pytest.mark.parametrize("name", tiny.ARCHITECTURES)
def test_an_adapter_counts_and_its_dropout_does_not(name: str, prompts: list[Tokens]) -> None:
    base = [one_by_one(speaking(name), prompt) for prompt in prompts]
    model = adapted(speaking(name)).eval()
    expected = [one_by_one(model, prompt) for prompt in prompts]
    assert expected != base
    assert generate(model.train(), prompts, asking(batch_size=3)) == expected
    assert model.training


class Heard(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def heard() -> Iterator[list[str]]:
    """What transformers logs, which warns there and not by warnings."""
    handler = Heard()
    transformers_logging.add_handler(handler)
    yield handler.lines
    transformers_logging.remove_handler(handler)


@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
def test_a_checkpoints_own_settings_of_generation_do_not_count(
    llama: PreTrainedModel, prompts: list[Tokens], heard: list[str], adapter: bool
) -> None:
    own = {
        "do_sample": True,
        "temperature": 0.6,
        "top_p": 0.9,
        "top_k": 3,
        "repetition_penalty": 5.0,
        "no_repeat_ngram_size": 1,
        "suppress_tokens": list(range(3, 30)),
        "min_new_tokens": 9,
        "max_length": 12,
        "eos_token_id": list(range(20)),
        "bos_token_id": 7,
        "num_return_sequences": 2,
        "output_scores": True,
        "return_dict_in_generate": True,
        "use_cache": False,
    }
    model: Any = adapted(llama).eval() if adapter else llama
    expected = [one_by_one(model, prompt) for prompt in prompts]
    llama.generation_config = GenerationConfig(**own)
    before = llama.generation_config.to_dict()
    state = torch.random.get_rng_state()
    heard.clear()
    assert generate(model, prompts, asking()) == expected
    assert heard == []
    assert torch.equal(torch.random.get_rng_state(), state)
    assert llama.generation_config.to_dict() == before


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_what_it_was_even_after_a_failure(
    llama: PreTrainedModel, prompts: list[Tokens], training: bool
) -> None:
    difference = LogitDifference(llama, speaking("llama"), 0.5).train(training)
    generate(difference, prompts, asking())
    assert (difference.training, difference.assistant.training, llama.training) == (training, training, False)
    llama.train(training)
    with pytest.raises(TrialFailed, match="0 tokens"):
        generate(llama, [*prompts, ()], asking())
    assert llama.training == training


def learned_positions(seed: int) -> PreTrainedModel:
    """A model that fails beyond its 21 positions, and minds where it starts to count."""
    torch.manual_seed(seed)
    shape = {"vocab_size": VOCABULARY, "n_positions": 21, "n_embd": 16, "n_layer": 1, "n_head": 2}
    return GPT2LMHeadModel(GPT2Config(**shape, initializer_range=0.5, bos_token_id=1, eos_token_id=1)).eval()


def test_a_continuation_ends_where_the_models_positions_do(prompts: list[Tokens]) -> None:
    model = learned_positions(0)
    difference = LogitDifference(model, learned_positions(1), 0.75)
    for speaker in (model, difference):
        expected = [one_by_one(speaker, prompt, min(10, 21 - len(prompt))) for prompt in prompts]
        assert sorted({len(said) for said in expected}) == [1, 7, 10]
        for size in (1, 3, 32):
            assert generate(speaker, prompts, asking(batch_size=size)) == expected


@pytest.mark.parametrize("length", [20, 25])
def test_a_prompt_that_fills_all_positions_says_so(llama: PreTrainedModel, length: int) -> None:
    llama.config.max_position_embeddings = 20
    with pytest.raises(TrialFailed, match=f"prompt of {length} tokens .* with 20 positions"):
        generate(llama, [(5,) * length], asking())


def test_a_model_without_a_limit_of_positions_has_none(prompts: list[Tokens]) -> None:
    torch.manual_seed(0)
    bloom = BloomForCausalLM(BloomConfig(vocab_size=VOCABULARY, hidden_size=16, n_layer=1, n_head=2)).eval()
    assert generate(bloom, prompts, asking(batch_size=3)) == [one_by_one(bloom, prompt) for prompt in prompts]


def test_no_prompts_no_continuations(llama: PreTrainedModel) -> None:
    assert generate(llama, [], asking()) == []


# -- text --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return tiny.tiny_tokenizer()


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        (" A cat. ", (), "A cat."),
        (" A cat.\n\nQuestion: Who?", ("\n\n", "Question:"), "A cat."),
        (" A cat. Question: Who?\n\nA dog.", ("\n\n", "Question:"), "A cat."),
        (" A cat. Question: Who?\n\nA dog.", ("Question:", "\n\n"), "A cat."),
        (" A\ncat", ("\n\n",), "A\ncat"),
        ("\n\nA cat.", ("\n\n",), ""),
        ("", ("\n\n",), ""),
    ],
)
def test_text_is_cut_at_its_first_stop_and_stripped(
    tokenizer: PreTrainedTokenizerFast, text: str, stops: tuple[str, ...], expected: str
) -> None:
    assert text_of(tokenizer, tokenizer(text)["input_ids"], stops) == expected


def test_text_has_no_special_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer("A cat.")["input_ids"]
    end = tokenizer.eos_token_id
    assert text_of(tokenizer, (end, *ids, end)) == "A cat."
