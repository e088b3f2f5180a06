"""Jobs without a cluster: what is checked and packed here, what is passed on, a log followed over lost connections."""

from __future__ import annotations

import http.server
import json
import os
import shlex
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from orchestrator import access, cluster, jobs
from orchestrator.problems import ConfigError, RunFailed
from orchestrator.submission import PACKAGES, check_request, pack
from tests.heads import free_ports

SWEEP = """
name: mine
trial:
  benchmark: {type: tofu, path: %s}
space: {optim.lr: {float: [1e-5, 1e-3]}}
"""


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ours = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
    for name in (*ours, *access.PASSED_ON, access.PLACE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def details(status: str, code: int | None = None, **more: Any) -> SimpleNamespace:
    """What Ray says of a job."""
    said: dict[str, Any] = {"submission_id": "one", "status": SimpleNamespace(value=status), "driver_exit_code": code}
    said |= {"metadata": {"sweep": "mine", "output": "/mnt"}, "message": "first\nsecond", "start_time": 1500}
    return SimpleNamespace(**said | {"end_time": None} | more)


class Scripted:
    """A client that answers by a script: each entry a status and the log so far, or what is raised."""

    def __init__(self, *script: tuple[Any, str] | Exception) -> None:
        self._script = list(script)
        self._log = ""
        self.submitted: dict[str, Any] = {}
        self.package: dict[str, bytes] = {}

    def get_job_info(self, job_id: str) -> Any:
        step = self._script.pop(0)
        if isinstance(step, Exception):
            raise step
        info, self._log = step
        return info

    def get_job_logs(self, job_id: str) -> str:
        return self._log

    def list_jobs(self) -> list[Any]:
        return [details("RUNNING", start_time=3000), details("FAILED", 3), details("RUNNING", submission_id=None)]

    def stop_job(self, job_id: str) -> bool:
        return True

    def submit_job(self, **request: Any) -> str:
        folder = Path(request["runtime_env"]["working_dir"])
        self.package = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
        self.submitted = request
        return str(request["submission_id"])


# -- following ---------------------------------------------------------------------------------------------------------


def test_a_log_is_written_once_over_lost_connections_with_growing_pauses() -> None:
    lost = [ConnectionError("reset"), OSError("timed out"), RuntimeError("status code 500: not now")]
    client = Scripted(
        (details("RUNNING"), "one\n"), *lost, (details("RUNNING"), "one\ntwo\n"), (details("FAILED", 3), "one\ntwo\nö")
    )
    written, told, waited = [], [], []
    job = jobs.follow(client, "one", written.append, told.append, waited.append)
    assert "".join(written) == "one\ntwo\nö"
    assert (job.status, job.exit_code) == ("FAILED", 3)
    assert waited == [1, 1, 2, 4, 1]
    assert [line.partition(";")[0] for line in told] == [
        "connection lost (ConnectionError)",
        "connection lost (OSError)",
        "connection lost (RuntimeError)",
        "connected again",
    ]


def test_pauses_do_not_grow_for_ever_and_after_an_hour_the_job_is_left_running() -> None:
    client = Scripted(*[ConnectionError("gone")] * 200)
    waited: list[float] = []
    with pytest.raises(RunFailed, match="not to be reached for 60 minutes; the job may run on"):
        jobs.follow(client, "one", lambda _: None, lambda _: None, waited.append)
    assert max(waited) == jobs.LONGEST_PAUSE
    assert jobs.PATIENCE <= sum(waited) < jobs.PATIENCE + jobs.LONGEST_PAUSE


def test_a_cluster_that_was_started_again_does_not_know_the_job() -> None:
    client = Scripted((details("RUNNING"), ""), RuntimeError("Request failed with status code 404: Job one does not."))
    with pytest.raises(RunFailed, match="the cluster does not know the job one"):
        jobs.follow(client, "one", lambda _: None, lambda _: None, lambda _: None)


@pytest.mark.parametrize(
    ("status", "code", "exit_code"),
    [
        ("SUCCEEDED", 0, 0),
        ("FAILED", 2, 2),
        ("FAILED", 3, 3),
        ("FAILED", 130, 130),
        ("FAILED", -9, 1),  # killed
        ("FAILED", None, 1),  # never started
        ("STOPPED", None, 130),
    ],
)
def test_a_job_ends_with_the_exit_code_of_its_sweep(status: str, code: int | None, exit_code: int) -> None:
    assert jobs.Job.of(details(status, code)).exit_code == exit_code


def test_only_what_was_submitted_is_listed_the_oldest_first() -> None:
    assert [job.status for job in jobs.jobs_of(Scripted())] == ["FAILED", "RUNNING"]
    assert [job.message for job in jobs.jobs_of(Scripted())] == ["first", "first"]


# -- checks ------------------------------------------------------------------------------------------------------------


def problems(*request: Any) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        check_request(*request)
    return {problem.path: problem.message for problem in caught.value.problems}


def test_what_is_wrong_is_told_before_anything_leaves_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    found = problems("smoke", ["budget.trails=3"], "runs", "a b")
    assert set(found) == {"--output", "--name", "MLFLOW_TRACKING_URI", "budget.trails"}
    assert "a folder that all nodes share" in found["--output"]
    assert "did you mean 'trials'" in found["budget.trails"]


def test_a_shipped_sweep_is_fine_and_has_nothing_that_only_the_cluster_can_tell() -> None:
    assert check_request("smoke", [], "/mnt/shared/runs", "nightly-1.2") == ("smoke", [])


def test_data_of_this_machine_is_refused_and_data_of_the_cluster_is_left_to_it(
    tmp_path: Path, tofu_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mine.yaml"
    monkeypatch.chdir(tofu_folder.parent)
    file.write_text(SWEEP % json.dumps(tofu_folder.name, ensure_ascii=False), encoding="utf-8")
    found = problems(str(file), ["trial.benchmark.split=forget05", "trial.benchmark.retain_eval=4"], "/mnt/runs")
    assert list(found) == ["trial.benchmark.path"]
    assert "is on this machine only" in found["trial.benchmark.path"]
    file.write_text(SWEEP % "/mnt/shared/tofu", encoding="utf-8")
    name, notes = check_request(str(file), [], "/mnt/runs")
    assert (name, notes) == ("mine", ["trial.benchmark.path: not to be checked from here; the cluster checks it"])
    file.write_text(SWEEP % "not/there", encoding="utf-8")
    assert list(problems(str(file), [], "/mnt/runs")) == ["trial.benchmark.path"]


# -- what is handed over -----------------------------------------------------------------------------------------------


def test_the_package_is_this_code_and_runs_by_itself(tmp_path: Path) -> None:
    pack(tmp_path, "smoke")
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {file.relative_to(tmp_path).parts[0] for file in files} >= {*PACKAGES, "sweep.yaml"}
    assert not [file for file in files if "__pycache__" in file.parts]
    assert sum(file.stat().st_size for file in files) < 5e6  # Ray takes 100 MiB
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    script = (
        "import orchestrator.cli as cli, sys; print(cli.__file__); sys.argv[1:] = ['plan', 'sweep.yaml']; cli.main()"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(str(tmp_path))


def test_a_job_carries_settings_as_they_are_and_credentials_in_its_package_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "ray_secret")
    monkeypatch.setenv("SOMETHING_ELSE", "other_secret")
    client, hostile = Scripted(), ["name=it's; rm -rf $HOME", "trial.epochs=2"]
    submitted, taken = jobs.submit(client, "smoke", hostile, output="/mnt/my runs", sweep="smoke")
    request = client.submitted
    assert submitted == request["submission_id"]
    assert submitted.startswith("smoke-")
    words = shlex.split(request["entrypoint"])
    assert words[:7] == ["exec", "python", "-m", "orchestrator.cli", "run", "sweep.yaml", "--output"]
    assert words[7:] == ["/mnt/my runs", "--set", hostile[0], "--set", hostile[1]]
    assert taken == ["HF_TOKEN"]
    assert json.loads(client.package[access.FILE]) == {"HF_TOKEN": "hf_secret"}
    assert "secret" not in repr(request)
    assert not Path(request["runtime_env"]["working_dir"]).exists()


def test_credentials_are_for_the_owner_of_the_file_and_taken_over_in_a_job_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"MLFLOW_TRACKING_TOKEN": "t", "HF_TOKEN": "", "PATH": "/bin", "RAY_AUTH_TOKEN": "r"}
    assert access.pass_on(tmp_path, given) == ["MLFLOW_TRACKING_TOKEN"]
    assert stat.S_IMODE((tmp_path / access.FILE).stat().st_mode) == 0o600
    monkeypatch.chdir(tmp_path)
    access.take_over()
    assert "MLFLOW_TRACKING_TOKEN" not in os.environ
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "to be undone")
    monkeypatch.setenv(access.PLACE, access.FILE)
    before = os.environ["PATH"]
    (tmp_path / access.FILE).write_text(json.dumps({"MLFLOW_TRACKING_TOKEN": "t", "PATH": "/evil"}))
    access.take_over()
    assert (os.environ["MLFLOW_TRACKING_TOKEN"], os.environ["PATH"]) == ("t", before)


# -- the token ---------------------------------------------------------------------------------------------------------


def test_a_token_is_used_where_there_is_one_unless_somebody_said_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    access.use_token()
    assert os.environ["RAY_AUTH_MODE"] == "disabled"
    monkeypatch.delenv("RAY_AUTH_MODE")
    access.use_token()
    assert "RAY_AUTH_MODE" not in os.environ
    file = tmp_path / "home/.ray/auth_token"
    file.parent.mkdir(parents=True)
    file.write_text("s3cret")
    access.use_token()
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert access.token_place() == str(file)
    assert "s3cret" not in access.about_token()


# -- addresses ---------------------------------------------------------------------------------------------------------


@contextmanager
def dashboard(ray_version: str, status: int = 200) -> Iterator[str]:
    """Something that answers like a dashboard of a version of Ray."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"ray_version": ray_version, "version": "4"}).encode()
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("address", ["127.0.0.1:6379", "ray://127.0.0.1:10001", "auto", "http://", ""])
def test_an_address_that_is_no_dashboards_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match=r"is no dashboard's address; write one as in http://127\.0\.0\.1:8265"):
        jobs.connect_jobs(address)


def test_a_dashboard_that_does_not_answer_is_told_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match="nothing answers there; forward its port first"):
        jobs.connect_jobs(f"http://127.0.0.1:{free_ports(1)[0]}")


def test_a_cluster_of_another_ray_is_refused_and_one_of_ours_is_taken_whatever_ray_address_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with dashboard("2.40.0") as url, pytest.raises(ConfigError, match=r"runs Ray 2\.40\.0, and this is unlearn-sweep"):
        jobs.connect_jobs(url)
    with dashboard(ray.__version__) as url:
        assert jobs.connect_jobs(url)
    assert os.environ["RAY_ADDRESS"] == "127.0.0.1:1"


def test_a_server_that_wants_a_token_is_told_as_such() -> None:
    with dashboard("", status=401) as url, pytest.raises(ConfigError, match="asks for a token, and there is none here"):
        jobs.connect_jobs(url)


def test_an_address_where_no_cluster_is_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ConfigError, match=f"RAY_ADDRESS: 1 problem\n  '{address}': nothing answers there"):
        cluster.join()
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    with pytest.raises(ConfigError, match="is no cluster's address"):
        cluster.join()
    assert not ray.is_initialized()
