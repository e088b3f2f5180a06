"""One sweep as data: base trial, search space, objectives, sampler, scheduler, budget.

`load_sweep` reads a file, applies `--set`, and checks everything that can be checked without torch or Ray: names,
types, bounds, the space against `TrialConfig` at both ends of every range, the benchmark's rows, the tracking server.
All problems are collected and reported at once.
"""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveInt, ValidationError

from orchestrator.checks import check_sweep
from orchestrator.events import SweepInfo
from orchestrator.keeping import Checkpoints
from orchestrator.problems import ConfigError, Problem, lay_over, problems_of, read_yaml, require_run_folder, secrets_in
from orchestrator.resources import Resources, spelt_out
from orchestrator.search.checks import check_file
from orchestrator.search.config import (
    TPE,
    Ablation,
    Bound,
    Budget,
    Confirm,
    Designed,
    ParetoASHA,
    Phase,
    Sampler,
    Scheduler,
    floors_of,
)
from orchestrator.search.earlier import check_earlier
from search_spaces.space import SearchSpace, with_paths
from trials.benchmarks import Benchmark
from trials.config import TrialConfig
from trials.identity import digest, model_digest, with_digests
from trials.naming import models_of, named
from trials.presets import PRESETS
from trials.registry import METRICS
from trials.settings import Frozen

_NOT_IDENTITY = ("description", "budget", "resources", "tracking", "checkpoints", "warm_start", "confirm")
_LONG = {"minimize": "min", "maximize": "max"}
Direction = Annotated[Literal["min", "max"], BeforeValidator(lambda word: _LONG.get(str(word), word))]


class Tracking(Frozen):
    """Where MLflow records go; the environment's MLFLOW_TRACKING_URI wins."""

    uri: str | None = Field(None, description="null: sqlite:///<output>/mlflow.db")
    system_metrics: bool = Field(False, description="also CPU time and memory of each worker, epoch by epoch")


class SweepConfig(Frozen):
    """One sweep file, resolved."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    description: str = ""
    trial: TrialConfig = TrialConfig()
    space: dict[str, Any] = Field({})
    objectives: dict[str, Direction] = Field(
        {"forget.extraction_strength": "min", "retain.extraction_strength": "max"}, min_length=1
    )
    reference_point: dict[str, float] = Field(
        {}, description="of the hypervolume; null: the worst end of each objective's range"
    )
    constraints: dict[str, Bound] = Field(
        {}, description="metric -> bound, as in '>= 0.5 * target' or '<= 0.2'; who misses one is not on the front"
    )
    sampler: Sampler = TPE()
    phases: tuple[Phase, ...] = Field((), description="one after the other, instead of `sampler`")
    replicates: PositiveInt = Field(1, description="seeds of each point, each a trial of its own")
    warm_start: tuple[str, ...] = Field(
        (), description="earlier run folders on the same benchmark and model: their trials count and are not run again"
    )
    scheduler: Scheduler = ParetoASHA()
    budget: Budget = Budget()
    baselines: tuple[str, ...] = Field((), description="presets that run first, to the full budget")
    confirm: Confirm | None = Field(None, description="null: nobody is run again")
    resources: Annotated[Resources, BeforeValidator(spelt_out)] = Resources()
    tracking: Tracking = Tracking()
    checkpoints: Checkpoints = Checkpoints()

    @property
    def search_phases(self) -> tuple[Phase, ...]:
        """The phases of the search; one with `sampler` where the file has none."""
        return self.phases or (Phase(sampler=self.sampler),)

    @property
    def most_trials(self) -> int:
        """How many trials the search has at most: baselines, proposals, replicates; without confirmations."""
        phases = [phase.trials for phase in self.search_phases]
        if None in phases:
            return self.budget.trials
        before = len(self.baselines) * self.replicates
        return min(self.budget.trials, before + sum(count for count in phases if count is not None))

    @property
    def runs_most_trials(self) -> bool:
        """Whether the search has exactly so many: no other limit, no design, no finite space may end it earlier."""
        budget, samplers = self.budget, [phase.sampler for phase in self.search_phases]
        limits = (budget.epochs, budget.hours, budget.gpu_hours)
        designed = any(isinstance(sampler, Designed) for sampler in samplers)
        return not any(limits) and not designed and self.search_space.size() is None

    @property
    def search_space(self) -> SearchSpace:
        """The space, with conditions on the base trial settled."""
        return SearchSpace.parse(self.space, self.trial.model_dump(mode="json"))

    def trial_at(self, point: Mapping[str, Any]) -> TrialConfig:
        """The base trial with the values of a point of the space."""
        return TrialConfig.model_validate(with_paths(self.trial.model_dump(mode="json"), point))

    def baseline(self, label: str) -> TrialConfig:
        """The base trial with the loss of a preset."""
        return TrialConfig.model_validate(self.trial.model_dump(mode="json") | {"loss": PRESETS[label][0]})

    def reachable(self) -> Iterator[TrialConfig]:
        """The base trial, baselines, both ends of every range, every choice, values of ablations."""
        yield self.trial
        yield from (self.baseline(label) for label in self.baselines)
        points: list[Any] = list(self.search_space.corners())
        for sampler in (phase.sampler for phase in self.search_phases):
            if isinstance(sampler, Ablation):
                points += [{path: value} for path, values in sampler.values.items() for value in values]
                points += [sampler.base] if isinstance(sampler.base, dict) else []
        for point in points:
            with contextlib.suppress(ValidationError):  # a value that fits together with others only
                yield self.trial_at(point)

    def worst_of(self, objective: str) -> float:
        """The worst value of an objective: its coordinate of the reference point, or the end of the metric's range."""
        metric = METRICS[objective]
        end = metric.high if self.objectives[objective] == "min" else metric.low
        return self.reference_point.get(objective, end)

    def worst(self) -> dict[str, float]:
        """The reference point: the worst value of each objective."""
        return {name: self.worst_of(name) for name in self.objectives}

    def digests(self, benchmark: Benchmark) -> tuple[str, str]:
        """Digests of the benchmark's rows and of the models: the target, and the retain model if metrics look at it."""
        data, model = benchmark.digest(), self.trial.model
        target = model_digest(model, data=data)
        measured = named((*self.trial.evaluation.metrics, *self.trial.evaluation.front))
        if "retain" in models_of(measured) and (model.retain_path or model.retain_log):
            target = digest({"target": target, "retain": model_digest(model, data=data, which="retain")})
        return benchmark.digest(annotations=True), target

    def identity(self, data: str, model: str) -> dict[str, Any]:
        """What makes this sweep this sweep: contents (as digests) in; paths, budget, machines and words out."""
        settings = self.model_dump(mode="json", exclude=set(_NOT_IDENTITY))
        return settings | {"trial": with_digests(settings["trial"], data=data, model=model)}

    def fingerprint(self, benchmark: Benchmark) -> str:
        """Sixteen hex digits of `identity`."""
        return digest(self.identity(*self.digests(benchmark)))


def load_sweep(file: str, overrides: Sequence[str] = (), *, output: Path) -> tuple[SweepConfig, Benchmark | None]:
    """Reads and checks a sweep file.

    Args:
        file: Path of a YAML file, or the name of a shipped one.
        overrides: `path=value` each, the value in YAML.
        output: Folder of run folders: where the default tracking store would be.

    Returns:
        The sweep, and its benchmark's rows (None when they come from the hub and are not fetched yet).

    Raises:
        ConfigError: With every problem found.
    """
    raw = read_yaml(file, overrides)
    if secret := secrets_in(raw):
        raise ConfigError(file, secret)
    problems: list[Problem] = []
    try:
        config = SweepConfig.model_validate(raw)
    except ValidationError as error:
        problems = problems_of(error, raw, SweepConfig)
        try:  # the rest of the file may have problems of its own: look at it without what is known to be wrong
            config = SweepConfig.model_validate({"name": "unnamed"} | _without(raw, [e["loc"] for e in error.errors()]))
        except ValidationError:
            raise ConfigError(file, problems) from None
    config = _measuring(_absolute(config))
    wrong = [problem.path for problem in problems]
    benchmark, found = check_sweep(config, output, wrong=wrong)
    found += [*check_file(raw, config, wrong), *check_earlier(config, config.warm_start, benchmark, output)]
    if problems or found:
        raise ConfigError(file, [*problems, *found])
    return config, benchmark


def reload_sweep(folder: Path, overrides: Sequence[str] = ()) -> tuple[SweepConfig, Benchmark | None]:
    """The sweep of a run folder, checked again: its data may have gone since.

    Args:
        folder: The run folder.
        overrides: `path=value` each, over what lies there. Whether they may change is for `check_folder` to say.

    Raises:
        ConfigError: Not a run folder, or of another version, or its data is not there, or a setting is wrong.
    """
    require_run_folder(folder)
    info = SweepInfo.read(folder)
    raw = copy.deepcopy(info.config)
    problems = _lay_over_recorded(raw, overrides)
    if secret := secrets_in(raw):
        raise ConfigError("--set", secret)
    try:
        config = _measuring(_absolute(SweepConfig.model_validate(raw)))
    except ValidationError as error:
        if overrides:
            raise ConfigError("--set", [*problems, *problems_of(error, raw, SweepConfig)]) from None
        raise ConfigError(
            str(folder / "sweep.json"),
            [Problem("", f"written by another version of unlearn-sweep ({error.error_count()} fields differ)")],
        ) from None
    if folder.resolve().name != info.name:
        problems.append(Problem("", f"the folder was renamed from {info.name!r}; give it its name back"))
    if config.name != info.name:
        problems.append(Problem("name", "is the folder's, and stays; run the file under another name instead"))
    output = folder.resolve().parent
    benchmark, found = check_sweep(config, output)
    more = [place for place in config.warm_start if place not in info.config.get("warm_start", ())]
    found += check_earlier(config, more, benchmark, output)  # of the others, what was there is in the ledger
    if problems or found:
        raise ConfigError(str(folder), [*problems, *found])
    return config, benchmark


def _lay_over_recorded(raw: dict[str, Any], overrides: Sequence[str]) -> list[Problem]:
    """Lays settings over a recorded sweep, in place; its `sampler` is its first phase once there are others."""
    tops = {override.partition("=")[0].partition(".")[0] for override in overrides}
    if "phases" in tops and not raw.get("phases"):
        raw["phases"] = [{"sampler": raw["sampler"]}]
    lay_over(raw, overrides)
    if not raw.get("phases"):
        return []
    raw.pop("sampler", None)
    other = "this sweep has phases; set that of a phase, as in phases.0.sampler"
    return [Problem("sampler", other)] if "sampler" in tops else []


def _without(raw: Mapping[str, Any], locations: Sequence[Sequence[str | int]]) -> dict[str, Any]:
    """A copy of a file's contents without the deepest mapping entry on the way to each location."""
    result = copy.deepcopy(dict(raw))
    for location in locations:
        node: Any = result
        entry: tuple[dict[str, Any], str] | None = None
        for part in location:
            if isinstance(node, dict) and part in node:
                entry = (node, str(part))
                node = node[part]
        if entry:
            entry[0].pop(entry[1], None)
    return result


def _absolute(config: SweepConfig) -> SweepConfig:
    """Relative paths made absolute: a worker's working directory is not ours."""
    changes = {}
    model, benchmark = config.trial.model, config.trial.benchmark.model_dump()
    for path, value in {
        "benchmark.path": benchmark.get("path"),
        "benchmark.annotations": benchmark.get("annotations"),
        "model.path": model.path,
        "model.retain_path": model.retain_path,
        "model.retain_log": model.retain_log,
    }.items():
        if value and os.path.exists(place := os.path.expanduser(value)):
            changes[path] = os.path.realpath(place)
    earlier = tuple(os.path.realpath(os.path.expanduser(folder)) for folder in config.warm_start)
    config = config.model_copy(update={"warm_start": earlier}) if earlier else config
    return config.model_copy(update={"trial": config.trial_at(changes)}) if changes else config


def _measuring(config: SweepConfig) -> SweepConfig:
    """With every metric that the sweep compares trials by among those that a trial measures."""
    metrics = config.trial.evaluation.metrics
    compared = [*config.objectives, *floors_of(config.scheduler), *config.constraints]
    compared += [config.checkpoints.by] if config.checkpoints.by else []
    with contextlib.suppress(ValueError):  # a name that is none is told by the checks
        known = named(metrics)
        more = tuple(name for name in compared if name in METRICS and name not in known)
        if more:
            return config.model_copy(update={"trial": config.trial_at({"evaluation.metrics": (*metrics, *more)})})
    return config
