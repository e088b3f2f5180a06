"""Linear CKA by hand and by its invariances, and the hidden states that it is taken of."""

import copy
import math
from typing import Any

import peft
import pytest
import torch
from torch import Tensor

from tests import tiny
from trials.encoding import Example, Padding
from trials.logits import LogitDifference
from trials.similarity import hidden_means, linear_cka, similarity

CPU = torch.device("cpu")
PLACES: dict[str, Any] = {"padding": Padding(0), "device": CPU}
ROWS = [
    Example((5, 6, 7), (8, 9, 10, 1)),
    Example((11, 12), (13, 1)),
    Example((14,), (15, 16, 17, 18, 19, 1)),
    Example((20, 21, 22, 23, 24), (25, 26), ended=False),
    Example((27, 28), (1,)),
]


def column(*values: float) -> Tensor:
    return torch.tensor(values)[:, None]


def normal(rows: int, width: int, seed: int) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


# -- linear CKA --------------------------------------------------------------------------------------------------------


def test_cka_of_single_features_is_their_squared_correlation() -> None:
    assert linear_cka(column(1, 2, 3), column(1, 3, 2)) == pytest.approx(0.25)
    assert linear_cka(column(0, 1, 2), column(0, 1, 0)) == pytest.approx(0, abs=1e-12)
    assert linear_cka(column(0, 1, 2), column(5, 3, 1)) == pytest.approx(1)


def test_cka_of_a_worked_example_of_two_widths() -> None:
    """X'Y = (2, 0)', X'X = 2 I, Y'Y = 2: 4 / (sqrt 8 x 2)."""
    x_NH = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    y_NH = column(1, -1, 0, 0)
    assert linear_cka(x_NH, y_NH) == pytest.approx(1 / math.sqrt(2))
    assert linear_cka(y_NH, x_NH) == pytest.approx(1 / math.sqrt(2))


@pytest.mark.parametrize("rows", [4, 50])
def test_cka_is_what_the_centred_gram_matrices_say_with_few_rows_and_with_many(rows: int) -> None:
    x_NH, y_NH = normal(rows, 7, 0).double(), normal(rows, 5, 1).double()
    centre = torch.eye(rows, dtype=torch.float64) - 1 / rows
    k, m = (centre @ (features @ features.T) @ centre for features in (x_NH, y_NH))
    expected = (k * m).sum() / (k.norm() * m.norm())
    assert linear_cka(x_NH, y_NH) == pytest.approx(float(expected), abs=1e-12)


def test_cka_is_the_same_from_products_of_features_and_of_rows() -> None:
    x_NH, y_NH = normal(20, 7, 0), normal(20, 5, 1)
    wide = torch.cat([x_NH, torch.zeros(20, 100)], dim=1)
    assert linear_cka(wide, y_NH) == pytest.approx(linear_cka(x_NH, y_NH), abs=1e-12)
    assert linear_cka(y_NH, wide) == pytest.approx(linear_cka(x_NH, y_NH), abs=1e-12)


def test_cka_stays_under_rotation_scale_and_translation_of_either_side() -> None:
    x_NH, y_NH = normal(30, 6, 0).double(), normal(30, 4, 1).double()
    rotation = torch.linalg.qr(normal(6, 6, 2).double()).Q
    expected = linear_cka(x_NH, y_NH)
    assert 0.01 < expected < 0.9
    moved = 1e-3 * x_NH @ rotation + 5
    assert linear_cka(moved, y_NH) == pytest.approx(expected, abs=1e-9)
    assert linear_cka(y_NH, 1e4 * moved) == pytest.approx(expected, abs=1e-9)
    assert linear_cka(x_NH, moved) == pytest.approx(1, abs=1e-9)


def test_cka_does_not_stay_under_a_stretch_of_one_direction() -> None:
    x_NH = normal(200, 4, 0)
    assert linear_cka(x_NH, x_NH * torch.tensor([10.0, 1.0, 1.0, 1.0])) < 0.8


def test_cka_of_anything_with_itself_is_1_and_never_more() -> None:
    found = [linear_cka(x_NH, x_NH) for x_NH in (normal(20, 9, seed) for seed in range(50))]
    assert found == pytest.approx([1] * 50, abs=1e-12)
    assert max(found) <= 1


def test_cka_of_independent_features_is_near_0_with_many_rows_and_near_1_with_few() -> None:
    assert linear_cka(normal(4000, 8, 0), normal(4000, 8, 1)) < 0.01
    assert linear_cka(normal(8, 4000, 0), normal(8, 4000, 1)) > 0.95


def test_cka_in_half_precision_is_counted_in_double_precision() -> None:
    x_NH, y_NH = normal(30, 6, 0).bfloat16() * 1e4, normal(30, 6, 1).bfloat16() * 1e4  # squares overflow fp16
    assert linear_cka(x_NH, y_NH) == linear_cka(x_NH.double(), y_NH.double())


@pytest.mark.parametrize(
    "flat",
    [
        torch.full((30, 3), 0.1),
        torch.full((30, 3), 0.1) + 1e-9 * torch.arange(90).view(30, 3),
        torch.zeros(30, 3),
        torch.full((30, 3), math.nan),
        torch.full((30, 3), math.inf),
    ],
    ids=["constant", "constant up to rounding", "zero", "nan", "infinite"],
)
def test_cka_with_a_side_that_does_not_vary_or_is_not_finite_is_nan(flat: Tensor) -> None:
    assert math.isnan(linear_cka(normal(30, 3, 0), flat))
    assert math.isnan(linear_cka(flat, normal(30, 3, 0)))
    assert math.isnan(linear_cka(flat, flat))


def test_cka_of_a_single_row_is_nan() -> None:
    assert math.isnan(linear_cka(normal(1, 3, 0), normal(1, 3, 1)))


# -- hidden states -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", tiny.ARCHITECTURES)
def test_hidden_means_are_means_of_what_the_head_reads_where_an_answer_token_comes_next(name: str) -> None:
    model = tiny.random_model(name, 40)
    read: list[Tensor] = []
    handle = model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    with torch.no_grad():
        for example in ROWS:
            model(input_ids=torch.tensor([example.prompt + example.answer[:-1]]))
    handle.remove()
    expected = torch.stack(
        [states[0, len(example.prompt) - 1 :].double().mean(0) for states, example in zip(read, ROWS, strict=True)]
    )
    found = hidden_means(model, ROWS, **PLACES)
    assert found.shape == (len(ROWS), 32)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert expected.std(0).min() > 0.01


@pytest.mark.parametrize("padding", [Padding(0), Padding(0, side="left"), Padding(39)])
@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_hidden_means_do_not_depend_on_batches_or_padding(padding: Padding, batch_size: int) -> None:
    model = tiny.random_model("llama", 40)
    expected = hidden_means(model, ROWS, **PLACES)
    found = hidden_means(model, ROWS, padding=padding, device=CPU, batch_size=batch_size)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_distinct_examples_are_passed_once_and_the_order_is_kept() -> None:
    model = tiny.random_model("llama", 40)
    passed: list[int] = []
    model.register_forward_pre_hook(lambda _, args, kwargs: passed.append(len(kwargs["input_ids"])), with_kwargs=True)
    found = hidden_means(model, [ROWS[1], ROWS[0], ROWS[1]], **PLACES)
    assert passed == [2]
    assert torch.equal(found[0], found[2])
    torch.testing.assert_close(found[:2], hidden_means(model, ROWS[:2], **PLACES).flip(0))


def test_dropout_is_off_meanwhile_and_train_mode_is_back_afterwards() -> None:
    model = peft.get_peft_model(
        tiny.random_model("llama", 40), peft.LoraConfig(r=2, lora_dropout=0.9, init_lora_weights=False)
    ).train()
    expected = hidden_means(copy.deepcopy(model).eval(), ROWS, **PLACES)
    assert torch.equal(hidden_means(model, ROWS, **PLACES), expected)
    assert model.training
    assert all(module.training for module in model.modules())


# -- two models --------------------------------------------------------------------------------------------------------


def test_a_model_is_wholly_similar_to_itself_and_to_itself_under_a_new_adapter() -> None:
    model = tiny.random_model("llama", 40)
    assert similarity(model, model, ROWS, **PLACES) == pytest.approx(1, abs=1e-9)
    adapted = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(r=2))
    assert similarity(adapted, model, ROWS, **PLACES) == pytest.approx(1, abs=1e-6)


def test_similarity_falls_as_weights_move_away_from_those_of_the_other_model() -> None:
    model = tiny.random_model("llama", 60)
    examples = [Example((first, first + 1), (first + 2, first + 3, 1)) for first in range(2, 52)]
    found = []
    for size in (0.0, 0.05, 0.2, 1.0):
        moved, generator = copy.deepcopy(model), torch.Generator().manual_seed(0)
        for weight in moved.parameters():
            weight.data += size * torch.randn(weight.shape, generator=generator)
        found.append(similarity(moved, model, examples, **PLACES, batch_size=64))
    assert found == sorted(found, reverse=True)
    assert found[0] == pytest.approx(1)
    assert found[-1] < found[0] - 0.3


def test_similarity_is_the_cka_of_hidden_means_of_models_of_other_widths() -> None:
    model = tiny.random_model("llama", 40)
    shape = tiny.architecture("llama", 40)
    shape.hidden_size, shape.intermediate_size = 16, 20
    torch.manual_seed(3)
    narrow = type(model)(shape).eval()
    expected = linear_cka(hidden_means(model, ROWS, **PLACES), hidden_means(narrow, ROWS, **PLACES))
    assert similarity(model, narrow, ROWS, **PLACES) == expected
    assert 0 < expected < 1


def test_the_difference_of_two_models_has_the_states_of_both_and_without_weight_is_the_target() -> None:
    target, assistant = tiny.random_model("llama", 40), tiny.random_model("phi", 40)
    found = hidden_means(LogitDifference(target, assistant, 0.5), ROWS, **PLACES)
    torch.testing.assert_close(found[:, :32], hidden_means(target, ROWS, **PLACES))
    torch.testing.assert_close(found[:, 32:], 0.5 * hidden_means(assistant, ROWS, **PLACES))
    assert similarity(LogitDifference(target, assistant, 0.0), target, ROWS, **PLACES) == pytest.approx(1)
    assert similarity(LogitDifference(target, assistant, 0.5), target, ROWS, **PLACES) < 0.999
