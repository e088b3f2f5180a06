"""Whether a tracking server lets us in: asked before a sweep starts, with the login that MLflow would send."""

from __future__ import annotations

import urllib.error
import urllib.parse
import urllib.request

from orchestrator.redaction import redacted
from orchestrator.tracking.client import client_of
from orchestrator.tracking.uri import TrackingError, check_reachable

_PROBE = "/api/2.0/mlflow/experiments/search?max_results=1"
_CLOSED = (401, 403)


def check_store(uri: str) -> str | None:
    """Whether a store can be written and, where it is a server with a login, knows ours; about a second without one.

    Returns:
        A sentence (value, rule, remedy), without credentials; None where nothing speaks against it.
    """
    return check_reachable(uri) or _check_login(uri)


def require_store(uri: str) -> None:
    """Raises TrackingError where `check_store` has something to say."""
    if problem := check_store(uri):
        raise TrackingError(problem)


def _check_login(uri: str) -> str | None:
    # MLflow costs seconds to import, so it is asked only where a stranger is turned away. It is asked then because
    # only it knows what it sends: variables, a file of credentials, or a plugin.
    if not uri.startswith(("http:", "https:")) or not _turns_strangers_away(uri):
        return None
    try:
        client_of(uri).search_experiments(max_results=1)
    except Exception as error:  # MLflow lets through what requests raises
        reason = redacted(str(error)).partition("\n")[0]
        return (
            f"tracking server {redacted(uri)!r} refuses this login; set MLFLOW_TRACKING_USERNAME and "
            f"MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, to one that it knows (it says: {reason})"
        )
    return None


def _turns_strangers_away(uri: str) -> bool:
    parts = urllib.parse.urlsplit(uri)
    plain = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")
    try:
        with urllib.request.urlopen(plain + _PROBE, timeout=1.0):
            return False
    except urllib.error.HTTPError as error:
        return error.code in _CLOSED
    except (OSError, ValueError):  # no answer in time, or none that is HTTP: the first record will tell
        return False
