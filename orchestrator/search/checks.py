"""What the part of a sweep file is checked for that says how settings are proposed, stopped, paid for and confirmed."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from orchestrator.problems import Problem, did_you_mean, problems_of
from orchestrator.report.scores import direction
from orchestrator.resources import AUTO
from orchestrator.search.config import Ablation, Designed, Grid, NoScheduler, Phase, floors_of, grace_of
from orchestrator.search.constraints import bounds_of
from orchestrator.search.designs import ablation_points
from orchestrator.trial_checks import lacking
from search_spaces.space import SearchSpace, SpaceError, with_paths
from trials.benchmarks import Benchmark
from trials.config import NoAdapter, TrialConfig
from trials.objectives import ULD
from trials.registry import LOWER, METRICS

if TYPE_CHECKING:
    from orchestrator.config import SweepConfig

SAME_FOR_ALL = (
    "benchmark",
    "epochs",
    "evaluation",
    *(
        f"model.{name}"
        for name in ("path", "revision", "retain_path", "retain_log", "prompt", "hide_pad", "tiny", "device_map")
    ),
)
"""What models are prepared and rungs laid out by, once for a sweep."""


def check_file(raw: Mapping[str, Any], sweep: SweepConfig, wrong: Collection[str]) -> list[Problem]:
    """What only the file shows, and not the sweep with its defaults.

    Args:
        raw: The file's contents.
        sweep: What became of them.
        wrong: Paths known to be wrong; nothing is told that only follows from them.
    """
    if {path.partition(".")[0] for path in wrong} & {"space", "sampler", "phases", "budget", "baselines", "replicates"}:
        return []
    problems = []
    if raw.get("phases") and "sampler" in raw:
        both = "there are `phases` too, and each has a sampler of its own; drop one of the two"
        problems.append(Problem("sampler", both))
    budget = raw.get("budget")
    designed = any(isinstance(phase.sampler, Designed) for phase in sweep.search_phases)
    different = (len(sweep.baselines) + 1) * sweep.replicates
    said = isinstance(budget, Mapping) and "trials" in budget
    if said and sweep.budget.trials > different and not sweep.space and not designed:
        same = f"{sweep.budget.trials} trials, of which only {different} can differ without a `space`"
        problems.append(Problem("budget.trials", f"{same}; add one, lower it, or raise `replicates`"))
    return problems


def check_search(sweep: SweepConfig, benchmark: Benchmark | None, sound: Callable[..., bool]) -> list[Problem]:
    """All checks of samplers, phases, scheduler, constraints and budget.

    Args:
        sweep: The sweep.
        benchmark: Its rows, where they are at hand.
        sound: Whether some paths of the file are right so far: nothing is told that only follows from a mistake.
    """
    problems = [*_check_limits(sweep, benchmark)]
    problems += _check_rungs(sweep) if sound("scheduler", "trial.epochs") else []
    problems += _check_objective_of_scheduler(sweep) if sound("scheduler", "objectives") else []
    problems += _check_budget(sweep) if sound("budget", "baselines", "replicates", "phases") else []
    if sound("phases", "sampler"):
        problems += _check_order(sweep) if sound("budget", "baselines", "replicates") else []
        problems += _check_designs(sweep) if sound("trial", "space") else []
    return problems


def too_dear(name: str, sweep: SweepConfig) -> str:
    """Why trials cannot be compared at rungs by a metric; "" where they can, or where there are no rungs."""
    if isinstance(sweep.scheduler, NoScheduler) or METRICS[name].cost == "one pass":
        return ""
    dear = f"{name!r} takes {METRICS[name].cost}, and rungs compare metrics of one pass only"
    return f"{dear}; choose another or set scheduler.type=none"


def within(path: str, outer: str) -> bool:
    """Whether a path is another one, or leads into it."""
    return f"{path}.".startswith(f"{outer}.")


# -- what stops --------------------------------------------------------------------------------------------------------


def _check_rungs(sweep: SweepConfig) -> list[Problem]:
    scheduler, epochs = sweep.scheduler, sweep.trial.epochs
    if isinstance(scheduler, NoScheduler) or epochs == 1:
        return []
    grace = grace_of(scheduler, epochs)
    if grace >= epochs:
        late = f"{grace} must be less than trial.epochs {epochs}, or nothing is ever stopped"
        return [Problem("scheduler.grace_period", f"{late}; lower it or set scheduler.type=none")]
    brackets = getattr(scheduler, "brackets", 1)
    first = grace * getattr(scheduler, "reduction_factor", 1) ** (brackets - 1)
    if first >= epochs:
        late = f"the last of {brackets} brackets has its first rung at epoch {first}, which must be less than"
        return [Problem("scheduler.brackets", f"{late} trial.epochs {epochs}; lower it or grace_period")]
    return []


def _check_objective_of_scheduler(sweep: SweepConfig) -> list[Problem]:
    metric = getattr(sweep.scheduler, "metric", None)
    if metric is None or metric in sweep.objectives:
        return []
    none = f"{metric!r} is none of the objectives{did_you_mean(metric, sweep.objectives)}"
    return [Problem("scheduler.metric", none)]


def _check_limits(sweep: SweepConfig, benchmark: Benchmark | None) -> Iterator[Problem]:
    """Floors and constraints: metrics that every trial has at every rung, and models that are there."""
    floors = {f"scheduler.floors.{name}": name for name in floors_of(sweep.scheduler)}
    constraints = {f"constraints.{name}": name for name in sweep.constraints}
    bounds = bounds_of(sweep.constraints)
    model = sweep.trial.model
    has_retain = not model.path or model.retain_path or model.retain_log
    for path, name in (floors | constraints).items():
        if wrong := lacking(name, sweep.trial, benchmark) or too_dear(name, sweep):
            yield Problem(path, wrong)
        elif path in floors and direction(name) == LOWER:
            yield Problem(path, f"{name!r} is better low, and a floor stops what is under it; use `constraints`, <=")
        elif path in constraints and bounds[name].of == "retain" and not has_retain:
            none = "there is no retain model; set trial.model.retain_path or retain_log, or write a plain number"
            yield Problem(path, f"{sweep.constraints[name]!r}: {none}")


# -- what it may cost --------------------------------------------------------------------------------------------------


def _check_budget(sweep: SweepConfig) -> list[Problem]:
    trials, problems = sweep.budget.trials, []
    seeds = {"replicates": sweep.replicates}
    seeds |= {f"phases.{i}.replicates": phase.replicates or 1 for i, phase in enumerate(sweep.phases)}
    for path, count in seeds.items():
        if count > trials:
            many = f"{count} seeds of a point are more than budget.trials {trials}; lower it or raise the budget"
            problems.append(Problem(path, many))
    if len(sweep.baselines) * sweep.replicates > trials and not problems:
        each = f" times {sweep.replicates} seeds" if sweep.replicates > 1 else ""
        few = f"{trials} is less than the {len(sweep.baselines)} baselines{each}; raise it or drop baselines"
        problems.append(Problem("budget.trials", few))
    if sweep.budget.gpu_hours is not None and not sweep.resources.gpu:
        never = "no trial takes a GPU, so it is never used up; set resources.gpu or use budget.hours"
        problems.append(Problem("budget.gpu_hours", f"{sweep.budget.gpu_hours:g}: {never}"))
    if sweep.resources.gpu not in (0, AUTO) and sweep.resources.share > 1 and sweep.trial.model.device_map is None:
        idle = "a trial uses one GPU unless its model is laid over several; set trial.model.device_map: balanced"
        problems.append(Problem("resources.gpu", f"{sweep.resources.share:g}: {idle}, or take 1 (DDP is not offered)"))
    cpus = os.cpu_count() or 1
    if sweep.resources.cpu > cpus and not os.environ.get("RAY_ADDRESS"):
        many = f"{sweep.resources.cpu:g} is more than the {cpus} CPUs here; lower it or join a cluster (RAY_ADDRESS)"
        problems.append(Problem("resources.cpu", many))
    return [*problems, *_check_pack(sweep)]


def _check_pack(sweep: SweepConfig) -> Iterator[Problem]:
    """Whether all trials can share the process of a pack."""
    resources, path = sweep.resources, "resources.pack"
    if resources.pack == 1:
        return
    if resources.gpu == AUTO:
        yield Problem("resources.gpu", "auto: a probe measures a trial by itself, not a pack; write a number, as in 1")
    elif resources.process.share not in (0, 1) or sweep.trial.model.device_map is not None:
        yield Problem(path, f"{resources.pack}: a pack has one GPU, for itself; write resources.gpu: 1, or 0 for none")
    if sweep.tracking.system_metrics:
        several = f"they are those of a process, which runs {resources.pack} trials (resources.pack); leave it out"
        yield Problem("tracking.system_metrics", several)
    trials = list(sweep.reachable())
    models = [trial.model for trial in trials]
    if any(isinstance(model.adapter, NoAdapter) for model in models):
        yield Problem(path, f"{resources.pack}: only LoRA trials share weights; set trial.model.adapter.type: lora")
    fila = any(getattr(model.adapter, "init", "") == "fila" for model in models)
    if fila or any(isinstance(trial.loss.criterion, ULD) for trial in trials):
        own = "uld and fila need a whole model for each trial, so nothing is shared; leave them out, or write pack: 1"
        yield Problem(path, f"{resources.pack}: {own}")
    if any(model.model_copy(update={"adapter": models[0].adapter}) != models[0] for model in models):
        other = "its trials share one model in one dtype; take what is not model.adapter out of the space"
        yield Problem(path, f"{resources.pack}: {other}")


# -- what proposes -----------------------------------------------------------------------------------------------------


def _named_phases(sweep: SweepConfig) -> Iterator[tuple[str, Phase]]:
    """Path of each phase's sampler in the file, and the phase."""
    for place, phase in enumerate(sweep.search_phases):
        yield (f"phases.{place}.sampler" if sweep.phases else "sampler"), phase


def _check_order(sweep: SweepConfig) -> list[Problem]:
    """Whether each phase begins at all, with what it needs of those before it."""
    problems = []
    taken: int | None = len(sweep.baselines) * sweep.replicates  # trials before a phase; None: nobody knows
    for place, (path, phase) in enumerate(_named_phases(sweep)):
        alone = place == 0 and not sweep.baselines and not sweep.warm_start
        if isinstance(phase.sampler, Ablation) and phase.sampler.base == "knee" and alone:
            nothing = "'knee' of an empty front: nothing runs before; put a phase before it or take base: trial"
            problems.append(Problem(f"{path}.base", nothing))
        if place and taken is not None and taken >= sweep.budget.trials:
            never = f"never begins: {taken} trials run before it and budget.trials is {sweep.budget.trials}"
            problems.append(Problem(f"phases.{place}", f"{never}; raise the budget or shorten those before it"))
        last = place == len(sweep.search_phases) - 1
        if phase.trials is None and not isinstance(phase.sampler, Designed) and not last:
            whole = f"takes all that the budget leaves, so phases.{place + 1} never begins; say how many trials"
            problems.append(Problem(f"phases.{place}.trials", f"null {whole}"))
        taken = taken + phase.trials if taken is not None and phase.trials else None
    return problems


def _check_designs(sweep: SweepConfig) -> list[Problem]:
    problems = []
    try:
        space = sweep.search_space
    except SpaceError:
        return []  # told already
    for path, phase in _named_phases(sweep):
        sampler = phase.sampler
        if isinstance(sampler, Grid) and not space.parameters:
            problems.append(Problem(path, "a grid of nothing: there is no `space`; add one"))
        elif isinstance(sampler, Ablation):
            found = [*_same_for_all(path, sampler), *_check_ablation(path, sweep, space, sampler)]
            problems += found[:1] if len({problem.path for problem in found}) == 1 else found
    return problems


def _same_for_all(path: str, ablation: Ablation) -> Iterator[Problem]:
    settings = {f"{path}.values.{each}": each for each in ablation.values}
    settings |= {f"{path}.base.{each}": each for each in ablation.base} if isinstance(ablation.base, dict) else {}
    for place, each in settings.items():
        if any(within(each, same) for same in SAME_FOR_ALL):
            yield Problem(place, "is the same for every trial of a sweep; set it in `trial`, one sweep a value")


def _check_ablation(path: str, sweep: SweepConfig, space: SearchSpace, ablation: Ablation) -> Iterator[Problem]:
    """Whether its settings are trials; of a knee, which nobody knows yet, whether they are somewhere in the space."""
    own = sweep.trial.model_dump(mode="json")
    base = own
    if isinstance(ablation.base, dict):
        if wrong := _refusal(own, ablation.base):
            yield Problem(f"{path}.base", wrong)
            return
        base = sweep.trial_at(ablation.base).model_dump(mode="json")
    if ablation.base == "knee":
        yield from _check_values_somewhere(path, own, space, ablation.values)
        if not ablation.values and not space.parameters:
            yield Problem(f"{path}.values", "there is no `space`; list what is to be varied")
        return
    try:
        points = ablation_points(ablation, space, base, own, checked=False)
    except ValueError as error:
        yield Problem(path, str(error))
        return
    for words, point in points:
        if wrong := _refusal(base, point):
            yield Problem(path, f"{words}: {wrong}")
    if len(points) < 2:
        if ablation.design == "leave_one_out":
            yield Problem(f"{path}.base", "its settings are those of `trial`, so nothing can be left out; set others")
        else:
            yield Problem(f"{path}.values", "nothing is varied: add values, or a `space` to take them from")


def _check_values_somewhere(
    path: str, own: Mapping[str, Any], space: SearchSpace, values: Mapping[str, Sequence[Any]]
) -> Iterator[Problem]:
    searched = {parameter.path for parameter in space.parameters}
    bases = [own, *(with_paths(own, corner) for corner in space.corners())]
    for each, given in values.items():
        if not given and each not in searched:
            yield Problem(f"{path}.values.{each}", f"{each!r} is not searched, so its values are not known; list them")
        for value in given:
            reasons = {_refusal(base, {each: value}) for base in bases}
            if "" not in reasons:
                yield Problem(f"{path}.values.{each}", f"{value!r}: {min(reasons)}")


def _refusal(base: Mapping[str, Any], point: Mapping[str, Any]) -> str:
    """Why a point set on a base is no trial; "" where it is one."""
    raw = with_paths(base, point)
    try:
        TrialConfig.model_validate(raw)
    except ValidationError as error:
        first = problems_of(error, raw, TrialConfig)[0]
        return f"{first.path}: {first.message}"
    return ""
