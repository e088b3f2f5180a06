"""What a sweep is checked for before it runs, beyond the types and bounds of its settings: without torch or Ray.

Each check returns its problems instead of raising, so that a file is told all of them at once.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from orchestrator.problems import Problem, did_you_mean, problems_of
from orchestrator.tracking_uri import check_reachable, resolve_uri
from orchestrator.trial_checks import check_benchmark, check_model, check_requests, lacking
from search_spaces.space import Float, SearchSpace, SpaceError, conditions, get_path, with_paths
from trials.benchmarks import Benchmark
from trials.config import TrialConfig
from trials.presets import PRESETS
from trials.registry import AS_RETAIN, METRICS

if TYPE_CHECKING:
    from orchestrator.config import SweepConfig

_SAME_FOR_ALL = (
    "benchmark",
    "epochs",
    "evaluation",
    *(f"model.{name}" for name in ("path", "revision", "retain_path", "retain_log", "prompt", "hide_pad", "tiny")),
)
"""What models are prepared and rungs laid out by, once for a sweep."""


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
        return not any(_within(path, bad) or _within(bad, path) for path in paths for bad in wrong)

    benchmark, problems = check_benchmark(config.trial) if sound("trial.benchmark") else (None, [])
    problems = [*problems, *_check_names(config, benchmark), *_check_space(config)]
    problems += _check_searched_requests(config, benchmark) if benchmark and not problems else []
    problems += _check_rungs(config) if sound("scheduler", "trial.epochs") else []
    problems += _check_budget(config) if sound("budget", "baselines") else []
    problems += _check_baselines(config, whole=sound("trial")) if sound("baselines") else []
    problems += check_model(config.trial) if sound("trial.model") else []
    problems += _check_places(config, output) if sound("tracking") else []
    return benchmark, problems


def _within(path: str, outer: str) -> bool:
    return f"{path}.".startswith(f"{outer}.")


# -- a sweep -----------------------------------------------------------------------------------------------------------


def _check_rungs(config: SweepConfig) -> list[Problem]:
    if config.scheduler.type == "none" or not config.scheduler.grace_period >= config.trial.epochs > 1:
        return []
    return [
        Problem(
            "scheduler.grace_period",
            f"{config.scheduler.grace_period} must be less than trial.epochs {config.trial.epochs}, or nothing is ever "
            "stopped; lower it or set scheduler.type=none",
        )
    ]


def _check_budget(config: SweepConfig) -> list[Problem]:
    trials, baselines = config.budget.trials, len(config.baselines)
    problems = []
    if baselines > trials:
        few = f"{trials} is less than the {baselines} baselines; raise it or drop baselines"
        problems.append(Problem("budget.trials", few))
    cpus = os.cpu_count() or 1
    if config.resources.cpu > cpus and not os.environ.get("RAY_ADDRESS"):
        many = f"{config.resources.cpu:g} is more than the {cpus} CPUs here; lower it or join a cluster (RAY_ADDRESS)"
        problems.append(Problem("resources.cpu", many))
    return problems


def _check_names(config: SweepConfig, benchmark: Benchmark | None) -> list[Problem]:
    problems = []
    named_at = {f"objectives.{name}": name for name in config.objectives}
    named_at |= {f"reference_point.{name}": name for name in config.reference_point}
    rungs = config.scheduler.type == "pareto_asha"
    if config.scheduler.type == "pareto_asha":
        named_at |= {f"scheduler.floors.{name}": name for name in config.scheduler.floors}
    for path, name in named_at.items():
        if missing := lacking(name, config.trial, benchmark):
            problems.append(Problem(path, missing))
        elif rungs and METRICS[name].cost != "one pass":
            dear = f"{name!r} takes {METRICS[name].cost}, and rungs compare metrics of one pass only"
            problems.append(Problem(path, f"{dear}; choose another or set scheduler.type=none"))
        elif path.startswith("objectives") and METRICS[name].better in (AS_RETAIN, "near 0"):
            best = f"{name!r} is best {METRICS[name].better}, neither low nor high"
            problems.append(Problem(path, f"{best}; take one of privacy.closeness_* or aggregate.privacy, max"))
        elif path.startswith("objectives") and math.isinf(config.worst_of(name)):
            problems.append(
                Problem(
                    path,
                    f"{name!r} has no worst value, which hypervolume is measured against; "
                    f"add one, as in reference_point: {{{name}: 20}}",
                )
            )
    return problems


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
            raw.pop(next(key for key in raw if _within(error.path, key)))
    problems += [
        Problem(f"space.{p.path}", "is the same for every trial of a sweep; set it in `trial`, one sweep a value")
        for p in space.parameters
        if any(_within(p.path, path) for path in _SAME_FOR_ALL)
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
        point = {path: value for path, value in corner.items() if _within(path, "requests")}
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
    unreachable = check_reachable(resolve_uri(output, config.tracking.uri))
    return [Problem(named or "--output", unreachable)] if unreachable else []


# -- a run folder ------------------------------------------------------------------------------------------------------
