"""The words and tables of a report, as blocks: the front, the published settings, what was swept, provenance.

Each function is one section and takes the summary; none formats markup, and none computes what `front`
computes.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import yaml

from orchestrator.document import Block, Facts, Heading, Link, Listing, Paragraph, Picture, Table, number
from orchestrator.events import Record
from orchestrator.front import (
    Summary,
    dominators_of,
    has_all,
    hypervolume_of,
    metric_names,
    param_paths,
    settings_of,
)
from orchestrator.front_sections import name_of, other_metrics
from search_spaces.space import SearchSpace, get_path
from trials.presets import PRESETS

Cells = list[str | float | None]

LITTLE = 0.2  # extraction strength under which a target model can hardly be said to have memorised its forget set


def blocks(summary: Summary, pictures: Mapping[str, bytes], links: Mapping[str, str], more: list[Block]) -> list[Block]:
    """The whole report, in reading order.

    Args:
        summary: What there is to say.
        pictures: Path in the run folder -> PNG: `figures/front.png` and `figures/hypervolume.png`.
        links: Title -> URL.
        more: A section made elsewhere, that of `weight_profiles`.
    """
    return [
        *_head(summary),
        *_front(summary, pictures["figures/front.png"]),
        *_anchors(summary),
        *_knee(summary),
        *_over_forgetting(summary),
        *_published(summary),
        *_history(summary, pictures["figures/hypervolume.png"]),
        *other_metrics(summary),
        *more,
        *_varied(summary),
        *_failures(summary),
        *_provenance(summary),
        *_links(links),
    ]


def _head(summary: Summary) -> list[Block]:
    info, counts = summary.info, summary.counts
    facts = [
        ("on the front", f"{len(summary.front)} of {len(summary.candidates)}"),
        ("hypervolume", number(summary.hypervolume)),
        ("full budget", str(counts["COMPLETE"])),
        ("stopped early", str(counts["PRUNED"])),
        ("failed", str(counts["FAIL"])),
        ("trial time", _duration(summary.seconds)),
    ]
    better = {"min": "lower is better", "max": "higher is better"}
    objectives = _listed(f"{name} ({better[direction]})" for name, direction in info.objectives.items())
    said = [
        f"{_count(len(summary.records), 'trial has', 'trials have')} ended on benchmark {info.benchmark}.",
        f"Objectives: {objectives}.",
        f"All in all {_count(summary.epochs_spent, 'epoch was', 'epochs were')} evaluated.",
    ]
    if summary.epochs_saved:
        said.append(
            f"Early stopping saved {summary.epochs_saved} of the {summary.epochs_full} epochs that trials "
            f"without failure take at full budget ({summary.epochs_saved / summary.epochs_full:.0%})."
        )
    if summary.unfinished:
        unfinished = _count(summary.unfinished, "trial was", "trials were")
        said.append(f"{unfinished} suggested and not ended: this report is of a part of the sweep.")
    return [Heading(f"Sweep {info.name}", 1), Paragraph((" ".join(said),)), Facts(facts)]


def _front(summary: Summary, png: bytes) -> list[Block]:
    objectives = summary.info.objectives
    caption = (
        "Full-budget trials, trials stopped early, and the target and retain models if evaluated. "
        f"Lettered: published settings. The reference point of the hypervolume is {_point(summary)}."
    )
    picture = Picture("figures/front.png", png, "The front among all that was tried", caption)
    if not summary.front:
        nothing = "There is no front: no trial has reached its full budget with all objectives."
        return [Heading("Front"), Paragraph((nothing,)), picture]
    candidates = len(summary.candidates)
    said = (
        f"{_count(len(summary.front), 'trial is', 'trials are')} non-dominated among the {candidates} "
        "full-budget trials of this sweep, one seed each. Neighbours on the front may differ "
        "by seed noise only."
    )
    left_out = summary.counts["COMPLETE"] - candidates
    if left_out:
        said += f" {left_out} more reached the full budget without all objectives and cannot be compared."
    params = param_paths(summary.front)
    labelled = any(record.label is not None for record in summary.front)
    rows: list[Cells] = [
        [
            name_of(record, summary),
            *([record.label] if labelled else []),
            *(record.metrics[name] for name in objectives),
            *(_value(record.params.get(path)) for path in params),
        ]
        for record in summary.front
    ]
    header = ["trial", *(["setting"] if labelled else []), *objectives, *params]
    return [Heading("Front"), Paragraph((said,)), picture, Table(header, rows)]


def _anchors(summary: Summary) -> list[Block]:
    """Where unlearning starts from, and what a model that never saw the forget set has."""
    if not summary.anchors:
        return []
    wanted = dict.fromkeys([*summary.info.objectives, "forget.nll", "retain.nll"])
    names = [name for name in wanted if any(name in metrics for metrics in summary.anchors.values())]
    rows: list[Cells] = [[f"{which} model", *map(metrics.get, names)] for which, metrics in summary.anchors.items()]
    found: list[Block] = [Heading("Before unlearning"), Table(["model", *names], rows)]
    known = summary.anchors.get("target", {}).get("forget.extraction_strength", 1.0)
    if known < LITTLE:
        said = (
            f"The target model's forget.extraction_strength is {number(known)}: it has little to forget, and this sweep"
        )
        found.append(Paragraph((f"{said} can tell little. Was it trained on the forget set, with this prompt?",)))
    return found


def _knee(summary: Summary) -> list[Block]:
    knee = summary.knee
    if knee is None:
        return []
    values = _listed(f"{name} {number(knee.metrics[name])}" for name in summary.info.objectives)
    label = "" if knee.label is None else f" ({knee.label})"
    said = (
        f"Trial {knee.trial_id}{label} is the knee: of all trials on the front it has the smallest sum of "
        f"objectives, each scaled from 0 (best on the front) to 1 (worst). It has {values}. It is one "
        "compromise among those of the front. Its settings, to be put behind the command "
        "that reads this sweep's file:"
    )
    base = summary.info.config.get("trial", {})
    settings = settings_of(knee, summary.suggested[knee.trial_id], base)
    lines = [f"--set {shlex.quote(f'trial.{path}={_yaml(value)}')}" for path, value in settings.items()]
    return [Heading("Knee"), Paragraph((said,)), Listing(" \\\n".join(lines))]


def _over_forgetting(summary: Summary) -> list[Block]:
    """Which trials of the front go beyond a model that never saw the forget set."""
    if not summary.front:
        return []
    retain = summary.anchors.get("retain")
    if retain is None:
        unknown = "The retain model was not evaluated: how much forgetting is too much cannot be told here."
        return [Heading("Over-forgetting"), Paragraph((unknown,))]
    objectives = summary.info.objectives
    found: list[Block] = []
    for name in metric_names(summary.front, objectives):
        # Likelihood has no floor, so it tells over-forgetting also where it is no objective.
        nll = name == "forget.nll"
        if name not in retain or not (nll or (name in objectives and name.startswith("forget."))):
            continue
        side = "above" if nll else "below"
        signed = [((r.metrics.get(name, retain[name]) - retain[name]) * (1 if nll else -1), r) for r in summary.front]
        beyond = _listed(record.trial_id for excess, record in signed if excess > 0)
        gold = f"the retain model's own {name} of {number(retain[name])}"
        meaning = (
            "over-forgotten: the forget set is less likely to them than to a model that never saw it"
            if nll
            else "below a model that never saw the forget set nothing can be told from noise"
        )
        none = f"No trial of the front lies {side} {gold}."
        found.append(Paragraph((f"Trials of the front {side} {gold}: {beyond} ({meaning})." if beyond else none,)))
    return [Heading("Over-forgetting"), *found] if found else []


def _published(summary: Summary) -> list[Block]:
    """The labelled trials beside the front, and what they span without the others."""
    if not summary.baselines:
        return []
    objectives = summary.info.objectives
    ended = {record.trial_id: record for record in summary.records}
    rows: list[Cells] = []
    for trial in summary.baselines:
        record, label = ended.get(trial.trial_id), trial.label or ""
        metrics = record.metrics if record else {}
        source = PRESETS[label][1] if label in PRESETS else None
        values = [metrics.get(name) for name in objectives]
        rows.append([label, trial.trial_id, record.state if record else "not ended", *values])
        rows[-1] += [_place(record, summary), source]
    alone = [record for record in summary.records if record.label is not None]
    volume = hypervolume_of(alone, objectives, summary.info.reference_point)
    said = (
        f"Against the reference point {_point(summary)}, the published settings alone span a hypervolume of "
        f"{number(volume)}, all full-budget trials of this sweep {number(summary.hypervolume)}. Each was run "
        "once here, with this sweep's benchmark, model and epochs, which need not be those of "
        "its publication."
    )
    header = ["setting", "trial", "state", *objectives, "place", "source"]
    return [Heading("Published settings"), Table(header, rows), Paragraph((said,))]


def _place(record: Record | None, summary: Summary) -> str:
    objectives = summary.info.objectives
    if record is None or record.state != "COMPLETE" or not has_all(record.metrics, objectives):
        return "not a candidate"
    if any(other.trial_id == record.trial_id for other in summary.front):
        return "on the front"
    return f"dominated by {_listed(r.trial_id for r in dominators_of(record, summary.front, objectives))}"


def _history(summary: Summary, png: bytes) -> list[Block]:
    caption = f"Hypervolume of the full-budget trials after each ended trial, reference point {_point(summary)}."
    picture = Picture("figures/hypervolume.png", png, "Hypervolume by trial", caption)
    return [Heading("Hypervolume"), picture]


def _varied(summary: Summary) -> list[Block]:
    config = summary.info.config
    rows: list[Cells] = []
    for parameter in SearchSpace.parse(config.get("space", {}), config.get("trial", {})).parameters:
        when = _listed(f"{path}: {' | '.join(map(str, values))}" for path, values in parameter.when.items())
        rows.append([parameter.path, str(parameter.domain), when or None])
    return [Heading("What was varied"), Table(["path", "values", "only where"], rows)] if rows else []


def _failures(summary: Summary) -> list[Block]:
    rows: list[Cells] = [[cause, count] for cause, count in summary.failures.items()]
    return [Heading("Failures"), Table(["cause", "trials"], rows)] if rows else []


def _provenance(summary: Summary) -> list[Block]:
    info = summary.info
    seeds = sorted({trial.seed for trial in summary.suggested.values()})
    sampler = get_path(info.config, "sampler.seed")
    pairs = [
        ("started", datetime.fromtimestamp(info.created, UTC).strftime("%Y-%m-%d %H:%M UTC")),
        ("fingerprint of the sweep", info.fingerprint),
        ("digest of the data", info.data),
        ("digest of the target model", info.model),
        ("git commit", info.git_commit or "not known"),
        ("seed of the sampler", "not known" if sampler is None else str(sampler)),
        ("seeds of the trials", _listed(map(str, seeds[:8])) + (", ..." if len(seeds) > 8 else "")),
        *((f"version of {name}", version) for name, version in sorted(info.versions.items())),
    ]
    return [Heading("Provenance"), Table(["what", "value"], pairs)]


def _links(links: Mapping[str, str]) -> list[Block]:
    found: list[Block] = [Paragraph((Link(title, url),)) for title, url in links.items()]
    return [Heading("Tracking"), *found] if found else []


def _yaml(value: Any) -> str:
    """A value as `--set` reads it: 1e-05 is a string to YAML, 1.0e-05 a number."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=2**31, allow_unicode=True)
    return text.removesuffix("...\n").strip()


def _value(value: Any) -> str | float | None:
    plain = value is None or (isinstance(value, int | float) and not isinstance(value, bool))
    return value if plain else str(value)


def _count(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _point(summary: Summary) -> str:
    point = summary.info.reference_point
    return _listed(f"{name} = {number(point[name])}" for name in summary.info.objectives)


def _listed(items: Iterable[str]) -> str:
    return ", ".join(items)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
