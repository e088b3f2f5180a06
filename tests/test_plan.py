"""The bill of a sweep before it runs, against examples worked by hand."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator.config import SweepConfig
from orchestrator.events import Ended, Epoch, Suggested
from orchestrator.ledger import Ledger
from orchestrator.rehearsal.plan import Plan, earlier_sweeps, make_plan, show_plan
from tests.sweeps import info_of
from trials.benchmarks import Benchmark, load_benchmark

RAW: dict[str, Any] = {
    "name": "bill",
    "description": "what it costs",
    "trial": {"epochs": 8},
    "space": {
        "loss.criterion": {"one_of": {"satimp": {"beta1": {"float": [0.5, 8]}}, "npo": {}}},
        "loss.granularity": {"choice": ["token", "instance"], "when": {"loss.criterion": "satimp"}},
    },
    "baselines": ["wga", "npo_ou"],
    "scheduler": {"type": "pareto_asha", "grace_period": 1, "reduction_factor": 2},
    "budget": {"trials": 12, "concurrent": 2},
}


def sweep_of(**changes: Any) -> SweepConfig:
    return SweepConfig.model_validate(RAW | changes)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    folder = tmp_path / 'run\'s "föld er" & [b]x'
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def benchmark() -> Benchmark:
    return load_benchmark(sweep_of().trial.benchmark)


def test_rungs_and_epochs_are_those_of_the_example_worked_by_hand(output: Path) -> None:
    """Two baselines to epoch 8; of ten searched trials all reach epoch 1, 5 epoch 2, 2.5 epoch 4 and 1.25 epoch 8.

    Epochs: 2 * 8 for the baselines, and 10 * 1 + 5 * (2 - 1) + 2.5 * (4 - 2) + 1.25 * (8 - 4) = 25 + 16.
    """
    plan = make_plan(sweep_of(), None, output)
    assert plan.rungs == {1: 12, 2: 7, 4: 4.5, 8: 3.25}
    assert plan.epochs_at_most == 96
    assert plan.epochs_expected == 41
    assert plan.concurrent == 2
    assert plan.seconds_an_epoch is None
    assert plan.hours is None


@pytest.mark.parametrize(
    ("changes", "rungs", "expected"),
    [
        # 10 * 3 + (10 / 3) * (9 - 3) for those searched; 2 * 9 for the baselines.
        ({"trial": {"epochs": 9}, "scheduler": {"type": "pareto_asha", "grace_period": 3, "reduction_factor": 3}},
         {3: 12, 9: 2 + 10 / 3}, 18 + 30 + 20),
        ({"scheduler": {"type": "none"}}, {8: 12}, 96),
        ({"trial": {"epochs": 1}}, {1: 12}, 12),
        ({"baselines": [], "budget": {"trials": 1}}, {1: 1, 2: 0.5, 4: 0.25, 8: 0.125}, 1 + 0.5 + 0.5 + 0.5),
        ({"budget": {"trials": 2, "concurrent": 1}}, {1: 2, 2: 2, 4: 2, 8: 2}, 16),
        # Five in each: 5 * 1 + 2.5 * 1 + 1.25 * 2 + 0.625 * 4; from the second rung on 5 * 2 + 2.5 * 2 + 1.25 * 4.
        ({"scheduler": {"type": "pareto_asha", "grace_period": 1, "brackets": 2}},
         {1: 7, 2: 9.5, 4: 5.75, 8: 3.875}, 16 + 12.5 + 20),
        # Six of the search, four of the ablation to the end: 6 * 1 + 3 * 1 + 1.5 * 2 + 0.75 * 4.
        ({"phases": [{"trials": 6}, {"sampler": {"type": "ablation"}, "trials": 4}]},
         {1: 12, 2: 9, 4: 7.5, 8: 6.75}, 48 + 15),
        ({"budget": {"trials": 12, "epochs": 20}}, {1: 12 * 20 / 41, 2: 140 / 41, 4: 90 / 41, 8: 65 / 41}, 20),
    ],
)  # fmt: skip
def test_other_schedules_come_out_as_worked_by_hand(
    changes: dict[str, Any], rungs: dict[int, float], expected: float, output: Path
) -> None:
    plan = make_plan(sweep_of(**changes), None, output)
    assert plan.rungs == pytest.approx(rungs)
    assert plan.epochs_expected == pytest.approx(expected)
    assert plan.epochs_expected <= plan.epochs_at_most


def test_how_many_run_at_once_is_asked_of_the_machine_unless_it_is_said(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    free = {"budget": {"trials": 12}}
    assert make_plan(sweep_of(**free), None, output).concurrent == 8
    assert make_plan(sweep_of(**free, resources={"cpu": 3}), None, output).concurrent == 2
    assert make_plan(sweep_of(**free, resources={"cpu": 32}), None, output).concurrent == 1
    assert make_plan(sweep_of(**free, resources={"gpu": 0.5}), None, output).concurrent is None, "GPUs are not counted"
    monkeypatch.setenv("RAY_ADDRESS", "cluster:6379")
    assert make_plan(sweep_of(**free), None, output).concurrent is None, "nor is a cluster"


def record(output: Path, name: str, benchmark: Benchmark, sweep: SweepConfig, seconds: list[float]) -> Path:
    """A run folder with one ended trial, its epochs taking so long."""
    folder = output / name
    folder.mkdir()
    data, model = sweep.digests(benchmark)
    info = info_of(sweep, name=name, data=data, model=model)
    (folder / "sweep.json").write_text(info.model_dump_json(), encoding="utf-8")
    ledger = Ledger(folder)
    ledger.append(Suggested(trial_id="00000", number=0, label=None, params={}, config={}, fingerprint="e" * 16, seed=0))
    for epoch, took in enumerate(seconds, 1):
        ledger.append(Epoch(trial_id="00000", epoch=epoch, metrics={}, seconds=took))
    ledger.append(Ended(trial_id="00000", state="PRUNED", epoch=len(seconds)))
    ledger.close()
    return folder


def test_hours_come_from_earlier_sweeps_on_the_same_rows_and_model(output: Path, benchmark: Benchmark) -> None:
    record(output, "first", benchmark, sweep_of(), [4.0, 8.0])
    record(output, "second", benchmark, sweep_of(trial={"epochs": 2, "optim": {"lr": 1}}), [12.0])
    record(output, "other model", benchmark, sweep_of(trial={"model": {"tiny": {"layers": 1}}}), [1000.0])
    plan = make_plan(sweep_of(), benchmark, output)
    assert plan.seconds_an_epoch == pytest.approx(8.0), "(4 + 8 + 12) s in 3 epochs"
    assert plan.hours == pytest.approx(41 * 8 / 2 / 3600)
    assert make_plan(sweep_of(), None, output).hours is None, "rows that are not here yet have no past"
    assert make_plan(sweep_of(budget={"trials": 12}, resources={"gpu": 1}), benchmark, output).hours is None


def test_folders_that_are_no_run_folders_are_passed_over(output: Path, benchmark: Benchmark) -> None:
    good = record(output, "good", benchmark, sweep_of(), [1.0])
    (output / "mlflow.db").write_text("")
    (output / "empty").mkdir()
    for name, text in (("cut", '{"name": "x'), ("older", '{"name": "older"}')):
        (output / name).mkdir()
        (output / name / "sweep.json").write_text(text)
        (output / name / "trials.jsonl").write_text("")
    fresh = record(output, "fresh", benchmark, sweep_of(), [])
    (fresh / "trials.jsonl").unlink()
    assert [folder for folder, _ in earlier_sweeps(output)] == [good]
    assert list(earlier_sweeps(output / "nope")) == []


def shown(sweep: SweepConfig, plan: Plan) -> str:
    text = StringIO()
    show_plan(sweep, plan, Console(file=text, width=200))
    return text.getvalue()


def rows(text: str) -> list[list[str]]:
    """Cells of all tables."""
    return [[cell.strip() for cell in line.strip("│┃ ").replace("┃", "│").split("│")] for line in text.splitlines()]


def test_the_text_shows_space_baselines_rungs_and_costs(output: Path) -> None:
    sweep = sweep_of()
    text = shown(sweep, make_plan(sweep, None, output))
    assert "bill on authors  what it costs" in text
    table = rows(text)
    assert ["loss.criterion.type", "satimp | npo"] in table
    assert ["loss.criterion.beta1", "0.5 .. 8", "loss.criterion.type is satimp"] in table
    assert "3 parameters, a continuum of points" in text
    assert ["wga", "WGA with retain NLL (arXiv 2502.19301)"] in table
    assert ["npo_ou", "NPO with retain NLL as in OpenUnlearning (arXiv 2404.05868)"] in table
    assert "rungs (pareto_asha)" in text
    for rung in (["1", "12.0"], ["2", "7.0"], ["4", "4.5"], ["8", "3.2"]):
        assert rung in table
    assert "objectives: forget.extraction_strength min, retain.extraction_strength max" in text
    assert "12 trials, at once: 2, seed 0 (tpe)" in text
    assert "epochs: 96 at most, about 41 expected (57% saved)" in text
    assert "hours: not known before a sweep on this benchmark and model has run here" in text


def test_brackets_in_words_of_the_file_are_not_taken_for_markup() -> None:
    sweep = sweep_of(description="one [/b] of [red]many[/red]", space={"model.dtype": {"choice": ["[/x]", "[b]"]}})
    text = shown(sweep, Plan({8: 12.0}, 96, 96.0, None, None))
    assert "one [/b] of [red]many[/red]" in text
    assert ["model.dtype", "[/x] | [b]"] in rows(text)


def test_the_text_counts_a_finite_space_and_tells_hours_where_they_are_known() -> None:
    sweep = sweep_of(space={"optim.batch_size": {"int": [1, 4]}}, baselines=[])
    text = shown(sweep, Plan({8: 12.0}, 96, 96.0, None, None))
    assert "1 parameters, 4 points" in text
    assert "at once: as many as the cluster carries" in text
    assert "(0% saved)" in text
    assert "published settings" not in text
    assert "about 13 minutes, at 8 s an epoch" in shown(sweep, Plan({8: 12.0}, 96, 96.0, 1, 8.0))
