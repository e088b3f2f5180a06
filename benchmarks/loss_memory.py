"""Memory of the cross-entropies of a step, or of its KL: by chunks of rows against all logits at once.

    python benchmarks/loss_memory.py [--loss ce|kl] [--tokens 2048] [--hidden 512] [--vocabularies 32000 128000 256000]
                                     [--device cpu|cuda] [--dtype float32|bfloat16]

Each case runs in a process of its own. The head's weight and the hidden states are there before (of kl, those of the
reference model too); measured is what comes on top at the peak, both gradients included (resident memory; on CUDA what
torch has allocated). The loss weighs each token by its own probability, as a reweighting does. Values and gradients of
both ways are compared on the same tensors.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trials.heads import Logits
from trials.losses import token_kl

VOCABULARIES = (32_000, 128_000, 256_000)


@dataclass(frozen=True)
class Case:
    """What is measured: a loss, its sizes, and where."""

    loss: str
    vocabulary: int
    tokens: int
    hidden: int
    device: str
    dtype: str


def loss_of(value_N: Tensor) -> Tensor:
    return ((-value_N.detach()).exp().sqrt() * value_N).mean()


def tensors(case: Case) -> tuple[Logits, Tensor | Logits]:
    """A head that is trained, with its hidden states; and the targets, or those of the reference model."""
    torch.manual_seed(0)
    logits = head(case)
    for leaf in leaves(logits):
        leaf.requires_grad_()
    if case.loss == "kl":
        return logits, head(case)
    return logits, torch.randint(case.vocabulary, (case.tokens,), device=case.device)


def head(case: Case) -> Logits:
    given: Any = {"device": case.device, "dtype": getattr(torch, case.dtype)}
    # In place: what is made on the way would count as a peak.
    weight_VH = torch.empty(case.vocabulary, case.hidden, **given).normal_(std=case.hidden**-0.5)
    return Logits(torch.empty(case.tokens, case.hidden, **given).normal_(), weight_VH)


def leaves(logits: Logits) -> list[Tensor]:
    return [each for each in (logits.rows_NX, logits.weight_VH) if each is not None]


def way_of(name: str, logits: Logits, given: Tensor | Logits) -> Tensor:
    """Values of each token; `ce` of what are logits already makes nothing by chunks."""
    if name != "chunks":
        logits = Logits(logits.whole())
    return logits.each(token_kl, given) if isinstance(given, Logits) else logits.ce(given)


def in_use(device: str) -> int:
    """Bytes in use at the peak until now."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(name: str, case: Case) -> dict[str, float]:
    """Peak bytes on top of what was there, and seconds; in this process, which must be a fresh one."""
    logits, given = tensors(case)
    device = case.device
    torch.ones(8, 8, device=device).requires_grad_().mm(torch.ones(8, 8, device=device)).sum().backward()  # libraries
    before = in_use(device)
    started = time.perf_counter()
    loss_of(way_of(name, logits, given)).backward()
    if device == "cuda":
        torch.cuda.synchronize()
    return {"bytes": in_use(device) - before, "seconds": time.perf_counter() - started}


def difference(case: Case) -> float:
    """Largest difference between the two ways' gradients, as a part of the largest gradient."""
    found = []
    for name in ("chunks", "all at once"):
        logits, given = tensors(case)
        found.append(torch.autograd.grad(loss_of(way_of(name, logits, given)), leaves(logits)))
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(*found, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loss", choices=("ce", "kl"), default="ce")
    parser.add_argument("--tokens", type=int, default=2048, help="answer tokens of a micro-batch")
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--vocabularies", type=int, nargs="+", default=VOCABULARIES)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        name, case = json.loads(given.case)
        print(json.dumps(measure(name, Case(**case))))
        return
    print(
        f"{given.tokens} tokens, hidden size {given.hidden}, {given.dtype}, {given.device}, torch {torch.__version__}"
    )
    cases = [
        Case(given.loss, vocabulary, given.tokens, given.hidden, given.device, given.dtype)
        for vocabulary in given.vocabularies
    ]
    found: dict[int, dict[str, dict[str, float]]] = {}
    for case in cases:  # all of them first: a process begins with the peak of the one that started it
        for name in ("all at once", "chunks"):
            command = [sys.executable, str(Path(__file__).resolve()), "--case", json.dumps([name, asdict(case)])]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found.setdefault(case.vocabulary, {})[name] = json.loads(done.stdout.splitlines()[-1])
    for case in cases:
        whole, chunks = found[case.vocabulary]["all at once"], found[case.vocabulary]["chunks"]
        print(
            f"V = {case.vocabulary}: peak {chunks['bytes'] / whole['bytes']:.3f} of all logits at once "
            f"({chunks['bytes'] / 2**20:.0f} / {whole['bytes'] / 2**20:.0f} MiB), "
            f"time {chunks['seconds'] / whole['seconds']:.2f} "
            f"({chunks['seconds']:.1f} / {whole['seconds']:.1f} s), gradients differ by {difference(case):.1e}",
            flush=True,
        )


if __name__ == "__main__":
    main()
