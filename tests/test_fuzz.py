"""A thousand sweep files as they should not be: each is refused in plain words, at once, with nothing written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import main
from orchestrator.problems import ConfigError
from orchestrator.rehearsal import recordings
from tests.mutations import mutated

BLOCK, SECONDS = 50, 2.0


class TooSlow(Exception):
    """A file took more than two seconds of this process's own time, however busy the machine is."""


def _no_curves(*_: Any) -> None:
    raise ConfigError("curves", [])


@pytest.fixture
def _hurried() -> Iterator[None]:
    def late(*_: Any) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGVTALRM, late)
    yield
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    signal.signal(signal.SIGVTALRM, before)


@pytest.mark.parametrize("block", range(1000 // BLOCK))
@pytest.mark.usefixtures("_hurried")
def test_a_file_with_nonsense_in_it_is_refused_in_plain_words(
    block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(recordings, "found_curves", _no_curves)  # what a sound file would be simulated on, in seconds
    wrong = {}
    for number in range(block * BLOCK, (block + 1) * BLOCK):
        data, settings = mutated(number)
        (tmp_path / "sweep.yaml").write_bytes(data)
        words = [word for setting in settings for word in ("--set", setting)]
        monkeypatch.setattr(sys, "argv", ["unlearn-sweep", "plan", "sweep.yaml", *words])
        signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
        try:
            main()
        except SystemExit as ended:
            said = capsys.readouterr()
            fault = _fault(ended.code, said.out, said.err)
        except BaseException as error:
            fault = repr(error)[:300]
        else:
            fault = "did not end"
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        left = [path.name for path in tmp_path.iterdir() if path.name != "sweep.yaml"]
        if fault or left:
            wrong[number] = fault or f"left {left}"
    assert wrong == {}


def _fault(code: Any, out: str, err: str) -> str:
    if code in (0, None):
        return ""  # the mutation did no harm
    lines = err.splitlines()
    if code != 2 or "Traceback" in err or out:
        return f"exit code {code}: {err[-200:]}"
    if "problem" not in lines[0] or len(lines) < 2 or any(not line.startswith("  ") for line in lines[1:]):
        return f"not one message: {err[:200]}"
    if not all(line.isprintable() and len(line) < 2000 for line in lines):
        return f"not for a terminal: {err[:200]!r}"
    return ""


@pytest.mark.parametrize("number", [3, 141, 592, 653])
def test_the_real_command_refuses_it_too(number: int, tmp_path: Path) -> None:
    data, _ = next(
        each for each in map(mutated, range(number, number + 1000)) if b"pwned" in each[0] or b"\0" in each[0]
    )
    (tmp_path / "sweep.yaml").write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator.cli", "run", "sweep.yaml"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("sweep.yaml: ")
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.yaml"]
