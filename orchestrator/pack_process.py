"""The process of a pack: trains its members in rounds, an epoch of all who ask for one."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from orchestrator.redaction import LogFormatter
from orchestrator.resources import Resources
from trials.config import TrialConfig
from trials.result import EpochResult, TrialFailed

WAIT = 2.0
"""Seconds, at least, for which a round waits for those who took part in the last one; else a tenth of its time."""

T = TypeVar("T")


@dataclass
class _Asks:
    """Somebody who waits for the end of an epoch."""

    trial: TrialConfig
    folder: Path
    begins: bool
    resume_from: Path | None
    answer: asyncio.Future[EpochResult | Exception]


class PackProcess:
    """Trains the members of a pack, a round after the other: an epoch of all who ask for one.

    Whoever took part in the last round is waited for, but not for long: a worker may have died without a word.
    """

    def __init__(self, resources: Resources, gpus: str | None) -> None:
        if gpus is not None:  # Ray has hidden them from this process: they are its members'
            os.environ["CUDA_VISIBLE_DEVICES"] = gpus
        self._resources = resources
        self._pack: Any = None  # a `trials.packing.Pack`, once somebody has joined
        self._thread = ThreadPoolExecutor(1)  # torch keeps settings and random numbers by thread
        self._asking: dict[str, _Asks] = {}
        self._leaving: set[str] = set()
        self._logs: dict[str, logging.FileHandler] = {}
        self._news = asyncio.Event()
        self._rounds: asyncio.Task[None] | None = None
        self._last, self._seconds = 1, 0.0  # members of the last round, and its time
        self._began: float | None = None
        self._broken = False

    async def is_well(self) -> bool:
        """Whether it may be asked for an epoch: it does not hang, and its device is not broken."""
        limit = self._resources.timeout_minutes
        hangs = limit is not None and self._began is not None and time.monotonic() - self._began > 60 * limit
        return not (self._broken or hangs)

    async def epoch(
        self, trial: TrialConfig, folder: Path, begins: bool, resume_from: Path | None
    ) -> EpochResult | Exception:
        """The next result of a trial, as `run_trial` would yield it, or the error that it would raise.

        Args:
            trial: The trial.
            folder: Its folder, which tells it from others.
            begins: Whether this is the first that its worker asks for.
            resume_from: As of `run_trial`.
        """
        answer = asyncio.get_running_loop().create_future()
        self._leaving.discard(str(folder))
        self._asking[str(folder)] = _Asks(trial, folder, begins, resume_from, answer)
        self._news.set()
        if self._rounds is None:
            self._rounds = asyncio.create_task(self._run())
        result: EpochResult | Exception = await answer
        return result

    async def leave(self, name: str) -> None:
        """Lets go of a trial that asks for nothing more."""
        self._leaving.add(name)
        self._news.set()

    async def _run(self) -> None:
        while True:
            names = await self._gathered()
            self._began = time.monotonic()
            try:
                results = await self._in_thread(functools.partial(self._epoch, names))
            except Exception as error:
                results = dict.fromkeys(names, error)
            self._last, self._seconds, self._began = len(names), time.monotonic() - self._began, None
            # An error of one is its own; where all have one, it is most likely the device's.
            faults = [each for each in results.values() if isinstance(each, Exception)]
            self._broken = len(faults) == len(names) and not any(isinstance(each, TrialFailed) for each in faults)
            self._answer(results)

    async def _gathered(self) -> list[str]:
        """Those who take part in the next round, all of them members."""
        until: float | None = None
        while True:
            self._news.clear()
            left, self._leaving = self._leaving, set()
            begin = {name: asks for name, asks in self._asking.items() if asks.begins or name not in self._members}
            if left or begin:
                self._answer(await self._in_thread(functools.partial(self._change, left, begin)))
                continue
            absent = self._members - self._asking.keys()
            if not self._asking:
                until = None
            elif until is None:
                until = time.monotonic() + max(WAIT, 0.1 * self._seconds)
            late = until is not None and time.monotonic() >= until
            if late and absent:
                self._leaving |= absent  # who asks once more goes on from its checkpoint
                continue
            if self._asking and (late or (not absent and len(self._asking) >= self._last)):
                return list(self._asking)
            timeout = None if until is None else max(0.0, until - time.monotonic())
            try:
                await asyncio.wait_for(self._news.wait(), timeout)
            except TimeoutError:
                continue

    @property
    def _members(self) -> set[str]:
        return set(self._logs)

    def _answer(self, results: Mapping[str, EpochResult | Exception]) -> None:
        for name, result in results.items():
            self._asking.pop(name).answer.set_result(result)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        done: Awaitable[T] = asyncio.get_running_loop().run_in_executor(self._thread, work)
        return await done

    # -- in the thread of the trials -----------------------------------------------------------------------------------

    def _epoch(self, names: list[str]) -> dict[str, EpochResult | Exception]:
        results: dict[str, EpochResult | Exception] = self._pack.run_epoch(names)
        for name, result in results.items():
            if isinstance(result, Exception):
                self._forget(name)  # it has left
        return results

    def _change(self, left: set[str], begin: Mapping[str, _Asks]) -> dict[str, EpochResult | Exception]:
        """Lets some go and takes others in; returns what is to be answered now: failures, and ends of epochs before."""
        for name in [*left, *begin]:
            if name in self._members and self._pack:
                self._forget(name)
                self._pack.leave(name)
        answers: dict[str, EpochResult | Exception] = {}
        for name, asks in begin.items():
            try:
                result = self._join(name, asks)
            except Exception as error:
                answers[name] = error
            else:
                if result and asks.begins:
                    answers[name] = result
                asks.begins = False
        return answers

    def _join(self, name: str, asks: _Asks) -> EpochResult | None:
        import torch

        from trials.packing import Pack

        if self._pack is None:
            torch.set_num_threads(max(1, int(self._resources.cpu)))
            self._pack = Pack(asks.trial, self._resources.pack)
        checkpoint = asks.folder / "checkpoint"
        resume_from = asks.resume_from or (None if asks.begins or not checkpoint.exists() else checkpoint)
        result: EpochResult | None = self._pack.join(name, asks.trial, asks.folder, resume_from)
        log = self._logs[name] = logging.FileHandler(asks.folder / "log.txt", delay=True, encoding="utf-8")
        log.setFormatter(LogFormatter())
        logging.getLogger().addHandler(log)
        return result

    def _forget(self, name: str) -> None:
        log = self._logs.pop(name)
        logging.getLogger().removeHandler(log)
        log.close()
