"""Whose checkpoints a sweep keeps: a setting, and what follows from it for the trials that have ended."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal

from pydantic import Field, PositiveInt, model_validator

from orchestrator.events import Record
from orchestrator.results.front import Objectives, candidates_of, front_of
from trials.settings import Frozen


class Checkpoints(Frozen):
    """Which trials that have ended keep their checkpoint; one that runs or is paused has one in any case."""

    keep: Literal["front", "best_k", "all", "none"] = Field(
        "front", description="who keeps it at full budget; also `checkpoints: all`. What `evaluation.front` lacks waits"
    )
    k: PositiveInt = Field(5, description="how many, of best_k")
    by: str | None = Field(None, description="metric that best_k goes by; null: the first objective")

    @model_validator(mode="before")
    @classmethod
    def _word(cls, raw: Any) -> Any:
        return {"keep": raw} if isinstance(raw, str) else raw

    @model_validator(mode="after")
    def _of_best_k(self) -> Checkpoints:
        fields = type(self).model_fields
        more = [name for name in ("k", "by") if getattr(self, name) != fields[name].default]
        if more and self.keep != "best_k":
            raise ValueError(f"{' and '.join(more)}: of keep: best_k only, and this is keep: {self.keep}; leave it out")
        return self


def best_of(found: Iterable[Record], count: int, by: Mapping[str, Literal["min", "max"]]) -> list[Record]:
    """The best points of their own by one metric, that ran here and keep the constraints; of equals the earlier one.

    Args:
        found: Ended trials.
        count: How many.
        by: The metric and which way it is better.
    """
    ((name, better),) = by.items()
    sign = 1.0 if better == "min" else -1.0
    there = [record for record in candidates_of(found, by) if record.origin != "earlier"]
    return sorted(there, key=lambda record: (sign * record.metrics[name], record.trial_id))[:count]


def contenders(
    keep: Checkpoints, found: Iterable[Record], objectives: Objectives, by: Mapping[str, Literal["min", "max"]]
) -> list[Record]:
    """Those of the ended trials that decide about the next one: who is not among them never will be, whatever comes.

    Args:
        keep: The setting.
        found: Ended trials.
        objectives: The sweep's.
        by: What `best_k` goes by.
    """
    found = list(found)
    best = best_of(found, keep.k, by) if keep.keep == "best_k" else []
    return list({record.trial_id: record for record in (*front_of(found, objectives), *best)}.values())


def keepers(
    keep: Checkpoints,
    among: Iterable[Record],
    objectives: Objectives,
    by: Mapping[str, Literal["min", "max"]],
    *,
    due: Collection[str] = (),
) -> set[str]:
    """trial_ids that keep their checkpoint, of ended trials or of their `contenders`; not for `all`.

    Args:
        keep: The setting.
        among: Ended trials.
        objectives: The sweep's.
        by: What `best_k` goes by.
        due: Members of the front that are still to be measured: from their checkpoints.
    """
    among = list(among)
    front = {record.trial_id for record in front_of(among, objectives)}
    kept = {"front": front, "best_k": {r.trial_id for r in best_of(among, keep.k, by)}}.get(keep.keep, set())
    return kept | (front & set(due))
