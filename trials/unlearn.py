"""One trial: unlearn for some epochs, measure after each.

`run_trial` is a generator of epoch results and hides model, data, loss, optimiser, evaluation and checkpoints. It has
never heard of Ray: a worker, `unlearn-sweep trial` and a test all run it with a for loop.

All randomness is drawn from generators keyed by what it is for, then (seed, epoch) or (seed, epoch, row), never from
one running stream: evaluating more often, or resuming, cannot change a weight.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from trials.asking import Asking
from trials.attribution import fila, wagle_masks
from trials.checkpoints import damage_of, seal
from trials.config import LoraConfig, TrialConfig, Wagle
from trials.forget import forget_loss, weights_of
from trials.logits import LogitDifference
from trials.measuring import evaluator_for, latest_checkpoint, requests_of
from trials.models import Workspace, derived_seed, load_model, workspace
from trials.naming import named, with_inputs
from trials.objectives import ULD
from trials.optimiser import Optimiser
from trials.passes import Passes
from trials.registry import METRICS
from trials.result import Diverged, EpochResult, OutOfMemory
from trials.robustness import merged_copy
from trials.weight_profile import weight_profile
from trials.weighting import CriterionConfig

logger = logging.getLogger(__name__)

_ORDER, _DROPOUT = 1, 3  # what random numbers are for; the others are in `passes`


def run_trial(config: TrialConfig, *, folder: Path, resume_from: Path | None = None) -> Iterator[EpochResult]:
    """Unlearns and measures, one epoch a step.

    Args:
        config: The trial.
        folder: Where its checkpoint goes (`checkpoint/<epoch>/`, a model folder in transformers' or peft's format; of
            uld, the assistant's). An adapter that fits the target model only as this trial has changed it (fila, uld)
            has a `merged/` model folder beside it after the last epoch.
        resume_from: A `checkpoint` folder of the same trial. Its last epoch is yielded again, then the next ones run;
            the results are those of an uninterrupted trial. From one that is damaged the trial begins anew, and says
            so in the log.

    Yields:
        One result after each epoch, after its checkpoint is on disk.

    Raises:
        Diverged: A loss or metric is NaN or infinite.
        OutOfMemory: The device's memory does not suffice.
    """
    epoch = 1
    try:
        warm = workspace(config)
        with warm.fresh(config) as model:
            trial = Trial(config, warm, model)
            if resume_from and (result := trial.resume(resume_from)):
                yield result
            while not trial.done:
                epoch = trial.epoch + 1
                result = trial.run_epoch()
                trial.save(folder / "checkpoint", result)
                yield result
    except RuntimeError as error:
        if not ran_out(error):
            raise
        raise OutOfMemory(f"out of memory in epoch {epoch}: {error}") from error


def probe_trial(config: TrialConfig, *, folder: Path) -> None:
    """Takes as much memory as the trial does at its largest: two optimiser steps, one whole evaluation, a checkpoint.

    Both steps are over the longest forget rows, with partners as drawn: the second one has the optimiser's state. Every
    answer is generated to its greatest length, as by a model that has unlearnt to end one.

    Args:
        config: The trial, of one epoch; the process is of no use to others afterwards.
        folder: Where its checkpoint goes.

    Raises:
        Diverged, OutOfMemory: As `run_trial`.
    """
    try:
        warm = workspace(config)
        warm.material.ends = frozenset()
        with warm.fresh(config) as model:
            trial = Trial(config, warm, model)
            lengths = [len(example) for example in warm.forget]
            longest = sorted(range(len(lengths)), key=lambda row: -lengths[row])[: config.optim.batch_size]
            for number in range(2):
                trial.passes.alone(trial._step(number, longest))
            metrics = trial._measure()
            trial.save(folder / "checkpoint", EpochResult(1, metrics, 0.0, last=False))
    except RuntimeError as error:
        if not ran_out(error):
            raise
        raise OutOfMemory(f"out of memory: {error}") from error


def ran_out(error: RuntimeError) -> bool:
    """Whether the device's memory did not suffice: libraries under torch say so in words of their own."""
    words = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory")
    return isinstance(error, torch.OutOfMemoryError) or any(each in str(error) for each in words)


class Trial:
    """The state of a running trial: model, optimiser, epochs done."""

    def __init__(self, config: TrialConfig, warm: Workspace, model: Any) -> None:
        self.config, self.warm, self.model = config, warm, model
        self.epoch = 0
        self.requests = requests_of(config, warm.material)
        criterion = config.loss.criterion
        # What is measured is the trained model, but for uld, which trains what is then taken away.
        self.unlearned = (
            LogitDifference(warm.reference, model, criterion.weight) if isinstance(criterion, ULD) else model
        )
        if isinstance(config.model.adapter, LoraConfig) and config.model.adapter.init == "fila":
            fila(model, warm)
        self.passes = Passes(config, warm, model)
        self.evaluator = evaluator_for(config, warm.material, warm)
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        wagle = config.optim.mask if isinstance(config.optim.mask, Wagle) else None
        self.masks = wagle_masks(model, self.parameters, warm, wagle) if wagle else ()
        self.optimiser = self._optimiser()

    def _stage(self, epoch: int) -> int:
        """The request that an epoch, counted from 0, is spent on; 0 where all are made together."""
        return epoch * len(self.requests) // self.config.epochs

    def _stage_epochs(self) -> list[int]:
        """The epochs of the request that the next one belongs to."""
        return [epoch for epoch in range(self.config.epochs) if self._stage(epoch) == self._stage(self.epoch)]

    def _optimiser(self) -> Optimiser:
        """A new one, laid out for the epochs of the request that is next."""
        steps = math.ceil(len(self.requests[self._stage(self.epoch)]) / self.config.optim.batch_size)
        optimiser = Optimiser(self.config.optim, self.parameters, steps=len(self._stage_epochs()) * steps)
        optimiser.masks = self.masks
        return optimiser

    @property
    def done(self) -> bool:
        """Whether all epochs are behind it."""
        return self.epoch >= self.config.epochs

    def run_epoch(self) -> EpochResult:
        """Trains one epoch and evaluates."""
        started = time.perf_counter()
        return self.end_epoch(self.passes.alone(self.train()), started)

    def train(self) -> Asking[dict[str, float]]:
        """The training of one epoch; ends in its losses and mean weight."""
        seed, epoch, size = self.config.seed, self.epoch, self.config.optim.batch_size
        torch.manual_seed(derived_seed(_DROPOUT, seed, epoch))  # dropout draws from the global generator
        rows = self.requests[self._stage(epoch)]
        order = [rows[place] for place in np.random.default_rng([_ORDER, seed, epoch]).permutation(len(rows))]
        steps = math.ceil(len(rows) / size)
        before = (epoch - self._stage_epochs()[0]) * steps
        sums: dict[str, float] = {}
        for step, start in enumerate(range(0, len(order), size)):
            parts = yield from self._step(before + step, order[start : start + size])
            for name, value in parts.items():
                sums[name] = sums.get(name, 0.0) + value / steps
        return sums

    def end_epoch(self, losses: dict[str, float], started: float) -> EpochResult:
        """Evaluates what `train` has trained.

        Args:
            losses: What the training ended in.
            started: When the epoch began, by `time.perf_counter`.
        """
        epoch, metrics = self.epoch, self._measure() | losses
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise Diverged(f"{name} is {value} after epoch {epoch + 1}")
        self.epoch += 1
        last = self.epoch == self.config.epochs
        if not last and self._stage(self.epoch) != self._stage(epoch):
            self.optimiser = self._optimiser()
        return EpochResult(self.epoch, metrics, time.perf_counter() - started, last)

    def _measure(self) -> dict[str, float]:
        """The metrics that are due after the running epoch."""
        evaluation, epoch = self.config.evaluation, self.epoch + 1
        dear = epoch == self.config.epochs or (evaluation.every is not None and epoch % evaluation.every == 0)
        due = [name for name in named(evaluation.metrics) if dear or METRICS[name].cost == "one pass"]
        weighed = self.config.log_weights and isinstance(self.config.loss.criterion, CriterionConfig)
        seen = self.evaluator.see(self.unlearned, with_inputs(due) + ["forget.nll"] * weighed)
        values = self.evaluator.log(self.unlearned, due, seen).values
        metrics = {name: values[name] for name in due if name in values}
        if weighed:
            rows = sorted(row for request in self.requests for row in request)
            ce = [torch.from_numpy(each.answer.ce) for each in seen["forget"]]
            stats = self.passes.stats(self.epoch, rows, ce)
            metrics |= weight_profile(stats, weights_of(stats, self.config.loss))
        return metrics

    def _step(self, number: int, rows: Sequence[int]) -> Asking[dict[str, float]]:
        """One optimiser step over these forget rows, in micro-batches; returns its losses and mean weight."""
        loss, optim = self.config.loss, self.config.optim
        size = optim.micro_batch_size or optim.batch_size
        step = self.passes.lay_out(self.epoch, rows)
        parts = {"train.forget_loss": 0.0, "train.retain_loss": 0.0}
        for index, known in enumerate((yield from self.passes.whole_step(step, size))):
            view, retain = yield from self.passes.micro_batch(step, index * size, size)
            if isinstance(loss.criterion, CriterionConfig):
                known = known or {"weights_BA": weights_of(view.stats(), loss)}
                mean = known["weights_BA"].sum().item() / step.tokens
                parts["train.weight"] = parts.get("train.weight", 0.0) + mean
            forget = forget_loss(replace(view, **known), loss)
            yield loss.forget_coefficient * forget + loss.retain.coefficient * retain
            parts["train.forget_loss"] += forget.item()
            parts["train.retain_loss"] += retain.item()
        for name, value in parts.items():
            if not math.isfinite(value):
                raise Diverged(f"{name} is {value} in epoch {self.epoch + 1}, step {number + 1}")
        self.optimiser.step(number)
        return parts

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
            self._save_merged(scratch / "merged")
        else:
            save_file(self.optimiser.tensors(), scratch / "optimizer.safetensors")
        (scratch / "epoch.json").write_text(json.dumps(asdict(result)), encoding="utf-8")
        seal(scratch)
        shutil.rmtree(place, ignore_errors=True)
        os.replace(scratch, place)
        for old in folder.iterdir():
            if old != place:
                shutil.rmtree(old)

    def _save_merged(self, place: Path) -> None:
        """A model folder of what was trained, where the target model with the saved adapter is not that.

        fila has moved the weights under its adapter, and the adapter of uld sits on an assistant.
        """
        adapter = self.config.model.adapter
        if isinstance(adapter, LoraConfig) and (adapter.init == "fila" or self.unlearned is not self.model):
            merged_copy(self.model).save_pretrained(place)
            self.warm.tokenizer.save_pretrained(place)

    def resume(self, folder: Path) -> EpochResult | None:
        """Goes on from the newest checkpoint in a `checkpoint` folder; None where there is none, or it is damaged."""
        checkpoint = latest_checkpoint(folder)
        if checkpoint and (damage := damage_of(checkpoint)):
            logger.warning("checkpoint %s is damaged (%s): the trial begins anew", checkpoint, damage)
            return None
        return self._restore(checkpoint) if checkpoint else None

    def _restore(self, place: Path) -> EpochResult:
        """Takes weights, optimiser and epoch from a checkpoint; returns the result that it was saved with."""
        adapter = place / "adapter_model.safetensors"
        with torch.no_grad():
            if adapter.exists():
                import peft  # slow to import, and full fine-tuning does without

                peft.set_peft_model_state_dict(self.model, load_file(adapter))
            else:
                # Through the library: it renames and splits the weights of some architectures when it saves.
                # On the CPU: a third copy beside target and working copy may not fit on the device.
                local = {"revision": None, "device": "cpu", "device_map": None}
                saved = load_model(str(place), self.config.model.model_copy(update=local))
                self.model.load_state_dict(saved.state_dict())
        result = EpochResult(**json.loads((place / "epoch.json").read_text(encoding="utf-8")))
        self.epoch = result.epoch
        if not result.last:
            self.optimiser = self._optimiser()
        if not result.last and self._stage(self.epoch) == self._stage(self.epoch - 1):
            self.optimiser.load(load_file(place / "optimizer.safetensors"))
        return result
