"""How much do the first epochs tell of the last? On recorded curves, the area under the curve of two rankings.

Who is good: the tenth of the configurations on the best fronts at the last epoch. Ranked at an epoch by the fronts of
the objectives there, as `pareto_asha` does, and by the fronts that a ridge regression predicts for the last epoch from
all metrics so far and the settings, after so many whole trials. 0.5 is chance.

    python benchmarks/early_signal.py [--curves FILE] [--seed 0]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu
from search import CURVES

from orchestrator import pareto
from orchestrator.rehearsal.curve_files import read_curves
from orchestrator.rehearsal.curves import DECIDES, Curves

WHOLE = (10, 20, 40, 100)
"""Whole trials that the regression has seen."""

Matrix = NDArray[np.float64]


def area(rank_N: NDArray[np.integer], good_N: NDArray[np.bool_]) -> float:
    """Probability that a good one stands before another, ties counted half."""
    wins = mannwhitneyu(-rank_N[good_N], -rank_N[~good_N]).statistic
    return float(wins / good_N.sum() / (~good_N).sum())


def unbounded(values: Matrix, name: str) -> Matrix:
    """A metric on a scale without ends."""
    if name.endswith("nll"):
        return np.log1p(values)
    inside = np.clip(values, 1e-3, 1 - 1e-3)
    return np.log(inside / (1 - inside))


def ridge(known_ND: Matrix, targets_NM: Matrix, asked_ND: Matrix, penalty: float = 10.0) -> Matrix:
    """Predictions of linear regression with penalised, standardised coefficients."""
    mean, spread = known_ND.mean(axis=0), known_ND.std(axis=0) + 1e-6
    known, asked = (known_ND - mean) / spread, (asked_ND - mean) / spread
    centre = targets_NM.mean(axis=0)
    weights = np.linalg.solve(known.T @ known + penalty * np.eye(known.shape[1]), known.T @ (targets_NM - centre))
    return asked @ weights + centre


def settings_of(curves: Curves) -> Matrix:
    """Coordinates of each configuration, those of a choice that others hang on scaled like the others."""
    places = curves.places_ND
    return np.where(np.abs(places) >= DECIDES / 2, places / DECIDES, places)


def main() -> None:
    """Prints a line for each epoch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curves", type=Path, default=CURVES)
    parser.add_argument("--seed", type=int, default=0, help="of the recorded trials")
    given = parser.parse_args()
    curves = read_curves(given.curves)
    found = [curve for curve in curves.curves if curve.seed == given.seed and curve.failure is None]
    names = sorted(curves.metrics)
    values_NET = np.array([[[metrics[name] for name in names] for metrics in curve.metrics] for curve in found])
    settings_ND = settings_of(curves)[[curve.configuration for curve in found]]
    objectives = ("forget.extraction_strength", "retain.extraction_strength")
    places, sign_M = [names.index(name) for name in objectives], np.array([1.0, -1.0])
    rank_N = pareto.ranks(values_NET[:, -1, places] * sign_M)
    good_N = rank_N <= np.quantile(rank_N, 0.1)
    print(f"{len(found)} configurations, {good_N.sum()} good; area under the curve")
    print("epoch  as it stands  predicted after " + ", ".join(map(str, WHOLE)) + " whole trials")
    scaled_NET = np.stack([unbounded(values_NET[:, :, t], name) for t, name in enumerate(names)], axis=2)
    for epoch in range(1, values_NET.shape[1]):
        now = area(pareto.ranks(values_NET[:, epoch - 1, places] * sign_M), good_N)
        seen_ND = np.concatenate([scaled_NET[:, :epoch].reshape(len(found), -1), settings_ND], axis=1)
        areas = []
        for whole in WHOLE:
            dice, each = np.random.default_rng(0), []
            for _ in range(10):
                order = dice.permutation(len(found))
                known, asked = order[:whole], order[whole:]
                predicted = ridge(seen_ND[known], scaled_NET[known, -1][:, places], seen_ND[asked])
                each.append(area(pareto.ranks(predicted * sign_M), good_N[asked]))
            areas.append(float(np.mean(each)))
        print(f"{epoch:5d}  {now:12.2f}  " + "  ".join(f"{a:.2f}" for a in areas))


if __name__ == "__main__":
    main()
