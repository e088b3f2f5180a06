"""The MLflow UI of an output folder, on 127.0.0.1 by default, with links straight to a sweep's trials and front."""

from __future__ import annotations

import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from orchestrator.events import SweepInfo, records
from orchestrator.health import is_loopback
from orchestrator.ledger import read_events
from orchestrator.problems import ConfigError, require_run_folder
from orchestrator.redaction import redacted
from orchestrator.results.front import front_of
from orchestrator.salvage import LedgerError
from orchestrator.tracking.client import client_of, runs_of, sweep_tag
from orchestrator.tracking.login import require_store
from orchestrator.tracking.uri import TrackingError, recorded_uri, refusal, resolve_uri, uri_of
from orchestrator.tracking.views import TRAINING, has_seeds, query, view_query

LOOPBACK = "127.0.0.1"
UI = "http://127.0.0.1:5000"
"""Where `unlearn-sweep ui` serves the UI, unless told otherwise."""


def ui_links(folder: Path, base: str, uri: str | None = None) -> dict[str, str]:
    """Deep links into the MLflow UI for one sweep.

    The plain list of an experiment shows parents only, with their trials folded away, and sorting by a metric unfolds
    it: "all trials" is the saved view of this sweep, a table sorted by the first objective; "charts by epoch" the same
    trials as charts, of the first twenty; "seeds" groups seeds by the trial that they repeat; "front compared" draws
    the front's trials in parallel coordinates; "sweep" is the parent run with its description.

    Args:
        folder: The run folder.
        base: Address of the UI, say `http://127.0.0.1:5000`.
        uri: The store; by default that of the sweep, see `resolve_uri`.

    Raises:
        TrackingError: The store cannot be reached or has no such sweep.
    """
    uri, info = uri or uri_of(folder), SweepInfo.read(folder)
    require_store(uri)
    try:
        client, sweep = client_of(uri), sweep_tag(info)
        experiment = client.get_experiment_by_name(info.benchmark)
        runs = list(runs_of(client, experiment.experiment_id, sweep)) if experiment else []
    except Exception as error:  # MLflow lets through what requests, SQLAlchemy and alembic raise
        raise TrackingError(refusal(uri, folder, error)) from None
    parent = next((run.info.run_id for run in runs if run.data.tags.get("origin") == "sweep"), None)
    if experiment is None or parent is None:
        raise TrackingError(
            f"store {redacted(uri)!r} has no sweep {info.name!r}; send it with `unlearn-sweep sync {str(folder)!r}`"
        )
    front = {record.trial_id for record in front_of(records(read_events(folder)), info.objectives)}
    members = [run.info.run_id for run in runs if run.data.tags.get("trial_id") in front]
    # `runs` goes first: the page of comparisons looks for it there.
    compared = {"runs": json.dumps(members), "experiments": json.dumps([experiment.experiment_id])} | TRAINING
    home = f"{base.rstrip('/')}/#"
    runs_page = f"{home}/experiments/{experiment.experiment_id}/runs"
    views = {"all trials": ("trials", "TABLE"), "charts by epoch": ("trials", "CHART")}
    views |= {"seeds": ("seeds", "TABLE")} if has_seeds(info) else {}
    links = {title: f"{runs_page}?{view_query(info, view, mode)}" for title, (view, mode) in views.items()}
    if len(members) > 1:
        links["front compared"] = f"{home}/compare-runs?{query(compared)}"
    return links | {"sweep": f"{runs_page}/{parent}?{query(TRAINING)}"}


def serve_ui(output: Path, port: int, host: str = LOOPBACK) -> int:
    """Serves the MLflow UI of an output folder until Ctrl-C, and prints links for each sweep.

    The store is that of the newest sweep; where it is a server already, only links into its UI are printed.

    Args:
        output: Folder of run folders.
        port: Where it listens.
        host: The IP address that it is bound to; a wider one than 127.0.0.1 is warned of.

    Returns:
        Exit code: 0 after Ctrl-C, else that of the server.

    Raises:
        TrackingError: The store cannot be used, or the port is taken.
    """
    sweeps = [SweepInfo.read(folder) for folder in _folders(output)]
    if not sweeps:
        raise TrackingError(f"{str(output)!r} has no run folder; give the folder that `run` wrote into, as in runs")
    newest = max(sweeps, key=lambda info: info.created)
    uri = resolve_uri(output, recorded_uri(newest))
    require_store(uri)
    if uri.startswith(("http:", "https:")):
        _print_links(output, redacted(uri).replace("***@", ""), uri)
        return 0
    _require_port(host, port)
    if not is_loopback(host):
        print(warning_of(host, port), file=sys.stderr, flush=True)
    # Through the environment: an argument would show a password of the URI to everyone on the machine.
    environment = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PYTHONWARNINGS": "ignore",
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": uri,
    }
    options = f"--host {host} --port {port} --workers 1".split()
    command = [sys.executable, "-m", "mlflow", "server", *options, "--uvicorn-opts", "--log-level warning"]
    base = address_of(host, port)
    # SIGINT too: a shell starts what it puts into the background with SIGINT ignored.
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(each, signal.default_int_handler) for each in signals]
    server = subprocess.Popen(command, env=environment, cwd=output, start_new_session=True)
    try:
        if _answers(server, base):
            _print_links(output, base, base)
        return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        _end(server)
        for each, handler in zip(signals, before, strict=True):
            signal.signal(each, handler)


def warning_of(host: str, port: int) -> str:
    """What binding wider than to this machine means."""
    return (
        f"warning: bound to {host}: whoever reaches port {port} of this machine can read, change and delete every "
        f"record of the store, without a password; on 127.0.0.1 a tunnel does as well: ssh -L {port}:127.0.0.1:{port}"
    )


def address_of(host: str, port: int) -> str:
    """Where this machine reaches what is bound to an address."""
    reached = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(host, host)
    return f"http://[{reached}]:{port}" if ":" in reached else f"http://{reached}:{port}"


def _require_port(host: str, port: int) -> None:
    try:
        family = {4: socket.AF_INET, 6: socket.AF_INET6}[ipaddress.ip_address(host).version]
    except ValueError:
        raise TrackingError(f"--host {host!r} is not an IP address; write 127.0.0.1, 0.0.0.0 or one of yours") from None
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise TrackingError(
                f"port {port} cannot be used on {host} ({error.strerror}); take another one with --port"
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
    for folder in _folders(output):
        try:
            links = ui_links(folder, base, uri)
        except (TrackingError, LedgerError) as error:
            print(f"{folder.name}: {error}", flush=True)
            continue
        print("\n".join([folder.name, *(f"  {name}: {link}" for name, link in links.items())]), flush=True)


def _folders(output: Path) -> list[Path]:
    """The run folders that can be read; of the others, a word."""
    found = []
    for path in sorted(output.glob("*/sweep.json")):
        try:
            require_run_folder(path.parent)
            found.append(path.parent)
        except ConfigError as error:
            print(error, file=sys.stderr)
    return found


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
