"""Norms of the loss's gradient at single rows: by hand, against autograd, and what is left as it was."""

import copy
import math
from types import SimpleNamespace
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn

from tests import tiny
from trials.encoding import Example, Padding, collate
from trials.gradients import gradient_norms
from trials.logits import LogitDifference, answer_logits
from trials.losses import token_ce

CPU = torch.device("cpu")
PLACES: dict[str, Any] = {"padding": Padding(0), "device": CPU}
ROWS = [Example((5, 6, 7), (8, 9, 10, 1)), Example((11, 12), (13, 1)), Example((14,), (15, 16, 17, 18, 19, 1))]


class Bigram(nn.Module):
    """Two tokens; what comes next hangs on the last token only."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(2, 2), nn.Linear(2, 2, bias=False)
        self.dropout, self.passes = nn.Dropout(dropout), 0
        self.embedding.weight.data = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
        self.head.weight.data.zero_()

    def get_output_embeddings(self) -> nn.Linear:
        return self.head

    def forward(self, input_ids: Tensor, **_: Any) -> SimpleNamespace:
        self.passes += 1
        return SimpleNamespace(logits=self.head(self.dropout(self.embedding(input_ids))))


def with_lora(model: Any, targets: str | list[str] = "all-linear") -> Any:
    """A model with an adapter that does something already."""
    torch.manual_seed(1)
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(r=2, lora_dropout=0.5, target_modules=targets, task_type="CAUSAL_LM")
    )
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.1)
    return adapted


def by_autograd(model: Any, example: Example) -> float:
    """From the formula, on a copy."""
    copied = copy.deepcopy(model).eval().requires_grad_(True)
    batch = collate([example], Padding(0), CPU)
    token_ce(answer_logits(copied, batch), batch.target_N)[:-1].mean().backward()
    norms = [weight.grad.norm().item() for weight in copied.parameters() if weight.grad is not None]
    return sum(norms) / len(norms)


# -- values ------------------------------------------------------------------------------------------------------------


def test_the_gradient_norm_of_a_worked_example() -> None:
    """Logits are 0, so d/dhead = (p - one-hot) h' with p = (1/2, 1/2), h = (3, 4), and d/dembedding = 0."""
    [norm] = gradient_norms(Bigram(), [Example((0,), (0, 1))], **PLACES)
    assert norm == pytest.approx((math.sqrt(0.5) * 5 + 0) / 2)


def test_the_norm_is_that_of_the_mean_gradient_and_not_the_mean_of_the_tokens_norms() -> None:
    """After token 0 once 0 comes and once 1: their gradients cancel. After token 1 there are none, as h = 0."""
    [norm] = gradient_norms(Bigram(), [Example((0,), (0, 1, 1))], **PLACES)
    assert norm == 0


def test_the_end_token_is_left_out_and_the_last_token_of_raw_text_is_not() -> None:
    answer, raw = gradient_norms(Bigram(), [Example((0,), (0, 1, 1)), Example((0,), (0, 0, 0), ended=False)], **PLACES)
    assert answer == 0
    assert raw == pytest.approx(math.sqrt(0.5) * 5 / 2)
    one_token = gradient_norms(Bigram(), [Example((0,), (0,), ended=False)], **PLACES)
    assert one_token == pytest.approx([math.sqrt(0.5) * 5 / 2])


def test_an_answer_of_only_the_end_token_has_no_gradient_and_the_rows_beside_it_have() -> None:
    empty, other = gradient_norms(Bigram(), [Example((0,), (1,)), Example((0,), (0, 1))], **PLACES)
    assert math.isnan(empty)
    assert other > 0


@pytest.mark.parametrize("name", tiny.ARCHITECTURES)
def test_gradient_norms_are_those_that_autograd_leaves_in_a_copy(name: str) -> None:
    model = tiny.random_model(name, 40)
    expected = [by_autograd(model, example) for example in ROWS]
    assert gradient_norms(model, ROWS, **PLACES) == pytest.approx(expected, rel=1e-5)
    assert len(set(expected)) == len(ROWS)


def test_a_tied_weight_counts_once() -> None:
    model = Bigram()
    model.head.weight = model.embedding.weight
    [norm] = gradient_norms(model, [Example((0,), (0, 1))], **PLACES)
    # Logits (25, 0): p - one-hot is 0 up to e^-25.
    assert norm == pytest.approx(0, abs=1e-6)
    [norm] = gradient_norms(model, [Example((0,), (1, 1))], **PLACES)
    # p - one-hot is (1, -1): d/dhead = ((3, 4), (-3, -4)), d/dembedding of token 0 = E'(1, -1) = (3, 4); one tensor.
    assert norm == pytest.approx(math.hypot(6, 8, 3, 4))


def test_a_weight_that_the_loss_does_not_depend_on_is_left_out() -> None:
    model = Bigram()
    model.idle = nn.Linear(2, 2)
    example = Example((0,), (0, 1))
    assert gradient_norms(model, [example], **PLACES) == gradient_norms(Bigram(), [example], **PLACES)


def test_a_model_in_half_precision_has_nearly_the_norms_of_the_whole_one() -> None:
    model = tiny.random_model("llama", 40)
    whole = gradient_norms(model, ROWS, **PLACES)
    assert gradient_norms(copy.deepcopy(model).bfloat16(), ROWS, **PLACES) == pytest.approx(whole, rel=0.1)


@pytest.mark.parametrize("padding", [Padding(0, side="left"), Padding(1), Padding(39)])
def test_gradient_norms_do_not_depend_on_how_rows_are_padded(padding: Padding) -> None:
    model = tiny.random_model("llama", 40)
    expected = gradient_norms(model, ROWS, **PLACES)
    assert gradient_norms(model, ROWS, padding=padding, device=CPU) == pytest.approx(expected, rel=1e-5)


# -- adapters, and the difference of two models ------------------------------------------------------------------------


@pytest.mark.parametrize("name", tiny.ARCHITECTURES)
def test_a_model_with_an_adapter_has_the_gradient_norms_of_the_merged_model(name: str) -> None:
    plain = tiny.random_model(name, 40)
    adapted = with_lora(copy.deepcopy(plain))
    merged = copy.deepcopy(adapted).merge_and_unload()
    found = gradient_norms(adapted, ROWS, **PLACES)
    assert found == pytest.approx(gradient_norms(merged, ROWS, **PLACES), rel=1e-4)
    assert found != pytest.approx(gradient_norms(plain, ROWS, **PLACES), rel=1e-2)


def test_the_difference_of_two_models_has_the_tensors_of_both() -> None:
    """Logits are 0 again; the assistant's enter by -1/2, so its gradient is half as long; the embeddings' are 0."""
    difference = LogitDifference(Bigram().requires_grad_(False), Bigram(), 0.5)
    [norm] = gradient_norms(difference, [Example((0,), (0, 1))], **PLACES)
    assert norm == pytest.approx(math.sqrt(0.5) * 5 * (1 + 0.5) / 4)


# -- what is left as it was --------------------------------------------------------------------------------------------


def test_each_distinct_example_is_passed_once_and_the_order_is_kept() -> None:
    model = Bigram()
    one, two = Example((0,), (0, 1)), Example((0,), (0, 1, 1))
    gradient_norms(model, [one], **PLACES)  # the head has been tried after that
    model.passes = 0
    norms = gradient_norms(model, [two, one, two, one], **PLACES)
    assert norms == pytest.approx([0, math.sqrt(0.5) * 2.5] * 2)
    assert model.passes == 2
    assert gradient_norms(model, [], **PLACES) == []


def test_dropout_is_off_meanwhile_and_train_mode_is_back_afterwards() -> None:
    model = Bigram(dropout=0.9).train()
    example = Example((0,), (0, 1))
    [expected] = gradient_norms(Bigram(), [example], **PLACES)
    state = torch.get_rng_state()
    assert gradient_norms(model, [example], **PLACES) == [expected]
    assert model.training
    assert model.dropout.training
    assert torch.equal(torch.get_rng_state(), state)
    model.eval()
    gradient_norms(model, [example], **PLACES)
    assert not model.training


@pytest.mark.parametrize("adapter", [False, True])
def test_weights_gradients_and_what_is_frozen_stay_as_they_were(adapter: bool) -> None:
    model: Any = tiny.random_model("llama", 40)
    model = with_lora(model) if adapter else model
    for index, weight in enumerate(model.parameters()):
        if not adapter:
            weight.requires_grad_(index % 2 == 0)
        weight.grad = torch.full_like(weight, 7.0) if weight.requires_grad else None
    before, asked = copy.deepcopy(model.state_dict()), [weight.requires_grad for weight in model.parameters()]
    assert True in asked
    assert False in asked
    with torch.no_grad():  # as evaluation may be
        assert all(norm > 0 for norm in gradient_norms(model, ROWS, **PLACES))
    assert [weight.requires_grad for weight in model.parameters()] == asked
    assert all(weight.grad is None or weight.grad.eq(7).all() for weight in model.parameters())
    assert [weight.grad is not None for weight in model.parameters()] == asked
    assert tiny.same(model.state_dict(), before)


def test_a_pass_that_fails_leaves_the_model_as_it_was_too() -> None:
    model = Bigram().requires_grad_(False)
    model.train()
    with pytest.raises(IndexError, match="index out of range"):
        gradient_norms(model, [Example((7,), (0, 1))], **PLACES)
    assert model.training
    assert not any(weight.requires_grad for weight in model.parameters())
