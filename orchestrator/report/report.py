"""The report of a sweep: report.html, report.md, the front, figures and tables as files, from a run folder alone.

Nothing but sweep.json and ledger.jsonl is read, so a report can be made anywhere, at any time, also while the
sweep runs. The same records give the same bytes: no clock, no machine and no network goes in. Every number follows from
the records; the words claim no more than these records can show.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from types import MappingProxyType
from typing import Any

from orchestrator.events import Record, SweepInfo
from orchestrator.ledger import read_events, write_atomically
from orchestrator.report import effort_figures, figures, parameter_figures, sections, weight_profiles
from orchestrator.report.document import Block, Table, body, markdown
from orchestrator.report.drawing import Plot
from orchestrator.report.table_files import csv_of, latex_of
from orchestrator.report.weight_figures import criteria_plot
from orchestrator.results.findings import Findings, findings
from orchestrator.results.front import metric_names, param_paths, summarise

LEAST = 12
"""Trials without which parameters are not drawn: fewer dots tell nothing of a space."""


@dataclass(frozen=True)
class Report:
    """What a report found.

    Attributes:
        front: The non-dominated trials, best first objective first.
        knee: The trial to take; None where no trial has reached its full budget.
        hypervolume: Of the full-budget trials, against the reference point of the sweep.
        counts: State -> number of ended trials.
        failures: Cause -> number of failed trials.
        files: What was written.
    """

    front: list[Record]
    knee: Record | None
    hypervolume: float
    counts: dict[str, int]
    failures: dict[str, int]
    files: list[Path]


def write_report(folder: Path, links: Mapping[str, str] = MappingProxyType({})) -> Report:
    """Writes the report files of a run folder, over older ones.

    Args:
        folder: The run folder.
        links: Title -> URL of pages about this sweep, in the tracking UI say.

    Raises:
        FileNotFoundError: `folder` has no sweep.json: it is not a run folder.
        ValueError: The ledger cannot be read, or the reference point lacks an objective.
    """
    events = read_events(folder)
    summary = summarise(SweepInfo.read(folder), events)
    found = findings(summary)
    chosen = weight_profiles.of_each_criterion(summary, weight_profiles.histories(events))
    plots = {plot.name: plot for plot in _plots(found)}
    weights: list[Block] = []
    if chosen:
        plots["weights"] = criteria_plot([history for history, _ in chosen])
        weights = weight_profiles.section(chosen, plots["weights"].png)
    blocks = sections.blocks(found, plots, links, weights)
    page = Template(Path(__file__).with_name("report.html").read_text(encoding="utf-8"))
    title = html.escape(f"Sweep {summary.info.name}")
    files: dict[str, str | bytes] = {
        "front.csv": csv_of(_front_table(found)),
        "front.json": json.dumps(_front_json(found), indent=2, ensure_ascii=False) + "\n",
        **_of_plots(plots.values()),
        **_of_tables(blocks),
        "report.md": markdown(blocks),
        "report.html": page.substitute(title=title, body=body(blocks)),
    }
    return Report(
        front=summary.front,
        knee=found.knee,
        hypervolume=summary.hypervolume,
        counts=summary.counts,
        failures=summary.failures,
        files=_write(folder, files),
    )


def _write(folder: Path, files: Mapping[str, str | bytes]) -> list[Path]:
    for kind in ("figures", "tables"):
        (folder / kind).mkdir(exist_ok=True)
    for name, content in files.items():
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            write_atomically(folder / name, content)
    return [folder / name for name in files]


def _plots(found: Findings) -> list[Plot]:
    """The figures that there is something to draw for."""
    plots = [figures.front_plot(found), effort_figures.hypervolume_plot(found)]
    if sum(bool(front.front) for front in found.epoch_fronts) > 1:
        plots.append(effort_figures.epochs_plot(found))
    if sum(not method.published for method in found.methods.rows) > 1:
        plots.append(effort_figures.methods_plot(found))
    if found.importance is not None:
        plots.append(parameter_figures.importance_plot(found.importance))
    if parameter_figures.axes_of(found) and sum(map(len, parameter_figures.trials_of(found).values())) >= LEAST:
        plots += [parameter_figures.slices_plot(found), parameter_figures.parallel_plot(found)]
    return plots


def _of_plots(plots: Iterable[Plot]) -> dict[str, str | bytes]:
    files: dict[str, str | bytes] = {}
    for plot in plots:
        stem = f"figures/{plot.name}"
        files |= {f"{stem}.png": plot.png, f"{stem}.pdf": plot.pdf, f"{stem}.csv": csv_of(plot.data)}
    return files


def _of_tables(blocks: Sequence[Block]) -> dict[str, str | bytes]:
    named = [block for block in blocks if isinstance(block, Table) and block.name is not None]
    files: dict[str, str | bytes] = {}
    for table in named:
        files |= {f"tables/{table.name}.csv": csv_of(table), f"tables/{table.name}.tex": latex_of(table)}
    return files


def _front_table(found: Findings) -> Table:
    """One line a trial of the front: objectives, other metrics, params by path; blank where there is none."""
    front = found.summary.front
    metrics = weight_profiles.tabled(metric_names(front, found.summary.info.objectives))
    params = param_paths(front)
    rows = [
        [r.trial_id, r.label, r is found.knee, r.epoch, r.seed, r.seconds]
        + [r.metrics.get(name) for name in metrics]
        + [r.params.get(path) for path in params]
        for r in front
    ]
    return Table(["trial_id", "label", "knee", "epoch", "seed", "seconds", *metrics, *params], rows)


def _front_json(found: Findings) -> dict[str, Any]:
    summary = found.summary
    info = summary.info
    return {
        "sweep": info.name,
        "benchmark": info.benchmark,
        "fingerprint": info.fingerprint,
        "objectives": info.objectives,
        "reference_point": info.reference_point,
        "hypervolume": summary.hypervolume,
        "trials": summary.counts,
        "anchors": summary.anchors,
        "knee": found.knee.trial_id if found.knee else None,
        "front": [record.model_dump(exclude={"state", "failure", "started"}) for record in summary.front],
        "confirmed": [
            {"trial_id": p.trial_id, "seeds": p.seeds, "mean": p.mean, "low": p.low, "high": p.high}
            | {"probability": p.probability}
            for p in found.confirmed
        ],
    }
