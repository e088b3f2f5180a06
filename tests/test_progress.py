"""What a person sees while a sweep runs."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator import progress as module
from orchestrator.config import SweepConfig
from orchestrator.events import Opened
from orchestrator.ledger import Ledger
from orchestrator.progress import SweepProgress
from orchestrator.search.rungs import Rungs
from orchestrator.search.study import StudySearcher
from tests.simulate import drive
from tests.sweeps import small_sweep


class Screen:
    """A terminal of 80 columns, or a file, with what was shown on it."""

    def __init__(self, *, terminal: bool) -> None:
        self.file = io.StringIO()
        self.console = Console(file=self.file, force_terminal=terminal, width=80, color_system=None)

    @property
    def lines(self) -> list[str]:
        return self.file.getvalue().splitlines()


def watched(sweep: SweepConfig, folder: Path, screen: Screen, *, workers: int = 2, most: int = 10**9) -> SweepProgress:
    """Runs a sweep, or at most so many of its epochs, with its progress on a screen."""
    folder.mkdir(exist_ok=True)
    ledger = Ledger(folder)
    ledger.append(Opened(fingerprint="f"))
    rungs = Rungs(sweep, ledger.anchors())
    rungs.replay(ledger.events)
    searcher = StudySearcher(sweep, ledger, folder, concurrent=workers, digests=("data", "model"), rungs=rungs)
    with SweepProgress(sweep, screen.console, ledger) as progress:
        progress.follow(searcher)
        ledger.listen(progress)
        drive(sweep, searcher, rungs, workers=workers, most=most)
    ledger.close()
    return progress


def table(progress: SweepProgress) -> str:
    screen = Screen(terminal=True)
    screen.console.print(progress._table())
    assert max(map(len, screen.lines)) <= 80
    return " ".join(screen.file.getvalue().split())


def test_without_a_terminal_each_ended_trial_is_a_line(tmp_path: Path) -> None:
    screen = Screen(terminal=False)
    watched(small_sweep(budget={"trials": 4}), tmp_path, screen, workers=1)
    assert len(screen.lines) == 5
    assert re.fullmatch(
        r"00000 \[gradient_ascent\]  complete at epoch 8  forget.extraction_strength 0\.\d{3}  "
        r"retain.extraction_strength 0\.\d{3}  \| 1 of 4 trials, front 1, hypervolume 0\.\d{4}",
        screen.lines[0],
    )
    assert [re.findall(r"\d of 4 trials", line) for line in screen.lines[:4]] == [
        [f"{n} of 4 trials"] for n in range(1, 5)
    ]
    assert screen.lines[4] == "the search has ended: trials 4 of 4"


def test_the_table_says_what_runs_and_how_much_of_each_limit_is_used(tmp_path: Path) -> None:
    limits = {"trials": 16, "epochs": 90, "hours": 2}
    shown = table(watched(small_sweep(budget=limits), tmp_path, Screen(terminal=False), most=30))
    assert re.search(r"small: running 2 \| done \d \| pruned \d \| failed 0", shown)
    assert re.search(r"tpe \| \d of up to 16 trials, 30 of 90 epochs, 0.0 of 2 hours", shown)
    assert re.search(r"elapsed 0:00:\d\d, about 0:00:\d\d to go \| front \d \| hypervolume 0\.\d{4}", shown)
    assert re.search(r"\d{5} │ running │ \d/8", shown)


def test_phases_and_paused_trials_are_told(tmp_path: Path) -> None:
    phases = [{"trials": 10}, {"sampler": {"type": "ablation", "base": "knee"}}]
    scheduler = {"type": "pareto_asha", "grace_period": 1, "promotion": "pause"}
    sweep = small_sweep(phases=phases, scheduler=scheduler, baselines=["wga"], budget={"trials": 60})
    shown = table(watched(sweep, tmp_path, Screen(terminal=False), most=20))
    assert "phase 1 of 2, tpe | " in shown
    paused = int(re.findall(r"paused (\d+)", shown)[0])
    assert paused > 0
    assert shown.count("running │") == int(re.findall(r"running (\d+)", shown)[0]) == 2
    screen = Screen(terminal=False)
    shown = table(watched(sweep, tmp_path, screen))
    assert "phase 2 of 2, ablation | " in shown
    assert "paused" not in shown
    assert screen.lines[-1] == "the search has ended: all phases are through"


def test_confirmations_are_counted_apart_and_named_by_their_seed(tmp_path: Path) -> None:
    sweep = small_sweep(budget={"trials": 6}, confirm={"seeds": 2, "at_most": 3})
    screen = Screen(terminal=False)
    shown = table(watched(sweep, tmp_path, screen))
    (count,) = {int(count) for count in re.findall(r"confirming: (\d+) of up to 10 trials", shown)}
    assert count >= 4
    assert len([line for line in screen.lines if "| confirming: " in line]) == count
    assert any(re.match(r"\d{5} \[seed 1 of \d{5}\]  complete at epoch 8", line) for line in screen.lines)


def test_what_was_there_before_is_counted_and_not_shown_as_running(tmp_path: Path) -> None:
    sweep = small_sweep()
    watched(sweep, tmp_path, Screen(terminal=False), most=30)
    ledger = Ledger(tmp_path)
    shown = table(SweepProgress(sweep, Screen(terminal=True).console, ledger))
    ledger.close()
    assert "running 0" in shown
    assert re.search(r"done [1-9]", shown)
    assert "about ? to go" in shown, "nothing has been done yet from which to tell"


def test_an_interrupted_sweep_does_not_say_that_the_search_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Screen(terminal=False)

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "record_of", interrupted)
    with pytest.raises(KeyboardInterrupt):
        watched(small_sweep(), tmp_path, screen)
    assert screen.lines == []
