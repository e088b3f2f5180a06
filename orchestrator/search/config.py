"""The part of a sweep file that says how settings are proposed, stopped, paid for and confirmed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt

from trials.settings import Frozen
from trials.sources import Seed

Values = tuple[bool | int | float | str | None, ...]

# -- what proposes -----------------------------------------------------------------------------------------------------


class TPE(Frozen):
    """Tree-structured Parzen estimators over several objectives, multivariate, grouped by active parameters."""

    type: Literal["tpe"] = "tpe"
    seed: Seed = 0
    startup: PositiveInt = Field(10, description="trials drawn at random before the model of the space is used")


class NSGA2(Frozen):
    """Genetic search: parents are taken from the best fronts, children mix and change their settings."""

    type: Literal["nsga2"] = "nsga2"
    seed: Seed = 0
    population: int = Field(20, ge=2, description="trials a generation")


class GP(Frozen):
    """Gaussian processes with expected hypervolume improvement: dear to ask, for few and costly trials."""

    type: Literal["gp"] = "gp"
    seed: Seed = 0
    startup: PositiveInt = Field(10, description="trials drawn at random before the model of the space is used")


class Random(Frozen):
    """Independent draws from the space."""

    type: Literal["random"] = "random"
    seed: Seed = 0


class Grid(Frozen):
    """Every combination of all choices, and of a few levels of each range; in the order of the file."""

    type: Literal["grid"] = "grid"
    seed: Seed = Field(0, description="of the order in which combinations are run, where shuffle is on")
    levels: int = Field(3, ge=2, description="of a range: its ends, and evenly between them (by ratio where log)")
    shuffle: bool = Field(False, description="run them in a random order, so that a budget cuts none off for good")


class Ablation(Frozen):
    """A design around one point: what does each part of a setting do?

    Its trials are always run to the full budget of epochs, and their table pairs them by seed with the base.
    """

    type: Literal["ablation"] = "ablation"
    design: Literal["one_factor", "leave_one_out", "factorial", "paired"] = Field(
        "one_factor",
        description="one_factor: each value alone; leave_one_out: each path alone back to the sweep's `trial`; "
        "factorial: all combinations; paired: the first values together, then the second, ...",
    )
    base: Literal["trial", "knee"] | dict[str, Any] = Field(
        "trial",
        description="the point to start from: the sweep's own trial, the knee of the front so far, or settings",
    )
    values: dict[str, Values] = Field(
        {}, description="path -> values; an empty list, or no path at all: those of the searched path or paths"
    )
    levels: int = Field(3, ge=2, description="of a searched range, where values do not say")
    seed: Seed = 0


Sampler = Annotated[TPE | NSGA2 | GP | Random | Grid | Ablation, Field(discriminator="type")]
Designed = (Grid, Ablation)
"""Samplers that know all their points beforehand, and end when these are used up."""


class Phase(Frozen):
    """A part of a search. Phases follow each other and share one history."""

    sampler: Sampler = TPE()
    trials: PositiveInt | None = Field(None, description="at most; null: what the budget or the design leaves")
    replicates: PositiveInt | None = Field(None, description="seeds of each point; null: as the sweep has it")


# -- what stops --------------------------------------------------------------------------------------------------------


class _Halving(Frozen):
    grace_period: PositiveInt | None = Field(
        None, description="epochs that every trial gets: the first rung; null: three quarters of trial.epochs"
    )
    reduction_factor: int = Field(2, ge=2, description="of the trials at a rung, one in so many goes on")
    brackets: PositiveInt = Field(
        1, description="trials are dealt out to as many brackets; each further one has its first rung later"
    )
    promotion: Literal["stop", "pause"] = Field(
        "stop",
        description="what becomes of a trial that is not among the best of its rung: stop ends it there and then; "
        "pause keeps its checkpoint, and it goes on if it belongs to the best once more have been there",
    )
    floors: dict[str, float] = Field(
        {},
        description="collapse rule: metric to be maximised -> value under which a trial is stopped at any rung",
    )


class ParetoASHA(_Halving):
    """Successive halving without waiting, by non-dominated sorting on all objectives within a rung."""

    type: Literal["pareto_asha"] = "pareto_asha"
    order: Literal["crowding", "epsilon_net", "scalarised"] = Field(
        "crowding",
        description="within a front, the loneliest first (crowding) or the farthest from those taken already "
        "(epsilon_net); scalarised: the best under random weights of the objectives, fronts or not",
    )


class ASHA(_Halving):
    """Successive halving without waiting, by one objective alone."""

    type: Literal["asha"] = "asha"
    metric: str | None = Field(None, description="one of the objectives; null: the first")


class Median(Frozen):
    """Stops a trial whose objective is worse than the median of all earlier trials at the same epoch."""

    type: Literal["median"] = "median"
    metric: str | None = Field(None, description="one of the objectives; null: the first")
    grace_period: PositiveInt | None = Field(None, description="epochs that every trial gets; null: as in pareto_asha")
    at_least: PositiveInt = Field(5, description="trials that must have been at an epoch before it stops any")
    floors: dict[str, float] = Field({}, description="as in pareto_asha")


class NoScheduler(Frozen):
    """Every trial runs to the full budget."""

    type: Literal["none"] = "none"


Scheduler = Annotated[ParetoASHA | ASHA | Median | NoScheduler, Field(discriminator="type")]

BOUND = r"^(>=|<=) *[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?( *\* *(target|retain))?$"


def _bound(text: str) -> str:
    if not re.match(BOUND, text.strip()):
        raise ValueError(f"{text!r} is no bound; write it as in '>= 0.5 * target', '>= 0.9 * retain' or '<= 0.2'")
    return text.strip()


Bound = Annotated[str, AfterValidator(_bound)]


# -- what it may cost, and what is made sure ---------------------------------------------------------------------------


class Budget(Frozen):
    """When a sweep proposes no more trials: whichever comes first. What runs then is finished."""

    trials: PositiveInt = Field(64, description="all in all, baselines and replicates included")
    epochs: PositiveInt | None = Field(None, description="of all trials together")
    hours: PositiveFloat | None = Field(None, description="of wall clock, while the sweep runs")
    gpu_hours: PositiveFloat | None = Field(None, description="time of trials times resources.gpu")
    concurrent: PositiveInt | None = Field(None, description="trials at once; null: as many as the resources carry")


class Confirm(Frozen):
    """Fresh seeds for those on the front once the search has ended: one seed may have been luck."""

    seeds: int = Field(3, ge=2, description="fresh seeds of each candidate; each has an order of the data of its own")
    at_most: PositiveInt = Field(8, description="candidates, the knee and the ends of the front first")
    published: bool = Field(True, description="also the baselines that were run to the full budget")


def replicates_of(phase: Phase, sweep_replicates: int) -> int:
    """Seeds of each point of a phase."""
    return phase.replicates or sweep_replicates


def grace_of(scheduler: ParetoASHA | ASHA | Median, epochs: int) -> int:
    """Epochs that every trial gets, of so many.

    Where nothing is said, three quarters, rounded up: forgetting comes in steps, and on recorded curves half of the
    epochs told little of the end (docs/search.md). Who wants to save more, rehearses a shorter one first.
    """
    return scheduler.grace_period or max(1, min(-(-3 * epochs // 4), epochs - 1))


def floors_of(scheduler: ParetoASHA | ASHA | Median | NoScheduler) -> Mapping[str, float]:
    """The collapse rule of a scheduler; empty where it has none."""
    return {} if isinstance(scheduler, NoScheduler) else scheduler.floors
