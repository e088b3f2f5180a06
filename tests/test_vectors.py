"""The golden vectors through the functions that the training loop calls: values, weights and gradients."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.golden import INPUTS, VECTORS, padded
from trials.config import LossConfig
from trials.losses import forget_loss, retain_kl, retain_nll, token_ce
from trials.weighting import CriterionConfig, SatImp, TokenStats, token_weights

BY_NAME = {vector["name"]: vector for vector in VECTORS["vectors"]}

COVERED = {
    "satimp_token_b1_5.0_b2_0.1",
    "satimp_token_b1_5.0_b2_1.0",
    "satimp_token_b1_4.0_b2_0.1",
    "satimp_gd_coeff_on_retain_0.1",
    "simsat_token_beta1_ga (=WGA beta 1)",
    "simsat_token_beta3_ga_correct",
    "simsat_gd_default_gate",
    "simimp_token_beta2.0_ga",
    "simimp_token_beta5.0_ga",
    "instance_simsat_lengthnorm_beta3_corrected",
    "npo_sum_beta0.1",
    "npo_grad_diff_beta0.1_coef",
    "simnpo_beta2.5_gamma0.0",
    "ga_token_mean",
    "grad_diff_token_mean",
    "kl_retain_corrected_supervised_positions",
}
NOT_EXPRESSIBLE_YET = {
    "instance_simsat_sum_beta1.0": "likelihood from the summed cross-entropy",
    "instance_simsat_sum_beta5.0": "likelihood from the summed cross-entropy",
    "instance_simimp_sum_beta5.0": "likelihood from the summed cross-entropy",
    "batch_simsat_sum_beta1.0": "batch granularity",
    "batch_simsat_gd_beta1": "batch granularity",
    "group_simsat_beta1.0_size2": "group granularity",
    "group_simimp_beta2.0_size2": "group granularity",
    "group_simsat_exact_zero_ce": "group granularity",
    "ga_topk_0.3_official_semantics": "hard selection",
    "ga_bottomk_0.3_official_semantics": "hard selection",
    "ga_topk_0.5_official_semantics": "hard selection",
    "ga_bottomk_0.5_official_semantics": "hard selection",
    "hard_topk_0.3_corrected": "hard selection",
    "gd_topk_0.5_official": "hard selection",
    "ga_rand_hard_0.5_seed0": "random selection",
    "ga_rand_soft_0.7_correct": "random selection",
    "tnpo_token_beta4.0": "criterion tnpo",
    "wtnpo_token_beta4_alpha1.5": "criterion wtnpo",
    "npo_topk_0.5_beta0.1_official_batch_scalar": "npo under a selection",
    "npo_topk_0.5_beta0.1_corrected_per_instance": "npo under a selection",
    "ga_imp_p0.8_official_sum": "annotated importance",
    "gd_imp_p0.8_official_padded_mean": "annotated importance",
    "ga_imp_p0.8_corrected_token_mean": "annotated importance",
    "npo_imp_p0.8_beta0.5_official_batch_scalar": "npo under annotated importance",
    "kl_retain_official_all_positions": "a mean over prompts and padding, which we mean not to take",
    "rmu_c6.5": "feature losses",
}
CRITERION_OF = {
    "none": lambda spec: {"type": "uniform"},
    "satimp": lambda spec: {"type": "satimp", "beta1": spec["beta1"], "beta2": spec["beta2"]},
    "saturation": lambda spec: {"type": "saturation", "beta1": spec["beta1"]},
    "importance": lambda spec: {"type": "importance", "beta2": spec["beta2"]},
    "npo": lambda spec: {"type": "npo", "beta": spec["beta"]},
    "simnpo": lambda spec: {"type": "simnpo", "beta": spec["beta"], "margin": spec["gamma"]},
}


def test_every_vector_is_covered_or_named_as_not_expressible_yet() -> None:
    assert not COVERED & set(NOT_EXPRESSIBLE_YET)
    assert COVERED | set(NOT_EXPRESSIBLE_YET) == set(BY_NAME)
    assert all(NOT_EXPRESSIBLE_YET.values())


def loss_of(spec: dict[str, Any]) -> LossConfig:
    """The loss that a vector's spec describes."""
    return LossConfig.model_validate(
        {
            "criterion": CRITERION_OF[spec["criterion"]](spec),
            "granularity": spec.get("granularity", "token"),
            "forget_coefficient": spec.get("forget_coef", 1.0),
            "retain": {"term": spec["retain"].split("(")[0], "coefficient": spec.get("retain_coef", 1.0)},
        }
    )


def loss_value(spec: dict[str, Any], ce: Tensor, mask: Tensor) -> Tensor:
    """A vector's loss through the functions that the training loop calls."""
    loss, dtype = loss_of(spec), ce.dtype
    reference = padded(spec["reference_ce"], dtype)[0] if "reference_ce" in spec else None
    forget = forget_loss(ce, mask, loss, tokens=int(mask.sum()), rows=len(mask), reference_ce_BA=reference)
    retain = torch.zeros((), dtype=dtype)
    if loss.retain.term == "nll":
        retain_ce = torch.tensor([value for row in INPUTS["retain_ce"] for value in row], dtype=dtype)
        retain = retain_nll(retain_ce, tokens=len(retain_ce))
    elif loss.retain.term == "kl":
        logits = BY_NAME["kl_retain_official_all_positions"]["spec"]
        current, start = (torch.tensor(logits[key], dtype=dtype) for key in ("cur_logits", "ref_logits"))
        retain = retain_kl(current, start, tokens=len(current))
    return loss.forget_coefficient * forget + loss.retain.coefficient * retain


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)], ids=["fp64", "fp32"])
@pytest.mark.parametrize("name", sorted(COVERED))
def test_the_loss_and_its_gradient_are_those_of_the_vector(name: str, dtype: torch.dtype, tolerance: float) -> None:
    vector = BY_NAME[name]
    ce, mask = padded(vector["spec"].get("forget_ce", INPUTS["forget_ce"]), dtype)
    ce.requires_grad_(True)
    value = loss_value(vector["spec"], ce, mask)
    assert value.item() == pytest.approx(vector["loss"], rel=tolerance, abs=tolerance)
    value.backward()
    assert ce.grad is not None
    assert ce.grad[mask].isfinite().all()
    assert (ce.grad[~mask] == 0).all()
    if "grad_wrt_ce" in vector:
        expected, _ = padded(vector["grad_wrt_ce"], dtype)
        torch.testing.assert_close(ce.grad[mask], expected[mask], rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", sorted(name for name in COVERED if BY_NAME[name]["weight"] is not None))
def test_the_gradient_of_each_token_is_its_weight_over_the_count(name: str) -> None:
    vector = BY_NAME[name]
    ce, mask = padded(INPUTS["forget_ce"])
    ce.requires_grad_(True)
    loss_value(vector["spec"], ce, mask).backward()
    weight = vector["weight"]
    whole_answer = vector["spec"]["criterion"] in (
        "npo",
        "simnpo",
    )  # a weight on the summed cross-entropy, mean of rows
    count = len(mask) if whole_answer else int(mask.sum())
    rows = weight if isinstance(weight[0], list) else [[w] * int(n) for w, n in zip(weight, mask.sum(1), strict=True)]
    expected = -padded(rows)[0][mask] * vector["spec"].get("forget_coef", 1.0) / count
    assert ce.grad is not None
    torch.testing.assert_close(ce.grad[mask], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "name", sorted(n for n in COVERED if BY_NAME[n]["weight"] and "npo" not in BY_NAME[n]["spec"]["criterion"])
)
def test_the_weights_are_those_of_the_vector(name: str) -> None:
    vector = BY_NAME[name]
    loss = loss_of(vector["spec"])
    ce, mask = padded(INPUTS["forget_ce"])
    assert isinstance(loss.criterion, CriterionConfig)
    weights = token_weights(loss.criterion, TokenStats(ce, mask), granularity=loss.granularity)
    weight = vector["weight"]
    rows = weight if isinstance(weight[0], list) else [[w] * int(n) for w, n in zip(weight, mask.sum(1), strict=True)]
    torch.testing.assert_close(weights[mask], padded(rows)[0][mask], rtol=1e-9, atol=1e-10)


def test_the_gradient_on_the_logit_of_a_target_is_w_times_1_minus_p_over_the_count() -> None:
    logits = torch.randn(6, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    target = torch.arange(6)
    ce = token_ce(logits, target)[None]
    mask = torch.ones_like(ce, dtype=torch.bool)
    forget_loss(ce, mask, LossConfig(criterion=SatImp()), tokens=6, rows=1).backward()
    stats = TokenStats(ce, mask)
    pull = SatImp().weights(stats) * (1 - stats.p_BT) / 6
    assert logits.grad is not None
    # Minimising pushes the logit of the target down: its gradient is positive.
    torch.testing.assert_close(logits.grad[target, target], pull[0], rtol=0, atol=1e-12)
