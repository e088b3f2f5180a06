"""What is too dear for every trial, taken of those on the front once the search has ended.

Each is measured again from its checkpoint, with the resources of a trial: as a task of Ray's, so that a cluster works
on several at once. What comes of it is an event of the ledger, a failure too. A trial that could not be measured is
tried again when the sweep is resumed; one that was measured keeps what it has, whatever becomes of the front.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from rich.console import Console

from orchestrator.cluster import capacity
from orchestrator.config import SweepConfig
from orchestrator.delivery import Delivery
from orchestrator.events import Measured, Suggested, finite
from orchestrator.ledger import Ledger
from orchestrator.problems import RunFailed
from orchestrator.results.front import front_of
from orchestrator.search.faults import settings
from trials.config import TrialConfig
from trials.logs import EvalLog
from trials.naming import named

Measure = Callable[[TrialConfig, Path, Sequence[str]], EvalLog]
"""`trials.measuring.measure_again`, or anything with its signature."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """A trial that is to be measured.

    Attributes:
        trial_id: Which.
        config: The whole trial.
        checkpoint: Its `checkpoint` folder.
        names: Full names of the metrics that it lacks.
    """

    trial_id: str
    config: TrialConfig
    checkpoint: Path
    names: list[str]


def jobs_of(sweep: SweepConfig, ledger: Ledger, folder: Path) -> list[Job]:
    """The trials on the present front that lack metrics of `evaluation.front` and were not measured yet.

    Those of earlier sweeps are not among them: their checkpoints lie elsewhere.
    """
    wanted = named(sweep.trial.evaluation.front)
    done = {event.trial_id for event in ledger.events if isinstance(event, Measured) and event.failure is None}
    configs = {event.trial_id: settings(event, ledger) for event in ledger.events if isinstance(event, Suggested)}
    found = []
    for record in front_of(ledger.records(), sweep.objectives):
        names = [name for name in wanted if name not in record.metrics]
        if names and record.trial_id not in done and record.origin != "earlier":
            config = TrialConfig.model_validate(configs[record.trial_id])
            found.append(Job(record.trial_id, config, folder / "trials" / record.trial_id / "checkpoint", names))
    return found


def measure_front(
    sweep: SweepConfig,
    ledger: Ledger,
    folder: Path,
    console: Console,
    measure: Measure | None = None,
    delivery: Delivery | None = None,
) -> None:
    """Measures what `jobs_of` finds.

    Args:
        sweep: The sweep; its search has ended.
        ledger: Its ledger, where the results go.
        folder: The run folder.
        console: Where a line a trial goes.
        measure: Measures in this process, one trial after the other; None: on the Ray that is connected.
        delivery: What the trials read from this machine's disk; None: nothing.

    Raises:
        ConfigError: A trial asks for more than Ray has.
        RunFailed: The disk is full.
    """
    jobs = jobs_of(sweep, ledger, folder)
    if not jobs:
        return
    trials = "1 trial" if len(jobs) == 1 else f"{len(jobs)} trials"
    words = ", ".join(sweep.trial.evaluation.front)
    console.print(f"measuring {trials} of the front: {words}", markup=False, highlight=False)
    results = (_measured(job, measure) for job in jobs) if measure else _on_ray(jobs, sweep, delivery)
    for event, error in results:
        if error:
            logger.error("trial %s could not be measured: %s", event.trial_id, error)
        try:
            ledger.append(event)
        except OSError as full:
            raise RunFailed(f"the ledger could not be written: {full}") from full
        console.print(_line(event), markup=False, highlight=False, soft_wrap=True)


def _measured(job: Job, measure: Measure) -> tuple[Measured, str]:
    """What came of a trial, and how it failed in full."""
    started = time.monotonic()
    metrics: dict[str, float] = {}
    failure, error = None, ""
    try:
        values = measure(job.config, job.checkpoint, job.names).values
        metrics = finite({name: values[name] for name in job.names if name in values})
    except Exception as cause:  # whatever it is, the other trials are worth measuring
        failure, error = f"{type(cause).__name__}: {cause}", traceback.format_exc()
    seconds = time.monotonic() - started
    return Measured(trial_id=job.trial_id, metrics=metrics, seconds=seconds, failure=failure), error


def _on_ray(jobs: Sequence[Job], sweep: SweepConfig, delivery: Delivery | None) -> Iterator[tuple[Measured, str]]:
    """The same in processes of Ray's, as many at once as trials; in the order in which they end."""
    resources = sweep.resources.process  # what is measured is measured by itself
    most = capacity(resources)
    memory = resources.bundle.get("memory", 0)
    task = ray.remote(num_cpus=resources.cpu, num_gpus=resources.share, memory=memory, max_retries=resources.retries)(
        _task
    )
    threads = max(1, int(resources.cpu))
    left = deque(jobs)
    running: dict[Any, Job] = {}
    while left or running:
        while left and len(running) < min(most, sweep.budget.concurrent or most):
            job = left.popleft()
            running[task.remote(job, threads, delivery)] = job
        (done,), _ = ray.wait(list(running))
        job = running.pop(done)
        try:
            yield ray.get(done)
        except RayError as error:
            cause = f"{type(error).__name__}: {error}"
            yield Measured(trial_id=job.trial_id, metrics={}, seconds=0.0, failure=cause), cause


def _task(job: Job, threads: int, delivery: Delivery | None) -> tuple[Measured, str]:
    import torch

    from trials.measuring import measure_again

    def measure(config: TrialConfig, checkpoint: Path, names: Sequence[str]) -> EvalLog:
        return measure_again(delivery.received(config) if delivery else config, checkpoint, names)

    torch.set_num_threads(threads)
    return _measured(job, measure)


def _line(event: Measured) -> str:
    if event.failure:
        return f"{event.trial_id}  could not be measured, `resume` tries again: {event.failure.strip().splitlines()[0]}"
    return f"{event.trial_id}  measured in {event.seconds:.0f} s"
