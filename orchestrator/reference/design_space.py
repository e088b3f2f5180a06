"""The design space of losses as a page, made from the types: `make docs` writes docs/design-space.md.

Where a setting may stand is found by building the loss with it, so the page cannot say other than the check does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Set
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orchestrator.problems import models_in
from orchestrator.reference.official import DEFECTS, OFFICIAL, RELATED, Official
from orchestrator.report.markdown import flow, summary, table, words
from trials.objectives import LossConfig, RetainConfig
from trials.presets import PRESETS
from trials.weighting import CriterionConfig, SatImp

# -- a loss in a few words, and the verb ------------------------------------------------------------------------------


def in_words(loss: LossConfig) -> str:
    """A loss as a sum of two terms, as in `0.1 satimp (beta1 5, beta2 1) + nll`; what is at its default is left out."""
    parts = [_scaled(loss.forget_coefficient, _variant(loss.criterion))]
    if loss.granularity.type != "token":
        parts.append(f"by {_variant(loss.granularity)}")
    if loss.selection.type != "all":
        parts.append(f"on {_variant(loss.selection)}")
    if loss.scale != "none":
        parts.append(f"over its {loss.scale}")
    if loss.reduction != "token_mean":
        parts.append(loss.reduction)
    retain = loss.retain
    if retain.term == "none":
        return ", ".join(parts)
    reduced = "" if retain.reduction == "token_mean" else f", {retain.reduction}"
    return f"{', '.join(parts)} + {_scaled(retain.coefficient, retain.term)}{reduced}"


def _scaled(coefficient: float, term: str) -> str:
    return term if coefficient == 1 else f"{coefficient:g} {term}"


def _variant(part: Any) -> str:
    """Its type with its numbers, and with its other settings where they are not at their defaults."""
    shown = []
    for name, field in type(part).model_fields.items():
        value = getattr(part, name)
        number = isinstance(value, float | int) and not isinstance(value, bool)
        if name != "type" and (value != field.default or number):
            shown.append(f"{name} {value:g}" if number else f"{name} {flow(value)}")
    return f"{part.type} ({', '.join(shown)})" if shown else str(part.type)


def show_presets(console: Console) -> None:
    """Prints label, loss and source of every preset: a table to a terminal, else lines with tabs between the three."""
    rows = [
        (label, in_words(LossConfig.model_validate(loss)), source.replace("`", ""))
        for label, (loss, source) in PRESETS.items()
    ]
    if not console.is_terminal:
        console.file.writelines("\t".join(row) + "\n" for row in rows)
        return
    shown = Table("label", "loss", "source", title="published settings")
    shown.columns[0].no_wrap = console.width >= 80
    for row in rows:
        shown.add_row(*map(escape, row))
    console.print(shown)


# -- where a setting may stand ----------------------------------------------------------------------------------------

_KINDS = {str(m.model_fields["type"].default): m for m in models_in(LossConfig.model_fields["criterion"].annotation)}
_REWEIGHTINGS = [kind for kind, model in _KINDS.items() if issubclass(model, CriterionConfig)]


def _builds(loss: dict[str, Any]) -> bool:
    try:
        LossConfig.model_validate(loss)
    except ValidationError:
        return False
    return True


def _accepting(name: str, value: Any) -> list[str]:
    """The criteria beside which a setting may have a value."""
    return [kind for kind in _KINDS if _builds({"retain": {"term": "none"}, "criterion": {"type": kind}, name: value})]


def _where(kinds: list[str]) -> str:
    """A set of criteria in words."""
    missing = [kind for kind in _KINDS if kind not in kinds]
    if not missing:
        return "always"
    if len(missing) <= 2:
        return f"`criterion` is not {_either(missing)}"
    without = [kind for kind in _REWEIGHTINGS if kind not in kinds]
    if len(without) > 2:
        return f"`criterion` is {_either(kinds)}"
    others = [f"`{kind}`" for kind in kinds if kind not in _REWEIGHTINGS]
    but = f" but {_either(without)}" if without else ""
    return "`criterion` is " + " or ".join([f"a reweighting{but}", *others])


def _either(names: Iterable[str]) -> str:
    return " or ".join(f"`{name}`" for name in names)


def _settings() -> Iterator[tuple[str, str, str]]:
    """Path, values and condition of every setting of a loss."""
    yield "`loss.preset`", "a label", "always: the other settings are laid over it"
    for name in ("criterion", "granularity", "selection"):
        variants = models_in(LossConfig.model_fields[name].annotation)
        by_place: dict[str, list[str]] = {}
        for variant in variants:
            kind = str(variant.model_fields["type"].default)
            where = "always" if name == "criterion" else _where(_accepting(name, {"type": kind}))
            by_place.setdefault(where, []).append(kind)
        for where, kinds in by_place.items():
            yield f"`loss.{name}.type`", ", ".join(kinds), where
        yield from _parameters(name, variants)
    for name in ("scale", "reduction"):
        yield from _choices(f"loss.{name}", _places(name, LossConfig))
    yield "`loss.forget_coefficient`", _type_of(LossConfig, "forget_coefficient"), "always"
    yield from _choices("loss.retain.term", _places("term", RetainConfig))
    some = "`retain.term` is not `none`"
    yield "`loss.retain.coefficient`", _type_of(RetainConfig, "coefficient"), some
    reductions = {value: _terms_with(value) for value in _values(RetainConfig, "reduction")}
    yield from _choices("loss.retain.reduction", reductions)


def _parameters(name: str, variants: Iterable[type[BaseModel]]) -> Iterator[tuple[str, str, str]]:
    """The variants' own settings; those of one name and type in one row."""
    found: dict[tuple[str, str], list[str]] = {}
    for variant in variants:
        for field in variant.model_fields:
            if field != "type":
                key = field, _type_of(variant, field)
                found.setdefault(key, []).append(str(variant.model_fields["type"].default))
    for (field, type_words), kinds in found.items():
        yield f"`loss.{name}.{field}`", type_words, f"`{name}` is {_either(kinds)}"


def _places(name: str, model: type[BaseModel]) -> dict[str, str]:
    """Value -> where it may stand, of a setting of the loss or of its retain term."""
    inside = model is RetainConfig
    return {
        value: _where(_accepting("retain" if inside else name, {name: value} if inside else value))
        for value in _values(model, name)
    }


def _terms_with(reduction: str) -> str:
    terms = [
        term
        for term in _values(RetainConfig, "term")
        if any(_builds({"criterion": {"type": k}, "retain": {"term": term, "reduction": reduction}}) for k in _KINDS)
    ]
    return "always" if len(terms) == len(_values(RetainConfig, "term")) else f"`retain.term` is {_either(terms)}"


def _choices(path: str, places: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    for place in dict.fromkeys(places.values()):
        yield f"`{path}`", ", ".join(value for value in places if places[value] == place), place


def _values(model: type[BaseModel], name: str) -> list[str]:
    values: list[str] = model.model_json_schema()["properties"][name]["enum"]
    return values


def _type_of(model: type[BaseModel], name: str) -> str:
    return words(model.model_json_schema()["properties"][name])


def _parts() -> Iterator[tuple[str, str, str]]:
    """Every variant, what it is, and what a trial must compute for it."""
    for name in ("criterion", "granularity", "selection"):
        for model in models_in(LossConfig.model_fields[name].annotation):
            needs: Set[str] = getattr(model, "needs", frozenset())
            kind = model.model_fields["type"].default
            yield f"`{name}: {kind}`", summary(model.__doc__), ", ".join(sorted(needs))


# -- the shape of weights ---------------------------------------------------------------------------------------------


class Shape(NamedTuple):
    """p^beta1 * (1 - p)^beta2 in numbers: where it is largest, how large, its mean over p, and next to p = 1."""

    peak_p: float
    largest: float
    mean: float
    at_900: float
    at_990: float
    at_999: float


def shape_of(beta1: float, beta2: float) -> Shape:
    """The numbers of a pair of exponents, of which one at least is not 0; the mean is over p uniform in (0, 1)."""
    mean = math.exp(math.lgamma(beta1 + 1) + math.lgamma(beta2 + 1) - math.lgamma(beta1 + beta2 + 2))
    near_one = [p**beta1 * (1 - p) ** beta2 for p in (0.9, 0.99, 0.999)]
    return Shape(beta1 / (beta1 + beta2), SatImp(beta1=beta1, beta2=beta2).peak(), mean, *near_one)


_PAIRS = ((1.0, 0.0), (5.0, 0.0), (0.0, 5.0), (5.0, 0.1), (4.0, 0.1), (5.0, 0.5), (5.0, 1.0), (10.0, 1.0))


def _shapes() -> Iterator[list[str]]:
    for pair in _PAIRS:
        yield [f"{number:.3g}" for number in (*pair, *shape_of(*pair))]


# -- the page ---------------------------------------------------------------------------------------------------------

_INTRODUCTION = """\
# The design space

Made from the code by `make docs`; do not edit.

A *reweighting* gives each answer token of the forget set a weight, without gradient, and takes

    loss = -forget_coefficient * sum(weight * cross-entropy) / count + retain.coefficient * retain term

The count is that of the answer tokens of the optimiser step, never the sum of the weights, which would undo saturation.
With p the token's probability under the model and p_ref under the start model,

    weight = p^beta1 * (1 - p)^beta2 * [2 p^beta / (p^beta + p_ref^beta + 1e-5)] * selection

beta1 is saturation (SimSat, WGA: what is forgotten already is let go), beta2 importance (SimImp: what is known best is
let be), both together SatImp; the bracket, alone or with beta1, is TNPO or WTNPO. `granularity` says over which tokens
likelihoods or weights are pooled; `selection`, which comes after it, which tokens count; `scale: peak` divides by the
largest weight that the exponents allow. Objectives that are no reweightings (npo, rmu, ...) stand in the same place, so
one conditional space holds all of them: a search may choose among criteria, each with its own settings
([sweep files](sweep-file.md)).

    loss: {preset: satimp_gd_readme, retain: {coefficient: 1.0}}     # a published setting, and what differs from it
"""

_OFFICIAL = """\
The SatImp repository (arXiv 2505.11953) chooses its losses by name: 60 branches in five trainer files, 56 names. All of
them are points of this space. B numbers are those of the [defects](#defects).
"""


def page() -> str:
    """The page, in Markdown."""
    lines = [_INTRODUCTION, "## Variants", ""]
    lines += ["*Needs*: what a trial computes for it beyond the cross-entropies of its own micro-batch.", ""]
    lines += table(["variant", "", "needs"], _parts())
    kinds = ", ".join(f"`{kind}`" for kind in _REWEIGHTINGS)
    lines += ["", "## Settings", "", f"The reweightings are {kinds}.", ""]
    lines += table(["path", "values", "where"], _settings())
    lines += ["", "## Presets", "", "For `loss.preset`, `baselines` and `unlearn-sweep trial --preset`; on a terminal,"]
    lines += ["`unlearn-sweep presets`. What a preset leaves out stands at its default.", ""]
    lines += table(
        ["label", "loss", "source"], ((f"`{label}`", flow(loss), source) for label, (loss, source) in PRESETS.items())
    )
    lines += ["", "## Official names", "", _OFFICIAL, *_names(OFFICIAL)]
    lines += ["", "Beside them, a prefix of the same release and the names of its predecessor (arXiv 2502.19301):", ""]
    lines += _names(RELATED)
    lines += ["", "## Defects", "", "What is wrong in published code, and what is done here instead.", ""]
    lines += table(["", "published", "here"], ((number, *pair) for number, pair in DEFECTS.items()))
    small, great = shape_of(5, 0.1).at_990, shape_of(5, 1).at_990
    lines += ["", "## The shape of weights", "", "p^beta1 * (1 - p)^beta2; the mean is over p uniform in (0, 1).", ""]
    lines += table(["beta1", "beta2", "largest at p", "largest", "mean", "p = .9", "p = .99", "p = .999"], _shapes())
    lines += ["", "Equal exponents are not equal step sizes: on a memorised token (p = .99), beta2 = 1 gives a weight"]
    lines += [f"{small / great:.0f} times smaller than beta2 = 0.1, and a retain term of coefficient 1 then dominates."]
    return "\n".join(lines) + "\n"


def _names(rows: dict[str, Official]) -> list[str]:
    return table(
        ["name", "files", "preset", ""],
        (
            (f"`{name}`", ", ".join(row.files), ", ".join(f"`{label}`" for label in row.presets), row.remark)
            for name, row in rows.items()
        ),
    )


if __name__ == "__main__":
    print(page(), end="")
