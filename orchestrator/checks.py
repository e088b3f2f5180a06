"""What a sweep is checked for before it runs, beyond the types and bounds of its settings: without torch or Ray.

Each check returns its problems instead of raising, so that a file is told all of them at once.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from orchestrator.problems import Problem, did_you_mean, problems_of
from orchestrator.report.scores import direction
from orchestrator.search.checks import SAME_FOR_ALL, check_search, too_dear, within
from orchestrator.search.config import floors_of
from orchestrator.search.constraints import bounds_of
from orchestrator.tracking.login import check_store
from orchestrator.tracking.uri import resolve_uri
from orchestrator.trial_checks import check_benchmark, check_model, check_requests, lacking
from search_spaces.space import Float, SearchSpace, SpaceError, conditions, get_path, with_paths
from trials.benchmarks import Benchmark
from trials.config import TrialConfig
from trials.presets import PRESETS
from trials.registry import AS_RETAIN, HIGHER, LOWER, METRICS

if TYPE_CHECKING:
    from orchestrator.config import SweepConfig


def check_sweep(
    config: SweepConfig, output: Path, wrong: Collection[str] = ()
) -> tuple[Benchmark | None, list[Problem]]:
    """All checks of a sweep.

    Args:
        config: The sweep; where its file was wrong, with defaults.
        output: Folder of run folders: where the default tracking store would be.
        wrong: Paths known to be wrong; no check looks at what may only be wrong because of them.

    Returns:
        The benchmark's rows (None when they come from the hub or are not to be had), and what was found.
    """

    def sound(*paths: str) -> bool:
        return not any(within(path, bad) or within(bad, path) for path in paths for bad in wrong)

    benchmark, problems = check_benchmark(config.trial) if sound("trial.benchmark") else (None, [])
    problems = [*problems, *_check_names(config, benchmark), *_check_space(config)]
    problems += _check_searched_requests(config, benchmark) if benchmark and not problems else []
    problems += check_search(config, benchmark, sound)
    problems += _check_baselines(config, whole=sound("trial")) if sound("baselines") else []
    problems += check_model(config.trial) if sound("trial.model") else []
    problems += _check_places(config, output) if sound("tracking") else []
    return benchmark, problems


# -- a sweep -----------------------------------------------------------------------------------------------------------


def _check_names(config: SweepConfig, benchmark: Benchmark | None) -> list[Problem]:
    problems = []
    named_at = {f"objectives.{name}": name for name in config.objectives}
    named_at |= {f"reference_point.{name}": name for name in config.reference_point}
    named_at |= {"checkpoints.by": config.checkpoints.by} if config.checkpoints.by else {}
    for path, name in named_at.items():
        wrong = lacking(name, config.trial, benchmark) or (path != "checkpoints.by" and too_dear(name, config)) or ""
        if not wrong and path.startswith("objectives"):
            wrong = _no_objective(name, config)
        if not wrong and path == "checkpoints.by" and name not in config.objectives:
            wrong = "" if direction(name) in (LOWER, HIGHER) else _best_elsewhere(name)
        if wrong:
            problems.append(Problem(path, wrong))
    return problems


def unmeasured(
    sweep: SweepConfig, measured: Mapping[Literal["target", "retain"], Mapping[str, float]]
) -> Iterator[Problem]:
    """What trials are compared by and the models that are not trials do not have."""
    compared = {f"objectives.{name}": name for name in sweep.objectives}
    compared |= {f"scheduler.floors.{name}": name for name in floors_of(sweep.scheduler)}
    compared |= {f"constraints.{name}": name for name in sweep.constraints}
    for path, name in compared.items():
        if name not in measured["target"]:
            why = f"cannot be measured of the target model, which has {', '.join(measured['target'])}"
            yield Problem(path, f"{name!r} {why}; choose among those")
    for name, bound in bounds_of(sweep.constraints).items():
        if bound.of == "retain" and name in measured["target"] and name not in measured.get("retain", {}):
            yield Problem(f"constraints.{name}", f"{name!r} is not known of the retain model; write a plain number")


def _no_objective(name: str, config: SweepConfig) -> str:
    """Why trials cannot be ordered by a metric in the direction that the file gives; "" where they can."""
    if METRICS[name].better in (AS_RETAIN, "near 0"):
        return _best_elsewhere(name)
    given, right = config.objectives[name], {LOWER: "min", HIGHER: "max"}.get(direction(name))
    if right not in (None, given):
        return f"{given} is the wrong way: {name!r} is better {direction(name)}; write {right}"
    if math.isinf(config.worst_of(name)):
        worst = f"{name!r} has no worst value, which hypervolume is measured against"
        return f"{worst}; add one, as in reference_point: {{{name}: 20}}"
    return ""


def _best_elsewhere(name: str) -> str:
    best = f"{name!r} is best {METRICS[name].better}, neither low nor high"
    return f"{best}; take one of privacy.closeness_* or aggregate.privacy, max"


def _check_baselines(config: SweepConfig, *, whole: bool) -> list[Problem]:
    """Whether each label is a preset and, where the base trial is sound, fits it."""
    problems = []
    for index, label in enumerate(config.baselines):
        if label in PRESETS and whole:
            settings = config.trial.model_dump(mode="json") | {"loss": PRESETS[label][0]}
            found = _problems_at(settings, {}) or check_model(config.baseline(label))
            problems += [Problem(f"baselines.{index}", f"{label!r}: {problem.message}") for problem in found]
        elif label not in PRESETS:
            unknown = f"{label!r} is not a preset{did_you_mean(label, PRESETS)}"
            problems.append(Problem(f"baselines.{index}", unknown))
    return problems


def _check_space(config: SweepConfig) -> list[Problem]:
    base = config.trial.model_dump(mode="json")
    problems, raw = [], dict(config.space)
    while True:  # a node that cannot be read is told and left out, to see what else there is
        try:
            space = SearchSpace.parse(raw, base)
            break
        except SpaceError as error:
            problems.append(Problem(f"space.{error.path}", str(error)))
            raw.pop(next(key for key in raw if within(error.path, key)))
    problems += [
        Problem(f"space.{p.path}", "is the same for every trial of a sweep; set it in `trial`, one sweep a value")
        for p in space.parameters
        if any(within(p.path, path) for path in SAME_FOR_ALL)
    ]
    found = dict.fromkeys(problems + _check_conditions(raw, space, base))
    for corner in space.corners():
        for problem in _problems_at(base, corner):
            found[Problem(f"space.{problem.path}", problem.message)] = None
    known = {problem.path for problem in found}
    inner = (replace(p, domain=p.domain.inside()) if isinstance(p.domain, Float) else p for p in space.parameters)
    for corner in SearchSpace(tuple(inner)).corners():
        for problem in _problems_at(base, corner):
            if f"space.{problem.path}" not in known:
                found[Problem(f"space.{problem.path}", problem.message)] = None
    return list(found)


def _check_searched_requests(config: SweepConfig, benchmark: Benchmark) -> list[Problem]:
    """Whether every choice of requests in the space is one that the benchmark has."""
    base = config.trial.model_dump(mode="json")
    found: dict[Problem, None] = {}
    for corner in config.search_space.corners():
        point = {path: value for path, value in corner.items() if within(path, "requests")}
        for problem in check_requests(TrialConfig.model_validate(with_paths(base, point)), benchmark) if point else []:
            place = problem.path.removeprefix("trial.")
            found[Problem(f"space.{place if place in point else next(iter(point))}", problem.message)] = None
    return list(found)


def _check_conditions(raw: Mapping[str, Any], space: SearchSpace, base: Mapping[str, Any]) -> list[Problem]:
    """Conditions on what is not searched: their values must be possible ones, or a range would vanish unnoticed."""
    searched = {parameter.path for parameter in space.parameters}
    problems = []
    for path, on, value in conditions(raw):
        selector = f"{on}.type" if isinstance(get_path(base, on), Mapping) else on
        if not searched & {on, selector}:
            for problem in _problems_at(base, {selector: value}):
                problems.append(Problem(f"space.{path}", f"`when` names {problem.path}: {problem.message}"))
    return problems


def _problems_at(base: Mapping[str, Any], point: Mapping[str, Any]) -> list[Problem]:
    raw = with_paths(base, point)
    try:
        TrialConfig.model_validate(raw)
    except ValidationError as error:
        return problems_of(error, raw, TrialConfig)
    return []


def _check_places(config: SweepConfig, output: Path) -> list[Problem]:
    there = next(folder for folder in (output.resolve(), *output.resolve().parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        return [Problem("--output", f"{str(there)!r} is not a folder to write in; give another")]
    named = "MLFLOW_TRACKING_URI" if os.environ.get("MLFLOW_TRACKING_URI") else config.tracking.uri and "tracking.uri"
    if not named and there != output.resolve():
        return []  # the default store is made with the output folder, when the sweep starts
    refused = check_store(resolve_uri(output, config.tracking.uri))
    return [Problem(named or "--output", refused)] if refused else []
