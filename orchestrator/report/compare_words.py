"""What `compare` says: a line a pair and two tables, to a terminal, as Markdown or as CSV."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from rich import table as rich_table
from rich.console import Console
from rich.markup import escape

from orchestrator.ledger import write_atomically
from orchestrator.problems import ConfigError, Problem
from orchestrator.report.document import Block, Cell, Estimate, Heading, Paragraph, Table, cell_text, markdown, number
from orchestrator.results.compare import Comparison, Pair, Side


def check_target(to: Path | None) -> None:
    """Raises ConfigError where a comparison cannot be written to a file of that name."""
    if to is not None and to.suffix not in (".md", ".csv"):
        raise ConfigError("--to", [Problem("", f"{str(to)!r} is neither .md nor .csv; give a name that ends in one")])
    if to is not None and not to.absolute().parent.is_dir():
        raise ConfigError("--to", [Problem("", f"there is no folder {str(to.parent)!r}; make it first")])


def write_comparison(found: Comparison, to: Path) -> None:
    """Writes a comparison as Markdown or as CSV, by the ending of the name."""
    blocks: list[Block] = [Heading(" and ".join(side.name for side in found.sides), 1), *page(found)]
    write_atomically(to, markdown(blocks) if to.suffix == ".md" else csv_text(found))


def show_comparison(found: Comparison, console: Console) -> None:
    """Prints a comparison."""
    for block in page(found):
        if isinstance(block, Paragraph):
            console.print("".join(map(str, block.parts)), markup=False, highlight=False)
        elif isinstance(block, Table):
            shown = rich_table.Table(*map(escape, block.header))
            for row in block.rows:
                shown.add_row(*(escape(cell_text(cell)) for cell in row))
            console.print(shown)


def verdict(pair: Pair, found: Comparison) -> str:
    """One sentence: who reaches more, or that it cannot be told."""
    sides = {side.name: side for side in found.sides}
    ahead, behind = (pair.other, pair.one) if pair.ahead == pair.other else (pair.one, pair.other)
    gap = pair.difference if ahead == pair.one else _turned(pair.difference)
    first, second = (number(sides[name].hypervolume.mean) for name in (ahead, behind))
    said = f"{ahead} reaches more than {behind}" if pair.ahead else f"{ahead} and {behind} cannot be told apart"
    how = _how(found, [sides[ahead], sides[behind]])
    interval = str(gap).replace("(", "(95% interval ", 1)
    return f"{said}: hypervolume {first} against {second}, a difference of {interval}, {how}."


def _how(found: Comparison, sides: list[Side]) -> str:
    if found.by == "trials":
        return f"after {found.epochs} epochs each, by drawing their full-budget trials anew (one seed each)"
    seeds = " and ".join(str(len(side.sets)) for side in sides)
    spent = " and ".join(str(side.summary.epochs_spent) for side in sides)
    return f"over {seeds} seeds of the settings that each confirmed; {spent} epochs were spent"


def page(found: Comparison) -> list[Block]:
    """Verdicts, tables, and what the numbers are."""
    objectives = found.sides[0].summary.info.objectives
    point = ", ".join(f"{name} {number(value)}" for name, value in found.reference.items())
    ways = ", ".join(f"{name} ({way})" for name, way in objectives.items())
    measured = "of confirmed settings, by seed" if found.by == "seeds" else f"after {found.epochs} epochs"
    rows: list[list[Cell]] = [
        [s.name, len(s.summary.candidates), len(s.summary.front), s.summary.epochs_spent, s.hypervolume, s.whole]
        for s in found.sides
    ]
    spread = "least to most over pairs of seeds" if found.by == "seeds" else "95 % of the draws"
    legend = (
        f"Objectives: {ways}; common reference point: {point}. In brackets: 95 % intervals of hypervolumes and of "
        f"their differences; of the other numbers {spread}. Additive epsilon: what every objective of the sweep would "
        "have to gain to cover the other's front, 0 or less where it does. Coverage: share of the other's front that "
        "the sweep's front reaches."
    )
    return [
        *(Paragraph((verdict(pair, found),)) for pair in found.pairs),
        *(Paragraph((note,)) for note in found.notes),
        Table(
            [
                "sweep",
                "candidates",
                "on the front",
                "epochs",
                f"hypervolume {measured}",
                "of all its trials, one seed each",
            ],
            rows,
        ),
        Table(
            ["sweep", "against", "difference of hypervolume", "additive epsilon", "coverage"],
            [row for pair in found.pairs for row in _rows(pair)],
        ),
        Paragraph((legend,)),
    ]


def _rows(pair: Pair) -> list[list[Cell]]:
    """The first against the second, then the other way about."""
    return [
        [pair.one, pair.other, pair.difference, pair.epsilon[0], pair.coverage[0]],
        [pair.other, pair.one, _turned(pair.difference), pair.epsilon[1], pair.coverage[1]],
    ]


def _turned(gap: Estimate) -> Estimate:
    return Estimate(-gap.mean, None if gap.high is None else -gap.high, None if gap.low is None else -gap.low)


def csv_text(found: Comparison) -> str:
    """A line for each number: sweep, against whom (blank for its own), measure, value, and the ends of its interval."""
    rows: list[tuple[str, str, str, Estimate | None]] = []
    for side in found.sides:
        rows.append((side.name, "", "hypervolume", side.hypervolume))
        rows.append((side.name, "", "hypervolume of all trials", Estimate(side.whole)))
        rows.append((side.name, "", "epochs", Estimate(side.summary.epochs_spent)))
    for pair in found.pairs:
        rows.append((pair.one, pair.other, "difference of hypervolume", pair.difference))
        rows.append((pair.one, pair.other, "additive epsilon", pair.epsilon[0]))
        rows.append((pair.other, pair.one, "additive epsilon", pair.epsilon[1]))
        rows.append((pair.one, pair.other, "coverage", pair.coverage[0]))
        rows.append((pair.other, pair.one, "coverage", pair.coverage[1]))
    buffer = io.StringIO()
    table = csv.writer(buffer, lineterminator="\n")
    table.writerow(["sweep", "against", "measure", "value", "low", "high"])
    for *words, cell in rows:
        table.writerow([*words, *((cell.mean, cell.low, cell.high) if cell else (None, None, None))])
    return buffer.getvalue()
