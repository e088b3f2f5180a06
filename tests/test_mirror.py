"""Run folders at a URL, over a real protocol: a sweep whose driver is killed and whose local copy is lost, goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from moto.server import ThreadedMotoServer
from rich.console import Console

from orchestrator.events import Ended
from orchestrator.ledger import read_events, read_records
from orchestrator.mirror import Mirror, mirrored
from orchestrator.problems import ConfigError
from orchestrator.remote import LOCK, STALE, Remote, fetch, folder_of, output_of, remote_of, shown
from orchestrator.sweep import run_sweep
from tests.runs import Cli
from tests.surrogate import surrogate
from tests.sweeps import small_sweep
from trials.benchmarks import load_benchmark
from trials.checkpoints import SUMS, seal
from trials.sources import AuthorsConfig

URL = "s3://sweeps/some/runs"
SECRET = "a-secret-access-key"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    store = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    store.start()
    yield "http://{}:{}".format(*store.get_host_and_port())
    store.stop()


@pytest.fixture(autouse=True)
def store(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "an-access-key-id",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "UNLEARN_SWEEP_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    fs = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False)
    fs.mkdir("sweeps")
    yield fs
    fs.rm("sweeps", recursive=True)


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(monkeypatch, capsys)


def remote() -> Remote:
    found = remote_of(output_of(URL))
    assert found is not None
    return found


def there(name: str = "small") -> set[str]:
    return set(remote().names(name))


def begin(folder: Path) -> Path:
    """A run folder with a ledger of one line, whatever it says."""
    folder.mkdir(parents=True)
    (folder / "sweep.json").write_text("{}")
    (folder / "ledger.jsonl").write_text("one\n")
    return folder


def checkpoint(folder: Path, trial_id: str = "00000", epoch: int = 1) -> Path:
    place = folder / "trials" / trial_id / "checkpoint" / f"{epoch:05d}"
    place.mkdir(parents=True)
    (place / "model").write_bytes(bytes(1000))
    (place / "epoch.json").write_text("{}")
    seal(place)
    return place


def send(folder: Path) -> str:
    one = remote()
    one.take(folder.name)
    return Mirror(folder, one).finish(timeout=30)


def wait_until(what: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


# -- whole sweeps ------------------------------------------------------------------------------------------------------


def driver(seconds: float = 0.05) -> subprocess.Popen[str]:
    script = f"""
        from rich.console import Console
        from orchestrator.remote import output_of
        from orchestrator.sweep import run_sweep
        from tests.surrogate import surrogate
        from tests.sweeps import small_sweep
        from trials.benchmarks import load_benchmark
        from trials.sources import AuthorsConfig
        if __name__ == "__main__":
            run_sweep(small_sweep(budget={{"trials": 10, "concurrent": 1}}), load_benchmark(AuthorsConfig()),
                      output=output_of({URL!r}), trial=surrogate)
    """
    environment = os.environ | {"SURROGATE_SECONDS": str(seconds), "PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, start_new_session=True)


@pytest.mark.ray
@pytest.mark.timeout(240)
def test_a_sweep_whose_driver_is_killed_and_whose_copy_is_lost_goes_on_from_the_url(store: Any, tmp_path: Path) -> None:
    process = driver()

    def ended() -> int:
        lines = (remote().read("small/ledger.jsonl") or b"").decode().splitlines()
        assert process.poll() is None, process.communicate()[0]
        return sum(json.loads(line)["event"] == "ended" for line in lines)

    while ended() < 4:
        time.sleep(0.2)
    with pytest.raises(ConfigError, match=r"another process is running this sweep \(process \d+ of "):
        remote().take("small")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    known = [line for line in (remote().read("small/ledger.jsonl") or b"").decode().splitlines() if '"ended"' in line]
    shutil.rmtree(tmp_path / "cache")
    with open(os.devnull, "w") as nowhere:
        sweep = small_sweep(budget={"trials": 10, "concurrent": 1})
        outcome = run_sweep(
            sweep,
            load_benchmark(AuthorsConfig()),
            output=output_of(URL),
            trial=surrogate,
            console=Console(file=nowhere),
        )
    records = read_records(outcome.folder)
    assert len(records) == len({record.trial_id for record in records}) == 10
    assert [e.model_dump_json() for e in read_events(outcome.folder) if isinstance(e, Ended)][: len(known)] == known
    notes = list((outcome.folder / "trials").glob("*/ran.txt"))
    assert len(notes) >= 10 - len(known), "of who ended before, a note may not have been sent yet"
    for note in notes:
        ran = note.read_text().split()
        assert sorted(set(ran), key=int) == [str(epoch) for epoch in range(1, len(set(ran)) + 1)]
    names = there()
    assert {"sweep.json", "ledger.jsonl", "trials.jsonl", "report.html", "study.log", "figures/front.png"} <= names
    front = {record.trial_id for record in outcome.report.front}
    kept = {name.split("/")[1] for name in names if "/checkpoint/" in name}
    before = {json.loads(line)["trial_id"] for line in known}
    assert front - before <= kept <= front, "of who ended before, a checkpoint may not have been sent yet"
    assert not store.exists(f"sweeps/some/runs/small/{LOCK}")
    for name in names:
        assert SECRET.encode() not in (remote().read(f"small/{name}") or b"")
    # Somebody else, elsewhere, looks at it: what is needed comes, checkpoints only where they are asked for.
    shutil.rmtree(tmp_path / "cache")
    folder = folder_of(f"{URL}/small")
    assert read_records(folder) == records
    assert not list(folder.glob("trials/*/checkpoint"))
    fetch(folder, checkpoints=min(front))
    assert [place.parent.name for place in folder.glob("trials/*/checkpoint")] == [min(front)]


# -- the mirror --------------------------------------------------------------------------------------------------------


def test_what_changes_is_sent_what_is_deleted_is_deleted_and_nothing_hidden_goes(store: Any) -> None:
    folder = begin(output_of(URL) / "small")
    (folder / ".ray").mkdir()
    (folder / ".ray" / "big").write_text("x")
    place = checkpoint(folder)
    assert send(folder) == ""
    sums = f"trials/00000/checkpoint/00001/{SUMS}"
    assert {"sweep.json", "ledger.jsonl", sums} <= there()
    assert not any(name.startswith(".") or "/." in name for name in there())
    with open(folder / "ledger.jsonl", "a") as file:
        file.write("two\nhal")
    shutil.rmtree(place)
    assert send(folder) == ""
    assert remote().read("small/ledger.jsonl") == b"one\ntwo\n", "a line that is not whole is none"
    assert there() == {"sweep.json", "ledger.jsonl"}


def test_the_ledger_is_there_before_a_checkpoint_is_whole_and_what_it_replaces_goes_last(store: Any) -> None:
    folder = begin(output_of(URL) / "small")
    checkpoint(folder)
    send(folder)
    shutil.rmtree(folder / "trials")
    checkpoint(folder, epoch=2)
    done: list[str] = []

    class Told(Remote):
        def write(self, name: str, data: bytes) -> None:
            done.append(name)
            super().write(name, data)

        def upload(self, file: Path, name: str) -> None:
            done.append(name)
            with open(folder / "ledger.jsonl", "a") as ledger:  # an event, while a file is on its way
                ledger.write("more\n")
            super().upload(file, name)

        def delete(self, name: str) -> None:
            done.append(f"- {name}")
            super().delete(name)

    known = remote()
    told = Told(known.url, known.fs, known.root)
    told.take("small")
    Mirror(folder, told).finish(timeout=30)
    new, old = "small/trials/00000/checkpoint/00002", "- small/trials/00000/checkpoint/00001"
    done = [name for name in done if LOCK not in name]
    assert done[:2] == [f"{new}/epoch.json", f"{new}/model"]
    assert done[2:5] == ["small/ledger.jsonl", f"{new}/{SUMS}", "small/ledger.jsonl"]
    assert {name.rpartition("/")[0] for name in done[5:]} == {old}


def test_half_a_checkpoint_is_never_taken_for_one(store: Any, tmp_path: Path) -> None:
    folder = begin(output_of(URL) / "small")
    checkpoint(folder)
    checkpoint(folder, "00001")
    assert send(folder) == ""
    remote().delete(f"small/trials/00001/checkpoint/00001/{SUMS}")
    shutil.rmtree(tmp_path / "cache")
    folder = output_of(URL) / "small"
    fetch(folder, checkpoints=True)
    assert [place.parent.name for place in folder.glob("trials/*/checkpoint")] == ["00000"]


def test_a_store_that_is_away_costs_nothing_and_the_end_says_what_is_not_there(store: Any) -> None:
    folder = begin(output_of(URL) / "small")
    gone = threading.Event()

    class Away(Remote):
        def upload(self, file: Path, name: str) -> None:
            gone.set()
            raise OSError(f"the store is away, whose key is {SECRET}")

    known = remote()
    away = Away(known.url, known.fs, known.root)
    away.take("small")
    mirror = Mirror(folder, away)
    assert gone.wait(30)
    said = mirror.finish(timeout=30)
    assert said == "2 files are not there yet (the store is away, whose key is ***)"
    away.leave("small")
    assert send(folder) == ""
    assert there() == {"sweep.json", "ledger.jsonl"}


def test_a_copy_that_is_ahead_stays_and_is_sent_one_that_is_behind_is_replaced(store: Any) -> None:
    folder = begin(output_of(URL) / "small")
    send(folder)
    with open(folder / "ledger.jsonl", "a") as file:
        file.write("two\n")
    fetch(folder, checkpoints=True)
    assert (folder / "ledger.jsonl").read_text() == "one\ntwo\n"
    checkpoint(folder)
    remote().write("small/ledger.jsonl", b"one\ntwo\nthree\n")
    fetch(folder, checkpoints=True)
    assert (folder / "ledger.jsonl").read_text() == "one\ntwo\nthree\n"
    assert not (folder / "trials").exists(), "it belongs to what is no longer so"
    remote().write("small/ledger.jsonl", b"one\nanother\n")
    with pytest.raises(ConfigError, match=r"went on there and, apart from that, in '.*'; delete that folder"):
        fetch(folder, checkpoints=True)


# -- whose it is -------------------------------------------------------------------------------------------------------


def test_a_lock_is_taken_once_and_again_when_it_is_stale_or_its_process_is_gone(store: Any) -> None:
    first, second = remote(), remote()
    first.take("small")
    with pytest.raises(ConfigError, match="another process is running this sweep"):
        second.take("small")
    first.take("small")
    here = {"id": "x", "host": socket.gethostname(), "pid": 2**22 + 1, "at": time.time()}
    for lock in ({**here}, here | {"host": "elsewhere", "at": time.time() - STALE - 1}, {}):
        first.write(f"small/{LOCK}", json.dumps(lock).encode())
        second.take("small")
        assert first.lost("small")
        assert not second.lost("small")
    first.leave("small")
    assert second.read(f"small/{LOCK}"), "it is not the first one's to give back"
    second.leave("small")
    assert second.read(f"small/{LOCK}") is None


def test_a_driver_that_was_taken_over_sends_nothing_more(store: Any) -> None:
    folder = begin(output_of(URL) / "small")
    one = remote()
    one.take("small")
    mirror = Mirror(folder, one)
    wait_until(lambda: "ledger.jsonl" in there())
    remote().write(f"small/{LOCK}", json.dumps({"id": "x", "host": "elsewhere", "at": time.time()}).encode())
    (folder / "report.md").write_text("mine")
    assert mirror.finish(timeout=30) == "another driver has taken the sweep over; nothing more was sent"
    assert "report.md" not in there()


def test_a_lock_that_is_gone_is_no_longer_ours(store: Any) -> None:
    one = remote()
    one.take("small")
    one.delete(f"small/{LOCK}")
    assert one.lost("small"), "who took the sweep over may have finished it"


def test_a_folder_that_goes_away_takes_nothing_with_it(store: Any) -> None:
    folder = begin(output_of(URL) / "small")
    assert not send(folder)
    before = there()
    one = remote()
    one.take("small")
    mirror = Mirror(folder, one)
    shutil.rmtree(folder)
    assert "not there" in mirror.finish(timeout=30) or there() == before
    assert there() == before


def test_names_in_a_store_lead_nowhere_else(store: Any) -> None:
    folder = begin(output_of(URL) / "small")
    assert not send(folder)
    for name in ("small/../../escaped.txt", "small//root.txt", "small/.hidden.json"):
        remote().write(name, b"x")
    assert set(remote().names("small")) == {"sweep.json", "ledger.jsonl"}


def test_the_lock_is_given_back_however_the_sweep_ends(store: Any) -> None:
    folder = output_of(URL) / "small"
    said: list[str] = []

    def fails() -> None:
        with mirrored(folder, said.append):
            begin(folder)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert said == [f"everything is at {URL}/small"]
    assert there() == {"sweep.json", "ledger.jsonl"}
    remote().take("small")


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://no-such-bucket/runs", "s3://no-such-bucket/runs: 1 problem --output: there is no such bucket or folder"),
        ("s3://me:password@sweeps/runs", "'s3://***@sweeps/runs' holds credentials; leave them to the environment"),
        ("gs://sweeps/runs", "--output: needs a package that is not installed: pip install 'unlearn-sweep[gs]'"),
        ("nonsense://sweeps/runs", "Protocol not known: nonsense; write s3://, gs:// or a folder"),
    ],
)
def test_a_url_that_cannot_be_written_is_told_before_anything_runs(url: str, message: str, cli: Cli) -> None:
    code, out, err = cli("run", "smoke", "--output", url)
    assert (code, out) == (2, "")
    assert message in err
    assert "password" not in err.replace("***", "")


def test_without_credentials_there_is_one_clear_message(
    store: Any, cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    code, _, err = cli("run", "smoke", "--output", URL)
    assert code == 2
    assert f"{URL}: 1 problem --output: " in err
    assert "credentials" in err


def test_a_url_without_a_run_folder_is_told(store: Any, cli: Cli) -> None:
    code, _, err = cli("report", f"{URL}/nothing")
    assert code == 2
    assert f"{URL}/nothing: 1 problem not a run folder: no sweep.json in it" in err


def test_a_folder_is_a_folder(tmp_path: Path) -> None:
    assert output_of("runs") == Path("runs")
    assert folder_of(str(tmp_path)) == tmp_path
    assert shown(tmp_path) == str(tmp_path)
    with mirrored(tmp_path, lambda line: pytest.fail(line)):
        pass
