"""The training loop: what must not change a result, what must end a trial, what a checkpoint holds."""

import itertools
import math
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import trials.optimiser
import trials.passes
import trials.unlearn
from tests import tiny
from tests.tiny import LORA, numbers, run, same, saved
from trials.config import ModelConfig, OptimConfig, TrialConfig
from trials.encoding import Example, collate
from trials.evaluate import Evaluator
from trials.logits import answer_logits
from trials.losses import token_ce
from trials.models import workspace
from trials.objectives import Forget
from trials.optimiser import learning_rate
from trials.registry import METRICS
from trials.result import Diverged, OutOfMemory, TrialFailed
from trials.unlearn import probe_trial, run_trial
from trials.weighting import CriterionConfig

FORGET = get_args(get_args(Forget)[0])
REWEIGHTINGS = [cls.model_fields["type"].default for cls in FORGET if issubclass(cls, CriterionConfig)]
OBJECTIVES = [cls.model_fields["type"].default for cls in FORGET if not issubclass(cls, CriterionConfig)]
PLAIN = ["none", "nll", "kl", "forget_kl"]
TERMS = {"uld": ["none", "uniform"], "rmu": [*PLAIN, "activation"]}
PAIRS = [(kind, term) for kind in [*REWEIGHTINGS, *OBJECTIVES] for term in TERMS.get(kind, PLAIN)]
ULD = {"criterion": {"type": "uld", "layers": 1}, "retain": {"term": "uniform"}}

FILA = {"adapter": {**LORA["adapter"], "init": "fila"}}

both_ways = pytest.mark.parametrize("model", [{}, LORA], ids=["full", "lora"])


@pytest.fixture(scope="module", autouse=True)
def _cold() -> Iterator[None]:
    with tiny.cold():
        yield


# -- a trial -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("criterion", "retain"), PAIRS)
def test_a_trial_reports_every_metric_after_each_epoch(
    criterion: str, retain: str, llama: Path, tmp_path: Path
) -> None:
    config = tiny.trial(llama, loss={"criterion": {"type": criterion}, "retain": {"term": retain}})
    results = run(config, tmp_path)
    assert [(result.epoch, result.last) for result in results] == [(1, False), (2, True)]
    for result in results:
        weight = {"train.weight"} if criterion in REWEIGHTINGS else set()
        assert set(result.metrics) == {*tiny.MEASURED, "train.forget_loss", "train.retain_loss"} | weight
        assert all(math.isfinite(value) for value in result.metrics.values())
        assert result.seconds > 0
        assert (result.metrics["train.retain_loss"] != 0) == (retain != "none")
        if criterion in REWEIGHTINGS:
            assert result.metrics["train.forget_loss"] < 0 < result.metrics["train.weight"]
    # Half of the pushes against the answers of the forget set are felt.
    assert results[1].metrics["forget.nll"] != results[0].metrics["forget.nll"]


@pytest.mark.parametrize("criterion", [*REWEIGHTINGS, *OBJECTIVES])
def test_every_objective_trains_an_adapter_in_micro_batches(criterion: str, llama: Path, tmp_path: Path) -> None:
    loss = {"criterion": {"type": criterion}, "retain": {"term": TERMS.get(criterion, PLAIN)[1]}}
    config = tiny.trial(llama, loss=loss, model=LORA, optim={"micro_batch_size": 3}, epochs=1)
    [result] = run(config, tmp_path)
    assert result.last
    assert any(tensor.any() for name, tensor in saved(tmp_path).items() if "lora_B" in name)  # 0 before


@pytest.mark.parametrize("device_map", ["auto", "balanced"])
@both_ways
def test_over_all_gpus_means_the_same_where_there_is_one_place(
    device_map: str, model: dict[str, Any], llama: Path, tmp_path: Path
) -> None:
    plain = run(tiny.trial(llama, model={"device": "auto", **model}), tmp_path / "plain")
    config = tiny.trial(llama, model={"device": "auto", "device_map": device_map, **model})
    spread = list(itertools.islice(run_trial(config, folder=tmp_path / "spread"), 1))
    spread += run(config, tmp_path / "spread", resume_from=tmp_path / "spread" / "checkpoint")[1:]
    assert numbers(spread) == numbers(plain)
    assert same(saved(tmp_path / "spread"), saved(tmp_path / "plain"))


@both_ways
def test_a_probe_steps_twice_over_the_longest_rows_and_generates_to_the_full_length(
    model: dict[str, Any], llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[list[int]] = []
    step = trials.unlearn.Trial._step

    def noted(self: Any, number: int, rows: Any) -> Any:
        steps.append(list(rows))
        return step(self, number, rows)

    monkeypatch.setattr(trials.unlearn.Trial, "_step", noted)
    config = tiny.trial(llama, model=model, epochs=1, optim={"batch_size": 3})
    with tiny.cold():  # a probe spoils the workspace
        probe_trial(config, folder=tmp_path)
        warm = workspace(config)
    lengths = [len(example) for example in warm.forget]
    assert len(steps) == 2
    assert steps[0] == steps[1]
    assert sorted(lengths[row] for row in steps[0]) == sorted(lengths)[-3:]
    assert not warm.material.ends
    assert (tmp_path / "checkpoint" / "00001" / "optimizer.safetensors").exists()


@pytest.mark.parametrize("name", tiny.ARCHITECTURES)
@both_ways
def test_a_trial_runs_on_every_architecture(name: str, model: dict[str, Any], tmp_path: Path) -> None:
    folder = tiny.saved_model(tmp_path / "modell", name)
    config = tiny.trial(folder, model=model, epochs=1, loss={"retain": {"term": "kl"}})
    [result] = run(config, tmp_path)
    assert result.last


def test_a_trial_pushes_the_forget_set_and_holds_the_retain_set_it_replays(llama: Path, tmp_path: Path) -> None:
    base = {"epochs": 6, "loss": {"criterion": {"type": "uniform"}}}
    start = run(tiny.trial(llama, **base, optim={"lr": 1e-9}), tmp_path / "start")[0].metrics
    end = run(tiny.trial(llama, **base), tmp_path / "end")[-1].metrics
    assert end["forget.nll"] > start["forget.nll"] + 1
    assert end["train.retain_loss"] < start["train.retain_loss"]
    assert end["forget.nll"] > end["retain.nll"]


def test_a_bf16_model_runs_and_is_saved_as_bf16(llama: Path, tmp_path: Path) -> None:
    results = run(tiny.trial(llama, model={"dtype": "bfloat16"}, epochs=1), tmp_path)
    assert all(math.isfinite(value) for value in results[0].metrics.values())
    assert {tensor.dtype for tensor in saved(tmp_path).values()} == {torch.bfloat16}


@both_ways
@pytest.mark.parametrize("retain", ["nll", "kl"])
# A random model gives its tokens a probability of 1 / V: at beta1 5 there would be nothing but rounding to compare.
@pytest.mark.parametrize(
    "criterion",
    [{"type": "satimp", "beta1": 0.5}, {"type": "npo"}, {"type": "loss_magnitude"}, {"type": "kto"}],
    ids=lambda criterion: criterion["type"],
)
def test_micro_batches_give_the_results_of_the_big_batch(
    criterion: dict[str, Any], retain: str, model: dict[str, Any], llama: Path, tmp_path: Path
) -> None:
    ends = []
    for size in (None, 1, 3):
        config = tiny.trial(
            llama,
            model=model and {"adapter": {"type": "lora", "rank": 2}},
            loss={"criterion": criterion, "retain": {"term": retain}},
            optim={"micro_batch_size": size, "lr": 1e-3, "clip": 1.0},
        )
        results = run(config, tmp_path / str(size))
        ends.append(results[-1].metrics)
    for end in ends[1:]:
        assert end == pytest.approx(ends[0], rel=1e-3, abs=1e-4)
        for name in ("train.forget_loss", "train.retain_loss"):
            assert end[name] == pytest.approx(ends[0][name], rel=1e-4)


def test_the_losses_of_a_trial_are_those_of_the_formula(llama: Path, tmp_path: Path) -> None:
    # One step per epoch: what is reported is the loss at the weights that the epoch started from.
    config = tiny.trial(llama, loss={"criterion": {"type": "uniform"}}, optim={"batch_size": 6}, epochs=1)
    [result] = run(config, tmp_path)
    warm = workspace(config)
    with torch.no_grad():
        batch = collate(warm.forget, warm.padding, warm.device)
        ce = token_ce(answer_logits(warm.reference, batch), batch.target_N)
    assert result.metrics["train.forget_loss"] == pytest.approx(-ce.mean().item(), rel=1e-5)
    assert result.metrics["train.weight"] == pytest.approx(1.0)


def test_what_is_measured_of_uld_is_the_difference_and_what_is_trained_is_the_assistant(
    llama: Path, tmp_path: Path
) -> None:
    config = tiny.trial(llama, loss={**ULD, "criterion": {**ULD["criterion"], "weight": 0.5}}, epochs=6)
    first, *_, last = run(config, tmp_path)
    warm = workspace(config)
    [place] = (tmp_path / "checkpoint").iterdir()
    assistant = AutoModelForCausalLM.from_pretrained(place)
    batch = collate(warm.forget, warm.padding, warm.device)
    with torch.no_grad():
        logits = [answer_logits(model, batch) for model in (warm.reference, assistant)]
    learnt = token_ce(logits[1], batch.target_N).mean().item()
    assert learnt < token_ce(logits[0], batch.target_N).mean().item() - 1  # it has learnt the answers,
    assert last.metrics["train.forget_loss"] < first.metrics["train.forget_loss"]
    assert last.metrics["forget.nll"] > first.metrics["forget.nll"] + 0.5  # and so the difference forgets them
    difference = token_ce(logits[0] - 0.5 * logits[1], batch.target_N)
    means = [row.mean().item() for row in difference.split([len(each.answer) for each in warm.forget])]
    assert last.metrics["forget.nll"] == pytest.approx(sum(means) / len(means), rel=1e-5)
    assert same(dict(warm.reference.state_dict()), dict(warm.working.state_dict()))


def test_a_coefficient_of_0_switches_its_term_off(llama: Path, tmp_path: Path) -> None:
    def end(name: str, **loss: Any) -> dict[str, torch.Tensor]:
        run(tiny.trial(llama, loss=loss, epochs=1), tmp_path / name)
        return saved(tmp_path / name)

    uniform, npo = {"type": "uniform"}, {"type": "npo"}
    assert same(end("a", criterion=uniform, forget_coefficient=0), end("b", criterion=npo, forget_coefficient=0))
    assert same(end("c", retain={"coefficient": 0}), end("d", retain={"term": "kl", "coefficient": 0}))
    assert not same(end("e", criterion=npo), end("f", criterion=npo, forget_coefficient=0.1))
    assert not same(end("g"), end("h", retain={"coefficient": 0.1}))


# -- what must not change a result -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sections",
    [
        {"loss": {"criterion": {"type": "npo"}, "retain": {"term": "kl"}}},
        {"loss": {"criterion": {"type": "kto"}}, "model": LORA, "optim": {"micro_batch_size": 3}},
        {"loss": {"criterion": {"type": "ihl"}}, "model": FILA},
        {"loss": {"selection": "random"}, "optim": {"mask": {"type": "wagle"}}},
        {"loss": ULD, "model": LORA},
        {"loss": {"criterion": {"type": "rmu"}, "retain": {"term": "activation"}}},
    ],
    ids=["full", "lora", "fila", "wagle", "uld", "rmu"],
)
def test_two_trials_of_one_config_are_identical_whatever_ran_between_them(
    sections: dict[str, Any], llama: Path, tmp_path: Path
) -> None:
    config = tiny.trial(llama, **sections)
    first = run(config, tmp_path / "first")
    again = run(config, tmp_path / "again")
    run(tiny.trial(llama, model=FILA, optim={"lr": 0.1}, seed=5, epochs=1), tmp_path / "another")
    run(tiny.trial(llama, optim={"lr": 0.1}, seed=5, epochs=1), tmp_path / "a third")
    later = run(config, tmp_path / "later")
    assert numbers(first) == numbers(again) == numbers(later)
    assert same(saved(tmp_path / "first"), saved(tmp_path / "again"))
    assert same(saved(tmp_path / "first"), saved(tmp_path / "later"))


@both_ways
def test_a_trial_is_the_same_in_a_new_workspace(model: dict[str, Any], llama: Path, tmp_path: Path) -> None:
    config = tiny.trial(llama, model=model)
    warm = run(config, tmp_path / "warm")
    with tiny.cold():
        assert numbers(run(config, tmp_path / "cold")) == numbers(warm)


@both_ways
def test_another_seed_is_another_trial(model: dict[str, Any], llama: Path, tmp_path: Path) -> None:
    one, other = (run(tiny.trial(llama, model=model, seed=seed), tmp_path / str(seed)) for seed in (0, 1))
    assert one[-1].metrics != other[-1].metrics


@both_ways
def test_evaluating_more_often_changes_no_weight(
    model: dict[str, Any], llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny.trial(llama, model=model, epochs=3)
    once = run(config, tmp_path / "once")

    see = Evaluator.see

    def twice(*args: Any, **kwargs: Any) -> Any:
        see(*args, **kwargs)
        torch.rand(7)  # an evaluation that draws numbers, too
        return see(*args, **kwargs)

    monkeypatch.setattr(Evaluator, "see", twice)
    assert numbers(run(config, tmp_path / "twice")) == numbers(once)
    assert same(saved(tmp_path / "once"), saved(tmp_path / "twice"))


def test_logging_weights_adds_metrics_and_changes_nothing_else(llama: Path, tmp_path: Path) -> None:
    loss = {"criterion": {"type": "satimp"}, "selection": "random"}
    plain = run(tiny.trial(llama, loss=loss), tmp_path / "plain")
    logged = run(tiny.trial(llama, loss=loss, log_weights=True), tmp_path / "logged")
    for one, other in zip(plain, logged, strict=True):
        added = other.metrics.keys() - one.metrics.keys()
        assert added
        assert all(name.startswith("weights.") for name in added)
        assert {name: other.metrics[name] for name in one.metrics} == one.metrics
    assert same(saved(tmp_path / "plain"), saved(tmp_path / "logged"))
    none = run(tiny.trial(llama, loss={"criterion": {"type": "npo"}}, log_weights=True), tmp_path / "npo")
    assert not [name for name in none[0].metrics if name.startswith("weights.")]  # it has none


def test_an_adapter_leaves_the_base_weights_alone(llama: Path, tmp_path: Path) -> None:
    config = tiny.trial(llama, model=LORA)
    run(config, tmp_path)
    warm = workspace(config)
    assert same(dict(warm.working.state_dict()), dict(warm.reference.state_dict()))
    assert same(dict(warm.reference.state_dict()), dict(workspace(config).reference.state_dict()))


def test_gradients_are_clipped_before_the_step(llama: Path, tmp_path: Path) -> None:
    # Adam undoes a scale, but not below its epsilon of 1e-8.
    run(tiny.trial(llama, optim={"clip": 1e-14}), tmp_path)
    start = workspace(tiny.trial(llama)).reference.state_dict()
    end = saved(tmp_path)
    assert all(torch.allclose(end[name], start[name], rtol=0, atol=1e-5) for name in end)
    assert not all(torch.equal(end[name], start[name]) for name in end)


def test_the_schedule_is_laid_out_for_the_full_budget_however_far_the_trial_gets(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []

    def watch(optim: OptimConfig, step: int, total: int) -> float:
        seen.append((step, total))
        return learning_rate(optim, step, total)

    monkeypatch.setattr(trials.optimiser, "learning_rate", watch)
    stream = run_trial(tiny.trial(llama, epochs=5), folder=tmp_path)
    next(stream)
    stream.close()
    run(tiny.trial(llama, epochs=5), tmp_path, resume_from=tmp_path / "checkpoint")
    assert seen == [(step, 10) for step in range(10)]


# -- rows and partners ------------------------------------------------------------------------------------------------


def partners(config: TrialConfig, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[Example, Example]]:
    """Which retain row went with which forget row, per epoch."""
    seen: list[tuple[Example, Example]] = []

    def watch(examples: list[Example], *args: Any) -> Any:
        half = len(examples) // 2
        seen.extend(zip(examples[:half], examples[half:], strict=True))
        return collate(examples, *args)

    with monkeypatch.context() as patch:
        patch.setattr(trials.passes, "collate", watch)
        run(config, folder)
    rows = len(workspace(config).forget)
    return [dict(seen[start : start + rows]) for start in range(0, len(seen), rows)]


def test_the_retain_partner_of_a_row_follows_seed_epoch_and_row_alone(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of(**sections: Any) -> list[dict[Example, Example]]:
        return partners(tiny.trial(llama, **{"epochs": 3, **sections}), tmp_path, monkeypatch)

    base = of()
    assert len(base) == 3
    warm = workspace(tiny.trial(llama))
    for epoch in base:
        assert set(epoch) == set(warm.forget)
        assert set(epoch.values()) <= set(warm.pool)
    assert base[0] != base[1] != base[2]
    assert len(set(base[0].values())) > 1
    for sections in (
        {"optim": {"batch_size": 6}},
        {"optim": {"micro_batch_size": 1}},
        {"optim": {"lr": 1e-5}},
        {"model": LORA},
        {"epochs": 4},
    ):
        assert of(**sections)[:3] == base
    assert of(seed=1) != base


def test_every_forget_row_is_visited_once_an_epoch_in_an_order_of_its_own(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def orders(seed: int) -> list[list[Example]]:
        config = tiny.trial(llama, epochs=3, seed=seed)
        return [list(epoch) for epoch in partners(config, tmp_path, monkeypatch)]

    first, second, third = orders(0)
    assert first != second != third != first
    rows = workspace(tiny.trial(llama)).forget
    assert set(first) == set(second) == set(third) == set(rows)
    assert len(first) == len(second) == len(third) == len(rows)
    assert orders(1) != [first, second, third]


def test_rows_that_are_measured_are_never_replayed(llama: Path) -> None:
    warm = workspace(tiny.trial(llama))
    assert not set(warm.pool) & set(tiny.examples(warm, "retain"))
    assert not set(warm.forget) & {*warm.pool, *tiny.examples(warm, "retain"), *tiny.examples(warm, "general")}


# -- what ends a trial -------------------------------------------------------------------------------------------------


def test_a_loss_that_is_nan_ends_the_trial_with_its_name_and_place(llama: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(llama, broken)
    tensors = load_file(broken / "model.safetensors")
    tensors["model.norm.weight"][0] = float("nan")
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with tiny.cold(), pytest.raises(Diverged, match=r"train\.forget_loss is nan in epoch 1, step 1"):
        run(tiny.trial(broken), tmp_path / "trial")
    assert not (tmp_path / "trial").exists()


def test_a_learning_rate_that_is_far_too_high_ends_the_trial_and_the_next_one_is_sound(
    llama: Path, tmp_path: Path
) -> None:
    config = tiny.trial(llama)
    expected = run(config, tmp_path / "before")
    wild = tiny.trial(llama, optim={"lr": 10.0, "weight_decay": 1e30}, epochs=4)
    with pytest.raises(Diverged, match=r"is (nan|-?inf) (in|after) epoch \d"):
        run(wild, tmp_path / "wild")
    assert numbers(run(config, tmp_path / "after")) == numbers(expected)


def test_a_metric_that_is_not_finite_ends_the_trial(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METRICS, "forget.nll", replace(METRICS["forget.nll"], function=lambda seen: math.inf))
    with pytest.raises(Diverged, match=r"forget\.nll is inf after epoch 1"):
        run(tiny.trial(llama), tmp_path)


@pytest.mark.parametrize(
    "where", ["asking.answer_ce", "passes.score", "evaluate.score", "unlearn.save_file", "unlearn.wagle_masks"]
)
def test_running_out_of_memory_is_a_result_wherever_it_happens(
    where: str, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    # npo scores the reference before its first epoch.
    config = tiny.trial(llama, loss={"criterion": {"type": "npo"}}, optim={"mask": {"type": "wagle"}})
    workspace(config).reference_ce.clear()  # an earlier trial may have asked for them
    monkeypatch.setattr(f"trials.{where}", full)
    with pytest.raises(OutOfMemory, match=r"out of memory in epoch 1: CUDA out of memory\. Tried to allocate"):
        run(config, tmp_path)


@pytest.mark.parametrize(
    ("said", "result"),
    [
        ("CUDA error: out of memory", OutOfMemory),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", OutOfMemory),
        ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes", OutOfMemory),
        ("CUDA error: an illegal memory access was encountered", RuntimeError),
    ],
)
def test_memory_that_runs_out_is_told_from_a_broken_device(
    said: str, result: type[Exception], llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(said)

    config = tiny.trial(llama)
    monkeypatch.setattr("trials.asking.answer_ce", fail)
    with pytest.raises(result, match=re.escape(said)):
        run(config, tmp_path)


def test_a_failed_trial_is_told_from_a_bug() -> None:
    assert issubclass(Diverged, TrialFailed)
    assert issubclass(OutOfMemory, TrialFailed)
    assert not issubclass(TrialFailed, (ValueError, RuntimeError))


def test_our_own_target_is_trained_on_first_use(tmp_path: Path) -> None:
    config = TrialConfig(
        benchmark=tiny.AUTHORS, model=ModelConfig(tiny=tiny.TINY, device="cpu"), epochs=1, optim={"lr": 1e-3}
    )
    with tiny.cold():
        [result] = run(config, tmp_path)
    assert result.last
