"""Run folders made by hand of trials that were really run, and the command line in this process."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import main
from orchestrator.config import SweepConfig
from orchestrator.events import Anchor, Ended, Epoch, Event, State, Suggested, SweepInfo, finite
from orchestrator.ledger import Ledger
from search_spaces.space import flat, get_path
from tests.commands import PROGRAM
from trials.benchmarks import load_benchmark
from trials.config import TrialConfig
from trials.identity import fingerprint
from trials.unlearn import run_trial


class Cli:
    """Runs a command line; keeps what it said."""

    def __init__(self, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]) -> None:
        self._patch, self._capture = patch, capture

    def __call__(self, *args: object) -> tuple[int, str, str]:
        """Exit code, stdout and stderr, blanks and line breaks as single blanks."""
        self._patch.setattr(sys, "argv", [PROGRAM, *map(str, args)])
        with pytest.raises(SystemExit, match=r"\d*") as ended:
            main()
        said = self._capture.readouterr()
        return int(ended.value.code or 0), " ".join(said.out.split()), " ".join(said.err.split())


def sweep_of(base: TrialConfig, **changes: Any) -> SweepConfig:
    """A sweep around a trial."""
    raw = {"name": "small", "trial": base.model_dump(mode="json"), "scheduler": {"type": "none"}}
    return SweepConfig.model_validate(raw | changes)


class Run:
    """A run folder under construction: one call, one trial."""

    def __init__(self, place: Path, base: TrialConfig, **changes: Any) -> None:
        self.sweep = sweep_of(base, **changes)
        self.folder = place / "runs" / self.sweep.name
        self.folder.mkdir(parents=True)
        benchmark = load_benchmark(base.benchmark)
        self.data, self.model = self.sweep.digests(benchmark)
        self.info = SweepInfo(
            name=self.sweep.name,
            benchmark=base.benchmark.name,
            config=self.sweep.model_dump(mode="json"),
            objectives=dict(self.sweep.objectives),
            reference_point=self.sweep.worst(),
            fingerprint=self.sweep.fingerprint(benchmark),
            data=self.data,
            model=self.model,
            tracking_uri="sqlite:///mlflow.db",
            git_commit="c0ffee",
            versions={"unlearn-sweep": "0.1.0"},
            created=0.0,
        )
        (self.folder / "sweep.json").write_text(self.info.model_dump_json(), encoding="utf-8")
        self.events: list[Event] = []

    def anchor(self, name: Any, **metrics: float) -> None:
        self.append(Anchor(at=0.0, name=name, metrics={k.replace("__", "."): v for k, v in metrics.items()}))

    def append(self, *events: Event) -> None:
        ledger = Ledger(self.folder)
        for event in events:
            ledger.append(event)
        ledger.close()
        self.events += events

    def suggest(self, config: TrialConfig, label: str | None = None) -> str:
        number = sum(isinstance(event, Suggested) for event in self.events)
        settings = config.model_dump(mode="json")
        base = flat(self.sweep.trial.model_dump(mode="json"))
        params = {path: value for path, value in flat(settings).items() if base.get(path) != value}
        self.append(
            Suggested(
                at=0.0,
                trial_id=f"{number:05d}",
                number=number,
                label=label,
                params={path: get_path(settings, path) for path in params},
                config=settings,
                fingerprint=fingerprint(config, data=self.data, model=self.model),
                seed=config.seed,
            )
        )
        return f"{number:05d}"

    def end(
        self, trial_id: str, epochs: Sequence[dict[str, float]], state: State = "COMPLETE", failure: str | None = None
    ) -> None:
        self.append(
            *(
                Epoch(at=0.0, trial_id=trial_id, epoch=number, metrics=finite(metrics), seconds=1.0)
                for number, metrics in enumerate(epochs, 1)
            ),
            Ended(at=0.0, trial_id=trial_id, state=state, epoch=len(epochs), failure=failure),
        )

    def trial(self, config: TrialConfig, label: str | None = None) -> dict[str, float]:
        """Really run; its last metrics."""
        trial_id = self.suggest(config, label)
        results = list(run_trial(config, folder=self.folder / "trials" / trial_id))
        self.end(trial_id, [result.metrics for result in results])
        return results[-1].metrics
