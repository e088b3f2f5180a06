"""The summary of a sweep: who is a candidate, hypervolume as trials end, and what it all cost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import pareto
from orchestrator.events import Epoch, Opened
from orchestrator.results.front import hypervolume_history, hypervolume_of, method_of
from orchestrator.results.volume import volumes
from tests.summaries import FORGET, OBJECTIVES, RETAIN, Sweep

# -- hypervolume as points come in -------------------------------------------------------------------------------------

COORDINATE = st.sampled_from([-0.5, 0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.5])  # few values: many ties


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_volumes_are_those_of_all_points_so_far(width: int, data: st.DataObject) -> None:
    points = data.draw(st.lists(st.lists(COORDINATE, min_size=width, max_size=width), max_size=12))
    points_NM, reference_M = np.array(points).reshape(len(points), width), np.ones(width)
    each = [pareto.hypervolume(points_NM[: count + 1], reference_M) for count in range(len(points))]
    assert list(volumes(points_NM, reference_M)) == pytest.approx(each, abs=1e-12)


def test_volumes_never_fall_and_end_where_the_whole_set_is() -> None:
    points_NM = np.random.default_rng(0).uniform(0, 1.2, (3000, 2))
    found = list(volumes(points_NM, np.ones(2)))
    assert found == sorted(found)
    assert found[-1] == pytest.approx(pareto.hypervolume(points_NM, np.ones(2)), rel=1e-12)


def test_a_long_history_of_three_objectives_is_a_matter_of_seconds() -> None:
    points_NM = np.random.default_rng(0).uniform(0, 1, (10_000, 3))
    points_NM[0] = 0.01  # hardly anything gets past it, and the rest must cost no volume
    *_, last = volumes(points_NM, np.ones(3))
    assert last == pytest.approx(
        pareto.hypervolume(points_NM[(points_NM < 0.01).any(axis=1) | (points_NM == 0.01).all(axis=1)], np.ones(3))
    )


# -- candidates --------------------------------------------------------------------------------------------------------


def test_other_seeds_of_a_point_and_who_misses_a_constraint_are_no_candidates() -> None:
    sweep = Sweep()
    point = sweep.trial(0.3, 0.7)
    sweep.trial(0.1, 0.9, of=point, seed=1)
    missed = sweep.trial(0.0, 0.4, violations={RETAIN: 0.1})
    sweep.trial(0.1, 0.9, state="PRUNED")
    summary = sweep.summary
    assert [record.trial_id for record in summary.candidates] == [point]
    assert [record.trial_id for record in summary.front] == [point]
    assert [(record.trial_id, record.violations) for record in summary.violators] == [(missed, {RETAIN: 0.1})]
    assert summary.hypervolume == pytest.approx(0.7 * 0.7)
    assert summary.history == pytest.approx([0.49] * 4)


def test_the_history_holds_while_trials_end_that_are_no_candidates() -> None:
    sweep = Sweep()
    sweep.trial(0.5, 0.5, state="FAIL")
    sweep.trial(0.5, 0.5)
    sweep.trial(0.4, 0.4, state="PRUNED")
    sweep.trial(0.2, 0.4)
    found = sweep.summary.records
    history = hypervolume_history(found, OBJECTIVES, {FORGET: 1.0, RETAIN: 0.0})
    each = [hypervolume_of(found[: n + 1], OBJECTIVES, {FORGET: 1.0, RETAIN: 0.0}) for n in range(4)]
    assert history == pytest.approx(each)
    assert history[0] == 0.0


# -- cost --------------------------------------------------------------------------------------------------------------


def _of_each_origin() -> Sweep:
    sweep = Sweep(resources={"gpu": 0.5})
    sweep.trial(0.1, 0.1, origin="earlier")
    sweep.trial(0.6, 0.9, label="wga")
    best = sweep.trial(0.2, 0.8)
    sweep.trial(0.4, 0.4, state="PRUNED")
    sweep.trial(0.4, 0.4, state="FAIL")
    sweep.trial(0.4, 0.4, state=None)
    sweep.seeds(best, (0.3, 0.8), (0.2, 0.7))
    return sweep


def test_cost_is_split_by_origin_and_earlier_trials_cost_nothing_here() -> None:
    summary = _of_each_origin().summary
    assert list(summary.cost) == ["baseline", "search", "confirm", "earlier"]
    search = summary.cost["search"]
    assert (search.trials, search.epochs, search.seconds, search.saved) == (4, 12, 120.0, 2)
    assert search.counts == {"COMPLETE": 1, "PRUNED": 1, "FAIL": 1}
    assert summary.cost["earlier"].epochs == 4
    assert (summary.epochs_spent, summary.seconds) == (4 + 12 + 8, 240.0)
    assert (summary.epochs_saved, summary.epochs_full) == (2, 5 * 4)
    assert summary.gpu_hours == pytest.approx(240 / 3600 / 2)
    assert summary.spent == [0, 4, 8, 10, 12, 20, 24]  # the unfinished one ran in between


def test_an_epoch_that_was_recorded_twice_was_evaluated_once() -> None:
    sweep = Sweep()
    trial = sweep.trial(0.5, 0.5)
    again = Epoch(at=0.0, trial_id=trial, epoch=2, metrics={FORGET: 0.6, RETAIN: 0.6}, seconds=7.0)
    sweep.events.insert(3, again)
    summary = sweep.summary
    assert [epoch.epoch for epoch in summary.epochs[trial]] == [1, 2, 3, 4]
    assert summary.epochs[trial][1].metrics[FORGET] == 0.6  # the later one counts
    assert (summary.epochs_spent, summary.spent) == (4, [4])


def test_drivers_that_took_the_sweep_up_are_told() -> None:
    sweep = Sweep()
    sweep.events.append(Opened(at=1.0, fingerprint="1" * 16))
    sweep.events.append(Opened(at=2.0, fingerprint="2" * 16, changed={"budget.trials": (8, 16)}))
    assert [event.changed for event in sweep.summary.opened] == [{}, {"budget.trials": (8, 16)}]


def test_a_published_setting_stands_once_however_many_seeds_it_has() -> None:
    sweep = Sweep()
    wga = sweep.trial(0.6, 0.9, label="wga")
    sweep.seeds(wga, (0.6, 0.8), (0.7, 0.9), label="wga")
    assert [trial.trial_id for trial in sweep.summary.baselines] == [wga]


def test_a_method_is_the_type_of_the_forget_term() -> None:
    sweep = Sweep()
    sweep.trial(0.5, 0.5, settings={"loss": {"criterion": {"type": "npo"}}})
    sweep.trial(0.5, 0.5, settings={"loss": {}}, label="wga")
    assert [method_of(trial) for trial in sweep.summary.suggested.values()] == ["npo", "wga"]
