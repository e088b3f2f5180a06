"""A benchmark as token ids: of each set the units that metrics are means over, and of each unit its sequences.

A unit is a row, or of raw text that is too long for one pass a piece of a row. Each part (answers, paraphrases, wrong
answers) is encoded when it is first asked for: most trials ask for answers only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from trials.benchmarks import Benchmark, Row
from trials.encoding import Example, Padding, cut, encode, truncated
from trials.prompts import PlainPrompt, Prompt
from trials.registry import ROWS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SATIMP_PROMPT = PlainPrompt(template="### Question: {question}\n ### Answer: {answer}")
"""Of the SatImp authors' evaluation."""


@dataclass(frozen=True)
class Unit:
    """What a metric has one value of: a row or a piece of one, its answer's tokens, and its answer's text."""

    row: Row
    example: Example
    text: str


class Material:
    """What evaluation needs besides a model.

    Args:
        tokenizer: The model's.
        benchmark: The rows.
        prompt: How a question is put.
        padding: How short rows are filled.
        device: Where batches go.
        ends: Tokens that end an answer.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        benchmark: Benchmark,
        prompt: Prompt,
        padding: Padding,
        device: torch.device,
        ends: frozenset[int],
    ) -> None:
        self.tokenizer, self.benchmark, self.prompt = tokenizer, benchmark, prompt
        self.padding, self.device, self.ends = padding, device, ends
        self._units: dict[str, list[Unit]] = {}
        self._parts: dict[tuple[str, str], list[tuple[Example, ...]]] = {}

    @property
    def asked(self) -> str:
        """How a question is put, by example: whatever the settings call it, two models that differ in it differ."""
        (example,) = encode(self.tokenizer, [Row("Who?", "Ada.")], self.prompt)
        return str(self.tokenizer.decode([*example.prompt, *example.answer]))

    @property
    def sets(self) -> list[str]:
        """Names of the sets that metrics can be taken on."""
        return list(self.benchmark.evaluated)

    def units(self, name: str) -> list[Unit]:
        """The units of a set."""
        if name not in self._units:
            self._units[name] = self.pieces(self.benchmark.evaluated[name], name in ROWS)
        return self._units[name]

    def pieces(self, rows: tuple[Row, ...], whole: bool) -> list[Unit]:
        """Units of rows: of raw text all pieces, or if not `whole` as much of each row's answer as a piece may have."""
        size, found = self.benchmark.chunk, []
        for row, example in zip(rows, encode(self.tokenizer, rows, self.prompt), strict=True):
            longest = 0 if size is None else size if whole else size + len(example.prompt)
            if not size or not row.verbatim or len(example) <= longest:
                found.append(Unit(row, example, row.answer.strip()))
                continue
            for piece in cut([example], size) if whole else [truncated(example, longest)]:
                found.append(Unit(row, piece, str(self.tokenizer.decode(list(piece.answer)))))
        return found

    def part(self, name: str, part: str) -> list[tuple[Example, ...]]:
        """Of each unit of a set the sequences of one part of `Seen`; none where the row has none."""
        if (name, part) not in self._parts:
            units = self.units(name)
            groups = [self._rows(unit.row, part) for unit in units]
            prompt = SATIMP_PROMPT if part == "satimp" else self.prompt
            flat = iter(encode(self.tokenizer, [row for group in groups for row in group], prompt))
            self._parts[name, part] = (
                [(unit.example,) for unit in units]
                if part == "answer"
                else [tuple(next(flat) for _ in group) for group in groups]
            )
        return self._parts[name, part]

    @staticmethod
    def _rows(row: Row, part: str) -> list[Row]:
        if part == "perturbed":
            return [Row(row.question, wrong, verbatim=row.verbatim) for wrong in row.perturbed_answer]
        if part == "paraphrased" and row.paraphrased_answer:
            return [Row(row.question, row.paraphrased_answer)]
        if part == "rephrased" and row.paraphrased_question:
            return [Row(row.paraphrased_question, row.answer)]
        return [row] if part == "satimp" and not row.verbatim else []
