"""Where logits are made: of the positions that predict an answer token, of no others, and no more at once than needed.

Shape suffixes: N answer tokens of a batch, one row after the other; V vocabulary; H hidden size.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn.functional import linear
from transformers import PreTrainedModel

from trials.encoding import Batch
from trials.heads import LOGITS, Logits


class LogitDifference(torch.nn.Module):
    """Target logits minus `weight` times an assistant's (uld, arXiv 2406.08607); the target stays frozen.

    *Differs from* the published code, which leaves tokens alone that the target finds unlikely.
    """

    def __init__(self, target: PreTrainedModel, assistant: Any, weight: float) -> None:
        super().__init__()
        self.target, self.assistant, self.weight = target, assistant, weight

    def train(self, mode: bool = True) -> LogitDifference:
        """Of the assistant only: the target would otherwise draw dropout."""
        self.training = mode
        self.assistant.train(mode)
        return self


def positions_of(model: Any) -> int:
    """The longest sequence that a model has positions for; without limit where its settings name none."""
    whole = model.target if isinstance(model, LogitDifference) else model
    return getattr(whole.config.get_text_config(), "max_position_embeddings", None) or sys.maxsize


def answer_ce(model: torch.nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy of each answer token in nats, shape N: `token_ce` of `answer_logits`.

    Where the logits are a linear map of hidden states, all of them are never there at once.
    """
    return deferred_logits(model, batch)[0].ce(batch.target_N)


@torch.no_grad()
def logit_chunks(model: torch.nn.Module, batch: Batch, *, most: int = LOGITS) -> Iterator[Tensor]:
    """`answer_logits` by chunks of rows, one after the other: never more than `most` logits are there at once."""
    yield from deferred_logits(model, batch)[0].chunks(most)


def deferred_logits(model: torch.nn.Module, batch: Batch, layer: int | None = None) -> tuple[Logits, Tensor | None]:
    """`answer_states`, but where the logits are a linear map of hidden states, they are not made yet."""
    if (head := linear_head(model, batch)) is None:
        logits_NV, hidden = answer_states(model, batch, layer)
        return Logits(logits_NV), hidden
    seen: list[Tensor] = []

    def none(hidden_BTH: Tensor) -> Tensor:
        seen.append(_of_answers(hidden_BTH, batch))
        return seen[0][:0]

    output, device = _pass(model, batch, none, states=layer is not None), batch.input_BT.device
    hidden = None if layer is None else _of_answers(output.hidden_states[layer], batch).to(device).float()
    parts: list[Any] = [head.weight, head.bias]
    if not torch.is_grad_enabled():  # nor have the logits then a gradient, whenever they are made
        parts = [None if part is None else part.detach() for part in parts]
    return Logits(seen[0].to(device), *parts), hidden


def answer_logits(model: torch.nn.Module, batch: Batch) -> Tensor:
    """fp32 logits of the positions that predict an answer token, shape NV; prompts are never projected."""
    return answer_states(model, batch)[0]


def answer_states(model: torch.nn.Module, batch: Batch, layer: int | None = None) -> tuple[Tensor, Tensor | None]:
    """`answer_logits`, and if asked for the hidden states of a layer there, fp32 of shape NH.

    Layer 0 are the embeddings; the last one is what comes out of the final norm.

    The head's input is narrowed by a hook, so whatever an architecture does to its logits afterwards (scaling,
    soft-capping) still happens.
    """
    if isinstance(model, LogitDifference):
        return answer_logits(model.target, batch) - model.weight * answer_logits(model.assistant, batch), None
    output = _pass(model, batch, lambda hidden_BTH: _of_answers(hidden_BTH, batch), states=layer is not None)
    device = batch.input_BT.device
    hidden = None if layer is None else _of_answers(output.hidden_states[layer], batch).to(device).float()
    return output.logits.to(device).float(), hidden


def linear_head(model: torch.nn.Module, batch: Batch) -> torch.nn.Linear | None:
    """The head of a model whose logits are exactly what it makes of hidden states; None where they are more.

    Seen by trying, on one row of a batch, once for each head: architectures scale, cap and combine logits in many ways.
    """
    if isinstance(model, LogitDifference):
        return None
    head = model.get_output_embeddings()  # type: ignore[operator]
    if type(head) is not torch.nn.Linear or (head not in _LINEAR and not batch.answer_BT[0].any()):
        return None
    if head not in _LINEAR:
        _LINEAR[head] = _is_linear(model, head, batch)
    return head if _LINEAR[head] else None


_LINEAR: WeakKeyDictionary[torch.nn.Module, bool] = WeakKeyDictionary()


@torch.no_grad()
def _is_linear(model: torch.nn.Module, head: torch.nn.Linear, batch: Batch) -> bool:
    seen: list[Tensor] = []
    parts: dict[str, Any] = {name: None if part is None else part[:1] for name, part in vars(batch).items()}
    one = Batch(**parts)

    def first(hidden_BTH: Tensor) -> Tensor:
        seen.append(_of_answers(hidden_BTH, one)[:1])
        return seen[0]

    training = model.training
    model.eval()  # so that nothing is drawn
    logits = _pass(model, one, first).logits
    model.train(training)
    return torch.equal(logits, linear(seen[0].to(head.weight.device), head.weight, head.bias).to(logits.device))


def _of_answers(states_BTH: Tensor, batch: Batch) -> Tensor:
    """Rows that predict an answer token, of states that may lie on another GPU than the batch."""
    return states_BTH[batch.answer_BT.to(states_BTH.device)]


def _pass(model: torch.nn.Module, batch: Batch, narrow: Callable[[Tensor], Tensor], *, states: bool = False) -> Any:
    """A forward pass with the head's input narrowed."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    handle = head.register_forward_pre_hook(lambda _, inputs: (narrow(inputs[0]), *inputs[1:]))
    try:
        return model(
            input_ids=batch.input_BT,
            attention_mask=batch.attention_BT,
            **({} if batch.position_BT is None else {"position_ids": batch.position_BT}),
            use_cache=False,
            output_hidden_states=states,
        )
    finally:
        handle.remove()
