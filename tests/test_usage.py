import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from orchestrator.ledger import read_records
from orchestrator.sweep import run_sweep
from orchestrator.tracking.usage import Usage
from tests.surrogate import surrogate
from tests.sweeps import small_sweep
from trials.benchmarks import load_benchmark
from trials.sources import AuthorsConfig


def test_processor_time_counts_from_the_beginning_of_the_epoch() -> None:
    before = Usage()
    total = 0.0
    while before.metrics()["system.cpu_seconds"] < 0.05:
        total += math.fsum(math.sin(n) for n in range(1000))
    assert before.metrics()["system.cpu_seconds"] > Usage().metrics()["system.cpu_seconds"]


def test_memory_is_that_of_this_process_in_gib() -> None:
    code = (
        "from orchestrator.tracking.usage import Usage; usage = Usage(); "
        "held = bytearray(2**28); held[::4096] = b'1' * 2**16; "
        "print(usage.metrics()['system.peak_memory_gib'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0.25 < float(done.stdout) < 1.0


def test_without_a_graphics_processor_nothing_is_said_of_one_and_torch_is_not_imported() -> None:
    code = (
        "import sys; from orchestrator.tracking.usage import Usage; "
        "print(sorted(Usage().metrics()), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("] ") == ["['system.cpu_seconds', 'system.peak_memory_gib'", "False\n"]


class FakeCuda:
    """Two GPUs that this process uses: 3 GiB at most were allocated on the first, 1 GiB on the second."""

    def __init__(self) -> None:
        self.reset: list[int] = []

    def is_initialized(self) -> bool:
        return True

    def device_count(self) -> int:
        return 2

    def reset_peak_memory_stats(self, device: int) -> None:
        self.reset.append(device)

    def max_memory_allocated(self, device: int) -> int:
        return (3 - 2 * device) * 2**30


def test_memory_of_the_fullest_gpu_is_told_from_the_beginning_of_the_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda()
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    usage = Usage()
    assert cuda.reset == [0, 1]
    assert usage.metrics()["system.gpu_peak_memory_gib"] == 3.0


@pytest.mark.ray
@pytest.mark.timeout(180)
def test_system_metrics_stand_beside_the_others_only_where_a_sweep_asks_for_them(tmp_path: Path) -> None:
    benchmark = load_benchmark(AuthorsConfig())
    found = {}
    for asked in (False, True):
        sweep = small_sweep(
            budget={"trials": 3, "concurrent": 1}, tracking={"system_metrics": asked}, scheduler={"type": "none"}
        )
        output = tmp_path / str(asked)
        with open(os.devnull, "w") as nowhere:
            run_sweep(sweep, benchmark, output=output, trial=surrogate, console=Console(file=nowhere))
        found[asked] = read_records(output / "small")
    assert all({"system.cpu_seconds", "system.peak_memory_gib"} <= record.metrics.keys() for record in found[True])
    others = [{k: v for k, v in record.metrics.items() if not k.startswith("system.")} for record in found[True]]
    assert others == [record.metrics for record in found[False]]
