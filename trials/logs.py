"""Evaluation logs: what was measured of one model, row by row, and the models that others are compared with.

A log is what `unlearn-sweep evaluate` writes, what is kept of target and retain model, and what metrics of whole models
(forget quality, model utility, attacks) are computed from. `read_log` takes those of OpenUnlearning too.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trials import metrics
from trials.metrics import Answer, Seen

FORMAT = "unlearn-sweep evaluation 1"

Rows = NDArray[np.float64]
"""One value a row of a set, in its order; NaN where a row has none."""


class LogError(ValueError):
    """A file that is no evaluation log, or one that cannot be understood."""


@dataclass(frozen=True)
class EvalLog:
    """Metrics of one model on one benchmark.

    Attributes:
        values: `<set>.<metric>` or `<group>.<metric>` -> value.
        rows: Of those that are means over rows, the value of each row.
        about: What was measured: model, benchmark, digests, versions.
    """

    values: Mapping[str, float] = field(default_factory=dict)
    rows: Mapping[str, Rows] = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class References:
    """Logs of the models that a trial is compared with; None where there is none, and their metrics are then absent."""

    target: EvalLog | None = None
    retain: EvalLog | None = None


def write_log(path: Path, log: EvalLog) -> None:
    """Writes a log as JSON, the whole file or none; every number is read again as the same float.

    NaN is written as null, infinity as "inf" or "-inf".
    """
    text = json.dumps({"format": FORMAT, "about": dict(log.about), **_numbers(log)}, indent=1, allow_nan=False)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.part")
    with open(scratch, "w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, path)


def read_log(path: Path) -> EvalLog:
    """Reads a log that `write_log` wrote, or OpenUnlearning's `*_EVAL.json` or `*_SUMMARY.json` for TOFU or MUSE.

    What such a file holds of ours gets our names. Its extraction strength is `extraction_strength_openunlearning`.
    Its forget quality and PrivLeak are left out: they compare with a model that it does not name. So are, of a
    summary, the forget set's truth ratio, which may be either of two, and of both what it has and we have not.

    Raises:
        LogError: No such file, no JSON, no log, or one whose truth ratios may be either of two.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"), parse_int=float)
    except OSError as error:
        raise LogError(f"{path}: {error.strerror}; name an evaluation log") from error
    except (ValueError, RecursionError) as error:
        raise LogError(f"{path}: not a JSON file: {error}; name an evaluation log") from error
    try:
        if not isinstance(document, dict):
            raise LogError("a list or a single value, not an object; name an evaluation log")
        return _ours(document) if "format" in document else _openunlearning(document)
    except LogError as error:
        raise LogError(f"{path}: {error}") from error


def fingerprint_of(log: EvalLog) -> str:
    """Sixteen hex digits that name the values and rows of a log, whatever it is about and in whatever order."""
    return hashlib.sha256(json.dumps(_numbers(log), sort_keys=True).encode()).hexdigest()[:16]


# -- our format --------------------------------------------------------------------------------------------------------


def _numbers(log: EvalLog) -> dict[str, Any]:
    return {
        "values": {name: _written(value) for name, value in log.values.items()},
        "rows": {name: [_written(value) for value in row] for name, row in log.rows.items()},
    }


def _written(value: float) -> float | str | None:
    value = float(value)
    if math.isfinite(value):
        return value
    return None if math.isnan(value) else str(value)


def _ours(document: Mapping[str, Any]) -> EvalLog:
    if document["format"] != FORMAT:
        raise LogError(f"its format is {document['format']!r}, not {FORMAT!r}; evaluate the model again")
    values, rows, about = (_object(document.get(part, {}), part) for part in ("values", "rows", "about"))
    return EvalLog(
        {name: _read(value, f"values.{name}") for name, value in values.items()},
        {
            name: np.array([_read(value, f"rows.{name}") for value in _list(row, f"rows.{name}")])
            for name, row in rows.items()
        },
        {name: str(value) for name, value in about.items()},
    )


def _read(value: Any, where: str) -> float:
    if value is None:
        return math.nan
    if isinstance(value, float) or value in ("inf", "-inf"):
        return float(value)
    raise LogError(f"{where} is {value!r}, not a number or null; mend it or evaluate the model again")


def _object(value: Any, where: str) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise LogError(f"{where} is {value!r}, not an object; mend it or evaluate the model again")


def _list(value: Any, where: str) -> list[Any]:
    if isinstance(value, list):
        return value
    raise LogError(f"{where} is {value!r}, not a list; mend it or evaluate the model again")


# -- OpenUnlearning's --------------------------------------------------------------------------------------------------

_SETS = {"forget": "forget", "retain": "retain", "ra": "real_authors", "wf": "general"}
_PARTS = {"answer": "Q_A_Prob", "paraphrased": "Q_A_PARA_Prob", "perturbed": "Q_A_PERT_Prob"}
_MEANS = {
    "Q_A_Prob": "probability",
    "Q_A_PARA_Prob": "probability_paraphrased",
    "Q_A_PERT_Prob": "probability_perturbed",
    "Q_A_Prob_normalised": "probability_normalised",
    "Q_A_ROUGE": "rouge_l_recall",
}
_SPOKEN = {
    **{f"{theirs}_Q_A_ROUGE": ours for theirs, ours in _SETS.items()},
    "forget_verbmem_ROUGE": "verbmem",
    "forget_knowmem_ROUGE": "forget_knowmem",
    "retain_knowmem_ROUGE": "retain_knowmem",
}
_ROUGE = {"rouge1_recall": "rouge1_recall", "rougeL_recall": "rouge_l_recall", "rougeL_f1": "rouge_l_f1"}
_SAID = {"extraction_strength": "extraction_strength_openunlearning", "exact_memorization": "exact_memorization"}
_ATTACKS = {
    "mia_loss": "loss",
    "mia_zlib": "zlib_ratio",
    "mia_min_k": "min_k",
    "mia_min_k_plus_plus": "min_k_plus_plus",
    "mia_reference": "reference",
    "mia_gradnorm": "gradient_norm",
}
_FROM_LOSSES: tuple[tuple[set[str], Callable[[Seen], float | None]], ...] = (
    ({"answer"}, metrics.probability),
    ({"answer"}, metrics.nll),
    ({"paraphrased"}, metrics.probability_paraphrased),
    ({"perturbed"}, metrics.probability_perturbed),
    ({"answer", "perturbed"}, metrics.probability_normalised),
)
_TRUTH_RATIOS = (metrics.wrong_over_right, metrics.truth_ratio, metrics.truth_preference, metrics.truthfulness)

_Column = list[float | None]
"""One value a row; None where a row has none."""


def _openunlearning(logged: Mapping[str, Any]) -> EvalLog:
    columns: dict[str, _Column] = {}
    for theirs, ours in _SETS.items():
        columns |= {f"{ours}.{name}": column for name, column in _likelihoods(logged, theirs).items()}
    for entry, rows in _SPOKEN.items():
        columns |= {f"{rows}.{ours}": _means(_cells(logged, entry, theirs)) for theirs, ours in _ROUGE.items()}
    said = "verbmem" if "forget_verbmem_ROUGE" in logged else "forget"  # what MUSE and TOFU take them on
    columns |= {f"{said}.{ours}": _means(_cells(logged, entry)) for entry, ours in _SAID.items()}
    for entry, attack in _ATTACKS.items():
        if isinstance(sides := logged.get(entry), dict):
            columns[f"members.{attack}"] = _means(_cells(sides, "forget"))
            columns[f"nonmembers.{attack}"] = _means(_cells(sides, "holdout"))
    values = {ours: value for theirs, ours in _names(said).items() if (value := _total(logged, theirs)) is not None}
    rows_of = {}
    for name, column in columns.items():
        if there := [value for value in column if value is not None]:
            values[name] = float(np.mean(there))
            rows_of[name] = np.array([math.nan if value is None else value for value in column])
    if not values:
        raise LogError(f"neither a `format` of {FORMAT!r} nor any metric of OpenUnlearning; name an evaluation log")
    return EvalLog(values, rows_of, {"from": "OpenUnlearning"})


def _names(said: str) -> dict[str, str]:
    """Their name of a value -> ours, `said` being the set that extraction strength is of."""
    tofu = {f"{t}_{name}": f"{o}.{own}" for t, o in _SETS.items() for name, own in _MEANS.items()}
    truth = {f"{theirs}_Truth_Ratio": f"{_SETS[theirs]}.truthfulness" for theirs in ("retain", "ra", "wf")}
    muse = {entry: f"{rows}.rouge_l_f1" for entry, rows in _SPOKEN.items() if "mem" in entry}
    others = {entry: f"{said}.{own}" for entry, own in _SAID.items()} | {"model_utility": "tofu.model_utility"}
    return tofu | truth | muse | others | {entry: f"privacy.{attack}" for entry, attack in _ATTACKS.items()}


def _likelihoods(logged: Mapping[str, Any], theirs: str) -> dict[str, _Column]:
    """What follows from the losses of one set, by our own formulas; else the ratios that are logged."""
    cells = {part: found for part, name in _PARTS.items() if (found := _cells(logged, f"{theirs}_{name}", "avg_loss"))}
    if len({frozenset(found) for found in cells.values()}) > 1:
        raise LogError(f"its `{theirs}_Q_A_*_Prob` entries are not of the same rows; evaluate the model again")
    right = "answer" if theirs in ("ra", "wf") else "paraphrased"
    functions = (*_FROM_LOSSES, *(({right, "perturbed"}, ratio) for ratio in _TRUTH_RATIOS))
    columns: dict[str, _Column] = {function.__name__: [] for _, function in functions}
    for index in next(iter(cells.values()), ()):
        losses = {part: found[index] for part, found in cells.items() if found[index]}
        seen = Seen(
            answer=_answer(losses.get("answer", [math.nan])),  # NaN is looked at by nothing
            paraphrased=_answer(losses["paraphrased"]) if "paraphrased" in losses else None,
            perturbed=tuple(_answer([loss]) for loss in losses.get("perturbed", ())),
        )
        for needed, function in functions:
            columns[function.__name__].append(function(seen) if losses.keys() >= needed else None)
    if all(value is None for value in columns["wrong_over_right"]):
        columns["wrong_over_right"] = _logged_ratios(logged, theirs, right)
    return columns


def _logged_ratios(logged: Mapping[str, Any], theirs: str, right: str) -> _Column:
    """The rows of a truth ratio, where the losses that it was computed from are not there."""
    name = f"{theirs}_truth_ratio" if theirs == "forget" else f"{theirs}_Truth_Ratio"
    column, total = _means(_cells(logged, name)), _total(logged, name)
    there = [value for value in column if value is not None]
    if there and max(there) <= 1 and (total is None or math.isclose(total, np.mean(there), rel_tol=1e-6)):
        raise LogError(
            f"the rows of `{name}` may be wrong/right or, by its aggregator prob_mean, right/(right + wrong); give a "
            f"file that has {theirs}_{_PARTS[right]} and {theirs}_{_PARTS['perturbed']} as well"
        )
    return column


def _answer(losses: Sequence[float]) -> Answer:
    """An answer, or several of one row, of which only the mean cross-entropy is known."""
    ce = np.array(losses)
    return Answer(ce, np.zeros(len(ce), dtype=bool))


def _cells(logged: Mapping[str, Any], entry: str, key: str = "score") -> dict[str, list[float]]:
    """Index of a row -> its numbers, one an answer; nothing where there are no rows."""
    found = logged.get(entry)
    rows = found.get("value_by_index") if isinstance(found, dict) else None
    cells = {}
    for index, row in _object(rows or {}, entry).items():
        value = None if row is None else _object(row, f"`{entry}` of row {index}").get(key)
        several = value if isinstance(value, list) else [] if value is None else [value]
        cells[index] = [_read(each, f"`{entry}` of row {index}") for each in several]
    return cells


def _means(cells: Mapping[str, Sequence[float]]) -> _Column:
    return [float(np.mean(several)) if several else None for several in cells.values()]


def _total(logged: Mapping[str, Any], entry: str) -> float | None:
    """The value of a metric, in either kind of file; None where there is none."""
    found = logged.get(entry)
    value = found.get("agg_value", found.get("auc")) if isinstance(found, dict) else found
    return None if value is None else _read(value, f"`{entry}`")


def mismatch(log: EvalLog, about: Mapping[str, str]) -> str:
    """What makes a log one of something else than `about` says: other rows, another prompt; "" if nothing does."""
    for name in ("data", "prompt", "hide_pad"):
        if name in about and log.about.get(name, about[name]) != about[name]:
            there, here = (f"{each[name]!r} ({each.get('benchmark', '?')})" for each in (log.about, about))
            return f"the log was taken with another {name}, {there}, here {here}"
    return ""
