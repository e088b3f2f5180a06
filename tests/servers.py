"""A tracking server as a team has it: MLflow that asks for a login, with PostgreSQL or SQLite behind it.

Each is a process of its own on loopback, with its data in a folder under /tmp; both are stopped by process id.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.clusters import free_port, kill, waited

USER = "sweeper"


@dataclass(frozen=True)
class Server:
    """A tracking server that answers.

    Attributes:
        uri: Where it is.
        password: Of `USER`, who is no administrator.
        process: Its process id.
        log: What it prints, and what the database prints.
    """

    uri: str
    password: str
    process: int
    log: Path


def postgres_missing() -> str | None:
    """Why PostgreSQL cannot be started here, and what to install; None where it can."""
    if not _binaries():
        return "PostgreSQL is not installed; `apt-get install postgresql` brings /usr/lib/postgresql/*/bin"
    if os.geteuid() == 0 and _account() is None:
        return (
            "PostgreSQL refuses to run as root and there is no user `postgres`; `apt-get install postgresql` makes it"
        )
    return None


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """PostgreSQL with a fresh, durable database that asks for a password; gives its URI, password included."""
    place, password, port = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp")), secrets.token_hex(16), free_port()
    account, folder = _account() if os.geteuid() == 0 else None, _binaries()
    assert folder, postgres_missing()
    (place / "password").write_text(password)
    if account:
        for path in (place, place / "password"):
            shutil.chown(path, account.pw_uid, account.pw_gid)
    who = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": ()} if account else {}
    make = [folder / "initdb", "-D", place / "data", "-U", USER, "-A", "scram-sha-256", "--locale=C", "--encoding=UTF8"]
    log = open(place / "log.txt", "ab")  # noqa: SIM115
    try:
        subprocess.run([*make, f"--pwfile={place}/password"], check=True, stdout=log, stderr=log, cwd=place, **who)
        options = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": place}
        serve = [folder / "postgres", "-D", place / "data"]
        serve += [word for key, value in options.items() for word in ("-c", f"{key}={value}")]
        server = subprocess.Popen(serve, stdout=log, stderr=log, cwd=place, start_new_session=True, **who)
        try:
            ready = [folder / "pg_isready", "--quiet", "--host=127.0.0.1", f"--port={port}"]
            waited(
                lambda: subprocess.run(ready, check=False).returncode == 0 or server.poll() is not None,
                "PostgreSQL",
                60,
            )
            assert server.poll() is None, (place / "log.txt").read_text()[-3000:]
            yield f"postgresql://{USER}:{password}@127.0.0.1:{port}/postgres"
        finally:
            server.send_signal(signal.SIGINT)  # ends all sessions and cleans up its shared memory, unlike SIGKILL
            server.wait(30)
    finally:
        log.close()
        shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def tracking_server(database: str | None = None, *, login: bool = True) -> Iterator[Server]:
    """MLflow's server; artifacts go through it.

    Args:
        database: URI of what is behind it; by default a file of SQLite.
        login: Whether it asks for one; then `USER` is known to it.
    """
    place, port, log = Path(tempfile.mkdtemp(prefix="ml", dir="/tmp")), free_port(), "log.txt"
    database = database or f"sqlite:///{place}/mlflow.db"
    admin, password = secrets.token_hex(16), secrets.token_hex(16)
    settings = {"default_permission": "READ", "database_uri": database, "admin_username": "admin"}
    settings["authorization_function"] = "mlflow.server.auth:authenticate_request_basic_auth"
    (place / "auth.ini").write_text("[mlflow]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items()))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")} | {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_AUTH_CONFIG_PATH": str(place / "auth.ini"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": admin,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16),
        "MLFLOW_BACKEND_STORE_URI": database,
    }
    command = [sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={port}", "--workers=1"]
    command += [f"--artifacts-destination={place}/artifacts", *(["--app-name=basic-auth"] if login else [])]
    with open(place / log, "ab") as output:
        process = subprocess.Popen(
            command, env=environment, cwd=place, stdout=output, stderr=output, start_new_session=True
        )
    uri = f"http://127.0.0.1:{port}"
    try:
        waited(lambda: _healthy(uri) or process.poll() is not None, "the tracking server to answer", 120)
        assert process.poll() is None, (place / log).read_text()[-3000:]
        if login:
            _add_user(uri, admin, password)
        yield Server(uri, password, process.pid, place / log)
    finally:
        kill(process)
        shutil.rmtree(place, ignore_errors=True)


def _add_user(uri: str, admin: str, password: str) -> None:
    login = base64.b64encode(f"admin:{admin}".encode()).decode()
    request = urllib.request.Request(
        f"{uri}/api/2.0/mlflow/users/create",
        json.dumps({"username": USER, "password": password}).encode(),
        {"Content-Type": "application/json", "Authorization": f"Basic {login}"},
    )
    with urllib.request.urlopen(request, timeout=30):
        pass


def _healthy(uri: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{uri}/health", timeout=5) as answer:
        return bool(answer.status == 200)
    return False


def _binaries() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


def _account() -> pwd.struct_passwd | None:
    with contextlib.suppress(KeyError):
        return pwd.getpwnam("postgres")
    return None
