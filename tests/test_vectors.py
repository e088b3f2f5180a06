"""The golden vectors through the functions that the training loop calls: values, weights and gradients.

Where a vector is what a defective branch of the published code gives, it is reached by an option that says so
(`count: published`, `log_ratio: micro_batch`, `padded_mean`), and the corrected value stands beside it.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.golden import INPUTS, VECTORS, padded
from trials.forget import ForgetPass, forget_loss, weights_of
from trials.losses import count_of, retain_nll, token_ce, token_kl
from trials.objectives import LossConfig
from trials.weighting import SatImp, TokenStats

BY_NAME = {vector["name"]: vector for vector in VECTORS["vectors"]}
ALL_POSITIONS = "kl_retain_official_all_positions"
REWEIGHTINGS = {
    "none": lambda spec: {"type": "uniform"},
    "satimp": lambda spec: {"type": "satimp", "beta1": spec["beta1"], "beta2": spec["beta2"]},
    "saturation": lambda spec: {"type": "saturation", "beta1": spec.get("beta1", spec.get("beta"))},
    "importance": lambda spec: {"type": "importance", "beta2": spec.get("beta2", spec.get("beta"))},
    "annotated": lambda spec: {"type": "annotated", "share": spec["p"]},
    "tnpo": lambda spec: {"type": "tnpo", "beta": spec["beta"]},
    "wtnpo": lambda spec: {"type": "wtnpo", "beta": spec["beta"], "alpha": spec["alpha"]},
    "hard_top": lambda spec: {"type": "uniform"},
    "hard_bottom": lambda spec: {"type": "uniform"},
    "random": lambda spec: {"type": "uniform"},
}
OBJECTIVES = {
    "npo": lambda spec: {
        "type": "npo",
        "beta": spec["beta"],
        "log_ratio": "micro_batch" if "micro-batch" in spec.get("reduction", "") or "p" in spec else "answer",
    },
    "simnpo": lambda spec: {"type": "simnpo", "beta": spec["beta"], "margin": spec["gamma"]},
    "rmu": lambda spec: {"type": "rmu", "steering": spec["c"], "normalise": spec["direction_normalised"]},
}


def test_there_are_42_vectors() -> None:
    assert len(BY_NAME) == len(VECTORS["vectors"]) == 42


def loss_of(spec: dict[str, Any]) -> LossConfig:
    """The loss that a vector's spec describes."""
    kind, _, chosen = spec["criterion"].partition("+")
    chosen = chosen or kind
    loss: dict[str, Any] = {"criterion": (REWEIGHTINGS | OBJECTIVES)[kind](spec)}
    # "keep ceil(k*n)" is our rule; the published one takes a quantile, and drops the share k at the bottom.
    count = {"count": "ceil" if "ceil" in spec.get("rule", "") else "published"}
    if chosen == "hard_top":
        loss["selection"] = {"type": "top", "fraction": spec["fraction"], **count}
    elif chosen == "hard_bottom":
        loss["selection"] = {"type": "bottom", "fraction": 1 - spec["fraction"], **count}
    elif chosen == "random":
        loss["selection"] = {"type": "random", "fraction": spec["fraction"], "soft": spec["soft"], **count}
    elif chosen == "annotated" and kind != chosen:
        loss["selection"] = {"type": "annotated", "soft": spec["p"]}
    if spec.get("granularity") in ("instance", "batch") and kind in REWEIGHTINGS:
        loss["granularity"] = {"type": spec["granularity"], "likelihood": spec.get("likelihood", "sum")}
    elif spec.get("granularity") == "group":
        loss["granularity"] = {"type": "group", "size": spec["group_size"]}
    if kind in REWEIGHTINGS:
        loss["reduction"] = reduction_of(spec)
    retain = spec.get("retain", "none").partition("(")[0]
    loss["retain"] = {"term": retain.partition("_")[0], "coefficient": spec.get("retain_coef", 1.0)}
    if "_" in retain:
        loss["retain"]["reduction"] = retain.partition("_")[2]
    return LossConfig.model_validate({"forget_coefficient": spec.get("forget_coef", 1.0), **loss})


def reduction_of(spec: dict[str, Any]) -> str:
    words = spec.get("reduction", "instance_mean_of_sums" if spec.get("granularity") == "batch" else "token_mean")
    if words.startswith("mean over ALL"):
        return "padded_mean"
    return "token_sum" if words.startswith("token_sum") else words.partition(" ")[0]


def view_of(spec: dict[str, Any], ce: Tensor, mask: Tensor) -> ForgetPass:
    """What the training loop would hand to the loss."""
    dtype = ce.dtype
    given: dict[str, Tensor] = {}
    if "reference_ce" in spec:
        given["reference_ce_BA"] = padded(spec["reference_ce"], dtype)[0]
    if "important" in spec:
        given["important_BA"] = padded(spec["important"], dtype)[0] == 1
    if "selected" in spec:  # any draws will do in which the selected tokens come first
        given["draw_BA"] = torch.full_like(ce, 0.9, requires_grad=False)
        for row, tokens in enumerate(spec["selected"]):
            given["draw_BA"][row, tokens] = 0.1
    if "hidden" in spec:
        given["hidden_NH"] = torch.tensor(spec["hidden"], dtype=dtype)
        given["direction_H"] = spec["c"] * torch.tensor(spec["direction"], dtype=dtype)
        mask = mask[:, :1]
        ce = ce[:, :1]
    return ForgetPass(ce, mask, tokens=int(mask.sum()), rows=len(mask), **given)


def loss_value(spec: dict[str, Any], ce: Tensor, mask: Tensor) -> Tensor:
    """A vector's loss through the functions that the training loop calls."""
    loss, dtype = loss_of(spec), ce.dtype
    forget = forget_loss(view_of(spec, ce, mask), loss)
    retain = torch.zeros((), dtype=dtype)
    if loss.retain.term == "nll":
        retain_ce = torch.tensor([value for row in INPUTS["retain_ce"] for value in row], dtype=dtype)
        count = count_of(loss.retain.reduction, tokens=len(retain_ce), rows=len(mask))
        retain = retain_nll(retain_ce, count=count)
    elif loss.retain.term == "kl":
        logits = BY_NAME[ALL_POSITIONS]["spec"]
        current, start = (torch.tensor(logits[key], dtype=dtype) for key in ("cur_logits", "ref_logits"))
        # The mean over prompts and padding too (500 positions) is no option of ours; its number follows from the count.
        retain = token_kl(current, start).sum() / (500 if spec is logits else len(current))
    return loss.forget_coefficient * forget + loss.retain.coefficient * retain


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)], ids=["fp64", "fp32"])
@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_the_loss_and_its_gradient_are_those_of_the_vector(name: str, dtype: torch.dtype, tolerance: float) -> None:
    vector = BY_NAME[name]
    ce, mask = padded(vector["spec"].get("forget_ce", INPUTS["forget_ce"]), dtype)
    ce.requires_grad_(True)
    value = loss_value(vector["spec"], ce, mask)
    assert value.item() == pytest.approx(vector["loss"], rel=tolerance, abs=tolerance)
    if not value.requires_grad:  # rmu looks at hidden states
        return
    value.backward()
    assert ce.grad is not None
    assert ce.grad[mask].isfinite().all()
    assert (ce.grad[~mask] == 0).all()
    if "grad_wrt_ce" in vector:
        expected, _ = padded(vector["grad_wrt_ce"], dtype)
        torch.testing.assert_close(ce.grad[mask], expected[mask], rtol=0, atol=tolerance)


def rows_of(vector: dict[str, Any], mask: Tensor) -> Tensor:
    """A vector's weights, one a token: those of an answer or of the batch are repeated."""
    weight, counts = vector["weight"], mask.sum(1).tolist()
    if not isinstance(weight[0], list):
        weight = [[each] * n for each, n in zip(weight * (len(counts) // len(weight)), counts, strict=True)]
    return padded(weight)[0]


WEIGHED = sorted(name for name, vector in BY_NAME.items() if vector["weight"] is not None)
REWEIGHTED = [name for name in WEIGHED if "npo" not in BY_NAME[name]["spec"]["criterion"].replace("tnpo", "")]


@pytest.mark.parametrize("name", REWEIGHTED)
def test_the_weights_and_the_gradient_of_a_reweighting_are_those_of_the_vector(name: str) -> None:
    vector = BY_NAME[name]
    loss = loss_of(vector["spec"])
    ce, mask = padded(vector["spec"].get("forget_ce", INPUTS["forget_ce"]))
    ce.requires_grad_(True)
    view = view_of(vector["spec"], ce, mask)
    weights = weights_of(view.stats(), loss)
    torch.testing.assert_close(weights[mask], rows_of(vector, mask)[mask], rtol=1e-9, atol=1e-10)
    forget_loss(view, loss).backward()
    counts = {"token_mean": view.tokens, "token_sum": 1, "instance_mean_of_sums": len(mask), "padded_mean": 998}
    assert ce.grad is not None
    torch.testing.assert_close(ce.grad[mask], -weights[mask] / counts[loss.reduction], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in WEIGHED if BY_NAME[name]["spec"]["criterion"] in ("npo", "simnpo")])
def test_the_gradient_of_npo_and_simnpo_is_their_weight_over_the_rows(name: str) -> None:
    vector = BY_NAME[name]
    ce, mask = padded(INPUTS["forget_ce"])
    ce.requires_grad_(True)
    forget_loss(view_of(vector["spec"], ce, mask), loss_of(vector["spec"])).backward()
    assert ce.grad is not None
    torch.testing.assert_close(ce.grad[mask], -rows_of(vector, mask)[mask] / len(mask), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "name", [name for name in WEIGHED if name not in REWEIGHTED and "+" in BY_NAME[name]["spec"]["criterion"]]
)
def test_npo_sees_the_selection_of_the_vector(name: str) -> None:
    vector = BY_NAME[name]
    ce, mask = padded(INPUTS["forget_ce"])
    loss = loss_of(vector["spec"])
    factors = loss.selection.factors(view_of(vector["spec"], ce, mask).stats())
    torch.testing.assert_close(factors[mask], rows_of(vector, mask)[mask])


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ({"type": "top", "fraction": 0.3}, -0.8375),
        ({"type": "bottom", "fraction": 0.3}, -0.02),
        ({"type": "random", "fraction": 0.3}, -0.6),
    ],
    ids=["top", "bottom", "random"],
)
def test_our_own_selections_keep_the_share_that_they_name_rounded_up(
    selection: dict[str, Any], expected: float
) -> None:
    """The corrected values: without `count: published`, k is the share kept at either end."""
    ce, mask = padded(INPUTS["forget_ce"])
    draws = torch.tensor([[0.1, 0.9, 0.9, 0.9, 0.2], [0.9, 0.3, 0.9, 0.0, 0.0]])
    view = ForgetPass(ce, mask, tokens=8, rows=2, draw_BA=draws)
    loss = LossConfig.model_validate({"criterion": {"type": "uniform"}, "selection": selection})
    assert forget_loss(view, loss).item() == pytest.approx(expected, rel=1e-12)


def test_published_options_are_never_the_default() -> None:
    plain = LossConfig.model_validate({"criterion": {"type": "npo"}, "selection": {"type": "bottom"}})
    assert plain.selection.model_dump()["count"] == "ceil"
    assert plain.criterion.model_dump()["log_ratio"] == "answer"
    assert (plain.reduction, plain.retain.reduction) == ("token_mean", "token_mean")
    for level in ("instance", "batch"):
        coarse = LossConfig.model_validate({"granularity": level}).granularity
        assert coarse.model_dump()["likelihood"] == "mean"


def test_the_gradient_on_the_logit_of_a_target_is_w_times_1_minus_p_over_the_count() -> None:
    logits = torch.randn(6, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    target = torch.arange(6)
    ce = token_ce(logits, target)[None]
    mask = torch.ones_like(ce, dtype=torch.bool)
    forget_loss(ForgetPass(ce, mask, tokens=6, rows=1), LossConfig(criterion=SatImp())).backward()
    stats = TokenStats(ce, mask)
    pull = SatImp().weights(stats) * (1 - stats.p_BT) / 6
    assert logits.grad is not None
    # Minimising pushes the logit of the target down: its gradient is positive.
    torch.testing.assert_close(logits.grad[target, target], pull[0], rtol=0, atol=1e-12)
