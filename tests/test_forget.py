"""The forget term: every objective against numbers worked by hand, its limits, its direction, its shares of a step."""

import math
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trials.forget import OBJECTIVES, ForgetPass, Refusals, forget_loss, kto_baseline, weights_of
from trials.heads import Logits
from trials.losses import PUBLISHED_LENGTH, token_ce
from trials.objectives import Forget, LossConfig

LENGTHS, REFUSED = [7, 1, 3, 12, 2, 5], [2, 4, 1, 3, 3, 2]
V, H = 9, 4
LOG2 = math.log(2)


def config(kind: str, **settings: Any) -> LossConfig:
    """A loss whose criterion has these settings; those of the loss itself have names of their own."""
    outer = {
        name: settings.pop(name) for name in ("granularity", "selection", "scale", "reduction") if name in settings
    }
    return LossConfig.model_validate({"criterion": {"type": kind, **settings}, "retain": {"term": "none"}, **outer})


REWEIGHTINGS = [
    config("uniform"),
    config("saturation", beta1=1.0),
    config("importance", beta2=2.0, granularity="instance"),
    config("satimp", beta1=0.5, beta2=0.1, granularity={"type": "group", "size": 2}, reduction="instance_mean_of_sums"),
    config("mixture", selection={"type": "random", "fraction": 0.4, "soft": 0.7}, reduction="token_sum"),
    config("annotated", selection="bottom", reduction="padded_mean"),
    config("wtnpo"),
]
LOWERING = [
    config("npo", beta=0.5),
    config("npo", beta=0.5, selection={"type": "top", "fraction": 0.5}),
    config("simnpo", margin=0.3),
    config("simnpo", selection="annotated"),
    config("dpo", beta=0.5),
    config("kto"),
    config("kto", link="logsigmoid"),
    *(config("flat", divergence=divergence) for divergence in ("kl", "js", "pearson", "tv")),
    config("undial"),
    config("ihl"),
]
OTHERS = [config("idk"), config("rmu"), config("uld")]
EVERY = [*REWEIGHTINGS, *LOWERING, *OTHERS]


def name_of(loss: LossConfig) -> str:
    changed = loss.model_dump(exclude_defaults=True, exclude={"retain"})
    return "-".join(str(value) for value in [loss.criterion.type, *changed.pop("criterion", {}).values(), *changed])


every_loss = pytest.mark.parametrize("loss", EVERY, ids=name_of)


class Rows:
    """Six rows of unequal length as the leaves of a graph: logits of answers and refusals, hidden states."""

    def __init__(self, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> None:
        generator = torch.Generator().manual_seed(3)

        def drawn(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

        tokens, refused = sum(LENGTHS), sum(REFUSED)
        self.logits_NV = (scale * drawn(tokens, V)).requires_grad_(True)
        self.refusal_logits_RV = (scale * drawn(refused, V)).requires_grad_(True)
        self.hidden_NH = drawn(tokens, H).requires_grad_(True)
        self.target_N = torch.randint(V, (tokens,), generator=generator)
        self.refusal_target_R = torch.randint(V, (refused,), generator=generator)
        # Near the current model, as a reference is: a token apart would have an NPO weight of 0.
        self.reference_logits_NV = self.logits_NV.detach() + 0.3 * drawn(tokens, V)
        self.reference_refusal_ce_R = drawn(refused).abs()
        self.important_N, self.draw_N = drawn(tokens) > 0, torch.rand(tokens, generator=generator)
        self.direction_H = drawn(H)
        self.leaves = [self.logits_NV, self.refusal_logits_RV, self.hidden_NH]

    def view(self, first: int = 0, last: int = 6, *, filler: float = 0.0, wider: int = 0) -> ForgetPass:
        """The pass over some of the rows; `filler` stands on padding, `wider` columns are added."""
        n, m = (slice(sum(lengths[:first]), sum(lengths[:last])) for lengths in (LENGTHS, REFUSED))

        def rows(values: Tensor, lengths: list[int] = LENGTHS) -> Tensor:
            counts = torch.tensor(lengths[first:last])[:, None]
            mask = torch.arange(int(counts.max()) + wider) < counts
            return values.new_full(mask.shape, filler if values.is_floating_point() else 0).masked_scatter(mask, values)

        ce_N, reference_ce_N = (
            token_ce(logits[n], self.target_N[n]) for logits in (self.logits_NV, self.reference_logits_NV)
        )
        refusal_ce = token_ce(self.refusal_logits_RV[m], self.refusal_target_R[m])
        ones, refused_ones = (torch.ones(len(values), dtype=torch.bool) for values in (ce_N, refusal_ce))
        return ForgetPass(
            rows(ce_N),
            rows(ones),
            tokens=sum(LENGTHS),
            rows=len(LENGTHS),
            reference_ce_BA=rows(reference_ce_N),
            important_BA=rows(self.important_N[n]),
            draw_BA=rows(self.draw_N[n]),
            logits_NV=Logits(self.logits_NV[n]),
            target_N=self.target_N[n],
            reference_logits_NV=Logits(self.reference_logits_NV[n]),
            hidden_NH=self.hidden_NH[n],
            direction_H=self.direction_H,
            refusals=Refusals(
                rows(refusal_ce, REFUSED),
                rows(refused_ones, REFUSED),
                rows(self.reference_refusal_ce_R[m], REFUSED),
            ),
        )

    def gradients(self) -> list[Tensor]:
        return [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in self.leaves]


def small(
    ce: list[list[float]],
    *,
    reference: list[list[float]] | None = None,
    refused: list[list[float]] | None = None,
    reference_refused: list[list[float]] | None = None,
    **given: Any,
) -> ForgetPass:
    """A whole step of rows of equal length, from cross-entropies alone."""

    def tensor(values: list[list[float]] | None) -> Tensor | None:
        return None if values is None else torch.tensor(values, dtype=torch.float64)

    values = torch.tensor(ce, dtype=torch.float64)
    refusals = None
    if refused is not None:
        refusal_ce = torch.tensor(refused, dtype=torch.float64)
        refusals = Refusals(refusal_ce, torch.ones_like(refusal_ce, dtype=torch.bool), tensor(reference_refused))
    return ForgetPass(
        values,
        torch.ones_like(values, dtype=torch.bool),
        tokens=values.numel(),
        rows=len(values),
        reference_ce_BA=tensor(reference),
        refusals=refusals,
        **given,
    )


def value(view: ForgetPass, kind: str, **settings: Any) -> float:
    return forget_loss(view, config(kind, **settings)).item()


def logsigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


# -- what holds for all of them ----------------------------------------------------------------------------------------


def test_every_criterion_is_tested_here_or_is_a_reweighting() -> None:
    kinds = {cls.model_fields["type"].default for cls in get_args(get_args(Forget)[0]) if cls in OBJECTIVES}
    assert kinds == {loss.criterion.type for loss in [*LOWERING, *OTHERS]}
    assert len(kinds) == len(OBJECTIVES) == 10


@pytest.mark.parametrize("size", [1, 2, 4])
@every_loss
def test_the_shares_of_micro_batches_add_up_to_the_loss_and_the_gradient_of_the_big_batch(
    loss: LossConfig, size: int
) -> None:
    whole, cut = Rows(), Rows()
    known = {"kto_baseline": kto_baseline(whole.view()) / len(LENGTHS)} if loss.criterion.type == "kto" else {}
    expected = forget_loss(whole.view(), loss)
    expected.backward()
    total = 0.0
    for start in range(0, len(LENGTHS), size):
        share = forget_loss(replace(cut.view(start, min(start + size, 6)), **known), loss)
        share.backward()
        total += share.item()
    assert total == pytest.approx(expected.item(), rel=1e-9)
    for ours, theirs in zip(cut.gradients(), whole.gradients(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("filler", [7.0, float("inf"), float("nan")])
@every_loss
def test_what_stands_in_the_padding_changes_neither_value_nor_gradient(loss: LossConfig, filler: float) -> None:
    clean, dirty = Rows(), Rows()
    view = dirty.view(filler=filler, wider=3)
    padded = [view.ce_BA, view.need("refusals").ce_BR]
    for values in padded:
        values.retain_grad()
    expected, found = forget_loss(clean.view(), loss), forget_loss(view, loss)
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    expected.backward()
    found.backward()
    for ours, theirs in zip(dirty.gradients(), clean.gradients(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    for values, mask in zip(padded, [view.mask_BA, view.need("refusals").mask_BR], strict=True):
        assert values.grad is None or (values.grad[~mask] == 0).all()


@pytest.mark.parametrize("scale", [0.0, 300.0, 1e4, 1e30])
@every_loss
def test_no_value_or_gradient_is_nan_where_probabilities_are_0_or_1(loss: LossConfig, scale: float) -> None:
    rows = Rows(scale, torch.float32)
    view = rows.view()
    if scale >= 1e4:
        assert {0.0, 1.0} <= set((-view.ce_BA[view.mask_BA]).exp().tolist())  # it is saturated at both ends
    found = forget_loss(view, loss)
    found.backward()
    assert found.isfinite()
    assert all(gradient.isfinite().all() for gradient in rows.gradients())


@pytest.mark.parametrize("loss", [*REWEIGHTINGS, *LOWERING], ids=name_of)
def test_a_step_against_the_gradient_makes_the_answers_less_likely(loss: LossConfig) -> None:
    rows = Rows()
    forget_loss(rows.view(), loss).backward()
    gradient = rows.gradients()[0]
    assert gradient.norm() > 1e-6
    with torch.no_grad():
        before = token_ce(rows.logits_NV, rows.target_N).sum()
        after = token_ce(rows.logits_NV - 1e-3 * gradient / gradient.norm(), rows.target_N).sum()
    assert after > before + 1e-5


def test_a_step_against_the_gradient_teaches_the_assistant_of_uld_its_answers_and_idk_its_refusals() -> None:
    for kind, leaf in (("uld", 0), ("idk", 1)):
        rows = Rows()
        found = forget_loss(rows.view(), config(kind))
        found.backward()
        with torch.no_grad():
            rows.leaves[leaf] -= 0.1 * rows.gradients()[leaf]
        assert forget_loss(rows.view(), config(kind)) < found
        assert [bool(gradient.any()) for gradient in rows.gradients()] == [leaf == 0, leaf == 1, False]


def test_dpo_and_flat_make_the_refusals_more_likely_and_kto_leaves_them() -> None:
    for loss in LOWERING:
        if "refusals" not in loss.needs:
            continue
        rows = Rows()
        forget_loss(rows.view(), loss).backward()
        gradient = rows.gradients()[1]
        if loss.criterion.type == "kto":
            assert not gradient.any()
            continue
        with torch.no_grad():
            before = token_ce(rows.refusal_logits_RV, rows.refusal_target_R).sum()
            after = token_ce(rows.refusal_logits_RV - 1e-3 * gradient / gradient.norm(), rows.refusal_target_R).sum()
        assert after < before - 1e-5


@pytest.mark.parametrize(
    ("kind", "missing"),
    [
        ("npo", "reference_ce_BA"),
        ("dpo", "reference_ce_BA"),
        ("dpo", "refusals"),
        ("kto", "refusals"),
        ("idk", "refusals"),
        ("flat", "refusals"),
        ("undial", "logits_NV"),
        ("undial", "target_N"),
        ("undial", "reference_logits_NV"),
        ("ihl", "logits_NV"),
        ("rmu", "hidden_NH"),
        ("rmu", "direction_H"),
    ],
)
def test_a_pass_that_lacks_what_the_loss_looks_at_is_refused(kind: str, missing: str) -> None:
    view = replace(Rows().view(), **{missing: None})
    with pytest.raises(ValueError, match=f"{missing} is missing from the forget pass and this loss needs it; pass it"):
        forget_loss(view, config(kind))


@pytest.mark.parametrize("kind", ["dpo", "kto"])
def test_refusals_without_the_reference_models_are_refused(kind: str) -> None:
    view = small([[1.0]], reference=[[1.0]], refused=[[1.0]])
    with pytest.raises(ValueError, match="compares refusals with the reference model's; pass reference_ce_BR"):
        forget_loss(view, config(kind))


def test_a_loss_that_is_no_reweighting_has_no_weights() -> None:
    with pytest.raises(TypeError, match="npo has no weights; only reweightings do"):
        weights_of(Rows().view().stats(), config("npo"))


# -- reweightings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reduction", "count"),
    [
        ("token_mean", 4),
        ("instance_mean_of_sums", 2),
        ("token_sum", 1),
        ("padded_mean", 2 * PUBLISHED_LENGTH),
    ],
)
def test_a_reweighting_is_divided_by_what_its_reduction_says(reduction: str, count: int) -> None:
    view = small([[0.5, 1.0], [2.0, 0.25]])
    # p^2 times ce, by hand.
    total = sum(math.exp(-2 * ce) * ce for ce in (0.5, 1.0, 2.0, 0.25))
    assert value(view, "saturation", beta1=2.0, reduction=reduction) == pytest.approx(-total / count, rel=1e-12)


def test_a_reweighting_is_never_divided_by_its_weights() -> None:
    hopeless = small([[8.0, 8.0]])
    assert value(hopeless, "saturation", beta1=50.0) == pytest.approx(0.0, abs=1e-30)


def test_weights_that_are_given_are_taken_as_they_are() -> None:
    view = small([[0.5, 1.0], [2.0, 0.25]], weights_BA=torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
    assert value(view, "uniform") == pytest.approx(-(0.5 + 2 * 0.25) / 4, rel=1e-12)


def test_no_gradient_flows_through_a_weight() -> None:
    ce = torch.tensor([[0.5, 1.0]], dtype=torch.float64, requires_grad=True)
    view = ForgetPass(ce, torch.ones_like(ce, dtype=torch.bool), tokens=2, rows=1)
    forget_loss(view, config("saturation", beta1=3.0)).backward()
    assert ce.grad is not None
    torch.testing.assert_close(ce.grad, -(-3 * ce.detach()).exp() / 2)


# -- npo, simnpo, dpo, kto ---------------------------------------------------------------------------------------------


def test_npo_is_the_mean_over_answers_of_the_softplus_of_their_summed_log_ratio() -> None:
    view = small([[1.0, 2.0], [0.5, 0.5]], reference=[[0.5, 0.5], [1.0, 1.0]])
    expected = -(2 / 0.1) * (logsigmoid(0.1 * 2.0) + logsigmoid(0.1 * -1.0)) / 2
    assert value(view, "npo") == pytest.approx(expected, rel=1e-12)


def test_npo_starts_at_its_ceiling_and_falls_to_0_as_the_answer_is_forgotten() -> None:
    assert value(small([[4.0]], reference=[[4.0]]), "npo") == pytest.approx(2 / 0.1 * LOG2, rel=1e-9)
    assert value(small([[400.0]], reference=[[4.0]]), "npo") == pytest.approx(0.0, abs=1e-6)


def test_npo_nears_gradient_ascent_as_beta_nears_0() -> None:
    """The limit that its paper proves (arXiv 2404.05868, proposition 1), here of the gradient."""
    gradients = []
    for loss in (config("npo", beta=1e-6), config("uniform", reduction="instance_mean_of_sums")):
        rows = Rows()
        forget_loss(rows.view(), loss).backward()
        gradients.append(rows.gradients()[0])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_npo_in_the_published_way_takes_one_log_ratio_for_all_rows_of_a_micro_batch() -> None:
    view = small([[1.0, 2.0], [0.5, 0.5]], reference=[[0.5, 0.5], [1.0, 1.0]])
    assert value(view, "npo", log_ratio="micro_batch") == pytest.approx(-20 * logsigmoid(0.1 * 1.0), rel=1e-12)
    half = replace(view, rows=4)  # of a step of four rows: half of it
    assert value(half, "npo", log_ratio="micro_batch") == pytest.approx(-10 * logsigmoid(0.1 * 1.0), rel=1e-12)


def test_npo_under_a_selection_sums_over_what_is_selected() -> None:
    view = small([[1.0, 2.0]], reference=[[0.5, 0.25]])
    top = value(view, "npo", beta=1.0, selection={"type": "top", "fraction": 0.5})
    assert top == pytest.approx(-2 * logsigmoid(1.75), rel=1e-12)
    soft = value(view, "npo", beta=1.0, selection={"type": "top", "fraction": 0.5, "soft": 0.75})
    assert soft == pytest.approx(-2 * logsigmoid(0.75 * 1.75 + 0.25 * 0.5), rel=1e-12)


def test_simnpo_takes_the_mean_of_an_answer_and_the_margin_outside_beta() -> None:
    view = small([[1.0, 2.0], [0.5, 0.5]])
    expected = -(2 / 2.5) * (logsigmoid(2.5 * 1.5 - 0.3) + logsigmoid(2.5 * 0.5 - 0.3)) / 2
    assert value(view, "simnpo", margin=0.3) == pytest.approx(expected, rel=1e-12)


def test_npo_sums_over_an_answer_and_simnpo_does_not_care_for_its_length() -> None:
    short, long = ([[0.5] * n] for n in (2, 8))
    assert value(small(short), "simnpo") == pytest.approx(value(small(long), "simnpo"), rel=1e-12)
    sums = [value(small(ce, reference=[[0.0] * len(ce[0])]), "npo") for ce in (short, long)]
    assert sums[0] > sums[1] + 0.5


def test_simnpo_under_a_selection_takes_the_mean_of_what_is_selected_and_stands_still_where_nothing_is() -> None:
    bottom = {"type": "bottom", "fraction": 0.5}
    assert value(small([[1.0, 2.0]]), "simnpo", selection=bottom) == pytest.approx(value(small([[1.0]]), "simnpo"))
    ce = torch.ones(1, 3, dtype=torch.float64, requires_grad=True)
    view = ForgetPass(ce, torch.ones_like(ce, dtype=torch.bool), tokens=3, rows=1)
    nothing = config("simnpo", selection={"type": "top", "fraction": 0.5, "count": "published"})  # all are equal
    found = forget_loss(view, nothing)
    found.backward()
    assert found.item() == pytest.approx(2 / 2.5 * LOG2, rel=1e-12)
    assert ce.grad is not None
    assert not ce.grad.any()


def test_dpo_compares_the_answers_log_ratio_with_the_refusals() -> None:
    view = small([[1.0, 2.0]], reference=[[0.5, 0.5]], refused=[[1.0]], reference_refused=[[4.0]])
    # The answer has become less likely by 2 nats, the refusal more likely by 3: both are in favour.
    assert value(view, "dpo") == pytest.approx(-20 * logsigmoid(0.1 * 5.0), rel=1e-12)


def test_dpo_whose_refusals_stay_is_npo() -> None:
    view = Rows().view()
    refusals = view.need("refusals")
    still = replace(view, refusals=replace(refusals, reference_ce_BR=refusals.ce_BR.detach()))
    assert value(still, "dpo") == pytest.approx(value(view, "npo"), rel=1e-12)


@pytest.mark.parametrize(
    ("link", "linked"), [("sigmoid", lambda x: 1 / (1 + math.exp(-x))), ("logsigmoid", logsigmoid)]
)
def test_kto_measures_answers_from_the_mean_log_ratio_of_the_refusals(link: str, linked: Any) -> None:
    view = small(
        [[1.0], [2.0]],
        reference=[[0.5], [3.0]],
        refused=[[1.0, 1.0], [0.5, 0.5]],
        reference_refused=[[2.0, 2.0], [0.5, 1.5]],
    )
    zero = (2.0 + 1.0) / 2
    expected = 1 - 20 * (linked(zero + 0.1 * 0.5) + linked(zero + 0.1 * -1.0)) / 2
    assert value(view, "kto", link=link) == pytest.approx(expected, rel=1e-12)


# -- refusals: idk, flat -----------------------------------------------------------------------------------------------


def test_idk_is_the_mean_over_refusals_of_the_mean_of_their_tokens() -> None:
    assert value(small([[9.0], [9.0]], refused=[[1.0, 2.0], [4.0, 6.0]]), "idk") == pytest.approx(3.25, rel=1e-12)
    ragged = Refusals(torch.tensor([[1.0, 2.0], [5.0, 0.0]]), torch.tensor([[True, True], [True, False]]))
    assert value(replace(small([[9.0], [9.0]]), refusals=ragged), "idk") == pytest.approx(3.25, rel=1e-6)


CONVEX = {
    "kl": (lambda x: x * math.log(x), lambda v: v),
    "pearson": (lambda x: (x - 1) ** 2, lambda v: v),
    "js": (lambda x: x * math.log(x) - (x + 1) * math.log((x + 1) / 2), lambda v: LOG2 - math.log1p(math.exp(-v))),
    "tv": (lambda x: abs(x - 1) / 2, lambda v: math.tanh(v) / 2),
}
"""f of each divergence and its optimal witness g, as tabled in arXiv 1606.00709, which the paper of flat builds on."""
PROBABILITIES = [0.0, 0.1, 0.5, 0.9, 1.0]


@pytest.mark.parametrize("divergence", CONVEX)
def test_flat_is_the_witness_on_refusals_against_its_conjugate_on_answers(divergence: str) -> None:
    """f*(u) = max over x > 0 of u x - f(x), found here by search: no closed form is taken over."""
    f, g = CONVEX[divergence]
    grid = [math.exp(exponent / 2000) for exponent in range(-16_000, 6_000)]
    f_grid = [(x, f(x)) for x in grid]
    for answer in PROBABILITIES:
        conjugate = max(g(answer) * x - f_x for x, f_x in f_grid)
        for refusal in PROBABILITIES:
            ce = [[-math.log(p) if p else 1e3] for p in (answer, refusal)]
            found = value(small([ce[0]], refused=[ce[1]]), "flat", divergence=divergence)
            assert found == pytest.approx(conjugate - g(refusal), abs=1e-3)


def test_flat_takes_the_mean_of_the_tokens_probabilities_and_not_the_probability_of_the_answer() -> None:
    view = small([[-math.log(0.2), -math.log(0.6)]], refused=[[-math.log(0.1), -math.log(0.3)]])
    assert value(view, "flat", divergence="tv") == pytest.approx((math.tanh(0.4) - math.tanh(0.2)) / 2, rel=1e-12)


@pytest.mark.parametrize("divergence", CONVEX)
@settings(max_examples=50, deadline=None)
@given(answer=st.floats(0, 0.99), refusal=st.floats(0, 0.99), more=st.floats(1e-3, 0.01))
def test_flat_falls_with_the_refusal_and_rises_with_the_answer(
    divergence: str, answer: float, refusal: float, more: float
) -> None:
    def of(p: float, q: float) -> float:
        ce = [[-math.log(each) if each else 1e3] for each in (p, q)]
        return value(small([ce[0]], refused=[ce[1]]), "flat", divergence=divergence)

    assert of(answer + more, refusal) > of(answer, refusal) > of(answer, refusal + more)


# -- logits: undial, ihl -----------------------------------------------------------------------------------------------


def logits_pass(logits: list[list[float]], target: list[int], reference: list[list[float]] | None = None) -> ForgetPass:
    tensor = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    target_N = torch.tensor(target)
    ce = token_ce(tensor, target_N)[None]
    return ForgetPass(
        ce,
        torch.ones_like(ce, dtype=torch.bool),
        tokens=len(target),
        rows=1,
        logits_NV=Logits(tensor),
        target_N=target_N,
        reference_logits_NV=Logits(torch.tensor(logits if reference is None else reference, dtype=torch.float64)),
    )


def test_undial_is_the_cross_entropy_to_the_lowered_reference() -> None:
    # The reference gives 3/4 and 1/4; log 3 less on the first makes them equal.
    view = logits_pass([[0.0, math.log(4)]], [0], [[math.log(3), 0.0]])
    expected = -(0.5 * math.log(1 / 5) + 0.5 * math.log(4 / 5))
    assert value(view, "undial", strength=math.log(3)) == pytest.approx(expected, rel=1e-12)


def test_undial_of_strength_0_has_nothing_to_do_at_the_reference() -> None:
    view = logits_pass([[1.0, 2.0, -1.0], [0.0, 0.0, 3.0]], [0, 2])
    forget_loss(view, config("undial", strength=0.0)).backward()
    gradient = view.need("logits_NV").rows_NX.grad
    assert gradient.abs().max() < 1e-15


def test_undial_of_great_strength_asks_for_the_reference_without_the_answer() -> None:
    view = logits_pass([[1.0, 2.0, 0.0]], [0], [[5.0, 2.0, 0.0]])
    forget_loss(view, config("undial", strength=1000.0)).backward()
    logits = view.need("logits_NV").rows_NX
    asked = torch.tensor([[-math.inf, 2.0, 0.0]], dtype=torch.float64).softmax(-1)
    torch.testing.assert_close(logits.grad, logits.detach().softmax(-1) - asked, rtol=1e-9, atol=1e-12)


def test_undial_and_ihl_leave_the_logits_that_they_are_given_alone() -> None:
    rows = Rows()
    before = rows.logits_NV.detach().clone(), rows.reference_logits_NV.clone()
    for kind in ("undial", "ihl"):
        forget_loss(rows.view(), config(kind))
    assert torch.equal(rows.logits_NV, before[0])
    assert torch.equal(rows.reference_logits_NV, before[1])


def test_ihl_sets_the_answer_token_against_the_best_of_the_others() -> None:
    logits = [[math.log(0.7), math.log(0.2), math.log(0.1)], [math.log(0.7), math.log(0.2), math.log(0.1)]]
    assert value(logits_pass(logits, [0, 2]), "ihl") == pytest.approx((1.5 + 0.4) / 2, rel=1e-12)


@settings(max_examples=50, deadline=None)
@given(logits=st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=6), data=st.data())
def test_ihl_lies_between_0_and_2_and_above_1_where_the_answer_leads(logits: list[float], data: st.DataObject) -> None:
    target = data.draw(st.integers(0, len(logits) - 1))
    found = value(logits_pass([logits], [target]), "ihl")
    assert 0 <= found <= 2
    leads = logits[target] >= max(each for index, each in enumerate(logits) if index != target)
    assert found >= 1 - 1e-12 if leads else found <= 1 + 1e-12


# -- rmu, uld ----------------------------------------------------------------------------------------------------------


def test_rmu_is_the_mean_squared_distance_to_the_steering_vector() -> None:
    hidden = torch.tensor([[1.0, 2.0], [3.0, 5.0]], requires_grad=True)
    view = replace(small([[1.0, 1.0]]), hidden_NH=hidden, direction_H=torch.tensor([1.0, 1.0]))
    found = forget_loss(view, config("rmu"))
    assert found.item() == pytest.approx((1 / 2 + 20 / 2) / 2, rel=1e-6)
    found.backward()
    assert hidden.grad is not None
    torch.testing.assert_close(hidden.grad, (hidden.detach() - 1.0) / 2)  # straight away from the vector
    there = replace(view, hidden_NH=torch.ones(2, 2))
    assert forget_loss(there, config("rmu")).item() == 0.0


def test_uld_teaches_the_answers_by_their_mean_cross_entropy() -> None:
    assert value(small([[1.0, 2.0], [0.5, 0.5]]), "uld") == pytest.approx(1.0, rel=1e-12)
    assert value(small([[1.0, 2.0], [0.5, 0.5]]), "uniform") == pytest.approx(-1.0, rel=1e-12)
