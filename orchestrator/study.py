"""What proposes the next trial: an Optuna study that is a function of the ledger, and Ray's searcher over it.

The study is rebuilt from the ledger whenever a sweep starts or goes on: ended trials are added with what became of
them, interrupted ones as running, and are then told like any other. `study.log` (Optuna's journal) is a copy for other
tools, such as optuna-dashboard; nothing is read back from it.

Each proposal draws from a sampler seeded by (seed, number of the trial): it depends on the history alone, and not on
which process asks, or how often one was restarted.

Told to Optuna: COMPLETE at full budget only, PRUNED when stopped early, FAIL when failed or diverged. (Ray's own
OptunaSearch tells early-stopped trials as COMPLETE with their low-budget values, and leaves NaN trials running.)
"""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from ray.tune.search import Searcher

from orchestrator.config import SweepConfig
from orchestrator.events import Ended, Epoch, Event, State, Suggested, finite
from orchestrator.ledger import Ledger
from orchestrator.schedulers import metrics_of
from orchestrator.search_config import TPE, Random
from search_spaces.space import Domain, Float, Int, flat, get_path, variant
from trials.config import TrialConfig
from trials.identity import fingerprint

STATES: dict[State, TrialState] = {
    "COMPLETE": TrialState.COMPLETE,
    "PRUNED": TrialState.PRUNED,
    "FAIL": TrialState.FAIL,
}


def create_study(folder: Path, sweep: SweepConfig, ledger: Ledger) -> optuna.Study:
    """A study with the history of the ledger, on a fresh journal file `<folder>/study.log`."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    journal = folder / "study.log"
    for left in folder.glob("study.log*"):  # a killed driver may have left Optuna's lock too
        left.unlink()
    study = optuna.create_study(
        study_name=sweep.name,
        storage=JournalStorage(JournalFileBackend(str(journal))),
        directions=["minimize" if direction == "min" else "maximize" for direction in sweep.objectives.values()],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(list(sweep.objectives))
    records = {record.trial_id: record for record in ledger.records()}
    for event in ledger.events:
        if isinstance(event, Suggested):
            trial = TrialConfig.model_validate(event.config)
            number = add_running(study, sweep, trial, event.label, event.params)
            if record := records.get(event.trial_id):
                tell(study, sweep, number, record.state, record.metrics)
    return study


def sampler_for(config: TPE | Random, number: int) -> optuna.samplers.BaseSampler:
    """The sampler that proposes trial `number`."""
    seed = int(np.random.SeedSequence([config.seed, number]).generate_state(1)[0])
    if isinstance(config, Random):
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=config.startup, multivariate=True, group=True, constant_liar=True
        )


def add_running(
    study: optuna.Study, sweep: SweepConfig, trial: TrialConfig, label: str | None, chosen: Mapping[str, Any]
) -> int:
    """Adds a trial of known settings; outside the space (a baseline may be) it is there without parameters.

    Args:
        study: Where to.
        sweep: Whose trial.
        trial: Its settings.
        label: Of a baseline.
        chosen: Path -> value as it was suggested: a preset is not in the settings.
    """
    space = sweep.search_space
    params = space.locate(trial.model_dump(mode="json"), chosen) or {}
    domains = {parameter.name: parameter.domain for parameter in space.parameters}
    point = {parameter.path: params[parameter.name] for parameter in space.parameters if parameter.name in params}
    # As identity has it: a preset is what it stands for, and to look at weights changes no result.
    at_point, settings = (each.model_dump(exclude={"log_weights"}) for each in (sweep.trial_at(point), trial))
    if at_point != settings:  # it differs from the base trial in what is not searched
        params = {}
    study.add_trial(
        optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=params,
            distributions={name: distribution(domains[name]) for name in params},
            user_attrs={"label": label} if label else {},
        )
    )
    return len(study.get_trials(deepcopy=False)) - 1


def distribution(domain: Domain) -> BaseDistribution:
    """Optuna's word for a domain."""
    if isinstance(domain, Float):
        return FloatDistribution(domain.low, domain.high, log=domain.log)
    if isinstance(domain, Int):
        return IntDistribution(domain.low, domain.high, log=domain.log)
    return CategoricalDistribution(domain.choices)


def tell(study: optuna.Study, sweep: SweepConfig, number: int, state: State, metrics: Mapping[str, float]) -> None:
    """Ends a trial of the study; values only at full budget."""
    values = [metrics[name] for name in sweep.objectives] if state == "COMPLETE" else None
    study.tell(number, values, STATES[state])


class StudySearcher(Searcher):
    """Ray's searcher over a study, and the one who writes the ledger.

    Args:
        sweep: The sweep.
        ledger: Its ledger; what it holds already is the history.
        folder: The run folder.
        concurrent: Trials at once.
        digests: Digests of data and model, for fingerprints.
    """

    def __init__(
        self, sweep: SweepConfig, ledger: Ledger, folder: Path, *, concurrent: int, digests: tuple[str, str]
    ) -> None:
        super().__init__()
        self.sweep, self.ledger, self.folder, self.concurrent = sweep, ledger, folder, concurrent
        self.data, self.model = digests
        self.study = create_study(folder, sweep, ledger)
        suggested = [event for event in ledger.events if isinstance(event, Suggested)]
        ended = {record.trial_id for record in ledger.records()}
        self.interrupted = deque(event for event in suggested if event.trial_id not in ended)
        self.suggested = len(suggested)
        self.ended = len(ended)
        self.live: dict[str, Suggested] = {}
        self.causes: dict[str, str] = {}  # Ray's id of a trial -> what ended it; the scheduler hears of it first
        self.broken: OSError | None = None
        self._silent: set[str] = set()  # Ray's ids of trials that have not reported since they were handed out
        self._again: set[str] = set()
        self._epochs: dict[str, int] = {}
        for event in ledger.events:
            if isinstance(event, Epoch):
                self._epochs[event.trial_id] = event.epoch

    @property
    def done(self) -> bool:
        """Whether the budget is used up."""
        return self.ended >= self.sweep.budget.trials

    # -- what Ray calls ----------------------------------------------------------------------------------------------

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]  # FINISHED is a str
        """Settings for Ray's trial: an interrupted one first, then baselines, then what the sampler proposes."""
        if not self.interrupted and self.suggested >= self.sweep.budget.trials:
            return None if self.live else str(Searcher.FINISHED)  # what is running may have to be started again
        if len(self.live) >= self.concurrent:
            return None
        event = self.interrupted.popleft() if self.interrupted else self._propose()
        self.live[trial_id] = event
        self._silent.add(trial_id)
        return {
            "trial_id": event.trial_id,
            "label": event.label,
            "trial": event.config,
            "folder": str(self.folder / "trials" / event.trial_id),
        }

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """An epoch of a trial that goes on."""
        self._silent.discard(trial_id)
        self._record_epoch(self.live[trial_id].trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A trial that ended: at full budget, stopped, failed, or with its worker dead beyond retries."""
        event = self.live.pop(trial_id)
        result = result or {}
        failure = result.get("failure")
        if error and trial_id in self._silent and event.trial_id not in self._again:
            # Its worker may have died of the trial before: Ray then fails the next one without a retry.
            self._again.add(event.trial_id)
            self.interrupted.append(event)
            return
        if error:
            failure = self.causes.get(trial_id, "its worker process died")
            if self.sweep.resources.retries:
                failure += f" (retried {self.sweep.resources.retries} times)"
        elif failure is None and "epoch" not in result:
            failure = "ended without a result"
        elif failure is None:
            self._record_epoch(event.trial_id, result)
            metrics = metrics_of(result)
            missing = [name for name in self.sweep.objectives if not math.isfinite(metrics.get(name, math.nan))]
            failure = f"did not report {' and '.join(missing)}" if missing else None
        epoch = self._epochs.get(event.trial_id, 0)
        full = epoch >= self.sweep.trial.epochs
        self.end(event, "FAIL" if failure else "COMPLETE" if full else "PRUNED", failure)

    def save(self, checkpoint_path: str) -> None:
        """Ray asks for a snapshot; the ledger is all that is ever restored from."""

    def restore(self, checkpoint_path: str) -> None:
        """See `save`."""

    def __getstate__(self) -> dict[str, Any]:
        """Ray pickles the searcher when a sweep starts, and nobody reads that pickle: leave out what has a lock."""
        return {}

    # -- ours --------------------------------------------------------------------------------------------------------

    def end(self, event: Suggested, state: State, failure: str | None = None) -> None:
        """Writes the end of a trial to the ledger, then tells the study."""
        epoch = self._epochs.get(event.trial_id, 0)
        self._append(Ended(trial_id=event.trial_id, state=state, epoch=epoch, failure=failure))
        self.ended += 1
        last = next(
            (e for e in reversed(self.ledger.events) if isinstance(e, Epoch) and e.trial_id == event.trial_id),
            None,
        )
        tell(self.study, self.sweep, event.number, state, last.metrics if last else {})

    def _append(self, event: Event) -> None:
        try:
            self.ledger.append(event)
        except OSError as error:  # Ray turns it into an error of its own: keep what it was
            self.broken = error
            raise

    def _propose(self) -> Suggested:
        number = self.suggested
        labels = self.sweep.baselines
        label = labels[number] if number < len(labels) else None
        point: dict[str, Any] = {}
        if label:
            trial = self.sweep.baseline(label)
            add_running(self.study, self.sweep, trial, label, {})
        else:
            self.study.sampler = sampler_for(self.sweep.sampler, number)  # type: ignore[arg-type]
            point = self.sweep.search_space.suggest(self.study.ask())
            trial = self.sweep.trial_at(point)
        settings = trial.model_dump(mode="json")
        paths = dict.fromkeys(parameter.path for parameter in self.sweep.search_space.parameters)
        if label:  # what sets it apart may not be searched
            base = flat(self.sweep.trial.model_dump(mode="json"))
            paths |= dict.fromkeys(path for path, value in flat(settings).items() if base.get(path) != value)
        event = Suggested(
            trial_id=f"{number:05d}",
            number=number,
            label=label,
            # A variant chosen by its bare word is that word; a preset is in the point and not in the settings.
            params={p: value for p in paths if (value := point.get(p, variant(get_path(settings, p)))) is not None},
            config=settings,
            fingerprint=fingerprint(trial, data=self.data, model=self.model),
            seed=trial.seed,
        )
        self._append(event)
        self.suggested += 1
        return event

    def _record_epoch(self, trial_id: str, result: Mapping[str, Any]) -> None:
        # A resumed trial reports its last epoch again, and Ray a last result twice: the first time counts.
        if result["epoch"] > self._epochs.get(trial_id, 0):
            self._epochs[trial_id] = result["epoch"]
            self._append(
                Epoch(
                    trial_id=trial_id,
                    epoch=result["epoch"],
                    metrics=finite(metrics_of(result)),
                    seconds=result["seconds"],
                )
            )
