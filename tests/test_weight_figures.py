"""Figures of weights from records alone: in a trial's folder, in its MLflow run, in the report."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import pytest
import torch
from rich.console import Console

from orchestrator.events import Ended, Epoch, Event, State, Suggested
from orchestrator.ledger import Ledger, read_events, read_records
from orchestrator.report.report import write_report
from orchestrator.report.table_files import csv_of
from orchestrator.report.weight_figures import caption, criteria_plot, trial_png, weight_shares, write_figures
from orchestrator.report.weight_profiles import History, Profile, histories, history_of, tabled, weights_table
from orchestrator.single import run_single
from orchestrator.sweep import run_sweep
from orchestrator.tracking.tracker import sync
from orchestrator.tracking.uri import resolve_uri
from tests.surrogate import surrogate
from tests.sweeps import small_sweep, write_info
from trials.benchmarks import load_benchmark
from trials.config import TrialConfig
from trials.result import Diverged, EpochResult
from trials.sources import AuthorsConfig
from trials.weight_profile import weight_profile
from trials.weighting import CriterionConfig, Importance, SatImp, Saturation, TokenStats, Uniform

FORGET, RETAIN = "forget.extraction_strength", "retain.extraction_strength"
OBJECTIVES: dict[str, Literal["min", "max"]] = {FORGET: "min", RETAIN: "max"}
CRITERIA: list[CriterionConfig] = [SatImp(beta2=1.0), Importance(beta2=2.0), Saturation()]


def logged(criterion: CriterionConfig, epoch: int) -> dict[str, float]:
    """What a trial logs whose tokens get less likely with every epoch: 0.98 to the power of the epoch and up to 50."""
    p_BT = torch.tensor([[0.98 ** (epoch * index) for index in range(50)]])
    stats = TokenStats(-p_BT.log(), torch.ones_like(p_BT, dtype=torch.bool))
    return weight_profile(stats, criterion.weights(stats))


class Run:
    """A run folder under construction: one call, one trial."""

    def __init__(self, output: Path, name: str = "weighed") -> None:
        self.folder = output / name
        self.folder.mkdir(parents=True)
        write_info(self.folder, name=name, benchmark="authors")
        self.ledger = Ledger(self.folder)

    def trial(
        self,
        criterion: CriterionConfig | str,
        *,
        epochs: tuple[int, ...] = (1, 2, 3),
        state: State | None = "COMPLETE",
        forget: float = 0.5,
        label: str | None = None,
    ) -> str:
        """A trial; one whose criterion is only named logs no weights."""
        number = sum(isinstance(event, Suggested) for event in self.ledger.events)
        trial_id = f"{number:05d}"
        settings = {"type": criterion} if isinstance(criterion, str) else criterion.model_dump()
        config = {"loss": {"criterion": settings, "granularity": {"type": "token"}}, "epochs": 3}
        self.ledger.append(
            Suggested(
                trial_id=trial_id, number=number, label=label, params={}, config=config, fingerprint="f", seed=0, at=2.0
            )
        )
        for epoch in epochs:
            weights = {} if isinstance(criterion, str) else logged(criterion, epoch)
            metrics = {FORGET: forget, RETAIN: 0.5, "forget.nll": 1.0} | weights
            self.ledger.append(Epoch(trial_id=trial_id, epoch=epoch, metrics=metrics, seconds=1.0, at=2.0 + epoch))
        if state:
            last = max(epochs, default=0)
            self.ledger.append(Ended(trial_id=trial_id, state=state, epoch=last, failure=None, at=9.0))
        return trial_id

    @property
    def events(self) -> list[Event]:
        return self.ledger.events

    def drawn(self) -> set[str]:
        return {str(path.relative_to(self.folder / "trials")) for path in self.folder.glob("trials/*/*")}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "the runs; 'ü'")


def history(criterion: CriterionConfig, epochs: int) -> History:
    config = {"loss": {"criterion": criterion.model_dump()}}
    found = history_of("00007", config, {epoch: logged(criterion, epoch) for epoch in range(1, epochs + 1)})
    assert found is not None
    return found


def size(png: bytes) -> tuple[int, int]:
    assert png.startswith(b"\x89PNG")
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


# -- read back ---------------------------------------------------------------------------------------------------------


def test_what_was_logged_is_read_back_by_epoch_and_a_repeated_epoch_counts_once(run: Run) -> None:
    run.trial(Saturation(), epochs=(1, 2, 2, 3))  # it died after the second epoch, and was taken up again there
    (found,) = histories(run.events).values()
    assert [profile.epoch for profile in found.profiles] == [1, 2, 3]
    assert (found.trial_id, found.criterion, found.settings) == ("00000", "saturation", "saturation (beta1 5)")
    expected = logged(Saturation(), 3)
    assert found.last.effective == expected["weights.effective"]
    assert found.last.least_likely_tenth == expected["weights.least_likely_tenth"]
    assert found.last.tokens == tuple(expected.get(f"weights.p{index}_tokens", 0.0) for index in range(10))
    assert found.last.means == tuple(expected.get(f"weights.p{index}_mean") for index in range(10))
    assert (found.profiles[0].tokens[0], found.profiles[0].means[0]) == (0.0, None)


def test_the_settings_that_shape_weights_are_named() -> None:
    loss = {
        "criterion": {"type": "satimp", "beta1": 5.0, "beta2": 1e-05},
        "granularity": {"type": "group", "size": 4},
        "selection": {"type": "all"},
    }
    found = history_of("", {"loss": loss}, {1: logged(Uniform(), 1)})
    assert found is not None
    assert found.settings == "satimp (beta1 5, beta2 1e-05), granularity group (size 4)"


def test_the_table_has_a_line_for_each_epoch_and_bin_with_tokens() -> None:
    shown = history(Importance(), 2)
    rows = rows_of(csv_of(weights_table([shown])))
    assert len(rows) == sum(mean is not None for profile in shown.profiles for mean in profile.means)
    last = rows[-1]
    assert (last["criterion"], last["trial_id"], last["epoch"]) == ("importance", "00007", "2")
    assert (float(last["p_from"]), float(last["p_to"])) == (0.9, 1.0)
    assert float(last["mean_weight"]) == shown.last.means[9]
    assert float(last["share_of_tokens"]) == shown.last.tokens[9]
    assert float(last["effective"]) == shown.last.effective


def test_a_table_of_metrics_keeps_the_two_numbers_and_leaves_out_the_bins() -> None:
    names = ["forget.nll", *logged(Uniform(), 1), "train.weight"]
    assert tabled(names) == ["forget.nll", "weights.effective", "weights.least_likely_tenth", "train.weight"]


# -- drawn -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epochs", [1, 3, 40])
def test_a_trial_of_any_length_is_drawn_and_the_same_weights_give_the_same_bytes(epochs: int) -> None:
    shown = history(SatImp(), epochs)
    assert size(trial_png(shown)) == (1152, 800)
    assert trial_png(shown) == trial_png(shown)


def test_weights_that_are_all_zero_are_drawn_and_said() -> None:
    zero = {
        "weights.effective": 0.0,
        "weights.least_likely_tenth": 0.0,
        "weights.p9_tokens": 1.0,
        "weights.p9_mean": 0.0,
    }
    found = history_of("00001", {"loss": {"criterion": {"type": "saturation"}}}, {1: zero})
    assert found is not None
    assert weight_shares(found.last) == [0.0] * 10
    assert caption(found.last) == (
        "effective sample 0% of the tokens, 0% of the weight on the least likely tenth of them"
    )
    assert size(trial_png(found)) == (1152, 800)


def test_weight_shares_are_those_of_tokens_times_weight() -> None:
    rest = (0.0,) * 8, (None,) * 8
    profile = Profile(1, 1.0, 0.1, tokens=(0.75, *rest[0], 0.25), means=(0.1, *rest[1], 0.9))
    assert weight_shares(profile) == pytest.approx([0.25, *rest[0], 0.75])


def test_panels_stand_three_in_a_row() -> None:
    one, three, four = (size(criteria_plot([history(Uniform(), 2)] * count).png) for count in (1, 3, 4))
    assert one[1] == three[1] < four[1]
    assert one[0] < three[0] == four[0]


def test_figures_drawn_in_several_threads_are_the_same() -> None:
    shown = [history(criterion, 3) for criterion in CRITERIA]
    alone = [trial_png(each) for each in shown]
    with ThreadPoolExecutor(3) as threads:
        assert list(threads.map(trial_png, shown)) == alone


# -- in the folder of a trial ------------------------------------------------------------------------------------------


def test_pruned_and_diverged_trials_are_drawn_as_far_as_they_came_and_others_leave_nothing(run: Run) -> None:
    run.trial(Saturation())
    run.trial(Importance(), epochs=(1,), state="PRUNED")
    run.trial(SatImp(), epochs=(1, 2), state="FAIL")
    run.trial(SatImp(), epochs=(), state="FAIL")
    run.trial("npo")
    run.trial(Saturation(), epochs=(1,), state=None)
    write_figures(run.folder, run.events)
    assert run.drawn() == {f"0000{n}/weights.{kind}" for n in range(3) for kind in ("png", "csv")}
    assert {row["epoch"] for row in rows_of((run.folder / "trials/00002/weights.csv").read_text())} == {"1", "2"}


def test_without_logged_weights_nothing_is_written(run: Run) -> None:
    run.trial("saturation")
    write_figures(run.folder, run.events)
    report = write_report(run.folder)
    assert not (run.folder / "trials").exists()
    assert not [path for path in report.files if "weights" in path.name]
    assert "Weights" not in (run.folder / "report.md").read_text(encoding="utf-8")


def test_only_trials_that_ended_since_are_drawn(run: Run) -> None:
    run.trial(Saturation())
    before = len(run.events)
    run.trial(Importance())
    write_figures(run.folder, run.events, since=before)
    assert run.drawn() == {"00001/weights.png", "00001/weights.csv"}


def test_a_figure_that_is_there_is_not_drawn_again_and_one_of_other_weights_is(run: Run) -> None:
    run.trial(Saturation())
    write_figures(run.folder, run.events)
    png, table = (run.folder / "trials/00000" / f"weights.{kind}" for kind in ("png", "csv"))
    first = png.read_bytes()
    png.write_bytes(b"kept")
    write_figures(run.folder, run.events)
    assert png.read_bytes() == b"kept"
    table.write_text("of another sweep", encoding="utf-8")
    write_figures(run.folder, run.events)
    assert png.read_bytes() == first


def test_what_cannot_be_written_is_logged_and_the_others_are_drawn(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        run.trial(Saturation())
    (run.folder / "trials").mkdir()
    (run.folder / "trials" / "00000").write_text("a file where a folder should be", encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        write_figures(run.folder, run.events)
    assert [record.getMessage() for record in caplog.records] == ["the weights of trial 00000 could not be drawn"]
    assert run.drawn() == {"00001/weights.png", "00001/weights.csv"}


# -- in the report -----------------------------------------------------------------------------------------------------


def test_the_report_sets_the_best_trial_of_each_criterion_side_by_side(run: Run) -> None:
    run.trial(SatImp(beta2=1.0), forget=0.3)
    run.trial(SatImp(beta2=2.0), forget=0.1, label="mine")
    run.trial(Saturation(), forget=0.2)
    run.trial(Importance(), epochs=(1,), state="PRUNED")
    run.trial(Importance(), epochs=(1, 2), state="PRUNED")
    run.trial("npo", forget=0.05)
    report = write_report(run.folder)
    rows = rows_of((run.folder / "figures/weights.csv").read_text(encoding="utf-8"))
    shown = list(dict.fromkeys((row["criterion"], row["trial_id"]) for row in rows))
    assert shown == [("saturation", "00002"), ("importance", "00004"), ("satimp", "00001")]
    assert {run.folder / "figures/weights.png", run.folder / "figures/weights.csv"} <= set(report.files)
    text = (run.folder / "report.md").read_text(encoding="utf-8")
    assert "## Weights" in text
    assert "(<figures/weights.png>)" in text
    assert "| satimp (beta1 5, beta2 2) | 00001 | mine | COMPLETE | 3 |" in text
    assert "| importance (beta2 5) | 00004 |  | PRUNED | 2 |" in text
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert page.count("<figure>") == len(list((run.folder / "figures").glob("*.png"))) > 1


def test_tables_of_the_report_are_spared_the_bins(run: Run) -> None:
    run.trial(Saturation())
    write_report(run.folder)
    columns = (run.folder / "front.csv").read_text(encoding="utf-8").splitlines()[0].split(",")
    assert [name for name in columns if name.startswith("weights")] == [
        "weights.effective",
        "weights.least_likely_tenth",
    ]
    for name in ("report.md", "report.html"):
        text = re.sub(r"base64,[^\"]*|<wbr>", "", (run.folder / name).read_text(encoding="utf-8"))
        assert "weights.effective" in text
        assert "weights.p" not in text.replace("weights.png", "")
    front = json.loads((run.folder / "front.json").read_text(encoding="utf-8"))["front"]
    assert front[0]["metrics"]["weights.p9_mean"] == logged(Saturation(), 3)["weights.p9_mean"]


def test_the_same_records_give_the_same_report(run: Run) -> None:
    for criterion in CRITERIA:
        run.trial(criterion)
    first = {path: path.read_bytes() for path in write_report(run.folder).files}
    assert {path: path.read_bytes() for path in write_report(run.folder).files} == first


# -- in MLflow and on Ray ----------------------------------------------------------------------------------------------


def child_runs(output: Path) -> dict[str, tuple[set[str], dict[str, float]]]:
    """trial_id -> names of the artifacts, and metrics, of its run."""
    from mlflow import MlflowClient

    client = MlflowClient(resolve_uri(output, None))
    (experiment,) = [each for each in client.search_experiments() if each.name == "authors"]
    return {
        found.data.tags["trial_id"]: (
            {file.path for file in client.list_artifacts(found.info.run_id)},
            found.data.metrics,
        )
        for found in client.search_runs([experiment.experiment_id])
        if "trial_id" in found.data.tags
    }


@pytest.mark.timeout(120)
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
def test_a_sync_draws_what_is_missing_and_sends_it_once(run: Run) -> None:
    run.trial(Saturation())
    run.trial("npo")
    assert sync(run.folder).sent == 2
    assert run.drawn() == {"00000/weights.png", "00000/weights.csv"}
    found = child_runs(run.folder.parent)
    assert {trial_id: files for trial_id, (files, _) in found.items()} == {
        "00000": {"weights.png", "weights.csv"},
        "00001": set(),
    }
    metrics = found["00000"][1]
    # One section of charts for all of them: MLflow makes one of whatever stands before the last slash.
    names = {name for name in metrics if name.startswith("weights")}
    assert {name.rpartition("/")[0] for name in names} == {"weights"}
    assert metrics["weights/p9_mean"] == logged(Saturation(), 3)["weights.p9_mean"]
    assert sync(run.folder).sent == 0


def weighed(config: TrialConfig, *, folder: Path, resume_from: Path | None = None) -> Iterator[EpochResult]:
    """The surrogate, with weights where they are asked for."""
    for result in surrogate(config, folder=folder, resume_from=resume_from):
        if config.log_weights and isinstance(config.loss.criterion, CriterionConfig):
            result.metrics.update(logged(config.loss.criterion, result.epoch))
        yield result


@pytest.mark.ray
@pytest.mark.timeout(180)
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
def test_a_sweep_that_logs_weights_has_them_in_its_records_folders_runs_and_report(tmp_path: Path) -> None:
    sweep = small_sweep(
        trial={"epochs": 4, "log_weights": True}, budget={"trials": 6}, baselines=["gradient_ascent", "npo_ou"]
    )
    benchmark = load_benchmark(AuthorsConfig())
    with open(os.devnull, "w") as nowhere:
        outcome = run_sweep(sweep, benchmark, output=tmp_path, trial=weighed, console=Console(file=nowhere))
    assert outcome.tracked
    records = {record.trial_id: record for record in read_records(outcome.folder)}
    assert len(records) == 6
    configs = {event.trial_id: event.config for event in read_events(outcome.folder) if isinstance(event, Suggested)}
    runs = child_runs(tmp_path)
    for trial_id, record in records.items():
        bare = configs[trial_id]["loss"]["criterion"]["type"] == "npo"
        assert ("weights.effective" in record.metrics) is not bare
        place = outcome.folder / "trials" / trial_id
        files = {"weights.png", "weights.csv"}
        assert {path.name for path in place.iterdir()} & files == runs[trial_id][0] == (set() if bare else files)
        assert ("weights/effective" in runs[trial_id][1]) is not bare
    assert "## Weights" in (outcome.folder / "report.md").read_text(encoding="utf-8")


# -- one trial ---------------------------------------------------------------------------------------------------------


def diverging(config: TrialConfig, *, folder: Path) -> Iterator[EpochResult]:
    for result in weighed(config, folder=folder):
        if result.epoch == 3:
            raise Diverged("train.forget_loss is nan in epoch 3, step 1")
        yield result


@pytest.mark.parametrize("logs", [True, False])
def test_a_single_trial_draws_its_weights_where_it_logs_them_and_prints_no_bins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], logs: bool
) -> None:
    monkeypatch.setattr("trials.unlearn.run_trial", weighed)
    assert run_single(TrialConfig(epochs=2, log_weights=logs), tmp_path, debug=False) == 0
    printed = capsys.readouterr().out
    assert ("weights.effective" in printed) is logs
    assert "p9" not in printed
    assert (f"weights: {tmp_path / 'weights.png'}" in printed) is logs
    assert {path.name for path in tmp_path.glob("weights*")} == ({"weights.png", "weights.csv"} if logs else set())


def test_a_single_trial_that_diverges_shows_its_weights_until_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trials.unlearn.run_trial", diverging)
    assert run_single(TrialConfig(log_weights=True), tmp_path, debug=False) == 1
    assert {row["epoch"] for row in rows_of((tmp_path / "weights.csv").read_text(encoding="utf-8"))} == {"1", "2"}
