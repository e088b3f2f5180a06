"""Packs on a cluster (`resources.pack`): one process trains several trials, in passes that they share.

A trial of a pack stays a trial of Ray's, with a worker of its own and its share of the pack's resources; but what that
worker runs, in place of `run_trial`, is `seated`: it asks the process of its pack for one epoch after the other. So
searcher, scheduler, faults and records know of no packs: who is stopped gives its seat back, the next one sits down.

`Packs` (one process, beside the driver) knows the processes of packs, and starts them where their members are; they end
with it, and it ends with the driver.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.delivery import Delivery
from orchestrator.pack_process import PackProcess
from orchestrator.resources import Resources
from trials.config import TrialConfig
from trials.result import EpochResult

Place = tuple[str, str | None]
"""Ray's id of a node, and the GPUs of it that a trial sees, as in CUDA_VISIBLE_DEVICES."""


def seated(packs: Any) -> Callable[..., Iterator[EpochResult]]:
    """What has the signature of `run_trial`, and takes a seat in one of these packs (a handle of `Packs`)."""

    def run(trial: TrialConfig, *, folder: Path, resume_from: Path | None = None) -> Iterator[EpochResult]:
        node, gpus = ray.get_runtime_context().get_node_id(), os.environ.get("CUDA_VISIBLE_DEVICES")
        process = ray.get(packs.seat.remote(str(folder), (node, gpus)))
        begins = True
        try:
            while True:
                result = ray.get(process.epoch.remote(trial, folder, begins, resume_from))
                if isinstance(result, Exception):
                    raise result
                yield result
                if result.last:
                    return
                begins = False
        finally:
            process.leave.remote(str(folder))
            packs.leave.remote(str(folder))

    return run


def start_packs(resources: Resources, delivery: Delivery | None) -> Any:
    """A handle of `Packs`; it ends once nobody has one."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Packs).options(num_cpus=0, scheduling_strategy=here).remote(resources, delivery)


@dataclass
class _Seats:
    """A process of a pack, and who sits there."""

    process: Any
    names: set[str] = field(default_factory=set)


class Packs:
    """Who sits where.

    A GPU has one process: Ray lets no more trials onto it than have a seat. Without GPUs there are as many as it takes.
    """

    def __init__(self, resources: Resources, delivery: Delivery | None = None) -> None:
        self._resources, self._delivery = resources, delivery
        self._there: dict[Place, list[_Seats]] = {}
        self._turns: dict[Place, asyncio.Lock] = {}

    async def seat(self, name: str, place: Place) -> Any:
        """A handle of the `PackProcess` in which a trial is to sit.

        Args:
            name: Of the trial.
            place: Where its worker is.
        """
        async with self._turns.setdefault(place, asyncio.Lock()):  # one that does not answer holds up its place only
            there = self._there.setdefault(place, [])
            for seats in list(there):
                if not await _answers(seats.process.is_well):
                    there.remove(seats)
                    # Whoever sits there is told that it died, and goes on in another one.
                    ray.kill(seats.process)
            before = next((seats for seats in there if name in seats.names), None)
            free = [seats for seats in there if self._resources.gpu or len(seats.names) < self._resources.pack]
            seats = before or (free[0] if free else self._start(place))
            await self._leave_others(name, seats)
            seats.names.add(name)
            return seats.process

    def leave(self, name: str) -> None:
        """Gives a trial's seat back."""
        for seats in itertools.chain(*self._there.values()):
            seats.names.discard(name)

    async def _leave_others(self, name: str, chosen: _Seats) -> None:
        """Waits until nobody else writes a trial's checkpoints: its worker has died, its seat may train on."""
        for seats in list(itertools.chain(*self._there.values())):
            if seats is not chosen and name in seats.names:
                seats.names.discard(name)
                await _answers(seats.process.leave, name)

    def _start(self, place: Place) -> _Seats:
        node, gpus = place
        where = NodeAffinitySchedulingStrategy(node, soft=False)
        # It takes what its members hold.
        process = ray.remote(PackProcess).options(num_cpus=0, scheduling_strategy=where)
        self._there[place].append(_Seats(process.remote(self._resources, gpus, self._delivery)))
        return self._there[place][-1]


async def _answers(method: Any, *arguments: Any, seconds: float = 600) -> Any:
    """What a method of an actor returns; None where it has died, or is silent for so long."""
    try:
        return await asyncio.wait_for(method.remote(*arguments), seconds)
    except (RayError, TimeoutError):
        return None
