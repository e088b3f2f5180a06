"""Start-up of a trial: the first of a worker process (imports, model, tokenised benchmark) against the second.

Time from the moment a worker gets a trial to its first finished epoch, less the epoch itself.

    python benchmarks/warm_worker.py
"""

from __future__ import annotations

import subprocess
import sys
import textwrap

CHILD = """
    import sys, tempfile, time
    from pathlib import Path
    started = time.perf_counter()
    from trials.config import TrialConfig
    from trials.unlearn import run_trial
    config = TrialConfig(epochs=1)
    for _ in range(2):
        with tempfile.TemporaryDirectory() as folder:
            (result,) = run_trial(config, folder=Path(folder))
        print(time.perf_counter() - started - result.seconds)
        started = time.perf_counter()
"""


def main() -> None:
    """Runs two trials in one fresh process and prints the ratio of their start-ups."""
    command = [sys.executable, "-c", textwrap.dedent(CHILD)]
    subprocess.run(command, check=True, capture_output=True)  # the target model is trained outside the clock
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    first, second = (float(line) for line in printed.split())
    print(f"start-up of the second trial over the first: {second / first:.3f} ({second:.2f} s / {first:.2f} s)")


if __name__ == "__main__":
    main()
