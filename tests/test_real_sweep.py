"""Whole sweeps of real trials on a real Ray: what a warm worker computes, and what is computed again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator.config import SweepConfig
from orchestrator.events import Anchor, Record
from orchestrator.ledger import read_events, read_records
from orchestrator.sweep import run_sweep
from tests import tiny
from trials.benchmarks import load_benchmark

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(240)]


def swept(sweep: SweepConfig, output: Path) -> list[Record]:
    with open(os.devnull, "w") as nowhere:
        benchmark = load_benchmark(sweep.trial.benchmark)
        run_sweep(sweep, benchmark, output=output, console=Console(file=nowhere))
    return read_records(output / sweep.name)


def test_a_trial_has_the_same_metrics_to_the_last_bit_in_a_warm_worker_and_in_fresh_ones(
    llama: Path, tmp_path: Path
) -> None:
    config: dict[str, Any] = {
        "name": "same",
        "trial": tiny.trial(llama, epochs=2).model_dump(mode="json"),
        "space": {"optim.lr": {"choice": [1e-3, 2e-3, 3e-3]}},
        "sampler": {"type": "grid"},
        "scheduler": {"type": "none"},
        "budget": {"trials": 3, "concurrent": 1},
    }
    warm = swept(SweepConfig.model_validate(config), tmp_path / "one worker, three trials")
    config |= {"space": {"optim.lr": {"choice": [2e-3, 3e-3]}}, "budget": {"trials": 2, "concurrent": 2}}
    fresh = swept(SweepConfig.model_validate(config), tmp_path / "two workers, a trial each")
    assert {record.state for record in warm + fresh} == {"COMPLETE"}
    by_rate = [{record.params["optim.lr"]: record.metrics for record in records} for records in (warm, fresh)]
    assert by_rate[0].keys() == {1e-3, 2e-3, 3e-3}
    assert by_rate[1] == {rate: by_rate[0][rate] for rate in (2e-3, 3e-3)}
    assert by_rate[1][2e-3] != by_rate[1][3e-3]
    anchors = [e for e in read_events(tmp_path / "one worker, three trials" / "same") if isinstance(e, Anchor)]
    assert [anchor.name for anchor in anchors] == ["target"]  # a model of one's own has no retain model beside it


def test_the_same_file_and_seed_with_one_worker_gives_the_same_records(llama: Path, tmp_path: Path) -> None:
    sweep = SweepConfig.model_validate(
        {
            "name": "again",
            "trial": tiny.trial(llama, epochs=4).model_dump(mode="json"),
            "space": {"optim.lr": {"float": [1e-4, 1e-2], "log": True}, "loss.criterion.beta2": {"float": [0, 1]}},
            "scheduler": {"type": "pareto_asha", "grace_period": 1},
            "baselines": ["gradient_ascent"],
            "budget": {"trials": 8, "concurrent": 1},
            "sampler": {"type": "tpe", "startup": 3},
        }
    )
    one, other = (
        [record.model_dump(exclude={"started", "seconds"}) for record in swept(sweep, tmp_path / name)]
        for name in ("one", "other")
    )
    assert len(one) == 8
    assert one == other
