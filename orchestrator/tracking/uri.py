"""Which tracking store a sweep writes to, and whether it can: without MLflow, whose import costs seconds."""

from __future__ import annotations

import os
import socket
import urllib.parse
from pathlib import Path

from orchestrator.events import SweepInfo
from orchestrator.redaction import HIDDEN, redacted

_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}


class TrackingError(Exception):
    """The tracking store cannot be used; the message says which, why and what to do."""


def resolve_uri(output: Path, configured: str | None) -> str:
    """Where records go: MLFLOW_TRACKING_URI, else what the sweep says, else `mlflow.db` in the output."""
    path = (output.resolve() / "mlflow.db").as_posix()
    return os.environ.get("MLFLOW_TRACKING_URI") or configured or f"sqlite:///{path}"


def check_reachable(uri: str) -> str | None:
    """Looks within about a second, without MLflow, whether a store can be written.

    Returns:
        A sentence (value, rule, remedy), without credentials; None where nothing speaks against it.
    """
    if f"://{HIDDEN}@" in uri:
        return f"the password of tracking URI {uri!r} was not written down; set MLFLOW_TRACKING_URI to the whole of it"
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
    path = sqlite_path(uri)
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


def sqlite_path(uri: str) -> Path | None:
    """The file of a sqlite store, None for any other."""
    head, _, path = uri.partition(":///")
    return Path(path) if head.startswith("sqlite") and path and path != ":memory:" else None


def uri_of(folder: Path) -> str:
    """The store of a run folder's sweep, see `resolve_uri`."""
    return resolve_uri(folder.parent, recorded_uri(SweepInfo.read(folder)))


def recorded_uri(info: SweepInfo) -> str | None:
    """The store that the sweep named; None where its folder is gone, because the output was moved."""
    path = sqlite_path(info.tracking_uri)
    return info.tracking_uri if path is None or path.parent.is_dir() else None


def refusal(uri: str, folder: Path, error: Exception) -> str:
    """What to say when a store failed on the records of a run folder."""
    reason = redacted(str(error)).splitlines()[0] if str(error) else type(error).__name__
    return (
        f"tracking store {redacted(uri)!r} did not take the records ({reason}); nothing is lost, once it "
        f"does, run `unlearn-sweep sync {str(folder)!r}`"
    )
