"""Composes a sweep from its parts and sees it through: run, resume, and what the driver does when Ray gives up.

Everything that must survive is in the ledger, so a round of trials is always started the same way: searcher, study and
rungs are made from the ledger, a fresh Tuner runs what is left. `run` on an existing folder, `resume` after a killed
driver, and the recovery from a crash of the whole Ray run differ only in how the round before them ended.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ray import tune
from rich.console import Console

from orchestrator.checks import unmeasured
from orchestrator.cluster import capacity, connect, disconnect, has_room, require_one_node
from orchestrator.config import SweepConfig
from orchestrator.delivery import Delivery, delivery_of
from orchestrator.events import Anchor, Opened, Resumed
from orchestrator.folder import open_folder
from orchestrator.housekeeping import Housekeeping
from orchestrator.ledger import Ledger
from orchestrator.measure import jobs_of, measure_front
from orchestrator.mirror import mirrored
from orchestrator.packs import start_packs
from orchestrator.placement import place_trials
from orchestrator.prepare import PrepareError, prepare_models
from orchestrator.problems import ConfigError, Problem, RunFailed
from orchestrator.progress import SweepProgress
from orchestrator.report.report import Report, write_report
from orchestrator.search.earlier import is_complete, take_over
from orchestrator.search.faults import ALIKE, DiskFull, Streaks, says_full, telling_full
from orchestrator.search.rungs import Rungs
from orchestrator.search.schedulers import RungScheduler
from orchestrator.search.study import StudySearcher
from orchestrator.session import logging_to, terminable
from orchestrator.tracking.tracker import Tracker
from orchestrator.tracking.ui import UI, ui_links
from orchestrator.tracking.uri import TrackingError
from orchestrator.worker import TrialFunction, Worker
from trials.benchmarks import Benchmark, BenchmarkError, load_benchmark

CRASHES = 3
"""Times that the whole Ray run may end under a trial before that trial is given up."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """How a sweep came out.

    Attributes:
        folder: The run folder.
        report: What the report says.
        ended: `finished`; `interrupted` by Ctrl-C or SIGTERM; `stopped` early because all trials failed alike.
        links: Title -> deep link into the MLflow UI.
        tracked: Whether the tracking server has everything.
        why: What all trials failed of, where that stopped the sweep.
    """

    folder: Path
    report: Report
    ended: Literal["finished", "interrupted", "stopped"]
    links: dict[str, str]
    tracked: bool
    why: str | None = None


def run_sweep(
    sweep: SweepConfig,
    benchmark: Benchmark | None,
    *,
    output: Path,
    source: str = "",
    trial: TrialFunction | None = None,
    console: Console | None = None,
) -> Outcome:
    """Runs a sweep, or what is left of it.

    Args:
        sweep: The sweep, checked.
        benchmark: Its rows; None fetches them.
        output: Folder of run folders; of a URL, what `remote.output_of` makes of it.
        source: The sweep file's text, for the record.
        trial: Something else with the signature of `run_trial`, as a surrogate: no model is then prepared or measured.
        console: Where progress goes.

    Raises:
        ConfigError: The run folder is another sweep's or in use, the resources are not there, a model is not usable.
        RunFailed: Ray ended again and again, or the disk is full.
    """
    console = console or Console()
    if benchmark is None:
        try:
            benchmark = load_benchmark(sweep.trial.benchmark)
        except BenchmarkError as error:
            raise ConfigError("benchmark", [Problem(f"trial.benchmark.{error.field}", str(error))]) from None
    folder = output.resolve() / sweep.name
    require_one_node(folder)

    def tell(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    with mirrored(folder, tell), telling_full(folder):
        ledger = open_folder(folder, sweep, benchmark, source)
        for path, (old, new) in _changed(ledger).items():
            tell(f"changed: {path}: {old} -> {new}")
        with logging_to(folder / "log.txt"):
            try:
                return _see_through(sweep, ledger, folder, benchmark, trial, console)
            finally:
                disconnect()
                shutil.rmtree(folder / ".ray", ignore_errors=True)


def _see_through(
    sweep: SweepConfig,
    ledger: Ledger,
    folder: Path,
    benchmark: Benchmark,
    trial: TrialFunction | None,
    console: Console,
) -> Outcome:
    """Models, trials, the front measured, report; whatever ends the trials, what is recorded is reported."""
    digests, rows = sweep.digests(benchmark), benchmark.digest()
    tracker = Tracker(folder)
    ledger.listen(tracker)
    house = Housekeeping(folder, sweep, ledger)
    ledger.listen(house)
    ended: Literal["finished", "interrupted", "stopped"] = "finished"
    broken: str | None = None
    try:
        left = StudySearcher(sweep, ledger, None, concurrent=1, digests=digests)
        searching = not left.done or not is_complete(sweep, ledger)
        if searching or (trial is None and jobs_of(sweep, ledger, folder)):
            with terminable():
                if trial is None:
                    _anchors(sweep, ledger, rows, console)
                if copied := take_over(sweep, ledger, digests):
                    console.print(f"{copied} trials taken over from earlier sweeps", highlight=False)
            connect()
            delivery = delivery_of(sweep.trial, rows)
            with terminable() as check:  # only now: Ray puts a handler of its own when it starts
                ledger.listen(check)
                try:
                    sweep = place_trials(sweep, ledger, console, trial, delivery)
                    if searching:
                        broken = _run_rounds(sweep, ledger, folder, digests, (trial, delivery), console)
                except RunFailed:
                    check()  # Optuna turns an interrupt within its journal's lock into an error of its own
                    raise
                if trial is None and not broken:
                    measure_front(sweep, ledger, folder, console, delivery=delivery)
        if not broken:
            house.settle()
    except KeyboardInterrupt:
        ended = "interrupted"
    finally:
        ledger.close()
    links = {}
    if tracker.flush(timeout=60):
        with contextlib.suppress(TrackingError):  # the store went away just now: the report does without links
            links = ui_links(folder, UI)
    report = write_report(folder, links)
    ended = "stopped" if broken else ended
    return Outcome(folder, report, ended, links, tracker.finish(timeout=60), broken)


def _changed(ledger: Ledger) -> dict[str, tuple[Any, Any]]:
    """The settings that changed when this driver took up the sweep."""
    last = ledger.events[-1] if ledger.events else None
    return last.changed if isinstance(last, Opened) else {}


def _anchors(sweep: SweepConfig, ledger: Ledger, data: str, console: Console) -> None:
    """Models ready and measured: once a sweep, and again where a cached model has gone."""
    try:
        measured = prepare_models(sweep.trial, data, console)
    except PrepareError as error:
        raise ConfigError("models", [Problem("trial.model", str(error))]) from None
    if problems := list(unmeasured(sweep, measured)):
        raise ConfigError(sweep.name, problems)
    there = ledger.anchors()
    for name, metrics in measured.items():
        if metrics.keys() - there.get(name, {}).keys():  # more, where `evaluation.front` was extended
            ledger.append(Anchor(name=name, metrics=metrics))


def _run_rounds(
    sweep: SweepConfig,
    ledger: Ledger,
    folder: Path,
    digests: tuple[str, str],
    what: tuple[TrialFunction | None, Delivery],
    console: Console,
) -> str | None:
    """Runs trials until nothing is left to run, again from the ledger each time that Ray gives up.

    Returns:
        What all trials failed of, where nothing works; None where the search has ended.
    """
    concurrent = sweep.budget.concurrent or capacity(sweep.resources)
    # Ray starts one worker after the other unless told how many may be on their way.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(concurrent)
    lost: Counter[str] = Counter()
    aside: dict[str, str] = {}
    with SweepProgress(sweep, console, ledger) as progress:
        ledger.listen(progress)
        while True:
            rungs = Rungs(sweep, ledger.anchors())
            rungs.replay(ledger.events)
            searcher = StudySearcher(sweep, ledger, folder, concurrent=concurrent, digests=digests, rungs=rungs)
            progress.follow(searcher)
            cause: BaseException | None = None
            try:
                if not searcher.done:
                    scheduler = RungScheduler(rungs, searcher.causes, sweep.resources.timeout_minutes)
                    _tuner(sweep, searcher, scheduler, folder, (*what, [*aside])).fit()
            except Exception as error:  # one trial can end the whole run (docs/engines.md): the ledger goes on
                cause = error
            if searcher.done:
                return None
            if full := searcher.full or says_full(str(cause)):
                raise DiskFull(folder, full) from cause
            if searcher.streaks.broken:
                return searcher.streaks.broken
            if searcher.streaks.aside:
                aside |= searcher.streaks.aside
                if not has_room(sweep.resources, aside):
                    return next(reversed(aside.values()))
                _set_aside(searcher.streaks, ledger, console)
                continue
            logger.error("the Ray run ended before the sweep did: %s", cause)
            running = list(searcher.live.values())
            lost.update(event.trial_id for event in running)
            for event in running:
                if lost[event.trial_id] >= CRASHES:
                    searcher.end(event, "FAIL", f"the whole Ray run ended {CRASHES} times while it ran: {cause}")
            if not running:
                raise RunFailed(f"the Ray run ended: {type(cause).__name__}: {cause}") from cause


def _set_aside(streaks: Streaks, ledger: Ledger, console: Console) -> None:
    """Says that a node gets no more trials from this driver; those that failed there go on elsewhere."""
    for node, cause in streaks.aside.items():
        words = f"node {node[:12]} is set aside: the last {ALIKE} trials there all failed alike: {cause}"
        logger.warning("%s", words)
        console.print(words, markup=False, highlight=False, soft_wrap=True)
        for end in streaks.kept(node):
            ledger.append(Resumed(trial_id=end.trial_id, why="node", cause=words))


def _tuner(
    sweep: SweepConfig,
    searcher: StudySearcher,
    scheduler: RungScheduler,
    folder: Path,
    run: tuple[TrialFunction | None, Delivery, list[str]],
) -> tune.Tuner:
    """Ray's run of trials: of which function, with what from here, and on none of which nodes, says `run`."""
    trial, delivery, aside = run
    selector: dict[str, Any] = (
        {"bundle_label_selector": [{"ray.io/node-id": f"!in({','.join(aside)})"}]} if aside else {}
    )
    resources = tune.PlacementGroupFactory([sweep.resources.bundle], **selector)
    threads, system_metrics = max(1, int(sweep.resources.cpu)), sweep.tracking.system_metrics
    packs = start_packs(sweep.resources, delivery) if sweep.resources.pack > 1 and trial is None else None
    of_all = {"threads": threads, "system_metrics": system_metrics, "delivery": delivery, "packs": packs}
    worker = tune.with_parameters(Worker, trial=trial, **of_all)
    return tune.Tuner(
        tune.with_resources(worker, resources),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=-1,
            reuse_actors=True,
            trial_dirname_creator=lambda ray_trial: f"{ray_trial.config['trial_id']}-{ray_trial.trial_id}",
        ),
        run_config=tune.RunConfig(
            name=f"{time.time_ns()}",
            storage_path=str(folder / ".ray"),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=0),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # `run_trial` writes its own
        ),
    )
