"""Small sweeps for tests: the authors benchmark's name, the surrogate's parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.config import SweepConfig
from orchestrator.events import SweepInfo
from orchestrator.tracking.uri import resolve_uri


def small_sweep(**changes: Any) -> SweepConfig:
    """A sweep that the surrogate can run; keywords replace whole top-level entries."""
    raw: dict[str, Any] = {
        "name": "small",
        "trial": {"epochs": 8},
        "space": {
            "loss.criterion": {
                "one_of": {"saturation": {"beta1": {"float": [0, 10]}}, "satimp": {"beta1": {"float": [0, 10]}}}
            },
            "loss.retain.coefficient": {"float": [0.1, 5], "log": True},
            "optim.lr": {"float": [1e-4, 8e-4], "log": True},
        },
        "scheduler": {"type": "pareto_asha", "grace_period": 2, "reduction_factor": 2},
        "baselines": ["gradient_ascent", "wga"],
        "budget": {"trials": 16},
        "tracking": {"uri": None},
    }
    return SweepConfig.model_validate(raw | changes)


def write_info(folder: Path, *, name: str, benchmark: str) -> None:
    """The `sweep.json` of a run folder that no sweep has made, with two objectives and the default tracking store."""
    info = SweepInfo(
        name=name,
        benchmark=benchmark,
        config={},
        objectives={"forget.extraction_strength": "min", "retain.extraction_strength": "max"},
        reference_point={"forget.extraction_strength": 1.0, "retain.extraction_strength": 0.0},
        fingerprint="f00d",
        data="d",
        model="m",
        tracking_uri=resolve_uri(folder.parent, None),
        git_commit=None,
        versions={},
        created=1_700_000_000.0,
    )
    (folder / "sweep.json").write_text(info.model_dump_json(), encoding="utf-8")


def info_of(sweep: SweepConfig, **changes: Any) -> SweepInfo:
    """What `sweep.json` says of a sweep, with digests that nobody has computed."""
    info = {
        "name": sweep.name,
        "benchmark": sweep.trial.benchmark.name,
        "config": sweep.model_dump(mode="json"),
        "objectives": dict(sweep.objectives),
        "reference_point": sweep.worst(),
        "fingerprint": "f" * 16,
        "data": "data",
        "model": "model",
        "tracking_uri": "",
        "git_commit": None,
        "versions": {},
        "created": 0.0,
    }
    return SweepInfo(**(info | changes))


def told(table: str) -> list[tuple[str, list[str]]]:
    """Cases of bad input: a file's contents, and the indented lines that are said of them."""
    cases: list[tuple[str, list[str]]] = []
    for line in table.strip().splitlines():
        if line.startswith("  "):
            cases[-1][1].append(line)
        else:
            cases.append((line, []))
    return cases
