"""What is left of a ledger in which lines are damaged: events that fit together, and a word on what is lost."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from orchestrator.events import OF_NO_TRIAL, Ended, Epoch, Event, Suggested

_EVENT: TypeAdapter[Event] = TypeAdapter(Event)
_SHOWN = 10


class LedgerError(ValueError):
    """A ledger of another version of this program."""


@dataclass(frozen=True)
class Salvage:
    """A ledger as it was read.

    Attributes:
        events: Those that are whole and fit together.
        damaged: Numbers of the lines that are no events, from 1.
        gone: Trials whose proposal is lost, or that of the trial that they repeat: what is left of them is left out.
        open: Trials whose end, or last epoch before it, is lost: they are finished again, from their checkpoints.
    """

    events: list[Event]
    damaged: tuple[int, ...] = ()
    gone: tuple[str, ...] = ()
    open: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One sentence: what is damaged, what is lost, what is kept and what to do."""
        lost = [f"trials lost: {_listed(self.gone)}"] * bool(self.gone)
        lost += [f"trials to be finished again: {_listed(self.open)}"] * bool(self.open)
        which = "line" if len(self.damaged) == 1 else "lines"
        return (
            f"{which} {_listed(map(str, self.damaged))} of ledger.jsonl cannot be read and "
            f"{'is' if which == 'line' else 'are'} passed over; {'; '.join(lost) or 'no trial is lost'}; "
            "the rest is kept, and `resume` runs what is missing"
        )


def salvage(lines: Sequence[bytes]) -> Salvage:
    """Reads the lines of a ledger.

    Raises:
        LedgerError: A line is an event of another version.
    """
    read = [(number, _event(number, line)) for number, line in enumerate(lines, 1)]
    events = [event for _, event in read if event]
    if len(events) == len(lines):
        return Salvage(events)
    known: set[str] = set()
    for event in events:
        if isinstance(event, Suggested) and {event.of, event.base} - {None} <= known:
            known.add(event.trial_id)
    of_trials = [event for event in events if not isinstance(event, OF_NO_TRIAL)]
    gone = {event.trial_id: None for event in of_trials if event.trial_id not in known}
    seen = {(event.trial_id, event.epoch) for event in of_trials if isinstance(event, Epoch)}
    kept = [
        event
        for event in events
        if isinstance(event, OF_NO_TRIAL)
        or (event.trial_id in known and not (isinstance(event, Ended) and _lacks_epoch(event, seen)))
    ]
    ended = {event.trial_id for event in kept if isinstance(event, Ended)}
    return Salvage(
        events=kept,
        damaged=tuple(number for number, event in read if event is None),
        gone=tuple(gone),
        open=tuple(sorted(known - ended)),
    )


def _lacks_epoch(event: Ended, seen: set[tuple[str, int]]) -> bool:
    """Whether the metrics that a trial ended with are lost. One that failed needs none."""
    return event.state != "FAIL" and event.epoch > 0 and (event.trial_id, event.epoch) not in seen


def _event(number: int, line: bytes) -> Event | None:
    try:
        return _EVENT.validate_json(line)
    except ValidationError as error:
        if error.errors()[0]["type"] == "union_tag_invalid":
            name = json.loads(line)["event"]
            raise LedgerError(
                f"line {number} of ledger.jsonl is an event {name!r}, which this version of unlearn-sweep does not "
                "know; use the one that wrote it"
            ) from None
        return None


def _listed(words: Iterable[str]) -> str:
    words = list(words)
    more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return f"{', '.join(words[:_SHOWN])}{more}"
