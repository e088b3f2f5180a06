"""The report of a sweep: front.csv, front.json, report.md, report.html and figures, from a run folder alone.

Nothing but sweep.json and ledger.jsonl is read, so a report can be made anywhere, at any time, also while the
sweep runs. The same records give the same bytes: no clock, no machine and no network goes in. Every number is
computed here from the records; the words claim no more than one sweep with one seed a trial can show.
"""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from types import MappingProxyType
from typing import Any

from orchestrator import figures, sections, weight_profiles
from orchestrator.document import body, markdown
from orchestrator.events import Record, SweepInfo
from orchestrator.front import Summary, metric_names, param_paths, summarise
from orchestrator.ledger import read_events, write_atomically
from orchestrator.weight_figures import criteria_png


@dataclass(frozen=True)
class Report:
    """What a report found.

    Attributes:
        front: The non-dominated trials, best first objective first.
        knee: The trial of the front that gives up least; None where no trial has reached its full budget.
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
    pictures = {
        "figures/front.png": figures.front_png(summary),
        "figures/hypervolume.png": figures.hypervolume_png(summary),
    }
    chosen = weight_profiles.of_each_criterion(summary, weight_profiles.histories(events))
    weights = [history for history, _ in chosen]
    if weights:
        pictures["figures/weights.png"] = criteria_png(weights)
    blocks = sections.blocks(summary, pictures, links, weight_profiles.section(chosen, pictures))
    page = Template(Path(__file__).with_name("report.html").read_text(encoding="utf-8"))
    title = html.escape(f"Sweep {summary.info.name}")
    texts = {
        "front.csv": _front_csv(summary),
        "front.json": json.dumps(_front_json(summary), indent=2, ensure_ascii=False) + "\n",
        "figures/front.csv": _figure_csv(summary),
        "figures/hypervolume.csv": _history_csv(summary),
        **({"figures/weights.csv": weight_profiles.weights_csv(weights)} if weights else {}),
        "report.md": markdown(blocks),
        "report.html": page.substitute(title=title, body=body(blocks)),
    }
    (folder / "figures").mkdir(exist_ok=True)
    for name, png in pictures.items():
        (folder / name).write_bytes(png)
    for name, text in texts.items():
        write_atomically(folder / name, text)
    return Report(
        front=summary.front,
        knee=summary.knee,
        hypervolume=summary.hypervolume,
        counts=summary.counts,
        failures=summary.failures,
        files=[folder / name for name in [*texts, *pictures]],
    )


def _front_csv(summary: Summary) -> str:
    """One line a trial of the front: objectives, other metrics, params by path; blank where there is none."""
    metrics = weight_profiles.tabled(metric_names(summary.front, summary.info.objectives))
    params = param_paths(summary.front)
    rows = [
        [r.trial_id, r.label, r is summary.knee, r.epoch, r.seed, r.seconds]
        + [r.metrics.get(name) for name in metrics]
        + [r.params.get(path) for path in params]
        for r in summary.front
    ]
    return _csv(["trial_id", "label", "knee", "epoch", "seed", "seconds", *metrics, *params], rows)


def _front_json(summary: Summary) -> dict[str, Any]:
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
        "knee": summary.knee.trial_id if summary.knee else None,
        "front": [record.model_dump(exclude={"state", "failure", "started"}) for record in summary.front],
    }


def _figure_csv(summary: Summary) -> str:
    header = ["name", "group", "label", "letter", "knee", "ended", *summary.info.objectives]
    points = figures.points_of(summary)
    return _csv(header, [[p.name, p.group, p.label, p.letter, p.knee, p.order, *p.values] for p in points])


def _history_csv(summary: Summary) -> str:
    rows = [
        [ended, record.trial_id, record.label, record.state, volume]
        for ended, (record, volume) in enumerate(zip(summary.records, summary.history, strict=True), start=1)
    ]
    return _csv(["ended", "trial_id", "label", "state", "hypervolume"], rows)


def _csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([str(c).lower() if isinstance(c, bool) else c for c in row] for row in rows)
    return buffer.getvalue()
