"""The premise of every sweep on the embedded benchmark: its target knows the authors, and can forget them."""

from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

import search_spaces
from trials.benchmarks import load_benchmark
from trials.config import ModelConfig, OptimConfig, TrialConfig
from trials.objectives import Forget, LossConfig
from trials.presets import PRESETS
from trials.references import reference_log
from trials.unlearn import run_trial

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

BASE = TrialConfig(model=ModelConfig(device="cpu"))
CURED, KEPT = 0.15, 0.6
"""Extraction strength: what counts as forgotten on the forget set, and as kept on the retain set."""

SETTINGS: dict[str, tuple[dict[str, Any], float]] = {
    "uniform": ({}, 3e-4),
    "saturation": ({"beta1": 5.0}, 3e-4),
    "importance": ({"beta2": 1.0}, 3e-4),
    "satimp": ({"beta1": 5.0, "beta2": 0.1}, 3e-4),
    "mixture": ({}, 2e-4),
    "annotated": ({}, 3e-4),
    "tnpo": ({}, 3e-4),
    "wtnpo": ({}, 3e-4),
    "loss_magnitude": ({}, 2e-4),
    "npo": ({"beta": 0.1}, 3e-4),
    "simnpo": ({"beta": 2.5}, 3e-4),
    "dpo": ({}, 1.5e-3),
    "kto": ({"beta": 1.0}, 2e-4),
    "idk": ({}, 1e-3),
    "rmu": ({}, 3e-4),
    "undial": ({"strength": 10.0}, 3e-4),
    "flat": ({}, 3e-4),
    "ihl": ({}, 3e-4),
    "uld": ({}, 2e-3),
}
"""Type -> its parameters and the learning rate: those of a preset where it forgets within 8 epochs here."""


def strengths(which: str) -> dict[str, float]:
    """Extraction strength of the target or the retain model on every row set."""
    benchmark = load_benchmark(BASE.benchmark)
    log = reference_log(BASE, benchmark, "target" if which == "target" else "retain")
    assert log is not None
    values = log.values
    return {name.split(".")[0]: value for name, value in values.items() if name.endswith("extraction_strength")}


def course(config: TrialConfig, folder: Path) -> list[tuple[float, float]]:
    """Extraction strength on forget and retain set after each epoch."""
    return [
        (result.metrics["forget.extraction_strength"], result.metrics["retain.extraction_strength"])
        for result in run_trial(config, folder=folder)
    ]


def with_loss(loss: dict[str, Any], **optim: float) -> TrialConfig:
    changes = {"loss": LossConfig.model_validate(loss), "optim": BASE.optim.model_copy(update=optim)}
    return BASE.model_copy(update=changes)


def test_the_target_has_memorised_what_it_was_trained_on_and_nothing_else() -> None:
    target = strengths("target")
    assert target["forget"] >= 0.9
    assert target["retain"] >= 0.9
    assert target["general"] >= 0.9
    assert target["holdout"] <= 0.06


def test_the_retain_model_knows_the_retain_set_and_not_the_forget_set() -> None:
    retain = strengths("retain")
    assert retain["forget"] <= 0.06
    assert retain["retain"] >= 0.9


def test_every_objective_has_a_setting() -> None:
    assert list(SETTINGS) == [each.model_fields["type"].default for each in get_args(get_args(Forget)[0])]


@pytest.mark.parametrize("name", SETTINGS)
def test_every_objective_makes_the_target_forget_more_than_it_loses(name: str, tmp_path: Path) -> None:
    parameters, lr = SETTINGS[name]
    retain = {"term": "uniform", "coefficient": 5.0} if name == "uld" else {"term": "nll"}
    epochs = course(with_loss({"criterion": {"type": name, **parameters}, "retain": retain}, lr=lr), tmp_path)
    assert len(epochs) == 8
    forget, kept = epochs[-1]
    assert forget < 0.5, "the target starts at 0.9 or more"
    assert kept > forget + 0.05


def test_satimp_at_the_smoke_sweeps_setting_forgets_and_keeps(tmp_path: Path) -> None:
    sweep = yaml.safe_load(Path(search_spaces.__path__[0], "smoke.yaml").read_text(encoding="utf-8"))
    config = TrialConfig.model_validate(sweep["trial"] | {"model": {"device": "cpu"}})
    forget, retain = course(config, tmp_path)[-1]
    assert forget <= CURED
    assert retain >= KEPT


@pytest.mark.parametrize("lr", [3e-4, 6e-4, 1e-3])
def test_gradient_ascent_without_a_retain_term_forgets_only_with_the_retain_set(lr: float, tmp_path: Path) -> None:
    loss, _ = PRESETS["gradient_ascent"]
    epochs = course(with_loss(loss, lr=lr), tmp_path)
    assert epochs[-1][0] < 0.9  # it does move
    assert not [(forget, retain) for forget, retain in epochs if forget <= CURED and retain >= KEPT]


def test_an_adapter_forgets_and_keeps_too(tmp_path: Path) -> None:
    # LoRA wants a rate ten times that of full fine-tuning.
    base = with_loss({"criterion": {"type": "satimp"}}, lr=5e-3)
    model = ModelConfig.model_validate({"device": "cpu", "adapter": {"type": "lora"}})
    forget, retain = course(base.model_copy(update={"model": model}), tmp_path)[-1]
    assert forget <= CURED
    assert retain >= KEPT


def test_loku_forgets_from_its_own_start_of_lora(tmp_path: Path) -> None:
    base = with_loss({"criterion": {"type": "ihl"}}, lr=2e-3)
    model = ModelConfig.model_validate({"device": "cpu", "adapter": {"type": "lora", "init": "fila"}})
    forget, retain = course(base.model_copy(update={"model": model}), tmp_path)[-1]
    assert forget <= CURED
    assert retain > forget + 0.05


def test_satimp_forgets_through_the_weights_that_wagle_leaves_it(tmp_path: Path) -> None:
    base = with_loss({"criterion": {"type": "satimp"}}, lr=6e-4)
    optim = OptimConfig.model_validate(base.optim.model_dump() | {"mask": {"type": "wagle", "fraction": 0.5}})
    forget, retain = course(base.model_copy(update={"optim": optim}), tmp_path)[-1]
    assert forget <= CURED
    assert retain >= KEPT
