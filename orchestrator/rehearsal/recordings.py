"""Which recorded curves can stand for a sweep's trials: those that were named, shipped ones, earlier sweeps here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orchestrator.config import SweepConfig
from orchestrator.problems import ConfigError, Problem
from orchestrator.rehearsal.curve_files import read_curves
from orchestrator.rehearsal.curves import Curves
from orchestrator.rehearsal.plan import earlier_sweeps

SHIPPED = Path(__file__).parents[2] / "benchmarks" / "curves"
"""Recordings of a checkout of the repository."""


def given_curves(paths: Sequence[Path], sweep: SweepConfig) -> Curves:
    """The curves that were asked for.

    Raises:
        ConfigError: They cannot stand for the sweep's trials.
    """
    curves = read_curves(*paths)
    if reasons := curves.unfit(sweep):
        remedy = "give a recording of this space, or leave --curves out"
        raise ConfigError(str(paths[0]), [Problem("", f"{reason}; {remedy}") for reason in reasons])
    return curves


def found_curves(sweep: SweepConfig, output: Path) -> Curves:
    """Curves of the same settings: shipped ones, or else those of earlier sweeps here, the most configurations first.

    Raises:
        ConfigError: There are none; with what keeps each from being used.
    """
    reasons: list[str] = []
    for paths in (sorted(SHIPPED.glob("*.parquet")), [folder for folder, _ in earlier_sweeps(output)]):
        fitting: list[Curves] = []
        for path in paths:
            try:
                curves = read_curves(path)
            except ConfigError as error:
                reasons.append(f"{path.name}: {error.problems[0].message}")
                continue
            if why := [*curves.unfit(sweep), *curves.differences(sweep)]:
                reasons.append(f"{path.name}: {why[0]}")
            else:
                fitting.append(curves)
        if fitting:
            return max(fitting, key=lambda curves: curves.configurations)
    tried = f" ({'; '.join(reasons)})" if reasons else ""
    remedy = "give a recording with --curves, or run it once with scheduler: {type: none}"
    raise ConfigError("rehearse", [Problem("", f"no recorded curves fit {sweep.name!r}{tried}; {remedy}")])


def in_words(curves: Curves) -> str:
    """What was recorded."""
    recording = curves.recording
    seeds = f"{len(curves.seeds)} seed{'s' if len(curves.seeds) > 1 else ''}"
    text = f"{recording.name} on {recording.benchmark}: {curves.configurations} configurations, {seeds}"
    if len(curves.curves) < curves.configurations * len(curves.seeds):
        text += f" in part ({len(curves.curves)} curves)"
    return text + f"; {recording.left_out} stopped trials left out" * bool(recording.left_out)
