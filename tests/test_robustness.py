"""Changed copies of a model: relearning brings back what was forgotten, quantisation rounds; the model itself stays."""

import copy
import itertools
import math
import warnings
from typing import Any

import numpy as np
import peft
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config

from tests import tiny
from trials.config import Relearning
from trials.encoding import Example, Padding, collate
from trials.logits import LogitDifference, answer_logits
from trials.losses import token_ce
from trials.robustness import nf4_levels, quantised, relearned
from trials.scoring import score

CPU = torch.device("cpu")
PLACES: dict[str, Any] = {"padding": Padding(0), "device": CPU}
FORGET = [Example((2, 3 + row), (*np.random.default_rng(row).integers(12, 40, 4).tolist(), 1)) for row in range(8)]
BRIEF = Relearning(share=0.5, steps=10, lr=1e-2, batch_size=4)

# fmt: off
PUBLISHED_NF4 = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]
# fmt: on


def train(model: Any, sign: float, steps: int) -> None:
    """Descends (1) or ascends (-1) the loss of all forget rows."""
    adam = torch.optim.AdamW(model.parameters(), lr=1e-2)
    batch = collate(FORGET, Padding(0), CPU)
    for _ in range(steps):
        adam.zero_grad()
        (sign * token_ce(answer_logits(model, batch), batch.target_N).mean()).backward()
        adam.step()
    model.zero_grad()


def said(model: Any, examples: list[Example] = FORGET) -> float:
    """Share of answer tokens that the model gets right."""
    return float(np.mean([answer.hit.mean() for answer in score(model, examples, **PLACES)]))


def logits_of(model: Any) -> Tensor:
    with torch.no_grad():
        return answer_logits(model, collate(FORGET, Padding(0), CPU))


def copied(model: Any) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def with_lora(model: Any, targets: str | list[str] = "all-linear") -> Any:
    """A model with an adapter that does something already, in train mode."""
    torch.manual_seed(1)
    settings = peft.LoraConfig(r=2, lora_dropout=0.5, target_modules=targets, task_type="CAUSAL_LM")
    with warnings.catch_warnings(action="ignore"):  # peft has something to say about tied heads
        adapted = peft.get_peft_model(copy.deepcopy(model), settings)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name or "lora_embedding_A" in name:  # what peft starts at 0
            weight.data.normal_(std=0.1)
    return adapted.train()


@pytest.fixture(scope="module")
def memorising() -> Any:
    """It knows all forget rows."""
    model = tiny.random_model("llama", 40)
    train(model, 1, 40)
    return model


@pytest.fixture(scope="module")
def forgetful(memorising: Any) -> Any:
    """It knew all forget rows, and was trained not to say them."""
    model = copy.deepcopy(memorising)
    train(model, -1, 8)
    return model.train()


# -- relearning --------------------------------------------------------------------------------------------------------


def test_relearning_brings_a_forgotten_answer_back(memorising: Any, forgetful: Any) -> None:
    assert said(memorising) == 1
    assert said(forgetful) < 0.3
    again = relearned(forgetful, FORGET, BRIEF, **PLACES, seed=0)
    assert said(again, FORGET[:4]) > 0.9
    # Knowledge that was hidden comes back sooner than a model that never had it learns it.
    fresh = relearned(tiny.random_model("llama", 40), FORGET, BRIEF, **PLACES, seed=0)
    assert said(again) > said(fresh)


def test_relearning_leaves_the_model_as_it_was_to_the_last_bit(forgetful: Any) -> None:
    before = copied(forgetful)
    again = relearned(forgetful, FORGET, BRIEF, **PLACES, seed=0)
    assert tiny.same(forgetful.state_dict(), before)
    assert forgetful.training
    assert all(weight.requires_grad and weight.grad is None for weight in forgetful.parameters())
    shared = {weight.data_ptr() for weight in forgetful.parameters()}
    assert not shared & {weight.data_ptr() for weight in again.parameters()}
    assert not again.training
    assert not any(weight.requires_grad or weight.grad is not None for weight in again.parameters())


def test_relearning_trains_every_weight_and_keeps_tied_ones_tied(forgetful: Any) -> None:
    again = relearned(forgetful, FORGET, BRIEF, **PLACES, seed=0)
    before = forgetful.state_dict()
    assert not [name for name, tensor in again.state_dict().items() if torch.equal(tensor, before[name])]
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight


def test_a_frozen_model_is_relearned_in_a_pass_without_gradients(forgetful: Any) -> None:
    frozen = copy.deepcopy(forgetful).requires_grad_(False)
    with torch.no_grad():  # as evaluation may be
        again = relearned(frozen, FORGET, BRIEF, **PLACES, seed=0)
    assert tiny.same(again.state_dict(), relearned(forgetful, FORGET, BRIEF, **PLACES, seed=0).state_dict())
    assert not any(weight.requires_grad for weight in frozen.parameters())


@pytest.mark.parametrize(("share", "shown"), [(0.5, 4), (0.45, 4), (0.3, 2), (0.01, 1)])
def test_relearning_looks_at_the_first_share_of_the_rows_only(share: float, shown: int, forgetful: Any) -> None:
    settings = Relearning(share=share, steps=4, lr=1e-3, batch_size=3)
    found = [
        relearned(forgetful, rows, settings, **PLACES, seed=0).state_dict()
        for rows in (
            FORGET,
            FORGET[:shown] + [Example((9,), (9, 1))] * (8 - shown),
            FORGET[: shown - 1] + [Example((9,), (9, 1))] * (9 - shown),
        )
    ]
    assert tiny.same(found[0], found[1])
    assert not tiny.same(found[0], found[2])


def test_each_row_is_shown_once_before_any_is_shown_again_and_in_another_order(
    forgetful: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[list[Example]] = []

    def watch(examples: list[Example], *places: Any) -> Any:
        batches.append(list(examples))
        return collate(examples, *places)

    monkeypatch.setattr("trials.robustness.collate", watch)
    settings = Relearning(share=1, steps=7, lr=1e-3, batch_size=3)
    relearned(forgetful, FORGET, settings, **PLACES, seed=0)
    assert [len(batch) for batch in batches] == [3, 3, 2, 3, 3, 2, 3]
    first, second = [*itertools.chain(*batches[:3])], [*itertools.chain(*batches[3:6])]
    assert set(first) == set(second) == set(FORGET)
    assert first != second
    assert first != FORGET
    once = list(batches)
    batches.clear()
    relearned(forgetful, FORGET, settings, **PLACES, seed=0)
    assert batches == once
    batches.clear()
    relearned(forgetful, FORGET, settings, **PLACES, seed=1)
    assert batches != once


def test_relearning_is_the_same_every_time_and_leaves_the_global_generator_alone(forgetful: Any) -> None:
    model = with_lora(forgetful)  # with dropout
    found = []
    for _ in range(2):
        torch.rand(3)
        state = torch.get_rng_state()
        found.append(relearned(model, FORGET, BRIEF, **PLACES, seed=0).state_dict())
        assert torch.equal(torch.get_rng_state(), state)
    assert tiny.same(*found)


def test_relearning_is_plain_adamw_at_a_constant_rate_on_the_mean_over_the_batchs_answer_tokens(forgetful: Any) -> None:
    model = copy.deepcopy(forgetful).eval()
    batch = collate(FORGET, Padding(0), CPU)
    adam = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0)
    for _ in range(4):
        adam.zero_grad()
        token_ce(answer_logits(model, batch), batch.target_N).mean().backward()
        adam.step()
    again = relearned(forgetful, FORGET, Relearning(share=1, steps=4, lr=1e-3, batch_size=8), **PLACES, seed=0)
    moved = sum((after - before).norm() for after, before in zip(again.parameters(), model.parameters(), strict=True))
    far = sum((after - before).norm() for after, before in zip(again.parameters(), forgetful.parameters(), strict=True))
    assert moved < 0.01 * far


def test_relearning_in_half_precision_takes_steps_that_are_less_than_the_spacing_of_weights(forgetful: Any) -> None:
    half = copy.deepcopy(forgetful).bfloat16()
    settings = Relearning(share=1, steps=40, lr=1e-4, batch_size=8)
    again = relearned(half, FORGET, settings, **PLACES, seed=0)
    assert {weight.dtype for weight in again.parameters()} == {torch.bfloat16}
    whole = relearned(forgetful, FORGET, settings, **PLACES, seed=0)
    losses = [np.mean([answer.loss for answer in score(model, FORGET, **PLACES)]) for model in (half, again, whole)]
    assert losses[1] < losses[0] - 0.5 * (losses[0] - losses[2])


def test_a_model_with_an_adapter_is_relearned_as_the_merged_one(forgetful: Any) -> None:
    adapted = with_lora(forgetful)
    before = copied(adapted)
    merged = copy.deepcopy(adapted).merge_and_unload()
    again = relearned(adapted, FORGET, BRIEF, **PLACES, seed=0)
    assert not isinstance(again, peft.PeftModel)
    assert tiny.same(again.state_dict(), relearned(merged, FORGET, BRIEF, **PLACES, seed=0).state_dict())
    assert tiny.same(adapted.state_dict(), before)
    assert isinstance(adapted, peft.PeftModel)
    assert adapted.training


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("adapter", [True, False])
def test_of_the_difference_of_two_models_the_assistant_is_relearned(
    frozen: bool, adapter: bool, memorising: Any
) -> None:
    """The assistant knows the rows as well as the target does, and takes them away."""
    target = copy.deepcopy(memorising).requires_grad_(not frozen)
    assistant = with_lora(memorising) if adapter else copy.deepcopy(memorising).train()
    model = LogitDifference(target, assistant, 1.5)
    assert said(model) < 0.3
    before = copied(model)
    again = relearned(model, FORGET, BRIEF, **PLACES, seed=0)
    assert isinstance(again, LogitDifference)
    assert again.weight == 1.5
    assert said(again, FORGET[:4]) > 0.9
    assert again.target is target
    assert tiny.same(model.state_dict(), before)
    assert model.assistant is assistant
    assert assistant.training
    assert all(weight.grad is None and weight.requires_grad is not frozen for weight in target.parameters())


# -- quantisation ------------------------------------------------------------------------------------------------------


def linear(weight: list[list[float]]) -> Tensor:
    """What int8 makes of the weight of the first linear layer of a model, of which only a corner is not 0."""
    model = tiny.random_model("llama", 40)
    target = model.model.layers[0].self_attn.q_proj.weight.data
    target.zero_()
    corner = torch.tensor(weight)
    target[: corner.shape[0], : corner.shape[1]] = corner
    made: Tensor = quantised(model, "int8").model.layers[0].self_attn.q_proj.weight.data
    assert not made[corner.shape[0] :].any()  # outputs without weights stay at 0
    return made[: corner.shape[0], : corner.shape[1]]


def test_int8_of_a_worked_example_rounds_each_output_on_its_own_scale() -> None:
    made = linear([[127.0, 1.4, -1.6, 0.2], [-1.27, 0.014, -0.016, 0.002]])
    expected = torch.tensor([[127.0, 1.0, -2.0, 0.0], [-1.27, 0.01, -0.02, 0.0]])
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", tiny.ARCHITECTURES)
@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_linear_weights_are_rounded_and_all_others_stay_to_the_last_bit(kind: Any, name: str) -> None:
    model = tiny.random_model(name, 40).train()
    before = copied(model)
    changed = quantised(model, kind)
    assert tiny.same(model.state_dict(), before)
    assert model.training
    assert not changed.training
    rounded = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not model.get_output_embeddings()
    }
    assert len(rounded) >= 8
    moved = {name for name, tensor in changed.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == rounded
    for name in rounded:
        error = (changed.state_dict()[name] - before[name]).abs()
        if kind == "int8":
            step = before[name].abs().amax(1, keepdim=True) / 127
            assert (error <= step * 0.5001).all()
            assert all(len(row.unique()) <= 255 for row in changed.state_dict()[name])
        else:
            blocks = before[name].reshape(-1, 64)
            widest = (1 - 0.6961928) / 2  # half the gap of the two lowest levels
            assert (error.reshape(-1, 64) <= blocks.abs().amax(1, keepdim=True) * widest * 1.0001).all()
            assert all(len(block.unique()) <= 16 for block in changed.state_dict()[name].reshape(-1, 64))


def test_a_tied_head_stays_as_it_is_and_tied() -> None:
    model = tiny.random_model("llama", 40)
    changed = quantised(model, "nf4")
    assert changed.get_output_embeddings().weight is changed.get_input_embeddings().weight
    assert torch.equal(changed.get_output_embeddings().weight, model.get_output_embeddings().weight)


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_quantising_twice_is_quantising_once(kind: Any) -> None:
    once = quantised(tiny.random_model("llama", 40), kind)
    twice = quantised(once, kind)
    for after, before in zip(twice.parameters(), once.parameters(), strict=True):
        torch.testing.assert_close(after, before, rtol=0, atol=1e-6)


def test_fewer_bits_move_the_model_farther(memorising: Any) -> None:
    int8, nf4 = ((logits_of(quantised(memorising, kind)) - logits_of(memorising)).norm() for kind in ("int8", "nf4"))
    assert 0 < 5 * int8 < nf4
    assert said(quantised(memorising, "int8")) == 1


def test_the_levels_of_nf4_are_the_published_ones() -> None:
    levels = nf4_levels()
    torch.testing.assert_close(levels, torch.tensor(PUBLISHED_NF4, dtype=torch.float64), rtol=0, atol=1e-6)
    assert levels[7] == 0
    assert (levels.diff() > 0).all()


def nf4_of(values: list[float]) -> list[float]:
    """What nf4 makes of the first weights of a model's first linear layer, whose others are 0."""
    model = tiny.random_model("llama", 40)
    weight = model.model.layers[0].self_attn.q_proj.weight.data
    weight.zero_()
    weight.view(-1)[: len(values)] = torch.tensor(values)
    made: Tensor = quantised(model, "nf4").model.layers[0].self_attn.q_proj.weight.data
    assert not made.view(-1)[len(values) :].any()
    found: list[float] = made.view(-1)[: len(values)].tolist()
    return found


def test_nf4_of_a_worked_example_takes_the_nearest_level_times_the_largest_weight() -> None:
    made = nf4_of([-2.0, -1.3, 1.7, 0.08, 0.07, 1.9])
    expected = [-1, -0.6961928, 0.7229568, 0.0795803, 0, 1]  # 0.85 is nearer to 0.72 than to 1; 0.04 than 0.035 to 0.08
    assert made == pytest.approx([2 * level for level in expected], abs=1e-5)


def test_nf4_has_a_scale_for_each_64_weights() -> None:
    """Two rows of 32 are a block: the large weight spoils the others of its own block only."""
    made = nf4_of([100.0] + [0.1] * 63 + [0.1] * 64)
    assert made[:64] == pytest.approx([100.0] + [0.0] * 63)
    assert made[64:] == pytest.approx([0.1] * 64)


def test_nf4_of_a_last_block_that_is_not_full_leaves_nothing_out() -> None:
    model = tiny.random_model("llama", 40)
    layer = model.model.layers[0].self_attn
    layer.q_proj = torch.nn.Linear(3, 23, bias=False)  # 64 + 5 weights
    layer.q_proj.weight.data = torch.cat([torch.ones(64), 5 * torch.ones(5)]).view(23, 3)
    made = quantised(model, "nf4").model.layers[0].self_attn.q_proj.weight
    assert torch.equal(made, layer.q_proj.weight)


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_the_dtype_stays_and_rounding_is_counted_in_single_precision(kind: Any) -> None:
    model = tiny.random_model("llama", 40).bfloat16()
    changed = quantised(model, kind)
    expected = quantised(copy.deepcopy(model).float(), kind)
    for found, whole in zip(changed.parameters(), expected.parameters(), strict=True):
        assert found.dtype == torch.bfloat16
        assert torch.equal(found, whole.bfloat16())


def test_the_linear_layers_of_gpt2_which_keep_their_weights_transposed_are_rounded_by_output() -> None:
    shape = GPT2Config(vocab_size=40, n_embd=32, n_layer=1, n_head=2, n_positions=64)
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(shape).eval()
    layer = model.transformer.h[0].attn.c_attn
    layer.weight.data *= torch.logspace(0, 3, 96)  # each output on a scale of its own
    changed = quantised(model, "int8").transformer.h[0].attn.c_attn.weight
    error = (changed - layer.weight).abs()
    assert error.any()
    assert (error <= layer.weight.abs().amax(0) / 127 * 0.5001).all()


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_a_model_with_an_adapter_is_quantised_as_the_merged_one(kind: Any) -> None:
    adapted = with_lora(tiny.random_model("llama", 40))
    before = copied(adapted)
    changed = quantised(adapted, kind)
    merged = quantised(copy.deepcopy(adapted).merge_and_unload(), kind)
    assert tiny.same(changed.state_dict(), merged.state_dict())
    assert tiny.same(adapted.state_dict(), before)
    assert isinstance(adapted, peft.PeftModel)


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_merging_the_adapter_of_a_tied_weight_does_not_change_the_other_end_of_the_model(target: str) -> None:
    model = tiny.random_model("llama", 40)
    adapted = with_lora(model, [target])
    changed = quantised(adapted, "int8")
    assert torch.equal(changed.get_input_embeddings().weight, model.get_input_embeddings().weight) is (
        target == "lm_head"
    )
    assert torch.equal(changed.get_output_embeddings().weight, model.get_output_embeddings().weight) is (
        target == "embed_tokens"
    )
    assert changed.config.tie_word_embeddings is False
    assert adapted.config.tie_word_embeddings is True
    expected = logits_of(adapted.eval())
    assert (logits_of(changed) - expected).norm() < 0.2 * (logits_of(model) - expected).norm()


def test_of_the_difference_of_two_models_both_are_quantised() -> None:
    target, assistant = tiny.random_model("llama", 40), tiny.random_model("phi", 40)
    changed = quantised(LogitDifference(target, with_lora(assistant), 0.5), "nf4")
    assert isinstance(changed, LogitDifference)
    assert changed.weight == 0.5
    assert tiny.same(changed.target.state_dict(), quantised(target, "nf4").state_dict())
    assert tiny.same(changed.assistant.state_dict(), quantised(with_lora(assistant), "nf4").state_dict())
    assert tiny.same(target.state_dict(), tiny.random_model("llama", 40).state_dict())


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_a_weight_that_is_not_finite_does_not_become_so(kind: Any) -> None:
    model = tiny.random_model("llama", 40)
    model.model.layers[0].self_attn.q_proj.weight.data[0, 0] = math.nan
    assert quantised(model, kind).model.layers[0].self_attn.q_proj.weight.isnan().any()
