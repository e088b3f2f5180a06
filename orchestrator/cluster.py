"""The Ray that a sweep runs on: the one named by RAY_ADDRESS, or one of its own on this machine."""

from __future__ import annotations

import gc
import logging
import os
import socket
from collections.abc import Collection, Mapping
from pathlib import Path

import ray

from orchestrator.access import about_token
from orchestrator.problems import ConfigError, Problem
from orchestrator.remote import is_url, shown
from orchestrator.resources import GIB, Resources

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
    """How many trials fit at once: each on one node, and none across two GPUs unless it takes whole ones.

    Raises:
        ConfigError: Not one does.
    """
    fits = sum(_fits(resources, node["Resources"]) for node in ray.nodes() if node["Alive"])
    if fits < 1:
        there = ray.cluster_resources()
        memory = f", memory {resources.memory:.3g} GiB" if resources.memory else ""
        has = f", {there.get('memory', 0) / GIB:.3g} GiB" if resources.memory else ""
        raise ConfigError(
            "resources",
            [
                Problem(
                    "resources",
                    f"a {'pack' if resources.pack > 1 else 'trial'} asks for cpu {resources.cpu:g} and "
                    f"gpu {resources.process.share:g}{memory}, but Ray has "
                    f"{there.get('CPU', 0):g} CPUs and {there.get('GPU', 0):g} GPUs{has}; "
                    "ask for less (a trial has to fit on one node), join a cluster that has them (RAY_ADDRESS) or, "
                    "where it grows by itself, say how many at once: budget.concurrent",
                )
            ],
        )
    return fits


def is_leaving(node: str) -> bool:
    """Whether a node (Ray's id) is to be taken away: a spot instance that was given notice, or one that is drained.

    Ray places nothing new there, but knows nothing of warm processes that are handed one trial after another.
    """
    return node in ray._private.state.state.get_draining_nodes()  # as Ray's own Train asks


def has_room(resources: Resources, aside: Collection[str]) -> bool:
    """Whether a trial fits on a node that is not one of those set aside (Ray's ids)."""
    nodes = (node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in aside)
    return any(_fits(resources, node["Resources"]) for node in nodes)


def _fits(resources: Resources, there: Mapping[str, float]) -> int:
    """How many trials fit on a node with these resources of Ray's; of packs, only whole ones count."""
    if resources.pack > 1:
        return resources.pack * _fits(resources.process, there)
    fits = there.get("CPU", 0) / resources.cpu
    if 0 < resources.share <= 1:
        fits = min(fits, int(there.get("GPU", 0)) * int(1 / resources.share + 1e-9))
    elif resources.share:
        fits = min(fits, there.get("GPU", 0) / resources.share)
    if resources.memory:
        fits = min(fits, there.get("memory", 0) / resources.bundle["memory"])
    return int(fits + 1e-9)
