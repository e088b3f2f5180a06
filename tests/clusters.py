"""A real Ray cluster on this machine, a sweep on it, and what can befall them: each a process of its own.

Nodes are `ray start --block` in process groups of their own, with fake GPUs and token authentication; the driver is
`python -m tests.clusters`. Everything is stopped by process id.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import psutil

from orchestrator.config import SweepConfig
from orchestrator.events import Ended, Event, Record, Suggested
from orchestrator.ledger import read_events, read_records, write_atomically
from orchestrator.search.faults import node_of
from tests.surrogate import result
from tests.sweeps import small_sweep
from trials.config import TrialConfig

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
PATIENCE = 240
T = TypeVar("T")


def waited(what: Callable[[], T | None], why: str, patience: float = PATIENCE) -> T:
    """What `what` gives once it gives something; looked at again and again."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited {patience:.0f} s in vain: {why}")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def answers(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


def kill(process: subprocess.Popen[Any]) -> None:
    """Ends a process and all that it started, at once."""
    family = []
    with contextlib.suppress(psutil.NoSuchProcess):
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for each in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait(30)
    psutil.wait_procs(family, 30)


class Cluster:
    """A head and nodes with two CPUs and a fake GPU each, a driver, and a tracking server.

    Args:
        output: Folder of run folders.
        seconds: What an epoch takes.
    """

    def __init__(self, output: Path, seconds: float = 0.3) -> None:
        self.output = output
        self._temp = Path(tempfile.mkdtemp(prefix="rc", dir="/tmp"))
        token = self._temp / "token"
        token.touch(0o600)
        token.write_text(secrets.token_hex(32))
        self._port, self.nodes = free_port(), list[subprocess.Popen[bytes]]()
        self._log = open(self._temp / "log.txt", "ab")  # noqa: SIM115
        self._server: subprocess.Popen[bytes] | None = None
        self._server_port = free_port()
        self.drivers, self._orphans = list[subprocess.Popen[bytes]](), list[subprocess.Popen[bytes]]()
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))},
            "PYTHONPATH": str(ROOT),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_memory_monitor_refresh_ms": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_health_check_initial_delay_ms": "1000",
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_timeout_ms": "3000",
            "RAY_health_check_failure_threshold": "3",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
            "SURROGATE_SECONDS": str(seconds),
        }

    @property
    def address(self) -> str:
        """Where the head is."""
        return f"127.0.0.1:{self._port}"

    def add_node(self, **environment: str) -> subprocess.Popen[bytes]:
        """Starts the head, or one more node, and waits until it is up; keywords are variables that only it has."""
        head = ["--head", f"--port={self._port}", f"--temp-dir={self._temp}", "--include-dashboard=false"]
        place = [f"--address={self.address}"] if self.nodes else head
        ports = [f"--{name}-port={free_port()}" for name in ("node-manager", "object-manager", "metrics-export")]
        ports += ["--min-worker-port=0", "--max-worker-port=0"]
        sizes = ["--num-cpus=2", "--num-gpus=1", f"--object-store-memory={80 * 2**20}"]
        command = [BIN / "ray", "start", "--block", "--disable-usage-stats", "--node-ip-address=127.0.0.1"]
        node = self._start([*command, *place, *ports, *sizes], self.environment | environment)
        self.nodes.append(node)
        manager = int(ports[0].partition("=")[2])
        waited(lambda: answers("127.0.0.1", manager) or node.poll() is not None, "a node to be up")
        assert node.poll() is None, (self._temp / "log.txt").read_text()[-3000:]
        return node

    def runs(self, worker: int) -> subprocess.Popen[bytes]:
        """The node that a worker belongs to, by their process ids."""
        above = {process.pid for process in psutil.Process(worker).parents()}
        return next(node for node in self.nodes if node.pid in above)

    def drain_node(self, node: str, seconds: int) -> None:
        """Gives a node (Ray's id) notice, as a cloud does before it takes a spot instance away."""
        command = [BIN / "ray", "drain-node", f"--address={self.address}", f"--node-id={node}"]
        words = ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=notice"]
        process = self._start([*command, *words, f"--deadline-remaining-seconds={seconds}"])
        assert process.wait(60) == 0, self.said()[-3000:]

    def lose_node(self, node: subprocess.Popen[bytes]) -> None:
        """Kills a node with all its processes."""
        kill(node)
        self.nodes.remove(node)

    def lose_head(self) -> None:
        """Kills the head and the drivers, which run on it; what is added next is another cluster's."""
        for process in [*self.drivers, self.nodes[0]]:
            kill(process)
        self._orphans += self.nodes[1:]  # they notice after a minute
        self.nodes, self.drivers = [], []
        self._port = free_port()

    def start_server(self) -> None:
        """Starts the tracking server, again on the same database."""
        store = f"sqlite:///{self._temp}/mlflow.db"
        command = [BIN / "mlflow", "server", "--host=127.0.0.1", f"--port={self._server_port}", "--workers=1"]
        self._server = self._start(
            [*command, f"--backend-store-uri={store}", f"--artifacts-destination={self._temp}/artifacts"]
        )
        self.environment["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{self._server_port}"
        waited(lambda: answers("127.0.0.1", self._server_port), "the tracking server to answer")

    def lose_server(self) -> None:
        """Kills the tracking server."""
        assert self._server
        kill(self._server)

    def start_driver(self, sweep: SweepConfig, trial: str = "surrogate", **more: str) -> subprocess.Popen[bytes]:
        """Runs a sweep, or what is left of it, in a process of its own; keywords are variables that only it has.

        Args:
            sweep: The sweep.
            trial: A function of `tests.surrogate`; "" for real trials.
        """
        settings = self._temp / f"{sweep.name}.json"
        settings.write_text(sweep.model_dump_json())
        environment = self.environment | {"RAY_ADDRESS": self.address} | more
        command = [sys.executable, "-m", "tests.clusters", str(settings), str(self.output), trial]
        self.drivers.append(self._start(command, environment))
        return self.drivers[-1]

    def said(self) -> str:
        """What all of them printed."""
        return (self._temp / "log.txt").read_text(errors="replace")

    def close(self) -> None:
        """Stops everything, in the order in which nobody waits for another."""
        for process in [*self.drivers, *self._orphans, *self.nodes[::-1], *([self._server] if self._server else [])]:
            kill(process)
        self._log.close()
        shutil.rmtree(self._temp, ignore_errors=True)

    def _start(self, command: list[Any], environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [str(word) for word in command],
            env=dict(environment or self.environment),
            cwd=ROOT,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


@contextlib.contextmanager
def cluster(output: Path, nodes: int = 3, seconds: float = 0.3) -> Iterator[Cluster]:
    """A cluster that is up, and stopped at the end whatever happens."""
    one = Cluster(output, seconds)
    try:
        for _ in range(nodes):
            one.add_node()
        yield one
    finally:
        one.close()


# -- a sweep and how far it is -----------------------------------------------------------------------------------------


def cluster_sweep(trials: int = 24, **changes: Any) -> SweepConfig:
    """A sweep of which each trial is a function of its number alone: the sampler is random, and nobody is stopped."""
    return small_sweep(
        **{
            "sampler": {"type": "random"},
            "scheduler": {"type": "none"},
            "budget": {"trials": trials},
            "resources": {"cpu": 1, "gpu": 0.25},
        }
        | changes
    )


def events_of(folder: Path) -> list[Event]:
    with contextlib.suppress(FileNotFoundError):
        return read_events(folder)
    return []


def ended(folder: Path) -> int:
    """How many trials have ended."""
    return sum(isinstance(event, Ended) for event in events_of(folder))


def running(folder: Path) -> dict[str, int]:
    """trial_id -> process id of the worker of each trial that has begun and not ended."""
    events = events_of(folder)
    over = {event.trial_id for event in events if isinstance(event, Ended)}
    begun = [event.trial_id for event in events if isinstance(event, Suggested) and event.trial_id not in over]
    found = {}
    for trial_id in begun:
        with contextlib.suppress(OSError, ValueError):
            found[trial_id] = int(json.loads((folder / "trials" / trial_id / "worker.json").read_text())["pid"])
    return found


def hold(folder: Path, limit: int) -> None:
    """Lets trials below a number go on; the others wait after their third epoch (`surrogate.held`)."""
    folder.mkdir(exist_ok=True)
    write_atomically(folder / "limit", str(limit))


def held(folder: Path) -> list[str]:
    """The trials that wait so."""
    return [trial_id for trial_id in running(folder) if _epochs(folder / "trials" / trial_id)[-1:] == ["3"]]


def nodes_of(folder: Path) -> set[str]:
    """The nodes on which trials have run."""
    return {node for trial in folder.glob("trials/*") if (node := node_of(trial))}


def kill_worker(folder: Path) -> str:
    """Kills the worker of a trial that runs, as the kernel does; returns the trial."""
    for trial_id, pid in running(folder).items():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            return trial_id
    return ""


def run_again(folder: Path) -> dict[str, int]:
    """trial_id -> epochs that began more than once: what the faults cost."""
    ran = {trial.name: _epochs(trial, "begun.txt") for trial in (folder / "trials").iterdir()}
    return {trial_id: len(epochs) - len(set(epochs)) for trial_id, epochs in ran.items()}


def _epochs(trial: Path, file: str = "ran.txt") -> list[str]:
    return (trial / file).read_text().split() if (trial / file).exists() else []


def wrong_states(folder: Path, sweep: SweepConfig) -> list[Record]:
    """Records that are not what their settings give, or not at the full budget."""
    suggested = {event.trial_id: event for event in read_events(folder) if isinstance(event, Suggested)}
    wrong = []
    for record in read_records(folder):
        expected = result(TrialConfig.model_validate(suggested[record.trial_id].config), sweep.trial.epochs)
        if (record.state, record.epoch, record.metrics) != ("COMPLETE", sweep.trial.epochs, expected.metrics):
            wrong.append(record)
    return wrong


def main(settings: str, output: str, trial: str) -> int:
    """Runs a sweep with a trial function of `tests.surrogate`, or real trials; returns the exit code."""
    from orchestrator.progress import show_outcome
    from orchestrator.sweep import run_sweep
    from tests import surrogate
    from trials.benchmarks import load_benchmark

    sweep = SweepConfig.model_validate_json(Path(settings).read_text(encoding="utf-8"))
    function = getattr(surrogate, trial) if trial else None
    outcome = run_sweep(sweep, load_benchmark(sweep.trial.benchmark), output=Path(output), trial=function)
    return show_outcome(outcome)


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
