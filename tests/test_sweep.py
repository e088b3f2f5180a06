"""A sweep on a real Ray, with trials in closed form: faults, interruption, resumption."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator.config import SweepConfig
from orchestrator.events import Ended, Opened, SweepInfo
from orchestrator.ledger import read_events, read_records
from orchestrator.problems import ConfigError
from orchestrator.sweep import Outcome, run_sweep
from tests.surrogate import dies_once, misbehaves, surrogate
from tests.sweeps import small_sweep
from trials.benchmarks import Benchmark, load_benchmark
from trials.sources import AuthorsConfig

pytestmark = [pytest.mark.ray, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def benchmark() -> Benchmark:
    return load_benchmark(AuthorsConfig())


@pytest.fixture
def output(tmp_path: Path) -> Path:
    place = tmp_path / "the runs; 'ü'"
    place.mkdir()
    return place


def run(sweep: SweepConfig, benchmark: Benchmark, output: Path, trial: Any = surrogate) -> Outcome:
    with open(os.devnull, "w") as nowhere:
        return run_sweep(sweep, benchmark, output=output, trial=trial, console=Console(file=nowhere))


def runs_of(output: Path) -> Counter[str]:
    """Status -> number of MLflow runs, parent included, and no trial twice."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{output.resolve().as_posix()}/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == "authors"]
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    ids = [run.data.tags.get("trial_id", "parent") for run in runs]
    assert len(ids) == len(set(ids)), "a trial has two runs"
    return Counter(run.info.status for run in runs)


def test_a_sweep_ends_with_records_a_front_a_report_and_mlflow_runs(benchmark: Benchmark, output: Path) -> None:
    outcome = run(small_sweep(), benchmark, output)
    folder = output / "small"
    assert (outcome.ended, outcome.tracked) == ("finished", True)
    found = read_records(folder)
    assert len(found) == 16
    assert {record.state for record in found} == {"COMPLETE", "PRUNED"}
    assert outcome.report.front
    for name in ("sweep.json", "study.log", "report.md", "report.html", "front.csv", "figures/front.png"):
        assert (folder / name).stat().st_size > 0, name
    assert (folder / "trials" / "00000" / "metrics.csv").read_text().startswith("epoch,seconds,forget")
    assert not (folder / ".ray").exists()
    states = Counter(record.state for record in found)
    assert runs_of(output) == {"FINISHED": states["COMPLETE"] + 1, "KILLED": states["PRUNED"]}
    # On a finished sweep, `run` has nothing to do and says the same.
    before = (folder / "trials.jsonl").read_text()
    assert run(small_sweep(), benchmark, output).report.front == outcome.report.front
    assert (folder / "trials.jsonl").read_text() == before
    with pytest.raises(ConfigError, match=r"sampler.seed: 7 here, 0 in the sweep that lies there"):
        run(small_sweep(sampler={"type": "tpe", "seed": 7}), benchmark, output)
    assert (folder / "trials.jsonl").read_text() == before


def test_a_finished_sweep_is_extended_and_its_front_confirmed_and_another_takes_its_trials_over(
    benchmark: Benchmark, output: Path
) -> None:
    pausing = {"type": "pareto_asha", "grace_period": 2, "promotion": "pause"}
    run(small_sweep(scheduler=pausing, budget={"trials": 8}), benchmark, output)
    before = read_records(output / "small")
    more = small_sweep(scheduler=pausing, budget={"trials": 14}, confirm={"seeds": 2, "at_most": 1, "published": False})
    outcome = run(more, benchmark, output)
    found = read_records(output / "small")
    assert found[:8] == before
    assert Counter(record.origin for record in found) == {"baseline": 2, "search": 12, "confirm": 2}
    assert {record.of for record in found if record.of} <= {record.trial_id for record in outcome.report.front}
    assert {record.state for record in found} == {"COMPLETE", "PRUNED"}
    assert [event.changed for event in read_events(output / "small") if isinstance(event, Opened)] == [
        {},
        {"budget.trials": (8, 14), "confirm.at_most": (None, 1), "confirm.published": (None, False)}
        | {"confirm.seeds": (None, 2)},
    ]
    later = small_sweep(name="later", warm_start=[str(output / "small")], budget={"trials": 3})
    run(later, benchmark, output)
    assert Counter(record.origin for record in read_records(output / "later")) == {"earlier": 16, "search": 3}
    written = (output / "later" / "ledger.jsonl").read_text()
    run(later, benchmark, output)
    again = (output / "later" / "ledger.jsonl").read_text()
    assert again.removeprefix(written).count("\n") == 1, "that it was taken up, and nothing else"


def test_a_killed_worker_is_started_again_and_its_trial_goes_on_from_its_checkpoint(
    benchmark: Benchmark, output: Path
) -> None:
    run(small_sweep(budget={"trials": 4}, scheduler={"type": "none"}), benchmark, output, dies_once)
    for record in read_records(output / "small"):
        assert (record.state, record.epoch) == ("COMPLETE", 8)
        assert (output / "small/trials" / record.trial_id / "ran.txt").read_text().split() == list("12345678")


def test_whatever_goes_wrong_in_a_trial_is_its_own_result(benchmark: Benchmark, output: Path) -> None:
    sweep = small_sweep(
        budget={"trials": 10}, scheduler={"type": "none"}, resources={"retries": 0, "losses": 0}, baselines=[]
    )
    outcome = run(sweep, benchmark, output, misbehaves)
    causes = {record.trial_id: record.failure for record in read_records(output / "small")}
    assert len(causes) == 10
    for number, cause in enumerate(
        [
            "RuntimeError: a bug in the trial",
            "Diverged: retain.extraction_strength is nan after epoch 3",
            "did not report retain.extraction_strength",
            "its worker process died",
            None,
        ]
    ):
        assert causes[f"{number:05d}"] == causes[f"{number + 5:05d}"] == cause
    assert {record.trial_id for record in outcome.report.front} <= {"00004", "00009"}
    assert "a bug in the trial" in (output / "small/trials/00000/log.txt").read_text()
    assert runs_of(output) == {"FAILED": 8, "FINISHED": 3}


def test_a_tracking_server_that_is_gone_costs_nothing_and_sync_sends_the_rest_once(
    benchmark: Benchmark, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    outcome = run(small_sweep(), benchmark, output)
    assert not outcome.tracked
    assert len(read_records(output / "small")) == 16
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    from orchestrator.tracking.tracker import sync

    database = f"sqlite:///{output.resolve().as_posix()}/mlflow.db"
    first = sync(output / "small", database)
    again = sync(output / "small", database)
    assert (first.trials, first.sent, again.sent) == (16, 16, 0)
    assert runs_of(output).total() == 17


def test_resources_that_are_not_there_are_refused(benchmark: Benchmark, output: Path) -> None:
    with pytest.raises(ConfigError, match=r"asks for cpu 1 and gpu 5, but Ray has .* 0 GPUs; ask for less"):
        run(small_sweep(resources={"gpu": 5}), benchmark, output)


def driver(output: Path, seconds: float = 0.05) -> subprocess.Popen[str]:
    """A driver of its own process, slow enough to be interrupted."""
    script = f"""
        from pathlib import Path
        from orchestrator.progress import show_outcome
        from orchestrator.sweep import run_sweep
        from tests.surrogate import surrogate
        from tests.sweeps import small_sweep
        from trials.benchmarks import load_benchmark
        from trials.sources import AuthorsConfig
        if __name__ == "__main__":
            raise SystemExit(show_outcome(run_sweep(
                small_sweep(budget={{"trials": 16, "concurrent": 1}}), load_benchmark(AuthorsConfig()),
                output=Path({str(output)!r}), trial=surrogate)))
    """
    environment = os.environ | {"SURROGATE_SECONDS": str(seconds), "PYTHONPATH": str(Path(__file__).parent.parent)}
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        start_new_session=True,  # whoever kills the group of the driver, as Ray does, must not kill ours
    )


def wait_for_ends(process: subprocess.Popen[str], folder: Path, count: int) -> None:
    while process.poll() is None:
        if sum(isinstance(event, Ended) for event in read_events(folder)) >= count:
            return
        time.sleep(0.02)
    pytest.fail(f"the driver ended by itself: {process.stdout.read() if process.stdout else ''}")


def test_a_driver_killed_with_9_is_resumed_to_the_sweep_it_would_have_been(
    benchmark: Benchmark, output: Path, tmp_path: Path
) -> None:
    process = driver(output)
    wait_for_ends(process, output / "small", 5)
    process.kill()
    process.communicate()
    folder = output / "small"
    ended = {record.trial_id: record for record in read_records(folder)}
    assert 5 <= len(ended) < 16
    sweep = small_sweep(budget={"trials": 16, "concurrent": 1})
    run(sweep, benchmark, output)
    whole = tmp_path / "whole"
    run(sweep, benchmark, whole)

    def settled(place: Path) -> list[dict[str, Any]]:
        return [record.model_dump(exclude={"started", "seconds", "resumed"}) for record in read_records(place)]

    assert settled(folder) == settled(whole / "small")
    assert {r.trial_id: r for r in read_records(folder) if r.trial_id in ended} == ended
    for trial in (folder / "trials").iterdir():
        ran = (trial / "ran.txt").read_text().split()
        # The epoch under way when the driver was killed may have run before its result was heard of.
        assert sorted(set(ran), key=int) == [str(epoch) for epoch in range(1, len(set(ran)) + 1)]
        assert len(ran) - len(set(ran)) <= (trial.name not in ended)
    assert runs_of(output).total() == 17


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_sweep_writes_its_report_says_how_to_go_on_and_exits_with_130(
    output: Path, sign: signal.Signals
) -> None:
    process = driver(output)
    wait_for_ends(process, output / "small", 4)
    process.send_signal(sign)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"interrupted; go on with: unlearn-sweep resume {shlex.quote(str((output / 'small').resolve()))}" in printed
    assert (output / "small/report.html").exists()
    assert SweepInfo.read(output / "small").name == "small"
    assert "RUNNING" not in runs_of(output) or runs_of(output)["RUNNING"] <= 1
