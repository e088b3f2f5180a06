"""Points that are known beforehand: the grid of a space, and ablations around one setting. Pure, without a sampler."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import ValidationError

from orchestrator.search.config import Ablation, Grid
from search_spaces.space import Domain, Float, Int, SearchSpace, get_path, variant, with_paths
from trials.config import TrialConfig

BASE = "base"
"""What the design calls the setting that it starts from."""

Point = dict[str, Any]

_NOWHERE = object()


def levels(domain: Domain, count: int) -> list[Any]:
    """A few values of a domain, ascending: its ends and, evenly between them (by ratio where log), the others.

    Args:
        domain: A range; of choices all are given, in their order.
        count: Values of a range, at least 2; fewer where whole numbers coincide.
    """
    if isinstance(domain, Float | Int):
        space = np.geomspace if domain.log else np.linspace
        inner = space(domain.low, domain.high, count)[1:-1].tolist()
        values = [domain.low, *inner, domain.high]
        return list(dict.fromkeys(round(value) for value in values)) if isinstance(domain, Int) else values
    return list(domain.choices)


def points(space: SearchSpace, values: Mapping[str, Sequence[Any]]) -> Iterator[Point]:
    """Every combination that the conditions of a space allow, the first parameter changing slowest.

    Args:
        space: The space.
        values: Name of each parameter -> the values that it takes.
    """
    wheels = _Odometer(values)
    while True:
        yield space.suggest(wheels)
        if not wheels.turn():
            return


def grid_points(space: SearchSpace, grid: Grid) -> list[Point]:
    """The points of a grid (path -> value), in the order in which they are run."""
    found = list(points(space, {p.name: levels(p.domain, grid.levels) for p in space.parameters}))
    if grid.shuffle:
        return [found[index] for index in np.random.default_rng(grid.seed).permutation(len(found))]
    return found


def ablation_points(
    ablation: Ablation,
    space: SearchSpace,
    base: Mapping[str, Any],
    origin_trial: Mapping[str, Any],
    *,
    checked: bool = True,
) -> list[tuple[str, Point]]:
    """The settings of an ablation, as what is to be set on the base.

    Args:
        ablation: The design.
        space: The sweep's space: says what is searched, and its values.
        base: The setting that it starts from, a trial as a nested dict.
        origin_trial: The sweep's own trial, which `leave_one_out` goes back to.
        checked: Whether each setting must be a valid trial.

    Returns:
        (words, path -> value) each: `base`, `loss.granularity = token`, `without optim.lr`, `a = 1, b = 2`.

    Raises:
        ValueError: A path without values is not searched or not there, lists to be paired differ in length, or a
            setting is no valid trial: which, and why.
    """
    searched = _at(space, base)
    if ablation.design == "leave_one_out":
        found = _without_one(list(ablation.values or searched), base, origin_trial)
    else:
        given = ablation.values or dict.fromkeys(searched, ())
        lists = {path: list(own) or _searched(path, searched, ablation.levels) for path, own in given.items()}
        found = list(_DESIGNS[ablation.design](lists, base))
    if checked:
        for words, point in found:
            _check(words, with_paths(base, point))
    return found


def _one_factor(lists: Mapping[str, list[Any]], base: Mapping[str, Any]) -> Iterator[tuple[str, Point]]:
    yield BASE, {}
    for path, values in lists.items():
        for value in values:
            if value != variant(get_path(base, path)):
                yield _words({path: value}), {path: value}


def _factorial(lists: Mapping[str, list[Any]], base: Mapping[str, Any]) -> Iterator[tuple[str, Point]]:
    return _named(dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values()))


def _paired(lists: Mapping[str, list[Any]], base: Mapping[str, Any]) -> Iterator[tuple[str, Point]]:
    if len({len(values) for values in lists.values()}) > 1:
        lengths = ", ".join(f"{path} has {len(values)}" for path, values in lists.items())
        raise ValueError(f"paired takes lists of equal length: {lengths}; make them equal or use factorial")
    return _named(dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True))


_Design = Callable[[Mapping[str, list[Any]], Mapping[str, Any]], Iterator[tuple[str, Point]]]
_DESIGNS: dict[str, _Design] = {"one_factor": _one_factor, "factorial": _factorial, "paired": _paired}


def _without_one(
    paths: Sequence[str], base: Mapping[str, Any], origin_trial: Mapping[str, Any]
) -> list[tuple[str, Point]]:
    found: list[tuple[str, Point]] = [(BASE, {})]
    for path in paths:
        if get_path(base, path, _NOWHERE) is _NOWHERE:
            raise ValueError(f"{path!r} is not there at the base, so nothing can be left out; correct the path")
        own = get_path(origin_trial, path, _NOWHERE)
        if own is _NOWHERE or own == get_path(base, path):
            continue  # the sweep's trial is of another variant and has nothing to go back to, or is the same
        union, _, last = path.rpartition(".")
        # A variant goes back with its own parameters, not with the defaults of that variant.
        whole = get_path(origin_trial, union) if last == "type" else {}
        found.append((f"without {path}", {f"{union}.{key}": value for key, value in whole.items()} or {path: own}))
    return found


# -- what is searched at a base ----------------------------------------------------------------------------------------


def _at(space: SearchSpace, base: Mapping[str, Any]) -> dict[str, Domain]:
    """Path -> domain of the parameters that exist at a setting."""
    reader = _Reader({p.name: variant(get_path(base, p.path)) for p in space.parameters})
    space.suggest(reader)
    return {p.path: p.domain for p in space.parameters if p.name in reader.asked}


def _searched(path: str, searched: Mapping[str, Domain], count: int) -> list[Any]:
    if path not in searched:
        raise ValueError(f"{path!r} is not searched at the base, so its values are not known; list them")
    return levels(searched[path], count)


def _check(words: str, settings: Mapping[str, Any]) -> None:
    try:
        TrialConfig.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{words}: {f'{where}: ' if where else ''}{message}") from None


# -- words -------------------------------------------------------------------------------------------------------------


def _named(settings: Iterable[Point]) -> Iterator[tuple[str, Point]]:
    for point in settings:
        yield _words(point), point


def _words(point: Point) -> str:
    return ", ".join(f"{path} = {_short(value)}" for path, value in point.items()) or BASE


def _short(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    return f"{value:.6g}" if isinstance(value, float) else str(value)


# -- what a space asks -------------------------------------------------------------------------------------------------


class _Suggester(ABC):
    """Answers whatever a space asks by the parameter's name alone."""

    @abstractmethod
    def __call__(self, name: str) -> Any: ...

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> Any:
        return self(name)

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> Any:
        return self(name)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self(name)


class _Reader(_Suggester):
    """Says what stands at a setting, and remembers what was asked for."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values
        self.asked: set[str] = set()

    def __call__(self, name: str) -> Any:
        self.asked.add(name)
        return self.values[name]


class _Odometer(_Suggester):
    """Takes each parameter through its values; the wheels are those that the conditions let exist."""

    def __init__(self, values: Mapping[str, Sequence[Any]]) -> None:
        self.values = values
        self.wheels: list[tuple[str, int]] = []  # parameter and position of its value, in the order of the space
        self.asked = 0

    def __call__(self, name: str) -> Any:
        if self.asked == len(self.wheels):
            self.wheels.append((name, 0))
        name, position = self.wheels[self.asked]
        self.asked += 1
        return self.values[name][position]

    def turn(self) -> bool:
        """Goes on by one point; False after the last."""
        self.asked = 0
        while self.wheels:
            name, position = self.wheels.pop()
            if position + 1 < len(self.values[name]):
                self.wheels.append((name, position + 1))
                return True
        return False
