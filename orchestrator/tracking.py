"""MLflow as a function of the ledger.

What a run folder holds is the truth; what a tracking server holds follows from it and can be made again.
Live (`Tracker`) or afterwards (`sync`), the same events go through the same `_Store`, and sending one twice
stores it once: a metric point carries the time of its event and the epoch as step, runs are found by their
tags and reused, and a run that is already ended as the ledger says is left alone.

One experiment per benchmark, a parent run per sweep, a child run per trial. A trial's `forget.nll` is called
`forget/nll` there, because the UI draws a section of charts for each prefix before a slash. The parent's
metrics have no slash, since sections with a name come first and would bury `hypervolume`: an anchor's is
`target.forget.nll` or `retain_model.forget.nll`.
MLflow is imported only once something is sent: that costs seconds, and in a sweep it happens in a thread.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from orchestrator.front import front_of, hypervolume_of
from orchestrator.ledger import (
    Anchor,
    Ended,
    Epoch,
    Event,
    Record,
    Suggested,
    SweepInfo,
    read_events,
    records,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Metric, Run

UI = "http://127.0.0.1:5000"
"""Where `unlearn-sweep ui` serves the UI, unless told otherwise."""

_T = TypeVar("_T")
_LOG = logging.getLogger(__name__)
_STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}
_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
# MLflow takes 1000 entities a batch, of which 100 parameters and 100 tags.
_METRICS, _PARAMS, _TAGS = 800, 100, 100
_PARAM_VALUE, _TAG_VALUE, _KEY = 6000, 5000, 250
_INTERVAL, _LONGEST_PAUSE, _PATIENCE = 1.0, 60.0, 3
_TEXTS = ("sweep.yaml", "sweep.json", "report.md", "report.html", "front.csv", "front.json")


class TrackingError(Exception):
    """The tracking store cannot be used; the message says which, why and what to do."""


@dataclass(frozen=True)
class SyncResult:
    """What `sync` did.

    Attributes:
        uri: The store, without credentials.
        experiment_id: MLflow's experiment, one per benchmark.
        run_id: The parent run.
        trials: Trials of the ledger.
        sent: Trials of which something was sent; the others were there already, whole.
        points: Metric points sent, those included that were there already.
    """

    uri: str
    experiment_id: str
    run_id: str
    trials: int
    sent: int
    points: int


def redacted(text: str) -> str:
    """The text with `user:password@` of every URI in it replaced by `***@`."""
    return re.sub(r"://[^/\s\"'<>]*@", "://***@", text)


def resolve_uri(output: Path, configured: str | None) -> str:
    """Where records go: MLFLOW_TRACKING_URI, else what the sweep says, else `mlflow.db` in the output."""
    path = (output.resolve() / "mlflow.db").as_posix()
    return os.environ.get("MLFLOW_TRACKING_URI") or configured or f"sqlite:///{path}"


def check_reachable(uri: str) -> str | None:
    """Looks within about a second, without MLflow, whether a store can be written.

    Returns:
        A sentence (value, rule, remedy), without credentials; None where nothing speaks against it.
    """
    scheme, _, rest = uri.partition(":")
    scheme = scheme.partition("+")[0].lower()
    if scheme == "file" or not rest:
        return f"tracking URI {redacted(uri)!r} is a folder, which MLflow 3 refuses; write sqlite:///<path>/mlflow.db"
    if scheme == "sqlite":
        return _check_sqlite(uri)
    if scheme not in _PORTS:
        return None
    try:
        parts = urllib.parse.urlsplit(uri)
        address = parts.hostname or "", parts.port or _PORTS[scheme]
        with socket.create_connection(address, timeout=1.0):
            return None
    except (OSError, ValueError) as error:
        return (
            f"tracking server {redacted(uri)!r} does not answer ({redacted(str(error))}); start it, "
            "correct the URI, or leave it out to write into mlflow.db beside the run folders"
        )


def _check_sqlite(uri: str) -> str | None:
    path = _sqlite_path(uri)
    if path is None:
        return f"tracking URI {uri!r} names no file, and records must outlive the process; write sqlite:///<path>"
    if bad := sorted(set("?#%") & set(str(path))):
        return f"path {str(path)!r} has {' '.join(bad)}, which no sqlite URI can carry; take another folder"
    folder = path.parent
    if not folder.is_dir():
        return f"folder {str(folder)!r} of the tracking URI does not exist, and sqlite makes none; make it"
    if not os.access(path if path.exists() else folder, os.W_OK):
        return f"{str(path)!r} of the tracking URI is read-only; make it writable or set MLFLOW_TRACKING_URI"
    return None


def _sqlite_path(uri: str) -> Path | None:
    head, _, path = uri.partition(":///")
    return Path(path) if head.startswith("sqlite") and path and path != ":memory:" else None


def sync(folder: Path, uri: str | None = None) -> SyncResult:
    """Sends what a run folder has and the store lacks; sending again changes nothing.

    Not to be called while a `Tracker` of the same sweep is at work: both would create the same runs.

    Args:
        folder: The run folder.
        uri: The store; by default that of the sweep, see `resolve_uri`.

    Raises:
        TrackingError: The store cannot be reached or refuses.
        FileNotFoundError: Not a run folder.
    """
    uri = uri or _uri_of(folder)
    events = read_events(folder)
    try:
        store = _Store(folder, uri)
        for event in events:
            store.take(event)
        store.flush()
        store.close(interrupted=None)
    except TrackingError:
        raise
    except Exception as error:  # MLflow lets through what requests, SQLAlchemy and alembic raise
        # Not chained: the causes spell out the URI with its password.
        raise TrackingError(_refusal(uri, folder, error)) from None
    return store.result()


def _uri_of(folder: Path) -> str:
    return resolve_uri(folder.parent, _recorded(SweepInfo.read(folder)))


def _recorded(info: SweepInfo) -> str | None:
    """The store that the sweep named; None where its folder is gone, because the output was moved."""
    path = _sqlite_path(info.tracking_uri)
    return info.tracking_uri if path is None or path.parent.is_dir() else None


def _refusal(uri: str, folder: Path, error: Exception) -> str:
    reason = redacted(str(error)).splitlines()[0] if str(error) else type(error).__name__
    return (
        f"tracking store {redacted(uri)!r} did not take the records ({reason}); nothing is lost, once it "
        f"does, run `unlearn-sweep sync {str(folder)!r}`"
    )


class Tracker:
    """Sends events while the sweep runs, from a thread of its own: a listener of the `Ledger`.

    What the ledger already holds is sent as well. A store that fails costs the driver nothing: the thread
    keeps what it could not send, tries again after ever longer pauses, and says so once in the log.

    Args:
        folder: The run folder, with `sweep.json`.
        uri: The store; by default that of the sweep, see `resolve_uri`.
    """

    def __init__(self, folder: Path, uri: str | None = None) -> None:
        self._folder = folder
        self._uri = uri or _uri_of(folder)
        self._queue: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._complete = False
        for event in read_events(folder):
            self._queue.put(event)
        self._thread = threading.Thread(target=self._run, name="tracking", daemon=True)
        self._thread.start()

    def __call__(self, event: Event) -> None:
        """Takes an event; neither waits nor raises."""
        self._queue.put(event)

    def finish(self, timeout: float) -> bool:
        """Sends the rest and the report files, and ends the parent run.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            Whether the store has everything; if not, `sync` sends the rest.
        """
        self._stop.set()
        self._thread.join(timeout)
        return self._complete

    def _run(self) -> None:
        store: _Store | None = None
        backlog: deque[Event] = deque()
        failures, stopping = 0, False
        while not stopping:
            stopping = self._stop.wait(_INTERVAL if not failures else min(2.0**failures, _LONGEST_PAUSE))
            while not self._queue.empty():
                backlog.append(self._queue.get())
            try:
                if store is None:
                    store = _Store(self._folder, self._uri)
                    store.reopen()
                elif failures:
                    _require(self._uri)
                while backlog:
                    store.take(backlog[0])
                    backlog.popleft()
                store.flush()
                if stopping:
                    store.close(interrupted=store.open_trials > 0)
                    self._complete = True
                failures = 0
            except Exception as error:  # whatever it is, it is not worth the sweep: `sync` repeats and reports it
                failures += 1
                if failures == _PATIENCE:
                    _LOG.warning("%s", _refusal(self._uri, self._folder, error))


@dataclass
class _Child:
    run_id: str
    params: set[str] = field(default_factory=set)
    sealed: tuple[str, str] | None = None  # (state, epoch) of a run that is ended in the store
    front: bool = False


class _Store:
    """The runs of one sweep in one store. `take` only remembers; whatever sends may be called again."""

    def __init__(self, folder: Path, uri: str) -> None:
        self.folder, self.uri, self.info = folder, uri, SweepInfo.read(folder)
        _require(uri)
        self.client = _client(uri)
        self.sweep = _sweep_tag(self.info)
        self.experiment = self._experiment()
        self.children: dict[str, _Child] = {}
        self._events: dict[str, list[Event]] = {}
        self._pending: dict[str, list[Event]] = {}
        self._summary: list[Metric] = []
        self._states: Counter[str] = Counter()
        self._front: list[Record] = []
        self._last = self.info.created
        self._points = 0
        self._sent: set[str] = set()
        parent: Run | None = None
        for run in _runs(self.client, self.experiment.experiment_id, self.sweep):
            if trial_id := run.data.tags.get("trial_id"):
                self.children.setdefault(trial_id, _child(run))
            elif parent is None:
                parent = run
        self.parent = parent or self._create_parent()
        self.run_id: str = self.parent.info.run_id
        known = self.parent.data.params
        self._send(self.run_id, [], {k: v for k, v in _flat(self.info.config).items() if k not in known}, {})

    @property
    def open_trials(self) -> int:
        """Trials that were suggested and have not ended."""
        return len(self._events) - self._states.total()

    def result(self) -> SyncResult:
        return SyncResult(
            uri=redacted(self.uri),
            experiment_id=self.experiment.experiment_id,
            run_id=self.run_id,
            trials=len(self._events),
            sent=len(self._sent),
            points=self._points,
        )

    def reopen(self) -> None:
        """Marks the sweep as running."""
        if self.parent.info.status != "RUNNING":
            self.client.update_run(self.run_id, status="RUNNING")

    def take(self, event: Event) -> None:
        """Remembers what follows from one event."""
        self._last = max(self._last, event.at)
        if isinstance(event, Anchor):
            prefix = {"target": "target", "retain": "retain_model"}[event.name]
            values = {f"{prefix}.{name}": value for name, value in event.metrics.items()}
            self._summary += _points(values, event.at, 0)
            return
        self._events.setdefault(event.trial_id, []).append(event)
        self._pending.setdefault(event.trial_id, []).append(event)
        if isinstance(event, Ended):
            self._states[event.state] += 1
            record = records(self._events[event.trial_id])[-1]
            self._front = front_of([*self._front, record], self.info.objectives)
            self._summary += _points(_summary(self._states, self._front, self.info), event.at, self._states.total())

    def flush(self) -> None:
        """Sends all that is remembered, a trial at a time."""
        for trial_id in list(self._pending):
            self._flush_trial(trial_id, self._pending[trial_id])
            del self._pending[trial_id]
        self._send(self.run_id, self._summary, {}, {})
        self._summary = []

    def close(self, interrupted: bool | None) -> None:
        """Marks the front, uploads the report files and ends the parent run.

        Args:
            interrupted: Whether the sweep was ended before its trials; None where nobody knows, and then a
                sweep with open trials is left as it is.
        """
        front = {record.trial_id for record in self._front}
        for trial_id, child in self.children.items():
            if (trial_id in front) != child.front:
                self.client.set_tag(child.run_id, "front", "true" if trial_id in front else "false")
                child.front = trial_id in front
        for name in _TEXTS:
            if (path := self.folder / name).is_file():
                self.client.log_text(self.run_id, redacted(path.read_text(encoding="utf-8")), name)
        for path in sorted((self.folder / "figures").glob("*")):
            self.client.log_artifact(self.run_id, str(path), "figures")
        if interrupted is not None or not self.open_trials:
            self.client.set_terminated(self.run_id, "KILLED" if interrupted else "FINISHED", _ms(self._last))

    def _flush_trial(self, trial_id: str, events: Sequence[Event]) -> None:
        trial = next(e for e in self._events[trial_id] if isinstance(e, Suggested))
        ended = next((e for e in reversed(events) if isinstance(e, Ended)), None)
        child = self.children.get(trial_id)
        if child and ended and child.sealed == (ended.state, str(ended.epoch)):
            return
        if child is None:
            child = self.children[trial_id] = self._create_child(trial)
        metrics, tags = [], {}
        for event in events:
            if isinstance(event, Epoch):
                values = {_charted(name): value for name, value in event.metrics.items()}
                metrics += _points(values | {"seconds": event.seconds}, event.at, event.epoch)
                tags["epoch"] = str(event.epoch)
        if ended:
            tags |= {"state": ended.state, "epoch": str(ended.epoch)}
            tags |= {"failure": ended.failure} if ended.failure else {}
        params = {key: value for key, value in _flat(trial.config).items() if key not in child.params}
        self._send(child.run_id, metrics, params, tags)
        child.params |= params.keys()
        if ended:
            self.client.set_terminated(child.run_id, _STATUS[ended.state], _ms(ended.at))
            child.sealed = ended.state, str(ended.epoch)
        self._sent.add(trial_id)

    def _send(self, run_id: str, metrics: Sequence[Metric], params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        from mlflow.entities import Param, RunTag

        all_params = [Param(key, value) for key, value in params.items()]
        all_tags = [RunTag(key, redacted(value)[:_TAG_VALUE]) for key, value in tags.items()][:_TAGS]
        chunks = zip_longest(_chunks(metrics, _METRICS), _chunks(all_params, _PARAMS))
        batches = [(some_metrics or [], some_params or []) for some_metrics, some_params in chunks]
        if all_tags and not batches:
            batches = [([], [])]
        for number, (some_metrics, some_params) in enumerate(batches, 1):
            # Tags go last: who reads the state COMPLETE must find every point.
            some_tags = all_tags if number == len(batches) else []
            self.client.log_batch(run_id, metrics=some_metrics, params=some_params, tags=some_tags)
        self._points += len(metrics)

    def _experiment(self) -> Experiment:
        from mlflow.exceptions import MlflowException

        name = self.info.benchmark
        experiment = self.client.get_experiment_by_name(name)
        if experiment is None:
            database = _sqlite_path(self.uri)
            place = database.parent.resolve() / "mlartifacts" / re.sub(r"[^\w.-]", "_", name) if database else None
            try:
                self.client.create_experiment(name, artifact_location=place.as_uri() if place else None)
            except MlflowException:
                # Another sweep was quicker; that it failed for another reason shows in the next line.
                _LOG.debug("experiment %r not created", name, exc_info=True)
            experiment = self.client.get_experiment_by_name(name)
        if experiment is None or experiment.lifecycle_stage != "active":
            raise TrackingError(
                f"MLflow experiment {name!r} in {redacted(self.uri)!r} cannot be made or was deleted, and "
                "a deleted one keeps its name; restore it with `mlflow experiments restore`"
            )
        return experiment

    def _create_parent(self) -> Run:
        info = self.info
        goals = ", ".join(f"{direction} {name}" for name, direction in info.objectives.items())
        tags = {
            "sweep": self.sweep,
            "fingerprint": info.fingerprint,
            "mlflow.note.content": f"Objectives: {goals}",
        }
        tags |= {"git_commit": info.git_commit, "mlflow.source.git.commit": info.git_commit} if info.git_commit else {}
        tags |= {"data": info.data, "model": info.model}
        tags |= {f"versions.{key}": value for key, value in info.versions.items()}
        return self.client.create_run(self.experiment.experiment_id, _ms(info.created), tags, info.name)

    def _create_child(self, trial: Suggested) -> _Child:
        tags = {
            "mlflow.parentRunId": self.run_id,
            "sweep": self.sweep,
            "trial_id": trial.trial_id,
            "fingerprint": trial.fingerprint,
            "seed": str(trial.seed),
            "state": "RUNNING",
        }
        if trial.label:
            tags["label"] = redacted(trial.label)
        if self.info.git_commit:
            tags["git_commit"] = tags["mlflow.source.git.commit"] = self.info.git_commit
        name = f"{trial.trial_id} {redacted(trial.label)}" if trial.label else trial.trial_id
        return _child(self.client.create_run(self.experiment.experiment_id, _ms(trial.at), tags, name))


def _require(uri: str) -> None:
    if problem := check_reachable(uri):
        raise TrackingError(problem)


def _client(uri: str) -> MlflowClient:
    # Defaults of MLflow keep a call to a dead server for minutes, and print the URI with its password.
    for key, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    }.items():
        os.environ.setdefault(key, value)
    from mlflow import MlflowClient

    # One line of ours says that a server is gone; a line for each attempt would bury the sweep's own.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    return MlflowClient(tracking_uri=uri)


def _runs(client: MlflowClient, experiment_id: str, sweep: str) -> Iterator[Run]:
    token = None
    while True:
        page = client.search_runs(
            [experiment_id],
            f"tags.sweep = '{sweep}'",
            order_by=["attributes.start_time ASC"],
            page_token=token,
        )
        yield from page
        token = page.token
        if not token:
            return


def _child(run: Run) -> _Child:
    tags = run.data.tags
    ended = run.info.status in _STATUS.values()
    return _Child(
        run_id=run.info.run_id,
        params=set(run.data.params),
        sealed=(tags.get("state", ""), tags.get("epoch", "")) if ended else None,
        front=tags.get("front") == "true",
    )


def _sweep_tag(info: SweepInfo) -> str:
    return f"{info.fingerprint}-{_ms(info.created)}"


def _ms(at: float) -> int:
    return round(at * 1000)


def _key(name: str) -> str:
    return re.sub(r"[^\w\-. :/]", "_", name)[:_KEY]


def _charted(name: str) -> str:
    return name.replace(".", "/")


def _points(values: Mapping[str, float], at: float, step: int) -> list[Metric]:
    from mlflow.entities import Metric

    return [Metric(_key(name), value, _ms(at), step) for name, value in values.items()]


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested mapping by dotted path; a list is one value, written as JSON."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{path}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
            flat[_key(path)] = redacted(text)[:_PARAM_VALUE]
    return flat


def _chunks(items: Sequence[_T], size: int) -> Iterator[list[_T]]:
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk


def _summary(states: Counter[str], front: Sequence[Record], info: SweepInfo) -> dict[str, float]:
    summary: dict[str, float] = {
        "front_size": len(front),
        "trials_complete": states["COMPLETE"],
        "trials_pruned": states["PRUNED"],
        "trials_failed": states["FAIL"],
    }
    if info.objectives.keys() <= info.reference_point.keys():
        summary["hypervolume"] = hypervolume_of(front, info.objectives, info.reference_point)
    return summary


def ui_links(folder: Path, base: str, uri: str | None = None) -> dict[str, str]:
    """Deep links into the MLflow UI for one sweep.

    The plain list of an experiment shows parents only, with their trials folded away, and sorting by a metric
    unfolds it: "all trials" is sorted by the first objective, with charts of the first ten; "front compared"
    draws the front's trials in parallel coordinates; "sweep" is the parent run with its charts.

    Args:
        folder: The run folder.
        base: Address of the UI, say `http://127.0.0.1:5000`.
        uri: The store; by default that of the sweep, see `resolve_uri`.

    Raises:
        TrackingError: The store cannot be reached or has no such sweep.
    """
    uri, info = uri or _uri_of(folder), SweepInfo.read(folder)
    _require(uri)
    try:
        client, sweep = _client(uri), _sweep_tag(info)
        experiment = client.get_experiment_by_name(info.benchmark)
        runs = list(_runs(client, experiment.experiment_id, sweep)) if experiment else []
    except Exception as error:  # MLflow lets through what requests, SQLAlchemy and alembic raise
        raise TrackingError(_refusal(uri, folder, error)) from None
    parent = next((run.info.run_id for run in runs if "trial_id" not in run.data.tags), None)
    if experiment is None or parent is None:
        raise TrackingError(
            f"store {redacted(uri)!r} has no sweep {info.name!r}; send it with `unlearn-sweep sync {str(folder)!r}`"
        )
    front = {record.trial_id for record in front_of(records(read_events(folder)), info.objectives)}
    members = [run.info.run_id for run in runs if run.data.tags.get("trial_id") in front]
    objective, direction = next(iter(info.objectives.items()))
    # The UI opens on its pages for language model applications unless told that these are training runs.
    kind = {"workflowType": "machine_learning"}
    listed = kind | {
        "compareRunsMode": "CHART",
        "searchFilter": f"tags.sweep = '{sweep}'",
        "orderByKey": f"metrics.`{_key(_charted(objective))}`",
        "orderByAsc": "true" if direction == "min" else "false",
    }
    # `runs` goes first: the page of comparisons looks for it there.
    compared = {"runs": json.dumps(members), "experiments": json.dumps([experiment.experiment_id])} | kind
    home = f"{base.rstrip('/')}/#"
    runs_page = f"{home}/experiments/{experiment.experiment_id}/runs"
    links = {"all trials": f"{runs_page}?{_query(listed)}"}
    if len(members) > 1:
        links["front compared"] = f"{home}/compare-runs?{_query(compared)}"
    return links | {"sweep": f"{runs_page}/{parent}/model-metrics?{_query(kind)}"}


def _query(values: Mapping[str, str]) -> str:
    return urllib.parse.urlencode(values, quote_via=urllib.parse.quote)


def serve_ui(output: Path, port: int) -> int:
    """Serves the MLflow UI of an output folder on 127.0.0.1 until Ctrl-C, and prints links for each sweep.

    The store is that of the newest sweep; where it is a server already, only links into its UI are printed.

    Returns:
        Exit code: 0 after Ctrl-C, else that of the server.

    Raises:
        TrackingError: The store cannot be used, or the port is taken.
    """
    sweeps = [SweepInfo.read(path.parent) for path in output.glob("*/sweep.json")]
    newest = max(sweeps, key=lambda info: info.created, default=None)
    uri = resolve_uri(output, _recorded(newest) if newest else None)
    _require(uri)
    if uri.startswith(("http:", "https:")):
        _print_links(output, redacted(uri).replace("***@", ""), uri)
        return 0
    _require_port(port)
    # Through the environment: an argument would show a password of the URI to everyone on the machine.
    environment = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PYTHONWARNINGS": "ignore",
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": uri,
    }
    options = f"--host 127.0.0.1 --port {port} --workers 1".split()
    command = [sys.executable, "-m", "mlflow", "server", *options, "--uvicorn-opts", "--log-level warning"]
    base = f"http://127.0.0.1:{port}"
    handler = signal.signal(signal.SIGTERM, signal.default_int_handler)
    server = subprocess.Popen(command, env=environment, cwd=output, start_new_session=True)
    try:
        if _answers(server, base):
            _print_links(output, base, base)
        return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        _end(server)
        signal.signal(signal.SIGTERM, handler)


def _require_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise TrackingError(
                f"port {port} cannot be used ({error.strerror}); take another one with --port"
            ) from None


def _answers(server: subprocess.Popen[bytes], base: str) -> bool:
    while server.poll() is None:
        try:
            with urllib.request.urlopen(f"{base}/health", timeout=2.0):
                return True
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    return False


def _print_links(output: Path, base: str, uri: str) -> None:
    print(f"MLflow UI: {base}", flush=True)
    for path in sorted(output.glob("*/sweep.json")):
        try:
            links = ui_links(path.parent, base, uri)
        except TrackingError as error:
            print(f"{path.parent.name}: {error}", flush=True)
            continue
        print("\n".join([path.parent.name, *(f"  {name}: {link}" for name, link in links.items())]), flush=True)


def _end(server: subprocess.Popen[bytes]) -> None:
    # The server has children: the whole group goes, and what is slow to (20 s were seen) is not waited for.
    for kill in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, kill)
            server.wait(5.0)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
