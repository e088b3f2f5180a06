"""How steep a model's loss is at single rows: the norms that the attack by gradients looks at."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trials.encoding import Example, Padding, collate
from trials.logits import answer_ce


@torch.enable_grad()
def gradient_norms(
    model: torch.nn.Module, examples: Sequence[Example], *, padding: Padding, device: torch.device
) -> list[float]:
    """Of each example the mean over weight tensors w of ||dL/dw||, L the mean cross-entropy of its answer.

    Nats per unit of weight, >= 0, without upper bound; NaN where the answer is an end token only. The 2-norm is of each
    tensor by itself, a tied one counted once, one that the loss does not depend on left out. The end token is left out
    of L. Distinct examples are passed once, one by one, in eval mode; nothing about the model is changed.

    Of a model with an adapter the tensors are those *under* the adapter, which is not differentiated itself: a linear
    layer's output hangs on W + BA only, so these are the gradients of the merged model, and are comparable with those
    of models without an adapter. Of the difference of two models (uld) they are the tensors of both.

    Source: gradnorm of OpenUnlearning, arXiv 2506.12618. *Differs from* it in dropout, which it leaves on.
    """
    weights = [weight for name, weight in model.named_parameters() if ".lora_" not in name]
    asked, training = [weight.requires_grad for weight in weights], model.training
    model.eval()
    try:
        for weight in weights:
            weight.requires_grad_(True)
        norms = {example: _norm(model, weights, example, padding, device) for example in dict.fromkeys(examples)}
    finally:
        for weight, before in zip(weights, asked, strict=True):
            weight.requires_grad_(before)
        model.train(training)
    return [norms[example] for example in examples]


def _norm(
    model: torch.nn.Module, weights: Sequence[Tensor], example: Example, padding: Padding, device: torch.device
) -> float:
    said = len(example.answer) - 1 if example.ended else len(example.answer)
    if said == 0:
        return float("nan")
    batch = collate([example], padding, device)
    ce_N = answer_ce(model, batch)
    gradients = torch.autograd.grad(ce_N[:said].mean(), weights, allow_unused=True)
    known = (gradient for gradient in gradients if gradient is not None)
    norms = [torch.linalg.vector_norm(each, dtype=torch.float32).to(device) for each in known]
    return float(torch.stack(norms).mean())
