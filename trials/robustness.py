"""Does what was unlearned come back? A model after a little fine-tuning on it, and after quantisation.

Both make a changed copy, on which metrics are taken again; the model itself is left as it is.

Shape suffixes: O outputs and I inputs of a linear layer, K blocks of weights.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from trials.config import OptimConfig, Relearning
from trials.encoding import Example, Padding, collate
from trials.logits import LogitDifference, answer_ce
from trials.optimiser import Optimiser

NF4_BLOCK = 64
"""Weights that share a scale."""

_SMALLEST = torch.finfo(torch.float32).tiny


@torch.enable_grad()
def relearned(
    model: Any,
    examples: Sequence[Example],
    settings: Relearning,
    *,
    padding: Padding,
    device: torch.device,
    seed: int,
) -> Any:
    """A copy of a model, fine-tuned on the first `settings.share` of the examples: all weights, adapters merged first.

    `settings.steps` steps of AdamW (betas 0.9 and 0.99, no decay, constant rate, fp32 masters) on the mean
    cross-entropy of the batch's answer tokens, the rows in a new order each time all have been shown. Dropout is off,
    so the seed decides on the order alone. Of the difference of two models (uld) the assistant is trained, the target
    shared.

    Returns:
        The copy, in eval mode and frozen.

    Source: the relearning test of OpenUnlearning, arXiv 2506.12618. *Differs from* it in its length: there it is one
    epoch over the whole forget set.
    """
    difference = isinstance(model, LogitDifference)
    trained = merged_copy(model.assistant if difference else model).requires_grad_(True)
    whole = LogitDifference(model.target, trained, model.weight).eval() if difference else trained
    parameters = list(trained.parameters())
    optimiser = Optimiser(OptimConfig(lr=settings.lr, warmup=0.0), parameters, steps=settings.steps)
    shown = examples[: max(1, round(settings.share * len(examples)))]
    cycle = math.ceil(len(shown) / settings.batch_size)
    for step in range(settings.steps):
        order = np.random.default_rng([seed, step // cycle]).permutation(len(shown)).tolist()
        start = step % cycle * settings.batch_size
        batch = collate([shown[row] for row in order[start : start + settings.batch_size]], padding, device)
        # Of no other weights: a target that is not frozen would keep gradients.
        answer_ce(whole, batch).mean().backward(inputs=parameters)
        optimiser.step(step)
    trained.requires_grad_(False)
    return whole


@torch.no_grad()
def quantised(model: Any, kind: Literal["int8", "nf4"]) -> Any:
    """A copy of a model whose linear weights are what they are after quantisation and back, adapters merged first.

    Embeddings, head, norms and biases stay, as in bitsandbytes, and so do experts that are kept in one tensor.

    int8: per output, round(w / s) s with s the largest |w| / 127; an error of at most s / 2.
    nf4: per block of 64 weights of the flattened matrix, the nearest of `nf4_levels` times the largest |w|.

    Returns:
        The copy, in eval mode and in the dtype that the model had.

    Source: LLM.int8(), arXiv 2208.07339; QLoRA, arXiv 2305.14314. *Differs from* their kernels: activations are not
    quantised, so int8 has no outlier columns that would have to stay; the scales of nf4 are not quantised again.
    """
    changed = merged_copy(model)
    for part in (changed.target, changed.assistant) if isinstance(changed, LogitDifference) else (changed,):
        head = part.get_output_embeddings()
        for module in part.modules():
            if isinstance(module, (torch.nn.Linear, Conv1D)) and module is not head:
                # Conv1D, GPT-2's linear layer, keeps its weight the other way round.
                weight_OI = module.weight.T if isinstance(module, Conv1D) else module.weight
                weight_OI.copy_((_int8 if kind == "int8" else _nf4)(weight_OI.float()))
    return changed


def merged_copy(model: Any) -> Any:
    """A deep copy in eval mode, adapters merged into it."""
    if isinstance(model, LogitDifference):
        return LogitDifference(merged_copy(model.target), merged_copy(model.assistant), model.weight).eval()
    copied = copy.deepcopy(model)
    if hasattr(copied, "merge_and_unload"):
        _untie(copied)
        copied = copied.merge_and_unload()
    return copied.eval()


def nf4_levels() -> Tensor:
    """The 16 levels of 4-bit NormalFloat in [-1, 1], ascending, fp64: quantiles of a normal over the largest of them.

    They are even in probability on either side: 8 below and 9 above a zero that they share, from
    d = (1/32 + 1/30) / 2 to 1/2 and from 1/2 to 1 - d.

    Source: QLoRA, arXiv 2305.14314, section 3 and appendix E.
    """
    d = (1 / 32 + 1 / 30) / 2
    below = torch.linspace(d, 0.5, 8, dtype=torch.float64)
    above = torch.linspace(0.5, 1 - d, 9, dtype=torch.float64)
    quantiles: Tensor = torch.special.ndtri(torch.cat([below, above[1:]]))
    return quantiles / quantiles[-1]


def _int8(weight_OI: Tensor) -> Tensor:
    scale_O1 = weight_OI.abs().amax(1, keepdim=True) / 127
    return (weight_OI / scale_O1.clamp(min=_SMALLEST)).round() * scale_O1


def _nf4(weight_OI: Tensor) -> Tensor:
    flat = weight_OI.flatten()
    blocks = torch.nn.functional.pad(flat, (0, -len(flat) % NF4_BLOCK)).view(-1, NF4_BLOCK)
    scale_K1 = blocks.abs().amax(1, keepdim=True)
    levels = nf4_levels().to(flat)
    nearest = torch.bucketize(blocks / scale_K1.clamp(min=_SMALLEST), (levels[1:] + levels[:-1]) / 2, out_int32=True)
    return (levels[nearest] * scale_K1).flatten()[: len(flat)].view_as(weight_OI)


def _untie(model: Any) -> None:
    """Gives a head its own weight if it shares the embeddings' and one of the two has an adapter.

    Merging would otherwise change them both.
    """
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    if ends[0].weight is ends[1].weight and any(hasattr(end, "base_layer") for end in ends):
        head = getattr(ends[1], "base_layer", ends[1])
        head.weight = torch.nn.Parameter(head.weight.detach().clone())
        model.get_base_model().config.tie_word_embeddings = False
