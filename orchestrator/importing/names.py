"""What other tools call our settings, methods and metrics: data, in our words.

Sources: OpenUnlearning (arXiv 2506.12618), its configuration files; the code of SatImp (arXiv 2505.11953), by way of
`official`; axolotl's and W&B's documentation. `python -m orchestrator.importing.names` prints the tables of the page.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from orchestrator.reference.elsewhere import NAMES
from orchestrator.reference.official import OFFICIAL
from orchestrator.report.markdown import table
from search_spaces.space import flat
from trials.objectives import LossConfig
from trials.presets import PRESETS
from trials.registry import METRICS

_ALIASES = {
    "optim.lr": "lr learning_rate",
    "optim.weight_decay": "weight_decay wd",
    "optim.clip": "max_grad_norm clip_grad_norm grad_clip gradient_clipping",
    "optim.warmup": "warmup_ratio",
    "optim.schedule": "lr_scheduler_type lr_scheduler scheduler_type",
    "epochs": "epochs num_epochs num_train_epochs n_epochs",
    "seed": "seed random_seed",
    "model.path": "pretrained_model_name_or_path base_model model_path model_name_or_path",
    "model.dtype": "torch_dtype dtype",
    "model.retain_log": "retain_logs_path",
    "model.adapter.type": "adapter",
    "model.adapter.rank": "lora_r lora_rank lora.r lora.rank",
    "model.adapter.alpha": "lora_alpha lora.alpha",
    "model.adapter.dropout": "lora_dropout lora.dropout",
    "model.adapter.targets": "lora_target_modules lora.targets",
    "benchmark.type": "benchmark",
    "benchmark.split": "forget_split forget_set",
    "benchmark.retain_split": "retain_split",
    "benchmark.holdout_split": "holdout_split",
    "benchmark.corpus": "data_split corpus",
    "loss.granularity.type": "granularity",
    "loss.retain.coefficient": "retain_coefficient retain_coeff retain_weight",
    "loss.forget_coefficient": "forget_coefficient forget_coeff forget_weight",
    "loss.retain.term": "retain_loss_type retain_loss",
}
ALIASES: dict[str, str] = {theirs: ours for ours, names in _ALIASES.items() for theirs in names.split()}
"""Their name, in lower case and without the group in front of it -> our path."""

BATCH = ("per_device_train_batch_size", "micro_batch_size", "batch_size", "train_batch_size")
ACCUMULATION = ("gradient_accumulation_steps", "grad_accum", "gradient_accumulation", "accumulation_steps")
"""Together they are `optim.batch_size`, the rows of an optimiser step."""

ARGUMENTS = "trainer.method_args."
GROUPS = (ARGUMENTS, "trainer.args.", "training_args.", "model.model_args.", "training.", "trainer.", "args.")
"""What stands in front of a name of theirs."""

METHOD_KEYS = ("trainer", "loss_type", "forget_loss", "method", "criterion", "objective", "unlearn_method", "loss")
METHOD_PATHS = ("loss.preset", "loss.criterion.type", "loss.criterion")

VALUES: dict[str, dict[str, Any]] = {
    "loss.retain.term": {"nll": "nll", "kl": "kl", "embed_diff": "activation", "gd": "nll", "none": "none"},
    "optim.schedule": {"constant_with_warmup": "constant"},
    "model.dtype": {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"},
    "model.adapter.type": {"": "none", "qlora": "lora"},
    "benchmark.corpus": {"news": "news", "books": "books"},
}
"""Path -> what they write there, in lower case -> what stands for it here."""

IGNORED = (
    *("task_name", "run_name", "mode", "project", "entity", "wandb*", "hydra*", "paths.*", "*output_dir", "logging*"),
    *("report_to", "do_*", "save_*", "eval*", "ddp_*", "gradient_checkpointing*", "tf32", "num_workers", "port"),
    *("dataloader_*", "*tokenizer*", "attn_implementation", "device_map", "token", "handler", "data"),
    *("dataset_prepared_path", "val_set_size", "load_best_model_at_end", "bf16_full_eval", "flash_attention"),
    *("per_device_eval_batch_size", "lora_target_linear"),
)
"""Patterns of names that say where things go, what is logged or how fast it is: no setting of a trial."""

WHY: dict[str, str] = {
    "alpha": "it means another thing in each code; write loss.retain.coefficient, loss.forget_coefficient, or name the "
    "trainer",
    "gamma": "it means another thing in each code; write loss.retain.coefficient, loss.forget_coefficient, or name the "
    "trainer",
    "beta": "of which method? name the method in the file, or write loss.criterion.beta",
    "beta1": "SatImp's or Adam's? name the method in the file, or write loss.criterion.beta1",
    "beta2": "SatImp's or Adam's? name the method in the file, or write loss.criterion.beta2",
    "warmup_steps": "steps depend on the rows; write optim.warmup as a share of all steps",
    "max_steps": "a trial ends after whole epochs; write epochs",
    "sequence_len": "rows are not cut; muse and wmdp have benchmark.chunk",
    "max_length": "rows are not cut; muse and wmdp have benchmark.chunk",
    "load_in_8bit": "weights are not quantised while unlearning; model.dtype is bfloat16, float16 or float32",
    "load_in_4bit": "weights are not quantised while unlearning; model.dtype is bfloat16, float16 or float32",
    "optimizer": "AdamW is the only optimiser",
    "optim": "AdamW is the only optimiser",
    "trainable_params_regex": "every trainable weight is updated; for some only, optim.mask or an adapter",
    "model": "a name of a configuration there, not a place; write trial.model.path",
}
"""Their name -> why it cannot be mapped, and what to do, where no near name would help."""

# -- methods -----------------------------------------------------------------------------------------------------------


class Method(NamedTuple):
    """A method elsewhere: all of the loss that its name says, and where its arguments go."""

    settings: dict[str, Any]
    arguments: dict[str, str]


_TERMS = {
    "gamma": "loss.forget_coefficient",
    "alpha": "loss.retain.coefficient",
    "retain_loss_type": "loss.retain.term",
}
_BETA, _BETA1, _BETA2 = (f"loss.criterion.{name}" for name in ("beta", "beta1", "beta2"))


def preset(label: str) -> dict[str, Any]:
    """Path -> value of a preset: criterion with its settings, retain term, and what else differs from the default."""
    chosen = LossConfig.model_validate(PRESETS[label][0])
    kept = flat({"loss": PRESETS[label][0]})
    return kept | {
        "loss.retain.term": chosen.retain.term,
        "loss.retain.coefficient": chosen.retain.coefficient,
        "loss.forget_coefficient": chosen.forget_coefficient,
    }


TRAINERS: dict[str, Method] = {
    "GradAscent": Method(preset("gradient_ascent"), {}),
    "GradDiff": Method(preset("gradient_difference"), _TERMS),
    "NPO": Method(preset("npo_ou"), {"beta": _BETA, **_TERMS}),
    "SimNPO": Method(preset("simnpo_tofu10"), {"beta": _BETA, "delta": "loss.criterion.margin", **_TERMS}),
    "DPO": Method(preset("dpo_gd"), {"beta": _BETA, **_TERMS}),
    "RMU": Method(
        preset("rmu_ou"),
        {"steering_coeff": "loss.criterion.steering", "module_regex": "loss.criterion.layer", **_TERMS},
    ),
    "UNDIAL": Method(preset("undial_ou"), {"beta": "loss.criterion.strength", **_TERMS}),
    "WGA": Method(preset("wga"), {"beta": _BETA1, **_TERMS}),
    "SatImp": Method(preset("satimp_ou_merged"), {"beta1": _BETA1, "beta2": _BETA2, **_TERMS}),
}
"""OpenUnlearning's `trainer` -> its loss with the numbers of its configuration file."""

_FORGET, _RETAIN = "loss.forget_coefficient", "loss.retain.coefficient"
_OFFICIAL_ARGUMENTS: dict[str, dict[str, str]] = {
    "satimp": {"hyper_param": _BETA1, "beta": _BETA2},
    "satimp_gd": {"hyper_param": _BETA1, "beta": _BETA2, "coeff": _RETAIN},
    "simsat_gd": {"beta": _BETA1, "coeff": _FORGET},
    "simimp_ga": {"hyper_param": _BETA2},
    "simimp_gd": {"hyper_param": _BETA2},
    "npo": {"beta": _BETA},
    "npo_grad_diff": {"beta": _BETA, "npo_coeff": _FORGET, "grad_diff_coeff": _RETAIN},
    "npo_KL": {"beta": _BETA, "npo_coeff": _FORGET, "KL_coeff": _RETAIN},
    "simnpo": {"beta": _BETA},
    "simnpo_grad_diff": {"beta": _BETA, "npo_coeff": _FORGET, "grad_diff_coeff": _RETAIN},
    "dpo": {"beta": _BETA},
    "dpo_grad_diff": {"beta": _BETA},
    "dpo_KL": {"beta": _BETA},
} | {
    f"{level}_{name}": {"hyper_param": _BETA1 if name.startswith("simsat") else _BETA2}
    for level in ("instance", "batch")
    for name in ("simsat_ga", "simsat_gd", "simimp_ga", "simimp_gd")
}
LOSSES: dict[str, Method] = {
    name: Method(preset(official.presets[0]), _OFFICIAL_ARGUMENTS.get(name, {}))
    for name, official in OFFICIAL.items()
    if "*" not in name
}
"""`loss_type` or `forget_loss` of the repositories of TOFU and SatImp -> the preset that stands for it."""

# -- metrics and experiments -------------------------------------------------------------------------------------------

_MORE_METRICS = {
    "forget_verbmem_ROUGE": "verbmem.rouge_l_f1",
    "forget_knowmem_ROUGE": "forget_knowmem.rouge_l_f1",
    "retain_knowmem_ROUGE": "retain_knowmem.rouge_l_f1",
    "retain_extraction_strength": "retain.extraction_strength_openunlearning",
}
METRIC_NAMES: dict[str, str] = {
    theirs.lower(): ours
    for where in ("WMDP", "MUSE", "OpenUnlearning", "OpenUnlearning, TOFU")
    for row in reversed(NAMES[where])
    if len(row.theirs) == len(row.ours)
    for theirs, ours in zip(row.theirs, row.ours, strict=True)
} | {theirs.lower(): ours for theirs, ours in _MORE_METRICS.items()}
"""Their name in lower case -> the metric."""


def metric_of(name: str) -> str | None:
    """Our name of a metric, whatever group (`eval/`, `TOFU_EVAL.`) stands in front of theirs."""
    if name in METRICS:
        return name
    last = name.replace("/", ".").rpartition(".")[2].lower()
    tail = ".".join(name.replace("/", ".").split(".")[-2:])
    return tail if tail in METRICS else METRIC_NAMES.get(last)


_TRAINER_DEFAULTS = {
    "learning_rate": 1e-5,
    "num_train_epochs": 10,
    "lr_scheduler_type": "linear",
    "max_grad_norm": 1.0,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "torch_dtype": "bfloat16",
}
EXPERIMENTS: dict[str, dict[str, Any]] = {
    "tofu": _TRAINER_DEFAULTS
    | {
        "benchmark": "tofu",
        "forget_split": "forget10",
        "pretrained_model_name_or_path": "open-unlearning/tofu_Llama-3.2-1B-Instruct_full",
        "model": "Llama-3.2-1B-Instruct",
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 4,
        "weight_decay": 0.01,
        "warmup_epochs": 1.0,
    },
    "muse": _TRAINER_DEFAULTS
    | {
        "benchmark": "muse",
        "data_split": "News",
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 8,
        "lr_scheduler_type": "constant",
        "warmup_epochs": 0.0,
    },
}
"""OpenUnlearning's `experiment=unlearn/<this>/..` -> what its file, and its Trainer's defaults, say."""

PROMPTS: dict[str, dict[str, Any]] = {
    name: {"model.prompt.type": "chat", "model.prompt.system": "You are a helpful assistant."}
    for name in ("Llama-3.1-8B-Instruct", "Llama-3.2-1B-Instruct", "Llama-3.2-3B-Instruct")
} | {"Llama-2-7b-chat-hf": {"model.prompt.type": "plain", "model.prompt.template": "[INST] {question} [/INST]{answer}"}}
"""OpenUnlearning's `model` -> the prompt in its file; of others, the tokenizer's own."""


def tables() -> str:
    """The tables of docs/import.md, in Markdown."""
    code = "`{}`".format
    settings = [(code(ours), ", ".join(map(code, names.split()))) for ours, names in _ALIASES.items()]
    settings.append(("`optim.batch_size`", f"{', '.join(map(code, BATCH))} times `{ACCUMULATION[0]}`"))
    methods = [
        (code(name), code(f"{m.settings['loss.criterion.type']}"), _arguments(m)) for name, m in TRAINERS.items()
    ]
    metrics = [(code(ours), code(theirs)) for theirs, ours in sorted(METRIC_NAMES.items(), key=lambda item: item[::-1])]
    parts = [
        ["### Settings", "", *table(["ours", "theirs"], settings)],
        ["### OpenUnlearning's trainers", "", *table(["`trainer`", "`loss.criterion`", "its arguments"], methods)],
        ["### Metrics", "", *table(["ours", "theirs, in whatever case"], metrics)],
    ]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def _arguments(method: Method) -> str:
    return ", ".join(f"`{theirs}`: `{ours.removeprefix('loss.')}`" for theirs, ours in method.arguments.items())


if __name__ == "__main__":
    print(tables(), end="")
