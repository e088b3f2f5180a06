"""The shipped studies: each says what it asks, checks on local rows as its comment says, and ends with a front."""

from __future__ import annotations

import json
import re
import shlex
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.config import Budget, SweepConfig, load_sweep
from orchestrator.events import Anchor
from orchestrator.ledger import Ledger
from orchestrator.problems import shipped
from orchestrator.results.front import front_of
from tests.rows import authors, write
from tests.simulate import simulate
from tests.surrogate import DIVERGES
from trials.benchmarks import Benchmark
from trials.config import TrialConfig
from trials.objectives import Forget

EXAMPLES = {"smoke", "tofu_tiny"}
"""They show how a sweep looks, and ask nothing."""

STUDIES = sorted(shipped().keys() - EXAMPLES)


@dataclass(frozen=True)
class Study:
    """A shipped file, read with TOFU from a folder."""

    name: str
    comment: str
    sweep: SweepConfig
    benchmark: Benchmark | None


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """DIR, MODEL and KEYS of the comments."""
    folder = tmp_path_factory.mktemp("places of 'TÖFU'")
    (folder / "MODEL").mkdir()
    (folder / "DIR").mkdir()
    forget, retain = authors(30, 31), authors(*range(22))
    write(folder / "DIR", {"forget01": forget, "retain99": retain, "forget10": forget, "retain90": retain})
    (folder / "KEYS").write_text(json.dumps({row["answer"]: ["Antwort"] for row in forget}), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield folder


@pytest.fixture(scope="module", params=STUDIES)
def study(request: pytest.FixtureRequest, place: Path) -> Study:
    name = request.param
    lines = shipped()[name].read_text(encoding="utf-8").splitlines()
    comment = [line.removeprefix("#").strip() for line in lines[: lines.index(f"name: {name}")]]
    sweep, benchmark = load_sweep(name, local(comment[run_line(comment)], place), output=place / "runs")
    return Study(name, "\n".join(comment), sweep, benchmark)


def run_line(comment: list[str]) -> int:
    """Where a comment says how to run the file."""
    return next(index for index, line in enumerate(comment) if line.startswith("Run: "))


def local(line: str, place: Path) -> list[str]:
    """The settings after each --set of a line of a comment, with its capitals replaced by what lies in `place`."""
    words = iter(shlex.split(line))
    found = [next(words) for word in words if word == "--set"]
    return [re.sub(r"\b(DIR|MODEL|KEYS)\b", lambda name: json.dumps(str(place / name[0])), text) for text in found]


# -- words -------------------------------------------------------------------------------------------------------------


def test_the_comment_asks_a_question_and_says_whether_the_paper_does(study: Study) -> None:
    question, paper = study.comment.split("\nPaper: " if "\nPaper: " in study.comment else "\nNot in the paper: ", 1)
    assert re.fullmatch(r"Question: [^?]+\?( [^?]+\.)?", question, re.DOTALL)
    assert re.match(r"(the code of )?arXiv 2505\.11953\b", paper)
    assert study.sweep.name == study.name


def test_the_comment_names_its_own_file_and_its_run_line_reads_local_rows(study: Study) -> None:
    assert f"\nRun: unlearn-sweep run search_spaces/{study.name}.yaml" in study.comment
    assert study.benchmark is not None
    assert study.benchmark.forget
    assert study.benchmark.retain_pool


def test_the_settings_that_a_comment_offers_check_together(study: Study, place: Path) -> None:
    lines = [line for line in study.comment.splitlines() if not line.startswith("Run: ")]
    offered = " ".join(line[line.index("--set") :] for line in lines if "--set" in line)
    sweep, benchmark = load_sweep(study.name, local(offered, place), output=place / "runs")
    assert sweep.search_space.parameters
    from_the_hub = study.name != "annotated" and "trial.benchmark=" not in offered
    assert (benchmark is None) == from_the_hub, "without a folder the rows are the hub's, fetched when a sweep starts"


# -- settings ----------------------------------------------------------------------------------------------------------


def test_every_corner_and_every_baseline_builds_a_trial(study: Study) -> None:
    space = study.sweep.search_space
    for corner in space.corners():
        trial = study.sweep.trial_at(corner)
        assert space.locate(trial.model_dump(mode="json")) is not None, corner
    for label in study.sweep.baselines:
        assert isinstance(study.sweep.baseline(label), TrialConfig)
    assert 3 <= len(study.sweep.baselines) <= study.sweep.budget.trials / 4


def test_each_searches_the_learning_rate_and_the_weight_of_the_retain_term(study: Study) -> None:
    paths = {parameter.path for parameter in study.sweep.search_space.parameters}
    assert {"optim.lr", "loss.retain.coefficient"} <= paths, "exponents would be judged by their step sizes"
    assert study.sweep.objectives == {"forget.extraction_strength": "min", "retain.extraction_strength": "max"}
    assert 24 <= study.sweep.budget.trials <= (160 if study.sweep.phases else 64)


def test_every_forget_objective_is_in_some_study(place: Path) -> None:
    known = {variant.model_fields["type"].default for variant in typing.get_args(typing.get_args(Forget)[0])}
    found = set()
    for name in STUDIES:
        sweep, _ = load_sweep(name, output=place / "runs")
        for parameter in sweep.search_space.parameters:
            if parameter.path == "loss.criterion.type":
                found |= set(parameter.domain.examples())
    assert found == known


# -- as a sweep --------------------------------------------------------------------------------------------------------


def test_a_sweep_of_it_ends_with_a_front(study: Study, tmp_path: Path) -> None:
    few = Budget(trials=24)  # the baselines, and more than TPE draws before it uses its model
    ledger = Ledger(tmp_path)
    ledger.append(Anchor(name="target", metrics=dict.fromkeys(study.sweep.objectives, 1.0)))
    ledger.close()
    found = simulate(study.sweep.model_copy(update={"budget": few}), tmp_path).records()
    records = [record for record in found if record.origin != "confirm"]
    assert len(records) == 24
    assert (len(found) > 24) == (study.sweep.confirm is not None)
    assert all(record.params["optim.lr"] > DIVERGES for record in records if record.state == "FAIL")
    assert {record.label for record in records if record.label} == set(study.sweep.baselines)
    assert front_of(records, study.sweep.objectives)
