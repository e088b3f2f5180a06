"""Curves as files: read from run folders, or from one parquet file; written as one.

A parquet file has a row an epoch: configuration, label, seed, epoch, seconds, state, failure, params as JSON, and each
metric to seven digits; a trial that failed before its first epoch has a row with epoch 0. Where the curves come from
stands in the metadata of its schema.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from orchestrator.events import Anchor, Ended, Epoch, Event, Suggested, SweepInfo
from orchestrator.ledger import read_events
from orchestrator.problems import ConfigError, Problem, require_run_folder
from orchestrator.rehearsal.curves import Curve, Curves, Recording, portable, settings_key
from trials.registry import METRICS

_META = b"unlearn_sweep"
_COLUMNS = ("configuration", "label", "seed", "epoch", "seconds", "state", "failure", "params")


def read_curves(*paths: Path) -> Curves:
    """Curves of one file, or of one or several run folders of the same space, each with a seed or more.

    Raises:
        ConfigError: Neither, or the folders do not belong together, or no trial ran to its full budget.
    """
    if len(paths) == 1 and paths[0].suffix == ".parquet":
        return Curves(*_read_parquet(paths[0]))
    return Curves(*_read_folders(paths))


def write_curves(curves: Curves, path: Path) -> None:
    """Writes one parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    metrics = sorted(curves.metrics)
    rows: dict[str, list[Any]] = {name: [] for name in (*_COLUMNS, *metrics)}
    for curve in curves.curves:
        own = [curve.configuration, curve.label, curve.seed]
        end = ["FAIL" if curve.failure else "COMPLETE", curve.failure, json.dumps(curve.params)]
        epochs = list(zip(range(1, len(curve.seconds) + 1), curve.seconds, curve.metrics, strict=True))
        for epoch, seconds, values in epochs or [(0, 0.0, {})]:
            for name, value in zip(_COLUMNS, [*own, epoch, seconds, *end], strict=True):
                rows[name].append(value)
            for name in metrics:
                rows[name].append(values.get(name))
    kinds = (pa.int32(), pa.string(), pa.int64(), pa.int32(), pa.float32(), pa.string(), pa.string(), pa.string())
    fields = [pa.field(name, kind) for name, kind in zip(_COLUMNS, kinds, strict=True)]
    fields += [pa.field(name, pa.float32()) for name in metrics]
    schema = pa.schema(fields, metadata={_META: json.dumps(curves.recording.__dict__).encode()})
    pq.write_table(pa.table(rows, schema=schema), path, compression="zstd", compression_level=19)


def _read_parquet(path: Path) -> tuple[Recording, list[Curve]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        why = f"not readable as a file of curves ({error}); give one, or a run folder"
        raise ConfigError(str(path), [Problem("", why)]) from None
    if _META not in (table.schema.metadata or {}):
        why = "holds no curves of unlearn-sweep; give a file of benchmarks/record_curves.py, or a run folder"
        raise ConfigError(str(path), [Problem("", why)])
    of_trial: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        of_trial.setdefault((row["configuration"], row["seed"]), []).append(row)
    curves = []
    for (number, seed), rows in of_trial.items():
        epochs = [row for row in rows if row["epoch"]]
        curves.append(
            Curve(
                number,
                rows[0]["label"],
                seed,
                json.loads(rows[0]["params"]),
                tuple({k: v for k, v in row.items() if k not in _COLUMNS and v is not None} for row in epochs),
                tuple(row["seconds"] for row in epochs),
                rows[0]["failure"],
            )
        )
    return Recording(**json.loads(table.schema.metadata[_META])), curves


def _read_folders(folders: Sequence[Path]) -> tuple[Recording, list[Curve]]:
    for folder in folders:
        require_run_folder(folder)
    infos = [SweepInfo.read(folder) for folder in folders]
    first = infos[0]
    trial = portable(first.config["trial"])
    for folder, info in zip(folders, infos, strict=True):
        same = (info.data, info.model, info.config["space"], portable(info.config["trial"]))
        if same != (first.data, first.model, first.config["space"], trial):
            why = f"is of another benchmark, model, base trial or space than {folders[0]}; give folders of one space"
            raise ConfigError(str(folder), [Problem("", why)])
    numbers: dict[str, int] = {}
    curves: list[Curve] = []
    anchors: dict[str, dict[str, float]] = {}
    left_out = 0
    for folder in folders:
        events = read_events(folder)
        anchors |= {event.name: event.metrics for event in events if isinstance(event, Anchor)}
        found, stopped = _curves_of(events, numbers)
        curves, left_out = curves + found, left_out + stopped
    if not curves:
        raise ConfigError(str(folders[0]), [Problem("", "no trial has run to its full budget; give a finished sweep")])
    recording = Recording(
        first.name, first.benchmark, trial, first.config["space"], anchors, first.data, first.model, first.versions,
        left_out,
    )  # fmt: skip
    return recording, curves


def _curves_of(events: Iterable[Event], numbers: dict[str, int]) -> tuple[list[Curve], int]:
    """Curves of trials to their end, and how many others ended; `numbers`: settings -> configuration, is added to."""
    suggested: dict[str, Suggested] = {}
    epochs: dict[str, dict[int, Epoch]] = {}
    ends: dict[str, Ended] = {}
    for event in events:
        if isinstance(event, Suggested):
            suggested[event.trial_id], epochs[event.trial_id] = event, {}
        elif isinstance(event, Epoch):
            epochs[event.trial_id][event.epoch] = event
        elif isinstance(event, Ended):
            ends[event.trial_id] = event
    curves = []
    for trial_id, end in sorted(ends.items()):
        if end.state != "PRUNED":
            trial, ran = suggested[trial_id], [epoch for _, epoch in sorted(epochs[trial_id].items())]
            curves.append(
                Curve(
                    numbers.setdefault(settings_key(trial.params), len(numbers)),
                    trial.label,
                    trial.seed,
                    trial.params,
                    tuple({name: v for name, v in epoch.metrics.items() if name in METRICS} for epoch in ran),
                    tuple(epoch.seconds for epoch in ran),
                    end.failure or ("it failed" if end.state == "FAIL" else None),
                )
            )
    return curves, Counter(end.state for end in ends.values())["PRUNED"]
