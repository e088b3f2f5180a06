"""Fixtures shared by the tests; one thread, so that timings and sums are alike everywhere."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported, so it comes first
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["RAY_AUTH_MODE"] = "disabled"  # Ray reads it once in a process: a token of this user's would come too late

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rows import authors, rich, write


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Models that tests train go here, never to the user's cache."""
    folder = tmp_path_factory.mktemp("cäche of 'tests'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNLEARN_SWEEP_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def tofu() -> Path:
    """The folder of TOFU's files: UNLEARN_SWEEP_TOFU, or ../shared/data/tofu beside the repository."""
    named = os.environ.get("UNLEARN_SWEEP_TOFU")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "data" / "tofu"
    if not folder.is_dir():
        pytest.skip("no TOFU files here; set UNLEARN_SWEEP_TOFU to a folder with forget01.jsonl and so on")
    return folder


@pytest.fixture
def tofu_folder(tmp_path: Path) -> Path:
    """A small TOFU: 2 forget authors and 6 retain authors, in a folder with a hostile name."""
    place = tmp_path / "tofu 'daten' \"ü\" 東京 [x]"
    place.mkdir()
    files = {
        "forget05": authors(6, 7),
        "forget05_perturbed": rich(authors(6, 7)),
        "retain95": authors(0, 1, 2, 3, 4, 5),
        "retain_perturbed": rich(authors(0)),
        "holdout05": authors(8),
        "world_facts_perturbed": rich([{"question": "Where is Paris?", "answer": "France"}], wrong=3),
    }
    write(place, files, zipped=["retain95", "forget05_perturbed"])
    return place


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random Llama with its tokenizer, in a folder with a hostile name."""
    from tests import tiny  # slow to import, and most tests need no model

    return tiny.saved_model(tmp_path_factory.mktemp("mein 'modell' 東京"))


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """The command line, in an empty folder."""
    from tests.runs import Cli  # it imports torch, and most tests need no model

    place = tmp_path / 'it\'s "hier" & [b] 日本'
    place.mkdir()
    monkeypatch.chdir(place)
    return Cli(monkeypatch, capsys)
