"""The Ray that a sweep runs on: the one named by RAY_ADDRESS, or one of its own on this machine."""

from __future__ import annotations

import gc
import logging
import os

import ray

from orchestrator.config import Resources
from orchestrator.problems import ConfigError, Problem

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
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS")
    if address:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    else:
        ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)


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
                    f"{there.get('CPU', 0):g} CPUs and {there.get('GPU', 0):g} GPUs; ask for less or join a cluster "
                    "that has them (RAY_ADDRESS)",
                )
            ],
        )
    return int(fits)
