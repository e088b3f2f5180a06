"""A trial as it is measured: which forget rows it is asked to forget, its evaluator, and its result measured again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from trials.benchmarks import BenchmarkError, parts_of
from trials.config import TrialConfig
from trials.evaluate import Evaluator
from trials.logs import EvalLog
from trials.models import Workspace, load_unlearned, workspace
from trials.references import models_for, references
from trials.result import TrialFailed
from trials.target import prepare


def measure_again(config: TrialConfig, checkpoint: Path, names: Iterable[str]) -> EvalLog:
    """Metrics of what a trial ended with: the model of its last checkpoint.

    Args:
        config: The trial.
        checkpoint: Its `checkpoint` folder; the trial is at its full budget.
        names: Full names of metrics; those that cannot be had are absent, what they are computed from is there too.

    Raises:
        TrialFailed: There is no whole checkpoint.
    """
    place = latest_checkpoint(checkpoint)
    if place is None:
        raise TrialFailed(f"{str(checkpoint)!r} holds no whole checkpoint; only trials at full budget keep theirs")
    warm = workspace(config)
    model = load_unlearned(config, place, prepare(config, warm.benchmark, "target"))
    return evaluator_for(config, warm, requests_of(config, warm)).log(model, names)


def requests_of(config: TrialConfig, warm: Workspace) -> list[list[int]]:
    """The units of the forget set by request: one list where all are made together.

    Raises:
        TrialFailed: There are fewer epochs than requests to be made one after the other, or not as many requests.
    """
    try:
        parts = parts_of(warm.benchmark, config.requests)
    except BenchmarkError as error:
        raise TrialFailed(f"requests.{error.field}: {error}") from None
    place = {id(row): number for number, row in enumerate(warm.benchmark.forget)}
    rows = [place[id(unit.row)] for unit in warm.material.units("forget")]
    found = [[index for index, row in enumerate(rows) if row in part] for part in parts]
    if config.requests.order == "together":
        return [[index for request in found for index in request]]
    if len(found) > config.epochs:
        raise TrialFailed(f"epochs {config.epochs} are fewer than the {len(found)} successive requests; raise epochs")
    return found


def evaluator_for(config: TrialConfig, warm: Workspace, requests: Sequence[Sequence[int]]) -> Evaluator:
    """What measures a trial: on the forget rows that it is asked to forget."""
    asked = sorted(row for request in requests for row in request)
    whole = len(asked) == len(warm.forget)
    return Evaluator(
        warm.material,
        config.evaluation,
        references(config, warm.benchmark),
        models_for(config, warm.benchmark, warm),
        None if whole else asked,
        config.seed,
    )


def latest_checkpoint(checkpoint: Path) -> Path | None:
    """The newest whole checkpoint in a `checkpoint` folder; half-written ones have names that start with a dot."""
    whole = sorted(place for place in checkpoint.glob("[0-9]*") if (place / "epoch.json").exists())
    return whole[-1] if whole else None
