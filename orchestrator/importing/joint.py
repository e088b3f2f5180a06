"""What several names of another tool say together: batch sizes, warm-up, prompts, benchmarks, a method's arguments."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import Any

from orchestrator.importing.formats import Lost
from orchestrator.importing.names import ACCUMULATION, BATCH, PROMPTS, VALUES, WHY
from orchestrator.importing.values import Axis, Block, Range


class Told:
    """What the reader is told of a mapping, each thing once.

    Attributes:
        lost: What has no place.
        left_out: Names that change no result.
        notes: What is to be known of what has a place.
    """

    def __init__(self) -> None:
        self.lost: dict[Lost, None] = {}
        self.left_out: dict[str, None] = {}
        self.notes: dict[str, None] = {}

    def lose(self, what: str, why: str) -> None:
        """Notes what could not be mapped, why, and what to do about it."""
        self.lost[Lost(what, why)] = None

    def note(self, text: str) -> None:
        """Notes what is to be known of what was mapped."""
        self.notes[text] = None


def first(axis: Axis) -> Any:
    """The first value of an axis, the lower end of a range."""
    return axis.low if isinstance(axis, Range) else axis[0]


def translated(path: str, axis: Axis) -> Axis:
    """An axis in our words."""
    table = VALUES.get(path, {})
    if isinstance(axis, Range):
        return axis
    return tuple(dict.fromkeys(table.get("" if value is None else str(value).lower(), value) for value in axis))


def _numbers(axis: Axis) -> list[float]:
    """The numbers among the values of an axis."""
    values = (axis.high,) if isinstance(axis, Range) else axis
    return [value for value in values if isinstance(value, int | float)]


def argument_of(name: str, path: str, axis: Axis, out: Block, told: Told) -> None:
    """Where an argument of a method goes, and as what."""
    if name == "delta":  # inside beta there, outside here
        beta = out.get("loss.criterion.beta", (1.0,))
        fixed = [_numbers(each) for each in (axis, beta) if isinstance(each, tuple) and len(each) == 1]
        if axis in ((0,), (0.0,)):
            out[path] = (0.0,)
        elif len(fixed) == 2 and all(fixed):
            out[path] = (fixed[0][0] * fixed[1][0],)
        else:
            told.lose(name, "the margin here is beta times delta; write loss.criterion.margin")
    elif name == "module_regex":
        layer = re.search(r"layers\\*\.(\d+)$", str(first(axis)))
        if layer:
            out[path] = (int(layer[1]) + 1,)  # hidden states count the embeddings as 0
        else:
            told.lose(f"{name}={first(axis)}", "not one layer; write loss.criterion.layer, 0 the embeddings")
    else:
        out[path] = translated(path, axis)


def batch(names: Mapping[str, Axis], out: Block, told: Told) -> None:
    """Rows of an optimiser step: those of a micro-batch times the steps that are accumulated."""
    rows = next((names[name] for name in BATCH if name in names), None)
    steps = next((names[name] for name in ACCUMULATION if name in names), (1,))
    if rows is None:
        if steps != (1,):
            told.lose(ACCUMULATION[0], "without the rows of a micro-batch; write optim.batch_size")
    elif isinstance(rows, Range) or isinstance(steps, Range):
        if steps == (1,):
            out["optim.batch_size"] = rows
        else:
            told.lose(BATCH[0], "a range times accumulation is no range; write optim.batch_size")
    elif all(isinstance(value, int) for value in (*rows, *steps)):
        sizes = sorted({row * step for row, step in itertools.product(rows, steps)})
        out["optim.batch_size"] = tuple(sizes)
        if len(rows) == 1 and steps != (1,):
            out["optim.micro_batch_size"] = rows
        if len(sizes) < len(rows) * len(steps):
            told.note("equal products of micro-batch and accumulation are one batch size")
        if any(name in names for name in ACCUMULATION):
            told.note("batch size: of one process; multiply it by the GPUs that it ran on")
    else:
        told.lose(BATCH[0], "not whole numbers; write optim.batch_size")


def warmup(names: Mapping[str, Axis], out: Block, told: Told) -> None:
    """Warm-up in epochs as a share of all steps."""
    axis, epochs = names.get("warmup_epochs"), out.get("epochs", (8,))
    if axis is None:
        return
    numbers = _numbers(axis) + _numbers(epochs)
    if len(_numbers(axis)) == 1 and len(numbers) > 1 and 0 <= numbers[0] < max(numbers[1:]):
        out["optim.warmup"] = (round(numbers[0] / max(numbers[1:]), 6),)
    else:
        told.lose("warmup_epochs", "not one number under epochs; write optim.warmup as a share of all steps")


def betas(names: Mapping[str, Axis], out: Block, told: Told) -> None:
    """Adam's two decay rates, a pair here."""
    pair = [names.get(name, (default,)) for name, default in (("adam_beta1", 0.9), ("adam_beta2", 0.999))]
    if not {"adam_beta1", "adam_beta2"} & set(names):
        return
    if all(isinstance(axis, tuple) and len(axis) == 1 for axis in pair):
        out["optim.betas"] = (tuple(first(axis) for axis in pair),)
    else:
        told.lose("adam_beta1, adam_beta2", "optim.betas is one pair, which no space searches; set trial.optim.betas")


def prompt(names: Mapping[str, Axis], out: Block, told: Told) -> None:
    """The prompt of OpenUnlearning's model configuration."""
    axis = names.get("model")
    if axis is None:
        return
    if "model.path" not in out:
        told.lose(f"model={first(axis)}", WHY["model"])
    elif isinstance(axis, tuple):
        out |= {path: (value,) for path, value in PROMPTS.get(str(axis[0]), {}).items()}
        for other in axis[1:]:
            told.lose(f"model={other}", "a sweep has one model; import once more with it")


def benchmark(out: Block, told: Told) -> None:
    """The type of benchmark that a split or corpus implies; partners of a split, which follow from it, go."""
    if not any(path.startswith("benchmark.") for path in out):
        return
    kind = first(out.get("benchmark.type", ("muse" if "benchmark.corpus" in out else "tofu",)))
    out["benchmark.type"] = (kind,)
    if kind != "tofu":
        split = first(out.get("benchmark.split", ("forget",)))
        if split != "forget":
            told.lose(f"forget_split={split}", f"{kind} has other sets; write trial.benchmark")
        for name in ("split", "retain_split", "holdout_split"):
            out.pop(f"benchmark.{name}", None)
        return
    out.pop("benchmark.corpus", None)
    split = re.fullmatch(r"forget(\d\d)", str(first(out.get("benchmark.split", ("",)))))
    partners = {"retain": f"retain{100 - int(split[1])}", "holdout": f"holdout{split[1]}"} if split else {}
    for name, partner in partners.items():
        if out.get(f"benchmark.{name}_split") == (partner,):
            del out[f"benchmark.{name}_split"]
