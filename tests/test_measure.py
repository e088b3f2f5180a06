"""The front measured once the search has ended: who, what, and what comes of it when something goes wrong."""

from __future__ import annotations

import logging
import math
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator import measure as measuring
from orchestrator import sweep as module
from orchestrator.cluster import connect, disconnect
from orchestrator.config import SweepConfig
from orchestrator.events import Measured, Suggested
from orchestrator.ledger import Ledger, read_events, read_records
from orchestrator.measure import Job, measure_front
from orchestrator.problems import RunFailed
from orchestrator.results.front import front_of
from orchestrator.search.schedulers import RungScheduler
from orchestrator.search.study import StudySearcher
from orchestrator.sweep import Outcome, run_sweep
from tests.simulate import drive, simulate
from tests.surrogate import surrogate
from tests.sweeps import small_sweep
from trials.benchmarks import load_benchmark
from trials.config import TrialConfig
from trials.logs import EvalLog
from trials.result import OutOfMemory
from trials.sources import AuthorsConfig

FRONT = ["fluency", "forget.extraction_strength"]
ASKED = ["forget.repetition", "forget.fluency"]
"""What `FRONT` stands for, without what every trial has measured."""


def sweep_with(*front: str, **changes: Any) -> SweepConfig:
    raw = {"trial": {"epochs": 8, "evaluation": {"front": front}}, "sampler": {"type": "random"}}
    return small_sweep(**(raw | changes))


class Fake:
    """`measure_again` without a model: a value tells which trial was how manieth to be measured; some fail."""

    def __init__(self, *failing: str, error: BaseException | None = None) -> None:
        self.failing, self.error = failing, error or OutOfMemory("3 GiB are too much\nby far")
        self.asked: dict[str, list[str]] = {}

    def __call__(self, config: TrialConfig, checkpoint: Path, names: Sequence[str]) -> EvalLog:
        trial_id = checkpoint.parent.name
        assert (checkpoint / "epoch").read_text() == str(config.epochs)
        self.asked[trial_id] = list(names)
        if trial_id in self.failing:
            raise self.error
        return EvalLog(dict.fromkeys([*names, "forget.loss", "forget.extraction_strength"], float(len(self.asked))))


def measured(ledger: Ledger) -> list[Measured]:
    return [event for event in ledger.events if isinstance(event, Measured)]


def front(sweep: SweepConfig, ledger: Ledger) -> list[str]:
    return [record.trial_id for record in front_of(ledger.records(), sweep.objectives)]


def measure(sweep: SweepConfig, ledger: Ledger, fake: Fake, console: Console | None = None) -> None:
    measure_front(sweep, ledger, ledger.folder, console or Console(quiet=True), fake)


@pytest.fixture
def swept(tmp_path: Path) -> Iterator[tuple[SweepConfig, Ledger, list[str]]]:
    """A sweep whose search has ended, its ledger, and the trials on its front."""
    sweep = sweep_with(*FRONT)
    ledger = simulate(sweep, tmp_path)
    found = front(sweep, ledger)
    assert 3 <= len(found) < 16
    yield sweep, ledger, found
    ledger.close()


Swept = tuple[SweepConfig, Ledger, list[str]]


def test_each_trial_of_the_front_and_no_other_is_asked_for_what_it_lacks(swept: Swept) -> None:
    sweep, ledger, found = swept
    before = {record.trial_id: record.metrics for record in ledger.records()}
    fake = Fake()
    measure(sweep, ledger, fake)
    assert fake.asked == dict.fromkeys(found, ASKED)
    for number, event in enumerate(measured(ledger), start=1):
        assert (event.metrics, event.failure) == (dict.fromkeys(ASKED, float(number)), None)
    for record in read_records(ledger.folder):
        more = set(ASKED) if record.trial_id in found else set()
        assert record.metrics.keys() == before[record.trial_id].keys() | more
        assert before[record.trial_id].items() <= record.metrics.items()
    assert front(sweep, ledger) == found


def test_what_was_measured_is_not_measured_again(swept: Swept) -> None:
    sweep, ledger, _ = swept
    measure(sweep, ledger, Fake())
    again = Fake()
    measure(sweep, ledger, again)
    assert again.asked == {}


def test_values_that_are_no_numbers_are_absent_and_not_asked_for_again(swept: Swept) -> None:
    sweep, ledger, found = swept
    values = {"forget.repetition": math.nan, "forget.fluency": 0.5}
    measure_front(sweep, ledger, ledger.folder, Console(quiet=True), lambda *_: EvalLog(values))
    assert [event.metrics for event in measured(ledger)] == [{"forget.fluency": 0.5}] * len(found)
    again = Fake()
    measure(sweep, ledger, again)
    assert again.asked == {}


def test_a_sweep_that_asks_for_nothing_more_measures_nothing(tmp_path: Path) -> None:
    sweep = sweep_with()
    ledger = simulate(sweep, tmp_path)
    with Console(quiet=True).capture() as said:
        measure(sweep, ledger, Fake())
    assert (measured(ledger), said.get()) == ([], "")
    ledger.close()


@pytest.mark.parametrize("error", [OutOfMemory("3 GiB are too much\nby far"), ZeroDivisionError("division by zero")])
def test_a_failure_is_the_result_of_its_trial_and_is_tried_again(
    swept: Swept, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    sweep, ledger, found = swept
    with caplog.at_level(logging.ERROR, "orchestrator.measure"):
        measure(sweep, ledger, Fake(found[1], error=error))
    failures = {event.trial_id: event.failure for event in measured(ledger)}
    assert failures == {**dict.fromkeys(found), found[1]: f"{type(error).__name__}: {error}"}
    assert f"trial {found[1]} could not be measured" in caplog.text
    assert "Traceback" in caplog.text
    later = Fake()
    measure(sweep, ledger, later)
    assert later.asked == {found[1]: ASKED}
    assert all("forget.fluency" in record.metrics for record in front_of(ledger.records(), sweep.objectives))


def test_the_screen_says_what_is_measured_and_what_could_not_be(swept: Swept) -> None:
    sweep, ledger, found = swept
    console = Console(width=500)
    with console.capture() as said:
        measure(sweep, ledger, Fake(found[0]), console)
    first, *others = said.get().splitlines()
    assert first == f"measuring {len(found)} trials of the front: fluency, forget.extraction_strength"
    assert others[0] == f"{found[0]}  could not be measured, `resume` tries again: OutOfMemory: 3 GiB are too much"
    assert others[1:] == [f"{trial_id}  measured in 0 s" for trial_id in found[1:]]


def test_an_interruption_leaves_what_is_measured_and_the_rest_comes_next_time(swept: Swept) -> None:
    sweep, ledger, found = swept
    with pytest.raises(KeyboardInterrupt, match="Ctrl-C"):
        measure(sweep, ledger, Fake(found[1], error=KeyboardInterrupt("Ctrl-C")))
    assert [event.trial_id for event in measured(ledger)] == found[:1]
    rest = Fake()
    measure(sweep, ledger, rest)
    assert list(rest.asked) == found[1:]


def test_a_full_disk_ends_it_with_its_cause(swept: Swept, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(line: str) -> None:
        raise OSError(28, "No space left on device")

    sweep, ledger, _ = swept
    monkeypatch.setattr(ledger, "_write", full)
    with pytest.raises(RunFailed, match=r"the ledger could not be written: .*No space left on device"):
        measure(sweep, ledger, Fake())


def test_an_extended_sweep_measures_who_is_new_on_the_front_and_proposes_what_it_would_have(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "extended").mkdir()
    whole = simulate(sweep_with(*FRONT, sampler={"type": "tpe"}, budget={"trials": 24}), tmp_path / "whole", workers=1)
    sweep = sweep_with(*FRONT, sampler={"type": "tpe"}, budget={"trials": 12})
    ledger = simulate(sweep, tmp_path / "extended", workers=1)
    first, second = Fake(), Fake()
    measure(sweep, ledger, first)
    ledger.close()
    sweep = sweep_with(*FRONT, sampler={"type": "tpe"}, budget={"trials": 24})
    ledger = simulate(sweep, tmp_path / "extended", workers=1)
    measure(sweep, ledger, second)
    assert [e.params for e in ledger.events if isinstance(e, Suggested)] == [
        e.params for e in whole.events if isinstance(e, Suggested)
    ]
    assert second.asked
    assert second.asked.keys() == set(front(sweep, ledger)) - first.asked.keys()
    kept = {record.trial_id: record.metrics.get("forget.fluency") for record in ledger.records()}
    assert [kept[trial_id] for trial_id in first.asked] == list(range(1, len(first.asked) + 1))
    ledger.close()
    whole.close()


# -- in a sweep --------------------------------------------------------------------------------------------------------


class NoTracker:
    """A tracking server that takes nothing."""

    def __init__(self, folder: Path) -> None: ...

    def __call__(self, event: object) -> None: ...

    def flush(self, timeout: float) -> bool:
        return False

    finish = flush


class NoTuner:
    def __init__(self, work: Callable[[], None]) -> None:
        self.fit = work


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[Outcome, list[str]]]:
    """`run_sweep` with Ray, models and tracking faked: what came out, and which phases there were."""
    benchmark = load_benchmark(AuthorsConfig())

    def run(sweep: SweepConfig, fake: Fake, trial: Any = None) -> tuple[Outcome, list[str]]:
        phases: list[str] = []

        def tuner(sweep: SweepConfig, searcher: StudySearcher, scheduler: RungScheduler, *_: Any) -> NoTuner:
            phases.append("search")
            return NoTuner(lambda: drive(sweep, searcher, scheduler.rungs, workers=2))

        monkeypatch.setattr(module, "_tuner", tuner)
        monkeypatch.setattr(module, "capacity", lambda resources: 2)
        monkeypatch.setattr(module, "Tracker", NoTracker)
        monkeypatch.setattr(module, "_anchors", lambda *_: phases.append("models"))
        monkeypatch.setattr(module, "connect", lambda: phases.append("Ray"))
        monkeypatch.setattr(module, "measure_front", partial(measure_front, measure=fake))
        outcome = run_sweep(sweep, benchmark, output=tmp_path, trial=trial, console=Console(quiet=True))
        return outcome, phases

    return run


def test_a_sweep_measures_its_front_after_the_search_and_on_resume_what_is_left(
    run: Callable[..., tuple[Outcome, list[str]]], tmp_path: Path
) -> None:
    sweep = sweep_with(*FRONT)
    outcome, phases = run(sweep, Fake(*(f"{n:05d}" for n in range(16)), error=KeyboardInterrupt()))
    assert (outcome.ended, phases) == ("interrupted", ["models", "Ray", "search"])
    assert len(read_records(tmp_path / "small")) == 16
    found = [record.trial_id for record in outcome.report.front]
    outcome, phases = run(sweep, Fake(found[0]))
    assert (outcome.ended, phases) == ("finished", ["models", "Ray"])
    assert ["forget.fluency" in record.metrics for record in outcome.report.front] == [False] + [True] * len(found[1:])
    assert "OutOfMemory: 3 GiB are too much" in (tmp_path / "small/report.md").read_text()
    last = Fake()
    outcome, phases = run(sweep, last)
    assert list(last.asked) == [found[0]]
    assert "could not be measured" not in (tmp_path / "small/report.md").read_text()
    assert run(sweep, Fake())[1] == []
    assert [record.trial_id for record in outcome.report.front] == found


def test_trials_that_are_no_models_are_not_measured(
    run: Callable[..., tuple[Outcome, list[str]]], tmp_path: Path
) -> None:
    fake = Fake()
    outcome, phases = run(sweep_with(*FRONT), fake, surrogate)
    assert (outcome.ended, phases, fake.asked) == ("finished", ["Ray", "search"], {})
    assert run(sweep_with(*FRONT), fake, surrogate)[1] == []


# -- on Ray ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    connect()
    yield
    disconnect()


def task(job: Job, threads: int, delivery: object) -> tuple[Measured, str]:
    """What Ray runs, without a model: by the number of the trial it dies, breaks, or is well."""
    number = int(job.trial_id) % 3
    if number == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 1:
        raise RuntimeError("no torch here")
    return Measured(trial_id=job.trial_id, metrics=dict.fromkeys(job.names, threads), seconds=1.0), ""


@pytest.mark.ray
@pytest.mark.timeout(180)
def test_a_process_that_dies_costs_the_measurement_of_one_trial(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "_task", task)
    sweep = sweep_with(*FRONT, scheduler={"type": "none"}, resources={"cpu": 1, "retries": 0})
    ledger = simulate(sweep, tmp_path)
    found = front(sweep, ledger)
    assert {int(trial_id) % 3 for trial_id in found} == {0, 1, 2}
    measure_front(sweep, ledger, tmp_path, Console(quiet=True))
    ledger.close()
    events = {event.trial_id: event for event in read_events(tmp_path) if isinstance(event, Measured)}
    assert sorted(events) == sorted(found)
    for trial_id, event in events.items():
        told = ("WorkerCrashedError: ", "no torch here", None)[int(trial_id) % 3]
        assert told in event.failure if told else event.metrics == dict.fromkeys(ASKED, 1.0)


@pytest.mark.ray
@pytest.mark.timeout(180)
def test_a_checkpoint_that_is_none_is_told_by_the_task(cluster: None, swept: Swept) -> None:
    sweep, ledger, found = swept
    measure_front(sweep, ledger, ledger.folder, Console(quiet=True))
    assert sorted(event.trial_id for event in measured(ledger)) == sorted(found)
    for event in measured(ledger):
        assert event.failure
        assert "holds no whole checkpoint" in event.failure


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_real_sweep_has_the_metrics_that_its_checkpoints_have(llama: Path, tmp_path: Path) -> None:
    from tests import tiny
    from trials.measuring import measure_again

    names = ["forget.repetition", "forget.fluency", "relearned.forget_probability", "similarity.forget_to_target"]
    trial = tiny.trial(llama, epochs=1, evaluation={"front": names, "max_new_tokens": 5})
    sweep = SweepConfig.model_validate(
        {
            "name": "real",
            "trial": trial.model_dump(mode="json"),
            "space": {"optim.lr": {"float": [1e-3, 1e-2]}},
            "scheduler": {"type": "none"},
            "budget": {"trials": 2},
        }
    )
    outcome = run_sweep(sweep, None, output=tmp_path, console=Console(quiet=True))
    assert outcome.report.front
    configs = {e.trial_id: e.config for e in read_events(tmp_path / "real") if isinstance(e, Suggested)}
    for record in outcome.report.front:
        config = TrialConfig.model_validate(configs[record.trial_id])
        log = measure_again(config, tmp_path / "real/trials" / record.trial_id / "checkpoint", names)
        assert {name: record.metrics[name] for name in names} == {name: log.values[name] for name in names}
