"""Forward passes of a trial: from forget rows and retain rows to what the loss looks at.

What a loss needs beyond the cross-entropies of its own micro-batch is said by `LossConfig.needs`, and made here only
then: cross-entropies and logits of the reference model, refusals, hidden states, weights over the whole step.

What needs passes of the trained model asks for them (`asking`): of its own model, or of a pack of trials.

Shape suffixes: B rows, A answer tokens of a row (right-padded), R tokens of its refusal, N answer tokens one row after
the other, V vocabulary, H hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from trials.annotations import AnnotationError, important_tokens
from trials.asking import Asked, Asking, Current, alone, answer, passed
from trials.benchmarks import Row
from trials.config import TrialConfig
from trials.encoding import Batch, Example, collate, encode
from trials.forget import ForgetPass, Refusals, kto_baseline, weights_of
from trials.heads import Logits
from trials.losses import count_of, retain_activation, retain_nll, token_kl, token_uniform
from trials.models import Workspace
from trials.objectives import KTO, RMU
from trials.refusals import REFUSALS
from trials.result import TrialFailed
from trials.scoring import score
from trials.weighting import TokenStats

T = TypeVar("T")
_PARTNER, _DRAW, _REFUSAL, _DIRECTION = 2, 4, 5, 6  # what random numbers are for; 1 and 3 are in `unlearn`


@dataclass(frozen=True)
class Step:
    """The rows of one optimiser step.

    Attributes:
        epoch: From 0.
        rows: Indices of forget rows.
        partners: A retain row for each, or none where there is no retain term on them.
        tokens: Answer tokens of the forget rows.
        retain_tokens: Answer tokens of the partners.
    """

    epoch: int
    rows: Sequence[int]
    partners: Sequence[Example]
    tokens: int
    retain_tokens: int


class Passes:
    """The forward passes of one trial."""

    def __init__(self, config: TrialConfig, warm: Workspace, model: Any) -> None:
        self.config, self.loss, self.warm, self.model = config, config.loss, warm, model
        self.forget = warm.forget
        self.needs = config.loss.needs
        self.reference_ce: list[Tensor] = []
        if "reference" in self.needs:
            if not warm.reference_ce:  # the same for all trials of a worker
                answers = score(warm.reference, self.forget, padding=warm.padding, device=warm.device)
                warm.reference_ce.extend(torch.from_numpy(answer.ce).float() for answer in answers)
            self.reference_ce = warm.reference_ce
        self.important: list[Tensor] = []
        if "annotations" in self.needs:
            self.important = _important(warm)
        self.refusals: list[tuple[int, ...]] = []
        if "refusals" in self.needs:
            rows = encode(warm.tokenizer, [Row("?", text) for text in REFUSALS], warm.material.prompt)
            self.refusals = [example.answer for example in rows]
        self.layer = _layer(config, warm) if "hidden states" in self.needs else None

    def lay_out(self, epoch: int, rows: Sequence[int]) -> Step:
        """The step over these forget rows, with a retain partner for each, drawn by (seed, epoch, row)."""
        partners: list[Example] = []
        if self.loss.retain.term not in ("none", "forget_kl"):
            pool = self.warm.pool
            partners = [pool[self._draws(_PARTNER, epoch, row).integers(len(pool))] for row in rows]
        return Step(epoch, rows, partners, _tokens([self.forget[row] for row in rows]), _tokens(partners))

    def alone(self, asking: Asking[T]) -> T:
        """Answers with passes of the trial's own model and of the reference model, to the end."""
        models = {False: self.model, True: self.warm.reference}
        return alone(asking, lambda asked: passed(models[asked.reference], self._batch, asked))

    def micro_batch(self, step: Step, start: int, size: int) -> Asking[tuple[ForgetPass, Tensor]]:
        """One pass over `size` rows of a step from `start` on: what the forget term looks at, and the retain term."""
        rows, kept = step.rows[start : start + size], step.partners[start : start + size]
        examples = [self.forget[row] for row in rows]
        refused = self._refused(step.epoch, rows) if self.refusals else []
        current = yield from answer(self._asked([*examples, *refused, *kept]))
        forget, instead, rest = current.split([_tokens(part) for part in (examples, refused, kept)])
        refusals = None if not refused else (yield from self._refusals(refused, instead.ce_N))
        reference_logits_NV = None
        if "reference logits" in self.needs or self.loss.retain.term == "forget_kl":
            reference_logits_NV = (yield from self._reference(examples)).logits_NV
        view = ForgetPass(
            *self._rows(examples, forget.ce_N),
            tokens=step.tokens,
            rows=len(step.rows),
            **{f"{name}_BA": values for name, values in self._of_rows(step.epoch, rows).items()},
            logits_NV=forget.logits_NV,
            target_N=forget.target_N,
            reference_logits_NV=reference_logits_NV,
            hidden_NH=forget.hidden_NH,
            direction_H=None if forget.hidden_NH is None else self._direction(forget.hidden_NH),
            refusals=refusals,
        )
        return view, (yield from self._retain(step, view, kept, rest))

    @torch.no_grad()
    def whole_step(self, step: Step, size: int) -> Asking[list[dict[str, Any]]]:
        """What each micro-batch must know of the others, by a pass of its own; nothing where the loss does not ask.

        A micro-batch is a matter of memory: it must not change what is minimised.
        """
        starts = range(0, len(step.rows), size)
        if "whole step" not in self.needs or len(starts) == 1:
            return [{} for _ in starts]
        with torch.random.fork_rng(self.warm.gpus):  # so that the passes which train drop the same units as these
            views = []
            for start in starts:
                views.append((yield from self.micro_batch(step, start, size))[0])
        if isinstance(self.loss.criterion, KTO):
            baseline = torch.stack([kto_baseline(view) for view in views]).sum() / len(step.rows)
            return [{"kto_baseline": baseline} for _ in starts]
        weights_BA = weights_of(_stacked([view.stats() for view in views]), self.loss)
        cuts = zip(starts, views, strict=True)
        return [{"weights_BA": weights_BA[start : start + size, : view.mask_BA.shape[1]]} for start, view in cuts]

    def stats(self, epoch: int, rows: Sequence[int], ce: Sequence[Tensor]) -> TokenStats:
        """Statistics of forget rows from their cross-entropies, as if they were one step."""
        mask_BT = pad_sequence([torch.ones(len(row), dtype=torch.bool) for row in ce], batch_first=True)
        known = {f"{name}_BT": values for name, values in self._of_rows(epoch, rows, "cpu").items()}
        return TokenStats(pad_sequence(list(ce), batch_first=True), mask_BT, **known)

    # -- parts of a pass -----------------------------------------------------------------------------------------------

    def _batch(self, examples: Sequence[Example]) -> Batch:
        return collate(examples, self.warm.padding, self.warm.device)

    def _asked(self, examples: Sequence[Example]) -> Asked:
        """Logits where the loss looks at them, hidden states for rmu."""
        logits = "logits" in self.needs or self.loss.retain.term not in ("none", "nll")
        return Asked(examples, logits, self.layer, gradient=torch.is_grad_enabled())

    def _rows(self, examples: Sequence[Example], ce_N: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropies and mask of shape BA."""
        lengths = torch.tensor([len(example.answer) for example in examples])
        mask_BA = (torch.arange(int(lengths.max())) < lengths[:, None]).to(ce_N.device)
        return ce_N.new_zeros(mask_BA.shape).masked_scatter(mask_BA, ce_N), mask_BA

    def _of_rows(self, epoch: int, rows: Sequence[int], device: str | torch.device | None = None) -> dict[str, Tensor]:
        """Name -> values of shape BA that do not depend on the model that is trained."""
        parts: dict[str, list[Tensor]] = {}
        if self.reference_ce:
            parts["reference_ce"] = [self.reference_ce[row] for row in rows]
        if self.important:
            parts["important"] = [self.important[row] for row in rows]
        if "draws" in self.needs:
            draws = ((self._draws(_DRAW, epoch, row), len(self.forget[row].answer)) for row in rows)
            parts["draw"] = [torch.from_numpy(generator.random(length)).float() for generator, length in draws]
        place = self.warm.device if device is None else device
        return {name: pad_sequence(part, batch_first=True).to(place) for name, part in parts.items()}

    def _refused(self, epoch: int, rows: Sequence[int]) -> list[Example]:
        """Each row with a refusal for its answer, drawn by (seed, epoch, row)."""
        chosen = [self._draws(_REFUSAL, epoch, row).integers(len(self.refusals)) for row in rows]
        return [Example(self.forget[row].prompt, self.refusals[index]) for row, index in zip(rows, chosen, strict=True)]

    def _refusals(self, refused: Sequence[Example], ce_N: Tensor) -> Asking[Refusals]:
        ce_BR, mask_BR = self._rows(refused, ce_N)
        if "reference" not in self.needs:
            return Refusals(ce_BR, mask_BR)
        asked = Asked(refused, logits=False, layer=None, gradient=False, reference=True)
        reference = yield from answer(asked)
        return Refusals(ce_BR, mask_BR, self._rows(refused, reference.ce_N)[0])

    def _retain(self, step: Step, view: ForgetPass, kept: Sequence[Example], current: Current) -> Asking[Tensor]:
        """The retain term: this micro-batch's share."""
        retain = self.loss.retain
        if retain.term == "nll":
            count = count_of(retain.reduction, tokens=step.retain_tokens, rows=len(step.rows))
            return retain_nll(current.ce_N, count=count)
        if retain.term == "kl":
            reference = (yield from self._reference(kept)).need_logits()
            return current.need_logits().each(token_kl, reference).sum() / step.retain_tokens
        if retain.term == "forget_kl":
            logits: Logits = view.need("logits_NV")
            return logits.each(token_kl, view.need("reference_logits_NV")).sum() / step.tokens
        if retain.term == "uniform":
            return current.need_logits().each(token_uniform).sum() / step.retain_tokens
        if retain.term == "activation" and current.hidden_NH is not None:
            reference_NH: Any = (yield from self._reference(kept)).hidden_NH
            return retain_activation(current.hidden_NH, reference_NH, tokens=step.retain_tokens)
        zero: Tensor = view.ce_BA.new_zeros(())
        return zero

    def _reference(self, examples: Sequence[Example]) -> Asking[Current]:
        """Logits and (for rmu) hidden states of the reference model."""
        return (yield from answer(Asked(examples, logits=True, layer=self.layer, gradient=False, reference=True)))

    def _direction(self, hidden_NH: Tensor) -> Tensor:
        """The vector to which rmu draws hidden states: uniform numbers in [0, 1), drawn by the seed."""
        criterion = self.loss.criterion
        if not isinstance(criterion, RMU):
            raise TypeError(f"{criterion.type} has no steering vector")
        drawn = np.random.default_rng([_DIRECTION, self.config.seed]).random(hidden_NH.shape[1])
        length = np.linalg.norm(drawn) if criterion.normalise else 1.0
        return torch.from_numpy(criterion.steering / length * drawn).to(hidden_NH)

    def _draws(self, purpose: int, epoch: int, row: int) -> np.random.Generator:
        return np.random.default_rng([purpose, self.config.seed, epoch, int(row)])


def _tokens(examples: Sequence[Example]) -> int:
    return sum(len(example.answer) for example in examples)


def _important(warm: Workspace) -> list[Tensor]:
    try:
        flags = important_tokens(warm.tokenizer, warm.benchmark.forget, warm.benchmark.key_spans, warm.material.prompt)
    except AnnotationError as error:
        raise TrialFailed(str(error)) from error
    return [torch.tensor(row) for row in flags]


def _layer(config: TrialConfig, warm: Workspace) -> int:
    """The layer of rmu: as set, or a quarter of the depth.

    Raises:
        TrialFailed: The model is not that deep.
    """
    chosen = config.loss.criterion.layer if isinstance(config.loss.criterion, RMU) else None
    if chosen is not None and chosen > warm.layers:
        raise TrialFailed(f"loss.criterion.layer {chosen} is more than the model's {warm.layers} layers; lower it")
    return chosen or math.ceil(warm.layers / 4)


def _stacked(parts: Sequence[TokenStats]) -> TokenStats:
    """Statistics of several micro-batches as one."""
    width = max(part.ce_BT.shape[1] for part in parts)

    def stack(name: str) -> Any:
        tensors = [getattr(part, name) for part in parts]
        return None if tensors[0] is None else torch.cat([pad(each, (0, width - each.shape[1])) for each in tensors])

    return TokenStats(**{field.name: stack(field.name) for field in fields(TokenStats)})
