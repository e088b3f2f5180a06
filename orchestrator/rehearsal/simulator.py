"""A sweep without trials: the searcher and the rungs of a real one, on a simulated clock, around recorded curves.

Any number of simulated GPUs each run one trial; an epoch takes the seconds that its curve says. What Ray does with the
searcher and the scheduler is done here in the same order. Everything follows from the events: a history that was cut
after any of them goes on to the same records.
"""

from __future__ import annotations

import heapq
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from orchestrator.config import SweepConfig
from orchestrator.events import Anchor, Epoch, Event, Resumed, Suggested
from orchestrator.ledger import History
from orchestrator.rehearsal.curves import Curve
from orchestrator.search.faults import Streaks
from orchestrator.search.rungs import Rungs
from orchestrator.search.study import StudySearcher

Source = Callable[[Suggested], Curve]
"""What a trial will do."""


class Proposes(Protocol):
    """The part of Ray's searcher that the loop needs; it writes the events."""

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None: ...
    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None: ...
    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None: ...


class Decides(Protocol):
    """The part of `Rungs` that the loop needs."""

    def decide(self, trial_id: str, epoch: int, metrics: Mapping[str, float], *, protected: bool = False) -> str: ...


class Clock:
    """Says what time it is in a simulation, in seconds since its beginning."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def simulate(
    sweep: SweepConfig,
    source: Source,
    *,
    gpus: int,
    anchors: Mapping[str, Mapping[str, float]] | None = None,
    events: Iterable[Event] = (),
    until: Callable[[History], bool] = lambda history: False,
) -> History:
    """Runs a sweep to its end, or on from where it was cut.

    Args:
        sweep: The sweep.
        source: What each trial does.
        gpus: Trials at once.
        anchors: Metrics of target and retain model, for constraints that are relative to them.
        events: What has happened already.
        until: Ends the simulation early; asked after each epoch.

    Returns:
        All events, `at` in simulated seconds.
    """
    events = list(events)
    clock = Clock(events[-1].at if events else 0.0)
    history = History(events, clock)
    for name, metrics in (anchors or {}).items():
        if name not in history.anchors():
            history.append(Anchor(at=clock(), name=name, metrics=dict(metrics)))
    rungs = Rungs(sweep, history.anchors())
    rungs.replay(history.events)
    searcher = StudySearcher(sweep, history, None, concurrent=gpus, digests=("data", "model"), rungs=rungs)
    searcher.streaks = Streaks(sys.maxsize)  # nothing that was recorded is broken
    GPUs(searcher, rungs, history, clock, source).run(gpus, until)
    return history


class GPUs:
    """The event loop: what runs now, and what arrives next.

    Args:
        searcher: Proposes trials, and writes the events.
        rungs: Says who goes on.
        history: Where the searcher writes.
        clock: The clock of that history.
        source: What each trial does.
    """

    def __init__(self, searcher: Proposes, rungs: Decides, history: History, clock: Clock, source: Source) -> None:
        self.searcher, self.rungs, self.history, self.clock, self.source = searcher, rungs, history, clock, source
        self.decisions = 0
        self._started = 0
        self._waiting: list[tuple[float, int, str]] = []  # when the next epoch is there, number of the trial, its name
        self._running: dict[str, tuple[dict[str, Any], Curve, int]] = {}  # name -> settings, curve, epochs done

    def run(self, gpus: int, until: Callable[[History], bool]) -> None:
        """Sees all trials through, `gpus` at once."""
        while True:
            while len(self._running) < gpus and self._start():
                pass
            if not self._waiting or until(self.history):
                return
            self.clock.now, _, name = heapq.heappop(self._waiting)
            settings, curve, done = self._running[name]
            if done < len(curve.metrics):
                self._running[name] = (settings, curve, done + 1)
                self._report(name)
            else:
                self._end(name, {"epoch": -1, "seconds": 0.0, "failure": curve.failure, "done": True})

    def _start(self) -> bool:
        """Hands a trial to an idle GPU, if the searcher has one."""
        name = f"sim-{self._started:06d}"
        settings = self.searcher.suggest(name)
        if not isinstance(settings, dict):
            return False
        self._started += 1
        own = self.history.of(settings["trial_id"])
        done = max((event.epoch for event in own if isinstance(event, Epoch)), default=0)
        self._running[name] = (settings, self.source(next(e for e in own if isinstance(e, Suggested))), done)
        if done:  # it goes on from its checkpoint: a worker then reports the last epoch again
            self._report(name)
        else:
            self._wait(name)
        return True

    def _report(self, name: str) -> None:
        settings, curve, done = self._running[name]
        metrics = curve.metrics[done - 1]
        result = {"epoch": done, "seconds": curve.seconds[done - 1]}
        result |= {f"metrics/{metric}": value for metric, value in metrics.items()}
        self.decisions += 1
        full = done >= settings["trial"]["epochs"]
        # As in Ray: a trial that says that it is done ends without being judged.
        if full or self.rungs.decide(settings["trial_id"], done, metrics, protected=settings["protected"]) != "go":
            self._end(name, result)
        else:
            self.searcher.on_trial_result(name, result)
            self._wait(name)

    def _end(self, name: str, result: dict[str, Any]) -> None:
        del self._running[name]
        self.searcher.on_trial_complete(name, result)

    def _wait(self, name: str) -> None:
        settings, curve, done = self._running[name]
        own = self.history.of(settings["trial_id"])
        # Being taken up again takes no time.
        began = next(event.at for event in reversed(own) if not isinstance(event, Resumed))
        seconds = curve.seconds[done] if done < len(curve.seconds) else 0.0
        heapq.heappush(self._waiting, (began + seconds, int(settings["trial_id"]), name))
