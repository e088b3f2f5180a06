"""The process of a pack: trains its members in rounds, an epoch of all who ask for one."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from orchestrator.delivery import Delivery
from orchestrator.redaction import LogFormatter
from orchestrator.resources import Resources
from trials.config import TrialConfig
from trials.result import EpochResult, TrialFailed

WAIT = 2.0
"""Seconds, at least, for which a round waits for those who took part in the last one; else a tenth of its time."""

MISSED = 3
"""Rounds without a member after which its worker is taken to be dead."""

logger = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass
class _Asks:
    """Somebody who waits for the end of an epoch."""

    trial: TrialConfig
    folder: Path
    begins: bool
    resume_from: Path | None
    answer: asyncio.Future[EpochResult | Exception]


class PackBroken(RuntimeError):
    """What befell a pack, to a worker whose trial has no part in it: in the words of Ray for a process that died."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(f"the pack's actor died: {cause}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Its words, as they are."""
        return RuntimeError, self.args


class PackProcess:
    """Trains the members of a pack, a round after the other: an epoch of all who ask for one.

    Whoever took part in the last round is waited for, but not for long: a worker may have died without a word.

    Args:
        resources: What the pack takes.
        gpus: The GPUs of its members, as in CUDA_VISIBLE_DEVICES; None: whatever is there.
        delivery: What this node may have to fetch.
    """

    def __init__(self, resources: Resources, gpus: str | None, delivery: Delivery | None = None) -> None:
        if gpus is not None:  # Ray gives this process none, which are all or none: its members hold them
            os.environ["CUDA_VISIBLE_DEVICES"] = gpus
        self._resources, self._delivery = resources, delivery
        self._pack: Any = None  # a `trials.packing.Pack`, once somebody has joined
        self._thread = ThreadPoolExecutor(1)  # torch keeps settings and random numbers by thread
        self._asking: dict[str, _Asks] = {}
        self._leaving: set[str] = set()
        self._members: dict[str, logging.FileHandler] = {}
        self._missed: Counter[str] = Counter()
        self._news = asyncio.Event()
        self._rounds: asyncio.Task[None] | None = None
        self._last, self._seconds = 1, 0.0  # members of the last round, and its time
        self._began: float | None = None  # when the thread got to work
        self._broken: Exception | None = None

    async def is_well(self) -> bool:
        """Whether it may be asked for an epoch: it does not hang, and its device is not broken."""
        limit = self._resources.timeout_minutes
        hangs = limit is not None and self._began is not None and time.monotonic() - self._began > 60 * limit
        return self._broken is None and not hangs

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
        if self._broken:
            return PackBroken(self._broken)
        self._dismiss(str(folder))
        answer = asyncio.get_running_loop().create_future()
        self._leaving.discard(str(folder))
        self._asking[str(folder)] = _Asks(trial, folder, begins, resume_from, answer)
        self._news.set()
        if self._rounds is None:
            self._rounds = asyncio.create_task(self._run())
        result: EpochResult | Exception = await answer
        return result

    async def leave(self, name: str) -> None:
        """Lets go of a trial, and returns once nothing more is written of it."""
        self._dismiss(name)
        if self._pack and name in self._members:
            self._pack.gone.add(name)
        self._leaving.add(name)
        self._news.set()
        while name in self._members and name not in self._asking and not self._broken:
            await asyncio.sleep(0.05)

    async def _run(self) -> None:
        try:
            while True:
                await self._round(await self._gathered())
        except Exception as error:  # nobody would ever be answered
            logger.exception("a pack has broken down")
            self._broken = error
            self._answer(dict.fromkeys(list(self._asking), PackBroken(error)))

    async def _round(self, names: list[str]) -> None:
        began = time.monotonic()
        results = await self._in_thread(functools.partial(self._epoch, names))
        self._last, self._seconds = len(names), time.monotonic() - began
        asked = [name for name in names if name in self._asking]  # the others have gone meanwhile
        faults = [each for name in asked if isinstance(each := results[name], Exception)]
        alike = 0 < len(faults) == len(asked) and not any(isinstance(each, TrialFailed) for each in faults)
        # An error of one is its own; where several all have one, or who is here alone, it is most likely the device's.
        if alike and (len(asked) > 1 or not self._members):
            self._broken = RuntimeError(f"all {len(asked)} trials of a pack failed: {faults[0]}")
        # The time that the device was theirs: each is given its share of it.
        self._answer(
            {
                name: replace(each, seconds=self._seconds) if isinstance(each, EpochResult) else each
                for name, each in results.items()
            }
        )

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
            for name in self._asking:
                self._missed.pop(name, None)
            absent = self._members.keys() - self._asking.keys()
            if not self._asking:
                until = None
            elif until is None:
                until = time.monotonic() + max(WAIT, 0.1 * self._seconds)
            late = until is not None and time.monotonic() >= until
            if self._asking and (late or (not absent - self._missed.keys() and len(self._asking) >= self._last)):
                self._missed.update(absent)
                # Who asks once more after that goes on from its checkpoint.
                self._leaving |= {name for name in absent if self._missed[name] >= MISSED}
                return list(self._asking)
            timeout = None if until is None else max(0.0, until - time.monotonic())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), timeout)

    def _answer(self, results: Mapping[str, EpochResult | Exception]) -> None:
        for name, result in results.items():
            asks = self._asking.pop(name, None)
            if asks and not asks.answer.done():  # else nobody waits for it any more
                asks.answer.set_result(result)

    def _dismiss(self, name: str) -> None:
        """Ends the wait of a worker that has died, or is taken to have: its trial is somebody else's now."""
        self._answer({name: PackBroken(RuntimeError("its trial goes on elsewhere"))})

    async def _in_thread(self, work: Callable[[], T]) -> T:
        self._began = time.monotonic()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        finally:
            self._began = None

    # -- in the thread of the trials -----------------------------------------------------------------------------------

    def _epoch(self, names: list[str]) -> dict[str, EpochResult | Exception]:
        results: dict[str, EpochResult | Exception] = self._pack.run_epoch(names)
        for name, result in results.items():
            if isinstance(result, Exception):
                self._forget(name)  # it has left
        return results

    def _change(self, left: set[str], begin: Mapping[str, _Asks]) -> dict[str, EpochResult | Exception]:
        """Lets some go and takes others in; returns what is to be answered now: failures, and ends of epochs before."""
        for name in {*left, *begin} & self._members.keys():
            self._forget(name)
            self._pack.leave(name)
        answers: dict[str, EpochResult | Exception] = {}
        for name, asks in begin.items():
            try:
                result = self._join(name, asks)
            except Exception as error:  # whatever it is, it is this one's answer, and the others train on
                answers[name] = error
                self._forget(name)
                if not self._members and not isinstance(error, TrialFailed):  # a poisoned device fails like this
                    self._broken = error
            else:
                if result and asks.begins:
                    answers[name] = result
                asks.begins = False
        return answers

    def _join(self, name: str, asks: _Asks) -> EpochResult | None:
        import torch

        from trials.packing import Pack

        log = self._members[name] = logging.FileHandler(asks.folder / "log.txt", delay=True, encoding="utf-8")
        log.setFormatter(LogFormatter())
        logging.getLogger().addHandler(log)
        trial = self._delivery.received(asks.trial) if self._delivery else asks.trial
        if self._pack is None:
            torch.set_num_threads(max(1, int(self._resources.cpu)))
            self._pack = Pack.of(trial, self._resources.pack)
        checkpoint = asks.folder / "checkpoint"
        resume_from = asks.resume_from or (None if asks.begins or not checkpoint.exists() else checkpoint)
        result: EpochResult | None = self._pack.join(name, trial, asks.folder, resume_from)
        return result

    def _forget(self, name: str) -> None:
        log = self._members.pop(name)
        logging.getLogger().removeHandler(log)
        log.close()
