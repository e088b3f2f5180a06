"""What a sweep varies: a tree of ranges and choices, keyed by paths into `TrialConfig`.

    space:
      loss.criterion:  {one_of: {satimp: {beta1: {float: [0.5, 8]}, beta2: {float: [0, 1]}}, npo: {beta: {float: [0.01, 1], log: true}}}}
      loss.granularity: {choice: [token, instance], when: {loss.criterion: [saturation, satimp]}}
      optim.lr:
        - {float: [1.0e-4, 1.0e-3], log: true, when: {model.adapter: none}}
        - {float: [1.0e-3, 1.0e-2], log: true, when: {model.adapter: lora}}

`one_of` picks a variant of a union (its `type`) together with that variant's own parameters; `when` makes a parameter
exist only where an earlier one has one of the named values, and a list gives the same path another range in each case.
The space is walked in the order of the file by anything with Optuna's `suggest_*` methods.
"""  # noqa: E501 (one parameter a line, as in a file)

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

Scalar = bool | int | float | str | None


class Suggester(Protocol):
    """The part of `optuna.Trial` that a space needs."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...
    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int: ...
    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...


@dataclass(frozen=True)
class Float:
    """A real number in [low, high]."""

    low: float
    high: float
    log: bool = False

    def suggest(self, trial: Suggester, name: str) -> float:
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    def holds(self, value: Any) -> bool:
        return _is_number(value) and self.low <= value <= self.high

    def examples(self) -> list[Any]:
        """Values that check the whole range: its ends."""
        return [self.low, self.high]

    def __str__(self) -> str:
        return f"{self.low:g} .. {self.high:g}{' (log)' if self.log else ''}"


@dataclass(frozen=True)
class Int:
    """A whole number in [low, high]."""

    low: int
    high: int
    log: bool = False

    def suggest(self, trial: Suggester, name: str) -> int:
        return trial.suggest_int(name, self.low, self.high, log=self.log)

    def holds(self, value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high

    def examples(self) -> list[Any]:
        """Values that check the whole range: its ends."""
        return [self.low, self.high]

    def __str__(self) -> str:
        return f"{self.low} .. {self.high}{' (log)' if self.log else ''} whole"


@dataclass(frozen=True)
class Choice:
    """One of a few values."""

    choices: tuple[Scalar, ...]

    def suggest(self, trial: Suggester, name: str) -> Scalar:
        return trial.suggest_categorical(name, self.choices)  # type: ignore[no-any-return]

    def holds(self, value: Any) -> bool:
        return value in self.choices

    def examples(self) -> list[Any]:
        """Values that check the whole range: all of them."""
        return list(self.choices)

    def __str__(self) -> str:
        return " | ".join(map(str, self.choices))


Domain = Float | Int | Choice


@dataclass(frozen=True)
class Parameter:
    """One dimension: where it goes in the trial, what it may be, and when it exists.

    Attributes:
        name: Unique name, as Optuna knows it.
        path: Dotted path into `TrialConfig`.
        domain: Its values.
        when: Path of an earlier choice -> the values at which this parameter exists; all must hold.
    """

    name: str
    path: str
    domain: Domain
    when: Mapping[str, tuple[Scalar, ...]]


class SpaceError(ValueError):
    """A space that cannot be read; `path` says where."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(message)
        self.path = path


@dataclass(frozen=True)
class SearchSpace:
    """Parameters in the order in which they are suggested."""

    parameters: tuple[Parameter, ...]

    @classmethod
    def parse(cls, raw: Mapping[str, Any], base: Mapping[str, Any]) -> SearchSpace:
        """Reads the `space:` of a sweep file.

        Args:
            raw: Path -> node, as in the file.
            base: The base trial as a nested dict: settles conditions on what is not searched.

        Raises:
            SpaceError: At the first node that is not a domain, naming it, the rule and the remedy.
        """
        parameters: list[Parameter] = []
        for read in (found for path, node in raw.items() for found in _read(str(path), node, {})):
            searched = {parameter.path for parameter in parameters}
            when: dict[str, tuple[Scalar, ...]] = {}
            exists = True
            for path, allowed in read.when.items():
                selector = path if path in searched else f"{path}.type"
                if selector in searched:
                    when[selector] = allowed
                elif get_path(base, path) is None:
                    raise SpaceError(
                        read.path,
                        f"`when` names {path!r}, which no trial has; correct it or drop the condition",
                    )
                else:
                    exists = exists and _variant(get_path(base, path)) in allowed
            if exists:
                parameters.append(replace(read, when=when))
        return cls(tuple(_named(parameters)))

    def suggest(self, trial: Suggester) -> dict[str, Scalar]:
        """One point: dotted path -> value, in the order of the file."""
        values: dict[str, Scalar] = {}
        for parameter in self.parameters:
            if _active(parameter, values):
                values[parameter.path] = parameter.domain.suggest(trial, parameter.name)
        return values

    def locate(self, settings: Mapping[str, Any]) -> dict[str, Scalar] | None:
        """Optuna names and values of a trial's settings, or None where these lie outside the space.

        Args:
            settings: A trial as a nested dict, complete.
        """
        values: dict[str, Scalar] = {}
        located: dict[str, Scalar] = {}
        for parameter in self.parameters:
            if not _active(parameter, values):
                continue
            value = get_path(settings, parameter.path)
            if not parameter.domain.holds(value):
                return None
            values[parameter.path] = located[parameter.name] = value
        return located

    def corners(self) -> Iterator[dict[str, Scalar]]:
        """Points that touch both ends of every range and every choice, each at least once."""
        most = max((len(parameter.domain.examples()) for parameter in self.parameters), default=0)
        variants = [p for p in self.parameters if p.path.endswith(".type") or isinstance(p.domain, Choice)]
        for forced in [None, *variants]:
            for value in forced.domain.examples() if forced else [None]:
                for index in range(most):
                    yield self._corner(index, {forced.path: value} if forced else {})

    def _corner(self, index: int, forced: dict[str, Scalar]) -> dict[str, Scalar]:
        values: dict[str, Scalar] = {}
        for parameter in self.parameters:
            if _active(parameter, values):
                examples = parameter.domain.examples()
                values[parameter.path] = forced.get(parameter.path, examples[min(index, len(examples) - 1)])
        return values

    def size(self) -> int | None:
        """Number of distinct points, or None when a real range makes them uncountable."""
        deciding = {path for parameter in self.parameters for path in parameter.when}
        branches: list[tuple[dict[str, Scalar], int]] = [({}, 1)]  # values of what others depend on, points so far
        for parameter in self.parameters:
            domain = parameter.domain
            if isinstance(domain, Float):
                return None
            values = domain.choices if isinstance(domain, Choice) else range(domain.low, domain.high + 1)
            grown = []
            for point, count in branches:
                if not _active(parameter, point):
                    grown.append((point, count))
                elif parameter.path in deciding:
                    grown += [({**point, parameter.path: value}, count) for value in values]
                else:
                    grown.append((point, count * len(values)))
            branches = grown
        return sum(count for _, count in branches)


# -- paths -------------------------------------------------------------------------------------------------------------


def get_path(tree: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path, None where the path leads nowhere."""
    node: Any = tree
    for key in path.split("."):
        if not isinstance(node, Mapping) or key not in node:
            return None
        node = node[key]
    return node


def with_paths(tree: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a nested dict with values set at dotted paths.

    Setting `x.type` to another variant drops what the old variant left at `x`: its keys mean nothing to the new one.
    """
    result = copy.deepcopy(dict(tree))
    for path, value in values.items():
        *parents, last = path.split(".")
        node = result
        for key in parents:
            if not isinstance(node.get(key), dict):
                node[key] = {}
            node = node[key]
        if last == "type" and node.get("type") != value:
            node.clear()
        node[last] = value
    return result


# -- reading -----------------------------------------------------------------------------------------------------------


def _read(path: str, node: Any, when: dict[str, tuple[Scalar, ...]]) -> Iterator[Parameter]:
    if isinstance(node, list):
        for case in node:
            if not isinstance(case, Mapping) or "when" not in case:
                raise SpaceError(path, "each case of a list needs its own `when`: {path: value}")
            yield from _read(path, case, when)
        return
    if not isinstance(node, Mapping):
        raise SpaceError(
            path,
            f"{node!r} is not a range; write {{float: [low, high]}}, {{int: ..}}, {{choice: [..]}}, {{one_of: ..}}",
        )
    node = dict(node)
    when = {**when, **_conditions(path, node.pop("when", {}))}
    if "one_of" in node:
        yield from _read_one_of(path, node, when)
    else:
        yield Parameter(path, path, _domain(path, node), when)


def _read_one_of(path: str, node: dict[str, Any], when: dict[str, tuple[Scalar, ...]]) -> Iterator[Parameter]:
    variants = node.pop("one_of")
    if node or not isinstance(variants, Mapping) or not variants:
        raise SpaceError(
            path, "`one_of` stands alone and maps each variant to its own ranges: {one_of: {satimp: {..}}}"
        )
    selector = Parameter(f"{path}.type", f"{path}.type", Choice(tuple(map(str, variants))), when)
    yield selector
    for variant, nodes in variants.items():
        if not isinstance(nodes or {}, Mapping):
            raise SpaceError(
                f"{path}.{variant}",
                f"{nodes!r} must map parameters of {variant} to ranges; use {{}} for none",
            )
        for key, inner in (nodes or {}).items():
            yield from _read(f"{path}.{key}", inner, {**when, selector.path: (str(variant),)})


def _conditions(path: str, raw: Any) -> dict[str, tuple[Scalar, ...]]:
    if not isinstance(raw, Mapping):
        raise SpaceError(path, f"`when` is {raw!r}; it maps an earlier path to the value or values it must have")
    return {str(key): tuple(value) if isinstance(value, list) else (value,) for key, value in raw.items()}


def _domain(path: str, node: dict[str, Any]) -> Domain:
    kinds = {"float", "int", "choice"} & set(node)
    log = node.get("log", False)
    if len(kinds) != 1 or set(node) - kinds - {"log"} or not isinstance(log, bool):
        raise SpaceError(path, f"{node!r} must have one of float, int, choice, one_of (and log: true or false)")
    kind = kinds.pop()
    values = node[kind]
    if not isinstance(values, list) or not values:
        raise SpaceError(path, f"{kind}: {values!r} must be a list with something in it")
    if kind == "choice":
        if log or any(isinstance(value, list | dict) for value in values):
            raise SpaceError(path, f"choice: {values!r} takes single values and no `log`")
        return Choice(tuple(values))
    if len(values) != 2 or not all(_is_number(value) for value in values) or not values[0] < values[1]:
        raise SpaceError(path, f"{kind}: {values!r} must be [low, high] with low < high")
    if log and values[0] <= 0:
        raise SpaceError(path, f"{kind}: {values!r} with log: true needs low > 0; raise it or drop log")
    if kind == "int":
        if any(value != int(value) for value in values):
            raise SpaceError(path, f"int: {values!r} must be whole numbers; use float")
        return Int(int(values[0]), int(values[1]), log)
    return Float(float(values[0]), float(values[1]), log)


def _active(parameter: Parameter, values: Mapping[str, Scalar]) -> bool:
    return all(path in values and values[path] in allowed for path, allowed in parameter.when.items())


def _variant(value: Any) -> Any:
    """What a condition compares: the `type` of a union, any other value as it is."""
    return value.get("type") if isinstance(value, Mapping) else value


def _named(parameters: list[Parameter]) -> Iterator[Parameter]:
    """Gives a path that stands in several branches one name a branch: Optuna wants one range a name."""
    often = {path for path, count in Counter(p.path for p in parameters).items() if count > 1}
    names: set[str] = set()
    for parameter in parameters:
        branch = "".join(f"@{'|'.join(map(str, values))}" for values in parameter.when.values())
        name = parameter.path + (branch if parameter.path in often else "")
        if name in names:
            raise SpaceError(parameter.path, f"{name!r} stands twice under the same condition; drop one")
        names.add(name)
        yield replace(parameter, name=name)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
