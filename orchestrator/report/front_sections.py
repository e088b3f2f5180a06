"""What a report says of the front: the setting to copy, its alternatives, what seeds say, the published settings."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.report.anchor_sections import ROWS, name_of
from orchestrator.report.document import (
    Block,
    Cell,
    Code,
    Estimate,
    Heading,
    Listing,
    Paragraph,
    Picture,
    Table,
    number,
)
from orchestrator.report.drawing import Plot
from orchestrator.report.phrasing import (
    STRENGTHS,
    count,
    estimate,
    listed,
    reference,
    set_lines,
    setting_words,
    share,
    some,
    value_cell,
)
from orchestrator.results.choices import Choice
from orchestrator.results.findings import Findings
from orchestrator.results.front import Summary, param_paths, settings_of
from orchestrator.results.published import Published
from trials.presets import PRESETS

NAMES = {"knee": "knee", "most_forgetting": "forgets most", "most_utility": "keeps most"}
"""What the columns of the choice are called."""


def picture(found: Findings, plot: Plot) -> list[Block]:
    """The front among all that was tried, right below the answer."""
    lettered = " Lettered: published settings." if any(r.label for r in found.summary.records) else ""
    seeds = (
        " Crosses: means of several seeds with their 95 % intervals, dotted back to the seed that the search saw."
        if found.confirmed
        else ""
    )
    band = (
        " Shaded: between the best and the worst of the fronts that single seeds give; the line in it is their median."
        if found.attainment
        else ""
    )
    caption = f"What was tried, by its objectives.{lettered}{seeds}{band}"
    return [Picture(f"figures/{plot.name}.png", plot.png, "The front among all that was tried", caption)]


def setting(found: Findings) -> list[Block]:
    """The settings of the recommended trial, to be copied."""
    if found.knee is None:
        return []
    settings = _settings(found.choices[0], found.summary)
    said = "To be put behind the command that reads this sweep's file; as a model with a model card: "
    command = Code(f"unlearn-sweep export RUN_FOLDER --pick {found.knee.trial_id}")
    parts = (f"Trial {found.knee.trial_id}. {said}", command, ".")
    return [Heading("The setting to copy"), Paragraph(parts), Listing(set_lines(settings))]


def choice(found: Findings) -> list[Block]:
    """The knee and its alternatives side by side."""
    shown = [each for each in found.choices if each.same_as is None]
    if not shown:
        return []
    objectives = found.summary.info.objectives
    said = (
        "The knee has the smallest sum of objectives, each scaled from 0 (best on the front) to 1 (worst): "
        "one compromise among those of the front."
    )
    paragraph = [said]
    for each in found.choices[1:]:
        same = f" That is the {NAMES[each.same_as]} again." if each.same_as == "knee" else ""
        other = "" if each.same_as in (None, "knee") else " That is the one before again."
        paragraph.append(f"Trial {each.record.trial_id} {STRENGTHS[each.name]} {each.rule}.{same}{other}")
    settings = [_settings(each, found.summary) for each in shown]
    paths = list(dict.fromkeys(path for own in settings for path in own))
    rows: list[list[Cell]] = [
        ["trial", *(_trial(each, found) for each in shown)],
        *([name, *(_value(each, name) for each in shown)] for name in objectives),
        ["seeds", *(each.confirmed.seeds if each.confirmed else 1 for each in shown)],
        *([path, *(value_cell(own[path]) if path in own else None for own in settings)] for path in paths),
    ]
    table = Table(["", *(NAMES[each.name] for each in shown)], rows, name="choices")
    return [Heading("The choice"), Paragraph((" ".join(paragraph),)), table]


def confirmed(found: Findings) -> list[Block]:
    """What several seeds of a point say."""
    if not found.confirmed:
        return []
    objectives = found.summary.info.objectives
    fresh = found.confirmed[0].kind == "fresh"
    said = (
        "These settings were run again with fresh seeds. A seed that the search saw was picked because it came out "
        "well, so the estimates leave it out; the columns called search hold what it gave."
        if fresh
        else "These settings were run with several seeds, and the estimates are of all of them; the columns "
        "called search hold the first seed, which the search saw."
    )
    words = "Means with 95 % intervals (Student's t, each setting by its own spread). The last column is the "
    words += "probability that no other of these settings is better in every objective."
    missing = [p.trial_id for p in found.confirmed if not p.feasible]
    if missing:
        words += f" Most seeds of {some(missing)} miss a constraint of the sweep."
    labelled = any(point.label for point in found.confirmed)
    header = ["trial", *(["setting"] if labelled else []), "seeds", "failed", *objectives]
    header += [*(f"search: {name}" for name in objectives), "on the front"]
    rows: list[list[Cell]] = [
        [
            name_of(point.record, found),
            *([point.label] if labelled else []),
            point.seeds,
            point.failed,
            *(estimate(point, name) for name in objectives),
            *(point.record.metrics[name] for name in objectives),
            share(point.probability),
        ]
        for point in found.confirmed
    ]
    title = "The front with fresh seeds" if fresh else "The front with several seeds"
    return [Heading(title), Paragraph((f"{said} {words}",)), Table(header, rows, name="confirmed", shown=ROWS)]


def front(found: Findings) -> list[Block]:
    """Who is on the front of the search, and with which settings."""
    summary = found.summary
    if not summary.front:
        nothing = "There is no front: no trial has reached its full budget with all objectives"
        within = " and within the constraints" if summary.info.config.get("constraints") else ""
        return [Heading("Front"), Paragraph((f"{nothing}{within}.",))]
    params = param_paths(summary.front)
    labelled = any(record.label is not None for record in summary.front)
    rows: list[list[Cell]] = [
        [
            name_of(record, found),
            *([record.label] if labelled else []),
            *(record.metrics[name] for name in summary.info.objectives),
            *(value_cell(record.params.get(path)) for path in params),
        ]
        for record in summary.front
    ]
    header = ["trial", *(["setting"] if labelled else []), *summary.info.objectives, *params]
    shown = ROWS if len(rows) > ROWS else None
    said = [_front_words(summary)]
    if shown:
        said.append(f"The table shows the first {shown}; front.csv has all.")
    if found.confirmed:
        said.append("The knee is that of the means over seeds, in the table before this one.")
    title = "The front of the search" if found.confirmed else "Front"
    return [Heading(title), Paragraph((" ".join(said),)), Table(header, rows, name="front", shown=shown)]


def _front_words(summary: Summary) -> str:
    candidates = len(summary.candidates)
    said = (
        f"{count(len(summary.front), 'trial is', 'trials are')} non-dominated among the {candidates} "
        "full-budget trials of this sweep, one seed each, those of ablations included. Neighbours on the front may "
        "differ by seed noise only."
    )
    points = [record for record in summary.records if record.state == "COMPLETE" and record.of is None]
    left_out = len(points) - candidates - len(summary.violators)
    if left_out > 0:
        said += f" {left_out} more reached the full budget without all objectives and cannot be compared."
    if summary.violators:
        said += f" {count(len(summary.violators), 'other misses', 'others miss')} a constraint."
    return said


def published(found: Findings) -> list[Block]:
    """The published settings beside the front, and what they span without the others."""
    if not found.published:
        return []
    summary = found.summary
    objectives = summary.info.objectives
    sure = any(each.beaten_by_knee is not None for each in found.published)
    rows: list[list[Cell]] = []
    for each in found.published:
        record, label = each.record, each.suggested.label or ""
        row: list[Cell] = [label, each.suggested.trial_id]
        row += [_objective(each, name) for name in objectives]
        row += [_place(each), None if each.distance is None else share(each.distance)]
        if sure:
            row.append(None if each.beaten_by_knee is None else share(each.beaten_by_knee))
        settings = settings_of(record, each.suggested, summary.info.config.get("trial", {})) if record else {}
        rows.append([*row, setting_words(settings)])
    volume = found.published_volume
    spans = (
        f"Against the reference point {reference(summary)}, the published settings alone span a hypervolume of "
        f"{number(volume)}, all full-budget trials of this sweep {number(summary.hypervolume)}. "
        if volume is not None
        else ""
    )
    said = (
        f"{spans}Place and distance are by the means where a setting has several seeds, among all that have; else by "
        "single seeds. Behind the front: how much worse a setting is than the nearest of the front, as a share of the "
        "way from the best of the front to the reference point. A published setting is a loss: it was run with this "
        "sweep's benchmark, model, learning rate, batch size and epochs, which need not be those of its publication."
    )
    header = ["setting", "trial", *objectives, "place", "behind the front"]
    header += [*(["the knee is better in everything"] if sure else []), "what differs from the sweep's own trial"]
    sources = [
        f"{label}: {PRESETS[label][1]}." for each in found.published if (label := each.suggested.label or "") in PRESETS
    ]
    return [
        Heading("Published settings"),
        Table(header, rows, name="published"),
        Paragraph((said,)),
        Paragraph((" ".join(sources),)),
    ]


def constraints(found: Findings) -> list[Block]:
    """What was demanded, and who missed it by how much."""
    bounds: Mapping[str, str] = found.summary.info.config.get("constraints") or {}
    if not bounds:
        return []
    said = f"On the front only who keeps: {listed(f'{name} {bound}' for name, bound in bounds.items())}."
    missed = found.summary.violators
    if not missed:
        every = " Every full-budget trial does." if found.summary.candidates else ""
        return [Heading("Constraints"), Paragraph((said + every,))]
    said += f" {count(len(missed), 'full-budget trial misses', 'full-budget trials miss')} one; by how much:"
    names = list(dict.fromkeys(name for record in missed for name in record.violations))
    rows: list[list[Cell]] = [
        [record.trial_id, record.label, *(record.violations.get(name) for name in names)] for record in missed
    ]
    table = Table(["trial", "setting", *names], rows, name="constraints", shown=ROWS)
    return [Heading("Constraints"), Paragraph((said,)), table]


def _settings(each: Choice, summary: Summary) -> dict[str, object]:
    return settings_of(each.record, summary.suggested[each.record.trial_id], summary.info.config.get("trial", {}))


def _trial(each: Choice, found: Findings) -> str:
    label = f" ({each.record.label})" if each.record.label else ""
    over = ", over-forgotten" if each.record.trial_id in found.over_forgotten else ""
    return f"{each.record.trial_id}{label}{over}"


def _value(each: Choice, name: str) -> Cell:
    return estimate(each.confirmed, name) if each.confirmed else each.values[name]


def _objective(each: Published, name: str) -> Cell:
    if each.confirmed:
        return estimate(each.confirmed, name)
    return Estimate(each.record.metrics[name]) if each.record and name in each.record.metrics else None


def _place(each: Published) -> str:
    if each.record is None or not each.candidate:
        states = {"PRUNED": "stopped early", "FAIL": "failed", "COMPLETE": "lacks an objective"}
        if each.record is None:
            return "not ended"
        if each.record.violations or (each.confirmed and not each.confirmed.feasible):
            return "misses a constraint"
        return states[each.record.state]
    return "on the front" if each.on_front else f"dominated by {some([d.record.trial_id for d in each.dominators])}"
