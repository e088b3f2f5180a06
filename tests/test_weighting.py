"""Loss reweighting: what every criterion promises."""

import inspect
from typing import Any, get_args

import pytest
import torch
from annotated_types import Ge, Gt, Le
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.golden import INPUTS, VECTORS, padded
from trials.config import LossConfig
from trials.losses import forget_loss, token_ce
from trials.weighting import (
    Criterion,
    CriterionConfig,
    Importance,
    SatImp,
    Saturation,
    TokenStats,
    Uniform,
    importance,
    mixture,
    satimp,
    saturation,
    token_weights,
    uniform,
)

CRITERIA: tuple[type[CriterionConfig], ...] = get_args(Criterion)
GRANULARITIES = ("token", "instance")


def bounds_of(cls: type[CriterionConfig]) -> dict[str, tuple[float, float]]:
    """Lowest and highest value of each numeric field; what is open is taken to 20."""
    found = {}
    for name, field in cls.model_fields.items():
        if field.annotation in (int, float):
            low = next(
                (m.ge if isinstance(m, Ge) else m.gt + 1e-3 for m in field.metadata if isinstance(m, Ge | Gt)), 0
            )
            high = next((m.le for m in field.metadata if isinstance(m, Le)), 20)
            found[name] = (float(low), float(high))
    return found


def variants(cls: type[CriterionConfig]) -> list[CriterionConfig]:
    """The defaults, and each numeric field at either end of its range."""
    ends = [cls(**{name: end}) for name, pair in bounds_of(cls).items() for end in pair]
    return [cls(), *ends]


EVERY = [criterion for cls in CRITERIA for criterion in variants(cls)]
any_criterion = pytest.mark.parametrize("criterion", EVERY, ids=repr)
any_granularity = pytest.mark.parametrize("granularity", GRANULARITIES)
any_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def weigh(criterion: CriterionConfig, rows: list[list[float]], granularity: str, **kwargs: Any) -> Tensor:
    return token_weights(criterion, TokenStats(*padded(rows, **kwargs)), granularity=granularity)


# -- every criterion ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", CRITERIA, ids=lambda cls: cls.__name__)
def test_the_fields_of_a_criterion_are_the_keywords_of_its_formula_and_only_fields_have_defaults(
    cls: type[CriterionConfig],
) -> None:
    stats, *keywords = inspect.signature(cls.formula).parameters.values()
    assert stats.name == "stats"
    assert {parameter.name for parameter in keywords} == set(cls.model_fields) - {"type"}
    for parameter in keywords:
        assert parameter.kind is parameter.KEYWORD_ONLY
        assert parameter.default is parameter.empty
    assert all(not field.is_required() for field in cls.model_fields.values())
    assert cls.__doc__
    assert cls.formula.__doc__


def test_no_two_criteria_share_a_type() -> None:
    types = [cls.model_fields["type"].default for cls in CRITERIA]
    assert len(set(types)) == len(types)
    for cls, name in zip(CRITERIA, types, strict=True):
        assert isinstance(LossConfig.model_validate({"criterion": {"type": name}}).criterion, cls)


@any_dtype
@any_granularity
@any_criterion
def test_weights_are_finite_and_not_negative_from_a_sure_token_to_a_hopeless_one(
    criterion: CriterionConfig, granularity: str, dtype: torch.dtype
) -> None:
    ce = [0.0, 1e-30, 1e-8, 1e-3, 0.1, 1.0, 10.0, 88.0, 104.0, 200.0]
    weights = weigh(criterion, [ce, [200.0, 200.0], [0.0]], granularity, dtype=dtype)
    assert weights.shape == (3, len(ce))
    assert weights.dtype == dtype
    assert weights.isfinite().all()
    assert (weights >= 0).all()


@any_granularity
@any_criterion
def test_padding_has_no_weight_even_where_it_holds_nan(criterion: CriterionConfig, granularity: str) -> None:
    weights = weigh(criterion, INPUTS["forget_ce"], granularity, extra=2)
    _, mask = padded(INPUTS["forget_ce"], extra=2)
    assert (weights[~mask] == 0).all()
    assert weights.isfinite().all()


@any_granularity
@any_criterion
def test_more_padding_changes_no_weight(criterion: CriterionConfig, granularity: str) -> None:
    narrow = weigh(criterion, INPUTS["forget_ce"], granularity)
    wide = weigh(criterion, INPUTS["forget_ce"], granularity, extra=7)
    torch.testing.assert_close(wide[:, : narrow.shape[1]], narrow, rtol=1e-12, atol=0)


@any_granularity
@any_criterion
def test_a_row_has_the_same_weights_wherever_it_stands(criterion: CriterionConfig, granularity: str) -> None:
    rows = [*INPUTS["forget_ce"], [0.02], [4.0, 0.0]]
    order = [2, 0, 3, 1]
    weights = weigh(criterion, rows, granularity)
    again = weigh(criterion, [rows[index] for index in order], granularity)
    torch.testing.assert_close(again, weights[order], rtol=1e-12, atol=0)  # a vector unit rounds its last lanes apart


@any_granularity
@any_criterion
def test_no_gradient_runs_through_a_weight(criterion: CriterionConfig, granularity: str) -> None:
    ce, mask = padded(INPUTS["forget_ce"])
    stats = TokenStats(ce.nan_to_num(0.0).requires_grad_(True), mask)
    assert not stats.ce_BT.requires_grad
    assert not token_weights(criterion, stats, granularity=granularity).requires_grad


@any_criterion
def test_an_answer_that_is_all_padding_weighs_nothing(criterion: CriterionConfig) -> None:
    stats = TokenStats(torch.full((1, 3), float("nan")), torch.zeros(1, 3, dtype=torch.bool))
    assert torch.equal(token_weights(criterion, stats, granularity="instance"), torch.zeros(1, 3))


@any_criterion
def test_logits_in_bf16_are_weighed_in_fp32(criterion: CriterionConfig) -> None:
    logits = torch.tensor([[9.0, 0.0, 1.0], [0.0, 0.5, 0.0]], dtype=torch.bfloat16)
    ce = token_ce(logits, torch.tensor([0, 1]))
    stats = TokenStats(ce[None], torch.ones(1, 2, dtype=torch.bool))
    exact = TokenStats(token_ce(logits.double(), torch.tensor([0, 1]))[None], stats.mask_BT)
    weights = token_weights(criterion, stats, granularity="token")
    assert weights.dtype == torch.float32
    expected = token_weights(criterion, exact, granularity="token")
    torch.testing.assert_close(weights.double(), expected, rtol=1e-3, atol=1e-30)


@any_criterion
def test_at_instance_granularity_all_tokens_of_an_answer_share_the_weight_of_their_mean(
    criterion: CriterionConfig,
) -> None:
    rows = [[0.1, 0.5], [2.0, 1.0, 0.3]]
    weights = weigh(criterion, rows, "instance")
    expected = weigh(criterion, [[0.3] * 2, [1.1] * 3], "token")
    torch.testing.assert_close(weights, expected, rtol=1e-12, atol=0)


# -- properties --------------------------------------------------------------------------------------------------------

answers = st.lists(st.lists(st.floats(0, 200, allow_subnormal=False), min_size=1, max_size=6), min_size=1, max_size=4)


def any_settings(cls: type[CriterionConfig]) -> st.SearchStrategy[CriterionConfig]:
    return st.builds(cls, **{name: st.floats(*pair) for name, pair in bounds_of(cls).items()})


criteria = st.one_of([any_settings(cls) for cls in CRITERIA])


@settings(max_examples=100, deadline=None)
@given(criteria, answers, st.sampled_from(GRANULARITIES))
def test_any_weight_at_any_setting_lies_between_0_and_1(
    criterion: CriterionConfig, rows: list[list[float]], granularity: str
) -> None:
    weights = weigh(criterion, rows, granularity)
    assert (weights >= 0).all()
    assert (weights <= 1).all()


@settings(max_examples=60, deadline=None)
@given(st.floats(0.01, 20), st.lists(st.floats(0, 50), min_size=2, max_size=8))
def test_saturation_falls_and_importance_rises_with_the_cross_entropy(beta: float, ce: list[float]) -> None:
    ce = sorted(ce)
    assert (weigh(Saturation(beta1=beta), [ce], "token").diff() <= 0).all()
    assert (weigh(Importance(beta2=beta), [ce], "token").diff() >= 0).all()


@settings(max_examples=60, deadline=None)
@given(criteria, answers, st.sampled_from(GRANULARITIES))
def test_the_forget_loss_of_a_reweighting_is_never_positive_and_never_above_plain_ascent_in_size(
    criterion: CriterionConfig, rows: list[list[float]], granularity: str
) -> None:
    ce, mask = padded(rows)
    size = {"tokens": int(mask.sum()), "rows": len(rows)}
    loss = forget_loss(ce, mask, LossConfig(criterion=criterion, granularity=granularity), **size)
    plain = forget_loss(ce, mask, LossConfig(criterion=Uniform()), **size)
    assert plain - 1e-9 <= loss <= 0


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 20), st.floats(0, 20), answers)
def test_satimp_contains_saturation_importance_and_uniform(beta1: float, beta2: float, rows: list[list[float]]) -> None:
    stats = TokenStats(*padded(rows))
    for ours, theirs in [
        (satimp(stats, beta1=beta1, beta2=0.0), saturation(stats, beta1=beta1)),
        (satimp(stats, beta1=0.0, beta2=beta2), importance(stats, beta2=beta2)),
        (satimp(stats, beta1=0.0, beta2=0.0), uniform(stats)),
    ]:
        assert torch.equal(ours[stats.mask_BT], theirs[stats.mask_BT])


# -- numbers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", VECTORS["weight_shape_table"], ids=lambda row: f"{row['beta1']}-{row['beta2']}")
def test_the_shape_of_satimp_is_that_of_the_table(row: dict[str, float]) -> None:
    p = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    ce = -p.log().clamp_min(-700)  # at p = 0 the cross-entropy is infinite
    stats = TokenStats(ce[None], torch.ones_like(ce, dtype=torch.bool)[None])
    weights = SatImp(beta1=row["beta1"], beta2=row["beta2"]).weights(stats)[0]
    pull = weights * (1 - p)
    assert p[weights.argmax()].item() == pytest.approx(row["p_star"], abs=1e-5)
    assert weights.max().item() == pytest.approx(row["w_max"], rel=1e-5)
    assert torch.trapezoid(weights, p).item() == pytest.approx(row["mean_w_uniform_p"], rel=1e-4)
    assert p[pull.argmax()].item() == pytest.approx(row["p_star_logit_grad"], abs=1e-5)
    assert pull.max().item() == pytest.approx(row["max_logit_grad"], rel=1e-5)


def test_1_minus_p_is_exact_in_fp32_where_p_is_next_to_1() -> None:
    expected = VECTORS["numerics"]["one_minus_p"]
    ce = torch.tensor([expected["ce"]])
    stats = TokenStats(ce, torch.ones_like(ce, dtype=torch.bool))
    torch.testing.assert_close(stats.one_minus_p_BT, torch.tensor([expected["fp32_expm1"]]), rtol=1e-7, atol=0)
    assert (1 - stats.p_BT)[0, -1] == 0  # what expm1 is there to avoid


def test_satimp_still_weighs_a_token_whose_p_is_1_in_fp32() -> None:
    expected = VECTORS["numerics"]["satimp_weight_at_ce_1e8"]
    criterion = SatImp(beta1=expected["beta1"], beta2=expected["beta2"])
    assert weigh(criterion, [[1e-8]], "token", dtype=torch.float32).item() == pytest.approx(
        expected["correct"], rel=1e-6
    )


def test_an_instance_weight_does_not_underflow_with_the_length_of_the_answer() -> None:
    beta = VECTORS["numerics"]["instance_weight_fp32"]["beta"]
    weights = weigh(Saturation(beta1=beta), [[0.35] * 60, [0.35]], "instance", dtype=torch.float32)
    assert weights[0, 0].item() == pytest.approx(weights[1, 0].item(), rel=1e-5)
    assert weights[0, 0] > 0.1  # the summed form is exactly 0 from a sum of 20.7 nats on


@given(st.floats(0, 1), st.floats(0, 10), st.floats(0, 10))
def test_a_mixture_lies_between_its_parts_and_is_each_of_them_at_its_ends(
    share: float, beta1: float, beta2: float
) -> None:
    stats = TokenStats(*padded(INPUTS["forget_ce"]))
    one, other = saturation(stats, beta1=beta1), importance(stats, beta2=beta2)
    mixed = mixture(stats, share=share, beta1=beta1, beta2=beta2)
    inside = stats.mask_BT
    assert (mixed >= torch.minimum(one, other) - 1e-12)[inside].all()
    assert (mixed <= torch.maximum(one, other) + 1e-12)[inside].all()
    assert torch.equal(mixture(stats, share=1.0, beta1=beta1, beta2=beta2)[inside], one[inside])
    assert torch.equal(mixture(stats, share=0.0, beta1=beta1, beta2=beta2)[inside], other[inside])
