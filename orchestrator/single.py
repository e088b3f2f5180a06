"""One trial in this process, without Ray: to look at it, to debug it, to have a recorded one again."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console

from orchestrator.config import SweepConfig
from orchestrator.problems import ConfigError, Problem, did_you_mean, problems_of, read_yaml
from orchestrator.report.weight_profiles import FILES, history_of, tabled
from orchestrator.trial_checks import check_benchmark, check_model
from search_spaces.space import with_paths
from trials.benchmarks import BenchmarkError
from trials.config import TrialConfig
from trials.presets import PRESETS
from trials.result import TrialFailed


def load_trial(file: str, settings: Sequence[str], preset: str | None) -> TrialConfig:
    """The base trial of a sweep file, or the trial of a `trial.json`, with settings laid over it.

    Raises:
        ConfigError: With every problem found.
    """
    recorded = Path(file).suffix == ".json"
    raw = read_yaml(file, settings)
    place = "" if recorded else "trial."
    problems = [] if recorded else _strangers(raw)
    if not recorded:
        raw = raw.get("trial", {})
    if preset is not None and preset not in PRESETS:
        problems.append(Problem("--preset", f"{preset!r} is not a preset{did_you_mean(preset, PRESETS)}"))
    elif preset is not None and isinstance(raw, dict):
        raw = with_paths(raw, {"loss": PRESETS[preset][0]})
    try:
        config = TrialConfig.model_validate(raw)
    except ValidationError as error:
        problems += [Problem(f"{place}{p.path}".strip("."), p.message) for p in problems_of(error, raw, TrialConfig)]
        raise ConfigError(file, problems) from None
    found = [*check_benchmark(config)[1], *check_model(config)]
    problems += [Problem(place + p.path.removeprefix("trial."), p.message) for p in found]
    if problems:
        raise ConfigError(file, problems)
    return config


def _strangers(raw: Mapping[str, Any]) -> list[Problem]:
    """Top-level keys that no sweep file has: a setting of the trial without its `trial.` would change nothing."""
    known = [*SweepConfig.model_fields, *(f"trial.{name}" for name in TrialConfig.model_fields)]
    return [
        Problem(str(key), f"unknown key{did_you_mean(f'trial.{key}' if f'trial.{key}' in known else str(key), known)}")
        for key in raw
        if key not in SweepConfig.model_fields
    ]


def run_single(config: TrialConfig, folder: Path, *, debug: bool) -> int:
    """Runs a trial, prints each epoch; returns the exit code: 0, or 1 when it failed.

    Args:
        config: The trial.
        folder: Where its checkpoint goes, and the figure of its weights; a checkpoint that is there is not taken up.
        debug: Open the debugger where it fails.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        problem = Problem("--folder", f"{str(folder)!r} cannot be written ({error.strerror}); give another")
        raise ConfigError("trial", [problem]) from None
    from trials.unlearn import run_trial  # torch: only now

    console = Console(highlight=False, soft_wrap=True)
    console.print_json(json.dumps(config.model_dump(mode="json")["loss"]))
    epochs: dict[int, dict[str, float]] = {}
    failed = False
    try:
        for result in run_trial(config, folder=folder):
            epochs[result.epoch] = result.metrics
            console.print(f"epoch {result.epoch}  {result.seconds:.1f} s  {_values(result.metrics)}")
    except BenchmarkError as error:
        raise ConfigError("benchmark", [Problem(f"trial.benchmark.{error.field}", str(error))]) from None
    except TrialFailed as error:
        console.print(f"{type(error).__name__}: {error}", markup=False)
        if debug:
            _post_mortem()
        failed = True
    except Exception:
        if debug:
            _post_mortem()
        raise
    if history := history_of("", config.model_dump(mode="json"), epochs):
        from orchestrator.report.weight_figures import write_figure  # matplotlib

        write_figure(folder, history)
        console.print(f"weights: {folder / FILES[0]}", markup=False)
    return int(failed)


def _values(metrics: dict[str, float]) -> str:
    return "  ".join(f"{name} {metrics[name]:.4g}" for name in tabled(metrics))


def _post_mortem() -> Any:
    import pdb

    pdb.post_mortem()
