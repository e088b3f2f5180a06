"""Forward passes: what a micro-batch must not change, what is drawn by what, what the loss gets to see."""

import copy
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import tiny
from tests.largest import Largest
from trials import heads, logits
from trials.asking import PASS, cuts
from trials.config import TrialConfig
from trials.encoding import collate
from trials.forget import ForgetPass, forget_loss, kto_baseline, weights_of
from trials.logits import answer_logits, answer_states
from trials.losses import token_ce
from trials.models import Workspace, workspace
from trials.passes import Passes
from trials.refusals import REFUSALS
from trials.result import TrialFailed

LOSSES: dict[str, dict[str, Any]] = {
    "batch": {"criterion": {"type": "saturation", "beta1": 0.5}, "granularity": "batch"},
    "batch of sums": {
        "criterion": {"type": "importance", "beta2": 0.5},
        "granularity": {"type": "batch", "likelihood": "sum"},
    },
    "linear": {"criterion": {"type": "loss_magnitude"}},
    "quadratic": {"criterion": {"type": "loss_magnitude", "scheme": "quadratic", "temperature": 0.2}},
    "extreme": {"criterion": {"type": "loss_magnitude", "scheme": "extreme"}, "granularity": "instance"},
    "kto": {"criterion": {"type": "kto"}},
    "kto, logsigmoid": {"criterion": {"type": "kto", "link": "logsigmoid"}, "retain": {"term": "kl"}},
    "random": {"criterion": {"type": "uniform"}, "selection": "random", "retain": {"term": "forget_kl"}},
    "annotated": {"criterion": {"type": "annotated"}, "selection": "bottom", "reduction": "instance_mean_of_sums"},
    "tnpo": {"criterion": {"type": "tnpo"}, "reduction": "padded_mean", "retain": {"reduction": "padded_mean"}},
    "npo": {"criterion": {"type": "npo"}, "selection": "annotated", "retain": {"term": "kl"}},
    "simnpo": {"criterion": {"type": "simnpo"}, "retain": {"reduction": "token_sum"}},
    "dpo": {"criterion": {"type": "dpo"}},
    "idk": {"criterion": {"type": "idk"}},
    "flat": {"criterion": {"type": "flat"}, "retain": {"term": "none"}},
    "undial": {"criterion": {"type": "undial"}, "retain": {"term": "forget_kl"}},
    "ihl": {"criterion": {"type": "ihl"}},
    "rmu": {"criterion": {"type": "rmu"}, "retain": {"term": "activation"}},
    "uld": {"criterion": {"type": "uld"}, "retain": {"term": "uniform", "coefficient": 5.0}},
}
every_loss = pytest.mark.parametrize("name", LOSSES)
WHOLE = [name for name, loss in LOSSES.items() if loss["criterion"]["type"] in ("loss_magnitude", "kto")] + ["batch"]


@pytest.fixture(scope="module")
def warm(llama: Path) -> Iterator[Workspace]:
    with tiny.cold():
        yield workspace(tiny.trial(llama))


@pytest.fixture(scope="module")
def exact(warm: Workspace) -> Workspace:
    """With models in fp64."""
    return replace(warm, reference=copy.deepcopy(warm.reference).double(), working=warm.working)


def config_of(name: str, llama: Path, **sections: Any) -> TrialConfig:
    return tiny.trial(llama, loss=LOSSES[name], **sections)


def moved(warm: Workspace) -> Any:
    """A model at some distance from the reference, as after some steps."""
    model = copy.deepcopy(warm.reference).requires_grad_(True)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator).to(parameter))
    return model


def minimised(
    config: TrialConfig, warm: Workspace, size: int, rows: Sequence[int] = range(6), *, frozen_head: bool = False
) -> tuple[float, float, Tensor]:
    """Forget term, retain term and gradient of one step, from micro-batches of `size` rows."""
    model = moved(warm)
    model.get_output_embeddings().requires_grad_(not frozen_head)
    passes, loss = Passes(config, warm, model), config.loss
    step = passes.lay_out(0, rows)
    forget_sum, retain_sum = 0.0, 0.0
    for index, known in enumerate(passes.alone(passes.whole_step(step, size))):
        view, retain = passes.alone(passes.micro_batch(step, index * size, size))
        forget = forget_loss(replace(view, **known), loss)
        (loss.forget_coefficient * forget + loss.retain.coefficient * retain).backward()
        forget_sum, retain_sum = forget_sum + forget.item(), retain_sum + retain.item()
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    return forget_sum, retain_sum, torch.cat([part.flatten().double() for part in parts])


def assert_same(found: tuple[float, float, Tensor], expected: tuple[float, float, Tensor]) -> None:
    assert found[:2] == pytest.approx(expected[:2], rel=1e-6)
    assert (found[2] - expected[2]).norm() <= 1e-6 * expected[2].norm()


def view_of(
    config: TrialConfig,
    warm: Workspace,
    rows: Sequence[int],
    *,
    epoch: int = 0,
    size: int | None = None,
    start: int = 0,
) -> ForgetPass:
    passes = Passes(config, warm, warm.reference)
    return passes.alone(passes.micro_batch(passes.lay_out(epoch, rows), start, size or len(rows)))[0]


# -- micro-batches -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 4])
@every_loss
def test_micro_batches_add_up_to_the_loss_and_the_gradient_of_the_big_batch(
    name: str, size: int, llama: Path, exact: Workspace
) -> None:
    config = config_of(name, llama)
    whole = minimised(config, exact, 6)
    assert whole[2].norm() > 0
    assert (whole[1] != 0) == (config.loss.retain.term != "none")
    assert_same(minimised(config, exact, size), whole)


@pytest.mark.parametrize("name", WHOLE)
def test_micro_batches_add_up_in_single_precision_too(name: str, llama: Path, warm: Workspace) -> None:
    config = config_of(name, llama)
    assert_same(minimised(config, warm, 2), minimised(config, warm, 6))


@every_loss
def test_the_order_of_rows_changes_neither_loss_nor_gradient(name: str, llama: Path, exact: Workspace) -> None:
    config = config_of(name, llama)
    assert_same(minimised(config, exact, 4, [3, 1, 5, 0, 4, 2]), minimised(config, exact, 6))


@pytest.mark.parametrize("frozen_head", [False, True])
@every_loss
def test_by_chunks_loss_and_gradient_are_those_of_whole_logits_which_are_never_there(
    name: str, frozen_head: bool, llama: Path, exact: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(name, llama)
    with monkeypatch.context() as patch, Largest(320, 32) as seen:
        patch.setattr(logits, "linear_head", lambda *_: None)
        expected = minimised(config, exact, 3, frozen_head=frozen_head)
    assert seen.found > 7 * 320
    monkeypatch.setattr(heads, "_CACHED", 0)
    monkeypatch.setattr(heads, "_LEAST_ROWS", 7)
    with Largest(320, 32) as seen:
        assert_same(minimised(config, exact, 3, frozen_head=frozen_head), expected)
    assert seen.found == 7 * 320


@pytest.mark.parametrize("name", WHOLE)
def test_only_a_loss_that_looks_at_the_whole_step_has_a_pass_of_its_own_for_it_and_only_where_it_is_cut(
    name: str, llama: Path, warm: Workspace
) -> None:
    passes = Passes(config_of(name, llama), warm, warm.reference)
    step = passes.lay_out(0, range(6))
    assert passes.alone(passes.whole_step(step, 6)) == [{}]
    assert all(known for known in passes.alone(passes.whole_step(step, 4)))
    other = Passes(config_of("undial", llama), warm, warm.reference)
    assert other.alone(other.whole_step(step, 4)) == [{}, {}]


def test_without_the_whole_step_a_batch_weight_would_depend_on_the_micro_batch(llama: Path, exact: Workspace) -> None:
    """What the test of micro-batches would miss if the passes were alike in all of them."""
    config = config_of("batch", llama)
    passes = Passes(config, exact, exact.reference)
    step = passes.lay_out(0, range(6))
    views = [passes.alone(passes.micro_batch(step, start, 3))[0] for start in (0, 3)]
    alone = [weights_of(view.stats(), config.loss).max().item() for view in views]
    together = [known["weights_BA"].max().item() for known in passes.alone(passes.whole_step(step, 3))]
    assert alone[0] != alone[1]
    assert together[0] == together[1] == pytest.approx(sum(alone) / 2, rel=1e-6)


@pytest.mark.parametrize("name", ["batch", "linear", "kto"])
def test_what_is_known_of_the_whole_step_is_of_the_passes_that_train_dropout_and_all(
    name: str, llama: Path, warm: Workspace
) -> None:
    config = config_of(name, llama, model={"adapter": {"type": "lora", "dropout": 0.5}})
    with warm.fresh(config) as model:
        for parameter in model.parameters():
            if parameter.requires_grad:  # an adapter at its start adds 0, dropped or not
                torch.nn.init.normal_(parameter, std=0.3)
        passes = Passes(config, warm, model)
        step = passes.lay_out(0, range(6))
        torch.manual_seed(7)
        known = passes.alone(passes.whole_step(step, 6 // 2))
        views = [passes.alone(passes.micro_batch(step, start, 3))[0] for start in (0, 3)]
        if name == "kto":
            assert known[0]["kto_baseline"] == torch.stack([kto_baseline(view) for view in views]).sum() / 6
            return
        width = max(view.mask_BA.shape[1] for view in views)
        ce = torch.cat([torch.nn.functional.pad(view.ce_BA, (0, width - view.ce_BA.shape[1])) for view in views])
        lengths = torch.tensor([len(example.answer) for example in warm.forget])
        whole = ForgetPass(ce, torch.arange(width) < lengths[:, None], tokens=step.tokens, rows=6)
        expected = weights_of(whole.stats(), config.loss)
        for each, rows in zip(known, (slice(0, 3), slice(3, 6)), strict=True):
            assert torch.equal(each["weights_BA"], expected[rows, : each["weights_BA"].shape[1]])


# -- what is drawn -----------------------------------------------------------------------------------------------------


def test_each_forget_row_has_a_partner_of_its_own_from_the_pool(llama: Path, warm: Workspace) -> None:
    passes = Passes(tiny.trial(llama), warm, warm.reference)
    step = passes.lay_out(2, [4, 0, 5])
    assert step.rows == [4, 0, 5]
    assert len(step.partners) == 3
    assert set(step.partners) <= set(warm.pool)
    assert step.tokens == sum(len(warm.forget[row].answer) for row in (4, 0, 5))
    assert step.retain_tokens == sum(len(example.answer) for example in step.partners)
    again = passes.lay_out(2, [5, 3, 4])
    assert (again.partners[0], again.partners[2]) == (step.partners[2], step.partners[0])
    assert passes.lay_out(3, range(6)).partners != passes.lay_out(2, range(6)).partners
    other = Passes(tiny.trial(llama, seed=1), warm, warm.reference)
    assert other.lay_out(2, range(6)).partners != passes.lay_out(2, range(6)).partners


@pytest.mark.parametrize("term", ["none", "forget_kl"])
def test_a_loss_that_has_no_retain_rows_lays_out_none(term: str, llama: Path, warm: Workspace) -> None:
    passes = Passes(tiny.trial(llama, loss={"retain": {"term": term}}), warm, warm.reference)
    step = passes.lay_out(0, range(6))
    assert (list(step.partners), step.retain_tokens) == ([], 0)


def test_the_draws_of_a_row_follow_seed_epoch_and_row_alone(llama: Path, warm: Workspace) -> None:
    config = config_of("random", llama)
    draws = view_of(config, warm, range(6)).need("draw_BA")
    lengths = [len(example.answer) for example in warm.forget]
    for rows, size, start in (([3, 0], 2, 0), ([5, 3, 0, 1], 2, 1)):
        found = view_of(config, warm, rows, size=size, start=start).need("draw_BA")
        for index, row in enumerate(rows[start : start + size]):
            assert torch.equal(found[index, : lengths[row]], draws[row, : lengths[row]])
    for other in (
        view_of(config, warm, range(6), epoch=1),
        view_of(config_of("random", llama, seed=1), warm, range(6)),
    ):
        assert not torch.equal(other.need("draw_BA"), draws)
    assert ((draws >= 0) & (draws < 1)).all()
    assert len(set(draws[draws > 0].tolist())) > 0.9 * sum(lengths)


def test_the_refusal_of_a_row_follows_seed_epoch_and_row_alone_and_answers_its_question(
    llama: Path, warm: Workspace
) -> None:
    def refused(rows: Sequence[int], **given: Any) -> list[tuple[int, ...]]:
        passes = Passes(config_of("idk", llama, seed=given.pop("seed", 0)), warm, warm.reference)
        examples = passes._refused(given.pop("epoch", 0), rows)
        assert [example.prompt for example in examples] == [warm.forget[row].prompt for row in rows]
        return [example.answer for example in examples]

    base = refused(range(6))
    texts = {warm.tokenizer.decode(answer[:-1]).strip() for answer in base}
    assert texts <= set(REFUSALS)
    assert len(texts) > 1
    assert all(answer[-1] == warm.tokenizer.eos_token_id for answer in base)
    assert refused([4, 1]) == [base[4], base[1]]
    assert refused(range(6), epoch=1) != base != refused(range(6), seed=1)


def test_refusals_differ_from_each_other_and_are_short() -> None:
    assert len(set(REFUSALS)) == len(REFUSALS) >= 20
    assert all(text == text.strip() and text.endswith(".") and len(text) < 80 for text in REFUSALS)


# -- what the loss gets to see -----------------------------------------------------------------------------------------


@every_loss
def test_a_pass_carries_what_the_loss_needs_and_nothing_of_the_reference_model_that_it_does_not(
    name: str, llama: Path, warm: Workspace
) -> None:
    config = config_of(name, llama)
    view, needs = view_of(config, warm, range(6)), config.loss.needs
    assert (view.reference_ce_BA is not None) == ("reference" in needs)
    assert (view.important_BA is not None) == ("annotations" in needs)
    assert (view.draw_BA is not None) == ("draws" in needs)
    assert (view.refusals is not None) == ("refusals" in needs)
    asked = "reference logits" in needs or config.loss.retain.term == "forget_kl"
    assert (view.reference_logits_NV is not None) == asked
    assert (view.hidden_NH is not None) == (view.direction_H is not None) == ("hidden states" in needs)


def test_cross_entropies_of_answers_and_refusals_are_those_of_separate_passes(llama: Path, warm: Workspace) -> None:
    config, model = config_of("dpo", llama), moved(warm)
    passes = Passes(config, warm, model)
    view = passes.alone(passes.micro_batch(passes.lay_out(0, [2, 5]), 0, 2))[0]
    refusals = view.need("refusals")
    examples = [warm.forget[row] for row in (2, 5)]
    for which, current, mask, reference in (
        (examples, view.ce_BA, view.mask_BA, view.need("reference_ce_BA")),
        (passes._refused(0, [2, 5]), refusals.ce_BR, refusals.mask_BR, refusals.reference_ce_BR),
    ):
        for row, example in enumerate(which):
            batch = collate([example], warm.padding, warm.device)
            for scored, values in ((model, current), (warm.reference, reference)):
                expected = token_ce(answer_logits(scored, batch), batch.target_N)
                torch.testing.assert_close(values[row, mask[row]], expected, rtol=1e-5, atol=1e-5)
            assert mask[row].sum() == len(example.answer)


def test_forget_kl_is_the_divergence_from_the_reference_on_the_forget_rows(llama: Path, warm: Workspace) -> None:
    config, model = config_of("undial", llama), moved(warm)
    passes = Passes(config, warm, model)
    view, retain = passes.alone(passes.micro_batch(passes.lay_out(0, range(6)), 0, 6))
    batch = collate(warm.forget, warm.padding, warm.device)
    p, q = (answer_logits(each, batch).softmax(-1) for each in (warm.reference, model))
    torch.testing.assert_close(retain, (p * (p / q).log()).sum() / view.tokens, rtol=1e-4, atol=1e-6)
    assert retain > 0.01


@pytest.mark.parametrize("term", ["nll", "kl", "activation", "uniform"])
def test_a_retain_term_is_the_mean_over_the_tokens_of_the_partners(term: str, llama: Path, warm: Workspace) -> None:
    kind = {"activation": "rmu", "uniform": "uld"}.get(term, "idk")
    config, model = tiny.trial(llama, loss={"criterion": {"type": kind}, "retain": {"term": term}}), moved(warm)
    passes = Passes(config, warm, model)
    step = passes.lay_out(0, range(6))
    _, retain = passes.alone(passes.micro_batch(step, 0, 6))
    batch = collate(step.partners, warm.padding, warm.device)
    (logits, hidden), (start, start_hidden) = (answer_states(each, batch, 1) for each in (model, warm.reference))
    p, q = start.softmax(-1), logits.softmax(-1)
    expected = {
        "nll": token_ce(logits, batch.target_N).mean(),
        "kl": (p * (p / q).log()).sum(-1).mean(),
        "activation": (hidden - start_hidden).square().mean(),
        "uniform": (1 / 320 * (1 / 320 / q).log()).sum(-1).mean(),
    }[term]
    torch.testing.assert_close(retain, expected, rtol=1e-4, atol=1e-6)
    assert retain > 0.01
    assert step.retain_tokens != step.tokens


def test_key_tokens_are_those_of_the_rows_whatever_their_order(llama: Path, warm: Workspace) -> None:
    config = config_of("annotated", llama)
    every = view_of(config, warm, range(6))
    assert 0 < every.need("important_BA").sum() < every.mask_BA.sum()
    two = view_of(config, warm, [5, 2])
    for index, row in enumerate((5, 2)):
        length = int(two.mask_BA[index].sum())
        assert torch.equal(two.need("important_BA")[index, :length], every.need("important_BA")[row, :length])


def test_statistics_of_all_rows_are_those_of_a_step_over_them(llama: Path, warm: Workspace) -> None:
    for name in ("random", "annotated", "tnpo"):
        config = config_of(name, llama)
        passes = Passes(config, warm, warm.reference)
        view = passes.alone(passes.micro_batch(passes.lay_out(1, range(6)), 0, 6))[0]
        ce = [row[mask].detach() for row, mask in zip(view.ce_BA, view.mask_BA, strict=True)]
        stats = passes.stats(1, range(len(ce)), ce)
        for field in fields(stats):
            expected, found = getattr(view.stats(), field.name), getattr(stats, field.name)
            assert (expected is None) == (found is None)
            assert expected is None or torch.equal(expected, found)


# -- rmu ---------------------------------------------------------------------------------------------------------------


def steering(llama: Path, warm: Workspace, seed: int = 0, **criterion: Any) -> Tensor:
    config = tiny.trial(llama, loss={"criterion": {"type": "rmu", **criterion}}, seed=seed)
    return view_of(config, warm, [0]).need("direction_H")


def test_the_steering_vector_has_the_length_asked_for_or_numbers_up_to_it(llama: Path, warm: Workspace) -> None:
    unit, plain = steering(llama, warm), steering(llama, warm, normalise=False)
    assert unit.shape == (32,)
    assert unit.norm().item() == pytest.approx(6.5, rel=1e-6)
    assert (unit > 0).all()
    assert ((plain >= 0) & (plain < 6.5)).all()
    assert plain.max() > 5
    torch.testing.assert_close(plain / plain.norm(), unit / unit.norm())
    torch.testing.assert_close(steering(llama, warm, steering=13.0), 2 * unit)


def test_the_steering_vector_stays_and_follows_the_seed(llama: Path, warm: Workspace) -> None:
    torch.rand(5)
    assert torch.equal(steering(llama, warm), steering(llama, warm))
    assert not torch.equal(steering(llama, warm), steering(llama, warm, seed=1))


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_rmu_looks_at_what_its_layer_gives_out(architecture: str, tmp_path: Path) -> None:
    folder = tiny.saved_model(tmp_path / "model", architecture)
    with tiny.cold():
        warm = workspace(tiny.trial(folder))
        seen: list[Tensor] = []
        layers = next(each for each in warm.reference.modules() if isinstance(each, torch.nn.ModuleList))
        layers[0].register_forward_hook(lambda _, __, out: seen.append(out[0] if isinstance(out, tuple) else out))
        view = view_of(tiny.trial(folder, loss={"criterion": {"type": "rmu", "layer": 1}}), warm, [3])
        example = warm.forget[3]
        states = seen[0][0, len(example.prompt) - 1 : len(example.prompt) + len(example.answer) - 1]
        assert torch.equal(view.need("hidden_NH"), states)


@pytest.mark.parametrize(("layers", "expected"), [(1, 1), (4, 1), (5, 2), (8, 2), (9, 3), (32, 8)])
def test_rmu_takes_a_quarter_of_the_depth_rounded_up_unless_told_and_refuses_what_is_not_there(
    layers: int, expected: int, llama: Path, warm: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = replace(warm, reference=copy.deepcopy(warm.reference))
    monkeypatch.setattr(deep.reference.config, "num_hidden_layers", layers)
    rmu = {"type": "rmu"}
    assert Passes(tiny.trial(llama, loss={"criterion": rmu}), deep, deep.reference).layer == expected
    assert expected == math.ceil(layers / 4)
    named = tiny.trial(llama, loss={"criterion": {**rmu, "layer": layers}})
    assert Passes(named, deep, deep.reference).layer == layers
    with pytest.raises(TrialFailed, match=f"layer {layers + 1} is more than the model's {layers} layers; lower it"):
        Passes(tiny.trial(llama, loss={"criterion": {**rmu, "layer": layers + 1}}), deep, deep.reference)


def test_the_reference_model_sees_the_forget_rows_once_in_a_worker(llama: Path, warm: Workspace) -> None:
    fresh, passed = replace(warm, reference_ce=[]), list[int]()
    handle = warm.reference.register_forward_pre_hook(lambda *_: passed.append(1))
    first = Passes(config_of("npo", llama), fresh, warm.working)
    seen = len(passed)
    second = Passes(config_of("dpo", llama), fresh, warm.working)
    handle.remove()
    assert seen > 0
    assert len(passed) == seen
    assert [ce.tolist() for ce in second.reference_ce] == [ce.tolist() for ce in first.reference_ce]


@pytest.mark.parametrize(("lengths", "each"), [([9, 9, 9], 1), ([500, 10, 9], 1), ([60, 50, 40, 30], 8), ([7], 3)])
def test_rows_are_parted_where_that_saves_more_than_a_pass_costs(lengths: list[int], each: int) -> None:
    def cost(parts: list[slice]) -> int:
        return sum(PASS + each * lengths[part.start] * (part.stop - part.start) for part in parts)

    inner = range(1, len(lengths))
    ways = itertools.chain(*(itertools.combinations(inner, count) for count in range(len(lengths))))
    every = [[slice(*pair) for pair in itertools.pairwise([0, *way, len(lengths)])] for way in ways]
    assert cost(cuts(lengths, each)) == min(map(cost, every))
