"""MLflow's client: how it is reached, how the runs of a sweep are found, and the names it takes."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.ledger import SweepInfo
from orchestrator.tracking_uri import redacted
from search_spaces.space import flat

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_PARAM_VALUE, _KEY = 6000, 250


def client_of(uri: str) -> MlflowClient:
    """A client whose calls to a dead server end in seconds."""
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


def runs_of(client: MlflowClient, experiment_id: str, sweep: str) -> Iterator[Run]:
    """Every run of a sweep, oldest first."""
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


def sweep_tag(info: SweepInfo) -> str:
    """Value of the tag `sweep`: by it the runs of a sweep are found."""
    return f"{info.fingerprint}-{milliseconds(info.created)}"


def milliseconds(at: float) -> int:
    """Unix time as MLflow counts it."""
    return round(at * 1000)


def metric_key(name: str) -> str:
    """A name that MLflow takes."""
    return re.sub(r"[^\w\-. :/]", "_", name)[:_KEY]


def charted(name: str) -> str:
    """Name of a trial's metric in MLflow: one section of charts a row set."""
    return name.replace(".", "/")


def params_of(config: Mapping[str, Any]) -> dict[str, str]:
    """A nested mapping as parameters by dotted path; a list is one value, written as JSON; no secret in it."""
    return {
        metric_key(path): redacted(
            value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        )[:_PARAM_VALUE]
        for path, value in flat(config).items()
    }
