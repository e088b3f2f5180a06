"""The run folder: made for a sweep, and checked to be this sweep's."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

from pydantic import ValidationError

from orchestrator.config import SweepConfig
from orchestrator.events import Event, Opened, SweepInfo
from orchestrator.extension import Changes, changes_of, refused
from orchestrator.housekeeping import restore_tables
from orchestrator.ledger import Ledger, read_events, write_atomically
from orchestrator.problems import ConfigError, Problem
from orchestrator.redaction import redacted
from orchestrator.search.earlier import differences
from orchestrator.tracking.uri import recorded_uri, resolve_uri
from trials.benchmarks import Benchmark
from trials.identity import digest

_ELSEWHERE = "give `name` another value, or --output another folder"


def open_folder(folder: Path, sweep: SweepConfig, benchmark: Benchmark, source: str) -> Ledger:
    """Makes the run folder, or takes up an existing one of this sweep; returns its ledger, locked.

    What was settled when the sweep began stays: its time, its commit, and the store that has its MLflow runs. The
    ledger says that it was taken up, and with which settings changed.

    Args:
        folder: The run folder.
        sweep: The sweep from here on.
        benchmark: Its rows.
        source: The sweep file's text, for the record; "" leaves what lies there.

    Raises:
        ConfigError: It is another sweep's, another process is running it, or it cannot be made.
    """
    changes = check_folder(folder, sweep, benchmark)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        ledger = Ledger(folder)
    except BlockingIOError:
        message = "another process is running this sweep; wait for it or give `name` another value"
        raise ConfigError(str(folder), [Problem("", message)]) from None
    except OSError as error:
        message = f"the run folder cannot be written ({error.strerror}); give another --output"
        raise ConfigError(str(folder), [Problem("--output", message)]) from None
    there = _recorded(folder) if _has_begun(ledger.events) else None
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
        tracking_uri=redacted(resolve_uri(folder.parent, configured)),
        git_commit=there.git_commit if there else _git_commit(),
        versions={name: version(name) for name in ("unlearn-sweep", "torch", "transformers", "peft", "ray", "optuna")},
        created=there.created if there else time.time(),
    )
    restore_tables(folder, ledger)
    ledger.append(Opened(fingerprint=info.fingerprint, changed=changes))
    write_atomically(folder / "sweep.json", info.model_dump_json(indent=1) + "\n")
    if source:
        write_atomically(folder / "sweep.yaml", redacted(source))
    return ledger


def check_folder(folder: Path, sweep: SweepConfig, benchmark: Benchmark) -> Changes:
    """Makes sure that a run folder, where there is one, is this sweep's, and that the sweep may go on as it is now.

    Returns:
        Path of a setting -> what it was and what it is: what changes and may; empty where nothing ran yet.

    Raises:
        ConfigError: It is another sweep's, with the settings in which they differ.
    """
    if not (folder / "sweep.json").exists():
        return {}
    digests = sweep.digests(benchmark)
    if _recorded(folder) is None and _last_opened(folder) == sweep.fingerprint(benchmark):
        return {}  # it is this sweep's, by its ledger: `sweep.json` is written again
    try:
        there = SweepInfo.read(folder)
        old = type(sweep).model_validate(there.config)
        known = digest(old.identity(there.data, there.model)) == there.fingerprint
    except ValidationError:
        known = False
    if not known:
        written = Problem("sweep.json", "was not written by this version of unlearn-sweep; use that one")
        raise ConfigError(str(folder), [written, Problem("", f"or {_ELSEWHERE}")])
    events = read_events(folder)
    if not _has_begun(events):
        return {}
    changes = changes_of(old, sweep, before=(there.data, there.model), after=digests)
    if problems := refused(old, sweep, changes, events):
        fits = not differences(sweep, folder, digests)
        taken = f"; there, `warm_start: [{folder}]` takes over what ran here" if fits else ""
        raise ConfigError(str(folder), [*problems, Problem("", f"this makes it another sweep: {_ELSEWHERE}{taken}")])
    return changes


def _recorded(folder: Path) -> SweepInfo | None:
    """The folder's `sweep.json`; None where it cannot be read."""
    try:
        return SweepInfo.read(folder)
    except ValidationError:
        return None


def _last_opened(folder: Path) -> str | None:
    """Fingerprint with which the sweep of a folder was taken up last."""
    return next((event.fingerprint for event in reversed(read_events(folder)) if isinstance(event, Opened)), None)


def _has_begun(events: Iterable[Event]) -> bool:
    """Whether anything was measured or proposed: until then the folder is free for any sweep of its name."""
    return any(not isinstance(event, Opened) for event in events)


def resumed_source(folder: Path, settings: Sequence[str]) -> str:
    """The text of `sweep.yaml` with the settings of a resumption noted at its end; "" where there are none."""
    file = folder / "sweep.yaml"
    if not settings:
        return ""
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    return text.rstrip("\n") + "\n" * bool(text) + "".join(f"# resume --set {setting}\n" for setting in settings)


def _git_commit() -> str | None:
    """Commit of the code that runs, None where it is not a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=5)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
