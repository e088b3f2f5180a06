"""A head node with dashboard and token on this machine: started as a child, stopped by its process group."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Head:
    """A running head node.

    Attributes:
        dashboard: Its dashboard's URL.
        address: Its address for RAY_ADDRESS.
        token: File with its token.
        session: Its session folder, with Ray's logs.
        environment: What a process needs to be let in.
    """

    dashboard: str
    address: str
    token: Path
    session: Path
    environment: dict[str, str]


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def head_node(cpus: int = 2) -> Iterator[Head]:
    """Starts a head node as `cluster.yaml` does, and stops it with all of its processes."""
    place = Path(tempfile.mkdtemp(prefix="us"))  # short: Ray's sockets lie below it
    token = place / "token"
    token.touch(mode=0o600)
    token.write_text("0123456789abcdef" * 4)
    port, dashboard, agent, client = free_ports(4)
    outside = ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "MLFLOW_TRACKING_URI")
    environment = {name: value for name, value in os.environ.items() if name not in outside}
    environment |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    command = [
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "start",
        "--head",
        "--block",
        "--temp-dir",
        str(place / "r"),
    ]
    command += ["--port", str(port), "--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard)]
    command += ["--dashboard-agent-listen-port", str(agent), "--ray-client-server-port", str(client)]
    command += ["--min-worker-port", "0", "--max-worker-port", "0", "--num-cpus", str(cpus), "--num-gpus", "0"]
    with open(place / "log", "wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        url = f"http://127.0.0.1:{dashboard}"
        _wait_for(url, process, place / "log")
        yield Head(url, f"127.0.0.1:{port}", token, (place / "r" / "session_latest").resolve(), environment)
    finally:
        _end(process)
        shutil.rmtree(place, ignore_errors=True)


def answer(url: str, token: str | None = None, data: bytes | None = None) -> int:
    """Status of a request; 0 where nothing answers."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=30) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except OSError:
        return 0


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 120
    while answer(f"{url}/api/version") == 0:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.2)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Asks the group to end, and kills what is left of it."""
    for number, patience in ((signal.SIGTERM, 10), (signal.SIGKILL, 20)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=patience)
