"""What the trials of a sweep cost: epochs, time, and what stopping some of them early has saved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from orchestrator.events import Ended, Epoch, Event, Origin, Record, State, Suggested

STATES: tuple[State, ...] = ("COMPLETE", "PRUNED", "FAIL")


@dataclass(frozen=True)
class Cost:
    """What the trials of one origin took.

    Attributes:
        trials: Suggested ones.
        counts: State -> number of ended trials; all three states are there.
        epochs: Epochs evaluated.
        seconds: The trials' own time, summed.
        saved: Epochs that PRUNED trials had left.
    """

    trials: int
    counts: dict[State, int]
    epochs: int
    seconds: float
    saved: int


def cost_of(
    suggested: Mapping[str, Suggested], found: Sequence[Record], epochs: Mapping[str, Sequence[Epoch]]
) -> dict[Origin, Cost]:
    """Origin -> what its trials took, of the origins that occur.

    Args:
        suggested: trial_id -> how it was suggested.
        found: Ended trials.
        epochs: trial_id -> its evaluated epochs.
    """
    budgets = budgets_of(suggested, found)
    cost: dict[Origin, Cost] = {}
    for origin in get_args(Origin):
        own = [trial_id for trial_id, trial in suggested.items() if trial.origin == origin]
        ended = [record for record in found if record.origin == origin]
        states = Counter(record.state for record in ended)
        if own:
            cost[origin] = Cost(
                trials=len(own),
                counts={state: states[state] for state in STATES},
                epochs=sum(len(epochs[trial_id]) for trial_id in own),
                seconds=sum(epoch.seconds for trial_id in own for epoch in epochs[trial_id]),
                saved=sum(max(0, budgets[r.trial_id] - r.epoch) for r in ended if r.state == "PRUNED"),
            )
    return cost


def budgets_of(suggested: Mapping[str, Suggested], found: Iterable[Record]) -> dict[str, int]:
    """Full budget of each trial; where its settings do not say, that of the longest COMPLETE trial."""
    longest = max((record.epoch for record in found if record.state == "COMPLETE"), default=0)
    given = {trial_id: trial.config.get("epochs") for trial_id, trial in suggested.items()}
    return {trial_id: epochs if isinstance(epochs, int) else longest for trial_id, epochs in given.items()}


def epochs_spent(events: Iterable[Event], suggested: Mapping[str, Suggested]) -> list[int]:
    """Epochs evaluated here by the time that each trial ended (its last end, as in `records`)."""
    seen: set[tuple[str, int]] = set()
    spent: list[int] = []
    for event in events:
        if isinstance(event, Epoch) and suggested[event.trial_id].origin != "earlier":
            seen.add((event.trial_id, event.epoch))
        elif isinstance(event, Ended):
            spent.append(len(seen))
    return spent
