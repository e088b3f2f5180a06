"""A run folder written event by event through `Ledger`, under a hostile name, and what a page of it shows."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Literal

from orchestrator.events import Anchor, Ended, Epoch, Measured, State, Suggested, SweepInfo
from orchestrator.ledger import Ledger, write_atomically
from orchestrator.report import sections
from orchestrator.report.document import Block, Table, body, markdown
from orchestrator.report.drawing import Plot
from orchestrator.results.findings import findings
from orchestrator.results.front import summarise

FORGET, RETAIN = "forget.extraction_strength", "retain.extraction_strength"
OBJECTIVES: dict[str, Literal["min", "max"]] = {FORGET: "min", RETAIN: "max"}
REFERENCE = {FORGET: 1.0, RETAIN: 0.0}
BASE = {
    "loss": {"criterion": {"type": "uniform"}, "forget_coefficient": 1.0},
    "optim": {"lr": 1e-4},
    "epochs": 4,
}
SPACE = {
    "loss.criterion": {"one_of": {"satimp": {"beta1": {"float": [0.5, 8]}}, "npo": {"beta": {"float": [0.01, 1]}}}}
}


class Run:
    """A run folder under construction: one call, one trial."""

    def __init__(self, tmp_path: Path, **info: Any) -> None:
        self.folder = tmp_path / 'it\'s a "run" & ünïcode'
        self.folder.mkdir()
        settings: dict[str, Any] = {
            "name": "criteria",
            "benchmark": "authors",
            "config": {"trial": BASE, "space": SPACE, "sampler": {"type": "tpe", "seed": 11}},
            "objectives": OBJECTIVES,
            "reference_point": REFERENCE,
            "fingerprint": "feedfacefeedface",
            "data": "da7ada7ada7ada7a",
            "model": "0de10de10de10de1",
            "tracking_uri": "sqlite:///mlflow.db",
            "git_commit": None,
            "versions": {"python": "3.11.9"},
            "created": 0.0,
        }
        sweep = SweepInfo(**(settings | info))
        write_atomically(self.folder / "sweep.json", sweep.model_dump_json())
        self.ledger = Ledger(self.folder)
        self.objectives = list(sweep.objectives)

    def anchor(self, name: Literal["target", "retain"], *values: float, **others: float) -> None:
        metrics = dict(zip(self.objectives, values, strict=False)) | dotted(others)
        self.ledger.append(Anchor(at=0.0, name=name, metrics=metrics))

    def trial(
        self,
        *values: float,
        state: State | None = "COMPLETE",
        label: str | None = None,
        params: dict[str, Any] | None = None,
        failure: str | None = None,
        **others: Any,
    ) -> None:
        """A trial with these objectives at its last epoch: the fourth, or the second if it was stopped."""
        number = sum(isinstance(event, Suggested) for event in self.ledger.events)
        trial_id, last = f"{number:05d}", 4 if state == "COMPLETE" else 2
        config = others.pop("config", BASE)
        told = {key: others.pop(key) for key in ("origin", "of", "phase", "design", "seed") if key in others}
        violations = others.pop("violations", {})
        self.ledger.append(
            Suggested(
                at=1.0 * number,
                trial_id=trial_id,
                number=number,
                label=label,
                params={"loss.criterion.type": "uniform"} if params is None else params,
                config=config,
                fingerprint="f" * 16,
                **({"seed": 5} | told),
            )
        )
        metrics = dict(zip(self.objectives, values, strict=False)) | dotted(others)
        for epoch in range(1, last + 1):
            self.ledger.append(Epoch(at=0.0, trial_id=trial_id, epoch=epoch, metrics=metrics, seconds=10.0))
        if state is not None:
            self.ledger.append(
                Ended(at=0.0, trial_id=trial_id, state=state, epoch=last, failure=failure, violations=violations)
            )

    def measured(self, number: int, failure: str | None = None, **metrics: float) -> None:
        """A trial of the front measured further."""
        trial_id = f"{number:05d}"
        self.ledger.append(Measured(trial_id=trial_id, metrics=dotted(metrics), seconds=1.0, failure=failure))

    def blocks(self) -> list[Block]:
        """The report, with figures that nobody has drawn."""
        found = findings(summarise(SweepInfo.read(self.folder), self.ledger.events))
        plots = {name: Plot(name, b"", b"", Table([], [])) for name in ("front", "hypervolume")}
        return sections.blocks(found, plots, {}, [])

    def markdown(self) -> str:
        """The report in Markdown."""
        return markdown(self.blocks())

    def section(self, title: str) -> list[str]:
        """The lines of a section of the Markdown."""
        text = self.markdown()
        return text.split(f"\n## {title}\n")[1].split("\n## ")[0].strip().splitlines()

    def texts(self) -> tuple[str, str]:
        """Markdown and visible HTML of the report, each with its white space made single."""
        page = Page()
        page.feed(body(self.blocks()))
        return " ".join(self.markdown().split()), page.text


class Page(HTMLParser):
    """Tags, attributes and visible text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self._text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self._text.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self._text).split())


def dotted(others: dict[str, float]) -> dict[str, float]:
    return {name.replace("__", "."): value for name, value in others.items()}
