"""What was measured of a model, for people: intervals of means, tables, and why a metric is not there."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import get_args

import numpy as np
from rich.table import Table

from orchestrator.report.document import number
from trials.logs import EvalLog, References
from trials.naming import rows_of
from trials.registry import (
    AS_RETAIN,
    ATTACKED,
    CHOICES,
    CONTINUED,
    HIGHER,
    LOWER,
    MEMORISED,
    METRICS,
    ROWS,
    SURPRISED,
    Change,
    ChangedMetric,
    LogMetric,
    RowMetric,
    Similarity,
)

RESAMPLES = 2000

Interval = tuple[float, float]

_FORGOTTEN = ("forget", "verbmem", "forget_knowmem", *CHOICES[:-1])
_KEPT = ("retain", "general", "real_authors", "retain_knowmem", CHOICES[-1])
_FAMILIES = (ROWS, CONTINUED, CHOICES, ATTACKED, get_args(Change))
_PARTS = {
    "paraphrased": "a paraphrased answer",
    "perturbed": "wrong answers",
    "rephrased": "a paraphrased question",
    "satimp": "a question",
    "generated": "a question to answer",
}


def intervals(log: EvalLog) -> dict[str, Interval]:
    """95 % intervals of the means over rows: name -> (low, high).

    The percentile bootstrap: the rows are drawn again, with replacement, `RESAMPLES` times by a seed of its own. It
    tells how much of a mean hangs on which rows happen to be asked, not what another training seed would give.
    Metrics that are not means over rows have none, nor have means of what is not finite or the same in all rows.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3.
    """
    found = {}
    for name, values in log.rows.items():
        there = values[~np.isnan(values)]
        if len(set(there)) > 1 and math.isfinite(log.values.get(name, math.nan)):
            draws = np.random.default_rng(0)
            means = [there[draws.integers(len(there), size=len(there))].mean() for _ in range(RESAMPLES)]
            low, high = np.percentile(means, (2.5, 97.5))
            found[name] = (float(low), float(high))
    return found


def words(interval: Interval) -> str:
    """An interval in three significant digits."""
    return f"{interval[0]:.3g} to {interval[1]:.3g}"


def direction(name: str) -> str:
    """Which way a metric is better: of memory, by whether its set is to be forgotten or kept."""
    metric = METRICS[name]
    rows = (metric.of if isinstance(metric, ChangedMetric) else name).partition(".")[0]
    if metric.better not in (MEMORISED, SURPRISED):
        return metric.better
    if rows not in (*_FORGOTTEN, *_KEPT):
        return AS_RETAIN
    return LOWER if (rows in _FORGOTTEN) == (metric.better == MEMORISED) else HIGHER


# -- tables ------------------------------------------------------------------------------------------------------------


def tables(log: EvalLog, names: Collection[str]) -> Iterator[Table]:
    """Metrics side by side: one of means over rows has a column a set, what is of the whole model has a line a name."""
    there = [name for name in names if name in log.values]
    bounds = intervals(EvalLog(log.values, {name: log.rows[name] for name in there if name in log.rows}))
    rest = list(there)
    for family in _FAMILIES:
        mine = [name for name in rest if name.partition(".")[0] in family]
        rest = [name for name in rest if name not in mine]
        sets = [rows for rows in family if any(name.startswith(f"{rows}.") for name in mine)]
        metrics = dict.fromkeys(name.partition(".")[2] for name in mine)
        if metrics:
            below = "below each: 95 % interval, bootstrap over rows" if bounds.keys() & set(mine) else None
            table = Table("mean over rows", caption=below)
            for rows in sets:
                table.add_column(rows, justify="right")
            for metric in metrics:
                cells = (_cell(f"{rows}.{metric}", log.values, bounds) for rows in sets)
                table.add_row(metric, *cells)
            yield table
    if rest:
        table = Table("of the whole model")
        table.add_column("value", justify="right")
        table.add_column("better")
        for name in rest:
            table.add_row(name, number(log.values[name]), direction(name))
        yield table


def _cell(name: str, values: Mapping[str, float], bounds: Mapping[str, Interval]) -> str:
    below = f"\n[dim]{words(bounds[name])}[/dim]" if name in bounds else ""
    return f"{number(values[name])}{below}" if name in values else ""


# -- what is not there -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Given:
    """What an evaluation had.

    Attributes:
        sets: Names of the benchmark's sets.
        references: Logs of the target and the retain model.
        models: Which of these models' weights were at hand, `target` or `retain`.
    """

    sets: Collection[str]
    references: References
    models: Collection[str]


def absences(log: EvalLog, names: Iterable[str], given: Given) -> dict[str, list[str]]:
    """Why metrics that were asked for are not in a log: reason -> their names."""
    found: dict[str, list[str]] = {}
    for name in names:
        if name not in log.values:
            known = not isinstance(METRICS[name], RowMetric) or rows_of(name) <= set(given.sets)
            reason = _reason(log, name, given) if known else "the benchmark has no such set"
            found.setdefault(reason, []).append(name)
    return found


def _reason(log: EvalLog, name: str, given: Given) -> str:
    metric = METRICS[name]
    if isinstance(metric, ChangedMetric):
        return _reason(log, metric.of, given)
    if isinstance(metric, LogMetric):
        return _reason_of_log_metric(log, metric, given)
    if missing := rows_of(name) - set(given.sets):
        return f"the benchmark has no {missing.pop()} set"
    if isinstance(metric, Similarity) and metric.to == "target":
        return "it is compared with the target model's weights, which a sweep alone knows"
    if isinstance(metric, Similarity) or "reference_loss" in metric.sees:
        return "it looks into the retain model; give its folder by --set model.retain_path=DIR"
    parts = " or ".join(_PARTS[part] for part in metric.sees if part in _PARTS)
    return f"no row of its set has {parts or 'enough tokens'}"


def _reason_of_log_metric(log: EvalLog, metric: LogMetric, given: Given) -> str:
    for name in metric.inputs:
        if name not in log.values:
            return _reason(log, name, given)
    for which in metric.reference:
        reference = getattr(given.references, which)
        if reference is None:
            return f"it is compared with the {which} model's log; give it by --{which}-log FILE"
        if missing := [name for name in metric.inputs if name not in reference.values]:
            return f"the log of the {which} model lacks {', '.join(missing)}; measure it there too"
    return "nothing can be computed from what was measured"


def lines(found: Mapping[str, Collection[str]]) -> Iterator[str]:
    """Absences as text, a line a reason."""
    for reason, names in found.items():
        shown, more = list(names)[:4], len(names) - 4
        yield f"absent: {', '.join(shown)}{f' and {more} more' if more > 0 else ''}: {reason}"
