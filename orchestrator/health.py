"""What a machine or a cluster is fit for: facts in, findings with their remedies out. Nobody is asked anything here."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Level = Literal["ok", "warning", "problem"]
GB = 2**30
SKEW = 2.0
"""Seconds by which clocks may differ: events of one sweep are ordered by them."""
SHARED_MEMORY, OPEN_FILES = GB, 4096
LITTLE, ALMOST_NOTHING = 10 * GB, GB
WASTE = 0.02
"""Share of a GPU that may be left by the trials on it."""
FULL = 0.95
"""Share of the disk of its temporary folder from which on Ray takes no more objects."""


@dataclass(frozen=True)
class Finding:
    """One line of what `doctor` says.

    Attributes:
        level: How bad it is.
        what: What was looked at.
        words: What was found and, unless it is fine, what to do.
    """

    level: Level
    what: str
    words: str


@dataclass(frozen=True)
class Listener:
    """A process of Ray's that takes connections.

    Attributes:
        process: Its name.
        address: The IP address that it is bound to.
        port: Its port.
        token: Whether it asks for Ray's token; None where that cannot be seen.
    """

    process: str
    address: str
    port: int
    token: bool | None


@dataclass(frozen=True)
class Disk:
    """Bytes of the disk that holds a place."""

    place: str
    free: int
    total: int


@dataclass(frozen=True)
class Node:
    """What one machine says of itself.

    Attributes:
        name: Its name, unique among them.
        versions: Package -> version, "" where it is not installed.
        torch_gpus: GPUs that torch can use.
        unwritable: Why the output folder cannot be written there; "" where it can.
        disks: What is left, by what it is for: `output`, `ray`, `cache`.
        shared_memory: Bytes of /dev/shm.
        open_files: Files that a process may have open.
        listeners: Who takes connections there.
        ray_gpus: GPUs that Ray counts there; None where no Ray is asked.
        skew: Seconds by which its clock is before ours.
        seen: Whether what it wrote into the output folder can be read here.
    """

    name: str
    versions: Mapping[str, str]
    torch_gpus: int
    unwritable: str
    disks: Mapping[str, Disk]
    shared_memory: int
    open_files: int
    listeners: Sequence[Listener] = ()
    ray_gpus: float | None = None
    skew: float = 0.0
    seen: bool = True


@dataclass(frozen=True)
class Facts:
    """What was gathered.

    Attributes:
        nodes: The machines, ours first.
        silent: Name of a node that could not be asked -> why.
        output: The output folder.
        tracking: Where MLflow records would go, without credentials.
        unreachable: Why they cannot; "" where they can.
        gpu: What a trial asks for; 0 where no sweep file was given.
    """

    nodes: Sequence[Node]
    output: str
    tracking: str
    unreachable: str
    silent: Mapping[str, str] = field(default_factory=dict)
    gpu: float = 0.0


def findings(facts: Facts) -> list[Finding]:
    """Every finding, in a fixed order; at least one for each thing that was looked at."""
    return [
        *(Finding("problem", "nodes", f"{name} did not answer: {why}") for name, why in facts.silent.items()),
        *_versions(facts.nodes),
        *_gpus(facts),
        *_storage(facts),
        *_tracking(facts),
        *_doors(facts.nodes),
        *_clocks(facts.nodes),
        *(found for node in facts.nodes for found in _disks(node)),
        *_limits(facts.nodes),
        *_fractions(facts.gpu),
    ]


def _versions(nodes: Sequence[Node]) -> Iterator[Finding]:
    ours, fine = nodes[0], True
    for node in nodes[1:]:
        other = [
            f"{name} {node.versions.get(name) or 'none'} (here {version or 'none'})"
            for name, version in ours.versions.items()
            if node.versions.get(name) != version
        ]
        if other:
            fine = False
            remedy = "install the same on every node, with constraints.txt"
            yield Finding("problem", "versions", f"{node.name} has {', '.join(other)}; {remedy}")
    if fine:
        yield Finding("ok", "versions", ", ".join(f"{name} {version}" for name, version in ours.versions.items()))


def _gpus(facts: Facts) -> Iterator[Finding]:
    for node in facts.nodes:
        if node.ray_gpus is not None and node.ray_gpus > node.torch_gpus:
            words = f"{node.name}: Ray counts {node.ray_gpus:g} GPUs and torch can use {node.torch_gpus}"
            remedy = "check the driver (nvidia-smi), torch's CUDA build, and --num-gpus of `ray start`"
            yield Finding("problem", "GPUs", f"{words}; {remedy}")
        elif node.ray_gpus is not None and node.ray_gpus < node.torch_gpus:
            words = f"{node.name}: Ray counts {node.ray_gpus:g} of the {node.torch_gpus} GPUs that torch can use"
            yield Finding("warning", "GPUs", f"{words}; start Ray there with --num-gpus {node.torch_gpus}")
        else:
            yield Finding("ok", "GPUs", f"{node.name}: {node.torch_gpus}")
    if facts.gpu and not any(node.torch_gpus if node.ray_gpus is None else node.ray_gpus for node in facts.nodes):
        words = f"a trial asks for gpu {facts.gpu:g} and there is none"
        yield Finding("problem", "GPUs", f"{words}; set resources.gpu to 0, or join a cluster that has some")


def _storage(facts: Facts) -> Iterator[Finding]:
    fine = True
    for node in facts.nodes:
        remedy = "give an --output that all nodes share (NFS), writable by this user"
        if node.unwritable:
            fine = False
            yield Finding(
                "problem", "output", f"{node.name} cannot write {facts.output!r} ({node.unwritable}); {remedy}"
            )
        elif not node.seen:
            fine = False
            words = f"what {node.name} writes into {facts.output!r} is not seen here: a folder of its own"
            yield Finding("problem", "output", f"{words}; {remedy}")
    if fine:
        yield Finding("ok", "output", f"{facts.output!r} can be written from {_count(len(facts.nodes))}")


def _tracking(facts: Facts) -> Iterator[Finding]:
    if facts.unreachable:
        yield Finding("problem", "tracking", facts.unreachable)
    elif facts.tracking.startswith("sqlite") and len(facts.nodes) > 1:
        words = f"{facts.tracking}: one file, written by the driver alone"
        yield Finding("ok", "tracking", words)
    else:
        yield Finding("ok", "tracking", facts.tracking)


_ASKS: dict[bool | None, Level] = {False: "problem", None: "warning"}
"""Whether one who listens asks for a token -> what to make of it, where others can reach it."""


def _doors(nodes: Sequence[Node]) -> Iterator[Finding]:
    fine = True
    for node in nodes:
        wide = [each for each in node.listeners if not is_loopback(each.address) and not each.token]
        for token, level in _ASKS.items():
            if open_ones := [each for each in wide if each.token is token]:
                fine = False
                ports = ", ".join(f"{each.process} on {each.address}:{each.port}" for each in open_ones)
                why = "without a token" if token is False else "with or without a token, which cannot be seen from here"
                words = f"{node.name}: listening {why}: {ports}; whoever reaches them can run code"
                remedy = "set RAY_AUTH_MODE=token wherever Ray is started, or bind them to 127.0.0.1"
                yield Finding(level, "doors", f"{words}; {remedy}")
    if fine:
        count = sum(len(node.listeners) for node in nodes)
        yield Finding(
            "ok", "doors", f"{count} ports of Ray, each with a token or on this machine only" if count else "none"
        )


def _clocks(nodes: Sequence[Node]) -> Iterator[Finding]:
    late = [node for node in nodes if abs(node.skew) > SKEW]
    for node in late:
        words = f"the clock of {node.name} is {abs(node.skew):.1f} s {'ahead' if node.skew > 0 else 'behind'}"
        yield Finding("warning", "clocks", f"{words}: logs will not fit together; run NTP there")
    if not late:
        most = max(abs(node.skew) for node in nodes)
        yield Finding("ok", "clocks", f"at most {most:.1f} s apart" if len(nodes) > 1 else "one machine")


def _disks(node: Node) -> Iterator[Finding]:
    for what, disk in node.disks.items():
        words = f"{node.name}: {disk.free / GB:.1f} GB free of {disk.total / GB:.0f} in {disk.place!r}"
        remedy = "free some space, or take another place" + _OTHER_PLACE.get(what, "")
        used = 1 - disk.free / disk.total if disk.total else 0.0
        if disk.free < ALMOST_NOTHING or (what == "ray" and used > FULL):
            yield Finding("problem", f"disk of {what}", f"{words}; {remedy}")
        elif disk.free < LITTLE:
            yield Finding("warning", f"disk of {what}", f"{words}; {remedy}")
        else:
            yield Finding("ok", f"disk of {what}", words)


_OTHER_PLACE = {
    "output": " (--output)",
    "ray": " (RAY_TMPDIR, or `ray start --temp-dir`)",
    "cache": " (UNLEARN_SWEEP_CACHE)",
}


def _limits(nodes: Sequence[Node]) -> Iterator[Finding]:
    for node in nodes:
        memory = f"{node.name}: {node.shared_memory / GB:.2f} GB of /dev/shm"
        if node.shared_memory < SHARED_MEMORY:
            remedy = "Ray falls back to the disk; give a container --shm-size=2g or more"
            yield Finding("warning", "shared memory", f"{memory}; {remedy}")
        else:
            yield Finding("ok", "shared memory", memory)
        files = f"{node.name}: {node.open_files} open files a process"
        if node.open_files < OPEN_FILES:
            yield Finding("warning", "open files", f"{files}; `ulimit -n 65536` before Ray is started")
        else:
            yield Finding("ok", "open files", files)


def _fractions(gpu: float) -> Iterator[Finding]:
    if gpu > 1 and gpu != int(gpu):
        yield Finding(
            "problem", "gpu of a trial", f"{gpu:g}: above 1 it must be a whole number; write {int(gpu)} or more"
        )
    elif 0 < gpu < 1 and 1 - (fit := int(1 / gpu + 1e-9)) * gpu > WASTE:
        words = f"{gpu:g} leaves {1 - fit * gpu:.2g} of each GPU unused"
        yield Finding("warning", "gpu of a trial", f"{words}; {fit} trials fit: write {1 / fit:.4g}")
    elif gpu:
        yield Finding("ok", "gpu of a trial", f"{gpu:g}")


def is_loopback(address: str) -> bool:
    """Whether an address can be reached from its own machine only."""
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return address == "localhost"


def _count(nodes: int) -> str:
    return "this machine" if nodes == 1 else f"all {nodes} nodes"


def worst(found: Iterable[Finding]) -> Level:
    """The worst level among findings."""
    levels = {finding.level for finding in found}
    return "problem" if "problem" in levels else "warning" if "warning" in levels else "ok"
