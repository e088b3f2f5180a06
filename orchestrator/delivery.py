"""What the trials read from the driver's disk reaches each node once: its models, their logs, a benchmark's files.

The driver lists the files and puts nothing anywhere. The first process of a node that misses them fetches them chunk by
chunk: each chunk is a task on the driver's node, and its bytes come through Ray's object store, which so never holds
more than a few. Whoever else comes waits for the lock of that node and finds them there. A node that joins later does
the same, and where a place is shared nothing is copied.

Settings and fingerprint of a trial stay as they are: only the process that runs it looks elsewhere.
"""

from __future__ import annotations

import fcntl
import functools
import logging
import os
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from search_spaces.space import with_paths
from trials.config import TrialConfig
from trials.identity import CACHE, cache_folder, cached_model, digest, file_digest, log_file, model_files
from trials.reading import KINDS

CHUNK = 8 << 20
"""Bytes that one task reads."""

AHEAD = 4
"""Chunks that are on their way at once."""

_DEPTH = 3  # of a benchmark's files: news/raw/forget.json

logger = logging.getLogger(__name__)
logger.setLevel(logging.INFO)  # a line a delivery, in the log of the trial that came first

Read = Callable[[str, int, int], Callable[[], bytes]]
"""Of (file, offset, bytes): sends for that chunk, and returns what waits for it."""


@dataclass(frozen=True)
class File:
    """A file of a package: its name below the package's folder, its size in bytes, and a digest."""

    name: str
    size: int
    mark: str

    def __post_init__(self) -> None:
        path = PurePosixPath(self.name)
        if not self.name or path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{self.name!r} is no name of a file inside a package")


@dataclass(frozen=True)
class Package:
    """Files that one setting names, or those of the driver's cache.

    Attributes:
        setting: Path of the setting, as in `model.path`; "" for the cache.
        folder: Where they lie on the driver's disk, as the setting says it; "" for the cache.
        root: The same, in full.
        files: All of them.
        single: Whether the setting names the one file, not its folder.
    """

    setting: str
    folder: str
    root: str
    files: tuple[File, ...]
    single: bool = False

    @property
    def name(self) -> str:
        """Digest of names and contents."""
        return digest([[file.name, file.size, file.mark] for file in self.files])

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(file.size for file in self.files)

    def at_home(self) -> Path:
        """Where a process looks for them if nobody tells it otherwise."""
        return Path(os.path.expanduser(self.folder)) if self.folder else cache_folder()


@dataclass(frozen=True)
class Delivery:
    """What a sweep's trials read, and Ray's id of the node that has it."""

    node: str
    packages: tuple[Package, ...]

    def received(self, trial: TrialConfig) -> TrialConfig:
        """The trial with the places of this node; what is missing is fetched first, once a node.

        Raises:
            OSError: It could not be fetched or written.
        """
        places = _received(self)
        return TrialConfig.model_validate(with_paths(trial.model_dump(mode="json"), places)) if places else trial


def delivery_of(trial: TrialConfig, data: str) -> Delivery:
    """What this driver, which is connected to Ray, has for the trials of a sweep; arguments as of `packages_of`."""
    return Delivery(ray.get_runtime_context().get_node_id(), packages_of(trial, data))


def packages_of(trial: TrialConfig, data: str) -> tuple[Package, ...]:
    """What lies on this machine's disk of all that trials read; a hub id is not among it.

    Args:
        trial: The base trial, its models prepared.
        data: Digest of the benchmark's rows.
    """
    model, benchmark = trial.model, trial.benchmark.model_dump()
    cached = [log_file(trial, data=data, which=which) for which in ("target", "retain")]
    if model.path is None:
        for which in ("target", "retain"):
            cached += model_files(cached_model(model, data=data, which=which))
    found = [_package("", "", cached)]
    for setting, place in (("model.path", model.path), ("model.retain_path", model.retain_path)):
        found += [_package(setting, place, model_files(_full(place)))] if place else []
    for setting, place in (
        ("model.retain_log", model.retain_log),
        ("benchmark.annotations", benchmark.get("annotations")),
    ):
        found += [_package(setting, os.path.dirname(place), [_full(place)], single=True)] if place else []
    if place := benchmark.get("path"):
        found.append(_package("benchmark.path", place, list(_data_files(_full(place)))))
    return tuple(package for package in found if package.files)


def _package(setting: str, folder: str, files: list[Path], *, single: bool = False) -> Package:
    root = _full(folder) if setting else cache_folder()
    there = sorted(file for file in files if file.is_file())
    marked = tuple(
        File(file.relative_to(root).as_posix(), file.stat().st_size, digest(file_digest(file))) for file in there
    )
    return Package(setting, folder, str(root), marked, single)


def _full(place: str) -> Path:
    return Path(os.path.abspath(os.path.expanduser(place)))


def _data_files(folder: Path) -> Iterator[Path]:
    for depth in range(1, _DEPTH + 1):
        for file in folder.glob("/".join("*" * depth)):
            if file.name.removesuffix(".gz").endswith(KINDS):
                yield file


# -- on a node ---------------------------------------------------------------------------------------------------------


@functools.cache  # a process serves one driver
def _received(delivery: Delivery) -> Mapping[str, str]:
    """Setting -> where this node has what it names, if that is not where the setting says."""
    home, read = cache_folder() / "delivered", _reader(delivery.node)
    moved = {
        package: place for package in delivery.packages if (place := fetched(package, home, read)) != package.at_home()
    }
    for package, place in moved.items():
        if not package.setting:
            os.environ[CACHE] = str(place)  # whoever looks into the cache finds the driver's models and logs
    return {
        package.setting: str(place / package.files[0].name if package.single else place)
        for package, place in moved.items()
        if package.setting
    }


def fetched(package: Package, home: Path, read: Read) -> Path:
    """The folder in which this node has a package's files, whole.

    Args:
        package: The package.
        home: Folder of all that was delivered to this node.
        read: Reads on the driver's node.

    Raises:
        OSError: It could not be fetched or written, or has changed since the driver listed it.
    """
    place = home / package.name
    for there in (package.at_home(), place):
        if _is_whole(there, package):
            return there
    home.mkdir(parents=True, exist_ok=True)
    with open(home / f"{package.name}.lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _is_whole(place, package):
            return place
        for left in (place, *home.glob(f".{package.name}.*")):  # damaged, or of a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        started = time.monotonic()
        scratch = Path(tempfile.mkdtemp(dir=home, prefix=f".{package.name}."))
        try:
            _write(package, scratch, read)
            if not _is_whole(scratch, package):
                raise OSError(f"{package.root!r} has changed on the driver's disk since the sweep began; resume it")
            os.replace(scratch, place)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        what, seconds = package.setting or "models and logs of the cache", time.monotonic() - started
        logger.info("delivered %s: %.1f MB in %.1f s, to %s", what, package.size / 1e6, seconds, place)
    return place


def _is_whole(folder: Path, package: Package) -> bool:
    """Whether a folder has the files, of these sizes and contents."""
    try:
        return all(
            (folder / file.name).stat().st_size == file.size and digest(file_digest(folder / file.name)) == file.mark
            for file in package.files
        )
    except OSError:
        return False


def _write(package: Package, folder: Path, read: Read) -> None:
    chunks = (
        (file, offset, min(CHUNK, file.size - offset))
        for file in package.files
        for offset in range(0, max(file.size, 1), CHUNK)  # an empty file is a chunk too
    )
    coming: deque[tuple[File, Callable[[], bytes]]] = deque()
    for file, offset, size in chunks:
        coming.append((file, read(os.path.join(package.root, file.name), offset, size)))
        if len(coming) == AHEAD:
            _append(folder, *coming.popleft())
    while coming:
        _append(folder, *coming.popleft())


def _append(folder: Path, file: File, chunk: Callable[[], bytes]) -> None:
    path = folder / file.name
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as out:
        out.write(chunk())


def _reader(node: str) -> Read:
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    task = ray.remote(_chunk).options(num_cpus=0, scheduling_strategy=there)

    def send(file: str, offset: int, size: int) -> Callable[[], bytes]:
        chunk: Any = task.remote(file, offset, size)
        return lambda: bytes(ray.get(chunk))

    return send


def _chunk(file: str, offset: int, size: int) -> bytes:
    with open(file, "rb") as stream:
        stream.seek(offset)
        return stream.read(size)
