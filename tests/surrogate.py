"""A trial in closed form: `run_trial`'s signature, forget and retain curves of unlearning's shape, milliseconds.

The harder a trial pushes (learning rate times epochs, braked by beta1), the lower its forget metric; the damage to the
retain metric grows with the push and shrinks with the retain coefficient. One setting diverges on purpose: a learning
rate above `DIVERGES`. What ran is written to `<folder>/ran.txt`, a line an epoch, and what began to `begun.txt`: a test
sees what ran twice.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import ray

from orchestrator.search.faults import ALIKE
from trials.config import TrialConfig
from trials.result import Diverged, EpochResult, OutOfMemory
from trials.sources import TofuConfig

DIVERGES = 9e-4


def surrogate(config: TrialConfig, *, folder: Path, resume_from: Path | None = None) -> Iterator[EpochResult]:
    """Yields the closed-form curve; goes on after the last epoch that it finds in `resume_from`."""
    folder.mkdir(parents=True, exist_ok=True)
    done = int((resume_from / "epoch").read_text()) if resume_from else 0
    if done:
        yield result(config, done)
    for epoch in range(done + 1, config.epochs + 1):
        if config.optim.lr > DIVERGES and epoch == 2:
            raise Diverged("train.forget_loss is nan in epoch 2, step 9")
        with open(folder / "begun.txt", "a") as file:
            file.write(f"{epoch}\n")
        time.sleep(float(os.environ.get("SURROGATE_SECONDS", "0")))
        with open(folder / "ran.txt", "a") as file:
            file.write(f"{epoch}\n")
        checkpoint = folder / "checkpoint"
        checkpoint.mkdir(exist_ok=True)
        (checkpoint / "epoch").write_text(str(epoch))
        yield result(config, epoch)


def result(config: TrialConfig, epoch: int) -> EpochResult:
    """The point of the curve after an epoch."""
    beta1 = getattr(config.loss.criterion, "beta1", 0.0)
    push = config.optim.lr * 1e4 * epoch / config.epochs
    damage = push / (1 + beta1) / (0.5 + config.loss.retain.coefficient)
    metrics = {
        "forget.extraction_strength": math.exp(-push / (1 + 0.1 * beta1)),
        "retain.extraction_strength": math.exp(-damage),
    }
    return EpochResult(epoch, metrics, 0.01, last=epoch == config.epochs)


def dies_once(config: TrialConfig, *, folder: Path, resume_from: Path | None = None) -> Iterator[EpochResult]:
    """The surrogate, whose process is killed once after the third epoch of each trial, as the kernel does it."""
    for epoch in surrogate(config, folder=folder, resume_from=resume_from):
        if epoch.epoch == 4 and not (folder / "died").exists():
            (folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        yield epoch


def misbehaves(config: TrialConfig, *, folder: Path, resume_from: Path | None = None) -> Iterator[EpochResult]:
    """Each trial goes wrong in its own way, by its number; every fifth is sound."""
    number = int(folder.name) % 5
    for epoch in surrogate(config, folder=folder, resume_from=resume_from):
        if epoch.epoch == 3:
            if number == 0:
                raise RuntimeError("a bug in the trial")
            if number == 1:
                epoch.metrics["retain.extraction_strength"] = math.nan
            if number == 2:
                del epoch.metrics["retain.extraction_strength"]
            if number == 3:
                os.kill(os.getpid(), signal.SIGKILL)
        yield epoch


def held(config: TrialConfig, *, folder: Path, resume_from: Path | None = None) -> Iterator[EpochResult]:
    """The surrogate; before its fourth epoch, a trial waits until the run folder's `limit` is above its number."""
    limit = folder.parents[1] / "limit"
    for epoch in surrogate(config, folder=folder, resume_from=resume_from):
        yield epoch
        while epoch.epoch == 3 and int(folder.name) >= int(limit.read_text() or 0):
            time.sleep(0.05)


def reads_its_files(config: TrialConfig, *, folder: Path, resume_from: Path | None = None) -> Iterator[EpochResult]:
    """The surrogate; notes where its model and benchmark lie, and what they hold."""
    assert isinstance(config.benchmark, TofuConfig)
    assert config.model.path
    assert config.benchmark.path
    rows, weights = Path(config.benchmark.path, "forget05.jsonl"), Path(config.model.path, "model.safetensors")
    found = {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in (rows, weights)}
    (folder / "files.json").write_text(json.dumps(found))
    yield from surrogate(config, folder=folder, resume_from=resume_from)


def runs_out(config: TrialConfig, *, folder: Path, resume_from: Path | None = None) -> Iterator[EpochResult]:
    """The surrogate on a device with memory for one row at a time, of odd trials; for none, of even ones."""
    for epoch in surrogate(config, folder=folder, resume_from=resume_from):
        rows = config.optim.micro_batch_size or config.optim.batch_size
        if epoch.epoch == 3 and rows > int(folder.name) % 2:
            raise OutOfMemory(f"out of memory in epoch 3: {rows} rows")
        yield epoch


def broken(config: TrialConfig, *, folder: Path, resume_from: Path | None = None) -> Iterator[EpochResult]:
    """No trial gets anywhere while the run folder has a file `broken`: the words of the error."""
    why = folder.parents[1] / "broken"
    if why.exists():
        raise RuntimeError(f"{why.read_text()} (trial {folder.name})")
    yield from surrogate(config, folder=folder, resume_from=resume_from)


def hangs(config: TrialConfig, *, folder: Path, resume_from: Path | None = None) -> Iterator[EpochResult]:
    """The surrogate; trial 1 never gets through its third epoch, and cannot be interrupted."""
    for epoch in surrogate(config, folder=folder, resume_from=resume_from):
        if epoch.epoch == 3 and int(folder.name) == 1:
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])
            signal.sigwait([signal.SIGUSR1])
        yield epoch


def fills(config: TrialConfig, *, folder: Path, resume_from: Path | None = None) -> Iterator[EpochResult]:
    """The surrogate with a checkpoint of a MiB, which replaces the one before."""
    for epoch in surrogate(config, folder=folder, resume_from=resume_from):
        scratch = folder / "checkpoint" / "weights.part"
        scratch.write_bytes(bytes(2**20))
        scratch.replace(folder / "checkpoint" / "weights")
        yield epoch


def breaks_a_node(config: TrialConfig, *, folder: Path, resume_from: Path | None = None) -> Iterator[EpochResult]:
    """The surrogate; the node on which the first trial begins has a broken GPU, and nothing ends elsewhere before."""
    node, bad, failed = ray.get_runtime_context().get_node_id(), folder.parents[1] / "bad", folder.parents[1] / "failed"
    failed.mkdir(exist_ok=True)
    with contextlib.suppress(FileExistsError), open(bad, "x") as file:
        file.write(node)
    if bad.read_text() == node:
        (failed / folder.name).touch()
        raise RuntimeError("CUDA error: uncorrectable ECC error encountered")
    patience = time.monotonic() + 120
    while len(list(failed.iterdir())) < ALIKE and time.monotonic() < patience:
        time.sleep(0.1)
    yield from surrogate(config, folder=folder, resume_from=resume_from)
