"""Packs on a cluster (`resources.pack`): one process trains several trials, in passes that they share.

A trial of a pack stays a trial of Ray's, with a worker of its own and its share of the pack's resources; but what that
worker runs, in place of `run_trial`, is `seated`: it asks the process of its pack for one epoch after the other. So
searcher, scheduler, faults and records know of no packs: who is stopped gives its seat back, the next one sits down.

`Packs` (one process, beside the driver) knows the processes of packs, and starts them where their members are; they end
with it, and it ends with the driver.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

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


def start_packs(resources: Resources) -> Any:
    """A handle of `Packs`; it ends once nobody has one."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Packs).options(num_cpus=0, scheduling_strategy=here).remote(resources)


@dataclass
class _Seats:
    """A process of a pack, and who sits there."""

    process: Any
    names: set[str] = field(default_factory=set)


class Packs:
    """Who sits where."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._there: dict[Place, list[_Seats]] = {}  # node and GPUs -> packs
        self._turn = asyncio.Lock()

    async def seat(self, name: str, place: Place) -> Any:
        """A handle of the `PackProcess` in which a trial is to sit.

        Args:
            name: Of the trial.
            place: Where its worker is.
        """
        async with self._turn:
            self.leave(name)
            there = self._there.setdefault(place, [])
            for seats in list(there):
                if not await self._is_well(seats):
                    there.remove(seats)
            free = [seats for seats in there if len(seats.names) < self._resources.pack]
            if not free:
                there.append(_Seats(self._start(place)))
            seats = free[0] if free else there[-1]
            seats.names.add(name)
            return seats.process

    def leave(self, name: str) -> None:
        """Gives a trial's seat back."""
        for there in self._there.values():
            for seats in there:
                seats.names.discard(name)

    async def _is_well(self, seats: _Seats) -> bool:
        try:
            if await seats.process.is_well.remote():
                return True
        except RayActorError:
            return False
        ray.kill(seats.process)  # whoever sits there is told that it died, and goes on elsewhere
        return False

    def _start(self, place: Place) -> Any:
        node, gpus = place
        where = NodeAffinitySchedulingStrategy(node, soft=False)
        # Its members hold what it takes.
        return ray.remote(PackProcess).options(num_cpus=0, scheduling_strategy=where).remote(self._resources, gpus)
