"""Before the first trial: target and retain model trained where they are ours and missing, and measured.

Each model has a process of its own with one thread: two cores train both in the time of one, the result does not
depend on how many cores there are, and the driver never imports torch.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import queue
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from orchestrator.ledger import write_atomically
from trials.config import TrialConfig
from trials.identity import cached_model

Which = Literal["target", "retain"]

METRICS_FILE = "metrics-{dtype}.json"
"""Beside a cached model: a function of recipe and data, like the model, and of the dtype that it is measured in."""


class PrepareError(Exception):
    """A model could not be trained, loaded or measured."""


def prepare_models(trial: TrialConfig, data: str, console: Console) -> dict[Which, dict[str, float]]:
    """Makes the models of a sweep ready and measures them.

    Args:
        trial: The base trial: benchmark and model.
        data: Digest of the benchmark's rows.
        console: Where the bars of a training appear.

    Returns:
        Metrics of the target model, and of the retain model where there is one.

    Raises:
        PrepareError: A model failed, with the cause.
    """
    has_retain = trial.model.path is None or trial.model.retain_path is not None
    wanted: list[Which] = ["target", "retain"] if has_retain else ["target"]
    known = {which: _measured(trial, data, which) for which in wanted}
    metrics: dict[Which, dict[str, float]] = {which: found for which, found in known.items() if found}
    _measure([which for which in wanted if which not in metrics], trial, console, metrics)
    return {which: metrics[which] for which in wanted}


def _measured(trial: TrialConfig, data: str, which: Which) -> dict[str, float] | None:
    """What was measured when a model of ours was made; None where it is to be made, or is not ours."""
    if trial.model.path is not None:
        return None
    file = cached_model(trial.model, data=data, which=which) / METRICS_FILE.format(dtype=trial.model.dtype)
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def _measure(wanted: list[Which], trial: TrialConfig, console: Console, metrics: dict[Which, dict[str, float]]) -> None:
    """Adds the metrics of the models in `wanted`, each made ready and measured in a process of its own."""
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
            while any(which not in metrics for which in wanted):
                try:
                    kind, which, *rest = messages.get(timeout=1)
                except queue.Empty:
                    _check_alive(processes, metrics)
                    continue
                if kind == "failed":
                    raise PrepareError(f"the {which} model: {rest[0]}")
                if kind == "metrics":
                    metrics[which] = rest[0]
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
        from trials.evaluate import evaluate
        from trials.models import device_of, encode_sets, load_model, load_tokenizer, pad_token
        from trials.target import prepare

        trial = TrialConfig.model_validate_json(trial_json)
        benchmark = load_benchmark(trial.benchmark)
        folder = prepare(trial, benchmark, which, lambda done, total: messages.put(("steps", which, done, total)))
        tokenizer = load_tokenizer(folder, trial.model)
        sets = encode_sets(tokenizer, benchmark)
        model = load_model(folder, trial.model)
        metrics = evaluate(model, sets, pad=pad_token(tokenizer), device=device_of(trial.model))
        if trial.model.path is None:
            write_atomically(Path(folder) / METRICS_FILE.format(dtype=trial.model.dtype), json.dumps(metrics))
        messages.put(("metrics", which, metrics))
    except Exception as error:  # the parent must hear of it, whatever it is
        messages.put(("failed", which, f"{type(error).__name__}: {error}"))


def _check_alive(processes: dict[Which, Any], metrics: dict[Which, dict[str, float]]) -> None:
    for which, process in processes.items():
        if which not in metrics and process.exitcode not in (None, 0):
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
