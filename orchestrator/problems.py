"""Bad input, told well: each problem with its place, the value, the rule and the remedy; all of them at once."""

from __future__ import annotations

import contextlib
import difflib
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from orchestrator.events import SweepInfo
from orchestrator.redaction import secret_in
from orchestrator.safe_yaml import BadYAML, parse_yaml

_MOST, _LONGEST, _WORD = 50, 1500, 200
"""Problems that are listed, characters of a line, and of a word that may have been meant as another one."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where it stands in the file, and what to do about it."""

    path: str
    message: str


class ConfigError(Exception):
    """Input that cannot be run, with every problem found in it."""

    def __init__(self, source: str, problems: Sequence[Problem]) -> None:
        self.source, self.problems = source, list(problems)
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        lines = [f"  {p.path}: {p.message}" if p.path else f"  {p.message}" for p in self.problems[:_MOST]]
        if len(problems) > _MOST:
            lines.append(f"  and {len(problems) - _MOST} more")
        super().__init__("\n".join(_presentable(line) for line in [f"{source}: {count}", *lines]))


def _presentable(line: str) -> str:
    """A line for a terminal: nothing in it can move the cursor, and a value in it leaves room for rule and remedy."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in line)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"


class RunFailed(Exception):
    """A sweep or trial that could not go on; what had been recorded is on disk."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or what there is to choose from when nothing is near."""
    known = sorted(known)
    near = difflib.get_close_matches(str(word)[:_WORD], known, n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else f"; choose among {', '.join(known)}"


# -- reading -----------------------------------------------------------------------------------------------------------


def shipped() -> dict[str, Path]:
    """Name -> file of each search space that comes with the package."""
    folder = Path(str(resources.files("search_spaces")))
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def find_sweep(file: str) -> Path:
    """The file meant by a path or by the name of a shipped search space.

    Raises:
        ConfigError: There is no such file.
    """
    path = Path(file)
    with contextlib.suppress(OSError):  # longer than any name of a file
        if path.is_file():
            return path
    known = shipped()
    if path.stem in known and path.parent.name in {"", "search_spaces"}:
        return known[path.stem]
    raise ConfigError(file, [Problem("", f"no such file{did_you_mean(path.stem, known)}")])


def require_run_folder(folder: Path) -> None:
    """Raises ConfigError where there is no sweep, or one that we cannot read."""
    if not (folder / "sweep.json").is_file():
        there = (
            [file.parent.name for file in sorted(folder.parent.glob("*/sweep.json"))] if folder.parent.is_dir() else []
        )
        hint = did_you_mean(folder.name, there) if there else "; give the folder that `run` wrote, as in runs/smoke"
        raise ConfigError(str(folder), [Problem("", f"not a run folder: no sweep.json in it{hint}")])
    try:
        SweepInfo.read(folder)
    except ValidationError as error:
        fields = sorted({str(details["loc"][0]) for details in error.errors() if details["loc"]})
        which = f"was written by another version of unlearn-sweep ({', '.join(fields)} differ); use that one, or run it"
        broken = "is damaged; `unlearn-sweep run` with its sweep file writes it"
        raise ConfigError(str(folder / "sweep.json"), [Problem("", f"{which if fields else broken} again")]) from None


def require_output(output: Path) -> None:
    """Raises ConfigError where there is no folder of run folders."""
    if not output.is_dir():
        raise ConfigError(str(output), [Problem("", "not a folder; give the folder of run folders, as in runs")])


def read_yaml(file: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """A sweep file with `path=value` settings laid over it.

    Raises:
        ConfigError: The file is missing or not YAML, or a setting is not `path=value`.
    """
    try:
        raw = parse_yaml(find_sweep(file).read_text(encoding="utf-8"))
    except (BadYAML, UnicodeDecodeError) as error:
        raise ConfigError(file, [Problem("", f"not readable as YAML: {error}")]) from None
    except OSError as error:
        raise ConfigError(file, [Problem("", f"cannot be read ({error.strerror}); make it readable")]) from None
    if not isinstance(raw, dict):
        raise ConfigError(
            file, [Problem("", f"holds {type(raw).__name__}, a sweep file is a mapping: name, trial, space")]
        )
    lay_over(raw, overrides)
    return raw


def lay_over(raw: dict[str, Any], overrides: Sequence[str]) -> None:
    """Lays `path=value` settings over a file's contents, in place.

    Raises:
        ConfigError: A setting is not `path=value`, or its value is not YAML.
    """
    problems = []
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals or not path or len(path) > _WORD:
            problems.append(Problem("", f"{override!r} is not path=value, as in trial.epochs=5"))
            continue
        try:
            _override(raw, path, parse_yaml(text))
        except BadYAML:
            problems.append(Problem(path, f"{text!r} is not readable as YAML; quote it"))
    if problems:
        raise ConfigError("--set", problems)


def secrets_in(raw: Any, path: str = "") -> list[Problem]:
    """A problem for each text that holds a secret: what is set is written down in many places, and shown."""
    if isinstance(raw, str) and (kind := secret_in(raw)):
        remedy = "leave it to the environment, as in MLFLOW_TRACKING_URI, MLFLOW_TRACKING_PASSWORD or HF_TOKEN"
        return [Problem(path, f"holds {kind}, and a sweep's settings are no secret; {remedy}")]
    pairs = raw.items() if isinstance(raw, dict) else enumerate(raw) if isinstance(raw, list) else ()
    return [problem for key, value in pairs for problem in secrets_in(value, f"{path}.{key}".strip("."))]


_DOTTED = {"space", "objectives", "reference_point", "constraints", "floors", "values"}
"""Mappings whose keys are dotted paths themselves."""


def _override(raw: dict[str, Any], path: str, value: Any) -> None:
    """Sets a value in place, at a path whose parts may be dotted keys: space.optim.lr is `optim.lr` in `space`.

    In a list, a number is the entry at that place, and the number after the last appends one.
    """
    parts = path.split(".")
    node: Any = raw
    name = ""
    while True:
        if isinstance(node, list):
            node, parts = _entry(node, parts, value)
            if not parts:
                return
        joined = [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
        key = next((key for key in joined if key in node), joined[0] if name in _DOTTED else parts[0])
        parts = parts[key.count(".") + 1 :]
        if not parts:
            if key == "preset" or (key == "type" and node.get("type") != value):
                node.clear()  # what the old variant had means nothing to the new one; a preset is a whole loss
            node[key] = value
            return
        inside = isinstance(node.get(key), list) and parts[0].isdecimal() and int(parts[0]) <= len(node[key])
        if not inside and not isinstance(node.get(key), dict):
            node[key] = {"gpu": "auto"} if (key, node.get(key)) == ("resources", "auto") else {}  # its short form
        node, name = node[key], key


def _entry(entries: list[Any], parts: list[str], value: Any) -> tuple[Any, list[str]]:
    """The entry of a list that a path leads into, with the rest of the path; with no rest, it is set."""
    place, rest = int(parts[0]), parts[1:]
    if place == len(entries):
        entries.append({})
    if not rest:
        entries[place] = value
    elif not isinstance(entries[place], dict):
        entries[place] = {}
    return entries[place], rest


# -- what pydantic found, in our words ---------------------------------------------------------------------------------


def problems_of(error: ValidationError, raw: Mapping[str, Any], model: type[BaseModel]) -> list[Problem]:
    """Every problem of a validation: place, value, rule, and a remedy."""
    return [_problem(details, raw, model) for details in error.errors(include_url=False)]


def _problem(details: ErrorDetails, raw: Mapping[str, Any], model: type[BaseModel]) -> Problem:
    location = details["loc"]
    value, kind, context = details["input"], details["type"], details.get("ctx", {})
    path = _path(location, raw, kind)
    if kind == "extra_forbidden":
        return Problem(path, f"unknown key{did_you_mean(str(location[-1]), _fields(model, location[:-1]))}")
    if kind == "missing":
        return Problem(path, "missing; add it")
    if kind == "union_tag_invalid":
        tags = [tag.strip(" '") for tag in str(context["expected_tags"]).split(",")]
        return Problem(f"{path}.type", f"{context['tag']!r} is not known{did_you_mean(str(context['tag']), tags)}")
    if kind == "union_tag_not_found":
        tags = [str(variant.model_fields["type"].default) for variant in _variants(model, location)]
        return Problem(path, f"{value!r} has no `type`, which says which variant it is; add one of {', '.join(tags)}")
    if kind in {"model_type", "model_attributes_type", "dict_type"}:
        keys = ", ".join(_fields(model, location))
        return Problem(path, f"{value!r} must be a mapping{f' with keys {keys}' if keys else ''}; write key: value")
    if kind == "invalid_key":
        return Problem(path, f"the key {location[-1]!r} is not a string; write one")
    if kind == "value_error":
        return Problem(path, str(context["error"]))
    if kind == "literal_error":
        words = re.findall(r"'([^']*)'", str(context["expected"]))
        return Problem(path, f"{value!r} is not allowed{did_you_mean(str(value), words)}")
    rule = (
        details["msg"]
        .replace("Input should be", "must be")
        .replace("String should", "must")
        .replace("a valid tuple", "a list")
    )
    default = _fields(model, location[:-1]).get(str(location[-1])) if location else None
    remedy = f"; the default is {default.default!r}" if default and not default.is_required() else "; correct it"
    return Problem(path, f"{value!r} {rule}{remedy}")


def _path(location: Sequence[str | int], raw: Any, kind: str) -> str:
    """Dotted path as in the file: pydantic's location without the tags of unions."""
    parts: list[str] = []
    for index, part in enumerate(location):
        missing = index == len(location) - 1 and kind == "missing"
        inside = isinstance(raw, Mapping) and part in raw
        if inside or missing or isinstance(part, int):
            parts.append(str(part))
        if inside or (isinstance(part, int) and isinstance(raw, Sequence)):
            raw = raw[part]
    return ".".join(parts)


def _fields(model: type[BaseModel], location: Sequence[str | int]) -> dict[str, FieldInfo]:
    """The fields that exist at a location: what an unknown key may have meant."""
    return {name: field for variant in _variants(model, location) for name, field in variant.model_fields.items()}


def _variants(model: type[BaseModel], location: Sequence[str | int]) -> list[type[BaseModel]]:
    """The models that may stand at a location: several where it is a union, none where it is a plain value."""
    candidates = [model]
    for part in location:
        if isinstance(part, int):  # an entry of a list is what the list is of
            continue
        found = [m for m in candidates if part in m.model_fields]
        if found:
            annotation = found[0].model_fields[part].annotation
            listed = typing.get_origin(annotation) is tuple
            candidates = models_in(typing.get_args(annotation)[0] if listed else annotation)
        else:  # the tag of a union
            candidates = [m for m in candidates if "type" in m.model_fields and m.model_fields["type"].default == part]
    return candidates


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models in the annotation of a field: several where it is a union, none where it is a plain value."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) in (typing.Annotated, typing.Union, types.UnionType):
        return [model for inner in typing.get_args(annotation) for model in models_in(inner)]
    return []
