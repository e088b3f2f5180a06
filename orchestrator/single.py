"""One trial in this process, without Ray: to look at it, to debug it, to have a recorded one again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console

from orchestrator.problems import ConfigError, Problem, did_you_mean, problems_of, read_yaml
from search_spaces.space import with_paths
from trials.benchmarks import BenchmarkError
from trials.config import PRESETS, TrialConfig


def load_trial(file: str, settings: Sequence[str], preset: str | None) -> TrialConfig:
    """The base trial of a sweep file, or the trial of a `trial.json`, with settings laid over it.

    Raises:
        ConfigError: With every problem found.
    """
    recorded = Path(file).suffix == ".json"
    raw = read_yaml(file, settings)
    if not recorded:
        raw = raw.get("trial") or {}
    if preset is not None:
        if preset not in PRESETS:
            raise ConfigError("--preset", [Problem("", f"{preset!r} is not a preset{did_you_mean(preset, PRESETS)}")])
        raw = with_paths(raw, {"loss": PRESETS[preset][0]})
    try:
        return TrialConfig.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(file, problems_of(error, raw, TrialConfig)) from None


def run_single(config: TrialConfig, folder: Path, *, debug: bool) -> int:
    """Runs a trial, prints each epoch; returns the exit code: 0, or 1 when it failed.

    Args:
        config: The trial.
        folder: Where its checkpoint goes; one that is there is not taken up.
        debug: Open the debugger where it fails.
    """
    from trials.unlearn import TrialFailed, run_trial  # torch: only now

    console = Console(highlight=False, soft_wrap=True)
    console.print_json(json.dumps(config.model_dump(mode="json")["loss"]))
    try:
        for result in run_trial(config, folder=folder):
            console.print(f"epoch {result.epoch}  {result.seconds:.1f} s  {_values(result.metrics)}")
    except BenchmarkError as error:
        raise ConfigError("benchmark", [Problem(f"benchmark.{error.field}", str(error))]) from None
    except TrialFailed as error:
        console.print(f"{type(error).__name__}: {error}", markup=False)
        if debug:
            _post_mortem()
        return 1
    except Exception:
        if debug:
            _post_mortem()
        raise
    return 0


def _values(metrics: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())


def _post_mortem() -> Any:
    import pdb

    pdb.post_mortem()
