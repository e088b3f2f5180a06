"""The Ray that a sweep runs on: the one named by RAY_ADDRESS, or one of its own on this machine."""

from __future__ import annotations

import gc
import logging
import os
import socket
from collections.abc import Collection
from pathlib import Path

import ray

from orchestrator.access import about_token
from orchestrator.config import Resources
from orchestrator.problems import ConfigError, Problem
from orchestrator.remote import is_url, shown

ENVIRONMENT = {
    # A worker killed by Ray's memory monitor ends the whole Tune run; one killed by the kernel is an ordinary retry.
    "RAY_memory_monitor_refresh_ms": "0",
    # What is done about a lost worker or node is ours to say, and to write down (`search.faults`).
    "RAY_TRAIN_COUNT_PREEMPTION_AS_FAILURE": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # A missing metric is that trial's failure (`StudySearcher`), not the end of the run.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    # Our ledger and MLflow record the results; Ray's CSV, JSON and TensorBoard copies would triple the driver's work.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Ctrl-C is ours: the ledger is whole at any moment, so there is nothing for Ray to save.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TOKENIZERS_PARALLELISM": "false",
}


def connect() -> None:
    """Connects to the cluster of RAY_ADDRESS, or starts Ray on this machine, without a dashboard.

    Where this process is connected already, it stays so.

    Raises:
        ConfigError: The cluster is not there, does not let us in, or is of another version.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS")
    if address:
        _join(address)
    else:
        ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)


def join() -> None:
    """Connects to the cluster of RAY_ADDRESS where one is named: before a folder is made or a model measured.

    Raises:
        ConfigError: As `connect`.
    """
    if os.environ.get("RAY_ADDRESS"):
        connect()


def require_one_node(folder: Path) -> None:
    """Raises ConfigError where several nodes would have to write to a URL: what is copied there is on this one."""
    if not is_url(url := shown(folder)):
        return
    join()
    nodes = sum(bool(node["Alive"]) for node in ray.nodes()) if ray.is_initialized() else 1
    if nodes > 1:
        several = f"{url!r} is for sweeps on one node, and this Ray has {nodes}; give a folder that all nodes share"
        raise ConfigError("--output", [Problem("", several)])


def _join(address: str) -> None:
    host, _, port = address.rpartition(":")
    named = port.isdecimal() and "://" not in address
    if named and not _answers(host.strip("[]"), int(port)):  # Ray itself would try for minutes
        raise _refused(address, "nothing answers there; is the head node up? On it, `ray status` prints the cluster")
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except ray.exceptions.AuthenticationError:
        raise _refused(address, about_token()) from None
    except ConnectionError as error:
        if str(error).startswith("Failed to connect"):  # the port is open
            raise _refused(address, f"what answers there does not let us in; {about_token()}") from None
        raise _refused(address, "no Ray runs on this machine; start one, or unset RAY_ADDRESS") from None
    except ValueError as error:
        raise _refused(address, f"is no cluster's address ({' '.join(str(error).split())}); write host:6379") from None
    except RuntimeError as error:  # what Ray raises where versions differ
        ray.shutdown()
        remedy = "install the same versions of Python and Ray on all nodes"
        raise _refused(address, f"{' '.join(str(error).split())}; {remedy}") from None


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=10).close()
    except OSError:
        return False
    return True


def _refused(address: str, why: str) -> ConfigError:
    return ConfigError("RAY_ADDRESS", [Problem("", f"{address!r}: {why}")])


def disconnect() -> None:
    """Leaves Ray, and stops it where `connect` started it.

    Handles of actors that died may hang in reference cycles; one that is collected once Ray has gone, in whatever
    thread, ends the process without a word. So they are collected while Ray is there.
    """
    gc.collect()
    ray.shutdown()
    gc.collect()


def capacity(resources: Resources) -> int:
    """How many trials fit at once.

    Raises:
        ConfigError: Not one does.
    """
    there = ray.cluster_resources()
    fits = there.get("CPU", 0) / resources.cpu
    if resources.gpu:
        fits = min(fits, there.get("GPU", 0) / resources.gpu)
    if int(fits) < 1:
        raise ConfigError(
            "resources",
            [
                Problem(
                    "resources",
                    f"a trial asks for cpu {resources.cpu:g} and gpu {resources.gpu:g}, but Ray has "
                    f"{there.get('CPU', 0):g} CPUs and {there.get('GPU', 0):g} GPUs; ask for less, join a cluster "
                    "that has them (RAY_ADDRESS) or, where it grows by itself, say how many at once: budget.concurrent",
                )
            ],
        )
    return int(fits)


def has_room(resources: Resources, aside: Collection[str]) -> bool:
    """Whether a trial fits on a node that is not one of those set aside (Ray's ids)."""
    for node in ray.nodes():
        there = node["Resources"]
        fits = there.get("CPU", 0) >= resources.cpu and there.get("GPU", 0) >= resources.gpu
        if node["Alive"] and fits and node["NodeID"] not in aside:
            return True
    return False
