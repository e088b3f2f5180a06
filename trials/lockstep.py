"""Training of several members of a pack in step with each other: one pass answers what several of them ask for."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from trials.adapters import Shared
from trials.asking import Asked, Asking, Current, in_parts, one_pass, passed
from trials.encoding import Batch, Example, collate
from trials.models import Workspace
from trials.result import TrialFailed

CACHED = 2048
"""Tokens of a pass on a CPU: what is made of more no longer stays in its caches (measured on the embedded model)."""


class Lockstep:
    """Members that train at the same time.

    Args:
        warm: Where they train.
        shared: What several of them pass together.
        models: Name of a member -> its model.
    """

    def __init__(self, warm: Workspace, shared: Shared, models: Mapping[str, Any]) -> None:
        self.warm, self.shared, self.models = warm, shared, models

    def train(
        self, runs: Mapping[str, Asking[dict[str, float]]]
    ) -> tuple[dict[str, dict[str, float]], dict[str, TrialFailed]]:
        """Answers what the members' training asks for until all have ended: losses, and failures.

        Who is ahead of the others waits for them: passes without a gradient come first (a loss that looks at the whole
        step makes them), then passes with one, then one way back for all.
        """
        ended: dict[str, dict[str, float]] = {}
        failed: dict[str, TrialFailed] = {}
        asked: dict[str, Asked | Tensor] = {}

        def go_on(answered: Mapping[str, Current | None]) -> None:
            for name, answer in answered.items():
                asked.pop(name, None)
                try:
                    asked[name] = runs[name].send(answer)
                except StopIteration as end:
                    ended[name] = end.value
                except TrialFailed as error:
                    failed[name] = error

        go_on(dict.fromkeys(runs))
        while asked:
            passes = {name: each for name, each in asked.items() if isinstance(each, Asked)}
            first = {name: each for name, each in passes.items() if not each.gradient} or passes
            if first:
                go_on(self._answers(first))
            else:
                losses = {name: each for name, each in asked.items() if isinstance(each, Tensor)}
                _backward(list(losses.values()))
                go_on(dict.fromkeys(losses))
        return ended, failed

    def _answers(self, asked: Mapping[str, Asked]) -> dict[str, Current | None]:
        """One pass for all who look at the same things."""

        def looks_at(name: str) -> tuple[bool, bool, int]:
            each = asked[name]
            return each.reference, each.logits, -1 if each.layer is None else each.layer

        found: dict[str, Current | None] = {}
        for _, group in itertools.groupby(sorted(asked, key=looks_at), looks_at):
            names = list(group)
            for some in self._passes_of(names, asked):
                found |= zip(some, self._pass([asked[name] for name in some], some), strict=True)
        return found

    def _passes_of(self, names: list[str], asked: Mapping[str, Asked]) -> list[list[str]]:
        """Who passes together: all; on a CPU fewer, where a pass would leave its caches."""
        if self.warm.device.type != "cpu":
            return [names]
        longest = max(sum(map(len, asked[name].examples)) for name in names)
        size = max(1, CACHED // longest)
        return [names[start : start + size] for start in range(0, len(names), size)]

    def _pass(self, asked: Sequence[Asked], names: Sequence[str]) -> list[Current]:
        """Passes over everybody's rows."""
        like = asked[0]
        if len(names) == 1 or like.reference:
            model = self.warm.reference if like.reference else self.models[names[0]]
            examples = [example for each in asked for example in each.examples]
            current = passed(model, self._batched, replace(like, examples=examples))
        else:

            def together(examples: Sequence[Example], rows: list[int]) -> Current:
                with self.shared.passing(names, rows):
                    return one_pass(self.shared.model, self._batched(examples), like)

            current = in_parts([each.examples for each in asked], together)
        return current.split([each.tokens for each in asked])

    def _batched(self, examples: Sequence[Example]) -> Batch:
        return collate(examples, self.warm.padding, self.warm.device)


def _backward(losses: Sequence[Tensor]) -> None:
    """Gradients of all losses at once; one that is not finite has none, and its trial will say so."""
    stacked = torch.stack(list(losses))
    finite = stacked.detach().isfinite()
    if finite.any():
        stacked[finite].sum().backward()
