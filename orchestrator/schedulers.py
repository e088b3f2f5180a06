"""Ray's side of early stopping: hands results to `Rungs` and its decisions back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from orchestrator.rungs import Rungs


class RungScheduler(FIFOScheduler):
    """Stops a trial when its rung says so."""

    def __init__(self, rungs: Rungs) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rungs = rungs

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """CONTINUE or STOP."""
        on = self.rungs.goes_on(
            trial.config["trial_id"],
            result["epoch"],
            metrics_of(result),
            protected=trial.config["label"] is not None,
        )
        return str(TrialScheduler.CONTINUE if on else TrialScheduler.STOP)

    def debug_string(self) -> str:
        """One line for Ray's own log."""
        return "rungs " + ", ".join(f"{epoch}: {len(values)}" for epoch, values in self.rungs.values.items())


def metrics_of(result: Mapping[str, Any]) -> dict[str, float]:
    """The metrics in a result as Ray hands it on: flat, with `metrics/` before each name."""
    return {key.removeprefix("metrics/"): value for key, value in result.items() if key.startswith("metrics/")}
