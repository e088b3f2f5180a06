"""All that a report tells of a sweep, computed once: sections and figures read it, and compute nothing themselves."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.events import Record
from orchestrator.results import attainment, choices, effects, effort, evidence, importance, published
from orchestrator.results.attainment import Surface
from orchestrator.results.choices import Choice
from orchestrator.results.effects import AblationTable
from orchestrator.results.effort import EpochFront, EpochPoint, Methods
from orchestrator.results.evidence import Confirmed
from orchestrator.results.front import Summary, hypervolume_of
from orchestrator.results.importance import Importance
from orchestrator.results.published import Published


@dataclass(frozen=True)
class Findings:
    """A summary and what follows from it; most fields are what the function of that name returns.

    Attributes:
        summary: What came out.
        confirmed: Points that several seeds speak for, best first objective first.
        attainment: What fronts of single seeds attained.
        choices: The knee and its alternatives.
        published: The published settings against the front.
        epoch_fronts: The front after each epoch.
        any_epoch_front: Points that no trial dominates at any epoch.
        volume: Epochs spent, and the hypervolume after them.
        methods: Methods at equal cost.
        importance: Which parameters decide who reaches the front.
        ablations: What each part of a setting does.
        over_forgotten: trial_id of candidates to which the forget set is less likely than to a model that never saw it.
    """

    summary: Summary
    confirmed: list[Confirmed]
    attainment: list[Surface]
    choices: list[Choice]
    published: list[Published]
    epoch_fronts: list[EpochFront]
    any_epoch_front: list[EpochPoint]
    volume: tuple[list[int], list[float]]
    methods: Methods
    importance: Importance | None
    ablations: list[AblationTable]
    over_forgotten: frozenset[str]

    @property
    def knee(self) -> Record | None:
        """The trial to take: the knee of the front, of the confirmed one where there is one."""
        return self.choices[0].record if self.choices else None

    @property
    def published_volume(self) -> float | None:
        """Hypervolume of the published settings alone; None where none is a candidate."""
        alone = [each.record for each in self.published if each.record is not None and each.candidate]
        info = self.summary.info
        return hypervolume_of(alone, info.objectives, info.reference_point) if alone else None


def findings(summary: Summary) -> Findings:
    """What follows from a summary."""
    confirmed = evidence.confirmed(summary)
    return Findings(
        summary=summary,
        confirmed=confirmed,
        attainment=attainment.attainment(summary, confirmed),
        choices=choices.choices(summary, confirmed),
        published=published.published(summary, confirmed),
        epoch_fronts=effort.epoch_fronts(summary),
        any_epoch_front=effort.any_epoch_front(summary),
        volume=effort.volume_by_epochs(summary),
        methods=effort.by_method(summary),
        importance=importance.importance(summary),
        ablations=effects.ablations(summary),
        over_forgotten=_over_forgotten(summary),
    )


def _over_forgotten(summary: Summary) -> frozenset[str]:
    gold = summary.anchors.get("retain", {}).get("forget.nll")
    if gold is None:
        return frozenset()
    return frozenset(r.trial_id for r in summary.candidates if r.metrics.get("forget.nll", gold) > gold)
