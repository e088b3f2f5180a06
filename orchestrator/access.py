"""How a process gets into a Ray cluster, and what it takes along: the cluster's token, the submitter's credentials.

Ray writes the variables of a job's runtime environment into its log on each node. So credentials travel in a file of
the job's package, which only the user of the cluster's processes can read; each process of the job takes them from it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

MODE = "RAY_AUTH_MODE"
PLACE = "UNLEARN_SWEEP_ENVIRONMENT"
"""Names the file with the submitter's variables, in the processes of a job."""

FILE = "environment.json"
PASSED_ON = (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_S3_ENDPOINT_URL",
    "HF_TOKEN",
    "HF_ENDPOINT",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
)
"""The only variables of the submitter that reach a job."""


def use_token() -> None:
    """Has Ray use the token of this user, where there is one and nobody said otherwise; before Ray is imported.

    A cluster with a token lets nobody in without one, and a client of Ray 2.60 does not look for it by itself.
    """
    if MODE not in os.environ and token_place() is not None:
        os.environ[MODE] = "token"


def token_place() -> str | None:
    """Where the token is, in words: a variable or a file; None where there is none. Never the token itself."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "RAY_AUTH_TOKEN"
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    file = Path(named) if named else Path.home() / ".ray" / "auth_token"
    return str(file) if file.is_file() else None


def about_token() -> str:
    """Why a cluster may refuse this process, and what to do; never the token."""
    place = token_place()
    by = "by RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN"
    if os.environ.get(MODE, "token") != "token":
        return f"{MODE} is {os.environ[MODE]!r}: set it to token, and give the cluster's token {by}"
    if place is None:
        return f"the cluster asks for a token, and there is none here: give the head node's {by}, with {MODE}=token"
    return f"the token of {place} is another cluster's: copy the head node's, and name it {by}"


def pass_on(folder: Path, environment: Mapping[str, str]) -> list[str]:
    """Writes what a job takes along of the submitter's environment into its package.

    Returns:
        The names of the variables.
    """
    taken = {name: environment[name] for name in PASSED_ON if environment.get(name)}
    with open(os.open(folder / FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        json.dump(taken, file)
    return list(taken)


def take_over() -> None:
    """In a process of a job: takes over the submitter's variables, if there are any. Elsewhere, nothing."""
    named = os.environ.get(PLACE)
    if named and (file := Path(named)).is_file():
        taken = json.loads(file.read_text(encoding="utf-8"))
        os.environ.update({name: value for name, value in taken.items() if name in PASSED_ON})
