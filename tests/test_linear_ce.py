"""Losses of logits without all logits at once: the same numbers and gradients as with them, in less memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from tests import tiny
from tests.largest import Largest
from trials.benchmarks import Row
from trials.encoding import Batch, Padding, collate, encode
from trials.heads import LOGITS, Formula, Logits, fused_ce
from trials.logits import (
    LogitDifference,
    answer_ce,
    answer_logits,
    answer_states,
    deferred_logits,
    linear_head,
    logit_chunks,
)
from trials.losses import token_ce, token_ihl, token_kl, token_undial, token_uniform

ROWS = [Row("Who?", "Ada."), Row("What is it that she wrote?", "A book."), Row("Where?", "In a small town, at night.")]
SIZES = (40, 8, 96)  # rows, hidden size, vocabulary


def drawn(dtype: torch.dtype, *, bias: bool) -> tuple[list[Tensor], Tensor]:
    """Hidden states, weight and bias of a head, with gradients; targets."""
    generator = torch.Generator().manual_seed(0)
    rows, hidden, vocabulary = SIZES
    shapes = [(rows, hidden), (vocabulary, hidden), *([(vocabulary,)] if bias else [])]
    leaves = [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]
    return leaves, torch.randint(vocabulary, (rows,), generator=generator)


def linear_ce(
    hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, target_N: Tensor, most: int = LOGITS
) -> Tensor:
    return Logits(hidden_NH, weight_VH, bias_V).ce(target_N, most=most)


def weighted(ce_N: Tensor) -> Tensor:
    """A loss whose weights depend on the cross-entropies themselves, as those of a reweighting do."""
    return ((-ce_N).exp() * (torch.arange(len(ce_N)) - 7.0) * ce_N).sum()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows_of_a_chunk", [0, 1, 7, 39, 40, 1000])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.float64, 1e-12), (torch.bfloat16, 2e-2)])
def test_chunks_give_the_values_and_gradients_of_whole_logits(
    rows_of_a_chunk: int, bias: bool, dtype: torch.dtype, error: float
) -> None:
    leaves, target_N = drawn(dtype, bias=bias)
    weight_VH, bias_V = leaves[1], leaves[2] if bias else None
    plain_N = token_ce(linear(leaves[0], weight_VH, bias_V), target_N)
    expected = torch.autograd.grad(weighted(plain_N), leaves)
    ce_N = linear_ce(leaves[0], weight_VH, bias_V, target_N, most=rows_of_a_chunk * SIZES[2])
    assert ce_N.dtype == plain_N.dtype
    torch.testing.assert_close(ce_N, plain_N, rtol=error, atol=error)
    for found, wanted in zip(torch.autograd.grad(weighted(ce_N), leaves), expected, strict=True):
        assert (found - wanted).abs().max() <= error * wanted.abs().max()


@pytest.mark.parametrize("rows_of_a_chunk", [1, 7, 40])
def test_never_more_logits_than_a_chunk_are_there_forward_or_backward(rows_of_a_chunk: int) -> None:
    leaves, target_N = drawn(torch.float32, bias=False)
    with Largest(SIZES[2], SIZES[1]) as seen:
        linear_ce(leaves[0], leaves[1], None, target_N, most=rows_of_a_chunk * SIZES[2]).sum().backward()
    assert seen.found == rows_of_a_chunk * SIZES[2]


@pytest.mark.skipif(not torch.cuda.is_available() or fused_ce() is None, reason="needs a GPU and the extra `gpu`")
def test_the_fused_kernel_gives_the_values_and_gradients_of_whole_logits() -> None:
    leaves, target_N = drawn(torch.bfloat16, bias=False)
    leaves, target_N = [each.detach().cuda().requires_grad_() for each in leaves], target_N.cuda()
    plain_N = token_ce(linear(*leaves), target_N)
    expected = torch.autograd.grad(weighted(plain_N), leaves)
    ce_N = linear_ce(leaves[0], leaves[1], None, target_N)
    torch.testing.assert_close(ce_N, plain_N, rtol=2e-2, atol=2e-2)
    for found, wanted in zip(torch.autograd.grad(weighted(ce_N), leaves), expected, strict=True):
        assert (found - wanted).abs().max() <= 2e-2 * wanted.abs().max()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows_of_a_chunk", [0, 1, 7, 39, 40, 1000])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.float64, 1e-12), (torch.bfloat16, 2e-2)])
def test_under_a_frozen_head_hidden_states_get_the_gradients_of_whole_logits(
    rows_of_a_chunk: int, bias: bool, dtype: torch.dtype, error: float
) -> None:
    leaves, target_N = drawn(dtype, bias=bias)
    hidden_NH, (weight_VH, bias_V) = leaves[0], [*(each.detach() for each in leaves[1:]), None][:2]
    plain_N = token_ce(linear(hidden_NH, weight_VH, bias_V), target_N)
    (expected,) = torch.autograd.grad(weighted(plain_N), hidden_NH)
    with Largest(SIZES[2], SIZES[1]) as seen:
        ce_N = linear_ce(hidden_NH, weight_VH, bias_V, target_N, most=rows_of_a_chunk * SIZES[2])
        (found,) = torch.autograd.grad(weighted(ce_N), hidden_NH)
    torch.testing.assert_close(ce_N, plain_N, rtol=error, atol=error)
    assert found.dtype == dtype
    assert (found - expected).abs().max() <= error * expected.abs().max()
    assert seen.found == SIZES[2] * min(max(rows_of_a_chunk, 1), len(hidden_NH))


def test_without_gradients_the_values_are_the_same() -> None:
    leaves, target_N = drawn(torch.float32, bias=True)
    expected = token_ce(linear(*leaves), target_N)
    with torch.no_grad():
        torch.testing.assert_close(linear_ce(*leaves, target_N, most=500), expected, rtol=1e-6, atol=1e-6)
    assert linear_ce(*(each.detach() for each in leaves), target_N).grad_fn is None


# -- losses that look at logits ----------------------------------------------------------------------------------------

FORMULAS: dict[str, Formula] = {
    "ce": lambda logits, target, reference: token_ce(logits, target),
    "kl": lambda logits, target, reference: token_kl(logits, reference),
    "uniform": lambda logits, target, reference: token_uniform(logits),
    "undial": lambda logits, target, reference: token_undial(logits, target, reference, strength=3.0),
    "ihl": lambda logits, target, reference: token_ihl(logits, target),
}


def reference_head(dtype: torch.dtype) -> Logits:
    """Of a model that is not the current one."""
    generator = torch.Generator().manual_seed(1)
    rows, hidden, vocabulary = SIZES
    shapes = (rows, hidden), (vocabulary, hidden), (vocabulary,)
    return Logits(*(torch.randn(shape, generator=generator).to(dtype) for shape in shapes))


@pytest.mark.parametrize("trained", [False, True], ids=["frozen", "trained"])
@pytest.mark.parametrize("rows_of_a_chunk", [1, 7, 40])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.float64, 1e-12), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("name", FORMULAS)
def test_each_loss_has_the_values_and_gradients_of_whole_logits_and_never_more_than_a_chunk_of_them(
    name: str, dtype: torch.dtype, error: float, rows_of_a_chunk: int, trained: bool
) -> None:
    leaves, target_N = drawn(dtype, bias=True)
    leaves = leaves if trained else [leaves[0], *(each.detach() for each in leaves[1:])]
    wanting, reference = [each for each in leaves if each.requires_grad], reference_head(dtype)
    plain_N = FORMULAS[name](Logits(*leaves).whole(), target_N, reference.whole())
    expected = torch.autograd.grad(weighted(plain_N), wanting)
    with Largest(SIZES[2], SIZES[1]) as seen:
        each_N = Logits(*leaves).each(FORMULAS[name], target_N, reference, most=rows_of_a_chunk * SIZES[2])
        found = torch.autograd.grad(weighted(each_N), wanting)
    assert each_N.dtype == plain_N.dtype
    torch.testing.assert_close(each_N, plain_N, rtol=error, atol=error)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == dtype
        assert (one - other).abs().max() <= error * other.abs().max()
    assert seen.found == rows_of_a_chunk * SIZES[2]


@pytest.mark.parametrize("name", FORMULAS)
def test_without_gradients_each_loss_is_the_same_by_chunks_and_over_the_logits_themselves(name: str) -> None:
    leaves, target_N = drawn(torch.float32, bias=True)
    reference = reference_head(torch.float32)
    with torch.no_grad(), Largest(SIZES[2], SIZES[1]) as seen:
        by_chunks_N = Logits(*leaves).each(FORMULAS[name], target_N, reference, most=7 * SIZES[2])
    assert seen.found == 7 * SIZES[2]
    whole_N = Logits(linear(*leaves)).each(FORMULAS[name], target_N, reference)
    torch.testing.assert_close(by_chunks_N, whole_N, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("trained", [False, True], ids=["frozen", "trained"])
def test_no_rows_have_no_values(trained: bool) -> None:
    leaves, _ = drawn(torch.float32, bias=True)
    leaves = leaves if trained else [leaves[0], *(each.detach() for each in leaves[1:])]
    none_N = Logits(*leaves)[:0].each(token_kl, reference_head(torch.float32)[:0])
    none_N.sum().backward()
    assert none_N.shape == (0,)
    assert leaves[0].grad is not None
    assert not leaves[0].grad.any()


# -- of models ---------------------------------------------------------------------------------------------------------


def model_and_batch(name: str) -> tuple[Any, Batch]:
    tokenizer = tiny.tiny_tokenizer()
    return tiny.random_model(name, len(tokenizer)), collate(encode(tokenizer, ROWS), Padding(0), torch.device("cpu"))


@pytest.mark.parametrize("name", tiny.ARCHITECTURES)
def test_cross_entropies_and_gradients_are_those_of_the_logits_in_each_architecture(name: str) -> None:
    model, batch = model_and_batch(name)
    model.eval()
    parameters = list(model.parameters())
    plain_N = token_ce(answer_logits(model, batch), batch.target_N)
    expected = torch.autograd.grad(weighted(plain_N), parameters, allow_unused=True)
    ce_N = answer_ce(model, batch)
    torch.testing.assert_close(ce_N, plain_N, rtol=1e-5, atol=1e-6)
    for found, wanted in zip(torch.autograd.grad(weighted(ce_N), parameters, allow_unused=True), expected, strict=True):
        assert (found is None) == (wanted is None)
        if found is not None and wanted is not None:
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    chunks = list(logit_chunks(model, batch, most=3 * len(tiny.tiny_tokenizer())))
    assert [len(chunk) for chunk in chunks[:-1]] == [3] * (len(chunks) - 1)
    torch.testing.assert_close(torch.cat(chunks), answer_logits(model, batch), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", tiny.ARCHITECTURES)
def test_a_head_is_linear_unless_the_architecture_does_more_to_its_logits(name: str) -> None:
    model, batch = model_and_batch(name)
    model.train()
    state = torch.get_rng_state()
    assert (linear_head(model, batch) is None) == (name == "gemma2")  # its logits are capped
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training


def test_the_difference_of_two_models_has_no_head_of_its_own() -> None:
    (target, batch), (assistant, _) = model_and_batch("llama"), model_and_batch("llama")
    model = LogitDifference(target, assistant, 0.5).eval()
    assert linear_head(model, batch) is None
    plain_N = token_ce(answer_logits(model, batch), batch.target_N)
    torch.testing.assert_close(answer_ce(model, batch), plain_N)


@pytest.mark.parametrize("name", tiny.ARCHITECTURES)
def test_deferred_logits_and_the_states_beside_them_are_those_of_the_pass(name: str) -> None:
    model, batch = model_and_batch(name)
    model.eval()
    logits, states = deferred_logits(model, batch, 1)
    assert (logits.weight_VH is None) == (name == "gemma2")
    for found, expected in zip((logits.whole(), states), answer_states(model, batch, 1), strict=True):
        assert found is not None
        assert torch.equal(found, expected)  # type: ignore[arg-type]
    with torch.no_grad():
        later = deferred_logits(model, batch)[0]
    assert not later.whole().requires_grad


def test_parts_of_logits_are_the_logits_of_the_parts() -> None:
    whole = reference_head(torch.float32)
    parts = whole.split([3, 0, 37])
    assert [len(part.whole()) for part in parts] == [3, 0, 37]
    torch.testing.assert_close(torch.cat([part.whole() for part in parts]), whole.whole())
