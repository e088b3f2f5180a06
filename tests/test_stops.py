"""A sweep on a real Ray that stops early and goes on later: nothing works, the disk is full, a trial hangs."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator.config import SweepConfig
from orchestrator.ledger import read_records
from orchestrator.problems import RunFailed
from orchestrator.progress import show_outcome
from orchestrator.sweep import Outcome, run_sweep
from tests.surrogate import broken, fills, hangs
from tests.sweeps import small_sweep
from trials.benchmarks import load_benchmark
from trials.sources import AuthorsConfig

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]


def run(sweep: SweepConfig, output: Path, trial: Any) -> Outcome:
    with open(os.devnull, "w") as nowhere:
        benchmark = load_benchmark(AuthorsConfig())
        return run_sweep(sweep, benchmark, output=output, trial=trial, console=Console(file=nowhere))


def test_a_sweep_in_which_nothing_works_stops_early_and_resume_runs_those_trials_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = small_sweep(budget={"trials": 30, "concurrent": 2}, scheduler={"type": "none"}, resources={"retries": 0})
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "broken").write_text("CUDA error: no kernel image for device 0")
    outcome = run(sweep, tmp_path, broken)
    assert outcome.ended == "stopped"
    assert show_outcome(outcome) == 3
    words = "stopped early: nothing works, all trials failed alike: RuntimeError: CUDA error: no kernel image"
    assert words in capsys.readouterr().out
    assert read_records(folder) == []
    assert len(list((folder / "trials").iterdir())) <= 7
    (folder / "broken").unlink()
    assert run(sweep, tmp_path, broken).ended == "finished"
    found = read_records(folder)
    assert sorted(record.trial_id for record in found) == [f"{number:05d}" for number in range(30)]
    assert {record.state for record in found} == {"COMPLETE"}
    assert next(record for record in found if record.trial_id == "00000").resumed == ("driver",)


def test_a_trial_that_hangs_is_ended_with_its_process_and_the_others_go_on(tmp_path: Path) -> None:
    resources = {"timeout_minutes": 0.5}
    sweep = small_sweep(budget={"trials": 4, "concurrent": 2}, scheduler={"type": "none"}, resources=resources)
    run(sweep, tmp_path, hangs)
    found = {record.trial_id: record for record in read_records(tmp_path / "small")}
    assert len(found) == 4
    assert (found["00001"].state, found["00001"].epoch) == ("FAIL", 2)
    assert found["00001"].failure == (
        "hung: no epoch ended within 0.5 minutes (resources.timeout_minutes); its worker was killed"
    )
    assert {record.state for name, record in found.items() if name != "00001"} == {"COMPLETE"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("nobody here may mount a tmpfs")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk_stops_the_sweep_and_resume_finishes_it_once_there_is_space(small_disk: Path) -> None:
    changes = {"scheduler": {"type": "none"}, "baselines": [], "checkpoints": "all"}
    sweep = small_sweep(budget={"trials": 12, "concurrent": 2}, **changes)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(16 * 2**20))
    with pytest.raises(RunFailed, match=r"nothing more can be written: .*No space left on device") as caught:
        run(sweep, small_disk, fills)
    assert re.search(r"free some space, then: unlearn-sweep resume \S*disk/small", str(caught.value))
    before = {record.trial_id: record for record in read_records(small_disk / "small")}
    assert all(record.state == "COMPLETE" for record in before.values()), "no trial is to blame"
    ballast.unlink()
    run(sweep, small_disk, fills)
    found = {record.trial_id: record for record in read_records(small_disk / "small")}
    assert sorted(found) == [f"{number:05d}" for number in range(12)]
    assert {record.state for record in found.values()} == {"COMPLETE"}
    assert {name: found[name] for name in before} == before
