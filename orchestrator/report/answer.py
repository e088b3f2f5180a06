"""How a report opens: four questions, each answered in a few sentences that follow from the records.

Which setting should I use, how sure are we, what did it cost, and was the published setting any good? What cannot be
known from these records is said to be unknown.
"""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.report.document import Block, Estimate, Heading, Paragraph, Strong, number
from orchestrator.report.phrasing import ORIGINS, STRENGTHS, count, duration, enumerated, setting_words, share, some
from orchestrator.results.choices import LOSS, Choice, at_ends, sides
from orchestrator.results.evidence import Confirmed, speaks_for_front
from orchestrator.results.findings import Findings
from orchestrator.results.front import Summary, settings_of
from orchestrator.results.published import Published

FEW = 20
"""Full-budget trials under which a front says little about the space."""

_CLOSE = 0.05
"""Distance from the front that a setting may have and be called near it: as much as the alternatives may give up."""

_SETTLED = 0.01  # share of the hypervolume that the last fifth of the epochs may add to a front that has settled


def answer(found: Findings) -> list[Block]:
    """The four questions and their answers."""
    questions = {
        "Which setting should I use?": _which(found),
        "How sure are we?": _sure(found),
        "What did it cost?": _cost(found.summary),
        "Was the published setting any good?": _published(found),
    }
    said = [Paragraph((Strong(question), " " + " ".join(words))) for question, words in questions.items()]
    return [Heading("Answer"), *said]


# -- which setting -----------------------------------------------------------------------------------------------------


def _which(found: Findings) -> list[str]:
    summary = found.summary
    if not found.choices:
        return ["None that this sweep can name: no trial has reached its full budget with all objectives."]
    knee = found.choices[0]
    settings = settings_of(knee.record, summary.suggested[knee.record.trial_id], _base(summary))
    words = setting_words(settings) or "all settings as in the sweep's own trial"
    label = "" if knee.record.label is None else f", the published setting {knee.record.label}"
    said = [f"Trial {knee.record.trial_id}{label}: {words}.", _reaches(knee, summary)]
    if len(summary.front) > 1:
        said.append("It is the knee of the front: the best compromise where all objectives count alike.")
    if knee.record.trial_id in found.over_forgotten:
        said.append(
            "Mind that it is over-forgotten: the forget set is less likely to it than to a model that never saw it."
        )
    said += _beside_retain(knee, summary)
    said += [
        f"{path} lies at the end of its searched range ({number(end)}): a better value may lie beyond."
        for path, end in at_ends(knee.record, summary)
    ]
    others = [_alternative(choice, found) for choice in found.choices[1:] if choice.same_as is None]
    return said + others


def _reaches(choice: Choice, summary: Summary) -> str:
    """What a trial has, beside what the models have that it is judged by."""
    parts = []
    for name in summary.info.objectives:
        known = [
            f"{which} model {number(metrics[name])}" for which, metrics in summary.anchors.items() if name in metrics
        ]
        beside = f" ({', '.join(known)})" if known else ""
        parts.append(f"{name} {number(choice.values[name])}{beside}")
    seeds = "on average over its seeds" if choice.confirmed else "with one seed"
    return f"It reaches {enumerated(parts)}, {seeds}."


def _beside_retain(knee: Choice, summary: Summary) -> list[str]:
    """What else is known of the forget set, beside a model that never saw it: one metric does not say it has gone."""
    retain, runs = summary.anchors.get("retain", {}), knee.confirmed.runs if knee.confirmed else [knee.record]
    parts = []
    for name in retain:
        values = [run.metrics[name] for run in runs if name in run.metrics]
        if name.startswith("forget.") and name not in summary.info.objectives and values:
            parts.append(f"{name} {number(sum(values) / len(values))} ({number(retain[name])})")
    return [f"Other metrics of the forget set, in brackets the retain model's: {some(parts, 4)}."] if parts else []


def _alternative(choice: Choice, found: Findings) -> str:
    values = enumerated([f"{name} {number(choice.values[name])}" for name in found.summary.info.objectives])
    also = " (over-forgotten)" if choice.record.trial_id in found.over_forgotten else ""
    return f"Trial {choice.record.trial_id}{also} {STRENGTHS[choice.name]} {choice.rule}: {values}."


# -- how sure ----------------------------------------------------------------------------------------------------------


def _sure(found: Findings) -> list[str]:
    summary = found.summary
    if not found.choices:
        return ["There is nothing to be sure of yet."]
    knee = found.choices[0]
    said = _seeds(knee.confirmed, found) if knee.confirmed else _one_seed(found)
    candidates = len(summary.candidates)
    if candidates < FEW:
        said.append(f"Only {count(candidates, 'setting', 'settings')} ran to the full budget: better ones may exist.")
    else:
        said.append(_settled(found))
    if summary.unfinished:
        trials = count(summary.unfinished, "trial has", "trials have")
        said.append(f"{trials} not ended yet: this is a part of the sweep.")
    return said


def _one_seed(found: Findings) -> list[str]:
    said = "Not very: it was chosen by one seed, and other seeds may put other trials on the front."
    if not found.confirmed:
        return [said + " Fresh seeds for the front: confirm: {seeds: 3} in the sweep file, then resume."]
    if speaks_for_front(found.summary):
        return [f"{said} Of all that ran again, most seeds miss a constraint: nobody is left to recommend for sure."]
    others = some([point.trial_id for point in found.confirmed])
    return [f"{said} Several seeds speak only for {count(len(found.confirmed), 'trial', 'trials')}: {others}."]


def _seeds(knee: Confirmed, found: Findings) -> list[str]:
    """The intervals of the knee, its place among the others, and what its first seed had made of it."""
    objectives = found.summary.info.objectives
    fresh = "fresh seeds of it" if knee.kind == "fresh" else "seeds of it, the one of the search among them,"
    values = enumerated([f"{n} {Estimate(knee.mean[n], knee.low[n], knee.high[n])}" for n in objectives])
    said = [f"{knee.seeds} {fresh} gave {values}; in brackets 95 % intervals."]
    if knee.failed:
        said.append(f"{count(knee.failed, 'further seed', 'further seeds')} of it did not run to the end.")
    others = [point for point in found.confirmed if point.trial_id != knee.trial_id and point.feasible]
    if not others:
        return said
    rest = "the other" if len(others) == 1 else f"none of the {len(others)} others"
    verb = "is not better" if len(others) == 1 else "is better"
    who = "that ran with fresh seeds" if knee.kind == "fresh" else "with several seeds"
    said.append(f"With a probability of {share(knee.probability)}, {rest} {who} {verb} in every objective.")
    alike = [point.trial_id for point in others if _overlap(knee, point, objectives)]
    if alike:
        cannot = "cannot be told apart from it" if len(alike) > 1 else "cannot be told apart from it either"
        said.append(f"{'Trials' if len(alike) > 1 else 'Trial'} {some(alike)} {cannot}: the intervals overlap.")
    return said


def _overlap(one: Confirmed, other: Confirmed, objectives: Mapping[str, str]) -> bool:
    return all(one.low[name] <= other.high[name] and other.low[name] <= one.high[name] for name in objectives)


def _settled(found: Findings) -> str:
    """Whether the search was still finding better trials when it ended."""
    spent, volumes = found.volume
    own = zip(found.summary.records, found.summary.spent, strict=True)
    ends = {record.trial_id: epochs for record, epochs in own if record.origin in ("baseline", "search")}
    end = max(ends.values(), default=0)
    before = max((v for s, v in zip(spent, volumes, strict=True) if s <= 0.8 * end), default=0.0)
    after = max((v for s, v in zip(spent, volumes, strict=True) if s <= end), default=0.0)
    if after <= 0:
        return "No trial is better than the reference point in every objective."
    added = share(after - before, after) if after > before else "nothing"
    new = [record for record in found.summary.front if ends.get(record.trial_id, 0) > 0.8 * end]
    late = f", and found {len(new)} of the {len(found.summary.front)} trials of the front" if new else ""
    added = f"the last fifth of the search added {added} to its hypervolume{late}"
    if after - before > _SETTLED * after or 2 * len(new) > len(found.summary.front):
        return f"The front was still growing: {added}."
    return f"A longer search would hardly help: {added}."


# -- what it cost ------------------------------------------------------------------------------------------------------


def _cost(summary: Summary) -> list[str]:
    here = {origin: cost for origin, cost in summary.cost.items() if origin != "earlier"}
    trials = count(sum(cost.trials for cost in here.values()), "trial", "trials")
    gpu = f", {summary.gpu_hours:.3g} GPU-hours" if summary.gpu_hours else ""
    epochs = count(summary.epochs_spent, "epoch", "epochs")
    said = [f"{trials}, {epochs}, {duration(summary.seconds)} of trials' own time{gpu}."]
    if len(here) > 1:
        parts = [f"{ORIGINS[origin]} {count(cost.epochs, 'epoch', 'epochs')}" for origin, cost in here.items()]
        said.append(f"Of these: {enumerated(parts)}.")
    if summary.epochs_saved:
        part = share(summary.epochs_saved, summary.epochs_full)
        said.append(
            f"Early stopping saved {summary.epochs_saved} of the {summary.epochs_full} epochs that trials "
            f"without failure take at full budget ({part})."
        )
    if "earlier" in summary.cost:
        trials = count(summary.cost["earlier"].trials, "trial", "trials")
        said.append(f"{trials} of earlier sweeps were read and cost nothing here.")
    return said


# -- the published settings --------------------------------------------------------------------------------------------


def _published(found: Findings) -> list[str]:
    if not found.published:
        return ["Not known: none was run. To try some, list them under baselines; the verb presets names them."]
    ran = [each for each in found.published if each.candidate]
    total = len(found.published)
    if not ran:
        none = "the one that was tried has not" if total == 1 else f"none of the {total} that were tried has"
        return [f"Not known: {none} reached the full budget within the constraints."]
    groups: dict[str, list[Published]] = {}
    for each in sorted(found.published, key=lambda each: each.distance or 0.0):
        groups.setdefault(_group(each, found), []).append(each)
    good, near = groups.get(_ON, []), groups.get(_NEAR, [])
    word = "Yes" if len(good) == total else "In part" if good else "Nearly" if near else "No"
    told = {group: some([_told(each, found) for each in own]) for group, own in groups.items()}
    clauses = [f"{group}: {told[group]}" for group in _GROUPS if group in told]
    means = " By the means over seeds," if any(each.confirmed for each in ran) else ""
    text = "; ".join(clauses)
    said = [f"{word}.{means} {text if means else text[0].upper() + text[1:]}."]
    if any(each.confirmed is None for each in near):
        said.append("With one seed each, that may be noise.")
    if behind := [*near, *groups.get(_BEHIND, [])]:
        said.append("The shares are of the way from the best of the front to the reference point.")
    return said + (_by_knee(behind[0], found) if behind and not good else [])


_ON, _NEAR, _BEHIND, _HARDLY = "on the front", "near the front", "behind the front", "forgot next to nothing"
_MISSED, _LOST = "missed a constraint", "did not run to the full budget with all objectives"
_GROUPS = (_ON, _NEAR, _BEHIND, _HARDLY, _MISSED, _LOST)


def _group(each: Published, found: Findings) -> str:
    """Which of the groups a published setting belongs to.

    Who has hardly forgotten is a group of its own: the model that was left as it is would be on the front too.
    """
    if not each.candidate:
        missed = each.record and (each.record.violations or (each.confirmed and not each.confirmed.feasible))
        return _MISSED if missed else _LOST
    objectives = found.summary.info.objectives
    name = sides(objectives).forgetting
    target = found.summary.anchors.get("target", {}).get(name)
    if target is not None and objectives[name] == "min" and _values(each)[name] >= (1 - LOSS) * target:
        return _HARDLY
    likely = each.confirmed.probability >= 0.5 if each.confirmed else each.on_front
    return _ON if likely else _NEAR if (each.distance or 0.0) <= _CLOSE else _BEHIND


def _told(each: Published, found: Findings) -> str:
    """Its name, what it reaches, and how far that is from the front."""
    if not each.record or not each.candidate:
        return str(each.suggested.label)
    said = [enumerated([f"{name} {number(_values(each)[name])}" for name in found.summary.info.objectives])]
    if each.confirmed and not each.distance:
        said.append(f"there with a probability of {share(each.confirmed.probability)}")
    elif each.distance:
        said.append(f"{share(each.distance)} behind")
    said += ["over-forgotten"] * (each.record.trial_id in found.over_forgotten)
    return f"{each.suggested.label} ({', '.join(said)})"


def _values(each: Published) -> Mapping[str, float]:
    """What its seeds gave on average, or its one seed."""
    return each.confirmed.mean if each.confirmed else (each.record.metrics if each.record else {})


def _by_knee(each: Published, found: Findings) -> list[str]:
    """Against the setting that is recommended above: by how much, and how surely."""
    knee = found.choices[0]
    name = each.suggested.label
    gain = next((d.gain for d in each.dominators if d.record.trial_id == knee.record.trial_id), None)
    said = []
    if gain is not None:
        parts = [f"{number(gained)} in {name}" for name, gained in gain.items()]
        said.append(f"Trial {knee.record.trial_id} is better than {name} by {enumerated(parts)}.")
    if each.beaten_by_knee is not None:
        chance = share(each.beaten_by_knee)
        said.append(f"By all seeds, trial {knee.record.trial_id} dominates {name} with a probability of {chance}.")
    return said


def _base(summary: Summary) -> Mapping[str, object]:
    base: Mapping[str, object] = summary.info.config.get("trial", {})
    return base
