"""Sweeps side by side: indicators by hand, verdicts, refusals, and the page that shows an example."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.events import SweepInfo
from orchestrator.ledger import write_atomically
from orchestrator.report.compare_words import csv_text, verdict, write_comparison
from orchestrator.results.compare import compare, coverage, epsilon, load_sides
from tests.summaries import RETAIN, Sweep

ROOT = Path(__file__).parents[1]
EXAMPLES = [ROOT / "tests" / "data" / name for name in ("compare_a", "compare_b")]


def _scattered(seed: int, count: int = 30, better: float = 0.0, first: float = 0.0) -> Sweep:
    """Trials scattered behind a curve; `better` moves them all towards the ideal, `first` sets the first objective."""
    rng = np.random.default_rng(seed)
    sweep = Sweep()
    for _ in range(count):
        place, off = rng.uniform(), rng.exponential(0.1)
        sweep.trial(max(first, place**2 + off - better), 1 - (1 - place) ** 2 - off + better)
    return sweep


# -- indicators --------------------------------------------------------------------------------------------------------


def test_additive_epsilon_is_what_is_lacking_to_cover_the_other_front() -> None:
    one, other = np.array([[0.2, 0.6], [0.6, 0.2]]), np.array([[0.1, 0.5], [0.7, 0.3]])
    assert epsilon(one, other) == pytest.approx(0.1)
    assert epsilon(other, one) == pytest.approx(0.1)  # 0.7 for 0.6, 0.3 for 0.2
    assert epsilon(one, one) == 0.0
    assert epsilon(one - 0.25, one) == pytest.approx(-0.25)


def test_coverage_is_the_share_of_the_other_front_that_is_reached() -> None:
    one, other = np.array([[0.2, 0.6], [0.6, 0.2]]), np.array([[0.1, 0.5], [0.7, 0.3], [0.6, 0.2], [0.3, 0.7]])
    assert coverage(one, other) == 0.75
    assert coverage(other, one) == 1.0


# -- verdicts ----------------------------------------------------------------------------------------------------------


def test_a_sweep_that_is_clearly_ahead_is_said_to_be() -> None:
    found = compare([("weak", _scattered(0).summary), ("strong", _scattered(1, better=0.1).summary)])
    (pair,) = found.pairs
    assert (found.by, found.epochs, pair.ahead) == ("trials", 120, "strong")
    assert pair.difference.high is not None
    assert pair.difference.high < 0
    said = verdict(pair, found)
    assert said.startswith("strong reaches more than weak: hypervolume 0.")
    assert said.endswith("after 120 epochs each, by drawing their full-budget trials anew (one seed each).")


def test_two_draws_of_the_same_kind_cannot_be_told_apart() -> None:
    found = compare([("one", _scattered(0).summary), ("other", _scattered(5).summary)])
    (pair,) = found.pairs
    assert pair.ahead is None
    assert pair.difference.low is not None
    assert pair.difference.high is not None
    assert pair.difference.low < 0 < pair.difference.high
    assert verdict(pair, found).startswith("one and other cannot be told apart: hypervolume ")


def test_most_comparisons_of_equals_find_nothing() -> None:
    sweeps = [(str(seed), _scattered(seed, count=40).summary) for seed in range(6)]
    assert sum(pair.ahead is not None for pair in compare(sweeps).pairs) <= 3  # of 15


def test_each_sweep_counts_for_as_many_epochs_as_the_cheapest_has_spent() -> None:
    cheap, dear = Sweep(), Sweep()
    cheap.trial(0.4, 0.9)
    dear.trial(0.5, 0.9)
    dear.trial(0.1, 0.9)
    found = compare([("cheap", cheap.summary), ("dear", dear.summary)])
    assert found.epochs == 4
    assert [side.hypervolume.mean for side in found.sides] == pytest.approx([0.54, 0.45])
    assert [side.whole for side in found.sides] == pytest.approx([0.54, 0.81])


def test_a_confirmation_of_one_gives_the_other_no_epochs() -> None:
    sure, other = Sweep(), Sweep()
    sure.seeds(sure.trial(0.5, 0.5), (0.5, 0.5), (0.5, 0.5))
    for value in (0.5, 0.1):
        other.trial(value, 0.5)
    found = compare([("sure", sure.summary), ("other", other.summary)])
    assert (found.by, found.epochs) == ("trials", 4)
    assert [side.hypervolume.mean for side in found.sides] == pytest.approx([0.25, 0.25])


def test_confirmed_sweeps_are_compared_over_their_seeds() -> None:
    def confirmed(*values: float) -> Sweep:
        sweep = Sweep()
        point = sweep.trial(0.0, 0.99)
        sweep.seeds(point, *((0.0, value) for value in values))
        return sweep

    sweeps = [("one", confirmed(0.90, 0.91, 0.92).summary), ("other", confirmed(0.80, 0.81, 0.82).summary)]
    found = compare(sweeps)
    (pair,) = found.pairs
    assert (found.by, pair.ahead) == ("seeds", "one")
    assert found.sides[0].hypervolume.mean == pytest.approx(0.91)
    assert pair.difference.mean == pytest.approx(0.1)
    assert pair.epsilon[1] is not None
    assert (pair.epsilon[1].low, pair.epsilon[1].high) == pytest.approx((0.08, 0.12))
    assert verdict(pair, found).endswith(
        "over 3 and 3 seeds of the settings that each confirmed; 16 and 16 epochs were spent."
    )


def test_one_reference_point_holds_for_all() -> None:
    near, far = _scattered(0), _scattered(1)
    near.info = near.info.model_copy(update={"reference_point": {"forget.extraction_strength": 0.5, RETAIN: 0.5}})
    found = compare([("near", near.summary), ("far", far.summary)])
    assert found.reference == {"forget.extraction_strength": 1.0, RETAIN: 0.0}


def test_what_is_not_like_with_like_is_noted() -> None:
    one, other = _scattered(0), _scattered(1)
    other.info = other.info.model_copy(update={"data": "0" * 16})
    other.trial(0.5, 0.5, origin="earlier")
    other.trial(0.5, 0.5, state=None)
    other.info = other.info.model_copy(update={"config": {"constraints": {RETAIN: ">= 0.5"}}})
    found = compare([("one", one.summary), ("other", other.summary)])
    assert found.notes == [
        "The data of other and one differ: a difference may be theirs.",
        "other and one have other constraints, so other trials are candidates.",
        "other began with 1 trial of earlier sweeps, whose epochs do not count.",
        "other has 1 trial that has not ended.",
    ]


def test_a_sweep_that_had_no_candidate_by_then_reaches_nothing() -> None:
    early, late = Sweep(), Sweep()
    early.trial(0.5, 0.5)
    late.trial(0.5, 0.5, state="PRUNED")
    late.trial(0.1, 0.9)
    found = compare([("early", early.summary), ("late", late.summary)])
    assert [side.hypervolume.mean for side in found.sides] == [0.25, 0.0]
    assert found.pairs[0].epsilon == (None, None)
    assert "late,early,coverage,,,\n" in csv_text(found)


def test_the_order_in_which_objectives_are_named_does_not_matter() -> None:
    one, turned = _scattered(0), _scattered(0)
    names = dict(reversed(one.info.objectives.items()))
    turned.info = turned.info.model_copy(update={"objectives": names})
    found = compare([("one", one.summary), ("turned", turned.summary)])
    assert found.sides[0].hypervolume.mean == found.sides[1].hypervolume.mean
    assert [each.mean for each in found.pairs[0].coverage if each] == [1.0, 1.0]


# -- the verb ----------------------------------------------------------------------------------------------------------


def test_the_verb_prints_a_verdict_and_writes_what_is_asked_for(cli: Any, tmp_path: Path) -> None:
    code, said, wrong = cli("compare", *EXAMPLES, "--to", tmp_path / "both.csv")
    assert (code, wrong) == (0, "")
    assert "compare_a reaches more than compare_b: hypervolume " in said
    with open(tmp_path / "both.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["sweep"] for row in rows if row["measure"] == "epochs"] == ["compare_a", "compare_b"]
    assert {row["measure"] for row in rows if row["against"]} == {
        "difference of hypervolume",
        "additive epsilon",
        "coverage",
    }


def test_run_folders_are_only_read(cli: Any, tmp_path: Path) -> None:
    for place in EXAMPLES:
        shutil.copytree(place, tmp_path / place.name)
    places = sorted(tmp_path.glob("compare_*"))
    before = {file: file.read_bytes() for place in places for file in place.rglob("*")}
    assert cli("compare", *places)[0] == 0
    assert {file: file.read_bytes() for place in places for file in place.rglob("*")} == before


def test_folders_of_the_same_name_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    for place in ("first", "second"):
        shutil.copytree(EXAMPLES[0], tmp_path / place / "same")
    sweeps = load_sides([tmp_path / "first" / "same", tmp_path / "second" / "same"])
    assert [name for name, _ in sweeps] == [str(tmp_path / "first" / "same"), str(tmp_path / "second" / "same")]
    assert compare(sweeps).pairs[0].ahead is None


def _changed(tmp_path: Path, **changes: Any) -> Path:
    folder = tmp_path / "changed"
    shutil.copytree(EXAMPLES[1], folder)
    info = SweepInfo.read(folder).model_copy(update=changes)
    write_atomically(folder / "sweep.json", info.model_dump_json())
    return folder


def test_sweeps_with_other_objectives_are_refused_by_name(cli: Any, tmp_path: Path) -> None:
    folder = _changed(tmp_path, objectives={RETAIN: "max"}, reference_point={RETAIN: 0.0})
    code, _, said = cli("compare", EXAMPLES[0], folder)
    assert code == 2
    assert "changed has the objectives retain.extraction_strength max, " in said
    assert "has forget.extraction_strength min, retain.extraction_strength max: they have no common scale" in said


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([EXAMPLES[0]], "wants two run folders or more, each once"),
        ([EXAMPLES[0], EXAMPLES[0]], "wants two run folders or more, each once"),
        ([EXAMPLES[0], "nowhere"], "not a run folder"),
        ([*EXAMPLES, "--to", "both.pdf"], "'both.pdf' is neither .md nor .csv"),
        ([*EXAMPLES, "--to", "nowhere/both.md"], "there is no folder 'nowhere'; make it first"),
    ],
)
def test_bad_input_is_one_clear_message(cli: Any, arguments: list[Any], why: str) -> None:
    code, _, said = cli("compare", *arguments)
    assert code == 2
    assert why in said


def test_a_sweep_without_a_full_budget_trial_is_refused(cli: Any, tmp_path: Path) -> None:
    folder = _changed(tmp_path)
    lines = (folder / "ledger.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    write_atomically(folder / "ledger.jsonl", "".join(lines[:2]))
    code, _, said = cli("compare", EXAMPLES[0], folder)
    assert code == 2
    assert "has no full-budget trial with all objectives yet" in said


# -- the page ----------------------------------------------------------------------------------------------------------


def test_the_document_shows_what_the_verb_writes_of_the_examples(tmp_path: Path) -> None:
    write_comparison(compare(load_sides(EXAMPLES)), tmp_path / "both.md")
    shown = (ROOT / "docs" / "compare-example.md").read_text(encoding="utf-8")
    assert (tmp_path / "both.md").read_text(encoding="utf-8") == shown
