"""Files that a power cut or a bad disk has left: what is damaged is told, the rest is kept, and the sweep goes on."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from orchestrator.events import Ended, Epoch, Suggested, SweepInfo
from orchestrator.folder import open_folder
from orchestrator.housekeeping import Housekeeping
from orchestrator.ledger import Ledger, read_events, read_records
from orchestrator.problems import ConfigError, require_run_folder
from orchestrator.results.front import front_of
from orchestrator.salvage import salvage
from tests.simulate import simulate
from tests.sweeps import small_sweep
from trials.benchmarks import load_benchmark

SWEEPS: dict[str, dict[str, Any]] = {
    "stop": {},
    "pause": {"scheduler": {"type": "pareto_asha", "grace_period": 2, "reduction_factor": 2, "promotion": "pause"}},
    "seeds": {"replicates": 2, "scheduler": {"type": "none"}, "confirm": {"seeds": 2, "at_most": 2}},
}
WAYS: dict[str, Callable[[bytes], bytes]] = {
    "garbage": lambda line: b"\xff\x00\r\x1b[2J" + line[20:],
    "zeros": lambda line: b"\0" * (len(line) - 1) + b"\n",
    "half": lambda line: line[: len(line) // 2] + b"\n",
    "joined": lambda line: line[: len(line) // 2],
    "list": lambda line: b"[1, 2]\n",
    "values": lambda line: b'{"event": "ended", "trial_id": 3}\n',
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "a \"run\" of 'mine' ; ü"
    place.mkdir()
    return place


def whole(folder: Path, kind: str) -> bytes:
    simulate(small_sweep(**SWEEPS[kind]), folder).close()
    return (folder / "ledger.jsonl").read_bytes()


def damage(folder: Path, data: bytes, lines: list[int], way: str) -> None:
    parts = data.splitlines(keepends=True)
    for line in lines:
        parts[line] = WAYS[way](parts[line])
    (folder / "ledger.jsonl").write_bytes(b"".join(parts))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", SWEEPS)
def test_a_sweep_with_damaged_lines_is_taken_up_and_ends_like_any_other(kind: str, way: str, folder: Path) -> None:
    chance = random.Random(f"{kind} {way}")
    data = whole(folder, kind)
    for _ in range(6):
        lost = chance.sample(range(data.count(b"\n") - 1), chance.choice([1, 1, 3]))
        damage(folder, data, lost, way)
        simulate(small_sweep(**SWEEPS[kind]), folder).close()
        found = read_records(folder)
        suggested = [event for event in read_events(folder) if isinstance(event, Suggested)]
        assert len(found) == len({record.trial_id for record in found}) == len(suggested) >= 16
        assert len({(event.fingerprint, event.seed) for event in suggested}) == len(suggested)
        assert all(record.metrics for record in found if record.state != "FAIL")
        assert front_of(found, small_sweep().objectives)
        study = optuna.load_study(
            study_name=None, storage=JournalStorage(JournalFileBackend(str(folder / "study.log")))
        )
        assert len(study.trials) == len(found)


def test_the_damaged_file_is_kept_and_what_is_lost_is_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = whole(folder, "stop")
    lines = data.splitlines()
    first = next(n for n, line in enumerate(lines) if b'"suggested"' in line and b'"00003"' in line)
    damage(folder, data, [first], "zeros")
    before = (folder / "ledger.jsonl").read_bytes()
    Ledger(folder).close()
    assert (folder / "ledger.jsonl.damaged-1").read_bytes() == before
    (said,) = caplog.messages
    assert f"line {first + 1} of ledger.jsonl cannot be read and is passed over; trials lost: 00003; the rest" in said
    assert said.endswith("`resume` runs what is missing; the damaged file is in ledger.jsonl.damaged-1")
    assert "00003" not in {event.trial_id for event in read_events(folder) if isinstance(event, Suggested)}
    assert not (folder / "trials" / "00003").exists()
    assert (folder / "trials" / "00003.damaged-1").is_dir()
    caplog.clear()
    Ledger(folder).close()
    assert caplog.messages == []


def test_a_lost_end_is_told_and_the_trial_is_finished_again(folder: Path) -> None:
    lines = whole(folder, "stop").splitlines(keepends=True)
    end = next(n for n, line in enumerate(lines) if b'"ended"' in line and b"COMPLETE" in line)
    found = salvage([*lines[:end], b"\0\n", *lines[end + 1 :]])
    (open_trial,) = found.open
    assert (found.damaged, found.gone) == ((end + 1,), ())
    assert f"trials to be finished again: {open_trial};" in str(found)


def test_a_trial_whose_last_epoch_is_lost_has_not_ended(folder: Path) -> None:
    lines = whole(folder, "stop").splitlines(keepends=True)
    last = next(n for n, line in enumerate(lines) if b'"epoch":8,' in line and b'"epoch","at"' in line)
    found = salvage([*lines[:last], b"{}\n", *lines[last + 1 :]])
    (open_trial,) = found.open
    assert not [e for e in found.events if isinstance(e, Ended) and e.trial_id == open_trial]


def test_reading_warns_once_and_changes_nothing(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    damage(folder, whole(folder, "stop"), [5], "garbage")
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert read_events(folder) == read_events(folder)
    assert len(caplog.messages) == 1
    assert "line 6 of ledger.jsonl cannot be read" in caplog.messages[0]
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_the_new_ledger_is_locked_and_so_is_the_old_one(folder: Path) -> None:
    damage(folder, whole(folder, "stop"), [5], "garbage")
    ledger = Ledger(folder)
    with pytest.raises(BlockingIOError):
        Ledger(folder)
    ledger.close()
    Ledger(folder).close()


@pytest.mark.parametrize("content", [b"", b"\0" * 900, b'{"name": "smo', b"\xff\xfe{}"])
def test_a_damaged_sweep_json_is_written_again_by_run(content: bytes, folder: Path) -> None:
    sweep = small_sweep()
    benchmark = load_benchmark(sweep.trial.benchmark)
    ledger = open_folder(folder / "small", sweep, benchmark, "")
    ledger.append(Suggested(trial_id="00000", number=0, label=None, params={}, config={}, fingerprint="f", seed=0))
    ledger.close()
    before = SweepInfo.read(folder / "small")
    (folder / "small" / "sweep.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"is damaged; `unlearn-sweep run` with its sweep file writes it again"):
        require_run_folder(folder / "small")
    other = small_sweep(objectives={"forget.nll": "max"}, reference_point={"forget.nll": 0.0})
    with pytest.raises(ConfigError, match="was not written by this version"):
        open_folder(folder / "small", other, benchmark, "")
    open_folder(folder / "small", sweep, benchmark, "").close()
    after = SweepInfo.read(folder / "small")
    assert after.model_copy(update={"created": before.created}) == before


def test_a_damaged_table_of_a_trial_is_written_again(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    sweep = small_sweep()
    benchmark = load_benchmark(sweep.trial.benchmark)
    ledger = open_folder(folder / "small", sweep, benchmark, "")
    ledger.listen(Housekeeping(folder / "small", sweep, ledger))
    ledger.append(Suggested(trial_id="00000", number=0, label=None, params={}, config={}, fingerprint="f", seed=0))
    ledger.append(Epoch(trial_id="00000", epoch=1, metrics={"forget.nll": 1.0}, seconds=1.0))
    ledger.append(Ended(trial_id="00000", state="COMPLETE", epoch=1))
    ledger.close()
    table = folder / "small" / "trials" / "00000" / "metrics.csv"
    before = table.read_bytes()
    open_folder(folder / "small", sweep, benchmark, "").close()
    assert caplog.messages == []
    table.write_bytes(before[:20] + b"\0" * 9)
    open_folder(folder / "small", sweep, benchmark, "").close()
    assert table.read_bytes() == before
    assert caplog.messages == [f"{table} was damaged and is written again"]


@pytest.mark.parametrize("name", ["trials.jsonl", "study.log"])
@pytest.mark.parametrize("content", [b"", b"\0" * 900, b'{"trial_id": "0', b"\xff\xfe\n{}\n"])
def test_what_follows_from_the_ledger_is_written_anew(name: str, content: bytes, folder: Path) -> None:
    whole(folder, "stop")
    before = read_records(folder)
    (folder / name).write_bytes(content)
    simulate(small_sweep(), folder).close()
    assert read_records(folder) == before
    storage = JournalStorage(JournalFileBackend(str(folder / "study.log")))
    assert len(optuna.load_study(study_name=None, storage=storage).trials) == 16
