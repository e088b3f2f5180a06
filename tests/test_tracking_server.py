"""A sweep and a real tracking server with a login, PostgreSQL or SQLite behind it; no password reaches the disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from orchestrator.events import Epoch, SweepInfo
from orchestrator.ledger import read_events, read_records
from orchestrator.tracking.client import runs_of, sweep_tag
from orchestrator.tracking.login import check_store
from orchestrator.tracking.tracker import sync
from orchestrator.tracking.uri import TrackingError, uri_of
from tests.clusters import ROOT
from tests.servers import USER, Server, postgres, postgres_missing, tracking_server
from tests.sweeps import small_sweep

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300)]
MISSING = postgres_missing()
WRONG = "not-the-password-at-all"


@pytest.fixture(
    scope="module",
    params=["sqlite", pytest.param("postgres", marks=pytest.mark.skipif(MISSING is not None, reason=str(MISSING)))],
)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    if request.param == "sqlite":
        with tracking_server() as found:
            yield found
    else:
        with postgres() as database, tracking_server(database) as found:
            yield found


@pytest.fixture(autouse=True)
def the_environment_of_a_user(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MLFLOW_TRACKING_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", server.password)


def sweep_on(output: Path, name: str, trials: int = 4) -> tuple[Path, str]:
    """Runs a sweep of surrogates in a process of its own; returns its run folder and what it said."""
    sweep = small_sweep(
        name=name, budget={"trials": trials}, trial={"epochs": 3}, baselines=[], scheduler={"type": "none"}
    )
    settings = output / f"{name}.json"
    settings.write_text(sweep.model_dump_json())
    command = [sys.executable, "-m", "tests.clusters", str(settings), str(output), "surrogate"]
    with open(output / f"{name}.txt", "w") as screen:  # Ray's processes would keep a pipe open after the sweep's end
        done = subprocess.run(command, cwd=ROOT, stdout=screen, stderr=screen, timeout=200, check=False)
    said = (output / f"{name}.txt").read_text()
    assert done.returncode == 0, said
    return output / name, said


def files_with(secret: str, folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


def test_with_a_login_runs_histories_tags_and_artifacts_arrive_and_no_password_is_on_disk(
    server: Server, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    folder, said = sweep_on(tmp_path, "allowed")
    info, client = SweepInfo.read(folder), MlflowClient(server.uri)
    experiment = client.get_experiment_by_name(info.benchmark)
    assert experiment is not None
    runs = list(runs_of(client, experiment.experiment_id, sweep_tag(info)))
    trials = {run.data.tags["trial_id"]: run for run in runs if "trial_id" in run.data.tags}
    records = {record.trial_id: record for record in read_records(folder)}
    assert trials.keys() == records.keys()
    assert len(trials) == 4
    expected = {
        (event.trial_id, name, event.epoch, value)
        for event in read_events(folder)
        if isinstance(event, Epoch)
        for name, value in event.metrics.items()
    }
    found = {
        (trial_id, key.replace("/", "."), point.step, point.value)
        for trial_id, run in trials.items()
        for key in run.data.metrics
        if key != "seconds"
        for point in client.get_metric_history(run.info.run_id, key)
    }
    assert len(found) == 4 * 3 * 2
    assert found == expected
    assert {run.info.status for run in trials.values()} == {"FINISHED"}
    assert {run.data.tags["state"] for run in trials.values()} == {"COMPLETE"}
    (parent,) = [run for run in runs if run.data.tags["origin"] == "sweep"]
    assert parent.info.artifact_uri.startswith("mlflow-artifacts:")
    place = client.download_artifacts(parent.info.run_id, "front.csv", str(tmp_path))
    assert Path(place).read_bytes() == (folder / "front.csv").read_bytes()
    assert "all trials: http" in said
    assert server.password not in said
    assert not files_with(server.password, tmp_path)
    assert sync(folder).sent == 0


def test_a_wrong_password_is_refused_at_the_start_with_what_to_set(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", WRONG)
    command = [sys.executable, "-m", "orchestrator.cli", "run", "smoke", "--output", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert (done.returncode, len(lines)) == (2, 2), done.stderr
    assert "MLFLOW_TRACKING_URI: tracking server" in lines[1]
    assert "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN" in lines[1]
    assert WRONG not in done.stderr + done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_login_that_is_taken_away_costs_no_trial_and_the_records_follow(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", WRONG)  # this driver's own checks are those of the verb `run`
    folder, said = sweep_on(tmp_path, "forgotten")
    assert [record.state for record in read_records(folder)] == ["COMPLETE"] * 4
    assert f"unlearn-sweep sync {folder}" in said
    told = [line for line in (folder / "log.txt").read_text().splitlines() if "tracking" in line]
    assert len(told) == 1
    assert "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in told[0]
    with pytest.raises(TrackingError, match="refuses this login; set MLFLOW_TRACKING_USERNAME"):
        sync(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", server.password)
    assert [sync(folder).sent for _ in range(2)] == [4, 0]
    assert not files_with(WRONG, tmp_path)
    assert not files_with(server.password, tmp_path)


def test_a_password_in_the_uri_works_and_is_written_nowhere(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("USERNAME", "PASSWORD"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri.replace("://", f"://{USER}:{server.password}@"))
    folder, said = sweep_on(tmp_path, "in-the-uri", trials=2)
    assert "lacks some records" not in said
    assert server.password not in said
    assert not files_with(server.password, tmp_path)
    assert sync(folder).sent == 0
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert "set MLFLOW_TRACKING_URI to the whole of it" in str(check_store(uri_of(folder)))


def test_no_login_at_all_is_refused_too(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("USERNAME", "PASSWORD"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}")
    assert "refuses this login; set MLFLOW_TRACKING_USERNAME" in str(check_store(server.uri))


class Bearer(BaseHTTPRequestHandler):
    """A server, or a proxy before one, that knows one token; it answers one call."""

    token = "a-token-of-a-proxy"

    def do_GET(self) -> None:
        known = self.headers["Authorization"] == f"Bearer {self.token}"
        body = json.dumps({"experiments": []} if known else {"error_code": "UNAUTHENTICATED", "message": "who?"})
        self.send_response(200 if known else 401)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body.encode())

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.mark.parametrize("right", [True, False])
def test_a_token_goes_to_the_server_as_bearer(right: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("USERNAME", "PASSWORD"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", Bearer.token if right else WRONG)
    with ThreadingHTTPServer(("127.0.0.1", 0), Bearer) as stub:
        thread = threading.Thread(target=stub.serve_forever)
        thread.start()
        said = check_store(f"http://127.0.0.1:{stub.server_port}")
        stub.shutdown()
        thread.join()
    assert right is (said is None)
    assert right or ("MLFLOW_TRACKING_TOKEN" in str(said) and WRONG not in str(said))
