"""What the trials read reaches a node once: which files, how they are fetched, and what a trial is told of it."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator import delivery
from orchestrator.delivery import CHUNK, Delivery, File, Package, fetched, packages_of
from tests.tiny import AUTHORS
from trials.benchmarks import load_benchmark
from trials.config import ModelConfig, TrialConfig
from trials.identity import CACHE, cache_folder, cached_model, fingerprint, log_file, model_digest
from trials.sources import TofuConfig

FILES = {"forget10.jsonl": b"", "raw/forget.json": b"[1]", "raw/big.txt": bytes(range(256)) * (CHUNK // 256) + b"end"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A benchmark's folder on the driver's disk: an empty file, a nested one, one of two chunks."""
    root = tmp_path / "driver's 'disk' 東京"
    for name, content in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def package(root: Path, *, seen: str = "/nowhere/at/all") -> Package:
    """Of that folder, which lies elsewhere for whoever receives it."""
    trial = TrialConfig(benchmark=TofuConfig(path=str(root)), model=ModelConfig(path="owner/model"))
    [found] = packages_of(trial, "data")
    return Package(found.setting, seen, found.root, found.files)


class Disk:
    """Reads the driver's disk, counts, and does something on the way if asked to."""

    def __init__(self, before: Callable[[], object] = lambda: None) -> None:
        self.chunks = Counter[tuple[str, int]]()
        self._before = before

    def __call__(self, file: str, offset: int, size: int) -> Callable[[], bytes]:
        self.chunks[file, offset] += 1
        self._before()
        return lambda: Path(file).read_bytes()[offset : offset + size]


def contents(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


# -- fetched -----------------------------------------------------------------------------------------------------------


def test_a_node_fetches_a_package_whole_and_then_never_again(data: Path, tmp_path: Path) -> None:
    disk, home = Disk(), tmp_path / "node"
    place = fetched(package(data), home, disk)
    assert contents(place) == FILES
    assert place.parent == home
    assert set(disk.chunks.values()) == {1}
    assert len(disk.chunks) == 4, "of an empty file one, of the small one, two of the big one"
    assert fetched(package(data), home, disk) == place
    assert disk.chunks.total() == 4


def test_what_is_shared_is_not_copied(data: Path, tmp_path: Path) -> None:
    disk = Disk()
    assert fetched(package(data, seen=str(data)), tmp_path / "node", disk) == data
    assert not disk.chunks
    assert not (tmp_path / "node").exists()


def test_a_place_of_the_same_name_with_other_contents_is_not_taken_for_it(data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    for name, content in FILES.items():
        (other / name).parent.mkdir(parents=True, exist_ok=True)
        (other / name).write_bytes(content.replace(b"[1]", b"[2]"))
    place = fetched(package(data, seen=str(other)), tmp_path / "node", Disk())
    assert place != other
    assert contents(place) == FILES


def test_of_several_that_come_at_once_one_fetches(data: Path, tmp_path: Path) -> None:
    disk, wanted, found = Disk(), package(data), list[Path]()
    threads = [
        threading.Thread(target=lambda: found.append(fetched(wanted, tmp_path / "node", disk))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 6
    assert len(set(found)) == 1
    assert set(disk.chunks.values()) == {1}


def test_what_a_killed_process_left_is_removed_and_what_is_damaged_is_fetched_again(data: Path, tmp_path: Path) -> None:
    home, wanted = tmp_path / "node", package(data)
    left = home / f".{wanted.name}.killed"
    left.mkdir(parents=True)
    place = fetched(wanted, home, Disk())
    assert not left.exists()
    (place / "raw" / "forget.json").write_bytes(b"[9]")
    disk = Disk()
    assert contents(fetched(wanted, home, disk)) == FILES
    assert disk.chunks.total() == 4


def test_a_file_that_changed_since_it_was_listed_is_an_error_and_leaves_nothing(data: Path, tmp_path: Path) -> None:
    wanted, home = package(data), tmp_path / "node"
    (data / "raw" / "forget.json").write_bytes(b"[2]")
    with pytest.raises(OSError, match="has changed on the driver's disk since the sweep began; resume it"):
        fetched(wanted, home, Disk())
    assert [file.name for file in home.iterdir()] == [f"{wanted.name}.lock"]


def test_a_lost_connection_leaves_nothing_and_the_next_one_fetches(data: Path, tmp_path: Path) -> None:
    def lost() -> None:
        raise OSError("the driver's node is gone")

    wanted, home = package(data), tmp_path / "node"
    with pytest.raises(OSError, match="is gone"):
        fetched(wanted, home, Disk(lost))
    assert [file.name for file in home.iterdir()] == [f"{wanted.name}.lock"]
    assert contents(fetched(wanted, home, Disk())) == FILES


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "", ".."])
def test_a_name_that_leads_out_of_the_package_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is no name of a file inside a package"):
        File(name, 1, "f00d")


# -- which files -------------------------------------------------------------------------------------------------------


def test_of_a_model_goes_what_bears_on_its_numbers_links_followed(tmp_path: Path) -> None:
    model, blobs = tmp_path / "snapshot", tmp_path / "blobs"
    (model / "original").mkdir(parents=True)
    blobs.mkdir()
    (blobs / "1").write_bytes(b"weights")
    (model / "model.safetensors").symlink_to(blobs / "1")
    for name in ("config.json", "chat_template.jinja", "pytorch_model.bin", "code.py", "original/model.safetensors"):
        (model / name).write_bytes(b"{}")
    [found] = packages_of(TrialConfig(benchmark=AUTHORS, model=ModelConfig(path=str(model))), "data")
    assert found.setting == "model.path"
    assert [file.name for file in found.files] == ["chat_template.jinja", "config.json", "model.safetensors"]
    place = fetched(Package("model.path", "/nowhere", found.root, found.files), tmp_path / "node", Disk())
    assert contents(place)["model.safetensors"] == b"weights"
    there, here = (model_digest(ModelConfig(path=str(each)), data="data") for each in (place, model))
    assert there == here, "the same model by another path"


def test_a_hub_id_and_rows_that_are_generated_need_no_delivery() -> None:
    trial = TrialConfig(benchmark=AUTHORS, model=ModelConfig(path="owner/model", retain_path="owner/other"))
    assert packages_of(trial, "data") == ()


def cached(trial: TrialConfig, data: str) -> list[Path]:
    """Models and logs as the driver makes them, in a few bytes."""
    files = []
    for which in ("target", "retain"):
        files += [cached_model(trial.model, data=data, which=which) / name for name in ("config.json", "w.safetensors")]
        files.append(log_file(trial, data=data, which=which))
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{file.name} of the driver")
    return files


def test_a_trial_finds_model_logs_and_files_of_the_driver_and_stays_the_same_trial(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(data.parent))
    monkeypatch.setenv(CACHE, str(tmp_path / "driver's cache"))
    words = data / "words" / "keys.json"
    words.parent.mkdir()
    words.write_text("{}")
    settings = TofuConfig(path=f"~/{data.name}", annotations=f"~/{data.name}/words/keys.json")
    trial = TrialConfig(benchmark=settings)
    files = cached(trial, "data")
    sent = packages_of(trial, "data")
    assert [each.setting for each in sent] == ["", "benchmark.annotations", "benchmark.path"]
    disk = Disk()
    monkeypatch.setattr(delivery, "_reader", lambda node: disk)
    # On the node, neither home folder nor cache is the driver's.
    monkeypatch.setenv("HOME", str(tmp_path / "node's home"))
    monkeypatch.setenv(CACHE, str(tmp_path / "node's cache"))
    received = Delivery("the driver's", sent).received(trial)
    home = tmp_path / "node's cache" / "delivered"
    assert isinstance(received.benchmark, TofuConfig)
    assert received.benchmark.path
    assert contents(Path(received.benchmark.path)) == FILES | {"words/keys.json": b"{}"}
    assert received.benchmark.annotations
    assert Path(received.benchmark.annotations).read_text() == "{}"
    assert Path(received.benchmark.annotations).parent.parent == Path(received.benchmark.path).parent == home
    assert cache_folder().parent == home
    driver = tmp_path / "driver's cache"
    assert contents(cache_folder()) == {file.relative_to(driver).as_posix(): file.read_bytes() for file in files}
    assert (cached_model(trial.model, data="data", which="target") / "config.json").exists()
    one, other = (fingerprint(each, data="data", model="m") for each in (trial, received))
    assert one == other
    again = disk.chunks.total()
    assert Delivery("the driver's", sent).received(trial) == received
    assert disk.chunks.total() == again, "a warm process looks once"


def test_where_all_is_at_home_the_trial_is_told_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    trial = TrialConfig(benchmark=AUTHORS)
    data = load_benchmark(AUTHORS).digest()
    cached(trial, data)
    monkeypatch.setattr(delivery, "_reader", lambda node: pytest.fail)
    assert Delivery("here", packages_of(trial, data)).received(trial) is trial
    assert os.environ[CACHE] == str(tmp_path / "cache")
