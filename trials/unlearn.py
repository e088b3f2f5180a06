"""One trial: unlearn for some epochs, measure after each.

`run_trial` is a generator of epoch results and hides model, data, loss, optimiser, evaluation and checkpoints. It has
never heard of Ray: a worker, `unlearn-sweep trial` and a test all run it with a for loop.

All randomness is drawn from generators keyed by what it is for, then (seed, epoch) or (seed, epoch, row), never from
one running stream: evaluating more often, or resuming, cannot change a weight.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from trials.config import NPO, OptimConfig, TrialConfig
from trials.encoding import Example, collate
from trials.evaluate import evaluate, score
from trials.losses import forget_loss, retain_kl, retain_nll, token_ce
from trials.models import Workspace, answer_logits, derived_seed, load_model, workspace
from trials.result import Diverged, EpochResult, OutOfMemory
from trials.weighting import CriterionConfig, TokenStats, token_weights

_ORDER, _PARTNER, _DROPOUT = 1, 2, 3


def run_trial(config: TrialConfig, *, folder: Path, resume_from: Path | None = None) -> Iterator[EpochResult]:
    """Unlearns and measures, one epoch a step.

    Args:
        config: The trial.
        folder: Where its checkpoint goes (`checkpoint/<epoch>/`, a model folder in transformers' or peft's format).
        resume_from: A `checkpoint` folder of the same trial. Its last epoch is yielded again, then the next ones run;
            the results are those of an uninterrupted trial.

    Yields:
        One result after each epoch, after its checkpoint is on disk.

    Raises:
        Diverged: A loss or metric is NaN or infinite.
        OutOfMemory: The device's memory does not suffice.
    """
    epoch = 1
    try:
        warm = workspace(config)
        with warm.fresh(config.model.adapter, config.seed) as model:
            trial = _Trial(config, warm, model)
            checkpoint = _latest(resume_from) if resume_from else None
            if checkpoint:
                yield trial.restore(checkpoint)
            while trial.epoch < config.epochs:
                epoch = trial.epoch + 1
                result = trial.run_epoch()
                trial.save(folder / "checkpoint", result)
                yield result
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(f"out of memory in epoch {epoch}: {error}") from error


class _Trial:
    """The state of a running trial: model, optimiser, epochs done."""

    def __init__(self, config: TrialConfig, warm: Workspace, model: Any) -> None:
        self.config, self.warm, self.model = config, warm, model
        self.forget = warm.sets["forget"]
        self.epoch = 0
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        # In half precision a step of lr 1e-5 is less than the spacing of the weights and rounds away: so the
        # optimiser works on fp32 masters, and the model's weights are copies of them.
        half = any(parameter.dtype != torch.float32 for parameter in self.parameters)
        self.masters = [p.detach().float().clone() for p in self.parameters] if half else self.parameters
        optim = config.optim
        self.optimizer = torch.optim.AdamW(
            self.masters, lr=optim.lr, betas=optim.betas, weight_decay=optim.weight_decay
        )
        self.steps_an_epoch = math.ceil(len(self.forget) / optim.batch_size)
        self.reference_ce: list[Tensor] = []
        if isinstance(config.loss.criterion, NPO):
            answers = score(warm.reference, self.forget, pad=warm.pad, device=warm.device)
            self.reference_ce = [torch.from_numpy(answer.ce).float() for answer in answers]

    def run_epoch(self) -> EpochResult:
        """Trains one epoch and evaluates."""
        started = time.perf_counter()
        seed, epoch, size = self.config.seed, self.epoch, self.config.optim.batch_size
        torch.manual_seed(derived_seed(_DROPOUT, seed, epoch))  # dropout draws from the global generator
        order = np.random.default_rng([_ORDER, seed, epoch]).permutation(len(self.forget)).tolist()
        sums: dict[str, float] = {}
        for step, start in enumerate(range(0, len(order), size)):
            for name, value in self._step(epoch * self.steps_an_epoch + step, order[start : start + size]).items():
                sums[name] = sums.get(name, 0.0) + value / self.steps_an_epoch
        metrics = evaluate(self.model, self.warm.sets, pad=self.warm.pad, device=self.warm.device) | sums
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise Diverged(f"{name} is {value} after epoch {epoch + 1}")
        self.epoch += 1
        return EpochResult(self.epoch, metrics, time.perf_counter() - started, last=self.epoch == self.config.epochs)

    def _step(self, step: int, rows: Sequence[int]) -> dict[str, float]:
        """One optimiser step over these forget rows, in micro-batches; returns its losses and mean weight."""
        loss, optim = self.config.loss, self.config.optim
        partners = self._partners(rows) if loss.retain.term != "none" else []
        tokens = sum(len(self.forget[row].answer) for row in rows)
        retain_tokens = sum(len(example.answer) for example in partners)
        parts = {"train.forget_loss": 0.0, "train.retain_loss": 0.0}
        size = optim.micro_batch_size or optim.batch_size
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            kept = partners[start : start + size]
            logits_NV, ce_N, split = self._forward(part, kept)
            mask_BA, ce_BA, reference_ce_BA = self._forget_rows(part, ce_N[:split])
            forget = forget_loss(ce_BA, mask_BA, loss, tokens=tokens, rows=len(rows), reference_ce_BA=reference_ce_BA)
            retain = forget.new_zeros(())
            if loss.retain.term == "nll":
                retain = retain_nll(ce_N[split:], tokens=retain_tokens)
            elif loss.retain.term == "kl":
                retain = retain_kl(logits_NV[split:], self._reference_logits(kept), tokens=retain_tokens)
            (loss.forget_coefficient * forget + loss.retain.coefficient * retain).backward()
            parts["train.forget_loss"] += forget.item()
            parts["train.retain_loss"] += retain.item()
            if isinstance(loss.criterion, CriterionConfig):
                stats = TokenStats(ce_BA, mask_BA)
                weights_BA = token_weights(loss.criterion, stats, granularity=loss.granularity)
                parts["train.weight"] = parts.get("train.weight", 0.0) + weights_BA.sum().item() / tokens
        for name, value in parts.items():
            if not math.isfinite(value):
                raise Diverged(f"{name} is {value} in epoch {self.epoch + 1}, step {step + 1}")
        if optim.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, optim.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(optim, step, self.config.epochs * self.steps_an_epoch)
        self._update()
        return parts

    @torch.no_grad()
    def _update(self) -> None:
        """One step of the optimiser, through the masters where there are any; gradients are cleared."""
        apart = self.masters is not self.parameters
        for master, parameter in zip(self.masters, self.parameters, strict=True) if apart else ():
            master.grad = None if parameter.grad is None else parameter.grad.float()
            parameter.grad = None
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        for master, parameter in zip(self.masters, self.parameters, strict=True) if apart else ():
            parameter.copy_(master)

    def _forward(self, rows: Sequence[int], kept: Sequence[Example]) -> tuple[Tensor, Tensor, int]:
        """One pass over forget rows and their retain partners: logits, cross-entropies, where retain begins."""
        examples = [self.forget[row] for row in rows]
        batch = collate([*examples, *kept], self.warm.pad, self.warm.device)
        logits_NV = answer_logits(self.model, batch)
        return (
            logits_NV,
            token_ce(logits_NV, batch.target_N),
            sum(len(example.answer) for example in examples),
        )

    def _forget_rows(self, rows: Sequence[int], ce_N: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Mask and cross-entropies of shape BA, the reference model's too where the loss needs them."""
        lengths = [len(self.forget[row].answer) for row in rows]
        mask_BA = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).to(ce_N.device)
        ce_BA = ce_N.new_zeros(mask_BA.shape).masked_scatter(mask_BA, ce_N)
        if not self.reference_ce:
            return mask_BA, ce_BA, None
        reference_N = torch.cat([self.reference_ce[row] for row in rows]).to(ce_N)
        return mask_BA, ce_BA, ce_N.new_zeros(mask_BA.shape).masked_scatter(mask_BA, reference_N)

    @torch.no_grad()
    def _reference_logits(self, kept: Sequence[Example]) -> Tensor:
        return answer_logits(self.warm.reference, collate(kept, self.warm.pad, self.warm.device))

    def _partners(self, rows: Sequence[int]) -> list[Example]:
        """A retain row for each forget row, drawn by a generator of its own."""
        pool = self.warm.pool
        keys = ([_PARTNER, self.config.seed, self.epoch, int(row)] for row in rows)
        return [pool[np.random.default_rng(key).integers(len(pool))] for key in keys]

    # -- checkpoints: safetensors and JSON, nothing pickled --------------------------------------------------------

    def save(self, folder: Path, result: EpochResult) -> None:
        """Writes `<folder>/<epoch>/` whole, then drops the one before: a killed worker leaves one or the other."""
        place = folder / f"{result.epoch:05d}"
        scratch = folder / f".{place.name}.part"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        self.model.save_pretrained(scratch)
        if result.last:
            self.warm.tokenizer.save_pretrained(scratch)
        else:
            save_file(self._optimizer_tensors(), scratch / "optimizer.safetensors")
        (scratch / "epoch.json").write_text(json.dumps(asdict(result)), encoding="utf-8")
        shutil.rmtree(place, ignore_errors=True)
        os.replace(scratch, place)
        for old in folder.iterdir():
            if old != place:
                shutil.rmtree(old)

    def restore(self, place: Path) -> EpochResult:
        """Takes weights, optimiser and epoch from a checkpoint; returns the result that it was saved with."""
        adapter = place / "adapter_model.safetensors"
        with torch.no_grad():
            if adapter.exists():
                import peft  # slow to import, and full fine-tuning does without

                peft.set_peft_model_state_dict(self.model, load_file(adapter))
            else:
                # Through the library: it renames and splits the weights of some architectures when it saves.
                saved = load_model(str(place), self.config.model.model_copy(update={"revision": None}))
                self.model.load_state_dict(saved.state_dict())
        result = EpochResult(**json.loads((place / "epoch.json").read_text(encoding="utf-8")))
        self.epoch = result.epoch
        if not result.last:
            tensors = load_file(place / "optimizer.safetensors")
            for index, master in enumerate(self.masters):
                if f"{index}.step" in tensors:  # a parameter that never had a gradient has no state
                    self.optimizer.state[master] = {
                        name: tensors[f"{index}.{name}"].to("cpu" if name == "step" else master.device)
                        for name in ("step", "exp_avg", "exp_avg_sq")
                    }
                if f"{index}.master" in tensors:
                    master.data.copy_(tensors[f"{index}.master"])
        return result

    def _optimizer_tensors(self) -> dict[str, Tensor]:
        tensors = {
            f"{index}.{name}": tensor
            for index, master in enumerate(self.masters)
            for name, tensor in self.optimizer.state.get(master, {}).items()
        }
        if self.masters is not self.parameters:
            tensors |= {f"{index}.master": master for index, master in enumerate(self.masters)}
        return tensors


def learning_rate(optim: OptimConfig, step: int, total: int) -> float:
    """Rate of a step counted from 0: linear warm-up, then constant or linear to 0, laid out for the full budget."""
    warmup = round(optim.warmup * total)
    if step < warmup:
        return optim.lr * (step + 1) / warmup
    if optim.schedule == "constant":
        return optim.lr
    return optim.lr * (total - step) / max(total - warmup, 1)


def _latest(checkpoint: Path) -> Path | None:
    """The newest whole checkpoint; half-written ones have names that start with a dot."""
    whole = sorted(place for place in checkpoint.glob("[0-9]*") if (place / "epoch.json").exists())
    return whole[-1] if whole else None
