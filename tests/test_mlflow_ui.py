"""What a person sees who opens the links: MLflow may change its pages, and a link into them then rots."""

import html
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.events import Ended, Epoch, Suggested
from orchestrator.ledger import Ledger
from orchestrator.tracking import sync
from orchestrator.tracking_uri import resolve_uri
from tests.sweeps import write_info

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(180),
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]
SERVE = """
import sys
from pathlib import Path
from orchestrator.ui import serve_ui
sys.exit(serve_ui(Path(sys.argv[1]), int(sys.argv[2])))
"""


@dataclass(frozen=True)
class Served:
    base: str
    folder: Path
    links: dict[str, str]
    process: subprocess.Popen[str]


def a_swept_folder(output: Path) -> Path:
    """Three trials, of which 0 and 1 are the front."""
    folder = output / "criteria"
    folder.mkdir()
    write_info(folder, name="criteria", benchmark="tofu forget10")
    ledger = Ledger(folder)
    for number, (label, forget, retain) in enumerate([("npo", 0.1, 0.5), (None, 0.4, 0.9), ("dominated", 0.5, 0.4)]):
        trial_id = f"{number:05d}"
        ledger.append(
            Suggested(
                trial_id=trial_id,
                number=number,
                label=label,
                params={},
                config={"optim": {"lr": 1e-5 * (number + 1)}},
                fingerprint="f",
                seed=number,
            )
        )
        for epoch in (1, 2):
            metrics = {"forget.extraction_strength": forget / epoch, "retain.extraction_strength": retain}
            ledger.append(Epoch(trial_id=trial_id, epoch=epoch, metrics=metrics, seconds=1.0))
        ledger.append(Ended(trial_id=trial_id, state="COMPLETE", epoch=2))
    ledger.close()
    return folder


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    output = tmp_path_factory.mktemp("it's ü")
    folder = a_swept_folder(output)
    sync(folder, resolve_uri(output, None))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    with subprocess.Popen(
        [sys.executable, "-c", SERVE, str(output), str(port)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        links: dict[str, str] = {}
        assert process.stdout is not None
        for line in process.stdout:
            name, _, link = line.strip().partition(": ")
            links[name] = link
            if name == "sweep":
                break
        try:
            yield Served(f"http://127.0.0.1:{port}", folder, links, process)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30.0)


def page(link: str, profile: Path, texts: list[str]) -> str:
    """The DOM of a page once its scripts have run; loaded again while a text is missing."""
    assert CHROMIUM is not None
    switches = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking"
    switches += " --disable-component-update --disable-sync --window-size=1700,1300"
    command = [CHROMIUM, *switches.split(), f"--user-data-dir={profile}"]
    found, missing = "", texts
    for _ in range(4):
        done = subprocess.run(
            [*command, "--virtual-time-budget=40000", "--dump-dom", link],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        found = html.unescape(done.stdout)
        missing = [text for text in texts if text not in found]
        if not missing:
            return found
    pytest.fail(f"{link} does not show {missing}")


def test_the_list_shows_every_trial_and_its_charts(served: Served, tmp_path: Path) -> None:
    names = ["00000 npo", "00001", "00002 dominated"]
    texts = [*names, "forget/extraction_strength", "retain/extraction_strength"]
    found = page(served.links["all trials"], tmp_path / "profile", texts)
    places = [found.index(f">{name}<") for name in names]
    assert places == sorted(places), "sorted by the first objective"


def test_the_comparison_shows_the_front_and_only_the_front(served: Served, tmp_path: Path) -> None:
    texts = ["Comparing 2 Runs", "Parallel Coordinates", "00000 npo", "00001", "optim.lr"]
    found = page(served.links["front compared"], tmp_path / "profile", texts)
    assert "dominated" not in found


def test_the_sweep_shows_how_its_front_grew(served: Served, tmp_path: Path) -> None:
    found = page(served.links["sweep"], tmp_path / "profile", ["criteria", "hypervolume", "front_size"])
    assert "trials_complete" in found


def test_a_sync_through_the_server_finds_everything_there(served: Served) -> None:
    result = sync(served.folder, served.base)
    assert (result.trials, result.sent) == (3, 0)


def test_the_ui_answers_on_this_machine_only_and_ends_when_told(served: Served) -> None:
    port = int(served.base.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=2.0):
        pass
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.2", port), timeout=2.0)
    served.process.send_signal(signal.SIGINT)
    assert served.process.wait(30.0) == 0
    deadline = time.monotonic() + 5.0
    while time.monotonic() < deadline and not _closed(port):
        time.sleep(0.1)
    assert _closed(port)


def _closed(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
