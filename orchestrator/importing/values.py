"""Values and ranges of other tools' sweeps: read from YAML, and from the grammar of Hydra's overrides."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.importing.shell import MOST, UNKNOWN


@dataclass(frozen=True)
class Range:
    """A range of a search space."""

    kind: str
    low: float
    high: float
    log: bool = False

    @property
    def node(self) -> dict[str, Any]:
        """As in `space:`."""
        ends = [int(self.low), int(self.high)] if self.kind == "int" else [self.low, self.high]
        return {self.kind: ends} | ({"log": True} if self.log else {})


Axis = tuple[Any, ...] | Range
"""The values of a name, one of them where it is fixed, or its range."""

Block = dict[str, Axis]
"""Name -> axis: all combinations of them."""


class Unreadable(Exception):
    """A value that has no place in a search space; says why."""


def number(value: Any) -> Any:
    """A number that YAML took for text (1e-4); any other value as it is."""
    return scalar(value) if isinstance(value, str) else value


def hashable(value: Any) -> Any:
    """A value of YAML as it may stand in an axis, lists as tuples.

    Raises:
        Unreadable: It is a mapping.
    """
    if isinstance(value, dict):
        raise Unreadable("a mapping is no value of a setting; name the settings in it")
    return tuple(map(hashable, value)) if isinstance(value, list) else number(value)


def parse_axis(text: str) -> Axis:
    """The value of an override in Hydra's grammar: one value, several with commas, a sweep function.

    Raises:
        Unreadable: Nothing that a search space has a place for.
    """
    if UNKNOWN in text:
        raise Unreadable("the script computes it; write its value")
    text = text.strip()
    call = re.fullmatch(r"(choice|range|interval|shuffle|sort|tag|int|float|glob)\((.*)\)", text, re.DOTALL)
    if not call:
        values = [scalar(part) for part in _parts(text)]
        if any(isinstance(value, str) and "${" in value for value in values):
            raise Unreadable(f"{text!r} refers to another setting; write its value")
        return tuple(dict.fromkeys(values)) or ("",)
    name, parts = call[1], _parts(call[2])
    try:
        if name == "choice":
            return tuple(dict.fromkeys(map(scalar, parts)))
        if name == "range":
            numbers = [float(part) for part in parts if "=" not in part]
            start, stop, step = [0.0, *numbers, 1.0] if len(numbers) == 1 else [*numbers, 1.0][:3]
            if not 0 < (count := math.ceil((stop - start) / step - 1e-9)) <= MOST:
                raise Unreadable(f"{text!r} has no values, or too many; list them")
            values = [round(start + index * step, 12) for index in range(count)]
            whole = all("." not in part and "e" not in part for part in parts)
            return tuple(int(value) if whole else value for value in values)
        if name == "interval":
            low, high = (float(part.partition("=")[2] or part) for part in parts)
            return Range("float", low, high)
        if name in ("shuffle", "sort", "tag", "int", "float"):
            axis = parse_axis(",".join(parts[-1:] if name == "tag" else parts))
            if isinstance(axis, Range):
                kind = "int" if name == "int" else axis.kind
                return Range(kind, axis.low, axis.high, axis.log or (name == "tag" and "log" in parts[:-1]))
            return tuple({"int": int, "float": float}[name](v) for v in axis) if name in ("int", "float") else axis
    except (ValueError, TypeError, ZeroDivisionError):
        pass
    raise Unreadable(f"{text!r} is no sweep that is known here; list its values")


def _parts(text: str) -> Sequence[str]:
    """Cut at commas outside quotes and brackets; a comma at the end cuts nothing off."""
    found, depth, quote, current = [], 0, "", ""
    for char in text:
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        depth += 0 if quote else {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(char, 0)
        if char == "," and depth == 0 and not quote:
            found.append(current.strip())
            current = ""
        else:
            current += char
    return [*found, current.strip()] if current.strip() else found


def scalar(text: str) -> Any:
    """A value from its text: a number, true, false, null, a list of these, or the text."""
    text = text.strip()
    if text.startswith("[") and text.endswith("]"):
        return tuple(map(scalar, _parts(text[1:-1])))
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    if re.fullmatch(r"[+-]?\d{1,18}", text):
        return int(text)
    if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text):
        return float(text)
    return {"true": True, "false": False, "null": None, "none": None}.get(text.lower(), text)
