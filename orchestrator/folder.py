"""The run folder: made for a sweep, checked to be this sweep's, kept tidy while its trials end."""

from __future__ import annotations

import csv
import logging
import shutil
import subprocess
import time
from importlib.metadata import version
from pathlib import Path

from pydantic import ValidationError

from orchestrator.config import SweepConfig
from orchestrator.events import Ended, Epoch, Event, SweepInfo
from orchestrator.ledger import Ledger, read_events, write_atomically
from orchestrator.problems import ConfigError, Problem
from orchestrator.tracking_uri import recorded_uri, resolve_uri
from search_spaces.space import flat
from trials.benchmarks import Benchmark

logger = logging.getLogger(__name__)


def open_folder(folder: Path, sweep: SweepConfig, benchmark: Benchmark, source: str) -> Ledger:
    """Makes the run folder, or takes up an existing one of this sweep; returns its ledger, locked.

    What was settled when the sweep began stays: its time, its commit, and the store that has its MLflow runs.

    Raises:
        ConfigError: It is another sweep's, another process is running it, or it cannot be made.
    """
    check_folder(folder, sweep, benchmark)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        ledger = Ledger(folder)
    except BlockingIOError:
        message = "another process is running this sweep; wait for it or give `name` another value"
        raise ConfigError(str(folder), [Problem("", message)]) from None
    except OSError as error:
        message = f"the run folder cannot be written ({error.strerror}); give another --output"
        raise ConfigError(str(folder), [Problem("--output", message)]) from None
    there = SweepInfo.read(folder) if ledger.events else None
    data, model = sweep.digests(benchmark)
    configured = sweep.tracking.uri or (recorded_uri(there) if there else None)
    info = SweepInfo(
        name=sweep.name,
        benchmark=sweep.trial.benchmark.name,
        config=sweep.model_dump(mode="json"),
        objectives=dict(sweep.objectives),
        reference_point=sweep.worst(),
        fingerprint=sweep.fingerprint(benchmark),
        data=data,
        model=model,
        tracking_uri=resolve_uri(folder.parent, configured),
        git_commit=there.git_commit if there else _git_commit(),
        versions={name: version(name) for name in ("unlearn-sweep", "torch", "transformers", "peft", "ray", "optuna")},
        created=there.created if there else time.time(),
    )
    write_atomically(folder / "sweep.json", info.model_dump_json(indent=1) + "\n")
    if source:
        write_atomically(folder / "sweep.yaml", source)
    return ledger


def check_folder(folder: Path, config: SweepConfig, benchmark: Benchmark) -> None:
    """Makes sure that a run folder, where there is one, is this sweep's.

    Raises:
        ConfigError: It is another sweep's, with the fields in which they differ.
    """
    if not (folder / "sweep.json").exists():
        return
    remedy = Problem("", "the folder holds another sweep; give `name` another value, or --output another folder")
    data, model = config.digests(benchmark)
    try:
        there = SweepInfo.read(folder)
        old = flat(type(config).model_validate(there.config).identity(there.data, there.model))
    except ValidationError:
        raise ConfigError(
            str(folder), [Problem("sweep.json", "was not written by this version of unlearn-sweep"), remedy]
        ) from None
    if there.fingerprint == config.fingerprint(benchmark) or not read_events(folder):
        return  # or nothing ran there yet
    new = flat(config.identity(data, model))
    problems = [
        Problem(path, f"{new.get(path)!r} here, {old.get(path)!r} in the sweep that lies there")
        for path in sorted(old.keys() | new.keys())
        if old.get(path) != new.get(path)
    ]
    raise ConfigError(str(folder), [*problems, remedy])


def keep_house(folder: Path, ledger: Ledger, event: Event) -> None:
    """When a trial ends: its metrics as a table, and no checkpoint unless it ran to the full budget."""
    if not isinstance(event, Ended):
        return
    try:
        _keep(folder, ledger, event)
    except OSError:  # the table can be made again from the ledger, and a listener must not raise
        logger.warning("trial %s could not be tidied up", event.trial_id, exc_info=True)


def _keep(folder: Path, ledger: Ledger, event: Ended) -> None:
    place = folder / "trials" / event.trial_id
    if event.state != "COMPLETE":
        shutil.rmtree(place / "checkpoint", ignore_errors=True)
    epochs = [e for e in ledger.events if isinstance(e, Epoch) and e.trial_id == event.trial_id]
    place.mkdir(parents=True, exist_ok=True)
    columns = dict.fromkeys(name for epoch in epochs for name in epoch.metrics)
    with open(place / "metrics.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["epoch", "seconds", *columns])
        table.writerows([e.epoch, f"{e.seconds:.3f}", *(e.metrics.get(name) for name in columns)] for e in epochs)


def _git_commit() -> str | None:
    """Commit of the code that runs, None where it is not a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=5)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
