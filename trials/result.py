"""What a trial yields, and how it fails: plain data, so that callers need no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EpochResult:
    """What an epoch left behind.

    Attributes:
        epoch: Counted from 1.
        metrics: `<set>.<metric>` and `train.*` -> value, all finite.
        seconds: Time of training and evaluation together.
        last: Whether the trial is at its full budget.
    """

    epoch: int
    metrics: dict[str, float]
    seconds: float
    last: bool


class TrialFailed(Exception):
    """The trial cannot go on; the message is its result."""


class Diverged(TrialFailed):
    """A loss or a metric became NaN or infinite."""


class OutOfMemory(TrialFailed):
    """The device's memory did not suffice."""
