"""The control loop without Ray: `StudySearcher` and `Rungs` around a trial function, on a simulated clock.

Workers are a heap of (time at which the next epoch is ready, trial). An epoch of trial n takes 1 + n / 1000, so that
arrivals interleave the same way each time.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchestrator.config import SweepConfig
from orchestrator.ledger import Ledger
from orchestrator.search.rungs import Rungs
from orchestrator.search.study import StudySearcher
from tests.surrogate import surrogate
from trials.config import TrialConfig
from trials.result import OutOfMemory, TrialFailed


def simulate(
    sweep: SweepConfig, folder: Path, *, workers: int = 2, trial: Any = surrogate, most: int = 10**9
) -> Ledger:
    """Runs a sweep, or at most `most` epochs of it as if the driver were killed then; returns its ledger."""
    ledger = Ledger(folder)
    rungs = Rungs(sweep, ledger.anchors())
    rungs.replay(ledger.events)
    searcher = StudySearcher(sweep, ledger, folder, concurrent=workers, digests=("data", "model"), rungs=rungs)
    drive(sweep, searcher, rungs, workers=workers, trial=trial, most=most)
    return ledger


def drive(
    sweep: SweepConfig,
    searcher: StudySearcher,
    rungs: Rungs,
    *,
    workers: int,
    trial: Any = surrogate,
    most: int = 10**9,
    crash: Callable[[StudySearcher], BaseException | None] = lambda searcher: None,
) -> None:
    """What Ray does with a searcher and a scheduler. Raises what `crash` returns after an epoch."""
    clock, started = 0.0, 0
    waiting: list[tuple[float, str, dict[str, Any], Any]] = []
    while True:
        while len(waiting) < workers and not searcher.stopped:
            settings = searcher.suggest(f"ray-{started}")
            if not isinstance(settings, dict):
                break
            checkpoint = Path(settings["folder"], "checkpoint")
            config = TrialConfig.model_validate(settings["trial"])
            resume_from = checkpoint if checkpoint.exists() else None
            epochs = trial(config, folder=Path(settings["folder"]), resume_from=resume_from)
            heapq.heappush(waiting, (clock + 1 + started / 1000, f"ray-{started}", settings, epochs))
            started += 1
        if not waiting or most <= 0:
            return
        most -= 1
        clock, name, settings, epochs = heapq.heappop(waiting)
        try:
            epoch = next(epochs)
        except TrialFailed as error:
            failed = {"failure": str(error), "out_of_memory": isinstance(error, OutOfMemory), "done": True}
            searcher.on_trial_complete(name, {"epoch": -1, "seconds": 0.0} | failed)
            continue
        flat = {"epoch": epoch.epoch, "seconds": epoch.seconds} | {f"metrics/{k}": v for k, v in epoch.metrics.items()}
        decision = rungs.decide(settings["trial_id"], epoch.epoch, epoch.metrics, protected=settings["protected"])
        if epoch.last or decision != "go":
            searcher.on_trial_complete(name, flat)
        else:
            searcher.on_trial_result(name, flat)
            heapq.heappush(waiting, (clock + 1 + int(settings["trial_id"]) / 1000, name, settings, epochs))
        if error := crash(searcher):
            raise error
