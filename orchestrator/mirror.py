"""Copies what changes in a run folder to its URL while the sweep runs, from a thread of its own.

A store that is away costs the driver nothing: what could not be sent is tried again, after ever longer pauses, and the
end says what is not there yet; the folder of this machine has it all. The order matters: the ledger goes before the
seal of a checkpoint, so that nobody finds a checkpoint that is more than an epoch ahead of the ledger; the seal goes
after all else of its checkpoint; and things are deleted once the ledger that justifies it is there.
"""

from __future__ import annotations

import contextlib
import logging
import shlex
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from orchestrator.redaction import redacted
from orchestrator.remote import Remote, State, fetch, note_sent, remote_of, sent_of, shown, state_of
from trials.checkpoints import SUMS

INTERVAL, LONGEST_PAUSE, PATIENCE, REFRESH = 2.0, 60.0, 3, 30.0
"""Seconds between two looks, at most after failures; failures until it is said; seconds between refreshed locks."""

LEDGER = "ledger.jsonl"

_LOG = logging.getLogger(__name__)


@contextlib.contextmanager
def mirrored(folder: Path, tell: Callable[[str], object]) -> Iterator[None]:
    """While a run folder that stands for a URL is at work: fetched, locked, copied; any other is left alone.

    Args:
        folder: The run folder.
        tell: Takes a line about what is at the URL in the end.

    Raises:
        ConfigError: The URL cannot be written, or another process is running this sweep.
    """
    remote = remote_of(folder.parent)
    if remote is None:
        yield
        return
    remote.take(folder.name)
    try:
        fetch(folder, checkpoints=True, begun=False)
    except BaseException:
        remote.leave(folder.name)
        raise
    mirror = Mirror(folder, remote)
    try:
        yield
    finally:
        left = mirror.finish(timeout=60)
        again = f"; they are in {str(folder)!r}, and `unlearn-sweep resume {shlex.quote(shown(folder))}` sends them"
        tell(f"{shown(folder)}: {left}{again}" if left else f"everything is at {shown(folder)}")


class Mirror:
    """Keeps the run folder at a URL in step with that of this machine, which has everything that is there.

    Args:
        folder: The run folder; the URL's lock is ours.
        remote: Where its copy is.
    """

    def __init__(self, folder: Path, remote: Remote) -> None:
        self._folder, self._remote = folder, remote
        self._there: dict[str, State] | None = None  # name -> size and time of what was sent
        self._wake, self._stop = threading.Event(), threading.Event()
        self._failures, self._why = 0, ""
        self._taken, self._done = False, threading.Event()
        self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)
        self._thread.start()
        threading.Thread(target=self._keep_lock, name="mirror's lock", daemon=True).start()

    def finish(self, timeout: float) -> str:
        """Sends the rest and gives the lock back.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            What is not there yet and why, in a sentence; "" where everything is.
        """
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout)
        if self._taken:
            return "another driver has taken the sweep over; nothing more was sent"
        there = self._there or {}
        left = [name for name, state in _files(self._folder).items() if there.get(name) != state]
        why = self._why or ("it takes longer than a minute" if self._thread.is_alive() else "")
        return f"{len(left)} files are not there yet ({why})" if left else ""

    def _keep_lock(self) -> None:
        """Says that this driver is at work, however long an upload takes; ends the uploads where another has it."""
        while not self._done.wait(REFRESH):
            with contextlib.suppress(Exception):  # a store that is away is told of where files are sent
                if self._is_lost():
                    return
                self._remote.refresh(self._folder.name)

    def _is_lost(self) -> bool:
        if not self._taken and self._remote.lost(self._folder.name):
            self._taken = True
            _LOG.error("another driver has taken %s over: nothing more is sent there", self._remote.url)
        return self._taken

    def _run(self) -> None:
        try:
            self._look_until_stopped()
        finally:
            self._done.set()

    def _look_until_stopped(self) -> None:
        while not self._taken:
            stopping, began = self._stop.is_set(), time.monotonic()
            try:
                self._send()
                self._failures, self._why = 0, ""
                if stopping:
                    self._done.set()  # a lock that is given back is neither refreshed nor missed
                    self._remote.leave(self._folder.name)
            except Exception as error:  # whatever it is, it is not worth the sweep
                self._failures += 1
                self._why = " ".join(redacted(str(error) or type(error).__name__).split())[:300]
                if self._failures == PATIENCE:
                    _LOG.warning("%s is not to be written (%s); trying again", self._remote.url, self._why)
            if stopping:
                return
            took = time.monotonic() - began
            self._wake.wait(min(2.0**self._failures, LONGEST_PAUSE) if self._failures else max(INTERVAL, took))

    def _send(self) -> None:
        """One look: new and changed files, in their order, then what is gone."""
        if self._is_lost():
            return
        if self._there is None:
            sent = sent_of(self._folder)
            self._there = {name: sent.get(name, (-1, 0)) for name in self._remote.names(self._folder.name)}
        before = dict(self._there)
        found = _files(self._folder)
        if LEDGER not in found and LEDGER in before:
            raise FileNotFoundError(f"{self._folder} is not there any more")  # the folder has gone, not what was in it
        for name in sorted(found, key=_order):
            if name.endswith(SUMS):
                self._put(LEDGER)
            self._put(name)
        self._put(LEDGER)
        for name in [name for name in self._there if name not in found]:
            if not (self._folder / name).exists() and not self._taken:
                self._remote.delete(f"{self._folder.name}/{name}")
                del self._there[name]
        if self._there != before:
            note_sent(self._folder, self._there)

    def _put(self, name: str) -> None:
        """Sends a file, unless it is there as it is; one that went away meanwhile is for the next look."""
        assert self._there is not None
        file = self._folder / name
        try:
            state = state_of(file)
            if self._there.get(name) == state or self._taken:
                return
            if name == LEDGER:
                lines = file.read_bytes()
                self._remote.write(f"{self._folder.name}/{name}", lines[: lines.rfind(b"\n") + 1])
            else:
                self._remote.upload(file, f"{self._folder.name}/{name}")
        except FileNotFoundError:
            if file.exists():
                raise  # the bucket has gone
            return
        self._there[name] = state


def _files(folder: Path) -> dict[str, State]:
    """Name -> size and time of all files but hidden ones: those are half written, or Ray's."""
    return dict(_walk(folder, ""))


def _walk(folder: Path, prefix: str) -> Iterator[tuple[str, State]]:
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(entry, f"{prefix}{entry.name}/")
            continue
        try:
            yield f"{prefix}{entry.name}", state_of(entry)
        except OSError:
            continue


def _order(name: str) -> tuple[int, str]:
    """What the sweep is, what happened, the rest, and seals last."""
    places = {"sweep.json": 0, LEDGER: 1, "sweep.yaml": 1}
    return (3 if name.endswith(SUMS) else places.get(name, 2)), name
