"""What a report says beside target and retain model: where unlearning starts, where it goes too far, other metrics.

The two models stand below the trials: a metric has no scale of its own, and between a model that knows the forget set
and one that never saw it a reader sees what is good.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from orchestrator.events import Record
from orchestrator.report.document import Block, Cell, Heading, Paragraph, Table, number
from orchestrator.report.phrasing import some
from orchestrator.report.weight_profiles import tabled
from orchestrator.results.findings import Findings
from orchestrator.results.front import Summary, metric_names
from trials.registry import METRICS

WIDE = 8
"""Metrics that a table may have and still be read."""

LITTLE = 0.2  # extraction strength under which a target model can hardly be said to have memorised its forget set
_NLL = "forget.nll"

ROWS = 40
"""Trials of a table on a page; the file of the table has them all."""


def name_of(record: Record, found: Findings) -> str:
    """A trial in a table: its id, and what a reader must know of it."""
    marks = ["knee"] if record is found.knee else []
    marks += ["over-forgotten"] if record.trial_id in found.over_forgotten else []
    return f"{record.trial_id}\N{NO-BREAK SPACE}({', '.join(marks)})" if marks else record.trial_id


def before(summary: Summary) -> list[Block]:
    """Where unlearning starts from, and what a model that never saw the forget set has."""
    if not summary.anchors:
        return []
    wanted = dict.fromkeys([*summary.info.objectives, _NLL, "retain.nll"])
    names = [name for name in wanted if any(name in metrics for metrics in summary.anchors.values())]
    rows: list[list[Cell]] = [
        [f"{which} model", *map(metrics.get, names)] for which, metrics in summary.anchors.items()
    ]
    found: list[Block] = [Heading("Before unlearning"), Table(["model", *names], rows)]
    known = summary.anchors.get("target", {}).get("forget.extraction_strength", 1.0)
    if known < LITTLE:
        said = (
            f"The target model's forget.extraction_strength is {number(known)}: it has little to forget, and this sweep"
        )
        found.append(Paragraph((f"{said} can tell little. Was it trained on the forget set, with this prompt?",)))
    return found


def over_forgetting(summary: Summary) -> list[Block]:
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
        nll = name == _NLL
        if name not in retain or not (nll or (name in objectives and name.startswith("forget."))):
            continue
        side = "above" if nll else "below"
        signed = [((r.metrics.get(name, retain[name]) - retain[name]) * (1 if nll else -1), r) for r in summary.front]
        beyond = some([record.trial_id for excess, record in signed if excess > 0], most=12)
        gold = f"the retain model's own {name} of {number(retain[name])}"
        meaning = (
            "over-forgotten: the forget set is less likely to them than to a model that never saw it"
            if nll
            else "below a model that never saw the forget set nothing can be told from noise"
        )
        said = f"Trials of the front {side} {gold}: {beyond or 'none'} ({meaning})."
        others = [r.trial_id for r in summary.candidates if nll and r.label and r.metrics.get(name, 0) > retain[name]]
        if rest := [trial_id for trial_id in others if trial_id not in {r.trial_id for r in summary.front}]:
            said += f" Of the published settings: {some(rest)}."
        found.append(Paragraph((said,)))
    return [Heading("Over-forgetting"), *found] if found else []


def other_metrics(found: Findings) -> list[Block]:
    """Who could not be measured again, then what is no objective: one table, or some for each part before the dot."""
    summary = found.summary
    names = tabled(metric_names(summary.front, summary.info.objectives)[len(summary.info.objectives) :])
    blocks: list[Block] = []
    if summary.unmeasured:
        failed = Paragraph(("These trials could not be measured further; resuming the sweep tries again.",))
        blocks += [failed, Table(["trial", "why"], list(summary.unmeasured.items()))]
    if any(name in metrics for metrics in summary.anchors.values() for name in names):
        below = "Below the front stand published settings, then the models that trials are judged by."
        blocks.append(Paragraph((below,)))
    blocks += [_table(found, names)] if 0 < len(names) <= WIDE else _by_group(found, names)
    return [Heading("Other metrics of the front"), *blocks] if blocks else []


def _by_group(found: Findings, names: Iterable[str]) -> list[Block]:
    """A heading for each part before the dot, and below it tables whose columns are called by what comes after."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.partition(".")[0], []).append(name)
    order = list(dict.fromkeys(name.partition(".")[0] for name in [*METRICS, *names]))
    blocks: list[Block] = []
    for group in sorted(groups, key=order.index):
        blocks.append(Heading(f"{group}.*", 3))
        blocks += [_table(found, some_names, cut=len(group) + 1) for some_names in _shared_out(groups[group])]
    return blocks


def _shared_out(names: Sequence[str]) -> list[Sequence[str]]:
    """Names for as few tables as may be, as many in each."""
    size = -(-len(names) // -(-len(names) // WIDE))
    return [names[start : start + size] for start in range(0, len(names), size)]


def _table(found: Findings, names: Sequence[str], cut: int = 0) -> Table:
    summary = found.summary
    beside = [record for record in summary.candidates if record.label and record not in summary.front]
    rows = [[name_of(record, found), *map(record.metrics.get, names)] for record in summary.front[:ROWS]]
    rows += [[f"{record.trial_id} ({record.label})", *map(record.metrics.get, names)] for record in beside]
    rows += [
        [f"{which} model", *map(metrics.get, names)]
        for which, metrics in summary.anchors.items()
        if metrics.keys() & set(names)
    ]
    return Table(["trial", *(name[cut:] for name in names)], rows)
