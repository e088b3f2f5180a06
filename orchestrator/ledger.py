"""The run folder's memory: an append-only file of events, and the records that follow from it.

`ledger.jsonl` is the only source of truth. One line is one event, written by the driver with a single call and
fsynced before anything else hears of it, so whatever else dies (Ray, the tracking server, the driver itself) can be
rebuilt: the study, the rungs of the scheduler, the MLflow runs, `trials.jsonl` and the report are all functions of it.
A line cut short by a killed driver is the last one and is dropped on reading. Other lines that cannot be read (a lost
block after a power cut) are passed over with a warning, see `orchestrator/salvage.py`; whoever takes up the sweep sets
the damaged file aside, as `ledger.jsonl.damaged-<n>`, with the folders of trials that nothing is known of any more.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from orchestrator.events import OF_NO_TRIAL, Anchor, Ended, Event, Measured, Record, Suggested, record_of, records
from orchestrator.salvage import Salvage, salvage

logger = logging.getLogger(__name__)
_told: set[tuple[Path, str]] = set()  # a damaged ledger is read often, and warned of once


class History:
    """Events in their order, those of each trial at hand, and who listens; in memory alone.

    Args:
        events: What has happened already.
        clock: Says what time it is, in seconds.
    """

    def __init__(self, events: Iterable[Event] = (), clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.events: list[Event] = []
        self._of_trial: dict[str, list[Event]] = {}
        self._listeners: list[Callable[[Event], None]] = []
        for event in events:
            self._remember(event)

    def of(self, trial_id: str) -> Sequence[Event]:
        """The events of one trial, in order; none for one that is not known."""
        return self._of_trial.get(trial_id, ())

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Calls `listener` with each event once it is kept, in this thread: it must be quick and must not raise."""
        self._listeners.append(listener)

    def append(self, event: Event) -> None:
        """Keeps one event, then tells the listeners."""
        self._remember(event)
        for listener in self._listeners:
            listener(event)

    def records(self) -> list[Record]:
        """One record per ended trial, in the order in which they ended."""
        return records(self.events)

    def anchors(self) -> dict[str, dict[str, float]]:
        """Name of the target or retain model -> its metrics."""
        return {event.name: event.metrics for event in self.events if isinstance(event, Anchor)}

    def _remember(self, event: Event) -> None:
        self.events.append(event)
        if not isinstance(event, OF_NO_TRIAL):
            self._of_trial.setdefault(event.trial_id, []).append(event)


class Ledger(History):
    """Appends events to `<folder>/ledger.jsonl` and keeps `<folder>/trials.jsonl` in step.

    Args:
        folder: The run folder; it exists.

    Raises:
        BlockingIOError: Another process has this ledger open.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / "ledger.jsonl"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # two drivers on one folder would run trials twice
        except BlockingIOError:
            os.close(self._file)
            raise
        lines = _whole_lines(path)
        found = salvage(lines)
        super().__init__(found.events)
        # A torn last line would join the next one and lose it: cut it off before appending.
        self._length = sum(len(line) for line in lines)
        os.ftruncate(self._file, self._length)
        self._stale: int | None = None
        if found.damaged:
            self._set_aside(found)
        self._write_records()

    def append(self, event: Event) -> None:
        """Writes one event, then tells the listeners.

        Raises:
            OSError: The disk is full or gone; nothing was told to anybody.
        """
        self._write(event.model_dump_json())
        self._remember(event)
        if isinstance(event, Ended):
            record = record_of(self.of(event.trial_id))
            with open(self.folder / "trials.jsonl", "a", encoding="utf-8") as file:
                file.write(record.model_dump_json() + "\n")
        elif isinstance(event, Measured):
            self._write_records()
        for listener in self._listeners:
            listener(event)

    def close(self) -> None:
        """Closes the file; the ledger takes no more events."""
        os.close(self._file)
        if self._stale is not None:
            os.close(self._stale)

    def _set_aside(self, found: Salvage) -> None:
        """Keeps the damaged file under another name and goes on with a new one, under a lock from its beginning."""
        path = self.folder / "ledger.jsonl"
        number = 1 + len(list(self.folder.glob("ledger.jsonl.damaged-*")))
        aside, fresh = f"damaged-{number}", path.with_name(".ledger.jsonl.part")
        shutil.copy2(path, f"{path}.{aside}")
        # The lock of the old file is kept too: who has opened it before must not come to think that it is free.
        self._stale, self._file = self._file, os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._length = 0
        for event in self.events:
            self._write(event.model_dump_json())
        os.replace(fresh, path)
        known = {event.trial_id for event in self.events if isinstance(event, Suggested)}
        for place in sorted(self.folder.glob("trials/[0-9]*")):
            if place.name not in known and "." not in place.name:  # its name may be given to another trial
                os.replace(place, place.with_name(f"{place.name}.{aside}"))
        logger.warning("%s: %s; the damaged file is in %s.%s", self.folder, found, path.name, aside)

    def _write_records(self) -> None:
        lines = [f"{record.model_dump_json()}\n" for record in self.records()]
        write_atomically(self.folder / "trials.jsonl", "".join(lines))

    def _write(self, line: str) -> None:
        data = (line + "\n").encode()
        try:
            if os.write(self._file, data) != len(data):
                raise OSError(errno.ENOSPC, "the ledger could not be written whole; free some space and `resume`")
            os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, self._length)  # half a line would swallow the next one
            raise
        self._length += len(data)


def in_use(folder: Path) -> bool:
    """Whether a driver is at work in a run folder now."""
    try:
        descriptor = os.open(folder / "ledger.jsonl", os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def read_events(folder: Path) -> list[Event]:
    """The events of a run folder in order; empty where there is no ledger yet. Warns of what cannot be read.

    Raises:
        LedgerError: A line is an event of another version.
    """
    found = salvage(_whole_lines(folder / "ledger.jsonl"))
    if found.damaged and (folder, str(found)) not in _told:
        _told.add((folder, str(found)))
        logger.warning("%s: %s", folder, found)
    return found.events


def read_records(folder: Path) -> list[Record]:
    """The lines of `<folder>/trials.jsonl`.

    Raises:
        FileNotFoundError: No such file: not a run folder, or no trial has ended.
    """
    lines = (folder / "trials.jsonl").read_text(encoding="utf-8").splitlines()
    return [Record.model_validate_json(line) for line in lines]


def write_atomically(path: Path, text: str) -> None:
    """Writes a whole file or leaves the old one: never half of it."""
    temporary = path.with_name(f".{path.name}.part")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _whole_lines(path: Path) -> list[bytes]:
    if not path.exists():
        return []
    return [line + b"\n" for line in path.read_bytes().split(b"\n")[:-1]]
