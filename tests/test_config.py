"""Sweep files: what is read, what is refused, and how it is told."""

from __future__ import annotations

import json
import re
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

import orchestrator.config
from orchestrator.config import SweepConfig, load_sweep, reload_sweep
from orchestrator.events import Anchor, SweepInfo
from orchestrator.folder import check_folder
from orchestrator.ledger import Ledger
from orchestrator.problems import ConfigError, did_you_mean, find_sweep, read_yaml, require_run_folder, shipped
from orchestrator.single import load_trial
from orchestrator.trial_checks import absence
from tests.sweeps import told
from trials import config as trial_config
from trials.benchmarks import Benchmark, load_benchmark
from trials.config import TrialConfig
from trials.identity import fingerprint, model_digest
from trials.objectives import NPO, LossConfig
from trials.presets import PRESETS


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder whose name has all that breaks careless code."""
    folder = tmp_path / 'it\'s a "füll" & $HOME 日本'
    folder.mkdir()
    return folder


def write(place: Path, content: dict[str, Any] | str = "") -> str:
    file = place / "sweep file.yaml"
    if isinstance(content, dict):
        content = yaml.safe_dump({"name": "x"} | content, sort_keys=False)
    file.write_text(content, encoding="utf-8")
    return str(file)


def load(place: Path, content: dict[str, Any] | str = "", *overrides: str) -> SweepConfig:
    return load_sweep(write(place, content or {}), overrides, output=place)[0]


def refused(place: Path, content: dict[str, Any] | str, *overrides: str) -> dict[str, str]:
    """Path -> message of each problem; each stands once, on a line of its own."""
    with pytest.raises(ConfigError, match="problem") as caught:
        load(place, content, *overrides)
    error = caught.value
    lines = str(error).splitlines()
    assert len(lines) == 1 + len(error.problems), "one line a problem"
    assert len(set(error.problems)) == len(error.problems)
    return {problem.path: problem.message for problem in error.problems}


# -- what a file may hold ----------------------------------------------------------------------------------------------


def test_a_name_is_enough(place: Path) -> None:
    sweep, benchmark = load_sweep(write(place, {}), output=place)
    assert sweep.trial == TrialConfig()
    assert sweep.objectives == {"forget.extraction_strength": "min", "retain.extraction_strength": "max"}
    assert sweep.worst() == {"forget.extraction_strength": 1.0, "retain.extraction_strength": 0.0}
    assert sweep.search_space.size() == 1
    assert isinstance(benchmark, Benchmark)


def test_an_exponent_without_a_dot_is_a_number(place: Path) -> None:
    text = "name: x\nspace:\n  optim.lr: {float: [1e-4, 1E-3], log: true}\ntrial: {optim: {lr: 2e-4}}\n"
    sweep = load(place, text)
    assert sweep.space["optim.lr"]["float"] == [1e-4, 1e-3]
    assert sweep.trial.optim.lr == 2e-4
    assert read_yaml(write(place, "a: [-1e5, +1.e2, 1e, e4, 1e-4x]"))["a"] == [-1e5, 100.0, "1e", "e4", "1e-4x"]


def test_directions_may_be_written_out(place: Path) -> None:
    sweep = load(
        place, {"objectives": {"forget.nll": "maximize", "retain.nll": "min"}, "reference_point": {"retain.nll": 9}}
    )
    assert sweep.objectives == {"forget.nll": "max", "retain.nll": "min"}
    assert sweep.worst() == {"forget.nll": 0.0, "retain.nll": 9.0}


def test_relative_paths_become_absolute_before_a_worker_sees_them(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows(place / "tofu", forget=20, retain=60)
    (place / "model").mkdir()
    monkeypatch.chdir(place)
    benchmark = {"type": "tofu", "path": "tofu", "split": "forget01", "retain_eval": 20}
    sweep = load(place, {"trial": {"benchmark": benchmark, "model": {"path": "model"}}})
    assert sweep.trial.benchmark.model_dump()["path"] == str(place / "tofu")
    assert sweep.trial.model.path == str(place / "model")


def test_a_benchmark_from_the_hub_is_left_for_later(place: Path) -> None:
    sweep, benchmark = load_sweep(write(place, {"trial": {"benchmark": {"type": "tofu"}}}), output=place)
    assert benchmark is None
    assert sweep.trial.benchmark.name == "tofu-forget10"


def test_a_shipped_sweep_is_found_by_name_and_by_path(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    for file in ("smoke", "smoke.yaml", "search_spaces/smoke.yaml"):
        assert find_sweep(file) == shipped()["smoke"]
    (place / "smoke.yaml").write_text("name: mine")
    assert find_sweep("smoke.yaml") == Path("smoke.yaml"), "a file that is there is meant"


# -- --set -------------------------------------------------------------------------------------------------------------

SATIMP = {
    "trial": {"loss": {"criterion": {"type": "satimp", "beta1": 2.0}}},
    "space": {"optim.lr": {"float": [0.1, 0.2]}},
}


def test_set_reaches_nested_settings_and_makes_what_is_missing(place: Path) -> None:
    sweep = load(
        place, SATIMP, "trial.optim.lr=1e-4", "trial.loss.criterion.beta1=3", "budget.trials=5", "description=a=b"
    )
    assert sweep.trial.optim.lr == 1e-4
    assert sweep.trial.loss.criterion.model_dump() == {"type": "satimp", "beta1": 3.0, "beta2": 0.1}
    assert sweep.budget.trials == 5
    assert sweep.description == "a=b"


def test_set_reaches_keys_that_have_dots_themselves(place: Path) -> None:
    sweep = load(
        place,
        SATIMP,
        "space.optim.lr={float: [1, 2]}",
        "space.optim.batch_size={int: [1, 2]}",
        "space.optim.batch_size.int=[4, 8]",
        "objectives.retain.nll=min",
        "reference_point.retain.nll=20",
        "scheduler={type: pareto_asha}",
        "scheduler.floors.retain.probability=0.2",
    )
    assert sweep.space == {"optim.lr": {"float": [1, 2]}, "optim.batch_size": {"int": [4, 8]}}
    assert sweep.worst() == {"retain.nll": 20.0}
    assert sweep.scheduler.model_dump()["floors"] == {"retain.probability": 0.2}


def test_set_of_another_variant_drops_what_the_old_one_had(place: Path) -> None:
    assert load(place, SATIMP, "trial.loss.criterion.type=npo").trial.loss.criterion == NPO()
    same = load(place, SATIMP, "trial.loss.criterion.type=satimp").trial.loss.criterion
    assert same.model_dump()["beta1"] == 2.0
    off = {"scheduler": {"type": "pareto_asha", "grace_period": 3}}
    assert load(place, off, "scheduler.type=none").scheduler.type == "none"


def test_a_preset_is_a_start_that_settings_are_laid_over(place: Path) -> None:
    loss = load(place, {"trial": {"loss": {"preset": "npo_ou"}}}, "trial.loss.retain.coefficient=2").trial.loss
    assert (loss.criterion, loss.retain.coefficient, loss.retain.term) == (NPO(beta=0.1), 2.0, "nll")
    again = load(place, SATIMP, "trial.loss.preset=wga").trial.loss
    assert again.model_dump() == LossConfig.model_validate(PRESETS["wga"][0]).model_dump(), "the file's loss is gone"


def test_presets_may_be_searched_and_each_is_taken_whole(place: Path) -> None:
    space = {"loss.preset": {"choice": ["satimp_ou_merged", "npo_ou"]}, "loss.retain.coefficient": {"float": [1, 3]}}
    sweep = load(place, {"trial": {"loss": {"forget_coefficient": 0.7}}, "space": space})
    trial = sweep.trial_at({"loss.preset": "satimp_ou_merged", "loss.retain.coefficient": 3.0})
    assert (trial.loss.forget_coefficient, trial.loss.retain.coefficient) == (0.1, 3.0)
    assert sweep.trial_at({"loss.preset": "npo_ou"}).loss.model_dump() == sweep.baseline("npo_ou").loss.model_dump()


def test_later_settings_win(place: Path) -> None:
    assert load(place, SATIMP, "trial.epochs=3", "trial.epochs=4").trial.epochs == 4


def test_settings_that_cannot_be_read_are_told_at_once(place: Path) -> None:
    with pytest.raises(ConfigError, match="--set: 3 problems") as caught:
        load(place, SATIMP, "trial.epochs", "=3", "trial.epochs=[3", "trial.seed=1")
    assert [(p.path, p.message) for p in caught.value.problems] == [
        ("", "'trial.epochs' is not path=value, as in trial.epochs=5"),
        ("", "'=3' is not path=value, as in trial.epochs=5"),
        ("trial.epochs", "'[3' is not readable as YAML; quote it"),
    ]


def test_a_setting_of_a_path_that_is_not_there_is_refused_like_the_file_would_be(place: Path) -> None:
    found = refused(place, SATIMP, "trial.epohcs=3", "name.first=x")
    assert found["trial.epohcs"] == "unknown key; did you mean 'epochs'?"
    assert "must be a valid string" in found["name"]


# -- files that cannot be read -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "not readable as YAML: while parsing"),
        ("name: a\nname: b\n", "'name' stands twice; drop one in .* line 2, column 1"),
        (
            "name: x\nspace:\n  optim.lr: {int: [1, 2]}\n  optim.lr: {int: [3, 4]}\n",
            "'optim.lr' stands twice; drop one",
        ),
        ("? [a, b]\n: c\n", "a list or mapping cannot be a key"),
        ("name: !!python/object:os.system x\n", "line 1, column 7: a value of type 'python/object:os.system'"),
        ("\0", "unacceptable character"),
        ("- a\n- b\n", "holds list, a sweep file is a mapping: name, trial, space"),
        ("# nothing\n", "holds NoneType, a sweep file is a mapping"),
    ],
)
def test_what_is_not_a_mapping_in_yaml_is_one_clear_problem(place: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load(place, text)
    assert len(str(caught.value).splitlines()) == 2


def test_a_file_that_is_not_utf8_is_refused(place: Path) -> None:
    file = place / "latin.yaml"
    file.write_bytes("description: füll".encode("latin-1"))
    with pytest.raises(ConfigError, match="not readable as YAML: 'utf-8' codec"):
        read_yaml(str(file))


def test_a_missing_file_is_told_with_what_may_be_meant(place: Path) -> None:
    with pytest.raises(ConfigError, match=r"^smok: 1 problem\n  no such file; did you mean 'smoke'\?$"):
        find_sweep("smok")
    with pytest.raises(ConfigError, match=r"no such file; choose among annotated, criteria, .* smoke, "):
        find_sweep(str(place / "zzz.yaml"))
    with pytest.raises(ConfigError, match="no such file"):
        find_sweep(str(place))


def test_did_you_mean_names_the_nearest_or_all() -> None:
    assert did_you_mean("betta1", ["beta1", "beta2"]) == "; did you mean 'beta1'?"
    assert did_you_mean("zzz", ["b", "a"]) == "; choose among a, b"


# -- settings that are refused -----------------------------------------------------------------------------------------

REFUSED = """
bugdet: {trials: 3}
  bugdet: unknown key; did you mean 'budget'?
trial: {optim: {learning: 1}}
  trial.optim.learning: unknown key; choose among batch_size, betas, clip, lr, ...
trial: {loss: {criterion: {type: satimp, bta1: 2}}}
  trial.loss.criterion.bta1: unknown key; did you mean 'beta1'?
trial: {loss: {criterion: {type: npo, beta1: 2}}}
  trial.loss.criterion.beta1: unknown key; did you mean 'beta'?
1: x
  1: the key 1 is not a string; write one
trial: {epochs: many}
  trial.epochs: 'many' must be a valid integer, ...; the default is 8
budget: {trials: 2.5}
  budget.trials: 2.5 must be a valid integer, ...; the default is 64
trial: {model: {adapter: {type: lora, targets: 5}}}
  trial.model.adapter.targets: 5 must be a valid string...
  trial.model.adapter.targets: 5 must be a list...
trial: {optim: {betas: [0.9, x]}}
  trial.optim.betas.1: 'x' must be a valid number...
trial: {loss: 5}
  trial.loss: 5 must be a mapping with keys preset, criterion, granularity, ...
space:
  space: None must be a mapping; ...
sampler: tpe
  sampler: 'tpe' must be a mapping with keys type, seed, startup, population, ...; ...
scheduler: {grace_period: 2}
  scheduler: {'grace_period': 2} has no `type`, which says which variant it is; add one of pareto_asha, asha, ...
baselines: wga
  baselines: 'wga' must be a list; the default is ()
trial: {epochs: 0}
  trial.epochs: 0 must be greater than 0; the default is 8
trial: {loss: {criterion: {type: npo, beta: 101}}}
  trial.loss.criterion.beta: 101 must be less than or equal to 100; the default is 0.1
trial: {optim: {lr: .nan}}
  trial.optim.lr: nan must be a finite number; the default is 0.0003
trial: {loss: {retain: {term: nl}}}
  trial.loss.retain.term: 'nl' is not allowed; did you mean 'nll'?
trial: {loss: {criterion: {type: satip}}}
  trial.loss.criterion.type: 'satip' is not known; did you mean 'satimp'?
trial: {model: {device: gpu}}
  trial.model.device: 'gpu' must match pattern ...; the default is 'auto'
trial: {model: {tiny: {heads: 5}}}
  trial.model.tiny: hidden_size 96 must be a multiple of twice heads (5); change one of them
name: a/b
  name: 'a/b' must match pattern ...; correct it
objectives: {forget.extraction: min, forget.nll: max}
  objectives.forget.extraction: 'forget.extraction' is not a metric; did you mean 'forget.extraction_strength'?
objectives: {nll: min}
  objectives.nll: 'nll' is not a metric; ...
objectives: {}
  objectives: ... at least 1 item ...
objectives: {forget.nll: maxx}
  objectives.forget.nll: 'maxx' is not allowed; did you mean 'max'?
objectives: {forget.nll: [min]}
  objectives.forget.nll: ['min'] is not allowed; ...
objectives: {retain.nll: min}
  objectives.retain.nll: 'retain.nll' has no worst value, ...; add one, as in reference_point: {retain.nll: 20}
objectives: [forget.nll]
  objectives: ['forget.nll'] must be a mapping; ...
reference_point: {forget.foo: 1}
  reference_point.forget.foo: 'forget.foo' is not a metric; did you mean 'forget.nll'?
scheduler: {type: pareto_asha, floors: {retain.probabilty: 0.1}}
  scheduler.floors.retain.probabilty: 'retain.probabilty' is not a metric; did you mean 'retain.probability'?
baselines: [wga, gradient_accent]
  baselines.1: 'gradient_accent' is not a preset; did you mean 'gradient_ascent'?
baselines: [rmu_satimp]
  baselines.0: 'rmu_satimp': loss.criterion.layer 7 is more than the 2 layers of the tiny model; ...
trial: {loss: {preset: satimp_gd_redme}}
  trial.loss: preset 'satimp_gd_redme' is not known; did you mean 'satimp_gd_readme'?
trial: {loss: {criterion: {type: npo}, granularity: group}}
  trial.loss: granularity 'group' is for reweightings and means nothing to npo; leave it out
space: {loss.preset: {choice: [satimp_gd_readme, satimp_gd_redme]}}
  space.loss: preset 'satimp_gd_redme' is not known; did you mean 'satimp_gd_readme'?
space: {loss.criterion: {one_of: {satimp: {}, npo: {}}}, loss.granularity: {choice: [token, batch]}}
  space.loss: granularity 'batch' is for reweightings and means nothing to npo; leave it out
{baselines: [wga, npo_ou], budget: {trials: 1}}
  budget.trials: 1 is less than the 2 baselines; raise it or drop baselines
{trial: {epochs: 4}, scheduler: {type: pareto_asha, grace_period: 4}}
  scheduler.grace_period: 4 must be less than trial.epochs 4, ...; lower it or set scheduler.type=none
trial: {benchmark: {type: authors, forget_authors: 16}}
  trial.benchmark.authors: forget_authors is 16 but must be between ...
trial: {benchmark: {type: authors, retain_pool: 168}}
  trial.benchmark.retain_pool: retain_pool 168 leaves none of the 168 retain rows to measure on; lower it
trial: {model: {path: ./nope}}
  trial.model.path: './nope' is not a folder; give a model's folder or a hub id
trial: {model: {retain_path: a/b}}
  trial.model.retain_path: it belongs to a target model of yours; set trial.model.path
trial: {evaluation: {metrics: [default, forget.rouge]}}
  trial.evaluation.metrics.1: 'forget.rouge' is no metric, group or pattern of them; did you mean 'forget.rouge_l_f1'?
trial: {evaluation: {front: [robustnes]}}
  trial.evaluation.front.0: 'robustnes' is no metric, group or pattern of them; did you mean 'robustness'?
objectives: {forget.rouge_l_recall: min}
  objectives.forget.rouge_l_recall: ... takes generation, and rungs compare metrics of one pass only; ...
{objectives: {privacy.privleak: min}, reference_point: {privacy.privleak: 20}}
  objectives.privacy.privleak: ... is best near 0, neither low nor high; take one of privacy.closeness_* ...
objectives: {real_authors.truthfulness: max}
  objectives.real_authors.truthfulness: the benchmark has no real_authors set to measure ...; choose among ...
{trial: {model: {path: /tmp}}, objectives: {tofu.forget_quality: max}}
  objectives.tofu.forget_quality: ... is compared with a retain model and there is none; set ...
trial: {model: {path: /tmp, retain_log: nope.json}}
  trial.model.retain_log: ...nope.json...
trial: {model: {retain_log: nope.json}}
  trial.model.retain_log: it belongs to a target model of yours; set trial.model.path
trial: {model: {prompt: {type: plain, template: "Q: {question}"}}}
  trial.model.prompt.template: template 'Q: {question}' must have {question} once and end with {answer}, as in ...
trial: {requests: {parts: 57}}
  trial.requests.parts: ...57...56...
trial: {requests: {parts: 2, count: 3}}
  trial.requests.count: ...3...2...
trial: {requests: {parts: 9, order: successive}}
  trial.epochs: 8 epochs are fewer than the 9 requests, made one after the other; raise it
space: {requests.count: {choice: [1, 2]}}
  space.requests.count: count 2 is more than there are requests (1); lower it
{trial: {epochs: 4, requests: {parts: 6}}, space: {requests.order: {choice: [together, successive]}}}
  space.requests.order: 4 epochs are fewer than the 6 requests, made one after the other; raise it
space: {evaluation.every: {choice: [1, 2]}}
  space.evaluation.every: is the same for every trial of a sweep; set it in `trial`, one sweep a value
tracking: {uri: "file:./mlruns"}
  tracking.uri: ... is a folder, which MLflow 3 refuses; write sqlite:///...
space: {optim.lrr: {float: [1, 2]}}
  space.optim.lrr: unknown key; did you mean 'lr'?
space: {optim.lr: {float: [1, 11]}}
  space.optim.lr: 11.0 must be less than or equal to 10; ...
space: {optim.lr: {float: [0, 1]}}
  space.optim.lr: 0.0 must be greater than 0; ...
space: {optim.batch_size: {float: [1.5, 2]}}
  space.optim.batch_size: 1.5 must be a valid integer, ...
space: {loss.granularity: {choice: [token, instanc]}}
  space.loss.granularity.type: 'instanc' is not known; did you mean 'instance'?
space: {loss.criterion: {one_of: {satimp: {}, simnop: {}}}}
  space.loss.criterion.type: 'simnop' is not known; did you mean 'simnpo'?
space: {loss.criterion: {one_of: {satimp: {}, npo: {betta: {float: [1, 2]}}}}}
  space.loss.criterion.betta: unknown key; did you mean 'beta'?
space: {optim.lr: [{float: [1, 2], when: {model.adapter: lorra}}]}
  space.optim.lr: `when` names model.adapter.type: 'lorra' is not known; did you mean 'lora'?
space: {model.tiny.layers: {int: [1, 2]}, epochs: {int: [2, 8]}}
  space.model.tiny.layers: is the same for every trial of a sweep; set it in `trial`, one sweep a value
  space.epochs: is the same for every trial of a sweep; set it in `trial`, one sweep a value
"""
"""A file's contents, then what is said of them; `...` stands for anything."""


@pytest.mark.parametrize(("text", "expected"), told(REFUSED))
def test_bad_input_is_told_with_its_place_its_value_the_rule_and_a_remedy(
    text: str, expected: list[str], place: Path
) -> None:
    with pytest.raises(ConfigError, match=r"sweep file.yaml: \d problem") as caught:
        load(place, yaml.safe_load(text))
    lines = str(caught.value).splitlines()[1:]
    assert len(lines) == len(expected), "this, and nothing that only follows from it"
    for line, pattern in zip(lines, expected, strict=True):
        assert re.fullmatch(re.escape(pattern).replace(r"\.\.\.", ".*"), line), line


def test_all_problems_of_a_file_are_told_at_once(place: Path) -> None:
    found = refused(
        place,
        {
            "trial": {"epochs": "x", "benhcmark": 1, "loss": {"criterion": {"type": "satimp", "beta1": -1}}},
            "scheduler": {"type": "pareto_asha", "grace_period": 0},
            "objectives": {"retain.extraction_strenght": "max", "retain.nll": "min"},
            "space": {"optim.lr": {"float": [2, 1]}, "loss.granularity": 5, "optim.lrr": {"int": [1, 2]}},
            "baselines": ["wgaa"],
            "tracking": {"uri": "http://127.0.0.1:1"},
            "budget": {"trials": 0},
        },
    )
    assert set(found) == {
        "trial.epochs",
        "trial.benhcmark",
        "trial.loss.criterion.beta1",
        "scheduler.grace_period",
        "objectives.retain.extraction_strenght",
        "objectives.retain.nll",
        "space.optim.lr",
        "space.loss.granularity",
        "space.optim.lrr",
        "baselines.0",
        "tracking.uri",
        "budget.trials",
    }


def test_what_only_follows_from_a_mistake_is_not_told(place: Path) -> None:
    wrong_epochs = {"trial": {"epochs": "thirty"}, "scheduler": {"type": "pareto_asha", "grace_period": 10}}
    assert set(refused(place, wrong_epochs)) == {"trial.epochs"}
    rows(place / "tofu", forget=20, retain=60)
    benchmark = {"type": "tofu", "path": str(place / "tofu"), "split": 1}
    assert set(refused(place, {"trial": {"benchmark": benchmark}})) == {"trial.benchmark.split"}


def test_one_epoch_needs_no_rung(place: Path) -> None:
    assert load(place, {"trial": {"epochs": 1}}).scheduler.type == "pareto_asha"


def test_an_output_that_cannot_be_written_is_told_before_anything_runs(place: Path) -> None:
    (place / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--output: .*file' is not a folder to write in; give another"):
        load_sweep("smoke", output=place / "file" / "runs")


# -- the benchmark's rows ----------------------------------------------------------------------------------------------


def rows(folder: Path, *, forget: int, retain: int) -> Path:
    """A folder of rows under the names of TOFU's files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in (("forget01", forget), ("retain99", retain)):
        lines = [json.dumps({"question": f"{name} {i}?", "answer": f"{i}."}) for i in range(count)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def tofu(folder: Path, **changes: Any) -> dict[str, Any]:
    benchmark = {"type": "tofu", "path": str(folder), "split": "forget01", "retain_eval": 20} | changes
    return {"trial": {"benchmark": benchmark}}


def test_an_empty_forget_set_is_told(place: Path) -> None:
    found = refused(place, tofu(rows(place / "tofu", forget=0, retain=60)))
    assert found == {"trial.benchmark.split": "forget01.jsonl has no rows; a set that is named must have some"}


def test_rows_in_both_sets_are_told(place: Path) -> None:
    folder = rows(place / "tofu", forget=3, retain=60)
    retain, forget = folder / "retain99.jsonl", folder / "forget01.jsonl"
    retain.write_text(retain.read_text() + "\n" + forget.read_text().splitlines()[1])
    message = refused(place, tofu(folder))["trial.benchmark.split"]
    assert "1 rows are in the forget and in the retain set, 'forget01 1?' among them" in message
    assert "remove them from one" in message


def test_a_missing_column_is_told_with_file_and_row(place: Path) -> None:
    folder = rows(place / "tofu", forget=3, retain=60)
    (folder / "forget01.jsonl").write_text('{"question": "a?", "answer": "b"}\n{"question": "c?"}\n')
    found = refused(place, tofu(folder))
    assert found["trial.benchmark.split"].startswith("row 2 of forget01.jsonl has no answer; every row needs")


def test_a_missing_file_folder_and_split_are_told(place: Path) -> None:
    folder = rows(place / "tofu", forget=3, retain=60)
    message = refused(place, tofu(folder, split="forget10"))["trial.benchmark.split"]
    assert message == f"forget10.jsonl (or .jsonl.gz) is not in {str(folder)!r}; did you mean 'forget01'?"
    assert "is not a folder; give one with" in refused(place, tofu(place / "nope"))["trial.benchmark.path"]
    assert "set retain_split" in refused(place, tofu(folder, split="mine"))["trial.benchmark.retain_split"]
    (folder / "forget01.jsonl").write_text("{not json\n")
    assert "forget01.jsonl:1 is not JSON" in refused(place, tofu(folder))["trial.benchmark.split"]


def test_an_objective_on_a_set_that_the_benchmark_lacks_is_told(place: Path) -> None:
    folder = rows(place / "tofu", forget=3, retain=60)
    found = refused(place, tofu(folder) | {"objectives": {"general.probability": "max", "forget.nll": "max"}})
    assert set(found) == {"objectives.general.probability"}
    assert "the benchmark has no general set" in found["objectives.general.probability"]
    assert "choose among forget, retain" in found["objectives.general.probability"]


# -- the tracking server -----------------------------------------------------------------------------------------------


def test_a_tracking_server_that_does_not_answer_is_told_without_its_password(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:  # a port that nobody listens on
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{taken.getsockname()[1]}")
        message = refused(place, {})["MLFLOW_TRACKING_URI"]
    assert "does not answer" in message
    assert "start it, correct the URI, or leave it out" in message
    assert "secret" not in message


def test_a_secret_in_a_sweep_file_is_refused_without_repeating_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefgh")
    found = refused(place, {"tracking": {"uri": "postgresql://me:pw@host/db"}, "description": "by hf_abcdefgh"})
    assert found["tracking.uri"].startswith("holds the password of a URI, and a sweep's settings are no secret; leave")
    assert found["description"].startswith("holds the value of HF_TOKEN")
    assert not any("pw@" in message or "abcdefgh" in message for message in found.values())


def test_the_environment_names_the_tracking_server_too(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert "does not answer" in refused(place, {})["MLFLOW_TRACKING_URI"]


# -- run folders -------------------------------------------------------------------------------------------------------


def run_folder(place: Path, **content: Any) -> tuple[Path, SweepConfig, Benchmark]:
    """A run folder as `run` leaves it at its start."""
    sweep = load(place, content)
    benchmark = load_benchmark(sweep.trial.benchmark)
    data, model = sweep.digests(benchmark)
    folder = place / sweep.name
    folder.mkdir()
    info = SweepInfo(
        name=sweep.name,
        benchmark=sweep.trial.benchmark.name,
        config=sweep.model_dump(mode="json"),
        objectives=dict(sweep.objectives),
        reference_point=sweep.worst(),
        fingerprint=sweep.fingerprint(benchmark),
        data=data,
        model=model,
        tracking_uri="sqlite:///mlflow.db",
        git_commit=None,
        versions={},
        created=0.0,
    )
    (folder / "sweep.json").write_text(info.model_dump_json(), encoding="utf-8")
    ledger = Ledger(folder)
    ledger.append(Anchor(name="target", metrics={}))
    ledger.close()
    return folder, sweep, benchmark


def test_a_run_folder_gives_its_sweep_back(place: Path) -> None:
    folder, sweep, benchmark = run_folder(place, space={"optim.lr": {"float": [1e-4, 1e-3]}}, baselines=["wga"])
    again, data = reload_sweep(folder)
    assert again == sweep
    assert data == benchmark
    check_folder(folder, again, benchmark)


def test_a_folder_without_a_sweep_is_told_with_its_neighbours(place: Path) -> None:
    with pytest.raises(ConfigError, match=r"not a run folder: no sweep.json in it; give the folder that `run` wrote"):
        require_run_folder(place / "nope")
    run_folder(place, name="criteria")
    with pytest.raises(ConfigError, match=r"no sweep.json in it; did you mean 'criteria'\?"):
        reload_sweep(place / "critera")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "written by another version of unlearn-sweep .benchmark, config, .* differ"),
        ('{"na', "is damaged; `unlearn-sweep run` with its sweep file writes it again"),
        ("\0", "is damaged; `unlearn-sweep run` with its sweep file writes it again"),
    ],
)
def test_a_sweep_json_of_another_version_is_told_and_left_alone(place: Path, text: str, message: str) -> None:
    folder, sweep, benchmark = run_folder(place)
    (folder / "sweep.json").write_text(text)
    for read in (require_run_folder, reload_sweep):
        with pytest.raises(ConfigError, match=message):
            read(folder)
    with pytest.raises(ConfigError, match=r"not written by this version.*\n.*give `name` another value"):
        check_folder(folder, sweep, benchmark)
    assert (folder / "sweep.json").read_text() == text


def test_a_renamed_run_folder_and_gone_data_are_told_at_once(place: Path) -> None:
    rows(place / "tofu", forget=3, retain=60)
    folder, *_ = run_folder(place, **tofu(place / "tofu"))
    folder = folder.rename(place / "other name")
    shutil.rmtree(place / "tofu")
    with pytest.raises(ConfigError, match="2 problems") as caught:
        reload_sweep(folder)
    assert "the folder was renamed from 'x'; give it its name back" in str(caught.value)
    assert "trial.benchmark.path" in str(caught.value)


def test_the_folder_of_another_sweep_is_told_field_by_field(place: Path) -> None:
    folder, *_ = run_folder(place, trial={"epochs": 8}, space={"optim.lr": {"float": [0.1, 0.2]}})
    other = load(place, {"trial": {"epochs": 6}, "space": {"optim.lr": {"float": [0.1, 0.3]}}, "budget": {"trials": 9}})
    with pytest.raises(ConfigError, match="problems") as caught:
        check_folder(folder, other, load_benchmark(other.trial.benchmark))
    assert [(p.path, p.message) for p in caught.value.problems] == [
        ("trial.epochs", "6 here, 8 in the sweep that lies there"),
        ("", "this makes it another sweep: give `name` another value, or --output another folder"),
    ]


def test_a_folder_that_is_not_there_yet_is_free(place: Path) -> None:
    sweep = load(place)
    check_folder(place / "new", sweep, load_benchmark(sweep.trial.benchmark))


# -- one trial ---------------------------------------------------------------------------------------------------------


def test_a_trial_is_the_base_trial_of_a_sweep_file_or_a_recorded_one(place: Path) -> None:
    file = write(place, SATIMP)
    assert load_trial(file, ["trial.epochs=3"], None).epochs == 3
    recorded = place / "trial.json"
    recorded.write_text(TrialConfig(epochs=5, seed=7).model_dump_json(indent=1))
    assert load_trial(str(recorded), ["optim.lr=1e-3"], None).model_dump()["seed"] == 7
    assert load_trial(str(recorded), ["epochs=2"], "wga").loss.criterion.model_dump() == {
        "type": "saturation",
        "beta1": 1.0,
    }


def test_a_preset_replaces_the_whole_loss(place: Path) -> None:
    file = write(place, {"trial": {"loss": {"forget_coefficient": 0.5, "retain": {"coefficient": 3}}}})
    loss = load_trial(file, [], "gradient_difference").loss
    assert (loss.criterion.type, loss.forget_coefficient, loss.retain.coefficient) == ("uniform", 1.0, 1.0)


@pytest.mark.parametrize(
    ("content", "settings", "preset", "expected"),
    [
        ({}, ["optim.lr=3"], None, {"optim": "unknown key; did you mean 'trial.optim'?"}),
        ({"trail": {}}, [], None, {"trail": "unknown key; did you mean 'trial'?"}),
        (
            {},
            ["trial.optim.lr=x"],
            "wgaa",
            {"trial.optim.lr": "must be a valid number", "--preset": "did you mean 'wga'?"},
        ),
        ({"trial": 5}, [], "wga", {"trial": "5 must be a mapping"}),
        ({}, ["trial.model.path=./nope"], None, {"trial.model.path": "'./nope' is not a folder"}),
        ({}, ["trial.benchmark={type: tofu, path: ./no}"], None, {"trial.benchmark.path": "is not a folder"}),
    ],
)
def test_a_trial_that_cannot_be_run_is_told(
    content: dict[str, Any], settings: list[str], preset: str | None, expected: dict[str, str], place: Path
) -> None:
    with pytest.raises(ConfigError, match="problem") as caught:
        load_trial(write(place, content), settings, preset)
    found = {problem.path: problem.message for problem in caught.value.problems}
    assert found.keys() == expected.keys()
    for path, part in expected.items():
        assert part in found[path]


def test_places_in_a_recorded_trial_are_those_of_its_file(place: Path) -> None:
    recorded = place / "trial.json"
    recorded.write_text(json.dumps({"epochs": "x", "optim": {"lrr": 3}}))
    with pytest.raises(ConfigError, match="2 problems") as caught:
        load_trial(str(recorded), [], None)
    assert {problem.path for problem in caught.value.problems} == {"epochs", "optim.lrr"}


# -- presets and identity ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", PRESETS)
def test_each_preset_builds_a_trial_and_says_where_it_is_from(label: str, place: Path) -> None:
    base = {"epochs": 3, "optim": {"lr": 0.5}, "model": {"tiny": {"layers": 8}}}  # rmu names layer 8
    sweep = load(place, {"trial": base, "baselines": [label]})
    trial = sweep.baseline(label)
    given, source = PRESETS[label]
    assert trial.model_dump(exclude={"loss"}) == sweep.trial.model_dump(exclude={"loss"})
    assert trial.loss.model_dump() == LossConfig.model_validate(given).model_dump()
    assert re.search(r"arXiv \d{4}\.\d{5}|pull request \d+|OpenUnlearning", source)


def test_the_demo_runs_four_published_settings_first() -> None:
    sweep, _ = load_sweep("smoke", output=Path("nowhere"))
    assert set(sweep.baselines) <= set(PRESETS)
    assert len(sweep.baselines) == 4
    space = sweep.search_space
    assert space.locate(sweep.baseline("satimp_gd_readme").model_dump(mode="json")) is None, "its coefficient is below"


def test_all_settings_are_frozen_and_refuse_unknown_keys() -> None:
    found = [*vars(trial_config).values(), *vars(orchestrator.config).values()]
    models = {m for m in found if isinstance(m, type) and issubclass(m, BaseModel)} - {BaseModel}
    assert len(models) > 20
    for model in models:
        assert model.model_config["frozen"], model
        assert model.model_config["extra"] == "forbid", model


def digests(sweep: SweepConfig) -> tuple[str, str]:
    """Of the sweep and of its base trial."""
    benchmark = load_benchmark(sweep.trial.benchmark)
    data, model = sweep.digests(benchmark)
    return sweep.fingerprint(benchmark), fingerprint(sweep.trial, data=data, model=model)


SAME_TRIAL = {"name": "y"}, {"space": {"optim.lr": {"float": [1, 2]}}}, {"sampler": {"type": "tpe", "seed": 4}}, {
    "objectives": {"forget.nll": "max"}
}, {"baselines": ["wga"]}, {"scheduler": {"type": "none"}}  # fmt: skip
ANOTHER_TRIAL = (
    {"trial": {"epochs": 7}},
    {"trial": {"seed": 1}},
    {"trial": {"optim": {"lr": 0.1}}},
    {"trial": {"loss": {"granularity": "instance"}}},
    {"trial": {"model": {"dtype": "bfloat16"}}},
    {"trial": {"model": {"adapter": {"type": "lora"}}}},
    {"trial": {"model": {"tiny": {"layers": 1}}}},
    {"trial": {"benchmark": {"type": "authors", "seed": 1}}},
)
ONLY_CIRCUMSTANCE = (
    {"description": "other words"},
    {"budget": {"hours": 9, "concurrent": 3}},
    {"confirm": {"seeds": 2}},
    {"resources": {"cpu": 2, "gpu": 1, "retries": 0}},
    {"tracking": {"uri": "sqlite:///elsewhere.db"}},
    {"trial": {"model": {"device": "cpu"}}},
)


def test_identity_follows_from_settings_and_data_and_not_from_circumstances(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    base = digests(load(place))
    for content in ONLY_CIRCUMSTANCE:
        assert digests(load(place, content)) == base, content
    for content in SAME_TRIAL:
        sweep, trial = digests(load(place, content))
        assert (sweep != base[0], trial == base[1]) == (True, True), content
    seen = {base}
    for content in ANOTHER_TRIAL:
        seen.add(digests(load(place, content)))
    assert len({sweep for sweep, _ in seen}) == len({trial for _, trial in seen}) == len(ANOTHER_TRIAL) + 1


def test_identity_follows_the_rows_and_not_the_folder_they_lie_in(place: Path) -> None:
    here = digests(load(place, tofu(rows(place / "here", forget=3, retain=60))))
    assert digests(load(place, tofu(rows(place / "there", forget=3, retain=60)))) == here
    (place / "there" / "forget01.jsonl").write_text('{"question": "another?", "answer": "one"}')
    sweep, trial = digests(load(place, tofu(place / "there")))
    assert sweep != here[0]
    assert trial != here[1]


def test_a_model_is_its_files_wherever_they_lie(place: Path) -> None:
    found = []
    for name, weights in (("here", b"x" * 5), ("there", b"x" * 5), ("other", b"y" * 5)):
        (place / name).mkdir()
        (place / name / "config.json").write_text("{}")
        (place / name / "model.safetensors").write_bytes(weights)
        found.append(model_digest(trial_config.ModelConfig(path=str(place / name)), data="d"))
    assert found[0] == found[1] != found[2]
    hub = model_digest(trial_config.ModelConfig(path="org/name"), data="d")
    assert hub != model_digest(trial_config.ModelConfig(path="org/name", revision="v2"), data="d")


def test_what_is_not_identity_may_change_between_a_run_and_its_resumption(place: Path) -> None:
    folder, _, benchmark = run_folder(place)
    more = load(place, {"budget": {"epochs": 200}, "description": "more"})
    assert check_folder(folder, more, benchmark) == {"budget.epochs": (None, 200), "description": ("", "more")}


# -- what is measured --------------------------------------------------------------------------------------------------


def test_what_trials_are_compared_by_is_measured_whether_or_not_the_file_says_so(place: Path) -> None:
    goals = {"forget.truth_ratio": "max", "retain.probability": "max"}
    floors = {"type": "pareto_asha", "floors": {"tofu.model_utility_likelihood": 0.3}}
    sweep = load(place, {"objectives": goals, "scheduler": floors})
    assert sweep.trial.evaluation.metrics == ("default", "forget.truth_ratio", "tofu.model_utility_likelihood")
    assert load(place, {}).trial.evaluation.metrics == ("default",)


def test_a_dear_metric_may_be_an_objective_where_nothing_is_stopped_early(place: Path) -> None:
    sweep = load(place, {"objectives": {"tofu.model_utility": "max"}, "scheduler": {"type": "none"}})
    assert "tofu.model_utility" in sweep.trial.evaluation.metrics


def test_which_metrics_are_taken_is_no_part_of_a_trials_identity_but_how_is(place: Path) -> None:
    sweep, benchmark = load_sweep(write(place, {}), output=place)
    assert benchmark is not None

    def identity(evaluation: dict[str, Any]) -> str:
        return load(place, {"trial": {"evaluation": evaluation}}).fingerprint(benchmark)

    base = sweep.fingerprint(benchmark)
    assert identity({"metrics": ["all"], "front": ["robustness"], "batch_size": 4, "every": 2}) == base
    assert identity({"max_new_tokens": 100}) != base
    assert identity({"relearning": {"steps": 5}}) != base


def test_the_retain_log_that_metrics_look_at_is_a_part_of_the_identity(place: Path) -> None:
    (place / "model").mkdir()
    rows_ = {"forget.wrong_over_right": [0.5] * 56}
    prints = []
    for value in (0.5, 0.25):
        rows_["forget.wrong_over_right"][0] = value
        log = {"format": "unlearn-sweep evaluation 1", "about": {}, "values": {}, "rows": rows_}
        (place / "log.json").write_text(json.dumps(log), encoding="utf-8")
        model = {"path": str(place / "model"), "retain_log": str(place / "log.json")}
        content = {"trial": {"model": model}, "objectives": {"tofu.forget_quality": "max"}}
        sweep, benchmark = load_sweep(write(place, content), output=place)
        assert benchmark is not None
        prints.append(sweep.fingerprint(benchmark))
    assert prints[0] != prints[1]


def test_what_is_absent_without_a_retain_model_is_said(place: Path) -> None:
    (place / "model").mkdir()
    model: dict[str, Any] = {"path": str(place / "model")}
    evaluation = {"metrics": ["privacy"], "front": ["similarity.forget_to_retain"]}
    said = absence(load(place, {"trial": {"model": model, "evaluation": evaluation}}).trial)
    assert said.startswith("not measured without a retain model (model.retain_path or retain_log): privacy.reference")
    (place / "log.json").write_text('{"format": "unlearn-sweep evaluation 1", "about": {}, "values": {}, "rows": {}}')
    model["retain_log"] = str(place / "log.json")
    said = absence(load(place, {"trial": {"model": model, "evaluation": evaluation}}).trial)
    assert said.endswith(": privacy.reference, similarity.forget_to_retain")
    model["retain_path"] = str(place / "model")
    assert absence(load(place, {"trial": {"model": model, "evaluation": evaluation}}).trial) == ""
    assert absence(load(place, {"trial": {"evaluation": evaluation}}).trial) == ""
