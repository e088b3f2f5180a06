"""What a run folder keeps of trials that have ended: a table of each, and the checkpoints that `checkpoints` names.

A checkpoint goes once the event that justifies it is in the ledger, never before; whoever takes up the sweep makes up
for what a driver that was killed in between has left. Trials that run or are paused always have theirs.

Points with several seeds are judged once these have run: until the search has ended they count as members of the
front, and then those of them that are on the confirmed front do.
"""

from __future__ import annotations

import csv
import io
import logging
import shlex
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from orchestrator.config import SweepConfig
from orchestrator.events import Ended, Epoch, Event, Measured, Record, Suggested, SweepInfo, record_of
from orchestrator.keeping import contenders, keepers
from orchestrator.ledger import Ledger, write_atomically
from orchestrator.report.scores import direction
from orchestrator.results.choices import deciding
from orchestrator.results.evidence import confirmed_front
from orchestrator.results.front import summarise
from orchestrator.search.config import replicates_of
from trials.naming import named
from trials.registry import LOWER

logger = logging.getLogger(__name__)


class Housekeeping:
    """Keeps a run folder tidy while its trials end: a listener of its ledger, which neither waits nor raises.

    Args:
        folder: The run folder.
        sweep: The sweep as it goes on: what it keeps from here on.
        ledger: Its ledger, open.
    """

    def __init__(self, folder: Path, sweep: SweepConfig, ledger: Ledger) -> None:
        self._folder, self._sweep, self._ledger = folder, sweep, ledger
        self._by = _order(sweep)
        self._wanted = named(sweep.trial.evaluation.front)
        self._contenders: list[Record] = []
        self._complete: set[str] = set()
        self._repeated: set[str] = set()
        self._seeded: set[str] = set()
        self._measured: set[str] = set()
        for event in ledger.events:
            if isinstance(event, Suggested) and event.of:
                self._repeated.add(event.of)
            elif isinstance(event, Measured) and event.failure is None:
                self._measured.add(event.trial_id)
        found = ledger.records()
        self._take(found)
        self._kept = self._keepers()
        self._drop({record.trial_id for record in found} - self._kept)

    def __call__(self, event: Event) -> None:
        """When a trial ends: its table, and the checkpoints that nobody needs any more."""
        if isinstance(event, Suggested) and event.of:
            self._repeated.add(event.of)
        elif isinstance(event, Ended):
            try:
                _write_table(self._folder, self._ledger, event.trial_id)
            except OSError:  # the table can be made again from the ledger, and a listener must not raise
                logger.warning("the table of trial %s could not be written", event.trial_id, exc_info=True)
            self._take([record_of(self._ledger.of(event.trial_id))])
            self._tidy({event.trial_id})
        elif isinstance(event, Measured) and event.failure is None:
            self._measured.add(event.trial_id)
            self._tidy()

    def settle(self) -> None:
        """The search has ended: of the points with several seeds, those that the seeds put on the front keep theirs."""
        if self._seeded:
            summary = summarise(SweepInfo.read(self._folder), self._ledger.events)
            self._seeded = {point.trial_id for point in confirmed_front(deciding(summary, None))}
            self._tidy()

    def _take(self, found: Iterable[Record]) -> None:
        """Takes in trials that have ended; of those who may be kept, the ones that decide are enough."""
        own = [record for record in found if record.origin != "earlier"]  # theirs lie in another run folder
        self._complete |= {record.trial_id for record in own if record.state == "COMPLETE"}
        self._seeded |= {record.trial_id for record in own if self._has_seeds(record)}
        among = [*self._contenders, *found]
        self._contenders = contenders(self._sweep.checkpoints, among, self._sweep.objectives, self._by)

    def _has_seeds(self, record: Record) -> bool:
        """Whether a point was, is or will be run with other seeds."""
        if record.state != "COMPLETE" or record.of is not None:
            return False
        sweep, phase = self._sweep, record.phase
        many = sweep.replicates if phase is None else replicates_of(sweep.search_phases[phase], sweep.replicates)
        published = record.label is not None and sweep.confirm is not None and sweep.confirm.published
        return many > 1 or published or record.trial_id in self._repeated

    def _keepers(self) -> set[str]:
        keep = self._sweep.checkpoints
        if keep.keep == "all":
            return set(self._complete)
        due = {
            record.trial_id
            for record in self._contenders
            if record.trial_id not in self._measured and any(name not in record.metrics for name in self._wanted)
        }
        kept = keepers(keep, self._contenders, self._sweep.objectives, self._by, due=due) & self._complete
        return kept | self._seeded if keep.keep == "front" else kept

    def _tidy(self, ended: Iterable[str] = ()) -> None:
        before, self._kept = self._kept, self._keepers()
        self._drop({*before, *ended} - self._kept)

    def _drop(self, trial_ids: Iterable[str]) -> None:
        for trial_id in sorted(trial_ids):
            place = self._folder / "trials" / trial_id / "checkpoint"
            try:
                shutil.rmtree(place)
            except FileNotFoundError:
                pass
            except OSError:
                logger.warning("%s is not needed any more and could not be deleted", place, exc_info=True)


def _order(sweep: SweepConfig) -> dict[str, Literal["min", "max"]]:
    """The metric that `best_k` goes by, and which way it is better."""
    name = sweep.checkpoints.by or next(iter(sweep.objectives))
    return {name: sweep.objectives.get(name) or ("min" if direction(name) == LOWER else "max")}


# -- tables ------------------------------------------------------------------------------------------------------------


def restore_tables(folder: Path, ledger: Ledger) -> None:
    """Writes tables of ended trials again that are not what the ledger says: nobody reads them back but people."""
    for record in ledger.records():
        file, text = folder / "trials" / record.trial_id / "metrics.csv", _table(ledger, record.trial_id)
        if file.exists() and file.read_bytes() != text.encode():
            write_atomically(file, text)
            logger.warning("%s was damaged and is written again", file)


def _write_table(folder: Path, ledger: Ledger, trial_id: str) -> None:
    place = folder / "trials" / trial_id
    place.mkdir(parents=True, exist_ok=True)
    write_atomically(place / "metrics.csv", _table(ledger, trial_id))


def _table(ledger: Ledger, trial_id: str) -> str:
    """The text of a trial's `metrics.csv`."""
    epochs = [e for e in ledger.of(trial_id) if isinstance(e, Epoch)]
    columns = dict.fromkeys(name for epoch in epochs for name in epoch.metrics)
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(["epoch", "seconds", *columns])
    table.writerows([e.epoch, f"{e.seconds:.3f}", *(e.metrics.get(name) for name in columns)] for e in epochs)
    return text.getvalue()


def run_again(place: Path) -> str:
    """The command that makes the checkpoint of a trial again, in its folder, where all look for it."""
    return shlex.join(["unlearn-sweep", "trial", str(place / "trial.json"), "--folder", str(place)])


# -- how much there is -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Disk:
    """The checkpoints of a run folder.

    Attributes:
        trials: How many trials have one.
        size: Bytes of all.
        deleted: Trials that ran here to an end and have none any more.
    """

    trials: int
    size: int
    deleted: int

    def __str__(self) -> str:
        trials = "1 trial" if self.trials == 1 else f"{self.trials} trials"
        size, unit = float(self.size), "B"
        for larger in ("kB", "MB", "GB", "TB"):
            if size < 1000:
                break
            size, unit = size / 1000, larger
        return f"checkpoints of {trials}, {size:.3g} {unit}; {self.deleted} deleted"


def disk_of(folder: Path, found: Iterable[Record]) -> Disk:
    """What the checkpoints of a run folder take, by walking through it.

    Args:
        folder: The run folder.
        found: Its ended trials.
    """
    sizes = {
        place.parent.name: sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
        for place in folder.glob("trials/*/checkpoint")
    }
    ran = {record.trial_id for record in found if record.origin != "earlier" and record.epoch}
    return Disk(len(sizes), sum(sizes.values()), len(ran - sizes.keys()))
