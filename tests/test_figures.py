"""Figures of a report: what is drawn for which records, the numbers beside it, and the same bytes each time."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.events import SweepInfo
from orchestrator.report import effort_figures, figures, parameter_figures
from orchestrator.report.drawing import thinned
from orchestrator.results.findings import Findings, findings
from orchestrator.results.front import summarise
from tests.ledgers import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def found_of(run: Run) -> Findings:
    return findings(summarise(SweepInfo.read(run.folder), run.ledger.events))


def searched(run: Run, trials: int) -> None:
    """Trials of two methods, every third stopped early."""
    for index in range(trials):
        method, name, share = (("satimp", "beta1", 8.0), ("npo", "beta", 1.0))[index % 2]
        params = {"loss.criterion.type": method, f"loss.criterion.{name}": share * (index + 1) / trials}
        config = {"loss": {"criterion": {"type": method}}, "epochs": 4}
        state = "PRUNED" if index % 3 == 2 else "COMPLETE"
        run.trial(
            (index + 1) / trials, (index * 7 % trials + 1) / (trials + 1), params=params, state=state, config=config
        )


def test_the_same_findings_give_the_same_png_and_pdf(run: Run) -> None:
    searched(run, 6)
    found = found_of(run)
    once, again = figures.front_plot(found), figures.front_plot(found)
    assert (once.png, once.pdf) == (again.png, again.pdf)
    assert once.pdf.startswith(b"%PDF")
    assert b"CreationDate" not in once.pdf


def test_each_trial_is_drawn_in_the_group_that_says_why_it_is_no_candidate(run: Run) -> None:
    run.trial(0.2, 0.8)
    run.trial(0.9, 0.9, state="PRUNED")
    run.trial(0.1, 0.1, violations={"bound": 0.1})
    run.trial(0.21, 0.81, of="00000", origin="confirm", seed=6)
    run.trial(0.5, 0.5, state="FAIL")
    groups = {point.name: point.group for point in figures.points_of(found_of(run))}
    assert groups == {"00000": "front", "00001": "pruned", "00002": "missed", "00003": "seed"}


def test_a_front_in_a_corner_is_drawn_a_second_time_and_larger(run: Run) -> None:
    run.anchor("target", 1.0, 1.0)
    run.trial(0.02, 0.95)
    run.trial(0.05, 0.97)
    run.trial(0.9, 0.1)
    window = figures.window(figures.points_of(found_of(run)))
    assert window is not None
    (left, right), (low, high) = window
    assert left < 0.02 < 0.05 < right < 0.2
    assert 0.8 < low < 0.95 < 0.97 < high
    run.trial(0.9, 0.99)
    assert figures.window(figures.points_of(found_of(run))) is None


def test_hypervolume_is_drawn_over_the_epochs_of_all_trials(run: Run) -> None:
    searched(run, 3)
    data = effort_figures.hypervolume_plot(found_of(run)).data
    assert [row[data.header.index("epochs")] for row in data.rows] == [4, 8, 10]


def test_seeds_are_crosses_and_a_band(run: Run) -> None:
    run.trial(0.2, 0.8)
    run.trial(0.6, 0.9)
    for seed in (6, 7, 8):
        run.trial(0.2 + seed / 100, 0.8, of="00000", origin="confirm", seed=seed)
        run.trial(0.6 + seed / 100, 0.9, of="00001", origin="confirm", seed=seed)
    found = found_of(run)
    assert len(found.confirmed) == 2
    assert [surface.level for surface in found.attainment] == ["best", "median", "worst"]
    assert figures.front_plot(found).png


def test_parameters_are_drawn_with_choices_as_ticks_and_what_a_trial_does_not_have_left_out(run: Run) -> None:
    searched(run, 12)
    found = found_of(run)
    kind, beta1, beta = parameter_figures.axes_of(found)
    assert (kind.path, kind.ticks) == ("loss.criterion.type", ("satimp", "npo"))
    satimp = found.summary.records[0]
    assert (kind.place(satimp), beta.place(satimp)) == (0.0, None)
    assert beta1.place(satimp) == pytest.approx(8 / 12)
    for plot in (parameter_figures.slices_plot(found), parameter_figures.parallel_plot(found)):
        assert plot.png
        assert "loss.criterion.beta1" in plot.data.header
    assert {row[1] for row in parameter_figures.slices_plot(found).data.rows} == {"pruned", "full", "front"}


def test_methods_and_epochs_are_drawn_with_their_numbers(run: Run) -> None:
    searched(run, 6)
    run.trial(0.9, 0.1, label="npo_ou", origin="baseline")
    found = found_of(run)
    methods = effort_figures.methods_plot(found).data
    assert [row[0] for row in methods.rows if row[1]] == ["npo_ou"]
    assert {row[0] for row in methods.rows if not row[1]} == {"satimp", "npo"}
    assert {row[0] for row in effort_figures.epochs_plot(found).data.rows} == {1, 2, 3, 4}


def test_many_points_are_thinned_evenly_and_keep_both_ends() -> None:
    assert thinned(range(5), 10) == [0, 1, 2, 3, 4]
    assert thinned(range(1001), 11) == list(range(0, 1001, 100))
