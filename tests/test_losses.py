"""Losses of a micro-batch: shares that add up to the loss of the step, whatever the cut and the padding."""

from typing import Any

import pytest
import torch
from torch import Tensor

from trials.config import LossConfig
from trials.losses import forget_loss, npo, retain_kl, retain_nll, simnpo, token_ce

CRITERIA: list[dict[str, Any]] = [
    {"criterion": {"type": "uniform"}},
    {"criterion": {"type": "saturation", "beta1": 3.0}},
    {"criterion": {"type": "importance", "beta2": 2.0}, "granularity": "instance"},
    {"criterion": {"type": "satimp", "beta1": 5.0, "beta2": 0.1}},
    {"criterion": {"type": "satimp", "beta1": 5.0, "beta2": 0.1}, "granularity": "instance"},
    {"criterion": {"type": "npo", "beta": 0.5}},
    {"criterion": {"type": "simnpo", "beta": 2.5, "margin": 0.3}},
]
every_criterion = pytest.mark.parametrize("loss", [LossConfig.model_validate(c) for c in CRITERIA], ids=range(7))
LENGTHS = [7, 1, 3, 12, 2, 5]


def ragged(*, width: int, filler: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropies, reference cross-entropies and mask of rows as unequal as LENGTHS, padded to a width."""
    generator = torch.Generator().manual_seed(3)
    mask = torch.arange(width) < torch.tensor(LENGTHS)[:, None]
    ce, reference = torch.full(mask.shape, filler), torch.full(mask.shape, filler)
    ce[mask] = torch.rand(sum(LENGTHS), generator=generator) * 3
    reference[mask] = torch.rand(sum(LENGTHS), generator=generator)
    return ce, reference, mask


def step_loss(loss: LossConfig, size: int, width: int = 12, filler: float = 0.0) -> tuple[float, Tensor]:
    """Loss and gradient of one step, accumulated over micro-batches of `size` rows, each cut to its own width."""
    ce, reference, mask = ragged(width=width, filler=filler)
    ce.requires_grad_(True)
    total = 0.0
    for start in range(0, len(LENGTHS), size):
        rows = slice(start, start + size)
        cut = width if filler else int(mask[rows].sum(1).max())
        share = forget_loss(
            ce[rows, :cut],
            mask[rows, :cut],
            loss,
            tokens=sum(LENGTHS),
            rows=len(LENGTHS),
            reference_ce_BA=reference[rows, :cut],
        )
        share.backward()
        total += share.item()
    assert ce.grad is not None
    return total, ce.grad[mask]


@pytest.mark.parametrize("size", [1, 2, 4])
@every_criterion
def test_micro_batches_add_up_to_the_loss_and_the_gradient_of_the_big_batch(loss: LossConfig, size: int) -> None:
    value, gradient = step_loss(loss, size)
    expected, expected_gradient = step_loss(loss, len(LENGTHS))
    assert value == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("filler", [7.0, float("inf"), float("nan")])
@every_criterion
def test_what_stands_in_the_padding_changes_nothing(loss: LossConfig, filler: float) -> None:
    value, gradient = step_loss(loss, len(LENGTHS), width=20, filler=filler)
    expected, expected_gradient = step_loss(loss, len(LENGTHS))
    assert value == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-6, atol=1e-8)


def test_the_shares_of_both_retain_terms_add_up_too() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, reference = (torch.randn(9, 5, generator=generator, requires_grad=True) for _ in range(2))
    target = torch.arange(9) % 5
    parts = [slice(0, 1), slice(1, 7), slice(7, 9)]
    whole = retain_nll(token_ce(logits, target), tokens=9)
    cut = [retain_nll(token_ce(logits[part], target[part]), tokens=9) for part in parts]
    assert sum(cut).item() == pytest.approx(whole.item(), rel=1e-6)
    whole = retain_kl(logits, reference, tokens=9)
    cut = [retain_kl(logits[part], reference[part], tokens=9) for part in parts]
    assert sum(cut).item() == pytest.approx(whole.item(), rel=1e-6)


def test_kl_is_0_for_equal_logits_and_for_logits_shifted_by_a_constant_and_else_positive() -> None:
    logits = torch.randn(4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    kl = retain_kl(logits, logits.detach() + 3.0, tokens=4)
    kl.backward()
    assert kl.item() == pytest.approx(0.0, abs=1e-12)
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-12
    assert retain_kl(logits, logits.detach().flip(0), tokens=4).item() > 0.1


def test_kl_asks_the_current_model_to_cover_what_the_reference_does() -> None:
    # KL(reference || current): the reference's one sure token costs -log q of it.
    reference, current = torch.tensor([[50.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    assert retain_kl(current, reference, tokens=1).item() == pytest.approx(0.6931472, rel=1e-6)
    assert retain_kl(reference, current, tokens=1).item() == pytest.approx(25 - 0.6931472, rel=1e-6)


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


def test_npo_without_the_reference_model_is_refused() -> None:
    ce, _, mask = ragged(width=12)
    loss = LossConfig.model_validate({"criterion": {"type": "npo"}})
    with pytest.raises(ValueError, match="npo compares with the reference model; pass reference_ce_BA"):
        forget_loss(ce, mask, loss, tokens=30, rows=6)


def test_npo_starts_at_its_ceiling_and_falls_to_0_as_the_answer_is_forgotten() -> None:
    same, gone = torch.tensor([4.0]), torch.tensor([400.0])
    assert npo(same, same, beta=0.1).item() == pytest.approx(2 / 0.1 * 0.6931472, rel=1e-6)
    assert npo(gone, same, beta=0.1).item() == pytest.approx(0.0, abs=1e-6)


def test_simnpo_is_npo_on_the_mean_with_the_margin_as_reference() -> None:
    mean = torch.tensor([0.4, 2.0])
    expected = npo(mean, torch.full_like(mean, 0.3), beta=2.5)
    torch.testing.assert_close(simnpo(mean, beta=2.5, margin=0.3), expected)


def test_npo_sums_over_an_answer_and_simnpo_does_not_care_for_its_length() -> None:
    short, long = torch.full((1, 2), 0.5), torch.full((1, 8), 0.5)

    def value(criterion: dict[str, Any], ce: Tensor) -> float:
        loss = LossConfig.model_validate({"criterion": criterion})
        mask = torch.ones_like(ce, dtype=torch.bool)
        return forget_loss(ce, mask, loss, tokens=1, rows=1, reference_ce_BA=torch.zeros_like(ce)).item()

    assert value({"type": "simnpo"}, short) == pytest.approx(value({"type": "simnpo"}, long), rel=1e-6)
    assert value({"type": "npo"}, short) > value({"type": "npo"}, long) + 0.5


def test_the_forget_term_is_a_mean_over_tokens_and_never_divided_by_the_weights() -> None:
    ce, _, mask = ragged(width=12)
    loss = LossConfig.model_validate({"criterion": {"type": "saturation", "beta1": 50.0}})
    hopeless = forget_loss(ce * 0 + 8.0, mask, loss, tokens=sum(LENGTHS), rows=len(LENGTHS))
    assert hopeless.item() == pytest.approx(0.0, abs=1e-30)
