"""What is done about faults: who is run again and as what, what is kept back, and when the whole sweep stops."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.events import Ended, Resumed, Suggested
from orchestrator.ledger import Ledger, read_records
from orchestrator.resources import Resources
from orchestrator.search.faults import ALIKE, Fault, Streaks, Watch, fault_of, halved, remedy, settings
from orchestrator.search.study import StudySearcher
from tests.simulate import simulate
from tests.surrogate import runs_out
from tests.sweeps import small_sweep
from trials.config import TrialConfig


@pytest.mark.parametrize(
    ("text", "kind", "cause"),
    [
        ("", "worker", "its worker process died"),
        ("The actor died unexpectedly\nThe actor is dead because its worker process has died.", "worker", "its worker"),
        ("The actor 8291 is unavailable: RPC error: Socket closed rpc_code: 14.", "worker", "its worker process died"),
        ("The actor died unexpectedly\nThe actor is dead because its node has died.", "node", "its node was lost"),
        ("Traceback\n  File x\nRuntimeError: CUDA error: device-side assert", "error", "RuntimeError: CUDA error"),
        (
            "The actor died because of an error raised in its creation task, \nValueError: bad",
            "error",
            "ValueError: bad",
        ),
        (
            "The actor died because of an error raised in its creation task\n"
            "OSError: [Errno 28] No space left on device",
            "disk",
            "OSError: [Errno 28] No space left on device",
        ),
        ("Traceback\nOSError: [Errno 122] Disk quota exceeded: 'x'\n", "disk", "OSError: [Errno 122]"),
    ],
)
def test_what_ray_says_of_the_end_of_a_trial_is_sorted(text: str, kind: str, cause: str) -> None:
    fault = fault_of(text)
    assert fault.kind == kind
    assert fault.cause.startswith(cause)


# -- out of memory -----------------------------------------------------------------------------------------------------


def test_half_the_rows_of_a_pass_are_half_down_to_one() -> None:
    config = TrialConfig(optim={"batch_size": 12}, evaluation={"batch_size": 3}).model_dump()
    assert halved(config) == {"optim.micro_batch_size": 6, "evaluation.batch_size": 1}
    config = TrialConfig(optim={"micro_batch_size": 1}, evaluation={"batch_size": 1}).model_dump()
    assert halved(config) == {}


def test_a_loss_that_is_a_function_of_the_micro_batch_keeps_it() -> None:
    criterion = {"type": "npo", "log_ratio": "micro_batch"}
    config = TrialConfig(loss={"criterion": criterion}, evaluation={"batch_size": 8}).model_dump()
    assert halved(config) == {"evaluation.batch_size": 4}


def test_a_trial_that_runs_out_of_memory_goes_on_in_smaller_passes_and_its_record_says_so(tmp_path: Path) -> None:
    sweep = small_sweep(
        trial={"epochs": 8, "optim": {"batch_size": 8}, "evaluation": {"batch_size": 4}},
        budget={"trials": 4},
        scheduler={"type": "none"},
        baselines=[],
    )
    ledger = simulate(sweep, tmp_path, trial=runs_out)
    found = {record.trial_id: record for record in read_records(tmp_path)}
    fine, failed = found["00001"], found["00002"]
    assert (fine.state, fine.epoch, fine.failure) == ("COMPLETE", 8, None)
    assert fine.resumed == ("memory", "memory", "memory")
    assert fine.changed == {"optim.micro_batch_size": 1, "evaluation.batch_size": 1}
    assert (tmp_path / "trials/00001/ran.txt").read_text().split() == ["1", "2", "3", "4", "5", "6", "7", "8"]
    assert (failed.state, failed.failure) == ("FAIL", "out of memory in epoch 3: 1 rows (run again 3 times)")
    # What it is called stays: a micro-batch is a matter of memory.
    (event,) = [e for e in ledger.of("00001") if isinstance(e, Suggested)]
    assert event.config["optim"]["micro_batch_size"] is None
    assert settings(event, ledger)["optim"]["micro_batch_size"] == 1
    ledger.close()


# -- once more, but not for ever ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "times"), [("error", 1), ("node", 3), ("worker", 3), ("memory", 5), ("hung", 0), ("disk", 0)]
)
def test_each_kind_of_fault_has_a_bound_of_its_own(kind: str, times: int, tmp_path: Path) -> None:
    ledger = simulate(small_sweep(), tmp_path, most=1)
    event = next(each for each in ledger.events if isinstance(each, Suggested))
    resources = Resources(retries=1, losses=3)
    for _ in range(times):
        again = remedy(Fault(kind, "so it was"), event, ledger, resources)  # type: ignore[arg-type]
        assert isinstance(again, Resumed)
        assert again.why == kind
        ledger.append(again)
    assert remedy(Fault(kind, "so it was"), event, ledger, resources) is None  # type: ignore[arg-type]
    ledger.close()


# -- what is kept back -------------------------------------------------------------------------------------------------


def end(number: int, failure: str = "no GPU 7 here") -> Ended:
    return Ended(at=0, trial_id=f"{number:05d}", state="FAIL", epoch=0, failure=failure)


def test_the_first_failures_alike_are_kept_back_and_stop_the_sweep() -> None:
    streaks = Streaks(most=2)
    for number in range(ALIKE):
        assert streaks.broken is None
        assert streaks.failed("a", end(number, f"no GPU {number} here"), []) == []
    assert streaks.broken == "no GPU 4 here"
    assert not streaks.aside


def test_as_many_must_fail_as_run_at_once() -> None:
    streaks = Streaks(most=8)
    for number in range(7):
        streaks.failed("a", end(number), [])
    assert streaks.broken is None
    streaks.failed("a", end(7), [])
    assert streaks.broken


def test_what_was_kept_back_is_written_in_its_order_once_anything_works() -> None:
    streaks = Streaks(most=1)
    kept = [end(number) for number in range(3)]
    for each in kept:
        streaks.failed("a", each, [])
    assert streaks.worked("a") == kept
    assert [streaks.failed("a", end(number), []) for number in range(9)] == [[end(number)] for number in range(9)]
    assert streaks.broken is None


def test_failures_of_different_kinds_are_no_streak() -> None:
    streaks = Streaks(most=1)
    written = [streaks.failed("a", end(number, "this" if number % 2 else "that"), []) for number in range(9)]
    assert [len(each) for each in written] == [0, *[1] * 8]
    assert streaks.broken is None
    assert streaks.release() == [end(8, "that")]


def test_a_node_on_which_all_fail_is_set_aside_while_others_work() -> None:
    streaks = Streaks(most=2)
    streaks.worked("a")
    for number in range(ALIKE):
        assert not streaks.aside
        assert streaks.failed("b", end(number), ["a"]) == []
    assert streaks.aside == {"b": "no GPU 7 here"}
    assert streaks.kept("b") == [end(number) for number in range(ALIKE)]
    assert streaks.broken is None


def test_when_all_fail_on_the_last_node_too_the_sweep_stops() -> None:
    streaks = Streaks(most=2)
    for number in range(ALIKE):
        streaks.failed("a", end(number), ["b"])
    assert (list(streaks.aside), streaks.broken) == (["a"], None)
    streaks = Streaks(most=2)  # that of the next round, without a
    for number in range(ALIKE):
        streaks.failed("b", end(number), ["b"])
    assert (list(streaks.aside), streaks.broken) == ([], "no GPU 7 here")


def test_a_sweep_that_ends_before_a_streak_is_long_enough_writes_its_failures(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    sweep = small_sweep(budget={"trials": 3}, baselines=[], resources={"retries": 0})
    searcher = StudySearcher(sweep, ledger, tmp_path, concurrent=1, digests=("d", "m"))
    for number in range(3):
        assert isinstance(searcher.suggest(f"{number}"), dict)
        searcher.causes[f"{number}"] = Fault("error", "RuntimeError: no")
        searcher.on_trial_complete(f"{number}", error=True)
        assert ledger.records() == []
    assert searcher.suggest("3") == "FINISHED"
    assert [record.failure for record in ledger.records()] == ["RuntimeError: no"] * 3
    assert searcher.done
    ledger.close()


# -- hung --------------------------------------------------------------------------------------------------------------


def test_a_trial_hangs_when_no_epoch_has_ended_for_too_long() -> None:
    now = [0.0]
    watch = Watch(minutes=2, clock=lambda: now[0])
    assert not watch.hangs("a")
    now[0] = 119
    assert not watch.hangs("a")
    watch.forget("a")
    assert not watch.hangs("a")
    now[0] = 240
    assert watch.hangs("a")
    assert not watch.hangs("a"), "it is killed once"
