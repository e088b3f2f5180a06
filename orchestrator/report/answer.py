"""How a report opens: four questions, each answered in a few sentences that follow from the records.

Which setting should I use, how sure are we, what did it cost, and was the published setting any good? What cannot be
known from these records is said to be unknown.
"""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.report.document import Block, Estimate, Heading, Paragraph, Strong, number
from orchestrator.report.phrasing import ORIGINS, STRENGTHS, count, duration, enumerated, setting_words, share, some
from orchestrator.results.choices import LOSS, Choice, Published, sides
from orchestrator.results.evidence import Confirmed
from orchestrator.results.findings import Findings
from orchestrator.results.front import Summary, settings_of

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
    said = "Not very: it ran with one seed, and other seeds may put other trials on the front."
    if not found.confirmed:
        return [said + " Fresh seeds for the front: confirm: {seeds: 3} in the sweep file, then resume."]
    others = some([f"{point.record.trial_id}" for point in found.confirmed])
    return [f"{said} Several seeds speak only for {count(len(found.confirmed), 'trial', 'trials')}: {others}."]


def _seeds(knee: Confirmed, found: Findings) -> list[str]:
    """The intervals of the knee, its place among the others, and what its first seed had made of it."""
    objectives = found.summary.info.objectives
    fresh = "fresh seeds of it" if knee.kind == "fresh" else "seeds of it, the one of the search among them,"
    values = enumerated([f"{n} {Estimate(knee.mean[n], knee.low[n], knee.high[n])}" for n in objectives])
    said = [f"{knee.seeds} {fresh} gave {values}; in brackets 95 % intervals."]
    if knee.failed:
        said.append(f"{count(knee.failed, 'further seed', 'further seeds')} of it did not run to the end.")
    others = [point for point in found.confirmed if point.trial_id != knee.trial_id]
    if not others:
        return said
    rest = "the other" if len(others) == 1 else f"none of the {len(others)} others"
    verb = "is not better" if len(others) == 1 else "is better"
    said.append(
        f"With a probability of {share(knee.probability)}, {rest} with several seeds {verb} in every objective."
    )
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
    end = max((epochs for record, epochs in own if record.origin in ("baseline", "search")), default=0)
    before = max((v for s, v in zip(spent, volumes, strict=True) if s <= 0.8 * end), default=0.0)
    after = max((v for s, v in zip(spent, volumes, strict=True) if s <= end), default=0.0)
    if after <= 0:
        return "No trial is better than the reference point in every objective."
    added = share(after - before, after) if after > before else "nothing"
    if after - before > _SETTLED * after:
        return f"The front was still growing: the last fifth of the search added {added} to its hypervolume."
    return f"A longer search would hardly help: the last fifth of it added {added} to the hypervolume of the front."


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
    good = [each for each in ran if _good(each)]
    behind = sorted((each for each in ran if not _good(each)), key=lambda each: each.distance or 0.0)
    said = [_verdict(good, behind, found)]
    if behind and not good:
        said += _by_knee(behind[0], found)
    elif behind:
        worst = behind[-1]
        said.append(f"The farthest from it, {worst.suggested.label}, is {_lacking(worst)}.")
    missed = [str(each.suggested.label) for each in found.published if each.record and each.record.violations]
    if missed:
        said.append(f"{some(missed)} {'misses' if len(missed) == 1 else 'miss'} a constraint.")
    if total > len(ran) + len(missed):
        others = count(total - len(ran) - len(missed), "other", "others")
        said.append(f"{others} did not run to the full budget with all objectives.")
    return said


def _good(each: Published) -> bool:
    """Whether it is on the front; on that of several seeds where there are any."""
    return each.confirmed.probability >= 0.5 if each.confirmed else each.on_front


def _verdict(good: list[Published], behind: list[Published], found: Findings) -> str:
    front = "front of the means over seeds" if found.confirmed else "front"
    labels = some([f"{each.suggested.label} ({_reached(each, found)})" for each in good])
    ran = len(good) + len(behind)
    if good:
        word = "Yes" if not behind else "In part"
        of = f", of {ran} that ran to the full budget" if ran > 1 else ""
        return f"{word}: {labels} {'is' if len(good) == 1 else 'are'} on the {front}{of}.{_hardly(good, found)}"
    nearest = behind[0]
    name = str(nearest.suggested.label)
    reached = _reached(nearest, found)
    who = f"{name} is not" if ran == 1 else f"none of the {ran} that ran to the full budget is"
    best = f"It reaches {reached}" if ran == 1 else f"The nearest, {name}, reaches {reached}"
    close = (nearest.distance or 0.0) <= _CLOSE
    noise = " With one seed each, that may be noise." if close and nearest.confirmed is None else ""
    return f"{'Nearly' if close else 'No'}: {who} on the {front}. {best}, and is {_lacking(nearest)}.{noise}"


def _values(each: Published) -> Mapping[str, float]:
    """What its seeds gave on average, or its one seed."""
    return each.confirmed.mean if each.confirmed else (each.record.metrics if each.record else {})


def _reached(each: Published, found: Findings) -> str:
    values = _values(each)
    return enumerated([f"{name} {number(values[name])}" for name in found.summary.info.objectives])


def _hardly(good: list[Published], found: Findings) -> str:
    """Who of those on the front is there because next to nothing was unlearned: the target model itself would be."""
    name = sides(found.summary.info.objectives).forgetting
    target = found.summary.anchors.get("target", {}).get(name)
    if target is None or found.summary.info.objectives[name] != "min":
        return ""
    same = [str(each.suggested.label) for each in good if _values(each)[name] >= (1 - LOSS) * target]
    if not same:
        return ""
    verb = "has" if len(same) == 1 else "have"
    return f" But {some(same)} {verb} forgotten next to nothing: a model that was left as it is would be there too."


def _lacking(each: Published) -> str:
    """How far it is from the front."""
    if not each.distance:
        chance = share(each.confirmed.probability) if each.confirmed else "0%"
        return f"on the front of single seeds, but on that of their means with a probability of {chance} only"
    behind = share(each.distance)
    return f"behind the front by {behind} of the way from the best of the front to the reference point"


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
