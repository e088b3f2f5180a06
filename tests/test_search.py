"""What a search runs: samplers, phases, replicates, budgets, confirmations, pauses; on a simulated clock."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from optuna.trial import TrialState

from orchestrator.config import SweepConfig
from orchestrator.events import Anchor, Ended, Epoch, Event, Opened, Record, Suggested, records
from orchestrator.ledger import History
from orchestrator.rehearsal.curves import Curve
from orchestrator.rehearsal.simulator import simulate
from orchestrator.resources import Resources
from orchestrator.results.effects import ablations
from orchestrator.results.front import front_of, knee_of
from orchestrator.search.config import NSGA2, TPE
from orchestrator.search.observations import Recent, Told, Window, Words, best_of
from orchestrator.search.proposals import Proposals
from orchestrator.search.spending import Spending
from orchestrator.search.study import StudySearcher
from tests.summaries import Sweep
from tests.surrogate import result
from tests.sweeps import small_sweep
from trials.config import TrialConfig

FORGET, RETAIN = "forget.extraction_strength", "retain.extraction_strength"
NONE = {"type": "none"}
ABLATION: dict[str, Any] = {"type": "ablation", "values": {"loss.retain.coefficient": [1.0, 2.0]}}
SMALL_SPACE = {"loss.granularity": {"choice": ["token", "instance"]}, "optim.batch_size": {"int": [4, 6]}}


def curve(event: Suggested) -> Curve:
    """The surrogate's, with a little luck that depends on the seed."""
    config = TrialConfig.model_validate(event.config)
    luck = 1 - 0.01 * (config.seed * 7 % 5)
    metrics = tuple(
        {name: value * luck for name, value in result(config, epoch).metrics.items()} for epoch in range(1, 9)
    )
    return Curve(event.number, event.label, event.seed, event.params, metrics, (1.0,) * 8)


def run(sweep: SweepConfig, *, gpus: int = 1, events: list[Event] | None = None, most: int = 10**9) -> list[Event]:
    """All events of a sweep; what was there before comes first."""
    return simulate(
        sweep, curve, gpus=gpus, events=events or [], until=lambda history: len(history.events) >= most
    ).events


def suggested(events: list[Event]) -> list[Suggested]:
    return [event for event in events if isinstance(event, Suggested)]


def searcher_of(sweep: SweepConfig, events: list[Event]) -> StudySearcher:
    return StudySearcher(sweep, History(events, lambda: 0.0), None, concurrent=1, digests=("data", "model"))


def outcome(events: list[Event]) -> list[dict[str, Any]]:
    return sorted(
        (r.model_dump(exclude={"started", "resumed"}) for r in records(events)), key=lambda r: str(r["trial_id"])
    )


# -- the same history, the same proposals ------------------------------------------------------------------------------

SEARCHES: dict[str, dict[str, Any]] = {
    "tpe": {"sampler": {"type": "tpe", "startup": 4}, "budget": {"trials": 20}},
    "nsga2": {"sampler": {"type": "nsga2", "population": 4}, "scheduler": NONE, "budget": {"trials": 20}},
    "random": {"sampler": {"type": "random"}},
    "grid": {"sampler": {"type": "grid", "levels": 2, "shuffle": True}},
    "constraints": {"sampler": {"type": "tpe", "startup": 4}, "constraints": {RETAIN: ">= 0.6"}},
    "replicates and confirmations": {"replicates": 2, "confirm": {"seeds": 2, "at_most": 2}},
    "pauses": {"scheduler": {"type": "pareto_asha", "grace_period": 2, "promotion": "pause"}},
    "phases": {
        "phases": [
            {"sampler": {"type": "random"}, "trials": 5},
            {"sampler": {"type": "nsga2", "population": 3}, "trials": 5},
            {"sampler": ABLATION | {"base": "knee"}, "replicates": 2},
        ],
        "budget": {"trials": 30},
    },
}


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_cut_after_any_event_goes_on_to_what_it_would_have_been(name: str) -> None:
    sweep = small_sweep(**SEARCHES[name])
    whole = run(sweep)
    assert len(suggested(whole)) > 10
    for cut in range(0, len(whole), 7):
        assert outcome(run(sweep, events=whole[:cut])) == outcome(whole), f"cut after {cut} events"


@pytest.mark.parametrize("name", ["tpe", "nsga2", "constraints"])
def test_with_many_workers_too_a_proposal_depends_on_the_history_alone(name: str) -> None:
    sweep = small_sweep(**SEARCHES[name])
    whole = run(sweep, gpus=5)
    for position, event in enumerate(whole):
        if isinstance(event, Suggested) and event.number % 3 == 0:
            again = searcher_of(sweep, whole[:position])
            proposal = again.agenda.next()
            assert not isinstance(proposal, str | None)
            assert again.agenda.fingerprint(proposal.trial) == event.fingerprint


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_gaussian_processes_propose_the_same_after_a_restart() -> None:
    sweep = small_sweep(
        sampler={"type": "gp", "startup": 3}, constraints={RETAIN: ">= 0.3"}, scheduler=NONE, budget={"trials": 7}
    )
    whole = run(sweep, gpus=2)
    last = next(position for position, event in enumerate(whole) if isinstance(event, Suggested) and event.number == 6)
    proposal = searcher_of(sweep, whole[:last]).agenda.next()
    assert not isinstance(proposal, str | None)
    assert proposal.params == suggested(whole)[6].params
    assert len({event.fingerprint for event in suggested(whole)}) == 7


# -- samplers ----------------------------------------------------------------------------------------------------------


def told(number: int, values: tuple[float, float] = (0.5, 0.5), missed: float = 0.0, **params: Any) -> Told:
    return Told(number, params, state=TrialState.COMPLETE, values=values, violations=(("c", missed),))


def test_the_best_are_feasible_first_then_by_front_then_the_loneliest() -> None:
    sign_M = np.array([1.0, -1.0])  # forget down, retain up
    found = [
        told(0, (0.9, 0.9), missed=0.2),
        told(1, (0.5, 0.5)),
        told(2, (0.6, 0.4)),
        told(3, (0.1, 0.2)),
        told(4, (0.3, 0.1), missed=0.1),
    ]
    assert [each.number for each in best_of(found, 2, sign_M)] == [1, 3]
    assert [each.number for each in best_of(found, 4, sign_M)] == [1, 2, 3, 4]


def test_children_of_a_genetic_search_mix_and_change_what_their_parents_have() -> None:
    sweep = small_sweep(sampler={"type": "nsga2", "population": 6}, scheduler=NONE, budget={"trials": 40}, baselines=[])
    found = suggested(run(sweep))
    first = {(path, value) for event in found[:6] for path, value in event.params.items() if path != "seed"}
    second = [(path, value) for event in found[6:12] for path, value in event.params.items() if path.endswith("lr")]
    assert sum(gene in first for gene in second) >= 3
    inner = [(path, value) for event in found[6:] for path, value in event.params.items() if path.endswith("beta1")]
    counts = Counter(value for _, value in inner)
    assert max(counts.values()) > 1, "what only one variant has is inherited too"


def test_baselines_within_the_space_and_earlier_trials_are_parents_too() -> None:
    sweep = small_sweep(sampler={"type": "nsga2", "population": 2})
    proposals = Proposals(sweep)
    params = {"loss.criterion.type": "saturation", "loss.criterion.beta1@saturation": 1.0}
    params |= {"loss.retain.coefficient": 1.0, "optim.lr": 5e-4}
    for number in range(2):
        proposals.begin(Told(number, params))
        proposals.end(told(number, **params))
    point = next(proposals.draws(NSGA2(population=2), 2))
    same = {path: value for path, value in point.items() if params.get(path) == value}
    assert len(same) >= 2


def test_who_misses_a_constraint_is_not_among_the_good_ones_of_a_sampler() -> None:
    sweep = small_sweep(space={"optim.lr": {"float": [1e-4, 8e-4]}}, constraints={RETAIN: ">= 0.5"})
    share = {}
    for missed in (0.0, 1.0):
        proposals = Proposals(sweep)
        rng = np.random.default_rng(0)
        for number in range(60):
            lr = float(rng.uniform(1e-4, 8e-4))
            good = lr > 6e-4
            proposals.begin(Told(number, {"optim.lr": lr}))
            proposals.end(told(number, (0.1, 0.9) if good else (0.5, 0.5), missed if good else 0.0, **{"optim.lr": lr}))
        drawn = [next(proposals.draws(TPE(), 100 + number))["optim.lr"] for number in range(30)]
        share[missed] = float(np.mean([lr > 6e-4 for lr in drawn]))
    assert share[0.0] > 0.7
    assert share[1.0] < 0.3


def test_violations_of_a_complete_trial_are_in_the_history() -> None:
    sweep = small_sweep(constraints={RETAIN: ">= 0.5 * target"}, budget={"trials": 10}, scheduler=NONE)
    anchor = Anchor(at=0.0, name="target", metrics={RETAIN: 1.0})
    found = records(run(sweep, events=[anchor]))
    for record in found:
        missed = 0.5 - record.metrics[RETAIN]
        assert record.violations == ({RETAIN: pytest.approx(missed)} if missed > 0 else {})
    assert any(record.violations for record in found)
    assert not any(record.violations for record in front_of(found, sweep.objectives))


def test_what_a_sampler_looks_at_is_bounded_and_keeps_the_best() -> None:
    recent = Recent(Words(small_sweep()), best=3, newest=4, more=2)
    for number in range(100):
        recent.end(told(number, (0.0, 1.0) if number in (5, 17, 33) else (0.5, 0.5 - number / 1000)))
    kept = [each.number for each in recent.all()]
    assert len(kept) <= 9
    assert kept[:3] == [5, 17, 33]
    assert kept[-4:] == [96, 97, 98, 99]


def test_a_study_that_has_grown_is_the_same_as_one_made_anew() -> None:
    words = Words(small_sweep(space={"optim.lr": {"float": [1e-4, 8e-4]}}))
    grown, anew = (Window(words, Recent(words, best=4, newest=6, more=5), at_once=3) for _ in range(2))
    for number in range(40):
        running = Told(number, {"optim.lr": 1e-4 + number * 1e-5})
        for window in (grown, anew):
            window.begin(running)
        grown.study()
        if number >= 5:  # more run than are shown
            ended = told(number - 5, (0.5, number / 100), **{"optim.lr": 1e-4 + (number - 5) * 1e-5})
            for window in (grown, anew):
                window.end(ended)
    seen = [[(t.state, t.params, t.values) for t in window.study().get_trials()] for window in (grown, anew)]
    assert seen[0] == seen[1]
    assert len(seen[0]) <= 4 + 6 + 5 + 3


# -- nothing runs twice ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2", "grid"])
def test_a_finite_space_is_run_once_and_then_the_search_ends(sampler: str) -> None:
    settings = {"type": sampler} | ({"population": 3} if sampler == "nsga2" else {})
    sweep = small_sweep(space=SMALL_SPACE, baselines=[], sampler=settings, scheduler=NONE)
    events = run(sweep)
    assert len(suggested(events)) == 6
    assert len({event.fingerprint for event in suggested(events)}) == 6
    searcher = searcher_of(sweep, events)
    assert (searcher.done, searcher.exhausted) == (True, "space")


def test_a_baseline_that_ran_already_is_not_proposed_by_a_design() -> None:
    trial = {"epochs": 8, "loss": {"criterion": {"type": "saturation"}}}
    space = {"loss.criterion.beta1": {"choice": [1.0, 2.0, 3.0]}}
    sweep = small_sweep(trial=trial, space=space, baselines=["wga"], sampler={"type": "grid"}, scheduler=NONE)
    found = suggested(run(sweep))
    assert [event.params["loss.criterion.beta1"] for event in found] == [1.0, 2.0, 3.0]
    assert [event.origin for event in found] == ["baseline", "search", "search"]


def test_earlier_trials_are_not_run_again_and_cost_nothing() -> None:
    sweep = small_sweep(space=SMALL_SPACE, baselines=[], sampler={"type": "grid"}, scheduler=NONE, budget={"trials": 4})
    events = run(sweep)[:-1]
    ended = {event.trial_id for event in events if isinstance(event, Ended)}
    earlier = [
        event.model_copy(update={"origin": "earlier", "phase": None}) if isinstance(event, Suggested) else event
        for event in events
        if getattr(event, "trial_id", None) in ended
    ]
    found = suggested(run(sweep, events=earlier))
    assert [event.origin for event in found] == ["earlier"] * 3 + ["search"] * 3, "the space has six points"
    assert len({event.fingerprint for event in found}) == 6


# -- phases ------------------------------------------------------------------------------------------------------------


def knee_before(events: list[Event], sweep: SweepConfig, number: int) -> Record:
    before = [record for record in records(events) if int(record.trial_id) < number]
    knee = knee_of(front_of(before, sweep.objectives), sweep.objectives)
    assert knee
    return knee


def test_phases_follow_each_other_after_the_baselines_and_say_which_they_are() -> None:
    sweep = small_sweep(
        phases=[{"sampler": {"type": "random"}, "trials": 3}, {"sampler": {"type": "tpe"}, "trials": 2}],
        budget={"trials": 40},
    )
    events = run(sweep, gpus=3)
    assert [event.phase for event in suggested(events)] == [None, None, 0, 0, 0, 1, 1]
    assert searcher_of(sweep, events).exhausted is None
    searcher = searcher_of(sweep, events)
    assert (searcher.done, searcher.exhausted) == (True, "phases")


def test_an_ablation_of_the_knee_waits_for_all_that_came_before_and_begins_at_it() -> None:
    sweep = small_sweep(
        phases=[{"sampler": {"type": "random"}, "trials": 6}, {"sampler": ABLATION | {"base": "knee"}}],
        scheduler=NONE,
        budget={"trials": 40},
    )
    events = run(sweep, gpus=4)
    begin = next(i for i, event in enumerate(events) if isinstance(event, Suggested) and event.phase == 1)
    assert {e.trial_id for e in suggested(events[:begin])} == {r.trial_id for r in records(events[:begin])}
    knee = knee_before(events, sweep, 8)
    ablation = [event for event in suggested(events) if event.origin == "ablation"]
    assert [event.design for event in ablation] == ["loss.retain.coefficient = 1", "loss.retain.coefficient = 2"]
    assert {event.base for event in ablation} == {knee.trial_id}, "the knee has run, and is not run again"
    assert all(event.config["optim"]["lr"] == knee.params["optim.lr"] for event in ablation)


def test_further_seeds_of_the_base_of_an_ablation_are_run_and_name_it() -> None:
    sweep = small_sweep(
        phases=[
            {"sampler": {"type": "random"}, "trials": 6},
            {"sampler": ABLATION | {"base": "knee"}, "replicates": 3},
        ],
        scheduler=NONE,
        budget={"trials": 40},
    )
    events = run(sweep)
    knee = knee_before(events, sweep, 8).trial_id
    found = [(e.design, e.seed, e.of, e.base) for e in suggested(events) if e.phase == 1]
    first, second = "loss.retain.coefficient = 1", "loss.retain.coefficient = 2"
    assert found == [
        ("base", 1, knee, None),
        ("base", 2, knee, None),
        (first, 0, None, knee),
        (first, 1, "00010", knee),
        (first, 2, "00010", knee),
        (second, 0, None, knee),
        (second, 1, "00013", knee),
        (second, 2, "00013", knee),
    ]


def test_an_ablation_of_the_trial_runs_its_base_first() -> None:
    sweep = small_sweep(sampler=ABLATION, baselines=[], budget={"trials": 40})
    found = suggested(run(sweep))
    assert [(event.design, event.base) for event in found] == [
        ("base", None),
        ("loss.retain.coefficient = 2", "00000"),
    ]
    assert {record.state for record in records(run(sweep))} == {"COMPLETE"}, "an ablation is never stopped"


def test_an_ablation_may_begin_at_settings_that_are_written_out() -> None:
    sweep = small_sweep(sampler=ABLATION | {"base": {"optim.lr": 7e-4}}, baselines=[])
    assert {event.config["optim"]["lr"] for event in suggested(run(sweep))} == {7e-4}


def test_a_setting_of_the_knee_that_is_no_trial_is_left_out() -> None:
    values = {"loss.criterion.beta1": [0.5], "optim.lr": [2e-4]}
    criterion = {"one_of": {"npo": {"beta": {"float": [0.1, 1]}}}}
    sweep = small_sweep(
        space={"loss.criterion": criterion},
        phases=[
            {"sampler": {"type": "random"}, "trials": 3},
            {"sampler": {"type": "ablation", "base": "knee", "values": values}},
        ],
        baselines=[],
        scheduler=NONE,
        budget={"trials": 40},
    )
    assert [event.design for event in suggested(run(sweep)) if event.phase == 1] == ["optim.lr = 0.0002"]


# -- seeds -------------------------------------------------------------------------------------------------------------


def test_each_point_is_run_with_consecutive_seeds_and_the_first_is_the_point() -> None:
    found = suggested(run(small_sweep(replicates=3, budget={"trials": 12}), gpus=4))
    for point, *others in (found[index : index + 3] for index in range(0, 12, 3)):
        assert [event.seed for event in (point, *others)] == [0, 1, 2]
        assert [event.of for event in (point, *others)] == [None, point.trial_id, point.trial_id]
        assert {event.origin for event in others} == {point.origin}
        assert [event.label for event in others] == [None, None]
        assert all(event.params == point.params for event in others)


def confirmed_sweep(**changes: Any) -> SweepConfig:
    confirm = {"seeds": 2, "at_most": 3}
    return small_sweep(**{"confirm": confirm, "scheduler": NONE, "budget": {"trials": 12}} | changes)


def test_the_front_and_the_published_settings_are_run_again_with_fresh_seeds() -> None:
    sweep = confirmed_sweep()
    events = run(sweep, gpus=3)
    fresh = [event for event in suggested(events) if event.origin == "confirm"]
    searched = [record for record in records(events) if record.origin != "confirm"]
    front = [record.trial_id for record in front_of(searched, sweep.objectives)]
    confirmed = list(dict.fromkeys(event.of for event in fresh))
    assert confirmed[0] == knee_before(events, sweep, 12).trial_id
    assert set(confirmed[:3]) == {confirmed[0], front[0], front[-1]}, "the knee, then the ends"
    assert set(confirmed) >= {"00000", "00001"}, "and what is published"
    assert Counter(event.of for event in fresh) == dict.fromkeys(confirmed, 2)
    assert {event.seed for event in fresh} == {1, 2}, "the seed of the search was chosen for its luck"
    assert {event.label for event in fresh} == {None}
    assert front_of(records(events), sweep.objectives) == front_of(searched, sweep.objectives)


def test_fresh_seeds_lie_beyond_those_of_replicates() -> None:
    events = run(confirmed_sweep(replicates=3))
    assert {event.seed for event in suggested(events) if event.origin == "confirm"} == {3, 4}


def test_published_settings_may_be_left_out() -> None:
    events = run(confirmed_sweep(confirm={"seeds": 2, "at_most": 1, "published": False}))
    assert len({event.of for event in suggested(events) if event.origin == "confirm"}) == 1


def test_more_fresh_seeds_later_are_added_to_those_that_ran() -> None:
    events = run(confirmed_sweep())
    more = run(confirmed_sweep(confirm={"seeds": 3, "at_most": 3}), events=events)
    fresh = [event for event in suggested(more) if event.origin == "confirm"]
    assert set(Counter(event.of for event in fresh).values()) == {3}
    assert {event.seed for event in fresh} == {1, 2, 3}


# -- budgets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ({"trials": 10}, "trials 10 of 10"),
        ({"epochs": 40}, "epochs 40 of 40"),
        ({"hours": 0.01}, "hours 0.01111 of 0.01"),
        ({"gpu_hours": 0.004}, "gpu_hours 0.004444 of 0.004"),
    ],
)
def test_a_budget_that_is_used_up_ends_the_search_and_says_so(budget: dict[str, float], words: str) -> None:
    sweep = small_sweep(scheduler=NONE, budget={"trials": 99} | budget, resources={"gpu": 0.5})
    history = simulate(sweep, curve, gpus=1)
    searcher = StudySearcher(sweep, history, None, concurrent=1, digests=("data", "model"))
    assert searcher.done
    assert searcher.exhausted == words
    assert {record.state for record in history.records()} == {"COMPLETE"}, "what runs is finished"


def test_confirmations_are_not_paid_from_the_budget() -> None:
    events = run(confirmed_sweep(budget={"trials": 50, "epochs": 64}))
    assert Counter(event.origin == "confirm" for event in suggested(events))[False] == 8
    assert any(event.origin == "confirm" for event in suggested(events))


def test_time_between_two_drivers_costs_nothing() -> None:
    spending = Spending(small_sweep(budget={"trials": 9, "hours": 2}).budget, Resources())
    trial = suggested(run(small_sweep(budget={"trials": 1})))[0]
    for event in (
        Opened(at=0.0, fingerprint="f"),
        trial.model_copy(update={"at": 600.0}),
        Epoch(at=3600.0, trial_id=trial.trial_id, epoch=1, metrics={}, seconds=3000.0),
        Opened(at=90000.0, fingerprint="f"),
        Epoch(at=91800.0, trial_id=trial.trial_id, epoch=2, metrics={}, seconds=1800.0),
    ):
        spending.take(event)
    assert spending.hours(91800.0) == pytest.approx(1.5)
    assert spending.exhausted(91800.0) is None
    assert spending.exhausted(93600.0) == "hours 2 of 2"


def test_a_larger_budget_goes_on_with_the_search_after_its_confirmations() -> None:
    events = run(confirmed_sweep())
    more = run(confirmed_sweep(budget={"trials": 16}), events=events)
    origins = [event.origin for event in suggested(more)[len(suggested(events)) :]]
    assert origins[:4] == ["search"] * 4
    assert len({event.fingerprint for event in suggested(more)}) == len(suggested(more))


# -- pauses ------------------------------------------------------------------------------------------------------------


def test_a_paused_trial_is_promoted_later_or_pruned_when_the_search_has_ended() -> None:
    pausing = {"type": "pareto_asha", "grace_period": 2, "promotion": "pause"}
    sweep = small_sweep(scheduler=pausing, budget={"trials": 24})
    events = run(sweep, gpus=3)
    promoted = {event.trial_id for event in events if event.event == "promoted"}
    found = {record.trial_id: record for record in records(events)}
    assert promoted
    assert len(found) == 24
    assert {found[trial_id].epoch for trial_id in promoted} - {2}, "it goes on from its checkpoint"
    assert any(record.state == "PRUNED" for record in found.values())
    last = max(i for i, event in enumerate(events) if isinstance(event, Epoch))
    assert all(isinstance(event, Ended) for event in events[last + 1 :]), "the paused ones end last"


def test_a_paused_trial_is_not_ended_and_not_running() -> None:
    sweep = small_sweep(scheduler={"type": "pareto_asha", "grace_period": 2, "promotion": "pause"}, baselines=[])
    events = run(sweep, most=30)
    ended = {record.trial_id for record in records(events)}
    epochs = Counter(event.trial_id for event in events if isinstance(event, Epoch))
    assert any(count in (2, 4) and trial_id not in ended for trial_id, count in list(epochs.items())[:-1])


def test_an_ablation_of_the_knee_ends_those_that_are_paused() -> None:
    sweep = small_sweep(
        phases=[{"sampler": {"type": "random"}, "trials": 8}, {"sampler": ABLATION | {"base": "knee"}}],
        scheduler={"type": "pareto_asha", "grace_period": 2, "promotion": "pause"},
        budget={"trials": 40},
    )
    events = run(sweep, gpus=2)
    assert len(records(events)) == len(suggested(events))
    assert {r.state for r in records(events) if r.origin == "ablation"} == {"COMPLETE"}


# -- whoever reads the history -----------------------------------------------------------------------------------------


def test_the_table_of_an_ablation_finds_a_base_that_ran_before_it() -> None:
    sweep = Sweep()
    knee = sweep.trial(0.2, 0.8, seed=0)
    of_phase: dict[str, Any] = {"origin": "ablation", "phase": 1}
    sweep.trial(0.3, 0.7, seed=1, of=knee, design="base", **of_phase)
    sweep.trial(0.9, 0.1, seed=7, of=knee, origin="confirm")
    first = sweep.trial(0.4, 0.8, seed=0, design="optim.lr = 1", base=knee, **of_phase)
    sweep.trial(0.5, 0.7, seed=1, of=first, design="optim.lr = 1", base=knee, **of_phase)
    (table,) = ablations(sweep.summary)
    assert table.base == "base"
    base, changed = table.rows
    assert [record.trial_id for record in base.runs] == ["00000", "00001"]
    delta = changed.delta[FORGET]
    assert (delta.pairs, delta.mean) == (2, pytest.approx(0.2))


def test_an_ablation_runs_again_what_was_stopped_early() -> None:
    """Its table compares full budgets: a grid that halving has thinned out has them not."""
    grid = {"sampler": {"type": "grid"}}
    ablation = {"sampler": {"type": "ablation", "design": "one_factor"}}
    space = {"loss.granularity": {"choice": ["token", "batch"]}, "optim.batch_size": {"choice": [4, 8, 16]}}
    halving = {"type": "pareto_asha", "grace_period": 1, "reduction_factor": 3}
    sweep = small_sweep(space=space, baselines=[], phases=[grid, ablation], scheduler=halving, budget={"trials": 40})
    events = run(sweep, gpus=1)
    stopped = {e.trial_id for e in events if e.event == "ended" and e.state == "PRUNED"}
    again = [e for e in events if e.event == "suggested" and e.origin == "ablation"]
    prints = {e.fingerprint: e.trial_id for e in events if e.event == "suggested" and e.origin == "search"}
    assert stopped
    assert again
    assert {prints[e.fingerprint] for e in again} <= stopped, "what had run to its end is not run again"
    assert all(e.state != "PRUNED" for e in events if e.event == "ended" and e.trial_id in {a.trial_id for a in again})
