"""How alike two models see the same rows: linear CKA of their last hidden states.

Shape suffixes: N rows, H hidden size, A answer tokens of a batch, one row after the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trials.encoding import PREDICTED, Batch, Example, Padding, by_length, collate
from trials.logits import LogitDifference, answer_states

_CONSTANT = 1e-6
"""A spread of less than this share of the values is that of fp32's rounding."""


def similarity(
    model: torch.nn.Module,
    other: torch.nn.Module,
    examples: Sequence[Example],
    *,
    padding: Padding,
    device: torch.device,
    batch_size: int = 32,
) -> float:
    """`linear_cka` of the `hidden_means` of two models on the same examples; hidden sizes may differ.

    Source: "Are We Truly Forgetting?", arXiv 2503.06991, which compares the features of image classifiers so.
    """
    x_NH, y_NH = (
        hidden_means(each, examples, padding=padding, device=device, batch_size=batch_size) for each in (model, other)
    )
    return linear_cka(x_NH, y_NH)


def linear_cka(x_NH: Tensor, y_NH: Tensor) -> float:
    """||X'Y||^2 / (||X'X|| ||Y'Y||), Frobenius norms of centred features in fp64; the two widths may differ.

    Range [0, 1]: 1 where one side is the other one rotated, scaled and moved, 0 where no feature of one goes with one
    of the other. NaN where a side is constant up to fp32's rounding, or not finite. With fewer rows than features even
    unrelated ones come out near 1, so only values on the same rows can be compared.

    Source: Kornblith et al., arXiv 1905.00414.
    """
    x, y = _centred(x_NH), _centred(y_NH)
    if len(x) < max(x.shape[1], y.shape[1]):  # the same from products of rows, which are fewer
        k, m = x @ x.T, y @ y.T
        alike = (k * m).sum() / (k.norm() * m.norm())
    else:
        alike = (x.T @ y).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm())
    return float(alike.clamp(0.0, 1.0))  # rounding goes beyond


@torch.no_grad()
def hidden_means(
    model: torch.nn.Module,
    examples: Sequence[Example],
    *,
    padding: Padding,
    device: torch.device,
    batch_size: int = 32,
) -> Tensor:
    """Of each example the mean of the last hidden states, after the final norm, that predict a token of its answer.

    The end token is one of them. In fp64 on the CPU, shape NH; the model is in eval mode meanwhile, and distinct
    examples are passed once.

    Of the difference of two models (uld) they are the target's states beside `weight` times the assistant's: its
    logits are a linear map of the two together, and without weight it is the target. This is our reading.
    """
    distinct = list(dict.fromkeys(examples))
    means: dict[Example, Tensor] = {}
    training = model.training
    model.eval()
    for indices in by_length(distinct, batch_size, PREDICTED):
        chosen = [distinct[index] for index in indices]
        states_AH = _states(model, collate(chosen, padding, device)).cpu().double()
        rows = states_AH.split([len(example.answer) for example in chosen])
        means.update(zip(chosen, (row.mean(0) for row in rows), strict=True))
    model.train(training)
    return torch.stack([means[example] for example in examples])


def _states(model: torch.nn.Module, batch: Batch) -> Tensor:
    if isinstance(model, LogitDifference):
        return torch.cat([_states(model.target, batch), model.weight * _states(model.assistant, batch)], dim=1)
    hidden_AH = answer_states(model, batch, layer=-1)[1]
    assert hidden_AH is not None
    return hidden_AH


def _centred(features_NH: Tensor) -> Tensor:
    """Less their mean; zero, which makes the ratio NaN, if that leaves only what rounding makes of a constant."""
    features = features_NH.double()
    centred = features - features.mean(0)
    return torch.zeros_like(centred) if centred.norm() <= _CONSTANT * features.norm() else centred
