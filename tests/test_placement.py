"""As many trials as fit: the arithmetic, what is measured, and when it is measured again."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from orchestrator import placement
from orchestrator.cluster import _fits
from orchestrator.config import SweepConfig, load_sweep
from orchestrator.events import OF_NO_TRIAL, Packed, Resumed, SweepInfo
from orchestrator.ledger import Ledger, read_events, read_records
from orchestrator.placement import Reading, heaviest, packed, place_trials
from orchestrator.problems import ConfigError
from orchestrator.rehearsal.plan import make_plan, show_plan
from orchestrator.resources import Resources
from orchestrator.results.front import summarise
from orchestrator.search.config import Budget
from orchestrator.search.spending import Spending
from orchestrator.sweep import run_sweep
from tests.surrogate import surrogate
from tests.sweeps import info_of, small_sweep
from trials.benchmarks import load_benchmark
from trials.config import TrialConfig
from trials.sources import AuthorsConfig

GIB = 2**30
SPACE = {
    "model.adapter": {"one_of": {"none": {}, "lora": {"rank": {"choice": [4, 64]}}}},
    "optim.batch_size": {"choice": [4, 16]},
    "loss.criterion": {"one_of": {"npo": {"beta": {"float": [0.05, 1]}}, "dpo": {}, "simnpo": {}}},
}


def auto(**changes: Any) -> SweepConfig:
    return small_sweep(**{"resources": "auto"} | changes)


# -- how many ----------------------------------------------------------------------------------------------------------


@given(
    total=st.integers(1, 200 * GIB), share=st.floats(1e-3, 1), margin=st.floats(0, 0.9), gpus=st.integers(1, 8)
)  # fmt: skip
def test_as_many_trials_of_that_peak_as_fit_with_the_margin_and_not_one_more(
    total: int, share: float, margin: float, gpus: int
) -> None:
    peak = max(1, int(total * share))
    if peak > total * (1 - margin):
        with pytest.raises(ConfigError, match=r"leaves less than"):
            packed("of", Reading(peak, total, "GPU"), margin, gpu=True)
        return
    event = packed("of", Reading(peak, total, "GPU"), margin, gpu=True)
    assert event.trials * peak <= total * (1 - margin)
    assert (event.trials + 1) * peak > total * (1 - margin) or event.trials == placement.MOST
    assert event.trials * event.gpu <= 1 < (event.trials + 1) * event.gpu, "Ray takes so many a GPU"
    resources = auto().resources.model_copy(update={"gpu": event.gpu})
    assert _fits(resources, {"CPU": 1000, "GPU": gpus}) == gpus * event.trials


def test_of_packs_only_whole_ones_fit() -> None:
    assert _fits(Resources(cpu=2, pack=8), {"CPU": 5}) == 16
    assert _fits(Resources(cpu=1, gpu=1, pack=3), {"CPU": 4, "GPU": 2}) == 6
    assert _fits(Resources(cpu=2, pack=8), {"CPU": 1}) == 0


@given(total=st.integers(GIB, 500 * GIB), peak=st.integers(GIB // 4, 60 * GIB), margin=st.floats(0, 0.9))
def test_without_a_gpu_trials_share_the_memory_that_ray_counts(total: int, peak: int, margin: float) -> None:
    if peak > total * (1 - margin):
        return
    event = packed("of", Reading(peak, total), margin, gpu=False)
    assert event.gpu == 0
    assert event.memory == pytest.approx(peak / (1 - margin) / GIB)
    resources = auto().resources.model_copy(update={"gpu": 0.0, "memory": event.memory})
    fits = _fits(resources, {"CPU": 10_000, "memory": total})
    assert fits * peak <= total * (1 - margin) + fits
    assert fits in (event.trials, event.trials - 1), "a whole number of bytes may cost the last one"
    assert _fits(resources, {"CPU": 1, "memory": total}) == min(1, fits)


@pytest.mark.parametrize(
    ("reading", "said"),
    [
        (
            Reading(76 * GIB, 80 * GIB, "GPU"),
            "auto: a trial takes 76.0 GiB of 80.0 GiB, which leaves less than 10% free; lower resources.margin, "
            "set a smaller trial.optim.micro_batch_size or trial.evaluation.batch_size, or several GPUs for a trial "
            "(resources.gpu: 2 with trial.model.device_map: balanced)",
        ),
        (
            Reading(failure="out of memory: CUDA", ran_out=True),
            "auto: not even one trial fits: out of memory: CUDA; set a smaller trial.optim.micro_batch_size or "
            "trial.evaluation.batch_size, or several GPUs for a trial (resources.gpu: 2 with trial.model.device_map: "
            "balanced)",
        ),
        (
            Reading(failure="KeyError: 'x'"),
            "auto: the probe failed: KeyError: 'x'; run it by `unlearn-sweep trial` to see why, or write "
            "resources.gpu as a number",
        ),
    ],
)  # fmt: skip
def test_where_not_one_fits_it_says_what_to_do(reading: Reading, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        packed("of", reading, 0.1, gpu=True)
    (problem,) = caught.value.problems
    assert (problem.path, problem.message) == ("resources.gpu", said)


# -- what is measured --------------------------------------------------------------------------------------------------


def test_the_probe_is_the_largest_of_each_that_the_space_can_choose() -> None:
    largest = heaviest(auto(space=SPACE, trial={"model": {"adapter": {"type": "lora"}}, "epochs": 8}))
    assert largest.model.adapter.type == "none"
    assert (largest.optim.batch_size, largest.optim.micro_batch_size) == (16, 16)
    assert largest.loss.criterion.type == "dpo", "a refusal beside each answer"
    assert (largest.epochs, largest.optim.lr) == (1, 1e-12)
    TrialConfig.model_validate(largest.model_dump())


def test_an_ablation_chooses_too() -> None:
    phases = [{"sampler": {"type": "ablation", "values": {"optim.batch_size": [4, 32]}}}]
    assert heaviest(auto(space={}, phases=phases)).optim.batch_size == 32


class Probes:
    """Stands in for Ray and for the probe; counts what is measured."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, gpus: int, kind: str = "H200") -> None:
        there = {"CPU": 8.0, "GPU": float(gpus), f"accelerator_type:{kind}": float(gpus)}
        monkeypatch.setattr(placement, "ray", SimpleNamespace(cluster_resources=lambda: there))
        self.measured: list[tuple[TrialConfig, bool]] = []

    def __call__(self, config: TrialConfig, folder: Path, gpu: bool) -> Reading:
        self.measured.append((config, gpu))
        folder.mkdir()
        return Reading(int(9.8 * GIB), int(79.2 * GIB), "NVIDIA H100" if gpu else "")


def placed(sweep: SweepConfig, ledger: Ledger, probe: Probes) -> tuple[SweepConfig, str]:
    said = io.StringIO()
    return place_trials(sweep, ledger, Console(file=said, width=200), probe=probe), said.getvalue()


def test_a_resumed_sweep_is_not_measured_again_unless_what_is_measured_has_changed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    probe, ledger = Probes(monkeypatch, gpus=2), Ledger(tmp_path)
    sweep, said = placed(auto(), ledger, probe)
    assert (sweep.resources.share, sweep.resources.memory) == (0.1428, None)
    line = "probe: peak 9.8 GiB of 79.2 GiB; 7 trials on a GPU (NVIDIA H100) with 10 % kept free"
    assert said.splitlines()[-1] == line
    assert not (tmp_path / ".probe").exists()
    ledger.close()
    ledger = Ledger(tmp_path)
    assert placed(auto(), ledger, probe) == (sweep, f"{line} (measured before)\n")
    halved = {"optim.micro_batch_size": 4}
    ledger.append(Resumed(trial_id="00000", why="memory", cause="out of memory in epoch 1", changed=halved))
    assert placed(auto(budget={"trials": 99}), ledger, probe)[0].resources == sweep.resources
    assert (len(probe.measured), len(ledger.events)) == (1, 2)
    half, _ = placed(auto(resources={"gpu": "auto", "margin": 0.5}), ledger, probe)
    assert half.resources.share == 0.25
    assert (len(probe.measured), len(ledger.events)) == (1, 3), "another margin is arithmetic"
    placed(auto(trial={"epochs": 8, "optim": {"batch_size": 64}}), ledger, probe)
    assert len(probe.measured) == 2
    placed(auto(), ledger, Probes(monkeypatch, gpus=2, kind="L4"))
    assert len(ledger.events) == 5, "another kind of GPU"
    assert placed(auto(resources={"gpu": 0.5}), ledger, probe)[0].resources.share == 0.5
    ledger.close()


def test_a_trial_on_the_cpu_leaves_the_gpus_of_a_cluster_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    probe, ledger = Probes(monkeypatch, gpus=2), Ledger(tmp_path)
    sweep, said = placed(auto(trial={"model": {"device": "cpu"}}), ledger, probe)
    assert (sweep.resources.share, probe.measured[0][1]) == (0.0, False)
    assert "7 trials in the memory of a machine, if it has the CPUs, with 10 % kept free" in said
    ledger.close()


# -- who reads it ------------------------------------------------------------------------------------------------------


def test_gpu_hours_follow_what_was_measured() -> None:
    event = packed("of", Reading(GIB, 4 * GIB, "GPU"), 0.0, gpu=True)
    spending = Spending(Budget(), Resources(gpu="auto"))
    spending.take(event)
    assert (spending.gpu, Spending(Budget(), Resources(gpu=0.5)).gpu) == (0.25, 0.5)
    assert summarise(info_of(auto()), [event]).gpu == 0.25
    assert summarise(info_of(auto()), []).gpu == 0
    assert isinstance(event, OF_NO_TRIAL)


def test_a_number_that_nobody_measured_is_not_taken_for_one() -> None:
    with pytest.raises(ValueError, match="no probe has been measured"):
        _ = auto().resources.bundle


def test_the_plan_says_that_it_will_be_measured(tmp_path: Path) -> None:
    said = io.StringIO()
    sweep = auto(budget={"trials": 16, "concurrent": 3})
    show_plan(sweep, make_plan(sweep, None, tmp_path), Console(file=said, width=200))
    assert "at once: as many as fit, 3 at most: a probe measures the memory of one before the first" in said.getvalue()


@pytest.mark.ray
@pytest.mark.timeout(180)
def test_a_whole_sweep_is_packed_once_and_goes_on_as_it_was(tmp_path: Path) -> None:
    said, benchmark = io.StringIO(), load_benchmark(AuthorsConfig())
    for trials in (4, 6):
        sweep = auto(budget={"trials": trials})
        outcome = run_sweep(sweep, benchmark, output=tmp_path, trial=surrogate, console=Console(file=said, width=200))
        assert outcome.ended == "finished"
    folder = tmp_path / "small"
    (event,) = [event for event in read_events(folder) if isinstance(event, Packed)]
    assert event.gpu == 0
    assert event.total > event.peak > 2**24
    assert len(read_records(folder)) == 6
    assert said.getvalue().count("probe: measuring") == 1
    assert "(measured before)" in said.getvalue()
    assert SweepInfo.read(folder).config["resources"]["gpu"] == "auto"


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_smoke_sweep_measures_a_real_trial(tmp_path: Path) -> None:
    overrides = ["resources=auto", "budget.trials=1", "baselines=[]", "trial.epochs=1", "scheduler={type: none}"]
    overrides += ["trial.model.tiny.epochs=1", "trial.benchmark.authors=4", "trial.benchmark.forget_authors=1"]
    overrides += ["trial.benchmark.retain_pool=14"]
    sweep, benchmark = load_sweep("smoke", overrides, output=tmp_path)
    said = io.StringIO()
    outcome = run_sweep(sweep, benchmark, output=tmp_path, console=Console(file=said, width=200))
    (event,) = [event for event in read_events(tmp_path / "smoke") if isinstance(event, Packed)]
    assert event.peak > 100 * 2**20, "torch alone takes that"
    assert outcome.ended == "finished"
    assert [record.state for record in read_records(tmp_path / "smoke")] == ["COMPLETE"]
    assert not (tmp_path / "smoke" / ".probe").exists()
