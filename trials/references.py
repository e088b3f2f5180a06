"""Logs of the target and the retain model: what a trial is compared with, measured once and kept.

They lie in the user's cache folder under a digest of model, data and everything that is measured, so a worker finds
what the driver has made. Where it is not there (another machine), it is made anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from trials.benchmarks import Benchmark
from trials.config import TrialConfig
from trials.evaluate import Evaluator
from trials.identity import log_file, model_digest
from trials.logs import EvalLog, LogError, References, read_log, write_log
from trials.material import Material
from trials.models import Which, Workspace, load_model, load_tokenizer, material_of, model_folder, settings_of
from trials.naming import named, references_of
from trials.result import TrialFailed
from trials.target import Progress, prepare


def reference_log(
    config: TrialConfig, benchmark: Benchmark, which: Which, progress: Progress | None = None
) -> EvalLog | None:
    """The log of the target or retain model, read or made; None where there is neither such a log nor such a model.

    Args:
        config: The trial.
        benchmark: Its rows.
        which: Which model.
        progress: Told of the training of a model of ours that is not there yet.

    Raises:
        LogError: The retain model's log, as configured, is none.
    """
    if which == "retain" and config.model.retain_log and not config.model.retain_path:
        return read_log(Path(os.path.expanduser(config.model.retain_log)))
    if model_folder(config, benchmark, which) is None:
        return None
    folder = prepare(config, benchmark, which, progress)  # also where its log is there: it may be needed next
    file = log_file(config, data=benchmark.digest(), which=which)
    if file.exists():
        return read_log(file)
    settings = settings_of(config.model, which)
    model = load_model(folder, settings)
    material = material_of(load_tokenizer(folder, settings), model, benchmark, config.model)
    models = models_for(config, benchmark) | {which: lambda: model}
    log = Evaluator(material, config.evaluation, models=models).log(
        model, named((*config.evaluation.metrics, *config.evaluation.front))
    )
    log = replace(log, about=about(config, material, folder) | {"which": which})
    file.parent.mkdir(parents=True, exist_ok=True)
    write_log(file, log)
    return log


def references(config: TrialConfig, benchmark: Benchmark) -> References:
    """The logs that the metrics of a trial are computed from, as far as there are any.

    Raises:
        TrialFailed: The retain model's log, as configured, is none.
    """
    needed = references_of(named((*config.evaluation.metrics, *config.evaluation.front)))
    try:
        return References(
            target=reference_log(config, benchmark, "target") if "target" in needed else None,
            retain=reference_log(config, benchmark, "retain") if "retain" in needed else None,
        )
    except LogError as error:
        raise TrialFailed(f"model.retain_log: {error}") from None


def models_for(
    config: TrialConfig, benchmark: Benchmark, warm: Workspace | None = None
) -> dict[str, Callable[[], Any]]:
    """What loads the target and the retain model, for metrics that look into them; the warm target if there is one."""

    def load(which: Which) -> Any:
        return load_model(prepare(config, benchmark, which), settings_of(config.model, which))

    found: dict[str, Callable[[], Any]] = {"target": lambda: warm.reference if warm else load("target")}
    if model_folder(config, benchmark, "retain") is not None:
        found["retain"] = lambda: load("retain")
    return found


def about(config: TrialConfig, material: Material, folder: str) -> dict[str, str]:
    """What a log is of: enough to tell whether two of them can be compared.

    Args:
        config: Benchmark, dtype and evaluation.
        material: The rows, in the tokens of the model.
        folder: Folder or hub id of the model.
    """
    data, model = material.benchmark.digest(), config.model
    itself = model.model_copy(update={"path": folder})
    return {
        "model": folder,
        "model_digest": model_digest(itself, data=data),
        "benchmark": material.benchmark.name,
        "data": data,
        "prompt": material.asked,
        "hide_pad": str(model.hide_pad).lower(),
        "dtype": model.dtype,
        "max_new_tokens": str(config.evaluation.max_new_tokens),
        **{name: version(name) for name in ("unlearn-sweep", "torch", "transformers", "peft")},
    }
