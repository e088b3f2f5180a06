"""docs/metrics.md: every metric is on it, with what the registry says, and what others call it is what logs call it."""

import json
import re
from pathlib import Path

import pytest

from orchestrator.problems import models_in
from orchestrator.reference.elsewhere import NAMES, TRAPS, Named
from orchestrator.reference.metric_families import FAMILIES, SETS, Doc, doc_of, docs, function_of, in_classes
from orchestrator.reference.metrics_page import COST_WORDS, page
from trials.config import TrialConfig
from trials.logs import EvalLog, LogError, read_log
from trials.naming import GROUPS, named, references_of
from trials.registry import COSTS, METRICS, LogMetric, RowMetric

PAGE = page()


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def tables() -> list[tuple[str, list[dict[str, str]]]]:
    """Of each section its title, and its tables' lines by the header's words."""
    found = []
    for section in PAGE.split("\n## ")[1:]:
        lines = [cells_of(line) for line in section.splitlines() if line.startswith("|")]
        header, rows = (lines[0], lines[2:]) if lines else ([], [])
        found.append((section.splitlines()[0], [dict(zip(header, row, strict=True)) for row in rows]))
    return found


def expanded(sets: str) -> set[str]:
    """What the words of a table stand for: classes, classes but a set, sets."""
    found: set[str] = set()
    for word in sets.split(", "):
        label, _, lacking = word.partition(" but ")
        found |= set(SETS[label.strip("*")][0]) if label.startswith("*") else {label.strip("`")}
        found -= {lacking.strip("`")}
    return found


LINES = [row for title, rows in tables() if title in FAMILIES for row in rows]


def line_of(name: str) -> dict[str, str]:
    """The one line of a table that is about a metric."""
    rows, _, short = name.partition(".")
    found = []
    for line in LINES:
        names = re.findall(r"`([^`]+)`", line["metric"])
        if name in names or (short in names and rows in expanded(line["sets"])):
            found.append(line)
    assert len(found) == 1, f"{name} stands in {len(found)} lines"
    return found[0]


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_stands_in_one_line_with_range_direction_and_cost_of_the_registry(name: str) -> None:
    metric, line = METRICS[name], line_of(name)
    assert line["range"] == f"{metric.low:g} to {metric.high:g}"
    assert line["cost"] == metric.cost
    better = {"forgotten: low; kept: high": "lower on what is to be forgotten, higher on what is to be kept"}
    better["forgotten: high; kept: low"] = "higher on what is to be forgotten, lower on what is to be kept"
    assert better.get(line["better"], line["better"]) == metric.better


@pytest.mark.parametrize("name", [name for name in METRICS if references_of([name])])
def test_a_metric_that_is_compared_with_a_log_says_with_whose(name: str) -> None:
    needs = line_of(name)["needs"]
    assert {which for which in ("target", "retain") if f"log of the {which} model" in needs} == references_of([name])


def test_metrics_that_need_another_model_itself_say_so() -> None:
    assert line_of("members.reference")["needs"] == "the retain model"
    assert line_of("privacy.reference")["needs"] == "the retain model"
    assert line_of("similarity.forget_to_target")["needs"] == "the target model"
    assert line_of("forget.nll")["needs"] == ""


def test_every_metric_is_in_one_family_and_every_family_is_a_section() -> None:
    functions = [function for family in FAMILIES.values() for function in family.functions]
    assert sorted(functions) == sorted({function_of(metric) for metric in METRICS.values()})
    titles = [title for title, _ in tables()]
    assert [title for title in titles if title in FAMILIES] == list(FAMILIES)


DEFINITIONS = dict(re.findall(r"^- \*\*(`.+?`)\*\*: (.+)$", PAGE, re.MULTILINE))


def test_every_function_has_one_definition_with_a_source() -> None:
    assert len(DEFINITIONS) == len({function_of(metric) for metric in METRICS.values()})
    for label, text in DEFINITIONS.items():
        formula, found, source = text.partition("*Source:* ")
        assert len(formula.split()) >= 8, label
        assert found, label
        assert re.search(r"arXiv \d{4}\.\d{4,5}|^ours|^Lin, ", source), label


def test_definitions_are_those_of_the_docstrings() -> None:
    strength = DEFINITIONS["`extraction_strength`"]
    assert "longest correct suffix / length" in strength
    assert "*Differs from* OpenUnlearning, whose floor is 1/length" in strength
    assert "`forget.wrong_over_right`" in DEFINITIONS["`tofu.forget_quality`"]
    assert "Kornblith" in DEFINITIONS["`similarity.*`"]
    assert "each token" not in PAGE.partition("## Memorisation")[2]  # of no other docstring


@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if isinstance(metric, LogMetric)])
def test_a_metric_of_a_whole_model_says_from_what_it_is_computed_unless_its_name_does(name: str) -> None:
    metric = METRICS[name]
    assert isinstance(metric, LogMetric)
    text = DEFINITIONS.get(f"`{name}`")
    if text is None:
        assert name.startswith("privacy.")  # of one attack among several
        assert re.sub(r"privacy\.(closeness_)?", "", name) in {each.split(".")[1] for each in METRICS}
    else:
        given = re.search(r"\*From\* (.+?)\. \*Source", text)
        assert given is not None
        assert tuple(re.findall(r"`([^`]+)`", given[1])) == metric.inputs


# -- parts -------------------------------------------------------------------------------------------------------------


def test_a_docstring_is_taken_apart_into_formula_source_and_difference() -> None:
    text = """A share, in [0, 1].

    More of it.

    Args:
        x: Not on the page.

    Source: A paper,
    arXiv 0000.00000. *Differs from* it in
    name.
    """
    assert doc_of(text) == Doc("A share, in [0, 1]. More of it.", "A paper, arXiv 0000.00000.", "it in name.")
    assert doc_of("A share. Source: ours.") == Doc("A share.", "ours.", "")
    assert doc_of("A share. *Differs from* others.") == Doc("A share.", "", "others.")
    assert doc_of(None) == Doc("", "", "")


def test_no_docstring_of_a_metric_lacks_formula_or_source() -> None:
    assert [name for name, doc in docs().items() if not (doc.text and doc.source)] == []


def test_sets_are_named_by_classes_that_they_are_all_of_or_all_but_one() -> None:
    rows = SETS["rows"][0]
    assert in_classes(rows) == "*rows*"
    assert in_classes(rows[1:]) == f"*rows* but `{rows[0]}`"
    assert in_classes(rows[2:]) == ", ".join(f"`{each}`" for each in rows[2:])
    assert in_classes(()) == ""


def test_the_classes_of_sets_are_all_sets_that_row_metrics_are_taken_on() -> None:
    every = [each for members, _ in SETS.values() for each in members]
    assert set(every) == {name.split(".")[0] for name, metric in METRICS.items() if isinstance(metric, RowMetric)}
    assert len(every) == len(set(every))


def test_every_cost_class_and_every_group_is_explained_and_counted() -> None:
    sections = dict(tables())
    assert list(COST_WORDS) == list(COSTS)
    assert [row["class"] for row in sections["Cost and time"]] == [f"*{cost}*" for cost in COSTS]
    assert sum(int(row["metrics"]) for row in sections["Cost and time"]) == len(METRICS)
    assert {row["group"]: int(row["metrics"]) for row in sections["Groups"]} == {
        f"`{group}`": len(named([group])) for group in GROUPS
    }


def test_whatever_looks_like_a_metric_or_a_setting_on_the_page_is_one() -> None:
    prefixes = {name.split(".")[0] for name in METRICS}
    settings = {
        f"{prefix}.{name}"
        for prefix in ("benchmark", "model", "requests", "evaluation")
        for inner in models_in(TrialConfig.model_fields[prefix].annotation)
        for name in inner.model_fields
    }
    found = set(re.findall(r"`([a-z_0-9*]+\.[a-z_0-9*]+)`", PAGE))
    assert len(found) > 80
    for word in found:
        prefix = word.split(".")[0]
        if prefix in prefixes or "*" in prefix:
            assert named([word])
        elif prefix in ("benchmark", "model", "requests", "evaluation"):
            assert word in settings


# -- elsewhere ---------------------------------------------------------------------------------------------------------

ELSEWHERE = [(place, row) for place, rows in NAMES.items() for row in rows]
LEFT_OUT = ("forget_truth_ratio", "forget_quality", "privleak", "forget_Q_A_gibberish")
"""Of a summary: they may be either of two, compare with a model that it does not name, or are not ours."""
READ = [
    (theirs, ours)
    for place, row in ELSEWHERE
    if place.startswith("OpenUnlearning")
    for theirs, ours in zip(row.theirs, row.ours, strict=bool(row.ours))
    if theirs not in LEFT_OUT
]
READ += [(name, row.ours[0]) for row in NAMES["MUSE"] for name in re.findall(r"OpenUnlearning: `(\w+)`", row.remark)]


@pytest.mark.parametrize(("place", "row"), ELSEWHERE)
def test_a_name_elsewhere_stands_for_a_metric_that_there_is(place: str, row: Named) -> None:
    assert set(row.ours) <= METRICS.keys()
    assert len(row.theirs) == len(row.ours) or row.theirs == ("forget_Q_A_gibberish",)


def summary_of(name: str, folder: Path) -> EvalLog:
    """What `read_log` makes of a summary of OpenUnlearning with a single metric."""
    file = folder / "TOFU_SUMMARY.json"
    file.write_text(json.dumps({name: 0.25}), encoding="utf-8")
    return read_log(file)


@pytest.mark.parametrize(("theirs", "ours"), READ)
def test_openunlearnings_names_are_those_that_its_logs_are_read_by(theirs: str, ours: str, tmp_path: Path) -> None:
    assert summary_of(theirs, tmp_path).values == {ours: 0.25}


@pytest.mark.parametrize("theirs", LEFT_OUT)
def test_openunlearnings_other_names_are_not_read_from_a_summary(theirs: str, tmp_path: Path) -> None:
    with pytest.raises(LogError, match="nor any metric of OpenUnlearning"):
        summary_of(theirs, tmp_path)


def test_names_and_traps_are_on_the_page() -> None:
    assert all(f"`{name}`" in PAGE for _, row in ELSEWHERE for name in (*row.theirs, *row.ours))
    assert all(f"| {there} | {here} |" in PAGE for there, here in TRAPS)
