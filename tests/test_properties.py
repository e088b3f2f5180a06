"""What holds of every sweep, whatever the curves: sampled by hypothesis, simulated in milliseconds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.config import SweepConfig
from orchestrator.events import Event, Promoted, Resumed, Suggested, records
from orchestrator.rehearsal.curves import Curve
from orchestrator.rehearsal.simulator import Source, simulate
from orchestrator.results.front import front_of
from tests.sweeps import small_sweep

quick = settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
F, R = "forget.extraction_strength", "retain.extraction_strength"
SCHEDULERS: list[dict[str, Any]] = [
    {"type": "pareto_asha", "grace_period": 1},
    {"type": "pareto_asha", "grace_period": 1, "promotion": "pause"},
    {"type": "pareto_asha", "grace_period": 1, "order": "epsilon_net", "brackets": 2},
    {"type": "pareto_asha", "grace_period": 1, "order": "scalarised", "reduction_factor": 3},
    {"type": "asha", "grace_period": 1, "promotion": "pause"},
    {"type": "median", "grace_period": 1, "at_least": 2},
    {"type": "none"},
]
SAMPLERS: list[dict[str, Any]] = [
    {"type": "tpe", "startup": 3},
    {"type": "nsga2", "population": 4},
    {"type": "random"},
    {"type": "grid", "levels": 2, "shuffle": True},
]


def curves(seed: int, *, best: int | None = None, broken: int | None = None) -> Source:
    """Random curves of four epochs: trial `best` beats all others in everything, `broken` loses an objective."""

    def source(trial: Suggested) -> Curve:
        draw = np.random.default_rng([seed, trial.number])
        values_E2 = draw.uniform(0.2, 0.8, (4, 2))
        if trial.number == best:
            values_E2 = np.array([[0.1, 0.9]] * 4)
        metrics = [{F: float(forget), R: float(retain)} for forget, retain in values_E2]
        if trial.number == broken:
            metrics[1] = {F: 0.0, R: float("nan")}
        seconds = tuple(draw.integers(1, 4, 4).astype(float).tolist())  # many arrive at the same time
        fails = broken is None and draw.uniform() < 0.1
        kept = 2 if fails else 4
        failure = "it diverged" if fails and trial.number != best else None
        return Curve(
            trial.number, None, trial.seed, trial.params, tuple(metrics[: kept if failure else 4]), seconds, failure
        )

    return source


def sweep_of(scheduler: dict[str, Any], sampler: dict[str, Any] | None = None, **changes: Any) -> SweepConfig:
    raw = {"trial": {"epochs": 4}, "baselines": ["wga"], "budget": {"trials": 12}, **changes}
    return small_sweep(scheduler=scheduler, sampler=sampler or {"type": "random"}, **raw)


seeds = st.integers(0, 10**6)
gpus_ = st.integers(1, 5)


@pytest.mark.parametrize("scheduler", [s for s in SCHEDULERS if s.get("order") != "scalarised"], ids=str)
@quick
@given(seed=seeds, best=st.integers(1, 11), gpus=gpus_)
def test_a_trial_that_beats_all_others_at_every_epoch_ends_at_full_budget(
    scheduler: dict[str, Any], seed: int, best: int, gpus: int
) -> None:
    found = records(simulate(sweep_of(scheduler), curves(seed, best=best), gpus=gpus).events)
    (winner,) = (record for record in found if record.trial_id == f"{best:05d}")
    assert winner.state == "COMPLETE"
    assert front_of(found, {F: "min", R: "max"}) == [winner]


@pytest.mark.parametrize("scheduler", SCHEDULERS, ids=str)
@quick
@given(seed=seeds, broken=st.integers(0, 11), gpus=gpus_)
def test_who_loses_an_objective_is_never_promoted_and_who_was_stopped_is_never_on_the_front(
    scheduler: dict[str, Any], seed: int, broken: int, gpus: int
) -> None:
    events = simulate(sweep_of(scheduler), curves(seed, broken=broken), gpus=gpus).events
    found = {record.trial_id: record for record in records(events)}
    lost = found[f"{broken:05d}"]
    assert lost.state == "FAIL" or lost.epoch < 2
    after = events[next((i for i, e in enumerate(events) if getattr(e, "epoch", 0) == 2
                         and getattr(e, "trial_id", "") == lost.trial_id), len(events)):]  # fmt: skip
    assert not any(isinstance(event, Promoted) and event.trial_id == lost.trial_id for event in after)
    front = front_of(found.values(), {F: "min", R: "max"})
    assert front
    assert {record.state for record in front} == {"COMPLETE"}
    assert {record.epoch for record in front} == {4}


def plain(events: list[Event]) -> list[dict[str, Any]]:
    """All that happened, but for who took it up again when."""
    return [event.model_dump() for event in events if not isinstance(event, Resumed)]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: str(sampler["type"]))
@pytest.mark.parametrize("scheduler", SCHEDULERS[:2] + SCHEDULERS[4:6], ids=str)
def test_the_same_seed_makes_the_same_decisions(scheduler: dict[str, Any], sampler: dict[str, Any]) -> None:
    sweep = sweep_of(scheduler, sampler)
    once, again = (plain(simulate(sweep, curves(7), gpus=3).events) for _ in range(2))
    assert once == again


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: str(sampler["type"]))
@quick
@given(
    scheduler=st.sampled_from(SCHEDULERS),
    seed=seeds,
    gpus=gpus_,
    replicates=st.integers(1, 2),
    cut=st.floats(0, 1),
    confirm=st.sampled_from([None, {"seeds": 2, "at_most": 2}]),
)
def test_a_sweep_cut_after_any_event_ends_with_the_same_records(
    sampler: dict[str, Any],
    scheduler: dict[str, Any],
    seed: int,
    gpus: int,
    replicates: int,
    cut: float,
    confirm: dict[str, Any] | None,
) -> None:
    sweep = sweep_of(scheduler, sampler, replicates=replicates, confirm=confirm)
    whole = simulate(sweep, curves(seed), gpus=gpus).events
    kept = whole[: int(cut * len(whole))]
    again = simulate(sweep, curves(seed), gpus=gpus, events=kept).events
    assert plain(again) == plain(whole)
