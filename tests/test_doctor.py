"""What `doctor` finds: by facts made up, and on this machine and a Ray of its own as they are."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator.doctor import gather, look, show
from orchestrator.health import GB, Disk, Facts, Finding, Listener, Node, findings, is_loopback
from tests.runs import Cli

SOUND = Node(
    name="a",
    versions={"python": "3.11.7", "ray": "2.60.0"},
    torch_gpus=2,
    unwritable="",
    disks={"output": Disk("/runs", 90 * GB, 100 * GB)},
    shared_memory=8 * GB,
    open_files=65536,
    listeners=[Listener("raylet", "10.0.0.1", 7000, True), Listener("gcs_server", "127.0.0.1", 6379, False)],
    ray_gpus=2.0,
)


def facts(*nodes: Node, **changes: Any) -> Facts:
    return replace(Facts([SOUND, *nodes], "/runs", "http://mlflow", ""), **changes)


def worse(given: Facts) -> list[tuple[str, str, str]]:
    return [(found.level, found.what, found.words) for found in findings(given) if found.level != "ok"]


def test_a_sound_cluster_has_a_line_for_all_that_was_looked_at() -> None:
    found = findings(facts(replace(SOUND, name="b", skew=1.9), gpu=0.25))
    assert {each.level for each in found} == {"ok"}
    assert {each.what for each in found} == {
        *("versions", "GPUs", "output", "tracking", "doors", "clocks", "disk of output"),
        *("shared memory", "open files", "gpu of a trial"),
    }


ODD: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "version": ({"versions": {"python": "3.11.7"}}, "problem", "versions", "b has ray none (here 2.60.0); install the"),
    "no GPU": ({"torch_gpus": 0}, "problem", "GPUs", "b: Ray counts 2 GPUs and torch can use 0; check the driver"),
    "idle GPU": ({"ray_gpus": 1.0}, "warning", "GPUs", "b: Ray counts 1 of the 2 GPUs that torch can use; start Ray"),
    "read-only": (
        {"unwritable": "Permission denied"},
        "problem",
        "output",
        "b cannot write '/runs' (Permission denied)",
    ),
    "local": ({"seen": False}, "problem", "output", "what b writes into '/runs' is not seen here: a folder of its own"),
    "late": (
        {"skew": -2.5},
        "warning",
        "clocks",
        "the clock of b is 2.5 s behind: logs will not fit together; run NTP",
    ),
    "early": ({"skew": 60.0}, "warning", "clocks", "the clock of b is 60.0 s ahead"),
    "little": (
        {"disks": {"cache": Disk("/c", 5 * GB, 90 * GB)}},
        "warning",
        "disk of cache",
        "b: 5.0 GB free of 90 in",
    ),
    "nothing": ({"disks": {"output": Disk("/o", 0, 9 * GB)}}, "problem", "disk of output", "b: 0.0 GB free of 9 in"),
    "full": ({"disks": {"ray": Disk("/tmp", 40 * GB, 1000 * GB)}}, "problem", "disk of ray", "b: 40.0 GB free of 1000"),
    "shm": ({"shared_memory": GB // 16}, "warning", "shared memory", "b: 0.06 GB of /dev/shm; Ray falls back to the"),
    "files": ({"open_files": 1024}, "warning", "open files", "b: 1024 open files a process; `ulimit -n 65536`"),
    "open": (
        {"listeners": [Listener("ray dashboard", "0.0.0.0", 8265, False), Listener("gcs_server", "::", 6379, False)]},
        "problem",
        "doors",
        "b: listening without a token: ray dashboard on 0.0.0.0:8265, gcs_server on :::6379; whoever reaches them can",
    ),
    "unseen": (
        {"listeners": [Listener("raylet", "10.0.0.2", 7000, None)]},
        "warning",
        "doors",
        "b: listening with or without a token, which cannot be seen from here: raylet on 10.0.0.2:7000",
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_what_is_odd_on_one_node_is_told_with_its_remedy(name: str) -> None:
    changes, level, what, words = ODD[name]
    ((*found, said),) = worse(facts(replace(SOUND, name="b", **changes)))
    assert found == [level, what]
    assert said.startswith(words)


@pytest.mark.parametrize(
    ("gpu", "level", "words"),
    [
        (0.4, "warning", "0.4 leaves 0.2 of each GPU unused; 2 trials fit: write 0.5"),
        (0.3, "warning", "0.3 leaves 0.1 of each GPU unused; 3 trials fit: write 0.3333"),
        (1.5, "problem", "1.5: above 1 it must be a whole number; write 1 or more"),
    ],
)
def test_fractions_of_a_gpu_that_do_not_fit_are_told(gpu: float, level: str, words: str) -> None:
    assert worse(facts(gpu=gpu)) == [(level, "gpu of a trial", words)]


@pytest.mark.parametrize("gpu", [0.0, 0.1, 0.25, 0.33, 0.3333, 1 / 7, 0.5, 1.0, 4.0])
def test_fractions_of_a_gpu_that_fit_are_fine(gpu: float) -> None:
    assert worse(facts(gpu=gpu)) == []


def test_a_trial_on_a_gpu_where_there_is_none_a_store_that_is_away_and_a_silent_node_are_problems() -> None:
    bare = replace(SOUND, torch_gpus=0, ray_gpus=None)
    given = replace(facts(gpu=1.0, unreachable="it does not answer", silent={"c": "no torch"}), nodes=[bare])
    assert [found[:2] for found in worse(given)] == [("problem", "nodes"), ("problem", "GPUs"), ("problem", "tracking")]


def test_addresses_are_told_apart() -> None:
    assert [is_loopback(each) for each in ("127.0.0.1", "127.1.2.3", "::1", "localhost", "fe80::1%eth0")] == [
        *(True, True, True, True, False)
    ]
    assert not any(is_loopback(each) for each in ("0.0.0.0", "::", "10.0.0.1", "", "head-node"))


def test_the_exit_code_is_1_where_there_is_a_problem_and_no_secret_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefgh")
    page = io.StringIO()
    found = [Finding("ok", "a", "hf_abcdefgh [red]"), Finding("warning", "b", "x")]
    assert show(found, Console(file=page)) == 0
    assert show([*found, Finding("problem", "c", "y")], Console(file=page)) == 1
    assert "*** [red]" in page.getvalue()


def test_this_machine_is_looked_over_and_nothing_is_left(tmp_path: Path) -> None:
    found = gather(tmp_path, uri=None, gpu=0.0, address=None)
    (node,) = found.nodes
    assert node.versions["unlearn-sweep"]
    assert node.versions["ray"].startswith("2.60")
    assert (node.unwritable, node.skew, found.silent) == ("", 0.0, {})
    assert all(disk.total > 0 for disk in node.disks.values())
    assert list(tmp_path.iterdir()) == []


def test_an_output_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    assert look(str(tmp_path / "a" / "b"), "mark", "here").unwritable == ""
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    assert look(str(tmp_path / "file"), "mark", "here").unwritable == "Not a directory"


def test_a_cluster_that_is_not_there_is_bad_input(cli: Cli) -> None:
    code, out, err = cli("doctor", "nonsense")
    assert (code, out) == (2, "")
    assert "no such file" in err


@pytest.fixture
def own_ray(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    import ray

    monkeypatch.setenv("RAY_ADDRESS", "")
    ray.init(address="local", num_cpus=1, num_gpus=2, include_dashboard=False, log_to_driver=False)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.mark.ray
def test_the_nodes_of_a_ray_are_asked(own_ray: str, tmp_path: Path) -> None:
    found = gather(tmp_path, uri=None, gpu=0.5, address=own_ray)
    assert found.silent == {}
    (node,) = found.nodes
    assert (node.ray_gpus, node.seen, node.unwritable) == (2.0, True, "")
    assert abs(node.skew) < 1
    assert node.listeners
    said = {(each.level, each.what) for each in findings(found)}
    assert {("problem", "GPUs"), ("ok", "output"), ("ok", "versions"), ("ok", "clocks")} <= said
    assert list(tmp_path.iterdir()) == []
