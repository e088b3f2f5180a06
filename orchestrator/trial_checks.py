"""What one trial is checked for before it runs, beyond the types and bounds of its settings: without torch or Ray."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from orchestrator.problems import Problem, did_you_mean
from trials.benchmarks import Benchmark, BenchmarkError, load_benchmark, parts_of
from trials.config import TrialConfig
from trials.logs import LogError, mismatch, read_log
from trials.naming import GROUPS, looked_into, models_of, named, rows_of
from trials.registry import METRICS


def check_benchmark(trial: TrialConfig, *, unlearn: bool = True) -> tuple[Benchmark | None, list[Problem]]:
    """The benchmark's rows, or None and why not; None too when they come from the hub, fetched when a sweep starts.

    Args:
        trial: The trial.
        unlearn: Whether there must be something to forget, request by request.
    """
    if getattr(trial.benchmark, "path", "") is None:
        return None, []
    try:
        benchmark = load_benchmark(trial.benchmark)
    except BenchmarkError as error:
        return None, [Problem(f"trial.benchmark.{error.field}", str(error))]
    requests = check_requests(trial, benchmark) if unlearn else []
    return benchmark, [*requests, *_check_retain_log(trial, benchmark)]


def check_requests(trial: TrialConfig, benchmark: Benchmark) -> list[Problem]:
    """Whether there is something to forget, and as many requests and epochs for them as are asked for."""
    if not benchmark.forget or not benchmark.retain_pool:
        return [Problem("trial.benchmark", "it has no forget and retain set to unlearn by; name both corpora")]
    try:
        parts = parts_of(benchmark, trial.requests)
    except BenchmarkError as error:
        return [Problem(f"trial.requests.{error.field}", str(error))]
    if trial.requests.order == "successive" and trial.epochs < len(parts):
        few = f"{trial.epochs} epochs are fewer than the {len(parts)} requests, made one after the other; raise it"
        return [Problem("trial.epochs", few)]
    return []


def _check_retain_log(trial: TrialConfig, benchmark: Benchmark) -> list[Problem]:
    """Whether the retain model's log is one, and of this benchmark, asked in this way."""
    path = "trial.model.retain_log"
    if not trial.model.retain_log or trial.model.path is None:
        return []
    try:
        log = read_log(Path(os.path.expanduser(trial.model.retain_log)))
    except LogError as error:
        return [Problem(path, str(error))]
    hide_pad = str(trial.model.hide_pad).lower()
    if other := mismatch(log, {"benchmark": benchmark.name, "data": benchmark.digest(), "hide_pad": hide_pad}):
        return [Problem(path, f"{other}; evaluate the retain model as this file does")]
    rows = log.rows.get("forget.wrong_over_right")
    if rows is not None and len(rows) != len(benchmark.forget):
        other = f"the log has {len(rows)} forget rows and the benchmark {len(benchmark.forget)}"
        return [Problem(path, f"{other}; evaluate the retain model on this benchmark")]
    return []


def check_model(trial: TrialConfig) -> list[Problem]:
    """Whether the models' folders are there, as far as they are folders."""
    problems = []
    for name in ("path", "retain_path"):
        place = getattr(trial.model, name)
        if place and (place.startswith((".", "/", "~")) or "/" not in place) and not Path(place).is_dir():
            problems.append(
                Problem(f"trial.model.{name}", f"{place!r} is not a folder; give a model's folder or a hub id")
            )
    problems += _check_evaluation(trial)
    for name in ("retain_path", "retain_log"):
        if getattr(trial.model, name) and not trial.model.path:
            problems.append(
                Problem(f"trial.model.{name}", "it belongs to a target model of yours; set trial.model.path")
            )
    layer, depth = getattr(trial.loss.criterion, "layer", None), _depth(trial.model.path)
    if layer is not None and depth is not None and layer > depth:
        deep = f"{layer} is more than the model's {depth} layers; lower it or leave it null"
        problems.append(Problem("trial.loss.criterion.layer", deep))
    return problems


def _check_evaluation(trial: TrialConfig) -> list[Problem]:
    """Whether what is to be measured are metrics, and the retain model's log one."""
    problems = []
    for field in ("metrics", "front"):
        for index, word in enumerate(getattr(trial.evaluation, field)):
            try:
                named([word])
            except ValueError:
                unknown = f"{word!r} is no metric, group or pattern of them{did_you_mean(word, [*GROUPS, *METRICS])}"
                problems.append(Problem(f"trial.evaluation.{field}.{index}", unknown))
    return problems


def _depth(path: str | None) -> int | None:
    """Layers of a model in a folder, as its config.json says; None where it does not, or is not at hand."""
    try:
        config = json.loads((Path(os.path.expanduser(path or "")) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    found = [config.get(name) for name in ("num_hidden_layers", "n_layer", "num_layers")]
    return next((value for value in found if isinstance(value, int)), None)


def lacking(name: str, trial: TrialConfig, benchmark: Benchmark | None) -> str:
    """Why a metric that is asked for by its full name cannot be had; "" if it can."""
    if name not in METRICS:
        return f"{name!r} is not a metric{did_you_mean(name, METRICS)}"
    sets = set(benchmark.evaluated) if benchmark else rows_of(name)
    if not rows_of(name) & sets:
        wanted = " and no ".join(sorted(rows_of(name)))
        return f"the benchmark has no {wanted} set to measure {name!r} on; choose among {', '.join(sorted(sets))}"
    if without_retain(trial, [name]):
        remedy = "trial.model.retain_path" + ("" if "retain" in looked_into([name]) else " or retain_log")
        return f"{name!r} is compared with a retain model and there is none; set {remedy}"
    return ""


def without_retain(trial: TrialConfig, names: Iterable[str]) -> list[str]:
    """The metrics among `names` that are absent, since the retain model or its log that they look at is not there."""
    model = trial.model
    if model.path is None or model.retain_path is not None:
        return []
    return [name for name in names if "retain" in (looked_into if model.retain_log else models_of)([name])]


def absence(trial: TrialConfig) -> str:
    """A line on what is not measured for want of a retain model; "" where nothing is."""
    names = without_retain(trial, named((*trial.evaluation.metrics, *trial.evaluation.front)))
    shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    remedy = "model.retain_path" + ("" if trial.model.retain_log else " or retain_log")
    return f"not measured without a retain model ({remedy}): {shown}" if names else ""
