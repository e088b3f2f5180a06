"""Several trials in one process: LoRA trials of one target model that train and are measured in passes they share.

A member of a pack is a trial like any other: its model is a peft model of its own, over weights that all of them share.
It asks for the same passes as alone; a pack answers several members with one pass over their rows. So a packed trial is
its unpacked twin, but for rounding, and their checkpoints are the same. Whatever cannot be shared (a member's
generations, gradients, changed copies; see `Pack.alone`) is done member by member, by the code that does it elsewhere.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from trials.adapters import Shared, shallow_copy, why_not
from trials.config import LoraConfig, NoAdapter, TrialConfig
from trials.encoding import collate
from trials.lockstep import Lockstep
from trials.logits import linear_head
from trials.models import workspace
from trials.objectives import ULD
from trials.result import EpochResult, OutOfMemory, TrialFailed
from trials.shared_scoring import SharedScorer
from trials.unlearn import Trial, ran_out

logger = logging.getLogger(__name__)

Ended = EpochResult | Exception
"""What came of an epoch: `TrialFailed` is a result of the trial, any other error a fault of what runs it."""


@dataclass
class _Member:
    """A trial of a pack.

    Attributes:
        trial: Its state.
        config: What it is.
        folder: Where its checkpoints go.
        resume_from: The `checkpoint` folder that it can be made again from; None: it has no epoch behind it.
        reason: Why it trains alone; None: it shares passes.
        end: Takes its adapter off.
    """

    trial: Trial
    config: TrialConfig
    folder: Path
    resume_from: Path | None
    reason: str | None
    end: contextlib.ExitStack


class Pack:
    """Trials of one target model and benchmark, an epoch of all of them at a time.

    Members join and leave between epochs. One that fails leaves, and does not disturb the others. While a pack is in
    use, nothing else may train in its workspace: they share the working model's weights. Where memory does not suffice
    for all at once, the epoch begins again with half as many in a pass.

    Attributes:
        gone: Members that somebody else trains now: nothing more is written of them, and they leave with their epoch.
    """

    def __init__(self, config: TrialConfig, most: int | None = None) -> None:
        """Takes a trial of the sort that will join, and how many may share a pass; None: all."""
        self._sort, self.warm = _sort(config), workspace(config)
        self.warm.working.requires_grad_(False)
        self._shared = Shared(self.warm.working)
        self._members: dict[str, _Member] = {}
        self._most, self._broke_off = most, 0
        self.gone: set[str] = set()
        # Seen by trying, on a row of nobody: later on all rows are members'.
        linear_head(self._shared.model, collate(self.warm.forget[:1], self.warm.padding, self.warm.device))

    @classmethod
    def of(cls, config: TrialConfig, most: int | None = None) -> Pack:
        """A pack; where there is no room for its model, that is the trial's result.

        Raises:
            OutOfMemory: The device's memory does not suffice.
        """
        try:
            return cls(config, most)
        except RuntimeError as error:
            if not ran_out(error):
                raise
            raise OutOfMemory(f"out of memory: {error}") from error

    @property
    def alone(self) -> dict[str, str]:
        """Name -> why that member shares no passes with the others."""
        return {name: member.reason for name, member in self._members.items() if member.reason}

    def join(self, name: str, config: TrialConfig, folder: Path, resume_from: Path | None = None) -> EpochResult | None:
        """Takes in a trial.

        Args:
            name: Of the member, in this pack.
            config: The trial; with a LoRA adapter, on the benchmark and target model of the pack.
            folder: As of `run_trial`.
            resume_from: As of `run_trial`.

        Returns:
            The result of the epoch that it goes on from, if it goes on.

        Raises:
            ValueError: There is such a member, or the trial does not fit this pack.
            TrialFailed: It cannot begin.
        """
        self.gone.discard(name)
        if name in self._members:
            raise ValueError(f"{name!r} is in the pack already; choose another name or let it leave first")
        if _sort(config) != self._sort or not isinstance(config.model.adapter, LoraConfig):
            raise ValueError(f"{name!r} needs another model or benchmark, or has no LoRA adapter; run it by itself")
        own_weights = config.model.adapter.init == "fila"  # it moves the weights under its adapter
        working = copy.deepcopy(self.warm.working) if own_weights else shallow_copy(self.warm.working)
        with contextlib.ExitStack() as stack:
            try:
                warm = replace(self.warm, working=working)
                trial = Trial(config, warm, stack.enter_context(warm.fresh(config)))
                result = trial.resume(resume_from) if resume_from else None
            except RuntimeError as error:
                if not ran_out(error):
                    raise
                raise OutOfMemory(f"out of memory in epoch 1: {error}") from error
            finally:
                self.warm.working.requires_grad_(False)  # an adapter that cannot be made leaves them to be trained
            reason = _why_alone(config, trial)
            self._members[name] = _Member(trial, config, folder, resume_from, reason, stack.pop_all())
        if reason:
            logger.warning("%s shares no passes with the other trials of its pack: %s", name, reason)
        else:
            self._shared.add(name, trial.model)
        return result

    def leave(self, name: str) -> None:
        """Lets a member go; its checkpoints stay."""
        self._shared.remove(name)
        self._members.pop(name).end.close()

    def run_epoch(self, names: Collection[str] | None = None) -> dict[str, Ended]:
        """Trains and measures one epoch of members that are not at their end, and writes their checkpoints.

        An error that is no trial's result ends nobody's epoch but that of the member it comes of.

        Args:
            names: Of which members; None: of all.

        Returns:
            Name -> result; who failed has left.
        """
        asked = self._members if names is None else names
        due = [name for name in asked if not self._members[name].trial.done]
        results: dict[str, Ended] = {}
        sharing, most = [name for name in due if not self._members[name].reason], self._most
        while len(sharing) > 1 and most != 1:
            most = self._try_together(sharing[:most], results)
            sharing = [name for name in sharing if name not in results]
        for name in due:
            if name not in results:
                results[name] = self._epoch_alone(name)
        for name, result in results.items():
            if isinstance(result, Exception) and name in self._members:
                self.leave(name)
        return results

    def _try_together(self, names: Sequence[str], results: dict[str, Ended]) -> int | None:
        """One epoch of members that share passes; returns how many may try next, fewer where this did not work.

        Those whose epoch had not ended when it broke off are as they were before it.
        """
        try:
            self._epoch_together(names, results)
            self._broke_off = 0
            return self._most
        except Exception as error:
            if isinstance(error, RuntimeError) and ran_out(error):
                most = self._most = max(1, len(names) // 2)
                logger.warning("out of memory with %d trials in a pass; from now on %d: %s", len(names), most, error)
            else:
                most, self._broke_off = 1, self._broke_off + 1
                logger.exception("an epoch of %d trials broke off; now each of them by itself", len(names))
                if self._broke_off > 1:  # whoever has a fault of its own has left by then
                    self._most = 1
                    logger.warning("it was the second one after the other: from now on none share passes")
        for name in names:
            if name not in results:
                self._begin_again(name, results)
        gc.collect()
        if self.warm.device.type == "cuda":
            torch.cuda.empty_cache()
        return most

    def _begin_again(self, name: str, results: dict[str, Ended]) -> None:
        """Takes a member back to where it was before an epoch that was broken off."""
        member = self._members[name]
        self.leave(name)
        try:
            self.join(name, member.config, member.folder, member.resume_from)
        except Exception as error:
            results[name] = error

    def _epoch_alone(self, name: str) -> Ended:
        trial = self._members[name].trial
        try:
            return self._ended(name, trial.run_epoch)
        except Exception as error:
            if isinstance(error, RuntimeError) and ran_out(error):
                return OutOfMemory(f"out of memory in epoch {trial.epoch + 1}: {error}")
            logger.exception("a trial of a pack ended with an error")
            return error

    def _epoch_together(self, names: Sequence[str], results: dict[str, Ended]) -> None:
        started = time.perf_counter()
        trials = {name: self._members[name].trial for name in names}
        lockstep = Lockstep(self.warm, self._shared, {name: trial.model for name, trial in trials.items()})
        trained, failed = lockstep.train({name: trial.train() for name, trial in trials.items()})
        results |= failed
        scorer = SharedScorer(self._shared, {name: trials[name].model for name in trained})
        for name, losses in trained.items():
            trial = trials[name]
            trial.evaluator = replace(trial.evaluator, scorer=scorer)
            results[name] = self._ended(name, lambda: trial.end_epoch(losses, started))  # noqa: B023 - called here
            trial.evaluator = replace(trial.evaluator, scorer=None)

    def _ended(self, name: str, epoch: Callable[[], EpochResult]) -> Ended:
        """Runs what is left of an epoch and saves what came of it."""
        member = self._members[name]
        try:
            result = epoch()
        except TrialFailed as error:
            return error
        if name in self.gone:
            return RuntimeError(f"{name} has gone while it trained")
        member.resume_from = member.folder / "checkpoint"
        member.trial.save(member.resume_from, result)
        return result


def _sort(config: TrialConfig) -> tuple[Any, ...]:
    return config.benchmark, config.model.model_copy(update={"adapter": NoAdapter()})


def _why_alone(config: TrialConfig, trial: Trial) -> str | None:
    if isinstance(config.loss.criterion, ULD):
        return "uld trains an assistant of its own"
    if isinstance(config.model.adapter, LoraConfig) and config.model.adapter.init == "fila":
        return "fila moves the weights under its adapter"
    return why_not(trial.model)
