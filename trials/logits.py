"""Where logits are made: of the positions that predict an answer token, and of no others.

Shape suffixes: N answer tokens of a batch, one row after the other; V vocabulary; H hidden size.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from trials.encoding import Batch


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
    head = model.get_output_embeddings()  # type: ignore[operator]

    def narrow(_: torch.nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0][batch.answer_BT.to(inputs[0].device)], *inputs[1:])  # the head may lie on another GPU

    handle = head.register_forward_pre_hook(narrow)
    try:
        output = model(
            input_ids=batch.input_BT,
            attention_mask=batch.attention_BT,
            **({} if batch.position_BT is None else {"position_ids": batch.position_BT}),
            use_cache=False,
            output_hidden_states=layer is not None,
        )
    finally:
        handle.remove()
    hidden = None if layer is None else output.hidden_states[layer].to(batch.answer_BT.device)[batch.answer_BT].float()
    return output.logits.to(batch.answer_BT.device).float(), hidden
