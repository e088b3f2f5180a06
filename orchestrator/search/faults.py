"""What is done about a trial that did not come to its end: run again, and as what; given up; or kept back.

A trial goes on from its checkpoint each time, so at most its running epoch is lost. What is no fault of its own (its
node or worker was lost) does not use up the retries that it has for its own errors, but is bounded too: a trial that
kills its worker looks the same.

Failures alike, one after the other, on a node that has finished nothing in between, are *kept back*: what is broken may
be the node, or the whole environment, and then they are nobody's result. Nothing is written of them; whoever takes up
the sweep runs them again.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import shlex
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from orchestrator.events import Ended, Resumed, Suggested
from orchestrator.ledger import History
from orchestrator.problems import RunFailed
from orchestrator.redaction import redacted
from orchestrator.resources import Resources
from search_spaces.space import with_paths
from trials.config import TrialConfig

ALIKE = 5
"""Failures alike, one after the other, after which a node or the whole environment is taken to be broken."""

FULL = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))

PLACE = "worker.json"
"""In a trial's folder: node, host and process of the worker that runs it, or ran it last."""

LEAVING = "this node is to be taken away, the trial goes to another"
"""What a warm process says that does not take its next trial."""

Kind = Literal["node", "worker", "error", "memory", "hung", "disk", "leaving"]


@dataclass(frozen=True)
class Fault:
    """Why a trial did not go on: of which kind, and in words, a line."""

    kind: Kind
    cause: str


LOST = Fault("worker", "its worker process died")


class DiskFull(RunFailed):
    """Nothing more can be written; no trial is to blame."""

    def __init__(self, place: object, cause: str) -> None:
        super().__init__(
            f"nothing more can be written: {cause}; all that is recorded is kept: free some space, then: "
            f"unlearn-sweep resume {shlex.quote(str(place))}"
        )


@contextlib.contextmanager
def telling_full(place: object) -> Iterator[None]:
    """A full disk, wherever the driver meets it, is a `DiskFull`."""
    try:
        yield
    except OSError as error:
        if not says_full(str(error)):
            raise
        raise DiskFull(place, str(error)) from error


def says_full(text: str) -> str | None:
    """The first line of an error's text that says that a disk is full; None where none does."""
    return next((line.strip() for line in text.splitlines() if any(word in line for word in FULL)), None)


def fault_of(text: str) -> Fault:
    """What Ray's words for the end of a trial mean."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if full := says_full(text):
        return Fault("disk", full)
    if LEAVING in text:
        return Fault("leaving", LEAVING)
    if "raised in its creation task" not in text:  # else the worker lived long enough to say what was wrong
        if "node has died" in text or "node was terminated" in text or "ActorUnschedulable" in text:
            return Fault("node", "its node was lost")
        if not lines or "actor died" in text or "ActorDied" in text or "is unavailable" in text:
            return LOST
    return Fault("error", redacted(lines[-1])[:500])


def settings(event: Suggested, history: History) -> dict[str, Any]:
    """A trial's settings, with what changed when it was handed out again."""
    changes: dict[str, Any] = {}
    for each in history.of(event.trial_id):
        if isinstance(each, Resumed):
            changes |= each.changed
    return with_paths(event.config, changes) if changes else event.config


def halved(config: Mapping[str, Any]) -> dict[str, int]:
    """Half the rows of a forward pass, twice the passes of a step: the same effective batch in less memory.

    Args:
        config: A trial.

    Returns:
        Path -> what it is to be: micro-batch, and sequences of an evaluation pass. Empty where nothing can be halved: 1
        is reached, or the loss is a function of the micro-batch (`log_ratio: micro_batch`).
    """
    trial = TrialConfig.model_validate(config)
    sizes = {"evaluation.batch_size": trial.evaluation.batch_size}
    if getattr(trial.loss.criterion, "log_ratio", "answer") == "answer":
        sizes["optim.micro_batch_size"] = trial.optim.micro_batch_size or trial.optim.batch_size
    return {path: size // 2 for path, size in sizes.items() if size > 1}


def remedy(fault: Fault, event: Suggested, history: History, resources: Resources) -> Resumed | None:
    """How a trial goes on after a fault; None where it does not."""
    before = Counter(each.why for each in history.of(event.trial_id) if isinstance(each, Resumed))
    changed: dict[str, Any] = {}
    if fault.kind == "node" or fault.kind == "worker":
        again = before["node"] + before["worker"] < resources.losses
    elif fault.kind == "error":
        again = before["error"] < resources.retries
    elif fault.kind == "memory":
        changed = halved(settings(event, history))
        again = bool(changed)
    else:
        return None
    at = history.clock()
    return (
        Resumed(at=at, trial_id=event.trial_id, why=fault.kind, cause=fault.cause, changed=changed) if again else None
    )


def given_up(fault: Fault, event: Suggested, history: History) -> str:
    """The words for a trial that does not go on."""
    kinds = ("node", "worker") if fault.kind in ("node", "worker") else (fault.kind,)
    again = sum(isinstance(each, Resumed) and each.why in kinds for each in history.of(event.trial_id))
    return f"{fault.cause} (run again {again} times)" if again else fault.cause


def node_of(folder: Path) -> str:
    """Ray's id of the node on which a trial ran last, as its worker noted it; "" where it did not come to that."""
    try:
        return str(json.loads((folder / PLACE).read_text(encoding="utf-8"))["node"])
    except (OSError, ValueError, KeyError):
        return ""


class Streaks:
    """Failures alike, one after the other, by node: kept back until it is known whose fault they are.

    Args:
        most: Failures alike after which the whole environment is given up: at least as many as run at once.

    Attributes:
        broken: What they have in common, once nothing has worked anywhere; None until then.
        aside: Nodes on which all failed alike while others worked -> what they have in common.
    """

    def __init__(self, most: int) -> None:
        self.broken: str | None = None
        self.aside: dict[str, str] = {}
        self._most = max(ALIKE, most)
        self._kept: dict[str, list[Ended]] = {}
        self._worked: set[str] = set()

    def worked(self, node: str) -> list[Ended]:
        """A trial got through an epoch there, or failed in a way of its own: what was kept back is to be written."""
        self._worked.add(node)
        return self._kept.pop(node, [])

    def failed(self, node: str, end: Ended, others: Collection[str]) -> list[Ended]:
        """A trial failed there.

        Args:
            node: Where; "" where that is not known.
            end: Its end.
            others: Nodes on which trials run now; "" for one that is not known yet.

        Returns:
            Ends that are to be written now, in their order.
        """
        kept = self._kept.setdefault(node, [])
        different = kept if kept and _alike(kept[0]) != _alike(end) else []
        self._kept[node] = kept = [end] if different else [*kept, end]
        elsewhere = {each for each in {*others, *self._worked} if len(self._kept.get(each, ())) < ALIKE} - {node, ""}
        if elsewhere and node and len(kept) >= ALIKE:
            self.aside[node] = str(end.failure)
        elif not elsewhere and node in self._worked:
            return [*different, *self._kept.pop(node)]
        elif not self._worked and not elsewhere and sum(map(len, self._kept.values())) >= self._most:
            self.broken = str(end.failure)
        return list(different)

    def kept(self, node: str) -> list[Ended]:
        """What is kept back of a node."""
        return self._kept.get(node, [])

    def release(self) -> list[Ended]:
        """All that was kept back: nothing more will tell whose fault it was."""
        kept, self._kept = self._kept, {}
        return [end for ends in kept.values() for end in ends]


class Watch:
    """Tells trials that hang: no epoch for too long, counted from when they were first seen to run.

    Args:
        minutes: The limit; None: nothing hangs.
        clock: Seconds.
    """

    def __init__(self, minutes: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit, self._clock = minutes, clock
        self._since: dict[str, float] = {}

    def hangs(self, trial_id: str) -> bool:
        """Whether a trial that runs now has done so for too long; said once."""
        since = self._since.setdefault(trial_id, self._clock())
        late = self.limit is not None and self._clock() - since > 60 * self.limit
        if late:
            self._since[trial_id] = math.inf
        return late

    def forget(self, trial_id: str) -> None:
        """An epoch has ended, or the trial has: its time begins anew."""
        self._since.pop(trial_id, None)

    def words(self) -> str:
        """The cause of such an end."""
        return f"hung: no epoch ended within {self.limit:g} minutes (resources.timeout_minutes); its worker was killed"


def _alike(end: Ended) -> str:
    """A cause without the numbers in it."""
    return re.sub(r"\d+(\.\d+)?", "#", end.failure or "")
