"""A trial as it is measured: which forget rows it is asked to forget, its evaluator, and its result measured again."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path

from trials.benchmarks import BenchmarkError, load_benchmark, parts_of
from trials.checkpoints import damage_of
from trials.config import TrialConfig
from trials.evaluate import Evaluator
from trials.logits import LogitDifference
from trials.logs import EvalLog
from trials.material import Material
from trials.models import Workspace, load_tokenizer, load_unlearned, material_of
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
        TrialFailed: There is no whole checkpoint, or it is damaged.
    """
    place = latest_checkpoint(checkpoint)
    if place is None:
        none = f"{str(checkpoint)!r} holds no whole checkpoint: it was not kept (`checkpoints`), or deleted by hand"
        trial = checkpoint.parent
        again = shlex.join(["unlearn-sweep", "trial", str(trial / "trial.json"), "--folder", str(trial)])
        raise TrialFailed(f"{none}; `{again}` makes it again")
    if damage := damage_of(place):
        raise TrialFailed(f"checkpoint {str(place)!r} is damaged ({damage}): the trial's model is lost")
    benchmark = load_benchmark(config.benchmark)
    target = prepare(config, benchmark, "target")
    model = load_unlearned(config, place, target)
    whole = model.target if isinstance(model, LogitDifference) else model
    material = material_of(load_tokenizer(target, config.model), whole, benchmark, config.model)
    return evaluator_for(config, material).log(model, names)


def requests_of(config: TrialConfig, material: Material) -> list[list[int]]:
    """The units of the forget set by request: one list where all are made together.

    Raises:
        TrialFailed: There are fewer epochs than requests to be made one after the other, or not as many requests.
    """
    place = {id(row): number for number, row in enumerate(material.benchmark.forget)}
    rows = [place[id(unit.row)] for unit in material.units("forget")]
    found = [[index for index, row in enumerate(rows) if row in part] for part in _parts(config, material)]
    if config.requests.order == "together":
        return [[index for request in found for index in request]]
    if len(found) > config.epochs:
        raise TrialFailed(f"epochs {config.epochs} are fewer than the {len(found)} successive requests; raise epochs")
    return found


def evaluator_for(config: TrialConfig, material: Material, warm: Workspace | None = None) -> Evaluator:
    """What measures a trial: on the forget rows that it is asked to forget.

    Args:
        config: The trial.
        material: Its benchmark, in the tokens of its model.
        warm: Where the target model, and the logs of other models, are in memory.
    """
    benchmark = material.benchmark
    rows = [row for part in _parts(config, material) for row in part]
    known = warm.logs if warm else {}
    key = config.evaluation.model_dump_json()
    if key not in known:
        known[key] = references(config, benchmark)
    return Evaluator(
        material,
        config.evaluation,
        known[key],
        models_for(config, benchmark, warm),
        None if len(rows) == len(benchmark.forget) else {benchmark.forget[row] for row in rows},
    )


def _parts(config: TrialConfig, material: Material) -> list[range]:
    try:
        return parts_of(material.benchmark, config.requests)
    except BenchmarkError as error:
        raise TrialFailed(f"requests.{error.field}: {error}") from None


def latest_checkpoint(checkpoint: Path) -> Path | None:
    """The newest whole checkpoint in a `checkpoint` folder; half-written ones have names that start with a dot."""
    whole = sorted(place for place in checkpoint.glob("[0-9]*") if (place / "epoch.json").exists())
    return whole[-1] if whole else None
