"""Sweeps through Ray Jobs, on a head node with dashboard and token on this machine: the real thing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.ledger import read_records
from tests.heads import Head, answer, head_node

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]

SMALL = ["--set", "budget.trials=3", "--set", "trial.epochs=2", "--set", "scheduler={type: none}"]
SMALL += ["--set", "baselines=[]"]
SECRET = "correct-horse-battery-staple"


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with head_node() as started:
        yield started


def unlearn_sweep(head: Head, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Our command, as a person on the head node types it; an empty variable is one that is not set."""
    changed = head.environment | environment
    return subprocess.run(
        [sys.executable, "-m", "orchestrator.cli", *words],
        env={name: value for name, value in changed.items() if value},
        capture_output=True,
        text=True,
        timeout=300,
    )


def submit(head: Head, output: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return unlearn_sweep(
        head, "submit", "smoke", "--address", head.dashboard, "--output", str(output), *words, **environment
    )


def test_a_submitted_sweep_runs_on_the_cluster_and_its_credentials_are_in_no_log(head: Head, tmp_path: Path) -> None:
    done = submit(head, tmp_path, *SMALL, "--name", "first", MLFLOW_TRACKING_PASSWORD=SECRET)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [record.state for record in read_records(tmp_path / "smoke")] == ["COMPLETE"] * 3
    assert (tmp_path / "smoke/trials.jsonl").is_file()
    assert "3 complete, 0 pruned, 0 fail" in done.stdout
    assert "job first; it takes along MLFLOW_TRACKING_PASSWORD" in done.stderr
    assert "first succeeded, exit code 0" in done.stderr
    assert SECRET not in done.stdout + done.stderr
    places = [head.session / "logs", tmp_path]
    files = [file for place in places for file in place.rglob("*") if file.is_file()]
    assert any(file.name == "runtime_env_agent.log" for file in files)  # where Ray writes a job's variables
    assert [str(file) for file in files if SECRET.encode() in file.read_bytes()] == []
    again = unlearn_sweep(head, "status", "first", "--address", head.dashboard)
    assert "succeeded" in again.stdout
    assert SECRET not in again.stdout


def test_a_sweep_that_the_cluster_refuses_ends_with_the_exit_code_of_the_sweep(head: Head, tmp_path: Path) -> None:
    """The tracking server is not to be reached from there either: what the submitter has set arrives."""
    done = submit(head, tmp_path, *SMALL, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert done.returncode == 2
    assert "MLFLOW_TRACKING_URI: not to be checked from here" in done.stderr
    assert "http://127.0.0.1:9" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_a_stopped_sweep_writes_its_report_and_goes_on_when_it_is_submitted_again(head: Head, tmp_path: Path) -> None:
    at = ["--address", head.dashboard]
    long = ["--set", "budget.trials=40", *SMALL[2:], "--name", "long"]
    detached = submit(head, tmp_path, *long, "--detach")
    assert detached.returncode == 0
    assert f"unlearn-sweep logs long --follow --address {head.dashboard}" in detached.stderr
    words = [sys.executable, "-m", "orchestrator.cli", "logs", "long", "--follow", *at]
    with subprocess.Popen(words, env=head.environment, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout
        for line in following.stdout:  # the first trial has ended
            if "complete at epoch 2" in line:
                break
        assert "running" in unlearn_sweep(head, "status", *at).stdout
        stopped = unlearn_sweep(head, "stop", "long", *at)
        rest = following.stdout.read()
    assert (stopped.returncode, following.returncode) == (0, 130)
    assert "long stopped" in stopped.stdout
    assert "interrupted; go on with" in rest
    before = read_records(tmp_path / "smoke")
    assert before
    assert (tmp_path / "smoke/report.html").is_file()
    enough = str(len(before) + 1)
    again = submit(head, tmp_path, "--set", f"budget.trials={enough}", *SMALL[2:])
    assert again.returncode == 0, again.stdout + again.stderr
    assert {record.trial_id for record in before} <= {record.trial_id for record in read_records(tmp_path / "smoke")}
    taken = submit(head, tmp_path, *SMALL, "--name", "long")
    assert taken.returncode == 2
    assert "already exists" in taken.stderr


def test_nobody_gets_in_without_the_token(head: Head, tmp_path: Path) -> None:
    jobs = f"{head.dashboard}/api/jobs/"
    job = b'{"entrypoint": "touch got-in"}'
    assert answer(jobs) == 401
    assert answer(jobs, data=job) == 401
    assert answer(jobs, token="f" * 64, data=job) == 403
    assert answer(jobs, token=head.token.read_text()) == 200
    nowhere = {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "none"), "RAY_AUTH_MODE": ""}
    told = {"asks for a token, and there is none here": nowhere}
    told |= {"RAY_AUTH_MODE is 'disabled'": {"RAY_AUTH_MODE": "disabled"}}
    told |= {"the token of RAY_AUTH_TOKEN is another cluster's": {"RAY_AUTH_TOKEN": "f" * 64}}
    for words, environment in told.items():
        refused = submit(head, tmp_path / "runs", *SMALL, **environment)
        assert refused.returncode == 2
        assert words in refused.stderr
        assert "Traceback" not in refused.stderr
        assert "f" * 64 not in refused.stderr


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"RAY_AUTH_TOKEN_PATH": "none", "RAY_AUTH_MODE": "token"}, "asks for a token, and there is none here"),
        ({"RAY_AUTH_TOKEN": "f" * 64}, "what answers there does not let us in; the token of RAY_AUTH_TOKEN is another"),
    ],
)
def test_run_says_why_the_cluster_does_not_let_it_in(
    head: Head, tmp_path: Path, environment: dict[str, str], words: str
) -> None:
    ran = unlearn_sweep(
        head, "run", "smoke", "--output", str(tmp_path / "runs"), RAY_ADDRESS=head.address, **environment
    )
    assert ran.returncode == 2
    assert f"RAY_ADDRESS: 1 problem\n  '{head.address}': " in ran.stderr
    assert words in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not (tmp_path / "runs").exists()


def test_run_finds_the_cluster_and_leaves_it_running(head: Head, tmp_path: Path) -> None:
    def drivers() -> set[Path]:
        return set((head.session / "logs").glob("python-core-driver-*"))

    before = drivers()
    ran = unlearn_sweep(
        head, "run", "smoke", "--output", str(tmp_path), *SMALL, RAY_ADDRESS=head.address, RAY_AUTH_MODE=""
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert len(read_records(tmp_path / "smoke")) == 3
    assert drivers() > before  # a Ray of its own would have had a session of its own
    assert answer(f"{head.dashboard}/api/jobs/", token=head.token.read_text()) == 200


def test_the_dashboard_is_bound_to_loopback(head: Head) -> None:
    import psutil

    port = int(head.dashboard.rpartition(":")[2])
    bound = {c.laddr.ip for c in psutil.net_connections("tcp") if c.laddr.port == port and c.status == "LISTEN"}
    assert bound == {"127.0.0.1"}
