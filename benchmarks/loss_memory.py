"""Memory of the cross-entropies of a step: by chunks of rows against all logits at once.

    python benchmarks/loss_memory.py [--tokens 2048] [--hidden 512] [--device cpu|cuda] [--dtype float32|bfloat16]

Each case runs in a process of its own. The head's weight and the hidden states are there before; measured is what comes
on top at the peak, both gradients included (resident memory; on CUDA what torch has allocated). The loss weighs each
token by its own probability, as a reweighting does. Values and gradients of both ways are compared on the same tensors.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import linear

from trials.losses import linear_ce, token_ce

VOCABULARIES = (32_000, 128_000, 256_000)


def loss_of(ce_N: Tensor) -> Tensor:
    return ((-ce_N.detach()).exp().sqrt() * ce_N).mean()


def tensors(vocabulary: int, tokens: int, hidden: int, device: str, dtype: str) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    kind = getattr(torch, dtype)
    # In place: what is made on the way would count as a peak.
    weight_VH = torch.empty(vocabulary, hidden, device=device, dtype=kind).normal_(std=hidden**-0.5).requires_grad_()
    hidden_NH = torch.empty(tokens, hidden, device=device, dtype=kind).normal_().requires_grad_()
    return hidden_NH, weight_VH, torch.randint(vocabulary, (tokens,), device=device)


def way_of(name: str, hidden_NH: Tensor, weight_VH: Tensor, target_N: Tensor) -> Tensor:
    if name == "chunks":
        return linear_ce(hidden_NH, weight_VH, None, target_N)
    return token_ce(linear(hidden_NH, weight_VH), target_N)


def in_use(device: str) -> int:
    """Bytes in use at the peak until now."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(name: str, case: tuple[int, int, int, str, str]) -> dict[str, float]:
    """Peak bytes on top of what was there, and seconds; in this process, which must be a fresh one."""
    hidden_NH, weight_VH, target_N = tensors(*case)
    device = case[3]
    torch.ones(8, 8, device=device).requires_grad_().mm(torch.ones(8, 8, device=device)).sum().backward()  # libraries
    before = in_use(device)
    started = time.perf_counter()
    loss_of(way_of(name, hidden_NH, weight_VH, target_N)).backward()
    if device == "cuda":
        torch.cuda.synchronize()
    return {"bytes": in_use(device) - before, "seconds": time.perf_counter() - started}


def difference(case: tuple[int, int, int, str, str]) -> float:
    """Largest difference between the two ways' gradients, as a part of the largest gradient."""
    found = []
    for name in ("chunks", "all at once"):
        hidden_NH, weight_VH, target_N = tensors(*case)
        found.append(torch.autograd.grad(loss_of(way_of(name, hidden_NH, weight_VH, target_N)), (hidden_NH, weight_VH)))
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(*found, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2048, help="answer tokens of a micro-batch")
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        name, case = json.loads(given.case)
        print(json.dumps(measure(name, tuple(case))))
        return
    print(
        f"{given.tokens} tokens, hidden size {given.hidden}, {given.dtype}, {given.device}, torch {torch.__version__}"
    )
    cases = [(vocabulary, given.tokens, given.hidden, given.device, given.dtype) for vocabulary in VOCABULARIES]
    found: dict[int, dict[str, dict[str, float]]] = {}
    for case in cases:  # all of them first: a process begins with the peak of the one that started it
        for name in ("all at once", "chunks"):
            command = [sys.executable, str(Path(__file__).resolve()), "--case", json.dumps([name, case])]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found.setdefault(case[0], {})[name] = json.loads(done.stdout.splitlines()[-1])
    for case in cases:
        whole, chunks = found[case[0]]["all at once"], found[case[0]]["chunks"]
        print(
            f"V = {case[0]}: peak {chunks['bytes'] / whole['bytes']:.3f} of all logits at once "
            f"({chunks['bytes'] / 2**20:.0f} / {whole['bytes'] / 2**20:.0f} MiB), "
            f"time {chunks['seconds'] / whole['seconds']:.2f} "
            f"({chunks['seconds']:.1f} / {whole['seconds']:.1f} s), gradients differ by {difference(case):.1e}",
            flush=True,
        )


if __name__ == "__main__":
    main()
