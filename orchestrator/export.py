"""The model of a trial as a folder like any other: written, loaded again, measured, and only then put in its place."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console

from orchestrator.config import SweepConfig
from orchestrator.events import Record, SweepInfo
from orchestrator.housekeeping import run_again
from orchestrator.ledger import read_events
from orchestrator.loading import load_any
from orchestrator.problems import ConfigError, Problem, RunFailed, did_you_mean, require_run_folder
from orchestrator.remote import fetch
from orchestrator.report.card import Export, Kind, card
from orchestrator.report.scores import intervals
from orchestrator.results.choices import recommended
from orchestrator.results.front import Summary, summarise
from orchestrator.search.earlier import origin_of
from orchestrator.trial_checks import check_benchmark, check_model
from search_spaces.space import get_path, with_paths
from trials.benchmarks import Benchmark, BenchmarkError, load_benchmark
from trials.checkpoints import damage_of
from trials.config import TrialConfig
from trials.logs import EvalLog
from trials.naming import named
from trials.objectives import ULD
from trials.result import TrialFailed

TOLERANCE, HALF = 1e-5, 5e-2
"""How far, relative, a metric may be from what is recorded: in fp32, and in half precision."""

_NOT_THE_MODEL = ("epoch.json", "checksums.json", "optimizer.safetensors", "README.md")


@dataclass(frozen=True)
class Pick:
    """A trial that can be exported.

    Attributes:
        folder: Its run folder.
        summary: Its sweep.
        record: How it ended.
        trial: Its settings.
        checkpoint: What it ended with.
    """

    folder: Path
    summary: Summary
    record: Record
    trial: TrialConfig
    checkpoint: Path


def load_pick(folder: Path, pick: str, to: Path) -> Pick:
    """The trial that is meant, checked as far as that goes without torch.

    Args:
        folder: The run folder.
        pick: `knee`, or a trial_id.
        to: Where the export is to go.

    Raises:
        ConfigError: There is no such trial, it left no model that can be exported, or `to` cannot be written.
    """
    require_run_folder(folder)
    info = SweepInfo.read(folder)
    try:
        sweep = SweepConfig.model_validate(info.config)
    except ValidationError:
        old = Problem("sweep.json", "was written by another version of unlearn-sweep; use that one, or run it again")
        raise ConfigError(str(folder), [old]) from None
    summary = summarise(info, read_events(folder))
    problems = _check_to(to)
    record = _record(summary, pick, problems)
    if record is None:
        raise ConfigError(str(folder), problems)
    begun = summary.suggested[record.trial_id].config
    trial = TrialConfig.model_validate(with_paths(begun, record.changed) if record.changed else begun)
    if isinstance(trial.loss.criterion, ULD):
        two = "uld subtracts an assistant's logits from the target model's: two models, which no such folder can hold"
        problems.append(Problem("--pick", f"trial {record.trial_id}: {two}; pick another trial"))
    place = folder / "trials" / record.trial_id / "checkpoint"
    checkpoint = place / f"{record.epoch:05d}"
    if not (checkpoint / "epoch.json").exists():
        fetch(folder, checkpoints=record.trial_id)
    if not (checkpoint / "epoch.json").exists():
        problems.append(Problem("--pick", _gone(sweep, record, place)))
    elif damage := damage_of(checkpoint):
        lost = f"the checkpoint of trial {record.trial_id} is damaged ({damage}), and its model is lost"
        again = f"pick another trial, or run it again there: `{run_again(place.parent)}`"
        problems.append(Problem("--pick", f"{lost}; {again}"))
    benchmark, found = check_benchmark(trial)
    problems += [*found, *check_model(trial)]
    if benchmark and not problems:
        problems += _check_same(sweep, info, benchmark)
    if problems:
        raise ConfigError(str(folder), problems)
    return Pick(folder, summary, record, trial, checkpoint)


def run_export(pick: Pick, to: Path, *, merge: bool) -> int:
    """Writes the folder and its card, says so, and returns the exit code.

    It appears whole, once it was loaded again and scored as recorded, or not at all.

    Args:
        pick: The trial.
        to: The folder to be made.
        merge: A whole model, where the trial has an adapter.

    Raises:
        ConfigError: The data or the target model are not to be had.
        RunFailed: What was written does not score as recorded, or the device's memory does not suffice.
    """
    tolerance = TOLERANCE if pick.trial.model.dtype == "float32" else HALF
    with tempfile.TemporaryDirectory(dir=to.parent, prefix=f".{to.name}.") as scratch:
        made = Path(scratch) / "model"
        kind, log = _made(pick, made, merge)
        compared = _compare(pick, log.values, tolerance)
        export = Export(
            summary=pick.summary,
            record=pick.record,
            trial=pick.trial,
            kind=kind,
            folder=str(pick.folder),
            source=_source(pick.folder),
            values={name: log.values[name] for name in named(pick.trial.evaluation.metrics) if name in log.values},
            intervals=intervals(log),
            tolerance=tolerance,
            prompt=log.about["prompt"],
        )
        (made / "README.md").write_text(card(export), encoding="utf-8")
        (made / "trial.json").write_text(pick.trial.model_dump_json(indent=1) + "\n", encoding="utf-8")
        for file in made.iterdir():
            file.chmod(0o644)  # weights are written for their owner only
        os.replace(made, to)
    console = Console(highlight=False, soft_wrap=True)
    said = f"{to}: the {kind} of trial {pick.record.trial_id}, loaded again and scoring as recorded"
    console.print(f"{said} ({compared} metrics, within {tolerance:g})", markup=False)
    return 0


# -- which trial -------------------------------------------------------------------------------------------------------


def _check_to(to: Path) -> list[Problem]:
    if to.exists() and not (to.is_dir() and not any(to.iterdir())):
        return [Problem("--to", f"{str(to)!r} is there and not an empty folder; give another")]
    if not to.absolute().parent.is_dir() or not os.access(to.absolute().parent, os.W_OK):
        return [Problem("--to", f"{str(to)!r} is not in a folder that can be written; give another")]
    return []


def _record(summary: Summary, pick: str, problems: list[Problem]) -> Record | None:
    ended = {record.trial_id: record for record in summary.records}
    whole = [trial_id for trial_id, record in ended.items() if record.state == "COMPLETE"]
    if pick == "knee":
        knee = recommended(summary)
        if knee is None:
            problems.append(Problem("--pick", "there is no front yet, so it has no knee; finish the sweep: `resume`"))
        return knee
    record = ended.get(pick)
    if record and record.state == "COMPLETE":
        return record
    if record and record.state == "PRUNED":
        why = f"was stopped early, after epoch {record.epoch}, and its checkpoint not kept"
    elif record:
        why = f"failed: {(record.failure or 'no cause was recorded').splitlines()[0]}"
    elif pick in summary.suggested:
        why = "has not ended"
    else:
        known = did_you_mean(pick, ["knee", *whole])
        problems.append(Problem("--pick", f"{pick!r} is no trial of this sweep{known}"))
        return None
    others = f"; choose among {', '.join(['knee', *whole])}" if whole else ""
    problems.append(Problem("--pick", f"trial {pick} {why}{others}"))
    return None


def _gone(sweep: SweepConfig, record: Record, place: Path) -> str:
    """Why there is no checkpoint of a trial, and what to do about it."""
    if record.origin != "earlier":
        rule = f"it was not kept (`checkpoints`: {sweep.checkpoints.keep}), or deleted by hand"
        again = f"pick another, or run it again there: `{run_again(place.parent)}`"
        return f"trial {record.trial_id} has no checkpoint in {str(place)!r} any more: {rule}; {again}"
    ran = origin_of(sweep.warm_start, record.fingerprint, record.seed)
    where = f"as trial {ran[1]} of {str(ran[0])!r}; export it from there" if ran else "elsewhere; pick another"
    return f"trial {record.trial_id} was taken over: it ran {where}"


def _check_same(sweep: SweepConfig, info: SweepInfo, benchmark: Benchmark) -> list[Problem]:
    """Whether data and models are those of the sweep still."""
    data, model = sweep.digests(benchmark)
    if data != info.data:
        return [Problem("trial.benchmark", "its rows have changed since the sweep ran; bring back those it ran on")]
    if model != info.model:
        return [Problem("trial.model", "target or retain model have changed since the sweep ran; bring them back")]
    return []


# -- writing and measuring ---------------------------------------------------------------------------------------------


def _made(pick: Pick, made: Path, merge: bool) -> tuple[Kind, EvalLog]:
    """Writes the folder without its card, and measures what was written."""
    import torch

    # As the trial was measured: sums depend on how many threads make them.
    torch.set_num_threads(max(1, int(get_path(pick.summary.info.config, "resources.cpu", 1))))
    try:
        return _write(pick, made, merge), _measured(pick.trial, made)
    except BenchmarkError as error:
        raise ConfigError("export", [Problem(f"trial.benchmark.{error.field}", str(error))]) from None
    except (OSError, ValueError) as error:  # as transformers puts it, and we in `trials`
        raise ConfigError("export", [Problem("", " ".join(str(error).split()))]) from None
    except (TrialFailed, torch.OutOfMemoryError) as error:
        raise RunFailed(f"{type(error).__name__}: {error}") from error


def _write(pick: Pick, made: Path, merge: bool) -> Kind:
    """The checkpoint's files, or what its adapter makes of the target model."""
    from trials.models import load_tokenizer
    from trials.target import prepare

    trial, merged = pick.trial, pick.checkpoint / "merged"
    kind: Kind = "model"
    if merged.is_dir():
        kind = "merged model"
        shutil.copytree(merged, made)
    else:
        shutil.copytree(pick.checkpoint, made, ignore=shutil.ignore_patterns(*_NOT_THE_MODEL))
    if (adapter := made / "adapter_config.json").exists():
        kind = "merged model" if merge else "adapter"
        target = prepare(trial, load_benchmark(trial.benchmark), "target")
        belongs = {"base_model_name_or_path": target, "revision": trial.model.revision}
        settings = json.loads(adapter.read_text(encoding="utf-8")) | belongs
        adapter.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        if merge:
            model, _ = load_any(str(made), trial.model)
            for file in made.glob("adapter_*"):
                file.unlink()
            model.merge_and_unload().save_pretrained(made)
    prompt = trial.model.prompt
    if prompt.type == "chat" and prompt.template:
        tokenizer = load_tokenizer(str(made), trial.model)
        tokenizer.chat_template = prompt.template  # it is what the model was asked in
        tokenizer.save_pretrained(made)
    return kind


def _measured(trial: TrialConfig, made: Path) -> EvalLog:
    """The metrics of a trial, of what was written: the model, and its tokenizer too."""
    from trials.measuring import evaluator_for
    from trials.models import material_of

    benchmark = load_benchmark(trial.benchmark)
    model, tokenizer = load_any(str(made), trial.model)
    material = material_of(tokenizer, model, benchmark, trial.model)
    log = evaluator_for(trial, material).log(model, named(trial.evaluation.metrics))
    return replace(log, about={"prompt": material.asked})


def _compare(pick: Pick, values: Mapping[str, float], tolerance: float) -> int:
    """How many metrics are as recorded: all that are recorded."""
    recorded = pick.record.metrics
    names = [name for name in named(pick.trial.evaluation.metrics) if name in recorded]
    wrong = [
        f"{name} {values.get(name, math.nan):.7g} (recorded {recorded[name]:.7g})"
        for name in names
        if not math.isclose(values.get(name, math.nan), recorded[name], rel_tol=tolerance, abs_tol=tolerance / 10)
    ]
    if wrong:
        raise RunFailed(
            f"the model as written does not score as recorded, and was not kept: {', '.join(wrong)}; "
            "was the trial run on another kind of device, or with other versions?"
        )
    return len(names)


def _source(folder: Path) -> str:
    file = folder / "sweep.yaml"
    return file.read_text(encoding="utf-8") if file.exists() else ""
