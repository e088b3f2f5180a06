"""Whose checkpoints a run folder keeps: of whatever trials, in whatever order, killed whenever."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.config import SweepConfig, load_sweep
from orchestrator.events import Ended, Epoch, Measured, Suggested
from orchestrator.housekeeping import Housekeeping, disk_of
from orchestrator.keeping import Checkpoints, contenders, keepers
from orchestrator.ledger import Ledger
from orchestrator.problems import ConfigError
from orchestrator.results.front import front_of
from tests.simulate import simulate
from tests.sweeps import info_of, small_sweep

F, R = "forget.extraction_strength", "retain.extraction_strength"
KEEPS = ["front", {"keep": "best_k", "k": 2, "by": R}, "all", "none"]
quick = settings(max_examples=30, deadline=None, derandomize=True)
values = st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.9])
states = st.sampled_from(["COMPLETE", "COMPLETE", "COMPLETE", "PRUNED", "FAIL", "missed", "lacks", "earlier"])
trials = st.lists(st.tuples(values, values, states), max_size=14)


class Place:
    """A run folder: one call, one thing that happens; a driver that is killed goes without a word."""

    def __init__(self, folder: Path, sweep: SweepConfig) -> None:
        self.folder, self.sweep = folder, sweep
        (folder / "sweep.json").write_text(info_of(sweep).model_dump_json())
        self.open()

    def open(self) -> None:
        self.ledger = Ledger(self.folder)
        self.house = Housekeeping(self.folder, self.sweep, self.ledger)
        self.ledger.listen(self.house)

    def close(self) -> None:
        self.ledger.close()

    def begin(self, **told: Any) -> str:
        number = sum(isinstance(event, Suggested) for event in self.ledger.events)
        trial_id = f"{number:05d}"
        about = {"label": None, "params": {}, "config": {}, "fingerprint": "f", "seed": 0} | told
        self.ledger.append(Suggested(trial_id=trial_id, number=number, **about))
        if told.get("origin") != "earlier":
            (self.folder / "trials" / trial_id / "checkpoint" / "00001").mkdir(parents=True)
            (self.folder / "trials" / trial_id / "checkpoint" / "00001" / "model").write_bytes(bytes(500))
        return trial_id

    def end(self, trial_id: str, forget: float, retain: float, state: Any = "COMPLETE") -> None:
        metrics = {F: forget} if state == "lacks" else {F: forget, R: retain}
        self.ledger.append(Epoch(trial_id=trial_id, epoch=1, metrics=metrics, seconds=1.0))
        kind = state if state in ("PRUNED", "FAIL") else "COMPLETE"
        missed = {"forget.nll": 1.0} if state == "missed" else {}
        self.ledger.append(Ended(trial_id=trial_id, state=kind, epoch=1, violations=missed))

    def trial(self, forget: float, retain: float, state: Any = "COMPLETE", **told: Any) -> str:
        trial_id = self.begin(**(told | ({"origin": "earlier"} if state == "earlier" else {})))
        self.end(trial_id, forget, retain, state)
        return trial_id

    @property
    def have(self) -> set[str]:
        return {place.parent.name for place in self.folder.glob("trials/*/checkpoint")}

    @property
    def front(self) -> set[str]:
        return {r.trial_id for r in front_of(self.ledger.records(), self.sweep.objectives) if r.origin != "earlier"}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Any]:
    made: list[Place] = []

    def make(**changes: Any) -> Place:
        made.append(Place(tmp_path, small_sweep(**changes)))
        return made[-1]

    yield make
    for each in made:
        each.close()


@quick
@given(trials, st.data())
def test_after_every_event_the_front_and_who_has_not_ended_have_a_checkpoint_and_nobody_else(
    ended: list[tuple[float, float, str]], data: Any
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder), small_sweep())
        running: list[str] = []
        for forget, retain, state in ended:
            if data.draw(st.integers(0, 1)):
                running.append(place.begin())
            place.trial(forget, retain, state)
            if running and data.draw(st.integers(0, 1)):
                place.end(running.pop(), data.draw(values), data.draw(values))
            assert place.have == place.front | set(running)
        place.close()


@quick
@given(trials, st.sampled_from(KEEPS))
def test_who_is_kept_follows_from_all_that_ended_whatever_the_order_and_however_often_the_driver_was_killed(
    ended: list[tuple[float, float, str]], keep: Any
) -> None:
    def have(restarts: bool) -> set[str]:
        with tempfile.TemporaryDirectory() as folder:
            place = Place(Path(folder), small_sweep(checkpoints=keep))
            for each in ended:
                place.trial(*each)
                if restarts:
                    place.close()
                    place.open()
            place.close()
            return place.have

    assert have(restarts=False) == have(restarts=True)


@quick
@given(trials, st.sampled_from(["front", {"keep": "best_k", "k": 3}]))
def test_contenders_decide_as_all_trials_do(ended: list[tuple[float, float, str]], keep: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder), small_sweep())
        for each in ended:
            place.trial(*each)
        place.close()
        found, setting = place.ledger.records(), Checkpoints.model_validate(keep)
        by: dict[str, Any] = {F: "min"}
        few = contenders(setting, found, place.sweep.objectives, by)
        assert keepers(setting, few, place.sweep.objectives, by) == keepers(setting, found, place.sweep.objectives, by)


def test_nothing_is_deleted_before_the_event_that_justifies_it_is_in_the_ledger(
    place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = place()
    first = here.trial(0.5, 0.5)
    better = here.begin()
    monkeypatch.setattr("orchestrator.ledger.os.write", lambda *_: 0)
    with pytest.raises(OSError, match="could not be written whole"):
        here.end(better, 0.1, 0.9)
    assert here.have == {first, better}


def test_what_a_killed_driver_left_is_deleted_when_the_sweep_is_taken_up(place: Any, tmp_path: Path) -> None:
    here = place()
    first, better = here.trial(0.5, 0.5), here.trial(0.1, 0.9)
    paused = here.begin()
    (tmp_path / "trials" / first / "checkpoint").mkdir()
    (tmp_path / "trials" / "00009.damaged-1" / "checkpoint").mkdir(parents=True)  # nothing is known of it: not ours
    here.close()
    here.open()
    assert here.have == {better, paused, "00009.damaged-1"}
    assert (tmp_path / "trials" / first / "metrics.csv").exists()
    assert len(here.ledger.records()) == 2


def test_best_k_goes_by_its_metric_and_all_and_none_mean_it(place: Any) -> None:
    here = place(checkpoints={"keep": "best_k", "k": 2, "by": R})
    points = [(0.1, 0.2), (0.9, 0.9), (0.5, 0.5), (0.9, 0.8), (0.3, 0.9)]
    ids = [here.trial(*point) for point in points]
    assert here.have == {ids[1], ids[4]}


@pytest.mark.parametrize(("keep", "kept"), [("all", {"00000", "00001"}), ("none", set())])
def test_all_and_none_mean_it(keep: str, kept: set[str], place: Any) -> None:
    here = place(checkpoints=keep)
    for state in ("COMPLETE", "missed", "PRUNED", "FAIL"):
        here.trial(0.5, 0.5, state)
    running = here.begin()
    assert here.have == kept | {running}


def test_who_is_still_to_be_measured_keeps_it_until_then(place: Any) -> None:
    here = place(checkpoints="none", trial={"epochs": 8, "evaluation": {"front": ["forget.fluency"]}})
    first, second = here.trial(0.1, 0.1), here.trial(0.9, 0.9)
    here.trial(0.9, 0.1)
    assert here.have == {first, second}
    here.ledger.append(Measured(trial_id=first, metrics={}, seconds=1.0, failure="out of memory"))
    here.ledger.append(Measured(trial_id=second, metrics={"forget.fluency": 0.5}, seconds=1.0))
    assert here.have == {first}
    here.close()
    here.open()
    assert here.have == {first}


def test_points_with_several_seeds_wait_for_these_and_then_the_seeds_decide(place: Any) -> None:
    here = place(confirm={"seeds": 2}, baselines=["wga"])
    published = here.trial(0.5, 0.5, label="wga")
    lucky = here.trial(0.1, 0.9)
    dull = here.trial(0.6, 0.4)
    assert here.have == {published, lucky}, "the published setting is to be run again, and may be the better one"
    for value in (0.30, 0.31):
        here.trial(value, 0.9, origin="confirm", of=published)
        here.trial(value + 0.3, 0.5, origin="confirm", of=lucky)
    assert here.have == {published, lucky}
    here.house.settle()
    assert dull not in here.have
    assert published in here.have, "it is on the confirmed front, and `export --pick knee` takes it"
    assert lucky in here.have, "on the front of single seeds"


def test_a_paused_trial_keeps_it_until_it_ends(tmp_path: Path) -> None:
    pausing = {"type": "pareto_asha", "grace_period": 2, "promotion": "pause", "reduction_factor": 2}
    sweep = small_sweep(scheduler=pausing)
    for _ in range(100):
        ledger = simulate(sweep, tmp_path, most=7)  # the driver is killed again and again
        house = Housekeeping(tmp_path, sweep, ledger)
        ended = {record.trial_id for record in ledger.records()}
        begun = {event.trial_id for event in ledger.events if isinstance(event, Epoch)}
        front = {record.trial_id for record in front_of(ledger.records(), sweep.objectives)}
        assert {p.parent.name for p in tmp_path.glob("trials/*/checkpoint")} == front | (begun - ended)
        house.settle()
        ledger.close()
        if len(ended) == 16:
            break
    assert len(ended) == 16
    for trial in (tmp_path / "trials").iterdir():
        ran = (trial / "ran.txt").read_text().split()
        assert len(ran) - len(set(ran)) == 0, "it went on from its checkpoint"


def test_the_disk_that_they_take_is_counted(place: Any, tmp_path: Path) -> None:
    here = place()
    for forget, retain in ((0.5, 0.5), (0.1, 0.2), (0.4, 0.9), (0.9, 0.1)):
        here.trial(forget, retain)
    here.trial(0.5, 0.5, "earlier")
    assert str(disk_of(tmp_path, here.ledger.records())) == "checkpoints of 2 trials, 1 kB; 2 deleted"
    shutil.rmtree(tmp_path / "trials" / "00002" / "checkpoint")
    assert str(disk_of(tmp_path, here.ledger.records())) == "checkpoints of 1 trial, 500 B; 3 deleted"
    assert math.isclose(disk_of(tmp_path, []).size, 500)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("checkpoints=fron", "checkpoints: 'fron' is not allowed; did you mean 'front'?"),
        ("checkpoints.k=3", "checkpoints: k: of keep: best_k only, and this is keep: front; leave it out"),
        ("checkpoints={keep: best_k, k: 0}", "checkpoints.k: 0 must be greater than 0"),
        ("checkpoints={keep: best_k, by: forget.nil}", "checkpoints.by: 'forget.nil' is not a metric"),
        ("checkpoints={keep: best_k, by: forget.privleak}", "checkpoints.by: 'forget.privleak' is "),
    ],
)
def test_a_setting_that_makes_no_sense_is_told(setting: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load_sweep("smoke", [setting], output=tmp_path)
    assert message in str(error.value)


def test_the_metric_of_best_k_is_measured_and_what_is_kept_may_change_in_a_sweep(tmp_path: Path) -> None:
    sweep, benchmark = load_sweep(
        "smoke", ["checkpoints={keep: best_k, by: forget.extraction_strength_openunlearning}"], output=tmp_path
    )
    plain, _ = load_sweep("smoke", output=tmp_path)
    other, _ = load_sweep("smoke", ["checkpoints=all"], output=tmp_path)
    assert "forget.extraction_strength_openunlearning" in sweep.trial.evaluation.metrics
    assert benchmark is not None
    assert plain.fingerprint(benchmark) == other.fingerprint(benchmark)
