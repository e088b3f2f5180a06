"""Scores of several members of a pack at one moment, from passes that they share."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch

from trials.adapters import Shared
from trials.encoding import Example, Padding
from trials.metrics import Answer
from trials.scoring import answers, batches, score


class SharedScorer:
    """`score` for members that are all measured at the same time: what one of them asks, the others will ask too."""

    def __init__(self, shared: Shared, models: Mapping[str, Any]) -> None:
        self.shared = shared
        self.names = {id(model): name for name, model in models.items()}
        self.seen: dict[str, dict[Example, Answer]] = {name: {} for name in models}
        self.waiting = set(models)

    def __call__(
        self,
        model: Any,
        examples: Sequence[Example],
        *,
        padding: Padding,
        device: torch.device,
        batch_size: int = 32,
        standardised: Collection[Example] = frozenset(),
    ) -> list[Answer]:
        """See `score`."""
        name = self.names.get(id(model))
        if name is None:  # a changed copy
            places: dict[str, Any] = {"padding": padding, "device": device, "batch_size": batch_size}
            return score(model, examples, **places, standardised=standardised)
        self.waiting.discard(name)
        seen, names = self.seen[name], [name, *sorted(self.waiting)]
        missing = [each for each in examples if each not in seen or (each in standardised and seen[each].z is None)]
        self.shared.model.eval()
        # All members together are no more sequences than alone: it is a matter of memory, and of caches on the CPU.
        for chosen in batches(model, missing, max(1, batch_size // len(names))):
            with self.shared.passing(names, [len(chosen)] * len(names)):
                found = answers(self.shared.model, chosen * len(names), padding, device, standardised)
            for index, other in enumerate(names):
                self.seen[other] |= zip(chosen, found[index * len(chosen) : (index + 1) * len(chosen)], strict=True)
        self.shared.model.train()
        return [seen[example] for example in examples]
