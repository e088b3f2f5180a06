"""MLflow's client: how it is reached, how the runs of a sweep are found, the names and the batches it takes."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, zip_longest
from typing import TYPE_CHECKING, Any, TypeVar

from orchestrator.events import SweepInfo
from orchestrator.redaction import redacted
from orchestrator.tracking.uri import TrackingError, sqlite_path
from search_spaces.space import flat

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Metric, Run

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")
_PARAM_VALUE, _TAG_VALUE, _KEY = 6000, 5000, 250
# MLflow takes 1000 entities a batch, of which 100 parameters and 100 tags.
_METRICS, _PARAMS, _TAGS = 800, 100, 100


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
    """Value of the tag `sweep`: by it the runs of a sweep are found, also of one that was extended since."""
    return f"{info.name}-{milliseconds(info.created)}"


def experiment_of(client: MlflowClient, uri: str, name: str) -> Experiment:
    """The experiment of a name, made where there is none yet.

    Raises:
        TrackingError: It cannot be made, or was deleted.
    """
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        database = sqlite_path(uri)
        place = database.parent.resolve() / "mlartifacts" / re.sub(r"[^\w.-]", "_", name) if database else None
        try:
            client.create_experiment(name, artifact_location=place.as_uri() if place else None)
        except MlflowException:
            # Another sweep was quicker; another reason shows in the next line.
            _LOG.debug("experiment %r not created", name, exc_info=True)
        experiment = client.get_experiment_by_name(name)
    if experiment is None or experiment.lifecycle_stage != "active":
        raise TrackingError(
            f"MLflow experiment {name!r} in {redacted(uri)!r} cannot be made or was deleted, and "
            "a deleted one keeps its name; restore it with `mlflow experiments restore`"
        )
    return experiment


def milliseconds(at: float) -> int:
    """Unix time as MLflow counts it."""
    return round(at * 1000)


def metric_key(name: str) -> str:
    """A name that MLflow takes."""
    return re.sub(r"[^\w\-. :/]", "_", name)[:_KEY]


def charted(name: str) -> str:
    """Name of a trial's metric in MLflow: one section of charts a row set."""
    return name.replace(".", "/")


def points(values: Mapping[str, float], at: float, step: int) -> list[Metric]:
    """Points of metrics at a time and a step: the same ones sent again are stored once."""
    from mlflow.entities import Metric

    return [Metric(metric_key(name), value, milliseconds(at), step) for name, value in values.items()]


def tag_value(text: str) -> str:
    """A tag's value as it is stored: no secret in it."""
    return redacted(text)[:_TAG_VALUE]


def params_of(config: Mapping[str, Any]) -> dict[str, str]:
    """A nested mapping as parameters by dotted path; a list is one value, written as JSON; no secret in it."""
    return {
        metric_key(path): redacted(
            value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        )[:_PARAM_VALUE]
        for path, value in flat(config).items()
    }


def send(
    client: MlflowClient,
    run_id: str,
    metrics: Sequence[Metric] = (),
    params: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Sends a run what it gets, in as many batches as MLflow wants."""
    from mlflow.entities import Param, RunTag

    all_params = [Param(key, value) for key, value in (params or {}).items()]
    all_tags = [RunTag(key, tag_value(value)) for key, value in (tags or {}).items()][:_TAGS]
    chunks = zip_longest(_chunks(metrics, _METRICS), _chunks(all_params, _PARAMS))
    batches = [(some_metrics or [], some_params or []) for some_metrics, some_params in chunks]
    if all_tags and not batches:
        batches = [([], [])]
    for number, (some_metrics, some_params) in enumerate(batches, 1):
        # Tags go last: who reads the state COMPLETE must find every point.
        some_tags = all_tags if number == len(batches) else []
        client.log_batch(run_id, metrics=some_metrics, params=some_params, tags=some_tags)


def _chunks(items: Sequence[_T], size: int) -> Iterator[list[_T]]:
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk
