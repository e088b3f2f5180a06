"""Any model measured on a benchmark, without a sweep; the log that is written can be another evaluation's reference."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import ValidationError
from rich.console import Console

from orchestrator.loading import adapter_base, load_any
from orchestrator.problems import ConfigError, Problem, RunFailed, did_you_mean, problems_of, read_yaml
from orchestrator.report.scores import Given, absences, lines, tables
from orchestrator.safe_yaml import BadYAML, parse_yaml
from orchestrator.trial_checks import check_benchmark, check_model
from search_spaces.space import with_paths
from trials.benchmarks import Benchmark, BenchmarkError, load_benchmark
from trials.config import TrialConfig
from trials.logs import EvalLog, LogError, References, fingerprint_of, mismatch, read_log, write_log
from trials.naming import GROUPS, named, references_of, rows_of
from trials.registry import METRICS
from trials.result import TrialFailed
from trials.sources import BenchmarkConfig

Which = Literal["target", "retain"]

BENCHMARKS = tuple(kind.model_fields["type"].default for kind in get_args(get_args(BenchmarkConfig)[0]))

_SETTINGS = (
    "benchmark",
    *(f"model.{name}" for name in ("revision", "retain_path", "retain_revision")),
    *(f"model.{name}" for name in ("prompt", "hide_pad", "dtype", "device")),
    *(f"evaluation.{name}" for name in ("batch_size", "max_new_tokens", "relearning")),
)
"""The settings of a trial that bear on an evaluation, but for those that have an option of their own."""


@dataclass(frozen=True)
class Request:
    """An evaluation that was asked for, checked as far as that goes without torch.

    Attributes:
        trial: Its benchmark, model (at `model.path`) and evaluation.
        names: Full names of the metrics.
        benchmark: The rows; None where they come from the hub.
        references: Logs of the target and the retain model, as far as they were given.
        to: Where the log goes; None: nowhere.
    """

    trial: TrialConfig
    names: list[str]
    benchmark: Benchmark | None
    references: References
    to: Path | None


def load_request(
    model: str,
    benchmark: str,
    metrics: Sequence[str],
    settings: Sequence[str],
    logs: Mapping[Which, Path | None],
    to: Path | None,
) -> Request:
    """An evaluation from the words of a command line.

    Args:
        model: Folder of a model or of an adapter, or a hub id.
        benchmark: One of `BENCHMARKS`, or a YAML file with the settings of one.
        metrics: Names, patterns and groups, each text one or several with commas between them.
        settings: `path=value` over the defaults of a trial.
        logs: Files of the target and the retain model's logs.
        to: Where the log goes.

    Raises:
        ConfigError: With every problem found.
    """
    problems: list[Problem] = []
    raw = with_paths(
        {"benchmark": _benchmark(benchmark, problems), "model": {"path": _place(model, problems)}},
        _settings(settings, problems),
    )
    words = [word.strip() for text in metrics for word in text.split(",") if word.strip()]
    names = _names(words, problems)
    known = _logs(logs, problems)
    problems += _check_to(to) if to else []
    try:
        trial = TrialConfig.model_validate(with_paths(raw, {"evaluation.metrics": words if names else []}))
    except ValidationError as error:
        raise ConfigError("evaluate", problems + problems_of(error, raw, TrialConfig)) from None
    rows, found = check_benchmark(trial, unlearn=False)
    options = {"trial.model.path": "--model"}
    for problem in [*found, *check_model(trial)]:
        path = options.get(problem.path, problem.path.removeprefix("trial."))
        problems.append(Problem(path, problem.message))
    if not problems and rows and not any(rows_of(name) & set(rows.evaluated) for name in names):
        sets = ", ".join(rows.evaluated)
        problems.append(Problem("--metrics", f"none can be taken on this benchmark, which has the sets {sets}"))
    if problems:
        raise ConfigError("evaluate", problems)
    return Request(trial, names, rows, known, to)


def run_evaluation(request: Request) -> int:
    """Measures, prints a table and writes the log; returns the exit code.

    Raises:
        ConfigError: Model or benchmark cannot be loaded, or do not fit each other.
        RunFailed: The device's memory does not suffice.
    """
    import torch  # only now: what is wrong with a command line is told before

    if request.trial.model.device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError("evaluate", [Problem("model.device", "there is no GPU here; set it to cpu or leave it out")])
    try:
        benchmark = request.benchmark or load_benchmark(request.trial.benchmark)
        log, given = _evaluate(request, benchmark)
    except BenchmarkError as error:
        raise ConfigError("evaluate", [Problem(f"benchmark.{error.field}", str(error))]) from None
    except (OSError, ValueError, TrialFailed) as error:  # as transformers puts it, and we in `trials`
        raise ConfigError("evaluate", [Problem("--model", " ".join(str(error).split()))]) from None
    except torch.OutOfMemoryError as error:
        raise RunFailed(f"out of memory; lower evaluation.batch_size ({error})") from error
    if request.to:
        write_log(request.to, log)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 140)  # a file or a pipe has room
    console.print(f"{request.trial.model.path} on {benchmark.name}", markup=False, soft_wrap=True)
    for table in tables(log, request.names):
        console.print(table)
    for line in (*lines(absences(log, request.names, given)), *_warnings(request, log)):
        console.print(line, markup=False, soft_wrap=True)
    if request.to:
        console.print(f"log: {request.to}", markup=False, soft_wrap=True)
    return 0


# -- reading -----------------------------------------------------------------------------------------------------------


def _benchmark(text: str, problems: list[Problem]) -> Any:
    if text in BENCHMARKS:
        return {"type": text}
    if Path(text).is_file():
        return read_yaml(text)
    problems.append(Problem("--benchmark", f"{text!r} is no benchmark and no file{did_you_mean(text, BENCHMARKS)}"))
    return {"type": "authors"}


def _place(model: str, problems: list[Problem]) -> str:
    """Where the model is; of a trial's checkpoint whose adapter does not stand alone, what was merged of it."""
    folder = Path(os.path.expanduser(model))
    if not folder.is_dir():
        return model
    folder = folder.resolve()
    folder = folder / "merged" if (folder / "merged").is_dir() else folder
    if not any((folder / name).exists() for name in ("config.json", "adapter_config.json")):
        lacks = "has neither a config.json nor an adapter_config.json; give the folder of a model or of an adapter"
        problems.append(Problem("--model", f"{model!r} {lacks}"))
    else:
        problems += _check_adapter(model, folder)
    return str(folder)


def _check_adapter(model: str, folder: Path) -> list[Problem]:
    """Whether the model that an adapter belongs to is there, as far as that can be told without the hub."""
    try:
        base = adapter_base(str(folder))
    except (ValueError, KeyError):
        unreadable = f"the adapter_config.json in {model!r} cannot be read; save the adapter again"
        return [Problem("--model", unreadable)]
    if base and Path(base[0]).is_absolute() and not Path(base[0]).is_dir():
        gone = f"the adapter in {model!r} belongs to the model in {base[0]!r}, which is not there"
        return [Problem("--model", f"{gone}; correct base_model_name_or_path in its adapter_config.json")]
    return []


def _settings(settings: Sequence[str], problems: list[Problem]) -> dict[str, Any]:
    values = {}
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals:
            problems.append(Problem("--set", f"{setting!r} is not path=value, as in model.dtype=bfloat16"))
        elif not any(f"{path}.".startswith(f"{known}.") for known in _SETTINGS):
            idle = f"{path!r} does not bear on an evaluation, or has an option of its own"
            problems.append(Problem("--set", f"{idle}; what can be set is {', '.join(_SETTINGS)}"))
        else:
            try:
                values[path] = parse_yaml(text)
            except BadYAML:
                problems.append(Problem(path, f"{text!r} is not readable as YAML; quote it"))
    return values


def _names(words: Sequence[str], problems: list[Problem]) -> list[str]:
    try:
        if not words:
            problems.append(Problem("--metrics", f"none is named{did_you_mean('', GROUPS)}"))
        return named(words)
    except ValueError as error:
        word = str(error.args[0])
        near = did_you_mean(word, [*GROUPS, *METRICS])
        hint = near if "did you mean" in near else did_you_mean(word, GROUPS)  # there are too many to list them all
        problems.append(Problem("--metrics", f"{word!r} is no metric, group or pattern of them{hint}"))
        return []


def _logs(files: Mapping[Which, Path | None], problems: list[Problem]) -> References:
    logs: dict[str, EvalLog] = {}
    for which, file in files.items():
        try:
            if file is not None:
                logs[which] = read_log(file)
        except LogError as error:
            problems.append(Problem(f"--{which}-log", str(error)))
    return References(**logs)


def _check_to(to: Path) -> list[Problem]:
    if to.is_file():
        return [Problem("--to", f"{str(to)!r} is there already; give another, or remove it")]
    if to.is_dir() or not to.parent.is_dir() or not os.access(to.parent, os.W_OK):
        return [Problem("--to", f"{str(to)!r} is not a file in a folder that can be written; give another")]
    return []


# -- measuring ---------------------------------------------------------------------------------------------------------


def _evaluate(request: Request, benchmark: Benchmark) -> tuple[EvalLog, Given]:
    from trials.evaluate import Evaluator
    from trials.models import load_model, material_of, settings_of
    from trials.references import about, reference_log

    trial, references = request.trial, request.references
    model, tokenizer = load_any(str(trial.model.path), trial.model)
    if trial.model.retain_path and not references.retain and "retain" in references_of(request.names):
        references = References(references.target, reference_log(trial, benchmark, "retain"))
    loaders = {}
    if retain := trial.model.retain_path:
        loaders["retain"] = lambda: load_model(retain, settings_of(trial.model, "retain"))
    material = material_of(tokenizer, model, benchmark, trial.model)
    here = about(trial, material, str(trial.model.path))
    for which in get_args(Which):
        if (given := getattr(references, which)) and (other := mismatch(given, here)):
            raise ConfigError("evaluate", [Problem(f"--{which}-log", f"{other}; evaluate that model as this one")])
    log = Evaluator(material, trial.evaluation, references, loaders).log(model, request.names)
    compared = {f"{which}_log": getattr(references, which) for which in get_args(Which)}
    log = replace(log, about=here | {name: fingerprint_of(each) for name, each in compared.items() if each})
    return log, Given(benchmark.evaluated.keys(), references, loaders.keys())


def _warnings(request: Request, log: EvalLog) -> Iterator[str]:
    if wrong := [name for name in request.names if math.isnan(log.values.get(name, 0.0))]:
        shown = ", ".join(wrong[:4]) + (f" and {len(wrong) - 4} more" if len(wrong) > 4 else "")
        yield f"warning: {shown} came out as no number: the model gives NaN"
