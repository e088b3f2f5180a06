"""Cells, estimates and tables in each of their forms: on a page, as CSV, as LaTeX."""

from __future__ import annotations

import pytest

from orchestrator.report.document import Estimate, Paragraph, Strong, Table, body, markdown
from orchestrator.report.table_files import csv_of, latex_of

TABLE = Table(
    ["trial", "50% & more_of #1"], [["00001", Estimate(0.12345, 0.1, 0.15)], ["[2]", Estimate(0.5)]], name="t"
)


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate(0.123456), "0.1235"),
        (Estimate(0.123456, 0.1, 0.146), "0.123 (0.100 to 0.146)"),
        (Estimate(0.123456, 0.12344, 0.12348), "0.123456 (0.123440 to 0.123480)"),
        (Estimate(1234.5, 1000.0, 1400.0), "1234 (1000 to 1400)"),
        (Estimate(-0.0, -0.2, 0.2), "0.00 (-0.20 to 0.20)"),
        (Estimate(1.0, 1.0, 1.0), "1 (1 to 1)"),
    ],
)
def test_an_estimate_has_the_decimals_that_its_interval_makes_sense_of(estimate: Estimate, text: str) -> None:
    assert str(estimate) == text


def test_csv_holds_exact_values_and_three_columns_for_an_estimate() -> None:
    assert csv_of(TABLE).splitlines() == [
        "trial,50% & more_of #1,50% & more_of #1 (low),50% & more_of #1 (high)",
        "00001,0.12345,0.1,0.15",
        "[2],0.5,,",
    ]


def test_latex_has_the_rules_of_booktabs_and_nothing_that_latex_would_read_as_a_command() -> None:
    lines = latex_of(TABLE).splitlines()
    assert lines[1:4] == [r"\begin{tabular}{lr}", r"\toprule", r"trial & 50\% \& more\_of \#1 \\"]
    # After a line's end LaTeX would take a bracket for the space to be left.
    assert lines[5:7] == [r"00001 & 0.123 (0.100 to 0.150) \\", r"{[}2] & 0.5 \\"]
    hostile = latex_of(Table([r"\input{x}"], [["a~b^c<d>|$e$ 日本"]]))
    assert r"\textbackslash{}input\{x\}" in hostile
    assert r"a\textasciitilde{}b\textasciicircum{}c\textless{}d\textgreater{}\textbar{}\$e\$ 日本" in hostile


def test_a_page_shows_the_first_rows_of_a_long_table_and_the_csv_has_all() -> None:
    long = Table(["n"], [[n] for n in range(9)], name="long", shown=3)
    assert markdown([long]).count("\n|") == 4
    assert body([long]).count("<td") == 3
    assert len(csv_of(long).splitlines()) == 10


def test_strong_words_stand_out_and_cannot_become_markup() -> None:
    block = Paragraph((Strong("a*b<i>"), " rest"))
    assert markdown([block]) == "**a\\*b&lt;i&gt;** rest\n"
    assert body([block]) == "<p><strong>a*b&lt;i&gt;</strong> rest</p>"
