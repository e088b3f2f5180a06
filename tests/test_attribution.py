"""Which weights matter: the mask of wagle, which holds to the last bit, and the start that fila gives to LoRA."""

import copy
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config

import trials.attribution
import trials.unlearn
from tests import tiny
from tests.tiny import numbers, run, same, saved
from trials.attribution import _largest, _svd, fila, wagle_masks
from trials.config import TrialConfig, Wagle
from trials.encoding import collate
from trials.evaluate import Evaluator
from trials.logits import answer_logits
from trials.losses import token_ce
from trials.models import Workspace, workspace
from trials.result import Diverged, TrialFailed
from trials.unlearn import run_trial

FILA = {"adapter": {"type": "lora", "rank": 3, "alpha": 12, "init": "fila"}}
PLAIN = {"adapter": {"type": "lora", "rank": 3, "alpha": 12}}
WAGLE = {"mask": {"type": "wagle", "fraction": 0.3}, "weight_decay": 0.1}


@pytest.fixture(scope="module", autouse=True)
def _cold() -> Iterator[None]:
    with tiny.cold():
        yield


@pytest.fixture(scope="module")
def warm(llama: Path) -> Workspace:
    return workspace(tiny.trial(llama))


def attribution(warm: Workspace, hessian: float) -> tuple[list[Tensor], list[Tensor]]:
    """Parameters of a copy of the target and their attributions, from two passes over all rows at once."""
    model = copy.deepcopy(warm.reference).requires_grad_(True)
    gradients = []
    for rows in (warm.forget, warm.pool[: len(warm.forget)]):
        batch = collate(rows, warm.padding, warm.device)
        ce = token_ce(answer_logits(model, batch), batch.target_N)
        gradients.append(torch.autograd.grad(ce.mean(), list(model.parameters())))
    parameters = list(model.parameters())
    scores = [(p * g - r * g / hessian).abs().detach() for p, g, r in zip(parameters, *gradients, strict=True)]
    return parameters, scores


def masks_of(warm: Workspace, **settings: Any) -> list[Tensor]:
    model = copy.deepcopy(warm.reference).requires_grad_(True)
    return wagle_masks(model, list(model.parameters()), warm, Wagle(**settings))


# -- ranks -------------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(st.sampled_from([0.0, 1e-42, 1e-8, 0.5, 1.0, 1e30]) | st.floats(0, 2.0**120, width=32), min_size=1),
    data=st.data(),
)
def test_the_largest_are_as_many_as_asked_for_and_of_equal_ones_the_first(
    values: list[float], data: st.DataObject
) -> None:
    cut, count = data.draw(st.integers(0, len(values))), data.draw(st.integers(1, len(values)))
    found = torch.cat(_largest([torch.tensor(values[:cut]), torch.tensor(values[cut:])], count)).tolist()
    order = sorted(range(len(values)), key=lambda index: (-values[index], index))
    assert found == [index in order[:count] for index in range(len(values))]


def test_the_largest_keep_the_shapes_of_the_scores() -> None:
    masks = _largest([torch.zeros(2, 3), torch.tensor([0.5, 0.0])], 3)
    assert [mask.tolist() for mask in masks] == [[[True, True, False], [False, False, False]], [True, False]]


# -- wagle -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fraction", [1e-9, 0.013, 0.5, 0.8, 1.0])
def test_the_mask_is_true_on_exactly_the_fraction_that_is_asked_for(fraction: float, warm: Workspace) -> None:
    masks = masks_of(warm, fraction=fraction)
    total = sum(mask.numel() for mask in masks)
    assert sum(int(mask.sum()) for mask in masks) == max(1, round(fraction * total))
    assert [mask.shape for mask in masks] == [parameter.shape for parameter in warm.reference.parameters()]


@pytest.mark.parametrize("hessian", [1e-6, 0.05, 1e9])
def test_the_weights_that_are_kept_are_those_of_the_largest_attribution(hessian: float, warm: Workspace) -> None:
    _, scores = attribution(warm, hessian)
    masks = masks_of(warm, fraction=0.3, hessian=hessian)
    score, mask = torch.cat([each.flatten() for each in scores]), torch.cat([each.flatten() for each in masks])
    threshold = score.sort(descending=True).values[int(mask.sum()) - 1]
    assert (mask == (score >= threshold)).float().mean() > 0.9999  # rounding may turn two neighbours round


def test_a_mask_that_is_asked_for_less_is_part_of_the_larger_one(warm: Workspace) -> None:
    for less, more in zip(masks_of(warm, fraction=0.2), masks_of(warm, fraction=0.4), strict=True):
        assert not (less & ~more).any()


def test_without_a_hessian_both_terms_of_the_attribution_have_one_mean_size(warm: Workspace) -> None:
    # At the retain term alone and at the forget term alone other weights are kept; left out, it lies in between.
    def overlap(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
        both = sum(int((a & b).sum()) for a, b in zip(one, other, strict=True))
        return both / sum(int(a.sum()) for a in one)

    retain, balanced, forget = (masks_of(warm, fraction=0.2, hessian=h) for h in (1e-12, None, 1e12))
    apart = overlap(retain, forget)
    assert apart < overlap(balanced, forget) < 1
    assert apart < overlap(balanced, retain) < 1


def test_masks_do_not_depend_on_how_rows_are_batched_or_on_what_was_drawn(
    warm: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = masks_of(warm, fraction=0.3)
    assert all(torch.equal(a, b) for a, b in zip(before, masks_of(warm, fraction=0.3), strict=True))
    torch.rand(3)
    monkeypatch.setattr(trials.attribution, "_BATCH", 2)
    after = masks_of(warm, fraction=0.3)
    moved = sum(int((a ^ b).sum()) for a, b in zip(before, after, strict=True))
    assert moved <= 1e-4 * sum(mask.numel() for mask in before)


def test_making_a_mask_leaves_the_model_as_it_was(warm: Workspace) -> None:
    model = copy.deepcopy(warm.reference).requires_grad_(True).train()
    wagle_masks(model, list(model.parameters()), warm, Wagle())
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert same(dict(model.state_dict()), dict(warm.reference.state_dict()))


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"model": FILA},
        {"model": {"dtype": "bfloat16"}},
        {"loss": {"criterion": {"type": "uld", "layers": 1}, "retain": {"term": "uniform"}}},
        {"loss": {"criterion": {"type": "uld", "layers": 1}, "retain": {"term": "uniform"}}, "model": FILA},
    ],
    ids=["full", "fila", "bf16", "uld", "uld and fila"],
)
def test_masked_weights_are_the_same_to_the_last_bit_after_steps_with_momentum_and_weight_decay(
    sections: dict[str, Any], llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[list[Tensor], list[Tensor], list[Tensor]]] = []

    def watch(model: Any, parameters: Sequence[Tensor], *args: Any) -> list[Tensor]:
        masks = wagle_masks(model, parameters, *args)
        made.append((list(parameters), [parameter.detach().clone() for parameter in parameters], masks))
        return masks

    monkeypatch.setattr("trials.unlearn.wagle_masks", watch)
    run(tiny.trial(llama, optim=WAGLE, **sections), tmp_path)
    [(after, before, masks)] = made
    moved = 0
    for new, old, mask in zip(after, before, masks, strict=True):
        assert torch.equal(new[~mask], old[~mask])
        moved += int((new[mask] != old[mask]).sum())
    total, kept = sum(mask.numel() for mask in masks), sum(int(mask.sum()) for mask in masks)
    assert kept == round(0.3 * total)
    assert moved > 0.5 * kept


def test_a_mask_of_an_adapter_that_does_nothing_yet_is_refused(llama: Path) -> None:
    with pytest.raises(ValueError, match=r"a new LoRA adapter does nothing yet; use model\.adapter none"):
        tiny.trial(llama, optim=WAGLE, model=PLAIN)


def test_gradients_that_are_not_finite_end_the_trial(warm: Workspace, llama: Path) -> None:
    broken = copy.deepcopy(warm.reference).requires_grad_(True)
    with torch.no_grad():
        broken.model.norm.weight[0] = float("nan")
    with pytest.raises(Diverged, match=r"gradients at the start are not finite in torch\.float32"):
        wagle_masks(broken, list(broken.parameters()), warm, Wagle())


def test_a_mask_of_all_weights_changes_nothing(llama: Path, tmp_path: Path) -> None:
    everything = {"mask": {"type": "wagle", "fraction": 1.0}, "weight_decay": 0.1}
    masked = run(tiny.trial(llama, optim=everything), tmp_path / "masked")
    plain = run(tiny.trial(llama, optim={"weight_decay": 0.1}), tmp_path / "plain")
    assert numbers(masked) == numbers(plain)
    assert same(saved(tmp_path / "masked"), saved(tmp_path / "plain"))


# -- fila --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(120, 300), (300, 120)])
def test_the_singular_vectors_are_those_of_a_whole_svd_even_where_the_values_lie_close(shape: tuple[int, int]) -> None:
    flat = torch.randn(*shape, generator=torch.Generator().manual_seed(1))  # the hardest there is
    steep = flat / torch.arange(1, shape[1] + 1)
    for matrix, tolerance in ((flat, 1e-2), (steep, 1e-4)):
        u, s, v = _svd(matrix, 8)
        best = torch.linalg.svdvals(matrix)
        torch.testing.assert_close(s, best[:8], rtol=tolerance, atol=0)
        error = (matrix - (u * s) @ v.T).norm()
        assert error.item() == pytest.approx(best[8:].norm().item(), rel=tolerance / 10)
        for vectors in (u, v):
            torch.testing.assert_close(vectors.T @ vectors, torch.eye(8), rtol=0, atol=1e-5)
    torch.rand(3)
    assert torch.equal(_svd(flat, 8)[0], _svd(flat, 8)[0])


def adapters(model: Any) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, LoraLayer)]


def product(layer: Any) -> Tensor:
    """What the adapter adds to the frozen weight."""
    weight: Tensor = layer.scaling["default"] * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    return weight.detach()


def logits_of(model: Any, warm: Workspace) -> Tensor:
    training = model.training
    model.eval()
    with torch.no_grad():
        logits = answer_logits(model, collate(warm.forget, warm.padding, warm.device))
    model.train(training)
    return logits


@pytest.mark.parametrize("name", tiny.ARCHITECTURES)
def test_fila_leaves_the_function_of_the_model_and_moves_weight_into_the_adapter(name: str, tmp_path: Path) -> None:
    folder = tiny.saved_model(tmp_path / "model", name)
    config = tiny.trial(folder, model=FILA)
    with tiny.cold():
        warm = workspace(config)
        with warm.fresh(config) as model:
            frozen = [layer.get_base_layer().weight.clone() for layer in adapters(model)]
            fila(model, warm)
            assert model.training
            torch.testing.assert_close(logits_of(model, warm), logits_of(warm.reference, warm), rtol=0, atol=1e-4)
            assert len(adapters(model)) >= 8
            for layer, before in zip(adapters(model), frozen, strict=True):
                weight = layer.get_base_layer().weight
                assert product(layer).norm() > 0.1 * before.norm()
                torch.testing.assert_close(weight + product(layer), before, rtol=0, atol=1e-5)
                assert torch.linalg.matrix_rank(product(layer)) == 3
                assert layer.lora_A["default"].weight.shape[0] == 3
                assert not weight.requires_grad
                assert weight.grad is None
        # Another trial in the same workspace starts from the target as it is.
        with warm.fresh(tiny.trial(folder)) as model:
            assert same(dict(model.state_dict()), dict(warm.reference.state_dict()))


def test_fila_is_the_truncated_svd_where_all_weights_matter_alike(
    warm: Workspace, llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def constant(model: Any, parameters: Sequence[Tensor], *args: Any) -> list[Tensor]:
        return [torch.full_like(parameter, 0.01) for parameter in parameters]

    monkeypatch.setattr(trials.attribution, "_gradients", constant)
    config = tiny.trial(llama, model=FILA)
    with warm.fresh(config) as model:
        frozen = [layer.get_base_layer().weight.clone() for layer in adapters(model)]
        fila(model, warm)
        for layer, before in zip(adapters(model), frozen, strict=True):
            u, s, vh = torch.linalg.svd(before, full_matrices=False)
            torch.testing.assert_close(product(layer), (u[:, :3] * s[:3]) @ vh[:3], rtol=0, atol=1e-4)


def test_fila_is_the_best_approximation_under_the_ratio_of_fisher_informations(warm: Workspace, llama: Path) -> None:
    """From the formula: no other matrix of its rank is nearer to W where outputs count by their importance."""
    config = tiny.trial(llama, model=FILA)
    with warm.fresh(config) as model:
        weights = [layer.get_base_layer().weight.requires_grad_(True) for layer in adapters(model)]
        model.eval()
        fishers = []
        for rows in (warm.forget, warm.pool[: len(warm.forget)]):
            batch = collate(rows, warm.padding, warm.device)
            ce = token_ce(answer_logits(model, batch), batch.target_N)
            fishers.append([gradient.square() for gradient in torch.autograd.grad(ce.mean(), weights)])
        for weight in weights:
            weight.requires_grad_(False)
        frozen = [weight.clone() for weight in weights]
        fila(model.train(), warm)
        for layer, before, forget, retain in zip(adapters(model), frozen, *fishers, strict=True):
            importance = (forget / (retain + 1e-5)).sum(1, keepdim=True).sqrt() + 1e-5
            singular = torch.linalg.svdvals(importance * before)
            error = (importance * (before - product(layer))).norm()
            assert error.item() == pytest.approx(singular[3:].norm().item(), rel=1e-3)


def test_an_adapter_of_a_higher_rank_than_its_layer_takes_all_of_the_weight_and_trains_on(
    llama: Path, tmp_path: Path
) -> None:
    config = tiny.trial(llama, model={"adapter": {**FILA["adapter"], "rank": 40}})  # the layers are 32 and 48 wide
    warm = workspace(config)
    with warm.fresh(config) as model:
        fila(model, warm)
        torch.testing.assert_close(logits_of(model, warm), logits_of(warm.reference, warm), rtol=0, atol=1e-4)
        for layer in adapters(model):
            assert layer.get_base_layer().weight.abs().max() < 1e-4
            assert layer.lora_A["default"].weight[-1].any()  # else neither A nor B would ever get a gradient there
    assert run(config, tmp_path)[-1].last


@pytest.mark.parametrize(
    ("target", "named"), [("wte", "Embedding"), ("c_fc", "Conv1D"), ("lm_head", "a head that is the embeddings too")]
)
def test_fila_on_layers_that_are_not_linear_or_not_their_own_is_refused(
    target: str, named: str, warm: Workspace, llama: Path
) -> None:
    torch.manual_seed(0)
    shape = GPT2Config(vocab_size=320, n_embd=32, n_layer=1, n_head=2, n_positions=256, eos_token_id=1)
    gpt2 = AutoModelForCausalLM.from_config(shape)
    other = replace(warm, reference=gpt2, working=copy.deepcopy(gpt2))
    config = tiny.trial(llama, model={"adapter": {"type": "lora", "init": "fila", "targets": [target]}})
    with (
        warnings.catch_warnings(action="ignore"),  # peft has something to say about each of them
        other.fresh(config) as model,
        pytest.raises(TrialFailed, match=rf"linear layers and model\.adapter\.targets names {named}; name others"),
    ):
        fila(model, other)


def test_fila_of_a_model_whose_gradients_are_not_finite_ends_the_trial(warm: Workspace, llama: Path) -> None:
    broken = copy.deepcopy(warm.reference)
    with torch.no_grad():
        broken.model.norm.weight[0] = float("nan")
    config = tiny.trial(llama, model=FILA)
    with (
        replace(warm, reference=broken).fresh(config) as model,
        pytest.raises(Diverged, match=r"gradients at the start are not finite in torch\.float32"),
    ):
        fila(model, warm)


# -- checkpoints of both -----------------------------------------------------------------------------------------------


def cut_short(config: TrialConfig, folder: Path) -> list[Any]:
    """A trial that is killed after its first epoch and resumed, with another one between in the same workspace."""
    stream = run_trial(config, folder=folder)
    first = next(stream)
    stream.close()
    run(tiny.trial(Path(config.model.path or ""), model=FILA, seed=9, epochs=1), folder / "another")
    after = run(config, folder, resume_from=folder / "checkpoint")
    assert numbers(after[:1]) == numbers([first])
    return numbers(after)


@pytest.mark.parametrize(
    "sections",
    [
        {"model": FILA},
        {"optim": WAGLE},
        {"model": FILA, "optim": WAGLE},
        {"model": {**FILA, "dtype": "bfloat16"}},
        {"loss": {"criterion": {"type": "uld", "layers": 1}, "retain": {"term": "uniform"}}, "model": FILA},
    ],
    ids=["fila", "wagle", "both", "fila in bf16", "uld and fila"],
)
def test_a_resumed_trial_is_the_uninterrupted_one_to_the_last_bit(
    sections: dict[str, Any], llama: Path, tmp_path: Path
) -> None:
    config = tiny.trial(llama, epochs=3, **sections)
    whole = run(config, tmp_path / "whole")
    assert cut_short(config, tmp_path / "cut") == numbers(whole)
    assert same(saved(tmp_path / "cut"), saved(tmp_path / "whole"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_finished_fila_trial_leaves_a_merged_model_that_transformers_loads(
    dtype: str, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, warm = (
        tiny.trial(llama, model={**FILA, "dtype": dtype}),
        workspace(tiny.trial(llama, model={"dtype": dtype})),
    )
    trained: list[Tensor] = []
    measured = Evaluator.see

    def watch(evaluator: Evaluator, model: Any, names: Any) -> Any:
        trained.append(logits_of(model, warm))
        return measured(evaluator, model, names)

    monkeypatch.setattr(Evaluator, "see", watch)
    for result in run_trial(config, folder=tmp_path):
        place = tmp_path / "checkpoint" / f"{result.epoch:05d}"
        assert (place / "adapter_model.safetensors").exists()  # for resuming
        assert (place / "merged").exists() == result.last
    merged = AutoModelForCausalLM.from_pretrained(place / "merged", dtype=getattr(torch, dtype))
    found, start = logits_of(merged, warm), logits_of(warm.reference, warm)
    apart = (found - trained[-1]).norm() / (start - trained[-1]).norm()
    assert apart < (1e-5 if dtype == "float32" else 0.05)  # merging rounds to the weights' dtype
    # The adapter alone, on the target as it was, is another model: this is why there is a merged one.
    alone = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(llama, dtype=getattr(torch, dtype)), place)
    assert (logits_of(alone, warm) - trained[-1]).norm() > 0.5 * (start - trained[-1]).norm()
    assert AutoTokenizer.from_pretrained(place / "merged").eos_token_id == warm.tokenizer.eos_token_id


def test_the_adapter_of_uld_is_left_with_its_assistant_and_a_plain_adapter_alone(llama: Path, tmp_path: Path) -> None:
    uld = {"criterion": {"type": "uld", "layers": 1}, "retain": {"term": "uniform"}}
    run(tiny.trial(llama, model=PLAIN, loss=uld), tmp_path / "uld")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "uld" / "checkpoint" / "00002" / "merged")
    assert merged.config.num_hidden_layers == 1
    run(tiny.trial(llama, model=PLAIN), tmp_path / "plain")
    assert not [path for path in (tmp_path / "plain").rglob("*") if path.is_dir() and path.name == "merged"]
    run(tiny.trial(llama), tmp_path / "full")
    assert not [path for path in (tmp_path / "full").rglob("*") if path.is_dir() and path.name == "merged"]
