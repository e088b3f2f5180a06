"""What may change in a sweep that has begun: more of the budget, a wider space, phases at the end, circumstances.

All that its trials are compared by, and all that their proposals came from, stays: otherwise they would not be trials
of one sweep.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.config import SweepConfig
from orchestrator.events import Event, Suggested
from orchestrator.problems import Problem
from orchestrator.search.config import Designed
from search_spaces.space import flat
from trials.config import TrialConfig
from trials.identity import with_digests
from trials.naming import named

FREE = ("description", "budget", "resources", "tracking", "checkpoints", "confirm")
"""Settings that may change at any time, whatever ran already."""

Changes = dict[str, tuple[Any, Any]]


def changes_of(old: SweepConfig, new: SweepConfig, *, before: tuple[str, str], after: tuple[str, str]) -> Changes:
    """Path -> what it was and what it is, of all settings in which two sweeps differ; None where there is none.

    Args:
        old: The sweep as it lies there.
        new: The sweep that is to go on.
        before: Digests of data and model of `old`: they stand for paths and devices.
        after: Those of `new`.
    """
    shared = min(len(old.search_phases), len(new.search_phases)) if old.phases or new.phases else 0
    was, now = _flat(old, before, shared), _flat(new, after, shared)
    return {
        path: (was.get(path), now.get(path))
        for path in sorted(was.keys() | now.keys())
        if was.get(path) != now.get(path)
    }


def refused(old: SweepConfig, new: SweepConfig, changes: Changes, events: Sequence[Event]) -> list[Problem]:
    """What of the changes cannot be made, each with why.

    Args:
        old: The sweep as it was.
        new: The sweep as it is to be.
        changes: Those of `changes_of`.
        events: What ran already.
    """
    suggested = [event for event in events if isinstance(event, Suggested)]
    why: dict[str, str] = {}
    for path in changes:
        top = path.partition(".")[0]
        if top == "phases":
            reason = _why_not_this_phase(path, old, new, suggested)
        elif top == "warm_start":
            reason = next((f"trials of {each!r} are in the ledger" for each in _left_out(old, new)), None)
        else:
            reason = None if top in (*FREE, "space") or path == "trial.evaluation.front" else ""
        if reason is not None:
            why[path] = reason
    spaces = [path for path in changes if path.partition(".")[0] == "space"]
    if spaces and (reason := _why_not_this_space(old, new, suggested)):
        why |= dict.fromkeys(spaces, reason)
    return [
        Problem(path, f"{changes[path][1]!r} here, {changes[path][0]!r} in the sweep that lies there" + why[path])
        for path in sorted(why)
    ]


def _left_out(old: SweepConfig, new: SweepConfig) -> list[str]:
    return [folder for folder in old.warm_start if folder not in new.warm_start]


def _why_not_this_phase(path: str, old: SweepConfig, new: SweepConfig, suggested: Sequence[Suggested]) -> str | None:
    """Phases may be added at the end, and the last one that has begun may be made longer."""
    number, _, field = path.removeprefix("phases.").partition(".")
    place = int(number)
    if place >= len(old.search_phases):
        return None
    if field != "trials":
        return ""
    begun = [event.phase for event in suggested if event.phase is not None]
    trials = new.search_phases[place].trials
    if any(phase > place for phase in begun):
        return "; the phase after it has begun"
    if trials is not None and trials < begun.count(place):
        return f"; {begun.count(place)} trials of it have begun"
    return None


def _why_not_this_space(old: SweepConfig, new: SweepConfig, suggested: Sequence[Suggested]) -> str:
    """A space may only grow: what was proposed lies in it, also where the base trial's value stood until now."""
    for event in suggested:
        if event.phase is not None and isinstance(old.search_phases[event.phase].sampler, Designed):
            return f"; phase {event.phase} goes through it point by point and has begun"
    space = new.search_space
    paths = {parameter.name: parameter.path for parameter in space.parameters}
    for event in suggested:
        if event.origin != "search":
            continue
        located = space.locate(event.config, event.params)
        point = {paths[name]: value for name, value in (located or {}).items()}
        if located is None or not _same_settings(new.trial_at(point), event):
            return f"; trial {event.trial_id} does not lie in it, and a space may only grow"
    return ""


def _same_settings(trial: TrialConfig, event: Suggested) -> bool:
    apart = {"seed", "log_weights"}
    return trial.model_dump(exclude=apart) == TrialConfig.model_validate(event.config).model_dump(exclude=apart)


def _flat(sweep: SweepConfig, digests: tuple[str, str], shared: int) -> dict[str, Any]:
    """Path -> value of all settings, metrics by their full names.

    Args:
        sweep: The sweep.
        digests: Of its data and model.
        shared: Phases that both sweeps have: they are told setting by setting, further ones whole; 0: no file has any.
    """
    settings = sweep.model_dump(mode="json", exclude={"trial", "sampler", "phases"})
    evaluation = sweep.trial.evaluation
    taken = {"metrics": named(evaluation.metrics), "front": named(evaluation.front), "every": evaluation.every}
    trial = with_digests(sweep.trial.model_dump(mode="json"), data=digests[0], model=digests[1])
    settings["trial"] = trial | {"evaluation": trial["evaluation"] | taken}
    if not shared:
        return flat(settings | {"sampler": sweep.sampler.model_dump(mode="json")})
    phases = {str(place): phase.model_dump(mode="json") for place, phase in enumerate(sweep.search_phases)}
    both = {place: phase for place, phase in phases.items() if int(place) < shared}
    more = {f"phases.{place}": phase for place, phase in phases.items() if place not in both}
    return flat(settings | {"phases": both}) | more
