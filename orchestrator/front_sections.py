"""What a report says of the front beyond its objectives: all else that was measured, in tables that can be read.

The target and the retain model stand below the trials: a metric has no scale of its own, and between a model that knows
the forget set and one that never saw it a reader sees what is good.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from orchestrator.document import Block, Heading, Paragraph, Table
from orchestrator.events import Record
from orchestrator.front import Summary, metric_names
from orchestrator.weight_profiles import tabled
from trials.registry import METRICS

WIDE = 8
"""Metrics that a table may have and still be read."""


def name_of(record: Record, summary: Summary) -> str:
    """A trial in a table: its id, and whether it is the knee."""
    return f"{record.trial_id}\N{NO-BREAK SPACE}(knee)" if record is summary.knee else record.trial_id


def other_metrics(summary: Summary) -> list[Block]:
    """Who could not be measured again, then what is no objective: one table, or some for each part before the dot."""
    names = tabled(metric_names(summary.front, summary.info.objectives)[len(summary.info.objectives) :])
    found: list[Block] = []
    if summary.unmeasured:
        failed = Paragraph(("These trials could not be measured further; resuming the sweep tries again.",))
        found += [failed, Table(["trial", "why"], list(summary.unmeasured.items()))]
    if any(name in metrics for metrics in summary.anchors.values() for name in names):
        below = "Below the front stand published settings, then the models that trials are judged by."
        found.append(Paragraph((below,)))
    found += [_table(summary, names)] if 0 < len(names) <= WIDE else _by_group(summary, names)
    return [Heading("Other metrics of the front"), *found] if found else []


def _by_group(summary: Summary, names: Iterable[str]) -> list[Block]:
    """A heading for each part before the dot, and below it tables whose columns are called by what comes after."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.partition(".")[0], []).append(name)
    order = list(dict.fromkeys(name.partition(".")[0] for name in [*METRICS, *names]))
    found: list[Block] = []
    for group in sorted(groups, key=order.index):
        found.append(Heading(f"{group}.*", 3))
        found += [_table(summary, some, cut=len(group) + 1) for some in _shared_out(groups[group])]
    return found


def _shared_out(names: Sequence[str]) -> list[Sequence[str]]:
    """Names for as few tables as may be, as many in each."""
    size = -(-len(names) // -(-len(names) // WIDE))
    return [names[start : start + size] for start in range(0, len(names), size)]


def _table(summary: Summary, names: Sequence[str], cut: int = 0) -> Table:
    beside = [record for record in summary.candidates if record.label and record not in summary.front]
    rows = [[name_of(record, summary), *map(record.metrics.get, names)] for record in summary.front]
    rows += [[f"{record.trial_id} ({record.label})", *map(record.metrics.get, names)] for record in beside]
    rows += [
        [f"{which} model", *map(metrics.get, names)]
        for which, metrics in summary.anchors.items()
        if metrics.keys() & set(names)
    ]
    return Table(["trial", *(name[cut:] for name in names)], rows)
