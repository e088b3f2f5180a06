"""Sweeps as jobs of a running cluster: handed over to Ray Jobs, followed over lost connections, stopped.

What is known of a job is known on the cluster only. So losing the connection loses nothing: whoever comes back, from
wherever, reads status and log again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast
from urllib.parse import urlsplit

from orchestrator.access import FILE as ENVIRONMENT_FILE
from orchestrator.access import PLACE, about_token, pass_on
from orchestrator.problems import ConfigError, Problem, RunFailed
from orchestrator.submission import SWEEP_FILE, pack

LONGEST_PAUSE, PATIENCE = 60.0, 3600.0
"""Seconds: between two attempts to reach the cluster again, and until `follow` gives up."""

STOP_SECONDS = 180
"""How long a stopped sweep has for its report before it is killed; Ray's own default is 3."""


class Client(Protocol):
    """What is asked of Ray's JobSubmissionClient."""

    def get_job_info(self, job_id: str) -> Any: ...
    def get_job_logs(self, job_id: str) -> str: ...
    def list_jobs(self) -> list[Any]: ...
    def stop_job(self, job_id: str) -> bool: ...
    def submit_job(self, **request: Any) -> str: ...


@dataclass(frozen=True)
class Job:
    """A job as the cluster knows it.

    Attributes:
        job_id: What it is called in Ray Jobs.
        status: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED.
        code: Exit code of the sweep; None while it runs, and where it was never started.
        about: What was noted when it was submitted: `sweep`, `output`.
        message: What Ray says of it, first line.
        started: Unix time in seconds, or None.
        ended: Unix time in seconds, or None.
    """

    job_id: str
    status: str
    code: int | None
    about: Mapping[str, str]
    message: str
    started: float | None
    ended: float | None

    @classmethod
    def of(cls, details: Any) -> Job:
        """From Ray's JobDetails."""
        return cls(
            job_id=details.submission_id,
            status=details.status.value,
            code=details.driver_exit_code,
            about=details.metadata or {},
            message=(details.message or "").partition("\n")[0],
            started=details.start_time / 1000 if details.start_time else None,
            ended=details.end_time / 1000 if details.end_time else None,
        )

    @property
    def ended_for_good(self) -> bool:
        """Whether nothing will change any more."""
        return self.status in ("SUCCEEDED", "FAILED", "STOPPED")

    @property
    def exit_code(self) -> int:
        """The sweep's own exit code: 130 where it was stopped, 1 where it never ran or was killed."""
        if self.status == "STOPPED":
            return 130
        if self.status == "SUCCEEDED":
            return 0
        return self.code if self.code is not None and self.code > 0 else 1


# -- the cluster -------------------------------------------------------------------------------------------------------


def connect_jobs(address: str) -> Client:
    """A client of the Ray Jobs of a cluster.

    Args:
        address: The dashboard's, as in http://127.0.0.1:8265.

    Raises:
        ConfigError: Nothing answers there, it lets us not in, or it runs another Ray.
    """
    if urlsplit(address).scheme not in ("http", "https") or not urlsplit(address).hostname:
        raise _refused(address, "is no dashboard's address; write one as in http://127.0.0.1:8265")
    import ray
    from ray.job_submission import JobSubmissionClient

    class Patient(JobSubmissionClient):  # Ray waits for ever on a connection that has died
        def _do_request(self, method: str, endpoint: str, **request: Any) -> Any:
            return super()._do_request(method, endpoint, timeout=LONGEST_PAUSE, **request)

    with _without("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"), told_well(address):  # Ray would prefer them to ours
        client = Patient(address)
        theirs = client._do_request("GET", "/api/version").json()["ray_version"]
    if theirs.split(".")[:2] != ray.__version__.split(".")[:2]:
        raise _refused(
            address, f"runs Ray {theirs}, and this is unlearn-sweep for {ray.__version__}; install that there"
        )
    return cast(Client, client)


@contextlib.contextmanager
def told_well(address: str) -> Iterator[None]:
    """Turns what Ray raises for a request into an error that names the remedy.

    Raises:
        ConfigError: The cluster is not reached, lets us not in, or refuses the request.
    """
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError:
        raise _refused(address, about_token()) from None
    except OSError:
        forward = "forward its port first, as in `ray attach cluster.yaml -p 8265`"
        needs = "a head node has a dashboard where ray[default] is installed"
        raise _refused(address, f"nothing answers there; {forward}; {needs}") from None
    except RuntimeError as error:
        raise _refused(address, _reason(error)) from None


def _reason(error: RuntimeError) -> str:
    """What Ray's server said, without its traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip(". ")]
    return lines[-1].rstrip(".") if lines else "the request failed"


def _refused(address: str, why: str) -> ConfigError:
    return ConfigError("--address", [Problem("", f"{address!r}: {why}")])


@contextlib.contextmanager
def _without(*names: str) -> Iterator[None]:
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(before)


# -- submitting and following ------------------------------------------------------------------------------------------


def submit(
    client: Client, file: str, settings: Sequence[str], *, output: str, sweep: str, job_id: str | None = None
) -> tuple[str, list[str]]:
    """Packs this code and a sweep file, and has the cluster run it; its driver runs on the head node.

    Args:
        client: The cluster's.
        file: Path of a sweep file, or the name of a shipped one; checked.
        settings: `path=value` each.
        output: The folder of run folders, on the cluster.
        sweep: The sweep's name.
        job_id: What the job is called; None makes a name of the sweep's.

    Returns:
        The job's id, and the names of the variables that it takes along.
    """
    for name in ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging"):
        logging.getLogger(name).setLevel(logging.WARNING)  # names of temporary files
    with tempfile.TemporaryDirectory(prefix="unlearn-sweep-") as made:
        package = Path(made)
        pack(package, file)
        taken = pass_on(package, os.environ)
        words = ["python", "-m", "orchestrator.cli", "run", SWEEP_FILE, "--output", output]
        words += [word for setting in settings for word in ("--set", setting)]
        submitted = client.submit_job(
            entrypoint=f"exec {shlex.join(words)}",  # in place of the shell: its exit code and signals are the sweep's
            submission_id=job_id or f"{sweep}-{secrets.token_hex(3)}",
            metadata={"sweep": sweep, "output": output},
            runtime_env={
                "working_dir": str(package),
                "env_vars": {PLACE: ENVIRONMENT_FILE, "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)},
                "worker_process_setup_hook": "orchestrator.access.take_over",
            },
        )
    return submitted, taken


def follow(
    client: Client,
    job_id: str,
    write: Callable[[str], object],
    tell: Callable[[str], object],
    wait: Callable[[float], object] = time.sleep,
) -> Job:
    """Writes the log of a job until it ends, over lost connections; reads it again as a whole, and writes what is new.

    Args:
        client: The cluster's.
        job_id: The job's.
        write: Takes pieces of the log.
        tell: Takes lines about the connection.
        wait: Waits so many seconds.

    Raises:
        ConfigError: The cluster does not let us in any more.
        RunFailed: It was not to be reached for an hour, or does not know the job any more.
    """
    shown, lost, pause = 0, 0.0, 1.0
    while True:
        try:
            job = Job.of(client.get_job_info(job_id))  # before the log, which is then whole once the job has ended
            log = client.get_job_logs(job_id)
        except (OSError, RuntimeError) as error:
            if "status code 404" in str(error):
                raise RunFailed(
                    f"the cluster does not know the job {job_id}: it was started again, or never had it"
                ) from None
            if lost >= PATIENCE:
                raise RunFailed(
                    f"the cluster was not to be reached for {lost / 60:.0f} minutes; the job may run on"
                ) from None
            tell(f"connection lost ({type(error).__name__}); trying again in {pause:.0f} s, the job runs on")
            wait(pause)
            lost, pause = lost + pause, min(2 * pause, LONGEST_PAUSE)
            continue
        if lost:
            tell("connected again")
        write(log[shown:])
        shown = len(log)
        if job.ended_for_good:
            return job
        lost, pause = 0.0, 1.0
        wait(max(1.0, shown / 1e5))  # the log is read as a whole: the longer it is, the rarer


def jobs_of(client: Client) -> list[Job]:
    """The jobs that were submitted to a cluster, the oldest first."""
    found = [Job.of(details) for details in client.list_jobs() if details.submission_id]
    return sorted(found, key=lambda job: job.started or 0.0)
