"""Model x material -> an evaluation log: what the metrics that are asked for need, and no further.

All sequences that any metric looks at go through one pass together, each distinct one once. What is dear (generations,
gradients, a second model, a changed copy of the model) is made only where a metric asks for it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from trials.benchmarks import Row
from trials.config import Evaluation
from trials.generate import Greedy, generate, text_of
from trials.gradients import gradient_norms
from trials.logs import EvalLog, References
from trials.material import Material, Unit
from trials.metrics import Answer, Seen
from trials.naming import completed, with_inputs
from trials.registry import METRICS, Change, ChangedMetric, RowMetric, Similarity
from trials.robustness import quantised, relearned
from trials.scoring import score
from trials.similarity import similarity

_TAUGHT = ("answer", "paraphrased", "perturbed", "rephrased", "satimp")
"""Parts of `Seen` that a teacher-forced pass sees."""


@dataclass(frozen=True)
class Evaluator:
    """Evaluates models on one benchmark.

    Attributes:
        material: The benchmark, encoded.
        settings: Batch size, length of generations, relearning.
        references: Logs of the target and the retain model.
        models: `target` and `retain` -> what loads that model, for metrics that need it; absent where there is none.
        forget: Rows of the forget set that are asked for; None: all. The logs of the other models are of the whole
            set, so metrics that compare with them on it are then absent.
        reference_losses: Set -> losses of the retain model, once they were looked at.
        scorer: What passes sequences in place of `score`; None: `score`.
    """

    material: Material
    settings: Evaluation = field(default_factory=Evaluation)
    references: References = field(default_factory=References)
    models: Mapping[str, Callable[[], Any]] = field(default_factory=dict)
    forget: Collection[Row] | None = None
    reference_losses: dict[str, list[float]] = field(default_factory=dict)
    scorer: Callable[..., list[Answer]] | None = None

    def log(self, model: Any, names: Iterable[str], seen: Mapping[str, Sequence[Seen]] | None = None) -> EvalLog:
        """Some metrics of a model, and what they are computed from.

        Metrics that cannot be had here (no such set, no reference) are absent.

        Args:
            model: Of any kind that `answer_logits` takes.
            names: Full names of metrics.
            seen: What `see` has seen of the model; None: it is to look.
        """
        names = with_inputs(names)
        seen = self.see(model, names) if seen is None else seen
        values: dict[str, float] = {}
        rows: dict[str, Any] = {}
        for name in names:
            metric = METRICS[name]
            if isinstance(metric, RowMetric) and (group := seen.get(name.split(".")[0])):
                # A model that gives NaN hits no token: it must not pass for one that has forgotten.
                found = [math.nan if np.isnan(each.answer.ce).any() else metric.function(each) for each in group]
                there = [value for value in found if value is not None]
                if there:
                    values[name] = float(np.mean(there))
                    rows[name] = np.array([np.nan if value is None else value for value in found])
        log = completed(EvalLog(values, rows), names, self.references, self._partial)
        return replace(log, values={**log.values, **self._changed(model, names), **self._similar(model, names)})

    def see(self, model: Any, names: Iterable[str]) -> dict[str, list[Seen]]:
        """Set -> what the row metrics among `names` look at, unit by unit."""
        wanted: dict[str, set[str]] = {}
        for name in names:
            metric, rows = METRICS[name], name.split(".")[0]
            if isinstance(metric, RowMetric) and rows in self.material.sets:
                wanted.setdefault(rows, set()).update(metric.sees)
        columns = self._taught(model, wanted)
        compared = [rows for rows, parts in wanted.items() if "reference_loss" in parts and "retain" in self.models]
        losses = self._reference_losses(compared) if compared else {}
        found: dict[str, list[Seen]] = {}
        for rows, parts in wanted.items():
            units = self.units(rows)
            made: dict[str, Sequence[Any]] = columns[rows]
            if "generated" in parts:
                made["generated"] = self._generated(model, rows)
            if "gradient" in parts:
                norms = gradient_norms(model, [unit.example for unit in units], **self._places)
                said = (len(unit.example.answer) > unit.example.ended for unit in units)
                made["gradient"] = [norm if some else None for norm, some in zip(norms, said, strict=True)]
            if rows in compared:
                made["reference_loss"] = losses[rows]
            texts = [self._text(rows, unit) for unit in units]
            cells = zip(texts, *made.values(), strict=True)
            found[rows] = [Seen(text=text, **dict(zip(made, row, strict=True))) for text, *row in cells]
        return found

    def units(self, rows: str) -> Sequence[Unit]:
        """The units of a set that are asked for."""
        return self._asked(rows, self.material.units(rows))

    # -- what `Seen` is made of ----------------------------------------------------------------------------------------

    def _taught(self, model: Any, wanted: Mapping[str, Collection[str]]) -> dict[str, dict[str, Sequence[Any]]]:
        """Set -> part -> of each unit what a teacher-forced pass sees: one pass over all of them together."""
        groups = {
            (rows, part): self._asked(rows, self.material.part(rows, part))
            for rows, parts in wanted.items()
            for part in _TAUGHT
            if part in parts
        }
        standardised = {
            each for (rows, part), group in groups.items() if "z" in wanted[rows] and part == "answer"
            for examples in group for each in examples
        }  # fmt: skip
        flat = [each for group in groups.values() for examples in group for each in examples]
        answers = iter(
            (self.scorer or score)(
                model, flat, **self._places, batch_size=self.settings.batch_size, standardised=standardised
            )
        )
        found: dict[str, dict[str, Sequence[Any]]] = {rows: {} for rows in wanted}
        for (rows, part), group in groups.items():
            several = [tuple(next(answers) for _ in examples) for examples in group]
            found[rows][part] = several if part == "perturbed" else [each[0] if each else None for each in several]
        return found

    def _generated(self, model: Any, rows: str) -> list[str | None]:
        """What the model says, unit by unit; None for raw text, which asks nothing."""
        own = self.material.benchmark.continuations.get(rows)
        length, stops = (own.max_new_tokens, own.stops) if own else (self.settings.max_new_tokens, ())
        units = self.units(rows)
        asked = [unit for unit in units if own or not unit.row.verbatim]
        ids = iter(generate(model, [unit.example.prompt for unit in asked], self._greedy(length)))
        return [
            text_of(self.material.tokenizer, next(ids), stops) if own or not unit.row.verbatim else None
            for unit in units
        ]

    def _greedy(self, length: int) -> Greedy:
        made = self.material
        return Greedy(made.ends, length, made.padding, made.device, self.settings.batch_size)

    def _text(self, rows: str, unit: Unit) -> str:
        """What an answer is compared with as text: of MUSE's long passages, as much as is generated."""
        own = self.material.benchmark.continuations.get(rows)
        if own and own.cut_reference:
            return str(self.material.tokenizer.decode(list(unit.example.answer[: own.max_new_tokens])))
        return unit.text

    def _reference_losses(self, rows: Sequence[str]) -> dict[str, list[float]]:
        """Set -> losses of the retain model, which is loaded for as long as this takes, and no second time."""
        left = [name for name in rows if name not in self.reference_losses]
        if left:
            retain, size = self.models["retain"](), self.settings.batch_size
            for name in left:
                examples = [unit.example for unit in self.units(name)]
                answers = score(retain, examples, **self._places, batch_size=size)
                self.reference_losses[name] = [answer.loss for answer in answers]
        return self.reference_losses

    # -- other models --------------------------------------------------------------------------------------------------

    def _changed(self, model: Any, names: Iterable[str]) -> dict[str, float]:
        """Metrics of changed copies of the model, one copy at a time."""
        wanted: dict[Change, dict[str, str]] = {}
        for name in names:
            metric = METRICS[name]
            if isinstance(metric, ChangedMetric) and self._has(metric):
                wanted.setdefault(metric.change, {})[name] = metric.of
        values: dict[str, float] = {}
        for change, taken in wanted.items():
            copy = self._relearned(model) if change == "relearned" else quantised(model, change)
            log = self.log(copy, taken.values())
            values |= {name: log.values[of] for name, of in taken.items() if of in log.values}
        return values

    def _has(self, metric: ChangedMetric) -> bool:
        """Whether the benchmark has the set that is measured, and what is learnt again."""
        needed = {metric.of.split(".")[0], *(["forget"] if metric.change == "relearned" else [])}
        return needed <= set(self.material.sets)

    def _relearned(self, model: Any) -> Any:
        examples = [unit.example for unit in self.units("forget")]
        return relearned(model, examples, self.settings.relearning, **self._places, seed=self.settings.relearning.seed)

    def _similar(self, model: Any, names: Iterable[str]) -> dict[str, float]:
        """Similarity of hidden states with the target and the retain model's."""
        values = {}
        other = functools.cache(lambda which: self.models[which]())  # loaded once, and let go of afterwards
        for name in names:
            metric = METRICS[name]
            if isinstance(metric, Similarity) and metric.to in self.models and metric.rows in self.material.sets:
                examples, size = [unit.example for unit in self.units(metric.rows)], self.settings.batch_size
                values[name] = similarity(model, other(metric.to), examples, **self._places, batch_size=size)
        return {name: value for name, value in values.items() if not math.isnan(value)}  # of states that are constant

    # -- a part of the forget set --------------------------------------------------------------------------------------

    @property
    def _places(self) -> dict[str, Any]:
        return {"padding": self.material.padding, "device": self.material.device}

    def _asked(self, rows: str, values: Sequence[Any]) -> Sequence[Any]:
        """Of values of a set, unit by unit, those of units that are asked for."""
        if self.forget is None or rows not in self._partial:
            return values
        pairs = zip(values, self.material.units(rows), strict=True)
        return [value for value, unit in pairs if unit.row in self.forget]

    @property
    def _partial(self) -> set[str]:
        """The sets of which only a part is asked for."""
        if self.forget is None:
            return set()
        sets = self.material.benchmark.evaluated
        return {"forget"} | ({"members"} if sets.get("members") is sets["forget"] else set())
