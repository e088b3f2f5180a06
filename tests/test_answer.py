"""The four questions that a report opens with: what is said follows from the records, and no more than that."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.ledgers import BASE, FORGET, RETAIN, SPACE, Run

QUESTIONS = (
    "Which setting should I use?",
    "How sure are we?",
    "What did it cost?",
    "Was the published setting any good?",
)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def answers(run: Run) -> dict[str, str]:
    """Question -> answer, of the Markdown."""
    lines = [line for line in run.section("Answer") if line.startswith("**")]
    found = dict(re.fullmatch(r"\*\*(.+?)\*\* (.*)", line, re.DOTALL).groups() for line in lines)  # type: ignore[union-attr]
    assert tuple(found) == QUESTIONS
    return found


def front(run: Run, **others: Any) -> None:
    """Three on the front; the middle one is the knee."""
    for values in ((0.05, 0.1), (0.2, 0.8), (0.6, 0.9)):
        run.trial(*values, params={"loss.criterion.type": "npo", "loss.criterion.beta": values[0]}, **others)


def seeds(run: Run, of: str, *values: tuple[float, float], **others: Any) -> None:
    for seed, (forget, retain) in enumerate(values, start=6):
        run.trial(forget, retain, origin="confirm", of=of, seed=seed, **others)


def test_the_report_opens_with_the_four_questions_and_then_the_figure(run: Run) -> None:
    front(run)
    text = run.markdown()
    places = [text.index(f"**{question}**") for question in QUESTIONS]
    places += [text.index(f"\n## {title}\n") for title in ("The setting to copy", "The choice", "Front", "Cost")]
    assert places == sorted(places)
    assert text.index("figures/front.png") < text.index("## The setting to copy")


def test_a_setting_with_one_seed_is_recommended_with_its_values_and_no_certainty(run: Run) -> None:
    run.anchor("target", 0.95, 0.96)
    front(run)
    found = answers(run)
    assert found[QUESTIONS[0]].startswith("Trial 00001: criterion npo, criterion.beta = 0.2.")
    assert (
        f"It reaches {FORGET} 0.2 (target model 0.95) and {RETAIN} 0.8 (target model 0.96), with one seed"
        in (found[QUESTIONS[0]])
    )
    assert found[QUESTIONS[1]].startswith("Not very: it was chosen by one seed")
    assert "Only 3 settings ran to the full budget" in found[QUESTIONS[1]]


def test_alternatives_are_told_by_the_rule_that_each_follows(run: Run) -> None:
    run.anchor("target", 1.0, 0.94)
    run.anchor("retain", 0.1, 0.9)
    front(run)
    which = answers(run)[QUESTIONS[0]]
    # 95 % of 0.94 is 0.893, which only the last has: it forgets less than the knee, so it "forgets most" by its rule.
    assert f"Trial 00002 forgets most with {RETAIN} of at least 0.893" in which
    assert f"Trial 00000 keeps most with {FORGET} of at most 0.1, that of the retain model: {FORGET} 0.05" in which


def test_nothing_is_recommended_where_nothing_reached_the_full_budget(run: Run) -> None:
    run.trial(0.2, 0.8, state="PRUNED", label="npo_ou")
    found = answers(run)
    assert found[QUESTIONS[0]].startswith("None that this sweep can name")
    assert found[QUESTIONS[1]] == "There is nothing to be sure of yet."
    assert found[QUESTIONS[3]].startswith("Not known: the one that was tried has not reached the full budget")


def test_fresh_seeds_give_an_interval_a_probability_and_who_cannot_be_told_apart(run: Run) -> None:
    front(run)
    seeds(run, "00001", (0.2, 0.8), (0.24, 0.78), (0.22, 0.82))
    seeds(run, "00002", (0.6, 0.9), (0.62, 0.9), (0.61, 0.91))
    seeds(run, "00000", (0.05, 0.1), (0.06, 0.11))
    sure = answers(run)[QUESTIONS[1]]
    assert sure.startswith(f"3 fresh seeds of it gave {FORGET} 0.220 (0.170 to 0.270)")
    assert "none of the 2 others that ran with fresh seeds is better in every objective" in sure
    assert "cannot be told apart" not in sure
    assert "Means with 95 % intervals" in " ".join(run.section("The front with fresh seeds"))


def test_an_over_forgotten_recommendation_is_called_so(run: Run) -> None:
    run.anchor("retain", 0.1, 0.9, forget__nll=2.0)
    front(run, forget__nll=3.0)
    assert "Mind that it is over-forgotten" in answers(run)[QUESTIONS[0]]
    assert any("00001 (knee, over-forgotten)" in line for line in run.section("Front"))


def test_other_metrics_of_the_forget_set_stand_beside_the_retain_models(run: Run) -> None:
    run.anchor("retain", 0.1, 0.9, forget__nll=2.0, forget__probability=0.01)
    front(run, forget__nll=1.5, forget__probability=0.2)
    said = "in brackets the retain model's: forget.nll 1.5 (2) and forget.probability 0.2 (0.01)."
    assert f"Other metrics of the forget set, {said}" in answers(run)[QUESTIONS[0]]


def test_a_search_whose_front_came_late_is_not_called_settled(run: Run) -> None:
    for trial in range(20):
        run.trial(0.9 - trial / 100, 0.5 + trial / 100)
    assert "The front was still growing: the last fifth" in answers(run)[QUESTIONS[1]]
    assert "found 1 of the 1 trials of the front" in answers(run)[QUESTIONS[1]]


def test_the_cost_is_told_by_what_it_was_for(run: Run) -> None:
    front(run)
    run.trial(0.7, 0.7, label="npo_ou", origin="baseline")
    run.trial(0.3, 0.5, state="PRUNED")
    seeds(run, "00001", (0.2, 0.8), (0.24, 0.78))
    cost = answers(run)[QUESTIONS[2]]
    assert cost.startswith("7 trials, 26 epochs, 4 min 20 s of trials' own time.")
    assert "published settings 4 epochs, search 14 epochs and fresh seeds of the best 8 epochs" in cost
    assert "Early stopping saved 2 of the 28 epochs" in cost


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([(0.01, 0.05)], "Yes. On the front: npo_ou (F 0.01 and R 0.05)."),
        (
            [(0.01, 0.05), (0.97, 0.99)],
            "In part. On the front: npo_ou (F 0.01 and R 0.05); forgot next to nothing: wga (F 0.97 and R 0.99).",
        ),
        ([(0.5, 0.5)], "No. Behind the front: npo_ou (F 0.5 and R 0.5, 44% behind). The shares are of the way from"),
        ([(0.21, 0.79)], "Nearly. Near the front: npo_ou (F 0.21 and R 0.79, 2% behind). With one seed each, that may"),
        (
            [(0.01, 0.05), (0.5, 0.5)],
            "In part. On the front: npo_ou (F 0.01 and R 0.05); behind the front: wga (F 0.5 and R 0.5, 44% behind).",
        ),
        (
            [(0.7, 0.4), (0.5, 0.5)],
            "No. Behind the front: wga (F 0.5 and R 0.5, 44% behind) and npo_ou (F 0.7 and R 0.4, 57% behind). The",
        ),
    ],
)
def test_the_verdict_on_published_settings(run: Run, values: list[tuple[float, float]], verdict: str) -> None:
    run.anchor("target", 1.0, 1.0)
    front(run)
    for label, (forget, retain) in zip(("npo_ou", "wga"), values, strict=False):
        run.trial(forget, retain, label=label, origin="baseline")
    said = answers(run)[QUESTIONS[3]].replace(FORGET, "F").replace(RETAIN, "R")
    assert said.startswith(verdict)


def test_by_how_much_the_recommended_setting_is_better_than_the_nearest_published_one(run: Run) -> None:
    front(run)
    run.trial(0.5, 0.5, label="npo_ou", origin="baseline")
    assert f"Trial 00001 is better than npo_ou by 0.3 in {FORGET} and 0.3 in {RETAIN}." in answers(run)[QUESTIONS[3]]


def test_without_published_settings_it_is_said_how_to_try_some(run: Run) -> None:
    front(run)
    assert answers(run)[QUESTIONS[3]].startswith("Not known: none was run.")


def test_a_published_setting_that_misses_a_constraint_is_told_and_listed_with_by_how_much(tmp_path: Path) -> None:
    config = {"trial": BASE, "space": SPACE, "constraints": {RETAIN: ">= 0.4"}}
    run = Run(tmp_path, config=config)
    front(run)
    run.trial(0.01, 0.1, label="npo_ou", origin="baseline", violations={f"{RETAIN} >= 0.4": 0.3})
    run.trial(0.5, 0.5, label="wga", origin="baseline")
    assert "; missed a constraint: npo_ou." in answers(run)[QUESTIONS[3]]
    assert any(line.startswith("| 00003 | npo_ou | 0.3 |") for line in run.section("Constraints"))


def test_a_sweep_without_seeds_ablations_or_constraints_has_no_sections_of_them(run: Run) -> None:
    front(run)
    titles = _titles(run)
    assert not [t for t in titles if re.match("Ablation|Constraints|Methods|Phases|Extensions|The front with", t)]
    assert "Failures" not in titles


def test_an_ablation_is_a_table_of_differences_by_seed(run: Run) -> None:
    front(run)
    for design, forget in (("base", 0.2), ("optim.lr = 1", 0.4)):
        first = None
        for seed in (5, 6, 7):
            run.trial(forget + seed / 1000, 0.8, origin="ablation", phase=1, design=design, of=first, seed=seed)
            first = first or f"{len(run.ledger.records()) - 1:05d}"
    (title,) = [line for line in _titles(run) if line.startswith("Ablation")]
    lines = run.section(title)
    assert any(line.startswith("| optim.lr = 1 | 3 |") and "0.2" in line and "3 of 3" in line for line in lines)
    assert any(line.startswith("The base is trial 00003: criterion uniform. Differences to base") for line in lines)


def _titles(run: Run) -> list[str]:
    return re.findall(r"^## (.*)$", run.markdown(), re.MULTILINE)
