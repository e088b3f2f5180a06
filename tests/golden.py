"""The golden vectors of loss reweighting, and the tensors that they are compared in.

Origin of tests/vectors/reweighting.json: written from the papers' formulas in float64 and checked against an execution
of the published code where that is free of defects (`official_loss`, `matches_official`).
"""

import json
from pathlib import Path

import torch
from torch import Tensor

VECTORS = json.loads((Path(__file__).parent / "vectors" / "reweighting.json").read_text(encoding="utf-8"))
INPUTS = VECTORS["inputs"]


def padded(rows: list[list[float]], dtype: torch.dtype = torch.float64, extra: int = 0) -> tuple[Tensor, Tensor]:
    """Right-padded values and their mask; padding holds NaN, which must not come through."""
    width = max(map(len, rows)) + extra
    values = torch.full((len(rows), width), float("nan"), dtype=dtype)
    for index, row in enumerate(rows):
        values[index, : len(row)] = torch.tensor(row, dtype=dtype)
    return values, ~values.isnan()
