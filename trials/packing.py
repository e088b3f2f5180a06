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
import itertools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trials.adapters import Shared, shallow_copy, why_not
from trials.asking import Asked, Asking, Current, passed
from trials.config import LoraConfig, NoAdapter, TrialConfig
from trials.encoding import collate
from trials.logits import linear_head
from trials.models import workspace
from trials.objectives import ULD
from trials.result import EpochResult, OutOfMemory, TrialFailed
from trials.shared_scoring import SharedScorer
from trials.unlearn import Trial, ran_out

logger = logging.getLogger(__name__)

_CACHED = 2048
"""Tokens of a pass on a CPU: what is made of more no longer stays in its caches (measured on the embedded model)."""


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
    """

    def __init__(self, config: TrialConfig) -> None:
        """Args: a trial of the sort that will join."""
        self._sort, self.warm = _sort(config), workspace(config)
        self.warm.working.requires_grad_(False)
        self._shared = Shared(self.warm.working)
        self._members: dict[str, _Member] = {}
        self._most: int | None = None
        # Seen by trying, on a row of nobody: later on all rows are members'.
        linear_head(self._shared.model, collate(self.warm.forget[:1], self.warm.padding, self.warm.device))

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
        if not reason:
            self._shared.add(name, trial.model)
        return result

    def leave(self, name: str) -> None:
        """Lets a member go; its checkpoints stay."""
        self._shared.remove(name)
        self._members.pop(name).end.close()

    def run_epoch(self) -> dict[str, EpochResult | TrialFailed]:
        """Trains and measures one epoch of every member that is not at its end, and writes its checkpoint.

        Returns:
            Name -> result; who failed has left.
        """
        due = [name for name, each in self._members.items() if each.trial.epoch < each.config.epochs]
        results: dict[str, EpochResult | TrialFailed] = {}
        sharing = [name for name in due if not self._members[name].reason]
        while sharing and self._most != 1:
            names = sharing[: self._most]
            found = self._if_memory_suffices(names)
            results |= self._begin_again(names) if found is None else found
            sharing = [name for name in sharing if name not in results]
        for name in due:
            if name not in results:
                results[name] = self._epoch_alone(name)
        for name, result in results.items():
            if isinstance(result, TrialFailed) and name in self._members:
                self.leave(name)
        return results

    def _if_memory_suffices(self, names: Sequence[str]) -> dict[str, EpochResult | TrialFailed] | None:
        """One epoch of members that share passes; None, and fewer of them from now on, where memory ran out."""
        try:
            return self._epoch_together(names)
        except RuntimeError as error:
            if not ran_out(error):
                raise
            self._most = max(1, len(names) // 2)
            logger.warning("out of memory with %d trials in a pass; from now on %d: %s", len(names), self._most, error)
            return None

    def _begin_again(self, names: Sequence[str]) -> dict[str, EpochResult | TrialFailed]:
        """Takes members back to where they were before the epoch that was broken off; returns those that cannot."""
        failed: dict[str, EpochResult | TrialFailed] = {}
        for name in names:
            member = self._members[name]
            self.leave(name)
            try:
                self.join(name, member.config, member.folder, member.resume_from)
            except TrialFailed as error:
                failed[name] = error
        gc.collect()
        if self.warm.device.type == "cuda":
            torch.cuda.empty_cache()
        return failed

    def _epoch_alone(self, name: str) -> EpochResult | TrialFailed:
        trial = self._members[name].trial
        try:
            return self._ended(name, trial.run_epoch)
        except RuntimeError as error:
            if not ran_out(error):
                raise
            return OutOfMemory(f"out of memory in epoch {trial.epoch + 1}: {error}")

    def _epoch_together(self, names: Sequence[str]) -> dict[str, EpochResult | TrialFailed]:
        started = time.perf_counter()
        trials = {name: self._members[name].trial for name in names}
        trained, results = self._train({name: trial.train() for name, trial in trials.items()})
        scorer = SharedScorer(self._shared, {name: trials[name].model for name in trained})
        for name, losses in trained.items():
            trial = trials[name]
            trial.evaluator = replace(trial.evaluator, scorer=scorer)
            results[name] = self._ended(name, lambda: trial.end_epoch(losses, started))  # noqa: B023 - called here
            trial.evaluator = replace(trial.evaluator, scorer=None)
        return results

    def _ended(self, name: str, epoch: Callable[[], EpochResult]) -> EpochResult | TrialFailed:
        """Runs what is left of an epoch and saves what came of it."""
        member = self._members[name]
        try:
            result = epoch()
        except TrialFailed as error:
            return error
        member.resume_from = member.folder / "checkpoint"
        member.trial.save(member.resume_from, result)
        return result

    # -- training in lockstep ------------------------------------------------------------------------------------------

    def _train(
        self, runs: Mapping[str, Asking[dict[str, float]]]
    ) -> tuple[dict[str, dict[str, float]], dict[str, EpochResult | TrialFailed]]:
        """Answers what the members' training asks for until all have ended: losses, and failures.

        Who is ahead of the others waits for them: passes without a gradient come first (a loss that looks at the whole
        step makes them), then passes with one, then one way back for all.
        """
        ended: dict[str, dict[str, float]] = {}
        failed: dict[str, EpochResult | TrialFailed] = {}
        asked: dict[str, Asked | Tensor] = {}

        def go_on(answered: Mapping[str, Current | None]) -> None:
            for name, answer in answered.items():
                asked.pop(name, None)
                try:
                    asked[name] = runs[name].send(answer)
                except StopIteration as end:
                    ended[name] = end.value
                except TrialFailed as error:
                    failed[name] = error

        go_on(dict.fromkeys(runs))
        while asked:
            passes = {name: each for name, each in asked.items() if isinstance(each, Asked)}
            first = {name: each for name, each in passes.items() if not each.gradient} or passes
            if first:
                go_on(self._answers(first))
            else:
                losses = {name: each for name, each in asked.items() if isinstance(each, Tensor)}
                _backward(list(losses.values()))
                go_on(dict.fromkeys(losses))
        return ended, failed

    def _answers(self, asked: Mapping[str, Asked]) -> dict[str, Current | None]:
        """One pass for all who look at the same things."""

        def looks_at(name: str) -> tuple[bool, bool, int]:
            each = asked[name]
            return each.reference, each.logits, -1 if each.layer is None else each.layer

        found: dict[str, Current | None] = {}
        for _, group in itertools.groupby(sorted(asked, key=looks_at), looks_at):
            names = list(group)
            for some in self._passes_of(names, asked):
                found |= zip(some, self._pass([asked[name] for name in some], some), strict=True)
        return found

    def _passes_of(self, names: list[str], asked: Mapping[str, Asked]) -> list[list[str]]:
        """Who passes together: all; on a CPU fewer, where a pass would leave its caches."""
        if self.warm.device.type != "cpu":
            return [names]
        longest = max(sum(map(len, asked[name].examples)) for name in names)
        size = max(1, _CACHED // longest)
        return [names[start : start + size] for start in range(0, len(names), size)]

    def _pass(self, asked: Sequence[Asked], names: Sequence[str]) -> list[Current]:
        """One pass over everybody's rows."""
        examples = [example for each in asked for example in each.examples]
        batch, like = collate(examples, self.warm.padding, self.warm.device), asked[0]
        if len(names) == 1 or like.reference:
            model = self.warm.reference if like.reference else self._members[names[0]].trial.model
            current = passed(model, batch, like)
        else:
            with self._shared.passing(names, [len(each.examples) for each in asked]):
                current = passed(self._shared.model, batch, like)
        return current.split([each.tokens for each in asked])


def _backward(losses: Sequence[Tensor]) -> None:
    """Gradients of all losses at once; one that is not finite has none, and its trial will say so."""
    stacked = torch.stack(list(losses))
    finite = stacked.detach().isfinite()
    if finite.any():
        stacked[finite].sum().backward()


def _sort(config: TrialConfig) -> tuple[Any, ...]:
    return config.benchmark, config.model.model_copy(update={"adapter": NoAdapter()})


def _why_alone(config: TrialConfig, trial: Trial) -> str | None:
    if isinstance(config.loss.criterion, ULD):
        return "uld trains an assistant of its own"
    if isinstance(config.model.adapter, LoraConfig) and config.model.adapter.init == "fila":
        return "fila moves the weights under its adapter"
    return why_not(trial.model)
