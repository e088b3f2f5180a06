"""The training step of a trial over the peak of its device: tokens a second, FLOP/s, memory, and where the time goes.

    python benchmarks/train_step.py [--model tiny|100M|1B] [--device cuda --dtype bfloat16] [--adapter lora]

A model with random weights takes optimiser steps by the code of a trial: satimp and the likelihood of the retain set,
as many retain rows as forget rows, no evaluation. The steps are taken four times: timed as they are; timed phase by
phase, the device being waited for at each border; with all FLOPs counted; and row by row, counted too.

FLOPs are counted by torch's FlopCounterMode, not by a formula: 2 for each multiplication and addition of matrix
products and of attention (the whole square, causal or not; scores that are made again on the way back count again),
nothing for norms, softmax and the optimiser. Two counts, each over the time of the steps as they are:

- of all that is done: padding, and logits that are made twice (`trials/heads.py`), included;
- of the model alone: each row by itself, so without padding, and the logits of its answer once. Over the peak this is
  what others call model FLOP/s utilisation (MFU).

Torch does not see into the kernel of cut-cross-entropy; where that runs, its products are added by formula. The peak is
`--peak`, else what the maker states of a known GPU in half precision (dense), else that of a large matrix product in
the same dtype on the same device in the same run. The CPU works on one thread unless --threads says otherwise, and time
is that of the processor then: other work beside it does not count. Memory is that of the whole process there, on CUDA
what torch has allocated.
"""

from __future__ import annotations

import argparse
import functools
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from shapes import add_model_options, rows_of, save_model
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from trials.asking import Asked, Current, passed
from trials.config import TrialConfig
from trials.encoding import Batch, Example, collate
from trials.heads import fused_ce
from trials.models import workspace
from trials.unlearn import Trial

PEAKS = {"H100": 989.0, "H200": 989.0, "A100": 312.0}
"""Part of a device's name -> TFLOP/s, dense, bfloat16 or float16, of the SXM board as its maker states it."""

_CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_UNKNOWN_TO_TORCH = {
    torch.ops.aten.addmm_: lambda _, one, other, **__: 2 * one[0] * one[1] * other[1],  # it knows the one out of place
    _CPU_ATTENTION: lambda query, key, value, *_, out_shape=None, **__: sdpa_flop_count(query, key, value),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda grad, query, key, value, *_, out_shape=None, **__: sdpa_backward_flop_count(grad, query, key, value)
    ),
}

Steps = list[tuple[int, list[int]]]
"""Number and forget rows of each optimiser step."""


@dataclass
class Tokens:
    """What the steps have passed: tokens that predict another, places in batches, and answer tokens."""

    text: int = 0
    padded: int = 0
    answer: int = 0


class Bench:
    """A trial whose steps are taken again and again."""

    def __init__(self, trial: Trial) -> None:
        self.trial, self.device = trial, trial.warm.device

    def now(self) -> float:
        """Seconds, once the device has done what it was given; of the processor where it is one thread of it."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return (
            time.process_time() if self.device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter()
        )

    def steps(self, warm_up: int, count: int, size: int) -> tuple[Steps, Steps]:
        """Warm-up over the longest rows, which take the most memory, and steps over rows in an order drawn once."""
        lengths = [len(example) for example in self.trial.warm.forget]
        longest = sorted(range(len(lengths)), key=lambda row: -lengths[row])[:size]
        order = np.random.default_rng(0).permutation(len(lengths)).tolist()
        rows = [[order[(step * size + place) % len(order)] for place in range(size)] for step in range(count)]
        return [(number, longest) for number in range(warm_up)], list(enumerate(rows, warm_up))

    def take(self, steps: Steps) -> float:
        """Takes steps as a trial does; returns seconds."""
        began = self.now()
        for number, rows in steps:
            self.trial.passes.alone(self.trial._step(number, rows))
        return self.now() - began

    def by_phase(self, steps: Steps) -> tuple[dict[str, float], Tokens]:
        """Takes steps; returns the share of the time of each phase, and what was passed."""
        spent, tokens = {"forward": 0.0, "backward": 0.0, "optimiser": 0.0}, Tokens()

        def timed(name: str, what: Callable[..., Any], *arguments: Any) -> Any:
            began = self.now()
            result = what(*arguments)
            spent[name] += self.now() - began
            return result

        optimiser = self.trial.optimiser
        step = optimiser.step  # put over for as long as the clock runs: only from outside is it told from the rest
        optimiser.step = lambda number: timed("optimiser", step, number)  # type: ignore[method-assign]
        began = self.now()
        for number, rows in steps:
            asking, answer = self.trial._step(number, rows), None
            while (asked := _next(asking, answer)) is not None:
                if isinstance(asked, Asked):
                    batched = functools.partial(self._batch, tokens)
                    answer = timed("forward", passed, self._model(asked), batched, asked)
                else:
                    answer = timed("backward", asked.backward)
        seconds = self.now() - began
        optimiser.step = step  # type: ignore[method-assign]
        spent["rest"] = seconds - sum(spent.values())
        return {name: value / seconds for name, value in spent.items()}, tokens

    def flops(self, steps: Steps, tokens: Tokens) -> tuple[float, float]:
        """FLOPs of all that is done in the steps, and of the model alone."""
        done = _counted(lambda: self.take(steps)) + self._unseen(tokens)
        alone = _counted(lambda: [self._one(example) for example in self._examples(steps)])
        return done, alone

    def _batch(self, tokens: Tokens, examples: Sequence[Example]) -> Batch:
        batch = collate(examples, self.trial.warm.padding, self.device)
        tokens.text += sum(len(example) - 1 for example in examples)  # nothing is predicted from the last one
        tokens.padded += batch.input_BT.numel()
        tokens.answer += sum(len(example.answer) for example in examples)
        return batch

    def _model(self, asked: Asked) -> Any:
        return self.trial.warm.reference if asked.reference else self.trial.model

    def _examples(self, steps: Steps) -> Iterator[Any]:
        for _, rows in steps:
            yield from [self.trial.warm.forget[row] for row in rows]
            yield from self.trial.passes.lay_out(self.trial.epoch, rows).partners

    def _one(self, example: Any) -> None:
        """One row forth and back; its logits at once."""
        asked = Asked([example], logits=True, layer=None, gradient=True)
        passed(self.trial.model, functools.partial(self._batch, Tokens()), asked).ce_N.sum().backward()
        self.trial.model.zero_grad(set_to_none=True)

    def _unseen(self, tokens: Tokens) -> int:
        """FLOPs of the kernel of cut-cross-entropy: logits forth, again on the way back, and one or two gradients."""
        weight = self.trial.model.get_output_embeddings().weight
        if not (weight.is_cuda and weight.itemsize == 2 and fused_ce()):
            return 0
        products = 4 if weight.requires_grad else 3
        return 2 * products * tokens.answer * weight.numel()


def _next(asking: Any, answer: Current | None) -> Any:
    """What a step asks for next; None where it has ended."""
    try:
        return asking.send(answer)
    except StopIteration:
        return None


def _counted(run: Callable[[], Any]) -> float:
    with FlopCounterMode(display=False, custom_mapping=_UNKNOWN_TO_TORCH) as counter:
        run()
    return float(counter.get_total_flops())


def peak_of(given: argparse.Namespace, bench: Bench) -> tuple[float, str]:
    """TFLOP/s at the most, and who says so."""
    if given.peak:
        return given.peak, "given"
    device = bench.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    known = [peak for part, peak in PEAKS.items() if part in name]
    if known and given.dtype != "float32":
        return known[0], "stated by its maker"
    size = 8192 if device.type == "cuda" else 2048
    one, other = (torch.randn(size, size, device=device, dtype=getattr(torch, given.dtype)) for _ in range(2))
    found = []
    for _ in range(6):  # the first one warms up
        began = bench.now()
        one @ other
        found.append(bench.now() - began)
    return 2 * size**3 / min(found[1:]) / 1e12, f"of a product of {size} x {size} matrices here"


def peak_memory(device: torch.device) -> int:
    """Bytes at the most until now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def config_of(folder: Path, given: argparse.Namespace) -> TrialConfig:
    """The trial."""
    adapter = {"type": "lora", "rank": given.rank} if given.adapter == "lora" else {"type": "none"}
    model = {"path": str(folder), "device": given.device, "dtype": given.dtype, "adapter": adapter}
    return TrialConfig.model_validate(
        {
            "benchmark": rows_of(given.benchmark).model_dump(),
            "model": model,
            "optim": {"lr": 1e-5, "batch_size": given.batch_size},
            "evaluation": {"metrics": ["forget.nll"]},
        }
    )


def report(bench: Bench, given: argparse.Namespace) -> Iterator[str]:
    """Measures, and says what it has found."""
    model, device = bench.trial.model, bench.device
    parameters = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in bench.trial.parameters)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    yield (
        f"{given.model}: {parameters / 1e6:.1f} M parameters, {trained / 1e6:.1f} M trained, {given.dtype}, {device} "
        f"({where}), {given.batch_size} + {given.batch_size} rows a step, {given.steps} steps, "
        f"torch {torch.__version__}"
    )
    warm_up, steps = bench.steps(given.warm_up, given.steps, given.batch_size)
    bench.take(warm_up)
    seconds = bench.take(steps)
    memory = peak_memory(device)
    shares, tokens = bench.by_phase(steps)
    done, alone = (flops / seconds / 1e12 for flops in bench.flops(steps, tokens))
    yield (
        f"step: {seconds / len(steps):.4g} s; {tokens.text / seconds:.0f} tokens/s ({tokens.padded / seconds:.0f} with "
        f"padding, {tokens.answer / seconds:.0f} of answers); memory {memory / 2**20:.0f} MiB at the most"
    )
    peak, source = peak_of(given, bench)
    phases = ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares.items())
    yield (
        f"achieved {done:.4g} TFLOP/s = {100 * done / peak:.1f} % of the peak {peak:.4g} ({source}); model FLOP/s "
        f"{alone:.4g} = {100 * alone / peak:.1f} %; time: {phases}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints what was measured: the model, a step, and the line of the roofline."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_options(parser)
    parser.add_argument("--adapter", choices=("none", "lora"), default="none")
    parser.add_argument("--rank", type=int, default=8, help="of the adapter")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warm-up", type=int, default=2, help="steps before, over the longest rows")
    parser.add_argument("--peak", type=float, help="TFLOP/s of the device in this dtype")
    parser.add_argument("--threads", type=int, default=1, help="on the CPU")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as scratch:
        save_model(Path(scratch, "model"), given.model, rows_of(given.benchmark), given.dtype)
        config = config_of(Path(scratch, "model"), given)
        warm = workspace(config)
        with warm.fresh(config) as model:
            for line in report(Bench(Trial(config, warm, model)), given):
                print(line, flush=True)


if __name__ == "__main__":
    main()
