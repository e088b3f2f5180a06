"""What a worker takes of its machine, an epoch at a time; asked for by `tracking.system_metrics`.

The numbers are the process's own, so they are right where several trials share a machine or a GPU. They are no
function of a trial's settings: two runs of one trial differ in them, and in nothing else.
"""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path
from typing import Any

_GIB = 2**30
_STATUS = Path("/proc/self/status")


class Usage:
    """Counts from the moment that it is made."""

    def __init__(self) -> None:
        self._begin = time.process_time()
        if cuda := _cuda():
            for device in range(cuda.device_count()):
                cuda.reset_peak_memory_stats(device)

    def metrics(self) -> dict[str, float]:
        """What was used since.

        Returns:
            `system.cpu_seconds`, of all threads; `system.peak_memory_gib`, the most that the process ever had resident,
            earlier trials of a warm worker included; where there is a GPU, `system.gpu_peak_memory_gib`, the most that
            was allocated on any one in this time.
        """
        found = {
            "system.cpu_seconds": time.process_time() - self._begin,
            "system.peak_memory_gib": _peak_bytes() / _GIB,
        }
        if cuda := _cuda():
            peaks = [cuda.max_memory_allocated(device) for device in range(cuda.device_count())]
            found["system.gpu_peak_memory_gib"] = max(peaks) / _GIB
        return found


def _peak_bytes() -> int:
    if _STATUS.exists():  # getrusage starts from the peak of the process that started this one
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024  # it counts bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _cuda() -> Any:
    """`torch.cuda` where this process uses it already: nothing is imported, no GPU is taken, for the numbers' sake."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None
