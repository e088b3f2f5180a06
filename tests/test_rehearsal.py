"""Recorded curves, and strategies compared on them."""

from __future__ import annotations

import math
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from orchestrator.config import SweepConfig
from orchestrator.ledger import Ledger
from orchestrator.problems import ConfigError
from orchestrator.rehearsal.anytime import RANDOM, Run, epochs_in_words, reached, table_of, volume_by_epoch
from orchestrator.rehearsal.curve_files import read_curves, write_curves
from orchestrator.rehearsal.curves import Curve, Curves, Recording, portable
from orchestrator.rehearsal.recordings import found_curves, given_curves
from orchestrator.rehearsal.rehearse import (
    STRATEGIES,
    THIS,
    Rehearsal,
    at_equal_epochs,
    named_strategies,
    rehearse,
    show_rehearsal,
    simulate_once,
)
from orchestrator.rehearsal.simulator import simulate
from tests.sweeps import info_of, small_sweep
from tests.test_simulator import closed_form

OBJECTIVES = {"forget": "min", "retain": "max"}


def recorded(sweep: SweepConfig) -> Curves:
    """40 random configurations of a small sweep, in closed form."""
    full = sweep.model_copy(update={**STRATEGIES[RANDOM], "budget": sweep.budget.model_copy(update={"trials": 40})})
    curves = []
    for trial in [e for e in simulate(full, closed_form, gpus=4).events if e.event == "suggested"]:
        curves.append(closed_form(trial))
    return Curves(recording_of(sweep), curves)


def recording_of(sweep: SweepConfig) -> Recording:
    trial = portable(sweep.trial.model_dump(mode="json"))
    return Recording("recorded", "authors", trial, sweep.space, {}, "data", "model", {})


@pytest.fixture
def sweep() -> SweepConfig:
    return small_sweep()


@pytest.fixture
def curves(sweep: SweepConfig) -> Curves:
    return recorded(sweep)


# -- the nearest curve -------------------------------------------------------------------------------------------------


def test_a_setting_that_was_recorded_gets_its_own_curve(sweep: SweepConfig, curves: Curves) -> None:
    base = sweep.trial.model_dump(mode="json")
    for curve in curves.curves:
        assert curves.nearest(curve.params, base, 0) is curve


def test_ranges_count_by_ratio_where_they_are_log_and_choices_that_decide_come_first(sweep: SweepConfig) -> None:
    def at(number: int, criterion: str, lr: float, coefficient: float) -> Curve:
        params = {"loss.criterion.type": criterion, "loss.criterion.beta1": 5.0,
                  "loss.retain.coefficient": coefficient, "optim.lr": lr}  # fmt: skip
        return Curve(number, None, 0, params, ({"forget": 1.0},), (1.0,))

    curves = Curves(
        recording_of(sweep), [at(0, "satimp", 1e-4, 1.0), at(1, "satimp", 8e-4, 1.0), at(2, "saturation", 3e-4, 1.0)]
    )
    base = sweep.trial.model_dump(mode="json")
    assert curves.nearest(at(9, "satimp", 2.7e-4, 1.0).params, base, 0).configuration == 0  # in the middle is 2.83e-4
    assert curves.nearest(at(9, "satimp", 2.9e-4, 1.0).params, base, 0).configuration == 1
    assert curves.nearest(at(9, "saturation", 8e-4, 5.0).params, base, 0).configuration == 2


def test_seeds_that_were_not_recorded_take_turns(sweep: SweepConfig) -> None:
    params = {"loss.criterion.type": "satimp", "loss.criterion.beta1": 1.0, "optim.lr": 2e-4}
    curves = Curves(recording_of(sweep), [Curve(0, None, seed, params, ({"forget": 1.0},), (1.0,)) for seed in (3, 5)])
    base = sweep.trial.model_dump(mode="json")
    assert [curves.nearest(params, base, seed).seed for seed in (3, 5, 6, 7)] == [3, 5, 3, 5]


# -- files -------------------------------------------------------------------------------------------------------------


def test_curves_are_read_as_they_were_written(curves: Curves, tmp_path: Path) -> None:
    failed = Curve(99, None, 0, dict(curves.curves[0].params), (), (), "it diverged")
    write_curves(Curves(curves.recording, [*curves.curves, failed]), tmp_path / "c.parquet")
    again = read_curves(tmp_path / "c.parquet")
    assert again.recording == curves.recording
    assert again.curves[-1] == failed
    for ours, theirs in zip(curves.curves, again.curves, strict=False):
        assert (ours.params, ours.label, ours.failure) == (theirs.params, theirs.label, theirs.failure)
        assert theirs.metrics[-1] == pytest.approx(ours.metrics[-1], rel=1e-6)


def run_folder(output: Path, sweep: SweepConfig, *, model: str = "model") -> Path:
    """A run folder with what a simulation of the sweep did."""
    folder = output / sweep.name
    folder.mkdir(parents=True)
    ledger = Ledger(folder)
    for event in simulate(sweep, closed_form, gpus=2).events:
        ledger.append(event)
    ledger.close()
    info = info_of(sweep, model=model)
    (folder / "sweep.json").write_text(info.model_dump_json(), encoding="utf-8")
    return folder


def test_run_folders_serve_as_curves_without_what_was_stopped_early(sweep: SweepConfig, tmp_path: Path) -> None:
    folder = run_folder(tmp_path, sweep)
    curves = read_curves(folder)
    assert curves.recording.left_out > 0
    assert curves.configurations + curves.recording.left_out == 16
    assert all(len(curve.metrics) == 8 for curve in curves.curves)


def test_two_run_folders_are_seeds_of_the_same_configurations(tmp_path: Path) -> None:
    changes = {"scheduler": {"type": "none"}, "sampler": {"type": "random"}, "baselines": []}
    folders = [
        run_folder(tmp_path, small_sweep(name=f"seed{seed}", trial={"epochs": 8, "seed": seed}, **changes))
        for seed in (0, 1)
    ]
    curves = read_curves(*folders)
    assert (curves.configurations, curves.seeds) == (16, [0, 1])
    run_folder(tmp_path / "other", small_sweep(name="seed2", **changes), model="another")
    with pytest.raises(ConfigError, match="is of another benchmark, model, base trial or space than"):
        read_curves(folders[0], tmp_path / "other" / "seed2")


def test_what_is_no_recording_is_told_in_one_message(tmp_path: Path, sweep: SweepConfig) -> None:
    (tmp_path / "c.parquet").write_text("no parquet")
    with pytest.raises(ConfigError, match="not readable as a file of curves"):
        read_curves(tmp_path / "c.parquet")
    with pytest.raises(ConfigError, match="not a run folder"):
        read_curves(tmp_path)


def test_curves_of_another_space_or_of_fewer_epochs_do_not_fit(curves: Curves, tmp_path: Path) -> None:
    assert curves.unfit(small_sweep()) == []
    assert curves.unfit(small_sweep(trial={"epochs": 9})) == ["8 epochs were recorded, and trials have 9"]
    other = small_sweep(space={"optim.lr": {"float": [1e-4, 1e-3]}})
    assert "the space differs in loss.criterion" in curves.unfit(other)[0]
    write_curves(curves, tmp_path / "c.parquet")
    with pytest.raises(ConfigError, match=r"the space differs in .*; give a recording of this space"):
        given_curves([tmp_path / "c.parquet"], other)


def test_where_nothing_fits_the_message_says_what_to_do(tmp_path: Path, sweep: SweepConfig) -> None:
    with pytest.raises(ConfigError, match=r"no recorded curves fit 'small'.*give a recording with --curves"):
        found_curves(sweep, tmp_path)


def test_an_earlier_sweep_of_the_same_settings_is_found(tmp_path: Path) -> None:
    changes = {"scheduler": {"type": "none"}, "budget": {"trials": 30}}
    run_folder(tmp_path, small_sweep(name="earlier", **changes))
    assert found_curves(small_sweep(), tmp_path).recording.name == "earlier"


# -- strategies --------------------------------------------------------------------------------------------------------


def test_volume_counts_what_had_ended_by_then() -> None:
    run = Run(10, {}, [(4, {"forget": 0.5, "retain": 0.5}), (8, {"forget": 0.0, "retain": 1.0})], 1.0)
    worst = np.array([1.0, 0.0])
    assert volume_by_epoch(run, OBJECTIVES, worst, 9).tolist() == [0, 0, 0, 0.25, 0.25, 0.25, 0.25, 1, 1]


def test_epochs_to_what_random_has_are_of_the_mean() -> None:
    volumes = np.array([[0.0, 0.2, 0.4, 0.6], [0.0, 0.4, 0.6, 0.8]])
    assert reached(volumes, np.array([0.5, 0.5]))[0] == 3
    assert math.isinf(reached(volumes, np.array([0.9, 0.9]))[0])
    assert epochs_in_words((math.inf, math.inf, math.inf), 400) == "> 400"
    assert epochs_in_words((240, 200, math.inf), 400) == "240 [200, > 400]"


def test_strategies_are_measured_against_random() -> None:
    better = [Run(8, {"COMPLETE": 1}, [(2, {"forget": 0.1, "retain": 0.9})], 1.0)] * 3
    worse = [Run(8, {"COMPLETE": 1}, [(8, {"forget": 0.5, "retain": 0.5})], 1.0)] * 3
    rows = {r.name: r for r in table_of({RANDOM: worse, "ours": better}, OBJECTIVES, np.array([1.0, 0.0]), 8)}
    assert [mean for mean, _, _ in rows["ours"].hypervolume] == pytest.approx([0.81, 0.81, 0.81])
    assert [mean for mean, _, _ in rows[RANDOM].hypervolume] == pytest.approx([0, 0, 0.25])
    assert (rows["ours"].reached[0], rows[RANDOM].reached[0]) == (2, 8)


def test_a_repeat_has_seeds_of_its_own_and_the_same_repeat_is_the_same(sweep: SweepConfig, curves: Curves) -> None:
    strategy = at_equal_epochs(sweep, STRATEGIES["tpe+halving"], 60)
    first, again, other = (simulate_once(strategy, curves, repeat, gpus=2) for repeat in (0, 0, 1))
    assert first.found == again.found
    assert first.found != other.found
    assert 60 <= first.epochs < 60 + 2 * 8


def test_unknown_strategies_are_told_with_a_hint() -> None:
    assert named_strategies("tpe, nsga2") == ["tpe", "nsga2"]
    with pytest.raises(ConfigError, match="'tpe-halving' is not known; did you mean 'tpe\\+halving'"):
        named_strategies("tpe-halving")


@pytest.mark.slow
def test_a_rehearsal_compares_the_file_with_others_at_its_own_epochs(sweep: SweepConfig, curves: Curves) -> None:
    found = rehearse(sweep, curves, repeats=2, gpus=2, strategies=["tpe"])
    assert [row.name for row in found.rows] == [THIS, RANDOM, "tpe"]
    assert found.epochs == round(found.rows[0].epochs)
    assert shown(found).count("±") == 9


def shown(found: Rehearsal) -> str:
    text = StringIO()
    show_rehearsal(found, ["model.dtype: a, b"], Console(file=text, width=160))
    return text.getvalue()
