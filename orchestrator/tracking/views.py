"""Where links into the MLflow UI lead: saved views of a sweep's trials, with the columns that its question needs.

The UI keeps the columns of its table in the browser, so a store cannot choose them for a first visit. What it can hold
are saved views: a tag of the experiment for each, in the form that the UI itself writes. They stand in its menu of
saved views, and a link opens one of them.
"""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Mapping
from typing import Any

from orchestrator.events import SweepInfo
from orchestrator.tracking.client import charted, metric_key, milliseconds, sweep_tag
from search_spaces.space import get_path

TRAINING = {"workflowType": "machine_learning"}
"""The UI opens on its pages for language model applications unless told that these are training runs."""
_VIEW = "mlflow.sharedViewState."
_TAGS = {"front": 70, "state": 110, "baseline": 120, "method": 110, "epoch": 75, "seed": 70}
_METRIC = 115
"""Width of a column in pixels, by tag; of a metric's."""


def views_of(info: SweepInfo) -> dict[str, str]:
    """Tags of the experiment: the saved views of a sweep."""
    tags = {}
    for view, search in _searches(info).items():
        at = milliseconds(info.created)
        state = json.dumps(_state(info, view, search))
        saved = {"name": f"{info.name}: {view}", "createdAt": at, "updatedAt": at, "state": state}
        tags[_VIEW + view_key(info, view)] = json.dumps(saved)
    return tags


def view_key(info: SweepInfo, view: str) -> str:
    """What a link to a view of a sweep names it by."""
    return metric_key(f"{sweep_tag(info)}-{view}")


def view_query(info: SweepInfo, view: str, mode: str) -> str:
    """Query of the runs page that opens a view: `mode` is TABLE or CHART."""
    return query({"viewStateShareKey": view_key(info, view), "compareRunsMode": mode} | TRAINING)


def query(values: Mapping[str, str]) -> str:
    """Names and values as a URL has them."""
    return urllib.parse.urlencode(values, quote_via=urllib.parse.quote)


def has_seeds(info: SweepInfo) -> bool:
    """Whether some points of a sweep are run with several seeds."""
    phases = [info.config, *(info.config.get("phases") or ())]
    return bool(info.config.get("confirm")) or any((get_path(phase, "replicates") or 1) > 1 for phase in phases)


def _searches(info: SweepInfo) -> dict[str, str]:
    """Name of a view -> filter of its runs: points with the models beside them, the front, seeds of points."""
    own = f"tags.sweep = '{sweep_tag(info)}'"
    views = {"trials": f"{own} AND tags.of = 'none'", "front": f"{own} AND tags.front = 'true'"}
    return views | ({"seeds": f"{own} AND tags.of != 'none'"} if has_seeds(info) else {})


def _state(info: SweepInfo, view: str, search: str) -> dict[str, Any]:
    """What the UI keeps of a page of runs; what is left out here has its defaults."""
    objectives = [charted(name) for name in info.objectives]
    metrics = [_column("metrics", name) for name in objectives]
    if has_seeds(info) and view != "seeds":
        seeds = "confirmed" if info.config.get("confirm") else "replicates"
        metrics += [_column("metrics", f"{seeds}.{name}.mean") for name in info.objectives]
    widths = dict.fromkeys(metrics, _METRIC) | {_column("tags", tag): width for tag, width in _TAGS.items()}
    state: dict[str, Any] = {
        "searchFilter": search,
        "orderByKey": metrics[0],
        "orderByAsc": next(iter(info.objectives.values())) == "min",
        "selectedColumns": list(widths),
        "columnOrder": list(widths),
        "columnWidths": widths,
        "runsHiddenMode": "SHOW_ALL" if view == "front" else "FIRST_20_RUNS",
    }
    if view == "seeds":
        state["groupBy"] = {"aggregateFunction": "average", "groupByKeys": [{"mode": "tag", "groupByData": "of"}]}
    if len(objectives) > 1:
        x, y = ({"key": name, "type": "METRIC"} for name in objectives[:2])
        chart: dict[str, Any] = {
            "type": "SCATTER",
            "uuid": "objectives",
            "metricSectionId": "objectives",
            "xaxis": x,
            "yaxis": y,
        }
        chart |= {"runsCountToCompare": 100, "deleted": False, "isGenerated": False}
        state["compareRunCharts"] = [chart]
        section = {"uuid": "objectives", "name": "objectives", "display": True, "isReordered": True}
        state |= {"compareRunSections": [section], "isAccordionReordered": True}
    return state


def _column(kind: str, name: str) -> str:
    return f"{kind}.`{metric_key(name)}`"
