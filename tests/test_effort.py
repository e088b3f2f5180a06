"""Fronts by epoch, hypervolume by epochs spent, and methods at equal cost, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.results.effort import any_epoch_front, by_method, epoch_fronts, volume_by_epochs
from tests.summaries import FORGET, Sweep


def _curves() -> Sweep:
    sweep = Sweep()
    sweep.trial(curve=[(0.8, 1.0), (0.4, 0.9), (0.2, 0.6)])
    sweep.trial(curve=[(0.9, 0.9), (0.3, 0.8), (0.1, 0.7)])
    sweep.trial(curve=[(0.0, 1.0), (0.0, 1.0)], state="PRUNED")  # as good as it looks, it is no candidate
    return sweep


def test_the_front_of_each_epoch_is_that_of_the_candidates_then() -> None:
    first, second, third = epoch_fronts(_curves().summary)
    assert [(each.epoch, each.trials) for each in (first, second, third)] == [(1, 2), (2, 2), (3, 2)]
    assert [(point.trial_id, point.last) for point in first.front] == [("00000", False)]
    assert [point.trial_id for point in second.front] == ["00001", "00000"]
    assert [(point.trial_id, point.last) for point in third.front] == [("00001", True)]
    assert first.hypervolume == pytest.approx(0.2 * 1.0)
    assert second.hypervolume == pytest.approx(0.7 * 0.8 + 0.6 * 0.1)
    assert third.hypervolume == pytest.approx(0.9 * 0.7)


def test_earlier_epochs_may_be_on_the_front_of_all_epochs() -> None:
    found = any_epoch_front(_curves().summary)
    assert [(point.trial_id, point.epoch) for point in found] == [
        ("00001", 3),
        ("00001", 2),
        ("00000", 2),
        ("00000", 1),
    ]
    assert sum(not point.last for point in found) == 3


def test_a_sweep_without_candidates_has_no_fronts_by_epoch() -> None:
    sweep = Sweep()
    sweep.trial(0.5, 0.5, state="PRUNED")
    assert epoch_fronts(sweep.summary) == []
    assert any_epoch_front(sweep.summary) == []
    assert volume_by_epochs(sweep.summary) == ([0, 2], [0.0, 0.0])
    assert by_method(sweep.summary).rows[0].at_budget is None


def test_hypervolume_rises_with_the_epochs_that_all_trials_have_spent() -> None:
    sweep = Sweep()
    sweep.trial(0.9, 0.9, origin="earlier")
    sweep.trial(0.5, 0.5)
    sweep.trial(0.5, 0.5, state="PRUNED")
    sweep.trial(0.2, 0.9)
    sweep.trial(0.9, 0.1)
    spent, volume = volume_by_epochs(sweep.summary)
    assert spent == [0, 0, 4, 10, 14]
    assert volume == pytest.approx([0.0, 0.09, 0.5 * 0.5 + 0.1 * 0.4, 0.8 * 0.9, 0.8 * 0.9])


def _method(name: str) -> dict[str, Any]:
    return {"settings": {"loss": {"criterion": {"type": name}}}}


def test_methods_are_compared_for_the_epochs_that_the_cheapest_has_spent() -> None:
    sweep = Sweep()
    sweep.trial(0.5, 0.9, label="wga", **_method("satimp"))
    for value in (0.2, 0.4):
        sweep.trial(value, 1.0, **_method("npo"))
    for value in (0.1, 0.3, 0.5, 0.7):
        sweep.trial(value, 1.0, **_method("satimp"))
    found = by_method(sweep.summary)
    assert found.budget == 8
    rows = {row.name: row for row in found.rows}
    assert [row.name for row in found.rows][-1] == "wga"
    npo, satimp, wga = rows["npo"], rows["satimp"], rows["wga"]
    assert (npo.trials, npo.epochs, npo.published) == (2, 8, False)
    assert (npo.at_budget, npo.low, npo.high) == pytest.approx((0.8, 0.8, 0.8))  # it can pay for all its trials
    assert satimp.hypervolume == pytest.approx(0.9)
    # Two of four at random: the best of them is 0.1 in 3 of 6 draws, 0.3 in 2 and 0.5 in 1.
    assert satimp.at_budget == pytest.approx((3 * 0.9 + 2 * 0.7 + 0.5) / 6, abs=0.02)
    assert (satimp.low, satimp.high) == pytest.approx((0.5, 0.9))
    assert (wga.published, wga.epochs, wga.at_budget) == (True, 4, pytest.approx(0.45))


def test_stopped_trials_and_other_seeds_cost_a_method_their_epochs() -> None:
    sweep = Sweep()
    point = sweep.trial(0.5, 0.5, **_method("npo"))
    sweep.seeds(point, (0.4, 0.4), origin="search", **_method("npo"))
    sweep.seeds(point, (0.4, 0.4), (0.4, 0.4), first=2, **_method("npo"))  # a confirmation is no part of the search
    sweep.trial(0.5, 0.5, state="PRUNED", **_method("npo"))
    (row,) = by_method(sweep.summary).rows
    assert (row.trials, row.epochs, row.candidates) == (2, 4 + 4 + 2, 1)


def test_a_trial_that_ends_beyond_the_budget_does_not_count() -> None:
    sweep = Sweep()
    sweep.trial(0.5, 0.5, state="PRUNED", **_method("npo"))  # two epochs: nobody else gets more
    sweep.trial(0.1, 1.0, **_method("satimp"))
    found = by_method(sweep.summary)
    assert found.budget == 2
    assert {row.name: row.at_budget for row in found.rows} == {"satimp": 0.0, "npo": None}


def test_the_points_of_an_epoch_say_what_was_measured_then() -> None:
    points = epoch_fronts(_curves().summary)[1].front
    assert [point.metrics[FORGET] for point in points] == [0.3, 0.4]
