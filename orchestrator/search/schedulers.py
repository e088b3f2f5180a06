"""Ray's side of early stopping: hands results to `Rungs` and its decisions back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from orchestrator.cluster import is_leaving
from orchestrator.search.faults import LOST, Fault, Watch, fault_of, node_of
from orchestrator.search.rungs import Rungs


class RungScheduler(FIFOScheduler):
    """Stops a trial when its rung says so.

    Args:
        rungs: The rule.
        causes: Filled with Ray's id of a trial -> what befell it.
        timeout: Minutes without an epoch after which a trial is taken to hang; None: never.
    """

    def __init__(self, rungs: Rungs, causes: dict[str, Fault] | None = None, timeout: float | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rungs = rungs
        self.causes = {} if causes is None else causes
        self._watch = Watch(timeout)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Keeps what Ray knows of a trial's end for the searcher, which is told next, and not told that."""
        self._watch.forget(trial.trial_id)
        if trial.trial_id in self.causes:  # it was killed, which is told there
            return
        text = ""
        if trial.error_file and Path(trial.error_file).exists():
            text = Path(trial.error_file).read_text(encoding="utf-8").rpartition("Failure #")[2].partition("\n")[2]
        fault = fault_of(text)
        if fault == LOST and (node := node_of(Path(trial.config["folder"]))) and is_leaving(node):
            fault = Fault("node", "its node was taken away")  # Ray tells of the process before it knows of the node
        self.causes[trial.trial_id] = fault

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Ray asks at each turn of its loop: also when to end trials that hang."""
        if self._watch.limit is not None:
            for trial in tune_controller.get_live_trials():
                if trial.status == Trial.RUNNING and self._watch.hangs(trial.trial_id):
                    self.causes[trial.trial_id] = Fault("hung", self._watch.words())
                    # A call into a device that hangs cannot be interrupted from within: the process goes.
                    ray.kill(trial.temporary_state.ray_actor, no_restart=True)
        return super().choose_trial_to_run(tune_controller)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """CONTINUE or STOP; a trial that is paused stops for Ray too, which costs nothing: its checkpoint stays."""
        self._watch.forget(trial.trial_id)
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
