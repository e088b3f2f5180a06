"""TOFU from the hub, through a fake and through a local dataset, and the real files where they are at hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from tests.rows import Rows, assert_disjoint, authors, config, fake_hub, refused, rich, sizes
from trials.benchmarks import load_benchmark
from trials.config import TofuConfig

# -- the hub -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Rows] | Exception], list[tuple[str, str, str]]]:
    """A hub that has some configurations, each with the split `train`; returns the calls that it sees."""

    def install(files: dict[str, Rows] | Exception) -> list[tuple[str, str, str]]:
        sets = files if isinstance(files, Exception) else {(name, "train"): rows for name, rows in files.items()}
        return fake_hub(monkeypatch, sets)

    return install


def test_without_a_path_the_rows_come_from_the_hub_by_configuration_and_split(hub: Any, tofu_folder: Path) -> None:
    files = {
        "forget05_perturbed": rich(authors(6, 7)),
        "retain95": authors(0, 1, 2, 3, 4, 5),
        "retain_perturbed": rich(authors(0)),
        "holdout05": authors(8),
        "world_facts_perturbed": rich([{"question": "Where is Paris?", "answer": "France"}], wrong=3),
    }
    calls = hub(files)
    setting = TofuConfig(hub="someone/TOFU", split="forget05", retain_eval=40)
    benchmark = load_benchmark(setting)
    names = [*files, "real_authors_perturbed"]  # which it lacks, as the folder does
    assert sorted(calls) == sorted(("someone/TOFU", name, "train") for name in names)
    assert benchmark.digest() == load_benchmark(config(tofu_folder)).digest()


def test_an_empty_configuration_of_the_hub_is_an_error_of_its_setting(hub: Any) -> None:
    hub({"forget05": authors(6), "retain95": []})
    refused(TofuConfig(split="forget05"), "retain_split", "retain95/train has no rows; a set that is named must have")


def test_a_configuration_that_the_hub_lacks_is_an_error_of_its_setting(hub: Any) -> None:
    hub({"retain95": authors(0, 1)})
    refused(
        TofuConfig(split="forget05"),
        "split",
        r"'locuslab/TOFU' has no forget05/train .*; correct the split or set path",
    )


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("Couldn't reach 'locuslab/TOFU' on the Hub (LocalEntryNotFoundError)"),
        OSError("offline mode is enabled"),
        datasets.exceptions.DatasetNotFoundError("Dataset 'locuslab/TOFU' doesn't exist on the Hub"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_being_offline_is_one_error_with_the_remedy(hub: Any, error: Exception) -> None:
    hub(error)
    refused(
        TofuConfig(),
        "hub",
        rf"'locuslab/TOFU' could not be fetched \({type(error).__name__}: .*\); go online or set path to a folder",
    )


def test_a_configuration_that_is_optional_may_be_missing_on_the_hub_too(hub: Any) -> None:
    hub({"forget05": authors(6, 7), "retain95": authors(0, 1)})
    benchmark = load_benchmark(TofuConfig(split="forget05", retain_eval=20))
    assert sizes(benchmark) == [40, 20, 20, 0, 0, 0]


@pytest.fixture
def datasets_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What datasets makes of files goes to a folder of the test, and nothing is fetched."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.mark.usefixtures("datasets_cache")
def test_the_hub_itself_when_offline_is_one_error_with_the_remedy() -> None:
    refused(TofuConfig(hub="nobody/no-such-TOFU"), "hub", "could not be fetched .*; go online or set path to a folder")


@pytest.mark.usefixtures("datasets_cache")
def test_a_real_datasets_folder_stands_in_for_the_hub(tofu_folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "ein hub"
    place.mkdir()
    names = ("forget05_perturbed", "retain95", "retain_perturbed", "holdout05", "world_facts_perturbed")
    for file in tofu_folder.iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    configs = [
        {"config_name": name, "data_files": next(f.name for f in place.glob(f"{name}.jsonl*"))} for name in names
    ]
    (place / "README.md").write_text(f"---\nconfigs: {json.dumps(configs)}\n---\n", encoding="utf-8")
    benchmark = load_benchmark(TofuConfig(hub=str(place), split="forget05", retain_eval=40))
    assert benchmark.digest() == load_benchmark(config(tofu_folder)).digest()
    refused(TofuConfig(hub=str(place), split="forget01"), "split", "has no forget01/train")


# -- the real files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "forget"), [("01", 40), ("05", 200), ("10", 400)])
def test_all_of_tofu_has_the_published_sizes(tofu: Path, share: str, forget: int) -> None:
    benchmark = load_benchmark(TofuConfig(path=str(tofu), split=f"forget{share}"))
    assert sizes(benchmark) == [forget, 4000 - forget - 400, 400, 0, forget, 117]
    assert len(benchmark.real_authors) == 100
    assert len({(row.question, row.answer) for row in (*benchmark.forget, *benchmark.kept)}) == 4000 + 117 + 100
    assert_disjoint(benchmark)
    for row in (*benchmark.forget, *benchmark.retain):
        assert row.paraphrased_question
        assert row.paraphrased_answer
        assert len(row.perturbed_answer) == 5
    assert {len(row.perturbed_answer) for row in (*benchmark.general, *benchmark.real_authors)} == {3}


@pytest.mark.parametrize(("share", "forget"), [("01", 2), ("05", 10), ("10", 20)])
def test_a_subset_of_tofu_has_the_authors_asked_for(tofu: Path, share: str, forget: int) -> None:
    setting = TofuConfig(path=str(tofu), split=f"forget{share}", authors=forget + 8, retain_eval=60, retain_pool=40)
    benchmark = load_benchmark(setting)
    assert sizes(benchmark) == [20 * forget, 40, 60, 60, 20 * forget, 117]
    assert_disjoint(benchmark)


def test_the_forget_sets_of_tofu_nest(tofu: Path) -> None:
    small, middle, large = (
        load_benchmark(TofuConfig(path=str(tofu), split=f"forget{share}")).forget for share in ("01", "05", "10")
    )
    assert large[200:] == middle
    assert middle[160:] == small
