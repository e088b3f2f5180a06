"""What the fronts of single seeds attain: by how much a front would move if it were found again with other seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from orchestrator import pareto
from orchestrator.events import Record
from orchestrator.results.evidence import Confirmed, confirmed
from orchestrator.results.front import Summary


@dataclass(frozen=True)
class SeedFront:
    """The front of one seed over the confirmed points.

    Attributes:
        seed: Of the trials.
        runs: The trials with this seed that are part of an estimate and keep the constraints.
        front: The non-dominated among them, best first objective first.
        hypervolume: Of `front`, against the reference point.
    """

    seed: int
    runs: list[Record]
    front: list[Record]
    hypervolume: float


@dataclass(frozen=True)
class Surface:
    """An attainment surface: what at least `attained` of `of` seeds reach.

    `x` and `y` are its corners in the units of the two objectives, best first objective first; drawn as steps, where
    each y holds until the next x takes over.
    """

    level: Literal["best", "median", "worst"]
    attained: int
    of: int
    x: list[float]
    y: list[float]


def seed_fronts(summary: Summary, points: Sequence[Confirmed] | None = None) -> list[SeedFront]:
    """The front of each seed among the runs of confirmed points (`confirmed`, where not given), by seed."""
    info, points = summary.info, confirmed(summary) if points is None else points
    reference_M = pareto.oriented([info.reference_point], info.objectives)[0]
    by_seed: dict[int, list[Record]] = {}
    for point in points:
        for run in point.runs:
            if not run.violations:
                by_seed.setdefault(run.seed, []).append(run)
    found = []
    for seed, runs in sorted(by_seed.items()):
        points_NM = pareto.oriented([run.metrics for run in runs], info.objectives)
        kept = [(values.tolist(), run) for values, run in zip(points_NM, runs, strict=True)]
        kept = [pair for pair, on in zip(kept, pareto.front(points_NM), strict=True) if on]
        front = [run for _, run in sorted(kept, key=lambda pair: (pair[0], pair[1].trial_id))]
        found.append(SeedFront(seed, runs, front, pareto.hypervolume(points_NM, reference_M)))
    return found


def attainment(summary: Summary, points: Sequence[Confirmed] | None = None) -> list[Surface]:
    """Best, median and worst attainment surface over seeds; none but for two objectives and at least two seeds.

    The surface of level l joins the best points that at least l of the seeds' fronts weakly dominate: each seed reaches
    the worst surface, one of them the best.

    Source: Grunert da Fonseca, Fonseca, Hall 2001, "Inferential performance assessment of stochastic optimisers and the
    attainment function".
    """
    fronts = seed_fronts(summary, points)
    objectives = summary.info.objectives
    if len(objectives) != 2 or len(fronts) < 2:
        return []
    sign_2 = np.array([1.0 if direction == "min" else -1.0 for direction in objectives.values()])
    steps = [pareto.oriented([run.metrics for run in each.front], objectives) for each in fronts]
    xs = np.unique(np.concatenate([step[:, 0] for step in steps]))
    reached = np.full((len(steps), len(xs)), np.inf)
    for row, step in enumerate(steps):
        last = np.searchsorted(step[:, 0], xs, side="right") - 1  # a front's second objective falls as the first grows
        reached[row] = np.where(last >= 0, step[last, 1], np.inf)
    reached.sort(axis=0)
    levels: list[tuple[Literal["best", "median", "worst"], int]]
    levels = [("best", 1), ("median", (len(steps) + 1) // 2), ("worst", len(steps))]
    found = []
    for level, attained in levels:
        ys = reached[attained - 1]
        corner = np.isfinite(ys) & (ys < np.concatenate([[np.inf], ys[:-1]]))
        x, y = (xs[corner] * sign_2[0] + 0.0).tolist(), (ys[corner] * sign_2[1] + 0.0).tolist()
        found.append(Surface(level, attained, len(steps), x, y))
    return found
