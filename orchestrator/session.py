"""What a driver's process has around a sweep: its log file, and signals that end it like Ctrl-C."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from orchestrator.events import Event
from orchestrator.redaction import LogFormatter


@contextlib.contextmanager
def logging_to(file: Path) -> Iterator[None]:
    """Sends the driver's and Ray's log lines to a file: the screen is for results."""
    handler = logging.FileHandler(file, delay=True, encoding="utf-8")
    handler.setFormatter(LogFormatter())
    logs = [logging.getLogger(name) for name in ("ray", "orchestrator")]
    before = [(log.handlers, log.propagate) for log in logs]
    for log in logs:
        log.handlers, log.propagate = [handler], False
    try:
        yield
    finally:
        for log, (handlers, propagate) in zip(logs, before, strict=True):
            log.handlers, log.propagate = handlers, propagate
        handler.close()


@contextlib.contextmanager
def terminable() -> Iterator[Callable[..., None]]:
    """SIGTERM, as a cluster sends it before it takes a node away, ends a sweep like Ctrl-C.

    SIGINT is set too: a shell starts what it puts into the background with SIGINT ignored.

    Yields:
        A listener for the ledger, which interrupts at the next event: Python drops the exception of a handler that runs
        inside a callback of the garbage collector.
    """
    asked: list[int] = []

    def interrupt(number: int, _: object) -> None:
        asked.append(number)
        raise KeyboardInterrupt

    def check(_: Event | None = None) -> None:
        if asked:
            raise KeyboardInterrupt

    signals = (signal.SIGINT, signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread():  # whoever runs us there handles signals
        yield check
        return
    before = [signal.signal(each, interrupt) for each in signals]
    try:
        yield check
    finally:
        for each, handler in zip(signals, before, strict=True):
            signal.signal(each, handler)
