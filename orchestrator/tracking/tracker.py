"""MLflow as a function of the ledger.

What a run folder holds is the truth; what a tracking server holds follows from it and can be made again. Live
(`Tracker`) or afterwards (`sync`), the same events go through the same `Store`. MLflow is imported only once something
is sent: that costs seconds, and in a sweep it happens in a thread. Figures of trials are drawn there too, for the run
folder and, if it answers, for the store.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from pathlib import Path

from orchestrator.events import Event
from orchestrator.ledger import read_events
from orchestrator.report.weight_figures import write_figures
from orchestrator.tracking.store import Store, SyncResult
from orchestrator.tracking.uri import TrackingError, refusal, uri_of

_LOG = logging.getLogger(__name__)
_INTERVAL, _LONGEST_PAUSE, _PATIENCE = 1.0, 60.0, 3


def sync(folder: Path, uri: str | None = None) -> SyncResult:
    """Sends what a run folder has and the store lacks; sending again changes nothing.

    Not to be called while a `Tracker` of the same sweep is at work: both would create the same runs.

    Args:
        folder: The run folder.
        uri: The store; by default that of the sweep, see `resolve_uri`.

    Raises:
        TrackingError: The store cannot be reached or refuses.
        FileNotFoundError: Not a run folder.
    """
    uri = uri or uri_of(folder)
    events = read_events(folder)
    write_figures(folder, events)
    try:
        store = Store(folder, uri)
        for event in events:
            store.take(event)
        store.flush()
        store.close(interrupted=None)
    except TrackingError:
        raise
    except Exception as error:  # MLflow lets through what requests, SQLAlchemy and alembic raise
        # Not chained: the causes spell out the URI with its password.
        raise TrackingError(refusal(uri, folder, error)) from None
    return store.result()


class Tracker:
    """Sends events while the sweep runs, from a thread of its own: a listener of the `Ledger`.

    What the ledger already holds is sent as well. A store that fails costs the driver nothing: the thread
    keeps what it could not send, tries again after ever longer pauses, and says so once in the log.

    Args:
        folder: The run folder, with `sweep.json`.
        uri: The store; by default that of the sweep, see `resolve_uri`.
    """

    def __init__(self, folder: Path, uri: str | None = None) -> None:
        self._folder = folder
        self._uri = uri or uri_of(folder)
        self._queue: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._taken = self._sent = self._failures = 0
        self._stop = threading.Event()
        self._complete = False
        for event in read_events(folder):
            self(event)
        self._thread = threading.Thread(target=self._run, name="tracking", daemon=True)
        self._thread.start()

    def __call__(self, event: Event) -> None:
        """Takes an event; neither waits nor raises."""
        self._taken += 1
        self._queue.put(event)

    @property
    def backlog(self) -> int:
        """Events that the store does not have yet."""
        return self._taken - self._sent

    def flush(self, timeout: float) -> bool:
        """Waits until the store has every event so far; returns whether it has. A store that fails is not waited for.

        Args:
            timeout: Seconds to wait at most.
        """
        end = time.monotonic() + timeout
        while self._sent < self._taken and not self._failures and time.monotonic() < end:
            time.sleep(0.05)
        return self._sent == self._taken

    def finish(self, timeout: float) -> bool:
        """Sends the rest and the report files, and ends the parent run.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            Whether the store has everything; if not, `sync` sends the rest.
        """
        self._stop.set()
        self._thread.join(timeout)
        return self._complete

    def _run(self) -> None:
        store: Store | None = None
        events: list[Event] = []
        taken, stopping = 0, False
        while not stopping:
            stopping = self._stop.wait(min(2.0**self._failures, _LONGEST_PAUSE) if self._failures else _INTERVAL)
            drawn = len(events)
            while not self._queue.empty():
                events.append(self._queue.get())
            write_figures(self._folder, events, since=drawn)
            try:
                if store is None:
                    store, taken = Store(self._folder, self._uri), 0
                    store.reopen()
                for event in events[taken:]:
                    store.take(event)
                    taken += 1
                store.flush()
                self._sent = taken
                if stopping:
                    store.close(interrupted=store.open_trials > 0)
                    self._complete = True
                self._failures = 0
            except Exception as error:  # whatever it is, it is not worth the sweep: `sync` repeats and reports it
                # The call that failed may have arrived all the same: only the store knows what it has.
                store = None
                self._failures += 1
                if self._failures == _PATIENCE or (stopping and self._failures < _PATIENCE):
                    _LOG.warning("%s", refusal(self._uri, self._folder, error))
