"""What a search has used of its budget: trials, epochs, wall clock, GPU time."""

from __future__ import annotations

from orchestrator.events import OF_NO_TRIAL, Epoch, Event, Measured, Opened, Packed, Suggested
from orchestrator.resources import AUTO, Resources
from orchestrator.search.config import Budget

FREE = ("earlier", "confirm")
"""Origins of trials that cost nothing of the budget."""


class Spending:
    """Adds up events; says when the budget is used up.

    Wall clock is counted while a driver runs the search: from each `Opened` to the last event of the search before the
    next one. Nights between an interrupt and `resume` cost nothing.

    Args:
        budget: The limits.
        resources: Of a trial; where they are `auto`, its GPU is as the last probe says.
    """

    def __init__(self, budget: Budget, resources: Resources) -> None:
        self.budget, self._asks = budget, resources.gpu == AUTO
        self.gpu = 0.0 if self._asks else resources.share
        self.trials = self.epochs = 0
        self.trial_seconds = 0.0
        self._free: set[str] = set()
        self._before = 0.0  # seconds of the drivers before this one
        self._opened: float | None = None
        self._last = 0.0

    def take(self, event: Event) -> None:
        """Takes in the next event of the history."""
        if isinstance(event, Suggested) and event.origin in FREE:
            self._free.add(event.trial_id)
        if isinstance(event, Opened):
            self._before += self._last - self._opened if self._opened is not None else 0.0
            self._opened = self._last = event.at
            return
        if isinstance(event, Packed) and self._asks:
            self.gpu = event.gpu
        if isinstance(event, Measured) or (not isinstance(event, OF_NO_TRIAL) and event.trial_id in self._free):
            return
        if self._opened is None:
            self._opened = event.at
        self._last = max(self._last, event.at)
        if isinstance(event, Suggested):
            self.trials += 1
        elif isinstance(event, Epoch):
            self.epochs += 1
            self.trial_seconds += event.seconds

    def hours(self, now: float) -> float:
        """Hours of wall clock by `now`, a time in seconds."""
        return (self._before + (now - self._opened if self._opened is not None else 0.0)) / 3600

    @property
    def gpu_hours(self) -> float:
        """Time of the trials themselves, times the GPUs that each takes."""
        return self.trial_seconds * self.gpu / 3600

    def exhausted(self, now: float) -> str | None:
        """Which limit has been reached, as in `epochs 400 of 400`; None while there is budget left."""
        used = {
            "trials": float(self.trials),
            "epochs": float(self.epochs),
            "hours": self.hours(now),
            "gpu_hours": self.gpu_hours,
        }
        for name, spent in used.items():
            limit = getattr(self.budget, name)
            if limit is not None and spent >= limit:
                return f"{name} {spent:.4g} of {limit:g}" if "hours" in name else f"{name} {spent:.0f} of {limit}"
        return None
