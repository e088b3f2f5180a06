"""What `doctor` asks of a cluster, or of this machine where there is none: each node says what it has and can do."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.cluster import connect, disconnect
from orchestrator.health import Disk, Facts, Finding, Listener, Node, worst
from orchestrator.redaction import redacted
from orchestrator.tracking.login import check_store
from orchestrator.tracking.uri import resolve_uri
from trials.identity import cache_folder

PATIENCE = 120.0
"""Seconds that a node is waited for: a fresh process there imports torch."""
PACKAGES = ("unlearn-sweep", "ray", "torch", "transformers", "peft", "optuna", "mlflow")
_STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}
_MARK = ".doctor-"


def gather(output: Path, *, uri: str | None, gpu: float, address: str | None) -> Facts:
    """Asks every node of a cluster, or this machine.

    Args:
        output: Folder of run folders.
        uri: What a sweep file says of the tracking store.
        gpu: What a trial asks for.
        address: Of the cluster; None: this machine alone, and no Ray is started.

    Raises:
        Exception: Ray's, where no cluster is at the address.
    """
    place = output.resolve()
    store = resolve_uri(place, uri)
    mark = f"{_MARK}{uuid.uuid4().hex[:8]}"
    try:
        ours = look(str(place), f"{mark}-here", "here")
        nodes, silent = ([ours], {}) if address is None else _nodes(address, ours, place, mark)
    finally:
        for left in place.glob(f"{mark}*"):
            left.unlink()
    silence = check_store(store) or "" if place.is_dir() or not store.startswith("sqlite") else ""
    return Facts(nodes, str(place), redacted(store), silence, silent, gpu)


def look(output: str, mark: str, name: str) -> Node:
    """What the machine says of itself that this is called on.

    Args:
        output: The output folder; a file is written into it.
        mark: Name of that file.
        name: What the machine is to be called.
    """
    import torch

    place = Path(output)
    there = next(folder for folder in (place, *place.parents) if folder.exists())
    disks = {"output": there, "ray": Path(os.environ.get("RAY_TMPDIR", "/tmp")), "cache": cache_folder()}
    return Node(
        name=name,
        versions={"python": platform.python_version()} | {package: _version(package) for package in PACKAGES},
        torch_gpus=torch.cuda.device_count(),
        unwritable=_unwritable(place, there, mark),
        disks={what: _disk(folder) for what, folder in disks.items()},
        shared_memory=_shared_memory(),
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        listeners=list(listeners()),
    )


def show(found: Sequence[Finding], console: Console) -> int:
    """Prints the findings, a line each; returns the exit code: 1 where there is a problem."""
    table = Table(box=None, pad_edge=False)
    for column in ("", "what", "found"):
        table.add_column(column, overflow="fold")
    for each in found:
        table.add_row(Text(each.level, _STYLES[each.level]), Text(each.what), Text(redacted(each.words)))
    console.print(table)
    return int(worst(found) == "problem")


# -- the cluster -------------------------------------------------------------------------------------------------------


class Scout:
    """A process on a node that looks around there, and says what time it is."""

    def look(self, output: str, mark: str, name: str) -> Node:
        """See `look`."""
        return look(output, mark, name)

    def now(self) -> float:
        """Its clock, in seconds."""
        return time.time()


def _nodes(address: str, ours: Node, place: Path, mark: str) -> tuple[list[Node], dict[str, str]]:
    """The nodes of a cluster, the first as the driver's own, and those that do not answer."""
    os.environ["RAY_ADDRESS"] = address
    connect()
    try:
        alive = [node for node in ray.nodes() if node["Alive"]]
        scouts = {_name(node): (node, _scout(node, place, mark)) for node in alive}
        nodes, silent = [], {}
        for name, (node, (scout, answer)) in scouts.items():
            try:
                seen = ray.get(answer, timeout=PATIENCE)
                skew = min((_skew(scout) for _ in range(3)), key=abs)
            except Exception as error:  # Ray's, or what the node could not import: the other nodes are worth asking
                silent[name] = f"{type(error).__name__}: {(str(error).strip() or 'no word').splitlines()[-1]}"
                continue
            there = (place / f"{mark}-{name}").is_file()
            gpus = float(node["Resources"].get("GPU", 0.0))
            nodes.append(replace(seen, ray_gpus=gpus, skew=skew, seen=there))
        return nodes or [ours], silent
    finally:
        disconnect()


def _name(node: Mapping[str, Any]) -> str:
    return f"{node['NodeManagerHostname']}-{node['NodeID'][:6]}"


def _scout(node: Mapping[str, Any], place: Path, mark: str) -> tuple[Any, Any]:
    where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    actor: Any = ray.remote(Scout)
    scout = actor.options(num_cpus=0, scheduling_strategy=where).remote()
    return scout, scout.look.remote(str(place), f"{mark}-{_name(node)}", _name(node))


def _skew(scout: Any) -> float:
    """Seconds by which a node's clock is before ours, to half the time of a call."""
    before = time.time()
    there: float = ray.get(scout.now.remote(), timeout=PATIENCE)
    return there - (before + time.time()) / 2


# -- one machine -------------------------------------------------------------------------------------------------------


def listeners() -> Iterator[Listener]:
    """Processes of Ray's on this machine that take connections, as far as this user may see them."""
    try:
        connections = psutil.net_connections("tcp")
    except psutil.Error:
        return
    seen = set()
    for each in connections:
        if each.status != psutil.CONN_LISTEN or each.pid is None or not each.laddr:
            continue
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(each.pid)
            name = _ray_process(process)
            if name and (name, each.laddr) not in seen:
                seen.add((name, each.laddr))
                yield Listener(name, each.laddr.ip, each.laddr.port, _asks_for_token(process))


def _ray_process(process: psutil.Process) -> str:
    """What Ray calls a process of its own; "" for any other."""
    words = process.cmdline()
    if not words:
        return ""
    name = words[0].split("/")[-1].split()[0] if words[0].split() else ""
    if name in ("gcs_server", "raylet") or name.startswith("ray::"):
        return name
    scripts = (word for word in words[1:4] if "/ray/" in word and word.endswith(".py"))
    return next((f"ray {Path(script).stem}" for script in scripts), "")


def _asks_for_token(process: psutil.Process) -> bool | None:
    """Whether a process was started in token mode. Ray's agents write their title over their environment: then the
    process that started it is asked."""
    for each in (process, *process.parents()):
        with contextlib.suppress(psutil.Error):
            environment = each.environ()
            if "PATH" in environment:
                return bool(environment.get("RAY_AUTH_MODE", "").lower() == "token")
    return None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _unwritable(place: Path, there: Path, mark: str) -> str:
    """Why the output folder cannot be written; "" where it can, or could be made."""
    if place != there:
        return "" if os.access(there, os.W_OK) else f"there is no such folder, and {str(there)!r} is read-only"
    try:
        (place / mark).write_text(mark, encoding="utf-8")
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _disk(folder: Path) -> Disk:
    there = next(each for each in (folder, *folder.parents) if each.exists())
    usage = shutil.disk_usage(there)
    return Disk(str(folder), usage.free, usage.total)


def _shared_memory() -> int:
    place = Path("/dev/shm")
    return shutil.disk_usage(place).total if place.is_dir() else 0
