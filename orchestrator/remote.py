"""Run folders in an object store (`s3://`, `gs://`, any URL that fsspec knows): what is there, and whose it is.

Object stores can neither append nor lock, so a driver works in a folder of this machine, and `orchestrator/mirror.py`
copies what changes. That folder remembers its URL: whatever is told the folder works on the URL too. Credentials come
from the environment alone, as the store's own tools take them, and are never written down.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from orchestrator.ledger import write_atomically
from orchestrator.problems import ConfigError, Problem
from orchestrator.redaction import redacted, secret_in
from trials.checkpoints import SUMS
from trials.identity import cache_folder, digest

LOCK, STALE = "driver.lock", 180.0
"""The object that says who runs a sweep; seconds after which one that is not refreshed says nothing any more."""

_URL = ".url"
_EXTRA = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}
_SENT = ".sent.json"


@dataclass
class Remote:
    """The folder of run folders at a URL.

    Attributes:
        url: As it was given, without a slash at its end.
        fs: The file system.
        root: What it calls the folder.
    """

    url: str
    fs: Any
    root: str
    _id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def names(self, run: str) -> dict[str, int]:
        """Name in the run folder -> bytes, of all its objects but the lock."""
        place, found = f"{self.root}/{run}/", {}
        for path, about in self.fs.find(f"{self.root}/{run}", detail=True).items():
            name = path.removeprefix(place)
            # Files inside only: an object's name may hold `..` or begin with `/`. Hidden ones are never sent.
            if name != LOCK and all(part and part[0] != "." for part in name.split("/")):
                found[name] = int(about["size"] or 0)
        return found

    def read(self, name: str) -> bytes | None:
        """An object; None where there is none."""
        try:
            return bytes(self.fs.cat_file(f"{self.root}/{name}"))
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        """Writes an object, over what is there."""
        self.fs.pipe_file(f"{self.root}/{name}", data)

    def upload(self, file: Path, name: str) -> None:
        """Copies a file there: whole or not at all, where the store makes objects visible once they are whole."""
        self.fs.put_file(str(file), f"{self.root}/{name}")

    def download(self, name: str, file: Path) -> None:
        """Copies an object here: whole or not at all."""
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f".{file.name}.part")
        self.fs.get_file(f"{self.root}/{name}", str(part))
        os.replace(part, file)

    def delete(self, name: str) -> None:
        """Deletes an object, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(f"{self.root}/{name}")

    # -- whose it is -------------------------------------------------------------------------------------------------

    def take(self, run: str) -> None:
        """Takes the lock of a run folder; the first thing that is written there.

        Raises:
            ConfigError: Another driver has it, or the store cannot be written.
        """
        with _told(self.url, "--output"):
            self._refuse_other(run)
            try:
                self.refresh(run, mode="create" if self.read(f"{run}/{LOCK}") is None else "overwrite")
            except OSError:
                self._refuse_other(run)  # of two at once, the store lets one create it
                raise
            self._refuse_other(run)

    def refresh(self, run: str, mode: Literal["create", "overwrite"] = "overwrite") -> None:
        """Says that this driver is at work still."""
        mine = {"id": self._id, "host": socket.gethostname(), "pid": os.getpid(), "at": time.time()}
        self.fs.pipe_file(f"{self.root}/{run}/{LOCK}", json.dumps(mine).encode(), mode=mode)

    def lost(self, run: str) -> bool:
        """Whether the run folder is no longer this driver's: it was silent for too long, and another took it."""
        return bool(self._lock(run).get("id") != self._id)

    def leave(self, run: str) -> None:
        """Gives the lock back."""
        if not self.lost(run):
            self.delete(f"{run}/{LOCK}")

    def _lock(self, run: str) -> dict[str, Any]:
        try:
            there = json.loads(self.read(f"{run}/{LOCK}") or b"{}")
        except ValueError:
            return {}
        return there if isinstance(there, dict) else {}

    def _refuse_other(self, run: str) -> None:
        there = self._lock(run)
        if there.get("id", self._id) == self._id or time.time() - float(there.get("at", 0)) > STALE:
            return
        if there.get("host") == socket.gethostname() and not _runs(int(there.get("pid", 0))):
            return
        who = f"process {there.get('pid')} of {there.get('host')}"
        rest = f"wait for it or give `name` another value; if it has died, wait {STALE / 60:.0f} minutes"
        raise ConfigError(f"{self.url}/{run}", [Problem("", f"another process is running this sweep ({who}); {rest}")])


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:  # another user's process may not be sent anything
        return not isinstance(error, ProcessLookupError)
    return True


# -- from URL to folder and back ---------------------------------------------------------------------------------------


def is_url(text: str) -> bool:
    """Whether an output is a URL and not a folder."""
    return "://" in text


def output_of(text: str) -> Path:
    """The folder of run folders that is meant: for a URL the one on this machine that stands for it.

    Raises:
        ConfigError: A URL that holds a password, or that nothing here can open.
    """
    if not is_url(text):
        return Path(text)
    url = text.rstrip("/")
    if secret_in(url) or "@" in url.partition("://")[2].partition("/")[0]:
        told = "holds credentials; leave them to the environment, as in AWS_ACCESS_KEY_ID or AWS_PROFILE"
        raise ConfigError("--output", [Problem("", f"{redacted(url)!r} {told}")])
    _open(url)
    folder = cache_folder() / "mirrors" / digest({"url": url})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _URL).write_text(url, encoding="utf-8")
    return folder


def folder_of(text: str) -> Path:
    """The run folder that is meant; that of a URL is fetched, without checkpoints.

    Raises:
        ConfigError: As `output_of`, or there is no run folder at the URL.
    """
    if not is_url(text):
        return Path(text)
    url, _, name = text.rstrip("/").rpartition("/")
    folder = output_of(url) / name
    fetch(folder, checkpoints=False)
    return folder


def remote_of(output: Path) -> Remote | None:
    """What a folder of run folders stands for; None where it is a folder like any other."""
    file = output / _URL
    return _open(file.read_text(encoding="utf-8")) if file.is_file() else None


def shown(folder: Path) -> str:
    """What a run folder is called: its URL, where it stands for one."""
    file = folder.parent / _URL
    return f"{file.read_text(encoding='utf-8')}/{folder.name}" if file.is_file() else str(folder)


def fetch(folder: Path, *, checkpoints: bool | str, begun: bool = True) -> None:
    """Brings the copy of a run folder up to date with its URL; one that is ahead, as after a crash, stays ahead.

    Args:
        folder: The run folder of this machine.
        checkpoints: Those too, or those of one trial; only whole ones.
        begun: Whether there must be something already.

    Raises:
        ConfigError: There is no run folder at the URL, or the two were continued apart.
    """
    remote = remote_of(folder.parent)
    if remote is None:
        return
    url, run = shown(folder), folder.name
    with _told(url, ""):
        names = remote.names(run)
        if begun and "sweep.json" not in names and not (folder / "sweep.json").exists():
            raise ConfigError(url, [Problem("", "not a run folder: no sweep.json in it; give one that `run` wrote")])
        theirs = remote.read(f"{run}/ledger.jsonl") or b""
        ours = (folder / "ledger.jsonl").read_bytes() if (folder / "ledger.jsonl").exists() else b""
        if theirs.startswith(ours) and theirs != ours:
            shutil.rmtree(folder, ignore_errors=True)  # what is here is older, checkpoints too: another machine went on
        elif not ours.startswith(theirs):
            apart = f"went on there and, apart from that, in {str(folder)!r}; delete that folder to go on from the URL"
            raise ConfigError(url, [Problem("", apart)])
        sent = sent_of(folder)
        for name in sorted(names, key=lambda name: (name != "sweep.json", name)):
            if _wanted(name, names, checkpoints) and not (folder / name).exists():
                remote.download(f"{run}/{name}", folder / name)
                sent[name] = state_of(folder / name)
        if names:
            note_sent(folder, sent)


State = tuple[int, int]
"""Size and time of a file."""


def state_of(file: Path) -> State:
    """By what it is told that a file was written since it was sent."""
    about = file.stat()
    return about.st_size, about.st_mtime_ns


def sent_of(folder: Path) -> dict[str, State]:
    """Name -> state of the files of a run folder that are at its URL as they are here."""
    try:
        found = json.loads((folder / _SENT).read_bytes())
        return {str(name): (int(size), int(time)) for name, (size, time) in found.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}  # they are sent again


def note_sent(folder: Path, sent: dict[str, State]) -> None:
    """Notes what `sent_of` says."""
    write_atomically(folder / _SENT, json.dumps(sent))


def _wanted(name: str, names: dict[str, int], checkpoints: bool | str) -> bool:
    parts = name.split("/")
    if parts[0] != "trials" or "checkpoint" not in parts[2:3]:
        return True
    if len(parts) > 4 and parts[3].isdecimal() and "/".join([*parts[:4], SUMS]) not in names:
        return False  # half of it: its upload was cut short
    return checkpoints if isinstance(checkpoints, bool) else parts[1] == checkpoints


# -- errors ------------------------------------------------------------------------------------------------------------


def _open(url: str) -> Remote:
    import fsspec

    with _told(url, "--output"):
        local = {"auto_mkdir": True} if url.startswith("file:") else {}
        fs, root = fsspec.core.url_to_fs(url, use_listings_cache=False, skip_instance_cache=True, **local)
    return Remote(url, fs, root.rstrip("/"))


@contextlib.contextmanager
def _told(url: str, place: str) -> Iterator[None]:
    """Turns what a store raises into an error that names the URL and the remedy."""
    scheme = url.partition("://")[0]
    try:
        yield
    except ConfigError:
        raise
    except ImportError as error:
        remedy = f"pip install 'unlearn-sweep[{_EXTRA[scheme]}]'" if scheme in _EXTRA else str(error)
        why = f"needs a package that is not installed: {remedy}"
    except FileNotFoundError:
        why = "there is no such bucket or folder; make it, or correct the URL"
    except PermissionError:
        why = "access is denied; are the credentials in the environment those of somebody who may write there?"
    except Exception as error:  # each store has errors of its own
        said = " ".join(redacted(str(error)).split()) or type(error).__name__
        known = "Protocol not known" in said
        remedy = "write s3://, gs:// or a folder" if known else "are address and credentials in the environment right?"
        why = f"{said[:300]}; {remedy}"
    else:
        return
    raise ConfigError(url, [Problem(place, why)]) from None
