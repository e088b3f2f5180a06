"""Trials of earlier run folders (`warm_start`): they count for the search here, and are not run again.

What ended there is copied into this ledger, event by event, under numbers of this sweep and with the origin `earlier`;
`at` stays when it was. Constraints are judged anew, since they are this sweep's. A trial that is there already,
by fingerprint and seed, is not copied: to resume a sweep copies nothing twice, and what was cut short is completed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from orchestrator.events import Ended, Epoch, Event, Measured, Record, Suggested, SweepInfo, record_of
from orchestrator.ledger import History, in_use, read_events
from orchestrator.problems import ConfigError, Problem, did_you_mean
from orchestrator.search.config import floors_of
from orchestrator.search.constraints import violations
from search_spaces.space import get_path
from trials.benchmarks import Benchmark
from trials.naming import named

if TYPE_CHECKING:
    from orchestrator.config import SweepConfig


def check_earlier(
    sweep: SweepConfig, folders: Sequence[str], benchmark: Benchmark | None, output: Path
) -> list[Problem]:
    """Whether folders are those of other sweeps that have ended, on the same data and model and with the same epochs.

    Args:
        sweep: The sweep.
        folders: Those to look at, of `sweep.warm_start`.
        benchmark: Its rows; None: data and model are compared when the sweep starts.
        output: Folder of run folders.
    """
    digests = sweep.digests(benchmark) if benchmark and folders else None
    problems = []
    for folder in folders:
        place = Path(folder)
        if place.resolve() == (output / sweep.name).resolve():
            wrong = "is the folder of this sweep, whose trials count anyway; leave it out"
        elif not (place / "sweep.json").is_file():
            there = [str(file.parent) for file in sorted(place.parent.glob("*/sweep.json"))]
            wrong = f"is not a run folder{did_you_mean(folder, there) if there else '; give one that `run` wrote'}"
        elif in_use(place):
            wrong = "is running now, and more trials of it may end; wait for its end"
        else:
            wrong = differences(sweep, place, digests)
        if wrong:
            problems.append(Problem(f"warm_start.{sweep.warm_start.index(folder)}", f"{folder!r} {wrong}"))
    return problems


def differences(sweep: SweepConfig, folder: Path, digests: tuple[str, str] | None) -> str:
    """Why the trials of a run folder cannot be compared with those of a sweep, with the remedy; "" where they can.

    Args:
        sweep: The sweep.
        folder: The earlier run folder.
        digests: Digests of data and model of the sweep, where they are known.
    """
    try:
        info = SweepInfo.read(folder)
        measured = set(named(get_path(info.config, "trial.evaluation.metrics", ())))
    except (ValidationError, ValueError):
        return "was written by another version of unlearn-sweep; leave it out"
    trial = sweep.trial.model_dump(mode="json")
    found = [
        f"{path} is {there!r} there and {here!r} here"
        for path in ("epochs", "evaluation.max_new_tokens", "evaluation.relearning")
        if (there := get_path(info.config, f"trial.{path}")) != (here := get_path(trial, path))
    ]
    if digests and info.data != digests[0]:
        found.append("its benchmark has other rows")
    elif digests and info.model != digests[1]:
        found.append("its target or retain model is another")
    compared = (*sweep.objectives, *floors_of(sweep.scheduler), *sweep.constraints)
    if missing := [name for name in dict.fromkeys(compared) if name not in measured]:
        found.append(f"it did not measure {', '.join(missing)}")
    return f"cannot be compared: {'; '.join(found)}; leave it out or make them alike" if found else ""


def take_over(sweep: SweepConfig, ledger: History, digests: tuple[str, str]) -> int:
    """Copies the trials of `sweep.warm_start` that this ledger lacks; folders that have gone are passed over.

    Args:
        sweep: The sweep; constraints that are relative need the anchors in the ledger.
        ledger: Its ledger.
        digests: Digests of data and model.

    Returns:
        How many trials were copied.

    Raises:
        ConfigError: A folder is of another benchmark or model.
    """
    copied = 0
    for place, folder in enumerate(map(Path, sweep.warm_start)):
        if not (folder / "sweep.json").is_file():
            continue
        if other := differences(sweep, folder, digests):
            raise ConfigError(sweep.name, [Problem(f"warm_start.{place}", f"{str(folder)!r} {other}")])
        for begin, own in _lacking(sweep, ledger, History(read_events(folder))):
            copied += 1
            there = len(ledger.of(begin.trial_id))  # not 0 where copying was cut short
            for event in [begin, *_rest(sweep, ledger.anchors(), own, begin.trial_id)][there:]:
                ledger.append(event)
    return copied


def is_complete(sweep: SweepConfig, ledger: History) -> bool:
    """Whether `take_over` would copy nothing."""
    folders = [Path(folder) for folder in sweep.warm_start if (Path(folder) / "sweep.json").is_file()]
    return not any(list(_lacking(sweep, ledger, History(read_events(folder)))) for folder in folders)


def origin_of(warm_start: Sequence[str], fingerprint: str, seed: int) -> tuple[Path, str] | None:
    """The earlier run folder in which a trial was run, and its name there; None where it is not to be found."""
    for folder in map(Path, warm_start):
        for event in read_events(folder):
            if isinstance(event, Suggested) and (event.fingerprint, event.seed) == (fingerprint, seed):
                return folder, event.trial_id
    return None


def _lacking(sweep: SweepConfig, ledger: History, there: History) -> Iterator[tuple[Suggested, Sequence[Event]]]:
    """The trials that are to be copied, in their order: how each begins here, and its events there."""
    here = {(e.fingerprint, e.seed): e.trial_id for e in ledger.events if isinstance(e, Suggested)}
    names: dict[str, str] = {}  # there -> here
    number = max((event.number + 1 for event in ledger.events if isinstance(event, Suggested)), default=0)
    for event in there.events:
        if not isinstance(event, Suggested):
            continue
        own = there.of(event.trial_id)
        known = here.get((event.fingerprint, event.seed))
        fits = any(isinstance(each, Ended) for each in own) and _fits(sweep, record_of(own))
        if known is None and (not fits or (event.of is not None and event.of not in names)):
            continue
        names[event.trial_id] = known or f"{number:05d}"
        if known is None or (fits and _is_cut_short(ledger.of(known))):
            of = names[event.of] if event.of else None
            copy = {"trial_id": names[event.trial_id], "number": number, "of": of, "origin": "earlier"}
            copy |= {"config": _at_home(sweep, event.config), "phase": None, "design": None, "base": None}
            yield event.model_copy(update=copy), own
        if known is None:
            here[event.fingerprint, event.seed] = names[event.trial_id]
            number += 1


def _at_home(sweep: SweepConfig, config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of an earlier trial with what is the same for all of this sweep: its places, and what it measures.

    Whoever runs the trial again with another seed finds data and models, and has the metrics that count here.
    """
    own = sweep.trial.model_dump(mode="json")
    model = own["model"] | {key: config["model"][key] for key in ("dtype", "adapter", "prompt", "hide_pad")}
    return {**config, "benchmark": own["benchmark"], "evaluation": own["evaluation"], "model": model}


def _fits(sweep: SweepConfig, record: Record) -> bool:
    """Whether what ended there could have ended so here."""
    needed = (*sweep.objectives, *sweep.constraints)
    return record.state != "COMPLETE" or all(name in record.metrics for name in needed)


def _is_cut_short(own: Sequence[Event]) -> bool:
    """Whether a trial was being copied when the driver was killed."""
    first = own[0]
    begun = isinstance(first, Suggested) and first.origin == "earlier"
    return begun and not any(isinstance(event, Ended) for event in own)


def _rest(
    sweep: SweepConfig, anchors: Mapping[str, Mapping[str, float]], own: Sequence[Event], trial_id: str
) -> list[Event]:
    """The events of an earlier trial after its first, under its new name."""
    rename: dict[str, Any] = {"trial_id": trial_id}
    epochs: dict[int, Epoch] = {}
    for event in own:
        if isinstance(event, Epoch):
            epochs.setdefault(event.epoch, event.model_copy(update=rename))
    end = next(event for event in reversed(own) if isinstance(event, Ended))
    last = epochs[end.epoch].metrics if end.epoch in epochs else {}
    missed = violations(sweep.constraints, last, anchors) if end.state == "COMPLETE" else {}
    later = [event for event in own if isinstance(event, Measured) and event.failure is None]
    return [
        *epochs.values(),
        end.model_copy(update=rename | {"violations": missed}),
        *(event.model_copy(update=rename) for event in later),
    ]
