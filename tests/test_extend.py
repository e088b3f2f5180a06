"""Sweeps that go on as something more than they were: extended ones, and those that take trials over from others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config import SweepConfig, reload_sweep
from orchestrator.events import Anchor, Ended, Event, Measured, Opened, Record, Suggested, SweepInfo
from orchestrator.export import load_pick
from orchestrator.folder import check_folder, open_folder, resumed_source
from orchestrator.ledger import Ledger, read_events, read_records
from orchestrator.measure import jobs_of
from orchestrator.problems import ConfigError
from orchestrator.search.earlier import check_earlier, is_complete, take_over
from orchestrator.search.rungs import Rungs
from orchestrator.search.study import StudySearcher
from tests.simulate import drive
from tests.sweeps import small_sweep
from trials.benchmarks import Benchmark, load_benchmark
from trials.config import TrialConfig
from trials.sources import AuthorsConfig

WIDER = {
    "loss.criterion": {
        "one_of": {"saturation": {"beta1": {"float": [0, 10]}}, "satimp": {"beta1": {"float": [0, 20]}}, "npo": {}}
    },
    "loss.retain.coefficient": {"float": [0.1, 5], "log": True},
    "optim.lr": {"float": [5e-5, 8.5e-4], "log": True},
}


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def benchmark() -> Benchmark:
    return load_benchmark(AuthorsConfig())


def run(sweep: SweepConfig, output: Path, benchmark: Benchmark, *, most: int = 10**9, workers: int = 1) -> Path:
    """A sweep as `run` and `resume` run it, without Ray and on closed forms; its folder."""
    folder = output / sweep.name
    ledger = open_folder(folder, sweep, benchmark, "name: small\n")
    digests = sweep.digests(benchmark)
    take_over(sweep, ledger, digests)
    rungs = Rungs(sweep, ledger.anchors())
    rungs.replay(ledger.events)
    searcher = StudySearcher(sweep, ledger, folder, concurrent=workers, digests=digests, rungs=rungs)
    drive(sweep, searcher, rungs, workers=workers, most=most)
    ledger.close()
    return folder


def suggested(folder: Path) -> list[Suggested]:
    return [event for event in read_events(folder) if isinstance(event, Suggested)]


def settled(records: Sequence[Record]) -> list[dict[str, Any]]:
    return [record.model_dump(exclude={"started", "seconds", "resumed"}) for record in records]


def refusal(folder: Path, sweep: SweepConfig, benchmark: Benchmark) -> dict[str, str]:
    with pytest.raises(ConfigError, match="problem") as caught:
        check_folder(folder, sweep, benchmark)
    return {problem.path: problem.message for problem in caught.value.problems}


# -- extended ----------------------------------------------------------------------------------------------------------


def test_more_budget_makes_the_sweep_that_it_would_have_been(tmp_path: Path, benchmark: Benchmark) -> None:
    whole = run(small_sweep(), tmp_path / "whole", benchmark)
    folder = run(small_sweep(budget={"trials": 9}), tmp_path, benchmark)
    first = read_records(folder)
    assert len(first) == 9
    run(small_sweep(), tmp_path, benchmark)
    assert read_records(folder)[:9] == first
    assert settled(read_records(folder)) == settled(read_records(whole))


def test_the_ledger_says_when_the_sweep_was_taken_up_and_what_was_changed(tmp_path: Path, benchmark: Benchmark) -> None:
    small = small_sweep(budget={"trials": 4})
    run(small, tmp_path, benchmark)
    run(small, tmp_path, benchmark)
    wide = small_sweep(budget={"trials": 6}, space=WIDER)
    folder = run(wide, tmp_path, benchmark)
    opened = [event for event in read_events(folder) if isinstance(event, Opened)]
    assert [event.changed for event in opened[:2]] == [{}, {}]
    assert opened[2].changed == {
        "budget.trials": (4, 6),
        "space.loss.criterion.one_of.npo": (None, {}),
        "space.loss.criterion.one_of.satimp.beta1.float": ([0, 10], [0, 20]),
        "space.optim.lr.float": ([1e-4, 8e-4], [5e-5, 8.5e-4]),
    }
    assert opened[0].fingerprint == small.fingerprint(benchmark)
    info = SweepInfo.read(folder)
    assert info.fingerprint == opened[2].fingerprint == wide.fingerprint(benchmark)
    assert info.fingerprint != opened[0].fingerprint
    assert info.config == wide.model_dump(mode="json")


def test_a_wider_space_keeps_the_history_and_is_searched_to_its_ends(tmp_path: Path, benchmark: Benchmark) -> None:
    folder = run(small_sweep(), tmp_path, benchmark)
    before = read_records(folder)
    run(small_sweep(budget={"trials": 40}, space=WIDER), tmp_path, benchmark)
    assert read_records(folder)[:16] == before
    new = suggested(folder)[16:]
    assert len(new) == 24
    assert any(event.params["optim.lr"] < 1e-4 or event.params["optim.lr"] > 8e-4 for event in new)
    assert any(event.params["loss.criterion.type"] == "npo" for event in new)


def test_a_space_may_only_grow(tmp_path: Path, benchmark: Benchmark) -> None:
    folder = run(small_sweep(), tmp_path, benchmark)
    space = small_sweep().space
    narrow = refusal(folder, small_sweep(space=space | {"optim.lr": {"float": [3e-4, 4e-4], "log": True}}), benchmark)
    assert narrow.keys() == {"space.optim.lr.float", ""}
    assert narrow["space.optim.lr.float"].startswith("[0.0003, 0.0004] here, [0.0001, 0.0008] in the sweep that lies")
    assert narrow["space.optim.lr.float"].endswith("does not lie in it, and a space may only grow")
    assert "give `name` another value" in narrow[""]
    assert f"`warm_start: [{folder}]` takes over what ran here" in narrow[""]
    without = {path: node for path, node in space.items() if path != "optim.lr"}
    assert "may only grow" in refusal(folder, small_sweep(space=without), benchmark)["space.optim.lr.float"]


def test_a_parameter_that_is_new_must_have_the_value_it_had_for_all_so_far(
    tmp_path: Path, benchmark: Benchmark
) -> None:
    folder = run(small_sweep(), tmp_path, benchmark)
    space = small_sweep().space
    fine = small_sweep(space=space | {"optim.batch_size": {"int": [4, 16]}})  # it is 8 in the trial
    assert check_folder(folder, fine, benchmark) == {"space.optim.batch_size.int": (None, [4, 16])}
    wrong = small_sweep(space=space | {"optim.batch_size": {"int": [16, 32]}})
    assert "trial 00002 does not lie in it" in refusal(folder, wrong, benchmark)["space.optim.batch_size.int"]


def test_the_space_of_a_grid_stays_once_it_has_begun(tmp_path: Path, benchmark: Benchmark) -> None:
    grid = {"sampler": {"type": "grid", "levels": 2}, "budget": {"trials": 5}}
    folder = run(small_sweep(**grid), tmp_path, benchmark)
    why = refusal(folder, small_sweep(**grid, space=WIDER), benchmark)["space.optim.lr.float"]
    assert why.endswith("phase 0 goes through it point by point and has begun")


def test_a_phase_may_follow_at_the_end(tmp_path: Path, benchmark: Benchmark) -> None:
    folder = run(small_sweep(budget={"trials": 12}), tmp_path, benchmark)
    more = ["phases.0.trials=10", "phases.1={sampler: {type: ablation, base: knee}, replicates: 2}", "budget.trials=40"]
    sweep, _ = reload_sweep(folder, more)
    changed = check_folder(folder, sweep, benchmark)
    assert changed.keys() == {"budget.trials", "phases.0.trials", "phases.1"}
    before = read_records(folder)
    run(sweep, tmp_path, benchmark)
    assert read_records(folder)[:12] == before
    new = suggested(folder)[12:]
    assert {(event.phase, event.origin) for event in new} == {(1, "ablation")}
    assert {event.of is None for event in new} == {True, False}
    again, _ = reload_sweep(folder)
    assert again == sweep
    assert check_folder(folder, again, benchmark) == {}


PHASES = {"phases": [{"trials": 6}, {"sampler": {"type": "random"}, "trials": 4}], "budget": {"trials": 40}}


@pytest.mark.parametrize(
    ("phases", "path", "why"),
    [
        ([{"trials": 6}], "phases.1", ""),
        ([{"sampler": {"type": "random"}, "trials": 6}, PHASES["phases"][1]], "phases.0.sampler.type", "'tpe' in"),
        ([{"trials": 8}, PHASES["phases"][1]], "phases.0.trials", "the phase after it has begun"),
        ([{"trials": 6}, {"sampler": {"type": "random"}, "trials": 3}], "phases.1.trials", "4 trials of it have begun"),
    ],
)
def test_phases_that_have_run_stay(
    phases: list[Any], path: str, why: str, tmp_path: Path, benchmark: Benchmark
) -> None:
    folder = run(small_sweep(**PHASES), tmp_path, benchmark)
    assert why in refusal(folder, small_sweep(**PHASES | {"phases": phases}), benchmark)[path]


def test_the_last_phase_may_become_longer(tmp_path: Path, benchmark: Benchmark) -> None:
    folder = run(small_sweep(**PHASES), tmp_path, benchmark)
    longer = [{"trials": 6}, {"sampler": {"type": "random"}, "trials": 7}]
    run(small_sweep(**PHASES | {"phases": longer}), tmp_path, benchmark)
    assert [event.phase for event in suggested(folder)].count(1) == 7


CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"trial": {"epochs": 6}}, "trial.epochs"),
    ({"trial": {"epochs": 8, "optim": {"batch_size": 4}}}, "trial.optim.batch_size"),
    (
        {"trial": {"epochs": 8, "evaluation": {"metrics": ["default", "retain.truth_ratio"]}}},
        "trial.evaluation.metrics",
    ),
    ({"trial": {"epochs": 8, "evaluation": {"every": 2}}}, "trial.evaluation.every"),
    ({"objectives": {"forget.extraction_strength": "min"}}, "objectives.retain.extraction_strength"),
    ({"constraints": {"retain.extraction_strength": ">= 0.5"}}, "constraints.retain.extraction_strength"),
    ({"reference_point": {"retain.extraction_strength": 0.5}}, "reference_point.retain.extraction_strength"),
    ({"sampler": {"type": "tpe", "seed": 7}}, "sampler.seed"),
    ({"scheduler": {"type": "none"}}, "scheduler.type"),
    ({"baselines": ["wga"]}, "baselines"),
    ({"replicates": 2}, "replicates"),
    ({"name": "other"}, "name"),
]


@pytest.mark.parametrize(("change", "path"), CHANGES, ids=[path for _, path in CHANGES])
def test_what_trials_are_compared_and_proposed_by_stays(
    change: dict[str, Any], path: str, tmp_path: Path, benchmark: Benchmark
) -> None:
    folder = run(small_sweep(budget={"trials": 4}), tmp_path, benchmark)
    before = (folder / "sweep.json").read_bytes()
    assert " here, " in refusal(folder, small_sweep(budget={"trials": 4}, **change), benchmark)[path]
    assert (folder / "sweep.json").read_bytes() == before


def test_metrics_in_other_words_are_the_same_metrics(tmp_path: Path, benchmark: Benchmark) -> None:
    folder = run(small_sweep(budget={"trials": 3}), tmp_path, benchmark)
    words = {"metrics": ["forget.nll", "default"], "front": ["robustness"], "batch_size": 4}
    sweep = small_sweep(budget={"trials": 3}, trial={"epochs": 8, "evaluation": words})
    assert check_folder(folder, sweep, benchmark).keys() == {"trial.evaluation.front"}


def test_until_something_ran_everything_may_change(tmp_path: Path, benchmark: Benchmark) -> None:
    folder = tmp_path / "small"
    open_folder(folder, small_sweep(), benchmark, "").close()
    assert check_folder(folder, small_sweep(trial={"epochs": 3}, scheduler={"type": "none"}), benchmark) == {}


def test_a_resumption_is_noted_at_the_end_of_the_file_as_given(tmp_path: Path) -> None:
    assert resumed_source(tmp_path, []) == ""
    assert resumed_source(tmp_path, ["a=1"]) == "# resume --set a=1\n"
    (tmp_path / "sweep.yaml").write_text("name: x")
    assert resumed_source(tmp_path, ["a=1", "b=[2]"]) == "name: x\n# resume --set a=1\n# resume --set b=[2]\n"


def test_settings_of_a_resumption_are_checked_like_those_of_a_file(tmp_path: Path, benchmark: Benchmark) -> None:
    folder = run(small_sweep(budget={"trials": 3}), tmp_path, benchmark)
    sweep, _ = reload_sweep(folder, ["budget.trials=9", "space.optim.lr.float=[1e-5, 1e-2]", "description=more"])
    assert (sweep.budget.trials, sweep.space["optim.lr"]["float"]) == (9, [1e-5, 1e-2])
    for setting, message in {
        "budget.trails=9": r"--set: 1 problem\n  budget.trails: unknown key; did you mean 'trials'",
        "budget.trials=many": r"budget.trials: 'many' must be a valid integer",
        "space.optim.lr.float=[1, 99]": r"space.optim.lr: 99.0 must be less than",
        "budget.gpu_hours=3": r"no trial takes a GPU",
        "warm_start=[nowhere]": r"warm_start.0: .*is not a run folder",
        "name=other": r"name: is the folder's, and stays",
    }.items():
        with pytest.raises(ConfigError, match=message):
            reload_sweep(folder, [setting])


# -- taken over --------------------------------------------------------------------------------------------------------


def successor(earlier: Path, **changes: Any) -> SweepConfig:
    return small_sweep(name="later", warm_start=[str(earlier)], sampler={"type": "tpe", "seed": 5}, **changes)


def test_earlier_trials_count_and_are_not_run_again(tmp_path: Path, benchmark: Benchmark) -> None:
    earlier = run(small_sweep(replicates=2, confirm={"seeds": 2}), tmp_path, benchmark)
    there, records_there = suggested(earlier), {record.trial_id: record for record in read_records(earlier)}
    folder = run(successor(earlier, budget={"trials": 4}), tmp_path, benchmark)
    here = suggested(folder)
    copied, new = here[: len(there)], here[len(there) :]
    assert [(e.fingerprint, e.seed, e.label, e.params, e.at) for e in copied] == [
        (e.fingerprint, e.seed, e.label, e.params, e.at) for e in there
    ]
    assert {event.origin for event in copied} == {"earlier"}
    assert [event.trial_id for event in here] == [f"{number:05d}" for number in range(len(here))]
    names = dict(zip((e.trial_id for e in there), (e.trial_id for e in copied), strict=True))
    assert [e.of for e in copied] == [names[e.of] if e.of else None for e in there]
    assert any(event.of for event in copied)
    assert len(new) == 4, "they cost nothing of the budget"
    assert {event.origin for event in new} == {"search"}, "the published settings ran there"
    assert not {e.fingerprint for e in new} & {e.fingerprint for e in there}
    records_here = {record.trial_id: record for record in read_records(folder)}
    for old, mine in names.items():
        assert (records_here[mine].state, records_here[mine].metrics) == (
            records_there[old].state,
            records_there[old].metrics,
        )


def test_they_are_taken_over_once_also_when_that_was_cut_short(tmp_path: Path, benchmark: Benchmark) -> None:
    earlier = run(small_sweep(), tmp_path, benchmark)
    sweep = successor(earlier)
    digests = sweep.digests(benchmark)

    def copy(place: str, cuts: Sequence[int]) -> list[Event]:
        (tmp_path / place).mkdir()
        for cut in (*cuts, 10**9):
            ledger = Ledger(tmp_path / place)
            left = [cut]

            def die(event: Event, left: list[int] = left) -> None:
                left[0] -= 1
                if left[0] == 0:
                    raise KeyboardInterrupt

            ledger.listen(die)
            try:
                take_over(sweep, ledger, digests)
            except KeyboardInterrupt:
                assert not is_complete(sweep, ledger)
            ledger.close()
        return read_events(tmp_path / place)

    whole = copy("whole", ())
    assert whole == copy("cut", (1, 5, 20, 3))
    ledger = Ledger(tmp_path / "cut")
    assert is_complete(sweep, ledger)
    assert take_over(sweep, ledger, digests) == 0
    ledger.close()


def test_of_an_interrupted_sweep_what_ended_is_taken_over(tmp_path: Path, benchmark: Benchmark) -> None:
    earlier = run(small_sweep(), tmp_path, benchmark, most=30, workers=2)
    ended = {record.fingerprint for record in read_records(earlier)}
    assert ended < {event.fingerprint for event in suggested(earlier)}
    sweep = successor(earlier)
    (tmp_path / "later").mkdir()
    ledger = Ledger(tmp_path / "later")
    assert take_over(sweep, ledger, sweep.digests(benchmark)) == len(ended)
    ledger.close()
    assert {record.fingerprint for record in read_records(tmp_path / "later")} == ended


def test_constraints_are_judged_anew(tmp_path: Path, benchmark: Benchmark) -> None:
    earlier = run(small_sweep(), tmp_path, benchmark)
    bound = {"retain.extraction_strength": ">= 0.6 * target"}
    sweep = successor(earlier, constraints=bound)
    ledger = open_folder(tmp_path / "later", sweep, benchmark, "")
    ledger.append(Anchor(name="target", metrics={"retain.extraction_strength": 0.9}))
    take_over(sweep, ledger, sweep.digests(benchmark))
    records = ledger.records()
    ledger.close()
    whole = [record for record in records if record.state == "COMPLETE"]
    missed = {r.trial_id for r in whole if r.metrics["retain.extraction_strength"] < 0.54}
    assert {record.trial_id for record in whole if record.violations} == missed
    assert missed
    assert len(missed) < len(whole)


def test_their_checkpoints_lie_elsewhere(tmp_path: Path, benchmark: Benchmark) -> None:
    earlier = run(small_sweep(budget={"trials": 6}), tmp_path, benchmark)
    front = {"epochs": 8, "evaluation": {"front": ["robustness"]}}
    sweep = successor(earlier, budget={"trials": 1}, trial=front)
    folder = run(sweep, tmp_path, benchmark)
    earlier_ids = {event.trial_id for event in suggested(folder) if event.origin == "earlier"}
    ledger = Ledger(folder)
    assert not earlier_ids & {job.trial_id for job in jobs_of(sweep, ledger, folder)}
    ledger.close()
    with pytest.raises(ConfigError) as caught:
        load_pick(folder, "00000", tmp_path / "out")
    assert f"trial 00000 was taken over: it ran as trial 00000 of {str(earlier)!r}; export it from there" in str(
        caught.value
    )


def test_what_was_measured_of_them_later_comes_with_them(tmp_path: Path, benchmark: Benchmark) -> None:
    earlier = run(small_sweep(budget={"trials": 3}), tmp_path, benchmark)
    ledger = Ledger(earlier)
    ledger.append(Measured(trial_id="00000", metrics={"relearned.forget_nll": 0.5}, seconds=1.0))
    ledger.append(Measured(trial_id="00001", metrics={}, seconds=1.0, failure="no memory"))
    ledger.close()
    folder = run(successor(earlier, budget={"trials": 1}), tmp_path, benchmark)
    assert [event.trial_id for event in read_events(folder) if isinstance(event, Measured)] == ["00000"]
    assert read_records(folder)[0].metrics["relearned.forget_nll"] == 0.5


def test_who_runs_them_again_finds_the_data_of_this_sweep(tmp_path: Path, benchmark: Benchmark) -> None:
    earlier = run(small_sweep(budget={"trials": 3}), tmp_path, benchmark)
    evaluation = {"metrics": ["default", "retain.truth_ratio"]}
    sweep = successor(earlier, budget={"trials": 1}, trial={"epochs": 8, "evaluation": evaluation})
    folder = run(sweep, tmp_path, benchmark)
    config = TrialConfig.model_validate(suggested(folder)[0].config)
    assert config.evaluation == sweep.trial.evaluation


def test_folders_that_cannot_be_compared_are_told_with_what_differs(tmp_path: Path, benchmark: Benchmark) -> None:
    earlier = run(small_sweep(budget={"trials": 3}), tmp_path, benchmark)

    def told(sweep: SweepConfig, rows: Benchmark | None = benchmark) -> str:
        (problem,) = check_earlier(sweep, sweep.warm_start, rows, tmp_path)
        assert problem.path == "warm_start.0"
        return problem.message

    assert check_earlier(successor(earlier), [str(earlier)], benchmark, tmp_path) == []
    assert "cannot be compared: epochs is 8 there and 6 here; leave" in told(successor(earlier, trial={"epochs": 6}))
    other = {"objectives": {"retain.truth_ratio": "min"}}
    assert "did not measure retain.truth_ratio" in told(successor(earlier, **other))
    seed = {"epochs": 8, "benchmark": {"type": "authors", "seed": 3}}
    other_rows = load_benchmark(AuthorsConfig(seed=3))
    assert "its benchmark has other rows" in told(successor(earlier, trial=seed), other_rows)
    model = {"epochs": 8, "model": {"tiny": {"layers": 1}}}
    assert "its target or retain model is another" in told(successor(earlier, trial=model))
    longer = {"epochs": 8, "evaluation": {"max_new_tokens": 7}}
    assert "evaluation.max_new_tokens is 200 there and 7 here" in told(successor(earlier, trial=longer))
    assert "is the folder of this sweep" in told(small_sweep(warm_start=[str(earlier)]))
    assert f"did you mean {str(earlier)!r}" in told(successor(tmp_path / "smal"))
    ledger = Ledger(earlier)
    assert "is running now" in told(successor(earlier))
    ledger.close()
    with pytest.raises(ConfigError, match="its benchmark has other rows"):
        run(successor(earlier, trial=seed), tmp_path, other_rows)


def test_a_folder_may_be_added_and_none_taken_away(tmp_path: Path, benchmark: Benchmark) -> None:
    first = run(small_sweep(name="first", budget={"trials": 3}), tmp_path, benchmark)
    second = run(small_sweep(name="second", budget={"trials": 5}), tmp_path, benchmark)
    sweep = small_sweep(budget={"trials": 6}, warm_start=[str(first)], sampler={"type": "random", "seed": 5})
    folder = run(sweep, tmp_path, benchmark)
    ended = len(read_records(folder))
    both = sweep.model_copy(update={"warm_start": (str(first), str(second))})
    run(both, tmp_path, benchmark)
    assert len(read_records(folder)) == ended + 2, "the three that both have are there already"
    assert f"trials of {str(second)!r} are in the ledger" in refusal(folder, sweep, benchmark)["warm_start"]


def test_a_folder_that_has_gone_since_keeps_nobody_from_going_on(tmp_path: Path, benchmark: Benchmark) -> None:
    earlier = run(small_sweep(budget={"trials": 3}), tmp_path, benchmark)
    folder = run(successor(earlier, budget={"trials": 2}), tmp_path, benchmark)
    earlier.rename(tmp_path / "elsewhere")
    sweep, _ = reload_sweep(folder, ["budget.trials=3"])
    ended = len([event for event in read_events(folder) if isinstance(event, Ended)])
    run(sweep, tmp_path, benchmark)
    assert len(read_records(folder)) == ended + 1
