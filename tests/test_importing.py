"""Sweeps of other tools as sweep files: what is taken over, what is told, and that nothing of them is ever run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from orchestrator.checks import check_sweep
from orchestrator.cli import app
from orchestrator.config import SweepConfig, load_sweep
from orchestrator.importing.mapping import PATHS
from orchestrator.importing.merging import ONE_VALUE
from orchestrator.importing.names import (
    ALIASES,
    EXPERIMENTS,
    LOSSES,
    METRIC_NAMES,
    PROMPTS,
    TRAINERS,
    metric_of,
    tables,
)
from orchestrator.importing.shell import UNKNOWN, TooMany, commands
from orchestrator.importing.sweep_file import Imported, import_sweep, write_import
from orchestrator.importing.values import Range, Unreadable, parse_axis
from orchestrator.problems import ConfigError
from search_spaces.space import with_paths
from tests.rows import authors, write
from trials.config import TrialConfig
from trials.registry import METRICS

EXAMPLES = Path(__file__).parents[1] / "docs" / "import"


def imported(folder: Path, text: str, name: str = "theirs.yaml", tool: str | None = None) -> Imported:
    (folder / name).write_text(text, encoding="utf-8")
    return import_sweep(folder / name, tool)


def ours(folder: Path, text: str, name: str = "theirs.yaml") -> dict[str, Any]:
    """The sweep file, as read, once it has been seen to be one."""
    made = imported(folder, text, name)
    raw: dict[str, Any] = yaml.safe_load(made.text)
    assert not [remark for remark in made.remarks if "to be mended" in remark]
    assert SweepConfig.model_validate(raw).name
    return raw


def wandb(parameters: str, more: str = "method: random") -> str:
    return f"program: train.py\n{more}\nparameters:\n" + "".join(f"  {line}\n" for line in parameters.splitlines())


# -- the examples ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["wandb.yaml", "axolotl.yaml", "openunlearning.sh"])
def test_an_example_becomes_the_file_beside_it_and_that_file_passes_the_checks(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    beside = EXAMPLES / f"{name.partition('.')[0]}.sweep.yaml"
    assert import_sweep(EXAMPLES / name).text == beside.read_text("utf-8")
    write(tmp_path, {"forget10": authors(30, 31), "retain90": authors(*range(22))})
    overrides = [] if name == "axolotl.yaml" else [f"trial.benchmark.path={tmp_path}", "trial.model.retain_log=null"]
    sweep, benchmark = load_sweep(str(beside), overrides, output=tmp_path)
    assert benchmark is not None
    assert sweep.budget.trials in (4, 8, 60)


def test_the_page_has_the_tables_of_this_code() -> None:
    page = (EXAMPLES.parent / "import.md").read_text("utf-8")
    assert tables() in page, "run `python -m orchestrator.importing.names`"


# -- the tables --------------------------------------------------------------------------------------------------------


def test_every_name_leads_to_a_setting_that_exists() -> None:
    assert set(ALIASES.values()) <= PATHS
    assert set(METRIC_NAMES.values()) <= set(METRICS)
    for prompt in PROMPTS.values():
        assert TrialConfig.model_validate(with_paths({}, prompt)).model.prompt.type != "auto"
    known = {"warmup_epochs", "per_device_train_batch_size", "gradient_accumulation_steps", "model"}
    for settings in EXPERIMENTS.values():
        assert set(settings) <= {*ALIASES, *known, "adam_beta1", "adam_beta2"}


@pytest.mark.parametrize(
    "method", [*TRAINERS.items(), *LOSSES.items()], ids=[f"{name}" for name in (*TRAINERS, *LOSSES)]
)
def test_every_method_is_a_loss_of_ours_and_its_arguments_are_settings_of_it(method: tuple[str, Any]) -> None:
    _, (settings, arguments) = method
    benchmark = {"benchmark": {"type": "tofu", "annotations": "keys.json"}, "model": {"path": "theirs"}}
    loss = TrialConfig.model_validate(with_paths(benchmark, settings)).loss
    assert loss.criterion.type == settings["loss.criterion.type"]
    for path in arguments.values():
        where, _, name = path.removeprefix("loss.").rpartition(".")
        assert name in type(getattr(loss, where) if where else loss).model_fields


def test_what_a_sweep_has_one_of_is_refused_in_a_space(tmp_path: Path) -> None:
    for path in ("benchmark.split", "model.path", "model.retain_log", "epochs"):
        assert any(f"{path}.".startswith(f"{prefix}.") for prefix in ONE_VALUE)
        space = {path: {"choice": [1, 2] if path == "epochs" else ["a", "b"]}}
        config = SweepConfig.model_validate({"name": "x", "trial": {"benchmark": {"type": "tofu"}}, "space": space})
        assert any("the same for every trial" in problem.message for problem in check_sweep(config, tmp_path)[1])


@pytest.mark.parametrize(
    ("theirs", "metric"),
    [
        ("forget_quality", "tofu.forget_quality"),
        ("eval/model_utility", "tofu.model_utility"),
        ("eval/tofu/forget_Truth_Ratio", "forget.truth_ratio"),
        ("forget_Q_A_ROUGE", "forget.rouge_l_recall"),
        ("forget_verbmem_ROUGE", "verbmem.rouge_l_f1"),
        ("final/forget.extraction_strength", "forget.extraction_strength"),
        ("val_loss", None),
    ],
)
def test_metrics_are_known_by_the_names_that_others_give_them(theirs: str, metric: str | None) -> None:
    assert metric_of(theirs) == metric


# -- W&B ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("node", "space"),
    [
        ("{min: 0.1, max: 2.0}", {"float": [0.1, 2.0]}),
        ("{distribution: uniform, min: 1e-3, max: 1}", {"float": [0.001, 1.0]}),
        ("{distribution: log_uniform_values, min: 1e-6, max: 1e-4}", {"float": [1e-6, 1e-4], "log": True}),
        ("{distribution: log_uniform, min: -2, max: 0}", {"float": [math.exp(-2), 1.0], "log": True}),
        ("{distribution: inv_log_uniform, min: 0, max: 2}", {"float": [math.exp(-2), 1.0], "log": True}),
        ("{distribution: q_uniform, min: 0, max: 1, q: 0.25}", {"choice": [0.0, 0.25, 0.5, 0.75, 1.0]}),
        ("{distribution: q_log_uniform_values, min: 0.01, max: 1, q: 0.01}", {"float": [0.01, 1.0], "log": True}),
        ("{distribution: categorical, values: [0.5, 1.0, 0.5]}", {"choice": [0.5, 1.0]}),
    ],
)
def test_each_distribution_of_wandb_becomes_a_node(node: str, space: dict[str, Any], tmp_path: Path) -> None:
    raw = ours(tmp_path, wandb(f"retain_weight: {node}"))
    ((path, found),) = raw["space"].items()
    assert path == "loss.retain.coefficient"
    assert {key: pytest.approx(value) for key, value in found.items()} == space


def test_whole_ends_make_a_range_of_whole_numbers_and_under_grid_a_list(tmp_path: Path) -> None:
    text = "batch_size: {min: 4, max: 6}"
    assert ours(tmp_path, wandb(text))["space"] == {"optim.batch_size": {"int": [4, 6]}}
    raw = ours(tmp_path, wandb(text, "method: grid"))
    assert raw["space"] == {"optim.batch_size": {"choice": [4, 5, 6]}}
    assert raw["sampler"] == {"type": "grid"}
    assert raw["budget"] == {"trials": 3}


def test_constants_nested_parameters_and_full_paths_are_settings_of_the_trial(tmp_path: Path) -> None:
    text = wandb("optim:\n    parameters:\n      lr: {value: 1e-4}\nloss.retain.term: {value: kl}\nlora_r: {value: 4}")
    trial = ours(tmp_path, text)["trial"]
    assert trial["optim"] == {"lr": 1e-4}
    assert trial["loss"]["retain"] == {"term": "kl"}
    assert trial["model"]["adapter"] == {"type": "lora", "rank": 4}


def test_what_has_no_place_is_told_with_why_and_what_to_do(tmp_path: Path) -> None:
    made = imported(
        tmp_path,
        wandb(
            "lr: {value: 1e-5}\nlerning_rate: {values: [1, 2]}\nweight_decay: {distribution: normal, mu: 0, sigma: 1}\n"
            "beta: {values: [1, 2]}\nalpha: {value: 1}\nepochs: {value: none_}\nclip_grad_norm: {values: [1.0, -1.0]}"
        ),
    )
    lost = [remark for remark in made.remarks if remark.startswith("not mapped")]
    for words in (
        "lerning_rate (no setting of that name; did you mean 'learning_rate'?)",
        "weight_decay (distribution normal has no bounds; write a range, as in {float: [low, high]})",
        "beta (of which method? name the method in the file, or write loss.criterion.beta)",
        "alpha (it means another thing in each code; write loss.retain.coefficient",
        "epochs=none_ ('none_' must be a valid integer",
        "optim.clip=-1.0 (-1.0 must be greater than 0",
    ):
        assert any(words in line for line in lost), words
    assert len(lost) == 6
    assert all(f"# {line}\n" in made.text for line in lost)
    assert yaml.safe_load(made.text)["trial"]["optim"] == {"lr": 1e-5, "clip": 1.0}


def test_beta1_is_satimps_where_it_cannot_be_adams(tmp_path: Path) -> None:
    raw = ours(tmp_path, wandb("beta1: {values: [1, 5]}\nbeta2: {values: [0.1, 1]}"))
    assert raw["trial"]["loss"] == {"criterion": {"type": "satimp"}}
    assert set(raw["space"]) == {"loss.criterion.beta1", "loss.criterion.beta2"}
    made = imported(tmp_path, wandb("beta1: {values: [0.9, 0.95]}\nlr: {value: 1e-4}"))
    assert "SatImp's or Adam's?" in made.text
    assert "space" not in yaml.safe_load(made.text)


def test_arguments_go_to_the_methods_that_have_them(tmp_path: Path) -> None:
    raw = ours(
        tmp_path,
        wandb("loss_type: {values: [npo_grad_diff, satimp_gd]}\nhyper_param: {values: [4, 5]}\n"
              "beta: {min: 0.1, max: 1.0}\ncoeff: {value: 0.2}\nlr: {values: [1e-5, 1e-4]}"),
    )  # fmt: skip
    variants = raw["space"]["loss.criterion"]["one_of"]
    assert variants["npo"] == {"beta": {"float": [0.1, 1.0]}}
    assert variants["satimp"] == {"beta1": {"choice": [4, 5]}, "beta2": {"float": [0.1, 1.0]}}
    assert raw["space"]["loss.retain.coefficient"] == [
        {"choice": [1.0], "when": {"loss.criterion": ["npo"]}},
        {"choice": [0.2], "when": {"loss.criterion": ["satimp"]}},
    ]
    assert raw["space"]["optim.lr"] == {"choice": [1e-5, 1e-4]}


def test_seeds_are_replicates(tmp_path: Path) -> None:
    raw = ours(tmp_path, wandb("seed: {values: [3, 4, 5]}\nlr: {values: [1e-5, 1e-4]}", "method: grid"))
    assert (raw["replicates"], raw["trial"], raw["budget"]) == (3, {"seed": 3}, {"trials": 6})


@pytest.mark.parametrize(
    ("stopping", "metric", "scheduler"),
    [
        ("{type: hyperband, min_iter: 2, eta: 3}", "forget_Q_A_Prob",
         {"type": "asha", "metric": "forget.probability", "grace_period": 2, "reduction_factor": 3}),
        ("{type: hyperband, max_iter: 9, s: 2, eta: 3}", "unheard_of",
         {"type": "pareto_asha", "grace_period": 1, "reduction_factor": 3}),
        ("{type: hyperband, min_iter: 2}", "forget_Q_A_ROUGE", {"type": "none"}),
        ("{type: hyperband, min_iter: 50}", "forget_Q_A_Prob", {"type": "none"}),
        ("{type: envelope}", "forget_Q_A_Prob", {"type": "none"}),
    ],
)  # fmt: skip
def test_hyperband_is_successive_halving_where_it_can_be(
    stopping: str, metric: str, scheduler: dict[str, Any], tmp_path: Path
) -> None:
    more = f"method: bayes\nmetric: {{name: {metric}, goal: maximize}}\nearly_terminate: {stopping}\nrun_cap: 30"
    text = wandb("lr: {min: 1e-5, max: 1e-3}", more)
    raw = ours(tmp_path, text)
    assert raw["scheduler"] == scheduler
    assert raw["sampler"] == {"type": "tpe"}
    assert raw["budget"] == {"trials": 30}
    told = "early_terminate" in "".join(r for r in imported(tmp_path, text).remarks if r.startswith("not mapped"))
    assert told == (scheduler == {"type": "none"})


def test_a_metric_that_is_best_near_a_value_is_no_objective(tmp_path: Path) -> None:
    made = imported(tmp_path, wandb("lr: {value: 1e-4}", "method: random\nmetric: {name: privleak}"))
    assert "privleak (privacy.privleak is best near 0, neither low nor high; write objectives)" in made.text
    assert "objectives:" not in made.text


# -- axolotl -----------------------------------------------------------------------------------------------------------


def test_lists_of_axolotl_are_a_grid(tmp_path: Path) -> None:
    raw = ours(
        tmp_path, "learning_rate: [1e-5, 0.0001]\nlora_r: [8, 16]\nadapter: lora\nbf16: true\nload_in_8bit: false"
    )
    assert raw["space"] == {"optim.lr": {"choice": [1e-5, 1e-4]}, "model.adapter.rank": {"choice": [8, 16]}}
    assert raw["trial"]["model"] == {"dtype": "bfloat16", "adapter": {"type": "lora"}}
    assert raw["budget"] == {"trials": 4}


def test_paired_values_of_axolotl_are_a_list_of_points_that_starts_with_the_trial(tmp_path: Path) -> None:
    pairs = ((8, 16), (32, 64), (8, 8))
    raw = ours(tmp_path, "_:\n" + "".join(f"- {{lora_r: {r}, lora_alpha: {a}}}\n" for r, a in pairs))
    points = set(zip(*raw["sampler"]["values"].values(), strict=True))
    assert points == set(pairs)
    assert raw["trial"]["model"]["adapter"] == {"type": "lora", "rank": 8, "alpha": 16}


def test_settings_of_an_adapter_exist_where_there_is_one(tmp_path: Path) -> None:
    raw = ours(tmp_path, "adapter: [none, lora]\nlora_r: [8, 16]\nlora_alpha: [32]")
    assert raw["space"] == {
        "model.adapter.type": {"choice": ["none", "lora"]},
        "model.adapter.alpha": {"choice": [32], "when": {"model.adapter": "lora"}},
        "model.adapter.rank": {"choice": [8, 16], "when": {"model.adapter": "lora"}},
    }
    assert raw["budget"] == {"trials": 3}


def test_pairs_that_are_a_grid_after_all_are_a_grid(tmp_path: Path) -> None:
    pairs = "".join(f"- {{lora_r: {r}, lora_alpha: {a}}}\n" for r in (8, 16) for a in (16, 32))
    raw = ours(tmp_path, f"_:\n{pairs}")
    assert raw["sampler"] == {"type": "grid"}
    assert raw["space"]["model.adapter.alpha"] == {"choice": [16, 32]}


def test_micro_batches_times_accumulation_are_the_batch(tmp_path: Path) -> None:
    raw = ours(tmp_path, "micro_batch_size: [2]\ngradient_accumulation_steps: [4, 8]")
    assert raw["space"] == {"optim.batch_size": {"choice": [8, 16]}}
    assert raw["trial"]["optim"] == {"micro_batch_size": 2}


def test_anchors_are_read_and_what_contains_itself_is_refused(tmp_path: Path) -> None:
    raw = ours(tmp_path, "learning_rate: &a [1e-5, 1e-4]\nweight_decay: *a")
    assert raw["space"]["optim.weight_decay"] == {"choice": [1e-5, 1e-4]}
    with pytest.raises(ConfigError, match="nested too deeply, or in itself"):
        imported(tmp_path, "learning_rate: &a [1.0, *a]")


# -- Hydra -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "axis"),
    [
        ("1e-5", (1e-5,)),
        ("5.0,3.0", (5.0, 3.0)),
        ("1.0,", (1.0,)),
        ("choice(NLL, 'KL')", ("NLL", "KL")),
        ("range(1,5)", (1, 2, 3, 4)),
        ("range(0, 1, 0.25)", (0.0, 0.25, 0.5, 0.75)),
        ("interval(0.1, 1)", Range("float", 0.1, 1.0)),
        ("tag(log, interval(1e-6, 1e-4))", Range("float", 1e-6, 1e-4, log=True)),
        ("int(interval(1, 8))", Range("int", 1.0, 8.0)),
        ("[a,b]", (("a", "b"),)),
        ("true,null", (True, None)),
    ],
)
def test_values_of_overrides_are_read_as_hydra_reads_them(text: str, axis: Any) -> None:
    assert parse_axis(text) == axis


@pytest.mark.parametrize("text", ["glob(*)", "range(1, 9, 0)", "range(1,x)", "${other}", UNKNOWN])
def test_a_value_that_no_space_has_a_place_for_is_told(text: str) -> None:
    with pytest.raises(Unreadable, match="; "):
        parse_axis(text)


def test_the_defaults_of_a_trainer_are_openunlearnings_and_not_ours(tmp_path: Path) -> None:
    raw = ours(tmp_path, "trainer=SatImp trainer.method_args.beta1=5.0,3.0 trainer.args.learning_rate=1e-5", "a.txt")
    assert raw["trial"]["loss"]["criterion"] == {"type": "satimp", "beta2": 1.0}
    assert raw["trial"]["loss"]["forget_coefficient"] == 0.1
    assert raw["space"] == {"loss.criterion.beta1": {"choice": [5.0, 3.0]}}


@pytest.mark.parametrize(
    ("overrides", "criterion", "retain"),
    [
        ("trainer=SimNPO trainer.method_args.beta=2 trainer.method_args.delta=0.5", {"beta": 2, "margin": 1.0}, "nll"),
        (r"trainer=RMU base_model=m 'trainer.method_args.module_regex=model\.layers\.5'",
         {"layer": 6, "steering": 2.0}, "activation"),
        ("trainer=UNDIAL trainer.method_args.beta=3", {"strength": 3}, "none"),
        ("trainer=UNDIAL trainer.method_args.alpha=0.5", {"strength": 10.0}, "nll"),
        ("trainer=WGA trainer.method_args.beta=2 trainer.method_args.retain_loss_type=KL", {"beta1": 2}, "kl"),
        ("trainer=GradAscent", {}, "none"),
    ],
)  # fmt: skip
def test_arguments_of_trainers_mean_here_what_they_mean_there(
    overrides: str, criterion: dict[str, Any], retain: str, tmp_path: Path
) -> None:
    loss = ours(tmp_path, f"python src/train.py {overrides}", "a.sh")["trial"]["loss"]
    assert {name: value for name, value in loss["criterion"].items() if name != "type"} == criterion
    assert loss["retain"]["term"] == retain


def test_commands_that_differ_in_two_settings_at_once_are_paired(tmp_path: Path) -> None:
    lines = [
        f"trainer=SatImp trainer.method_args.beta1={b} trainer.method_args.beta2={c}" for b, c in ((5, 0.1), (4, 1))
    ]
    raw = ours(tmp_path, "\n".join(lines), "a.txt")
    values = {"loss.criterion.beta1": [5, 4], "loss.criterion.beta2": [0.1, 1]}
    assert raw["sampler"] == {"type": "ablation", "design": "paired", "values": values}
    assert raw["budget"] == {"trials": 2}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("trainer.args.warmup_epochs=1 num_train_epochs=x lr=1", "warmup_epochs (not one number under epochs"),
        ("trainer.args.warmup_epochs=2 num_train_epochs=1 lr=1", "warmup_epochs (not one number under epochs"),
        ("trainer=SimNPO trainer.method_args.delta=x lr=1", "delta (the margin here is beta times delta"),
        ("gradient_accumulation_steps=4 lr=1", "gradient_accumulation_steps (without the rows of a micro-batch"),
        ("per_device_train_batch_size=x lr=1", "per_device_train_batch_size (not whole numbers"),
        ("adam_beta1=0.8,0.9 lr=1", "adam_beta1, adam_beta2 (optim.betas is one pair"),
        ("model=Llama-3.2-1B-Instruct lr=1", "model=Llama-3.2-1B-Instruct (a name of a configuration there"),
        ("experiment=unlearn/wmdp/default lr=1", "wmdp wants files: write trial.benchmark"),
        ("trainer=RMU trainer.method_args.module_regex=x lr=1", "module_regex=x (not one layer"),
        ("benchmark=muse forget_split=scal lr=1", "forget_split=scal (muse has other sets"),
    ],
)
def test_names_that_go_together_and_do_not_fit_are_told(overrides: str, words: str, tmp_path: Path) -> None:
    assert words in imported(tmp_path, overrides, "a.txt").text


def test_trainers_with_arguments_of_their_own_are_variants(tmp_path: Path) -> None:
    text = (
        "for t in GradAscent GradDiff NPO; do for lr in 1e-5 2e-5; do\n"
        "python train.py trainer=$t trainer.args.learning_rate=$lr\ndone; done"
    )
    raw = ours(tmp_path, text, "a.sh")
    assert raw["space"]["loss.criterion"] == {"one_of": {"uniform": {}, "npo": {"beta": {"choice": [0.1]}}}}
    assert raw["space"]["loss.retain.term"][0] == {"choice": ["none", "nll"], "when": {"loss.criterion": ["uniform"]}}
    assert raw["budget"] == {"trials": 6}


def test_a_method_that_is_none_of_ours_is_left_out_and_told(tmp_path: Path) -> None:
    made = imported(tmp_path, "for t in PDU NPO; do python a.py trainer=$t trainer.args.seed=1; done", "a.sh")
    assert "not mapped: trainer=PDU (none of our methods" in made.text
    assert yaml.safe_load(made.text)["trial"]["loss"]["criterion"]["type"] == "npo"
    made = imported(tmp_path, "python a.py trainer=CEU trainer.args.learning_rate=1e-5", "b.sh")
    assert yaml.safe_load(made.text)["trial"] == {"optim": {"lr": 1e-5}}


def test_a_sweep_has_one_benchmark_and_as_many_epochs_as_the_longest_trial(tmp_path: Path) -> None:
    made = imported(tmp_path, "forget_split=forget10,forget05 num_train_epochs=5,10 lr=1e-5,1e-4", "a.txt")
    raw = yaml.safe_load(made.text)
    assert raw["trial"] == {"benchmark": {"type": "tofu", "split": "forget10"}, "epochs": 10}
    assert raw["budget"] == {"trials": 2}
    assert "benchmark.split=forget05 (a sweep has one, forget10 here; run it again with --set" in made.text
    assert "epochs=5 (all trials have as many, 10 here" in made.text


def test_the_params_of_a_hydra_sweeper_are_a_space(tmp_path: Path) -> None:
    raw = ours(
        tmp_path,
        "hydra:\n  sweeper:\n    n_trials: 30\n    sampler: {_target_: optuna.samplers.RandomSampler}\n    params:\n"
        "      trainer.method_args.beta: interval(0.05, 2)\n      trainer.args.learning_rate: 1e-5,1e-4\n"
        "trainer: NPO\nexperiment: unlearn/muse/default\ndata_split: Books\n",
    )
    assert raw["space"] == {"optim.lr": {"choice": [1e-5, 1e-4]}, "loss.criterion.beta": {"float": [0.05, 2.0]}}
    assert raw["sampler"] == {"type": "random"}
    assert raw["budget"] == {"trials": 30}
    assert raw["trial"]["benchmark"] == {"type": "muse", "corpus": "books"}
    assert raw["trial"]["model"]["path"] == "muse-bench/MUSE-Books_target"


# -- scripts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "values"),
    [
        ("for x in 1 2; do python a.py t=$x; done", ["1", "2"]),
        ('a=(1, "2 3")\nfor x in "${a[@]}"; do\n  python a.py "t=${x}"\ndone', ["1", "2 3"]),
        ("for x in {1..3}; do python a.py t=$x; done", ["1", "2", "3"]),
        ("for x in $(seq 1 2); do python a.py t=$x; done", ["1", "2"]),
        ('a=(5 6); b=(7 8)\nfor i in "${!a[@]}"; do python a.py t=${a[$i]}-${b[i]}; done', ["5-7", "6-8"]),
        ("s='p q'\nx=$(echo $s | cut -d' ' -f2)\npython a.py t=$x", ["q"]),
        ("s='p q'\nx=$(echo \"$s\" | awk '{print $1}')\npython a.py t=$x", ["p"]),
        ("IFS=',' read -r x y <<< \"p,q,r\"\npython a.py t=$y", ["q,r"]),
        ("python a.py t=${z:-4} \\\n  # u=2\n", ["4"]),
        ("if [ -f a=b ]; then echo t=0; else python a.py t=1 2>&1 | tee log=x; fi", ["1"]),
        ("extra='t=9 u=1'\nA=1 python a.py $extra &", ["9"]),
        ("python a.py t=$1", [UNKNOWN]),
        ("x=$(date)\npython a.py t=$x", [UNKNOWN]),
        ("python src/eval.py t=1\npython a.py t=2 experiment=eval/tofu\n# python a.py t=3", []),
        ("t=1 u=2\nt=3", ["1", "3"]),
    ],
)
def test_a_script_is_read_as_a_shell_would_run_it(script: str, values: list[str]) -> None:
    assert [command["t"] for command in commands(script)] == values


def test_nothing_of_a_file_is_ever_run(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    made = imported(tmp_path, f"x=$(touch {trap})\n`touch {trap}`\npython a.py seed=$x lr=1e-4\n", "a.sh")
    assert "not mapped: seed (the script computes it; write its value)" in made.text
    bad = f"parameters: {{lr: {{value: !!python/object/apply:os.system ['touch {trap}']}}}}"
    with pytest.raises(ConfigError, match="not recognised"):
        imported(tmp_path, bad)
    assert not trap.exists()


@pytest.mark.parametrize(
    "script",
    [
        "for a in {1..90}; do for b in {1..90}; do python a.py t=$a$b; done; done",
        "for a in {1..999999999}; do python a.py t=$a; done",
        "for a in {1..4000}; do for b in {1..4000}; do :; done; done; python a.py t=1",
    ],
)
def test_a_script_of_too_many_commands_is_refused_at_once(script: str, tmp_path: Path) -> None:
    with pytest.raises(TooMany):
        commands(script)
    with pytest.raises(ConfigError, match="more than 4096 combinations; import a part of it"):
        imported(tmp_path, script, "a.sh")


def test_a_variable_that_doubles_itself_stays_short() -> None:
    (command,) = commands("a=xxxxxxxx\nfor i in {1..64}; do a=$a$a; done\npython b.py t=$a")
    assert len(command["t"]) < 100_000


# -- bad input, and the file that comes out ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("just words", "not recognised as a W&B sweep .wandb., an axolotl sweep .axolotl., Hydra overrides .hydra."),
        ("", "not recognised"),
        ("a: 1", "not recognised"),
        ("name: x\nspace: {}\nparameters: {}", "a sweep file of ours already"),
        ("method: grid\nparameters: {colour: {values: [red, blue]}}", "nothing of it could be mapped .*\n.*colour"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_clear_error(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        imported(tmp_path, text)


def test_a_format_can_be_named_and_an_unknown_one_is_refused(tmp_path: Path) -> None:
    assert "an axolotl sweep" in imported(tmp_path, "learning_rate: 1e-5", tool="axolotl").text
    with pytest.raises(ConfigError, match="not a W&B sweep: no YAML mapping"):
        imported(tmp_path, "lr=1", tool="wandb")
    with pytest.raises(ConfigError, match="'optuna' is not known; choose among wandb, axolotl, hydra"):
        imported(tmp_path, "lr=1", tool="optuna")


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.sh").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not a text file; name a sweep of another tool"):
        import_sweep(tmp_path / "a.sh")


def test_no_name_of_theirs_can_end_a_comment(tmp_path: Path) -> None:
    made = imported(tmp_path, 'parameters: {lr: {value: 1e-4}, "a\\nspace: {}\\u2028x": {value: 1}}\nname: "../x y"')
    raw = yaml.safe_load(made.text)
    assert "space" not in raw
    assert raw["name"] == "x_y"
    assert all(line.startswith("# ") for line in made.text.partition("\nname:")[0].splitlines())


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    made = imported(tmp_path, "lr=1e-4", "a.txt")
    write_import(made, tmp_path / "out.yaml")
    with pytest.raises(ConfigError, match="is there; give another name, or move it away"):
        write_import(made, tmp_path / "out.yaml")
    with pytest.raises(ConfigError, match="No such file or directory; give another place"):
        write_import(made, tmp_path / "gone" / "out.yaml")
    assert (tmp_path / "out.yaml").read_text("utf-8") == made.text


def test_the_verb_prints_the_file_alone_and_the_remarks_beside_it(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("lr=1e-4 colour=red")
    done = CliRunner().invoke(app, ["import", str(tmp_path / "a.txt")])
    assert done.exit_code == 0
    assert yaml.safe_load(done.stdout)["trial"] == {"optim": {"lr": 1e-4}}
    assert "not mapped: colour (no setting of that name" in done.stderr
    assert "read as Hydra overrides" in done.stderr
    out = tmp_path / "b.yaml"
    done = CliRunner().invoke(app, ["import", str(tmp_path / "a.txt"), "--to", str(out)])
    assert (done.exit_code, done.stdout) == (0, "")
    assert f"next: unlearn-sweep plan {out}" in done.stderr
