"""Small sweeps for tests: the authors benchmark's name, the surrogate's parameters."""

from __future__ import annotations

from typing import Any

from orchestrator.config import SweepConfig


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
