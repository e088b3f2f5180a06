"""What is refused in the part of a sweep file that says how settings are proposed, stopped, paid for and confirmed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.config import SweepConfig, load_sweep
from orchestrator.problems import ConfigError
from tests.sweeps import told
from trials.config import TrialConfig

SPACE = {
    "loss.criterion": {"one_of": {"satimp": {"beta1": {"float": [1, 5]}}, "npo": {"beta": {"float": [0.1, 1]}}}},
    "loss.granularity": {"choice": ["token", "instance"], "when": {"loss.criterion": "satimp"}},
    "optim.lr": {"float": [1e-4, 1e-3], "log": True},
}


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def load(place: Path, content: dict[str, Any], *overrides: str) -> SweepConfig:
    file = place / "sweep.yaml"
    satimp = {"loss": {"criterion": {"type": "satimp", "beta1": 2.0}}}
    raw = {"name": "x", "trial": satimp, "space": SPACE} | content
    file.write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
    return load_sweep(str(file), overrides, output=place)[0]


REFUSED = """
{phases: [{sampler: {type: tpe}}], sampler: {type: random}}
  sampler: there are `phases` too, and each has a sampler of its own; drop one of the two
{phases: [{sampler: {type: tpe}, trals: 3}]}
  phases.0.trals: unknown key; did you mean 'trials'?
{phases: [{sampler: {type: tpee}}]}
  phases.0.sampler.type: 'tpee' is not known; did you mean 'tpe'?
{phases: [{sampler: {type: tpe}}, {sampler: {type: gp}}]}
  phases.0.trials: null takes all that the budget leaves, so phases.1 never begins; say how many trials
{phases: [{trials: 60}, {sampler: {type: gp}}], baselines: [wga, npo_ou], budget: {trials: 62}}
  phases.1: never begins: 62 trials run before it and budget.trials is 62; raise the budget or shorten those before it
{phases: [{sampler: {type: ablation, base: knee}}]}
  phases.0.sampler.base: 'knee' of an empty front: nothing runs before; put a phase before it or take base: trial
{sampler: {type: grid}, space: {}}
  sampler: a grid of nothing: there is no `space`; add one
{sampler: {type: ablation, values: {loss.granularty: [token]}}}
  sampler: loss.granularty = token: loss.granularty: unknown key; did you mean 'granularity'?
{sampler: {type: ablation, values: {optim.lr: [0.1, 20]}}}
  sampler: optim.lr = 20: optim.lr: 20 must be less than or equal to 10; the default is 0.0003
{sampler: {type: ablation, values: {optim.batch_size: []}}}
  sampler: 'optim.batch_size' is not searched at the base, so its values are not known; list them
{sampler: {type: ablation, design: paired, values: {optim.lr: [0.1, 0.2], optim.batch_size: [4]}}}
  sampler: paired takes lists of equal length: optim.lr has 2, optim.batch_size has 1; make them equal or use factorial
{sampler: {type: ablation, values: {epochs: [4, 8]}}}
  sampler.values.epochs: is the same for every trial of a sweep; set it in `trial`, one sweep a value
{sampler: {type: ablation, base: {benchmark.seed: 3}}}
  sampler.base.benchmark.seed: is the same for every trial of a sweep; set it in `trial`, one sweep a value
{sampler: {type: ablation, base: {optim.lrr: 3}}}
  sampler.base: optim.lrr: unknown key; did you mean 'lr'?
{sampler: {type: ablation, design: leave_one_out}}
  sampler.base: its settings are those of `trial`, so nothing can be left out; set others
{sampler: {type: ablation}, space: {}}
  sampler.values: nothing is varied: add values, or a `space` to take them from
{sampler: {type: ablation, base: knee}, baselines: [wga], space: {}}
  sampler.values: there is no `space`; list what is to be varied
{sampler: {type: ablation, base: knee, values: {optim.batch_size: [0], loss.criterion.beta: [0.2]}}, baselines: [wga]}
  sampler.values.optim.batch_size: 0: optim.batch_size: 0 must be greater than 0; the default is 8
{sampler: {type: ablation, base: knee, values: {optim.batch_size: []}}, baselines: [wga]}
  sampler.values.optim.batch_size: 'optim.batch_size' is not searched, so its values are not known; list them
{scheduler: {type: asha, metric: forget.nll}}
  scheduler.metric: 'forget.nll' is none of the objectives; choose among ...
{scheduler: {type: median, metric: retain.extraction_strenght}}
  scheduler.metric: 'retain.extraction_strenght' is none of the objectives; did you mean 'retain.extraction_strength'?
{scheduler: {type: median, grace_period: 8}}
  scheduler.grace_period: 8 must be less than trial.epochs 8, or nothing is ever stopped; lower it or ...
{scheduler: {type: asha, brackets: 3, grace_period: 2}}
  scheduler.brackets: the last of 3 brackets has its first rung at epoch 8, which must be less than trial.epochs 8; ...
{scheduler: {type: asha, floors: {retain.probabilty: 0.1}}}
  scheduler.floors.retain.probabilty: 'retain.probabilty' is not a metric; did you mean 'retain.probability'?
{scheduler: {type: median, floors: {forget.probability: 0.1}}}
  scheduler.floors.forget.probability: 'forget.probability' is better low, and a floor stops what is under it; ...
{constraints: {retain.probability: 0.5 * target}}
  constraints.retain.probability: '0.5 * target' is no bound; write it as in '>= 0.5 * target', ... or '<= 0.2'
{constraints: {retain.probabilty: ">= 0.5"}}
  constraints.retain.probabilty: 'retain.probabilty' is not a metric; did you mean 'retain.probability'?
{constraints: {forget.rouge_l_recall: "<= 0.5"}}
  constraints.forget.rouge_l_recall: ... takes generation, and rungs compare metrics of one pass only; ...
{constraints: {retain.probability: ">= 0.9 * retain"}, trial: {model: {path: /tmp}}}
  constraints.retain.probability: '>= 0.9 * retain': there is no retain model; set trial.model.retain_path or ...
{objectives: {forget.extraction_strength: max, retain.probability: max}}
  objectives.forget.extraction_strength: max is the wrong way: ... is better lower; write min
{objectives: {retain.extraction_strength: min}}
  objectives.retain.extraction_strength: min is the wrong way: ... is better higher; write max
{budget: {gpu_hours: 4}}
  budget.gpu_hours: 4: no trial takes a GPU, so it is never used up; set resources.gpu or use budget.hours
{resources: {gpu: 1.5}}
  resources.gpu: 1.5: ... several whole ones, above 1 it must be a whole number; write 1 or 2
{resources: {gpu: 2}}
  resources.gpu: 2: a trial uses one GPU unless ...; set trial.model.device_map: balanced, or take 1 (DDP ...)
{resources: {pack: 8}}
  resources.pack: 8: only LoRA trials share weights; set trial.model.adapter.type: lora
{resources: {pack: 8, gpu: auto}, trial: {model: {adapter: {type: lora}}}, tracking: {system_metrics: true}}
  resources.gpu: auto: a probe measures a trial by itself, not a pack; write a number, as in 1
  tracking.system_metrics: they are those of a process, which runs 8 trials (resources.pack); leave it out
{resources: {pack: 2}, trial: {model: {adapter: {type: lora}}}, space: {model.dtype: {choice: [float32, bfloat16]}}}
  resources.pack: 2: its trials share one model in one dtype; take what is not model.adapter out of the space
{resources: {pack: 2, gpu: 2}, trial: {model: {adapter: {type: lora}, device_map: balanced}}}
  resources.pack: 2: a pack has one GPU, for itself; write resources.gpu: 1, or 0 for none
{resources: {pack: 2, gpu: 0.5}, trial: {model: {adapter: {type: lora}}}}
  resources.pack: 2: a pack has one GPU, for itself; write resources.gpu: 1, or 0 for none
{resources: {pack: 2}, trial: {model: {adapter: {type: lora, init: fila}}, loss: {criterion: {type: ihl}}}}
  resources.pack: 2: uld and fila need a whole model for each trial, so nothing is shared; leave them out, or ...
{resources: {pack: 0}}
  resources.pack: 0 must be ...
{resources: {gpu: many}}
  resources.gpu: 'many' must be auto or a number of GPUs, 0 or more; write 0, 0.5, 1, 2 or auto
{resources: {gpu: -1}}
  resources.gpu: -1 must be auto or a number of GPUs, 0 or more; ...
{resources: {gpu: auto, margin: 1}}
  resources.margin: 1 must be less than 1; the default is 0.1
{resources: often}
  resources: 'often' must be a mapping with keys cpu, gpu, margin, ...; write key: value
{trial: {model: {device_map: balanced, device: cpu}}}
  trial.model: device_map 'balanced' lays the model over all GPUs and device is 'cpu'; leave device at auto, or ...
{space: {model.device_map: {choice: [auto, balanced]}}}
  space.model.device_map: ...
{budget: {epochs: true}}
  budget.epochs: 'true' must be a valid integer, ...
{trial: {epochs: true, optim: {lr: false}}}
  trial.optim.lr: 'false' must be a valid number, ...
  trial.epochs: 'true' must be a valid integer, ...
{replicates: 9, budget: {trials: 8}}
  replicates: 9 seeds of a point are more than budget.trials 8; lower it or raise the budget
{phases: [{sampler: {type: tpe}, replicates: 9}], budget: {trials: 8}}
  phases.0.replicates: 9 seeds of a point are more than budget.trials 8; lower it or raise the budget
{replicates: 3, baselines: [wga, npo_ou], budget: {trials: 5}}
  budget.trials: 5 is less than the 2 baselines times 3 seeds; raise it or drop baselines
{space: {}, baselines: [wga], replicates: 2, budget: {trials: 5}}
  budget.trials: 5 trials, of which only 4 can differ without a `space`; add one, lower it, or raise `replicates`
{confirm: {seeds: 1}}
  confirm.seeds: 1 must be greater than or equal to 2; the default is 3
{warm_start: [nowhere]}
  warm_start.0: ...nowhere' is not a run folder; give one that `run` wrote
"""


@pytest.mark.parametrize(("text", "expected"), told(REFUSED))
def test_bad_input_is_told_with_its_place_its_value_the_rule_and_a_remedy(
    text: str, expected: list[str], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"sweep.yaml: \d problem") as caught:
        load(tmp_path, yaml.safe_load(text))
    lines = str(caught.value).splitlines()[1:]
    assert len(lines) == len(expected), lines
    for line, pattern in zip(lines, expected, strict=True):
        assert re.fullmatch(re.escape(pattern).replace(r"\.\.\.", ".*"), line), line


FINE: list[dict[str, Any]] = [
    {"sampler": {"type": "grid", "levels": 4}, "budget": {"trials": 8}},  # cut by its budget: `plan` tells
    {"sampler": {"type": "ablation"}},
    {"sampler": {"type": "ablation", "design": "leave_one_out", "base": {"optim.lr": 9e-4}}},
    {"sampler": {"type": "ablation", "base": "knee"}, "baselines": ["wga"]},
    {"sampler": {"type": "ablation", "values": {"optim.batch_size": [4, 16]}}, "space": {}, "budget": {"trials": 9}},
    {"phases": [{"trials": 20}, {"sampler": {"type": "ablation", "base": "knee"}, "replicates": 3}]},
    {"phases": [{"sampler": {"type": "grid"}}, {"sampler": {"type": "tpe"}}]},
    {
        "scheduler": {
            "type": "asha",
            "metric": "retain.extraction_strength",
            "promotion": "pause",
            "brackets": 2,
            "grace_period": 2,
        }
    },
    {"scheduler": {"type": "none"}, "constraints": {"forget.rouge_l_recall": "<= 0.5"}},
    {"constraints": {"retain.probability": ">= 0.9 * retain"}, "confirm": {}, "replicates": 2},
    {"budget": {"gpu_hours": 4, "epochs": 100, "hours": 0.5}, "resources": {"gpu": 0.5}},
    {"space": {}, "budget": {"trials": 2}, "baselines": ["wga"]},
    {"trial": {"log_weights": True}},
]


@pytest.mark.parametrize("content", FINE, ids=[yaml.safe_dump(each, default_flow_style=True).strip() for each in FINE])
def test_what_means_something_is_accepted(content: dict[str, Any], tmp_path: Path) -> None:
    sweep = load(tmp_path, content)
    assert sweep.search_phases


def test_what_only_follows_from_a_mistake_is_not_told(tmp_path: Path) -> None:
    wrong = {
        "phases": [{"sampler": {"type": "tpe"}, "trials": 0}, {"sampler": {"type": "gp"}}],
        "sampler": {"type": "x"},
    }
    with pytest.raises(ConfigError, match="2 problems") as caught:
        load(tmp_path, wrong)
    assert {problem.path for problem in caught.value.problems} == {"phases.0.trials", "sampler.type"}


def test_constrained_metrics_are_measured_of_every_trial(tmp_path: Path) -> None:
    sweep = load(tmp_path, {"constraints": {"retain.truth_ratio": "<= 0.5"}, "scheduler": {"type": "none"}})
    assert "retain.truth_ratio" in sweep.trial.evaluation.metrics


def test_the_short_form_of_resources_is_the_long_one(tmp_path: Path) -> None:
    long = load(tmp_path, {"resources": {"gpu": "auto", "margin": 0.2}}).resources
    assert load(tmp_path, {"resources": "auto"}, "resources.margin=0.2").resources == long
    assert load(tmp_path, {}, "resources=auto", "resources.margin=0.2").resources == long
    several = {"trial": {"model": {"device_map": "balanced"}}, "resources": {"gpu": 2}}
    assert load(tmp_path, several).resources.bundle == {"CPU": 1.0, "GPU": 2.0}


def test_the_trials_of_a_pack_take_equal_parts_of_what_it_takes(tmp_path: Path) -> None:
    lora = {"trial": {"model": {"adapter": {"type": "lora"}}}}
    resources = load(tmp_path, lora | {"resources": {"pack": 3, "gpu": 1, "memory": 3}}).resources
    assert resources.bundle == {"CPU": 0.3333, "GPU": 0.3333, "memory": float(2**30)}
    assert resources.process.bundle == {"CPU": 1.0, "GPU": 1.0, "memory": 3.0 * 2**30}
    ranks = {"space": {"model.adapter.rank": {"choice": [4, 8]}}, "resources": {"pack": 8}}
    assert load(tmp_path, lora | ranks).resources.share == 0


def test_set_reaches_into_phases_and_appends_one(tmp_path: Path) -> None:
    phases = {"phases": [{"trials": 20}]}
    sweep = load(tmp_path, phases, "phases.0.trials=30", "phases.1={sampler: {type: gp}}", "phases.1.sampler.startup=4")
    assert [(phase.trials, phase.sampler.type) for phase in sweep.phases] == [(30, "tpe"), (None, "gp")]
    assert sweep.phases[1].sampler.model_dump()["startup"] == 4


def test_how_many_trials_there_are_at_most_is_known_beforehand(tmp_path: Path) -> None:
    found = {}
    for words, content in {
        "budget": {"budget": {"trials": 20}},
        "phases": {"phases": [{"trials": 6}, {"sampler": {"type": "gp"}, "trials": 4}], "baselines": ["wga"]},
        "design": {"sampler": {"type": "ablation"}},
        "epochs": {"budget": {"trials": 20, "epochs": 50}},
        "choices": {"space": {"loss.granularity": {"choice": ["token", "instance"]}}},
    }.items():
        sweep = load(tmp_path, content)
        found[words] = (sweep.most_trials, sweep.runs_most_trials)
    assert found == {
        "budget": (20, True),
        "phases": (11, True),
        "design": (64, False),
        "epochs": (20, False),
        "choices": (64, False),
    }


def test_yes_is_no_number_where_a_trial_is_made_either() -> None:
    with pytest.raises(ValueError, match="valid integer"):
        TrialConfig.model_validate({"epochs": True})
    assert TrialConfig.model_validate({"log_weights": True}).log_weights is True
