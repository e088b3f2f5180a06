"""Tables of a report as files: CSV with exact values for programs, LaTeX for papers."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence

from orchestrator.report.document import Cell, Estimate, Table, cell_text, numeric_columns

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    **{character: "\\" + character for character in "&%$#_{}"},
}


def csv_of(table: Table) -> str:
    """All rows of a table with exact values; an estimate has three columns: mean, low and high."""
    wide = [any(isinstance(row[i], Estimate) for row in table.rows) for i in range(len(table.header))]
    header = _flat(
        [name, f"{name} (low)", f"{name} (high)"] if w else [name] for name, w in zip(table.header, wide, strict=True)
    )
    rows = [_flat(_columns(cell, w) for cell, w in zip(row, wide, strict=True)) for row in table.rows]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([str(c).lower() if isinstance(c, bool) else c for c in row] for row in rows)
    return buffer.getvalue()


def latex_of(table: Table) -> str:
    """The rows that a page shows as a `tabular` with the rules of booktabs, for `\\input`."""
    columns = "".join("r" if right else "l" for right in numeric_columns(table))
    rows = [[_latex(cell_text(cell)) for cell in row] for row in table.rows[: table.shown]]
    lines = [
        f"\\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        _line([_latex(name) for name in table.header]),
        r"\midrule",
        *map(_line, rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "% needs \\usepackage{booktabs} and \\usepackage[T1]{fontenc}\n" + "\n".join(lines) + "\n"


def _columns(cell: Cell, wide: bool) -> list[Cell]:
    if isinstance(cell, Estimate):
        return [cell.mean, cell.low, cell.high]
    return [cell, None, None] if wide else [cell]


def _flat(parts: Iterable[Sequence[Cell]]) -> list[Cell]:
    return [cell for part in parts for cell in part]


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _latex(text: str) -> str:
    line = " ".join(text.split())
    escaped = re.sub(r'[\\~^<>|"&%$#_{}]', lambda found: _SPECIAL[found[0]], line)
    # After the end of a line a bracket would be taken for the space to be left there.
    return f"{{[}}{escaped[1:]}" if escaped.startswith("[") else escaped
