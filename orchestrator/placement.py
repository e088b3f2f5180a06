"""`resources.gpu: auto`: one trial is measured, and as many as fit share a GPU, or the memory of a machine without.

The probe is a task of Ray's in a process of its own, which holds a whole GPU. What is measured is an event of the
ledger: `resume` measures again only where the largest trial, or the kind of GPU, is another one.
"""

from __future__ import annotations

import math
import resource
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.exceptions import RayError
from rich.console import Console

from orchestrator.cluster import capacity
from orchestrator.config import SweepConfig
from orchestrator.delivery import Delivery
from orchestrator.events import Packed
from orchestrator.ledger import Ledger
from orchestrator.problems import ConfigError, Problem
from orchestrator.resources import AUTO, GIB, Resources
from orchestrator.worker import TrialFunction
from trials.config import LoraConfig, ModelConfig, NoAdapter, Requests, TrialConfig
from trials.identity import digest
from trials.objectives import LossConfig

MOST = 99
"""Trials on a GPU: beyond, a share of four decimals would let in one more than fit."""

_SMALLER = "set a smaller trial.optim.micro_batch_size or trial.evaluation.batch_size"
_SEVERAL = "or several GPUs for a trial (resources.gpu: 2 with trial.model.device_map: balanced)"


@dataclass(frozen=True)
class Reading:
    """What a probe measured.

    Attributes:
        peak: Bytes at the most.
        total: Bytes that trials may share.
        device: Name of the GPU; "" where there is none.
        failure: Why nothing was measured; "" where it was.
        ran_out: Whether that was for want of memory.
    """

    peak: int = 0
    total: int = 0
    device: str = ""
    failure: str = ""
    ran_out: bool = False


Probe = Callable[[TrialConfig, Path, bool], Reading]
"""Measures a trial, in that folder, on a GPU or without."""


def place_trials(
    sweep: SweepConfig,
    ledger: Ledger,
    console: Console,
    trial: TrialFunction | None = None,
    delivery: Delivery | None = None,
    probe: Probe | None = None,
) -> SweepConfig:
    """The sweep with what a trial takes in numbers; unchanged where the file says it.

    Args:
        sweep: The sweep; Ray is connected.
        ledger: Its ledger, where what was measured is kept.
        console: Where a line goes.
        trial: Something else with the signature of `run_trial`; its first epoch is measured.
        delivery: What the node of the probe may have to fetch first.
        probe: Measures; None: on the Ray that is connected.

    Raises:
        ConfigError: Not one trial fits with the margin, or the probe failed.
    """
    resources = sweep.resources
    if resources.gpu != AUTO:
        return sweep
    largest = heaviest(sweep)
    kinds = sorted(name for name in ray.cluster_resources() if name.startswith("accelerator_type:"))
    gpu = ray.cluster_resources().get("GPU", 0) >= 1 and largest.model.device not in ("cpu", "mps")
    settings = largest.model_dump(mode="json", exclude={"evaluation": {"front", "every"}})
    of = digest({"trial": settings, "devices": kinds if gpu else ["cpu"]})
    before = [event for event in ledger.events if isinstance(event, Packed)]
    known = next((event for event in reversed(before) if event.of == of), None)
    if known:
        reading = Reading(known.peak, known.total, known.device)
    else:
        console.print("probe: measuring the memory of one trial", highlight=False)
        folder = ledger.folder / ".probe"
        try:
            reading = (probe or _probe_on_ray(resources, trial, delivery))(largest, folder, gpu)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    event = packed(of, reading, resources.margin, gpu=gpu)
    if not before or event.model_dump(exclude={"at"}) != before[-1].model_dump(exclude={"at"}):
        ledger.append(event)
    console.print(words(event) + (" (measured before)" if known else ""), highlight=False, soft_wrap=True)
    share = resources.model_copy(update={"gpu": event.gpu, "memory": event.memory or resources.memory})
    return sweep.model_copy(update={"resources": share})


def packed(of: str, reading: Reading, margin: float, *, gpu: bool) -> Packed:
    """How many trials of that peak fit, and what each takes.

    Raises:
        ConfigError: Not one does, or nothing was measured.
    """
    free = reading.total * (1 - margin)
    trials = min(MOST if gpu else sys.maxsize, int(free / reading.peak)) if reading.peak else 0
    if reading.failure and not reading.ran_out:
        remedy = "run it by `unlearn-sweep trial` to see why, or write resources.gpu as a number"
        raise _refused(f"auto: the probe failed: {reading.failure}; {remedy}")
    if reading.ran_out:
        raise _refused(f"auto: not even one trial fits: {reading.failure}; {_SMALLER}, {_SEVERAL}")
    if trials < 1:
        takes = f"a trial takes {_gib(reading.peak)} of {_gib(reading.total)}, which leaves less than {margin:.0%} free"
        raise _refused(f"auto: {takes}; lower resources.margin, {_SMALLER}, {_SEVERAL}")
    return Packed(
        of=of,
        device=reading.device,
        peak=reading.peak,
        total=reading.total,
        margin=margin,
        trials=trials,
        gpu=math.floor(1e4 / trials) / 1e4 if gpu else 0.0,
        memory=None if gpu else reading.peak / (1 - margin) / GIB,
    )


def words(event: Packed) -> str:
    """A line: `probe: peak 9.8 GiB of 79.2 GiB; 7 trials on a GPU with 10 % kept free`."""
    many = "1 trial" if event.trials == 1 else f"{event.trials} trials"
    where = f"on a GPU ({event.device})" if event.device else "in the memory of a machine, if it has the CPUs,"
    measured = f"probe: peak {_gib(event.peak)} of {_gib(event.total)}"
    return f"{measured}; {many} {where} with {100 * event.margin:g} % kept free"


def heaviest(sweep: SweepConfig) -> TrialConfig:
    """One trial with the largest of each that a sweep can choose, as far as it bears on memory, and for one epoch.

    Looked at are the base trial, baselines, both ends of every range, every choice, values of ablations. Taken are: the
    adapter (none before lora, then rank) and dtype, the most rows a pass, the mask wagle before none, and the loss that
    passes most sequences or needs most of the reference model. Nothing is learnt (a rate of 1e-12), so that it cannot
    diverge. Not seen: an assistant of uld beside a loss that counts more, and metrics of `evaluation.front`.
    """
    trials = list(sweep.reachable())
    model = max((each.model for each in trials), key=_weight_of_model)
    optim = max((each.optim for each in trials), key=lambda each: each.mask.type == "wagle")
    rows = max(each.optim.batch_size for each in trials)
    micro = max(each.optim.micro_batch_size or each.optim.batch_size for each in trials)
    optim = optim.model_copy(update={"lr": 1e-12, "batch_size": rows, "micro_batch_size": micro})
    loss = max((each.loss for each in trials), key=_passes_of)
    changes = {"model": model, "optim": optim, "loss": loss, "requests": Requests(), "epochs": 1, "seed": 0}
    return sweep.trial.model_copy(update=changes)


def _weight_of_model(model: ModelConfig) -> tuple[bool, bool, int]:
    rank = model.adapter.rank if isinstance(model.adapter, LoraConfig) else 0
    return isinstance(model.adapter, NoAdapter), model.dtype == "float32", rank


def _passes_of(loss: LossConfig) -> int:
    """Sequences that a row of a step is passed with, and logits that are kept of the reference model."""
    term = loss.retain.term
    reference = "reference logits" in loss.needs or term in ("kl", "forget_kl", "activation")
    extra = ("refusals" in loss.needs) + (term not in ("none", "forget_kl"))
    return 1 + extra + reference + ("hidden states" in loss.needs)


# -- the probe ---------------------------------------------------------------------------------------------------------


def _probe_on_ray(resources: Resources, trial: TrialFunction | None, delivery: Delivery | None) -> Probe:
    def probe(config: TrialConfig, folder: Path, gpu: bool) -> Reading:
        capacity(resources.model_copy(update={"gpu": float(gpu)}))  # Ray would wait for what is not there
        # A process of its own: what it holds goes with it, and a GPU has nothing else of ours on it.
        task = ray.remote(num_cpus=resources.cpu, num_gpus=int(gpu), max_calls=1, max_retries=0)(_measured)
        try:
            return ray.get(task.remote(config, folder, gpu, (max(1, int(resources.cpu)), trial, delivery)))
        except ray.exceptions.WorkerCrashedError:
            return Reading(failure="its process was killed, most likely for want of memory", ran_out=True)
        except RayError as error:
            return Reading(failure=str(error).strip().splitlines()[-1])

    return probe


def _measured(
    config: TrialConfig, folder: Path, gpu: bool, how: tuple[int, TrialFunction | None, Delivery | None]
) -> Reading:
    import torch

    from trials.result import OutOfMemory
    from trials.unlearn import probe_trial

    threads, trial, delivery = how
    config = delivery.received(config) if delivery else config
    torch.set_num_threads(threads)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if trial is None:
            probe_trial(config, folder=folder)
        else:
            next(iter(trial(config, folder=folder)))
    except OutOfMemory as error:
        return Reading(failure=str(error).splitlines()[0], ran_out=True)
    if gpu:
        free, total = torch.cuda.mem_get_info()
        context = total - free - torch.cuda.memory_reserved()
        return Reading(torch.cuda.max_memory_reserved() + context, total, torch.cuda.get_device_name())
    unit = 1 if sys.platform == "darwin" else 1024
    own = ray.get_runtime_context().get_node_id()
    total = next(int(node["Resources"].get("memory", 0)) for node in ray.nodes() if node["NodeID"] == own)
    return Reading(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, total)


def _gib(count: int) -> str:
    return f"{count / GIB:.1f} GiB"


def _refused(why: str) -> ConfigError:
    return ConfigError("resources", [Problem("resources.gpu", why)])
