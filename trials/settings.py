"""The base of everything that a sweep file sets."""

from __future__ import annotations

from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, ConfigDict, model_validator


class Frozen(BaseModel):
    """Immutable settings that refuse unknown keys, NaN and inf, and yes or no in the place of a number."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_bool_as_a_number(cls, raw: Any) -> Any:
        # Python has True for a kind of 1, and `epochs: true` would run one epoch. As a word it is refused in its place.
        if not isinstance(raw, dict) or not any(isinstance(value, bool) for value in raw.values()):
            return raw
        wrong = {
            key: str(value).lower()
            for key, value in raw.items()
            if isinstance(value, bool) and key in cls.model_fields and _takes_numbers(cls.model_fields[key].annotation)
        }
        return raw | wrong


def _takes_numbers(annotation: Any) -> bool:
    """Whether a field takes int or float, or null, and nothing else."""
    if get_origin(annotation) is Annotated:
        return _takes_numbers(get_args(annotation)[0])
    kinds = {get_args(each)[0] if get_origin(each) is Annotated else each for each in get_args(annotation)}
    return (kinds or {annotation}) <= {int, float, type(None)}
