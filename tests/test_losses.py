"""Cross-entropies and retain terms: numbers worked by hand, limits, shares of a step."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trials.losses import retain_activation, retain_nll, token_ce, token_kl, token_uniform

PARTS = [slice(0, 1), slice(1, 7), slice(7, 9)]
TERMS: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "nll": lambda current, other, n: retain_nll(token_ce(current, torch.arange(9)[: len(current)] % 5), count=n),
    "kl": lambda current, other, n: token_kl(current, other).sum() / n,
    "activation": lambda current, other, n: retain_activation(current, other, tokens=n),
    "uniform": lambda current, other, n: token_uniform(current).sum() / n,
}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# -- cross-entropies ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_upcast_before_the_softmax(dtype: torch.dtype) -> None:
    logits = torch.tensor([[12.0, 0.0, 3.0], [1.0, 1.0, 1.0]]).to(dtype)
    target = torch.tensor([0, 2])
    ce = token_ce(logits, target)
    assert ce.dtype == torch.float32
    expected = token_ce(logits.double(), target)
    assert expected.dtype == torch.float64
    torch.testing.assert_close(ce.double(), expected, rtol=1e-6, atol=1e-7)
    assert 0 < ce[0] < 1e-3  # in bf16 it is 0, and so would its weight be


def test_the_cross_entropy_is_minus_the_log_of_the_targets_probability() -> None:
    logits = torch.tensor([[math.log(3), 0.0], [0.0, math.log(7)]], dtype=torch.float64)
    ce = token_ce(logits, torch.tensor([0, 0]))
    assert ce.tolist() == pytest.approx([-math.log(3 / 4), -math.log(1 / 8)], rel=1e-12)


# -- every retain term -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("term", TERMS)
def test_the_shares_of_a_retain_term_add_up_to_its_value_and_gradient(term: str) -> None:
    current, other = random(9, 5), random(9, 5, seed=1)
    target = torch.arange(9) % 5
    whole, cut = (current.clone().requires_grad_(True) for _ in range(2))

    def of(logits: Tensor, part: slice) -> Tensor:
        if term == "nll":
            return retain_nll(token_ce(logits[part], target[part]), count=9)
        return TERMS[term](logits[part], other[part], 9)

    expected = of(whole, slice(None))
    expected.backward()
    total = 0.0
    for part in PARTS:
        share = of(cut, part)
        share.backward()
        total += share.item()
    assert total == pytest.approx(expected.item(), rel=1e-12)
    assert whole.grad is not None
    assert cut.grad is not None
    torch.testing.assert_close(cut.grad, whole.grad, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("scale", [0.0, 300.0, 1e30])
@pytest.mark.parametrize("term", ["nll", "kl", "uniform"])
def test_no_retain_term_is_nan_at_saturated_logits(term: str, scale: float) -> None:
    current = (scale * random(9, 5)).float().requires_grad_(True)
    found = TERMS[term](current, (scale * random(9, 5, seed=1)).float(), 9)
    found.backward()
    assert found.isfinite()
    assert current.grad is not None
    assert current.grad.isfinite().all()


@pytest.mark.parametrize("term", TERMS)
def test_a_step_without_retain_tokens_of_its_own_adds_nothing(term: str) -> None:
    assert TERMS[term](random(0, 5), random(0, 5), 9).item() == 0.0


@pytest.mark.parametrize("term", ["kl", "activation", "uniform"])
@settings(max_examples=50, deadline=None)
@given(values=st.lists(st.floats(-50, 50), min_size=4, max_size=4))
def test_no_distance_is_negative_and_each_is_0_where_there_is_nothing_to_keep(term: str, values: list[float]) -> None:
    current, other = torch.tensor(values, dtype=torch.float64).view(2, 2)
    assert TERMS[term](current[None], other[None], 1).item() >= -1e-12
    same = torch.zeros_like(current)[None] if term == "uniform" else other[None]
    assert TERMS[term](same, other[None], 1).item() == pytest.approx(0.0, abs=1e-12)


# -- each of them ------------------------------------------------------------------------------------------------------


def test_nll_is_the_sum_over_the_count_it_is_given() -> None:
    ce = torch.tensor([0.5, 1.0, 3.0])
    assert retain_nll(ce, count=3).item() == pytest.approx(1.5)
    assert retain_nll(ce, count=1).item() == pytest.approx(4.5)


def test_kl_does_not_see_a_constant_that_is_added_to_logits() -> None:
    logits = random(4, 7, seed=1).requires_grad_(True)
    kl = token_kl(logits, logits.detach() + 3.0).mean()
    kl.backward()
    assert kl.item() == pytest.approx(0.0, abs=1e-12)
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-12
    assert token_kl(logits, logits.detach().flip(0)).mean().item() > 0.1


def test_kl_asks_the_current_model_to_cover_what_the_reference_does() -> None:
    # KL(reference || current): the reference's one sure token costs -log q of it.
    reference, current = torch.tensor([[50.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    assert token_kl(current, reference).sum().item() == pytest.approx(math.log(2), rel=1e-6)
    assert token_kl(reference, current).sum().item() == pytest.approx(25 - math.log(2), rel=1e-6)


def test_activations_are_compared_by_the_mean_square_over_dimensions() -> None:
    current, reference = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    assert retain_activation(current, reference, tokens=2).item() == pytest.approx((5 / 2 + 25 / 2) / 2)


def test_uniform_is_the_divergence_of_the_uniform_distribution_from_the_current_one() -> None:
    logits = torch.tensor([[math.log(3), 0.0]], dtype=torch.float64)
    expected = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert token_uniform(logits).sum().item() == pytest.approx(expected, rel=1e-12)


def test_the_gradient_of_uniform_makes_likely_tokens_less_likely() -> None:
    logits = torch.tensor([[4.0, 0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    token_uniform(logits).sum().backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, logits.detach().softmax(-1) - 1 / 3)
