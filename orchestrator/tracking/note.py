"""The description of a sweep's run in MLflow: Markdown, as the page of the run and the experiment's table show it."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from orchestrator.events import Record
from orchestrator.redaction import redacted
from orchestrator.report.document import number
from orchestrator.report.markdown import table
from orchestrator.report.phrasing import count, duration, enumerated, estimate, reference, setting_words
from orchestrator.results.choices import recommended
from orchestrator.results.evidence import Confirmed
from orchestrator.results.front import Summary
from orchestrator.tracking.views import view_query

_ROWS, _LONGEST, _SETTINGS = 10, 4800, 120
_PICTURE = "figures/front.png"
_STATES = {"COMPLETE": "complete", "PRUNED": "stopped early", "FAIL": "failed"}
_OURS = "*Written by unlearn-sweep each time it sends the sweep's end. Without this line, the text stays as it is.*"


def experiment_note(benchmark: str) -> str:
    """The description of the experiment, which is all sweeps on a benchmark."""
    return (
        f"Sweeps on {benchmark}, made by unlearn-sweep: a run for each sweep, and below it one for each trial and for "
        "target and retain model. The menu of saved views, beside the title, opens the trials of one sweep in a table, "
        "best first objective first. To filter: `tags.front = 'true'`, `tags.state = 'COMPLETE'`, "
        "`tags.method = 'satimp'`, `tags.baseline != 'none'`, `tags.origin = 'confirm'`."
    )


def sweep_note(summary: Summary, points: Sequence[Confirmed], place: tuple[str, str], *, picture: bool) -> str:
    """What came out so far.

    Args:
        summary: The sweep.
        points: Its points of which several seeds are complete.
        place: Ids of the experiment and of the sweep's run, which links lead to.
        picture: Whether the run has the figure of the front among its artifacts.
    """
    experiment, run = place
    info = summary.info
    goals = enumerated([f"{direction} {name}" for name, direction in info.objectives.items()])
    trials = count(len(summary.records), "trial", "trials")
    states = ", ".join(f"{ended} {_STATES[state]}" for state, ended in summary.counts.items() if ended)
    runs = f"#/experiments/{experiment}/runs"
    links = [
        f"[Report]({runs}/{run}/artifacts/report.html)",
        *(f"[{title}]({runs}?{view_query(info, view, mode)})" for title, view, mode in _LINKS),
    ]
    paragraphs = [
        str(info.config.get("description") or "").strip(),
        f"Objectives: {goals}. Hypervolume {number(summary.hypervolume)} against {reference(summary)}.",
        f"{trials} ended ({states}); " * bool(summary.records) + _cost(summary),
        f"![The front](get-artifact?path={quote(_PICTURE, safe='')}&run_uuid={run})" if picture else "",
        "\n".join(_front(summary, points)),
        " · ".join(links),
    ]
    return redacted("\n\n".join(filter(None, paragraphs)))[:_LONGEST] + f"\n\n{_OURS}"


def is_ours(note: str | None) -> bool:
    """Whether a description may be written anew: there is none, or we wrote it."""
    return not note or _OURS in note


_LINKS = (("All trials", "trials", "TABLE"), ("Charts by epoch", "trials", "CHART"), ("Front", "front", "TABLE"))


def _cost(summary: Summary) -> str:
    saved = f" ({summary.epochs_saved} saved by stopping early)" if summary.epochs_saved else ""
    return (
        f"{count(summary.epochs_spent, 'epoch', 'epochs')}{saved}, {duration(summary.seconds)} of the trials' own time."
    )


def _front(summary: Summary, points: Sequence[Confirmed]) -> list[str]:
    """The front as a table, and what is not in it."""
    if not summary.front:
        return ["No trial is on the front yet."]
    objectives = list(summary.info.objectives)
    seeds = {point.trial_id: point for point in points}
    knee = recommended(summary, points)
    shown = summary.front[:_ROWS]
    header = ["trial", *objectives, "settings"]
    rows = [[_name(record, knee), *_values(record, objectives, seeds), _settings(record)] for record in shown]
    lines = table(header, rows)
    left = len(summary.front) - len(shown)
    notes = [f"{left} more on the front."] * bool(left)
    notes += ["In brackets: 95 % interval of the mean over seeds."] * any(r.trial_id in seeds for r in shown)
    return [*lines, "", *notes]


def _name(record: Record, knee: Record | None) -> str:
    words = [record.trial_id, record.label or "", "(knee)" if record is knee else ""]
    return " ".join(filter(None, words))


def _values(record: Record, objectives: Sequence[str], seeds: dict[str, Confirmed]) -> list[str]:
    point = seeds.get(record.trial_id)
    return [str(estimate(point, name)) if point else number(record.metrics[name]) for name in objectives]


def _settings(record: Record) -> str:
    words = setting_words(record.params)
    return words if len(words) <= _SETTINGS else f"{words[:_SETTINGS]}…"
