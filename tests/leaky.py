"""A trial that says what it should not: in its log, and in why it failed."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from tests.surrogate import surrogate
from trials.config import TrialConfig
from trials.result import EpochResult, TrialFailed


def leaky(config: TrialConfig, *, folder: Path, resume_from: Path | None = None) -> Iterator[EpochResult]:
    """The surrogate, which logs every variable of its environment and then, every other time, fails with them."""
    said = " ".join(os.environ.values()) + " postgresql://me:uripass-Zq88xk@host/db"
    for result in surrogate(config, folder=folder, resume_from=resume_from):
        logging.getLogger("hub").error("401 with %s", said)
        if int(folder.name) % 2:
            raise TrialFailed(f"the hub refused {said}")
        yield result
