"""What a person sees who opens the links: MLflow may change its pages, and a link into them then rots."""

import base64
import html
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient

from orchestrator.events import Anchor, Ended, Epoch, Suggested, SweepInfo
from orchestrator.ledger import Ledger
from orchestrator.tracking.tracker import sync
from orchestrator.tracking.uri import resolve_uri
from tests.sweeps import write_info

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(180),
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]
PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
SERVE = """
import sys
from pathlib import Path
from orchestrator.tracking.ui import serve_ui
sys.exit(serve_ui(Path(sys.argv[1]), int(sys.argv[2])))
"""


@dataclass(frozen=True)
class Served:
    base: str
    folder: Path
    links: dict[str, str]
    process: subprocess.Popen[str]


def a_swept_folder(output: Path) -> Path:
    """Three trials, of which 0 and 1 are the front, two further seeds of trial 1, and the retain model."""
    folder = output / "criteria"
    (folder / "figures").mkdir(parents=True)
    (folder / "figures" / "front.png").write_bytes(PICTURE)
    (folder / "report.html").write_text("<h1>What the report says</h1>", encoding="utf-8")
    write_info(folder, name="criteria", benchmark="tofu forget10")
    info = SweepInfo.read(folder).model_copy(update={"config": {"confirm": {"seeds": 2}, "trial": {"epochs": 2}}})
    (folder / "sweep.json").write_text(info.model_dump_json(), encoding="utf-8")
    ledger = Ledger(folder)
    ledger.append(
        Anchor(name="retain", metrics={"forget.extraction_strength": 0.3, "retain.extraction_strength": 0.95})
    )
    trials = [("npo", 0.1, 0.5, None), (None, 0.4, 0.9, None), ("dominated", 0.5, 0.4, None)]
    trials += [(None, 0.6, 0.8, "00001"), (None, 0.8, 0.8, "00001")]
    for number, (label, forget, retain, of) in enumerate(trials):
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
                of=of,
                origin="confirm" if of else "search",
            )
        )
        for epoch in (1, 2):
            metrics = {"forget.extraction_strength": forget / epoch, "retain.extraction_strength": retain}
            metrics |= {"system.cpu_seconds": 0.5}
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


def test_the_table_shows_trials_and_models_by_the_first_objective_and_the_tags_that_filter(
    served: Served, tmp_path: Path
) -> None:
    names = ["00000 npo", "00001", "00002 dominated", "retain model"]
    texts = [*names, "forget/extraction_strength", "retain/extraction_strength", "front", "state", "criteria: trials"]
    found = page(served.links["all trials"], tmp_path / "profile", texts)
    places = [found.index(f">{name}<") for name in names]
    assert places == sorted(places), "sorted by the first objective"
    assert "seed 3 of 00001" not in found


def test_the_charts_draw_objectives_against_each_other_and_metrics_by_epoch(served: Served, tmp_path: Path) -> None:
    texts = ["objectives", "forget/extraction_strength", "retain/extraction_strength", "Step", "retain model"]
    page(served.links["charts by epoch"], tmp_path / "profile", texts)


def test_the_comparison_shows_the_front_and_only_the_front(served: Served, tmp_path: Path) -> None:
    texts = ["Comparing 2 Runs", "Parallel Coordinates", "00000 npo", "00001", "optim.lr"]
    found = page(served.links["front compared"], tmp_path / "profile", texts)
    assert "dominated" not in found


def test_seeds_are_grouped_by_the_trial_that_they_repeat(served: Served, tmp_path: Path) -> None:
    found = page(served.links["seeds"], tmp_path / "profile", ["Group: ", "00003 seed 3 of 00001", "00004 seed 4"])
    assert "00000 npo" not in found


def test_the_page_of_the_sweep_describes_it_with_the_picture_of_its_front(served: Served, tmp_path: Path) -> None:
    found = page(served.links["sweep"], tmp_path / "profile", ["criteria", "hypervolume", "front_size", "<img"])
    (source,) = re.findall(r'<img[^>]* src="(get-artifact[^"]*)"', found)
    with urllib.request.urlopen(f"{served.base}/{source}", timeout=30.0) as picture:
        assert picture.read() == PICTURE
    assert "Written by unlearn-sweep" in found


def test_the_page_of_a_trial_lists_its_seeds(served: Served, tmp_path: Path) -> None:
    stored = MlflowClient(served.base)
    experiment = served.links["sweep"].partition("/experiments/")[2].partition("/")[0]
    (run,) = stored.search_runs([experiment], "tags.trial_id = '00001'")
    link = f"{served.base}/#/experiments/{experiment}/runs/{run.info.run_id}?workflowType=machine_learning"
    found = page(link, tmp_path / "profile", ["Child runs", "00003 seed 3 of 00001", "System metrics"])
    assert "confirmed.forget.extraction_strength.mean" in found


def test_a_sync_through_the_server_finds_everything_there(served: Served) -> None:
    result = sync(served.folder, served.base)
    assert (result.trials, result.sent) == (5, 0)


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
