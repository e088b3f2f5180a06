"""One teacher-forced pass over each distinct sequence: what every cheap metric is made of.

Shape suffixes: N answer tokens of a batch, one row after the other; V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import Tensor

from trials.encoding import PREDICTED, Example, Padding, by_length, collate
from trials.logits import logit_chunks, positions_of
from trials.losses import token_ce
from trials.metrics import Answer
from trials.result import TrialFailed

_LEAST_VARIANCE = 1e-6


def score(
    model: torch.nn.Module,
    examples: Sequence[Example],
    *,
    padding: Padding,
    device: torch.device,
    batch_size: int = 32,
    standardised: Collection[Example] = frozenset(),
) -> list[Answer]:
    """What one pass sees of each example's answer, in the order given; the same sequence is never passed twice.

    Args:
        model: Of any kind that `answer_logits` takes; in eval mode meanwhile.
        examples: Prompts with answers.
        padding: How short rows are filled.
        device: Of the model.
        batch_size: Sequences of a pass; of long ones fewer.
        standardised: Those of the examples whose `Answer.z` is wanted: it takes as long as the cross-entropies again.

    Raises:
        TrialFailed: A sequence is longer than the model has positions.
    """
    seen: dict[Example, Answer] = {}
    training = model.training
    model.eval()
    for chosen in batches(model, examples, batch_size):
        seen |= zip(chosen, answers(model, chosen, padding, device, standardised), strict=True)
    model.train(training)
    return [seen[example] for example in examples]


def batches(model: torch.nn.Module, examples: Sequence[Example], size: int) -> list[list[Example]]:
    """Distinct examples in batches of similar length, `size` at most.

    Raises:
        TrialFailed: A sequence is longer than the model has positions.
    """
    distinct = list(dict.fromkeys(examples))
    longest, limit = max(map(len, distinct), default=0), positions_of(model)
    if longest > limit + 1:  # the last token is predicted only
        raise TrialFailed(f"a sequence has {longest} tokens and the model {limit} positions; cut it (benchmark.chunk)")
    return [[distinct[index] for index in indices] for indices in by_length(distinct, size, PREDICTED)]


@torch.no_grad()
def answers(
    model: torch.nn.Module,
    examples: Sequence[Example],
    padding: Padding,
    device: torch.device,
    standardised: Collection[Example],
) -> list[Answer]:
    """What one pass sees of each example: `score` of a single batch, in the mode that the model is in."""
    batch = collate(examples, padding, device)
    sizes = [len(example.answer) for example in examples]
    wanted = torch.tensor([example in standardised for example in examples]).repeat_interleave(torch.tensor(sizes))
    start, parts = 0, []
    for logits_MV in logit_chunks(model, batch):
        rows = slice(start, start := start + len(logits_MV))
        parts.append(_columns(logits_MV, batch.target_N[rows], wanted[rows]))
    table = torch.cat(parts, dim=1).cpu().double().numpy()  # one transfer: each waits for the device
    return [
        Answer(part[0], part[1].astype(bool), part[2] if example in standardised else None, example.ended)
        for example, part in zip(examples, np.split(table, np.cumsum(sizes)[:-1], axis=1), strict=True)
    ]


def _columns(logits_MV: Tensor, target_M: Tensor, wanted_M: Tensor) -> Tensor:
    """Cross-entropy, whether the target is the likeliest token, and z where that is wanted; shape 3M."""
    ce_M = token_ce(logits_MV, target_M)
    z_M = torch.full_like(ce_M, torch.nan)
    if wanted_M.any():  # on the CPU: nobody waits for the device
        wanted_M = wanted_M.to(ce_M.device)
        z_M[wanted_M] = standardise(logits_MV[wanted_M], ce_M[wanted_M])
    return torch.stack([ce_M, (logits_MV.argmax(-1) == target_M).float(), z_M])


def standardise(logits_NV: Tensor, ce_N: Tensor) -> Tensor:
    """(ln p - mu) / sigma of each target, mu and sigma those of ln p over the vocabulary under p; sigma^2 >= 1e-6.

    Source: Min-K%++, arXiv 2404.02936.
    """
    log_p_NV = logits_NV.log_softmax(-1)
    p_NV = log_p_NV.exp()
    mean_N = torch.linalg.vecdot(p_NV, log_p_NV)
    variance_N = torch.linalg.vecdot(p_NV, log_p_NV.square_()) - mean_N.square()
    z_N: Tensor = (-ce_N - mean_N) / variance_N.clamp(min=_LEAST_VARIANCE).sqrt()
    return z_N
