"""Ray's side of early stopping: hands results to `Rungs` and its decisions back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from orchestrator.search.rungs import Rungs


class RungScheduler(FIFOScheduler):
    """Stops a trial when its rung says so.

    Args:
        rungs: The rule.
        causes: Filled with Ray's id of a trial -> what ended it, in a line.
    """

    def __init__(self, rungs: Rungs, causes: dict[str, str] | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rungs = rungs
        self.causes = {} if causes is None else causes

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Keeps what Ray knows of a trial's end for the searcher, which is told next, and not told that."""
        if trial.error_file and Path(trial.error_file).exists():
            text = Path(trial.error_file).read_text(encoding="utf-8").rpartition("Failure #")[2]
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            died = "ActorDiedError" in text or "actor died" in text or not lines
            self.causes[trial.trial_id] = "its worker process died" if died else lines[-1][:500]

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """CONTINUE or STOP; a trial that is paused stops for Ray too, which costs nothing: its checkpoint stays."""
        decision = self.rungs.decide(
            trial.config["trial_id"], result["epoch"], metrics_of(result), protected=trial.config["protected"]
        )
        return str(TrialScheduler.CONTINUE if decision == "go" else TrialScheduler.STOP)

    def debug_string(self) -> str:
        """One line for Ray's own log."""
        return "rungs " + ", ".join(f"{epoch}: {trials}" for epoch, trials in self.rungs.sizes().items())


def metrics_of(result: Mapping[str, Any]) -> dict[str, float]:
    """The metrics in a result as Ray hands it on: flat, with `metrics/` before each name."""
    return {key.removeprefix("metrics/"): value for key, value in result.items() if key.startswith("metrics/")}
