"""The ledger on real files: whole lines, truth first, one record per ended trial."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from orchestrator.events import Anchor, Ended, Epoch, Event, Measured, Suggested, finite, records
from orchestrator.ledger import Ledger, in_use, read_events, read_records
from orchestrator.salvage import LedgerError


def suggested(number: int) -> Suggested:
    return Suggested(
        trial_id=f"{number:05d}",
        number=number,
        label=None,
        params={"optim.lr": 1e-4},
        config={},
        fingerprint="f",
        seed=0,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "a \"run\" of 'mine' ; ü"
    place.mkdir()
    return place


def test_events_are_read_back_as_written(folder: Path) -> None:
    ledger = Ledger(folder)
    events = [
        Anchor(name="target", metrics={"forget.nll": 0.1}),
        suggested(0),
        Epoch(trial_id="00000", epoch=1, metrics={"forget.nll": 0.5}, seconds=1.5),
        Ended(trial_id="00000", state="PRUNED", epoch=1),
        Measured(trial_id="00000", metrics={"forget.fluency": 2.0}, seconds=3.0),
    ]
    for event in events:
        ledger.append(event)
    ledger.close()
    assert read_events(folder) == events


def test_a_torn_last_line_is_dropped_and_the_next_event_stands_alone(folder: Path) -> None:
    ledger = Ledger(folder)
    ledger.append(suggested(0))
    ledger.close()
    with open(folder / "ledger.jsonl", "a") as file:
        file.write('{"event": "ended", "trial_id": "000')
    ledger = Ledger(folder)
    ledger.append(suggested(1))
    ledger.close()
    assert [event.trial_id for event in read_events(folder) if isinstance(event, Suggested)] == ["00000", "00001"]


def test_an_event_of_another_version_is_an_error(folder: Path) -> None:
    (folder / "ledger.jsonl").write_text('{"event": "party"}\n')
    with pytest.raises(LedgerError, match=r"line 1 of ledger.jsonl is an event 'party', which this version"):
        read_events(folder)


def test_a_record_holds_the_last_epoch_and_the_time_of_all(folder: Path) -> None:
    ledger = Ledger(folder)
    ledger.append(suggested(0))
    for epoch in (1, 2):
        ledger.append(Epoch(trial_id="00000", epoch=epoch, metrics={"forget.nll": float(epoch)}, seconds=2.0))
    ledger.append(Ended(trial_id="00000", state="COMPLETE", epoch=2))
    (record,) = read_records(folder)
    assert (record.metrics, record.seconds, record.epoch) == ({"forget.nll": 2.0}, 4.0, 2)
    ledger.close()


def measured_trial(number: int) -> list[Event]:
    """A trial of two epochs, and two attempts to measure it further, the first of them in vain."""
    name = f"{number:05d}"
    return [
        suggested(number),
        Epoch(trial_id=name, epoch=1, metrics={"forget.nll": 1.0}, seconds=2.0),
        Epoch(trial_id=name, epoch=2, metrics={"forget.nll": 2.0}, seconds=2.0),
        Ended(trial_id=name, state="COMPLETE", epoch=2),
        Measured(trial_id=name, metrics={}, seconds=9.0, failure="OutOfMemory: 3 GiB"),
        Measured(trial_id=name, metrics={"forget.fluency": 5.0, "forget.nll": 8.0}, seconds=9.0),
    ]


def test_what_is_measured_later_joins_the_record_and_replaces_nothing_in_it(folder: Path) -> None:
    ledger = Ledger(folder)
    for event in [*measured_trial(0)[:4], *measured_trial(1)]:
        ledger.append(event)
    assert [record.metrics for record in read_records(folder)] == [
        {"forget.nll": 2.0},
        {"forget.nll": 2.0, "forget.fluency": 5.0},
    ]
    ledger.append(measured_trial(0)[-1])
    first, second = read_records(folder)
    assert first.metrics == second.metrics
    assert (first.state, first.seconds, first.failure) == ("COMPLETE", 4.0, None)
    assert read_records(folder) == ledger.records()
    ledger.close()


def test_a_ledger_that_is_opened_again_has_what_was_measured(folder: Path) -> None:
    ledger = Ledger(folder)
    for event in measured_trial(0):
        ledger.append(event)
    ledger.close()
    before = (folder / "trials.jsonl").read_text()
    ledger = Ledger(folder)
    ledger.append(suggested(1))
    ledger.append(Ended(trial_id="00001", state="FAIL", epoch=0, failure="no luck"))
    ledger.close()
    assert (folder / "trials.jsonl").read_text().splitlines()[:1] == before.splitlines()
    assert [record.metrics.get("forget.fluency") for record in read_records(folder)] == [5.0, None]


def test_a_record_is_the_same_wherever_its_measurement_stands_in_the_ledger() -> None:
    events = measured_trial(0)
    assert records([events[-1], *events[:-1]]) == records(events)


def test_trials_jsonl_is_made_again_from_the_ledger(folder: Path) -> None:
    ledger = Ledger(folder)
    ledger.append(suggested(0))
    ledger.append(Ended(trial_id="00000", state="FAIL", epoch=0, failure="no luck"))
    ledger.close()
    before = (folder / "trials.jsonl").read_text()
    (folder / "trials.jsonl").unlink()
    Ledger(folder).close()
    assert (folder / "trials.jsonl").read_text() == before
    assert json.loads(before)["failure"] == "no luck"


def test_two_drivers_cannot_have_one_ledger(folder: Path) -> None:
    ledger = Ledger(folder)
    with pytest.raises(BlockingIOError, match="unavailable"):
        Ledger(folder)
    ledger.close()
    Ledger(folder).close()


def test_listeners_hear_of_an_event_after_it_is_on_disk(folder: Path) -> None:
    ledger = Ledger(folder)
    seen: list[int] = []
    ledger.listen(lambda event: seen.append(len(read_events(folder))))
    ledger.append(suggested(0))
    ledger.append(suggested(1))
    assert seen == [1, 2]
    ledger.close()


def test_metrics_that_are_no_numbers_are_absent() -> None:
    assert finite({"a": 1, "b": float("nan"), "c": float("inf")}) == {"a": 1.0}


def test_a_write_that_fails_half_way_leaves_a_ledger_that_can_be_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(folder)
    ledger.append(suggested(0))
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:20]))
    with pytest.raises(OSError, match="could not be written whole; free some space and `resume`"):
        ledger.append(suggested(1))
    monkeypatch.undo()
    ledger.append(suggested(2))
    assert [event.trial_id for event in read_events(folder) if isinstance(event, Suggested)] == ["00000", "00002"]
    assert ledger.events == read_events(folder)
    ledger.close()


def test_whether_a_driver_is_at_work_can_be_asked(folder: Path) -> None:
    assert not in_use(folder)
    ledger = Ledger(folder)
    assert in_use(folder)
    ledger.close()
    assert not in_use(folder)
