"""`study.log`: the search as an Optuna journal, for tools such as optuna-dashboard. Nothing is read back from it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend

from orchestrator.config import SweepConfig
from orchestrator.events import Suggested
from orchestrator.search.observations import Told, Words, end_as
from orchestrator.search.proposals import quiet


class Journal:
    """A study on a fresh journal file `<folder>/study.log`, which follows the search.

    Args:
        folder: The run folder.
        sweep: The sweep.
        words: Its words.
    """

    def __init__(self, folder: Path, sweep: SweepConfig, words: Words) -> None:
        for left in folder.glob("study.log*"):  # a killed driver may have left Optuna's lock too
            left.unlink()
        self._words = words
        self._backend = _Backend(folder / "study.log")
        self._storage = JournalStorage(self._backend)
        study = words.study(self._storage, sweep.name)
        with quiet():
            study.set_metric_names(list(sweep.objectives))
        self._study_id = self._storage.get_study_id_from_name(study.study_name)
        self._ids: dict[int, int] = {}  # number in the history -> id in the storage, of running trials

    def begin(self, told: Told, **attributes: Any) -> None:
        """Adds a trial; its number in the study is its number in the history."""
        frozen = self._words.frozen(told, **attributes)
        self._ids[told.number] = self._storage.create_new_trial(self._study_id, frozen)

    def end(self, told: Told) -> None:
        """Ends a trial that was added."""
        end_as(self._storage, self._ids.pop(told.number), self._words.frozen(told))

    def follow(self) -> None:
        """Writes what has been added so far in one go, and each further line when it comes."""
        self._backend.release()


class _Backend(BaseJournalBackend):
    """A journal file whose first lines are kept back, to be written together: each write locks, opens and syncs."""

    def __init__(self, path: Path) -> None:
        self._file = JournalFileBackend(str(path))
        self._held: list[dict[str, Any]] | None = []

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        if self._held is None:
            return self._file.read_logs(log_number_from)
        return self._held[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        if self._held is None:
            self._file.append_logs(logs)
        else:
            self._held += logs

    def release(self) -> None:
        held, self._held = self._held, None
        if held:
            self._file.append_logs(held)


def attributes(event: Suggested) -> dict[str, Any]:
    """What those who look at the study want to know of a trial besides its values."""
    known = {"label": event.label, "of": event.of, "design": event.design}
    return {"origin": event.origin} | {name: value for name, value in known.items() if value is not None}
