"""What a report says of the records themselves: what was varied and how, what failed, where it all comes from."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from orchestrator.report.document import Block, Cell, Heading, Link, Paragraph, Table
from orchestrator.report.drawing import MARKERS
from orchestrator.report.phrasing import count, listed, yaml_text
from orchestrator.results.findings import Findings
from orchestrator.results.front import Summary
from search_spaces.space import SearchSpace, get_path


def varied(summary: Summary) -> list[Block]:
    """The space."""
    config = summary.info.config
    rows: list[list[Cell]] = []
    for parameter in SearchSpace.parse(config.get("space", {}), config.get("trial", {})).parameters:
        when = listed(f"{path}: {' | '.join(map(str, values))}" for path, values in parameter.when.items())
        rows.append([parameter.path, str(parameter.domain), when or None])
    return [Heading("What was varied"), Table(["path", "values", "only where"], rows)] if rows else []


def phases(summary: Summary) -> list[Block]:
    """Who proposed the trials, where there was more than one phase; and what was changed on the way."""
    found: list[Block] = []
    config: list[Mapping[str, Any]] = summary.info.config.get("phases") or []
    if len(config) > 1:
        rows: list[list[Cell]] = []
        for place, phase in enumerate(config):
            trials = [trial for trial in summary.suggested.values() if trial.phase == place]
            sampler = {key: value for key, value in phase.get("sampler", {}).items() if value not in ({}, None)}
            kind = sampler.pop("type", "tpe")
            settings = listed(f"{key} {yaml_text(value)}" for key, value in sampler.items())
            rows.append([place + 1, str(kind), settings, phase.get("trials"), len(trials)])
        found += [Heading("Phases"), Table(["phase", "sampler", "settings", "at most", "trials"], rows)]
    changes: list[list[Cell]] = [
        [_when(opened.at), path, yaml_text(before), yaml_text(after)]
        for opened in summary.opened
        for path, (before, after) in opened.changed.items()
    ]
    if changes:
        said = "This sweep was extended: from the time told, these settings held. What ended before stays."
        found += [Heading("Extensions"), Paragraph((said,)), Table(["when", "setting", "was", "is"], changes)]
    return found


def failures(summary: Summary) -> list[Block]:
    """Causes, most frequent first."""
    rows: list[list[Cell]] = [[cause, trials] for cause, trials in summary.failures.items()]
    return [Heading("Failures"), Table(["cause", "trials"], rows)] if rows else []


def provenance(found: Findings) -> list[Block]:
    """What these records are of, and where the files of this report are."""
    summary = found.summary
    info = summary.info
    seeds = sorted({trial.seed for trial in summary.suggested.values()})
    samplers = [get_path(phase, "sampler.seed", None) for phase in info.config.get("phases") or [info.config]]
    known = listed(dict.fromkeys(str(seed) for seed in samplers if seed is not None))
    pairs = [
        ("started", _when(info.created)),
        *([("taken up again", count(len(summary.opened) - 1, "time", "times"))] if len(summary.opened) > 1 else []),
        ("fingerprint of the sweep", info.fingerprint),
        ("digest of the data", info.data),
        ("digest of the target model", info.model),
        ("git commit", info.git_commit or "not known"),
        ("seed of the sampler", known or "not known"),
        ("seeds of the trials", listed(map(str, seeds[:8])) + (", ..." if len(seeds) > 8 else "")),
        *((f"version of {name}", version) for name, version in sorted(info.versions.items())),
    ]
    files = (
        "Beside this report: in figures/ each figure as PNG and PDF with its numbers in a CSV file of the same name, "
        "in tables/ the tables as CSV with exact values and as LaTeX (booktabs); the front: front.csv and front.json. "
        f"A figure draws at most {MARKERS} points of a group, a small panel 300; its CSV has them all."
    )
    return [Heading("Provenance"), Table(["what", "value"], pairs), Paragraph((files,))]


def tracking(links: Mapping[str, str]) -> list[Block]:
    """Pages elsewhere about this sweep."""
    found: list[Block] = [Paragraph((Link(title, url),)) for title, url in links.items()]
    return [Heading("Tracking"), *found] if found else []


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")
