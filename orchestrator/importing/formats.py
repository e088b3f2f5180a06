"""Sweeps of other tools, read into one form: blocks of names with values or ranges, in that tool's words.

`read_foreign` recognises a W&B sweep, an axolotl sweep, and Hydra overrides (a script, a text, or the `params` of
`hydra.sweeper`) by their contents. Nothing of a file is ever run.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import yaml

from orchestrator.importing.shell import MOST, TooMany, commands
from orchestrator.importing.values import Axis, Block, Range, Unreadable, hashable, number, parse_axis
from orchestrator.problems import ConfigError, Problem
from search_spaces.space import flat

FORMATS = {"wandb": "a W&B sweep", "axolotl": "an axolotl sweep", "hydra": "Hydra overrides"}
"""Name -> what it is."""


_OVERRIDE = re.compile(r"[+~]{0,2}[A-Za-z_][\w./@-]*=\S")


class Lost(NamedTuple):
    """What could not be taken over, why, and what to do about it."""

    what: str
    why: str


@dataclass
class Foreign:
    """A sweep of another tool.

    Attributes:
        tool: One of `FORMATS`.
        name: What the file calls it; "" if it does not.
        blocks: What is run, in the tool's names.
        sampler: grid, random or tpe.
        metric: Name and direction (min, max) of what it looks at.
        stopping: What stops a trial early, as in the file.
        trials: At most so many.
        lost: What of the file is in none of these.
    """

    tool: str
    name: str = ""
    blocks: list[Block] = field(default_factory=list)
    sampler: str = "grid"
    metric: tuple[str, str] | None = None
    stopping: Mapping[str, Any] = field(default_factory=dict)
    trials: int | None = None
    lost: list[Lost] = field(default_factory=list)


def read_foreign(source: str, text: str, tool: str | None = None) -> Foreign:
    """Reads a sweep of another tool.

    Args:
        source: What the file is called, for messages.
        text: Its contents.
        tool: One of `FORMATS`; None: by the contents.

    Raises:
        ConfigError: It is none of the formats, or not the one that was named.
    """
    if tool is not None and tool not in FORMATS:
        raise ConfigError("--format", [Problem("", f"{tool!r} is not known; choose among {', '.join(FORMATS)}")])
    try:
        raw = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError):
        raw = None
    found = tool or _recognised(raw, text)
    if isinstance(raw, dict) and {"trial", "space"} & set(raw) and tool is None:
        raise ConfigError(source, [Problem("", "a sweep file of ours already; `unlearn-sweep plan` it")])
    if found is None or (found != "hydra" and not isinstance(raw, dict)):
        formats = ", ".join(f"{what} ({name})" for name, what in FORMATS.items())
        is_not = f"not recognised as {formats}" if found is None else f"not {FORMATS[found]}: no YAML mapping"
        raise ConfigError(source, [Problem("", f"{is_not}; name its format with --format, or write a sweep file")])
    try:
        if found == "wandb":
            return _wandb(raw)
        if found == "axolotl":
            return _axolotl(raw)
        return _hydra_yaml(raw) if isinstance(raw, dict) else _overrides(text)
    except TooMany:
        raise ConfigError(source, [Problem("", f"more than {MOST} combinations; import a part of it")]) from None
    except RecursionError:
        raise ConfigError(source, [Problem("", "nested too deeply, or in itself; write it out")]) from None


def _recognised(raw: Any, text: str) -> str | None:
    if isinstance(raw, dict):
        if isinstance(raw.get("parameters"), dict):
            return "wandb"
        if "hydra" in raw or any(str(key).startswith("hydra.") for key in raw):
            return "hydra"
        return "axolotl" if any(isinstance(value, list) for value in raw.values()) else None
    python = re.search(r"\.py[\s\"']", text) and re.search(r"\s[+~]{0,2}[A-Za-z_][\w./@-]*=\S", text)
    lines = [line.split() for line in text.splitlines() if line.strip()]
    return "hydra" if python or any(all(_OVERRIDE.match(word) for word in line) for line in lines) else None


# -- W&B ---------------------------------------------------------------------------------------------------------------

_METHODS = {"grid": "grid", "random": "random", "bayes": "tpe"}
_KNOWN = {"parameters", "method", "metric", "early_terminate", "run_cap", "name", "program", "command", "description"}


def _wandb(raw: Mapping[str, Any]) -> Foreign:
    method = str(raw.get("method", "random"))
    foreign = Foreign("wandb", str(raw.get("name", "")), sampler=_METHODS.get(method, "random"))
    if method not in _METHODS:
        foreign.lost.append(Lost(f"method: {method}", "not one of W&B's; random is in its place"))
    for key in raw.keys() - _KNOWN - {"project", "entity", "imageuri", "job"}:
        foreign.lost.append(Lost(str(key), "not a key of a W&B sweep that is known here"))
    metric = raw.get("metric")
    if isinstance(metric, dict) and metric.get("name"):
        foreign.metric = (str(metric["name"]), "max" if metric.get("goal") == "maximize" else "min")
        if "target" in metric:
            foreign.lost.append(Lost("metric.target", "no sweep ends at a value; budget ends it"))
    if isinstance(raw.get("early_terminate"), dict):
        foreign.stopping = raw["early_terminate"]
    if isinstance(raw.get("run_cap"), int):
        foreign.trials = raw["run_cap"]
    block: Block = {}
    _parameters(raw.get("parameters") or {}, "", method, block, foreign.lost)
    foreign.blocks = [block]
    return foreign


def _parameters(nodes: Mapping[str, Any], prefix: str, method: str, block: Block, lost: list[Lost]) -> None:
    for key, node in nodes.items():
        name = f"{prefix}{key}"
        if isinstance(node, dict) and isinstance(node.get("parameters"), dict):
            _parameters(node["parameters"], f"{name}.", method, block, lost)
            continue
        try:
            block[name] = _wandb_axis(node if isinstance(node, dict) else {"value": node}, method, name, lost)
        except Unreadable as error:
            lost.append(Lost(name, str(error)))


def _wandb_axis(node: Mapping[str, Any], method: str, name: str, lost: list[Lost]) -> Axis:
    if "value" in node:
        return (hashable(node["value"]),)
    if "values" in node:
        if "probabilities" in node:
            lost.append(Lost(f"{name}.probabilities", "every value of a choice is as likely as another"))
        values = node["values"] if isinstance(node["values"], list) else [node["values"]]
        return tuple(dict.fromkeys(hashable(number(value)) for value in values))
    low, high = number(node.get("min")), number(node.get("max"))
    whole = isinstance(low, int) and isinstance(high, int)
    kind = str(node.get("distribution", "int_uniform" if whole else "uniform"))
    log = "log_uniform" in kind
    if kind not in {f"{q}{inv}{body}" for q in ("", "q_") for inv in ("", "inv_") for body in _UNIFORM}:
        raise Unreadable(f"distribution {kind} has no bounds; write a range, as in {{float: [low, high]}}")
    if not isinstance(low, int | float) or not isinstance(high, int | float) or low > high:
        raise Unreadable("no value, values, or min and max; write a range, as in {float: [low, high]}")
    if log and not kind.endswith("_values"):  # W&B gives the exponents of these
        low, high = (math.exp(low), math.exp(high)) if "inv_" not in kind else (math.exp(-high), math.exp(-low))
    step = number(node.get("q", 1)) if kind.startswith("q_") else None
    if low == high:
        return (low,)
    if kind == "int_uniform" or (step == 1 and float(low).is_integer() and float(high).is_integer()):
        few = high - low < 20
        return tuple(range(int(low), int(high) + 1)) if method == "grid" and few else Range("int", low, high, log)
    if step and not log and (high - low) / step < 20:
        return tuple(round(low + index * step, 12) for index in range(int((high - low) / step + 1e-9) + 1))
    if step:
        lost.append(Lost(f"{name}.q", f"a range has no steps; all of {low:g} to {high:g} is drawn from"))
    return Range("float", float(low), float(high), log)


_UNIFORM = ("uniform", "int_uniform", "log_uniform", "log_uniform_values")


# -- axolotl -----------------------------------------------------------------------------------------------------------


def _axolotl(raw: Mapping[str, Any]) -> Foreign:
    foreign = Foreign("axolotl")
    paired: list[list[Mapping[str, Any]]] = []
    block: Block = {}
    for key, value in raw.items():
        is_pairs = isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)
        if str(key).startswith("_") and is_pairs:
            paired.append(value)
            continue
        try:
            values = value if isinstance(value, list) else [value]
            block[str(key)] = tuple(dict.fromkeys(map(hashable, values)))
        except Unreadable as error:
            foreign.lost.append(Lost(str(key), str(error)))
    for together in itertools.product(*paired):
        merged = dict(block)
        for settings in together:
            merged |= {str(key): (hashable(value),) for key, value in flat(dict(settings)).items()}
        foreign.blocks.append({name: axis for name, axis in merged.items() if axis != ()})
        if len(foreign.blocks) > MOST:
            raise TooMany
    return foreign


# -- Hydra -------------------------------------------------------------------------------------------------------------


def _overrides(text: str) -> Foreign:
    foreign = Foreign("hydra")
    for command in commands(text):
        block: Block = {}
        for name, value in command.items():
            try:
                block[name] = parse_axis(value)
            except Unreadable as error:
                foreign.lost.append(Lost(name, str(error)))
        if command.get("experiment", "").startswith("finetune/"):
            foreign.lost.append(Lost("experiment=finetune/..", "fine-tuning, no unlearning; its model is model.path"))
            continue
        foreign.blocks.append(block)
    if any(isinstance(axis, Range) for block in foreign.blocks for axis in block.values()):
        foreign.sampler = "tpe"
    return foreign


_SAMPLERS = {"TPESampler": "tpe", "RandomSampler": "random", "GridSampler": "grid"}


def _hydra_yaml(raw: Mapping[str, Any]) -> Foreign:
    settings = flat(dict(raw))
    inner = {name.removeprefix("hydra.sweeper."): value for name, value in settings.items() if "hydra.sweeper" in name}
    params = {name.removeprefix("params."): value for name, value in inner.items() if name.startswith("params.")}
    fixed = {name: value for name, value in settings.items() if not name.startswith(("hydra", "defaults"))}
    foreign = Foreign("hydra", blocks=[{}])
    for name, value in (fixed | params).items():
        try:
            foreign.blocks[0][name] = parse_axis(value) if isinstance(value, str) else (hashable(value),)
        except Unreadable as error:
            foreign.lost.append(Lost(name, str(error)))
    target = str(inner.get("sampler._target_", "")).rpartition(".")[2]
    ranges = any(isinstance(axis, Range) for axis in foreign.blocks[0].values())
    foreign.sampler = _SAMPLERS.get(target, "tpe" if ranges else "grid")
    if isinstance(inner.get("n_trials"), int):
        foreign.trials = inner["n_trials"]
    if inner.get("direction"):
        foreign.lost.append(Lost("hydra.sweeper.direction", "of what the program returns; write objectives"))
    return foreign
