"""Sweeps on a simulated clock: the searcher and the rungs of a real one around curves in closed form."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.config import SweepConfig
from orchestrator.events import Ended, Epoch, Event, Suggested, records
from orchestrator.rehearsal.curves import Curve
from orchestrator.rehearsal.simulator import simulate
from tests.surrogate import DIVERGES, result
from tests.sweeps import small_sweep
from trials.config import TrialConfig

ANCHORS = {"target": {"forget.extraction_strength": 1.0, "retain.extraction_strength": 1.0}}


def closed_form(trial: Suggested) -> Curve:
    """The surrogate's curve; epochs of a trial take seconds of its own, and a rate above `DIVERGES` fails."""
    config = TrialConfig.model_validate(trial.config)
    epochs = 1 if config.optim.lr > DIVERGES else config.epochs
    return Curve(
        trial.number,
        trial.label,
        trial.seed,
        trial.params,
        tuple(result(config, epoch).metrics for epoch in range(1, epochs + 1)),
        tuple(1 + trial.number % 7 / 10 for _ in range(epochs)),
        "it diverged" if epochs < config.epochs else None,
    )


def run(sweep: SweepConfig, *, gpus: int = 3, events: list[Event] | None = None) -> list[Event]:
    return simulate(sweep, closed_form, gpus=gpus, anchors=ANCHORS, events=events or []).events


def outcomes(events: list[Event]) -> list[dict[str, Any]]:
    return sorted(
        (r.model_dump(exclude={"resumed"}) for r in records(events)), key=lambda record: str(record["trial_id"])
    )


def test_every_trial_ends_once_and_the_budget_is_used_up() -> None:
    found = records(run(small_sweep()))
    assert sorted(record.trial_id for record in found) == [f"{number:05d}" for number in range(16)]
    assert {record.state for record in found} == {"COMPLETE", "PRUNED"}


def test_a_trial_whose_curve_ends_in_a_failure_fails_with_its_cause() -> None:
    sweep = small_sweep(space={"optim.lr": {"float": [1e-3, 2e-3]}}, baselines=[], budget={"trials": 3})
    assert {(r.state, r.epoch, r.failure) for r in records(run(sweep))} == {("FAIL", 1, "it diverged")}


def test_no_more_trials_run_at_once_than_there_are_gpus() -> None:
    running: set[str] = set()
    most = 0
    for event in run(small_sweep(scheduler={"type": "none"}), gpus=5):
        if isinstance(event, Suggested):
            running.add(event.trial_id)
        elif isinstance(event, Ended):
            running.discard(event.trial_id)
        most = max(most, len(running))
    assert most == 5


def test_time_passes_as_the_curves_say() -> None:
    events = run(small_sweep(scheduler={"type": "none"}, baselines=[], budget={"trials": 4}), gpus=1)
    at = [event.at for event in events if isinstance(event, Epoch) and event.trial_id == "00001"]
    assert at == pytest.approx([8 * 1.0 + 1.1 * epoch for epoch in range(1, 9)])


def test_a_budget_of_hours_is_of_simulated_time() -> None:
    events = run(
        small_sweep(scheduler={"type": "none"}, baselines=[], budget={"trials": 100, "hours": 20 / 3600}), gpus=1
    )
    begun = [event.at for event in events if isinstance(event, Suggested)]
    assert len(begun) > 1
    assert max(begun) < 20 <= events[-1].at


def test_a_simulation_can_be_ended_early() -> None:
    history = simulate(small_sweep(), closed_form, gpus=2, until=lambda history: len(history.events) > 30)
    assert 30 < len(history.events) < 40
    assert len(records(history.events)) < 16


@pytest.mark.parametrize("promotion", ["stop", "pause"])
def test_a_simulation_that_was_cut_after_any_event_ends_with_the_same_records(promotion: str) -> None:
    sweep = small_sweep(
        trial={"epochs": 4},
        baselines=["wga"],
        budget={"trials": 9},
        scheduler={"type": "pareto_asha", "grace_period": 1, "reduction_factor": 2, "promotion": promotion},
        sampler={"type": "random", "seed": 1},
        replicates=2,
        confirm={"seeds": 2, "at_most": 2},
    )
    whole = run(sweep)
    for cut in range(len(whole)):
        again = run(sweep, events=whole[:cut])
        assert outcomes(again) == outcomes(whole), f"cut after {cut} of {len(whole)} events"
