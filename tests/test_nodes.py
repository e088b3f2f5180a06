"""A sweep on nodes that share no disk with the driver but the run folder: what they read reaches each of them once."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from orchestrator.ledger import read_records
from tests import clusters, tiny
from tests.clusters import cluster, cluster_sweep
from trials.config import ModelConfig

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


def delivered(folder: Path) -> Counter[tuple[str, str]]:
    """(What, to where) -> how often the trials' logs tell of it."""
    found = Counter[tuple[str, str]]()
    for log in folder.glob("trials/*/log.txt"):
        found.update(re.findall(r"delivered (.*): .* MB in .* s, to (.*)\n", log.read_text(encoding="utf-8")))
    return found


def by_node(folder: Path) -> dict[str, list[str]]:
    """Ray's id of a node -> the trials that ran there."""
    nodes = sorted(clusters.nodes_of(folder))
    return {node: [t.name for t in folder.glob("trials/*") if clusters.node_of(t) == node] for node in nodes}


def test_files_of_the_driver_reach_each_node_once(tmp_path: Path, tofu_folder: Path) -> None:
    home = tmp_path / "driver's home"
    home.mkdir()
    shutil.copytree(tofu_folder, home / "tofu")
    model = tiny.saved_model(home / "model")
    sweep = cluster_sweep(
        budget={"trials": 10, "concurrent": 4},
        trial={
            "epochs": 8,
            "benchmark": {"type": "tofu", "path": "~/tofu", "split": "forget05", "retain_eval": 20},
            "model": {"path": "~/model"},
        },
    )
    with cluster(tmp_path, nodes=0, seconds=0.2) as here:
        for name in ("one", "two"):
            here.add_node(HOME=str(tmp_path / name), UNLEARN_SWEEP_CACHE=str(tmp_path / name / "cache"))
        driver = here.start_driver(sweep, "reads_its_files", HOME=str(home))
        assert driver.wait(240) == 0, here.said()[-3000:]
    folder = tmp_path / "small"
    assert clusters.wrong_states(folder, sweep) == []
    assert len(by_node(folder)) == 2
    assert set(delivered(folder).values()) == {1}
    assert Counter(what for what, _ in delivered(folder)) == {"benchmark.path": 2, "model.path": 2}
    found = {place.name: json.loads((place / "files.json").read_text()) for place in folder.glob("trials/*")}
    for trials in by_node(folder).values():
        assert len({tuple(found[trial]) for trial in trials}) == 1, "all trials of a node read the same copy"
    files = (home / "tofu" / "forget05.jsonl", model / "model.safetensors")
    there = {hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    assert all(set(each.values()) == there for each in found.values())
    told = json.loads((folder / "trials" / "00003" / "trial.json").read_text())
    assert told["model"]["path"] == "~/model", "the record is of the sweep file"
    assert told["benchmark"]["path"] == "~/tofu"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("adapter", "resources"),
    [({"type": "none"}, {"cpu": 2}), ({"type": "lora", "rank": 2}, {"cpu": 2, "gpu": 1, "pack": 2})],
    ids=["one by one", "packed"],
)
def test_the_tiny_model_and_its_logs_that_the_driver_made_are_used_on_every_node(
    adapter: dict[str, Any], resources: dict[str, Any], tmp_path: Path
) -> None:
    model = {"tiny": tiny.TINY, "device": "cpu", "adapter": adapter}
    trial = tiny.trial(tmp_path, model=ModelConfig.model_validate(model).model_dump(mode="json"))
    sweep = cluster_sweep(
        budget={"trials": 4, "concurrent": 4},
        trial=trial.model_dump(mode="json"),
        space={"optim.lr": {"choice": [1e-3, 2e-3, 3e-3, 4e-3]}},
        sampler={"type": "grid"},
        baselines=[],
        resources=resources,
    )
    with cluster(tmp_path, nodes=0) as here:
        for name in ("one", "two"):
            here.add_node(UNLEARN_SWEEP_CACHE=str(tmp_path / name))
        driver = here.start_driver(sweep, "", UNLEARN_SWEEP_CACHE=str(tmp_path / "driver"))
        assert driver.wait(240) == 0, here.said()[-3000:]
    folder = tmp_path / "small"
    assert {record.state for record in read_records(folder)} == {"COMPLETE"}
    assert len(by_node(folder)) == 2
    assert set(delivered(folder).values()) == {1}
    assert len(delivered(folder)) == 2
    mine = {file.relative_to(tmp_path / "driver"): file.read_bytes() for file in (tmp_path / "driver").rglob("*.*")}
    for name in ("one", "two"):
        assert [each.name for each in (tmp_path / name).iterdir()] == ["delivered"], "no node trained one of its own"
        [place] = [each for each in (tmp_path / name / "delivered").iterdir() if each.is_dir()]
        assert {file.relative_to(place): file.read_bytes() for file in place.rglob("*.*")} == mine
