"""Blocks of settings as one sweep: a base trial, and a space or a list of points around it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.importing.joint import Told, first
from orchestrator.importing.shell import MOST
from orchestrator.importing.values import Axis, Block, Range

ONE_VALUE = (
    *("benchmark.type", "benchmark.split", "benchmark.corpus", "model.path", "model.prompt.type", "model.retain_log"),
    *("benchmark", "model.retain_path", "model.revision", "model.prompt", "model.tiny", "evaluation", "epochs"),
)
"""Paths (or what they start with) that have one value in a sweep of ours, those that others follow from first."""

METHOD = "loss.criterion.type"


@dataclass
class Merged:
    """One sweep.

    Attributes:
        trial: Path -> value, the same in all trials.
        space: Path -> node, what varies.
        paired: Path -> values, where points are listed instead of a space.
        replicates: Seeds of each point.
    """

    trial: dict[str, Any] = field(default_factory=dict)
    space: dict[str, Any] = field(default_factory=dict)
    paired: dict[str, list[Any]] = field(default_factory=dict)
    replicates: int = 1


def merge(blocks: Sequence[Block], told: Told) -> Merged:
    """One sweep of several blocks; what one sweep cannot hold is told."""
    merged = Merged()
    blocks = _with_seeds(joined(_with_one_value(list(blocks), told)), merged, told)
    points = None if len(blocks) == 1 or _by_method(blocks) else _points(blocks)
    if points is not None:
        varying = [path for path in points[0] if len({point[path] for point in points}) > 1]
        merged.trial |= {path: _plain(value) for path, value in points[0].items()}  # the first run is the trial itself
        merged.paired = {path: [_plain(point[path]) for point in points] for path in varying}
        return merged
    firsts = {block.get(METHOD): block for block in reversed(blocks)}
    kept = [block for block in blocks if block in firsts.values()]
    kept = [block for block in kept if METHOD in block] or kept
    if len(kept) < len(blocks):
        told.lose(
            f"{len(blocks) - len(kept)} of {len(blocks)} groups of runs",
            "they do not have the same settings; import each command in a file of its own",
        )
    _space(kept, merged, told)
    return merged


def joined(blocks: Iterable[Block]) -> list[Block]:
    """Blocks of one method that differ in the values of one path only are one block, again and again."""
    found = list(blocks)
    paths = list(dict.fromkeys(path for block in found for path in block if path != METHOD))
    while True:
        before = len(found)
        for path in reversed(paths):  # the innermost loop first
            groups: dict[Any, Block] = {}
            for block in found:
                axis = block.get(path)
                rest = frozenset((name, value) for name, value in block.items() if name != path)
                key = (rest, None if isinstance(axis, tuple) else (axis,))  # ranges are joined if they are equal
                there = groups.setdefault(key, block).get(path)
                if isinstance(axis, tuple) and isinstance(there, tuple):
                    groups[key] = groups[key] | {path: tuple(dict.fromkeys((*there, *axis)))}
            found = list(groups.values())
        if len(found) == before:
            return found


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


# -- what a sweep has one of -------------------------------------------------------------------------------------------


def _with_one_value(blocks: list[Block], told: Told) -> list[Block]:
    """The blocks with the first value of what a sweep has one of; blocks with other values are not taken over."""
    every = dict.fromkeys(path for block in blocks for path in block)
    for path in (p for prefix in ONE_VALUE for p in every if f"{p}.".startswith(f"{prefix}.")):
        ranges = {axis.high for block in blocks if isinstance(axis := block.get(path), Range)}
        blocks = [b | {path: (axis.high,)} if isinstance(axis := b.get(path), Range) else b for b in blocks]
        # No block has a range at this path any more, which the checker of types cannot see.
        values = list(dict.fromkeys(value for block in blocks for value in block.get(path, ())))  # type: ignore[union-attr]
        if len(values) < 2 and not ranges:
            continue
        chosen = max(values) if path == "epochs" else values[0]
        others = [str(value) for value in values if value != chosen] or ["a range"]
        told.lose(f"{path}={', '.join(others)}", _one_value(path, chosen))
        if path != "epochs":  # a shorter trial is still the same trial, another benchmark makes another
            blocks = [block for block in blocks if chosen in block.get(path, (chosen,))]  # type: ignore[operator]
        blocks = [block | {path: (chosen,)} if path in block else block for block in blocks]
    return blocks


def _one_value(path: str, chosen: Any) -> str:
    if path == "epochs":
        return f"all trials have as many, {chosen} here: metrics are recorded after each; or one sweep a value"
    return f"a sweep has one, {chosen} here; run it again with --set trial.{path}=.."


def _with_seeds(blocks: list[Block], merged: Merged, told: Told) -> list[Block]:
    seeds = {block.get("seed", ()) for block in blocks}
    first_seed = next((first(axis) for axis in seeds if axis != ()), None)
    if first_seed is None:
        return blocks
    many = next(iter(seeds))
    if len(seeds) == 1 and isinstance(many, tuple) and len(many) > 1:
        merged.replicates = len(many)
        told.note(f"seeds {', '.join(map(str, many))}: replicates, each point with {len(many)} seeds of ours")
    elif len(seeds) > 1 or isinstance(many, Range):
        told.lose("seed", "not the same list for all settings; write replicates: how many seeds each point has")
    merged.trial["seed"] = first_seed
    return joined([{path: axis for path, axis in block.items() if path != "seed"} for block in blocks])


# -- points and spaces -------------------------------------------------------------------------------------------------


def _points(blocks: Sequence[Block]) -> list[dict[str, Any]] | None:
    """All points of blocks with the same paths and no range; None where there are none such, or too many."""
    found: list[dict[str, Any]] = []
    for block in blocks:
        lists = [axis for axis in block.values() if isinstance(axis, tuple)]
        if set(block) != set(blocks[0]) or len(lists) < len(block) or math.prod(map(len, lists)) + len(found) > MOST:
            return None
        found += [dict(zip(block, values, strict=True)) for values in itertools.product(*lists)]
    return found


def _by_method(blocks: Sequence[Block]) -> bool:
    """Whether the blocks are of a method each."""
    methods = [block.get(METHOD) for block in blocks]
    return len(set(methods)) == len(methods) and all(isinstance(m, tuple) and len(m) == 1 for m in methods)


def _space(blocks: Sequence[Block], merged: Merged, told: Told) -> None:
    """Fills in base trial and space; several methods become `one_of`, what differs between them `when`."""
    methods = [str(first(block[METHOD])) for block in blocks if METHOD in block]
    several = len(blocks) > 1
    if several:
        own = [{p: a for p, a in block.items() if p.startswith("loss.criterion.") and p != METHOD} for block in blocks]
        merged.space["loss.criterion"] = {
            "one_of": {
                method: {path.removeprefix("loss.criterion."): _node(axis) for path, axis in settings.items()}
                for method, settings in zip(methods, own, strict=True)
            }
        }
        blocks = [{p: a for p, a in block.items() if not p.startswith("loss.criterion.")} for block in blocks]
    for path in dict.fromkeys(path for block in blocks for path in block):
        axes = [block.get(path) for block in blocks]
        shared = axes[0] if len(set(axes)) == 1 else None
        if shared is not None and (not isinstance(shared, Range) and (len(shared) == 1 or _has_lists(shared))):
            merged.trial[path] = _plain(shared[0])
            if len(shared) > 1:
                told.lose(
                    f"{path}={_plain(shared[1])}", "a list is no value of a choice; the first one is in the trial"
                )
        elif shared is not None:
            merged.space[path] = _node(shared)
        else:
            cases: dict[Axis, list[str]] = {}
            for method, axis in zip(methods, axes, strict=True):
                if axis is not None:
                    cases.setdefault(axis, []).append(method)
            merged.space[path] = [_node(axis) | {"when": {"loss.criterion": names}} for axis, names in cases.items()]
    _adapters(merged, told)


def _adapters(merged: Merged, told: Told) -> None:
    """Settings of an adapter exist where there is one, if a sweep is about having one."""
    if "model.adapter.type" not in merged.space:
        return
    for path in [p for p in (*merged.trial, *merged.space) if p.startswith("model.adapter.") and p[14:] != "type"]:
        node = merged.space.pop(path, None) or {"choice": [merged.trial.pop(path)]}
        if isinstance(node, dict) and not any(isinstance(value, list) for value in node.get("choice", ())):
            merged.space[path] = node | {"when": {"model.adapter": "lora"}}
        else:
            told.lose(path, "a list, or not the same for all methods; write it where the adapter is the same for all")


def _has_lists(values: tuple[Any, ...]) -> bool:
    return any(isinstance(value, tuple) for value in values)


def _node(axis: Axis) -> dict[str, Any]:
    return axis.node if isinstance(axis, Range) else {"choice": [_plain(value) for value in axis]}
