"""A report as a list of blocks, and the same blocks as Markdown and as HTML.

The words are written once; escaping is the business of this module alone, so no name or label, however
hostile, can become markup. A paragraph is made of plain strings, `Strong`, `Code` and `Link`.
"""

from __future__ import annotations

import base64
import html
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote


@dataclass(frozen=True)
class Code:
    """Something to be typed or copied as it is."""

    text: str


@dataclass(frozen=True)
class Strong:
    """Words that stand out."""

    text: str


@dataclass(frozen=True)
class Link:
    """A title that leads to a URL; one that is not http or https is shown and does not lead anywhere."""

    title: str
    url: str

    @property
    def leads(self) -> bool:
        """Whether a browser may follow it: `javascript:` and the like would run in the reader's page."""
        return self.url.startswith(("http://", "https://"))


Inline = str | Strong | Code | Link


@dataclass(frozen=True)
class Heading:
    """Title of the document (level 1) or of a section (level 2)."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    """Sentences."""

    parts: tuple[Inline, ...]


@dataclass(frozen=True)
class Facts:
    """The few numbers to see first: name and value."""

    pairs: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Estimate:
    """A mean with an interval around it; without one where there is a single value."""

    mean: float
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        """The mean and, in brackets, the interval, with as many decimals as its width makes sense of."""
        if self.low is None or self.high is None:
            return number(self.mean)
        half = (self.high - self.low) / 2
        if not half > 0:
            return f"{number(self.mean)} ({number(self.low)} to {number(self.high)})"
        decimals = min(max(1 - math.floor(math.log10(half)), 0), 9)
        mean, low, high = (f"{value + 0.0:.{decimals}f}" for value in (self.mean, self.low, self.high))
        return f"{mean} ({low} to {high})"


Cell = str | float | Estimate | None


@dataclass(frozen=True)
class Table:
    """Rows of cells; a number is a float, an int or an `Estimate`, a blank cell is None.

    One with a `name` is also written to files of that name, as CSV and as LaTeX. `shown`: rows that a page shows of a
    longer table.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    name: str | None = None
    shown: int | None = None


@dataclass(frozen=True)
class Listing:
    """Lines to be copied."""

    text: str


@dataclass(frozen=True)
class Picture:
    """A PNG, by its path for Markdown and by its bytes for HTML."""

    path: str
    png: bytes
    alt: str
    caption: str


_LONG = 40  # characters of a cell that is a sentence

Block = Heading | Paragraph | Facts | Table | Listing | Picture


def number(value: float) -> str:
    """Four significant digits: enough to compare trials, few enough to read."""
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def cell_text(cell: Cell) -> str:
    """A cell as it is read."""
    if cell is None:
        return ""
    return number(cell) if isinstance(cell, int | float) else str(cell)


def numeric_columns(table: Table) -> list[bool]:
    """Columns without text: their cells stand to the right."""
    columns = [[row[i] for row in table.rows] for i in range(len(table.header))]
    return [bool(column) and not any(isinstance(cell, str) for cell in column) for column in columns]


def markdown(blocks: Sequence[Block]) -> str:
    """The blocks as GitHub-flavoured Markdown."""
    return "\n\n".join(_markdown_block(block) for block in blocks) + "\n"


def body(blocks: Sequence[Block]) -> str:
    """The blocks as the inside of an HTML page that needs nothing from outside."""
    return "\n".join(_html_block(block) for block in blocks)


def _markdown_block(block: Block) -> str:
    if isinstance(block, Heading):
        return f"{'#' * block.level} {_md(block.text)}"
    if isinstance(block, Paragraph):
        return "".join(_md_inline(part) for part in block.parts)
    if isinstance(block, Facts):
        return "\n".join(f"- {_md(name)}: **{_md(value)}**" for name, value in block.pairs)
    if isinstance(block, Listing):
        fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", block.text)), default=0))
        return f"{fence}\n{block.text}\n{fence}"
    if isinstance(block, Picture):
        return f"![{_md(block.alt)}](<{block.path}>)\n\n{_md(block.caption)}"
    rule = " | ".join("---:" if right else "---" for right in numeric_columns(block))
    shown = block.rows[: block.shown]
    rows = [[_md(cell) for cell in block.header], *([_md(cell_text(cell)) for cell in row] for row in shown)]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], f"| {rule} |", *lines[1:]])


def _md_inline(part: Inline) -> str:
    if isinstance(part, Code):
        tick = "`" * (1 + max((len(run) for run in re.findall("`+", part.text)), default=0))
        pad = " " if "`" in part.text else ""
        return f"{tick}{pad}{_line(part.text)}{pad}{tick}"
    if isinstance(part, Link):
        title = _md(part.title)
        # Inside <...> only these characters end a link.
        url = quote(part.url, safe=":/?#[]@!$&'()*+,;=%~-._")
        return f"[{title}](<{url}>)" if part.leads else f"{title}: {_md(part.url)}"
    if isinstance(part, Strong):
        return f"**{_md(part.text)}**"
    ends = (" " * part[:1].isspace(), " " * part[-1:].isspace())  # beside code or a link
    return f"{ends[0]}{_md(part)}{ends[1]}" if part.strip() else " "


def _md(text: str) -> str:
    """Plain text that Markdown shows as it is; an underscore inside a word is left alone, as it is there."""
    text = re.sub(r"([\\`*\[\]|~$#])", r"\\\1", _line(text))
    text = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _html_block(block: Block) -> str:
    if isinstance(block, Heading):
        return f"<h{block.level}>{html.escape(block.text)}</h{block.level}>"
    if isinstance(block, Paragraph):
        return f"<p>{''.join(_html_inline(part) for part in block.parts)}</p>"
    if isinstance(block, Facts):
        pairs = (f"<div><dt>{html.escape(n)}</dt><dd>{html.escape(v)}</dd></div>" for n, v in block.pairs)
        return f"<dl>{''.join(pairs)}</dl>"
    if isinstance(block, Listing):
        return f"<pre>{html.escape(block.text)}</pre>"
    if isinstance(block, Picture):
        data = base64.b64encode(block.png).decode()
        image = f'<img src="data:image/png;base64,{data}" alt="{html.escape(block.alt)}">'
        return f"<figure>{image}<figcaption>{html.escape(block.caption)}</figcaption></figure>"
    kinds = [' class="number"' if right else "" for right in numeric_columns(block)]
    heads = zip(kinds, block.header, strict=True)
    head = "".join(f"<th{kind}>{_breakable(html.escape(cell))}</th>" for kind, cell in heads)
    rows = (
        "".join(_html_cell(cell, kind) for kind, cell in zip(kinds, row, strict=True))
        for row in block.rows[: block.shown]
    )
    lines = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="table"><table><thead><tr>{head}</tr></thead>\n<tbody>{lines}</tbody></table></div>'


def _html_cell(cell: Cell, kind: str) -> str:
    text = html.escape(cell_text(cell))
    if isinstance(cell, Estimate):
        text = text.replace(" (", ' <span class="interval">(', 1) + ("</span>" if "(" in text else "")
    # A sentence in a column of its own would else be squeezed to a word a line by the columns of numbers.
    return f'<td class="long">{text}</td>' if len(text) > _LONG and isinstance(cell, str) else f"<td{kind}>{text}</td>"


def _html_inline(part: Inline) -> str:
    if isinstance(part, Code):
        return f"<code>{html.escape(part.text)}</code>"
    if isinstance(part, Strong):
        return f"<strong>{html.escape(part.text)}</strong>"
    if isinstance(part, Link):
        title, url = html.escape(part.title), html.escape(part.url)
        return f'<a href="{url}" rel="noreferrer">{title}</a>' if part.leads else f"{title}: {url}"
    return html.escape(part)


def _breakable(escaped: str) -> str:
    """Lets a dotted path break at its joints: a table of metrics fits a page that way."""
    return re.sub(r"([._])(?=\w)", r"\1<wbr>", escaped)


def _line(text: str) -> str:
    return " ".join(text.split())
