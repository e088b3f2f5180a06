"""What the driver does when Ray gives up on the whole run: the loop around Ray, with Ray faked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator import sweep as module
from orchestrator.config import SweepConfig
from orchestrator.events import Anchor
from orchestrator.ledger import Ledger, read_records
from orchestrator.problems import ConfigError, RunFailed
from orchestrator.search.schedulers import RungScheduler
from orchestrator.search.study import StudySearcher
from tests.simulate import drive
from tests.sweeps import small_sweep

NOTHING: Any = (None, None)
"""No trial function but the real one, which never runs here, and no delivery."""


class FakeTuner:
    """Ray as the loop sees it: runs trials, and may raise while some are running."""

    def __init__(self, work: Callable[[], None]) -> None:
        self.fit = work


def run_rounds(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    crash: Callable[[StudySearcher], BaseException | None],
    workers: int = 2,
) -> Ledger:
    """Runs the small sweep through the loop; `crash` is asked after each epoch whether the whole run ends now."""

    def tuner(sweep: SweepConfig, searcher: StudySearcher, scheduler: RungScheduler, *_: Any) -> FakeTuner:
        return FakeTuner(lambda: drive(sweep, searcher, scheduler.rungs, workers=workers, crash=crash))

    monkeypatch.setattr(module, "_tuner", tuner)
    monkeypatch.setattr(module, "capacity", lambda resources: workers)
    ledger = Ledger(folder)
    module._run_rounds(small_sweep(), ledger, folder, ("data", "model"), NOTHING, Console(quiet=True))
    return ledger


def test_a_crash_of_the_whole_run_costs_no_trial(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    left = [17, 40]

    def crash(searcher: StudySearcher) -> BaseException | None:
        if left and len(searcher.history.events) >= left[0]:
            left.pop(0)
            return RuntimeError("Caught unexpected exception: a worker was killed by the memory monitor")
        return None

    run_rounds(monkeypatch, tmp_path, crash).close()
    assert not left
    assert sorted(record.trial_id for record in read_records(tmp_path)) == [f"{n:05d}" for n in range(16)]
    assert {record.state for record in read_records(tmp_path)} == {"COMPLETE", "PRUNED"}


def test_a_trial_under_which_the_run_ends_again_and_again_fails_and_the_sweep_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def crash(searcher: StudySearcher) -> BaseException | None:
        running = {event.trial_id for event in searcher.live.values()}
        return RuntimeError("out of host memory") if "00005" in running else None

    ledger = run_rounds(monkeypatch, tmp_path, crash, workers=1)
    ledger.close()
    (failed,) = [record for record in read_records(tmp_path) if record.state == "FAIL"]
    assert failed.trial_id == "00005"
    assert failed.failure == "the whole Ray run ended 3 times while it ran: out of host memory"
    assert len(read_records(tmp_path)) == 16


def test_a_full_disk_ends_the_sweep_with_its_cause(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(line: str) -> None:
        raise OSError(28, "No space left on device")

    def crash(searcher: StudySearcher) -> BaseException | None:
        searcher.history._write = full  # type: ignore[method-assign]
        return None

    with pytest.raises(
        RunFailed, match=r"nothing more can be written: .*No space left on device.* then: unlearn-sweep resume"
    ):
        run_rounds(monkeypatch, tmp_path, crash)


def test_a_run_that_ends_with_nothing_running_is_not_tried_for_ever(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Broken:
        def fit(self) -> None:
            raise RuntimeError("no Ray here")

    monkeypatch.setattr(module, "_tuner", lambda *_: Broken())
    monkeypatch.setattr(module, "capacity", lambda resources: 1)
    with pytest.raises(RunFailed, match="no Ray here"):
        module._run_rounds(small_sweep(), Ledger(tmp_path), tmp_path, ("d", "m"), NOTHING, Console(quiet=True))


# -- models that are not trials ----------------------------------------------------------------------------------------


def measured_as(
    monkeypatch: pytest.MonkeyPatch, sweep: SweepConfig, ledger: Ledger, **models: dict[str, float]
) -> None:
    """The driver with models that measure so."""
    monkeypatch.setattr(module, "prepare_models", lambda *_: models)
    module._anchors(sweep, ledger, "data", Console(quiet=True))


def test_models_that_lack_what_trials_are_compared_by_are_told_with_where_that_stands(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sweep = small_sweep(
        constraints={"retain.probability": ">= 0.9 * retain", "forget.nll": ">= 1"},
        scheduler={"type": "median", "floors": {"retain.probability": 0.1}},
    )
    target = {"forget.extraction_strength": 1.0, "retain.probability": 0.9}
    with pytest.raises(ConfigError) as caught:
        measured_as(monkeypatch, sweep, Ledger(tmp_path), target=target, retain={"forget.extraction_strength": 0.0})
    assert [problem.path for problem in caught.value.problems] == [
        "objectives.retain.extraction_strength",
        "constraints.forget.nll",
        "constraints.retain.probability",
    ]
    assert caught.value.problems[2].message == (
        "'retain.probability' is not known of the retain model; write a plain number"
    )


def test_models_are_anchored_once_and_again_when_more_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    values = {"forget.extraction_strength": 1.0, "retain.extraction_strength": 0.9}
    ledger = Ledger(tmp_path)
    for target in (values, values, values | {"relearned.forget_nll": 2.0}):
        measured_as(monkeypatch, small_sweep(), ledger, target=target, retain=values)
    assert [event.name for event in ledger.events if isinstance(event, Anchor)] == ["target", "retain", "target"]
    assert ledger.anchors()["target"]["relearned.forget_nll"] == 2.0
    ledger.close()
