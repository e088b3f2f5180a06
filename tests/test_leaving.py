"""A node that is given notice, the loss of the head, and two sweeps at once, on a real Ray cluster of processes."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from orchestrator.config import SweepConfig
from orchestrator.events import Suggested
from orchestrator.ledger import read_records
from orchestrator.search.faults import LEAVING, node_of
from orchestrator.tracking.tracker import sync
from tests import clusters
from tests.clusters import cluster, cluster_sweep, ended, waited

FOUR = {"concurrent": 4}
"""Slots of two nodes: else a sweep counts those of nodes that have joined when it begins."""

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


@pytest.mark.parametrize("notice", ["drained", "terminated"])
def test_on_a_node_that_is_to_be_taken_away_trials_go_on_to_the_end_and_none_begins(
    tmp_path: Path, notice: str
) -> None:
    changes = {"budget": FOUR | {"trials": 12}, "resources": {"cpu": 1, "gpu": 0.25, "losses": 1, "retries": 0}}
    sweep, folder = cluster_sweep(**changes), tmp_path / "small"
    with cluster(tmp_path, nodes=1, seconds=0.05) as here:
        here.add_node(RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S="120")
        clusters.hold(folder, 0)
        driver = here.start_driver(sweep, "held")

        def stand(count: int) -> None:
            waited(lambda: len(clusters.held(folder)) >= count or driver.poll() is not None, f"{count} trials to wait")
            assert driver.poll() is None, here.said()[-3000:]

        stand(4)
        where = {trial: node_of(folder / "trials" / trial) for trial in clusters.held(folder)}
        leaving = next(where[trial] for trial in where if here.runs(clusters.running(folder)[trial]) == here.nodes[-1])
        there = sorted(trial for trial, node in where.items() if node == leaving)
        assert len(there) == 2
        if notice == "drained":
            here.drain_node(leaving, 120)
        else:  # as a machine that shuts down, or Kubernetes, does it
            here.nodes[-1].send_signal(signal.SIGTERM)
        clusters.hold(folder, int(there[1]))  # of the two, one ends; the other is still at it when the node goes
        waited(lambda: ended(folder) == int(there[1]), "the trials below it to end")
        waited(lambda: len(clusters.held(folder)) == 3, "new ones to begin on the other node, and there only")
        here.lose_node(here.nodes[-1])
        clusters.hold(folder, 99)
        assert driver.wait(240) == 0, here.said()[-3000:]
    found = {record.trial_id: record for record in read_records(folder)}
    assert len(found) == 12
    assert clusters.wrong_states(folder, sweep) == []
    assert {trial: record.resumed for trial, record in found.items() if record.resumed} == {there[1]: ("node",)}
    assert [trial.name for trial in folder.glob("trials/*") if node_of(trial) == leaving] == there[:1]
    assert any(LEAVING in log.read_text(encoding="utf-8") for log in folder.glob("trials/*/log.txt"))
    assert clusters.run_again(folder)[there[1]] <= 1


def test_after_the_loss_of_the_head_another_cluster_finishes_the_sweep(tmp_path: Path) -> None:
    sweep, folder = cluster_sweep(budget=FOUR | {"trials": 8}), tmp_path / "small"
    with cluster(tmp_path, nodes=2, seconds=0.05) as here:
        clusters.hold(folder, 0)
        here.start_driver(sweep, "held")
        waited(lambda: len(clusters.held(folder)) == 4, "trials to wait on both nodes")
        clusters.hold(folder, 2)
        waited(lambda: ended(folder) == 2 and len(clusters.held(folder)) == 4, "two to end and two more to wait")
        lost = set(clusters.held(folder))
        here.lose_head()
        here.add_node()
        here.add_node()
        clusters.hold(folder, 99)
        driver = here.start_driver(sweep, "held")
        assert driver.wait(240) == 0, here.said()[-3000:]
    found = read_records(folder)
    assert sorted(record.trial_id for record in found) == [f"{number:05d}" for number in range(8)]
    assert clusters.wrong_states(folder, sweep) == []
    assert {record.trial_id: record.resumed for record in found if record.resumed} == dict.fromkeys(lost, ("driver",))
    again = {trial_id: times for trial_id, times in clusters.run_again(folder).items() if times}
    assert set(again) <= lost
    assert set(again.values()) <= {1}, "at most the epoch that was running"


def test_two_sweeps_share_a_cluster_an_output_folder_and_a_tracking_server(tmp_path: Path) -> None:
    names = ("one", "two")
    sweeps = {name: of_seed(name, seed) for seed, name in enumerate(names)}
    with cluster(tmp_path, nodes=1, seconds=0.05) as here:
        here.start_server()
        for name in names:
            clusters.hold(tmp_path / name, 0)
        drivers = [here.start_driver(sweep, "held") for sweep in sweeps.values()]
        waited(lambda: all(clusters.held(tmp_path / name) for name in names), "a trial of each sweep to wait")
        for name in names:
            clusters.hold(tmp_path / name, 99)
        assert [driver.wait(240) for driver in drivers] == [0, 0], here.said()[-3000:]
        tracked = runs_by_sweep(here.environment["MLFLOW_TRACKING_URI"], [tmp_path / name for name in names])
    fingerprints = {}
    for name in names:
        found = read_records(tmp_path / name)
        assert [record.state for record in found] == ["COMPLETE"] * 5
        assert clusters.wrong_states(tmp_path / name, sweeps[name]) == []
        events = clusters.events_of(tmp_path / name)
        fingerprints[name] = {event.fingerprint for event in events if isinstance(event, Suggested)}
    assert not fingerprints["one"] & fingerprints["two"], "another seed, other settings"
    assert tracked == fingerprints


def of_seed(name: str, seed: int) -> SweepConfig:
    sampler, budget = {"type": "random", "seed": seed}, {"trials": 5, "concurrent": 1}
    return cluster_sweep(name=name, sampler=sampler, budget=budget, baselines=[])


def runs_by_sweep(uri: str, folders: list[Path]) -> dict[str, set[str]]:
    """Name of a sweep's run in MLflow -> fingerprints of the trials below it; all runs are there once."""
    from mlflow import MlflowClient

    for folder in folders:
        sync(folder, uri)
    client = MlflowClient(uri)
    [experiment] = [each for each in client.search_experiments() if each.name == "authors"]
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    parents = {run.info.run_id: run.info.run_name for run in runs if "mlflow.parentRunId" not in run.data.tags}
    trials = [run for run in runs if "trial_id" in run.data.tags]
    assert len({(run.data.tags["mlflow.parentRunId"], run.data.tags["trial_id"]) for run in trials}) == len(trials)
    found: dict[str, set[str]] = {name: set() for name in parents.values()}
    for run in trials:
        found[parents[run.data.tags["mlflow.parentRunId"]]].add(run.data.tags["fingerprint"])
    return found
