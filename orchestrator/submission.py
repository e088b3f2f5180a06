"""What is handed to a cluster: a sweep file, checked as far as it can be here, and this very code."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from orchestrator.config import load_sweep
from orchestrator.problems import ConfigError, Problem, find_sweep, read_yaml

PACKAGES = ("orchestrator", "search_spaces", "trials")
BESIDE = ("constraints.txt", "pyproject.toml")
SWEEP_FILE = "sweep.yaml"
"""What the sweep file is called in the package."""


def check_request(file: str, settings: Sequence[str], output: str, job_id: str | None = None) -> tuple[str, list[str]]:
    """Checks a sweep file as `run` does, as far as it can be done on another machine than the cluster.

    Args:
        file: Path of a sweep file, or the name of a shipped one.
        settings: `path=value` each.
        output: The folder of run folders, on the cluster.
        job_id: What the job is to be called.

    Returns:
        The name of the sweep, and what only the cluster can tell.

    Raises:
        ConfigError: With every problem found.
    """
    problems, notes = [], []
    if not PurePosixPath(output).is_absolute():
        shared = "is not absolute; name a folder that all nodes share, as in /mnt/shared/runs"
        problems.append(Problem("--output", f"{output!r} {shared}"))
    if job_id is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", job_id):
        problems.append(Problem("--name", f"{job_id!r} must be letters, digits, '.', '_' and '-'; take another"))
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if uri and urlsplit(uri).scheme not in ("http", "https"):
        where = "is a store on this machine; name a server that the cluster reaches, or unset it for one in --output"
        problems.append(Problem("MLFLOW_TRACKING_URI", where))
    raw = read_yaml(file, settings)
    problems += list(_of_this_machine(raw))
    try:
        with tempfile.TemporaryDirectory() as here:
            load_sweep(file, settings, output=Path(here))
    except ConfigError as error:
        for problem in error.problems:
            if _only_there(raw, problem.path):
                notes.append(f"{problem.path}: not to be checked from here; the cluster checks it")
            else:
                problems.append(problem)
    if problems:
        raise ConfigError(file, problems)
    return str(raw["name"]), notes


_PLACES = ("benchmark.path", "benchmark.annotations", "model.path", "model.retain_path", "model.retain_log")


def _places(raw: Mapping[str, Any]) -> dict[str, str]:
    """Path of a setting -> the place that it names, which must be there on every node."""
    trial = raw.get("trial")
    places: dict[str, Any] = {}
    for path in _PLACES:
        section, _, key = path.partition(".")
        settings = trial.get(section) if isinstance(trial, Mapping) else None
        places[f"trial.{path}"] = settings.get(key) if isinstance(settings, Mapping) else None
    earlier = raw.get("warm_start")
    places |= {f"warm_start.{index}": each for index, each in enumerate(earlier if isinstance(earlier, list) else [])}
    return {path: value for path, value in places.items() if isinstance(value, str)}


def _of_this_machine(raw: Mapping[str, Any]) -> Iterator[Problem]:
    """Relative paths that lead somewhere here, and nowhere on the cluster."""
    for path, value in _places(raw).items():
        if not PurePosixPath(value).is_absolute() and Path(value).expanduser().exists():
            remedy = "copy it to a folder that all nodes share and give its absolute path there"
            yield Problem(path, f"{value!r} is on this machine only; {remedy}")


def _only_there(raw: Mapping[str, Any], path: str) -> bool:
    """Whether a problem may be one of this machine only: an absolute path, or a server."""
    if path in ("MLFLOW_TRACKING_URI", "tracking.uri"):
        return True
    return PurePosixPath(_places(raw).get(path, "")).is_absolute()


def pack(folder: Path, file: str) -> None:
    """Copies this very code and a sweep file, as `sweep.yaml`, into an empty folder: well below Ray's limit of 100 MiB.

    Args:
        folder: The empty folder.
        file: Path of a sweep file, or the name of a shipped one.
    """
    root = Path(__file__).parents[1]
    for package in PACKAGES:
        shutil.copytree(root / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in BESIDE:
        if (root / name).is_file():
            shutil.copy(root / name, folder)
    shutil.copy(find_sweep(file), folder / SWEEP_FILE)
