"""Proposals, ends and restarts, on the simulated loop: no Ray, no model, milliseconds."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from ray.tune.search import Searcher

from orchestrator.events import Epoch, Suggested
from orchestrator.ledger import Ledger, read_records
from orchestrator.results.front import front_of
from orchestrator.search.faults import Fault
from orchestrator.search.study import StudySearcher
from tests.simulate import simulate
from tests.surrogate import DIVERGES
from tests.sweeps import small_sweep


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "a \"run\" of 'mine' ; ü"
    place.mkdir()
    return place


def study_of(folder: Path) -> optuna.Study:
    """The journal as another tool opens it."""
    return optuna.load_study(study_name=None, storage=JournalStorage(JournalFileBackend(str(folder / "study.log"))))


def points(folder: Path) -> list[tuple[str, str, int, str]]:
    return [(r.trial_id, r.state, r.epoch, json.dumps([r.params, r.metrics])) for r in read_records(folder)]


def test_a_sweep_uses_its_budget_and_every_trial_ends_once(folder: Path) -> None:
    simulate(small_sweep(), folder).close()
    ids = [record.trial_id for record in read_records(folder)]
    assert sorted(ids) == [f"{number:05d}" for number in range(16)]


def test_baselines_come_first_are_labelled_and_run_to_the_full_budget(folder: Path) -> None:
    ledger = simulate(small_sweep(), folder)
    suggested = [event for event in ledger.events if isinstance(event, Suggested)]
    assert [event.label for event in suggested] == ["gradient_ascent", "wga", *[None] * 14]
    assert suggested[0].config["loss"]["retain"]["term"] == "none"
    assert {r.state for r in read_records(folder) if r.label} == {"COMPLETE"}
    ledger.close()


def test_a_stopped_trial_is_pruned_in_the_study_and_never_on_the_front(folder: Path) -> None:
    sweep = small_sweep()
    simulate(sweep, folder).close()
    found = read_records(folder)
    stopped = {record.trial_id for record in found if record.epoch < 8}
    assert stopped
    assert {record.state for record in found if record.trial_id in stopped} == {"PRUNED"}
    assert not stopped & {record.trial_id for record in front_of(found, sweep.objectives)}
    states = Counter(trial.state for trial in study_of(folder).trials)
    assert states == {TrialState.PRUNED: len(stopped), TrialState.COMPLETE: 16 - len(stopped)}
    assert all(trial.values is None for trial in study_of(folder).trials if trial.state == TrialState.PRUNED)


def test_a_diverged_trial_fails_and_the_others_go_on(folder: Path) -> None:
    space = {"optim.lr": {"choice": [5e-4, DIVERGES * 2]}}
    simulate(small_sweep(space=space, scheduler={"type": "none"}), folder).close()
    found = read_records(folder)
    failed = [record for record in found if record.state == "FAIL"]
    assert 0 < len(failed) < 16
    assert {record.failure for record in failed} == {"train.forget_loss is nan in epoch 2, step 9"}
    assert {record.params["optim.lr"] for record in failed} == {DIVERGES * 2}
    assert TrialState.RUNNING not in {trial.state for trial in study_of(folder).trials}


def test_the_same_seed_gives_the_same_trials_and_another_seed_others(folder: Path, tmp_path: Path) -> None:
    for place in (other := tmp_path / "again", third := tmp_path / "third"):
        place.mkdir()
    simulate(small_sweep(), folder, workers=1).close()
    simulate(small_sweep(), other, workers=1).close()
    simulate(small_sweep(sampler={"type": "tpe", "seed": 1}), third, workers=1).close()
    assert points(folder) == points(other)
    assert points(folder) != points(third)


@pytest.mark.parametrize("epochs", [0, 1, 5, 23, 40])
def test_a_driver_killed_anywhere_goes_on_to_the_sweep_it_would_have_been(
    folder: Path, tmp_path: Path, epochs: int
) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    simulate(small_sweep(), whole, workers=1).close()
    ledger = simulate(small_sweep(), folder, workers=1, most=epochs)
    ended_before = {record.trial_id: record for record in ledger.records()}
    ledger.close()
    (folder / "study.log").write_text("nothing is read from here")
    simulate(small_sweep(), folder, workers=1).close()
    assert points(folder) == points(whole)
    assert {r.trial_id: r for r in read_records(folder) if r.trial_id in ended_before} == ended_before
    for trial in (folder / "trials").iterdir():
        ran = (trial / "ran.txt").read_text().split()
        assert ran == sorted(set(ran), key=int), "an epoch ran twice"


WORDS = {
    "loss.preset": {"choice": ["satimp_gd_readme", "wga", "npo_ou"]},
    "optim.lr": {"float": [1e-4, 8e-4], "log": True},
}, {
    "loss.granularity": {"choice": ["token", "instance", "group"]},
    "optim.lr": {"float": [1e-4, 8e-4], "log": True},
}  # fmt: skip


@pytest.mark.parametrize("space", WORDS, ids=["presets", "bare words"])
def test_what_is_chosen_by_a_word_is_history_after_a_restart_too(
    folder: Path, tmp_path: Path, space: dict[str, Any]
) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    sweep = small_sweep(space=space, budget={"trials": 16}, sampler={"type": "tpe", "startup": 4})
    simulate(sweep, whole, workers=1).close()
    simulate(sweep, folder, workers=1, most=40).close()
    simulate(sweep, folder, workers=1).close()
    assert points(folder) == points(whole)
    word = next(iter(space))
    told = [trial.params.get(word) for trial in study_of(folder).trials[2:]]
    assert set(told) <= set(space[word]["choice"])
    assert [record.params[word] for record in sorted(read_records(folder), key=lambda r: r.trial_id)[2:]] == told


def test_a_larger_budget_extends_a_finished_sweep(folder: Path) -> None:
    simulate(small_sweep(budget={"trials": 6}), folder).close()
    before = points(folder)
    simulate(small_sweep(budget={"trials": 10}), folder).close()
    assert points(folder)[:6] == before
    assert len(points(folder)) == 10


def test_points_of_the_space_are_the_studys_parameters_and_a_baseline_outside_has_none(folder: Path) -> None:
    simulate(small_sweep(), folder).close()
    first, second, third, *_ = study_of(folder).trials
    assert (first.params, first.user_attrs) == ({}, {"label": "gradient_ascent", "origin": "baseline"})
    assert second.params["loss.criterion.beta1@saturation"] == 1.0
    assert set(third.params) >= {"loss.criterion.type", "loss.retain.coefficient", "optim.lr"}


def test_a_baseline_that_differs_in_what_is_not_searched_is_no_point_of_the_space(folder: Path) -> None:
    space = {"loss.criterion.beta1": {"float": [0.5, 8]}, "loss.criterion.beta2": {"float": [0, 1]}}
    simulate(small_sweep(space=space, baselines=["satimp_ou_merged"]), folder).close()
    assert study_of(folder).trials[0].params == {}  # its forget coefficient is not the base trial's


def test_a_baseline_inside_the_space_teaches_the_sampler(folder: Path) -> None:
    space = {"loss.criterion.beta1": {"float": [0.5, 5]}, "optim.lr": {"float": [1e-4, 8e-4]}}
    sweep = small_sweep(space=space, trial={"epochs": 8, "loss": {"criterion": {"type": "saturation"}}})
    simulate(sweep.model_copy(update={"baselines": ("wga",)}), folder).close()
    assert study_of(folder).trials[0].params == {"loss.criterion.beta1": 1.0, "optim.lr": 3e-4}


def test_a_repeated_epoch_counts_once(folder: Path) -> None:
    ledger = Ledger(folder)
    searcher = StudySearcher(small_sweep(), ledger, folder, concurrent=1, digests=("d", "m"))
    searcher.suggest("ray")
    for epoch in (1, 2, 2, 1):
        searcher.on_trial_result("ray", {"epoch": epoch, "seconds": 1.0, "metrics/forget.nll": 1.0})
    assert [event.epoch for event in ledger.events if isinstance(event, Epoch)] == [1, 2]
    ledger.close()


def test_a_missing_objective_at_the_end_is_a_failure_that_names_it(folder: Path) -> None:
    ledger = Ledger(folder)
    searcher = StudySearcher(small_sweep(), ledger, folder, concurrent=1, digests=("d", "m"))
    searcher.suggest("ray")
    searcher.on_trial_result("ray", {"epoch": 7, "seconds": 1.0})
    searcher.on_trial_complete(
        "ray", {"epoch": 8, "seconds": 1.0, "metrics/forget.extraction_strength": 0.1, "done": True}
    )
    (record,) = ledger.records()
    assert (record.state, record.failure) == ("FAIL", "did not report retain.extraction_strength")
    ledger.close()


def test_no_more_trials_than_allowed_at_once(folder: Path) -> None:
    ledger = Ledger(folder)
    searcher = StudySearcher(small_sweep(), ledger, folder, concurrent=2, digests=("d", "m"))
    assert isinstance(searcher.suggest("a"), dict)
    assert isinstance(searcher.suggest("b"), dict)
    assert searcher.suggest("c") is None
    ledger.close()


def test_the_journal_of_an_old_ledger_has_its_numbers(folder: Path) -> None:
    ledger = simulate(small_sweep(), folder, most=20)
    StudySearcher(small_sweep(), ledger, folder, concurrent=1, digests=("d", "m"))
    suggested = [event for event in ledger.events if isinstance(event, Suggested)]
    trials = study_of(folder).trials
    assert [trial.number for trial in trials] == [event.number for event in suggested]
    running = {trial.number for trial in trials if trial.state == TrialState.RUNNING}
    assert running == {e.number for e in suggested} - {int(r.trial_id) for r in ledger.records()}
    ledger.close()


def test_the_journal_says_what_a_trial_is_and_what_it_missed(folder: Path) -> None:
    sweep = small_sweep(
        constraints={"retain.extraction_strength": ">= 0.5"},
        phases=[{"sampler": {"type": "random"}, "trials": 4}, {"sampler": {"type": "ablation"}, "replicates": 2}],
        budget={"trials": 12},
        scheduler={"type": "none"},
    )
    simulate(sweep, folder).close()
    trials = study_of(folder).trials
    found = {int(record.trial_id): record for record in read_records(folder)}
    assert [trial.user_attrs["origin"] for trial in trials[1:7]] == ["baseline", *["search"] * 4, "ablation"]
    assert [trial.user_attrs.get("design") for trial in trials[6:8]] == ["base", "base"]
    assert trials[7].user_attrs["of"] == "00006"
    assert trials[7].params == trials[6].params
    for trial in trials:
        missed = found[trial.number].violations.get("retain.extraction_strength", 0.0)
        assert trial.constraints == {"retain.extraction_strength": missed}
    assert {trial.constraints["retain.extraction_strength"] > 0 for trial in trials} == {True, False}


def test_a_lost_worker_costs_no_retry_but_only_so_often(folder: Path) -> None:
    ledger = Ledger(folder)
    sweep = small_sweep(budget={"trials": 1}, baselines=[], resources={"retries": 0, "losses": 2})
    searcher = StudySearcher(sweep, ledger, folder, concurrent=1, digests=("d", "m"))
    first = searcher.suggest("a")
    assert searcher.suggest("b") is None, "it is not finished while a trial may come back"
    searcher.causes["a"] = Fault("node", "its node was lost")
    searcher.on_trial_complete("a", error=True)
    assert ledger.records() == []
    assert searcher.suggest("b") == first
    searcher.on_trial_complete("b", error=True)
    assert searcher.suggest("c") == first
    searcher.on_trial_complete("c", error=True)
    assert searcher.suggest("d") == Searcher.FINISHED
    (record,) = ledger.records()
    assert (record.state, record.failure) == ("FAIL", "its worker process died (run again 2 times)")
    assert record.resumed == ("node", "worker")
    ledger.close()


def test_a_lock_that_a_killed_driver_left_on_the_journal_holds_nobody_up(folder: Path) -> None:
    (folder / "study.log.lock").touch()
    simulate(small_sweep(budget={"trials": 3}), folder).close()
    assert len(read_records(folder)) == 3
