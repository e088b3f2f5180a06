"""Packs in a sweep: each trial is its unpacked twin, and what befalls one of them or their process is nobody else's."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

import orchestrator.pack_process
import orchestrator.packs
from orchestrator.config import SweepConfig
from orchestrator.events import Epoch, Record, Resumed
from orchestrator.ledger import read_events, read_records
from orchestrator.pack_process import PackProcess
from orchestrator.packs import Packs
from orchestrator.resources import Resources
from orchestrator.search.faults import LOST, fault_of
from orchestrator.sweep import run_sweep
from tests import tiny
from trials.benchmarks import load_benchmark
from trials.config import TrialConfig
from trials.result import Diverged, EpochResult

LORA = {"adapter": {"type": "lora", "rank": 2}}


# -- the process -------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _cold() -> Iterator[None]:
    with tiny.cold():
        yield


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orchestrator.pack_process, "WAIT", 0.2)


def members(llama: Path, folder: Path, count: int, **sections: Any) -> dict[Path, TrialConfig]:
    configs = {folder / str(seed): tiny.trial(llama, model=LORA, seed=seed, **sections) for seed in range(count)}
    for place in configs:
        place.mkdir(parents=True)
    return configs


async def through(process: PackProcess, folder: Path, trial: TrialConfig, most: int = 99) -> list[EpochResult]:
    """What a worker does; it stops after so many results."""
    found: list[EpochResult] = []
    checkpoint = folder / "checkpoint"
    while len(found) < most:
        result = await process.epoch(trial, folder, not found, checkpoint if checkpoint.exists() else None)
        if isinstance(result, Exception):
            raise result
        found.append(result)
        if result.last:
            break
    await process.leave(str(folder))
    return found


def assert_twins(found: list[EpochResult], config: TrialConfig, folder: Path) -> None:
    expected = tiny.run(config, folder)
    assert [result.epoch for result in found] == [result.epoch for result in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.metrics == pytest.approx(other.metrics, rel=1e-4, abs=1e-4)


def test_all_who_ask_train_in_one_round(llama: Path, tmp_path: Path) -> None:
    configs = members(llama, tmp_path, 3, epochs=2)
    rounds: list[int] = []

    async def run() -> list[list[EpochResult]]:
        process = PackProcess(Resources(pack=3), None)
        epoch = process._epoch
        process._epoch = lambda names: rounds.append(len(names)) or epoch(names)  # type: ignore[method-assign, func-returns-value]
        return await asyncio.gather(*(through(process, *each) for each in configs.items()))

    found = asyncio.run(run())
    assert rounds[-1] == 3
    assert sum(rounds) == 6
    for (place, config), results in zip(configs.items(), found, strict=True):
        assert_twins(results, config, place / "alone")


def test_who_stops_makes_room_and_who_asks_no_more_is_not_waited_for(llama: Path, tmp_path: Path) -> None:
    configs = members(llama, tmp_path, 4, epochs=3)
    (one, stopped, gone, late) = configs.items()

    async def run() -> list[list[EpochResult]]:
        process = PackProcess(Resources(pack=3), None)

        async def next_one() -> list[EpochResult]:
            await through(process, *stopped, most=1)
            return await through(process, *late)

        first = asyncio.create_task(through(process, *one))
        second = asyncio.create_task(next_one())
        answer = await process.epoch(gone[1], gone[0], True, None)  # its worker then dies without a word
        assert isinstance(answer, EpochResult)
        return [await first, await second]

    found = asyncio.run(run())
    assert_twins(found[0], one[1], one[0] / "alone")
    assert_twins(found[1], late[1], late[0] / "alone")


@pytest.mark.parametrize(("missed", "kept"), [(1, False), (3, True)], ids=["taken for dead", "late"])
def test_one_that_is_missing_keeps_its_place_for_a_while_and_then_goes_on_from_its_checkpoint(
    missed: int, kept: bool, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = members(llama, tmp_path, 2, epochs=3)
    monkeypatch.setattr(orchestrator.pack_process, "MISSED", missed)
    (one, slow) = configs.items()

    async def run() -> list[EpochResult]:
        process = PackProcess(Resources(pack=2), None)
        first = asyncio.create_task(through(process, *one))
        results = [await process.epoch(slow[1], slow[0], True, None)]
        member = process._pack._members[str(slow[0])]
        await first
        assert (str(slow[0]) in process._members) == kept
        results += [await process.epoch(slow[1], slow[0], False, None) for _ in range(2)]
        assert (process._pack._members[str(slow[0])] is member) == kept
        return [result for result in results if isinstance(result, EpochResult)]

    assert_twins(asyncio.run(run()), slow[1], slow[0] / "alone")


def test_a_worker_that_begins_again_gets_the_last_epoch_again(llama: Path, tmp_path: Path) -> None:
    ((place, config),) = members(llama, tmp_path, 1, epochs=3).items()

    async def run() -> list[EpochResult]:
        process = PackProcess(Resources(pack=2), None)
        before = await through(process, place, config, most=1)
        await process.epoch(config, place, False, None)  # ended, and nobody heard of it
        return before + await through(process, place, config)

    found = asyncio.run(run())
    assert [result.epoch for result in found] == [1, 2, 3]
    assert_twins(found, config, place / "alone")


def test_failures_are_answers_and_only_a_fault_of_all_breaks_the_process(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trials.passes import Passes

    configs = members(llama, tmp_path, 2, epochs=2)
    (one, other) = configs.items()
    lay_out = Passes.lay_out
    faults: dict[int, Exception] = {0: Diverged("far away")}

    def broken(self: Passes, epoch: int, rows: Any) -> Any:
        if self.config.seed in faults:
            raise faults[self.config.seed]
        return lay_out(self, epoch, rows)

    monkeypatch.setattr(Passes, "lay_out", broken)

    async def run() -> None:
        process = PackProcess(Resources(pack=2), None)
        answers = await asyncio.gather(*(process.epoch(trial, place, True, None) for place, trial in configs.items()))
        assert isinstance(answers[0], Diverged)
        assert isinstance(answers[1], EpochResult)
        assert await process.is_well()
        faults[0] = ValueError("a bug")
        answers = await asyncio.gather(
            process.epoch(one[1], one[0], True, None), process.epoch(other[1], other[0], False, None)
        )
        assert str(answers[0]) == "a bug"
        assert isinstance(answers[1], EpochResult)
        assert await process.is_well()
        await process.leave(str(other[0]))
        answer = await process.epoch(one[1], one[0], True, None)
        assert str(answer) == "a bug"
        assert not await process.is_well()
        bystander = await process.epoch(other[1], other[0], True, None)  # at once, and with no error of its own
        assert fault_of(f"RuntimeError: {bystander}") == LOST

    asyncio.run(run())


@pytest.mark.parametrize("what", ["_change", "_gathered", "_epoch"])
def test_a_process_that_breaks_down_answers_all_who_wait(
    what: str, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = members(llama, tmp_path, 2)

    def broken(*_: Any) -> Any:
        raise RuntimeError("broken")

    monkeypatch.setattr(PackProcess, what, broken)

    async def run() -> None:
        process = PackProcess(Resources(pack=2), None)
        asks = (process.epoch(trial, place, True, None) for place, trial in configs.items())
        answers = await asyncio.wait_for(asyncio.gather(*asks), 60)
        assert [fault_of(f"RuntimeError: {answer}") for answer in answers] == [LOST, LOST]  # no error of theirs
        assert not await process.is_well()

    asyncio.run(run())


def test_whose_trial_goes_on_elsewhere_is_told_and_writes_nothing_more(llama: Path, tmp_path: Path) -> None:
    configs = members(llama, tmp_path, 2, epochs=3)
    (one, other) = configs.items()

    async def run() -> None:
        process = PackProcess(Resources(pack=2), None)
        answers = await asyncio.gather(*(process.epoch(trial, place, True, None) for place, trial in configs.items()))
        assert all(isinstance(answer, EpochResult) for answer in answers)
        asks = [asyncio.create_task(process.epoch(trial, place, False, None)) for place, trial in configs.items()]
        while process._began is None:
            await asyncio.sleep(0.001)
        await process.leave(str(one[0]))
        assert fault_of(f"RuntimeError: {await asks[0]}") == LOST
        assert isinstance(await asks[1], EpochResult)
        assert process._members.keys() == {str(other[0])}
        overtaken = asyncio.create_task(process.epoch(other[1], other[0], False, None))
        await asyncio.sleep(0)
        assert isinstance(await process.epoch(other[1], other[0], True, other[0] / "checkpoint"), EpochResult)
        assert fault_of(f"RuntimeError: {await overtaken}") == LOST

    asyncio.run(run())
    assert [place.name for place in (one[0] / "checkpoint").iterdir()] == ["00001"]


def test_a_join_that_fails_or_hangs_shows(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ((place, config),) = members(llama, tmp_path, 1).items()

    async def run(limit: float | None) -> list[bool]:
        process = PackProcess(Resources(pack=2, timeout_minutes=limit), None)
        asked = asyncio.create_task(process.epoch(config, place, True, None))
        await asyncio.sleep(0.3)
        meanwhile = await process.is_well()
        assert str(await asked) == "a broken device"
        return [meanwhile, await process.is_well()]

    def slow(*_: Any) -> Any:
        time.sleep(0.6)
        raise RuntimeError("a broken device")

    monkeypatch.setattr(PackProcess, "_join", slow)
    monkeypatch.setattr(PackProcess, "_forget", lambda *_: None)
    assert asyncio.run(run(None)) == [True, False]
    assert asyncio.run(run(0.001)) == [False, False]


def test_what_a_node_lacks_is_fetched_by_the_process_itself(llama: Path, tmp_path: Path) -> None:
    ((place, config),) = members(llama, tmp_path, 1, epochs=1).items()
    elsewhere = config.model_copy(update={"model": config.model.model_copy(update={"path": "/on/the/head/only"})})

    class Fetched:
        def received(self, trial: TrialConfig) -> TrialConfig:
            assert trial == elsewhere
            return config

    async def run() -> EpochResult | Exception:
        delivery: Any = Fetched()
        return await PackProcess(Resources(pack=2), None, delivery).epoch(elsewhere, place, True, None)

    result = asyncio.run(run())
    assert isinstance(result, EpochResult)
    assert_twins([result], config, place / "alone")


def test_each_member_is_given_its_share_of_the_time_of_a_round(llama: Path, tmp_path: Path) -> None:
    configs = members(llama, tmp_path, 2, epochs=1)

    async def run() -> list[EpochResult | Exception]:
        process = PackProcess(Resources(pack=2), None)
        return await asyncio.gather(*(process.epoch(trial, place, True, None) for place, trial in configs.items()))

    seconds = [result.seconds for result in asyncio.run(run()) if isinstance(result, EpochResult)]
    assert len(seconds) == 2
    assert seconds[0] == seconds[1]  # times half of the resources, each


# -- who sits where ----------------------------------------------------------------------------------------------------


class Process:
    """A process of a pack, as `Packs` sees it."""

    def __init__(self) -> None:
        self.well, self.left = True, list[str]()
        self.is_well, self.leave = Remote(self._is_well), Remote(self._leave)

    async def _is_well(self) -> bool:
        return self.well

    async def _leave(self, name: str) -> None:
        self.left.append(name)


class Remote:
    def __init__(self, remote: Any) -> None:
        self.remote = remote


def packs(monkeypatch: pytest.MonkeyPatch, **resources: Any) -> tuple[Packs, list[Process]]:
    found = Packs(Resources(pack=2, **resources))
    started: list[Process] = []

    def start(place: Any) -> Any:
        started.append(Process())
        found._there[place].append(seats := orchestrator.packs._Seats(started[-1]))
        return seats

    monkeypatch.setattr(found, "_start", start)
    monkeypatch.setattr(orchestrator.packs.ray, "kill", lambda process: setattr(process, "well", None))
    return found, started


def test_a_gpu_has_one_process_whoever_died_there(monkeypatch: pytest.MonkeyPatch) -> None:
    there, started = packs(monkeypatch, gpu=1)
    for name in ("a", "b", "c"):  # a worker was killed without a word, and Ray gave its share to the next
        asyncio.run(there.seat(name, ("node", "0")))
    assert len(started) == 1
    asyncio.run(there.seat("d", ("node", "1")))
    assert len(started) == 2


def test_without_gpus_there_are_as_many_processes_as_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    there, started = packs(monkeypatch)
    for name in ("a", "b", "c", "c"):
        asyncio.run(there.seat(name, ("node", None)))
    assert len(started) == 2
    there.leave("a")
    assert asyncio.run(there.seat("d", ("node", None))) is started[0]


def test_a_process_that_is_not_well_is_killed_and_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    there, started = packs(monkeypatch, gpu=1)
    asyncio.run(there.seat("a", ("node", "0")))
    started[0].well = False
    assert asyncio.run(there.seat("b", ("node", "0"))) is started[1]
    assert started[0].well is None


def test_who_moves_to_another_process_is_first_let_go_by_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    there, started = packs(monkeypatch, gpu=1)
    asyncio.run(there.seat("a", ("node", "0")))
    asyncio.run(there.seat("a", ("node", "0")))
    assert started[0].left == []
    asyncio.run(there.seat("a", ("node", "1")))
    assert started[0].left == ["a"]


# -- a sweep -----------------------------------------------------------------------------------------------------------


def swept(llama: Path, output: Path, **changes: Any) -> tuple[Path, list[Record]]:
    config: dict[str, Any] = {
        "name": "packed",
        "trial": tiny.trial(llama, model=LORA, epochs=2).model_dump(mode="json"),
        "space": {"optim.lr": {"choice": [1e-3, 2e-3, 3e-3, 4e-3, 5e-3, 6e-3]}},
        "sampler": {"type": "grid"},
        "scheduler": {"type": "none"},
        "budget": {"trials": 6, "concurrent": 3},
        "resources": {"pack": 3},
    }
    sweep = SweepConfig.model_validate(config | changes)
    with open(os.devnull, "w") as nowhere:
        run_sweep(sweep, load_benchmark(sweep.trial.benchmark), output=output, console=Console(file=nowhere))
    return output / sweep.name, read_records(output / sweep.name)


def by_rate(records: list[Record]) -> dict[float, dict[str, float]]:
    assert {record.state for record in records} == {"COMPLETE"}
    return {record.params["optim.lr"]: record.metrics for record in records}


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_packed_sweep_has_the_metrics_of_an_unpacked_one(llama: Path, tmp_path: Path) -> None:
    _, packed = swept(llama, tmp_path / "packed")
    _, alone = swept(llama, tmp_path / "alone", resources={}, budget={"trials": 6, "concurrent": 1})
    found, expected = by_rate(packed), by_rate(alone)
    assert found.keys() == expected.keys()
    for rate, metrics in expected.items():
        assert found[rate] == pytest.approx(metrics, rel=1e-4, abs=1e-4)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_who_is_stopped_early_leaves_its_seat_to_the_next(llama: Path, tmp_path: Path) -> None:
    folder, records = swept(
        llama,
        tmp_path,
        trial=tiny.trial(llama, model=LORA, epochs=4).model_dump(mode="json"),
        scheduler={"type": "pareto_asha", "grace_period": 1, "reduction_factor": 2},
        budget={"trials": 6, "concurrent": 2},
        resources={"pack": 2},
    )
    assert len(records) == 6
    states = [record.state for record in records]
    assert set(states) == {"COMPLETE", "PRUNED"}
    epochs = [(event.trial_id, event.epoch) for event in read_events(folder) if isinstance(event, Epoch)]
    assert len(epochs) == len(set(epochs)) == sum(record.epoch for record in records)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_pack_whose_process_is_killed_goes_on_in_another(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[int] = []
    append = orchestrator.ledger.Ledger.append

    def kill_once(self: Any, event: Any) -> None:
        append(self, event)
        if isinstance(event, Epoch) and not killed:
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):  # it has ended just now
                    if process.name().startswith("ray::PackProc"):
                        process.kill()
                        killed.append(process.pid)

    monkeypatch.setattr(orchestrator.ledger.Ledger, "append", kill_once)
    folder, packed = swept(llama, tmp_path / "packed")
    assert len(killed) == 1
    events = read_events(folder)
    assert {event.why for event in events if isinstance(event, Resumed)} == {"worker"}
    _, alone = swept(llama, tmp_path / "alone", resources={}, budget={"trials": 6, "concurrent": 1})
    for rate, metrics in by_rate(alone).items():
        assert by_rate(packed)[rate] == pytest.approx(metrics, rel=1e-4, abs=1e-4)
