"""Which weights matter to the forget set: a mask of updates (wagle), a start for LoRA (fila).

Both look at gradients of the plain cross-entropy of answers at the trial's start, over the forget rows and over as many
retain rows as there are forget rows. Nothing is random.

Shape suffixes: O outputs and I inputs of a linear layer, K rank of the adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from trials.config import Wagle
from trials.encoding import Example, by_length, collate
from trials.logits import answer_ce
from trials.models import Workspace
from trials.result import Diverged, TrialFailed

_EPSILON = 1e-5
_BATCH = 8
_SPARE, _ITERATIONS = 16, 8


def wagle_masks(model: Any, parameters: Sequence[Tensor], warm: Workspace, config: Wagle) -> list[Tensor]:
    """True on the share of weights whose attribution is largest, one mask a parameter, ranked all together.

    Attribution of weight i: |theta_i g_i - r_i g_i / hessian|, g and r the gradients of the mean cross-entropy on
    forget and on retain rows: what the forget loss would change by without the weight, less what the retain set's
    answer to that would undo.

    Raises:
        Diverged: Gradients are not finite.

    Source: WAGLE, arXiv 2410.17509. *Differs from* its code, which sums gradients over batches (its constant then
    depends on the size of the data) and lets weight decay move masked weights.
    """
    forget, retain = warm.forget, warm.pool[: len(warm.forget)]
    g = _gradients(model, parameters, warm, forget, lambda gradient, share: gradient * share)
    r = _gradients(model, parameters, warm, retain, lambda gradient, share: gradient * share)
    hessian = config.hessian
    if hessian is None:
        first = sum(float((p.detach().float() * g_i).abs().sum()) for p, g_i in zip(parameters, g, strict=True))
        second = sum(float((r_i * g_i).abs().sum()) for r_i, g_i in zip(r, g, strict=True))
        hessian = second / max(first, 1e-30)
    for parameter, g_i, r_i in zip(parameters, g, r, strict=True):  # in place: these are as large as the model
        g_i.mul_(parameter.detach().float() - r_i / max(hessian, 1e-30)).abs_()
    if not all(score.isfinite().all() for score in g):
        raise Diverged(f"the gradients at the start are not finite in {parameters[0].dtype}; take a wider dtype")
    return _largest(g, max(1, round(config.fraction * sum(score.numel() for score in g))))


def fila(model: Any, warm: Workspace) -> None:
    """Starts every LoRA layer from the directions that matter to the forget set and not to the retain set.

    With I = F_forget / (F_retain + 1e-5), the ratio of diagonal Fisher informations of the frozen weight W_OI, and
    w_O = sqrt(sum over inputs of I): the best rank-K approximation of diag(w) W, divided by w again, becomes B A; the
    frozen weight is lowered by it, so the model's function is unchanged up to rounding. A rank above the layer's own
    leaves the rest of the adapter as plain LoRA starts it.

    Raises:
        TrialFailed: The adapter sits on something else than linear layers of their own.
        Diverged: Gradients are not finite.

    Source: LoKU, arXiv 2408.06621.
    """
    from peft.tuners.lora import LoraLayer  # slow to import, and full fine-tuning does without

    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    bases = [layer.get_base_layer() for layer in layers]
    for base in bases:
        linear = isinstance(base, torch.nn.Linear)
        if not linear or base.weight is model.get_input_embeddings().weight:
            raise TrialFailed(
                "fila starts adapters of linear layers and model.adapter.targets names "
                f"{'a head that is the embeddings too' if linear else type(base).__name__}; name others"
            )
    weights: list[Any] = [base.weight for base in bases]
    forget, retain = warm.forget, warm.pool[: len(warm.forget)]
    for weight in weights:
        weight.requires_grad_(True)
    try:
        fishers = [
            _gradients(model, weights, warm, rows, lambda gradient, share: gradient.square() * share)
            for rows in (forget, retain)
        ]
    finally:
        for weight in weights:
            weight.requires_grad_(False)
    for layer, weight, forget_OI, retain_OI in zip(layers, weights, *fishers, strict=True):
        w_O1 = (forget_OI / (retain_OI + _EPSILON)).sum(1, keepdim=True).sqrt() + _EPSILON
        if not w_O1.isfinite().all():
            raise Diverged(f"gradients at the start are not finite in {weight.dtype}, so fila has none to go by")
        u_OK, s_K, v_IK = _svd(w_O1 * weight.detach().float(), layer.r["default"])
        scaling = layer.scaling["default"]
        root_K = (s_K / scaling).sqrt()
        with torch.no_grad():
            a_KI, b_OK = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            a_KI[: len(root_K)] = (v_IK * root_K).T.to(a_KI)
            b_OK[:, : len(root_K)] = (u_OK * root_K / w_O1).to(b_OK)
            weight.sub_((scaling * b_OK.float() @ a_KI.float()).to(weight.dtype))


def _largest(scores: Sequence[Tensor], count: int) -> list[Tensor]:
    """True on the `count` largest of all scores >= 0 together; of equal ones on those that stand first."""
    # Such floats are ordered as their bits are: 31 halvings find the least score that is kept, exactly. Sorting would
    # take 12 bytes more a weight. Many may tie with it: those of an adapter at its start are 0.
    bits = [score.view(torch.int32) for score in scores]
    low, high = 0, 2**31 - 1
    while low < high:
        middle = (low + high + 1) // 2
        enough = sum(int((each >= middle).sum()) for each in bits) >= count
        low, high = (middle, high) if enough else (low, middle - 1)
    left = count - sum(int((each > low).sum()) for each in bits)
    masks = []
    for each in bits:
        tied = each == low
        first = tied & (tied.flatten().cumsum(0).view_as(tied) <= left)
        left -= int(first.sum())
        masks.append((each > low) | first)
    return masks


def _svd(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """The largest singular values with their vectors, by subspace iteration (arXiv 0909.4061, algorithm 4.4).

    A whole SVD of the matrices of a model of 7B parameters takes hours; the published code iterates too, less often.
    """
    generator = torch.Generator().manual_seed(0)  # any start will do, if it is always the same one
    width = min(rank + _SPARE, *matrix.shape)
    start = torch.randn(matrix.shape[1], width, generator=generator).to(matrix)
    q = torch.linalg.qr(matrix @ start).Q
    for _ in range(_ITERATIONS):
        q = torch.linalg.qr(matrix @ torch.linalg.qr(matrix.T @ q).Q).Q
    u, s, vh = torch.linalg.svd(q.T @ matrix, full_matrices=False)
    return (q @ u)[:, :rank], s[:rank], vh[:rank].T


def _gradients(
    model: Any,
    parameters: Sequence[Tensor],
    warm: Workspace,
    examples: Sequence[Example],
    part: Callable[[Tensor, float], Tensor],
) -> list[Tensor]:
    """Sum over batches of `part(gradient of the batch's mean cross-entropy, its share of all tokens)`, in fp32."""
    total = sum(len(example.answer) for example in examples)
    sums = [torch.zeros_like(parameter, dtype=torch.float32) for parameter in parameters]
    training = model.training
    model.eval()
    for indices in by_length(examples, _BATCH):
        batch = collate([examples[index] for index in indices], warm.padding, warm.device)
        ce_N = answer_ce(model, batch)
        gradients = torch.autograd.grad(ce_N.mean(), list(parameters), allow_unused=True)
        for into, gradient in zip(sums, gradients, strict=True):
            if gradient is not None:
                into.add_(part(gradient.float(), len(ce_N) / total))
    model.train(training)
    return sums
