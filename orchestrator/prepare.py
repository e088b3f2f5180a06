"""Before the first trial: target and retain model trained where they are ours and missing, and measured.

Each model has a process of its own with one thread: two cores train both in the time of one, the result does not
depend on how many cores there are, and the driver never imports torch.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from orchestrator.trial_checks import absence
from trials.config import TrialConfig
from trials.identity import cached_model, log_file
from trials.logs import EvalLog, References, mismatch, read_log
from trials.naming import completed, named, with_inputs

Which = Literal["target", "retain"]


class PrepareError(Exception):
    """A model could not be trained, loaded or measured."""


def prepare_models(trial: TrialConfig, data: str, console: Console) -> dict[Which, dict[str, float]]:
    """Makes the models of a sweep ready and measures them; what was measured of the same model before is read.

    Args:
        trial: The base trial: benchmark, model, metrics.
        data: Digest of the benchmark's rows.
        console: Where the bars of a training appear.

    Returns:
        Metrics of the target model, and of the retain model where there is one or a log of one.

    Raises:
        PrepareError: A model failed, with the cause.
    """
    model = trial.model
    if lacking := absence(trial):
        console.print(lacking, markup=False, highlight=False)
    has_retain = model.path is None or model.retain_path is not None or model.retain_log is not None
    wanted: list[Which] = ["target", "retain"] if has_retain else ["target"]
    logs: dict[Which, EvalLog] = {which: found for which in wanted if (found := _known(trial, data, which))}
    missing = [which for which in wanted if which not in logs]
    # Ours are small and take a core each; of two that are brought, a GPU may hold one only.
    for together in [missing] if model.path is None else [[which] for which in missing]:
        _measure(together, trial, console, logs)
    if "retain" in logs and (other := mismatch(logs["retain"], logs["target"].about)):
        raise PrepareError(f"model.retain_log: {other}; evaluate the retain model as the target is asked")
    measured = named((*trial.evaluation.metrics, *trial.evaluation.front))
    models = References(target=logs["target"], retain=logs.get("retain"))
    return {
        which: {name: log.values[name] for name in measured if name in log.values}
        for which, log in ((which, completed(logs[which], with_inputs(measured), models)) for which in wanted)
    }


def _known(trial: TrialConfig, data: str, which: Which) -> EvalLog | None:
    """What was measured of a model, where it is still there; None where it is to be measured."""
    model = trial.model
    if which == "retain" and model.retain_log and not model.retain_path:
        return read_log(Path(os.path.expanduser(model.retain_log)))
    if model.path is None and not (cached_model(model, data=data, which=which) / "config.json").exists():
        return None
    file = log_file(trial, data=data, which=which)
    return read_log(file) if file.exists() else None


def _measure(wanted: list[Which], trial: TrialConfig, console: Console, logs: dict[Which, EvalLog]) -> None:
    """Adds the logs of the models in `wanted`, each made ready and measured in a process of its own."""
    context = multiprocessing.get_context("spawn")
    messages: Any = context.Queue()
    with _one_thread():
        processes = {
            which: context.Process(target=_prepare, args=(trial.model_dump_json(), which, messages), daemon=True)
            for which in wanted
        }
        for process in processes.values():
            process.start()
    try:
        with _bars(console) as bars:
            tasks: dict[str, Any] = {}
            while any(which not in logs for which in wanted):
                try:
                    kind, which, *rest = messages.get(timeout=1)
                except queue.Empty:
                    _check_alive(processes, logs)
                    continue
                if kind == "failed":
                    raise PrepareError(f"the {which} model: {rest[0]}")
                if kind == "log":
                    logs[which] = rest[0]
                else:
                    if which not in tasks:
                        tasks[which] = bars.add_task(f"training the {which} model", total=rest[1])
                        if not console.is_terminal:
                            console.print(f"training the {which} model, {rest[1]} steps")
                    bars.update(tasks[which], completed=rest[0])
    finally:
        for process in processes.values():
            process.terminate()


def _prepare(trial_json: str, which: Which, messages: Any) -> None:
    """The child: train if need be, measure, report. Everything heavy is imported here, in the child."""
    try:
        import torch

        torch.set_num_threads(1)
        from trials.benchmarks import load_benchmark
        from trials.references import reference_log

        trial = TrialConfig.model_validate_json(trial_json)

        def tell(done: int, total: int) -> None:
            messages.put(("steps", which, done, total))

        messages.put(("log", which, reference_log(trial, load_benchmark(trial.benchmark), which, tell)))
    except Exception as error:  # the parent must hear of it, whatever it is
        messages.put(("failed", which, f"{type(error).__name__}: {error}"))


def _check_alive(processes: dict[Which, Any], logs: dict[Which, EvalLog]) -> None:
    for which, process in processes.items():
        if which not in logs and process.exitcode not in (None, 0):
            raise PrepareError(f"the process of the {which} model ended with code {process.exitcode}; is memory short?")


@contextmanager
def _one_thread() -> Iterator[None]:
    """Children start with one thread: it must be said before they import torch."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def _bars(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)
