"""The Ray trainable: a warm process that runs one trial after another.

Ray reuses the actor, so whatever `trials.models` keeps in memory (target model, reference, encoded benchmark) is there
for the next trial. A trial that fails (`TrialFailed`: diverged, out of memory) is a *result*: `step` reports `failure`
and ends it. Any other error ends the process too; the trial is handed out again, from its last checkpoint.
"""

from __future__ import annotations

import json
import logging
import math
import os
import socket
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import ray
from ray import tune

from orchestrator.cluster import is_leaving
from orchestrator.delivery import Delivery
from orchestrator.ledger import write_atomically
from orchestrator.packs import seated
from orchestrator.redaction import LogFormatter
from orchestrator.search.faults import LEAVING, PLACE
from orchestrator.tracking.usage import Usage
from trials.config import TrialConfig
from trials.result import EpochResult, OutOfMemory, TrialFailed

logger = logging.getLogger(__name__)

TrialFunction = Callable[..., Iterator[EpochResult]]
"""`run_trial`, or anything with its signature."""


class NodeLeaves(Exception):
    """A warm process is handed a trial on a node that is to be taken away."""


class Worker(tune.Trainable):
    """Runs `trial` (default: `trials.unlearn.run_trial`) and hands its epochs to Ray."""

    def setup(
        self,
        config: dict[str, Any],
        trial: TrialFunction | None = None,
        threads: int = 1,
        system_metrics: bool = False,
        delivery: Delivery | None = None,
        packs: Any = None,
    ) -> None:
        """Called once a process, with its first trial."""
        self._trial = seated(packs) if packs else trial
        # The process of a pack fetches for itself.
        self._threads, self._system_metrics, self._delivery = threads, system_metrics, None if packs else delivery
        self._begin(config, warm=False)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Called with each further trial."""
        self.cleanup()
        self._begin(new_config, warm=True)
        return True

    def step(self) -> dict[str, Any]:
        """One epoch."""
        usage = Usage() if self._system_metrics else None
        try:
            result = next(self._epochs)
        except TrialFailed as error:
            return self._failure(f"{type(error).__name__}: {error}") | {"out_of_memory": isinstance(error, OutOfMemory)}
        except NodeLeaves:
            logger.warning("%s", LEAVING)
            raise
        except Exception:
            # A bug, or a broken device: this process is not to be trusted with the next trial, so Ray ends it.
            logger.exception("the trial ended with an error")
            raise
        for name, value in result.metrics.items():
            if not math.isfinite(value):
                return self._failure(f"Diverged: {name} is {value} after epoch {result.epoch}")
        return {
            "epoch": result.epoch,
            "metrics": result.metrics | (usage.metrics() if usage else {}),
            "seconds": result.seconds,
            "done": result.last,
        }

    def cleanup(self) -> None:
        """Ends the current trial and frees what it held."""
        try:
            self._epochs.close()
        except Exception:  # it would be taken for a fault of the next trial
            logger.exception("the trial could not be cleaned up")
        logging.getLogger().removeHandler(self._log)
        self._log.close()

    def _begin(self, config: dict[str, Any], *, warm: bool) -> None:
        folder = Path(config["folder"])
        folder.mkdir(parents=True, exist_ok=True)
        trial = TrialConfig.model_validate(config["trial"])
        write_atomically(folder / "trial.json", trial.model_dump_json(indent=1) + "\n")
        self._log = logging.FileHandler(folder / "log.txt", delay=True, encoding="utf-8")
        self._log.setFormatter(LogFormatter())
        logging.getLogger().addHandler(self._log)
        self._epochs = self._run(trial, folder, warm)

    def _run(self, trial: TrialConfig, folder: Path, warm: bool) -> Generator[EpochResult]:
        """The trial's epochs. Torch is imported with the first, not when the process starts: Ray gives up a worker that
        is slower to start than a trial is to run, and would never get a second one."""
        node = ray.get_runtime_context().get_node_id()
        if warm and is_leaving(node):  # what has begun here goes on to the end, nothing begins any more
            raise NodeLeaves(LEAVING)
        # Not when it is handed a trial: Ray may give that to a warm process while this one is on its way.
        place = {"node": node, "host": socket.gethostname(), "pid": os.getpid()}
        write_atomically(folder / PLACE, json.dumps(place) + "\n")
        if self._delivery:
            trial = self._delivery.received(trial)
        function = self._trial
        if function is None:
            import torch

            from trials.unlearn import run_trial

            torch.set_num_threads(self._threads)
            function = run_trial
        checkpoint = folder / "checkpoint"
        yield from function(trial, folder=folder, resume_from=checkpoint if checkpoint.exists() else None)

    def _failure(self, message: str) -> dict[str, Any]:
        return {"epoch": -1, "metrics": {}, "seconds": 0.0, "failure": message, "done": True}
