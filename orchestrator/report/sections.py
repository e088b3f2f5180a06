"""A report in reading order: the answer, the front and what to copy from it, what backs it, how it came about.

Each section is a list of blocks, empty where there is nothing to say; none formats markup, and none computes what
`findings` has.
"""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.report import anchor_sections, front_sections, record_sections, search_sections
from orchestrator.report.answer import answer
from orchestrator.report.document import Block, Heading, Paragraph
from orchestrator.report.drawing import Plot
from orchestrator.report.phrasing import count, enumerated
from orchestrator.results.findings import Findings
from orchestrator.results.front import Summary


def blocks(found: Findings, plots: Mapping[str, Plot], links: Mapping[str, str], weights: list[Block]) -> list[Block]:
    """The whole report.

    Args:
        found: What there is to say.
        plots: Name -> figure: `front` and `hypervolume`, and those of others that there is something to draw for.
        links: Title -> URL.
        weights: A section made elsewhere, that of `weight_profiles`.
    """
    summary = found.summary
    return [
        Heading(f"Sweep {summary.info.name}", 1),
        Paragraph((_subject(summary),)),
        *answer(found),
        *front_sections.picture(found, plots["front"]),
        *front_sections.setting(found),
        *front_sections.choice(found),
        *front_sections.confirmed(found),
        *front_sections.front(found),
        *anchor_sections.over_forgetting(summary),
        *anchor_sections.before(summary),
        *front_sections.published(found),
        *search_sections.ablations(found),
        *search_sections.methods(found, plots),
        *search_sections.parameters(found, plots),
        *search_sections.volume(found, plots),
        *search_sections.epochs(found, plots),
        *anchor_sections.other_metrics(found),
        *weights,
        *front_sections.constraints(found),
        *search_sections.cost(found),
        *record_sections.failures(summary),
        *record_sections.varied(summary),
        *record_sections.phases(summary),
        *record_sections.provenance(found),
        *record_sections.tracking(links),
    ]


def _subject(summary: Summary) -> str:
    """What was tried on what, and what is good."""
    better = {"min": "lower is better", "max": "higher is better"}
    objectives = [f"{name} ({better[direction]})" for name, direction in summary.info.objectives.items()]
    described = str(summary.info.config.get("description") or "").strip()
    if described:
        described = f"{described[:1].upper()}{described[1:]}{'' if described[-1] in '.?!' else '.'} "
    return (
        described
        + f"{count(len(summary.records), 'trial has', 'trials have')} ended on benchmark {summary.info.benchmark}. "
        + f"{'Objective' if len(objectives) == 1 else 'Objectives'}: {enumerated(objectives)}."
    )
